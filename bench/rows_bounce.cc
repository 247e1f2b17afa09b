// SPDX-License-Identifier: MIT
// Rows bounce, tracker and cycle: bounce memory of one thread.
#include <fmt/core.h>

#include "fixture.h"
#include "guestio/buf/bounce_buffer.h"
#include "guestio/buf/bounce_buffer_tracker.h"
#include "guestio/buf/request_buffers.h"
#include "guestio/task/scope.h"
#include "guestio/task/task.h"
#include "row.h"

namespace guestio::bench {

namespace {

using buf::BounceAccount;
using buf::MemoryAccess;
using buf::RequestBuffers;

BounceAccount& account() {
  static const auto tracker = [] {
    auto made = buf::BounceBufferTracker::create(ByteCount(8 << 20), 1);
    require(made);
    return std::move(*made);
  }();
  return tracker->account(0);
}

/// One coroutine in a loop, which acts like a request of a device.
template <typename Laps>
task::Task<> take_and_drop(BounceAccount& from, std::size_t size, Laps& laps) {
  for ([[maybe_unused]] auto lap : laps) {
    auto acquiring = from.acquire(size);
    const auto bounce = co_await acquiring;
    require(bounce);
    benchmark::DoNotOptimize(bounce->bytes().data());
    benchmark::ClobberMemory();
  }
}

enum class Direction : std::uint8_t { kIntoGuest, kIntoBounce };

template <typename Laps>
task::Task<> cycle(BounceAccount& from, RequestBuffers request, Direction direction, Laps& laps) {
  for ([[maybe_unused]] auto lap : laps) {
    auto acquiring = from.acquire(request.size());
    const auto bounce = co_await acquiring;
    require(bounce);
    if (direction == Direction::kIntoGuest) {
      require(request.writer().write(bounce->bytes()));
    } else {
      require(request.reader().read(bounce->bytes()));
    }
    benchmark::ClobberMemory();
  }
}

void add_untracked(Rows& rows, std::size_t size) {
  rows.add(fmt::format("bounce/new+drop/{}", size), size, [size] {
    const auto bounce = buf::BounceBuffer::allocate(hidden(size));
    require(bounce);
    benchmark::DoNotOptimize(bounce->bytes().data());
  });
}

void add_tracked(Rows& rows, std::size_t size) {
  rows.add_loop(fmt::format("tracker/acquire+drop/{}", size), size, [size](auto& laps) {
    task::Scope scope;
    scope.spawn(take_and_drop(account(), size, laps));
  });
  rows.add(fmt::format("tracker/try_acquire+drop/{}", size), size, [&from = account(), size] {
    const auto bounce = from.try_acquire(hidden(size));
    require(bounce);
    benchmark::DoNotOptimize(bounce->bytes().data());
  });
}

/// A disk write copies guest bytes into bounce memory, a disk read copies them back.
void add_cycle(Rows& rows, Direction direction, Layout layout) {
  constexpr std::size_t kSize = 131072;
  const auto name =
      fmt::format("cycle/bounced_{}/{}/{}", direction == Direction::kIntoBounce ? "write" : "read",
                  kSize, to_text(layout));
  const auto range = mem::PagedRange::from_whole_pages(pages(layout, kSize / kPageSize));
  const RequestBuffers request(memory(), range, MemoryAccess::kWritable);
  rows.add_loop(name, kSize, [request, direction](auto& laps) {
    task::Scope scope;
    scope.spawn(cycle(account(), request, direction, laps));
  });
}

}  // namespace

void add_bounce_rows(Rows& rows) {
  for (const std::size_t size : {4096u, 65536u, 131072u, 1048576u}) add_untracked(rows, size);
  for (const std::size_t size : {4096u, 131072u}) add_tracked(rows, size);
  for (const Direction direction : {Direction::kIntoBounce, Direction::kIntoGuest}) {
    for (const Layout layout : kLayouts) add_cycle(rows, direction, layout);
  }
}

}  // namespace guestio::bench
