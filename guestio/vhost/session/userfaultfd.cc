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
  if (!fd) return fail_host("create a userfaultfd");
  uffdio_api api{};
  api.api = UFFD_API;
  if (::ioctl(fd.get(), UFFDIO_API, &api) != 0) return fail_host("enable a userfaultfd");
  return std::unique_ptr<Userfaultfd>(new Userfaultfd(std::move(fd)));
}

Userfaultfd::~Userfaultfd() {
  // The front-end holds the descriptor too: to close ours ends no wait. The kernel refuses a range
  // unmapped since then, as it should.
  for (const Range& range : registered_) {
    uffdio_range unregistered{reinterpret_cast<std::uintptr_t>(range.start), range.size};
    (void)::ioctl(fd_.get(), UFFDIO_UNREGISTER, &unregistered);
  }
}

Result<> Userfaultfd::register_memory(const mem::GuestMemory& memory) {
  for (const mem::RegionInfo& region : memory.regions()) {
    // A region may be a part of its mapping's whole pages.
    const auto first = reinterpret_cast<std::uintptr_t>(region.host);
    const std::uintptr_t start = align_down(first, kPageSize);
    const std::uintptr_t end = align_up(first + region.length, kPageSize);
    const Range range{region.host - (first - start), end - start};
    // A second registration is harmless, and necessary where other memory lay before.
    uffdio_register request{};
    request.range = {reinterpret_cast<std::uintptr_t>(range.start), range.size};
    request.mode = UFFDIO_REGISTER_MODE_MISSING;
    if (::ioctl(fd_.get(), UFFDIO_REGISTER, &request) != 0) {
      return fail_host("register guest memory with a userfaultfd");
    }
    if (std::ranges::find(registered_, range) == registered_.end()) registered_.push_back(range);
  }
  return {};
}

}  // namespace guestio::vhost
