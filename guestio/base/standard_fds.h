// SPDX-License-Identifier: MIT
#pragma once

/// Open standard descriptors, however the program was started.
namespace guestio {

/// Opens closed descriptors among 0, 1 and 2 on /dev/null. Otherwise a program started with one of
/// them closed (`2>&-`) gets its number for the next open file. A disk image with descriptor 2 has
/// guest sectors overwritten by lines for standard error.
///
/// Call it as the first statement of main(), before other threads run. Embedding programs do the
/// same, or keep the three descriptors open by other means. Errors: the process exits with
/// status 2.
void open_standard_fds() noexcept;

}  // namespace guestio
