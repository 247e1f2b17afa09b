// SPDX-License-Identifier: MIT
#pragma once

#include <gtest/gtest.h>
#include <rados/librados.h>
#include <rbd/librbd.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "guestio/disk/rbd/rbd_factory.h"
#include "guestio/uring/loop.h"
#include "testing/ceph_cluster.h"
#include "testing/disk_conformance.h"

/// What the tests of this room share: one cluster, its images, disks on them.
namespace guestio::disk::rbd_test {

/// The cluster of this program, from its first use to its end.
testing::CephCluster& cluster();

constexpr std::uint64_t kImageBytes = std::uint64_t{4} << 20;
constexpr std::uint64_t kLockFeature = RBD_FEATURE_LAYERING | RBD_FEATURE_EXCLUSIVE_LOCK;

/// A client with an address of its own.
class RbdClient {
 public:
  RbdClient();
  RbdClient(const RbdClient&) = delete;
  RbdClient& operator=(const RbdClient&) = delete;
  ~RbdClient();

  [[nodiscard]] rados_ioctx_t pool() const noexcept { return pool_; }
  [[nodiscard]] std::string address() const;

  void create(const std::string& name, std::uint64_t bytes = kImageBytes,
              std::uint64_t features = kLockFeature) const;
  [[nodiscard]] rbd_image_t open(const std::string& name) const;

 private:
  rados_t cluster_ = nullptr;
  rados_ioctx_t pool_ = nullptr;
};

/// Another client's open image, with its lock.
class Rival {
 public:
  explicit Rival(const std::string& name);
  Rival(const Rival&) = delete;
  Rival& operator=(const Rival&) = delete;
  ~Rival();

  [[nodiscard]] std::string address() const { return client_.address(); }
  /// The error number of a write; 0: it succeeds.
  [[nodiscard]] int write() const;

 private:
  RbdClient client_;
  rbd_image_t image_ = nullptr;
};

/// A new image's name, and options for it: client.vm, images of one connection each.
OpenOptions new_image(std::uint64_t bytes = kImageBytes, std::uint64_t features = kLockFeature);
[[nodiscard]] std::string image_name(const OpenOptions& options);
/// The owner of an image's lock; empty: none.
[[nodiscard]] std::string lock_owner(const std::string& name);

/// An open disk with one channel.
class OpenRbdDisk final : public testing::DiskSubject {
 public:
  explicit OpenRbdDisk(std::shared_ptr<Disk> disk);
  ~OpenRbdDisk() override;

  [[nodiscard]] const DiskInfo& info() const override { return disk_->info(); }
  [[nodiscard]] Channel& channel() override { return *channel_; }
  void run_until(const std::function<bool()>& is_done) override;
  [[nodiscard]] Disk& disk() { return *disk_; }

  /// One sector of bytes `value` at `offset`.
  void start_write(testing::TestIo& io, std::byte value, std::uint64_t offset = 0);
  Result<> write(std::byte value, std::uint64_t offset = 0);
  /// The first byte of a sector.
  Result<std::byte> read(std::uint64_t offset = 0);
  Result<> wait_for(testing::TestIo& io);

 private:
  mem::GuestMemory memory_;
  std::unique_ptr<uring::Loop> loop_;
  std::shared_ptr<Disk> disk_;
  std::unique_ptr<Channel> channel_;
};

/// The disk `name`, made by the first test that needs it.
std::unique_ptr<testing::DiskSubject> shared_disk(
    const std::string& name, const std::function<std::unique_ptr<testing::DiskSubject>()>& make);

}  // namespace guestio::disk::rbd_test
