// SPDX-License-Identifier: MIT
#pragma once

#include <linux/magic.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <cstdlib>
#include <string>

#include "guestio/base/unique_fd.h"

/// Not in the namespace guestio::testing: where that is known, gtest's is `::testing`.
namespace guestio {

/// A file without a name beside the build, open for reading and writing with `flags`: /tmp may be
/// in memory. Empty where all of this is in memory too, or the file system does not know the flags.
inline UniqueFd make_unlinked_file(int flags) {
  std::string path = "guestio-test-XXXXXX";
  UniqueFd file(::mkostemp(path.data(), flags));
  if (file) ::unlink(path.c_str());
  struct statfs status{};
  if (file && (::fstatfs(file.get(), &status) != 0 || status.f_type == TMPFS_MAGIC)) file.reset();
  return file;
}

}  // namespace guestio
