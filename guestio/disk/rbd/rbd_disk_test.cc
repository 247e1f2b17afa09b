// SPDX-License-Identifier: MIT
#include "guestio/disk/rbd/rbd_disk.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "guestio/disk/rbd/helper_threads.h"
#include "guestio/disk/rbd/test/rbd_cluster.h"
#include "testing/wait_until.h"

namespace guestio::disk {

using rbd_test::cluster;
using rbd_test::image_name;
using rbd_test::kImageBytes;
using rbd_test::lock_owner;
using rbd_test::new_image;
using rbd_test::OpenRbdDisk;
using rbd_test::RbdClient;
using rbd_test::Rival;
using testing::DiskConformance;
using testing::DiskKind;
using testing::DiskSubject;
using testing::TestIo;

namespace {

constexpr std::byte kOld{0x11};
constexpr std::byte kNew{0x22};

RbdFactory& factory() {
  static RbdFactory factory;
  return factory;
}

std::shared_ptr<Disk> open_disk(const OpenOptions& options) {
  auto disk = factory().open(options);
  if (!disk) ADD_FAILURE() << disk.error().to_string();
  return disk ? std::move(*disk) : nullptr;
}

std::string refusal(const OpenOptions& options) {
  const auto disk = factory().open(options);
  return disk ? "it opens" : disk.error().to_string();
}

constexpr std::string_view kSecret = "open sesame";

std::uint64_t header_bytes(const std::string& encryption) {
  return std::uint64_t{encryption == "luks1" ? 4U : 16U} << 20;
}

/// 4 MiB for the guest behind a header of cryptsetup, with a key derivation of no time.
OpenOptions new_encrypted_image(const testing::TemporaryDirectory& folder,
                                const std::string& encryption) {
  const std::uint64_t header = header_bytes(encryption);
  OpenOptions options = new_image(header + kImageBytes);
  options.settings["encryption"] = encryption;
  options.settings["key-file"] = folder.file("key");
  std::ofstream(folder.file("key")) << kSecret;
  const std::string file = folder.make_image("header", header + kImageBytes);
  testing::ChildProcess format({"/sbin/cryptsetup", "luksFormat", "-q", "--type", encryption,
                                "--offset", std::to_string(header / 512), "--pbkdf", "pbkdf2",
                                "--pbkdf-force-iterations", "1000", "--key-file",
                                folder.file("key"), file});
  EXPECT_EQ(format.wait(), 0) << format.output();
  std::string bytes(header, '\0');
  std::ifstream(file).read(bytes.data(), static_cast<std::streamsize>(header));
  const RbdClient client;
  rbd_image_t image = client.open(image_name(options));
  EXPECT_EQ(::rbd_write(image, 0, header, bytes.data()), static_cast<ssize_t>(header));
  ::rbd_close(image);
  return options;
}

std::unique_ptr<DiskSubject> subject(const OpenOptions& options) {
  auto disk = open_disk(options);
  return disk ? std::make_unique<OpenRbdDisk>(std::move(disk)) : nullptr;
}

std::unique_ptr<DiskSubject> encrypted_subject(const std::string& encryption) {
  const testing::TemporaryDirectory folder;
  return subject(new_encrypted_image(folder, encryption));
}

/// The tests share a disk of each kind.
DiskKind kind(const std::string& name, std::function<std::unique_ptr<DiskSubject>()> make) {
  return {name, [name, make] { return rbd_test::shared_disk(name, make); }};
}

INSTANTIATE_TEST_SUITE_P(
    Rbd, DiskConformance,
    ::testing::Values(kind("locked", [] { return subject(new_image()); }),
                      kind("without_lock",
                           [] { return subject(new_image(kImageBytes, RBD_FEATURE_LAYERING)); }),
                      kind("luks1", [] { return encrypted_subject("luks1"); }),
                      kind("luks2", [] { return encrypted_subject("luks2"); })),
    [](const auto& test) { return test.param.name; });

TEST(RbdDisk, NamesWhatIsMissing) {
  const std::string conf = "conf=" + cluster().conf();
  const auto with = [](const std::string& uri) {
    OpenOptions options;
    options.uri = uri;
    return refusal(options);
  };
  EXPECT_EQ(with("rbd:nowhere/i?" + conf), "open the pool: there is no pool 'nowhere'");
  EXPECT_EQ(with("rbd:rbd/none?" + conf), "open the image: there is no image 'none' in pool 'rbd'");
  EXPECT_EQ(with("rbd:rbd/none/i?" + conf),
            "open the pool: there is no namespace 'none' in pool 'rbd'");
  EXPECT_NE(with("rbd:rbd/i?id=stranger&" + conf).find("client.stranger"), std::string::npos);
  EXPECT_NE(with("rbd:rbd/i?conf=/nowhere/ceph.conf").find("/nowhere/ceph.conf"),
            std::string::npos);
  EXPECT_NE(with("rbd:rbd").find("POOL"), std::string::npos);
}

TEST(RbdDisk, ServesNamespaces) {
  const RbdClient client;
  ASSERT_EQ(::rbd_namespace_create(client.pool(), "tenant"), 0);
  ::rados_ioctx_set_namespace(client.pool(), "tenant");
  client.create("private");
  OpenOptions options;
  options.uri = "rbd:rbd/tenant/private?conf=" + cluster().conf();
  OpenRbdDisk disk(open_disk(options));
  EXPECT_TRUE(disk.write(kNew));
  EXPECT_EQ(*disk.read(), kNew);
  EXPECT_STREQ(disk.disk().status().backend, "rbd");
  EXPECT_EQ(disk.disk().status().connections, 1U);
}

TEST(RbdDisk, ASnapshotIsReadOnly) {
  OpenOptions options = new_image();
  {
    OpenRbdDisk disk(open_disk(options));
    ASSERT_TRUE(disk.write(kOld));
    const RbdClient client;
    rbd_image_t image = client.open(image_name(options));
    ASSERT_EQ(::rbd_snap_create(image, "before"), 0);
    ::rbd_close(image);
    ASSERT_TRUE(disk.write(kNew));
  }
  options.uri.insert(options.uri.find('?'), "@before");
  EXPECT_NE(refusal(options).find("read-only=on"), std::string::npos);
  options.is_read_only = true;
  OpenRbdDisk disk(open_disk(options));
  EXPECT_EQ(*disk.read(), kOld);
  EXPECT_FALSE(disk.write(kNew));
}

TEST(RbdDisk, GrowthIsAnnouncedAndShrinkingRefused) {
  const OpenOptions options = new_image();
  OpenRbdDisk disk(open_disk(options));
  std::atomic<int> announced = 0;
  disk.disk().on_size_change([&] { ++announced; });
  const RbdClient client;
  rbd_image_t image = client.open(image_name(options));
  ASSERT_EQ(::rbd_resize(image, 2 * kImageBytes), 0);
  ASSERT_TRUE(wait_until([&] { return announced == 1; }));
  EXPECT_EQ(*disk.disk().refresh_size(), ByteCount(2 * kImageBytes));
  EXPECT_TRUE(disk.write(kNew, 2 * kImageBytes - 512));
  ASSERT_EQ(::rbd_resize(image, kImageBytes), 0);
  ASSERT_TRUE(wait_until([&] { return announced == 2; }));
  EXPECT_FALSE(disk.disk().refresh_size());
  EXPECT_EQ(disk.info().size, ByteCount(2 * kImageBytes));
  ::rbd_close(image);
  disk.disk().on_size_change({});
}

TEST(RbdDisk, AWrongPassphraseIsNamed) {
  const testing::TemporaryDirectory folder;
  OpenOptions options = new_encrypted_image(folder, "luks2");
  std::ofstream(folder.file("wrong")) << "open barley";
  options.settings["key-file"] = folder.file("wrong");
  EXPECT_NE(refusal(options).find("passphrase"), std::string::npos) << refusal(options);
  options.settings["encryption"] = "luks1";
  EXPECT_NE(refusal(options).find("LUKS1"), std::string::npos) << refusal(options);
  options.settings["key-file"] = folder.file("missing");
  EXPECT_NE(refusal(options).find("missing"), std::string::npos);
}

// librbd derives keys for 12 s. `./dev soak disks` has the same with guestio-blk (luks1, luks2);
// this one runs with --gtest_also_run_disabled_tests.
TEST(RbdDisk, DISABLED_OpensTheEncryptionOfLibrbd) {
  const testing::TemporaryDirectory folder;
  std::ofstream(folder.file("key")) << kSecret;
  OpenOptions options = new_image(header_bytes("luks2") + kImageBytes);
  {
    const RbdClient client;
    rbd_image_t image = client.open(image_name(options));
    rbd_encryption_luks2_format_options_t format{RBD_ENCRYPTION_ALGORITHM_AES256, kSecret.data(),
                                                 kSecret.size()};
    ASSERT_EQ(::rbd_encryption_format(image, RBD_ENCRYPTION_FORMAT_LUKS2, &format, sizeof(format)),
              0);
    ::rbd_close(image);
  }
  options.settings["encryption"] = "luks2";
  options.settings["key-file"] = folder.file("key");
  OpenRbdDisk disk(open_disk(options));
  EXPECT_EQ(disk.info().size, ByteCount(kImageBytes));
  EXPECT_TRUE(disk.write(kNew));
  EXPECT_EQ(*disk.read(), kNew);
}

// The lock.

TEST(RbdLock, IsHeldWhileTheDiskIsOpen) {
  const OpenOptions options = new_image();
  {
    OpenRbdDisk disk(open_disk(options));
    EXPECT_NE(lock_owner(image_name(options)), "");
    EXPECT_NE(refusal(options).find("locked by client " + lock_owner(image_name(options))),
              std::string::npos);
  }
  EXPECT_TRUE(wait_until([&] { return lock_owner(image_name(options)).empty(); }));
}

TEST(RbdLock, OfAnotherClientIsBrokenOnlyOnRequest) {
  OpenOptions options = new_image();
  const Rival rival(image_name(options));
  ASSERT_EQ(rival.write(), 0);
  const std::string why = refusal(options);
  EXPECT_NE(why.find(rival.address()), std::string::npos) << why;
  EXPECT_NE(why.find("break-lock=on"), std::string::npos) << why;
  options.settings["break-lock"] = "on";
  OpenRbdDisk disk(open_disk(options));
  EXPECT_TRUE(disk.write(kNew));
  // Fenced off.
  EXPECT_EQ(rival.write(), ESHUTDOWN);
  EXPECT_EQ(*disk.read(), kNew);
}

TEST(RbdLock, OfOurDeadPredecessorIsBrokenAtOnce) {
  const testing::TemporaryDirectory folder;
  OpenOptions options = new_image();
  options.state_path = folder.file("state");
  const Rival predecessor(image_name(options));
  LockRecord record = LockRecord::of_process(predecessor.address());
  ASSERT_TRUE(save_records({record}, options.state_path));
  EXPECT_NE(refusal(options).find(predecessor.address()), std::string::npos);
  record.start -= 1;  // an earlier process of the same number
  ASSERT_TRUE(save_records({record}, options.state_path));
  {
    OpenRbdDisk disk(open_disk(options));
    EXPECT_TRUE(disk.write(kNew));
    EXPECT_EQ(predecessor.write(), ESHUTDOWN);
    const LockRecords records = load_records(options.state_path);
    ASSERT_EQ(records.size(), 1U);
    EXPECT_EQ(records[0].address, lock_owner(image_name(options)));
  }
  EXPECT_TRUE(wait_until([&] { return !std::filesystem::exists(options.state_path); }));
}

TEST(RbdLock, AFencedClientOpensTheImageAnew) {
  const OpenOptions options = new_image();
  OpenRbdDisk disk(open_disk(options));
  ASSERT_TRUE(disk.write(kOld));
  const std::string before = lock_owner(image_name(options));
  ASSERT_TRUE(cluster().fence(before));
  EXPECT_TRUE(disk.write(kNew));
  EXPECT_EQ(*disk.read(), kNew);
  EXPECT_EQ(disk.disk().status().reconnects, 1U);
  EXPECT_TRUE(disk.disk().status().is_available);
  EXPECT_NE(lock_owner(image_name(options)), before);
}

TEST(RbdLock, AFencedClientStaysAwayWhileAnotherOwnsTheLock) {
  const OpenOptions options = new_image();
  OpenRbdDisk disk(open_disk(options));
  ASSERT_TRUE(disk.write(kOld));
  int available = 0;
  disk.channel().on_available([&] { ++available; });
  OpenOptions thief = options;
  thief.settings["break-lock"] = "on";
  OpenRbdDisk other(open_disk(thief));
  const auto refused = disk.write(kNew);
  ASSERT_FALSE(refused.has_value());
  EXPECT_EQ(refused.error().kind, ErrorKind::kClosed);
  EXPECT_FALSE(disk.disk().status().is_available);
  EXPECT_NE(disk.disk().status().detail.find(lock_owner(image_name(options))), std::string::npos);
  EXPECT_EQ(*other.read(), kOld);
  EXPECT_TRUE(other.disk().status().is_available);
  EXPECT_EQ(available, 0);
}

TEST(RbdLock, MovesWithTheClaimWhileBothHaveTheImageOpen) {
  OpenOptions options = new_image();
  options.is_claimed_in_use = true;
  OpenRbdDisk source(open_disk(options));
  OpenRbdDisk destination(open_disk(options));
  EXPECT_EQ(lock_owner(image_name(options)), "");
  ASSERT_TRUE(source.disk().claim());
  ASSERT_TRUE(source.write(kOld));
  ASSERT_TRUE(destination.disk().claim());
  TestIo waiting;
  destination.start_write(waiting, kNew);
  EXPECT_EQ(*source.read(), kOld);
  EXPECT_FALSE(waiting.result.has_value());
  source.disk().release();
  EXPECT_TRUE(destination.wait_for(waiting));
  EXPECT_EQ(*destination.read(), kNew);
  // And back.
  destination.disk().release();
  ASSERT_TRUE(source.disk().claim());
  EXPECT_TRUE(source.write(kOld));
  EXPECT_EQ(*source.read(), kOld);
}

TEST(RbdLock, MovesToTheSuccessorOfATakeover) {
  const OpenOptions options = new_image();
  auto predecessor = std::make_unique<OpenRbdDisk>(open_disk(options));
  ASSERT_TRUE(predecessor->write(kOld));
  auto taken = factory().take_over(options, *predecessor->disk().snapshot());
  ASSERT_TRUE(taken) << taken.error().to_string();
  OpenRbdDisk successor(*taken);
  EXPECT_TRUE(predecessor->write(kNew));
  ASSERT_TRUE(successor.disk().restore(*predecessor->disk().snapshot()));
  EXPECT_TRUE(predecessor->write(kOld, 4096));
  predecessor.reset();
  EXPECT_EQ(*successor.read(), kNew);
  EXPECT_TRUE(successor.write(kOld));
  EXPECT_EQ(successor.disk().status().reconnects, 0U);
}

TEST(RbdLock, IsBrokenByTheSuccessorOfAStuckPredecessor) {
  const OpenOptions options = new_image();
  OpenRbdDisk predecessor(open_disk(options));
  auto taken = factory().take_over(options, *predecessor.disk().snapshot());
  ASSERT_TRUE(taken) << taken.error().to_string();
  OpenRbdDisk successor(*taken);
  ASSERT_TRUE(successor.disk().restore(*predecessor.disk().snapshot()));
  EXPECT_TRUE(successor.write(kNew));
  EXPECT_FALSE(predecessor.write(kOld));
  EXPECT_EQ(*successor.read(), kNew);
}

// A cluster that is away.

TEST(RbdOutage, RequestsWaitForAPausedOsd) {
  OpenOptions options = new_image();
  options.settings["io-timeout"] = "1";
  OpenRbdDisk disk(open_disk(options));
  ASSERT_TRUE(disk.write(kOld));
  cluster().pause_osd();
  TestIo waiting;
  disk.start_write(waiting, kNew);
  disk.run_until([&] { return !disk.disk().status().is_available; });
  EXPECT_FALSE(waiting.result.has_value());
  EXPECT_NE(disk.disk().status().detail.find("not answered"), std::string::npos);
  OpenOptions late = options;
  EXPECT_NE(refusal(late).find("does not answer"), std::string::npos);
  cluster().continue_osd();
  EXPECT_TRUE(disk.wait_for(waiting));
  EXPECT_TRUE(disk.disk().status().is_available);
  EXPECT_EQ(*disk.read(), kNew);
  // What gave up has let go of its images by now, or will.
  EXPECT_TRUE(helper_threads::wait_idle(scaled_timeout()));
}

TEST(RbdOutage, RequestsInFlightSurviveAKilledOsd) {
  const OpenOptions options = new_image();
  OpenRbdDisk disk(open_disk(options));
  ASSERT_TRUE(disk.write(kOld));
  std::vector<TestIo> ios(64);
  cluster().kill_osd();
  for (std::size_t i = 0; i < ios.size(); ++i) disk.start_write(ios[i], kNew, i * 4096);
  cluster().start_osd();
  for (TestIo& io : ios) EXPECT_TRUE(disk.wait_for(io));
  EXPECT_EQ(*disk.read(63 * 4096), kNew);
}

TEST(RbdOutage, ClosingADiskWaitsForNobody) {
  const OpenOptions options = new_image();
  auto disk = std::make_unique<OpenRbdDisk>(open_disk(options));
  ASSERT_TRUE(disk->write(kOld));
  cluster().pause_osd();
  disk.reset();
  EXPECT_FALSE(helper_threads::wait_idle(std::chrono::milliseconds(1)));
  cluster().continue_osd();
  EXPECT_TRUE(helper_threads::wait_idle(scaled_timeout()));
}

std::size_t count_threads() {
  const std::filesystem::directory_iterator tasks("/proc/self/task");
  return static_cast<std::size_t>(std::distance(begin(tasks), end(tasks)));
}

TEST(RbdConnections, ThirtyTwoDisksTakeFewThreads) {
  const std::size_t before = count_threads();
  std::vector<std::shared_ptr<Disk>> disks;
  const std::size_t others = factory().connections();
  for (int i = 0; i < 32; ++i) {
    OpenOptions options = new_image();
    options.settings.clear();
    disks.push_back(open_disk(options));
  }
  EXPECT_EQ(factory().connections() - others, 4U);
  EXPECT_TRUE(helper_threads::wait_idle(scaled_timeout()));
  EXPECT_LE(count_threads() - before, 52U);
  disks.clear();
  EXPECT_TRUE(wait_until([&] { return factory().connections() == others; }));
}

}  // namespace
}  // namespace guestio::disk
