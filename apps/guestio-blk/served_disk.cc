// SPDX-License-Identifier: MIT
#include "apps/guestio-blk/served_disk.h"

#include <fmt/format.h>
#include <sys/socket.h>

#include <filesystem>

#include "apps/guestio-blk/options/image_name.h"
#include "guestio/base/log.h"
#include "guestio/uring/loop_timer.h"
#include "guestio/uring/registered_buffers.h"

namespace guestio::app {

namespace {

/// The default disk ID: a function of the image's path or URI.
std::string make_serial(const std::string& image) {
  std::error_code ignored;
  const auto path = is_file_image(image)
                        ? std::filesystem::weakly_canonical(path_of_image(image), ignored).string()
                        : image;
  std::uint64_t hash = 0xcbf29ce484222325;  // FNV-1a
  for (const char character : path) {
    hash = (hash ^ static_cast<unsigned char>(character)) * 0x100000001b3;
  }
  return fmt::format("guestio-{:012x}", hash & 0xffffffffffff);
}

enum class SocketKind { kListening, kConnected };

Result<SocketKind> ask_kind(int socket) {
  int is_listening = 0;
  socklen_t size = sizeof is_listening;
  if (::getsockopt(socket, SOL_SOCKET, SO_ACCEPTCONN, &is_listening, &size) != 0) {
    return fail_host("use the descriptor as a socket");
  }
  return is_listening != 0 ? SocketKind::kListening : SocketKind::kConnected;
}

}  // namespace

ServedDisk::ServedDisk(DiskOptions options, std::shared_ptr<disk::Disk> disk)
    : options_(std::move(options)),
      disk_(std::move(disk)),
      device_({.disk = disk_->info(),
               .queues = options_.queues,
               .serial = options_.serial.empty() ? make_serial(options_.image) : options_.serial,
               .max_ranges = options_.max_ranges,
               .name = options_.label(),
               .begin_use = [this] { return disk_->claim(); },
               .end_use = [this] { disk_->release(); }}) {}

ServedDisk::~ServedDisk() {
  disk_->on_size_change({});
  if (announced_to_) *announced_to_ = nullptr;
}

Result<std::unique_ptr<ServedDisk>> ServedDisk::create(uring::Loop& home,
                                                       vhost::QueueThreads& threads,
                                                       const DiskOptions& options,
                                                       std::shared_ptr<disk::Disk> disk) {
  std::unique_ptr<ServedDisk> self(new ServedDisk(options, std::move(disk)));
  // The guest of a disk whose server is away sees a pause.
  const blk::OnError default_on_error =
      self->disk_->info().is_remote ? blk::OnError::kHold : blk::OnError::kReport;
  const auto make_queue =
      [&](uring::Loop& loop, std::uint16_t index) -> Result<std::unique_ptr<virtio::QueueHandler>> {
    auto channel = self->disk_->open_channel(loop, options.bounce_limit);
    if (!channel) return fail(channel.error());
    blk::FailurePolicy policy{.on_error = options.on_error.value_or(default_on_error),
                              .timer = std::make_unique<uring::LoopTimer>(loop)};
    auto queue = std::make_unique<blk::BlockQueue>(
        self->device_, std::move(*channel), blk::BlockQueue::kMaxRequests, std::move(policy),
        fmt::format("{}, queue {}", options.label(), index));
    queue->set_throttle(options.throttle);
    self->queues_.push_back(queue.get());
    self->throttled_.push_back({&loop, queue.get()});
    self->held_.add(loop, *queue);
    return queue;
  };
  auto backend = vhost::Backend::create({.home = home,
                                         .device = self->device_,
                                         .threads = threads,
                                         .name = options.label(),
                                         .uses_one_thread = self->disk_->needs_one_thread()},
                                        options.queues, make_queue);
  if (!backend) return fail(backend.error());
  self->backend_ = std::move(*backend);
  if (!options.has_packed_ring) self->backend_->withhold_features(virtio::kFeatureRingPacked);
  if (options.has_post_copy) self->backend_->offer_post_copy();
  if (options.fixed_buffers == FixedBuffers::kOn) {
    self->backend_->register_guest_memory(registered::RegistrationScope::kAll);
  } else if (options.fixed_buffers == FixedBuffers::kAuto && uring::is_memlock_unlimited()) {
    self->backend_->register_guest_memory(registered::RegistrationScope::kResidentOnly);
  }
  self->watch_size(home);
  return self;
}

/// Sizes that a server announces reach the guest without an operator.
void ServedDisk::watch_size(uring::Loop& home) {
  announced_to_ = std::make_shared<ServedDisk*>(this);
  disk_->on_size_change([&home, served = announced_to_] {
    home.post([served] {
      if (*served == nullptr) return;
      const auto size = (*served)->refresh_size();
      if (size) return;
      log::warning("{}: the announced size is not taken over: {}", (*served)->options_.label(),
                   size.error().to_string());
    });
  });
}

void ServedDisk::on_limits_changed() {
  for (const QueueOfLoop& one : throttled_) {
    one.loop->post([queue = one.queue] { queue->on_limits_changed(); });
  }
}

Result<> ServedDisk::check_descriptor(const DiskOptions& options) {
  if (!options.socket_fd) return {};
  const auto kind = ask_kind(*options.socket_fd);
  if (!kind) return fail(kind.error());
  return {};
}

Result<ServedDisk::Socket> ServedDisk::open_socket(const DiskOptions& options) {
  if (!options.socket_fd) {
    auto made = UnixListener::listen_at(options.socket_path, options.socket_access);
    if (!made) return fail(made.error());
    return Socket(std::move(*made));
  }
  const auto kind = ask_kind(*options.socket_fd);
  if (!kind) return fail(kind.error());
  // The attempt may fail; the next one needs the descriptor.
  auto socket = duplicate_fd(*options.socket_fd);
  if (!socket) return fail(socket.error());
  if (*kind == SocketKind::kConnected) return Socket(std::move(*socket));
  return Socket(UnixListener::adopt(std::move(*socket)));
}

void ServedDisk::take_socket(Socket socket) {
  if (auto* const listener = std::get_if<UnixListener>(&socket); listener != nullptr) {
    listener_.emplace(std::move(*listener));
  } else {
    connected_ = std::move(std::get<UniqueFd>(socket));
  }
  // Otherwise front-ends would not see the copy being closed.
  if (options_.socket_fd) UniqueFd(*options_.socket_fd).reset();
}

Result<ByteCount> ServedDisk::refresh_size() {
  const auto size = disk_->refresh_size();
  if (!size || *size == device_.disk().size) return size;
  // The disk accepts the new sectors: the guest may learn of them.
  log::info("{}: resized from {} to {}", options_.label(), format_byte_count(device_.disk().size),
            format_byte_count(*size));
  device_.set_size(*size);
  backend_->notify_config_changed();
  return size;
}

std::string ServedDisk::serial() const {
  const auto id = device_.id();
  std::string text;
  for (const std::byte byte : id) {
    if (byte == std::byte{0}) break;
    text.push_back(static_cast<char>(byte));
  }
  return text;
}

task::Task<Result<>> ServedDisk::serve() {
  log::info("{}: serves {} ({}{}) at {}", options_.label(), options_.image,
            format_byte_count(disk_->info().size), options_.is_read_only ? ", read-only" : "",
            options_.place());
  if (listener_) {
    co_return co_await backend_->accept_all(listener_->fd());
  }
  if (connected_) {
    co_await backend_->serve_one(std::move(connected_));
  } else if (backend_->is_connected()) {
    co_await backend_->serve_restored();
  }
  co_return Result<>();
}

}  // namespace guestio::app
