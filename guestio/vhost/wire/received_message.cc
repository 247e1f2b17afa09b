// SPDX-License-Identifier: MIT
#include "guestio/vhost/wire/received_message.h"

#include <sys/eventfd.h>

#include <cerrno>

namespace guestio::vhost {

Error descriptor_truncation_error() noexcept {
  const UniqueFd probe(::eventfd(0, EFD_CLOEXEC));
  if (!probe) return Error::from_errno("receive descriptors");
  return Error::host(EMFILE, "receive descriptors (or a security module refused them)");
}

Result<> DescriptorList::collect(msghdr& received) noexcept {
  const bool is_truncated = (received.msg_flags & MSG_CTRUNC) != 0;
  bool fits = true;
  for (cmsghdr* header = CMSG_FIRSTHDR(&received); header != nullptr;
       header = CMSG_NXTHDR(&received, header)) {
    if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) continue;
    const std::size_t count = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (std::size_t i = 0; i < count; ++i) {
      int fd = -1;
      std::memcpy(&fd, CMSG_DATA(header) + i * sizeof(int), sizeof(int));
      UniqueFd owned(fd);
      if (count_ < items_.size()) {
        items_[count_++] = std::move(owned);
      } else {
        fits = false;
      }
    }
  }
  if (!fits) return fail(Error::peer_fault("too many descriptors with a message", count_));
  if (is_truncated) return fail(descriptor_truncation_error());
  return {};
}

void DescriptorList::clear() noexcept {
  for (UniqueFd& item : items_) item.reset();
  count_ = 0;
}

}  // namespace guestio::vhost
