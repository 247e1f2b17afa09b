// SPDX-License-Identifier: MIT
#include "guestio/disk/rbd/rbd_session.h"

#include <fmt/format.h>
#include <algorithm>
#include <utility>

#include "guestio/base/log.h"
#include "guestio/disk/rbd/helper_threads.h"
#include "guestio/disk/rbd/rbd_error.h"

namespace guestio::disk {

namespace {

using std::chrono::milliseconds;

/// Pauses between attempts to get a lock or a connection double from the first to the second.
constexpr milliseconds kFirstPause{10};
constexpr milliseconds kLongestPause{500};
/// How long a request of a successor waits for its predecessor to end.
constexpr milliseconds kPredecessorPatience{250};

std::string explain_owner(const std::string& owner) {
  return fmt::format(
      "the image is locked by client {}: stop that client, or set break-lock=on, which fences it "
      "off",
      owner);
}

}  // namespace

RbdSession::RbdSession(RadosConnections& connections, Options options,
                       std::shared_ptr<RbdImage> image)
    : connections_(connections),
      options_(std::move(options)),
      image_(std::move(image)),
      phase_(options_.uses_lock ? Phase::kWaiting : Phase::kReady),
      recorded_(load_records(options_.state_path)) {}

void RbdSession::start(std::function<void(ByteCount)> resized) {
  std::shared_ptr<RbdImage> image;
  {
    const Lock lock(mutex_);
    resized_ = std::move(resized);
    image = image_;
  }
  const auto on_change = [weak = weak_from_this()] {
    const auto self = weak.lock();
    if (!self) return;
    const Lock lock(self->mutex_);
    self->has_new_size_ = true;
    self->wake_worker();
  };
  if (auto watched = image->watch(on_change); !watched) {
    log::warning("{}: a new size of the image will not be noticed: {}", options_.name,
                 watched.error().to_string());
  }
  if (auto monitored = monitor(weak_from_this()); !monitored) {
    log::warning("{}: no time limits: {}", options_.name, monitored.error().to_string());
  }
}

OpenResult<void> RbdSession::lock_now() {
  {
    Lock lock(mutex_);
    record_attempt(lock);
  }
  const auto attempt = try_lock(*image_, [this](const std::string& owner) {
    const Lock lock(mutex_);
    return may_break(owner);
  });
  switch (attempt.state) {
    case LockState::kOwned: break;
    case LockState::kOther:
      if (!options_.state_path.empty()) (void)save_records(recorded_, options_.state_path);
      return std::unexpected(OpenFailure{Error::make(ErrorKind::kBusy, "lock the image"),
                                         explain_owner(attempt.owner)});
    case LockState::kFenced:
      image_->connection().set_fenced();
      return rbd_failure(
          ESHUTDOWN, "lock the image",
          fmt::format("the cluster refuses client {}", image_->connection().address()));
    case LockState::kFailed: return std::unexpected(OpenFailure{attempt.error, {}});
  }
  Lock lock(mutex_);
  is_wanted_ = true;
  on_acquired(lock);
  return {};
}

void RbdSession::close() {
  const Lock lock(mutex_);
  is_closing_ = true;
  is_wanted_ = false;
  resized_ = nullptr;
  wake_worker();
}

void RbdSession::claim() {
  if (!options_.uses_lock) return;
  const Lock lock(mutex_);
  is_wanted_ = true;
  is_displaced_ = was_fenced_ = false;
  if (!is_owned_) set_phase(Phase::kWaiting);
  wake_worker();
}

void RbdSession::release() {
  if (!options_.uses_lock) return;
  const Lock lock(mutex_);
  is_wanted_ = false;
  wake_worker();
}

bool RbdSession::is_claimed() const {
  const Lock lock(mutex_);
  return is_wanted_;
}

void RbdSession::claim_from(std::optional<LockRecord> predecessor) {
  const Lock lock(mutex_);
  if (!options_.uses_lock) return;
  predecessor_ = std::move(predecessor);
  is_wanted_ = true;
  wake_worker();
}

LockRecord RbdSession::record() const {
  const Lock lock(mutex_);
  return LockRecord::of_process(image_ ? image_->connection().address() : "none");
}

void RbdSession::subscribe(std::shared_ptr<Subscriber> subscriber) {
  const Lock lock(mutex_);
  subscribers_.push_back(std::move(subscriber));
}

void RbdSession::unsubscribe(const std::shared_ptr<Subscriber>& subscriber) {
  const Lock lock(mutex_);
  std::erase(subscribers_, subscriber);
}

RbdSession::View RbdSession::view() const {
  const Lock lock(mutex_);
  return {phase_, image_};
}

void RbdSession::on_waiting_request() {
  if (has_waiting_request_.exchange(true, std::memory_order_relaxed)) return;
  const Lock lock(mutex_);
  request_waits_since_ = Clock::now();
  changed_.notify_all();
}

void RbdSession::on_fenced(const RbdImage* image) {
  const Lock lock(mutex_);
  if (image_.get() != image || must_reopen_) return;
  must_reopen_ = true;
  set_phase(Phase::kWaiting);
  wake_worker();
}

void RbdSession::on_lock_lost(const RbdImage* image) {
  const Lock lock(mutex_);
  if (image_.get() != image || !is_owned_) return;
  is_owned_ = false;
  was_fenced_ = true;
  set_phase(Phase::kWaiting);
  report_trouble("the lock of the image was lost");
  wake_worker();
}

void RbdSession::on_progress() {
  const Lock lock(mutex_);
  if (!is_stalled_.exchange(false, std::memory_order_relaxed)) return;
  log::info("{}: the cluster answers again", options_.name);
  trouble_.clear();
}

void RbdSession::fill_status(DiskStatus& status) const {
  const Lock lock(mutex_);
  status.is_available = phase_ == Phase::kReady && !is_stalled();
  // Without a claim nothing is asked of the disk.
  if (phase_ == Phase::kWaiting && !is_wanted_ && !must_reopen_) status.is_available = true;
  status.connections = image_ ? 1 : 0;
  status.reconnects = reconnects_;
  status.detail = trouble_;
}

milliseconds RbdSession::tick_interval() const noexcept {
  const milliseconds quarter = options_.image.settings.io_timeout / 4;
  return std::clamp(quarter, milliseconds(100), milliseconds(5000));
}

void RbdSession::tick(Clock::time_point now) {
  const Lock lock(mutex_);
  const auto limit = options_.image.settings.io_timeout;
  if (phase_ == Phase::kWaiting && (is_wanted_ || must_reopen_) && now - phase_since_ >= limit) {
    log::warning("{}: not available: {}", options_.name,
                 trouble_.empty() ? "the cluster does not answer" : trouble_);
    set_phase(Phase::kAway);
  }
  std::uint64_t completed = 0;
  std::uint64_t submitted = 0;
  for (const auto& subscriber : subscribers_) {
    // In this order: no completion is counted before its submission.
    completed += subscriber->completed->value();
    submitted += subscriber->submitted->value();
  }
  const std::uint64_t in_flight = submitted - completed;
  if (in_flight == 0 || last_in_flight_ == 0 || completed != last_completed_) progress_at_ = now;
  last_in_flight_ = in_flight;
  last_completed_ = completed;
  if (is_stalled() || now - progress_at_ < limit) return;
  is_stalled_.store(true, std::memory_order_relaxed);
  report_trouble(fmt::format("the cluster has not answered for {} s ({} requests wait)",
                             limit.count(), in_flight));
}

void RbdSession::wake_worker() {
  changed_.notify_all();
  if (is_working_) return;
  is_working_ = true;
  auto started = helper_threads::run([self = shared_from_this()] { self->work(); });
  if (started) return;
  is_working_ = false;
  log::error("{}: the image is left as it is: {}", options_.name, started.error().to_string());
}

void RbdSession::work() {
  Lock lock(mutex_);
  pause_ = kFirstPause;
  for (;;) {
    if (is_closing_) {
      finish_closing(lock);
      break;
    }
    const bool needs_lock = options_.uses_lock && is_wanted_ && !is_owned_ && !is_displaced_;
    const bool has_lock_to_release = options_.uses_lock && !is_wanted_ && is_owned_;
    if (must_reopen_) {
      reopen(lock);
    } else if (needs_lock) {
      acquire(lock);
    } else if (has_lock_to_release) {
      release_owned(lock);
    } else if (has_new_size_) {
      query_size(lock);
    } else {
      break;
    }
  }
  is_working_ = false;
}

/// A process killed with the lock leaves its address, however early it is killed.
void RbdSession::record_attempt(Lock& lock) {
  const std::string& address = image_->connection().address();
  if (recorded_address_ == address) return;
  recorded_address_ = address;
  LockRecords records = recorded_;
  records.insert(records.begin(), LockRecord::of_process(address));
  save_or_warn(records, lock);
}

void RbdSession::save_or_warn(const LockRecords& records, Lock& lock) const {
  if (options_.state_path.empty()) return;
  lock.unlock();
  const auto saved = save_records(records, options_.state_path);
  lock.lock();
  if (saved) return;
  log::warning("{}: after a crash the lock of the image stays for 30 s: {} ({})", options_.name,
               saved.error().to_string(), options_.state_path);
}

void RbdSession::acquire(Lock& lock) {
  record_attempt(lock);
  const auto image = image_;
  lock.unlock();
  const auto attempt = try_lock(*image, [this](const std::string& owner) {
    const Lock inner(mutex_);
    return may_break(owner);
  });
  lock.lock();
  switch (attempt.state) {
    case LockState::kOwned: return on_acquired(lock);
    case LockState::kFenced: must_reopen_ = true; return;
    case LockState::kOther: return on_other_owner(attempt.owner, lock);
    case LockState::kFailed: report_trouble(attempt.error.to_string()); return pause(lock);
  }
}

void RbdSession::on_acquired(Lock& lock) {
  is_owned_ = true;
  was_fenced_ = false;
  predecessor_.reset();
  // A successor that prepares to take over has written its own record before ours.
  if (!std::exchange(recorded_, {}).empty()) {
    save_or_warn({LockRecord::of_process(image_->connection().address())}, lock);
  }
  if (!trouble_.empty() && !is_stalled()) {
    log::info("{}: the image is locked for this client", options_.name);
    trouble_.clear();
  }
  if (is_wanted_) set_phase(Phase::kReady);
}

void RbdSession::on_other_owner(const std::string& owner, Lock& lock) {
  if (was_fenced_) {
    is_displaced_ = true;
    report_trouble(fmt::format(
        "displaced: client {} owns the lock of the image now (stop it, then restart this disk)",
        owner));
    return set_phase(Phase::kAway);
  }
  const bool is_predecessor = predecessor_ && predecessor_->address == owner;
  if (!is_predecessor && trouble_.empty()) trouble_ = explain_owner(owner);
  pause(lock);
}

void RbdSession::pause(Lock& lock) {
  // A wake-up ends it: a release, a closing, a waiting request.
  changed_.wait_for(lock, pause_);
  const bool is_urgent = predecessor_ && has_waiting_request_;
  pause_ = is_urgent ? kFirstPause : std::min(pause_ * 2, kLongestPause);
}

bool RbdSession::is_own_fenced(const std::string& address) const {
  return std::ranges::find(fenced_addresses_, address) != fenced_addresses_.end();
}

bool RbdSession::may_break(const std::string& owner) const {
  if (is_own_fenced(owner)) return true;
  // Who has fenced us is not fenced in return.
  if (was_fenced_) return false;
  if (options_.image.settings.breaks_lock) return true;
  const bool is_recorded = std::ranges::any_of(recorded_, [&](const LockRecord& record) {
    return record.address == owner && record.is_gone();
  });
  if (is_recorded) return true;
  if (!predecessor_ || predecessor_->address != owner) return false;
  // Requests arrive here only when the predecessor has given the disk away.
  const bool has_waited = has_waiting_request_ && request_waits_since_ != Clock::time_point() &&
                          Clock::now() - request_waits_since_ >= kPredecessorPatience;
  return has_waited || predecessor_->is_gone();
}

void RbdSession::release_owned(Lock& lock) {
  const auto image = image_;
  // Requests of the next claim wait for the lock, whatever happens meanwhile.
  set_phase(Phase::kWaiting);
  is_owned_ = false;
  recorded_address_.clear();
  lock.unlock();
  const auto released = release_lock(*image);
  if (released) remove_record(options_.state_path, image->connection().address());
  lock.lock();
  if (!released) report_trouble(released.error().to_string());
}

void RbdSession::reopen(Lock& lock) {
  const auto fenced = image_;
  if (!std::exchange(was_fenced_, true) || trouble_.empty()) {
    report_trouble(fmt::format("the cluster refuses client {} (fenced): the image is opened anew",
                               fenced->connection().address()));
  }
  fenced->connection().set_fenced();
  if (!is_own_fenced(fenced->connection().address())) {
    fenced_addresses_.push_back(fenced->connection().address());
    recorded_.push_back(LockRecord::of_process(fenced->connection().address()));
  }
  is_owned_ = false;
  lock.unlock();
  auto opened = RbdImage::open(connections_, options_.image);
  lock.lock();
  if (!opened) {
    trouble_ = opened.error().to_string();
    return pause(lock);
  }
  image_ = std::move(*opened);
  must_reopen_ = false;
  ++reconnects_;
  has_new_size_ = true;
  const auto image = image_;
  lock.unlock();
  const auto on_change = [weak = weak_from_this()] {
    const auto self = weak.lock();
    if (!self) return;
    const Lock inner(self->mutex_);
    self->has_new_size_ = true;
    self->wake_worker();
  };
  (void)image->watch(on_change);
  lock.lock();
  if (options_.uses_lock) return;
  was_fenced_ = false;
  trouble_.clear();
  log::info("{}: the image is open again", options_.name);
  set_phase(Phase::kReady);
}

void RbdSession::query_size(Lock& lock) {
  has_new_size_ = false;
  const auto image = image_;
  lock.unlock();
  const auto size = image->size();
  lock.lock();
  if (!size || !resized_) return;
  // Under the mutex: close() ends the calls.
  resized_(ByteCount(*size));
}

void RbdSession::finish_closing(Lock& lock) {
  const bool was_owned = std::exchange(is_owned_, false);
  auto image = std::exchange(image_, nullptr);
  lock.unlock();
  const std::string address = image->connection().address();
  // The close of the image releases the lock.
  image.reset();
  if (was_owned) remove_record(options_.state_path, address);
  lock.lock();
}

void RbdSession::remove_record(const std::string& path, const std::string& address) {
  // A successor that broke our lock has written its own.
  const LockRecords records = load_records(path);
  const bool is_ours = !records.empty() && records[0].address == address;
  if (is_ours) (void)save_records({}, path);
}

void RbdSession::set_phase(Phase phase) {
  if (phase_ == phase) return;
  phase_ = phase;
  phase_since_ = Clock::now();
  if (phase == Phase::kReady) {
    has_waiting_request_.store(false, std::memory_order_relaxed);
    request_waits_since_ = {};
  }
  notify_subscribers();
}

void RbdSession::notify_subscribers() {
  for (const auto& subscriber : subscribers_) {
    subscriber->loop->post([subscriber] {
      if (subscriber->refresh) subscriber->refresh();
    });
  }
}

void RbdSession::report_trouble(std::string trouble) {
  if (trouble == trouble_) return;
  trouble_ = std::move(trouble);
  log::warning("{}: {}", options_.name, trouble_);
}

}  // namespace guestio::disk
