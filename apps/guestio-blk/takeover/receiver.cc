// SPDX-License-Identifier: MIT
#include "apps/guestio-blk/takeover/receiver.h"

#include <fmt/format.h>
#include <sys/socket.h>

#include <nlohmann/json.hpp>
#include <utility>

#include "apps/guestio-blk/control/client.h"
#include "apps/guestio-blk/open_disk.h"
#include "apps/guestio-blk/takeover/json_fields.h"
#include "apps/guestio-blk/takeover/sender.h"
#include "apps/guestio-blk/takeover/state_json.h"
#include "guestio/base/log.h"
#include "guestio/base/version.h"
#include "guestio/task/scope.h"

namespace guestio::app {

namespace {

using Clock = std::chrono::steady_clock;
using Json = nlohmann::json;
using std::chrono::seconds;
using Outcome = std::expected<void, std::string>;

// Longer than the timeouts of the sender: one of the two always serves.
constexpr seconds kSenderReplyTimeout(10);
constexpr seconds kSenderQuiesceTimeout(30);

std::unexpected<std::string> fail_with(const std::string& text) { return std::unexpected(text); }

/// Reads one value with the checks of its setting.
void read_setting(JsonFields& fields, const Json& options, const char* key, const char* setting,
                  ProcessOptions& as_given) {
  const Json value = options.value(key, Json());
  if (value.is_null()) return;
  const std::string text = value.is_string() ? value.get<std::string>() : value.dump();
  if (!set_process_option(as_given, setting, text)) fields.reject(key);
}

void read_cpus(JsonFields& fields, const Json& options, const char* key,
               std::optional<std::vector<int>>& to) {
  if (to || !options.contains(key) || options[key].is_null()) return;
  to.emplace();
  for (const Json& cpu : fields.list(key, 4096)) {
    if (!cpu.is_number_unsigned() || cpu.get<std::uint64_t>() > 65535)
      fields.reject(key);
    else
      to->push_back(cpu.get<int>());
  }
}

/// The command line overrides the options of the other process.
void read_options(JsonFields fields, const Json& options, ProcessOptions& as_given) {
  if (!options.is_object()) return fields.reject("options");
  if (!as_given.threads) read_setting(fields, options, "threads", "threads", as_given);
  read_cpus(fields, options, "cpus", as_given.cpus);
  if (!as_given.poll) read_setting(fields, options, "poll", "poll", as_given);
  if (!as_given.poll_max_us) read_setting(fields, options, "poll_max_us", "poll-max-us", as_given);
  as_given.has_submission_threads |= fields.flag("sqpoll");
  read_cpus(fields, options, "sqpoll_cpus", as_given.submission_cpus);
  as_given.is_verbose |= fields.flag("verbose");
}

}  // namespace

TakeoverReceiver::Socket TakeoverReceiver::read_socket(JsonFields fields) {
  Socket socket{fields.required_descriptor("fd"), {}};
  socket.place.path = fields.text("path");
  socket.place.device = fields.number<std::uint64_t>("device");
  socket.place.inode = fields.number<std::uint64_t>("inode");
  int is_listening = 0;
  socklen_t size = sizeof is_listening;
  if (::getsockopt(socket.fd.get(), SOL_SOCKET, SO_ACCEPTCONN, &is_listening, &size) != 0 ||
      is_listening == 0) {
    fields.reject("fd");
  }
  return socket;
}

std::expected<TakeoverReceiver, EarlyExit> TakeoverReceiver::connect(const Options& as_given) {
  auto socket = connect_to_control(as_given.takeover);
  if (!socket) {
    return std::unexpected(
        EarlyExit{fmt::format("{} (--takeover takes the path that the running process was given "
                              "with --control)",
                              socket.error().to_string()),
                  kExitUsage});
  }
  TakeoverReceiver self(as_given, std::move(*socket));
  if (auto received = self.receive_description(); !received) {
    return std::unexpected(EarlyExit{received.error(), kExitFailure});
  }
  return self;
}

Outcome TakeoverReceiver::receive_description() {
  const auto sent = send_message(
      socket_.get(),
      {.body = {{"command", "takeover"}, {"version", kTakeoverVersion}}, .descriptors = {}},
      Clock::now() + kSenderReplyTimeout);
  if (!sent) return fail_with(sent.error().to_string());
  auto message = receive("disks", kSenderReplyTimeout);
  if (!message) return fail_with(message.error());
  return read_description(std::move(*message));
}

/// Receives a message. One without `key` is a refusal.
std::expected<TakeoverMessage, std::string> TakeoverReceiver::receive(const char* key,
                                                                      seconds limit) {
  auto message = receive_message(socket_.get(), Clock::now() + limit);
  if (!message) {
    const bool is_gone = message.error().kind == ErrorKind::kClosed;
    return fail_with(is_gone ? "the other process has disconnected" : message.error().to_string());
  }
  if (message->body.contains(key)) return std::move(*message);
  const auto error = message->body.find("error");
  const bool has_error = error != message->body.end() && error->is_string();
  return fail_with(has_error ? "the other process refuses: " + error->get<std::string>()
                             : "malformed reply of the other process");
}

Outcome TakeoverReceiver::send(const char* what) {
  const auto sent = send_message(socket_.get(), {.body = {{what, true}}, .descriptors = {}},
                                 Clock::now() + kSenderReplyTimeout);
  if (!sent) return fail_with(sent.error().to_string());
  return {};
}

Outcome TakeoverReceiver::read_description(TakeoverMessage message) {
  std::string error;
  JsonFields fields(message.body, "takeover message", message.descriptors, error);
  const auto version = fields.number<std::uint64_t>("version");
  if (version != kTakeoverVersion && version != kTakeoverVersionWithFailed) {
    return fail_with(fmt::format("guestio-blk {} knows takeovers of versions {} and {} only",
                                 kVersion, kTakeoverVersion, kTakeoverVersionWithFailed));
  }
  sender_pid_ = fields.number<std::uint32_t>("pid");
  if (const Json* const options = fields.object_or_null("options"); options != nullptr) {
    read_options(fields.nested(*options, "options"), *options, options_.as_given);
  }
  if (const Json* const control = fields.object_or_null("control"); control != nullptr) {
    control_ = read_socket(fields.nested(*control, "control socket"));
    options_.as_given.control_path = control_->place.path;
  } else {
    fields.reject("control");
  }
  const Json& disks = fields.list("disks", kMaxDisks);
  if (!error.empty()) return fail_with(error);
  for (const Json& disk : disks) {
    if (auto read = read_disk(disk, message.descriptors); !read) return read;
  }
  // Absent in messages of earlier builds.
  if (message.body.contains("failed")) {
    for (const Json& disk : fields.list("failed", kMaxDisks)) {
      if (auto read = read_failed(disk, message.descriptors); !read) return read;
    }
    if (!error.empty()) return fail_with(error);
  }
  Diagnostics diagnostics;
  resolve_options(options_, diagnostics);
  if (!diagnostics.empty()) return fail_with(diagnostics.to_line());
  return {};
}

namespace {

/// Sets the settings of a field with pairs of names and values.
Outcome read_settings(JsonFields& fields, const char* key, DiskOptions& options) {
  for (const Json& setting : fields.list(key, 1000)) {
    const bool is_pair = setting.is_array() && setting.size() == 2 && setting[0].is_string() &&
                         setting[1].is_string();
    if (!is_pair) return fail_with(fmt::format("disk: malformed field {}", key));
    auto set = set_disk_option(options, setting[0].get_ref<const std::string&>(),
                               setting[1].get_ref<const std::string&>());
    if (!set) return fail_with("disk: " + set.error());
  }
  return {};
}

std::expected<DiskOptions, std::string> read_disk_options(const Json& json, JsonFields& fields) {
  DiskOptions options;
  options.origin = "disk of the other process";
  if (auto read = read_settings(fields, "settings", options); !read) {
    return std::unexpected(read.error());
  }
  // Absent in messages of earlier builds.
  if (json.is_object() && json.contains("limits")) {
    if (auto read = read_settings(fields, "limits", options); !read) {
      return std::unexpected(read.error());
    }
  }
  Diagnostics diagnostics;
  check_disk(options, diagnostics);
  if (!diagnostics.empty()) return std::unexpected(diagnostics.to_line());
  if (options.name.empty()) fields.reject("name");
  return options;
}

}  // namespace

Outcome TakeoverReceiver::read_disk(const Json& json, std::span<UniqueFd> descriptors) {
  std::string error;
  JsonFields fields(json, "disk", descriptors, error);
  auto options = read_disk_options(json, fields);
  if (!options) return fail_with(options.error());
  disk::DiskSnapshot snapshot;
  snapshot.io = fields.descriptor("io");
  snapshot.claim = fields.descriptor("claim");
  snapshot.size = ByteCount(fields.number<std::uint64_t>("size"));
  snapshot.backend_state = fields.optional_text("backend_state");
  std::optional<Socket> socket;
  if (const Json* const place = fields.object_or_null("listener"); place != nullptr) {
    socket = read_socket(fields.nested(*place, "listening socket"));
  }
  if (!error.empty()) return fail_with(error);
  auto opened = take_over_disk(*options, std::move(snapshot));
  if (!opened) return fail_with(describe_image_failure(*options, opened.error()));
  opened_.push_back(std::move(*opened));
  sockets_.push_back(std::move(socket));
  options_.disks.push_back(std::move(*options));
  return {};
}

/// Reads a disk that the other process could not serve.
Outcome TakeoverReceiver::read_failed(const Json& json, std::span<UniqueFd> descriptors) {
  std::string error;
  JsonFields fields(json, "disk", descriptors, error);
  auto options = read_disk_options(json, fields);
  if (!options) return fail_with(options.error());
  UniqueFd socket = fields.descriptor("socket");
  std::string cause = fields.text("cause");
  if (options->socket_fd.has_value() != static_cast<bool>(socket)) fields.reject("socket");
  if (!error.empty()) return fail_with(error);
  if (socket) options->socket_fd = socket.release();
  causes_.push_back(std::move(cause));
  options_.disks.push_back(std::move(*options));
  return {};
}

std::vector<StartingDisk> TakeoverReceiver::take_disks() {
  std::vector<StartingDisk> disks;
  for (std::size_t i = 0; i < options_.disks.size(); ++i) {
    disks.push_back({options_.disks[i], nullptr, nullptr});
    if (i < opened_.size()) {
      disks.back().disk = std::move(opened_[i]);
    } else {
      disks.back().failed =
          std::make_unique<FailedDisk>(options_.disks[i], std::move(causes_[i - opened_.size()]));
    }
  }
  return disks;
}

Outcome TakeoverReceiver::finish(std::span<const std::unique_ptr<ServedDisk>> disks,
                                 std::unique_ptr<ControlSocket>& control) {
  if (auto sent = send("ready"); !sent) return sent;
  auto message = receive("disks", kSenderQuiesceTimeout);
  if (!message) return fail_with(message.error());
  if (auto read = read_sessions(std::move(*message), disks); !read) {
    (void)send_message(socket_.get(), {.body = {{"error", read.error()}}, .descriptors = {}},
                       Clock::now() + kSenderReplyTimeout);
    return read;
  }
  if (auto sent = send("prepared"); !sent) return sent;
  if (auto yours = receive("yours", kSenderQuiesceTimeout); !yours) return fail_with(yours.error());
  owned_since_ = Clock::now();
  const auto to_listener = [](Socket& socket) {
    return UnixListener::adopt(std::move(socket.fd), std::move(socket.place));
  };
  for (std::size_t i = 0; i < disks.size(); ++i) {
    if (sockets_[i]) disks[i]->adopt_socket(to_listener(*sockets_[i]));
  }
  control = ControlSocket::adopt(to_listener(*control_));
  return {};
}

Outcome TakeoverReceiver::read_sessions(TakeoverMessage message,
                                        std::span<const std::unique_ptr<ServedDisk>> disks) {
  std::string error;
  JsonFields fields(message.body, "takeover message", message.descriptors, error);
  quiesced_at_ = Clock::time_point(Clock::duration(fields.number<std::int64_t>("since")));
  const Json& list = fields.list("disks", kMaxDisks);
  if (list.size() != disks.size()) fields.reject("disks");
  for (std::size_t i = 0; i < disks.size() && error.empty(); ++i) {
    JsonFields disk = fields.nested(list[i], disks[i]->name().c_str());
    std::optional<vhost::SessionState> session;
    if (const Json* const object = disk.object_or_null("session"); object != nullptr) {
      session = read_session(disk.nested(*object, "session"));
    }
    const bool has_write_cache = disk.flag("write_cache");
    disk::DiskSnapshot latest;
    latest.claim = disk.descriptor("claim");
    latest.flush_errno = disk.number<int>("lost_by");
    latest.backend_state = disk.optional_text("backend_state");
    latest.unflushed = disk.optional_descriptor("unflushed");
    if (!error.empty()) break;
    disks[i]->device().set_write_cache(has_write_cache);
    if (auto restored = disks[i]->disk()->restore(std::move(latest)); !restored) {
      return fail_with(fmt::format("disk {}: {}", disks[i]->name(), restored.error().to_string()));
    }
    if (!session) continue;
    const auto adopted = disks[i]->backend().restore(std::move(*session));
    if (adopted) continue;
    const std::string text = fmt::format("disk {}: session of the front-end: {}", disks[i]->name(),
                                         adopted.error().to_string());
    if (adopted.error().kind != ErrorKind::kMemoryFault) return fail_with(text);
    // A front-end must not block an upgrade by truncating its memory.
    log::warning("{}: connection ends", text);
  }
  if (!error.empty()) return fail_with(error);
  return {};
}

namespace {

task::Task<> resume(ServedDisk& disk) { co_await disk.backend().resume(); }

}  // namespace

task::Task<> TakeoverReceiver::start(std::span<const std::unique_ptr<ServedDisk>> disks) {
  task::Scope starting;
  for (const auto& disk : disks) disk->disk()->on_taken_over();
  for (const auto& disk : disks) starting.spawn(resume(*disk));
  co_await starting.join();
  const auto now = Clock::now();
  const auto to_us = [](Clock::duration time) {
    return std::chrono::duration_cast<std::chrono::microseconds>(time).count();
  };
  log::info("took over from process {}: I/O was paused for {} us, {} of them in this process",
            sender_pid_, to_us(now - quiesced_at_), to_us(now - owned_since_));
  for (const auto& disk : disks) {
    if (disk->listener() != nullptr) disk->listener()->announce_owner();
  }
  socket_.reset();
}

}  // namespace guestio::app
