// SPDX-License-Identifier: MIT
// A schedule of requests, cancellations, releases and wake-ups over several accounts of a bounce
// budget, driven by one thread and compared with a model of pages and queue positions.
#include <coroutine>
#include <cstdlib>
#include <deque>
#include <memory>
#include <optional>
#include <utility>

#include "fuzz/program.h"
#include "guestio/base/check.h"
#include "guestio/buf/bounce_account.h"
#include "guestio/buf/bounce_budget.h"
#include "guestio/buf/bounce_buffer_tracker.h"
#include "guestio/task/stop.h"

namespace guestio::fuzz {
namespace {

using buf::AcquireOptions;
using buf::BounceAccount;
using buf::BounceBudget;
using buf::BounceBufferTracker;
using buf::BounceShare;
using buf::TrackedBounceBuffer;

constexpr std::size_t kMaxAccounts = 4;
constexpr std::size_t kMaxRequests = 32;

/// An eager coroutine that stays suspended at its end, destroyed at any moment.
class Job {
 public:
  struct promise_type {
    Job get_return_object() {
      return Job(std::coroutine_handle<promise_type>::from_promise(*this));
    }
    std::suspend_never initial_suspend() noexcept { return {}; }
    std::suspend_always final_suspend() noexcept { return {}; }
    void return_void() {}
    void unhandled_exception() { std::abort(); }
  };

  explicit Job(std::coroutine_handle<> handle) : handle_(handle) {}
  Job(Job&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
  Job& operator=(Job&&) = delete;
  ~Job() {
    if (handle_) handle_.destroy();
  }

 private:
  std::coroutine_handle<> handle_;
};

struct Request {
  enum class State { kWaiting, kGranted, kOver };

  std::size_t account = 0;
  std::size_t size = 0;
  std::size_t alignment = 1;
  buf::Oversize oversize = buf::Oversize::kFail;
  std::size_t most = 0;  // at its creation
  State state = State::kWaiting;
  bool is_leaving = false;  // cancelled or being destroyed
  std::uint8_t mark = 0;
  std::optional<ErrorKind> error;
  task::StopSource stop;
  TrackedBounceBuffer buffer;
  std::optional<Job> job;  // destroyed before its references

  [[nodiscard]] std::size_t granted() const {
    return oversize == buf::Oversize::kTruncate ? std::min(size, most) : size;
  }
  [[nodiscard]] std::size_t pages() const { return (granted() + kPageSize - 1) / kPageSize; }
};

class Game {
 public:
  explicit Game(Program& program)
      : program_(program),
        device_limit_((program.flag() ? 1 + program.index(16) : 1000)),
        tracker_({.budget = &budget_, .overflow_limit = ByteCount(device_limit_ * kPageSize)}) {
    for (std::size_t left = 1 + program_.index(kMaxAccounts); left != 0; --left) {
      const std::size_t quota = program_.index(8);
      const std::size_t overflow = program_.index(8);
      auto opened =
          tracker_.open_account({ByteCount(quota * kPageSize), ByteCount(overflow * kPageSize)},
                                [this](BounceAccount& account) { called_.push_back(&account); });
      GUESTIO_CHECK(opened.has_value(), "an account");
      accounts_.push_back(std::move(*opened));
      quotas_.push_back(quota);
      overflow_ += overflow;
    }
  }

  void play() {
    for (std::size_t step = 0; step < 200 && !program_.is_over(); ++step) {
      switch (program_.index(8)) {
        case 0:
        case 1:
        case 2: acquire(); break;
        case 3: try_acquire(); break;
        case 4: release(); break;
        case 5: leave(); break;
        default: answer_call();
      }
      check();
    }
    finish();
  }

 private:
  using State = Request::State;

  [[nodiscard]] std::unique_ptr<Request> take_request() {
    auto request = std::make_unique<Request>();
    request->account = program_.index(accounts_.size());
    const auto shape = program_.take<std::uint8_t>();
    request->size = (shape & 15U) * kPageSize;
    if ((shape & 16) != 0) request->size += program_.take<std::uint8_t>();
    if ((shape & 32) != 0) request->oversize = buf::Oversize::kTruncate;
    request->alignment = std::size_t{1} << (shape >> 6) * 5;  // up to 32 KiB
    request->most = most(request->account);
    GUESTIO_CHECK(request->most == accounts_[request->account]->max_grant(), "the model's maximum");
    request->mark = ++marks_;
    return request;
  }
  [[nodiscard]] std::size_t most(std::size_t account) const {
    return (quotas_[account] + std::min(overflow_, device_limit_)) * kPageSize;
  }
  [[nodiscard]] Request* first_waiter(std::size_t account) const {
    for (const auto& request : requests_) {
      if (request->account == account && request->state == State::kWaiting &&
          !request->is_leaving) {
        return request.get();
      }
    }
    return nullptr;
  }

  /// Requires: `request` is next in its account.
  static void accept(Request& request, TrackedBounceBuffer buffer) {
    request.state = State::kGranted;
    GUESTIO_CHECK(buffer.size() == request.granted(), "the requested size");
    const auto address = reinterpret_cast<std::uintptr_t>(buffer.bytes().data());
    GUESTIO_CHECK(address % request.alignment == 0 || buffer.size() == 0, "an aligned buffer");
    std::ranges::fill(buffer.bytes(), std::byte{request.mark});
    request.buffer = std::move(buffer);
  }
  Job wait(BounceAccount& account, Request& request) {
    const buf::AcquireOptions options{request.alignment, request.oversize, request.stop.token()};
    auto buffer = co_await account.acquire(request.size, options);
    if (buffer) {
      const Request* const first = first_waiter(request.account);
      GUESTIO_CHECK(first == &request || request.pages() == 0, "first come, first served");
      accept(request, std::move(*buffer));
    } else {
      request.state = State::kOver;
      request.error = buffer.error().kind;
    }
  }

  void acquire() {
    if (requests_.size() == kMaxRequests) return;
    requests_.push_back(take_request());
    Request& request = *requests_.back();
    const bool too_large = request.granted() > request.most;
    request.job.emplace(wait(*accounts_[request.account], request));
    GUESTIO_CHECK((request.error == ErrorKind::kTooLarge) == too_large, "too large, immediately");
    forget_those_over();
  }

  void try_acquire() {
    if (requests_.size() == kMaxRequests) return;
    auto request = take_request();
    const bool must_wait = request->pages() != 0 && first_waiter(request->account) != nullptr;
    auto buffer = accounts_[request->account]->try_acquire(
        request->size, {request->alignment, request->oversize, {}});
    if (!buffer) {
      const bool too_large = request->granted() > request->most;
      const auto expected = too_large ? ErrorKind::kTooLarge : ErrorKind::kBusy;
      GUESTIO_CHECK(buffer.error().kind == expected, "too large or busy");
      const std::size_t held = held_pages(request->account);
      GUESTIO_CHECK(too_large || must_wait || held + request->pages() > quotas_[request->account],
                    "a request within the quota is granted");
      return;
    }
    GUESTIO_CHECK(!must_wait, "no overtaking");
    accept(*request, std::move(*buffer));
    requests_.push_back(std::move(request));
  }

  [[nodiscard]] Request* pick(State state) {
    std::vector<Request*> fit;
    for (const auto& request : requests_) {
      if (request->state == state) fit.push_back(request.get());
    }
    return fit.empty() ? nullptr : fit[program_.index(fit.size())];
  }
  void release() {
    if (Request* const request = pick(State::kGranted)) return_chain(*request);
    forget_those_over();
  }
  static void return_chain(Request& request) {
    for (const std::byte byte : request.buffer.bytes()) {
      GUESTIO_CHECK(byte == std::byte{request.mark}, "memory of this request only");
    }
    request.state = State::kOver;
    TrackedBounceBuffer ending = std::move(request.buffer);
  }
  void leave() {
    Request* const request = pick(State::kWaiting);
    if (request != nullptr) leave(*request, program_.flag());
    forget_those_over();
  }
  static void leave(Request& request, bool by_token) {
    request.is_leaving = true;
    if (by_token) {
      request.stop.request_stop();
      GUESTIO_CHECK(request.error == ErrorKind::kCancelled, "cancelled");
    } else {
      request.job.reset();
    }
    request.state = State::kOver;
  }
  void answer_call() {
    if (called_.empty()) return;
    const auto chosen =
        called_.begin() + static_cast<std::ptrdiff_t>(program_.index(called_.size()));
    BounceAccount* const account = *chosen;
    called_.erase(chosen);
    account->serve();
  }
  void forget_those_over() {
    std::erase_if(requests_, [](const auto& request) { return request->state == State::kOver; });
  }

  [[nodiscard]] std::size_t held_pages(std::size_t account) const {
    std::size_t pages = 0;
    for (const auto& request : requests_) {
      if (request->account == account && request->state == State::kGranted)
        pages += request->pages();
    }
    return pages;
  }

  void check() const {
    std::size_t borrowed = 0;
    for (std::size_t i = 0; i < accounts_.size(); ++i) {
      const std::size_t held = held_pages(i);
      GUESTIO_CHECK(accounts_[i]->held() == held * kPageSize, "the model's pages");
      borrowed += held - std::min(held, quotas_[i]);
    }
    GUESTIO_CHECK(borrowed <= std::min(overflow_, device_limit_), "no more than the budget");
    const std::size_t free = budget_.free_overflow().raw() / kPageSize;
    GUESTIO_CHECK(free + borrowed <= overflow_, "no page twice");
    if (!called_.empty()) return;
    // Idle: unused pages are free, and no waiter could be served.
    GUESTIO_CHECK(free + borrowed == overflow_, "unused overflow is returned immediately");
    bool is_first_in_line = true;
    for (const auto& request : requests_) {
      const std::size_t account = request->account;
      if (request.get() != first_waiter(account)) continue;
      const std::size_t held = held_pages(account);
      const std::size_t own = quotas_[account] - std::min(held, quotas_[account]);
      GUESTIO_CHECK(request->pages() > own, "no waiter fits the quota");
      const std::size_t lacks = request->pages() - own;
      if (lacks > std::min(overflow_, device_limit_)) continue;  // waits for its own thread
      if (is_first_in_line) {
        GUESTIO_CHECK(lacks > free || lacks > device_limit_ - borrowed,
                      "the first waiter exceeds the free overflow");
      }
      is_first_in_line = false;
    }
  }

  /// Ends all requests; then all pages are free.
  void finish() {
    // Not by position: each end may grant others.
    while (!requests_.empty()) {
      while (!called_.empty()) answer_call();
      Request& request = *requests_.front();
      if (request.state == State::kWaiting) {
        leave(request, true);
      } else {
        return_chain(request);
      }
      forget_those_over();
      check();
    }
    while (!called_.empty()) answer_call();
    check();
    for (std::size_t i = 0; i < accounts_.size(); ++i) {
      const auto all = accounts_[i]->try_acquire(most(i));
      GUESTIO_CHECK(all.has_value() && all->size() == most(i), "all overflow is free");
    }
  }

  Program& program_;
  const std::size_t device_limit_;  // pages
  BounceBudget budget_;
  BounceBufferTracker tracker_;
  std::size_t overflow_ = 0;  // pages, of all accounts
  std::vector<std::size_t> quotas_;
  std::deque<BounceAccount*> called_;  // serve() is due
  std::vector<buf::OpenBounceAccount> accounts_;
  std::vector<std::unique_ptr<Request>> requests_;  // in order of creation
  std::uint8_t marks_ = 0;
};

}  // namespace
}  // namespace guestio::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  guestio::fuzz::Program program(data, size);
  guestio::fuzz::Game(program).play();
  return 0;
}
