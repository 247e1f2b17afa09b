// SPDX-License-Identifier: MIT
// The memory of a program, and the operations on it.
#include "guestio/mem/test/memory_program.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "guestio/mem/any_range.h"
#include "guestio/mem/memory_reader.h"
#include "guestio/mem/memory_writer.h"
#include "guestio/mem/test/memory_model.h"

namespace guestio::mem::test {

namespace {

constexpr std::uint64_t kBadGpn = (std::uint64_t{1} << 52) + 5;

/// Guest bytes: as a range for the library, as single addresses for the model.
struct ChosenRange {
  std::vector<Gpn> gpns = {};
  std::vector<AddressRange> extents = {};
  std::vector<PagedRange> paged = {};
  AnyRange range = {};
  std::vector<std::uint64_t> addresses = {};
  std::optional<Gpn> bad_gpn = {};  ///< of the bytes after `addresses`
};

/// The memory of a program and its model, and random choices of its bytes.
class RandomMemory {
 protected:
  explicit RandomMemory(const Choose& choose) : choose_(choose) {}

  bool one_in(std::uint64_t n) { return choose_(n) == 0; }
  template <typename T>
  T pick(std::initializer_list<T> values) {
    return values.begin()[choose_(values.size())];
  }

  // The memory.

  void build() {
    const std::uint64_t backings = 1 + choose_(3);
    for (std::uint64_t i = 0; i < backings; ++i) build_backing();
    build_regions();
    std::vector<RegionSpec> specs;
    specs.reserve(model_.regions.size());
    for (const ModelRegion& region : model_.regions) {
      specs.push_back({Gpa(region.start), ByteCount(region.length),
                       model_.backings[region.backing].real, region.offset});
    }
    std::ranges::reverse(specs);
    memory_ = *GuestMemory::create(specs);
    if (one_in(3)) {
      log_ = std::make_shared<DirtyLog>(*DirtyLog::for_memory(ByteCount(kLogged)));
      memory_ = memory_.with_dirty_log(log_);
    }
    for (std::uint64_t views = choose_(3); views != 0; --views) narrow();
  }

  void build_backing() {
    ModelBacking backing;
    backing.options.size = kPageSize * choose_(4) + pick<std::size_t>({1, 100, 4096, 4095, 2048});
    if (one_in(3)) backing.options.mapped = choose_(backing.options.size + 1);
    backing.options.read_bitmap = one_in(3);
    backing.options.write_bitmap = one_in(3);
    backing.options.lock_mode = pick({LockMode::kNothing, LockMode::kProbe, LockMode::kLockPages});
    if (one_in(6)) backing.options.access = Mapping::Access::kRead;
    backing.policy = pick({FaultAction::kFail, FaultAction::kFallBack, FaultAction::kRetry});
    backing.real = std::make_shared<GuardedBacking>(backing.options);
    backing.real->fault_hook = [policy = backing.policy](const PageFault&) { return policy; };
    const std::size_t pages = backing.options.size / kPageSize + 1;
    backing.readable.assign(pages, true);
    backing.writable.assign(pages, true);
    backing.protection.assign(pages, Mapping::Access::kReadWrite);
    backing.bytes.resize(backing.options.size);
    for (auto& byte : backing.bytes) byte = static_cast<std::byte>(next_byte_++ * 37);
    std::ranges::copy(backing.bytes, backing.real->bytes().begin());
    model_.backings.push_back(std::move(backing));
  }

  void build_regions() {
    std::uint64_t next = pick<std::uint64_t>({0, 0x1000, 0x1234});
    for (std::uint64_t count = 1 + choose_(4); count != 0; --count) {
      const std::size_t backing = choose_(model_.backings.size());
      const std::uint64_t size = model_.backings[backing].options.size;
      const std::uint64_t offset = one_in(2) ? 0 : choose_(size);
      const std::uint64_t length = one_in(2) ? size - offset : 1 + choose_(size - offset);
      model_.regions.push_back({next, length, backing, offset});
      next += length + pick<std::uint64_t>({0, 0, 1, 0x1000, 0x800});
    }
    end_ = model_.regions.back().start + model_.regions.back().length;
    model_.view_length = end_;
  }

  void narrow() {
    const std::uint64_t end = memory_.end().raw();  // a view of a hole only has none
    if (end == 0) return;
    const std::uint64_t start = choose_(end);
    const std::uint64_t length = 1 + choose_(end - start);
    memory_ = *memory_.subrange(AddressRange::from_checked(Gpa(start), length));
    model_.view_start += start;
    model_.view_length = length;
  }

  void change_page() {
    ModelBacking& backing = model_.backings[choose_(model_.backings.size())];
    const std::uint64_t page = choose_((backing.options.size - 1) / kPageSize + 1);
    switch (choose_(3)) {
      case 0:
        backing.readable[page] = !backing.readable[page];
        return backing.real->allow(Access::kRead, page, backing.readable[page]);
      case 1:
        backing.writable[page] = !backing.writable[page];
        return backing.real->allow(Access::kWrite, page, backing.writable[page]);
      default:
        backing.protection[page] =
            pick({Mapping::Access::kNone, Mapping::Access::kRead, Mapping::Access::kReadWrite});
        return backing.real->protect(page, backing.protection[page]);
    }
  }

  // Choices of bytes.

  std::uint64_t choose_address() {
    if (one_in(20)) return ~std::uint64_t{0} - choose_(9000);
    const ModelRegion& region = model_.regions[choose_(model_.regions.size())];
    const std::uint64_t in_whole =
        region.start + pick({choose_(region.length), std::uint64_t{0}, region.length - 1,
                             region.length, choose_(8) * 1024});
    const std::uint64_t address = in_whole - model_.view_start - choose_(20) * choose_(2);
    return one_in(2) ? address & ~std::uint64_t{7} : address;
  }

  std::uint64_t choose_length() {
    return pick({choose_(9), choose_(40), choose_(300), one_in(4) ? choose_(9000) : 1});
  }

  /// The bytes from `start` on, clipped to the address space.
  AddressRange choose_extent() {
    const std::uint64_t start = choose_address();
    return AddressRange::from_checked(Gpa(start),
                                      std::min(choose_length(), ~start == 0 ? 1 : ~start));
  }

  void add_addresses(ChosenRange& chosen, const AddressRange& extent) {
    for (std::uint64_t i = 0; i < extent.length(); ++i) {
      chosen.addresses.push_back(extent.start().raw() + i);
    }
  }

  void choose_paged(ChosenRange& chosen) {
    const std::size_t pages = 1 + choose_(4);
    std::uint64_t gpn = choose_address() / kPageSize;
    for (std::size_t i = 0; i < pages; ++i) {
      chosen.gpns.push_back(Gpn(one_in(40) ? kBadGpn : gpn));
      gpn = one_in(3) ? choose_(end_ / kPageSize + 1) : gpn + 1;
    }
    const std::uint64_t whole = pages * kPageSize;
    const std::uint64_t offset = choose_(whole);
    const std::uint64_t length = std::min(choose_length(), whole - offset);
    const PagedRange range = *PagedRange::from_pages(offset, length, chosen.gpns);
    for (std::uint64_t i = offset; i < offset + length && !chosen.bad_gpn; ++i) {
      const Gpn page = chosen.gpns[i / kPageSize];
      if (page.to_gpa()) {
        chosen.addresses.push_back(page.to_gpa()->raw() + i % kPageSize);
      } else {
        chosen.bad_gpn = page;
      }
    }
    chosen.paged = {PagedRange(), range.subrange(0, length / 3),
                    range.subrange(length / 3, length - length / 3)};
    chosen.range = one_in(2) ? AnyRange(range) : AnyRange(*PagedRanges::from_ranges(chosen.paged));
  }

  void choose_range(ChosenRange& chosen) {
    switch (choose_(3)) {
      case 0: return choose_paged(chosen);
      case 1: {
        const AddressRange extent = choose_extent();
        add_addresses(chosen, extent);
        chosen.range = extent;
        return;
      }
      default:
        for (std::uint64_t count = choose_(4); count != 0; --count) {
          chosen.extents.push_back(choose_extent());
          add_addresses(chosen, chosen.extents.back());
        }
        chosen.range = *AddressRanges::from_ranges(chosen.extents);
    }
  }

  std::vector<std::byte> fresh_bytes(std::size_t count) {
    std::vector<std::byte> bytes(count);
    for (auto& byte : bytes) byte = static_cast<std::byte>(next_byte_++ * 41);
    return bytes;
  }

  static constexpr std::uint64_t kLogged = 64 * kPageSize;

  const Choose& choose_;
  MemoryModel model_;
  GuestMemory memory_;
  std::shared_ptr<const DirtyLog> log_;
  std::uint64_t end_ = 0;
  unsigned next_byte_ = 1;
};

/// Many small operations on a memory and its model.
class MemoryProgram final : private RandomMemory {
 public:
  explicit MemoryProgram(const Choose& choose) : RandomMemory(choose) {}

  std::optional<std::string> run(int operations) {
    build();
    for (int i = 0; i < operations && !difference_; ++i) {
      step();
      compare_state();
      if (difference_) return fmt::format("operation {} ({}): {}", i, operation_, *difference_);
    }
    return difference_;
  }

 private:
  // Operations.

  void step() {
    switch (choose_(9)) {
      case 0: return copy_by_address();
      case 1: return copy_by_range();
      case 2: return fill();
      case 3: return typed<std::uint8_t>();
      case 4: return one_in(2) ? typed<std::uint16_t>() : typed<std::uint32_t>();
      case 5: return typed<std::uint64_t>();
      case 6: return lock();
      case 7: return stream();
      default: operation_ = "change a page"; return change_page();
    }
  }

  void copy_by_address() {
    ChosenRange chosen;
    const AddressRange extent = choose_extent();
    add_addresses(chosen, extent);
    copy(chosen, extent.start());
  }

  void copy_by_range() {
    ChosenRange chosen;
    choose_range(chosen);
    copy(chosen, std::nullopt);
  }

  void copy(const ChosenRange& chosen, std::optional<Gpa> start) {
    std::vector<std::byte> data =
        fresh_bytes(start ? chosen.addresses.size() : chosen.range.length());
    if (one_in(2)) {
      operation_ = "write";
      const Result<> written =
          start ? memory_.write(*start, data) : memory_.write(chosen.range, data);
      return compare(written, after_all(chosen, model_.write(chosen.addresses, data)));
    }
    operation_ = "read";
    std::vector<std::byte> expected = data;
    const Result<> read = start ? memory_.read(*start, data) : memory_.read(chosen.range, data);
    compare(read, after_all(chosen, model_.read(chosen.addresses, expected)));
    if (read && data != expected) difference_ = "other bytes were read";
  }

  void fill() {
    operation_ = "fill";
    ChosenRange chosen;
    choose_range(chosen);
    const auto value = static_cast<std::byte>(choose_(256));
    const std::vector<std::byte> data(chosen.addresses.size(), value);
    compare(memory_.fill(chosen.range, value, chosen.range.length()),
            after_all(chosen, model_.write(chosen.addresses, data)));
  }

  template <typename T>
  void typed() {
    const std::uint64_t address = std::min(choose_address(), ~std::uint64_t{0} - 8);
    ChosenRange chosen;
    add_addresses(chosen, AddressRange::from_checked(Gpa(address), sizeof(T)));
    std::vector<std::byte> data = fresh_bytes(sizeof(T));
    switch (choose_(3)) {
      case 0: {
        operation_ = "load";
        const Result<T> loaded = memory_.load<T>(Gpa(address));
        compare(loaded, model_.read(chosen.addresses, data));
        if (loaded && *loaded != as_value<T>(data)) difference_ = "another value was loaded";
        return;
      }
      case 1:
        operation_ = "store";
        return compare(memory_.store<T>(Gpa(address), as_value<T>(data)),
                       model_.write(chosen.addresses, data));
      default: return compare_exchange<T>(address, data);
    }
  }

  template <typename T>
  void compare_exchange(std::uint64_t address, const std::vector<std::byte>& desired) {
    operation_ = "compare-exchange";
    T expected = one_in(2) ? memory_.load<T>(Gpa(address)).value_or(T{}) : T{};
    T model_expected = expected;
    std::optional<Error> error;
    const auto model_result = model_.compare_exchange(
        address, std::as_writable_bytes(std::span(&model_expected, 1)), desired, error);
    const Result<bool> result =
        memory_.compare_exchange<T>(Gpa(address), expected, as_value<T>(desired));
    compare(result, error);
    if (!difference_ && result && (*result != *model_result || expected != model_expected)) {
      difference_ = "another outcome";
    }
  }

  void lock() {
    operation_ = "lock or probe";
    ChosenRange chosen;
    choose_range(chosen);
    const Access access = pick({Access::kRead, Access::kWrite});
    SegmentArray<4> segments;
    const auto lock = memory_.lock(chosen.range, access, segments);
    const bool lockable =
        !chosen.bad_gpn && std::ranges::all_of(chosen.addresses, [&](std::uint64_t a) {
          return model_.is_lockable(a, access);
        });
    if (lock.has_value() != lockable) difference_ = lockable ? "did not lock" : "locked";
    if (lock) compare_segments(segments, chosen.addresses);
    if (!lock && !segments.empty()) difference_ = "a failed lock left segments";
    const bool accessible = std::ranges::none_of(
        chosen.addresses, [&](std::uint64_t a) { return model_.refusal(a, access).has_value(); });
    if (memory_.probe(chosen.range, access).has_value() != (accessible && !chosen.bad_gpn)) {
      difference_ = "probe says otherwise";
    }
  }

  void compare_segments(const SegmentList& segments, std::span<const std::uint64_t> addresses) {
    std::size_t next = 0;
    for (std::size_t i = 0; i < segments.size(); ++i) {
      if (i != 0 && segments[i - 1].data + segments[i - 1].length == segments[i].data) {
        difference_ = "segments that meet are not joined";
      }
      for (std::size_t at = 0; at < segments[i].length; ++at, ++next) {
        if (next == addresses.size() || model_.host(addresses[next]) != segments[i].data + at) {
          difference_ = "a segment shows other bytes";
          return;
        }
      }
    }
    if (next != addresses.size()) difference_ = "segments are missing";
  }

  /// A reader or writer that advances in several steps.
  void stream() {
    ChosenRange chosen;
    choose_range(chosen);
    if (chosen.bad_gpn) return;
    return one_in(2) ? stream_in(chosen) : stream_out(chosen);
  }

  void stream_in(const ChosenRange& chosen) {
    operation_ = "stream in";
    MemoryReader reader(memory_, chosen.range);
    std::span<const std::uint64_t> rest = chosen.addresses;
    for (int i = 0; i < 3 && !difference_; ++i) {
      const std::size_t count = choose_(rest.size() + 2);
      std::vector<std::byte> data(count);
      std::vector<std::byte> expected(count);
      const Result<> read = reader.read(data);
      const auto refused = refused_if_longer(count, rest.size());
      compare(read, refused ? refused : model_.read(rest.first(count), expected));
      if (read && data != expected) difference_ = "other bytes were streamed";
      if (read) rest = rest.subspan(count);
      if (reader.remaining() != rest.size()) difference_ = "the reader stands elsewhere";
    }
  }

  void stream_out(const ChosenRange& chosen) {
    operation_ = "stream out";
    MemoryWriter writer(memory_, chosen.range);
    std::span<const std::uint64_t> rest = chosen.addresses;
    for (int i = 0; i < 3 && !difference_; ++i) {
      const std::size_t count = choose_(rest.size() + 2);
      const std::vector<std::byte> data = fresh_bytes(count);
      const Result<> written = writer.write(data);
      const auto refused = refused_if_longer(count, rest.size());
      compare(written, refused ? refused : model_.write(rest.first(count), data));
      if (written) rest = rest.subspan(count);
      if (writer.remaining() != rest.size()) difference_ = "the writer stands elsewhere";
    }
  }

  static std::optional<Error> refused_if_longer(std::size_t count, std::size_t available) {
    if (count <= available) return std::nullopt;
    return Error::make(ErrorKind::kOutOfRange, "", count);
  }

  // Comparison.

  /// The expected result of an operation on a range with valid addresses.
  static std::optional<Error> after_all(const ChosenRange& chosen, std::optional<Error> error) {
    if (error || !chosen.bad_gpn) return error;
    return Error::make(ErrorKind::kInvalidGpn, "", chosen.bad_gpn->raw());
  }

  template <typename T>
  void compare(const Result<T>& result, const std::optional<Error>& expected) {
    if (result.has_value() != !expected.has_value()) {
      difference_ = result ? "succeeded, expected: " + expected->to_string()
                           : "failed: " + result.error().to_string();
    } else if (expected &&
               (result.error().kind != expected->kind || result.error().value != expected->value)) {
      difference_ = fmt::format("failed: {}, expected: {} at {}", result.error().to_string(),
                                to_text(expected->kind), expected->value);
    }
  }

  void compare_state() {
    for (const ModelBacking& backing : model_.backings) {
      const auto real = backing.real->bytes();
      if (std::memcmp(real.data(), backing.bytes.data(), real.size()) != 0) {
        difference_ = difference_.value_or("memory differs");
      }
      if (!backing.real->locked.empty()) difference_ = "pages stayed locked";
      backing.real->faults.clear();
      backing.real->fallbacks.clear();
    }
    for (std::uint64_t page = 0; log_ != nullptr && page < kLogged / kPageSize; ++page) {
      if (log_->is_marked(Gpn(page)) != model_.dirty.contains(page)) {
        difference_ = difference_.value_or(fmt::format("the dirty log differs at page {}", page));
      }
    }
  }

  template <typename T>
  static T as_value(std::span<const std::byte> bytes) {
    T value;
    std::memcpy(&value, bytes.data(), sizeof(T));
    return value;
  }

  const char* operation_ = "";
  std::optional<std::string> difference_;
};

}  // namespace

std::optional<std::string> run_memory_program(const Choose& choose, int operations) {
  return MemoryProgram(choose).run(operations);
}

}  // namespace guestio::mem::test
