// SPDX-License-Identifier: MIT
// A device whose hardware cannot reach guest memory, so that every request is bounced, under a
// budget of 256 KiB. 64 requests come in at once, far more than fit; every eighth wants the whole
// budget. They wait in line: each is served in its turn, the big ones too, and the budget is never
// exceeded.
//
// Shown here:
//   - a request is a coroutine: it waits for bounce memory without a thread and without polling;
//   - a bounce buffer gives its memory back when it goes away, and whoever is first in line goes
//   on;
//   - only what has arrived from the disk is copied to the guest: bounce memory is not cleared, and
//     may hold bytes of another guest.
#include <array>
#include <vector>

#include "example.h"
#include "guestio/base/standard_fds.h"
#include "guestio/buf/bounce_buffer_tracker.h"
#include "guestio/buf/request_buffers.h"
#include "guestio/mem/recover.h"
#include "guestio/task/scope.h"
#include "guestio/uring/awaitables.h"
#include "guestio/uring/run_task.h"

using namespace guestio;
using example::expect;
using example::value_of;

namespace {

constexpr std::size_t kRequests = 64;
constexpr std::size_t kSmall = 64 << 10;
constexpr std::size_t kBudget = 256 << 10;
constexpr std::size_t kFileSize = 1 << 20;

struct Request {
  std::size_t number;
  FileOffset offset;
  buf::RequestBuffers buffers;
};

class Device {
 public:
  Device(uring::Loop& loop, uring::File file, buf::BounceAccount& account) noexcept
      : loop_(loop), file_(file), account_(account) {}

  //! [serve]
  task::Task<> serve(const Request& request) {
    auto acquiring = account_.acquire(request.buffers.size());
    const auto bounce = co_await acquiring;
    expect(bounce.has_value(), "no request is larger than the budget");
    order_.push_back(request.number);

    const auto iovecs = buf::as_iovecs(bounce->segments());
    const std::int32_t got = co_await uring::readv(loop_, file_, iovecs, request.offset);
    expect(got > 0, "read the disk");

    const auto arrived = bounce->bytes().first(static_cast<std::size_t>(got));
    expect(request.buffers.writer().write(arrived), "copy to the guest");
  }  // here the memory goes back
  //! [serve]

  /// The requests in the order in which they got memory.
  [[nodiscard]] const std::vector<std::size_t>& order() const noexcept { return order_; }

 private:
  uring::Loop& loop_;
  const uring::File file_;
  buf::BounceAccount& account_;
  std::vector<std::size_t> order_;
};

//! [scope]
task::Task<> serve_all(Device& device, const std::vector<Request>& requests) {
  task::Scope scope;
  for (const Request& request : requests) scope.spawn(device.serve(request));
  co_await scope.join();
}
//! [scope]

}  // namespace

int main() {
  guestio::open_standard_fds();
  expect(mem::install_fault_recovery(), "prepare for memory that goes away");
  const UniqueFd file = example::make_file(kFileSize);
  const auto loop = value_of(uring::Loop::create(), "an event loop");
  //! [budget]
  // For the one thread that this device has.
  const auto tracker =
      value_of(buf::BounceBufferTracker::create(ByteCount(kBudget), 1), "bounce memory");
  buf::BounceAccount& account = tracker->account(0);
  //! [budget]
  const auto memory = value_of(mem::GuestMemory::allocate(ByteCount(32 << 20)), "a guest");

  std::vector<Request> requests;
  for (std::size_t i = 0; i < kRequests; ++i) {
    const std::uint64_t size = i % 8 == 7 ? kBudget : kSmall;
    // 4 bytes behind a page: nothing that the hardware could use.
    const auto place = mem::AddressRange::from_checked(Gpa(i * 2 * kBudget + 4), size);
    requests.push_back({i, FileOffset(i * kPageSize),
                        buf::RequestBuffers(memory, place, buf::MemoryAccess::kWritable)});
  }

  const uring::File device_file = loop->register_file(file.get());
  Device device(*loop, device_file, account);
  uring::run_task(*loop, serve_all(device, requests));
  loop->unregister_file(device_file);

  std::vector<std::byte> seen(kBudget);
  for (const Request& request : requests) {
    const auto bytes = std::span(seen).first(request.buffers.size());
    expect(request.buffers.reader().read(bytes), "read it back");
    expect(example::is_from_file(bytes, request.offset.raw()), "each got its own bytes");
  }
  for (std::size_t i = 0; i < kRequests; ++i) {
    expect(device.order()[i] == i, "they were served in the order they came");
  }
  const buf::BounceStatistics statistics = account.statistics();
  expect(statistics.high_water == ByteCount(kBudget), "the budget was used up and kept");
  expect(account.held() == 0, "all of it came back");
  fmt::print("{} requests, {} of which waited, the longest {} us, in {} of bounce memory\n",
             statistics.grants, statistics.waits, statistics.longest_wait.count() / 1000,
             format_byte_count(statistics.high_water));
}
