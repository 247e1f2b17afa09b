// SPDX-License-Identifier: MIT
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "guestio/vhost/frontend/frontend.h"
#include "guestio/vhost/frontend/frontend_memory.h"
#include "guestio/vhost/frontend/frontend_queue.h"
#include "guestio/virtio/blk_layout.h"

namespace guestio::testing {

/// A guest driver of one disk with one request at a time and arbitrary request layouts. Every
/// function stops the test process with a line if the backend does not respond in time.
class BlkGuest {
 public:
  struct Options {
    /// Features to accept if offered. Packed rings only on request.
    std::uint64_t features = ~virtio::kFeatureRingPacked;
    std::uint64_t protocol = vhost::kProtocolMq | vhost::kProtocolConfig | vhost::kProtocolReplyAck;
    std::uint32_t queues = 1;
    std::uint16_t queue_size = 64;
    std::optional<std::uint16_t> first_index = std::nullopt;
    std::size_t memory = std::size_t{8} << 20;
    /// Uses an in-flight record. Needs VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD.
    bool has_inflight_record = false;
  };
  struct Completion {
    std::uint8_t status = 0xff;
    std::uint32_t used_length = 0;
    std::vector<std::byte> data;
  };
  using Type = virtio::blk::RequestType;

  /// Errors: those of vhost::Frontend.
  static Result<std::unique_ptr<BlkGuest>> connect(const std::string& path, const Options& options);
  static Result<std::unique_ptr<BlkGuest>> connect(const std::string& path) {
    return connect(path, Options{});
  }
  static Result<std::unique_ptr<BlkGuest>> from_socket(UniqueFd socket, const Options& options);

  [[nodiscard]] vhost::Frontend& frontend() noexcept { return frontend_; }
  [[nodiscard]] vhost::FrontendMemory& memory() noexcept { return memory_; }
  [[nodiscard]] vhost::FrontendQueue& queue(std::uint32_t index = 0) noexcept {
    return queues_[index];
  }
  [[nodiscard]] virtio::blk::Config config();

  Completion read(std::uint64_t sector, std::size_t bytes) {
    return perform(Type::kIn, sector, {}, bytes);
  }
  Completion write(std::uint64_t sector, std::span<const std::byte> data) {
    return perform(Type::kOut, sector, data, 0);
  }
  Completion flush() { return perform(Type::kFlush, 0, {}, 0); }
  /// One request with one descriptor each for header, data and status. The data starts
  /// `misalignment` bytes after a page boundary.
  Completion perform(Type type, std::uint64_t sector, std::span<const std::byte> out,
                     std::size_t in_bytes, std::size_t misalignment = 0, std::uint32_t queue = 0);

  /// Adds a chain unchanged and waits for its used length; nullopt after `limit`.
  std::optional<std::uint32_t> send_chain(
      std::span<const virtio::DriverSegment> segments, std::uint32_t queue = 0,
      std::chrono::milliseconds limit = std::chrono::seconds(60));
  /// Waits for the next used element and returns its length; nullopt after `limit`.
  std::optional<std::uint32_t> wait_for_used(std::uint32_t queue, std::chrono::milliseconds limit);
  /// Shared memory for hand-made chains; the same range each time.
  [[nodiscard]] vhost::SharedRange scratch() const noexcept { return scratch_; }

 private:
  BlkGuest(vhost::Frontend frontend, vhost::FrontendMemory memory)
      : frontend_(std::move(frontend)), memory_(std::move(memory)) {}

  vhost::Frontend frontend_;
  vhost::FrontendMemory memory_;
  std::vector<vhost::FrontendQueue> queues_;
  std::optional<vhost::Frontend::Inflight> record_;
  vhost::SharedRange scratch_;
};

}  // namespace guestio::testing
