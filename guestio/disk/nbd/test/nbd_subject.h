// SPDX-License-Identifier: MIT
#pragma once

#include <functional>
#include <memory>
#include <utility>

#include "guestio/disk/nbd/nbd_disk.h"
#include "guestio/mem/recover.h"
#include "testing/disk_subject.h"
#include "testing/nbd_server.h"

namespace guestio::testing {

/// Runs a loop until a condition holds after an iteration.
class RunUntil final : private uring::Poller {
 public:
  RunUntil(uring::Loop& loop, const std::function<bool()>& is_done)
      : loop_(loop), is_done_(is_done) {
    loop_.add_poller(*this);
    loop_.run();
  }

 private:
  bool poll() noexcept override {
    if (is_done_()) loop_.stop();
    return false;
  }

  uring::Loop& loop_;
  const std::function<bool()>& is_done_;
};

/// An NbdDisk with one channel, its loop and its server.
class NbdSubject final : public DiskSubject {
 public:
  static std::unique_ptr<DiskSubject> make(std::unique_ptr<NbdServer> server, ByteCount bounce,
                                           const std::string& uri = "") {
    if (!server) return nullptr;
    disk::OpenOptions options;
    options.uri = uri.empty() ? server->uri() : uri;
    const auto target = disk::parse_nbd_target(options);
    EXPECT_TRUE(target.has_value());
    auto opened = disk::NbdDisk::open(*target, options, target->io_timeout);
    EXPECT_TRUE(opened.has_value()) << opened.error().to_string();
    return std::make_unique<NbdSubject>(std::move(server), std::move(*opened), bounce);
  }
  NbdSubject(std::unique_ptr<NbdServer> server, std::unique_ptr<disk::NbdDisk> disk,
             ByteCount bounce)
      : server_(std::move(server)), disk_(std::move(disk)) {
    EXPECT_TRUE(mem::install_fault_recovery());
    auto opened = disk_->open_channel(*loop_, bounce);
    EXPECT_TRUE(opened.has_value());
    channel_ = std::move(*opened);
  }
  ~NbdSubject() override {
    channel_.reset();
    loop_->run_until_idle();
  }

  const disk::DiskInfo& info() const override { return disk_->info(); }
  disk::Channel& channel() override { return *channel_; }
  void run_until(const std::function<bool()>& is_done) override { RunUntil(*loop_, is_done); }

  [[nodiscard]] NbdServer& server() noexcept { return *server_; }
  [[nodiscard]] disk::NbdDisk& disk() noexcept { return *disk_; }
  [[nodiscard]] uring::Loop& loop() noexcept { return *loop_; }

 private:
  std::unique_ptr<NbdServer> server_;
  std::unique_ptr<uring::Loop> loop_ = std::move(*uring::Loop::create());
  std::unique_ptr<disk::NbdDisk> disk_;
  std::unique_ptr<disk::Channel> channel_;
};

}  // namespace guestio::testing
