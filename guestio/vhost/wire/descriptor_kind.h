// SPDX-License-Identifier: MIT
#pragma once

/// Kinds of received descriptors, found without a call into their file system: one behind a FUSE
/// server can stall.
namespace guestio::vhost {

/// A connected stream socket.
[[nodiscard]] bool is_stream_socket(int fd) noexcept;
[[nodiscard]] bool is_eventfd(int fd) noexcept;
/// An anonymous pipe.
[[nodiscard]] bool is_pipe(int fd) noexcept;

}  // namespace guestio::vhost
