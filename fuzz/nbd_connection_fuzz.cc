// SPDX-License-Identifier: MIT
// The bytes of a hostile NBD server: in the handshake, and between the requests of a client. Each
// command completes once, whatever arrives.
#include <sys/socket.h>

#include <deque>
#include <memory>
#include <optional>

#include "fuzz/program.h"
#include "guestio/base/check.h"
#include "guestio/disk/nbd/nbd_connection.h"
#include "guestio/disk/nbd/nbd_export.h"
#include "guestio/disk/nbd/plain_connection.h"
#include "guestio/disk/remote/remote_command.h"
#include "testing/hostile_nbd_server.h"

namespace guestio::fuzz {
namespace {

using disk::IoKind;
using disk::RemoteCommand;
using testing::NbdBytes;
using testing::NbdHandshake;
using testing::NbdPeer;

constexpr std::size_t kMaxCommands = 64;
constexpr std::size_t kMaxLength = 40'000;

std::array<std::byte, kMaxLength> memory;

struct Sockets {
  UniqueFd client;
  UniqueFd server;
};

Sockets make_sockets(int flags) {
  std::array<int, 2> pair{};
  const int made = ::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | flags, 0, pair.data());
  GUESTIO_CHECK(made == 0, "a pair of sockets");
  return {UniqueFd(pair[0]), UniqueFd(pair[1])};
}

void send(const UniqueFd& socket, std::span<const std::uint8_t> bytes) {
  // What does not fit is lost: a client reads what it likes.
  (void)!::send(socket.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
}

void send(const UniqueFd& socket, const NbdBytes& bytes) {
  (void)!::send(socket.get(), bytes.span().data(), bytes.span().size(),
                MSG_NOSIGNAL | MSG_DONTWAIT);
}

/// The handshake, by libnbd, and what is made of its outcome.
void shake_hands(Program& program) {
  Sockets sockets = make_sockets(0);
  if (program.flag()) {
    // Mostly right.
    NbdHandshake handshake{.size = program.take<std::uint64_t>(),
                           .flags = program.take<std::uint16_t>()};
    if (program.flag()) {
      handshake.blocks = {.minimum = program.take<std::uint32_t>(),
                          .preferred = program.take<std::uint32_t>(),
                          .maximum = program.take<std::uint32_t>()};
    }
    const NbdBytes bytes = handshake.bytes();
    const std::size_t kept = bytes.span().size() - program.index(8);
    (void)!::send(sockets.server.get(), bytes.span().data(), kept, MSG_NOSIGNAL);
  }
  send(sockets.server, program.bytes(4096));
  ::shutdown(sockets.server.get(), SHUT_WR);
  const disk::NbdHandle handle(::nbd_create());
  ::nbd_set_request_structured_replies(handle.get(), false);
  if (::nbd_connect_socket(handle.get(), sockets.client.release()) != 0) return;
  const auto facts = disk::query_nbd_export(handle.get());
  if (!facts) return;
  for (const bool is_read_only : {false, true}) {
    disk::OpenOptions options;
    options.is_read_only = is_read_only;
    const auto shape = disk::shape_nbd_disk(*facts, options);
    if (!shape) continue;
    const auto& limits = shape->limits;
    GUESTIO_CHECK(limits.max_transfer >= limits.alignment, "commands of a block");
    GUESTIO_CHECK(limits.max_transfer <= std::uint64_t{32} << 20, "commands of bounded size");
    GUESTIO_CHECK(shape->info.size.raw() + shape->unserved_bytes == facts->size, "all bytes");
    GUESTIO_CHECK(!find_nbd_difference(*facts, *facts, limits, shape->info.size.raw()),
                  "an export that is like itself");
  }
}

/// Completes, and counts.
struct Command {
  explicit Command(const RemoteCommand::Work& work) : command(work) {}
  RemoteCommand command;
};

class Client final : public disk::NbdConnection::Owner {
 public:
  explicit Client(Sockets sockets)
      : server_(std::move(sockets.server)),
        connection_(
            std::make_unique<disk::PlainConnection>(*loop_, std::move(sockets.client), *this)) {}
  ~Client() {
    server_.reset();
    while (!is_lost_) iterate();
    for (const Command& each : commands_) {
      GUESTIO_CHECK(each.command.is_complete(), "a completion for each command");
    }
    loop_->run_until_idle();
  }

  void submit(Program& program) {
    if (is_lost_ || commands_.size() == kMaxCommands) return;
    constexpr std::array kKinds = {IoKind::kRead, IoKind::kWrite, IoKind::kFlush, IoKind::kDiscard,
                                   IoKind::kWriteZeroes};
    RemoteCommand::Work work;
    work.kind = kKinds[program.index(kKinds.size())];
    if (work.kind != IoKind::kFlush) work.length = 1 + program.index(kMaxLength);
    const bool has_data = work.kind == IoKind::kRead || work.kind == IoKind::kWrite;
    if (has_data) work.data = std::span(memory).first(work.length);
    connection_->submit(commands_.emplace_back(work).command);
  }
  void reply(Program& program) {
    NbdBytes bytes;
    const std::uint64_t index = program.index(kMaxCommands);
    const std::uint64_t generation = program.index(8);
    bytes.u32(NbdPeer::kReplyMagic).u32(program.take<std::uint8_t>() / 16);
    bytes.u64(generation << 32 | index).zeroes(program.index(kMaxLength));
    send(server_, bytes);
  }
  void send_raw(Program& program) {
    const std::size_t count = program.take<std::uint8_t>();
    send(server_, program.bytes(count));
  }
  void drain_requests() {
    std::array<std::byte, 65536> ignored{};
    while (::recv(server_.get(), ignored.data(), ignored.size(), MSG_DONTWAIT) > 0) {
    }
  }
  void iterate() {
    loop_->stop();
    loop_->run();
  }

 private:
  void on_connection_lost(std::string, disk::NbdUnfinished) override {
    GUESTIO_CHECK(!is_lost_, "one end of a connection");
    GUESTIO_CHECK(connection_->in_flight() == 0, "nothing in flight after the end");
    is_lost_ = true;
    connection_.reset();
  }

  std::unique_ptr<uring::Loop> loop_ = std::move(*uring::Loop::create());
  UniqueFd server_;
  std::deque<Command> commands_;
  bool is_lost_ = false;
  std::unique_ptr<disk::NbdConnection> connection_;
};

void transmit(Program& program) {
  Client client(make_sockets(SOCK_NONBLOCK));
  while (!program.is_over()) {
    switch (program.index(6)) {
      case 0:
      case 1: client.submit(program); break;
      case 2: client.reply(program); break;
      case 3: client.send_raw(program); break;
      case 4: client.drain_requests(); break;
      default: client.iterate(); break;
    }
  }
}

}  // namespace
}  // namespace guestio::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  guestio::fuzz::Program program(data, size);
  if (program.flag()) {
    guestio::fuzz::shake_hands(program);
  } else {
    guestio::fuzz::transmit(program);
  }
  return 0;
}
