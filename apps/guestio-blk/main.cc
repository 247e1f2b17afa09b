// SPDX-License-Identifier: MIT
#include <fmt/format.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <csignal>
#include <cstdio>
#include <vector>

#include "ask.h"
#include "disk_start.h"
#include "guestio/base/log.h"
#include "guestio/mem/recover.h"
#include "options.h"
#include "server.h"
#include "take_over.h"

/// guestio-blk: arguments in, objects wired, nothing else.
namespace guestio::app {
namespace {

/// One clear line, and the status for what a person can mend on the command line.
int complain(const std::string& subject, const Error& error) {
  fmt::print(stderr, "guestio-blk: {}: {}\n", subject, error.to_string());
  return kExitUsage;
}

int take_over_and_serve(const Options& said) {
  auto takeover = TakeOver::begin(said);
  if (!takeover) {
    fmt::print(stderr, "guestio-blk: {}: {}\n", said.takeover, takeover.error().text);
    return takeover.error().status;
  }
  log::set_level(takeover->options().is_verbose ? log::Level::kDebug : log::Level::kInfo);
  auto disks = takeover->take_disks();
  const Options options = takeover->options();
  return serve(options, std::move(disks), &*takeover);
}

int run(const Options& options) {
  if (!options.ask.empty()) return ask(options.ask);
  log::set_level(options.is_verbose ? log::Level::kDebug : log::Level::kInfo);
  if (auto installed = mem::install_fault_recovery(); !installed) {
    return complain("cannot start", installed.error());
  }
  raise_descriptor_limit();
  if (!options.takeover.empty()) return take_over_and_serve(options);
  auto disks = open_images(options);
  if (!disks) return disks.error();
  return serve(options, std::move(*disks), nullptr);
}

}  // namespace
}  // namespace guestio::app

int main(int argc, char** argv) {
  const auto options = guestio::app::parse_options(argc, argv);
  if (options) return guestio::app::run(*options);
  std::FILE* const to = options.error().status == 0 ? stdout : stderr;
  std::fputs(options.error().text.c_str(), to);
  return options.error().status;
}
