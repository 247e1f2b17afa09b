// SPDX-License-Identifier: MIT
#pragma once

#include <expected>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "guestio/base/error.h"
#include "guestio/base/units.h"
#include "guestio/base/version.h"
#include "guestio/disk/disk.h"

/// Disk backends by URI scheme. A backend is compiled in, or a module: a shared object that is
/// loaded on first use, so that its libraries are needed by its users only.
namespace guestio::disk {

/// What to open, for every backend.
struct OpenOptions {
  std::string uri;              ///< with its scheme: "nbd://server/export"
  std::string name = "a disk";  ///< the subject of log lines: "disk root"
  bool is_read_only = false;
  ByteCount block_size = ByteCount(512);
  /// The disk is claimed by Disk::claim() to release() only, not while it is open.
  bool is_claimed_in_use = false;
  /// Settings of the backend, such as "tls-psk-file". A backend refuses unknown ones.
  std::map<std::string, std::string, std::less<>> settings;
  /// Where the backend may keep a small file about this disk over the life of the process, beside
  /// the disk's socket; empty: nowhere.
  std::string state_path;
};

/// Why a disk does not open.
struct OpenFailure {
  Error error;
  std::string detail;  ///< the words of the backend's library; may be empty

  /// One line without a full stop.
  [[nodiscard]] std::string to_string() const;
};

template <typename T>
using OpenResult = std::expected<T, OpenFailure>;

/// Opens the disks of one backend. Threads: any, several at a time. Lifetime: the process's.
class DiskFactory {
 public:
  virtual ~DiskFactory() = default;
  /// Opens a disk. Blocks, for as long as the server takes, with a limit of the backend's.
  virtual OpenResult<std::shared_ptr<Disk>> open(const OpenOptions& options) = 0;
  /// Opens the disk of another process from its snapshot, while that process still serves it.
  virtual OpenResult<std::shared_ptr<Disk>> take_over(const OpenOptions& options,
                                                      DiskSnapshot snapshot) = 0;
};

/// What a module exports as `guestio_disk_module`. A module is built with the same compiler and the
/// same version of the library as the program; it links no library of ours, and finds the functions
/// of guestio::base to guestio::disk_remote in the program.
struct DiskModule {
  static constexpr std::uint32_t kAbi = 1;

  std::uint32_t abi;
  const char* version;        ///< guestio::kVersion of its headers
  DiskFactory& (*factory)();  ///< lives until the process ends
};

/// Defines the export: `GUESTIO_DISK_MODULE(MyFactory)` at namespace scope, once in a module.
#define GUESTIO_DISK_MODULE(Factory)                                                               \
  extern "C" [[gnu::visibility("default")]] const ::guestio::disk::DiskModule guestio_disk_module; \
  const ::guestio::disk::DiskModule guestio_disk_module = {::guestio::disk::DiskModule::kAbi,      \
                                                           ::guestio::kVersion,                    \
                                                           []() -> ::guestio::disk::DiskFactory& { \
                                                             static Factory factory;               \
                                                             return factory;                       \
                                                           }}

/// The scheme of an image name, without the colon: "nbd+unix" of "nbd+unix:///?socket=s". Nothing
/// for a path, such as "disk.img", "/a:b" or "./nbd:x".
[[nodiscard]] std::optional<std::string_view> scheme_of(std::string_view image) noexcept;

/// The part after the scheme and its colon.
[[nodiscard]] std::string_view after_scheme(std::string_view image) noexcept;

/// Finds the factory of a scheme. Threads: any.
class DiskRegistry {
 public:
  /// Modules are loaded from the first of these folders with the file.
  explicit DiskRegistry(std::vector<std::string> module_folders)
      : module_folders_(std::move(module_folders)) {}

  /// Adds a compiled-in backend. `factory` outlives the registry.
  void add(std::string scheme, DiskFactory& factory);
  /// Whether the scheme has a backend in this process, or is one that a module brings.
  [[nodiscard]] bool knows(std::string_view scheme) const;
  /// The factory of `scheme`; loads `libguestio-disk-SCHEME.so` on first use. The error is a line
  /// for the operator, with the package of a missing module.
  [[nodiscard]] std::expected<DiskFactory*, std::string> find(std::string_view scheme);

  /// Folders of modules: $GUESTIO_MODULE_DIR if set, else the folder of an installation, as seen
  /// from the program's own path.
  [[nodiscard]] static std::vector<std::string> default_folders();

 private:
  std::expected<DiskFactory*, std::string> load(const std::string& module) const;

  const std::vector<std::string> module_folders_;
  mutable std::mutex mutex_;
  // protected by mutex_
  std::map<std::string, DiskFactory*, std::less<>> factories_;  // by scheme or module name
};

}  // namespace guestio::disk
