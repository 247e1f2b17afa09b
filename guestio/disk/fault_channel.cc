// SPDX-License-Identifier: MIT
#include "guestio/disk/fault_channel.h"

#include <algorithm>
#include <cerrno>

#include "guestio/base/align.h"
#include "guestio/base/check.h"

namespace guestio::disk {

/// The front of a short transfer.
class FaultChannel::ShortTransfer final : public Io {
 public:
  ShortTransfer(FaultChannel& owner, Io& whole, const Fault& fault) noexcept
      : owner_(owner), whole_(whole), error_(fault.error) {
    kind = whole.kind;
    durability = whole.durability;
    offset = whole.offset;
    length = align_down(std::min(fault.moved, whole.length), Sector::kSize);
    buffers = whole.buffers.subrange(0, length);
  }

  void on_done(Result<>) noexcept override {
    Io& whole = whole_;
    const Error error = error_;
    owner_.short_transfers_.remove_if(
        [this](const ShortTransfer& other) { return &other == this; });
    whole.on_done(fail(error));
  }

 private:
  FaultChannel& owner_;
  Io& whole_;
  const Error error_;
};

FaultChannel::FaultChannel(std::unique_ptr<Channel> below, Choose choose) noexcept
    : below_(std::move(below)), choose_(std::move(choose)) {}

FaultChannel::~FaultChannel() {
  GUESTIO_CHECK(short_transfers_.empty(), "no transfer in flight on a channel that ends");
}

void FaultChannel::start(Io& io) noexcept {
  if (is_removed_) return io.on_done(fail(Error::host(ENODEV, "a disk that is gone")));
  const auto fault = choose_(io);
  if (!fault) return below_->start(io);
  const bool is_transfer = io.kind == IoKind::kRead || io.kind == IoKind::kWrite;
  if (!is_transfer || fault->moved < Sector::kSize) return io.on_done(fail(fault->error));
  below_->start(short_transfers_.emplace_back(*this, io, *fault));
}

}  // namespace guestio::disk
