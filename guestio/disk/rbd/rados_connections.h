// SPDX-License-Identifier: MIT
#pragma once

#include <rados/librados.h>

#include <atomic>
#include <compare>
#include <condition_variable>
#include <expected>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "guestio/disk/registry.h"

namespace guestio::disk {

/// Who connects to which cluster.
struct RadosUser {
  std::string user;  ///< without "client."
  std::string conf;  ///< empty: the default files of librados
  friend bool operator==(const RadosUser&, const RadosUser&) = default;
};

/// A client of a cluster: its own address there, and about a dozen threads here.
///
/// Threads: any. Construction and destruction block: on helper threads only.
class RadosConnection {
 public:
  /// Errors: with the words for the operator (no such file, no key, no monitor answers).
  static OpenResult<std::unique_ptr<RadosConnection>> open(const RadosUser& user);
  RadosConnection(const RadosConnection&) = delete;
  RadosConnection& operator=(const RadosConnection&) = delete;
  ~RadosConnection();

  [[nodiscard]] rados_t cluster() const noexcept { return cluster_; }
  /// The client's address as locks name it: "10.0.0.1:0/1234".
  [[nodiscard]] const std::string& address() const noexcept { return address_; }
  /// A value of the configuration; empty if unknown.
  [[nodiscard]] std::string setting(const char* key) const;

  /// The cluster refuses this client for good: it serves no further images.
  void set_fenced() noexcept { is_fenced_ = true; }
  [[nodiscard]] bool is_fenced() const noexcept { return is_fenced_; }

 private:
  explicit RadosConnection(rados_t cluster) noexcept : cluster_(cluster) {}

  const rados_t cluster_;
  std::string address_;
  std::atomic<bool> is_fenced_ = false;
};

/// The connections of the process. One serves several images: a connection for each would be a
/// dozen threads each, one for all a bottleneck.
///
/// Threads: any that may block.
class RadosConnections {
 public:
  /// An image's share of a connection. The last one ends the connection; blocks.
  using Share = std::shared_ptr<RadosConnection>;

  /// A connection of `user` with fewer than `max_images` shares. Errors: of
  /// RadosConnection::open().
  OpenResult<Share> share(const RadosUser& user, unsigned max_images);
  /// Connections in use.
  [[nodiscard]] std::size_t count() const;

 private:
  /// A connection, or one that is being made: others wait for it instead of making more.
  struct Slot {
    RadosUser user;
    std::weak_ptr<RadosConnection> connection;
    unsigned images = 0;
    bool is_connecting = false;
  };

  Share make_share(const Share& connection, const std::shared_ptr<Slot>& slot);
  void end_share(const std::shared_ptr<Slot>& slot);

  mutable std::mutex mutex_;
  std::condition_variable connected_;
  // protected by mutex_
  std::vector<std::shared_ptr<Slot>> slots_;
};

}  // namespace guestio::disk
