// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>

namespace guestio::registered {

/// Which of a front-end's memory is registered.
enum class RegistrationScope : std::uint8_t {
  kResidentOnly,  ///< files with all of their blocks: guests with preallocated memory
  kAll,           ///< all; absent pages are faulted in
};

}  // namespace guestio::registered
