// SPDX-License-Identifier: MIT
#include "guestio/disk/probe/image_format.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

#include "guestio/disk/file/file_disk.h"
#include "testing/temporary.h"

namespace guestio::disk {
namespace {

using std::string_view_literals::operator""sv;

constexpr std::size_t kMegabyte = std::size_t{1} << 20;

/// `size` zeroes with `text` at `offset`.
std::vector<std::byte> bytes_with(std::string_view text, std::size_t offset, std::size_t size) {
  std::vector<std::byte> bytes(size);
  std::ranges::transform(text, bytes.begin() + static_cast<std::ptrdiff_t>(offset),
                         [](char letter) { return static_cast<std::byte>(letter); });
  return bytes;
}

struct HeadCase {
  std::string_view start;
  std::size_t offset;
  std::string format;
};
const HeadCase kHeads[] = {
    {"QFI\xfb\0\0\0\1"sv, 0, "qcow"},
    {"QFI\xfb\0\0\0\2"sv, 0, "qcow2"},
    {"QFI\xfb\0\0\0\3"sv, 0, "qcow2"},
    {"QED\0"sv, 0, "QED"},
    {"KDMV\1\0\0\0"sv, 0, "VMDK"},
    {"COWD"sv, 0, "VMDK"},
    {"\xbe\xba\xfe\xca\0\0\0\0\1\0\0\0\2\0\0\0"sv, 0, "VMDK"},
    {"# Disk DescriptorFile\nversion=1\n"sv, 0, "VMDK"},
    {"# disk descriptorfile\r\n"sv, 0, "VMDK"},
    {"version=1\n"sv, 0, "VMDK"},
    {"version=2\r\nCID=1\r\n"sv, 0, "VMDK"},
    {"# made by hand\n#\n  \n\nversion=3\nCID=1\n"sv, 0, "VMDK"},
    {"\r\n \r\n# made by hand\r\nversion=1\r\n"sv, 0, "VMDK"},
    {"\x7f\x10\xda\xbe"sv, 64, "VDI"},
    {"vhdxfile"sv, 0, "VHDX"},
    {"conectix"sv, 0, "VHD"},
    {"WithoutFreeSpace"sv, 0, "Parallels"},
    {"WithouFreSpacExt"sv, 0, "Parallels"},
    {"LUKS\xba\xbe\0\1"sv, 0, "LUKS 1"},
    {"LUKS\xba\xbe\0\2"sv, 0, "LUKS 2"},
    {"LUKS\xba\xbe\0\3"sv, 0, "LUKS"},
};

TEST(ImageFormat, EachSignatureAtTheStartIsRecognized) {
  for (const HeadCase& known : kHeads) {
    const auto head = bytes_with(known.start, known.offset, 4096);
    const char* const found = find_signature(head, std::vector<std::byte>(512));
    ASSERT_NE(found, nullptr) << known.format;
    EXPECT_EQ(found, known.format);
  }
}

TEST(ImageFormat, ASignatureElsewhereIsIgnored) {
  for (const HeadCase& known : kHeads) {
    const auto moved = bytes_with(known.start, known.offset + 1, 4096);
    EXPECT_EQ(find_signature(moved, std::vector<std::byte>(512)), nullptr) << known.format;
  }
}

TEST(ImageFormat, ATruncatedSignatureIsIgnored) {
  for (const HeadCase& known : kHeads) {
    if (known.format == "qcow2" || known.format.starts_with("LUKS"))
      continue;  // one contains another
    const auto end = std::min(known.start.size(), std::size_t{3});
    const auto bytes = bytes_with(known.start.substr(0, end), known.offset, known.offset + end);
    EXPECT_EQ(find_signature(bytes, bytes), nullptr) << known.format;
  }
  EXPECT_EQ(find_signature({}, {}), nullptr);
}

TEST(ImageFormat, AFooterOfAFixedVhdIsRecognizedInEitherSize) {
  const std::vector<std::byte> head(4096);
  EXPECT_STREQ(find_signature(head, bytes_with("conectix", 0, 512)), "VHD");
  EXPECT_STREQ(find_signature(head, bytes_with("conectix", 1, 512)), "VHD");
  EXPECT_STREQ(find_signature(head, bytes_with("conectix", 4096 - 512, 4096)), "VHD");
  EXPECT_STREQ(find_signature({}, bytes_with("conectix", 0, 511)), "VHD");
  EXPECT_EQ(find_signature(head, bytes_with("conectix", 2, 512)), nullptr);
  EXPECT_EQ(find_signature(head, bytes_with("conectix", 0, 4096)), nullptr);
}

TEST(ImageFormat, RawContentHasNoSignature) {
  const std::vector<std::byte> tail(512);
  EXPECT_EQ(find_signature(bytes_with("\x55\xaa", 510, 4096), tail), nullptr) << "a boot sector";
  EXPECT_EQ(find_signature(bytes_with("EFI PART", 512, 4096), tail), nullptr);
  EXPECT_EQ(find_signature(bytes_with("XFSB", 0, 4096), tail), nullptr);
  EXPECT_EQ(find_signature(bytes_with("\xca\xfe\xba\xbe", 0, 4096), tail), nullptr);
  EXPECT_EQ(find_signature(bytes_with("\xbe\xba\xfe\xca\0\0\0\1"sv, 0, 4096), tail), nullptr);
  for (const char* const text :
       {"# Disk usage\n", "version=4\n", "version=1", "version=10\n", "version=1 \n",
        "# version=1\n", "# text\nsize=1\nversion=1\n", " version=1\n", "\n\n\n", "#"}) {
    EXPECT_EQ(find_signature(bytes_with(text, 0, 4096), tail), nullptr) << text;
  }
}

class ImageFormatOfFile : public ::testing::TestWithParam<Caching> {
 protected:
  std::string make(std::string_view text, std::size_t offset, std::size_t size) {
    const auto path = folder_.file("disk.img");
    const UniqueFd file(::open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
    const auto bytes = bytes_with(text, offset, size);
    EXPECT_EQ(::pwrite(file.get(), bytes.data(), size, 0), static_cast<ssize_t>(size));
    return path;
  }
  ErrorKind error_of(const std::string& path, FileDiskOptions options = {.path = ""}) {
    options.path = path;
    options.caching = GetParam();
    const auto disk = FileDisk::open(options);
    return disk ? ErrorKind::kPeerFault : disk.error().kind;  // no error of open()
  }
  testing::TemporaryDirectory folder_;
};

TEST_P(ImageFormatOfFile, BothEndsAreCheckedAtAnySize) {
  for (const std::size_t size : {std::size_t{4096}, std::size_t{4608}, kMegabyte, kMegabyte + 512,
                                 kMegabyte + 511, kMegabyte + 100}) {
    EXPECT_EQ(error_of(make("QFI\xfb\0\0\0\3"sv, 0, size)), ErrorKind::kForeignFormat) << size;
    EXPECT_EQ(error_of(make("conectix", size - 512, size)), ErrorKind::kForeignFormat) << size;
    EXPECT_EQ(error_of(make("conectix", size - 511, size)), ErrorKind::kForeignFormat) << size;
    EXPECT_EQ(error_of(make("conectix", size - 513, size)), ErrorKind::kPeerFault) << size;
  }
}

TEST_P(ImageFormatOfFile, ReadOnlyAccessIsRefusedToo) {
  EXPECT_EQ(error_of(make("KDMV", 0, 65536), {.path = "", .access = ImageAccess::kReadOnly}),
            ErrorKind::kForeignFormat);
}

TEST_P(ImageFormatOfFile, AKnownRawImageIsOpened) {
  EXPECT_EQ(error_of(make("LUKS\xba\xbe\0\2"sv, 0, 65536),
                     {.path = "", .format_check = FormatCheck::kNone}),
            ErrorKind::kPeerFault);
}

TEST_P(ImageFormatOfFile, AnImageOfLessThanABlockIsRefused) {
  EXPECT_EQ(error_of(make("", 0, 0)), ErrorKind::kInvalidArgument);
  EXPECT_EQ(error_of(make("", 0, 511)), ErrorKind::kInvalidArgument);
  EXPECT_EQ(error_of(make("", 0, 2048), {.path = "", .block_size = ByteCount(4096)}),
            ErrorKind::kInvalidArgument);
  EXPECT_EQ(error_of(make("", 0, 0), {.path = "", .format_check = FormatCheck::kNone}),
            ErrorKind::kInvalidArgument);
}

INSTANTIATE_TEST_SUITE_P(Caching, ImageFormatOfFile,
                         ::testing::Values(Caching::kDirect, Caching::kBuffered),
                         [](const auto& instance) {
                           return instance.param == Caching::kDirect ? "Direct" : "Buffered";
                         });

TEST(ImageFormat, AFailedReadIsAnErrorAndNoUnknownFormat) {
  const testing::TemporaryDirectory folder;
  const auto path = folder.make_image("disk.img", kMegabyte);
  const UniqueFd unreadable(::open(path.c_str(), O_WRONLY | O_CLOEXEC));
  EXPECT_EQ(check_raw_format(unreadable.get(), ByteCount(kMegabyte)).error().host_errno, EBADF);
  const UniqueFd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  EXPECT_EQ(check_raw_format(file.get(), ByteCount(2 * kMegabyte)).error().kind,
            ErrorKind::kShortTransfer)
      << "a file that is shorter than it was said to be";
}

TEST(ImageFormat, ASignatureWrittenByTheGuestDoesNotStopATakeover) {
  const testing::TemporaryDirectory folder;
  const FileDiskOptions options{.path = folder.make_image("disk.img", kMegabyte)};
  auto before = FileDisk::open(options).value();
  const UniqueFd file(::open(options.path.c_str(), O_WRONLY | O_CLOEXEC));
  ASSERT_EQ(::pwrite(file.get(), "LUKS\xba\xbe\0\2", 8, 0), 8);
  auto snapshot = before->snapshot();
  ASSERT_TRUE(snapshot);
  EXPECT_TRUE(FileDisk::take_over(options, std::move(*snapshot)));
  before.reset();
  EXPECT_EQ(FileDisk::open(options).error().kind, ErrorKind::kForeignFormat) << "a new start";
}

TEST(ImageFormat, TheErrorNamesTheFormatAndBothRemedies) {
  const auto text = Error::make(ErrorKind::kForeignFormat, "qcow2").to_string();
  for (const char* const part : {"qcow2", "qemu-img convert -O raw", "format=raw", "guest wrote"}) {
    EXPECT_NE(text.find(part), std::string::npos) << part;
  }
}

}  // namespace
}  // namespace guestio::disk
