// SPDX-License-Identifier: MIT
#include "server.h"

#include <fmt/format.h>
#include <sys/signalfd.h>
#include <sys/socket.h>

#include <csignal>
#include <cstdio>
#include <filesystem>
#include <optional>
#include <utility>

#include "guestio/base/log.h"
#include "guestio/blk/block_device.h"
#include "guestio/blk/block_queue.h"
#include "guestio/task/scope.h"
#include "guestio/task/task.h"
#include "guestio/uring/awaitables.h"
#include "guestio/uring/loop.h"
#include "guestio/uring/loop_timer.h"
#include "guestio/vhost/backend.h"
#include "guestio/vhost/listener.h"
#include "held_requests.h"

namespace guestio::app {

namespace {

constexpr int kExitFailure = 1;

int complain(const std::string& subject, const Error& error, int status) {
  fmt::print(stderr, "guestio-blk: {}: {}\n", subject, error.to_string());
  return status;
}

/// What a guest reads as the disk's ID when nobody chose one: the same for the same path.
std::string make_serial(const std::string& image) {
  std::error_code ignored;
  const auto path = std::filesystem::weakly_canonical(image, ignored).string();
  std::uint64_t hash = 0xcbf29ce484222325;  // FNV-1a
  for (const char character : path) {
    hash = (hash ^ static_cast<unsigned char>(character)) * 0x100000001b3;
  }
  return fmt::format("guestio-{:012x}", hash & 0xffffffffffff);
}

/// SIGTERM, SIGINT, SIGUSR1 and SIGUSR2 as a descriptor. Blocks them for the threads that are
/// started later as well.
Result<UniqueFd> take_signals() {
  std::signal(SIGPIPE, SIG_IGN);
  // A write past a limit on files is a failed request (EFBIG), not the end of the process.
  std::signal(SIGXFSZ, SIG_IGN);
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGUSR1);
  sigaddset(&signals, SIGUSR2);
  if (::pthread_sigmask(SIG_BLOCK, &signals, nullptr) != 0) return fail_host("block signals");
  UniqueFd fd(::signalfd(-1, &signals, SFD_CLOEXEC));
  if (!fd) return fail_host("make a signal descriptor");
  return fd;
}

enum class SocketKind { kListening, kConnected };

Result<SocketKind> ask_kind(int socket) {
  int is_listening = 0;
  socklen_t size = sizeof is_listening;
  if (::getsockopt(socket, SOL_SOCKET, SO_ACCEPTCONN, &is_listening, &size) != 0) {
    return fail_host("ask what --fd is");
  }
  return is_listening != 0 ? SocketKind::kListening : SocketKind::kConnected;
}

/// The server while it runs: the two tasks of the control thread.
class Server {
 public:
  Server(uring::Loop& loop, vhost::Backend& backend, HeldRequests& held, UniqueFd signals) noexcept
      : loop_(loop), backend_(backend), held_(held), signals_(std::move(signals)) {}

  int run(task::Task<Result<>> serving) {
    tasks_.spawn(serve(std::move(serving)));
    signal_watch_.spawn(watch_signals());
    loop_.run();
    return status_;
  }

 private:
  task::Task<> serve(task::Task<Result<>> serving) {
    const auto served = co_await std::move(serving);
    if (!served) {
      log::error("stops serving: {}", served.error().to_string());
      status_ = kExitFailure;
    }
    signal_stop_.request_stop();
    auto quiet = signal_watch_.join();
    co_await quiet;
    loop_.stop();
  }

  /// The first signal to stop asks to drain; a second one does not wait for that.
  task::Task<> watch_signals() {
    bool is_stopping = false;
    while (true) {
      signalfd_siginfo info{};
      const auto to = std::as_writable_bytes(std::span(&info, 1));
      auto reading =
          uring::read(loop_, uring::File(signals_.get()), to, FileOffset(0), signal_stop_.token());
      const std::int32_t got = co_await reading;
      if (got != static_cast<std::int32_t>(sizeof info)) co_return;
      if (info.ssi_signo == SIGUSR1 || info.ssi_signo == SIGUSR2) {
        decide(info.ssi_signo == SIGUSR1 ? HeldRequests::Decision::kResume
                                         : HeldRequests::Decision::kGiveUp);
        continue;
      }
      if (std::exchange(is_stopping, true)) {
        log::error("asked to stop again: ends without waiting for requests in flight");
        std::_Exit(kExitFailure);
      }
      log::info("asked to stop: finishes what is in flight");
      backend_.stop();
    }
  }

  void decide(HeldRequests::Decision decision) {
    log::info("asked to {} what waits for the disk",
              decision == HeldRequests::Decision::kResume ? "try again" : "give up");
    held_.decide(decision);
  }

  uring::Loop& loop_;
  vhost::Backend& backend_;
  HeldRequests& held_;
  UniqueFd signals_;
  task::StopSource signal_stop_;
  task::Scope tasks_;
  task::Scope signal_watch_;
  int status_ = 0;
};

task::Task<Result<>> serve_connected(vhost::Backend& backend, UniqueFd socket) {
  auto serving = backend.serve_one(std::move(socket));
  co_await std::move(serving);
  co_return Result<>();
}

}  // namespace

int serve(const Options& options, const Image& image) {
  auto signals = take_signals();
  if (!signals) return complain("cannot start", signals.error(), kExitFailure);
  auto loop = uring::Loop::create();
  if (!loop) return complain("cannot use io_uring", loop.error(), kExitFailure);

  const std::string serial = options.serial.empty() ? make_serial(options.image) : options.serial;
  blk::BlockDevice device({.disk = image.info(), .queues = options.queues, .serial = serial});
  HeldRequests held;
  const auto make_queue = [&](uring::Loop& queue_loop,
                              std::uint16_t) -> Result<std::unique_ptr<virtio::QueueHandler>> {
    auto channel = image.open_channel(queue_loop);
    if (!channel) return fail(channel.error());
    blk::FailurePolicy policy{.on_error = options.on_error,
                              .timer = std::make_unique<uring::LoopTimer>(queue_loop)};
    auto queue = std::make_unique<blk::BlockQueue>(
        device, std::move(*channel), blk::BlockQueue::kMostRequests, std::move(policy));
    held.add(queue_loop, *queue);
    return queue;
  };
  auto threads = vhost::QueueThreads::start(
      {.count = options.threads, .polling = options.polling, .cpus = options.cpus});
  if (!threads) return complain("cannot start", threads.error(), kExitFailure);
  auto backend = vhost::Backend::create(**loop, device, *threads, options.queues, make_queue);
  if (!backend) return complain("cannot start", backend.error(), kExitFailure);

  if (!options.has_packed_ring) (*backend)->withhold(virtio::kFeatureRingPacked);
  if (options.fixed_buffers == FixedBuffers::kOn) (*backend)->register_guest_memory();

  std::optional<vhost::Listener> listener;
  task::Task<Result<>> serving;
  if (options.socket_fd) {
    const auto kind = ask_kind(*options.socket_fd);
    if (!kind) return complain("--fd", kind.error(), kExitUsage);
    UniqueFd socket(*options.socket_fd);
    if (*kind == SocketKind::kConnected) {
      serving = serve_connected(**backend, std::move(socket));
    } else {
      listener.emplace(vhost::Listener::adopt(std::move(socket)));
    }
  } else {
    auto made = vhost::Listener::listen_at(options.socket_path);
    if (!made) return complain(options.socket_path, made.error(), kExitUsage);
    listener.emplace(std::move(*made));
  }
  if (listener) serving = (*backend)->accept_all(listener->fd());
  log::info("serves {} ({}{}) at {}", options.image, format_byte_count(image.info().size),
            options.is_read_only ? ", read-only" : "",
            options.socket_fd ? fmt::format("fd {}", *options.socket_fd) : options.socket_path);
  return Server(**loop, **backend, held, std::move(*signals)).run(std::move(serving));
}

}  // namespace guestio::app
