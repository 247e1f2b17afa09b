// SPDX-License-Identifier: MIT
#include "guestio/task/stop.h"

#include "guestio/base/check.h"

namespace guestio::task {

bool StopListener::listen(StopToken token) noexcept {
  if (token.source_ == nullptr) return true;
  if (token.source_->requested_) return false;
  GUESTIO_CHECK(!is_linked(), "a stop listener to listen to one source at a time");
  token.source_->listeners_.push_back(*this);
  return true;
}

StopSource::StopSource(StopToken parent) noexcept { requested_ = !listen(parent); }

StopSource::~StopSource() {
  GUESTIO_CHECK(listeners_.is_empty(), "no listeners at the end of a stop source");
}

void StopSource::request_stop() noexcept {
  if (requested_) return;
  requested_ = true;
  // A local list: a listener may destroy this source.
  IntrusiveList<StopListener> told;
  told.splice_back(listeners_);
  while (StopListener* const listener = told.pop_front()) listener->on_stop();
}

}  // namespace guestio::task
