// SPDX-License-Identifier: MIT
#include "guestio/vhost/session/ring_setup.h"

#include <cstring>
#include <limits>

#include "guestio/base/log.h"
#include "guestio/uring/cross_call.h"
#include "guestio/vhost/wire/descriptor_kind.h"

namespace guestio::vhost {

namespace {

constexpr std::uint16_t kMaxRingSize = 32768;

bool have_same_addresses(const VringAddress& a, const VringAddress& b) noexcept {
  return a.descriptor == b.descriptor && a.used == b.used && a.available == b.available;
}

}  // namespace

Result<> RingSetup::set_size(std::uint32_t size, virtio::FeatureBits features) {
  if (is_running_)
    return fail(Error::peer_fault("SET_VRING_NUM while the ring is running", index_));
  if (virtio::ring_kind(features) == virtio::RingKind::kPacked
          ? !virtio::is_packed_queue_size(size)
          : !virtio::is_split_queue_size(size)) {
    return fail(Error::peer_fault(
        "ring size is not 1 to 32768, or not a power of two for a split ring", size));
  }
  size_ = size;
  return {};
}

Result<> RingSetup::set_base(std::uint32_t base, virtio::FeatureBits features) {
  if (is_running_)
    return fail(Error::peer_fault("SET_VRING_BASE while the ring is running", index_));
  if (virtio::ring_kind(features) == virtio::RingKind::kSplit &&
      base > std::numeric_limits<std::uint16_t>::max()) {
    return fail(Error::peer_fault("base of a split ring exceeds 16 bits", base));
  }
  base_ = base;
  return {};
}

Result<> RingSetup::set_addresses(const VringAddress& addresses) {
  if (is_running_ && !have_same_addresses(addresses, *addresses_)) {
    return fail(Error::peer_fault("SET_VRING_ADDR moves a running ring", index_));
  }
  const bool is_well_aligned =
      is_aligned(addresses.descriptor, virtio::kDescriptorTableAlignment) &&
      is_aligned(addresses.available, virtio::kAvailRingAlignment) &&
      is_aligned(addresses.used, virtio::kUsedRingAlignment);
  if (!is_well_aligned) return fail(Error::peer_fault("misaligned ring addresses", index_));
  const bool is_logged = (addresses.flags & kVringLog) != 0;
  if (is_logged && !checked_add(addresses.log, virtio::used_ring_bytes(kMaxRingSize))) {
    return fail(Error::peer_fault("log address of the ring overflows", addresses.log));
  }
  addresses_ = addresses;
  return {};
}

/// The parts of a ring that the device writes: the used ring of a split ring; of a packed ring the
/// device event area and the descriptors. No message has the guest address of the descriptors.
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

/// The notifier of SET_LOG_FD. Errors: host.
Result<uring::EventFdNotifier> RingSetup::make_log_event(const RingContext& context) {
  if (!context.log || context.log_event == nullptr) return uring::EventFdNotifier();
  return make_notifier(*context.log_event);
}

template <typename Change>
void RingSetup::post_to_running_ring(Change change) {
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
    post_to_running_ring(
        [kick = std::move(*copy)](Vring& vring) mutable { vring.set_kick(std::move(kick)); });
  }
  has_kick_ = true;
  kick_ = std::move(kick);
  return {};
}

Result<> RingSetup::set_call(UniqueFd call) {
  if (is_running_) {
    auto notifier = make_notifier(call);
    if (!notifier) return fail(notifier.error());
    post_to_running_ring([notifier = std::move(*notifier)](Vring& vring) mutable {
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
    post_to_running_ring([notifier = std::move(*notifier)](Vring& vring) mutable {
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

void RingSetup::enable_by_default() {
  is_enabled_ = true;
  post_to_running_ring([](Vring& vring) { vring.set_enabled(true); });
}

/// Finds the parts of the negotiated ring. The fields for the available and used rings of a split
/// ring hold the event areas of a packed ring.
Result<virtio::RingParts> RingSetup::locate(const RingContext& context) const {
  if (!context.memory) return fail(ErrorKind::kOutOfRange, "memory of the ring", index_);
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

/// The base of a ring. Some front-ends (User Mode Linux) send 0 for a new packed ring. In this
/// protocol 0 is the first position of a lap with wrap counter 0, after a whole lap in which the
/// device used at least one descriptor. That descriptor still has its used flag: the driver also
/// sets the flag to make the position available in this lap. No descriptor of a new ring has it.
/// The first descriptor alone is no evidence: it may have been the second of a chain.
Result<std::uint32_t> RingSetup::find_base(const virtio::RingParts& parts) const {
  const auto* const packed = std::get_if<virtio::PackedRing>(&parts);
  if (packed == nullptr || base_ != 0) return base_;
  for (std::uint16_t i = 0; i < packed->size(); ++i) {
    virtio::PackedTail tail{};
    if (!packed->try_load_tail(i, tail)) {
      return fail(ErrorKind::kMemoryFault, "access to the ring", index_);
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
    has_kick_ = false;
  }
  co_return started;
}

task::Task<Result<>> RingSetup::change_memory(RingContext context) {
  if (!is_running_) co_return Result<>();
  // Features negotiated since then take effect at the next start.
  context.features = features_;
  const auto ring = locate(context);
  if (!ring) {
    co_await stop_running();
    co_return fail(ring.error());
  }
  RingDirtyLog log = make_log(context);
  auto log_event = make_log_event(context);
  if (!log_event) {
    co_await stop_running();
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
  // Pages are logged with or without the event.
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
  has_kick_ = false;
  kick_.reset();
  if (is_running_) {
    co_await stop_running();
  }
  co_return base_;
}

/// Requires: running.
task::Task<> RingSetup::stop_running() {
  uring::CrossCall<std::uint32_t> stop(queue_.loop(), home_, [this](auto reply) {
    queue_.vring()->stop([this, reply](std::uint32_t next) {
      // Later: the ring must not be destroyed inside its own function.
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
  post_to_running_ring([](Vring& vring) { vring.resume(); });
}

task::Task<> RingSetup::freeze() {
  if (!is_running_) co_return;
  co_await stop_running();
  // A broken ring stays broken in every process: a restart would hide its lost chains. The
  // front-end's next kick message starts it.
  is_frozen_ = !was_broken_;
  if (was_broken_) {
    has_kick_ = false;
    kick_.reset();
  }
}

task::Task<Result<>> RingSetup::resume_frozen(RingContext context) {
  if (!std::exchange(is_frozen_, false)) co_return Result<>();
  if (!context.memory || !addresses_) {
    has_kick_ = false;
    co_return fail(ErrorKind::kOutOfRange, "memory of the ring", index_);
  }
  context.features = features_;
  co_return co_await start(std::move(context));
}

Result<RingState> RingSetup::snapshot() const {
  GUESTIO_CHECK(!is_running_, "a stopped ring");
  auto kick = duplicate_fd(kick_.get());
  auto call = duplicate_fd(call_.get());
  auto error = duplicate_fd(error_.get());
  if (!kick) return fail(kick.error());
  if (!call) return fail(call.error());
  if (!error) return fail(error.error());
  return RingState{.size = size_,
                   .base = base_,
                   .addresses = addresses_,
                   .has_kick = has_kick_,
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
    // Possibly set before another kind of ring was negotiated; start() checks them again.
    if (state.size > kMaxRingSize)
      return fail(Error::peer_fault("ring size exceeds 32768", state.size));
    size_ = state.size;
    base_ = state.base;
  }
  if (state.addresses) {
    if (auto set = set_addresses(*state.addresses); !set) return set;
  }
  if (state.is_running && (!state.addresses || !state.has_kick)) {
    return fail(Error::peer_fault("running ring without a size, addresses or a kick", index_));
  }
  for (const UniqueFd* const event : {&state.kick, &state.call, &state.error}) {
    if (*event && !is_eventfd(event->get())) {
      return fail(Error::peer_fault("kick, call or error descriptor is not an eventfd"));
    }
  }
  has_kick_ = state.has_kick;
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
  co_await stop();
  size_ = 0;
  base_ = 0;
  addresses_.reset();
  call_.reset();
  error_.reset();
  is_enabled_ = false;
}

}  // namespace guestio::vhost
