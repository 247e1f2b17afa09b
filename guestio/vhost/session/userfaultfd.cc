// SPDX-License-Identifier: MIT
#include "guestio/vhost/session/userfaultfd.h"

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>

#include "guestio/base/align.h"

namespace guestio::vhost {

Result<std::unique_ptr<Userfaultfd>> Userfaultfd::create() {
  UniqueFd fd(static_cast<int>(::syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK)));
  if (!fd) return fail_host("make a userfaultfd");
  uffdio_api api{};
  api.api = UFFD_API;
  if (::ioctl(fd.get(), UFFDIO_API, &api) != 0) return fail_host("use a userfaultfd");
  return std::unique_ptr<Userfaultfd>(new Userfaultfd(std::move(fd)));
}

Userfaultfd::~Userfaultfd() {
  // The front-end has the descriptor too, so closing ours ends nothing. A stretch that was unmapped
  // since then is refused, as it should be.
  for (const Stretch& stretch : watched_) {
    uffdio_range range{reinterpret_cast<std::uintptr_t>(stretch.start), stretch.size};
    (void)::ioctl(fd_.get(), UFFDIO_UNREGISTER, &range);
  }
}

Result<> Userfaultfd::register_memory(const mem::GuestMemory& memory) {
  for (const mem::RegionInfo& region : memory.regions()) {
    // The mapping consists of whole pages, of which the region may be a part.
    const auto first = reinterpret_cast<std::uintptr_t>(region.host);
    const std::uintptr_t start = align_down(first, kPageSize);
    const std::uintptr_t end = align_up(first + region.length, kPageSize);
    const Stretch stretch{region.host - (first - start), end - start};
    // Once more does no harm, and where other memory lay before it is needed.
    uffdio_register request{};
    request.range = {reinterpret_cast<std::uintptr_t>(stretch.start), stretch.size};
    request.mode = UFFDIO_REGISTER_MODE_MISSING;
    if (::ioctl(fd_.get(), UFFDIO_REGISTER, &request) != 0) {
      return fail_host("wait for pages of guest memory");
    }
    if (std::ranges::find(watched_, stretch) == watched_.end()) watched_.push_back(stretch);
  }
  return {};
}

}  // namespace guestio::vhost
