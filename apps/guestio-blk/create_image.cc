// SPDX-License-Identifier: MIT
#include "apps/guestio-blk/create_image.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>

#include "guestio/base/log.h"
#include "guestio/base/unique_fd.h"

namespace guestio::app {

namespace {

/// The new name survives a power loss with its file.
Result<> sync_folder(const std::string& path) {
  const auto folder = std::filesystem::path(path).parent_path();
  UniqueFd fd(::open(folder.empty() ? "." : folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd || ::fsync(fd.get()) != 0) return fail_host("sync the folder of the new image");
  return {};
}

}  // namespace

Result<bool> create_image(const std::string& path, ByteCount size) {
  constexpr mode_t kOwnerOnly = 0600;
  UniqueFd file(::open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, kOwnerOnly));
  if (!file && errno == EEXIST) return false;
  if (!file) return fail_host("make the image");
  Result<> made;
  if (::ftruncate(file.get(), static_cast<off_t>(size.raw())) != 0) {
    made = fail_host("size the new image");
  } else if (::fsync(file.get()) != 0) {
    made = fail_host("sync the new image");
  } else {
    made = sync_folder(path);
  }
  if (!made) {
    (void)::unlink(path.c_str());
    return fail(made.error());
  }
  log::info("{}: made, {}", path, format_byte_count(size));
  return true;
}

}  // namespace guestio::app
