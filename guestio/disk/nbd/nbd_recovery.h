// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

namespace guestio::disk {

class NbdLink;

/// Brings the links of a disk back to a server that may have lost unflushed writes.
///
///     one connection is lost ─► all are given up ─► one link sends the unflushed writes again ─►
///     all links are ready
///
/// 1. No request reaches the server between the loss and the end of the repetition: no read misses
/// a write, and no old write lands on a newer one.
/// 2. The repetition begins when no connection of before is open, and starts anew with a further
/// loss.
/// 3. freeze() keeps it from beginning: another process may send them.
///
/// Threads: any. Lifetime: outlives the links.
class NbdRecovery {
 public:
  /// Numbers the connections between two losses.
  using Epoch = std::uint64_t;
  enum class Step : std::uint8_t { kReady, kRepeat, kWait };
  struct Next {
    Step step;
    Epoch epoch;
  };
  /// Functions of the link, called on its thread later. Those of an earlier epoch do nothing.
  class Member {
   public:
    virtual ~Member() = default;
    virtual void post_give_up(Epoch epoch) = 0;
    /// Gives up as well, but requests wait: nothing is lost.
    virtual void post_begin_anew(Epoch epoch) = 0;
    virtual void post_repeat(Epoch epoch) = 0;
    virtual void post_ready(Epoch epoch) = 0;
  };

  /// `is_needed`: the server has a write-back cache. Else each link is ready when it is connected.
  explicit NbdRecovery(bool is_needed) : is_needed_(is_needed) {}
  NbdRecovery(const NbdRecovery&) = delete;
  NbdRecovery& operator=(const NbdRecovery&) = delete;

  void join(const NbdLink& link, std::shared_ptr<Member> member);
  void leave(const NbdLink& link);

  /// The link has a connection. Returns what it does with it.
  [[nodiscard]] Next connected(const NbdLink& link);
  /// The connection is lost; the server may still perform requests of it.
  void lost(const NbdLink& link);
  /// The server has ended the lost connection.
  void gone(const NbdLink& link);
  /// The link has sent the unflushed writes of its epoch again.
  void repeated(Epoch epoch);
  /// As if a connection was lost, and frozen: there are unflushed writes of another process, which
  /// may still serve the disk.
  void restart();

  /// No repetition begins until unfreeze(). Returns false while one is running, or while the server
  /// may perform requests of a lost connection.
  [[nodiscard]] bool freeze();
  void unfreeze();

 private:
  enum class State : std::uint8_t { kAway, kEnding, kConnected };
  struct Entry {
    const NbdLink* link;
    std::shared_ptr<Member> member;
    State state = State::kAway;
  };

  [[nodiscard]] Entry& find(const NbdLink& link);
  void begin(void (Member::*function)(Epoch));
  void advance();

  const bool is_needed_;
  std::mutex mutex_;
  // protected by mutex_
  std::vector<Entry> entries_;
  Epoch epoch_ = 0;
  bool is_recovering_ = false;
  bool is_frozen_ = false;
  const NbdLink* repeater_ = nullptr;
};

}  // namespace guestio::disk
