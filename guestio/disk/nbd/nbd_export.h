// SPDX-License-Identifier: MIT
#pragma once

#include <libnbd.h>

#include <cstdint>
#include <expected>
#include <optional>
#include <string>
#include <string_view>

#include "guestio/disk/disk.h"
#include "guestio/disk/registry.h"
#include "guestio/disk/remote/remote_disk.h"

namespace guestio::disk {

/// What a server says about its export.
struct NbdExport {
  std::uint64_t size = 0;  ///< bytes
  bool is_read_only = false;
  bool can_flush = false;
  bool can_fua = false;
  bool can_trim = false;
  bool can_zero = false;
  bool can_multi_conn = false;  ///< a flush covers the writes of all connections
  // Block sizes; 0: not said.
  std::uint64_t minimum = 0;
  std::uint64_t preferred = 0;
  std::uint64_t maximum = 0;
};

/// A disk made of an export.
struct NbdShape {
  DiskInfo info;
  RemoteLimits limits;
  std::uint64_t unserved_bytes = 0;  ///< at the end of the export, less than a block
};

/// Asks a handle in the transmission phase. The error says what is wrong with the answer.
[[nodiscard]] std::expected<NbdExport, std::string> query_nbd_export(nbd_handle* handle);

/// Errors: read-only (a read-write disk of a read-only export), invalid argument (block size), peer
/// fault (constraints outside of the protocol), unsupported (no block of bytes).
[[nodiscard]] OpenResult<NbdShape> shape_nbd_disk(const NbdExport& facts,
                                                  const OpenOptions& options);

/// Why `present` cannot go on as the disk of `opened`, which has `served` bytes by now; nothing if
/// it can.
[[nodiscard]] std::optional<std::string> find_nbd_difference(const NbdExport& present,
                                                             const NbdExport& opened,
                                                             const RemoteLimits& limits,
                                                             std::uint64_t served);

/// One line for the process that takes the disk over.
[[nodiscard]] std::string to_text(const NbdExport& facts);
/// Of to_text(); nothing for any other text.
[[nodiscard]] std::optional<NbdExport> parse_nbd_export(std::string_view text);

}  // namespace guestio::disk
