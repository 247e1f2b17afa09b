// SPDX-License-Identifier: MIT
#include "guestio/vhost/inflight/inflight_record.h"

#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <utility>

#include "guestio/base/align.h"
#include "guestio/mem/recover.h"
#include "guestio/vhost/inflight/packed_inflight.h"
#include "guestio/vhost/inflight/split_inflight.h"

namespace guestio::vhost {

namespace {

// Queues on different threads share no cache line.
constexpr std::size_t kRegionAlignment = 64;

Result<> check_size(virtio::RingKind kind, std::uint16_t queues, std::uint16_t queue_size) {
  if (queues == 0 || queues > kMaxQueues) {
    return fail(Error::peer_fault("invalid number of queues in an in-flight record", queues));
  }
  const bool is_valid = kind == virtio::RingKind::kPacked ? virtio::is_packed_queue_size(queue_size)
                                                          : virtio::is_split_queue_size(queue_size);
  if (!is_valid)
    return fail(Error::peer_fault("invalid queue size in an in-flight record", queue_size));
  return {};
}

}  // namespace

std::size_t inflight_region_bytes(virtio::RingKind kind, std::uint32_t queue_size) noexcept {
  const std::size_t bytes = kind == virtio::RingKind::kPacked
                                ? PackedInflight::region_bytes(queue_size)
                                : SplitInflight::region_bytes(queue_size);
  return align_up(bytes, kRegionAlignment);
}

Result<std::shared_ptr<InflightRecord>> InflightRecord::create(virtio::RingKind kind,
                                                               std::uint16_t queues,
                                                               std::uint16_t queue_size) {
  if (auto checked = check_size(kind, queues, queue_size); !checked) {
    return fail(checked.error());
  }
  const std::size_t size = align_up(queues * inflight_region_bytes(kind, queue_size), kPageSize);
  UniqueFd file(::memfd_create("guestio-inflight", MFD_CLOEXEC));
  if (!file) return fail_host("make memory for an in-flight record");
  if (::ftruncate(file.get(), static_cast<off_t>(size)) != 0) {
    return fail_host("make memory for an in-flight record");
  }
  return map({.mmap_size = size, .mmap_offset = 0, .num_queues = queues, .queue_size = queue_size},
             std::move(file), kind);
}

Result<std::shared_ptr<InflightRecord>> InflightRecord::map(const InflightDescription& description,
                                                            UniqueFd file, virtio::RingKind kind) {
  const auto checked = check_size(kind, description.num_queues, description.queue_size);
  if (!checked) return fail(checked.error());
  const std::size_t needed =
      description.num_queues * inflight_region_bytes(kind, description.queue_size);
  if (description.mmap_size < needed) {
    return fail(
        Error::peer_fault("in-flight record too small for its queues", description.mmap_size));
  }
  struct stat status{};
  if (::fstat(file.get(), &status) != 0) return fail_host("stat an in-flight record");
  const auto end = checked_add(description.mmap_offset, description.mmap_size);
  const bool is_inside = end && *end <= static_cast<std::uint64_t>(status.st_size);
  if (!S_ISREG(status.st_mode) || !is_inside || !is_aligned(description.mmap_offset, kPageSize)) {
    return fail(Error::peer_fault("in-flight record outside its file, or misaligned",
                                  description.mmap_offset));
  }
  auto mapping = Mapping::shared_file(file.get(), FileOffset(description.mmap_offset), needed,
                                      Mapping::Access::kReadWrite);
  if (!mapping) return fail(mapping.error());
  return std::shared_ptr<InflightRecord>(
      new InflightRecord(description, std::move(file), std::move(*mapping), kind));
}

std::byte* InflightRecord::region(std::uint16_t queue, std::uint32_t size) const noexcept {
  if (queue >= description_.num_queues || size > description_.queue_size) return nullptr;
  return mapping_.data() + queue * inflight_region_bytes(kind_, description_.queue_size);
}

Result<> InflightRecord::reset(std::uint16_t queue) const {
  std::byte* const start = region(queue, 0);
  if (start == nullptr) return {};
  // Regions are aligned to 64 bytes and made of integers.
  auto* const header = reinterpret_cast<InflightHeader*>(start);
  if (!mem::try_store(&header->version, std::uint16_t{0})) {
    return fail_record_access();
  }
  return {};
}

}  // namespace guestio::vhost
