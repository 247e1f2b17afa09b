// SPDX-License-Identifier: MIT
// The programs of the property test of guest memory, chosen by bytes instead of a generator. Unlike
// guest_memory_fuzz.cc: faulting pages, retries, faulting typed accesses, dirty logs.
#include "guestio/mem/test/memory_program.h"

#include "fuzz/program.h"
#include "guestio/base/check.h"

namespace {

constexpr int kOperations = 40;

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  guestio::fuzz::Program program(data, size);
  const auto difference = guestio::mem::test::run_memory_program(
      [&](std::uint64_t limit) { return program.index(limit); }, kOperations);
  GUESTIO_CHECK(!difference, difference.value_or(""));
  return 0;
}
