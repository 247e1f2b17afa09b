// SPDX-License-Identifier: MIT
#pragma once

#include <expected>
#include <string>
#include <string_view>

namespace guestio::disk {

/// Names an image of a Ceph cluster:
///
///     rbd:POOL[/NAMESPACE]/IMAGE[@SNAPSHOT][?id=USER&conf=FILE&namespace=NAMESPACE]
///
/// Names may hold percent-encoded bytes (%2F for a slash).
struct RbdUri {
  std::string pool{};
  std::string pool_namespace{};  ///< empty: the pool's default namespace
  std::string image{};
  std::string snapshot{};      ///< empty: the image itself
  std::string user = "admin";  ///< without "client."
  std::string conf{};          ///< empty: the default files of librados

  /// "pool/namespace/image@snapshot", for log lines.
  [[nodiscard]] std::string to_string() const;
  friend bool operator==(const RbdUri&, const RbdUri&) = default;
};

/// Parses a URI with its scheme. The error is a line for the operator.
[[nodiscard]] std::expected<RbdUri, std::string> parse_rbd_uri(std::string_view uri);

}  // namespace guestio::disk
