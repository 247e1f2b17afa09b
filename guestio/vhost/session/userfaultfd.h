// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <memory>
#include <vector>

#include "guestio/base/error.h"
#include "guestio/base/unique_fd.h"
#include "guestio/mem/guest_memory.h"

/// Post-copy: memory that arrives after the guest has begun to run here.
namespace guestio::vhost {

/// Has whoever touches a page of guest memory that has not arrived wait until the front-end brings
/// it: a userfaultfd over our mappings, which the front-end reads (vhost-user, "Postcopy").
///
/// Who holds that descriptor can put pages anywhere into this process and keep its threads waiting.
/// So it is made for front-ends only that are trusted.
///
/// Threads: one at a time. When it goes, nothing waits any more: what has not arrived is zeroes.
class Userfaultfd {
 public:
  /// Errors: host (the kernel has none, or not for us).
  static Result<std::unique_ptr<Userfaultfd>> create();
  Userfaultfd(const Userfaultfd&) = delete;
  Userfaultfd& operator=(const Userfaultfd&) = delete;
  ~Userfaultfd();

  /// For the front-end; stays ours.
  [[nodiscard]] int fd() const noexcept { return fd_.get(); }
  /// From now on pages of this memory that are missing are waited for. What was watched before
  /// stays so. Errors: host.
  Result<> register_memory(const mem::GuestMemory& memory);

 private:
  struct Stretch {
    std::byte* start;
    std::size_t size;
    bool operator==(const Stretch&) const = default;
  };

  explicit Userfaultfd(UniqueFd fd) noexcept : fd_(std::move(fd)) {}

  UniqueFd fd_;
  std::vector<Stretch> watched_;
};

}  // namespace guestio::vhost
