// SPDX-License-Identifier: MIT
#include "apps/guestio-blk/takeover/sender.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <ranges>
#include <utility>

#include "apps/guestio-blk/options/limit_options.h"
#include "apps/guestio-blk/takeover/state_json.h"
#include "guestio/base/log.h"
#include "guestio/base/version.h"
#include "guestio/task/scope.h"
#include "guestio/uring/deadline.h"

namespace guestio::app {

namespace {

using Clock = std::chrono::steady_clock;
using Json = nlohmann::json;
using std::chrono::milliseconds;
using std::chrono::seconds;

// Limits while I/O continues: the other process makes threads and queues and opens images.
constexpr milliseconds kPrepareTimeout = seconds(60);
constexpr milliseconds kParkTimeout = seconds(2);
constexpr milliseconds kFinalParkTimeout = seconds(4);
// Limits while I/O is paused.
constexpr milliseconds kQuiesceTimeout = seconds(2);
constexpr milliseconds kReplyTimeout = seconds(5);

std::unexpected<std::string> fail_with(const Error& error, const char* what) {
  return std::unexpected(fmt::format("{}: {}", what, error.to_string()));
}

Json describe_listener(const UnixListener& listener, TakeoverMessage& message,
                       const UnixListener::BoundPath& place) {
  auto socket = duplicate_fd(listener.fd());
  if (!socket) return nullptr;
  return {{"fd", message.add(std::move(*socket))},
          {"path", place.path},
          {"device", place.device},
          {"inode", place.inode}};
}

/// The limits of now, which earlier builds do not know as settings.
Json list_limits(const DiskOptions& disk) {
  Json limits = Json::array();
  for (const auto& [name, value] : to_settings(disk.throttle->limits())) {
    limits.push_back({name, value});
  }
  if (!disk.limit_group.empty()) limits.push_back({"limit-group", disk.limit_group});
  return limits;
}

std::expected<Json, std::string> describe_disk(const ServedDisk& disk, TakeoverMessage& message) {
  auto snapshot = disk.disk()->snapshot();
  if (!snapshot) return fail_with(snapshot.error(), disk.options().label().c_str());
  Json settings = Json::array();
  for (const auto& [name, value] : disk.options().as_given) {
    // The default is made from a path that may be relative or removed.
    if (name == "serial" || is_limit_setting(name)) continue;
    // The open file is handed over, under its name. Other disks are opened again.
    const bool is_handed_over = name == "blk-file" && !has_foreign_format(disk.options());
    settings.push_back({name, is_handed_over ? value : make_absolute(disk.options(), name, value)});
  }
  settings.push_back({"serial", disk.serial()});
  Json listener;
  if (disk.listener() != nullptr) {
    listener = describe_listener(*disk.listener(), message, disk.listener()->bound_path());
    if (listener.is_null())
      return std::unexpected("no descriptor is left for the copy of a socket");
  }
  return Json{{"settings", std::move(settings)},
              {"limits", list_limits(disk.options())},
              {"io", message.add(std::move(snapshot->io))},
              {"claim", message.add(std::move(snapshot->claim))},
              {"size", disk.info().size.raw()},
              {"backend_state", snapshot->backend_state},
              {"listener", std::move(listener)}};
}

/// Describes a failed disk with absolute paths: the other process may have another directory.
std::expected<Json, std::string> describe_failed(const FailedDisk& disk, TakeoverMessage& message) {
  Json settings = Json::array();
  for (const auto& [name, value] : disk.options().as_given) {
    if (is_limit_setting(name)) continue;
    settings.push_back({name, make_absolute(disk.options(), name, value)});
  }
  Json socket;
  if (disk.options().socket_fd) {
    auto copy = duplicate_fd(*disk.options().socket_fd);
    if (!copy) return fail_with(copy.error(), disk.name().c_str());
    socket = message.add(std::move(*copy));
  }
  return Json{{"settings", std::move(settings)},
              {"limits", list_limits(disk.options())},
              {"socket", std::move(socket)},
              {"cause", disk.cause()}};
}

/// The first unknown field of the command takeover, or empty.
std::string find_unknown_field(const Json& command) {
  for (const auto& [key, value] : command.items()) {
    if (key != "command" && key != "version" && key != "descriptors") return key;
  }
  return {};
}

template <typename Value>
Json number_or_null(const std::optional<Value>& value) {
  return value ? Json(*value) : Json(nullptr);
}

Json describe_options(const ProcessOptions& as_given) {
  return {{"threads", number_or_null(as_given.threads)},
          {"cpus", number_or_null(as_given.cpus)},
          {"poll", number_or_null(as_given.poll)},
          {"poll_max_us", number_or_null(as_given.poll_max_us)},
          {"sqpoll", as_given.has_submission_threads},
          {"sqpoll_cpus", number_or_null(as_given.submission_cpus)},
          {"verbose", as_given.is_verbose}};
}

}  // namespace

task::Task<> TakeoverSender::hand_over(Json command, int socket, task::StopToken stop) {
  Outcome outcome;
  const auto version = command.find("version");
  const std::string unknown = find_unknown_field(command);
  if (!unknown.empty()) {
    outcome = std::unexpected(fmt::format("takeover takes no field \"{}\"", unknown));
  } else if (version == command.end() || *version != kTakeoverVersion) {
    outcome = std::unexpected(
        fmt::format("guestio-blk {} supports takeover version {}, not version {}", kVersion,
                    kTakeoverVersion, version == command.end() ? "none" : version->dump()));
  } else if (std::exchange(is_under_way_, true)) {
    outcome = std::unexpected("another takeover is under way");
  } else {
    log::info("takeover: another process prepares to take over");
    outcome = co_await prepare(socket, stop);
    if (outcome) {
      outcome = co_await transfer(socket);
    }
    is_under_way_ = false;
  }
  if (stop.stop_requested()) co_return;
  log::warning("takeover failed, this process resumes: {}", outcome.error());
  uring::Deadline limit(loop_, seconds(1), stop);
  TakeoverMessage refusal{.body = {{"error", outcome.error()}}, .descriptors = {}};
  (void)co_await send_message(loop_, socket, std::move(refusal), limit.token());
  co_await limit.disarm();
}

/// Sends everything that the other process needs before the pause, and waits until it is ready.
task::Task<TakeoverSender::Outcome> TakeoverSender::prepare(int socket, task::StopToken stop) {
  auto description = describe();
  if (!description) co_return std::unexpected(description.error());
  uring::Deadline limit(loop_, kPrepareTimeout, stop);
  const auto sent = co_await send_message(loop_, socket, std::move(*description), limit.token());
  Result<TakeoverMessage> ready = fail(ErrorKind::kCancelled, "receive from the other process");
  if (sent) ready = co_await receive_message(loop_, socket, limit.token());
  co_await limit.disarm();
  if (!sent) co_return fail_with(sent.error(), "the other process");
  if (!ready) co_return fail_with(ready.error(), "the other process");
  if (!ready->body.contains("ready")) co_return std::unexpected("the other process is not ready");
  co_return Outcome();
}

std::expected<TakeoverMessage, std::string> TakeoverSender::describe() const {
  TakeoverMessage message;
  Json disks = Json::array();
  for (const auto& disk : context_.disks) {
    auto described = describe_disk(*disk, message);
    if (!described) return std::unexpected(described.error());
    disks.push_back(std::move(*described));
  }
  Json failed = Json::array();
  for (const auto& disk : context_.failed) {
    auto described = describe_failed(*disk, message);
    if (!described) return std::unexpected(described.error());
    failed.push_back(std::move(*described));
  }
  const auto place = control_->listener().bound_path();
  Json control = describe_listener(control_->listener(), message, place);
  if (control.is_null()) return std::unexpected("no descriptor is left for the copy of a socket");
  const auto version = failed.empty() ? kTakeoverVersion : kTakeoverVersionWithFailed;
  message.body = {{"version", version},
                  {"pid", ::getpid()},
                  {"options", describe_options(context_.as_given)},
                  {"control", std::move(control)},
                  {"disks", std::move(disks)},
                  {"failed", std::move(failed)}};
  return message;
}

/// Ends the process, or returns the cause of its resumption.
task::Task<TakeoverSender::Outcome> TakeoverSender::transfer(int socket) {
  is_quiescing_ = true;
  Outcome outcome = co_await park();
  if (outcome) {
    quiesced_at_ = Clock::now();
    outcome = co_await quiesce();
  }
  if (outcome) {
    co_await freeze();
    outcome = co_await send_sessions(socket);
  }
  co_await resume();
  is_quiescing_ = false;
  resumed_();
  co_return outcome;
}

/// Parks all sessions and listeners: no connection and no message is accepted. Rings run on.
task::Task<TakeoverSender::Outcome> TakeoverSender::park() {
  std::string late;
  uring::Deadline limit(loop_, kParkTimeout);
  uring::Deadline final_limit(loop_, kFinalParkTimeout);
  task::Scope parked;
  for (const auto& disk : context_.disks) {
    parked.spawn(park_disk(*disk, limit.token(), final_limit.token(), late));
  }
  control_->rest_point().request();
  co_await parked.join();
  co_await control_->rest_point().reached(final_limit.token());
  co_await limit.disarm();
  co_await final_limit.disarm();
  if (late.empty()) co_return Outcome();
  co_return std::unexpected(
      fmt::format("disk {}: a message of its front-end is still being handled", late));
}

task::Task<> TakeoverSender::park_disk(ServedDisk& disk, task::StopToken limit,
                                       task::StopToken final_limit, std::string& late) {
  const bool rests = co_await disk.backend().quiesce(limit, final_limit);
  if (!rests) late = disk.name();
}

task::Task<TakeoverSender::Outcome> TakeoverSender::quiesce() {
  std::string obstacle;
  uring::Deadline limit(loop_, kQuiesceTimeout);
  task::Scope quiescing;
  for (const auto& disk : context_.disks) {
    quiescing.spawn(quiesce_disk(*disk, limit.token(), obstacle));
  }
  co_await quiescing.join();
  co_await limit.disarm();
  if (obstacle.empty()) co_return Outcome();
  co_return std::unexpected(obstacle);
}

task::Task<> TakeoverSender::quiesce_disk(ServedDisk& disk, task::StopToken limit,
                                          std::string& obstacle) {
  const auto found = co_await disk.backend().drain(limit);
  if (!found) co_return;
  obstacle = found->held_requests != 0
                 ? fmt::format("disk {}: {} held requests: retry or give-up first", disk.name(),
                               found->held_requests)
                 : fmt::format("disk {}: requests in flight take longer than {} ms", disk.name(),
                               kQuiesceTimeout.count());
}

task::Task<> TakeoverSender::freeze() {
  task::Scope freezing;
  for (const auto& disk : context_.disks) freezing.spawn(freeze_disk(*disk));
  co_await freezing.join();
}

task::Task<> TakeoverSender::freeze_disk(ServedDisk& disk) { co_await disk.backend().freeze(); }

std::expected<TakeoverMessage, std::string> TakeoverSender::describe_sessions() const {
  TakeoverMessage message;
  Json disks = Json::array();
  for (const auto& disk : context_.disks) {
    auto session = disk->backend().snapshot();
    if (!session) return fail_with(session.error(), disk->options().label().c_str());
    auto snapshot = disk->disk()->snapshot();
    if (!snapshot) return fail_with(snapshot.error(), disk->options().label().c_str());
    disks.push_back({{"session", *session ? to_json(std::move(**session), message) : Json(nullptr)},
                     {"write_cache", disk->device().has_write_cache()},
                     {"claim", message.add(std::move(snapshot->claim))},
                     {"lost_by", snapshot->flush_errno},
                     {"backend_state", snapshot->backend_state},
                     {"unflushed", message.add(std::move(snapshot->unflushed))}});
  }
  message.body = {{"disks", std::move(disks)}, {"since", quiesced_at_.time_since_epoch().count()}};
  return message;
}

/// Returns only on failure: after the last line the process ends.
task::Task<TakeoverSender::Outcome> TakeoverSender::send_sessions(int socket) {
  auto sessions = describe_sessions();
  if (!sessions) co_return std::unexpected(sessions.error());
  uring::Deadline limit(loop_, kReplyTimeout);
  const auto sent = co_await send_message(loop_, socket, std::move(*sessions), limit.token());
  Result<TakeoverMessage> prepared = fail(ErrorKind::kCancelled, "receive from the other process");
  if (sent) prepared = co_await receive_message(loop_, socket, limit.token());
  co_await limit.disarm();
  if (!sent) co_return fail_with(sent.error(), "the other process");
  if (!prepared) co_return fail_with(prepared.error(), "the other process");
  if (!prepared->body.contains("prepared")) {
    const auto error = prepared->body.find("error");
    const bool has_error = error != prepared->body.end() && error->is_string();
    co_return std::unexpected(has_error ? "the other process: " + error->get<std::string>()
                                        : std::string("the other process is not prepared"));
  }
  // A line this short is sent completely or not at all.
  auto sent_last =
      send_message(socket, {.body = {{"yours", true}}, .descriptors = {}}, Clock::now());
  if (!sent_last) co_return fail_with(sent_last.error(), "the other process");
  log::info(
      "another process has taken over: I/O was paused for {} us until then",
      std::chrono::duration_cast<std::chrono::microseconds>(Clock::now() - quiesced_at_).count());
  // The other process owns sockets and rings: nothing is shut down, removed or awaited.
  (void)log::flush(log::kExitTimeout);
  std::_Exit(EXIT_SUCCESS);
}

task::Task<> TakeoverSender::resume() {
  task::Scope resuming;
  for (const auto& disk : context_.disks) resuming.spawn(resume_disk(*disk));
  co_await resuming.join();
  control_->rest_point().resume();
}

task::Task<> TakeoverSender::resume_disk(ServedDisk& disk) { co_await disk.backend().resume(); }

}  // namespace guestio::app
