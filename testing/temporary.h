// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <string>

#include "guestio/base/unique_fd.h"

namespace guestio::testing {

/// A folder of its own for one test, removed with everything in it.
class TemporaryDirectory {
 public:
  TemporaryDirectory();
  TemporaryDirectory(const TemporaryDirectory&) = delete;
  TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;
  ~TemporaryDirectory();

  [[nodiscard]] const std::string& path() const noexcept { return path_; }
  [[nodiscard]] std::string file(const std::string& name) const { return path_ + "/" + name; }
  /// Makes a sparse file of `size` bytes and returns its path.
  [[nodiscard]] std::string make_image(const std::string& name, std::uint64_t size) const;

 private:
  std::string path_;
};

/// A file in memory (tmpfs) that can be opened by a path.
class MemoryFile {
 public:
  explicit MemoryFile(std::uint64_t size);
  [[nodiscard]] int fd() const noexcept { return fd_.get(); }
  [[nodiscard]] std::string path() const;

 private:
  UniqueFd fd_;
};

/// A file system of its own in memory, which is full when `bytes` are used. Needs root.
class TmpfsMount {
 public:
  /// The path is empty when this machine lets nobody mount.
  TmpfsMount(const std::string& folder, std::uint64_t bytes);
  TmpfsMount(const TmpfsMount&) = delete;
  TmpfsMount& operator=(const TmpfsMount&) = delete;
  ~TmpfsMount();
  [[nodiscard]] const std::string& path() const noexcept { return path_; }

 private:
  std::string path_;
};

/// A loop device over a file, with direct I/O and the given block size. Needs root.
class LoopDevice {
 public:
  /// The path is empty when this machine gives no loop devices.
  LoopDevice(const std::string& file, unsigned block_size);
  LoopDevice(const LoopDevice&) = delete;
  LoopDevice& operator=(const LoopDevice&) = delete;
  ~LoopDevice();
  [[nodiscard]] const std::string& path() const noexcept { return path_; }

 private:
  std::string path_;
};

/// A compressed disk in memory (zram), with a node of its own in `folder`. Needs root.
class ZramDevice {
 public:
  /// The path is empty when this machine gives no such device.
  ZramDevice(const TemporaryDirectory& folder, std::uint64_t bytes);
  ZramDevice(const ZramDevice&) = delete;
  ZramDevice& operator=(const ZramDevice&) = delete;
  ~ZramDevice();
  [[nodiscard]] const std::string& path() const noexcept { return path_; }

 private:
  int number_ = -1;
  std::string path_;
};

/// An ext4 file system on a block device, mounted at `folder`. Needs root.
class MountedExt4 {
 public:
  /// The path is empty when this machine makes or mounts none.
  MountedExt4(const std::string& device, const std::string& folder);
  MountedExt4(const MountedExt4&) = delete;
  MountedExt4& operator=(const MountedExt4&) = delete;
  ~MountedExt4();
  [[nodiscard]] const std::string& path() const noexcept { return path_; }

 private:
  std::string path_;
};

}  // namespace guestio::testing
