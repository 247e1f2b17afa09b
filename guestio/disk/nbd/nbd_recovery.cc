// SPDX-License-Identifier: MIT
#include "guestio/disk/nbd/nbd_recovery.h"

#include <algorithm>
#include <utility>

namespace guestio::disk {

void NbdRecovery::join(const NbdLink& link, std::shared_ptr<Member> member) {
  const std::lock_guard lock(mutex_);
  entries_.push_back({.link = &link, .member = std::move(member)});
}

void NbdRecovery::leave(const NbdLink& link) {
  const std::lock_guard lock(mutex_);
  std::erase_if(entries_, [&](const Entry& entry) { return entry.link == &link; });
  if (repeater_ == &link) repeater_ = nullptr;
  advance();
}

NbdRecovery::Entry& NbdRecovery::find(const NbdLink& link) {
  return *std::ranges::find(entries_, &link, &Entry::link);
}

NbdRecovery::Next NbdRecovery::connected(const NbdLink& link) {
  const std::lock_guard lock(mutex_);
  find(link).state = State::kConnected;
  if (!is_recovering_) return {Step::kReady, epoch_};
  const bool may_repeat =
      !is_frozen_ && repeater_ == nullptr &&
      std::ranges::none_of(entries_, [](const Entry& one) { return one.state == State::kEnding; });
  if (may_repeat) repeater_ = &link;
  return {may_repeat ? Step::kRepeat : Step::kWait, epoch_};
}

void NbdRecovery::lost(const NbdLink& link) {
  const std::lock_guard lock(mutex_);
  // That of another link was lost before it.
  const bool is_known = std::exchange(find(link).state, State::kEnding) == State::kEnding;
  if (is_needed_ && !is_known) begin(&Member::post_give_up);
}

void NbdRecovery::gone(const NbdLink& link) {
  const std::lock_guard lock(mutex_);
  find(link).state = State::kAway;
  advance();
}

void NbdRecovery::restart() {
  const std::lock_guard lock(mutex_);
  is_frozen_ = true;
  begin(&Member::post_begin_anew);
}

/// Requires: the lock.
void NbdRecovery::begin(void (Member::*function)(Epoch)) {
  is_recovering_ = true;
  repeater_ = nullptr;
  for (Entry& entry : entries_) {
    if (entry.state != State::kConnected) continue;
    entry.state = State::kEnding;
    (*entry.member.*function)(epoch_);
  }
  ++epoch_;
}

/// Lets a link repeat when all conditions hold. Requires: the lock.
void NbdRecovery::advance() {
  if (!is_recovering_ || is_frozen_ || repeater_ != nullptr) return;
  const auto has_state = [this](State state) {
    return std::ranges::find(entries_, state, &Entry::state);
  };
  if (has_state(State::kEnding) != entries_.end()) return;
  const auto next = has_state(State::kConnected);
  if (next == entries_.end()) return;
  repeater_ = next->link;
  next->member->post_repeat(epoch_);
}

void NbdRecovery::repeated(Epoch epoch) {
  const std::lock_guard lock(mutex_);
  if (epoch != epoch_) return;
  is_recovering_ = false;
  repeater_ = nullptr;
  for (const Entry& entry : entries_) {
    if (entry.state == State::kConnected) entry.member->post_ready(epoch_);
  }
}

bool NbdRecovery::freeze() {
  const std::lock_guard lock(mutex_);
  const bool has_ending = std::ranges::any_of(
      entries_, [](const Entry& entry) { return entry.state == State::kEnding; });
  if (repeater_ != nullptr || has_ending) return false;
  is_frozen_ = true;
  return true;
}

void NbdRecovery::unfreeze() {
  const std::lock_guard lock(mutex_);
  is_frozen_ = false;
  advance();
}

}  // namespace guestio::disk
