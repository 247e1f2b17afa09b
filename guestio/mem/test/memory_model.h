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

/// A naive model of guest memory: one byte after the other, with every rule checked for every byte.
namespace guestio::mem::test {

/// One backing in the model.
struct ModelBacking {
  GuardedBacking::Options options;
  FaultAction policy = FaultAction::kFail;
  std::vector<bool> readable;                      ///< by page: the bitmap
  std::vector<bool> writable;                      ///< by page: the bitmap
  std::vector<Mapping::Access> protection;         ///< by page: the mapping
  std::vector<std::byte> bytes;                    ///< expected
  std::shared_ptr<GuardedBacking> real = nullptr;  ///< compared with the model
};

struct ModelRegion {
  std::uint64_t start;
  std::uint64_t length;
  std::size_t backing;
  std::uint64_t offset;
};

/// A byte of guest memory: its location and permissions.
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
  std::uint64_t view_start = 0;                   ///< start of the compared bytes
  std::uint64_t view_length = ~std::uint64_t{0};  ///< and their number
  std::set<std::uint64_t> dirty;                  ///< pages

  [[nodiscard]] std::optional<ModelByte> find(std::uint64_t address) const;
  /// The error of an access to the byte.
  [[nodiscard]] std::optional<Error> refusal(std::uint64_t address, Access access) const;
  /// Whether the kernel may use the byte.
  [[nodiscard]] bool is_lockable(std::uint64_t address, Access access) const;
  [[nodiscard]] const std::byte* host(std::uint64_t address) const;

  // Accesses to a list of addresses in order. They end at the first error.
  [[nodiscard]] std::optional<Error> read(std::span<const std::uint64_t> addresses,
                                          std::span<std::byte> to) const;
  [[nodiscard]] std::optional<Error> write(std::span<const std::uint64_t> addresses,
                                           std::span<const std::byte> from);
  /// nullopt: failed with `error`.
  [[nodiscard]] std::optional<bool> compare_exchange(std::uint64_t address,
                                                     std::span<std::byte> expected,
                                                     std::span<const std::byte> desired,
                                                     std::optional<Error>& error);

 private:
  std::byte& byte_at(const ModelByte& byte) { return backings[byte.backing].bytes[byte.offset]; }
};

}  // namespace guestio::mem::test
