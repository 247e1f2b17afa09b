// SPDX-License-Identifier: MIT
#include "guestio/disk/nbd/nbd_link.h"

#include <fmt/format.h>
#include <poll.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <cstddef>
#include <mutex>
#include <utility>

#include "guestio/base/check.h"

namespace guestio::disk {

namespace {

// The timeout is observed to an eighth.
constexpr int kTicksPerTimeout = 8;
constexpr std::chrono::milliseconds kPauseWithoutThread{1000};
constexpr int kMaxLateReceives = 16;

const char* const kReconnects = "reconnects until it is back";
const char* const kWaits =
    "reconnects after the server has closed the connection, because writes are in flight";

}  // namespace

/// Outlives the link while a function posted to its loop waits.
struct NbdLink::Mail {
  std::mutex mutex;
  uring::Loop* loop = nullptr;  // protected by mutex; null after the link
  NbdLink* link = nullptr;      // of the loop's thread; null after the link

  /// Posts to the link, on any thread.
  static void post(const std::shared_ptr<Mail>& mail,
                   std::move_only_function<void(NbdLink&)> function) {
    const std::lock_guard lock(mail->mutex);
    if (mail->loop == nullptr) return;
    mail->loop->post([mail, function = std::move(function)]() mutable {
      if (mail->link != nullptr) function(*mail->link);
    });
  }
};

NbdLink::NbdLink(uring::Loop& loop, Options options)
    : loop_(loop),
      target_(std::move(options.target)),
      check_(std::move(options.check)),
      status_(options.status),
      first_(std::move(options.first)),
      tick_(loop, [this](std::int32_t) { on_tick(); }),
      stalled_readable_(loop, [this](std::int32_t) { on_stalled_readable(); }),
      mail_(std::make_shared<Mail>()),
      connect_again_(loop, [this](std::int32_t) { connect(); }) {
  mail_->loop = &loop;
  mail_->link = this;
  if (loop_.is_own_thread()) {
    begin();
  } else {
    Mail::post(mail_, [](NbdLink& link) { link.begin(); });
  }
}

void NbdLink::begin() {
  if (first_) {
    on_connected(std::move(first_));
  } else {
    connect();
  }
}

NbdLink::~NbdLink() {
  GUESTIO_CHECK(waiting_.empty(), "no command waits on a link that is destroyed");
  {
    const std::lock_guard lock(mail_->mutex);
    mail_->loop = nullptr;
  }
  mail_->link = nullptr;
  connector_.reset();
  if (connection_) {
    status_.on_closed();
  } else if (!waits_for_first_) {
    status_.on_abandoned();
  }
}

void NbdLink::submit(RemoteCommand& command) noexcept {
  if (waits_for_first_) return waiting_.push_back(command);
  if (!connection_) return command.complete(fail(ErrorKind::kClosed, "NBD server"));
  if (connection_->in_flight() == 0) replied_at_ = Clock::now();
  connection_->submit(command);
  if (!tick_.is_waiting()) watch();
}

void NbdLink::connect() {
  const auto mail = mail_;
  bool is_first = waits_for_first_;
  auto started = NbdConnector::start(target_, [mail, is_first, this](NbdAttempt attempt) mutable {
    // The link outlives this call: its destructor waits for the connector.
    std::optional<std::string> refusal;
    if (attempt) refusal = check_(attempt->facts);
    if (attempt && !refusal) {
      Mail::post(mail, [handle = std::move(attempt->handle)](NbdLink& link) mutable {
        link.on_connected(std::move(handle));
      });
      return NbdConnector::Verdict::kDone;
    }
    if (refusal) {
      status_.on_refused(*refusal);
    } else {
      status_.on_failed_attempt(attempt.error().failure.to_string());
    }
    if (std::exchange(is_first, false)) {
      Mail::post(mail, [](NbdLink& link) { link.on_first_failure(); });
    }
    return NbdConnector::Verdict::kRetry;
  });
  if (started) {
    connector_ = std::move(*started);
    return;
  }
  status_.on_failed_attempt(started.error().to_string());
  on_first_failure();
  connect_again_.sleep(kPauseWithoutThread);
}

void NbdLink::on_connected(NbdHandle handle) {
  connector_.reset();
  const bool replaces_lost = !std::exchange(waits_for_first_, false);
  auto created = NbdConnection::create(loop_, std::move(handle), *this);
  if (!created) {
    status_.on_failed_attempt(created.error().to_string());
    waits_for_first_ = !replaces_lost;
    on_first_failure();
    return connect_again_.sleep(kPauseWithoutThread);
  }
  connection_ = std::move(*created);
  replies_seen_ = 0;
  status_.on_connected(replaces_lost);
  boost::intrusive::list<RemoteCommand> waiting;
  waiting.swap(waiting_);
  while (!waiting.empty()) {
    RemoteCommand& command = waiting.front();
    waiting.pop_front();
    submit(command);
  }
  if (!replaces_lost) return;
  for (Subscriber& subscriber : subscribers_) subscriber.on_connected();
}

void NbdLink::on_first_failure() {
  if (!std::exchange(waits_for_first_, false)) return;
  status_.on_never_connected(status_.get().detail);
  boost::intrusive::list<RemoteCommand> waiting;
  waiting.swap(waiting_);
  while (!waiting.empty()) {
    RemoteCommand& command = waiting.front();
    waiting.pop_front();
    command.complete(fail(ErrorKind::kClosed, "NBD server"));
  }
}

void NbdLink::on_connection_lost(std::string cause, UniqueFd unfinished) {
  connection_.reset();
  replace(cause, std::move(unfinished));
}

void NbdLink::replace(const std::string& cause, UniqueFd unfinished) {
  status_.on_lost(cause, unfinished ? kWaits : kReconnects);
  if (!unfinished) return connect();
  stalled_ = std::move(unfinished);
  (void)::shutdown(stalled_.get(), SHUT_WR);
  stalled_readable_.poll(stalled_.get(), POLLIN);
}

void NbdLink::watch() { tick_.sleep(target_.io_timeout / kTicksPerTimeout); }

void NbdLink::on_tick() {
  // The next command starts the watch again.
  if (!connection_ || connection_->in_flight() == 0) return;
  const auto now = Clock::now();
  if (connection_->replies() != replies_seen_) {
    replies_seen_ = connection_->replies();
    replied_at_ = now;
  }
  if (now - replied_at_ < target_.io_timeout) return watch();
  give_up_stalled();
}

void NbdLink::give_up_stalled() {
  const bool has_changes = connection_->has_changes_in_flight();
  const std::string cause =
      fmt::format("no reply for {} s", static_cast<double>(target_.io_timeout.count()) / 1000);
  // Completions may submit: they meet no connection.
  const auto connection = std::exchange(connection_, nullptr);
  UniqueFd socket = connection->abandon();
  if (!has_changes) socket.reset();
  replace(cause, std::move(socket));
}

void NbdLink::on_stalled_readable() {
  std::array<std::byte, 65536> late{};
  for (int i = 0; i < kMaxLateReceives; ++i) {
    const auto count = ::recv(stalled_.get(), late.data(), late.size(), MSG_DONTWAIT);
    if (count > 0) continue;
    if (count < 0 && (errno == EAGAIN || errno == EINTR)) break;
    stalled_.reset();
    return connect();
  }
  stalled_readable_.poll(stalled_.get(), POLLIN);
}

}  // namespace guestio::disk
