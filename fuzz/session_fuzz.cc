// SPDX-License-Identifier: MIT
// A hostile front-end of a live session: messages of any kind, size and order, with descriptors of
// any kind, and valid ones between them so that rings run. The process survives, leaks no
// descriptor, and serves a front-end of another disk on the same threads as before.
#include <dirent.h>
#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cstring>
#include <vector>

#include "fuzz/program.h"
#include "fuzz/served_disk.h"
#include "guestio/base/log.h"
#include "guestio/base/standard_fds.h"
#include "guestio/mem/recover.h"
#include "guestio/vhost/wire/messages.h"
#include "guestio/virtio/blk_layout.h"
#include "testing/blk_guest.h"

namespace guestio::fuzz {
namespace {

using vhost::FrontendRequest;

constexpr std::uint64_t kMemoryBytes = std::uint64_t{256} << 10;
constexpr std::uint64_t kGuestAddress = 0x100000;
constexpr std::uint64_t kUserAddress = 0x7f0000000000;
constexpr std::uint64_t kRingBytes = 0x8000;  // for each ring in guest memory
constexpr std::uint16_t kQueues = 2;
constexpr int kMaxSteps = 32;

std::size_t count_descriptors() {
  DIR* const folder = ::opendir("/proc/self/fd");
  GUESTIO_CHECK(folder != nullptr, "a list of descriptors");
  std::size_t count = 0;
  while (::readdir(folder) != nullptr) ++count;
  ::closedir(folder);
  return count;
}

UniqueFd make_memory(std::uint64_t bytes) {
  UniqueFd memory(::memfd_create("fuzz", MFD_CLOEXEC));
  GUESTIO_CHECK(memory && ::ftruncate(memory.get(), static_cast<off_t>(bytes)) == 0, "memory");
  return memory;
}
UniqueFd make_eventfd() { return UniqueFd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)); }

/// One connection, from its first message to its last.
class HostileFrontend {
 public:
  HostileFrontend(UniqueFd socket, Program& program)
      : socket_(std::move(socket)), program_(program) {}

  void run() {
    for (int step = 0; step < kMaxSteps && !program_.is_over(); ++step) {
      take_step();
      receive_replies();
    }
    // Not a mere close: the session may hold a copy of this end.
    ::shutdown(socket_.get(), SHUT_RDWR);
  }

 private:
  void take_step() {
    switch (program_.index(12)) {
      case 0: return negotiate();
      case 1: return share_memory();
      case 2: return set_up_ring();
      case 3: return submit();
      case 4: return send_anything();
      case 5: return send_raw_bytes();
      case 6: return write_random();
      case 7: return resize_or_punch();
      case 8: return exchange_inflight();
      default: return send_nearly_valid();
    }
  }

  // Valid messages.

  void negotiate() {
    features_ = virtio::kFeatureVersion1;
    if (program_.flag()) features_ |= virtio::kFeatureRingPacked;
    if (program_.flag()) features_ |= virtio::kFeatureIndirectDesc | virtio::kFeatureEventIdx;
    if (program_.flag()) features_ |= vhost::kFeatureProtocolFeatures;
    send(FrontendRequest::kSetFeatures, features_);
    const auto protocol = program_.flag() ? ~std::uint64_t{0} : program_.take<std::uint32_t>();
    send(FrontendRequest::kSetProtocolFeatures,
         protocol & (vhost::kProtocolMq | vhost::kProtocolReplyAck | vhost::kProtocolConfig |
                     vhost::kProtocolInflightShmfd | vhost::kProtocolBackendReq |
                     vhost::kProtocolResetDevice | vhost::kProtocolStatus |
                     vhost::kProtocolInbandNotifications | vhost::kProtocolConfigureMemSlots));
    is_inband_ = (protocol & vhost::kProtocolInbandNotifications) != 0 && program_.flag();
  }

  static vhost::MemoryRegion whole_memory() {
    return {kGuestAddress, kMemoryBytes, kUserAddress, 0};
  }
  void share_memory() {
    struct Table {
      vhost::MemoryTableHeader header{1, 0};
      vhost::MemoryRegion region = whole_memory();
    };
    if (program_.flag()) return send(FrontendRequest::kSetMemTable, Table{}, {memory_.get()});
    send(FrontendRequest::kAddMemReg, vhost::SingleMemoryRegion{0, whole_memory()},
         {memory_.get()});
  }

  void set_up_ring() {
    const auto ring = static_cast<std::uint32_t>(program_.index(kQueues));
    const std::uint64_t base = kUserAddress + ring * kRingBytes;
    const std::uint64_t word = ring;
    size_ = static_cast<std::uint16_t>(1U << program_.index(8));
    send(FrontendRequest::kSetVringNum, vhost::VringState{ring, size_});
    send(FrontendRequest::kSetVringBase, vhost::VringState{ring, program_.flag() ? 0U : 0xfffe});
    send(FrontendRequest::kSetVringAddr,
         vhost::VringAddress{ring, 0, base, base + 0x2000, base + 0x1000, 0});
    const UniqueFd call = make_eventfd();
    for (const auto& [request, fd] : {std::pair(FrontendRequest::kSetVringCall, call.get()),
                                      std::pair(FrontendRequest::kSetVringErr, call.get()),
                                      std::pair(FrontendRequest::kSetVringKick, kick_.get())}) {
      if (is_inband_) {
        send(request, word | vhost::kVringNoFd);
      } else {
        send(request, word, {fd});
      }
    }
    if (program_.flag()) send(FrontendRequest::kSetVringEnable, vhost::VringState{ring, 1});
  }

  /// A request in a split ring, valid or not.
  void submit() {
    const auto index = static_cast<std::uint32_t>(program_.index(kQueues));
    const std::uint64_t ring = index * kRingBytes;
    const std::uint64_t data = 0x20000;
    const virtio::blk::RequestHeader header{
        static_cast<virtio::blk::RequestType>(program_.index(16)), 0, program_.index(256)};
    write_memory(data, header);
    const std::array chain = {
        virtio::Descriptor{kGuestAddress + data, 16, virtio::kDescriptorNext, 1},
        virtio::Descriptor{
            kGuestAddress + data + 4096, program_.take<std::uint16_t>(),
            static_cast<std::uint16_t>(virtio::kDescriptorNext |
                                       (program_.flag() ? virtio::kDescriptorWrite : 0)),
            2},
        virtio::Descriptor{kGuestAddress + data + 64, 1, virtio::kDescriptorWrite, 0}};
    write_memory(ring, chain);
    write_memory(ring + 0x1000 + 4, std::uint16_t{0});
    write_memory(ring + 0x1000 + 2, program_.take<std::uint16_t>());
    (void)::eventfd_write(kick_.get(), 1);
    if (is_inband_) send(FrontendRequest::kVringKick, vhost::VringState{index, 0});
  }

  void exchange_inflight() {
    const vhost::InflightDescription wanted{0, 0, kQueues, 128};
    if (!inflight_ || program_.flag()) return send(FrontendRequest::kGetInflightFd, wanted);
    const auto size = program_.flag() ? inflight_bytes_ : program_.around(inflight_bytes_);
    send(
        FrontendRequest::kSetInflightFd,
        vhost::InflightDescription{size, program_.flag() ? 0 : program_.around(size), kQueues, 128},
        {inflight_.get()});
  }

  // Invalid messages.

  void send_anything() {
    const auto request = program_.take<std::uint8_t>() % 50U;
    const auto flags = program_.take<std::uint8_t>();
    const std::uint32_t claimed = program_.flag() ? program_.take<std::uint32_t>() : 0;
    const auto bytes = program_.bytes(program_.index(64));
    const std::uint32_t size = claimed != 0 ? claimed : static_cast<std::uint32_t>(bytes.size());
    // The version is mostly right: a wrong one ends the connection.
    const std::uint32_t version = flags < 250 ? (flags & ~3U) | 1U : flags;
    send_message({request, version, size}, std::as_bytes(bytes), any_descriptors());
  }

  void send_raw_bytes() { send_bytes(std::as_bytes(program_.bytes(program_.index(40))), {}); }

  /// A message of the right size with some wrong fields.
  void send_nearly_valid() {
    const std::uint64_t number = program_.around(kMemoryBytes);
    const auto ring = program_.take<std::uint8_t>() % 4U;
    const auto fds = program_.flag() ? any_descriptors() : std::vector<int>{memory_.get()};
    switch (program_.index(14)) {
      case 0: return send(FrontendRequest::kSetFeatures, features_ ^ number);
      case 1: return send(FrontendRequest::kSetProtocolFeatures, number);
      case 2: return send(FrontendRequest::kSetVringNum, vhost::VringState{ring, low(number)});
      case 3: return send(FrontendRequest::kSetVringBase, vhost::VringState{ring, low(number)});
      case 4: return send(FrontendRequest::kGetVringBase, vhost::VringState{ring, 0});
      case 5:
        return send(FrontendRequest::kSetVringAddr,
                    vhost::VringAddress{ring, low(number) & 1, kUserAddress + number,
                                        kUserAddress + program_.around(kMemoryBytes),
                                        kUserAddress + program_.around(kMemoryBytes), number});
      case 6:
        return send(FrontendRequest::kSetVringEnable, vhost::VringState{ring, low(number) % 3});
      case 7:
        return send(
            program_.flag() ? FrontendRequest::kSetVringKick : FrontendRequest::kSetVringErr,
            std::uint64_t{ring} | (program_.flag() ? vhost::kVringNoFd : 0), fds);
      case 8: return send_config_message(low(number));
      case 9:
        return send(program_.flag() ? FrontendRequest::kAddMemReg : FrontendRequest::kRemMemReg,
                    vhost::SingleMemoryRegion{0, any_region()}, fds);
      case 10: return send_memory_table(fds);
      case 11: return send(FrontendRequest::kSetStatus, number & 0x1ff);
      case 12: {
        const Connection back_channel = Connection::make();
        return send(FrontendRequest::kSetBackendReqFd, std::uint64_t{0},
                    {back_channel.theirs.get()});
      }
      default: return send_empty(FrontendRequest{program_.take<std::uint8_t>() % 48U});
    }
  }
  static std::uint32_t low(std::uint64_t number) { return static_cast<std::uint32_t>(number); }

  void send_config_message(std::uint32_t size) {
    struct Part {
      vhost::ConfigHeader header;
      std::array<std::byte, 60> bytes;
    };
    const bool is_write = program_.flag();
    Part part{{program_.take<std::uint8_t>(), size % 300, low(program_.index(3))}, {}};
    send(is_write ? FrontendRequest::kSetConfig : FrontendRequest::kGetConfig, part);
  }

  vhost::MemoryRegion any_region() {
    vhost::MemoryRegion region = whole_memory();
    switch (program_.index(5)) {
      case 0: region.guest_address = program_.around(kGuestAddress); break;
      case 1: region.size = program_.around(kMemoryBytes); break;
      case 2: region.user_address = program_.take<std::uint64_t>(); break;
      case 3: region.mmap_offset = program_.around(kMemoryBytes); break;
      default:
        region.guest_address += kMemoryBytes * program_.index(8);
        region.size = 4096 * (1 + program_.index(32));
    }
    return region;
  }

  void send_memory_table(std::vector<int> fds) {
    std::vector<std::byte> bytes(sizeof(vhost::MemoryTableHeader));
    const auto count = static_cast<std::uint32_t>(program_.index(10));
    const vhost::MemoryTableHeader header{program_.flag() ? count : count + 1, 0};
    std::memcpy(bytes.data(), &header, sizeof header);
    for (std::uint32_t i = 0; i < count; ++i) {
      const vhost::MemoryRegion region = any_region();
      const auto part = std::as_bytes(std::span(&region, 1));
      bytes.insert(bytes.end(), part.begin(), part.end());
      if (i != 0 && program_.flag()) fds.push_back(memory_.get());
    }
    send_message({std::to_underlying(FrontendRequest::kSetMemTable), 1 | vhost::kMessageNeedReply,
                  low(bytes.size())},
                 bytes, fds);
  }

  void send_empty(FrontendRequest request) {
    send_message({std::to_underlying(request), 1 | vhost::kMessageNeedReply, 0}, {}, {});
  }

  std::vector<int> any_descriptors() {
    std::vector<int> fds;
    for (std::size_t count = program_.index(12); count > 0 && !program_.is_over(); --count) {
      switch (program_.index(5)) {
        case 0: fds.push_back(memory_.get()); break;
        case 1: fds.push_back(kick_.get()); break;
        case 2: fds.push_back(dev_null_.get()); break;
        case 3: fds.push_back(socket_.get()); break;
        default: fds.push_back(small_.get());
      }
    }
    return fds;
  }

  // Changes of shared memory.

  template <typename T>
  void write_memory(std::uint64_t at, const T& value) {
    (void)!::pwrite(memory_.get(), &value, sizeof value, static_cast<off_t>(at));
  }
  void write_random() {
    const auto at = static_cast<off_t>(program_.take<std::uint32_t>() % kMemoryBytes);
    const auto bytes = program_.bytes(1 + program_.index(32));
    const int to = inflight_ && program_.flag() ? inflight_.get() : memory_.get();
    (void)!::pwrite(to, bytes.data(), bytes.size(), at);
    (void)::eventfd_write(kick_.get(), 1);
  }
  void resize_or_punch() {
    const auto at = static_cast<off_t>(program_.take<std::uint32_t>() % kMemoryBytes);
    const int file = inflight_ && program_.flag() ? inflight_.get() : memory_.get();
    if (program_.flag()) {
      (void)!::ftruncate(file, at);
    } else {
      (void)::fallocate(file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, at, 8192);
    }
  }

  // The socket.

  template <typename T>
  void send(FrontendRequest request, const T& payload, const std::vector<int>& fds = {}) {
    send_message({std::to_underlying(request), 1 | vhost::kMessageNeedReply, sizeof payload},
                 std::as_bytes(std::span(&payload, 1)), fds);
  }
  void send_message(const vhost::MessageHeader& header, std::span<const std::byte> payload,
                    const std::vector<int>& fds) {
    const auto head = std::as_bytes(std::span(&header, 1));
    std::vector<std::byte> bytes(head.begin(), head.end());
    bytes.insert(bytes.end(), payload.begin(), payload.end());
    send_bytes(bytes, fds);
  }
  void send_bytes(std::span<const std::byte> bytes, const std::vector<int>& fds) {
    iovec part{const_cast<std::byte*>(bytes.data()), bytes.size()};
    alignas(cmsghdr) std::array<std::byte, CMSG_SPACE(sizeof(int) * 32)> control{};
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    if (!fds.empty() && !bytes.empty()) {
      message.msg_control = control.data();
      message.msg_controllen = CMSG_SPACE(sizeof(int) * fds.size());
      cmsghdr* const rights = CMSG_FIRSTHDR(&message);
      rights->cmsg_level = SOL_SOCKET;
      rights->cmsg_type = SCM_RIGHTS;
      rights->cmsg_len = CMSG_LEN(sizeof(int) * fds.size());
      std::memcpy(CMSG_DATA(rights), fds.data(), sizeof(int) * fds.size());
    }
    // Dropped if it cannot be sent now: the session may be over.
    (void)::sendmsg(socket_.get(), &message, MSG_DONTWAIT | MSG_NOSIGNAL);
  }
  /// Reads all replies and keeps a received in-flight record.
  void receive_replies() {
    while (true) {
      std::array<std::byte, 4096> bytes;
      alignas(cmsghdr) std::array<std::byte, CMSG_SPACE(sizeof(int) * 8)> control{};
      iovec part{bytes.data(), bytes.size()};
      msghdr message{};
      message.msg_iov = &part;
      message.msg_iovlen = 1;
      message.msg_control = control.data();
      message.msg_controllen = control.size();
      if (::recvmsg(socket_.get(), &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC) <= 0) return;
      vhost::DescriptorList received;
      (void)received.collect(message);
      if (received.is_empty()) continue;
      inflight_ = received.take(0);
      inflight_bytes_ = static_cast<std::uint64_t>(::lseek(inflight_.get(), 0, SEEK_END));
    }
  }

  UniqueFd socket_;
  Program& program_;
  const UniqueFd memory_ = make_memory(kMemoryBytes);
  const UniqueFd small_ = make_memory(100);
  const UniqueFd kick_ = make_eventfd();
  const UniqueFd dev_null_{::open("/dev/null", O_RDWR | O_CLOEXEC)};
  UniqueFd inflight_;
  std::uint64_t inflight_bytes_ = 0;
  std::uint64_t features_ = virtio::kFeatureVersion1;
  bool is_inband_ = false;  // rings have no descriptors
  std::uint16_t size_ = 1;
};

/// The target disk, and a bystander with a guest of its own on the same threads.
class Fixture {
 public:
  Fixture() {
    log::set_level(log::Level::kError);
    GUESTIO_CHECK(mem::install_fault_recovery().has_value(), "signal handlers");
    GUESTIO_CHECK(::pwrite(bystander_.image(), kPattern.data(), kPattern.size(), 0) == kBytes,
                  "a bystander disk");
  }

  void run(Program& program) {
    const std::size_t before = count_descriptors();
    auto connection = Connection::make();
    auto session_end = target_.serve(std::move(connection.theirs));
    HostileFrontend(std::move(connection.ours), program).run();
    // While the threads may still hold remains of the target's session.
    if (++runs_ % 16 == 0) check_bystander();
    wait_for(session_end);
    GUESTIO_CHECK(count_descriptors() == before, "no leaked descriptor");
  }

 private:
  void wait_for(std::future<void>& session_end) {
    session_end.wait();
    home_->call([] {});  // after the last work of the session there
  }
  /// No longer than this: memory known only to the kernel during a wait for a front-end would be
  /// reported as a leak.
  void check_bystander() {
    auto connection = Connection::make();
    auto session_end = bystander_.serve(std::move(connection.theirs));
    auto guest = std::move(*testing::BlkGuest::from_socket(std::move(connection.ours), {}));
    const auto answer = guest->read(0, kPattern.size());
    GUESTIO_CHECK(answer.status == 0 && std::ranges::equal(answer.data, kPattern),
                  "an unchanged bystander disk");
    guest.reset();
    wait_for(session_end);
  }

  static constexpr ssize_t kBytes = 512;
  static constexpr std::array<std::byte, kBytes> kPattern = [] {
    std::array<std::byte, kBytes> bytes{};
    bytes.fill(std::byte{0x5a});
    return bytes;
  }();

  std::unique_ptr<vhost::QueueThread> home_ =
      std::move(*vhost::QueueThread::start({.name = "home", .polling = {}}));
  vhost::QueueThreads threads_ =
      std::move(*vhost::QueueThreads::start({.count = 1, .polling = {}, .cpus = {}}));
  ServedDisk target_{*home_, threads_, kQueues};
  ServedDisk bystander_{*home_, threads_, 1};
  std::uint64_t runs_ = 0;
};

}  // namespace
}  // namespace guestio::fuzz

extern "C" int LLVMFuzzerInitialize(int* /*count*/, char*** /*words*/) {
  guestio::open_standard_fds();
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace guestio;
  static fuzz::Fixture& fixture = *new fuzz::Fixture();
  fuzz::Program program(data, size);
  fixture.run(program);
  return 0;
}
