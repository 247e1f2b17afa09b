// SPDX-License-Identifier: MIT
#include "testing/blk_guest.h"

#include <cstring>

#include "guestio/base/check.h"

namespace guestio::testing {

namespace vblk = virtio::blk;
using Segment = virtio::DriverSegment;

namespace {

constexpr std::size_t kScratchBytes = std::size_t{4} << 20;
// Offsets of the parts of a request of perform() in the scratch area.
constexpr std::size_t kHeaderAt = 0;
constexpr std::size_t kStatusAt = 64;
constexpr std::size_t kDataAt = kPageSize;

}  // namespace

Result<std::unique_ptr<BlkGuest>> BlkGuest::connect(const std::string& path,
                                                    const Options& options) {
  auto socket = vhost::MessageSocket::connect(path);
  if (!socket) return fail(socket.error());
  auto copy = duplicate_fd(socket->fd());
  if (!copy) return fail(copy.error());
  return from_socket(std::move(*copy), options);
}

Result<std::unique_ptr<BlkGuest>> BlkGuest::from_socket(UniqueFd socket, const Options& options) {
  auto memory = vhost::FrontendMemory::create(options.memory);
  if (!memory) return fail(memory.error());
  std::unique_ptr<BlkGuest> guest(new BlkGuest(
      vhost::Frontend::from_socket(std::move(socket), {.deadline = std::chrono::seconds(60)}),
      std::move(*memory)));
  const auto negotiated = guest->frontend_.negotiate(
      options.features | vhost::kFeatureProtocolFeatures, options.protocol);
  if (!negotiated) return fail(negotiated.error());
  const auto region = guest->memory_.region();
  if (auto set = guest->frontend_.set_mem_table(std::span(&region, 1)); !set) {
    return fail(set.error());
  }
  if (options.has_inflight_record) {
    auto record = guest->frontend_.get_inflight(static_cast<std::uint16_t>(options.queues),
                                                options.queue_size);
    if (!record) return fail(record.error());
    if (auto set = guest->frontend_.set_inflight(*record); !set) return fail(set.error());
    guest->record_ = std::move(*record);
  }
  for (std::uint32_t i = 0; i < options.queues; ++i) {
    auto queue = vhost::FrontendQueue::start(
        guest->frontend_, guest->memory_,
        {.index = i, .size = options.queue_size, .first_index = options.first_index});
    if (!queue) return fail(queue.error());
    guest->queues_.push_back(std::move(*queue));
  }
  auto scratch = guest->memory_.allocate(kScratchBytes, kPageSize);
  if (!scratch) return fail(scratch.error());
  guest->scratch_ = *scratch;
  return guest;
}

vblk::Config BlkGuest::config() {
  vblk::Config config{};
  GUESTIO_CHECK(frontend_.get_config(0, std::as_writable_bytes(std::span(&config, 1))).has_value(),
                "a configuration space");
  return config;
}

BlkGuest::Completion BlkGuest::perform(Type type, std::uint64_t sector,
                                       std::span<const std::byte> out, std::size_t in_bytes,
                                       std::size_t misalignment, std::uint32_t queue) {
  const auto header = scratch_.part(kHeaderAt, sizeof(vblk::RequestHeader));
  const auto status = scratch_.part(kStatusAt, 1);
  const auto data = scratch_.part(kDataAt + misalignment, std::max(out.size(), in_bytes));
  const vblk::RequestHeader request{type, 0, sector};
  std::memcpy(header.host, &request, sizeof request);
  *status.host = std::byte{0xff};
  if (!out.empty()) std::memcpy(data.host, out.data(), out.size());

  std::vector<Segment> chain = {{header.gpa, sizeof request, virtio::Direction::kReadable}};
  if (data.size != 0) {
    chain.push_back({data.gpa, static_cast<std::uint32_t>(data.size),
                     out.empty() ? virtio::Direction::kWritable : virtio::Direction::kReadable});
  }
  chain.push_back({status.gpa, 1, virtio::Direction::kWritable});
  const auto used = send_chain(chain, queue);
  GUESTIO_CHECK(used.has_value(), "a used element within the time limit");
  Completion completion;
  completion.used_length = *used;
  completion.status = static_cast<std::uint8_t>(*status.host);
  completion.data.assign(data.host, data.host + in_bytes);
  return completion;
}

std::optional<std::uint32_t> BlkGuest::send_chain(std::span<const Segment> segments,
                                                  std::uint32_t queue,
                                                  std::chrono::milliseconds limit) {
  vhost::FrontendQueue& target = queues_[queue];
  if (!target.ring().add(segments)) return std::nullopt;
  const auto needs_kick = target.ring().publish();
  if (!needs_kick || (*needs_kick && !target.kick())) return std::nullopt;
  return wait_for_used(queue, limit);
}

std::optional<std::uint32_t> BlkGuest::wait_for_used(std::uint32_t queue,
                                                     std::chrono::milliseconds limit) {
  using Clock = std::chrono::steady_clock;
  const auto deadline = Clock::now() + limit;
  vhost::FrontendQueue& source = queues_[queue];
  while (true) {
    const auto used = source.ring().reap();
    if (!used) return std::nullopt;
    if (*used) return (*used)->written;
    const auto has_used = source.ring().enable_calls();
    if (!has_used) return std::nullopt;
    if (*has_used) continue;
    const auto left =
        std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now());
    if (left.count() <= 0 || !source.wait_for_call(left)) return std::nullopt;
  }
}

}  // namespace guestio::testing
