// SPDX-License-Identifier: MIT
#include "guestio/disk/nbd/nbd_link.h"

#include <fmt/format.h>

#include <chrono>
#include <mutex>
#include <utility>

#include "guestio/base/check.h"

namespace guestio::disk {

namespace {

// The timeout is observed to an eighth.
constexpr int kTicksPerTimeout = 8;
constexpr std::chrono::milliseconds kPauseWithoutThread{1000};
constexpr std::chrono::milliseconds kPauseAfterRefusal{1000};

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

namespace {

/// A member of the recovery by its mail. `Mailbox`: NbdLink::Mail.
template <typename Mailbox>
class MemberByMail final : public NbdRecovery::Member {
 public:
  using Epoch = NbdRecovery::Epoch;
  using Function = void (*)(NbdLink& link, Epoch epoch);
  struct Functions {
    Function give_up;
    Function begin_anew;
    Function repeat;
    Function ready;
  };
  MemberByMail(std::shared_ptr<Mailbox> mail, const Functions& functions)
      : mail_(std::move(mail)), functions_(functions) {}

  void post_give_up(Epoch epoch) override { post(functions_.give_up, epoch); }
  void post_begin_anew(Epoch epoch) override { post(functions_.begin_anew, epoch); }
  void post_repeat(Epoch epoch) override { post(functions_.repeat, epoch); }
  void post_ready(Epoch epoch) override { post(functions_.ready, epoch); }

 private:
  void post(Function function, Epoch epoch) {
    Mailbox::post(mail_, [function, epoch](NbdLink& link) { function(link, epoch); });
  }

  const std::shared_ptr<Mailbox> mail_;
  const Functions functions_;
};

}  // namespace

/// Awaits a command of the link's own.
class NbdLink::Sent {
 public:
  Sent(NbdLink& link, RemoteCommand& command) noexcept : link_(link), command_(command) {}
  [[nodiscard]] bool await_ready() noexcept {
    if (link_.connection_) {
      link_.send(command_);
    } else {
      command_.complete(fail(ErrorKind::kClosed, "NBD server"));
    }
    return command_.is_complete();
  }
  void await_suspend(std::coroutine_handle<> waiting) noexcept { command_.set_waiting(waiting); }
  [[nodiscard]] Result<> await_resume() const noexcept { return command_.result(); }

 private:
  NbdLink& link_;
  RemoteCommand& command_;
};

NbdLink::NbdLink(uring::Loop& loop, Options options)
    : loop_(loop),
      target_(std::move(options.target)),
      check_(std::move(options.check)),
      status_(options.status),
      recovery_(options.recovery),
      unflushed_(options.unflushed),
      range_block_(options.range_block),
      first_(std::move(options.first)),
      tick_(loop, [this](std::int32_t) { on_tick(); }),
      mail_(std::make_shared<Mail>()),
      connect_again_(loop, [this](std::int32_t) { connect(); }) {
  mail_->loop = &loop;
  mail_->link = this;
  using Epoch = NbdRecovery::Epoch;
  using ByMail = MemberByMail<Mail>;
  const ByMail::Functions functions = {
      .give_up =
          [](NbdLink& link, Epoch epoch) {
            if (link.connection_ && link.epoch_ == epoch) {
              link.give_up({});  // the cause was logged for another link
            }
          },
      .begin_anew =
          [](NbdLink& link, Epoch epoch) {
            if (!link.connection_ || link.epoch_ != epoch) return;
            link.begin_anew();
          },
      .repeat =
          [](NbdLink& link, Epoch epoch) {
            if (link.connection_ && link.epoch_ == epoch) link.repeat();
          },
      .ready =
          [](NbdLink& link, Epoch epoch) {
            if (link.connection_ && link.epoch_ == epoch && !link.is_ready_) link.become_ready();
          }};
  recovery_.join(*this, std::make_shared<ByMail>(mail_, functions));
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
  // The writes that it sends again.
  if (connection_ && repeating_.running() != 0) (void)connection_->abandon();
  recovery_.leave(*this);
  if (connection_) status_.on_closed();
  if (is_away_) status_.on_abandoned();
}

void NbdLink::submit(RemoteCommand& command) noexcept {
  if (waits_for_first_) return wait_for_first(command);
  if (is_ready_) return send(command);
  // This process serves the disk.
  recovery_.unfreeze();
  command.complete(fail(ErrorKind::kClosed, "NBD server"));
}

void NbdLink::wait_for_first(RemoteCommand& command) noexcept {
  waiting_.push_back(command);
  // This process serves the disk.
  recovery_.unfreeze();
}

void NbdLink::send(RemoteCommand& command) noexcept {
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
  const bool replaces_lost = !waits_for_first_;
  auto created = NbdConnection::create(loop_, std::move(handle), *this);
  if (!created) {
    status_.on_failed_attempt(created.error().to_string());
    on_first_failure();
    return connect_again_.sleep(kPauseWithoutThread);
  }
  connection_ = std::move(*created);
  replies_seen_ = 0;
  status_.on_connected(replaces_lost);
  const NbdRecovery::Next next = recovery_.connected(*this);
  epoch_ = next.epoch;
  is_announced_ = replaces_lost;
  switch (next.step) {
    case NbdRecovery::Step::kReady: become_ready(); break;
    case NbdRecovery::Step::kRepeat: repeat(); break;
    case NbdRecovery::Step::kWait: break;
  }
}

void NbdLink::become_ready() {
  is_ready_ = true;
  waits_for_first_ = false;
  if (std::exchange(is_away_, false)) status_.on_back();
  boost::intrusive::list<RemoteCommand> waiting;
  waiting.swap(waiting_);
  while (!waiting.empty()) {
    RemoteCommand& command = waiting.front();
    waiting.pop_front();
    submit(command);
  }
  if (!is_announced_) return;
  for (Subscriber& subscriber : subscribers_) subscriber.on_connected();
}

void NbdLink::repeat() {
  // An earlier repetition ended with its connection.
  GUESTIO_CHECK(repeating_.running() == 0, "one repetition at a time");
  repeating_.spawn(repeat_writes(epoch_));
}

task::Task<> NbdLink::repeat_writes(NbdRecovery::Epoch epoch) {
  auto at = unflushed_->begin();
  const auto first = at;
  for (auto batch = unflushed_->next_batch(at, range_block_); !batch.empty();
       batch = unflushed_->next_batch(at, range_block_)) {
    Result<> result;
    task::Scope sending;
    for (const RemoteCommand::Work& work : batch) sending.spawn(repeat_one(work, result));
    co_await sending.join();
    if (result) continue;
    on_repeat_failed(result.error());
    co_return;
  }
  if (at != first) status_.on_repeated(at - first);
  recovery_.repeated(epoch);
}

task::Task<> NbdLink::repeat_one(RemoteCommand::Work work, Result<>& result) {
  RemoteCommand command(work);
  Sent sent(*this, command);
  const auto done = co_await sent;
  if (!done && result) result = done;
}

/// Called by the connection, which therefore ends later, unless it is lost.
void NbdLink::on_repeat_failed(const Error& cause) {
  Mail::post(mail_, [epoch = epoch_, cause](NbdLink& link) {
    if (!link.connection_ || link.epoch_ != epoch) return;
    link.status_.on_refused(
        fmt::format("it refuses writes that it has acknowledged: {}", cause.to_string()));
    link.pauses_ = true;
    link.give_up({});
  });
}

void NbdLink::on_first_failure() {
  if (!std::exchange(waits_for_first_, false)) return;
  is_away_ = true;
  status_.on_never_connected(status_.get().detail);
  fail_waiting();
}

void NbdLink::fail_waiting() {
  boost::intrusive::list<RemoteCommand> waiting;
  waiting.swap(waiting_);
  while (!waiting.empty()) {
    RemoteCommand& command = waiting.front();
    waiting.pop_front();
    command.complete(fail(ErrorKind::kClosed, "NBD server"));
  }
}

void NbdLink::begin_anew() {
  waits_for_first_ = true;
  is_ready_ = false;
  recovery_.lost(*this);
  const auto connection = std::exchange(connection_, nullptr);
  (void)connection->abandon();  // nothing is in flight before the first request
  status_.on_lost();
  on_gone();
}

void NbdLink::on_connection_lost(std::string cause, NbdUnfinished unfinished) {
  connection_.reset();
  replace(cause, std::move(unfinished));
}

void NbdLink::replace(const std::string& cause, NbdUnfinished unfinished) {
  is_ready_ = false;
  const bool waits = unfinished.has_changes;
  status_.on_lost();
  recovery_.lost(*this);
  waits_for_first_ = false;
  if (!std::exchange(is_away_, true)) status_.on_away(cause, waits ? kWaits : kReconnects);
  fail_waiting();
  farewell_.reset();
  if (unfinished.socket) {
    farewell_.emplace(loop_, std::move(unfinished), [this, waits] {
      farewell_.reset();
      if (waits) on_gone();
    });
  }
  if (!waits) on_gone();
}

void NbdLink::on_gone() {
  recovery_.gone(*this);
  if (std::exchange(pauses_, false)) return connect_again_.sleep(kPauseAfterRefusal);
  connect();
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
  give_up(fmt::format("no reply for {} s", static_cast<double>(target_.io_timeout.count()) / 1000));
}

void NbdLink::give_up(const std::string& cause) {
  // Completions may submit: they meet no connection, on other links too.
  is_ready_ = false;
  recovery_.lost(*this);
  const auto connection = std::exchange(connection_, nullptr);
  replace(cause, connection->abandon());
}

}  // namespace guestio::disk
