// SPDX-License-Identifier: MIT
#include "guestio/disk/nbd/plain_connection.h"

#include <fmt/format.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <cstring>
#include <system_error>
#include <utility>

#include "guestio/base/check.h"

namespace guestio::disk {

namespace {

constexpr std::uint32_t kRequestMagic = 0x25609513;
constexpr std::uint32_t kReplyMagic = 0x67446698;
constexpr std::uint16_t kFlagFua = 1;
constexpr std::uint16_t kFlagNoHole = 2;
constexpr std::uint16_t kDisconnect = 2;
constexpr int kMaxReceivesPerTurn = 32;
constexpr std::size_t kMaxSegments = 128;
/// Payloads of this size are received in place, one at a time.
constexpr std::uint64_t kLargeRead = std::uint64_t{16} << 10;

std::uint16_t type_of(IoKind kind) noexcept {
  switch (kind) {
    case IoKind::kRead: return 0;
    case IoKind::kWrite: return 1;
    case IoKind::kFlush: return 3;
    case IoKind::kDiscard: return 4;
    case IoKind::kWriteZeroes: return 6;
    case IoKind::kSecureErase: break;
  }
  return 0;  // not reached: a remote disk has no erase
}

std::uint16_t flags_of(const RemoteCommand::Work& work) noexcept {
  std::uint16_t flags = 0;
  if (is_nbd_change(work.kind) && work.durability == Durability::kStable) flags |= kFlagFua;
  const bool keeps_blocks = work.kind == IoKind::kWriteZeroes && work.unmap == Unmap::kForbidden;
  if (keeps_blocks) flags |= kFlagNoHole;
  return flags;
}

/// A request's header.
struct Request {
  std::uint16_t flags;
  std::uint16_t type;
  std::uint64_t cookie;
  std::uint64_t offset;
  std::uint32_t length;
};

template <typename T>
std::byte* put(std::byte* at, T value) noexcept {
  if constexpr (std::endian::native == std::endian::little) value = std::byteswap(value);
  std::memcpy(at, &value, sizeof value);
  return at + sizeof value;
}

template <typename T>
T get(const std::byte* at) noexcept {
  T value;
  std::memcpy(&value, at, sizeof value);
  return std::endian::native == std::endian::little ? std::byteswap(value) : value;
}

std::array<std::byte, 28> encode(const Request& request) noexcept {
  std::array<std::byte, 28> bytes{};
  std::byte* at = put(bytes.data(), kRequestMagic);
  at = put(at, request.flags);
  at = put(at, request.type);
  at = put(at, request.cookie);
  at = put(at, request.offset);
  put(at, request.length);
  return bytes;
}

/// The protocol's numbers are Linux's; others stand for EINVAL.
int errno_of(std::uint32_t error) noexcept {
  constexpr std::array kKnown = {0,      EPERM,     EIO,        ENOMEM,   EINVAL,
                                 ENOSPC, EOVERFLOW, EOPNOTSUPP, ESHUTDOWN};
  const auto number = static_cast<int>(error);
  return std::ranges::find(kKnown, number) != kKnown.end() ? number : EINVAL;
}

constexpr Request kFarewell{.flags = 0, .type = kDisconnect, .cookie = 0, .offset = 0, .length = 0};

std::span<const std::byte> payload_of(const RemoteCommand& command) noexcept {
  if (command.work().kind != IoKind::kWrite) return {};
  return command.work().data;
}

std::string text_of(int error) { return std::generic_category().message(error); }

}  // namespace

PlainConnection::PlainConnection(uring::Loop& loop, UniqueFd socket, Owner& owner)
    : NbdConnection(owner),
      loop_(loop),
      socket_(std::move(socket)),
      inbox_(std::make_unique_for_overwrite<std::byte[]>(kInboxBytes)),
      readable_(loop, [this](std::int32_t) { on_readable(); }),
      writable_(loop, [this](std::int32_t) { run(); }) {
  readable_.poll(socket_.get(), POLLIN);
}

PlainConnection::~PlainConnection() {
  GUESTIO_CHECK(in_flight() == 0, "no command in flight on a connection that is destroyed");
  if (!socket_) return;
  // A word of farewell, if the socket takes it: servers report its absence.
  const auto request = encode(kFarewell);
  (void)::send(socket_.get(), request.data(), request.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
  // The kernel may still poll the socket: closing it does not end the connection at once.
  (void)::shutdown(socket_.get(), SHUT_WR);
}

std::uint32_t PlainConnection::take_slot() {
  if (free_slots_.empty()) {
    slots_.emplace_back();
    return static_cast<std::uint32_t>(slots_.size() - 1);
  }
  const std::uint32_t index = free_slots_.back();
  free_slots_.pop_back();
  return index;
}

void PlainConnection::submit(RemoteCommand& command) noexcept {
  if (!socket_) return command.complete(fail(ErrorKind::kClosed, "NBD server"));
  const RemoteCommand::Work& work = command.work();
  const std::uint32_t index = take_slot();
  Slot& slot = slots_[index];
  slot.command = &command;
  slot.is_sent = false;
  ++slot.generation;
  slot.request = encode({.flags = flags_of(work),
                         .type = type_of(work.kind),
                         .cookie = std::uint64_t{slot.generation} << 32 | index,
                         .offset = work.kind == IoKind::kFlush ? 0 : work.offset.raw(),
                         .length = static_cast<std::uint32_t>(work.length)});
  if (work.kind == IoKind::kRead) {
    ++reads_;
    read_bytes_ += work.length;
  }
  outbox_.push_back(index);
  // With a full socket the rest waits in order.
  if (!writable_.is_waiting()) loop_.defer(*this);
}

void PlainConnection::run() noexcept {
  if (socket_ && !outbox_.empty()) (void)send_outbox();
}

bool PlainConnection::send_outbox() {
  while (!outbox_.empty()) {
    std::array<iovec, kMaxSegments> segments;
    std::size_t count = 0;
    std::size_t skip = front_sent_;
    std::size_t bytes = 0;
    for (const std::uint32_t index : outbox_) {
      if (count + 2 > kMaxSegments) break;
      const Slot& slot = slots_[index];
      for (const std::span<const std::byte> part :
           {std::span<const std::byte>(slot.request), payload_of(*slot.command)}) {
        const std::size_t skipped = std::min(skip, part.size());
        skip -= skipped;
        if (skipped == part.size()) continue;
        const auto rest = part.subspan(skipped);
        // sendmsg() does not write to it.
        segments[count++] = {.iov_base = const_cast<std::byte*>(rest.data()),
                             .iov_len = rest.size()};
        bytes += rest.size();
      }
    }
    msghdr message{};
    message.msg_iov = segments.data();
    message.msg_iovlen = count;
    const auto sent = ::sendmsg(socket_.get(), &message, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent < 0 && errno == EINTR) continue;
    if (sent < 0 && errno != EAGAIN) {
      lose("send: " + text_of(errno));
      return false;
    }
    if (sent > 0) advance_outbox(static_cast<std::size_t>(sent));
    if (sent < 0 || static_cast<std::size_t>(sent) < bytes) {
      if (!writable_.is_waiting()) writable_.poll(socket_.get(), POLLOUT);
      return true;
    }
  }
  return true;
}

void PlainConnection::advance_outbox(std::size_t sent) {
  sent += front_sent_;
  while (!outbox_.empty()) {
    const std::size_t size = kRequestBytes + payload_of(*slots_[outbox_.front()].command).size();
    if (sent < size) break;
    sent -= size;
    slots_[outbox_.front()].is_sent = true;
    outbox_.pop_front();
  }
  front_sent_ = sent;
}

void PlainConnection::on_readable() {
  for (int i = 0; i < kMaxReceivesPerTurn; ++i) {
    // After the end of the connection this object may be gone.
    if (!receive()) return;
  }
  readable_.poll(socket_.get(), POLLIN);
}

void PlainConnection::wait_for_replies() {
  const std::uint64_t received = replies() - std::exchange(replies_batched_, replies());
  const std::uint64_t read_bytes = reads_ == 0 ? kReplyBytes : read_bytes_ / reads_ + kReplyBytes;
  const auto pause =
      batching_.next(ReplyBatching::Clock::now(), received, in_flight(), kInboxBytes / read_bytes);
  if (received == 0 || pause == ReplyBatching::Duration(0)) {
    return readable_.poll(socket_.get(), POLLIN);
  }
  readable_.sleep(pause);
}

bool PlainConnection::expects_large_reads() const noexcept {
  return reads_ != 0 && read_bytes_ / reads_ >= kLargeRead;
}

bool PlainConnection::receive() {
  if (inbox_begin_ == inbox_end_) {
    inbox_begin_ = inbox_end_ = 0;
  } else if (inbox_begin_ != 0) {
    // Less than a header.
    std::memmove(inbox_.get(), inbox_.get() + inbox_begin_, inbox_end_ - inbox_begin_);
    inbox_end_ -= std::exchange(inbox_begin_, 0);
  }
  // Of large payloads only the next header goes through the inbox.
  const std::size_t limit = expects_large_reads() ? kReplyBytes : kInboxBytes;
  std::array<iovec, 2> segments{
      iovec{.iov_base = payload_.data(), .iov_len = payload_.size()},
      iovec{.iov_base = inbox_.get() + inbox_end_, .iov_len = limit - inbox_end_}};
  msghdr message{};
  message.msg_iov = segments.data() + (payload_.empty() ? 1 : 0);
  message.msg_iovlen = payload_.empty() ? 1 : 2;
  const auto count = ::recvmsg(socket_.get(), &message, MSG_DONTWAIT);
  if (count < 0 && (errno == EAGAIN || errno == EINTR)) {
    readable_.poll(socket_.get(), POLLIN);
    return false;
  }
  if (count <= 0) {
    lose(count == 0 ? "the server closed the connection" : "receive: " + text_of(errno));
    return false;
  }
  const std::size_t wanted = payload_.size() + segments[1].iov_len;
  const auto received = static_cast<std::size_t>(count);
  const std::size_t of_payload = std::min(received, payload_.size());
  inbox_end_ += received - of_payload;
  if (!payload_.empty()) {
    payload_ = payload_.subspan(of_payload);
    if (payload_.empty()) finish_reply(0);
  }
  if (!parse_inbox()) return false;
  // What has arrived is taken: a further receive would find nothing, in most cases.
  if (received == wanted) return true;
  wait_for_replies();
  return false;
}

bool PlainConnection::parse_inbox() {
  while (payload_.empty() && inbox_end_ - inbox_begin_ >= kReplyBytes) {
    const std::span<const std::byte> header(inbox_.get() + inbox_begin_, kReplyBytes);
    inbox_begin_ += kReplyBytes;
    if (!begin_reply(header)) return false;
    const std::size_t here = std::min(payload_.size(), inbox_end_ - inbox_begin_);
    if (here == 0) continue;
    std::memcpy(payload_.data(), inbox_.get() + inbox_begin_, here);
    inbox_begin_ += here;
    payload_ = payload_.subspan(here);
    if (payload_.empty()) finish_reply(0);
  }
  return true;
}

bool PlainConnection::begin_reply(std::span<const std::byte> header) {
  const auto magic = get<std::uint32_t>(header.data());
  const auto error = get<std::uint32_t>(header.data() + 4);
  const auto cookie = get<std::uint64_t>(header.data() + 8);
  if (magic != kReplyMagic) {
    violate(fmt::format("reply with magic {:#x}", magic));
    return false;
  }
  const std::uint64_t index = cookie & 0xffffffff;
  const bool is_known = index < slots_.size() && slots_[index].command != nullptr &&
                        slots_[index].is_sent && slots_[index].generation == cookie >> 32;
  if (!is_known) {
    violate(fmt::format("reply to no request (cookie {:#x})", cookie));
    return false;
  }
  replied_slot_ = static_cast<std::uint32_t>(index);
  const RemoteCommand::Work& work = slots_[index].command->work();
  if (error == 0 && work.kind == IoKind::kRead) {
    payload_ = work.data;
  } else {
    finish_reply(errno_of(error));
  }
  return true;
}

void PlainConnection::finish_reply(int error) {
  count_reply();
  Slot& slot = slots_[replied_slot_];
  RemoteCommand& command = *std::exchange(slot.command, nullptr);
  free_slots_.push_back(replied_slot_);
  const IoKind kind = command.work().kind;
  if (kind == IoKind::kRead) {
    --reads_;
    read_bytes_ -= command.work().length;
  }
  // May submit others.
  command.complete(nbd_result(kind, error));
}

bool PlainConnection::has_changes_in_flight() const noexcept {
  const auto is_begun = [this](const Slot& slot) {
    return slot.is_sent || (front_sent_ != 0 && &slot == &slots_[outbox_.front()]);
  };
  return std::ranges::any_of(slots_, [&](const Slot& slot) {
    return slot.command != nullptr && is_begun(slot) && is_nbd_change(slot.command->work().kind);
  });
}

std::vector<std::byte> PlainConnection::make_rest() const {
  std::vector<std::byte> rest;
  if (front_sent_ != 0) {
    const Slot& slot = slots_[outbox_.front()];
    const auto payload = payload_of(*slot.command);
    rest.assign(slot.request.begin(), slot.request.end());
    rest.insert(rest.end(), payload.begin(), payload.end());
    rest.erase(rest.begin(), rest.begin() + static_cast<std::ptrdiff_t>(front_sent_));
  }
  const auto farewell = encode(kFarewell);
  rest.insert(rest.end(), farewell.begin(), farewell.end());
  return rest;
}

NbdUnfinished PlainConnection::abandon() {
  NbdUnfinished unfinished;
  if (socket_) {
    unfinished = {
        .socket = std::move(socket_), .rest = make_rest(), .has_changes = has_changes_in_flight()};
  }
  fail_all();
  return unfinished;
}

void PlainConnection::lose(std::string cause) {
  socket_.reset();
  fail_all();
  owner().on_connection_lost(std::move(cause), NbdUnfinished());
}

void PlainConnection::violate(std::string cause) {
  NbdUnfinished unfinished = abandon();
  if (!unfinished.has_changes) unfinished = NbdUnfinished();
  owner().on_connection_lost(std::move(cause), std::move(unfinished));
}

void PlainConnection::fail_all() {
  outbox_.clear();
  front_sent_ = 0;
  payload_ = {};
  for (std::size_t index = 0; index < slots_.size(); ++index) {
    RemoteCommand* const command = std::exchange(slots_[index].command, nullptr);
    if (command == nullptr) continue;
    free_slots_.push_back(static_cast<std::uint32_t>(index));
    // Submissions meanwhile meet no socket.
    command->complete(fail(ErrorKind::kClosed, "NBD server"));
  }
}

}  // namespace guestio::disk
