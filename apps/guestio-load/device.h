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

/// A block device of a backend, connected and with negotiated features.
///
/// Threads: one.
class Device {
 public:
  /// Connects, accepts all supported features and reads the configuration space.
  /// Errors: of vhost::Frontend; unsupported (no configuration space).
  static Result<Device> open(const Target& target);

  /// Provides the in-flight record, for a reconnect. Requires: no queue runs.
  /// Errors: of vhost::Frontend; unsupported.
  Result<> enable_inflight_record(std::uint16_t queues, std::uint16_t queue_size);
  /// Reconnects and restores features, in-flight record and `memory`; then queues can resume.
  /// Errors: of vhost::Frontend; unsupported (other features).
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
  /// Size of the configuration space of the backend; the rest of config() is zero.
  [[nodiscard]] std::size_t config_size() const noexcept { return config_size_; }

  [[nodiscard]] ByteCount capacity() const noexcept { return capacity_; }
  [[nodiscard]] bool is_read_only() const noexcept { return has(virtio::blk::kFeatureReadOnly); }
  /// The logical block size in bytes.
  [[nodiscard]] std::uint32_t block_size() const noexcept;
  /// Maximum data descriptors of one request.
  [[nodiscard]] std::uint32_t max_segments() const noexcept;
  /// Maximum bytes of one descriptor.
  [[nodiscard]] std::uint32_t max_segment_bytes() const noexcept;

 private:
  Device(vhost::Frontend frontend) noexcept : frontend_(std::move(frontend)) {}
  Result<> read_config();

  vhost::Frontend frontend_;
  std::optional<vhost::Frontend::Inflight> inflight_;
  virtio::blk::Config config_{};
  std::size_t config_size_ = 0;
  ByteCount capacity_;
};

}  // namespace guestio::load
