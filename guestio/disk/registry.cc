// SPDX-License-Identifier: MIT
#include "guestio/disk/registry.h"

#include <dlfcn.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <filesystem>
#include <utility>

#include "guestio/base/version.h"

namespace guestio::disk {

namespace {

/// Schemes of one module, and the package that brings it.
struct KnownModule {
  const char* scheme;
  const char* module;
  const char* package;
};
constexpr std::array kKnownModules = {
    KnownModule{"nbd", "nbd", "guestio-disk-nbd"},
    KnownModule{"nbds", "nbd", "guestio-disk-nbd"},
    KnownModule{"nbd+unix", "nbd", "guestio-disk-nbd"},
    KnownModule{"nbds+unix", "nbd", "guestio-disk-nbd"},
    KnownModule{"rbd", "rbd", "guestio-disk-rbd"},
};

const KnownModule* find_known(std::string_view scheme) noexcept {
  const auto found = std::ranges::find(kKnownModules, scheme, &KnownModule::scheme);
  return found == kKnownModules.end() ? nullptr : &*found;
}

std::string module_name(std::string_view scheme) {
  const KnownModule* const known = find_known(scheme);
  return known != nullptr ? known->module : std::string(scheme);
}

std::string file_name(const std::string& module) {
  return fmt::format("libguestio-disk-{}.so", module);
}

}  // namespace

std::string OpenFailure::to_string() const {
  if (detail.empty()) return error.to_string();
  return fmt::format("{}: {}", error.what, detail);
}

std::optional<std::string_view> scheme_of(std::string_view image) noexcept {
  constexpr std::string_view kLetters = "abcdefghijklmnopqrstuvwxyz";
  constexpr std::string_view kAllowed = "abcdefghijklmnopqrstuvwxyz0123456789+-.";
  const auto colon = image.find(':');
  if (colon == std::string_view::npos || colon == 0) return std::nullopt;
  const auto scheme = image.substr(0, colon);
  const bool is_scheme = kLetters.find(scheme.front()) != std::string_view::npos &&
                         scheme.find_first_not_of(kAllowed) == std::string_view::npos;
  return is_scheme ? std::optional(scheme) : std::nullopt;
}

std::string_view after_scheme(std::string_view image) noexcept {
  return image.substr(image.find(':') + 1);
}

void DiskRegistry::add(std::string scheme, DiskFactory& factory) {
  const std::lock_guard lock(mutex_);
  factories_.insert_or_assign(std::move(scheme), &factory);
}

bool DiskRegistry::knows(std::string_view scheme) const {
  if (find_known(scheme) != nullptr) return true;
  {
    const std::lock_guard lock(mutex_);
    if (factories_.contains(scheme)) return true;
  }
  return std::ranges::any_of(module_folders_, [&](const std::string& folder) {
    std::error_code ignored;
    return std::filesystem::exists(folder + "/" + file_name(std::string(scheme)), ignored);
  });
}

std::expected<DiskFactory*, std::string> DiskRegistry::find(std::string_view scheme) {
  const std::lock_guard lock(mutex_);
  if (const auto found = factories_.find(scheme); found != factories_.end()) return found->second;
  const std::string module = module_name(scheme);
  if (const auto found = factories_.find(module); found != factories_.end()) return found->second;
  auto loaded = load(module);
  if (!loaded) return loaded;
  factories_.emplace(module, *loaded);
  return loaded;
}

std::expected<DiskFactory*, std::string> DiskRegistry::load(const std::string& module) const {
  const std::string file = file_name(module);
  std::string looked_in;
  for (const std::string& folder : module_folders_) {
    const std::string path = folder + "/" + file;
    std::error_code ignored;
    if (!std::filesystem::exists(path, ignored)) {
      looked_in += (looked_in.empty() ? "" : ", ") + folder;
      continue;
    }
    // Never unloaded: disks may have threads in it. RTLD_NOW: a missing function is found here, and
    // not under a guest's request.
    void* const handle = ::dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (handle == nullptr) {
      return std::unexpected(fmt::format("module {} does not load: {}", path, ::dlerror()));
    }
    const auto* const found =
        static_cast<const DiskModule*>(::dlsym(handle, "guestio_disk_module"));
    if (found == nullptr) {
      return std::unexpected(fmt::format("{} is no module of guestio", path));
    }
    if (found->abi != DiskModule::kAbi || std::string_view(found->version) != kVersion) {
      return std::unexpected(
          fmt::format("module {} is of guestio {} (interface {}), and this program of {} "
                      "(interface {}): install the same version of both",
                      path, found->abi == DiskModule::kAbi ? found->version : "another version",
                      found->abi, kVersion, DiskModule::kAbi));
    }
    return &found->factory();
  }
  for (const KnownModule& known : kKnownModules) {
    if (module == known.module) {
      return std::unexpected(
          fmt::format("the {} backend is not installed: install the package {} ({} is not in {})",
                      module, known.package, file, looked_in));
    }
  }
  return std::unexpected(
      fmt::format("there is no backend '{}' ({} is not in {})", module, file, looked_in));
}

std::vector<std::string> DiskRegistry::default_folders() {
  if (const char* const given = std::getenv("GUESTIO_MODULE_DIR"); given != nullptr) {
    return {given};
  }
  std::error_code ignored;
  const auto program = std::filesystem::read_symlink("/proc/self/exe", ignored);
  return {(program.parent_path() / GUESTIO_MODULE_DIR).lexically_normal().string()};
}

}  // namespace guestio::disk
