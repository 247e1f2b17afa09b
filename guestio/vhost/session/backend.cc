// SPDX-License-Identifier: MIT
#include "guestio/vhost/session/backend.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <chrono>

#include "guestio/uring/awaitables.h"
#include "guestio/uring/pinned_buffers.h"

namespace guestio::vhost {

namespace {

/// Temporary errors of accept(): an already closed connection, or a lack of descriptors or memory.
bool is_temporary(std::int32_t result) noexcept {
  return result == -EINTR || result == -EAGAIN || result == -ECONNABORTED || result == -EMFILE ||
         result == -ENFILE || result == -ENOBUFS || result == -ENOMEM || result == -EPROTO;
}

bool is_shortage(std::int32_t result) noexcept {
  return result == -EMFILE || result == -ENFILE || result == -ENOBUFS || result == -ENOMEM;
}

// Delay between attempts to accept during a shortage.
constexpr std::chrono::milliseconds kMinBackoff(10);
constexpr std::chrono::milliseconds kMaxBackoff(200);

/// Memory regions registered with the kernel, out of `memory_slots`. Most front-ends have fewer
/// than four.
std::size_t registered_regions(std::size_t memory_slots) noexcept {
  return std::clamp<std::size_t>(memory_slots / 8, 4, registered::MemoryRegistry::kMaxRegistered);
}

}  // namespace

Result<std::unique_ptr<Backend>> Backend::create(const Parts& parts, std::uint16_t queues,
                                                 const QueueHandlerFactory& make_handler) {
  std::unique_ptr<Backend> self(new Backend(parts.home, parts.device, parts.name));
  QueueThread* const only = parts.uses_one_thread ? &parts.threads.next() : nullptr;
  for (std::uint16_t i = 0; i < queues; ++i) {
    QueueThread& thread = only != nullptr ? *only : parts.threads.next();
    auto queue = Queue::create(thread, i, make_handler, fmt::format("{}, queue {}", parts.name, i));
    if (!queue) return fail(queue.error());
    self->queues_.push_back(std::move(*queue));
  }
  self->join_threads();
  return self;
}

std::size_t Backend::max_descriptors(const Capacity& capacity) noexcept {
  // The connection, the back channel, the descriptors of one message, the in-flight record and its
  // replacement, log and event and their replacements, a userfaultfd.
  constexpr std::size_t kSession = 1 + 1 + (kMaxDescriptors + 2) + 3 + 4 + 1;
  // Kick, call and error; the ring's own kick and the previous one; three notifiers and their
  // replacements; copies while the ring starts; three in-band eventfds.
  constexpr std::size_t kRing = 3 + 2 + 6 + 2 + 3;
  // A pipe and an eventfd for each of a ring's three, and those of stalled threads.
  constexpr std::size_t kRelay = 2;
  const std::size_t relays = (RelayCount::kMaxRelays + 1) * (kRelay + 6 * capacity.queues);
  // Each memory region has a file; a registered one has two descriptors more.
  const std::size_t regions =
      capacity.memory_slots + Session::kMaxStaleRegions +
      (capacity.registers_memory ? 2 * registered_regions(capacity.memory_slots) : 0);
  return kSession + kRing * capacity.queues + relays + regions;
}

Backend::~Backend() {
  for (QueueThread* const thread : threads_) {
    thread->call([thread] { thread->loop().registered_buffers().remove_tenant(); });
  }
}

/// Announces this disk to its threads: each disk of a thread may register its share of memory.
void Backend::join_threads() {
  for (const auto& queue : queues_) {
    QueueThread& thread = queue->thread();
    if (std::ranges::find(threads_, &thread) != threads_.end()) continue;
    thread.call([&thread] { thread.loop().registered_buffers().add_tenant(); });
    threads_.push_back(&thread);
  }
}

task::Task<std::int32_t> Backend::accept_one(int listening_socket) {
  task::StopSource either(stop_.token());
  const task::StopCallback on_rest(rest_.token(), [&either]() noexcept { either.request_stop(); });
  co_return co_await uring::accept(home_, uring::File(listening_socket), SOCK_CLOEXEC,
                                   either.token());
}

void Backend::log_shortage(const Error& cause) {
  log::rate_limited_warning(log_->faults, "{}: host failure: front-end not accepted yet: {}",
                            log_->name, cause.to_string());
}

task::Task<Result<>> Backend::accept_all(int listening_socket) {
  if (session_) {
    co_await run_session();
  }
  Result<> outcome;
  auto backoff = kMinBackoff;
  while (!stop_.stop_requested()) {
    if (rest_.is_requested()) {
      co_await rest_.rest();
      continue;
    }
    const std::int32_t accepted = co_await accept_one(listening_socket);
    if (accepted == -ECANCELED) continue;
    if (is_temporary(accepted)) {
      if (is_shortage(accepted)) log_shortage(Error::host(-accepted, "accept a front-end"));
      // The socket stays readable during the shortage.
      (void)co_await uring::sleep(home_, backoff, stop_.token());
      backoff = std::min(2 * backoff, kMaxBackoff);
      continue;
    }
    backoff = kMinBackoff;
    if (accepted < 0) {
      outcome = fail(Error::host(-accepted, "accept a front-end"));
      break;
    }
    begin_session(UniqueFd(accepted));
    co_await run_session();
  }
  rest_.end();
  co_return outcome;
}

task::Task<> Backend::serve_one(UniqueFd socket) {
  if (!stop_.stop_requested()) {
    begin_session(std::move(socket));
    co_await run_session();
  }
  rest_.end();
}

task::Task<> Backend::serve_restored() {
  co_await run_session();
  rest_.end();
}

void Backend::register_guest_memory(registered::RegistrationScope extent) noexcept {
  registration_scope_ = extent;
  // Probes the kernel once, now: later the descriptors for it may be missing.
  (void)uring::PinnedBuffers::can_clone();
}

void Backend::begin_session(UniqueFd socket) {
  log::rate_limited_info(log_->connections, "{}: front-end connected", log_->name);
  const bool offers_post_copy =
      offers_post_copy_ && registration_scope_ != registered::RegistrationScope::kAll;
  session_ = std::make_unique<Session>(
      Session::Parts{
          .home = home_,
          .device = device_,
          .queues = queues_,
          .rest = rest_,
          .ring_features = ring_features_,
          .registry = registration_scope_ && !offers_post_copy
                          ? std::make_shared<registered::MemoryRegistry>(
                                *registration_scope_, log_, registered_regions(memory_slots_))
                          : nullptr,
          .offers_post_copy = offers_post_copy,
          .peer_log = log_,
          .relays = relays_,
          .memory_slots = memory_slots_},
      std::move(socket));
}

task::Task<> Backend::run_session() {
  co_await session_->run();
  session_.reset();
  log::rate_limited_info(log_->connections, "{}: front-end disconnected", log_->name);
}

task::Task<bool> Backend::quiesce(task::StopToken limit, task::StopToken last_limit) {
  rest_.request();
  (void)co_await rest_.reached(limit);
  if (!rest_.is_reached() && session_ && session_->is_replying()) {
    log::warning("{}: connection ends: the front-end does not read its replies", log_->name);
    session_->disconnect();
    (void)co_await rest_.reached(last_limit);
  }
  co_return rest_.is_reached();
}

task::Task<std::optional<Session::Obstacle>> Backend::drain(task::StopToken limit) {
  if (!session_) co_return std::nullopt;
  co_return co_await session_->drain(limit);
}

task::Task<> Backend::freeze() {
  if (!session_) co_return;
  co_await session_->freeze();
}

Result<std::optional<SessionState>> Backend::snapshot() const {
  if (!session_) return std::nullopt;
  auto state = session_->snapshot();
  if (!state) return fail(state.error());
  return std::move(*state);
}

task::Task<> Backend::resume() {
  // A session that is not quiesced is inside a message, and none of its rings was drained.
  if (session_ && (rest_.is_reached() || session_->is_frozen())) {
    co_await session_->resume();
  }
  rest_.resume();
}

Result<> Backend::restore(SessionState state) {
  begin_session(std::move(state.socket));
  auto adopted = session_->restore(std::move(state));
  if (!adopted) session_.reset();
  return adopted;
}

void Backend::stop() noexcept {
  stop_.request_stop();
  if (session_) session_->disconnect();
}

}  // namespace guestio::vhost
