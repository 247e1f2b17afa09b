// SPDX-License-Identifier: MIT
#include "server.h"

#include <fmt/format.h>
#include <sys/signalfd.h>

#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <expected>
#include <nlohmann/json.hpp>
#include <utility>

#include "complain.h"
#include "control/commands.h"
#include "control/control_socket.h"
#include "descriptors.h"
#include "disk_start.h"
#include "guestio/base/log.h"
#include "guestio/task/scope.h"
#include "guestio/task/task.h"
#include "guestio/uring/awaitables.h"
#include "guestio/uring/loop.h"
#include "guestio/uring/remedy.h"
#include "served_disk.h"
#include "takeover/sender.h"

namespace guestio::app {

namespace {

/// As nohup(1) has it: blocked, it would come through a descriptor all the same.
bool is_ignored(int signal) noexcept {
  struct sigaction action{};
  return ::sigaction(signal, nullptr, &action) == 0 && action.sa_handler == SIG_IGN;
}

/// As complain(), with what can be done when this host lets nobody use io_uring: kExitUsage then.
int complain_of_uring(const Error& error) {
  const std::string remedy = uring::explain_setup_failure(error);
  if (remedy.empty()) return complain(kExitFailure, "cannot start", error);
  return complain(kExitUsage,
                  fmt::format("cannot use io_uring: {}; {}", error.to_string(), remedy));
}

/// SIGTERM, SIGINT, SIGHUP, SIGUSR1 and SIGUSR2 as a descriptor. Other threads have them blocked
/// from their start (start_thread()).
Result<UniqueFd> take_signals() {
  std::signal(SIGPIPE, SIG_IGN);
  // A write past a limit on files is a failed request (EFBIG), not the end of the process.
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

/// The server while it runs: the tasks of the control thread.
class Server {
 public:
  Server(uring::Loop& loop, Disks& disks, vhost::QueueThreads& threads,
         const ServerContext& subjects, UniqueFd signals, std::unique_ptr<ControlSocket> control)
      : loop_(loop),
        disks_(disks),
        threads_(threads),
        context_(subjects),
        signals_(std::move(signals)),
        control_(std::move(control)),
        hand_over_(loop, subjects, control_.get(), [this] { stop_disks_if_asked(); }) {}

  int run(TakeoverReceiver* takeover, Clock::time_point began) {
    serving_.spawn(begin(takeover, began));
    others_.spawn(watch_signals());
    ending_.spawn(end());
    loop_.run();
    return status_;
  }

 private:
  /// Rings that were taken over come before anything else: their guests wait.
  task::Task<> begin(TakeoverReceiver* takeover, Clock::time_point began) {
    if (takeover != nullptr) {
      auto starting = takeover->start(context_.disks);
      co_await std::move(starting);
    }
    for (const auto& disk : context_.disks) serving_.spawn(serve(*disk));
    for (const auto& disk : context_.failed) {
      log::error("disk {}: cannot be served: {} (it is tried again until it can)", disk->name(),
                 disk->cause());
      serving_.spawn(bring_up(*disk));
    }
    if (control_) others_.spawn(serve_control());
    using Milliseconds = std::chrono::duration<double, std::milli>;
    log::info("ready {:.1f} ms after the start", Milliseconds(Clock::now() - began).count());
  }

  task::Task<> serve_control() {
    auto serving = control_->serve(
        loop_, [this](const nlohmann::json& command) { return answer(command); },
        [this](nlohmann::json command, int socket, task::StopToken stop) {
          return hand_over_.converse(std::move(command), socket, stop);
        });
    co_await std::move(serving);
  }

  nlohmann::json answer(const nlohmann::json& command) {
    if (hand_over_.is_under_way() && command["command"] == "resize") {
      return {{"error", "another process is taking over: ask that one"}};
    }
    return answer_command(context_, command);
  }

  task::Task<> serve(ServedDisk& disk) {
    auto serving = disk.serve();
    const auto served = co_await std::move(serving);
    if (served) co_return;
    log::error("{}: serves no more: {}", disk.options().label(), served.error().to_string());
    status_ = kExitFailure;
  }

  /// What was taken over must not change while another process takes it.
  task::Task<> bring_up(FailedDisk& failed) {
    auto bringing = failed.bring_up(
        loop_, threads_, [this] { return hand_over_.is_under_way(); }, stop_retries_.token());
    auto disk = co_await std::move(bringing);
    if (!disk || is_stopping_) co_return;
    log::info("disk {}: can be served now, at attempt {}", disk->name(), failed.attempts());
    std::erase_if(disks_.failed, [&](const auto& one) { return one.get() == &failed; });
    disk->backend().offer_memory_slots(disks_.memory_slots);
    ServedDisk& served = *disks_.served.emplace_back(std::move(disk));
    auto serving = serve(served);
    co_await std::move(serving);
  }

  task::Task<> end() {
    auto all = serving_.join();
    co_await all;
    stop_others_.request_stop();
    if (control_) control_->stop();
    auto quiet = others_.join();
    co_await quiet;
    loop_.stop();
  }

  /// The first signal to stop asks to drain; a second one does not wait for that.
  task::Task<> watch_signals() {
    while (true) {
      signalfd_siginfo info{};
      const auto to = std::as_writable_bytes(std::span(&info, 1));
      auto reading =
          uring::read(loop_, uring::File(signals_.get()), to, FileOffset(0), stop_others_.token());
      const std::int32_t got = co_await reading;
      if (got != static_cast<std::int32_t>(sizeof info)) co_return;
      if (info.ssi_signo == SIGUSR1 || info.ssi_signo == SIGUSR2) {
        decide(info.ssi_signo == SIGUSR1 ? HeldRequests::Decision::kResume
                                         : HeldRequests::Decision::kGiveUp);
        continue;
      }
      if (std::exchange(is_stopping_, true)) {
        log::error("asked to stop again: ends without waiting for requests in flight");
        for (const auto& disk : context_.disks) disk->remove_socket();
        if (control_) control_->remove();
        (void)log::flush(log::kExitTimeout);
        std::_Exit(kExitFailure);
      }
      log::info("asked to stop: finishes what is in flight");
      if (!hand_over_.is_quiescing()) stop_disks_if_asked();
    }
  }

  /// Not while front-ends change hands: that would end their connections.
  void stop_disks_if_asked() {
    if (!is_stopping_) return;
    stop_retries_.request_stop();
    for (const auto& disk : context_.disks) disk->stop();
  }

  void decide(HeldRequests::Decision decision) {
    log::info("asked to {} what waits for the disk",
              decision == HeldRequests::Decision::kResume ? "try again" : "give up");
    for (const auto& disk : context_.disks) disk->decide(decision);
  }

  uring::Loop& loop_;
  Disks& disks_;
  vhost::QueueThreads& threads_;
  const ServerContext context_;
  UniqueFd signals_;
  std::unique_ptr<ControlSocket> control_;  // or nothing
  task::StopSource stop_others_;
  task::StopSource stop_retries_;
  task::Scope serving_;
  task::Scope others_;
  task::Scope ending_;
  int status_ = 0;
  bool is_stopping_ = false;
  TakeoverSender hand_over_;
};

/// Devices and queues for all images that are open. A disk without them has failed if others can be
/// served and it `may_fail`; else the error is what is wrong with it.
std::expected<void, std::string> make_disks(std::vector<StartingDisk> starting, bool may_fail,
                                            uring::Loop& loop, vhost::QueueThreads& threads,
                                            Disks& disks) {
  std::string cause;
  for (StartingDisk& one : starting) {
    if (!one.image) {
      disks.failed.push_back(std::move(one.failed));
      continue;
    }
    auto disk = ServedDisk::create(loop, threads, one.options, std::move(*one.image));
    if (disk) {
      disks.served.push_back(std::move(*disk));
      continue;
    }
    cause = fmt::format("disk {}: {}", one.options.name, disk.error().to_string());
    if (!may_fail) return std::unexpected(cause);
    disks.failed.push_back(std::make_unique<FailedDisk>(
        one.options, describe_image_failure(one.options, disk.error())));
    disks.failed.back()->had_image();
  }
  if (disks.served.empty() && !cause.empty()) return std::unexpected(cause);
  return {};
}

/// Only when all else is there: what is found listening is there to stay. Returns 0, or an exit
/// status.
int open_all_sockets(const Options& options, Disks& disks,
                     std::unique_ptr<ControlSocket>& control) {
  if (!options.control_path.empty()) {
    auto made = ControlSocket::listen_at(options.control_path);
    if (!made) return complain(kExitUsage, options.control_path, made.error());
    control = std::move(*made);
  }
  return open_sockets(options, disks);
}

}  // namespace

int serve(const Options& options, std::vector<StartingDisk> starting, TakeoverReceiver* takeover) {
  auto signals = take_signals();
  if (!signals) return complain(kExitFailure, "cannot start", signals.error());
  auto loop = uring::Loop::create();
  if (!loop) return complain_of_uring(loop.error());
  auto threads =
      vhost::QueueThreads::start({.count = options.threads,
                                  .polling = options.polling,
                                  .cpus = options.cpus,
                                  .has_submission_threads = options.has_submission_threads,
                                  .submission_cpus = options.submission_cpus});
  if (!threads) {
    // Of what limits leave no room for; the error names them.
    const bool is_limited = threads.error().host_errno == EAGAIN;
    return is_limited ? complain(kExitUsage, "cannot start", threads.error())
                      : complain_of_uring(threads.error());
  }

  Disks disks;
  const bool may_fail = takeover == nullptr && !options.is_strict;
  if (auto made = make_disks(std::move(starting), may_fail, **loop, *threads, disks); !made) {
    return complain(kExitFailure, "cannot start: " + made.error());
  }
  if (auto shared = share_descriptors(disks); !shared) {
    return complain(takeover != nullptr ? kExitFailure : kExitUsage, shared.error());
  }
  std::unique_ptr<ControlSocket> control;
  if (takeover != nullptr) {
    if (auto finished = takeover->finish(disks.served, control); !finished) {
      return complain(kExitFailure, options.takeover + ": " + finished.error());
    }
  } else if (const int status = open_all_sockets(options, disks, control); status != 0) {
    return status;
  }
  const ServerContext subjects{
      .disks = disks.served, .failed = disks.failed, .threads = *threads, .said = options.said};
  return Server(**loop, disks, *threads, subjects, std::move(*signals), std::move(control))
      .run(takeover, options.began);
}

}  // namespace guestio::app
