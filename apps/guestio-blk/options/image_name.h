// SPDX-License-Identifier: MIT
#pragma once

#include <string>
#include <string_view>

#include "guestio/disk/registry.h"

/// What the name of an image means: `PATH`, `file:PATH`, or a URI of another backend.
namespace guestio::app {

/// The backends of the process.
disk::DiskRegistry& backends();

/// Whether the image is a file or a block device of this host. "a:b" is one if it exists, and no
/// backend is called a.
[[nodiscard]] bool is_file_image(std::string_view image);
/// Whether the image lies in memory of the process: each disk has its own.
[[nodiscard]] bool is_in_memory(std::string_view image);
/// Whether a module serves the image.
[[nodiscard]] bool has_server_backend(std::string_view image);

/// Path of a file image: without `file:`.
[[nodiscard]] std::string path_of_image(std::string_view image);

}  // namespace guestio::app
