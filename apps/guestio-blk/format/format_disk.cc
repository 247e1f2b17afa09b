// SPDX-License-Identifier: MIT
#include "apps/guestio-blk/format/format_disk.h"

#include <fmt/format.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <array>
#include <utility>

#include "guestio/base/log.h"
#include "guestio/base/thread.h"

namespace guestio::app {

namespace {

using disk::OpenFailure;
using disk::OpenResult;
using SharedDisk = std::shared_ptr<disk::Disk>;

/// The daemon's words, which say more than the connection's error.
OpenFailure explain(OpenFailure failure, const FormatServer& server) {
  while (const auto message = server.receive()) {
    if (message->kind == SupervisorMessage::Kind::kEnded) break;
    if (message->kind == SupervisorMessage::Kind::kFailed) failure.detail = message->text;
  }
  return failure;
}

}  // namespace

OpenResult<SharedDisk> FormatDisk::open(disk::DiskFactory& nbd, disk::OpenOptions options,
                                        FormatImage image) {
  auto server = FormatServer::start(image);
  if (!server) return std::unexpected(OpenFailure{server.error(), {}});
  options.uri = server->uri();
  auto opened = nbd.open(options);
  if (!opened) return std::unexpected(explain(std::move(opened.error()), *server));
  server->confirm();
  std::shared_ptr<FormatDisk> self(new FormatDisk(std::move(options.name), std::move(image),
                                                  std::move(*server), std::move(*opened)));
  if (auto watched = self->watch(); !watched) {
    return std::unexpected(OpenFailure{watched.error(), {}});
  }
  return self;
}

OpenResult<SharedDisk> FormatDisk::take_over(disk::DiskFactory& nbd, disk::OpenOptions options,
                                             FormatImage image, disk::DiskSnapshot snapshot) {
  auto server = FormatServer::adopt(std::move(snapshot.io), snapshot.backend_state);
  if (!server) return std::unexpected(OpenFailure{server.error(), {}});
  options.uri = server->uri();
  disk::DiskSnapshot inner;
  inner.size = snapshot.size;
  auto opened = nbd.take_over(options, std::move(inner));
  if (!opened) return std::unexpected(std::move(opened.error()));
  std::shared_ptr<FormatDisk> self(new FormatDisk(std::move(options.name), std::move(image),
                                                  std::move(*server), std::move(*opened)));
  return self;
}

FormatDisk::FormatDisk(std::string name, FormatImage image, FormatServer server, SharedDisk nbd)
    : name_(std::move(name)),
      image_(std::move(image)),
      nbd_(std::move(nbd)),
      server_(std::move(server)) {}

FormatDisk::~FormatDisk() {
  if (!watcher_.joinable()) return;
  const std::uint64_t one = 1;
  (void)!::write(end_.get(), &one, sizeof one);
  watcher_.join();
  server_.end();
}

void FormatDisk::on_taken_over() noexcept {
  if (const auto watched = watch(); !watched) {
    log::error("{}: {}: its qemu-storage-daemon is not watched: {}", name_, image_.path,
               watched.error().to_string());
  }
}

Result<> FormatDisk::watch() {
  end_ = UniqueFd(::eventfd(0, EFD_CLOEXEC));
  if (!end_) return fail_host("make an eventfd");
  auto thread = start_thread("image daemon", [this] { read_messages(); });
  if (!thread) return fail(thread.error());
  watcher_ = std::move(*thread);
  return {};
}

void FormatDisk::read_messages() {
  while (true) {
    std::array<pollfd, 2> waited = {
        pollfd{.fd = server_.lifeline().get(), .events = POLLIN, .revents = 0},
        pollfd{.fd = end_.get(), .events = POLLIN, .revents = 0}};
    if (::poll(waited.data(), waited.size(), -1) < 0) continue;
    if (waited[1].revents != 0) return;
    if (const auto message = server_.receive()) handle(*message);
  }
}

void FormatDisk::handle(const SupervisorMessage& message) {
  using Kind = SupervisorMessage::Kind;
  switch (message.kind) {
    case Kind::kLog: log::warning("{}: {}: {}", name_, image_.path, message.text); break;
    case Kind::kRestarted:
      log::error("{}: {}: its qemu-storage-daemon ended and starts again: {}", name_, image_.path,
                 message.text);
      break;
    case Kind::kFailed: log::error("{}: {}: {}", name_, image_.path, message.text); break;
    case Kind::kEnded: replace_server(); break;
  }
}

/// The supervisor is not expected to end first.
void FormatDisk::replace_server() {
  log::error("{}: {}: the supervisor of its qemu-storage-daemon ended and starts again", name_,
             image_.path);
  auto started = FormatServer::start_in(server_.folder(), image_);
  if (started) {
    started->confirm();
    const std::lock_guard lock(mutex_);
    server_ = std::move(*started);
    return;
  }
  log::error("{}: {}: {}; the next attempt follows in 1 s", name_, image_.path,
             started.error().to_string());
  constexpr int kPauseMs = 1000;
  pollfd end{.fd = end_.get(), .events = POLLIN, .revents = 0};
  (void)::poll(&end, 1, kPauseMs);
}

Result<std::unique_ptr<disk::Channel>> FormatDisk::open_channel(uring::Loop& loop,
                                                                ByteCount bounce_limit) {
  return nbd_->open_channel(loop, bounce_limit);
}

Result<ByteCount> FormatDisk::refresh_size() { return nbd_->refresh_size(); }

void FormatDisk::on_size_change(std::move_only_function<void()> changed) {
  nbd_->on_size_change(std::move(changed));
}

bool FormatDisk::needs_one_thread() const noexcept { return nbd_->needs_one_thread(); }

disk::DiskStatus FormatDisk::status() const {
  disk::DiskStatus status = nbd_->status();
  status.backend = "qemu-storage-daemon";
  return status;
}

Result<> FormatDisk::claim() { return nbd_->claim(); }

void FormatDisk::release() noexcept { nbd_->release(); }

Result<disk::DiskSnapshot> FormatDisk::snapshot() const {
  const std::lock_guard lock(mutex_);
  auto lifeline = duplicate_fd(server_.lifeline().get());
  if (!lifeline) return fail(lifeline.error());
  disk::DiskSnapshot snapshot;
  snapshot.io = std::move(*lifeline);
  snapshot.size = info().size;
  snapshot.backend_state = server_.folder();
  auto inner = nbd_->snapshot();
  if (!inner) return fail(inner.error());
  snapshot.unflushed = std::move(inner->unflushed);
  return snapshot;
}

Result<> FormatDisk::restore(disk::DiskSnapshot latest) {
  latest.backend_state.clear();
  return nbd_->restore(std::move(latest));
}

}  // namespace guestio::app
