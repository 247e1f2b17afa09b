// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

#include "apps/guestio-load/arguments.h"
#include "guestio/base/error.h"
#include "guestio/base/units.h"
#include "guestio/vhost/frontend/frontend.h"
#include "guestio/vhost/frontend/frontend_memory.h"
#include "guestio/virtio/blk_layout.h"

namespace guestio::load {

/// A backend's block device, connected and negotiated, before any queue runs.
///
/// Threads: one.
class Device {
 public:
  /// Connects, takes every feature that this program understands, reads the configuration space.
  /// Errors: of vhost::Frontend; unsupported (it shows no configuration space).
  static Result<Device> open(const Target& target);

  /// Lets the backend keep what is in flight in memory of ours, so that another can take over.
  /// Before any queue runs. Errors: of vhost::Frontend; unsupported.
  Result<> keep_record(std::uint16_t queues, std::uint16_t queue_size);
  /// Connects anew and brings the session to where queues can be resumed: the same features, the
  /// record, `memory`. Errors: of vhost::Frontend; unsupported (the disk is another one).
  Result<> reconnect(const Target& target, const vhost::FrontendMemory& memory);

  [[nodiscard]] vhost::Frontend& frontend() noexcept { return frontend_; }
  [[nodiscard]] const vhost::Frontend::Negotiated& session() const noexcept {
    return frontend_.negotiated();
  }
  /// Whether a feature was negotiated.
  [[nodiscard]] bool has(virtio::FeatureBits feature) const noexcept {
    return (session().features & feature) != 0;
  }

  [[nodiscard]] const virtio::blk::Config& config() const noexcept { return config_; }
  /// Bytes of the configuration space that the backend shows; the rest of config() is zero.
  [[nodiscard]] std::size_t config_size() const noexcept { return config_size_; }

  [[nodiscard]] ByteCount capacity() const noexcept { return capacity_; }
  [[nodiscard]] bool is_read_only() const noexcept { return has(virtio::blk::kFeatureReadOnly); }
  /// What requests are multiples of, in bytes.
  [[nodiscard]] std::uint32_t block_size() const noexcept;
  /// The most descriptors for the data of one request.
  [[nodiscard]] std::uint32_t max_segments() const noexcept;
  /// The most bytes of one descriptor.
  [[nodiscard]] std::uint32_t largest_segment() const noexcept;

 private:
  Device(vhost::Frontend frontend) noexcept : frontend_(std::move(frontend)) {}
  Result<> read_config();

  vhost::Frontend frontend_;
  std::optional<vhost::Frontend::Inflight> record_;
  virtio::blk::Config config_{};
  std::size_t config_size_ = 0;
  ByteCount capacity_;
};

}  // namespace guestio::load
