// SPDX-License-Identifier: MIT
#pragma once

#include <sys/uio.h>

#include <algorithm>
#include <cstddef>
#include <initializer_list>
#include <memory>
#include <type_traits>
#include <utility>

/// Guest memory in host addresses, for the kernel.
namespace guestio::mem {

/// Host bytes, possibly shared with the guest, with the layout of `iovec`. Never dereferenced: they
/// change and can be unmapped at any moment (recover.h). A default one is empty and valid.
struct HostSegment {
  std::byte* data = nullptr;
  std::size_t length = 0;

  [[nodiscard]] constexpr bool is_empty() const noexcept { return length == 0; }
  /// Past the last byte.
  [[nodiscard]] constexpr std::byte* end() const noexcept { return data + length; }
  /// The bytes [offset, offset + length). Requires: they lie inside.
  [[nodiscard]] constexpr HostSegment subsegment(std::size_t part_offset,
                                                 std::size_t part_length) const noexcept {
    return {data + part_offset, part_length};
  }

  friend bool operator==(const HostSegment&, const HostSegment&) noexcept = default;
};

static_assert(sizeof(HostSegment) == sizeof(iovec) && alignof(HostSegment) == alignof(iovec));
static_assert(offsetof(HostSegment, data) == offsetof(iovec, iov_base));
static_assert(offsetof(HostSegment, length) == offsetof(iovec, iov_len));
static_assert(std::is_trivially_copyable_v<HostSegment> && std::is_standard_layout_v<HostSegment>);

/// The segments for system calls. Safe: HostSegment has iovec's layout, and only the kernel reads
/// it.
[[nodiscard]] inline const iovec* as_iovecs(const HostSegment* segments) noexcept {
  return reinterpret_cast<const iovec*>(segments);
}

/// A list of segments, filled by GuestMemory::lock(). The derived class owns the storage:
/// SegmentArray below, or one without heap allocations.
class SegmentList {
 public:
  using value_type = HostSegment;
  using const_iterator = const HostSegment*;

  SegmentList(const SegmentList&) = delete;
  SegmentList& operator=(const SegmentList&) = delete;

  [[nodiscard]] std::size_t size() const noexcept { return size_; }
  [[nodiscard]] bool empty() const noexcept { return size_ == 0; }
  [[nodiscard]] const HostSegment* data() const noexcept { return data_; }
  [[nodiscard]] HostSegment* begin() noexcept { return data_; }
  [[nodiscard]] HostSegment* end() noexcept { return data_ + size_; }
  [[nodiscard]] const HostSegment* begin() const noexcept { return data_; }
  [[nodiscard]] const HostSegment* end() const noexcept { return data_ + size_; }
  [[nodiscard]] const HostSegment& operator[](std::size_t index) const noexcept {
    return data_[index];
  }
  /// Requires: not empty.
  [[nodiscard]] HostSegment& back() noexcept { return data_[size_ - 1]; }

  void clear() noexcept { size_ = 0; }
  void push_back(const HostSegment& segment) {
    if (size_ == capacity_) [[unlikely]]
      grow();
    data_[size_++] = segment;
  }

  /// The spare capacity, for a loop that keeps it in registers: it writes to `next` until `end`,
  /// then calls grow_spare(), and commit() when done.
  struct Spare {
    HostSegment* next;
    HostSegment* end;
  };
  [[nodiscard]] Spare spare() noexcept { return {data_ + size_, data_ + capacity_}; }
  /// Commits the segments before `next` and grows the capacity.
  [[nodiscard]] Spare grow_spare(const HostSegment* next) {
    commit(next);
    grow();
    return spare();
  }
  void commit(const HostSegment* next) noexcept { size_ = static_cast<std::size_t>(next - data_); }

 protected:
  SegmentList(HostSegment* storage, std::size_t capacity) noexcept
      : data_(storage), capacity_(capacity) {}
  ~SegmentList() = default;

  [[nodiscard]] std::size_t capacity() const noexcept { return capacity_; }
  /// Continues in other storage with its first `size` segments.
  void use(HostSegment* storage, std::size_t capacity, std::size_t size) noexcept {
    data_ = storage;
    capacity_ = capacity;
    size_ = size;
  }
  /// Calls use() with larger storage that begins with the present segments.
  virtual void grow() = 0;

 private:
  HostSegment* data_;
  std::size_t size_ = 0;
  std::size_t capacity_;
};

/// A list with N inline segments and more on the heap.
template <std::size_t N>
class SegmentArray final : public SegmentList {
 public:
  SegmentArray() noexcept : SegmentList(inline_.segments, N) {}
  SegmentArray(std::initializer_list<HostSegment> segments) : SegmentArray() {
    for (const HostSegment& segment : segments) push_back(segment);
  }

 private:
  void grow() override {
    const std::size_t larger = 2 * capacity();
    auto storage = std::make_unique<HostSegment[]>(larger);
    std::copy(begin(), end(), storage.get());
    use(storage.get(), larger, size());
    heap_ = std::move(storage);
  }

  // Uninitialised: a lock of one segment must not pay for N.
  union Storage {
    Storage() noexcept {}
    HostSegment segments[N];
  } inline_;
  std::unique_ptr<HostSegment[]> heap_;
};

}  // namespace guestio::mem
