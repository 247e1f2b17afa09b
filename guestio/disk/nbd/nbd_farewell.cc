// SPDX-License-Identifier: MIT
#include "guestio/disk/nbd/nbd_farewell.h"

#include <poll.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <utility>

namespace guestio::disk {

NbdFarewell::NbdFarewell(uring::Loop& loop, NbdUnfinished unfinished,
                         std::move_only_function<void()> on_closed)
    : socket_(std::move(unfinished.socket)),
      rest_(std::move(unfinished.rest)),
      on_closed_(std::move(on_closed)),
      unsent_(rest_),
      writable_(loop, [this](std::int32_t) { send(); }),
      readable_(loop, [this](std::int32_t) { receive(); }) {
  send();
  wait_for_end();
}

void NbdFarewell::send() {
  while (!unsent_.empty()) {
    const auto sent =
        ::send(socket_.get(), unsent_.data(), unsent_.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent > 0) {
      unsent_ = unsent_.subspan(static_cast<std::size_t>(sent));
      continue;
    }
    if (errno == EINTR) continue;
    if (errno == EAGAIN) return writable_.poll(socket_.get(), POLLOUT);
    // The end of the other direction follows.
    break;
  }
  (void)::shutdown(socket_.get(), SHUT_WR);
}

bool NbdFarewell::discard() {
  std::array<std::byte, 65536> late;
  for (int i = 0; i < kMaxReceivesPerTurn && late_bytes_ < kMaxLateBytes; ++i) {
    const auto count = ::recv(socket_.get(), late.data(), late.size(), MSG_DONTWAIT);
    if (count > 0) {
      late_bytes_ += static_cast<std::size_t>(count);
    } else {
      return count == 0 || (errno != EAGAIN && errno != EINTR);
    }
  }
  return false;
}

void NbdFarewell::receive() {
  // Beyond the limit only the end of the connection wakes.
  if (late_bytes_ < kMaxLateBytes && !discard()) return wait_for_end();
  // May destroy this object.
  auto on_closed = std::move(on_closed_);
  on_closed();
}

void NbdFarewell::wait_for_end() {
  readable_.poll(socket_.get(), late_bytes_ < kMaxLateBytes ? POLLIN : POLLRDHUP);
}

}  // namespace guestio::disk
