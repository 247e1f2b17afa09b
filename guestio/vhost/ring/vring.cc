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
  auto queue = InflightTrackedRing::create({.parts = setup.ring,
                                            .features = setup.features,
                                            .base = setup.base,
                                            .index = setup.index,
                                            .inflight = setup.inflight});
  if (!queue) return fail(queue.error());
  auto call = make_notifier(setup.call);
  if (!call) return fail(call.error());
  auto error = make_notifier(setup.error);
  if (!error) return fail(error.error());
  return std::unique_ptr<Vring>(new Vring(loop, poller, handler, std::move(setup),
                                          std::move(*queue), std::move(*call), std::move(*error)));
}

Result<uring::EventFdNotifier> make_notifier(const UniqueFd& eventfd) noexcept {
  if (!eventfd) return uring::EventFdNotifier();
  return uring::EventFdNotifier::create(eventfd.get());
}

namespace {

/// A driver works on the first answers of a long batch while the others are made; a few at a time,
/// because each showing costs both sides a trip of a cache line.
constexpr std::uint32_t kShownAtOnce = 8;

/// What guest memory has become is asked seldom: it is a system call.
constexpr std::uint32_t kSleepsBetweenLookingAfter = 64;

}  // namespace

Vring::Kick::Kick(uring::Loop& loop, UniqueFd kick_fd, uring::MultishotPoll::Callback callback)
    : fd(std::move(kick_fd)), poll(loop, uring::File(fd.get()), POLLIN, std::move(callback)) {}

Vring::Vring(uring::Loop& loop, RingPoller& poller, virtio::QueueHandler& handler, Setup setup,
             InflightTrackedRing queue, uring::EventFdNotifier call, uring::EventFdNotifier error)
    : Subscriber(loop),
      loop_(loop),
      control_loop_(setup.control_loop),
      poller_(poller),
      handler_(handler),
      handover_(handler.handover()),
      label_(setup.label),
      peer_log_(std::move(setup.peer_log)),
      on_broken_(std::move(setup.on_broken)),
      features_(setup.features),
      has_event_index_((setup.features & virtio::kFeatureEventIdx) != 0),
      queue_(std::move(queue)),
      memory_registry_(std::move(setup.memory_registry)),
      counters_(std::move(setup.counters)),
      call_(std::move(call)),
      error_(std::move(error)),
      log_(std::move(setup.log)),
      is_enabled_(setup.is_enabled) {
  // Before memory is taken: what is lost from then on is told.
  if (memory_registry_) memory_registry_->subscribe(*this);
  begin_epoch(setup.memory.with_dirty_log(log_.pages));
  if (queue_.resubmit_count() != 0) {
    log::rate_limited_info(peer_log_->connections,
                           "{}: {} requests of the backend before are done again", label_,
                           queue_.resubmit_count());
  }
  listen_to(std::move(setup.kick));
  poller_.add(*this);
}

Vring::~Vring() {
  GUESTIO_CHECK(in_flight_ == 0, "a ring to be stopped before it goes away");
  if (memory_registry_) memory_registry_->unsubscribe(*this);
  poller_.remove(*this);
  while (!epochs_.empty()) end_epoch(epochs_.begin());
  counters_->registered_regions.set(0);
  counters_->unregistered_regions.set(0);
  // The last call to the driver may still wait to be taken, and goes to a ring that ends with this.
  loop_.flush_submissions();
}

void Vring::begin_epoch(mem::GuestMemory memory) {
  epochs_.push_back({{std::move(memory), 0}, {}});
  if (memory_registry_) register_memory();
}

/// Whoever lets a mapping go takes it apart, page by page: not the thread that others' requests
/// wait for. Registrations go here, what they stand on goes there.
void Vring::end_epoch(std::list<Epoch>::iterator epoch) noexcept {
  struct Remains {
    std::shared_ptr<registered::MemoryRegistry> memory_registry;  // outlives the areas
    std::list<Epoch> epochs;
  };
  Remains remains{memory_registry_, {}};
  remains.epochs.splice(remains.epochs.end(), epochs_, epoch);
  for (registered::MemoryRegistry::RegisteredRegion& taken : epoch->registrations)
    taken.registration = {};
  if (control_loop_ != nullptr) control_loop_->post([remains = std::move(remains)] {});
}

/// What has become ready of the present memory, and no more what has been lost of it.
void Vring::register_memory() {
  seen_generation_ = memory_registry_->generation();
  Epoch& present = epochs_.back();
  present.registrations =
      memory_registry_->register_ready(loop_.registered_buffers(), present.memory);
  count_registered_memory();
}

void Vring::count_registered_memory() {
  const Epoch& present = epochs_.back();
  counters_->unregistered_regions.set(present.memory.regions().size() -
                                      present.registrations.size());
  counters_->registered_regions.set(present.registrations.size());
}

void Vring::on_region_lost() noexcept {
  for (Epoch& epoch : epochs_) memory_registry_->unregister_lost(epoch.registrations);
  count_registered_memory();
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
  // A backend that was killed may have written what it did not note any more.
  log_ring_pages();
  queue_.force_next_call();
  call_driver();
}

void Vring::call_driver() noexcept {
  ++counters_->calls;
  call_.notify();
}

void Vring::on_kick(std::int32_t events) noexcept {
  // Otherwise a kick only ends the sleep: the poller looks after each.
  ++counters_->kicks;
  poller_.wake(*this);
  if (events < 0) fail_ring(Error::host(-events, "poll the kick descriptor"));
}

void Vring::look() noexcept {
  // What waits from now on came without an answer, so with no batch to end.
  if (is_quiesced_) note_quiesced();
  if (!takes_chains()) return;
  if (memory_registry_ && memory_registry_->generation() != seen_generation_) register_memory();
  pops_left_ = queue_.size();
  showings_before_call_ = early_call_gap_ = 0;
  is_taking_ = true;
  handler_.process(*this);
  is_taking_ = false;
}

void Vring::suppress_notifications() noexcept {
  if (!takes_chains()) return;
  if (auto ignored = queue_.suppress_notifications(); !ignored) fail_ring(ignored.error());
  log_ring_pages();
}

bool Vring::enable_notifications() noexcept {
  if (!takes_chains()) return true;
  const auto has_more = queue_.enable_notifications();
  if (!has_more) {
    fail_ring(has_more.error());
    return true;
  }
  log_ring_pages();
  if (++sleeps_ % kSleepsBetweenLookingAfter == 0) check_registered_memory();
  const bool has_nothing = !*has_more;
  if (!has_nothing) look();
  return has_nothing;
}

virtio::PopResult Vring::pop(virtio::PoppedChain& taken) noexcept {
  while (takes_chains() && pops_left_ != 0) {
    --pops_left_;
    const auto popped = queue_.pop(epochs_.back().memory, taken.chain);
    if (!popped) {
      fail_ring(popped.error());
      return virtio::PopResult::kNothing;
    }
    if (*popped != virtio::PopResult::kChain) return virtio::PopResult::kNothing;
    poller_.note_popped();
    if (!taken.chain.is_malformed()) {
      taken.epoch = &epochs_.back();
      ++taken.epoch->in_flight;
      ++in_flight_;
      if (!epochs_.back().registrations.empty()) prefetch_guards(taken.chain);
      return virtio::PopResult::kChain;
    }
    return_malformed(taken);
  }
  return virtio::PopResult::kNothing;
}

/// A chain whose driver cannot be told that nothing was done never comes back: what stands in its
/// status byte may be an older success.
void Vring::return_malformed(virtio::PoppedChain& taken) noexcept {
  ++counters_->malformed;
  log::rate_limited_warning(peer_log_->faults, "{}: malformed chain {}: {}", label_,
                            taken.chain.head(), taken.chain.fault().to_string());
  taken.epoch = &epochs_.back();
  const auto written = handler_.write_error_status(taken);
  taken.epoch = nullptr;
  if (!written) {
    fail_ring(
        Error::peer_fault("malformed chain without a place for its status", taken.chain.head()));
  } else if (auto pushed = queue_.push_used(taken.chain.head(), *written); !pushed) {
    fail_ring(pushed.error());
  }
  // It may have taken long to walk; others' chains come first.
  pops_left_ = 0;
  poller_.note_returned();
  loop_.defer(*this);
}

/// Whether data is still where the kernel knows it costs a load for each page that nobody has
/// touched for long: by the time it is asked, after others of its batch, they are on their way.
void Vring::prefetch_guards(const virtio::Chain& chain) const noexcept {
  constexpr std::size_t kSmallestData = 512;
  constexpr std::size_t kExtents = 4;
  const mem::GuestMemory& memory = epochs_.back().memory;
  std::size_t left = kExtents;
  for (const mem::AddressRange& extent : chain.extents()) {
    if (extent.length() < kSmallestData) continue;
    const std::byte* const host = memory.fast_host_range(extent.start(), extent.length());
    if (host != nullptr) loop_.registered_buffers().prefetch(host, extent.length());
    if (--left == 0) return;
  }
}

void Vring::complete(virtio::PoppedChain& taken, std::uint32_t written) noexcept {
  if (!is_broken_) {
    if (auto pushed = queue_.push_used(taken.chain.head(), written); !pushed) {
      fail_ring(pushed.error());
    }
    if (++unpublished_ >= kShownAtOnce) {
      publish_used();
      call_early();
    }
  }
  forget(taken);
}

void Vring::break_on(virtio::PoppedChain& taken, const Error& cause) noexcept {
  fail_ring(cause);
  forget(taken);
}

void Vring::abandon(virtio::PoppedChain& taken) noexcept { forget(taken); }

/// The chain is no concern of this ring's any more.
void Vring::forget(virtio::PoppedChain& taken) noexcept {
  taken.chain.clear();
  virtio::MemoryEpoch* const epoch = std::exchange(taken.epoch, nullptr);
  --in_flight_;
  if (--epoch->in_flight == 0 && epoch != &epochs_.back()) {
    end_epoch(
        std::ranges::find_if(epochs_, [epoch](const Epoch& other) { return &other == epoch; }));
  }
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
  if (is_stopping_ && in_flight_ == 0) quiet_.set();
  note_quiesced();
}

/// Publishes what was answered since the last time. The driver is called, once if at all, at the
/// end of the batch.
void Vring::publish_used() noexcept {
  unpublished_ = 0;
  if (is_broken_) return;
  const auto wants_call = queue_.publish();
  if (!wants_call) return fail_ring(wants_call.error());
  owes_call_ |= *wants_call;
  owes_log_event_ |= log_.pages != nullptr;
  log_ring_pages();
}

/// A disk that answers at once has more answers coming: a driver that sleeps is woken meanwhile,
/// while its processor has only begun to rest. Calls of one batch become rarer, because one that is
/// quick would sleep between them. Not where answers come from a device, which are few at a time:
/// the call would only be one more system call. By the event index only, which says when the driver
/// has taken what it was called for.
void Vring::call_early() noexcept {
  if (!is_taking_ || !has_event_index_ || !owes_call_) return;
  if (showings_before_call_ != 0) {
    --showings_before_call_;
    return;
  }
  early_call_gap_ = 2 * early_call_gap_ + 1;
  showings_before_call_ = early_call_gap_;
  owes_call_ = false;
  ++counters_->calls;
  call_.notify_with(loop_);
  loop_.submit();
}

/// After the fact, as every mark: a collector that comes between the two takes the page in its next
/// round, and in its last one the ring has stopped. All of the ring's part counts as written: the
/// pages are few, and mostly they are marked already.
void Vring::log_ring_pages() noexcept {
  if (!log_.pages || is_broken_) return;
  for (const mem::AddressRange& part : log_.ring) {
    if (auto noted = log_.pages->mark(part); !noted) fail_ring(noted.error());
  }
}

void Vring::set_enabled(bool is_enabled) noexcept {
  is_enabled_ = is_enabled;
  poller_.wake(*this);
  if (!is_enabled_) return;
  // Calls may have been lost; kicks too, but the ring is looked at now anyway.
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
  poller_.wake(*this);
  listen_to(std::move(kick));
}

/// A front-end that gives no kick descriptor wants its ring polled (vhost-user,
/// VHOST_USER_SET_VRING_KICK): often enough to be of use, seldom enough to leave the processor to
/// others.
task::Task<> Vring::poll_periodically() {
  constexpr auto kPause = std::chrono::microseconds(100);
  while (!is_stopping_) {
    // Its end alone has the poller look.
    (void)co_await uring::sleep(loop_, kPause, stop_polling_.token());
  }
}

void Vring::set_memory(mem::GuestMemory memory, const virtio::RingParts& ring,
                       RingDirtyLog log) noexcept {
  begin_epoch(std::move(memory));
  for (auto epoch = epochs_.begin(); epoch != std::prev(epochs_.end());) {
    const auto old = epoch++;
    if (old->in_flight == 0) end_epoch(old);
  }
  queue_.move_to(ring);
  poller_.wake(*this);
  set_log(std::move(log));
}

void Vring::set_log(RingDirtyLog log) noexcept {
  log_ = std::move(log);
  // In place: requests in flight look there when they are done.
  for (Epoch& epoch : epochs_) {
    epoch.memory = epoch.memory.with_dirty_log(log_.pages);
  }
  log_ring_pages();
}

void Vring::fail_ring(const Error& error) noexcept {
  if (is_broken_) return;
  is_broken_ = true;
  ++counters_->broken;
  log::rate_limited_warning(peer_log_->faults, "{}: stops: {}", label_, error.to_string());
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
    std::move_only_function<void(std::optional<std::size_t> waiting)> paused) noexcept {
  GUESTIO_CHECK(!is_quiesced_ && !is_stopping_, "a ring to be paused once, while it runs");
  is_quiesced_ = true;
  on_quiesced_ = std::move(paused);
  poller_.wake(*this);
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
  co_await quiet_.wait();
  for (Kick& kick : kicks_) {
    auto ended = kick.poll.stop();
    co_await ended;
  }
  co_await polling_.join();
  stopped(queue_.base());
}

}  // namespace guestio::vhost
