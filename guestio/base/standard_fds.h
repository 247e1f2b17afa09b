// SPDX-License-Identifier: MIT
#pragma once

/// Standard input, output and error that are there, whoever started the program.
namespace guestio {

/// Opens those of descriptors 0, 1 and 2 that are closed on /dev/null. A program started with one
/// of them closed (`2>&-`) otherwise gets that number for the next file it opens: a disk image that
/// has descriptor 2 receives the lines meant for standard error, over the guest's sectors.
///
/// The first statement of main(), before any other thread runs. Programs that embed the library
/// call it too, or keep the three descriptors open by other means. Errors: there is nothing to go
/// on with; the process ends with status 2.
void open_standard_fds() noexcept;

}  // namespace guestio
