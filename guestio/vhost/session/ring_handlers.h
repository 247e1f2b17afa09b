// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <memory>

#include "guestio/base/error.h"
#include "guestio/base/unique_fd.h"
#include "guestio/task/task.h"
#include "guestio/vhost/inflight/inflight_record.h"
#include "guestio/vhost/session/reply.h"
#include "guestio/vhost/session/session_context.h"
#include "guestio/vhost/wire/ring_event.h"

namespace guestio::vhost {

/// Messages about rings and their in-flight record. SET_VRING_NUM, _BASE, _ADDR, _KICK and
/// VRING_KICK start the ring when it then has all that it needs.
///
/// Threads: the control thread. Lifetime: the context outlives it.
class RingHandlers {
 public:
  explicit RingHandlers(SessionContext& session) noexcept : session_(session) {}

  task::Task<Result<Reply>> handle_set_vring_num();
  task::Task<Result<Reply>> handle_set_vring_base();
  task::Task<Result<Reply>> handle_set_vring_addr();
  task::Task<Result<Reply>> handle_set_vring_kick();
  Result<Reply> handle_set_vring_call();
  Result<Reply> handle_set_vring_err();
  task::Task<Result<Reply>> handle_set_vring_enable();
  /// Also starts a ring without a kick descriptor (vhost-user, "Ring states").
  task::Task<Result<Reply>> handle_vring_kick();
  task::Task<Result<Reply>> handle_get_vring_base();
  Result<Reply> handle_get_inflight_fd();
  Result<Reply> handle_set_inflight_fd();

 private:
  Result<RingSetup*> set_descriptor(RingEvent event);
  Result<UniqueFd> take_descriptor(std::uint16_t ring, RingEvent event);
  Result<> set_inband_descriptors(RingSetup& ring);
  task::Task<Result<Reply>> start_if_ready(RingSetup& ring);
  [[nodiscard]] Result<InflightDescription> inflight_payload() const;

  SessionContext& session_;
  /// The last record of GET_INFLIGHT_FD; its descriptor has to live until the reply is sent.
  std::shared_ptr<const InflightRecord> created_inflight_;
};

}  // namespace guestio::vhost
