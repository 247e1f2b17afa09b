// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <vector>

#include "guestio/mem/guest_memory.h"
#include "guestio/mem/test/guarded_backing.h"

/// Guest memory as somebody would write it who has all the time in the world: one byte after the
/// other, and every rule asked for every byte.
namespace guestio::mem::test {

/// One backing, as the model knows it.
struct ModelBacking {
  GuardedBacking::Options options;
  FaultAction policy = FaultAction::kFail;
  std::vector<bool> readable;                      ///< by page: the bitmap
  std::vector<bool> writable;                      ///< by page: the bitmap
  std::vector<Mapping::Access> protection;         ///< by page: the mapping
  std::vector<std::byte> bytes;                    ///< what must be there
  std::shared_ptr<GuardedBacking> real = nullptr;  ///< what is compared with it
};

struct ModelRegion {
  std::uint64_t start;
  std::uint64_t length;
  std::size_t backing;
  std::uint64_t offset;
};

/// A byte of guest memory: where it is and what may be done with it.
struct ModelByte {
  const ModelRegion* region;
  std::size_t backing;
  std::uint64_t offset;  ///< in the backing
  std::uint64_t origin;  ///< guest address in the whole memory
};

class MemoryModel {
 public:
  std::vector<ModelBacking> backings;
  std::vector<ModelRegion> regions;
  std::uint64_t view_start = 0;                   ///< what is looked at begins here
  std::uint64_t view_length = ~std::uint64_t{0};  ///< and has so many bytes
  std::set<std::uint64_t> dirty;                  ///< pages

  [[nodiscard]] std::optional<ModelByte> find(std::uint64_t address) const;
  /// Why the byte cannot be accessed.
  [[nodiscard]] std::optional<Error> refusal(std::uint64_t address, Access access) const;
  /// Whether the kernel may be given the byte.
  [[nodiscard]] bool is_lockable(std::uint64_t address, Access access) const;
  [[nodiscard]] const std::byte* host(std::uint64_t address) const;

  // Accesses to a list of addresses in order. They end with the first refusal.
  [[nodiscard]] std::optional<Error> read(std::span<const std::uint64_t> addresses,
                                          std::span<std::byte> to) const;
  [[nodiscard]] std::optional<Error> write(std::span<const std::uint64_t> addresses,
                                           std::span<const std::byte> from);
  /// Nothing: refused as `error` says.
  [[nodiscard]] std::optional<bool> compare_exchange(std::uint64_t address,
                                                     std::span<std::byte> expected,
                                                     std::span<const std::byte> desired,
                                                     std::optional<Error>& error);

 private:
  std::byte& byte_at(const ModelByte& byte) { return backings[byte.backing].bytes[byte.offset]; }
};

}  // namespace guestio::mem::test
