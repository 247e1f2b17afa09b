// SPDX-License-Identifier: MIT
// guestio-blk on images of other formats, made by the programs of those formats.
#include <cstring>
#include <fstream>
#include <iterator>

#include "tests/backend_fixture.h"

namespace guestio::tests {
namespace {

struct ForeignImage {
  std::string test;
  std::string format;   ///< its name in the diagnostic
  std::string command;  ///< creates the file $1
};

const std::vector<ForeignImage> kForeignImages = {
    {"Qcow2", "qcow2", "qemu-img create -q -f qcow2 $1 16M"},
    {"OldQcow2", "qcow2", "qemu-img create -q -f qcow2 -o compat=0.10 $1 16M"},
    {"Qcow", "qcow", "qemu-img create -q -f qcow $1 16M"},
    {"Qed", "QED", "qemu-img create -q -f qed $1 16M"},
    {"Vmdk", "VMDK", "qemu-img create -q -f vmdk $1 16M"},
    {"VmdkStream", "VMDK", "qemu-img create -q -f vmdk -o subformat=streamOptimized $1 16M"},
    {"VmdkDescriptor", "VMDK", "qemu-img create -q -f vmdk -o subformat=monolithicFlat $1 16M"},
    {"Vdi", "VDI", "qemu-img create -q -f vdi $1 16M"},
    {"Vhdx", "VHDX", "qemu-img create -q -f vhdx $1 16M"},
    {"Vhd", "VHD", "qemu-img create -q -f vpc $1 16M"},
    {"FixedVhd", "VHD", "qemu-img create -q -f vpc -o subformat=fixed,force_size=on $1 16M"},
    {"Parallels", "Parallels", "qemu-img create -q -f parallels $1 16M"},
    {"Luks1", "LUKS 1",
     "truncate -s 32M $1 && printf key | cryptsetup luksFormat -q --disable-locks --type luks1 "
     "--pbkdf pbkdf2 --pbkdf-force-iterations 1000 $1 -"},
    {"Luks2", "LUKS 2",
     "truncate -s 32M $1 && printf key | cryptsetup luksFormat -q --disable-locks --type luks2 "
     "--pbkdf pbkdf2 --pbkdf-force-iterations 1000 $1 -"},
};

std::string content_of(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

class ForeignImageTest : public BackendTest, public ::testing::WithParamInterface<ForeignImage> {
 protected:
  void SetUp() override {
    if (run_shell("command -v qemu-img && command -v cryptsetup") != 0) {
      GTEST_SKIP() << "qemu-img or cryptsetup is missing";
    }
    image_ = folder_.file("foreign");
    ASSERT_EQ(run_shell(GetParam().command), 0);
  }
  /// Runs it with the image's path as $1.
  int run_shell(const std::string& command) const {
    testing::ChildProcess shell({"/bin/sh", "-c", command, "sh", image_});
    return shell.wait().value_or(-1);
  }
};

TEST_P(ForeignImageTest, IsRejectedUnmodifiedUnlessTheFormatIsRaw) {
  const std::string before = content_of(image_);
  for (const char* const mode : {"--max-ranges=1", "--buffered", "--read-only"}) {
    const Outcome outcome = run({"--socket-path", socket_, "--blk-file", image_, mode});
    expect_diagnostic(outcome, GetParam().format + " does");
    expect_diagnostic(outcome, "format=raw");
    expect_diagnostic(outcome, image_);
  }
  EXPECT_EQ(content_of(image_), before);
  if (before.size() < 512) return;  // the small one of the two files of a VMDK
  start({"--format", "raw"});
  EXPECT_EQ(std::memcmp(connect()->read(0, 512).data.data(), before.data(), 512), 0);
  stop();
}

INSTANTIATE_TEST_SUITE_P(Formats, ForeignImageTest, ::testing::ValuesIn(kForeignImages),
                         [](const auto& instance) { return instance.param.test; });

class RawImageTest : public BackendTest {
 protected:
  /// As full-disk encryption in the guest does.
  void write_signature_from_guest() {
    const auto guest = connect();
    std::vector<std::byte> sector(512);
    std::memcpy(sector.data(), "LUKS\xba\xbe\0\2", 8);
    ASSERT_EQ(guest->write(0, sector).status, 0);
    ASSERT_EQ(guest->flush().status, 0);
  }
};

TEST_F(RawImageTest, ASignatureWrittenByTheGuestMattersOnlyAtTheNextStart) {
  start({"--control", control_});
  write_signature_from_guest();
  expect_alive();
  take_over();
  expect_alive();
  stop();
  const Outcome outcome = run({"--socket-path", socket_, "--blk-file", image_});
  expect_diagnostic(outcome, "LUKS 2");
  expect_diagnostic(outcome, "the guest wrote");
  start({"--format", "raw"});
  expect_alive();
  stop();
}

TEST_F(RawImageTest, FormatIsAcceptedWhereverADiskIsConfigured) {
  start({"--format", "raw"});
  write_signature_from_guest();
  stop();
  const std::string disk = "socket-path=" + socket_ + ",blk-file=" + image_;
  expect_diagnostic(run({"--disk", disk}), "LUKS 2");
  const auto serves = [](const std::vector<std::string>& arguments) {
    std::vector<std::string> words = {kBackendProgram};
    words.insert(words.end(), arguments.begin(), arguments.end());
    testing::ChildProcess child(words);
    EXPECT_TRUE(child.wait_for_output("serves ")) << child.output();
    child.send_signal(SIGTERM);
    EXPECT_EQ(child.wait(), 0) << child.output();
  };
  serves({"--disk", disk + ",format=raw"});
  const std::string config = folder_.file("config.toml");
  std::ofstream(config) << "[[disk]]\nsocket-path = \"" << socket_ << "\"\nblk-file = \"" << image_
                        << "\"\nformat = \"raw\"\n";
  serves({"--config", config});
}

TEST_F(RawImageTest, AnUnsupportedFormatIsRejectedWithTheSupportedOnes) {
  const std::vector<std::string> usual = {"--socket-path", socket_, "--blk-file", image_};
  auto words = usual;
  words.insert(words.end(), {"--format", "iso"});
  const Outcome outcome = run(words);
  expect_diagnostic(outcome, "--format takes raw, qcow2");
  expect_diagnostic(run({"--disk", "socket-path=" + socket_ + ",blk-file=" + image_ + ",format="}),
                    "format takes raw");
}

TEST_F(RawImageTest, AnEmptyImageIsRejectedWhateverItsFormat) {
  image_ = folder_.make_image("empty.img", 0);
  const Outcome outcome = run({"--socket-path", socket_, "--blk-file", image_});
  expect_diagnostic(outcome, image_);
  expect_diagnostic(outcome, "less than one block");
  expect_diagnostic(run({"--socket-path", socket_, "--blk-file", image_, "--format", "raw"}),
                    "less than one block");
}

TEST_F(RawImageTest, ABlockDeviceIsProbedLikeAFile) {
  const testing::LoopDevice device(image_, 4096);
  if (device.path().empty()) GTEST_SKIP() << "no loop devices available";
  image_ = device.path();
  start();
  write_signature_from_guest();
  stop();
  expect_diagnostic(run({"--socket-path", socket_, "--blk-file", image_}), "LUKS 2");
  expect_diagnostic(run({"--socket-path", socket_, "--blk-file", image_, "--buffered"}), "LUKS 2");
}

TEST_F(RawImageTest, ANullDiskHasNoFormat) {
  image_ = "null:1M";
  start({"--format", "raw"});
  stop();
  start();
  stop();
}

}  // namespace
}  // namespace guestio::tests
