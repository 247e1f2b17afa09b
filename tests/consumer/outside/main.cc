// SPDX-License-Identifier: MIT
// A user's program, built from the installed guestio only. It maps a page of guest memory,
// truncates the memory's file, and expects an error instead of a SIGBUS.
#include <fmt/core.h>
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <cstddef>

#include "guestio/base/log.h"
#include "guestio/base/standard_fds.h"
#include "guestio/base/unique_fd.h"
#include "guestio/base/version.h"
#include "guestio/blk/block_device.h"
#include "guestio/disk/file/file_disk.h"
#include "guestio/mem/mapped_memory.h"
#include "guestio/mem/recover.h"
#include "guestio/uring/loop.h"
#include "guestio/vhost/session/backend.h"

namespace {

int report(const char* step, const guestio::Error& error) {
  fmt::print(stderr, "{}: {}\n", step, error.to_string());
  return 1;
}

int run() {
  using namespace guestio;
  const UniqueFd file(::memfd_create("consumer", MFD_CLOEXEC));
  if (::ftruncate(file.get(), kPageSize) != 0) return 1;
  if (const auto done = mem::install_fault_recovery(); !done) return report("set-up", done.error());
  const mem::FileRegion region{Gpa(0x10000), ByteCount(kPageSize), file.get(), FileOffset(0)};
  const auto memory = mem::map_file_regions(std::span(&region, 1));
  if (!memory) return report("map", memory.error());

  std::array<std::byte, 64> bytes{};
  if (const auto read = memory->read(region.start, bytes); !read)
    return report("read", read.error());
  if (::ftruncate(file.get(), 0) != 0) return 1;
  const auto fault = memory->read(region.start, bytes);
  if (fault || fault.error().kind != ErrorKind::kMemoryFault ||
      fault.error().value != region.start.raw()) {
    fmt::print(stderr, "no memory fault in truncated memory\n");
    return 1;
  }

  // The other rooms' libraries link.
  const auto loop = uring::Loop::create();
  if (!loop) return report("loop", loop.error());
  const auto disk = disk::FileDisk::open({.path = "/nonexistent"});
  if (disk) return 1;
  log::info("guestio {}: {}; {}", kVersion, fault.error().to_string(), disk.error().to_string());
  return 0;
}

}  // namespace

int main() {
  guestio::open_standard_fds();
  return run();
}
