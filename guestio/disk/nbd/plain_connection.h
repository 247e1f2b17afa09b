// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "guestio/base/unique_fd.h"
#include "guestio/disk/nbd/loop_event.h"
#include "guestio/disk/nbd/nbd_connection.h"
#include "guestio/disk/nbd/reply_batching.h"
#include "guestio/disk/remote/remote_command.h"
#include "guestio/uring/loop.h"

namespace guestio::disk {

/// The transmission phase on a plain socket, with simple replies. libnbd's own costs two or three
/// system calls a command; this one sends all commands of a batch in one call, and takes all
/// replies that have arrived in another.
///
///     request  magic 4 | flags 2 | type 2 | cookie 8 | offset 8 | length 4 | payload of a write
///     reply    magic 4 | error 4 | cookie 8 | payload of a successful read
///
/// 1. A cookie names a slot and its generation. A reply with any other cookie or magic ends the
/// connection, as does a reply for a command that is not sent.
/// 2. Replies are received into `inbox_`, from which small payloads are copied. The rest of a large
/// payload is received into its command's memory.
/// 3. Replies to small requests are received in batches (ReplyBatching).
class PlainConnection final : public NbdConnection, private uring::Deferred {
 public:
  /// `socket`: non-blocking, after the handshake.
  PlainConnection(uring::Loop& loop, UniqueFd socket, Owner& owner);
  ~PlainConnection() override;

  void submit(RemoteCommand& command) noexcept override;
  [[nodiscard]] std::size_t in_flight() const noexcept override {
    return slots_.size() - free_slots_.size();
  }
  NbdUnfinished abandon() override;

 private:
  static constexpr std::size_t kRequestBytes = 28;
  static constexpr std::size_t kReplyBytes = 16;
  static constexpr std::size_t kInboxBytes = std::size_t{64} << 10;

  struct Slot {
    RemoteCommand* command = nullptr;  // null: free
    std::uint32_t generation = 0;
    bool is_sent = false;
    std::array<std::byte, kRequestBytes> request{};
  };

  /// At the end of a batch.
  void run() noexcept override;
  /// Sends until the socket is full. Returns false at the end of the connection.
  bool send_outbox();
  void advance_outbox(std::size_t sent);
  void on_readable();
  void wait_for_replies();
  /// One receive. Returns whether more may have arrived.
  bool receive();
  /// Handles all of `inbox_`. Returns false at the end of the connection.
  bool parse_inbox();
  bool begin_reply(std::span<const std::byte> header);
  void finish_reply(int error);
  std::uint32_t take_slot();
  /// Whether the server has a change that it has not replied to, or a part of one.
  [[nodiscard]] bool has_changes_in_flight() const noexcept;
  /// What completes a request that is sent in part, and a disconnect.
  [[nodiscard]] std::vector<std::byte> make_rest() const;
  /// The peer has ended the connection.
  void lose(std::string cause);
  /// The peer has violated the protocol.
  void violate(std::string cause);
  void fail_all();
  [[nodiscard]] bool expects_large_reads() const noexcept;

  uring::Loop& loop_;
  UniqueFd socket_;  // empty: the connection has ended
  std::deque<Slot> slots_;
  std::vector<std::uint32_t> free_slots_;
  std::uint64_t reads_ = 0;       // in flight
  std::uint64_t read_bytes_ = 0;  // of them

  std::deque<std::uint32_t> outbox_;  // slots to send
  std::size_t front_sent_ = 0;        // bytes of its first command

  const std::unique_ptr<std::byte[]> inbox_;
  std::size_t inbox_begin_ = 0;
  std::size_t inbox_end_ = 0;
  std::uint32_t replied_slot_ = 0;  // of the payload that is being received
  std::span<std::byte> payload_{};  // its rest

  ReplyBatching batching_;
  std::uint64_t replies_batched_ = 0;  // replies() that batching_ knows
  LoopEvent readable_;                 // or the end of a pause in which replies gather
  LoopEvent writable_;
};

}  // namespace guestio::disk
