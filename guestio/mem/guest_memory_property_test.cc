// SPDX-License-Identifier: MIT
// Random programs of operations on guest memory, compared with a naive model.
#include <gtest/gtest.h>

#include <random>

#include "guestio/mem/test/memory_program.h"
#include "testing/rounds.h"

namespace guestio::mem {
namespace {

constexpr int kOperations = 120;
constexpr unsigned kProgramsPerTest = single_threaded_rounds(200);

class GuestMemoryProperty : public testing::TestWithParam<unsigned> {};

TEST_P(GuestMemoryProperty, AgreesWithTheModel) {
  for (unsigned seed = GetParam() * kProgramsPerTest; seed < (GetParam() + 1) * kProgramsPerTest;
       ++seed) {
    std::mt19937_64 random(seed);
    const auto difference = test::run_memory_program(
        [&](std::uint64_t limit) { return random() % limit; }, kOperations);
    ASSERT_EQ(difference, std::nullopt) << "seed " << seed;
  }
}

INSTANTIATE_TEST_SUITE_P(Seeds, GuestMemoryProperty, testing::Range(0u, 8u));

}  // namespace
}  // namespace guestio::mem
