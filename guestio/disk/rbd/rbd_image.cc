// SPDX-License-Identifier: MIT
#include "guestio/disk/rbd/rbd_image.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <string_view>
#include <utility>

#include "guestio/base/unique_fd.h"
#include "guestio/disk/rbd/helper_threads.h"
#include "guestio/disk/rbd/rbd_error.h"

namespace guestio::disk {

namespace {

/// A passphrase in memory; destruction wipes it.
class Passphrase {
 public:
  explicit Passphrase(std::size_t capacity) : bytes_(capacity) {}
  Passphrase(Passphrase&& other) noexcept = default;
  Passphrase& operator=(Passphrase&&) = delete;
  ~Passphrase() {
    if (!bytes_.empty()) ::explicit_bzero(bytes_.data(), bytes_.size());
  }

  [[nodiscard]] std::vector<char>& bytes() noexcept { return bytes_; }

 private:
  std::vector<char> bytes_;
};

/// Every byte counts, a newline at the end included, as for `cryptsetup --key-file`.
Result<Passphrase> read_passphrase(const std::string& path) {
  constexpr std::size_t kMost = std::size_t{1} << 20;
  const UniqueFd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  struct stat status{};
  if (!file || ::fstat(file.get(), &status) != 0) return fail_host("open the key file");
  // Never resized: a copy would stay in freed memory.
  Passphrase passphrase(S_ISREG(status.st_mode)
                            ? std::min<std::size_t>(static_cast<std::size_t>(status.st_size), kMost)
                            : std::size_t{4096});
  std::vector<char>& bytes = passphrase.bytes();
  std::size_t size = 0;
  while (size < bytes.size()) {
    const auto got = ::read(file.get(), bytes.data() + size, bytes.size() - size);
    if (got < 0) return fail_host("read the key file");
    if (got == 0) break;
    size += static_cast<std::size_t>(got);
  }
  bytes.resize(size);
  if (size == 0) return fail(ErrorKind::kInvalidArgument, "an empty key file");
  return passphrase;
}

OpenResult<rados_ioctx_t> open_pool(const RadosConnection& connection, const RbdUri& uri) {
  rados_ioctx_t pool = nullptr;
  if (const int r = ::rados_ioctx_create(connection.cluster(), uri.pool.c_str(), &pool); r < 0) {
    return rbd_failure(
        -r, "open the pool",
        r == -ENOENT ? fmt::format("there is no pool '{}'", uri.pool) : describe_rbd_errno(-r));
  }
  if (uri.pool_namespace.empty()) return pool;
  bool exists = false;
  const int r = ::rbd_namespace_exists(pool, uri.pool_namespace.c_str(), &exists);
  if (r == 0 && !exists) {
    ::rados_ioctx_destroy(pool);
    return rbd_failure(
        ENOENT, "open the pool",
        fmt::format("there is no namespace '{}' in pool '{}'", uri.pool_namespace, uri.pool));
  }
  ::rados_ioctx_set_namespace(pool, uri.pool_namespace.c_str());
  return pool;
}

std::string explain_open(int error, const RbdUri& uri) {
  switch (error) {
    case ENOENT:
      if (!uri.snapshot.empty())
        return fmt::format("there is no image or snapshot '{}'", uri.to_string());
      return fmt::format("there is no image '{}' in pool '{}'", uri.image, uri.pool);
    case EPERM:
    case EACCES: return fmt::format("client.{} may not open {}", uri.user, uri.to_string());
    default: return fmt::format("{}: {}", uri.to_string(), describe_rbd_errno(error));
  }
}

std::string explain_encryption(int error, const RbdSettings& settings) {
  const char* const format = settings.encryption == RbdEncryption::kLuks1 ? "LUKS1" : "LUKS2";
  switch (error) {
    case EPERM:
      return fmt::format("the passphrase in {} is not one of the image's", settings.key_file);
    case EINVAL: return fmt::format("the image has no {} header", format);
    default: return fmt::format("{}: {}", format, describe_rbd_errno(error));
  }
}

}  // namespace

OpenResult<std::shared_ptr<RbdImage>> RbdImage::open(RadosConnections& connections,
                                                     const Options& options) {
  const RbdUri& uri = options.uri;
  auto share = connections.share({uri.user, uri.conf}, options.settings.images_per_connection);
  if (!share) return std::unexpected(std::move(share.error()));
  auto pool = open_pool(**share, uri);
  if (!pool) return std::unexpected(std::move(pool.error()));
  rbd_image_t handle = nullptr;
  const char* const snapshot = uri.snapshot.empty() ? nullptr : uri.snapshot.c_str();
  const auto open = options.is_read_only ? ::rbd_open_read_only : ::rbd_open;
  if (const int r = open(*pool, uri.image.c_str(), &handle, snapshot); r < 0) {
    if (is_fenced_errno(-r)) (*share)->set_fenced();
    ::rados_ioctx_destroy(*pool);
    return rbd_failure(-r, "open the image", explain_open(-r, uri));
  }
  // A close may block, and the last reference may be that of an I/O thread.
  const std::shared_ptr<RbdImage> self(
      new RbdImage(std::move(*share), *pool, handle),
      [](RbdImage* image) { helper_threads::run_or_leak([image] { delete image; }); });
  if (auto loaded = self->load_encryption(options.settings); !loaded) {
    return std::unexpected(std::move(loaded.error()));
  }
  return self;
}

RbdImage::~RbdImage() {
  if (is_watched_) (void)::rbd_update_unwatch(handle_, watch_);
  (void)::rbd_close(handle_);
  ::rados_ioctx_destroy(pool_);
}

OpenResult<void> RbdImage::load_encryption(const RbdSettings& settings) {
  if (!settings.encryption) return {};
  auto passphrase = read_passphrase(settings.key_file);
  if (!passphrase) {
    return std::unexpected(
        OpenFailure{passphrase.error(),
                    fmt::format("{}: {}", settings.key_file, passphrase.error().to_string())});
  }
  const std::vector<char>& bytes = passphrase->bytes();
  int r = 0;
  if (settings.encryption == RbdEncryption::kLuks1) {
    rbd_encryption_luks1_format_options_t options{RBD_ENCRYPTION_ALGORITHM_AES256, bytes.data(),
                                                  bytes.size()};
    r = ::rbd_encryption_load(handle_, RBD_ENCRYPTION_FORMAT_LUKS1, &options, sizeof(options));
  } else {
    rbd_encryption_luks2_format_options_t options{RBD_ENCRYPTION_ALGORITHM_AES256, bytes.data(),
                                                  bytes.size()};
    r = ::rbd_encryption_load(handle_, RBD_ENCRYPTION_FORMAT_LUKS2, &options, sizeof(options));
  }
  if (r < 0) return rbd_failure(-r, "open the encryption", explain_encryption(-r, settings));
  return {};
}

Result<std::uint64_t> RbdImage::size() const {
  std::uint64_t size = 0;
  if (const int r = ::rbd_get_size(handle_, &size); r < 0) {
    return fail(Error::host(-r, "query the size of the image"));
  }
  return size;
}

Result<std::uint64_t> RbdImage::features() const {
  std::uint64_t features = 0;
  if (const int r = ::rbd_get_features(handle_, &features); r < 0) {
    return fail(Error::host(-r, "query the features of the image"));
  }
  return features;
}

bool RbdImage::has_cache() const {
  int count = 0;
  (void)::rbd_config_image_list(handle_, nullptr, &count);
  std::vector<rbd_config_option_t> options(static_cast<std::size_t>(std::max(count, 0)));
  if (::rbd_config_image_list(handle_, options.data(), &count) < 0) return true;  // be careful
  const bool has_cache = std::ranges::any_of(options, [](const rbd_config_option_t& option) {
    return std::string_view(option.name) == "rbd_cache" &&
           std::string_view(option.value) != "false";
  });
  ::rbd_config_image_list_cleanup(options.data(), count);
  return has_cache;
}

Result<> RbdImage::watch(std::function<void()> changed) {
  changed_ = std::move(changed);
  const auto call = [](void* self) { static_cast<RbdImage*>(self)->changed_(); };
  if (const int r = ::rbd_update_watch(handle_, &watch_, call, this); r < 0) {
    return fail(Error::host(-r, "watch the image"));
  }
  is_watched_ = true;
  return {};
}

}  // namespace guestio::disk
