// SPDX-License-Identifier: MIT
// A device without DMA to guest memory: it bounces every request, under a budget of 256 KiB. 64
// requests arrive at once, far more than fit; every eighth needs the whole budget. They queue in
// FIFO order, large ones included, and never exceed the budget.
//
// Shown here:
//   - a request is a coroutine, which waits for bounce memory without a thread and without polling;
//   - the destructor of a bounce buffer releases its memory and resumes the first waiter;
//   - only bytes read from the disk are copied to the guest: bounce memory is not cleared and may
//     hold bytes of another guest.
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
    const auto bounce = co_await account_.acquire(request.buffers.size());
    expect(bounce.has_value(), "no request is larger than the budget");
    order_.push_back(request.number);

    const auto iovecs = buf::as_iovecs(bounce->segments());
    const std::int32_t got = co_await uring::readv(loop_, file_, iovecs, request.offset);
    expect(got > 0, "read the disk");

    const auto arrived = bounce->bytes().first(static_cast<std::size_t>(got));
    expect(request.buffers.writer().write(arrived), "copy to the guest");
  }  // releases the bounce memory
  //! [serve]

  /// The requests in the order of their grants.
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
  expect(mem::install_fault_recovery(), "install fault recovery");
  const UniqueFd file = example::make_file(kFileSize);
  const auto loop = value_of(uring::Loop::create(), "event loop");
  //! [budget]
  // For the one thread of this device.
  const auto tracker =
      value_of(buf::BounceBufferTracker::create(ByteCount(kBudget), 1), "bounce memory");
  buf::BounceAccount& account = tracker->account(0);
  //! [budget]
  const auto memory = value_of(mem::GuestMemory::allocate(ByteCount(32 << 20)), "guest memory");

  std::vector<Request> requests;
  for (std::size_t i = 0; i < kRequests; ++i) {
    const std::uint64_t size = i % 8 == 7 ? kBudget : kSmall;
    // 4 bytes after a page boundary: misaligned for the hardware.
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
    expect(example::is_from_file(bytes, request.offset.raw()), "each request has its own bytes");
  }
  for (std::size_t i = 0; i < kRequests; ++i) {
    expect(device.order()[i] == i, "requests were served in FIFO order");
  }
  const buf::BounceStatistics statistics = account.statistics();
  expect(statistics.high_water == ByteCount(kBudget),
         "the budget was exhausted and never exceeded");
  expect(account.held() == 0, "all bounce memory was released");
  fmt::print("{} requests, {} of which waited, the longest {} us, in {} of bounce memory\n",
             statistics.grants, statistics.waits, statistics.longest_wait.count() / 1000,
             format_byte_count(statistics.high_water));
}
