// SPDX-License-Identifier: MIT
#include "apps/guestio-blk/options/image_name.h"

#include <filesystem>
#include <system_error>

namespace guestio::app {

disk::DiskRegistry& backends() {
  static disk::DiskRegistry registry(disk::DiskRegistry::default_folders());
  return registry;
}

bool is_in_memory(std::string_view image) {
  const auto scheme = disk::scheme_of(image);
  return scheme == "null" || scheme == "ram";
}

bool is_file_image(std::string_view image) {
  const auto scheme = disk::scheme_of(image);
  if (!scheme || *scheme == "file") return true;
  if (is_in_memory(image) || backends().knows(*scheme)) return false;
  std::error_code ignored;
  return std::filesystem::exists(image, ignored);
}

bool has_server_backend(std::string_view image) {
  return !is_file_image(image) && !is_in_memory(image);
}

std::string path_of_image(std::string_view image) {
  const auto scheme = disk::scheme_of(image);
  return std::string(scheme == "file" ? disk::after_scheme(image) : image);
}

}  // namespace guestio::app
