// SPDX-License-Identifier: MIT
#pragma once

#include <sys/uio.h>

#include <algorithm>
#include <cstddef>
#include <initializer_list>
#include <memory>
#include <type_traits>
#include <utility>

/// Guest memory as the kernel sees it.
namespace guestio::mem {

/// Host bytes that may be shared with the guest, laid out as an `iovec`. Not to be dereferenced:
/// they change and can go away at any moment (see recover.h). A default one is empty and may be
/// used in any way.
struct HostSegment {
  std::byte* data = nullptr;
  std::size_t length = 0;

  [[nodiscard]] constexpr bool is_empty() const noexcept { return length == 0; }
  /// Behind the last byte.
  [[nodiscard]] constexpr std::byte* end() const noexcept { return data + length; }
  /// The bytes [offset, offset + length) of these. Requires: they lie inside.
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

/// The segments as system calls take them. HostSegment has iovec's layout, and the kernel is the
/// only reader.
[[nodiscard]] inline const iovec* as_iovecs(const HostSegment* segments) noexcept {
  return reinterpret_cast<const iovec*>(segments);
}

/// Segments in a row, for GuestMemory::lock() to fill. Where they are stored is the business of
/// what derives from it: SegmentArray below, or something that takes nothing from the heap.
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

  /// The free places at the end, for a loop that keeps them in registers: it writes to `next` as
  /// long as that is not `end`, calls more_room() then, and use_room() once it is through.
  struct Room {
    HostSegment* next;
    HostSegment* end;
  };
  [[nodiscard]] Room room() noexcept { return {data_ + size_, data_ + capacity_}; }
  /// More of it, behind the segments that were written before `next`.
  [[nodiscard]] Room more_room(const HostSegment* next) {
    use_room(next);
    grow();
    return room();
  }
  void use_room(const HostSegment* next) noexcept {
    size_ = static_cast<std::size_t>(next - data_);
  }

 protected:
  SegmentList(HostSegment* storage, std::size_t capacity) noexcept
      : data_(storage), capacity_(capacity) {}
  ~SegmentList() = default;

  [[nodiscard]] std::size_t capacity() const noexcept { return capacity_; }
  /// Continues in other storage, with the first `size` segments of it.
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

/// A list that keeps N segments inside itself and more of them on the heap.
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

  // Not initialised: a lock of one segment should not pay for N.
  union Storage {
    Storage() noexcept {}
    HostSegment segments[N];
  } inline_;
  std::unique_ptr<HostSegment[]> heap_;
};

}  // namespace guestio::mem
