// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <memory>

#include "guestio/base/error.h"
#include "guestio/vhost/session/reply.h"
#include "guestio/vhost/session/session_context.h"
#include "guestio/vhost/session/userfaultfd.h"

namespace guestio::vhost {

/// Messages about post-copy migration: the guest runs here while its memory still arrives.
///
/// Threads: the control thread. Lifetime: the context outlives it.
class PostcopyHandlers {
 public:
  explicit PostcopyHandlers(SessionContext& session) noexcept : session_(session) {}

  Result<Reply> handle_postcopy_advise();
  Result<Reply> handle_postcopy_listen();
  Result<Reply> handle_postcopy_end();

  // For messages about memory.

  /// From POSTCOPY_LISTEN to POSTCOPY_END.
  [[nodiscard]] bool is_memory_arriving() const noexcept { return is_memory_arriving_; }
  /// Registers the present memory while memory arrives. Errors: host.
  /// Requires: no access to new memory yet. An access to a missing page would bring in zeroes.
  Result<> register_memory();
  /// A front-end ends the memory messages of this phase with one message that carries a number
  /// instead of regions. It expects no reply.
  [[nodiscard]] bool is_end_of_memory_messages() const noexcept;
  /// The present message with our addresses in its `count` regions, the first at offset `first`.
  /// The front-end identifies page faults by these addresses.
  [[nodiscard]] Result<Reply> reply_with_addresses(std::size_t first, std::size_t count) const;

  /// From POSTCOPY_ADVISE to POSTCOPY_END: threads of this process may wait for pages.
  [[nodiscard]] bool is_active() const noexcept { return faults_ != nullptr; }
  /// After a disconnect: releases all threads that wait for pages.
  void stop() noexcept { faults_.reset(); }

 private:
  SessionContext& session_;
  std::unique_ptr<Userfaultfd> faults_;
  bool is_memory_arriving_ = false;
};

}  // namespace guestio::vhost
