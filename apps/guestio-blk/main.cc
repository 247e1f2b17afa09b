// SPDX-License-Identifier: MIT
#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <csignal>
#include <cstdio>
#include <string_view>
#include <vector>

#include "apps/guestio-blk/control/client.h"
#include "apps/guestio-blk/descriptors.h"
#include "apps/guestio-blk/disk_start.h"
#include "apps/guestio-blk/format/format_server.h"
#include "apps/guestio-blk/open_disk.h"
#include "apps/guestio-blk/options/options.h"
#include "apps/guestio-blk/report_error.h"
#include "apps/guestio-blk/served_disk.h"
#include "apps/guestio-blk/server.h"
#include "apps/guestio-blk/takeover/receiver.h"
#include "guestio/base/log.h"
#include "guestio/base/standard_fds.h"
#include "guestio/mem/recover.h"

/// guestio-blk: arguments in, objects wired, nothing else.
namespace guestio::app {
namespace {

int take_over_and_serve(const Options& as_given) {
  auto takeover = TakeoverReceiver::connect(as_given);
  if (!takeover) {
    return report_error(takeover.error().status, as_given.takeover + ": " + takeover.error().text);
  }
  log::set_level(takeover->options().is_verbose ? log::Level::kDebug : log::Level::kInfo);
  auto disks = takeover->take_disks();
  const Options options = takeover->options();
  return serve(options, std::move(disks), &*takeover);
}

int run(const Options& options) {
  if (!options.ask.empty()) return run_client(options.ask);
  log::set_level(options.is_verbose ? log::Level::kDebug : log::Level::kInfo);
  if (auto installed = mem::install_fault_recovery(); !installed) {
    return report_error(kExitUsage, "cannot start", installed.error());
  }
  if (auto started = log::start(); !started) {
    return report_error(kExitUsage, "cannot start", started.error());
  }
  // Before any open(): a new descriptor could get the number of an absent inherited socket.
  for (const DiskOptions& disk : options.disks) {
    if (auto checked = ServedDisk::check_descriptor(disk); !checked) {
      return report_error(kExitUsage, fmt::format("{}: --{}", disk.label(), disk.place()),
                          checked.error());
    }
  }
  raise_descriptor_limit();
  // Supervisors of images end by themselves.
  std::signal(SIGCHLD, SIG_IGN);
  if (const auto& images = options.as_given.rados_images_per_connection) {
    set_backend_defaults({{"rados-images-per-connection", std::to_string(*images)}});
  }
  if (!options.takeover.empty()) return take_over_and_serve(options);
  auto disks = open_images(options);
  if (!disks) return disks.error();
  return serve(options, std::move(*disks), nullptr);
}

}  // namespace
}  // namespace guestio::app

int main(int argc, char** argv) {
  if (argc > 0 && std::string_view(argv[0]) == guestio::app::kFormatSupervisor) {
    return guestio::app::run_format_supervisor(argc, argv);
  }
  guestio::open_standard_fds();
  const auto options = guestio::app::parse_options(argc, argv);
  if (options) return guestio::app::run(*options);
  const auto& [text, status] = options.error();
  if (status != 0) return guestio::app::report_lines(status, text);
  std::fputs(text.c_str(), stdout);
  return 0;
}
