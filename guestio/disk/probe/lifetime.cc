// SPDX-License-Identifier: MIT
#include "guestio/disk/probe/lifetime.h"

#include <fmt/format.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <cstdio>
#include <memory>

namespace guestio::disk {

namespace {

using File = std::unique_ptr<std::FILE, int (*)(std::FILE*)>;

File open_text(const std::string& path) { return {std::fopen(path.c_str(), "re"), &std::fclose}; }

}  // namespace

std::optional<std::string> find_lifetime(int fd) {
  struct stat status{};
  if (::fstat(fd, &status) != 0 || !S_ISBLK(status.st_mode)) return std::nullopt;
  const auto device =
      fmt::format("/sys/dev/block/{}:{}", major(status.st_rdev), minor(status.st_rdev));
  // A partition's folder is inside that of its disk.
  for (const char* const place : {"/device", "/../device"}) {
    std::string folder = device + place;
    if (read_lifetime(folder)) return folder;
  }
  return std::nullopt;
}

std::optional<Lifetime> read_lifetime(const std::string& folder) {
  const File wear = open_text(folder + "/life_time");
  const File end = open_text(folder + "/pre_eol_info");
  unsigned a = 0;
  unsigned b = 0;
  unsigned pre_eol_info = 0;
  constexpr unsigned kLargest = 0xff;
  if (!wear || !end || std::fscanf(wear.get(), "%x %x", &a, &b) != 2 ||
      std::fscanf(end.get(), "%x", &pre_eol_info) != 1 || (a | b | pre_eol_info) > kLargest) {
    return std::nullopt;
  }
  return Lifetime{.pre_eol_info = static_cast<std::uint16_t>(pre_eol_info),
                  .estimate_type_a = static_cast<std::uint16_t>(a),
                  .estimate_type_b = static_cast<std::uint16_t>(b)};
}

}  // namespace guestio::disk
