// SPDX-License-Identifier: MIT
#include "guestio/disk/rbd/test/rbd_cluster.h"

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <map>
#include <optional>
#include <utility>

#include "guestio/mem/recover.h"
#include "testing/wait_until.h"

namespace guestio::disk::rbd_test {

namespace {

constexpr ByteCount kBounce(std::uint64_t{8} << 20);

std::optional<testing::CephCluster>& storage() {
  static std::optional<testing::CephCluster> cluster;
  return cluster;
}

std::map<std::string, std::unique_ptr<testing::DiskSubject>>& shared_disks() {
  static std::map<std::string, std::unique_ptr<testing::DiskSubject>> disks;
  return disks;
}

/// Ends what no test owns, before main() returns.
class EndOfCluster final : public ::testing::Environment {
 public:
  void TearDown() override {
    shared_disks().clear();
    storage().reset();
  }
};

class SharedDisk final : public testing::DiskSubject {
 public:
  explicit SharedDisk(testing::DiskSubject& disk) : disk_(disk) {}
  [[nodiscard]] const DiskInfo& info() const override { return disk_.info(); }
  [[nodiscard]] Channel& channel() override { return disk_.channel(); }
  void run_until(const std::function<bool()>& is_done) override { disk_.run_until(is_done); }

 private:
  testing::DiskSubject& disk_;
};
[[maybe_unused]] auto* const end_of_cluster = ::testing::AddGlobalTestEnvironment(new EndOfCluster);

}  // namespace

testing::CephCluster& cluster() {
  if (!storage()) storage().emplace();
  if (!storage()->is_up()) {
    std::fprintf(stderr, "no Ceph cluster: %s\n", storage()->output().c_str());
    std::abort();
  }
  return *storage();
}

RbdClient::RbdClient() {
  EXPECT_EQ(::rados_create2(&cluster_, "ceph", "client.admin", 0), 0);
  EXPECT_EQ(::rados_conf_read_file(cluster_, cluster().conf().c_str()), 0);
  ::rados_conf_set(cluster_, "rbd_cache", "false");
  ::rados_conf_set(cluster_, "err_to_stderr", "false");
  EXPECT_EQ(::rados_connect(cluster_), 0);
  EXPECT_EQ(::rados_ioctx_create(cluster_, "rbd", &pool_), 0);
}

RbdClient::~RbdClient() {
  ::rados_ioctx_destroy(pool_);
  ::rados_shutdown(cluster_);
}

std::string RbdClient::address() const {
  char* text = nullptr;
  EXPECT_EQ(::rados_getaddrs(cluster_, &text), 0);
  std::string address = text;
  std::free(text);
  return address;
}

void RbdClient::create(const std::string& name, std::uint64_t bytes, std::uint64_t features) const {
  int order = 22;
  ASSERT_EQ(::rbd_create2(pool_, name.c_str(), bytes, features, &order), 0);
}

rbd_image_t RbdClient::open(const std::string& name) const {
  rbd_image_t image = nullptr;
  EXPECT_EQ(::rbd_open(pool_, name.c_str(), &image, nullptr), 0);
  return image;
}

Rival::Rival(const std::string& name) : image_(client_.open(name)) {
  EXPECT_EQ(::rbd_lock_acquire(image_, RBD_LOCK_MODE_EXCLUSIVE), 0);
}

Rival::~Rival() { ::rbd_close(image_); }

int Rival::write() const {
  const auto written = ::rbd_write(image_, 0, 4, "evil");
  return written < 0 ? static_cast<int>(-written) : 0;
}

OpenOptions new_image(std::uint64_t bytes, std::uint64_t features) {
  static std::atomic<int> last = 0;
  const std::string name = "image" + std::to_string(++last);
  RbdClient().create(name, bytes, features);
  OpenOptions options;
  options.uri = "rbd:rbd/" + name + "?id=vm&conf=" + cluster().conf();
  options.name = "disk " + name;
  options.settings = {{"rados-images-per-connection", "1"}};
  return options;
}

std::string image_name(const OpenOptions& options) { return parse_rbd_uri(options.uri)->image; }

std::string lock_owner(const std::string& name) {
  const RbdClient client;
  rbd_image_t image = client.open(name);
  char* owner = nullptr;
  std::size_t count = 1;
  rbd_lock_mode_t mode = RBD_LOCK_MODE_EXCLUSIVE;
  std::string address;
  if (::rbd_lock_get_owners(image, &mode, &owner, &count) == 0 && count == 1) {
    address = owner;
    ::rbd_lock_get_owners_cleanup(&owner, 1);
  }
  ::rbd_close(image);
  return address;
}

std::unique_ptr<testing::DiskSubject> shared_disk(
    const std::string& name, const std::function<std::unique_ptr<testing::DiskSubject>()>& make) {
  auto& disk = shared_disks()[name];
  if (!disk) disk = make();
  return disk ? std::make_unique<SharedDisk>(*disk) : nullptr;
}

OpenRbdDisk::OpenRbdDisk(std::shared_ptr<Disk> disk)
    : memory_(*mem::GuestMemory::allocate(ByteCount(std::uint64_t{1} << 20))),
      loop_(std::move(*uring::Loop::create())),
      disk_(std::move(disk)) {
  EXPECT_TRUE(mem::install_fault_recovery());
  channel_ = std::move(*disk_->open_channel(*loop_, kBounce));
}

OpenRbdDisk::~OpenRbdDisk() {
  channel_.reset();
  disk_.reset();
  loop_->run_until_idle();
}

void OpenRbdDisk::run_until(const std::function<bool()>& is_done) {
  EXPECT_TRUE(wait_until([&] {
    loop_->run_until_idle();
    return is_done();
  }));
}

void OpenRbdDisk::start_write(testing::TestIo& io, std::byte value, std::uint64_t offset) {
  io.kind = IoKind::kWrite;
  io.offset = FileOffset(offset);
  io.length = Sector::kSize;
  io.result.reset();
  io.extents = {mem::AddressRange::from_checked(Gpa(0), io.length)};
  io.buffers =
      *buf::RequestBuffers::from_extents(memory_, io.extents, buf::MemoryAccess::kReadOnly);
  std::memset(*memory_.host_range(Gpa(0), io.length), static_cast<int>(value), io.length);
  channel_->start(io);
}

Result<> OpenRbdDisk::wait_for(testing::TestIo& io) {
  run_until([&] { return io.result.has_value(); });
  EXPECT_EQ(io.times_done, 1);
  return io.result.value_or(fail(ErrorKind::kCancelled, "a request without an end"));
}

Result<> OpenRbdDisk::write(std::byte value, std::uint64_t offset) {
  testing::TestIo io;
  start_write(io, value, offset);
  return wait_for(io);
}

Result<std::byte> OpenRbdDisk::read(std::uint64_t offset) {
  testing::TestIo io;
  io.kind = IoKind::kRead;
  io.offset = FileOffset(offset);
  io.length = Sector::kSize;
  io.extents = {mem::AddressRange::from_checked(Gpa(4096), io.length)};
  io.buffers =
      *buf::RequestBuffers::from_extents(memory_, io.extents, buf::MemoryAccess::kWritable);
  channel_->start(io);
  if (auto done = wait_for(io); !done) return fail(done.error());
  return **memory_.host_range(Gpa(4096), io.length);
}

}  // namespace guestio::disk::rbd_test
