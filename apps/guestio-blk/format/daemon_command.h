// SPDX-License-Identifier: MIT
#pragma once

#include <string>
#include <vector>

namespace guestio::app {

/// An image that qemu-storage-daemon reads.
struct FormatImage {
  std::string path;
  std::string format;  ///< a block driver of QEMU: "qcow2"
  bool is_read_only = false;
  bool is_buffered = false;
  std::string key_file;  ///< of LUKS; else empty
};

/// The export's name.
inline constexpr const char* kFormatExport = "disk";

/// The words that describe `image` to another process of this program, and the reverse. Requires:
/// `words` of to_words().
std::vector<std::string> to_words(const FormatImage& image);
FormatImage from_words(const std::vector<std::string>& words);

/// The block device of `image` as qemu-storage-daemon takes it, JSON on one line.
std::string image_node(const FormatImage& image);
/// The command line of qemu-storage-daemon for `image`, which serves it by NBD on the listening
/// socket with the number `socket`.
std::vector<std::string> daemon_command(const FormatImage& image, int socket);

}  // namespace guestio::app
