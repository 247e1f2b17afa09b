// SPDX-License-Identifier: MIT
#include "apps/guestio-load/request_queue.h"

#include "guestio/base/align.h"
#include "guestio/virtio/layout.h"

namespace guestio::load {

using virtio::Descriptor;

namespace {

// Indirect tables share no cache line with tables in use by the device.
constexpr std::size_t kCacheLine = 64;

std::size_t table_bytes(const RequestQueue::Options& options) {
  return align_up(sizeof(Descriptor) * options.descriptors, kCacheLine);
}

}  // namespace

std::size_t RequestQueue::memory_for(const Options& options) {
  const std::size_t ring = vhost::FrontendQueue::memory_for(options.size);
  const std::size_t table = table_bytes(options);
  return ring + table * options.slots + kPageSize;
}

Result<RequestQueue> RequestQueue::create(Device& device, vhost::FrontendMemory& memory,
                                          const Options& options) {
  auto queue = vhost::FrontendQueue::start(
      device.frontend(), memory,
      {.index = options.index, .size = options.size, .first_index = options.first_index});
  if (!queue) return fail(queue.error());
  RequestQueue made(std::move(*queue), options.size);
  if (!device.has(virtio::kFeatureIndirectDesc)) return made;
  for (std::uint32_t slot = 0; slot < options.slots; ++slot) {
    const auto range = memory.allocate(table_bytes(options), kCacheLine);
    if (!range) return fail(range.error());
    made.tables_.push_back({.host = reinterpret_cast<Descriptor*>(range->host),
                            .address = range->gpa,
                            .capacity = options.descriptors});
  }
  return made;
}

Result<> RequestQueue::add(std::uint32_t slot, std::span<const virtio::DriverSegment> segments,
                           Form form) {
  const auto head = form == Form::kIndirect ? queue_.ring().add_indirect(segments, tables_[slot])
                                            : queue_.ring().add(segments);
  if (!head) return fail(head.error());
  slot_of_head_[*head] = slot;
  return {};
}

Result<> RequestQueue::send() {
  const auto wanted = queue_.ring().publish();
  if (!wanted) return fail(wanted.error());
  return *wanted ? queue_.kick() : Result<>();
}

Result<std::optional<RequestQueue::Completion>> RequestQueue::reap() {
  const auto used = queue_.ring().reap();
  if (!used) return fail(used.error());
  if (!*used) return std::nullopt;
  return Completion{slot_of_head_[(*used)->head], (*used)->written};
}

Result<> RequestQueue::sleep(std::chrono::milliseconds limit) {
  const auto has_used = queue_.ring().enable_calls();
  if (!has_used) return fail(has_used.error());
  if (*has_used) return {};
  const auto called = queue_.wait_for_call(limit);
  if (!called) return fail(called.error());
  return queue_.ring().suppress_calls();
}

Result<> RequestQueue::stop(Device& device) {
  const auto base = queue_.stop(device.frontend());
  if (!base) return fail(base.error());
  if (*base != queue_.ring().end_base()) {
    return fail(Error::peer_fault("final index of the queue", *base));
  }
  return {};
}

}  // namespace guestio::load
