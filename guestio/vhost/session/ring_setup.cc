// SPDX-License-Identifier: MIT
#include "guestio/vhost/session/ring_setup.h"

#include <cstring>
#include <limits>

#include "guestio/base/log.h"
#include "guestio/uring/cross_call.h"
#include "guestio/vhost/wire/descriptor_kind.h"

namespace guestio::vhost {

namespace {

constexpr std::uint16_t kLargestRing = 32768;

bool name_the_same_places(const VringAddress& a, const VringAddress& b) noexcept {
  return a.descriptor == b.descriptor && a.used == b.used && a.available == b.available;
}

}  // namespace

Result<> RingSetup::set_size(std::uint32_t size, virtio::FeatureBits features) {
  if (is_running_) return fail(Error::peer_fault("the size of a ring that runs", index_));
  if (virtio::ring_kind(features) == virtio::RingKind::kPacked
          ? !virtio::is_packed_queue_size(size)
          : !virtio::is_split_queue_size(size)) {
    return fail(Error::peer_fault("a ring's size is 1 to 32768, a power of two if split", size));
  }
  size_ = size;
  return {};
}

Result<> RingSetup::set_base(std::uint32_t base, virtio::FeatureBits features) {
  if (is_running_) return fail(Error::peer_fault("the base of a ring that runs", index_));
  if (virtio::ring_kind(features) == virtio::RingKind::kSplit &&
      base > std::numeric_limits<std::uint16_t>::max()) {
    return fail(Error::peer_fault("a split ring's base has 16 bits", base));
  }
  base_ = base;
  return {};
}

Result<> RingSetup::set_addresses(const VringAddress& addresses) {
  if (is_running_ && !name_the_same_places(addresses, *addresses_)) {
    return fail(Error::peer_fault("the addresses of a ring that runs", index_));
  }
  const bool is_aligned_well =
      is_aligned(addresses.descriptor, virtio::kDescriptorTableAlignment) &&
      is_aligned(addresses.available, virtio::kAvailRingAlignment) &&
      is_aligned(addresses.used, virtio::kUsedRingAlignment);
  if (!is_aligned_well) return fail(Error::peer_fault("alignment of a ring's parts", index_));
  const bool is_logged = (addresses.flags & kVringLog) != 0;
  if (is_logged && !checked_add(addresses.log, virtio::used_ring_bytes(kLargestRing))) {
    return fail(Error::peer_fault("a ring's place in the dirty log", addresses.log));
  }
  addresses_ = addresses;
  return {};
}

/// What the device writes of a ring: the used ring; of a packed one its event area and the
/// descriptors, whose guest address no message tells.
RingDirtyLog RingSetup::make_log(const RingContext& context) const {
  RingDirtyLog log{.pages = context.log};
  if (!log.pages || !addresses_) return log;
  if ((addresses_->flags & kVringLog) == 0) return log;
  if (virtio::ring_kind(context.features) == virtio::RingKind::kSplit) {
    log.ring[0] =
        mem::AddressRange::from_checked(Gpa(addresses_->log), virtio::used_ring_bytes(size_));
    return log;
  }
  log.ring[0] = mem::AddressRange::from_checked(Gpa(addresses_->log), sizeof(virtio::PackedEvent));
  const std::size_t bytes = virtio::packed_ring_bytes(size_);
  const auto start = context.memory->find_guest(FrontendAddress(addresses_->descriptor), bytes);
  if (start) log.ring[1] = mem::AddressRange::from_checked(*start, bytes);
  return log;
}

/// Who is told of what is noted. Errors: host.
Result<uring::EventFdNotifier> RingSetup::make_log_event(const RingContext& context) {
  if (!context.log || context.log_event == nullptr) return uring::EventFdNotifier();
  return make_notifier(*context.log_event);
}

template <typename Change>
void RingSetup::tell_running_ring(Change change) {
  if (!is_running_) return;
  queue_.loop().post(
      [&queue = queue_, change = std::move(change)]() mutable { change(*queue.vring()); });
}

Result<> RingSetup::set_descriptor(RingEvent event, UniqueFd descriptor) {
  switch (event) {
    case RingEvent::kKick: return set_kick(std::move(descriptor));
    case RingEvent::kCall: return set_call(std::move(descriptor));
    case RingEvent::kError: break;
  }
  return set_error(std::move(descriptor));
}

Result<> RingSetup::set_kick(UniqueFd kick) {
  if (is_running_) {
    auto copy = duplicate_fd(kick);
    if (!copy) return fail(copy.error());
    tell_running_ring(
        [kick = std::move(*copy)](Vring& vring) mutable { vring.set_kick(std::move(kick)); });
  }
  is_kick_known_ = true;
  kick_ = std::move(kick);
  return {};
}

Result<> RingSetup::set_call(UniqueFd call) {
  if (is_running_) {
    auto notifier = make_notifier(call);
    if (!notifier) return fail(notifier.error());
    tell_running_ring([notifier = std::move(*notifier)](Vring& vring) mutable {
      vring.set_call(std::move(notifier));
    });
  }
  call_ = std::move(call);
  return {};
}

Result<> RingSetup::set_error(UniqueFd error) {
  if (is_running_) {
    auto notifier = make_notifier(error);
    if (!notifier) return fail(notifier.error());
    tell_running_ring([notifier = std::move(*notifier)](Vring& vring) mutable {
      vring.set_error(std::move(notifier));
    });
  }
  error_ = std::move(error);
  return {};
}

task::Task<> RingSetup::set_enabled(bool is_enabled) {
  is_enabled_ = is_enabled;
  if (!is_running_) co_return;
  uring::CrossCall<bool> change(queue_.loop(), home_, [this, is_enabled](auto reply) {
    queue_.vring()->set_enabled(is_enabled);
    reply(true);
  });
  co_await change;
}

void RingSetup::begin_enabled() {
  is_enabled_ = true;
  tell_running_ring([](Vring& vring) { vring.set_enabled(true); });
}

/// Finds the parts of the ring that was negotiated. The messages name the event areas of a packed
/// ring where a split one has its available and used rings.
Result<virtio::RingParts> RingSetup::locate(const RingContext& context) const {
  if (!context.memory) return fail(ErrorKind::kOutOfRange, "memory for a ring", index_);
  const bool packed = virtio::ring_kind(context.features) == virtio::RingKind::kPacked;
  const MemoryTable& memory = *context.memory;
  const auto descriptors = memory.find(
      FrontendAddress(addresses_->descriptor),
      packed ? virtio::packed_ring_bytes(size_) : virtio::descriptor_table_bytes(size_));
  if (!descriptors) return fail(descriptors.error());
  const auto available =
      memory.find(FrontendAddress(addresses_->available),
                  packed ? sizeof(virtio::PackedEvent) : virtio::avail_ring_bytes(size_));
  if (!available) return fail(available.error());
  const auto used =
      memory.find(FrontendAddress(addresses_->used),
                  packed ? sizeof(virtio::PackedEvent) : virtio::used_ring_bytes(size_));
  if (!used) return fail(used.error());
  if (packed) {
    auto ring = virtio::PackedRing::at(*descriptors, *available, *used, size_);
    if (!ring) return fail(ring.error());
    return *ring;
  }
  auto ring = virtio::SplitRing::at(*descriptors, *available, *used, size_);
  if (!ring) return fail(ring.error());
  return *ring;
}

/// Where a ring begins. Some front-ends (User Mode Linux) say 0 for a packed ring that is new. To
/// this protocol that is the first place of a lap with the wrap counter 0, after a whole lap in
/// which the device used at least one descriptor. That one has its used flag still: the driver sets
/// the flag as well when it makes the place available in this lap. No descriptor of a new ring has
/// it. The first descriptor alone does not tell: it may have been the second of a chain.
Result<std::uint32_t> RingSetup::find_base(const virtio::RingParts& parts) const {
  const auto* const packed = std::get_if<virtio::PackedRing>(&parts);
  if (packed == nullptr || base_ != 0) return base_;
  for (std::uint16_t i = 0; i < packed->size(); ++i) {
    virtio::PackedTail tail{};
    if (!packed->try_load_tail(i, tail)) {
      return fail(ErrorKind::kMemoryFault, "access to a ring", index_);
    }
    if ((tail.flags & virtio::kPackedUsed) != 0) return base_;
  }
  return virtio::PackedBase{}.to_word();
}

task::Task<Result<>> RingSetup::start(RingContext context) {
  auto ring = locate(context);
  if (!ring) co_return fail(ring.error());
  const auto base = find_base(*ring);
  if (!base) co_return fail(base.error());
  RingDirtyLog log = make_log(context);
  auto log_event = make_log_event(context);
  if (!log_event) co_return fail(log_event.error());
  log.event = std::move(*log_event);
  auto kick = duplicate_fd(kick_);
  if (!kick) co_return fail(kick.error());
  auto call = duplicate_fd(call_);
  if (!call) co_return fail(call.error());
  auto error = duplicate_fd(error_);
  if (!error) co_return fail(error.error());
  Vring::Setup setup{.index = index_,
                     .label = queue_.label(),
                     .ring = *ring,
                     .features = context.features,
                     .base = *base,
                     .inflight = context.inflight,
                     .memory = context.memory->memory(),
                     .log = std::move(log),
                     .kick = std::move(*kick),
                     .call = std::move(*call),
                     .error = std::move(*error),
                     .is_enabled = is_enabled_,
                     .counters = queue_.counters(),
                     .memory_registry = context.registry,
                     .control_loop = &home_,
                     .peer_log = context.peer_log,
                     .on_broken = context.on_broken};
  uring::CrossCall<Result<>> start(
      queue_.loop(), home_, [this, setup = std::move(setup)](auto reply) mutable {
        auto vring = Vring::create(queue_.loop(), queue_.thread().poller(), queue_.handler(),
                                   std::move(setup));
        if (!vring) return reply(fail(vring.error()));
        queue_.vring() = std::move(*vring);
        queue_.vring()->start();
        reply({});
      });
  auto started = co_await start;
  if (started) {
    is_running_ = true;
    features_ = context.features;
    log::debug(
        "{}: runs: {}, {} entries from {:#x}, {}", queue_.label(),
        virtio::ring_kind(context.features) == virtio::RingKind::kPacked ? "packed" : "split",
        size_, *base, is_enabled_ ? "enabled" : "disabled");
  } else {
    is_kick_known_ = false;
  }
  co_return started;
}

task::Task<Result<>> RingSetup::change_memory(RingContext context) {
  if (!is_running_) co_return Result<>();
  // What was negotiated since counts from the next start on.
  context.features = features_;
  const auto ring = locate(context);
  if (!ring) {
    auto stopping = stop_running();
    co_await std::move(stopping);
    co_return fail(ring.error());
  }
  RingDirtyLog log = make_log(context);
  auto log_event = make_log_event(context);
  if (!log_event) {
    auto stopping = stop_running();
    co_await std::move(stopping);
    co_return fail(log_event.error());
  }
  log.event = std::move(*log_event);
  uring::CrossCall<bool> change(
      queue_.loop(), home_,
      [this, memory = context.memory->memory(), ring, log = std::move(log)](auto reply) mutable {
        queue_.vring()->set_memory(std::move(memory), *ring, std::move(log));
        reply(true);
      });
  co_await change;
  co_return Result<>();
}

task::Task<Result<>> RingSetup::change_log(RingContext context) {
  if (!is_running_) co_return Result<>();
  context.features = features_;
  RingDirtyLog log = make_log(context);
  auto log_event = make_log_event(context);
  // Pages are noted whether or not anybody can be told of it at once.
  if (log_event) log.event = std::move(*log_event);
  uring::CrossCall<bool> change(queue_.loop(), home_,
                                [this, log = std::move(log)](auto reply) mutable {
                                  queue_.vring()->set_log(std::move(log));
                                  reply(true);
                                });
  co_await change;
  if (!log_event) co_return fail(log_event.error());
  co_return Result<>();
}

task::Task<std::uint32_t> RingSetup::stop() {
  is_kick_known_ = false;
  kick_.reset();
  if (is_running_) {
    auto stopping = stop_running();
    co_await std::move(stopping);
  }
  co_return base_;
}

/// Requires: it runs.
task::Task<> RingSetup::stop_running() {
  uring::CrossCall<std::uint32_t> stop(queue_.loop(), home_, [this](auto reply) {
    queue_.vring()->stop([this, reply](std::uint32_t next) {
      // Not from inside the ring's own function: it is about to be destroyed.
      queue_.loop().post([this, reply, next] {
        was_broken_ = queue_.vring()->is_broken();
        queue_.vring().reset();
        reply(next);
      });
    });
  });
  base_ = co_await stop;
  is_running_ = false;
  log::debug("{}: stopped at {}", queue_.label(), base_);
}

task::Task<std::optional<std::size_t>> RingSetup::drain() {
  if (!is_running_) co_return 0;
  uring::CrossCall<std::optional<std::size_t>> quiesce(queue_.loop(), home_, [this](auto reply) {
    queue_.vring()->quiesce([reply](auto waiting) { reply(waiting); });
  });
  co_return co_await quiesce;
}

void RingSetup::resume() {
  tell_running_ring([](Vring& vring) { vring.resume(); });
}

task::Task<> RingSetup::freeze() {
  if (!is_running_) co_return;
  auto stopping = stop_running();
  co_await std::move(stopping);
  // One that broke stays so, whoever goes on with the session: what it has not returned would be
  // lost in a ring that looks alive. The front-end's next kick descriptor starts it.
  is_frozen_ = !was_broken_;
  if (was_broken_) {
    is_kick_known_ = false;
    kick_.reset();
  }
}

task::Task<Result<>> RingSetup::resume_frozen(RingContext context) {
  if (!std::exchange(is_frozen_, false)) co_return Result<>();
  if (!context.memory || !addresses_) {
    is_kick_known_ = false;
    co_return fail(ErrorKind::kOutOfRange, "memory for a ring", index_);
  }
  context.features = features_;
  auto starting = start(std::move(context));
  co_return co_await std::move(starting);
}

Result<RingState> RingSetup::snapshot() const {
  GUESTIO_CHECK(!is_running_, "a ring that stands still");
  auto kick = duplicate_fd(kick_.get());
  auto call = duplicate_fd(call_.get());
  auto error = duplicate_fd(error_.get());
  if (!kick) return fail(kick.error());
  if (!call) return fail(call.error());
  if (!error) return fail(error.error());
  return RingState{.size = size_,
                   .base = base_,
                   .addresses = addresses_,
                   .has_kick = is_kick_known_,
                   .is_enabled = is_enabled_,
                   .is_running = is_frozen_,
                   .features = features_,
                   .kick = std::move(*kick),
                   .call = std::move(*call),
                   .error = std::move(*error)};
}

Result<> RingSetup::restore(RingState state) {
  if (state.is_running) {
    if (auto set = set_size(state.size, state.features); !set) return set;
    if (auto set = set_base(state.base, state.features); !set) return set;
  } else {
    // They may have been said before another kind of ring was negotiated; start() looks again.
    if (state.size > kLargestRing) return fail(Error::peer_fault("a ring's size", state.size));
    size_ = state.size;
    base_ = state.base;
  }
  if (state.addresses) {
    if (auto set = set_addresses(*state.addresses); !set) return set;
  }
  if (state.is_running && (!state.addresses || !state.has_kick)) {
    return fail(Error::peer_fault("a ring that runs has a size, addresses and a kick", index_));
  }
  for (const UniqueFd* const event : {&state.kick, &state.call, &state.error}) {
    if (*event && !is_eventfd(event->get())) {
      return fail(Error::peer_fault("a kick, call or error descriptor is an eventfd"));
    }
  }
  is_kick_known_ = state.has_kick;
  kick_ = std::move(state.kick);
  call_ = std::move(state.call);
  error_ = std::move(state.error);
  is_enabled_ = state.is_enabled;
  is_frozen_ = state.is_running;
  features_ = state.features;
  return {};
}

task::Task<> RingSetup::reset() {
  is_frozen_ = false;
  auto stopping = stop();
  co_await std::move(stopping);
  size_ = 0;
  base_ = 0;
  addresses_.reset();
  call_.reset();
  error_.reset();
  is_enabled_ = false;
}

}  // namespace guestio::vhost
