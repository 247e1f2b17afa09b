// SPDX-License-Identifier: MIT
#include "apps/guestio-blk/disk_start.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>

#include "apps/guestio-blk/options/diagnostics.h"
#include "apps/guestio-blk/report_error.h"

namespace guestio::app {

namespace {

using Clock = std::chrono::steady_clock;
using Listening = Background<Result<ServedDisk::Socket>>;

/// The wait of disks that can be served for one whose image or socket stalls.
constexpr std::chrono::seconds kStartTimeout(2);
constexpr std::chrono::milliseconds kPollInterval(100);

/// Calls `collect(i)` for each of `calls` that returns within kStartTimeout, and later while
/// `needs_more()`. Pending calls stay in `calls`.
template <typename Call, typename Collect, typename NeedsMore>
void wait_for_all(std::vector<std::optional<Call>>& calls, Collect collect, NeedsMore needs_more) {
  const auto deadline = Clock::now() + kStartTimeout;
  const auto is_pending = [](const std::optional<Call>& call) { return call.has_value(); };
  const auto collect_until = [&](Clock::time_point until) {
    for (std::size_t i = 0; i < calls.size(); ++i) {
      if (!calls[i] || !calls[i]->wait_until(until)) continue;
      collect(i);
      calls[i].reset();
    }
  };
  collect_until(deadline);
  while (std::ranges::any_of(calls, is_pending) && needs_more()) {
    collect_until(Clock::now() + kPollInterval);
  }
}

void fail_disk(StartingDisk& disk, std::string cause) {
  disk.failed = std::make_unique<FailedDisk>(disk.options, std::move(cause));
}

/// Reports images that two disks share, by whatever paths.
Diagnostics check_identities(const std::vector<StartingDisk>& disks,
                             const std::vector<std::optional<ImageIdentity>>& identities) {
  Diagnostics diagnostics;
  for (std::size_t i = 0; i < disks.size(); ++i) {
    for (std::size_t j = i + 1; j < disks.size(); ++j) {
      const DiskOptions& one = disks[i].options;
      const DiskOptions& other = disks[j].options;
      if (!identities[i] || identities[i] != identities[j]) continue;
      if (one.is_read_only && other.is_read_only) continue;
      diagnostics.add(other.origin_of("blk-file"), describe_shared_image(one, other));
    }
  }
  return diagnostics;
}

}  // namespace

std::expected<std::vector<StartingDisk>, int> open_images(const Options& options) {
  std::vector<StartingDisk> disks;
  for (const DiskOptions& disk : options.disks) disks.push_back({disk, nullptr, nullptr});
  std::vector<std::optional<ImageIdentity>> identities(disks.size());
  bool is_any_open = false;
  const auto take = [&](std::size_t i, OpenedImage opening) {
    identities[i] = opening.identity;
    if (opening.disk) {
      disks[i].disk = std::move(*opening.disk);
      is_any_open = true;
    } else {
      fail_disk(disks[i], describe_image_failure(disks[i].options, opening.disk.error()));
    }
  };
  std::vector<std::optional<Background<OpenedImage>>> openings(disks.size());
  if (disks.size() == 1) {
    take(0, open_image(disks.front().options));
  } else {
    for (std::size_t i = 0; i < disks.size(); ++i) {
      auto started = Background<OpenedImage>::start(
          [disk_options = disks[i].options] { return open_image(disk_options); });
      if (started) {
        openings[i].emplace(std::move(*started));
      } else {
        fail_disk(disks[i], describe_image_failure(disks[i].options, started.error()));
      }
    }
  }
  wait_for_all(
      openings, [&](std::size_t i) { take(i, openings[i]->take()); },
      [&] { return options.is_strict || !is_any_open; });

  if (const Diagnostics shared = check_identities(disks, identities); !shared.empty()) {
    return std::unexpected(report_lines(kExitUsage, shared.to_lines()));
  }
  const bool has_failed =
      std::ranges::any_of(disks, [](const StartingDisk& disk) { return disk.failed != nullptr; });
  if (has_failed && (options.is_strict || !is_any_open)) {
    std::vector<std::unique_ptr<FailedDisk>> failed;
    for (StartingDisk& disk : disks) {
      if (disk.failed) failed.push_back(std::move(disk.failed));
    }
    return std::unexpected(report_failed(failed));
  }
  for (std::size_t i = 0; i < disks.size(); ++i) {
    if (!openings[i]) continue;
    fail_disk(disks[i], fmt::format("{}: it does not open within {} s; check the device or the "
                                    "file system it is on",
                                    disks[i].options.image, kStartTimeout.count()));
    disks[i].failed->resume_attempt(std::move(*openings[i]));
  }
  return disks;
}

int open_sockets(const Options& options, Disks& disks) {
  std::vector<std::string> causes(disks.served.size());
  bool is_any_open = false;
  const auto take = [&](std::size_t i, Result<ServedDisk::Socket> socket) {
    ServedDisk& disk = *disks.served[i];
    if (socket) {
      disk.take_socket(std::move(*socket));
      is_any_open = true;
    } else {
      causes[i] = describe_socket_failure(disk.options(), socket.error());
    }
  };
  std::vector<std::optional<Listening>> listenings(disks.served.size());
  for (std::size_t i = 0; i < disks.served.size(); ++i) {
    const DiskOptions& disk = disks.served[i]->options();
    if (disks.served.size() == 1) {
      take(i, ServedDisk::open_socket(disk));
      continue;
    }
    auto started = Listening::start([disk] { return ServedDisk::open_socket(disk); });
    if (started) {
      listenings[i].emplace(std::move(*started));
    } else {
      causes[i] = describe_socket_failure(disk, started.error());
    }
  }
  wait_for_all(
      listenings, [&](std::size_t i) { take(i, listenings[i]->take()); },
      [&] { return options.is_strict || !is_any_open; });

  std::vector<std::unique_ptr<ServedDisk>> served;
  for (std::size_t i = 0; i < disks.served.size(); ++i) {
    ServedDisk& disk = *disks.served[i];
    if (causes[i].empty() && !listenings[i]) {
      served.push_back(std::move(disks.served[i]));
    } else if (!listenings[i]) {
      disks.failed.push_back(std::make_unique<FailedDisk>(disk.options(), causes[i]));
      disks.failed.back()->set_image_was_open();
    } else {
      disks.failed.push_back(std::make_unique<FailedDisk>(
          disk.options(), fmt::format("{}: connecting does not end within {} s: another process "
                                      "may listen there",
                                      disk.place(), kStartTimeout.count())));
      disks.failed.back()->set_image_was_open();
      disks.failed.back()->resume_attempt(disk.disk(), std::move(*listenings[i]));
    }
  }
  disks.served = std::move(served);
  const bool is_enough = !disks.served.empty() && (disks.failed.empty() || !options.is_strict);
  return is_enough ? 0 : report_failed(disks.failed);
}

int report_failed(std::span<const std::unique_ptr<FailedDisk>> failed) {
  for (const auto& disk : failed) {
    (void)report_error(kExitUsage,
                       fmt::format("disk {}: cannot be served: {}", disk->name(), disk->cause()));
  }
  return kExitUsage;
}

}  // namespace guestio::app
