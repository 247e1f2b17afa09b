// SPDX-License-Identifier: MIT
#include "fixture.h"

#include <cstring>

#include "row.h"

namespace guestio::bench {

namespace {

constexpr std::size_t kLocalBytes = std::size_t{1} << 20;
constexpr std::size_t kMaxPages = 256;

mem::GuestMemory make_memory() {
  auto memory = mem::GuestMemory::allocate(ByteCount(kMemoryBytes));
  require(memory);
  require(memory->fill(Gpa(0), std::byte{0x5a}, kMemoryBytes));
  return std::move(*memory);
}

std::array<Gpn, kMaxPages> make_pages(Layout layout) {
  std::array<Gpn, kMaxPages> gpns;
  for (std::size_t i = 0; i < kMaxPages; ++i) {
    gpns[i] = Gpn(layout == Layout::kContiguous ? 64 + i : (i * 1031 + 17) % 4096);
  }
  return gpns;
}

}  // namespace

const mem::GuestMemory& memory() {
  static const mem::GuestMemory instance = make_memory();
  return instance;
}

std::byte* host_memory() { return memory().regions().front().host; }

std::byte* local() {
  alignas(kPageSize) static std::byte bytes[kLocalBytes];
  static const bool is_touched = [] {
    std::memset(bytes, 1, sizeof(bytes));
    return true;
  }();
  return is_touched ? bytes : nullptr;
}

std::string to_text(Layout layout) { return layout == Layout::kContiguous ? "contig" : "scatter"; }

std::span<const Gpn> pages(Layout layout, std::size_t count) {
  static const auto contiguous = make_pages(Layout::kContiguous);
  static const auto scattered = make_pages(Layout::kScattered);
  return std::span(layout == Layout::kContiguous ? contiguous : scattered).first(count);
}

}  // namespace guestio::bench
