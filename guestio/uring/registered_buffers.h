// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <cstdint>
#include <list>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "guestio/base/counter.h"
#include "guestio/base/error.h"
#include "guestio/uring/pinned_buffers.h"
#include "guestio/uring/ring.h"

/// Registered buffers of a ring: operations on them skip the look-up and pinning of pages.
namespace guestio::uring {

/// Vectored reads and writes within one registered buffer (`buf_index`). Needs Linux 6.15
/// (include/uapi/linux/io_uring.h: IORING_OP_READV_FIXED, _WRITEV_FIXED); our headers are older.
inline constexpr int kOpReadvFixed = 60;
inline constexpr int kOpWritevFixed = 61;

/// Whether this process may lock unlimited memory: with CAP_IPC_LOCK in the initial user namespace,
/// or without RLIMIT_MEMLOCK. Otherwise all processes of a user share one limit, which also covers
/// the rings themselves: large registrations keep other processes from starting.
[[nodiscard]] bool is_memlock_unlimited() noexcept;

/// Tells whether the pinned pages of a registration are still the pages of the memory.
class BufferGuard {
 public:
  BufferGuard() = default;
  BufferGuard(const BufferGuard&) = delete;
  BufferGuard& operator=(const BufferGuard&) = delete;
  /// Whether these bytes of the registered memory still have their pages. Fast. Any ring's thread.
  [[nodiscard]] virtual bool is_resident(const std::byte* data,
                                         std::size_t size) const noexcept = 0;
  /// Prefetches the data of is_resident(). For any bytes of the registered memory.
  virtual void prefetch(const std::byte* data, std::size_t size) const noexcept = 0;
  /// A table has unregistered the memory because of a missing page. Any ring's thread, once per
  /// table.
  virtual void on_unregistered() noexcept = 0;

 protected:
  ~BufferGuard() = default;
};

/// A snapshot of RegisteredBuffers::statistics().
struct RegisteredBufferStatistics {
  std::uint64_t registered_bytes = 0;  ///< now
  std::uint64_t buffers = 0;           ///< now
  std::uint64_t operations = 0;        ///< on registered buffers, so far
  std::uint64_t refusals = 0;          ///< of add(), so far
  int last_errno = 0;                  ///< of the last refusal with one
};

/// The ring's table of registered buffers.
///
///     memory:  [       1 GiB       |       1 GiB       | rest ]     one area, one Registration
///     slots:          7                    3              12        one per buffer
///
/// 1. A registration pins the pages present at that moment. Operations on it use those pages even
///    after the memory was discarded or truncated: they then transfer to and from orphaned pages,
///    *without an error*. Where that can happen, a BufferGuard is checked before each operation.
/// 2. Adding the same memory again shares the registration, until its last Registration goes.
/// 3. Tenants without mutual trust share the table. Each has a slot quota and charges its own use
///    (slots_used_by()); additions without an owner are not charged.
///
/// Threads: the ring's; statistics() any. Lifetime: outlives its Registrations (checked).
class RegisteredBuffers {
  struct Area;

 public:
  /// The kernel's maximum for one buffer.
  static constexpr std::size_t kMaxBufferBytes = PinnedBuffers::kMaxBufferBytes;

  /// Keeps memory registered. Requires: destroyed before the mapping.
  /// Operations in flight are unaffected: the kernel keeps their pages.
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

  /// `slots`: size of the kernel's table, which is made on first use.
  RegisteredBuffers(Ring& ring, unsigned slots, std::size_t buffer_bytes = kMaxBufferBytes) noexcept
      : ring_(ring), slots_(slots), buffer_bytes_(buffer_bytes) {}
  RegisteredBuffers(const RegisteredBuffers&) = delete;
  RegisteredBuffers& operator=(const RegisteredBuffers&) = delete;
  ~RegisteredBuffers();

  /// Registers all of `memory`, or fails. Takes milliseconds per GiB, or seconds for non-resident
  /// pages: for set-up.
  /// Errors: invalid-argument (empty), too-large (buffers needed, slots left), unsupported (memory
  /// that cannot be pinned: read-only, file-backed on disk, unmapped; or a kernel before 5.19),
  /// host (ENOMEM: memory-lock limit, or no memory).
  [[nodiscard]] Result<Registration> add(std::span<std::byte> memory, BufferGuard* guard = nullptr,
                                         const void* owner = nullptr);
  /// As above for pinned memory, in microseconds. Requires: buffers of kMaxBufferBytes.
  /// `guard` (of both): outlives the Registrations.
  [[nodiscard]] Result<Registration> add(const PinnedBuffers& pinned, BufferGuard* guard,
                                         const void* owner = nullptr);

  // Quotas of the tenants.

  void add_tenant() noexcept { ++tenants_; }
  void remove_tenant() noexcept { --tenants_; }
  /// The slots of one tenant, at least 1. A quarter of the table is kept for ownerless memory.
  [[nodiscard]] std::size_t slot_quota() const noexcept;
  [[nodiscard]] std::size_t slots_used_by(const void* owner) const noexcept;
  /// Requires: not empty.
  [[nodiscard]] std::size_t slots_needed(std::span<const std::byte> memory) const noexcept {
    return (memory.size() - 1) / buffer_bytes_ + 1;
  }

  /// Another Registration of registered memory, or an empty one. Memory unregistered by its guard
  /// stays so until its last Registration goes.
  [[nodiscard]] Registration share(std::span<const std::byte> memory) noexcept;

  /// The index of the buffer of all these bytes, if it still has the pages of the memory. Costs one
  /// comparison for the buffer of the last hit. Unregisters the whole area if its guard finds a
  /// missing page. Requires: size > 0.
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
  /// Prefetches the data of find(). A hint, for any bytes.
  void prefetch(const std::byte* data, std::size_t size) const noexcept {
    if (buffers_.empty()) return;
    const Buffer& buffer = buffers_[last_];
    if (!buffer.contains(reinterpret_cast<std::uintptr_t>(data), size)) return;
    if (buffer.area->guard != nullptr) buffer.area->guard->prefetch(data, size);
  }
  /// Counts an operation on a registered buffer.
  void count_operation() noexcept { ++operations_; }
  /// Whether the kernel has kOpReadvFixed and kOpWritevFixed. False before the first registration.
  [[nodiscard]] bool supports_vectored_fixed() const noexcept { return supports_vectored_fixed_; }
  /// Number of registered buffers.
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
    std::size_t registrations = 0;
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
  /// Sets last_ to the buffer of these bytes. Returns whether there is one.
  bool find_uncached(std::uintptr_t start, std::size_t size) noexcept;

  Ring& ring_;
  const unsigned slots_;
  const std::size_t buffer_bytes_;
  unsigned tenants_ = 0;
  bool has_table_ = false;
  bool supports_vectored_fixed_ = false;
  std::vector<std::uint16_t> free_;
  std::vector<Buffer> buffers_;  // by start
  std::size_t last_ = 0;         // index into buffers_, unless empty
  std::list<Area> areas_;

  // Written by the ring's thread, read by any.
  Counter registered_bytes_;
  Counter registered_buffers_;
  Counter operations_;
  Counter refusals_;
  Counter last_errno_;
};

}  // namespace guestio::uring
