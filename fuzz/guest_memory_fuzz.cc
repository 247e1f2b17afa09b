// SPDX-License-Identifier: MIT
// Operations on guest memory over several regions with holes, bitmaps, unmapped parts and every
// lock mode, and on views of views of it, compared with a map of single bytes.
#include <memory>
#include <optional>
#include <set>

#include "fuzz/program.h"
#include "guestio/base/check.h"
#include "guestio/mem/any_range.h"
#include "guestio/mem/backing.h"
#include "guestio/mem/guest_memory.h"
#include "guestio/mem/host_segment.h"

namespace guestio::fuzz {
namespace {

using mem::Access;
using mem::AddressRange;
using mem::AnyRange;
using mem::GuestMemory;
using mem::PagedRange;

constexpr std::size_t kBackings = 3;
constexpr std::size_t kPages = 4;  // of each
constexpr std::size_t kBytes = kPages * kPageSize;
constexpr std::size_t kGuestPages = 24;  // where most regions lie
constexpr std::size_t kMaxLength = 3 * kPageSize;

/// A backing with the special properties chosen by the program. All its bytes exist; its reported
/// properties select the path of an access.
class FuzzBacking final : public mem::Backing {
 public:
  explicit FuzzBacking(std::span<std::byte> bytes) : bytes_(bytes) {}

  void reset(Program& program, std::byte value) {
    std::memset(bytes_.data(), static_cast<int>(value), bytes_.size());
    const auto flags = program.take<std::uint8_t>();
    mapped = (flags & 1) != 0 ? program.index(kBytes) : kBytes;
    writable = (flags & 6) != 6;
    need = static_cast<mem::LockMode>((flags >> 3) % 3);
    falls_back = (flags & 32) != 0;
    const auto allowed = program.take<std::uint8_t>();
    for (const Access access : {Access::kRead, Access::kWrite}) {
      const bool of_writes = access == Access::kWrite;
      has_bitmap[of_writes] = (flags & (of_writes ? 128 : 64)) != 0;
      bitmaps_[of_writes] = (of_writes ? allowed >> 4 : allowed) & 15;
    }
  }
  [[nodiscard]] bool allows(Access access, std::uint64_t offset) const {
    const bool of_writes = access == Access::kWrite;
    return !has_bitmap[of_writes] || ((bitmaps_[of_writes] >> (offset / kPageSize)) & 1) != 0;
  }

  std::size_t mapped = kBytes;
  bool writable = true;
  bool falls_back = false;
  mem::LockMode need = mem::LockMode::kNothing;
  bool has_bitmap[2] = {};
  std::size_t locked_bytes = 0;

  ByteCount size() const noexcept override { return ByteCount(kBytes); }
  std::span<std::byte> mapping() const noexcept override { return bytes_.first(mapped); }
  Mapping::Access access() const noexcept override {
    return writable ? Mapping::Access::kReadWrite : Mapping::Access::kRead;
  }
  std::optional<mem::AccessBitmap> bitmap(Access access) const noexcept override {
    const bool of_writes = access == Access::kWrite;
    if (!has_bitmap[of_writes]) return std::nullopt;
    return mem::AccessBitmap(&bitmaps_[of_writes], 1);
  }
  mem::LockMode lock_mode() const noexcept override { return need; }
  std::optional<std::uint64_t> base_iova() const noexcept override { return {}; }
  std::vector<mem::ShareableRange> shareable_ranges() const override { return {}; }
  mem::FaultAction on_page_fault(const mem::PageFault& fault) noexcept override {
    check_part(fault.offset, fault.length);
    GUESTIO_CHECK(fault.cause == mem::PageFault::Cause::kDenied, "memory that does not fault");
    return falls_back ? mem::FaultAction::kFallBack : mem::FaultAction::kFail;
  }
  Result<> read_fallback(std::uint64_t offset, std::span<std::byte> to) noexcept override {
    check_part(offset, to.size());
    std::memcpy(to.data(), bytes_.data() + offset, to.size());
    return {};
  }
  Result<> write_fallback(std::uint64_t offset, std::span<const std::byte> from) noexcept override {
    check_part(offset, from.size());
    std::memcpy(bytes_.data() + offset, from.data(), from.size());
    return {};
  }
  Result<> fill_fallback(std::uint64_t offset, std::byte value,
                         std::uint64_t length) noexcept override {
    check_part(offset, length);
    std::memset(bytes_.data() + offset, static_cast<int>(value), length);
    return {};
  }
  Result<bool> compare_exchange_fallback(std::uint64_t offset, std::span<std::byte> expected,
                                         std::span<const std::byte> desired) noexcept override {
    check_part(offset, desired.size());
    std::byte* const at = bytes_.data() + offset;
    if (std::memcmp(at, expected.data(), expected.size()) != 0) {
      std::memcpy(expected.data(), at, expected.size());
      return false;
    }
    std::memcpy(at, desired.data(), desired.size());
    return true;
  }
  Result<> lock_pages(std::uint64_t offset, std::uint64_t length) noexcept override {
    check_part(offset, length);
    locked_bytes += length;
    return {};
  }
  void unlock_pages(std::uint64_t offset, std::uint64_t length) noexcept override {
    check_part(offset, length);
    GUESTIO_CHECK(locked_bytes >= length, "to unlock locked pages");
    locked_bytes -= length;
  }
  Result<> expose(std::uint64_t, std::uint64_t) noexcept override { return {}; }

 private:
  static void check_part(std::uint64_t offset, std::uint64_t length) {
    GUESTIO_CHECK(length != 0 && fits_within(offset, length, kBytes), "a part of the backing");
  }

  std::span<std::byte> bytes_;
  std::atomic<std::uint64_t> bitmaps_[2] = {};
};

alignas(kPageSize) std::array<std::array<std::byte, kBytes>, kBackings> truth;
std::array<std::shared_ptr<FuzzBacking>, kBackings> backings;

/// One region of the model.
struct Part {
  std::uint64_t start;
  std::uint64_t length;
  std::size_t backing;
  std::uint64_t offset;
};

/// A byte of a buffer: its address, or an invalid page number.
struct Place {
  std::uint64_t value;
  bool is_address = true;
};

/// A range for the library and the same for the model.
struct Buffer {
  AnyRange range;
  std::vector<Place> places;
  std::vector<Gpn> gpns;             // referenced by the range
  std::vector<AddressRange> pieces;  // as well
};

class Game {
 public:
  explicit Game(Program& program) : program_(program), expected_(truth) {}

  void play() {
    if (!build()) return;
    for (std::size_t step = 0; step < 24 && !program_.is_over(); ++step) {
      switch (program_.index(10)) {
        case 0:
        case 1: copy(Access::kRead); break;
        case 2:
        case 3: copy(Access::kWrite); break;
        case 4: fill(); break;
        case 5: word(); break;
        case 6: lock(); break;
        case 7: probe(); break;
        case 8: host_range(); break;
        default: view();
      }
    }
    GUESTIO_CHECK(std::memcmp(&truth, &expected_, sizeof(truth)) == 0, "the bytes of the model");
  }

 private:
  /// False: correctly rejected regions.
  bool build() {
    std::vector<mem::RegionSpec> specs;
    bool good = true;
    for (std::size_t left = program_.index(5); left != 0; --left) {
      const auto shape = program_.take<std::uint8_t>();
      Part part{program_.index(kGuestPages) * kPageSize, program_.around(kBytes), shape % kBackings,
                0};
      if ((shape & 4) != 0) part.start += program_.take<std::uint8_t>();
      if ((shape & 8) != 0) part.start = 0 - part.length;  // up to the last address
      if ((shape & 16) != 0) part.offset = program_.around(kBytes);
      if ((shape & 32) == 0)
        part.length = std::min(part.length, kBytes - std::min(part.offset, kBytes));
      specs.push_back(
          {Gpa(part.start), ByteCount(part.length), backings[part.backing], part.offset});
      good = good && part.length != 0 && fits_within(part.offset, part.length, kBytes) &&
             part.length - 1 <= ~part.start;
      for (const Part& other : parts_) {
        good = good && (part.start > other.start ? part.start - other.start >= other.length
                                                 : other.start - part.start >= part.length);
      }
      parts_.push_back(part);
    }
    auto made = GuestMemory::create(specs);
    GUESTIO_CHECK(made.has_value() == good, "an error for bad regions only");
    if (made) memory_ = std::move(*made);
    return good;
  }

  [[nodiscard]] const Part* find(std::uint64_t address) const {
    for (const Part& part : parts_) {
      if (address >= part.start && address - part.start < part.length) return &part;
    }
    return nullptr;
  }

  enum class Purpose { kAccess, kLock };

  /// The error of an access to one byte.
  [[nodiscard]] std::optional<Error> obstacle(const Place& place, Access access,
                                              Purpose purpose) const {
    if (!place.is_address) return Error::make(ErrorKind::kInvalidGpn, "", place.value);
    const Part* const part = find(place.value);
    if (part == nullptr) return Error::make(ErrorKind::kOutOfRange, "", place.value);
    const FuzzBacking& backing = *backings[part->backing];
    const std::uint64_t offset = part->offset + (place.value - part->start);
    if (access == Access::kWrite && !backing.writable) {
      return Error::make(ErrorKind::kReadOnly, "", place.value);
    }
    const bool direct = offset < backing.mapped && backing.allows(access, offset);
    if (direct ||
        (purpose == Purpose::kAccess && (offset >= backing.mapped || backing.falls_back))) {
      return std::nullopt;
    }
    if (offset >= backing.mapped || backing.falls_back) {
      return Error::make(ErrorKind::kNotLockable, "", place.value);
    }
    return Error::make(ErrorKind::kAccessDenied, "", place.value);
  }
  /// The first error of an access, and the number of bytes before it.
  struct Outcome {
    std::size_t done = 0;
    std::optional<Error> error;
  };
  [[nodiscard]] Outcome outcome(std::span<const Place> places, Access access) const {
    Outcome result;
    for (const Place& place : places) {
      result.error = obstacle(place, access, Purpose::kAccess);
      if (result.error) break;
      ++result.done;
    }
    return result;
  }

  static void check_result(const Result<>& result, const Outcome& expected) {
    GUESTIO_CHECK(result.has_value() == !expected.error.has_value(), "the model's success");
    if (result) return;
    GUESTIO_CHECK(result.error().kind == expected.error->kind, "the model's error");
    GUESTIO_CHECK(result.error().value == expected.error->value, "the address of the error");
  }

  [[nodiscard]] auto& byte_at(auto& all, std::uint64_t address) const {
    const Part& part = *find(address);
    return all[part.backing][part.offset + (address - part.start)];
  }

  /// An address in or around the regions.
  [[nodiscard]] std::uint64_t take_address() {
    const auto operand = program_.take<std::uint8_t>();
    if (operand < 8 || parts_.empty()) return program_.take<std::uint64_t>();
    const Part& part = parts_[operand % parts_.size()];
    return part.start + program_.around(part.length);
  }

  void add_piece(Buffer& buffer, std::uint64_t start, std::uint64_t length) {
    length = std::min({length, kMaxLength, ~start});
    buffer.pieces.push_back(AddressRange::from_checked(Gpa(start), length));
    for (std::uint64_t i = 0; i < length; ++i) buffer.places.push_back({start + i});
  }

  /// A range of any type. Must not move: its views refer to its lists.
  void take_buffer(Buffer& buffer) {
    const std::size_t kind = program_.index(4);
    if (kind < 2) {
      for (std::size_t left = kind == 0 ? 1 : 1 + program_.index(4); left != 0; --left) {
        const std::uint64_t start = take_address();
        add_piece(buffer, start, program_.around(kMaxLength));
      }
      if (kind == 0) {
        buffer.range = buffer.pieces.front();
      } else {
        buffer.range = *mem::AddressRanges::from_ranges(buffer.pieces);
      }
      return;
    }
    std::vector<Place> places;
    for (std::size_t left = program_.index(4); left != 0; --left) {
      const auto operand = program_.take<std::uint8_t>();
      const std::uint64_t gpn =
          operand == 255 ? std::uint64_t{1} << 52 : operand % (kGuestPages + 2);
      buffer.gpns.push_back(Gpn(gpn));
      for (std::uint64_t i = 0; i < kPageSize; ++i) {
        places.push_back(operand == 255 ? Place{gpn, false} : Place{gpn * kPageSize + i});
      }
    }
    const std::uint64_t offset =
        std::min<std::uint64_t>(program_.around(places.size()), places.size());
    const std::uint64_t length = std::min(program_.around(places.size()), places.size() - offset);
    buffer.range = *PagedRange::from_pages(offset, length, buffer.gpns);
    buffer.places.assign(places.begin() + static_cast<std::ptrdiff_t>(offset),
                         places.begin() + static_cast<std::ptrdiff_t>(offset + length));
  }

  /// Updates the model after a write: after a failed one, with any prefix.
  void note_write(std::span<const Place> places, std::span<const std::byte> from,
                  const Outcome& expected) {
    for (std::size_t i = 0; i < expected.done; ++i) {
      const std::uint64_t address = places[i].value;
      byte_at(expected_, address) = expected.error ? byte_at(truth, address) : from[i];
    }
  }

  void copy(Access access) {
    Buffer buffer;
    take_buffer(buffer);
    std::vector<std::byte> local(
        std::min<std::uint64_t>(program_.around(buffer.places.size()), 0x5000),
        std::byte{program_.take<std::uint8_t>()});
    if (local.size() > buffer.places.size()) {
      const Result<> result = access == Access::kRead
                                  ? memory_.read(buffer.range, std::span(local))
                                  : memory_.write(buffer.range, std::span<const std::byte>(local));
      GUESTIO_CHECK(!result && result.error().kind == ErrorKind::kOutOfRange, "out of the range");
      return;
    }
    const auto places = std::span(buffer.places).first(local.size());
    const Outcome expected = outcome(places, access);
    if (access == Access::kRead) {
      check_result(memory_.read(buffer.range, std::span(local)), expected);
      if (expected.error) return;
      for (std::size_t i = 0; i < local.size(); ++i) {
        GUESTIO_CHECK(local[i] == byte_at(expected_, places[i].value), "the byte of the model");
      }
    } else {
      for (std::size_t i = 0; i < local.size(); ++i) local[i] ^= static_cast<std::byte>(i * 7);
      check_result(memory_.write(buffer.range, std::span<const std::byte>(local)), expected);
      note_write(places, local, expected);
    }
  }

  void fill() {
    Buffer buffer;
    take_buffer(buffer);
    const std::byte value{program_.take<std::uint8_t>()};
    const std::vector<std::byte> local(buffer.places.size(), value);
    const Outcome expected = outcome(buffer.places, Access::kWrite);
    check_result(memory_.fill(buffer.range, value, buffer.places.size()), expected);
    note_write(buffer.places, local, expected);
  }

  void word() {
    switch (program_.index(4)) {
      case 0: return word_of<std::uint8_t>();
      case 1: return word_of<std::uint16_t>();
      case 2: return word_of<std::uint32_t>();
      default: return word_of<std::uint64_t>();
    }
  }
  template <typename T>
  void word_of() {
    const std::uint64_t address = take_address();
    if (sizeof(T) - 1 > ~address) return;
    std::vector<Place> places;
    for (std::size_t i = 0; i < sizeof(T); ++i) places.push_back({address + i});
    const auto operation = program_.index(3);
    const Access access = operation == 0 ? Access::kRead : Access::kWrite;
    const T value = program_.take<T>();
    const auto bytes = std::as_bytes(std::span(&value, 1));
    const Outcome expected = outcome(places, access);
    if (operation == 0) {
      const Result<T> loaded = memory_.load<T>(Gpa(address));
      check_result(loaded ? Result<>() : Result<>(fail(loaded.error())), expected);
      if (loaded) GUESTIO_CHECK(*loaded == model_word<T>(places), "the word of the model");
    } else if (operation == 1) {
      check_result(memory_.store<T>(Gpa(address), value), expected);
      note_write(places, bytes, expected);
    } else {
      exchange(places, value, expected);
    }
  }
  template <typename T>
  [[nodiscard]] T model_word(std::span<const Place> places) const {
    std::array<std::byte, sizeof(T)> bytes;
    for (std::size_t i = 0; i < sizeof(T); ++i) bytes[i] = byte_at(expected_, places[i].value);
    return std::bit_cast<T>(bytes);
  }
  template <typename T>
  void exchange(std::span<const Place> places, T desired, const Outcome& written) {
    const Outcome read = outcome(places, Access::kRead);
    const std::uint64_t address = places[0].value;
    const Part* const part = find(address);
    const bool whole =
        part != nullptr && fits_within(address - part->start, sizeof(T), part->length);
    bool aligned = address % sizeof(T) == 0;
    if (part != nullptr &&
        part->offset + (address - part->start) < backings[part->backing]->mapped) {
      aligned = aligned && (part->offset + (address - part->start)) % sizeof(T) == 0;
    }
    const bool good = whole && aligned && !read.error && !written.error;
    const T found = good ? model_word<T>(places) : T{};
    T expected = program_.flag() ? found : program_.take<T>();
    const bool same = expected == found;
    const Result<bool> exchanged = memory_.compare_exchange<T>(Gpa(address), expected, desired);
    GUESTIO_CHECK(exchanged.has_value() == good, "the model's success");
    if (!exchanged) return;
    GUESTIO_CHECK(*exchanged == same && expected == found, "the word of the model");
    if (same) note_write(places, std::as_bytes(std::span(&desired, 1)), {sizeof(T), {}});
  }

  void lock() {
    Buffer buffer;
    take_buffer(buffer);
    const Access access = program_.flag() ? Access::kWrite : Access::kRead;
    std::set<ErrorKind> errors;
    for (const Place& place : buffer.places) {
      if (const auto error = obstacle(place, access, Purpose::kLock)) errors.insert(error->kind);
    }
    mem::SegmentArray<2> segments;
    {
      const auto locked = memory_.lock(buffer.range, access, segments);
      GUESTIO_CHECK(locked.has_value() == errors.empty(), "the model's success");
      if (!locked) {
        GUESTIO_CHECK(errors.contains(locked.error().kind), "an error of the model");
        GUESTIO_CHECK(segments.empty(), "all or nothing");
      } else {
        check_segments(segments, buffer.places);
      }
    }
    for (const auto& backing : backings) GUESTIO_CHECK(backing->locked_bytes == 0, "all unlocked");
  }
  void check_segments(const mem::SegmentList& segments, std::span<const Place> places) const {
    std::array<std::size_t, kBackings> to_hold = {};
    std::size_t at = 0;
    const std::byte* end = nullptr;
    for (const mem::HostSegment& segment : segments) {
      GUESTIO_CHECK(segment.data != end && segment.length != 0, "merged segments");
      end = segment.end();
      for (const std::byte* host = segment.data; host != end; ++host, ++at) {
        GUESTIO_CHECK(at < places.size() && host == &byte_at(truth, places[at].value),
                      "the memory");
      }
    }
    GUESTIO_CHECK(at == places.size(), "all of the range");
    for (const Place& place : places) ++to_hold[find(place.value)->backing];
    for (std::size_t i = 0; i < kBackings; ++i) {
      const std::size_t held = backings[i]->need == mem::LockMode::kLockPages ? to_hold[i] : 0;
      GUESTIO_CHECK(backings[i]->locked_bytes == held, "exactly the pages to lock");
    }
  }

  void probe() {
    Buffer buffer;
    take_buffer(buffer);
    const Access access = program_.flag() ? Access::kWrite : Access::kRead;
    check_result(memory_.probe(buffer.range, access), outcome(buffer.places, access));
  }

  void host_range() {
    const std::uint64_t address = take_address();
    const std::uint64_t length = program_.around(kBytes);
    const auto host = memory_.host_range(Gpa(address), length);
    const Part* const part = find(address);
    bool good = length == 0;
    if (length != 0 && part != nullptr) {
      const FuzzBacking& backing = *backings[part->backing];
      good = fits_within(address - part->start, length, part->length) && !backing.has_bitmap[0] &&
             !backing.has_bitmap[1] && fits_within(part->offset, part->length, backing.mapped) &&
             backing.need == mem::LockMode::kNothing;
    }
    GUESTIO_CHECK(host.has_value() == good, "the model's success");
    if (host && length != 0) GUESTIO_CHECK(*host == &byte_at(truth, address), "the memory");
  }

  /// Continues with a view of the memory.
  void view() {
    const std::uint64_t start = take_address();
    const std::uint64_t length = std::min(program_.around(kGuestPages * kPageSize), ~start);
    const auto range = AddressRange::from_checked(Gpa(start), length);
    std::uint64_t last = 0;
    for (const Part& part : parts_) last = std::max(last, part.start + (part.length - 1));
    const bool good = length == 0 || (!parts_.empty() && start + (length - 1) <= last);
    auto made = memory_.subrange(range);
    GUESTIO_CHECK(made.has_value() == good, "the model's success");
    if (!made) return;
    memory_ = std::move(*made);
    std::vector<Part> clipped;
    for (const Part& part : parts_) {
      if (length == 0) break;
      const std::uint64_t first = std::max(part.start, start);
      const std::uint64_t end = std::min(part.start + (part.length - 1), start + (length - 1));
      if (first > end) continue;
      clipped.push_back(
          {first - start, end - first + 1, part.backing, part.offset + (first - part.start)});
    }
    parts_ = std::move(clipped);
  }

  Program& program_;
  std::array<std::array<std::byte, kBytes>, kBackings> expected_;
  std::vector<Part> parts_;
  GuestMemory memory_;
};

}  // namespace
}  // namespace guestio::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace guestio::fuzz;
  Program program(data, size);
  for (std::size_t i = 0; i < kBackings; ++i) {
    if (backings[i] == nullptr) backings[i] = std::make_shared<FuzzBacking>(truth[i]);
    backings[i]->reset(program, static_cast<std::byte>(i + 1));
  }
  Game(program).play();
  return 0;
}
