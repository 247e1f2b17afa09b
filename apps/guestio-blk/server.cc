// SPDX-License-Identifier: MIT
#include "apps/guestio-blk/server.h"

#include <fmt/format.h>
#include <sys/signalfd.h>

#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <expected>
#include <functional>
#include <nlohmann/json.hpp>
#include <utility>

#include "apps/guestio-blk/control/commands.h"
#include "apps/guestio-blk/control/control_socket.h"
#include "apps/guestio-blk/descriptors.h"
#include "apps/guestio-blk/disk_start.h"
#include "apps/guestio-blk/report_error.h"
#include "apps/guestio-blk/served_disk.h"
#include "apps/guestio-blk/takeover/sender.h"
#include "guestio/base/log.h"
#include "guestio/task/scope.h"
#include "guestio/task/task.h"
#include "guestio/uring/awaitables.h"
#include "guestio/uring/loop.h"
#include "guestio/uring/setup_hint.h"

namespace guestio::app {

namespace {

/// True under nohup(1). A blocked signal would arrive through the descriptor nevertheless.
bool is_ignored(int signal) noexcept {
  struct sigaction action{};
  return ::sigaction(signal, nullptr, &action) == 0 && action.sa_handler == SIG_IGN;
}

/// As report_error(). If the host forbids io_uring, adds the remedy and returns kExitUsage.
int report_uring_error(const Error& error) {
  const std::string remedy = uring::setup_failure_hint(error);
  if (remedy.empty()) return report_error(kExitFailure, "cannot start", error);
  return report_error(kExitUsage,
                      fmt::format("cannot use io_uring: {}; {}", error.to_string(), remedy));
}

/// Opens a descriptor for SIGTERM, SIGINT, SIGHUP, SIGUSR1 and SIGUSR2. start_thread() blocks them
/// in all other threads.
Result<UniqueFd> open_signal_fd() {
  std::signal(SIGPIPE, SIG_IGN);
  // A write beyond RLIMIT_FSIZE fails with EFBIG instead of ending the process.
  std::signal(SIGXFSZ, SIG_IGN);
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  if (!is_ignored(SIGHUP)) sigaddset(&signals, SIGHUP);
  sigaddset(&signals, SIGUSR1);
  sigaddset(&signals, SIGUSR2);
  if (::pthread_sigmask(SIG_BLOCK, &signals, nullptr) != 0) return fail_host("block signals");
  UniqueFd fd(::signalfd(-1, &signals, SFD_CLOEXEC));
  if (!fd) return fail_host("make a signal descriptor");
  return fd;
}

using Clock = std::chrono::steady_clock;

/// The running server: the tasks of the control thread.
class Server {
 public:
  Server(uring::Loop& loop, Disks& disks, vhost::QueueThreads& threads,
         const ServerContext& context, UniqueFd signals, std::unique_ptr<ControlSocket> control,
         std::chrono::seconds shutdown_timeout)
      : loop_(loop),
        disks_(disks),
        threads_(threads),
        context_(context),
        signals_(std::move(signals)),
        control_(std::move(control)),
        shutdown_timeout_(shutdown_timeout),
        takeover_sender_(loop, context, control_.get(), [this] { stop_disks_if_stopping(); }) {}

  int run(TakeoverReceiver* takeover, Clock::time_point started_at) {
    serving_.spawn(start(takeover, started_at));
    services_.spawn(watch_signals());
    finishing_.spawn(finish());
    loop_.run();
    return status_;
  }

 private:
  /// Starts the rings of a takeover first: their guests wait.
  task::Task<> start(TakeoverReceiver* takeover, Clock::time_point started_at) {
    if (takeover != nullptr) {
      co_await takeover->start(context_.disks);
    }
    for (const auto& disk : context_.disks) serving_.spawn(serve(*disk));
    for (const auto& disk : context_.failed) {
      log::error("disk {}: cannot be served: {} (retried until it can)", disk->name(),
                 disk->cause());
      serving_.spawn(retry_until_served(*disk));
    }
    if (control_) services_.spawn(serve_control());
    using Milliseconds = std::chrono::duration<double, std::milli>;
    log::info("ready {:.1f} ms after the start", Milliseconds(Clock::now() - started_at).count());
  }

  task::Task<> serve_control() {
    ControlSocket::CommandHandler handle_command = [this](const nlohmann::json& command) {
      return handle(command);
    };
    ControlSocket::TakeoverHandler handle_takeover = [this](nlohmann::json command, int socket,
                                                            task::StopToken stop) {
      return takeover_sender_.hand_over(std::move(command), socket, stop);
    };
    co_await control_->serve(loop_, std::move(handle_command), std::move(handle_takeover));
  }

  nlohmann::json handle(const nlohmann::json& command) {
    const bool is_change = command["command"] == "resize" || command["command"] == "limit";
    if (takeover_sender_.is_under_way() && is_change) {
      return {{"error", "takeover under way: send the command to the new process"}};
    }
    return handle_command(context_, command);
  }

  task::Task<> serve(ServedDisk& disk) {
    const auto served = co_await disk.serve();
    if (served) co_return;
    log::error("{}: no longer served: {}", disk.options().label(), served.error().to_string());
    status_ = kExitFailure;
  }

  /// The disk stays failed while a takeover is under way: its description was sent.
  task::Task<> retry_until_served(FailedDisk& failed) {
    std::function<bool()> is_blocked = [this] { return takeover_sender_.is_under_way(); };
    auto disk = co_await failed.retry_until_served(loop_, threads_, std::move(is_blocked),
                                                   stop_retries_.token());
    if (!disk || is_stopping_) co_return;
    log::info("disk {}: can be served now (attempt {})", disk->name(), failed.attempts());
    std::erase_if(disks_.failed, [&](const auto& one) { return one.get() == &failed; });
    disk->backend().offer_memory_slots(disks_.memory_slots);
    ServedDisk& served = *disks_.served.emplace_back(std::move(disk));
    co_await serve(served);
  }

  task::Task<> finish() {
    co_await serving_.join();
    stop_services_.request_stop();
    if (control_) control_->stop();
    co_await services_.join();
    loop_.stop();
  }

  /// The first signal to stop drains the disks, a second one ends the process at once.
  task::Task<> watch_signals() {
    while (true) {
      signalfd_siginfo info{};
      const auto to = std::as_writable_bytes(std::span(&info, 1));
      const std::int32_t got = co_await uring::read(loop_, uring::File(signals_.get()), to,
                                                    FileOffset(0), stop_services_.token());
      if (got != static_cast<std::int32_t>(sizeof info)) co_return;
      if (info.ssi_signo == SIGUSR1 || info.ssi_signo == SIGUSR2) {
        decide(info.ssi_signo == SIGUSR1 ? HeldRequests::Decision::kRetry
                                         : HeldRequests::Decision::kFail);
        continue;
      }
      if (std::exchange(is_stopping_, true)) {
        log::error("asked to stop again: ends without draining requests in flight");
        end_now();
      }
      log::info("asked to stop: draining requests in flight");
      services_.spawn(limit_shutdown());
      if (!takeover_sender_.is_quiescing()) stop_disks_if_stopping();
    }
  }

  /// A request whose server is away must not hold up the end. The front-end's in-flight record
  /// keeps it for the next process.
  task::Task<> limit_shutdown() {
    const auto slept = co_await uring::sleep(loop_, shutdown_timeout_, stop_services_.token());
    if (slept != 0) co_return;
    for (const auto& disk : context_.disks) {
      if (!disk->backend().is_connected()) continue;
      log::error("{}: requests are still in flight after {} s (--shutdown-timeout)",
                 disk->options().label(), shutdown_timeout_.count());
    }
    end_now();
  }

  [[noreturn]] void end_now() {
    for (const auto& disk : context_.disks) disk->remove_socket();
    if (control_) control_->remove();
    (void)log::flush(log::kExitTimeout);
    std::_Exit(kExitFailure);
  }

  /// Not during the handover of sessions: it would end their connections.
  void stop_disks_if_stopping() {
    if (!is_stopping_) return;
    stop_retries_.request_stop();
    for (const auto& disk : context_.disks) disk->stop();
  }

  void decide(HeldRequests::Decision decision) {
    log::info("asked to {} held requests",
              decision == HeldRequests::Decision::kRetry ? "retry" : "fail");
    for (const auto& disk : context_.disks) disk->decide(decision);
  }

  uring::Loop& loop_;
  Disks& disks_;
  vhost::QueueThreads& threads_;
  const ServerContext context_;
  UniqueFd signals_;
  std::unique_ptr<ControlSocket> control_;  // optional
  const std::chrono::seconds shutdown_timeout_;
  task::StopSource stop_services_;
  task::StopSource stop_retries_;
  task::Scope serving_;
  task::Scope services_;
  task::Scope finishing_;
  int status_ = 0;
  bool is_stopping_ = false;
  TakeoverSender takeover_sender_;
};

/// Makes device and queues for each open image. With `may_fail`, a disk without them is failed as
/// long as another one can be served. Otherwise the error is its cause.
std::expected<void, std::string> make_disks(std::vector<StartingDisk> starting, bool may_fail,
                                            uring::Loop& loop, vhost::QueueThreads& threads,
                                            Disks& disks) {
  std::string cause;
  for (StartingDisk& one : starting) {
    if (!one.disk) {
      disks.failed.push_back(std::move(one.failed));
      continue;
    }
    auto disk = ServedDisk::create(loop, threads, one.options, std::move(one.disk));
    if (disk) {
      disks.served.push_back(std::move(*disk));
      continue;
    }
    cause = fmt::format("disk {}: {}", one.options.name, disk.error().to_string());
    if (!may_fail) return std::unexpected(cause);
    disks.failed.push_back(std::make_unique<FailedDisk>(
        one.options, describe_image_failure(one.options, disk.error())));
    disks.failed.back()->set_image_was_open();
  }
  if (disks.served.empty() && !cause.empty()) return std::unexpected(cause);
  return {};
}

/// The last step of the start: a listening socket is in service. Returns 0 or an exit status.
int open_all_sockets(const Options& options, Disks& disks,
                     std::unique_ptr<ControlSocket>& control) {
  if (!options.control_path.empty()) {
    auto made = ControlSocket::listen_at(options.control_path);
    if (!made) return report_error(kExitUsage, options.control_path, made.error());
    control = std::move(*made);
  }
  return open_sockets(options, disks);
}

}  // namespace

int serve(const Options& options, std::vector<StartingDisk> starting, TakeoverReceiver* takeover) {
  auto signals = open_signal_fd();
  if (!signals) return report_error(kExitFailure, "cannot start", signals.error());
  auto loop = uring::Loop::create();
  if (!loop) return report_uring_error(loop.error());
  auto threads =
      vhost::QueueThreads::start({.count = options.threads,
                                  .polling = options.polling,
                                  .cpus = options.cpus,
                                  .has_submission_threads = options.has_submission_threads,
                                  .submission_cpus = options.submission_cpus});
  if (!threads) {
    // EAGAIN: a limit, which the error names.
    const bool is_limited = threads.error().host_errno == EAGAIN;
    return is_limited ? report_error(kExitUsage, "cannot start", threads.error())
                      : report_uring_error(threads.error());
  }

  Disks disks;
  const bool may_fail = takeover == nullptr && !options.is_strict;
  if (auto made = make_disks(std::move(starting), may_fail, **loop, *threads, disks); !made) {
    return report_error(kExitFailure, "cannot start: " + made.error());
  }
  if (auto shared = share_descriptors(disks); !shared) {
    return report_error(takeover != nullptr ? kExitFailure : kExitUsage, shared.error());
  }
  std::unique_ptr<ControlSocket> control;
  if (takeover != nullptr) {
    if (auto finished = takeover->finish(disks.served, control); !finished) {
      return report_error(kExitFailure, options.takeover + ": " + finished.error());
    }
  } else if (const int status = open_all_sockets(options, disks, control); status != 0) {
    return status;
  }
  const ServerContext context{.disks = disks.served,
                              .failed = disks.failed,
                              .threads = *threads,
                              .as_given = options.as_given};
  return Server(**loop, disks, *threads, context, std::move(*signals), std::move(control),
                options.shutdown_timeout)
      .run(takeover, options.started_at);
}

}  // namespace guestio::app
