// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <memory>
#include <vector>

#include "guestio/base/error.h"
#include "guestio/base/unique_fd.h"
#include "guestio/mem/guest_memory.h"

/// Post-copy: memory that arrives while the guest already runs here.
namespace guestio::vhost {

/// A userfaultfd over our mappings of guest memory, which the front-end reads (vhost-user,
/// "Postcopy"). An access to a missing page waits until the front-end brings the page.
///
/// Requires a trusted front-end: the descriptor lets its holder put pages anywhere into this
/// process and keep its threads waiting.
///
/// Threads: one at a time. Lifetime: the destructor ends all waits; missing pages read as zeroes.
class Userfaultfd {
 public:
  /// Errors: host (not supported by the kernel, or not permitted).
  static Result<std::unique_ptr<Userfaultfd>> create();
  Userfaultfd(const Userfaultfd&) = delete;
  Userfaultfd& operator=(const Userfaultfd&) = delete;
  ~Userfaultfd();

  /// For the front-end; still owned here.
  [[nodiscard]] int fd() const noexcept { return fd_.get(); }
  /// From now on accesses to missing pages of this memory wait. Memory registered before stays so.
  /// Errors: host.
  Result<> register_memory(const mem::GuestMemory& memory);

 private:
  struct Range {
    std::byte* start;
    std::size_t size;
    bool operator==(const Range&) const = default;
  };

  explicit Userfaultfd(UniqueFd fd) noexcept : fd_(std::move(fd)) {}

  UniqueFd fd_;
  std::vector<Range> registered_;
};

}  // namespace guestio::vhost
