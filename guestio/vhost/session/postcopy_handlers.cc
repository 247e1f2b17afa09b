// SPDX-License-Identifier: MIT
#include "guestio/vhost/session/postcopy_handlers.h"

#include <cstdint>
#include <cstring>
#include <utility>

namespace guestio::vhost {

Result<Reply> PostcopyHandlers::handle_postcopy_advise() {
  if (auto required = session_.require_feature(kProtocolPagefault); !required) {
    return fail(required.error());
  }
  auto created = Userfaultfd::create();
  if (!created) return fail(created.error());
  faults_ = std::move(*created);
  Reply reply = Reply::empty();
  reply.descriptor = faults_->fd();
  return reply;
}

Result<Reply> PostcopyHandlers::handle_postcopy_listen() {
  if (auto required = session_.require_feature(kProtocolPagefault); !required) {
    return fail(required.error());
  }
  if (!faults_) return fail(Error::peer_fault("POSTCOPY_LISTEN without POSTCOPY_ADVISE"));
  is_memory_arriving_ = true;
  if (auto registered = register_memory(); !registered) return fail(registered.error());
  return Reply::empty();
}

Result<Reply> PostcopyHandlers::handle_postcopy_end() {
  if (auto required = session_.require_feature(kProtocolPagefault); !required) {
    return fail(required.error());
  }
  is_memory_arriving_ = false;
  faults_.reset();
  return Reply::of(std::uint64_t{0});
}

Result<> PostcopyHandlers::register_memory() {
  if (!is_memory_arriving_ || !session_.memory) return {};
  return faults_->register_memory(session_.memory->memory());
}

bool PostcopyHandlers::is_end_of_memory_messages() const noexcept {
  return is_memory_arriving_ && session_.message.header.size == sizeof(std::uint64_t);
}

Result<Reply> PostcopyHandlers::reply_with_addresses(std::size_t first, std::size_t count) const {
  Reply reply = Reply::empty();
  const std::size_t size = first + count * sizeof(MemoryRegion);
  if (size > reply.payload.size()) {
    return fail(Error::peer_fault("memory table too large for a reply", size));
  }
  std::memcpy(reply.payload.data(), session_.message.bytes.data(), size);
  for (std::size_t at = first; at < size; at += sizeof(MemoryRegion)) {
    MemoryRegion region{};
    std::memcpy(&region, &reply.payload[at], sizeof region);
    const auto host = session_.memory->memory().host_range(Gpa(region.guest_address), region.size);
    if (!host) return fail(host.error());
    region.user_address = reinterpret_cast<std::uintptr_t>(*host);
    std::memcpy(&reply.payload[at], &region, sizeof region);
  }
  reply.size = size;
  reply.kind = Reply::Kind::kAlways;
  return reply;
}

}  // namespace guestio::vhost
