// SPDX-License-Identifier: MIT
// A session's messages about post-copy: the guest runs here, and its memory arrives as it is used.
#include <cstring>

#include "guestio/vhost/session/session.h"

namespace guestio::vhost {

Result<Session::Answer> Session::advise_post_copy() {
  if (auto wanted = require_feature(kProtocolPagefault); !wanted) return fail(wanted.error());
  auto made = Userfaultfd::create();
  if (!made) return fail(made.error());
  faults_ = std::move(*made);
  Answer answer;
  answer.descriptor = faults_->fd();
  return answer;
}

Result<Session::Answer> Session::listen_for_post_copy() {
  if (auto wanted = require_feature(kProtocolPagefault); !wanted) return fail(wanted.error());
  if (!faults_) return fail(Error::peer_fault("post-copy that was advised"));
  is_memory_arriving_ = true;
  if (auto watched = watch_arriving_memory(); !watched) return fail(watched.error());
  return Answer::none();
}

Result<Session::Answer> Session::end_post_copy() {
  if (auto wanted = require_feature(kProtocolPagefault); !wanted) return fail(wanted.error());
  is_memory_arriving_ = false;
  faults_.reset();
  return Answer::of(std::uint64_t{0});
}

/// Before anybody may touch it: a page that is touched and missing would be there, with zeroes.
Result<> Session::watch_arriving_memory() {
  if (!is_memory_arriving_ || !memory_) return {};
  return faults_->watch(memory_->memory());
}

/// While memory arrives a front-end ends its news about memory with a message that has a number
/// instead of regions, and expects no answer to it.
bool Session::is_end_of_memory_news() const noexcept {
  return is_memory_arriving_ && message_.header.size == sizeof(std::uint64_t);
}

/// The message itself, with our addresses of its regions, by which the front-end knows what is
/// waited for. `first` is the place of the first of `count` in it.
Result<Session::Answer> Session::tell_addresses(std::size_t first, std::size_t count) const {
  Answer answer;
  const std::size_t size = first + count * sizeof(MemoryRegion);
  if (size > answer.payload.size()) {
    return fail(Error::peer_fault("the size of a memory table", size));
  }
  std::memcpy(answer.payload.data(), message_.bytes.data(), size);
  for (std::size_t at = first; at < size; at += sizeof(MemoryRegion)) {
    MemoryRegion region{};
    std::memcpy(&region, &answer.payload[at], sizeof region);
    const auto host = memory_->memory().host_range(Gpa(region.guest_address), region.size);
    if (!host) return fail(host.error());
    region.user_address = reinterpret_cast<std::uintptr_t>(*host);
    std::memcpy(&answer.payload[at], &region, sizeof region);
  }
  answer.size = size;
  answer.way = Answer::Way::kOwn;
  return answer;
}

}  // namespace guestio::vhost
