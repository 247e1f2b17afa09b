// SPDX-License-Identifier: MIT
#include "testing/temporary.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "guestio/base/check.h"

namespace guestio::testing {

namespace {

/// The first output line of a command; empty if it fails.
std::string output_of(const std::string& command) {
  std::FILE* const pipe = ::popen(command.c_str(), "re");
  if (pipe == nullptr) return {};
  std::array<char, 256> line{};
  std::string text;
  if (std::fgets(line.data(), line.size(), pipe) != nullptr) text = line.data();
  if (::pclose(pipe) != 0) return {};
  while (!text.empty() && text.back() == '\n') text.pop_back();
  return text;
}

}  // namespace

TemporaryDirectory::TemporaryDirectory() {
  // In the build directory: /tmp may be a tmpfs without direct I/O.
  std::string pattern = (std::filesystem::current_path() / "guestio-test-XXXXXX").string();
  GUESTIO_CHECK(::mkdtemp(pattern.data()) != nullptr, "a temporary directory");
  path_ = pattern;
}

TemporaryDirectory::~TemporaryDirectory() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

std::string TemporaryDirectory::make_image(const std::string& name, std::uint64_t size) const {
  const std::string path = file(name);
  const UniqueFd fd(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  GUESTIO_CHECK(fd && ::ftruncate(fd.get(), static_cast<off_t>(size)) == 0, "a test image");
  return path;
}

MemoryFile::MemoryFile(std::uint64_t size) : fd_(::memfd_create("guestio-test", MFD_CLOEXEC)) {
  GUESTIO_CHECK(fd_ && ::ftruncate(fd_.get(), static_cast<off_t>(size)) == 0, "a memory file");
}

std::string MemoryFile::path() const { return fmt::format("/proc/{}/fd/{}", ::getpid(), fd()); }

TmpfsMount::TmpfsMount(const std::string& directory, std::uint64_t bytes) : path_(directory) {
  std::filesystem::create_directory(path_);
  const std::string options = fmt::format("size={}", bytes);
  if (::mount("none", path_.c_str(), "tmpfs", 0, options.c_str()) != 0) path_.clear();
}

TmpfsMount::~TmpfsMount() {
  if (!path_.empty()) ::umount2(path_.c_str(), MNT_DETACH);
}

LoopDevice::LoopDevice(const std::string& file, unsigned block_size)
    : path_(output_of(fmt::format("losetup --find --show --direct-io=on -b {} {} 2>/dev/null",
                                  block_size, file))) {}

LoopDevice::~LoopDevice() {
  if (!path_.empty()) (void)output_of("losetup -d " + path_);
}

ZramDevice::ZramDevice(const TemporaryDirectory& directory, std::uint64_t bytes) {
  std::ifstream("/sys/class/zram-control/hot_add") >> number_;
  if (number_ < 0) return;
  const std::string control = fmt::format("/sys/block/zram{}/", number_);
  std::ofstream(control + "disksize") << bytes;
  unsigned major_number = 0;
  unsigned minor_number = 0;
  char colon = 0;
  std::ifstream(control + "dev") >> major_number >> colon >> minor_number;
  std::uint64_t actual = 0;
  std::ifstream(control + "disksize") >> actual;
  path_ = directory.file(fmt::format("zram{}", number_));
  const bool is_ready = actual == bytes && ::mknod(path_.c_str(), S_IFBLK | S_IRUSR | S_IWUSR,
                                                   makedev(major_number, minor_number)) == 0;
  if (!is_ready) path_.clear();
}

ZramDevice::~ZramDevice() {
  if (number_ >= 0) std::ofstream("/sys/class/zram-control/hot_remove") << number_;
}

MountedExt4::MountedExt4(const std::string& device, const std::string& directory)
    : path_(directory) {
  std::filesystem::create_directory(path_);
  const bool is_mounted =
      !output_of("mkfs.ext4 -q " + device + " 2>/dev/null && echo made").empty() &&
      ::mount(device.c_str(), path_.c_str(), "ext4", 0, nullptr) == 0;
  if (!is_mounted) path_.clear();
}

MountedExt4::~MountedExt4() {
  if (!path_.empty()) ::umount2(path_.c_str(), MNT_DETACH);
}

}  // namespace guestio::testing
