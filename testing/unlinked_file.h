// SPDX-License-Identifier: MIT
#pragma once

#include <linux/magic.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <cstdlib>
#include <string>

#include "guestio/base/unique_fd.h"

/// Not in namespace guestio::testing, whose users must spell gtest's as `::testing`.
namespace guestio {

/// Opens an unlinked file in the build directory, for reading and writing, with `flags`. /tmp may
/// be a tmpfs. Empty if the build directory is on tmpfs too, or on a file system without the flags.
inline UniqueFd make_unlinked_file(int flags) {
  std::string path = "guestio-test-XXXXXX";
  UniqueFd file(::mkostemp(path.data(), flags));
  if (file) ::unlink(path.c_str());
  struct statfs status{};
  if (file && (::fstatfs(file.get(), &status) != 0 || status.f_type == TMPFS_MAGIC)) file.reset();
  return file;
}

}  // namespace guestio
