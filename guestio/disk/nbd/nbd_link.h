// SPDX-License-Identifier: MIT
#pragma once

#include <boost/intrusive/list.hpp>

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "guestio/disk/nbd/loop_event.h"
#include "guestio/disk/nbd/nbd_connection.h"
#include "guestio/disk/nbd/nbd_connector.h"
#include "guestio/disk/nbd/nbd_farewell.h"
#include "guestio/disk/nbd/nbd_recovery.h"
#include "guestio/disk/nbd/nbd_status.h"
#include "guestio/disk/nbd/nbd_target.h"
#include "guestio/disk/remote/unflushed_writes.h"
#include "guestio/task/scope.h"
#include "guestio/task/task.h"
#include "guestio/uring/loop.h"

namespace guestio::disk {

/// The way of one loop to the server: a connection that is replaced when it is lost.
///
///     first connection ──► ready ──► away ──► connected ──► ready …
///                            └──► stalled ──┘     └ NbdRecovery
///
/// 1. Commands wait until the first connection is ready, up to its first failed attempt. Later ones
/// fail with kClosed at once while no connection is ready; subscribers hear of the next one.
/// 2. A connection without a reply for the I/O timeout is stalled and is given up. If the server
/// may still perform changes from its receive queue, they would land on newer data. The link
/// therefore ends its direction of the connection, and connects only after the server has closed
/// the other.
/// 3. `check` decides whether a new connection leads to the same disk.
/// 4. If the server has a write-back cache, the unflushed writes are sent again before anything
/// else (NbdRecovery).
///
/// Threads: the loop's; the constructor any. Lifetime: the loop, and what `check` and `status`
/// refer to, the recovery and the writes outlive it. No command is in flight at destruction.
class NbdLink final : public NbdConnection::Owner {
 public:
  /// Of a connector's thread. Returns why the export is not the disk's.
  using Check = std::function<std::optional<std::string>(const NbdExport& facts)>;
  struct Options {
    NbdTarget target;
    Check check;
    NbdStatus& status;
    NbdRecovery& recovery;
    const UnflushedWrites* unflushed;  ///< null: the server has no write-back cache
    std::uint64_t range_block = 0;     ///< RemoteLimits::range_block
    NbdHandle first;                   ///< empty: connects
  };

  NbdLink(uring::Loop& loop, Options options);
  NbdLink(const NbdLink&) = delete;
  NbdLink& operator=(const NbdLink&) = delete;
  ~NbdLink();

  void submit(RemoteCommand& command) noexcept;
  [[nodiscard]] uring::Loop& loop() noexcept { return loop_; }

  /// Hears that the server is back. Unsubscribed by destruction.
  class Subscriber : public boost::intrusive::list_base_hook<
                         boost::intrusive::link_mode<boost::intrusive::auto_unlink>> {
   public:
    virtual void on_connected() = 0;

   protected:
    ~Subscriber() = default;
  };
  void subscribe(Subscriber& subscriber) { subscribers_.push_back(subscriber); }

 private:
  using Clock = std::chrono::steady_clock;
  /// What a connector's thread knows of the link.
  struct Mail;
  class Sent;

  void begin();
  void on_connection_lost(std::string cause, NbdUnfinished unfinished) override;
  void connect();
  void on_connected(NbdHandle handle);
  void on_first_failure();
  void fail_waiting();
  void wait_for_first(RemoteCommand& command) noexcept;
  void send(RemoteCommand& command) noexcept;
  void become_ready();
  /// Sends the unflushed writes again.
  void repeat();
  task::Task<> repeat_writes(NbdRecovery::Epoch epoch);
  task::Task<> repeat_one(RemoteCommand::Work work, Result<>& result);
  void on_repeat_failed(const Error& cause);
  void watch();
  void on_tick();
  void give_up(const std::string& cause);
  /// Connects again, and requests wait for it: a takeover.
  void begin_anew();
  /// Connects, or waits before that until the server has closed `unfinished`.
  void replace(const std::string& cause, NbdUnfinished unfinished);
  /// The server performs no more requests of the lost connection.
  void on_gone();

  uring::Loop& loop_;
  const NbdTarget target_;
  const Check check_;
  NbdStatus& status_;
  NbdRecovery& recovery_;
  const UnflushedWrites* const unflushed_;
  const std::uint64_t range_block_;
  NbdHandle first_;
  bool waits_for_first_ = true;
  std::unique_ptr<NbdConnection> connection_;
  NbdRecovery::Epoch epoch_ = 0;  // of connection_
  bool is_ready_ = false;         // connection_ takes requests
  bool is_announced_ = false;     // subscribers hear of it
  bool is_away_ = false;          // for status_
  bool pauses_ = false;           // before the next attempt to connect
  task::Scope repeating_;
  boost::intrusive::list<RemoteCommand> waiting_;  // for the first connection
  boost::intrusive::list<Subscriber, boost::intrusive::constant_time_size<false>> subscribers_;

  std::uint64_t replies_seen_ = 0;  // of connection_
  Clock::time_point replied_at_{};  // about the last reply, or the start of the oldest command
  LoopEvent tick_;

  std::optional<NbdFarewell> farewell_;  // to a connection that was given up

  std::shared_ptr<Mail> mail_;
  std::unique_ptr<NbdConnector> connector_;
  LoopEvent connect_again_;
};

}  // namespace guestio::disk
