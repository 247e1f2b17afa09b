// SPDX-License-Identifier: MIT
#include "guestio/vhost/ring/vring.h"

#include <poll.h>

#include <algorithm>
#include <chrono>
#include <iterator>
#include <utility>

#include "guestio/base/check.h"
#include "guestio/uring/awaitables.h"

namespace guestio::vhost {

Result<std::unique_ptr<Vring>> Vring::create(uring::Loop& loop, RingPoller& poller,
                                             virtio::QueueHandler& handler, Setup setup) {
  auto ring = InflightTrackedRing::create({.parts = setup.ring,
                                           .features = setup.features,
                                           .base = setup.base,
                                           .index = setup.index,
                                           .inflight = setup.inflight});
  if (!ring) return fail(ring.error());
  auto call = make_notifier(setup.call);
  if (!call) return fail(call.error());
  auto error = make_notifier(setup.error);
  if (!error) return fail(error.error());
  return std::unique_ptr<Vring>(new Vring(loop, poller, handler, std::move(setup), std::move(*ring),
                                          std::move(*call), std::move(*error)));
}

Result<uring::EventFdNotifier> make_notifier(const UniqueFd& eventfd) noexcept {
  if (!eventfd) return uring::EventFdNotifier();
  return uring::EventFdNotifier::create(eventfd.get());
}

namespace {

/// A driver handles the first used entries of a long batch while the rest completes. A few at a
/// time: each publication moves a cache line between the processors.
constexpr std::uint32_t kPublishedAtOnce = 8;

/// A check is a system call for each region.
constexpr std::uint32_t kSleepsPerMemoryCheck = 64;

}  // namespace

Vring::Kick::Kick(uring::Loop& loop, UniqueFd kick_fd, uring::MultishotPoll::Callback callback)
    : fd(std::move(kick_fd)), poll(loop, uring::File(fd.get()), POLLIN, std::move(callback)) {}

Vring::Vring(uring::Loop& loop, RingPoller& poller, virtio::QueueHandler& handler, Setup setup,
             InflightTrackedRing ring, uring::EventFdNotifier call, uring::EventFdNotifier error)
    : loop_(loop),
      poller_(poller),
      handler_(handler),
      handover_(handler.handover()),
      label_(setup.label),
      peer_log_(std::move(setup.peer_log)),
      on_broken_(std::move(setup.on_broken)),
      features_(setup.features),
      has_event_index_((setup.features & virtio::kFeatureEventIdx) != 0),
      counters_(std::move(setup.counters)),
      ring_(std::move(ring)),
      memory_(loop, setup.control_loop, std::move(setup.memory_registry), counters_),
      call_(std::move(call)),
      error_(std::move(error)),
      log_(std::move(setup.log)),
      is_enabled_(setup.is_enabled) {
  memory_.set(setup.memory.with_dirty_log(log_.pages));
  if (ring_.resubmit_count() != 0) {
    log::rate_limited_info(peer_log_->connections,
                           "{}: resubmits requests of the previous backend: {}", label_,
                           ring_.resubmit_count());
  }
  listen_to(std::move(setup.kick));
  poller_.add(*this);
}

Vring::~Vring() {
  GUESTIO_CHECK(in_flight_ == 0, "a ring to be stopped before its end");
  poller_.remove(*this);
  // The last call may still wait in the loop's ring, and names a notifier that ends with this.
  loop_.flush_submissions();
}

void Vring::listen_to(UniqueFd kick) {
  kicks_.remove_if([](const Kick& old) { return !old.poll.is_active(); });
  if (!kicks_.empty()) kicks_.back().poll.stop();
  if (!kick) {
    if (!std::exchange(polls_periodically_, true)) polling_.spawn(poll_periodically());
    return;
  }
  kicks_.emplace_back(loop_, std::move(kick), [this](std::int32_t events) { on_kick(events); });
  kicks_.back().poll.start();
}

void Vring::start() noexcept {
  // A killed backend may have written entries without a mark in the dirty log.
  log_ring_pages();
  ring_.force_next_call();
  call_driver();
}

void Vring::call_driver() noexcept {
  ++counters_->calls;
  call_.notify();
}

void Vring::on_kick(std::int32_t events) noexcept {
  // A kick ends the sleep; the poller polls after each.
  ++counters_->kicks;
  poller_.unpark(*this);
  if (events < 0) fail_ring(Error::host(-events, "poll the kick descriptor"));
}

bool Vring::poll() noexcept {
  // Chains may become held without a used entry, and so without the end of a batch.
  if (is_quiesced_) note_quiesced();
  if (!takes_chains()) return in_flight_ != 0;
  memory_.update_registrations();
  pops_left_ = ring_.size();
  until_early_call_ = early_call_gap_ = 0;
  is_processing_ = true;
  handler_.process(*this);
  is_processing_ = false;
  return in_flight_ != 0;
}

void Vring::suppress_notifications() noexcept {
  if (!takes_chains()) return;
  if (auto done = ring_.suppress_notifications(); !done) fail_ring(done.error());
  log_ring_pages();
}

bool Vring::enable_notifications() noexcept {
  if (!takes_chains()) return true;
  const auto has_more = ring_.enable_notifications();
  if (!has_more) {
    fail_ring(has_more.error());
    return true;
  }
  log_ring_pages();
  if (++sleeps_ % kSleepsPerMemoryCheck == 0) check_registered_memory();
  const bool has_nothing = !*has_more;
  if (!has_nothing) poll();
  return has_nothing;
}

virtio::PopResult Vring::pop(virtio::PoppedChain& popped) noexcept {
  while (takes_chains() && pops_left_ != 0) {
    --pops_left_;
    const auto result = ring_.pop(memory_.current().memory, popped.chain);
    if (!result) {
      fail_ring(result.error());
      return virtio::PopResult::kNothing;
    }
    if (*result != virtio::PopResult::kChain) return virtio::PopResult::kNothing;
    poller_.note_popped();
    if (!popped.chain.is_malformed()) {
      popped.epoch = &memory_.acquire();
      ++in_flight_;
      memory_.prefetch_guards(popped.chain);
      return virtio::PopResult::kChain;
    }
    return_malformed(popped);
  }
  return virtio::PopResult::kNothing;
}

/// A malformed chain without a place for its status is never returned: its status byte may hold an
/// older success.
void Vring::return_malformed(virtio::PoppedChain& popped) noexcept {
  ++counters_->malformed;
  log::rate_limited_warning(peer_log_->faults, "{}: malformed chain {}: {}", label_,
                            popped.chain.head(), popped.chain.fault().to_string());
  popped.epoch = &memory_.current();
  const auto written = handler_.write_error_status(popped);
  popped.epoch = nullptr;
  if (!written) {
    fail_ring(Error::peer_fault("malformed chain without a status byte", popped.chain.head()));
  } else if (auto pushed = ring_.push_used(popped.chain.head(), *written); !pushed) {
    fail_ring(pushed.error());
  }
  // The walk may have been long; other rings come first.
  pops_left_ = 0;
  poller_.note_returned();
  loop_.defer(*this);
}

void Vring::complete(virtio::PoppedChain& popped, std::uint32_t written) noexcept {
  if (!is_broken_) {
    if (auto pushed = ring_.push_used(popped.chain.head(), written); !pushed) {
      fail_ring(pushed.error());
    }
    if (++unpublished_ >= kPublishedAtOnce) {
      publish_used();
      call_early();
    }
  }
  forget(popped);
}

void Vring::break_on(virtio::PoppedChain& popped, const Error& cause) noexcept {
  fail_ring(cause);
  forget(popped);
}

void Vring::abandon(virtio::PoppedChain& popped) noexcept { forget(popped); }

/// The chain is no longer this ring's.
void Vring::forget(virtio::PoppedChain& popped) noexcept {
  popped.chain.clear();
  --in_flight_;
  memory_.release(*std::exchange(popped.epoch, nullptr));
  poller_.note_returned();
  loop_.defer(*this);
}

void Vring::run() noexcept {
  publish_used();
  if (std::exchange(owes_log_event_, false)) log_.event.notify();
  if (std::exchange(owes_call_, false)) {
    ++counters_->calls;
    call_.notify_with(loop_);
  }
  if (is_stopping_ && in_flight_ == 0) drained_.set();
  note_quiesced();
}

/// Publishes the used entries since the last time. The driver is called at the end of the batch,
/// at most once.
void Vring::publish_used() noexcept {
  unpublished_ = 0;
  if (is_broken_) return;
  const auto needs_call = ring_.publish();
  if (!needs_call) return fail_ring(needs_call.error());
  owes_call_ |= *needs_call;
  owes_log_event_ |= log_.pages != nullptr;
  log_ring_pages();
}

/// A disk that completes at once has more used entries to come. A sleeping driver is woken
/// meanwhile, while its processor has only begun to idle. The gaps between the calls of one batch
/// double: a quick driver would sleep between them. Not for entries of a real device, few at a
/// time: a call would only be one more system call. With the event index only, which tells whether
/// the driver has handled its last call.
void Vring::call_early() noexcept {
  if (!is_processing_ || !has_event_index_ || !owes_call_) return;
  if (until_early_call_ != 0) {
    --until_early_call_;
    return;
  }
  early_call_gap_ = 2 * early_call_gap_ + 1;
  until_early_call_ = early_call_gap_;
  owes_call_ = false;
  ++counters_->calls;
  call_.notify_with(loop_);
  loop_.submit();
}

/// After the writes, as every mark: a collector between write and mark sees the page in its next
/// round, and before its last round the ring has stopped. All of the ring's parts count as written:
/// their pages are few, and mostly marked already.
void Vring::log_ring_pages() noexcept {
  if (!log_.pages || is_broken_) return;
  for (const mem::AddressRange& part : log_.ring) {
    if (auto marked = log_.pages->mark(part); !marked) fail_ring(marked.error());
  }
}

void Vring::set_enabled(bool is_enabled) noexcept {
  is_enabled_ = is_enabled;
  poller_.unpark(*this);
  if (!is_enabled_) return;
  // Calls may have been lost. Lost kicks do no harm: the ring is polled now.
  call_driver();
}

void Vring::set_call(uring::EventFdNotifier call) noexcept {
  call_ = std::move(call);
  // The driver may have missed a call on the old descriptor.
  call_driver();
}

void Vring::set_error(uring::EventFdNotifier error) noexcept { error_ = std::move(error); }

void Vring::set_kick(UniqueFd kick) noexcept {
  if (is_stopping_) return;
  // Kicks on the old descriptor may have been lost.
  poller_.unpark(*this);
  listen_to(std::move(kick));
}

/// A SET_VRING_KICK without a descriptor asks for a polled ring: often enough to be useful, seldom
/// enough to leave the processor to others.
task::Task<> Vring::poll_periodically() {
  constexpr auto kPeriod = std::chrono::microseconds(100);
  while (!is_stopping_) {
    // Its completion alone makes the poller poll.
    (void)co_await uring::sleep(loop_, kPeriod, stop_polling_.token());
  }
}

void Vring::set_memory(mem::GuestMemory memory, const virtio::RingParts& ring,
                       RingDirtyLog log) noexcept {
  memory_.set(std::move(memory));
  ring_.move_to(ring);
  poller_.unpark(*this);
  set_log(std::move(log));
}

void Vring::set_log(RingDirtyLog log) noexcept {
  log_ = std::move(log);
  memory_.set_dirty_log(log_.pages);
  log_ring_pages();
}

void Vring::fail_ring(const Error& error) noexcept {
  if (is_broken_) return;
  is_broken_ = true;
  ++counters_->broken;
  log::rate_limited_warning(peer_log_->faults, "{}: ring stopped: {}", label_, error.to_string());
  if (on_broken_) on_broken_();
  error_.notify();
}

void Vring::stop(std::move_only_function<void(std::uint32_t)> stopped) noexcept {
  GUESTIO_CHECK(!is_stopping_, "a ring to be stopped once");
  is_stopping_ = true;
  stop_polling_.request_stop();
  loop_.defer(*this);
  if (is_quiesced_) {
    if (handover_ != nullptr) handover_->abandon();
  } else {
    handler_.drain();
  }
  control_.spawn(drain(std::move(stopped)));
}

void Vring::quiesce(
    std::move_only_function<void(std::optional<std::size_t> held)> quiesced) noexcept {
  GUESTIO_CHECK(!is_quiesced_ && !is_stopping_, "a running ring to be quiesced once");
  is_quiesced_ = true;
  on_quiesced_ = std::move(quiesced);
  poller_.unpark(*this);
  loop_.defer(*this);
  if (handover_ != nullptr) handover_->quiesce();
}

void Vring::note_quiesced() noexcept {
  if (!on_quiesced_ || in_flight_ != held_chains()) return;
  std::exchange(on_quiesced_, nullptr)(in_flight_);
}

void Vring::resume() noexcept {
  is_quiesced_ = false;
  if (on_quiesced_) std::exchange(on_quiesced_, nullptr)(std::nullopt);
  if (handover_ != nullptr) handover_->resume();
}

task::Task<> Vring::drain(std::move_only_function<void(std::uint32_t)> stopped) {
  co_await drained_.wait();
  for (Kick& kick : kicks_) {
    co_await kick.poll.stop();
  }
  co_await polling_.join();
  stopped(ring_.base());
}

}  // namespace guestio::vhost
