// SPDX-License-Identifier: MIT
#include "guestio/mem/test/memory_model.h"

#include <algorithm>

namespace guestio::mem::test {

namespace {

bool allows(Mapping::Access protection, Access access) {
  return protection == Mapping::Access::kReadWrite ||
         (protection == Mapping::Access::kRead && access == Access::kRead);
}

std::uint64_t mapped_bytes(const ModelBacking& backing) {
  return backing.options.mapped.value_or(backing.options.size);
}

bool is_denied(const ModelBacking& backing, std::uint64_t offset, Access access) {
  const std::uint64_t page = offset / kPageSize;
  return access == Access::kWrite ? backing.options.write_bitmap && !backing.writable[page]
                                  : backing.options.read_bitmap && !backing.readable[page];
}

bool is_read_only(const ModelBacking& backing) {
  return backing.options.access == Mapping::Access::kRead;
}

}  // namespace

std::optional<ModelByte> MemoryModel::find(std::uint64_t address) const {
  if (address >= view_length) return std::nullopt;
  const std::uint64_t origin = view_start + address;
  for (const ModelRegion& region : regions) {
    if (origin < region.start || origin - region.start >= region.length) continue;
    return ModelByte{&region, region.backing, region.offset + (origin - region.start), origin};
  }
  return std::nullopt;
}

std::optional<Error> MemoryModel::refusal(std::uint64_t address, Access access) const {
  const auto byte = find(address);
  if (!byte) return Error::make(ErrorKind::kOutOfRange, "", address);
  const ModelBacking& backing = backings[byte->backing];
  if (access == Access::kWrite && is_read_only(backing)) {
    return Error::make(ErrorKind::kReadOnly, "", address);
  }
  if (byte->offset >= mapped_bytes(backing)) return std::nullopt;
  if (backing.policy == FaultAction::kFallBack) return std::nullopt;
  if (is_denied(backing, byte->offset, access)) {
    return Error::make(ErrorKind::kAccessDenied, "", address);
  }
  if (!allows(backing.protection[byte->offset / kPageSize], access)) {
    return Error::make(ErrorKind::kMemoryFault, "", address);
  }
  return std::nullopt;
}

bool MemoryModel::is_lockable(std::uint64_t address, Access access) const {
  const auto byte = find(address);
  if (!byte) return false;
  const ModelBacking& backing = backings[byte->backing];
  if (access == Access::kWrite && is_read_only(backing)) return false;
  if (byte->offset >= mapped_bytes(backing) || is_denied(backing, byte->offset, access)) {
    return false;
  }
  return backing.options.lock_mode != LockMode::kProbe ||
         allows(backing.protection[byte->offset / kPageSize], access);
}

const std::byte* MemoryModel::host(std::uint64_t address) const {
  const auto byte = find(address);
  return backings[byte->backing].real->mapping().data() + byte->offset;
}

std::optional<Error> MemoryModel::read(std::span<const std::uint64_t> addresses,
                                       std::span<std::byte> to) const {
  for (std::size_t i = 0; i < addresses.size(); ++i) {
    if (auto refused = refusal(addresses[i], Access::kRead)) return refused;
    const auto byte = find(addresses[i]);
    to[i] = backings[byte->backing].bytes[byte->offset];
  }
  return std::nullopt;
}

std::optional<Error> MemoryModel::write(std::span<const std::uint64_t> addresses,
                                        std::span<const std::byte> from) {
  for (std::size_t i = 0; i < addresses.size(); ++i) {
    if (auto refused = refusal(addresses[i], Access::kWrite)) return refused;
    const auto byte = find(addresses[i]);
    byte_at(*byte) = from[i];
    dirty.insert(byte->origin / kPageSize);
  }
  return std::nullopt;
}

std::optional<bool> MemoryModel::compare_exchange(std::uint64_t address,
                                                  std::span<std::byte> expected,
                                                  std::span<const std::byte> desired,
                                                  std::optional<Error>& error) {
  const std::uint64_t size = expected.size();
  const auto byte = find(address);
  if (!byte) {
    error = Error::make(ErrorKind::kOutOfRange, "", address);
    return std::nullopt;
  }
  const ModelBacking& backing = backings[byte->backing];
  const bool mapped = byte->offset < mapped_bytes(backing);
  if (address % size != 0 || (mapped && byte->offset % size != 0)) {
    error = Error::make(ErrorKind::kMisaligned, "", address);
    return std::nullopt;
  }
  for (std::uint64_t i = 0; i < size && !error; ++i) {
    const auto next = find(address + i);
    if (!next || next->region != byte->region) {
      error = Error::make(ErrorKind::kOutOfRange, "", address + i);
    }
  }
  // A word outside the mapping, even in part, goes to the fallback without a page fault.
  const bool direct = byte->offset + size <= mapped_bytes(backing);
  if (!error && is_read_only(backing)) error = Error::make(ErrorKind::kReadOnly, "", address);
  if (!error && direct) {
    const auto read_refusal = refusal(address, Access::kRead);
    error = refusal(address, Access::kWrite);
    if (read_refusal && read_refusal->kind == ErrorKind::kAccessDenied) error = read_refusal;
  }
  if (error) return std::nullopt;
  std::byte* const at = &byte_at(*byte);
  if (!std::equal(expected.begin(), expected.end(), at)) {
    std::copy(at, at + size, expected.begin());
    return false;
  }
  std::ranges::copy(desired, at);
  dirty.insert(byte->origin / kPageSize);
  return true;
}

}  // namespace guestio::mem::test
