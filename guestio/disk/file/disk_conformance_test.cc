// SPDX-License-Identifier: MIT
#include "testing/disk_conformance.h"

#include <filesystem>
#include <fstream>
#include <optional>

#include "guestio/disk/file/file_disk.h"
#include "guestio/disk/ram_channel.h"
#include "guestio/mem/recover.h"
#include "testing/temporary.h"

namespace guestio::disk {
namespace {

using testing::DiskConformance;
using testing::DiskKind;
using testing::DiskSubject;

constexpr std::uint64_t kDiskBytes = std::uint64_t{4} << 20;

class RamSubject final : public DiskSubject {
 public:
  const DiskInfo& info() const override { return disk_->info(); }
  Channel& channel() override { return *disk_; }
  void run_until(const std::function<bool()>& is_done) override { ASSERT_TRUE(is_done()); }

 private:
  std::unique_ptr<RamChannel> disk_ = std::move(*RamChannel::create(ByteCount(kDiskBytes)));
};

/// A FileDisk with its own loop.
class FileSubject : public DiskSubject {
 public:
  FileSubject(const std::string& path, Caching caching, ByteCount bounce_limit,
              BounceReads placement = BounceReads::kNever) {
    EXPECT_TRUE(mem::install_fault_recovery());
    auto disk = FileDisk::open({.path = path, .caching = caching, .bounce_reads = placement});
    EXPECT_TRUE(disk.has_value()) << disk.error().to_string();
    disk_ = std::move(*disk);
    channel_ = std::move(*disk_->open_channel(*loop_, bounce_limit));
  }
  const DiskInfo& info() const override { return disk_->info(); }
  Channel& channel() override { return *channel_; }
  void run_until(const std::function<bool()>& is_done) override {
    while (!is_done()) loop_->run_until_idle();
  }

 private:
  std::unique_ptr<uring::Loop> loop_ = std::move(*uring::Loop::create());
  std::unique_ptr<FileDisk> disk_;
  std::unique_ptr<Channel> channel_;
};

constexpr ByteCount kMuchBounce(std::uint64_t{8} << 20);
constexpr ByteCount kLittleBounce(std::uint64_t{64} << 10);

/// A file in its own folder.
struct TemporaryImage {
  testing::TemporaryDirectory folder;
  std::string path = folder.make_image("disk.img", kDiskBytes);
};

class ImageSubject final : TemporaryImage, public FileSubject {
 public:
  ImageSubject(Caching caching, ByteCount bounce, BounceReads placement = BounceReads::kNever)
      : FileSubject(path, caching, bounce, placement) {}
};

struct InMemory {
  testing::MemoryFile file{kDiskBytes};
};

class MemorySubject final : InMemory, public FileSubject {
 public:
  explicit MemorySubject(BounceReads placement)
      : FileSubject(file.path(), Caching::kDirect, kMuchBounce, placement) {}
};

struct OnLoop {
  TemporaryImage image;
  testing::LoopDevice device{image.path, 4096};
};

struct Owner {
  std::unique_ptr<OnLoop> loop;
};

class LoopSubject final : Owner, public FileSubject {
 public:
  explicit LoopSubject(std::unique_ptr<OnLoop> on)
      : Owner{std::move(on)}, FileSubject(loop->device.path(), Caching::kDirect, kLittleBounce) {}
  /// Queried from this device: another process may own the next one.
  static std::unique_ptr<DiskSubject> make() {
    auto on = std::make_unique<OnLoop>();
    if (on->device.path().empty()) return nullptr;
    return std::make_unique<LoopSubject>(std::move(on));
  }
};

struct OnZram {
  testing::TemporaryDirectory folder;
  testing::ZramDevice device;
  std::optional<testing::MountedExt4> file_system = std::nullopt;
  std::string path = device.path();

  explicit OnZram(std::uint64_t bytes) : device(folder, bytes) {}
  void make_file() {
    file_system.emplace(device.path(), folder.file("mounted"));
    if (file_system->path().empty()) return path.clear();
    path = file_system->path() + "/disk.img";
    std::ofstream(path) << "";
    std::filesystem::resize_file(path, kDiskBytes);
  }
};

struct ZramOwner {
  std::unique_ptr<OnZram> zram;
};

/// Storage that corrupts transfers to memory inside a page.
class ZramSubject final : ZramOwner, public FileSubject {
 public:
  explicit ZramSubject(std::unique_ptr<OnZram> on)
      : ZramOwner{std::move(on)}, FileSubject(zram->path, Caching::kDirect, kMuchBounce) {}
  static std::unique_ptr<DiskSubject> over(std::unique_ptr<OnZram> on) {
    if (on->path.empty()) return nullptr;
    return std::make_unique<ZramSubject>(std::move(on));
  }
  static std::unique_ptr<DiskSubject> make() { return over(std::make_unique<OnZram>(kDiskBytes)); }
  static std::unique_ptr<DiskSubject> make_file() {
    auto on = std::make_unique<OnZram>(16 * kDiskBytes);
    if (!on->path.empty()) on->make_file();
    return over(std::move(on));
  }
};

INSTANTIATE_TEST_SUITE_P(
    Disks, DiskConformance,
    ::testing::Values(
        DiskKind{"Ram", [] { return std::make_unique<RamSubject>(); }},
        DiskKind{"DirectFile",
                 [] { return std::make_unique<ImageSubject>(Caching::kDirect, kMuchBounce); }},
        DiskKind{"DirectFileWithLittleBounceMemory",
                 [] { return std::make_unique<ImageSubject>(Caching::kDirect, kLittleBounce); }},
        DiskKind{"BufferedFile",
                 [] { return std::make_unique<ImageSubject>(Caching::kBuffered, kMuchBounce); }},
        DiskKind{"BufferedFileOfBounceReads",
                 [] {
                   return std::make_unique<ImageSubject>(Caching::kBuffered, kLittleBounce,
                                                         BounceReads::kAlways);
                 }},
        DiskKind{"FileInMemory",
                 [] { return std::make_unique<MemorySubject>(BounceReads::kNever); }},
        DiskKind{"FileInMemoryOfBounceReads",
                 [] { return std::make_unique<MemorySubject>(BounceReads::kAlways); }},
        DiskKind{"LoopDeviceOfLargeBlocks", &LoopSubject::make},
        DiskKind{"Zram", &ZramSubject::make}, DiskKind{"FileOnZram", &ZramSubject::make_file}),
    [](const auto& instance) { return instance.param.name; });

}  // namespace
}  // namespace guestio::disk
