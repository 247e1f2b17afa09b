// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <string>

#include "guestio/base/unique_fd.h"

namespace guestio::testing {

/// A directory for one test; the destructor removes it with its contents.
class TemporaryDirectory {
 public:
  TemporaryDirectory();
  TemporaryDirectory(const TemporaryDirectory&) = delete;
  TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;
  ~TemporaryDirectory();

  [[nodiscard]] const std::string& path() const noexcept { return path_; }
  [[nodiscard]] std::string file(const std::string& name) const { return path_ + "/" + name; }
  /// Creates a sparse file of `size` bytes and returns its path.
  [[nodiscard]] std::string make_image(const std::string& name, std::uint64_t size) const;

 private:
  std::string path_;
};

/// A memfd with a path to open it by.
class MemoryFile {
 public:
  explicit MemoryFile(std::uint64_t size);
  [[nodiscard]] int fd() const noexcept { return fd_.get(); }
  [[nodiscard]] std::string path() const;

 private:
  UniqueFd fd_;
};

/// A tmpfs mount of `bytes`. Needs root.
class TmpfsMount {
 public:
  /// The path is empty if the mount fails.
  TmpfsMount(const std::string& directory, std::uint64_t bytes);
  TmpfsMount(const TmpfsMount&) = delete;
  TmpfsMount& operator=(const TmpfsMount&) = delete;
  ~TmpfsMount();
  [[nodiscard]] const std::string& path() const noexcept { return path_; }

 private:
  std::string path_;
};

/// A loop device on a file, with direct I/O and the given block size. Needs root.
class LoopDevice {
 public:
  /// The path is empty without loop devices.
  LoopDevice(const std::string& file, unsigned block_size);
  LoopDevice(const LoopDevice&) = delete;
  LoopDevice& operator=(const LoopDevice&) = delete;
  ~LoopDevice();
  [[nodiscard]] const std::string& path() const noexcept { return path_; }

 private:
  std::string path_;
};

/// A zram device with a device node in `directory`. Needs root.
class ZramDevice {
 public:
  /// The path is empty without zram devices.
  ZramDevice(const TemporaryDirectory& directory, std::uint64_t bytes);
  ZramDevice(const ZramDevice&) = delete;
  ZramDevice& operator=(const ZramDevice&) = delete;
  ~ZramDevice();
  [[nodiscard]] const std::string& path() const noexcept { return path_; }

 private:
  int number_ = -1;
  std::string path_;
};

/// An ext4 file system on a block device, mounted at `directory`. Needs root.
class MountedExt4 {
 public:
  /// The path is empty if mkfs or mount fails.
  MountedExt4(const std::string& device, const std::string& directory);
  MountedExt4(const MountedExt4&) = delete;
  MountedExt4& operator=(const MountedExt4&) = delete;
  ~MountedExt4();
  [[nodiscard]] const std::string& path() const noexcept { return path_; }

 private:
  std::string path_;
};

}  // namespace guestio::testing
