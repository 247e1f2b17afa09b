// SPDX-License-Identifier: MIT
#include "apps/guestio-blk/descriptors.h"

#include <fmt/format.h>
#include <sys/resource.h>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <span>
#include <vector>

#include "apps/guestio-blk/control/control_socket.h"
#include "guestio/base/log.h"
#include "guestio/vhost/session/memory_table.h"

namespace guestio::app {

namespace {

/// For the control socket, its clients and the next client, the memory monitor, a takeover, and
/// temporary files.
constexpr std::size_t kReservedDescriptors = ControlSocket::kMaxConnections + 16;

/// RLIMIT_NOFILE; RLIM_INFINITY without a limit.
std::uint64_t descriptor_limit() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return RLIM_INFINITY;
  return limit.rlim_cur;
}

std::size_t open_descriptors() {
  std::error_code ignored;
  const std::filesystem::directory_iterator all("/proc/self/fd", ignored);
  return static_cast<std::size_t>(std::distance(begin(all), end(all)));
}

/// The descriptors that a disk opens later.
struct DescriptorShare {
  const DiskOptions* options;
  std::size_t image;  ///< 0 for an open image

  [[nodiscard]] std::size_t needed(std::size_t slots) const {
    constexpr std::size_t kListener = 1;
    return kListener + image +
           vhost::Backend::max_descriptors(
               {.queues = options->queues,
                .memory_slots = slots,
                .registers_memory = options->fixed_buffers != FixedBuffers::kOff});
  }
};

std::vector<DescriptorShare> shares_of(const Disks& disks) {
  std::vector<DescriptorShare> shares;
  for (const auto& disk : disks.served) shares.push_back({&disk->options(), 0});
  for (const auto& disk : disks.failed) {
    // The image, its claim and probes; an iopoll ring per queue.
    shares.push_back({&disk->options(), 8 + std::size_t{disk->options().queues}});
  }
  return shares;
}

std::size_t needed_by_all(std::span<const DescriptorShare> shares, std::size_t slots) {
  std::size_t sum = 0;
  for (const DescriptorShare& share : shares) sum += share.needed(slots);
  return sum;
}

}  // namespace

void raise_descriptor_limit() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  if (::setrlimit(RLIMIT_NOFILE, &limit) != 0) log::debug("RLIMIT_NOFILE cannot be raised");
}

std::expected<void, std::string> share_descriptors(Disks& disks) {
  const std::uint64_t limit = descriptor_limit();
  const std::size_t taken = open_descriptors() + kReservedDescriptors;
  const std::vector<DescriptorShare> shares = shares_of(disks);
  std::size_t sum = taken;
  for (const DescriptorShare& share : shares) {
    const std::size_t needed = share.needed(vhost::kMinMemorySlots);
    const std::uint64_t left = limit - std::min<std::uint64_t>(limit, sum);
    sum += needed;
    if (sum <= limit) continue;
    return std::unexpected(fmt::format(
        "disk {}: needs {} descriptors, {} of the limit of {} are left: raise LimitNOFILE= or "
        "ulimit -n to at least {}",
        share.options->name, needed, left, limit,
        taken + needed_by_all(shares, vhost::kMinMemorySlots)));
  }
  std::size_t& slots = disks.memory_slots;
  while (slots > vhost::kMinMemorySlots && taken + needed_by_all(shares, slots) > limit) --slots;
  for (const auto& disk : disks.served) disk->backend().offer_memory_slots(slots);
  if (slots != vhost::kMaxMemorySlots) {
    log::info(
        "{} memory slots offered for each disk instead of {}: the limit of descriptors is {} "
        "(raise "
        "LimitNOFILE= or ulimit -n to {} for guests with much hotplugged memory)",
        slots, vhost::kMaxMemorySlots, limit,
        taken + needed_by_all(shares, vhost::kMaxMemorySlots));
  }
  return {};
}

}  // namespace guestio::app
