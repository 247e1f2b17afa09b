// SPDX-License-Identifier: MIT
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <list>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "guestio/base/error.h"
#include "guestio/uring/pinned_buffers.h"
#include "guestio/uring/ring.h"

/// Memory that the ring knows beforehand, so that operations on it need not look up and pin its
/// pages each time.
namespace guestio::uring {

/// Reads and writes of a list of segments that lie in one registered buffer; `buf_index` names it.
/// In Linux since 6.15 (include/uapi/linux/io_uring.h: IORING_OP_READV_FIXED, _WRITEV_FIXED); the
/// headers we build with are older.
inline constexpr int kOpReadvFixed = 60;
inline constexpr int kOpWritevFixed = 61;

/// Whether this process may lock as much memory as it likes: it has CAP_IPC_LOCK where the kernel
/// looks for it, or no limit. Where it may not, all processes of a user share one limit, from which
/// the rings themselves are taken too: who registers much keeps others from starting.
[[nodiscard]] bool is_memlock_unlimited() noexcept;

/// Somebody who knows whether registered pages are still those of the memory.
class BufferGuard {
 public:
  BufferGuard() = default;
  BufferGuard(const BufferGuard&) = delete;
  BufferGuard& operator=(const BufferGuard&) = delete;
  /// Whether these bytes, which lie in the registered memory, do. Quick. Any ring's thread.
  [[nodiscard]] virtual bool is_resident(const std::byte* data,
                                         std::size_t size) const noexcept = 0;
  /// Has the processor fetch what is_resident() will look at. For any bytes of the registered
  /// memory.
  virtual void prefetch(const std::byte* data, std::size_t size) const noexcept = 0;
  /// Some do not: a table has let the memory go. Any ring's thread, from each table.
  virtual void on_unregistered() noexcept = 0;

 protected:
  ~BufferGuard() = default;
};

/// What became of the wish to have memory registered.
struct RegisteredBufferStatistics {
  std::uint64_t registered_bytes = 0;  ///< now
  std::uint64_t buffers = 0;           ///< now
  std::uint64_t operations = 0;        ///< that named a buffer, so far
  std::uint64_t refusals = 0;          ///< of add(), so far
  int last_errno = 0;                  ///< of the last refusal that had one
};

/// The ring's table of registered memory.
///
///     memory:  [       1 GiB       |       1 GiB       | rest ]     one area, one Registration
///     slots:          7                    3              12        one each buffer
///
/// 1. Registration pins the pages that are there when it is made, and operations that name a buffer
///    use those, whatever became of the mapping since. Where memory is discarded or truncated
///    meanwhile, they move bytes to and from pages that nobody else sees, *without an error*. Where
///    that can happen, a BufferGuard is asked before each operation.
/// 2. What is added twice is registered once, until its last Registration goes.
/// 3. Parties that do not trust each other share the table: each may have so many slots that there
///    are some for all. Who adds counts itself (slots_used_by()); what has no owner counts for
///    nobody.
///
/// Threads: the ring's; statistics() any. Lifetime: outlives its Registrations (checked).
class RegisteredBuffers {
  struct Area;

 public:
  /// What the kernel takes as one buffer.
  static constexpr std::size_t kMaxBufferBytes = PinnedBuffers::kMaxBufferBytes;

  /// Memory stays registered as long as this lives. Requires: goes before the mapping does.
  /// Operations in flight are not disturbed when it goes: the kernel keeps their pages.
  class Registration {
   public:
    Registration() noexcept = default;
    Registration(Registration&& other) noexcept
        : table_(std::exchange(other.table_, nullptr)), area_(other.area_) {}
    Registration& operator=(Registration&& other) noexcept {
      std::swap(table_, other.table_);
      std::swap(area_, other.area_);
      return *this;
    }
    ~Registration() {
      if (table_ != nullptr) table_->release(*area_);
    }
    [[nodiscard]] explicit operator bool() const noexcept { return table_ != nullptr; }

   private:
    friend class RegisteredBuffers;
    Registration(RegisteredBuffers& table, Area& area) noexcept : table_(&table), area_(&area) {}
    RegisteredBuffers* table_ = nullptr;
    Area* area_ = nullptr;
  };

  /// `slots`: most buffers. The kernel's table is made when it is first needed.
  RegisteredBuffers(Ring& ring, unsigned slots, std::size_t buffer_bytes = kMaxBufferBytes) noexcept
      : ring_(ring), slots_(slots), buffer_bytes_(buffer_bytes) {}
  RegisteredBuffers(const RegisteredBuffers&) = delete;
  RegisteredBuffers& operator=(const RegisteredBuffers&) = delete;
  ~RegisteredBuffers();

  /// Registers all of `memory`, or nothing of it. Takes milliseconds a GiB, seconds where its pages
  /// are not there yet: for set-up.
  /// Errors: invalid-argument (no bytes), too-large (buffers needed, slots left), unsupported
  /// (memory of a kind that cannot be pinned: read-only, of a file on disk, not mapped; or a kernel
  /// before 5.19), host (ENOMEM: the memory-lock limit, or no memory).
  [[nodiscard]] Result<Registration> add(std::span<std::byte> memory, BufferGuard* guard = nullptr,
                                         const void* owner = nullptr);
  /// The same for memory that is pinned already: in microseconds. Requires: buffers of
  /// kMaxBufferBytes. `guard` (of both): outlives the Registrations.
  [[nodiscard]] Result<Registration> add(const PinnedBuffers& pinned, BufferGuard* guard,
                                         const void* owner = nullptr);

  // Whoever shares the table.

  void add_tenant() noexcept { ++tenants_; }
  void remove_tenant() noexcept { --tenants_; }
  /// What one of them may have, at least 1. A quarter of the table is left for what has no owner.
  [[nodiscard]] std::size_t slot_quota() const noexcept;
  /// What somebody has.
  [[nodiscard]] std::size_t slots_used_by(const void* owner) const noexcept;
  /// What some memory takes. Requires: bytes.
  [[nodiscard]] std::size_t slots_needed(std::span<const std::byte> memory) const noexcept {
    return (memory.size() - 1) / buffer_bytes_ + 1;
  }

  /// One Registration more for memory that is registered already, or none. Of memory that was let
  /// go too: it stays so until its last Registration goes.
  [[nodiscard]] Registration share(std::span<const std::byte> memory) noexcept;

  /// The index of a buffer that holds all of these bytes, with the pages that the memory has now.
  /// One comparison for the buffer that was found last. Memory whose guard finds a page gone is let
  /// go as a whole. Requires: size > 0.
  [[nodiscard]] std::optional<std::uint16_t> find(const void* data, std::size_t size) noexcept {
    if (buffers_.empty()) return std::nullopt;
    const auto start = reinterpret_cast<std::uintptr_t>(data);
    if (!buffers_[last_].contains(start, size) && !find_uncached(start, size)) return std::nullopt;
    const Buffer& buffer = buffers_[last_];
    BufferGuard* const guard = buffer.area->guard;
    if (guard == nullptr || guard->is_resident(static_cast<const std::byte*>(data), size))
        [[likely]]
      return buffer.slot;
    unregister(*buffer.area);
    return std::nullopt;
  }
  /// Has the processor fetch what find() will look at. A hint, for any bytes.
  void prefetch(const std::byte* data, std::size_t size) const noexcept {
    if (buffers_.empty()) return;
    const Buffer& buffer = buffers_[last_];
    if (!buffer.contains(reinterpret_cast<std::uintptr_t>(data), size)) return;
    if (buffer.area->guard != nullptr) buffer.area->guard->prefetch(data, size);
  }
  /// An operation names a buffer.
  void count_operation() noexcept {
    operations_.store(operations_.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
  }
  /// Whether kOpReadvFixed and kOpWritevFixed work. False before something is registered.
  [[nodiscard]] bool supports_vectored_fixed() const noexcept { return supports_vectored_fixed_; }
  /// That are registered.
  [[nodiscard]] std::size_t buffers() const noexcept { return buffers_.size(); }
  [[nodiscard]] RegisteredBufferStatistics statistics() const noexcept;

 private:
  struct Buffer {
    std::uintptr_t start;
    std::size_t size;
    std::uint16_t slot;
    Area* area;

    [[nodiscard]] bool contains(std::uintptr_t at, std::size_t length) const noexcept {
      return at >= start && length <= size && at - start <= size - length;
    }
  };
  struct Area {
    std::span<std::byte> memory;
    BufferGuard* guard;
    const void* owner;
    std::vector<std::uint16_t> slots;
    std::size_t uses = 0;
  };

  Result<Registration> add_counted(std::span<std::byte> memory, const PinnedBuffers* pinned,
                                   BufferGuard* guard, const void* owner);
  Result<Registration> add_new(std::span<std::byte> memory, const PinnedBuffers* pinned,
                               BufferGuard* guard, const void* owner);
  Result<> make_table();
  void count_registered() noexcept;
  Result<> add_buffer(std::size_t at, std::span<std::byte> memory, const PinnedBuffers* pinned,
                      Area& area);
  void release(Area& area) noexcept;
  void unregister(Area& area) noexcept;
  void remove_buffers(Area& area) noexcept;
  /// Makes the buffer that holds these bytes the last one. Returns whether there is one.
  bool find_uncached(std::uintptr_t start, std::size_t size) noexcept;

  Ring& ring_;
  const unsigned slots_;
  const std::size_t buffer_bytes_;
  unsigned tenants_ = 0;
  bool is_made_ = false;
  bool supports_vectored_fixed_ = false;
  std::vector<std::uint16_t> free_;
  std::vector<Buffer> buffers_;  // by start
  std::size_t last_ = 0;         // into buffers_, if there are any
  std::list<Area> areas_;

  // Written by the ring's thread, for people to look at from any: relaxed.
  std::atomic<std::uint64_t> registered_bytes_{0};
  std::atomic<std::uint64_t> registered_buffers_{0};
  std::atomic<std::uint64_t> operations_{0};
  std::atomic<std::uint64_t> refusals_{0};
  std::atomic<int> last_errno_{0};
};

}  // namespace guestio::uring
