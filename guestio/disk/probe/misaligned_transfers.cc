// SPDX-License-Identifier: MIT
#include "guestio/disk/probe/misaligned_transfers.h"

#include <fmt/format.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <optional>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include "guestio/base/align.h"
#include "guestio/base/mapping.h"
#include "guestio/base/units.h"
#include "guestio/disk/probe/written_block.h"

namespace guestio::disk {

namespace {

namespace fs = std::filesystem;

// Limit for stacked devices: sysfs may change while it is read.
constexpr int kMaxDepth = 16;

std::optional<dev_t> read_device_number(const fs::path& file) {
  std::ifstream text(file);
  unsigned of_driver = 0;
  unsigned of_device = 0;
  char colon = 0;
  if (!(text >> of_driver >> colon >> of_device) || colon != ':') return std::nullopt;
  return makedev(of_driver, of_device);
}

std::optional<struct stat> try_stat(const std::string& path) {
  struct stat status{};
  if (::stat(path.c_str(), &status) != 0) return std::nullopt;
  return status;
}

void add_file_systems_of(std::string_view paths, std::vector<dev_t>& devices) {
  while (!paths.empty()) {
    const auto end = std::min(paths.find(':'), paths.size());
    if (const auto status = try_stat(std::string(paths.substr(0, end)))) {
      devices.push_back(status->st_dev);
    }
    paths.remove_prefix(std::min(end + 1, paths.size()));
  }
}

/// The devices of an overlay's layers; the overlay's own number names none.
std::vector<dev_t> devices_of_overlay(dev_t file_system) {
  std::vector<dev_t> devices;
  std::ifstream mounts("/proc/self/mountinfo");
  const std::string wanted = fmt::format("{}:{}", major(file_system), minor(file_system));
  for (std::string line; std::getline(mounts, line);) {
    std::istringstream words(line);
    std::string word;
    std::string number;
    words >> word >> word >> number;
    // A dash ends the optional fields; type, source and options follow.
    while (words >> word && word != "-") {
    }
    std::string type;
    std::string options;
    words >> type >> word >> options;
    if (number != wanted || type != "overlay") continue;
    std::istringstream all(options);
    for (std::string option; std::getline(all, option, ',');) {
      constexpr std::size_t kName = std::string_view("upperdir=").size();
      if (option.starts_with("upperdir=") || option.starts_with("lowerdir=")) {
        add_file_systems_of(std::string_view(option).substr(kName), devices);
      }
    }
    return devices;
  }
  return devices;
}

/// The devices that store a file's or device's bytes.
std::vector<dev_t> devices_of(const struct stat& status) {
  if (S_ISBLK(status.st_mode)) return {status.st_rdev};
  if (major(status.st_dev) != 0) return {status.st_dev};
  return devices_of_overlay(status.st_dev);
}

/// The devices below a block device.
std::vector<dev_t> devices_below(const fs::path& folder) {
  std::vector<dev_t> below;
  std::error_code error;
  if (fs::exists(folder / "partition", error)) {
    if (const auto disk = read_device_number(folder / ".." / "dev")) below.push_back(*disk);
  }
  for (fs::directory_iterator slave(folder / "slaves", error), end; !error && slave != end;
       slave.increment(error)) {
    if (const auto device = read_device_number(slave->path() / "dev")) below.push_back(*device);
  }
  std::ifstream backing(folder / "loop" / "backing_file");
  if (std::string path; std::getline(backing, path)) {
    if (const auto status = try_stat(path)) {
      std::ranges::copy(devices_of(*status), std::back_inserter(below));
    }
  }
  return below;
}

bool is_any_on_zram(const std::vector<dev_t>& devices, int depth) {
  if (depth == 0) return false;
  for (const dev_t device : devices) {
    std::error_code error;
    // Resolved first, because `..` refers to the link's target.
    const fs::path folder =
        fs::canonical(fmt::format("/sys/dev/block/{}:{}", major(device), minor(device)), error);
    if (error) continue;
    if (folder.filename().string().starts_with("zram")) return true;
    if (is_any_on_zram(devices_below(folder), depth - 1)) return true;
  }
  return false;
}

bool read_whole(int fd, std::span<std::byte> to, std::uint64_t offset) noexcept {
  return ::pread(fd, to.data(), to.size(), static_cast<off_t>(offset)) ==
         static_cast<ssize_t>(to.size());
}

}  // namespace

bool is_on_zram(int fd) {
  struct stat status{};
  return ::fstat(fd, &status) == 0 && is_any_on_zram(devices_of(status), kMaxDepth);
}

bool corrupts_misaligned_reads(int fd, const buf::DirectIoLimits& limits,
                               std::uint64_t size) noexcept {
  constexpr std::uint64_t kBytes = 2 * kPageSize;
  // Another process may write to the image between two reads.
  constexpr int kTrials = 3;
  const auto written = find_data_offset(fd);
  if (!written || size < kBytes || limits.block() > kPageSize) return false;
  const std::uint64_t offset = std::min(align_down(*written, std::uint64_t{kPageSize}),
                                        align_down(size - kBytes, std::uint64_t{kPageSize}));
  auto memory = Mapping::anonymous(2 * kBytes + kPageSize);
  if (!memory) return false;
  const auto placed = memory->bytes().first(kBytes);
  const auto misaligned = memory->bytes().subspan(kBytes + limits.memory_alignment, kBytes);
  for (int i = 0; i < kTrials; ++i) {
    if (!read_whole(fd, placed, offset)) return false;
    // Missing bytes differ whatever the file holds.
    std::ranges::transform(placed, misaligned.begin(), [](std::byte byte) { return ~byte; });
    if (!read_whole(fd, misaligned, offset)) return false;
    if (std::ranges::equal(placed, misaligned)) return false;
  }
  return true;
}

}  // namespace guestio::disk
