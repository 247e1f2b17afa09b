// SPDX-License-Identifier: MIT
#include "guestio/disk/probe/image_format.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <string_view>

#include "guestio/base/align.h"
#include "guestio/base/mapping.h"

namespace guestio::disk {

namespace {

using std::string_view_literals::operator""sv;

struct Signature {
  const char* format;
  std::size_t offset;
  std::string_view bytes;
};

// The signatures in the documentation of each format.
constexpr std::array kAtStart = {
    Signature{"qcow", 0, "QFI\xfb\0\0\0\1"sv},
    Signature{"qcow2", 0, "QFI\xfb"sv},
    Signature{"QED", 0, "QED\0"sv},
    Signature{"VMDK", 0, "KDMV"sv},
    Signature{"VMDK", 0, "COWD"sv},
    Signature{"VMDK", 0, "\xbe\xba\xfe\xca\0\0\0\0"sv},  // seSparse: 0xcafebabe, little-endian
    Signature{"VDI", 64, "\x7f\x10\xda\xbe"sv},
    Signature{"VHDX", 0, "vhdxfile"sv},
    Signature{"VHD", 0, "conectix"sv},
    Signature{"Parallels", 0, "WithoutFreeSpace"sv},
    Signature{"Parallels", 0, "WithouFreSpacExt"sv},
    Signature{"LUKS 1", 0, "LUKS\xba\xbe\0\1"sv},
    Signature{"LUKS 2", 0, "LUKS\xba\xbe\0\2"sv},
    Signature{"LUKS", 0, "LUKS\xba\xbe"sv},
};

// A fixed VHD is raw data with a footer. Virtual PC before 2004 wrote a footer of 511 bytes.
constexpr std::string_view kVhdFooter = "conectix";
constexpr std::array kVhdFooterSizes = {std::size_t{512}, std::size_t{511}};

constexpr std::string_view kVmdkDescriptor = "# Disk DescriptorFile";

std::string_view as_text(std::span<const std::byte> bytes) noexcept {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};  // safe: bytes as bytes
}

bool is_equal_but_for_case(std::string_view a, std::string_view b) noexcept {
  const auto lower = [](char letter) {
    return letter >= 'A' && letter <= 'Z' ? static_cast<char>(letter + ('a' - 'A')) : letter;
  };
  return std::ranges::equal(a, b, {}, lower, lower);
}

/// A VMDK descriptor in text: a version line after comments and blank lines.
bool has_vmdk_version(std::string_view start) noexcept {
  constexpr std::array kVersions = {"version=1"sv, "version=2"sv, "version=3"sv};
  while (true) {
    const std::size_t end = start.find('\n');
    if (end == std::string_view::npos) return false;
    std::string_view line = start.substr(0, end);
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (std::ranges::find(kVersions, line) != kVersions.end()) return true;
    const bool is_blank = line.find_first_not_of(' ') == std::string_view::npos;
    if (!is_blank && !line.starts_with('#')) return false;
    start.remove_prefix(end + 1);
  }
}

bool ends_with_vhd_footer(std::string_view tail) noexcept {
  return std::ranges::any_of(kVhdFooterSizes, [tail](std::size_t size) {
    return tail.size() >= size && tail.substr(tail.size() - size).starts_with(kVhdFooter);
  });
}

/// Reads [offset, offset + to.size()) of a file of `size` bytes, up to its end.
Result<std::span<const std::byte>> read_part(int fd, std::span<std::byte> to, std::uint64_t offset,
                                             std::uint64_t size) {
  const std::uint64_t wanted = std::min<std::uint64_t>(to.size(), size - offset);
  ssize_t got = 0;
  do got = ::pread(fd, to.data(), to.size(), static_cast<off_t>(offset));
  while (got < 0 && errno == EINTR);
  if (got < 0) return fail_host("read the image's signature");
  const auto arrived = static_cast<std::uint64_t>(got);
  if (arrived < wanted) {
    return fail(ErrorKind::kShortTransfer, "read the image's signature", arrived, wanted);
  }
  return to.first(wanted);
}

}  // namespace

const char* find_signature(std::span<const std::byte> head,
                           std::span<const std::byte> tail) noexcept {
  const std::string_view start = as_text(head);
  for (const Signature& signature : kAtStart) {
    if (start.size() < signature.offset) continue;
    if (start.substr(signature.offset).starts_with(signature.bytes)) return signature.format;
  }
  if (is_equal_but_for_case(start.substr(0, kVmdkDescriptor.size()), kVmdkDescriptor) ||
      has_vmdk_version(start)) {
    return "VMDK";
  }
  return ends_with_vhd_footer(as_text(tail)) ? "VHD" : nullptr;
}

Result<> check_raw_format(int fd, ByteCount size) {
  // Page-aligned reads suit any file opened with O_DIRECT, and stop at its end. The last two pages
  // hold the last 512 bytes for any size.
  auto pages = Mapping::anonymous(3 * kPageSize);
  if (!pages) return fail(pages.error());
  const std::uint64_t bytes = size.raw();
  const std::uint64_t last_page = align_down(bytes, std::uint64_t{kPageSize});
  const std::uint64_t tail_offset = last_page - std::min(last_page, std::uint64_t{kPageSize});
  const auto head = read_part(fd, pages->bytes().first(kPageSize), 0, bytes);
  if (!head) return fail(head.error());
  const auto tail = read_part(fd, pages->bytes().last(2 * kPageSize), tail_offset, bytes);
  if (!tail) return fail(tail.error());
  if (const char* const format = find_signature(*head, *tail)) {
    return fail(ErrorKind::kForeignFormat, format);
  }
  return {};
}

}  // namespace guestio::disk
