// SPDX-License-Identifier: MIT
#include "guestio/disk/nbd/nbd_disk.h"

#include <algorithm>
#include <utility>

#include "guestio/base/log.h"

namespace guestio::disk {

OpenResult<std::unique_ptr<NbdDisk>> NbdDisk::open(const NbdTarget& target,
                                                   const OpenOptions& options,
                                                   std::chrono::milliseconds limit) {
  NbdTarget limited = target;
  limited.io_timeout = std::min(limited.io_timeout, limit);
  auto opened = connect_to_nbd_server(limited);
  if (!opened) return std::unexpected(std::move(opened.error().failure));
  const auto shape = shape_nbd_disk(opened->facts, options);
  if (!shape) return std::unexpected(shape.error());
  if (shape->unserved_bytes != 0) {
    log::warning(
        "{}: last {} bytes of the export are not served: its size is {}, and blocks have {}",
        options.name, shape->unserved_bytes, opened->facts.size,
        std::max(options.block_size.raw(), shape->limits.alignment));
  }
  return std::unique_ptr<NbdDisk>(new NbdDisk(target, options, *shape, std::move(*opened)));
}

OpenResult<std::unique_ptr<NbdDisk>> NbdDisk::resume(const NbdTarget& target,
                                                     const OpenOptions& options,
                                                     const NbdExport& facts) {
  const auto shape = shape_nbd_disk(facts, options);
  if (!shape) return std::unexpected(shape.error());
  NbdOpened opened{.handle = nullptr, .facts = facts};
  return std::unique_ptr<NbdDisk>(new NbdDisk(target, options, *shape, std::move(opened)));
}

namespace {

bool may_lose_writes(const NbdExport& facts, const OpenOptions& options, const NbdTarget& target) {
  return facts.can_flush && !options.is_read_only && target.unflushed_limit.raw() != 0;
}

}  // namespace

NbdDisk::NbdDisk(NbdTarget target, const OpenOptions& options, const NbdShape& shape,
                 NbdOpened opened)
    : RemoteDisk(options.name, shape.info, shape.limits),
      target_(std::move(target)),
      facts_(opened.facts),
      status_(options.name),
      recovery_(may_lose_writes(facts_, options, target_)),
      first_(std::move(opened.handle)) {
  if (may_lose_writes(facts_, options, target_)) keep_unflushed_writes(target_.unflushed_limit);
}

Result<std::unique_ptr<Channel>> NbdDisk::open_channel(uring::Loop& loop, ByteCount bounce_limit) {
  auto account = open_account(loop, bounce_limit);
  if (!account) return fail(account.error());
  std::shared_ptr<NbdLink> link;
  {
    const std::lock_guard lock(mutex_);
    link = shared_.lock();
    if (link && &link->loop() != &loop) {
      return fail(ErrorKind::kUnsupported,
                  "channels of several threads to a server that takes one "
                  "connection");
    }
    if (!link) link = make_link(loop);
  }
  return std::make_unique<NbdChannel>(*this, loop, std::move(*account), std::move(link));
}

std::shared_ptr<NbdLink> NbdDisk::make_link(uring::Loop& loop) {
  auto link = std::make_shared<NbdLink>(
      loop, NbdLink::Options{.target = target_,
                             .check = [this](const NbdExport& present) { return check(present); },
                             .status = status_,
                             .recovery = recovery_,
                             .unflushed = unflushed_writes(),
                             .range_block = limits().range_block,
                             .first = std::exchange(first_, nullptr)});
  if (needs_one_thread()) shared_ = link;
  return link;
}

std::optional<std::string> NbdDisk::check(const NbdExport& present) {
  auto difference = find_nbd_difference(present, facts_, limits(), info().size.raw());
  if (!difference) announce_size(ByteCount(present.size));
  return difference;
}

Result<DiskSnapshot> NbdDisk::snapshot() const {
  if (!recovery_.freeze()) {
    return fail(ErrorKind::kBusy, "writes that are sent to the NBD server again");
  }
  DiskSnapshot snapshot;
  snapshot.size = info().size;
  if (const UnflushedWrites* const writes = unflushed_writes();
      writes != nullptr && !writes->is_empty()) {
    auto saved = writes->save();
    if (!saved) return fail(saved.error());
    snapshot.unflushed = std::move(*saved);
  }
  if (!status_.get().is_available) snapshot.backend_state = to_text(facts_);
  return snapshot;
}

Result<> NbdDisk::restore(DiskSnapshot latest) {
  if (!latest.unflushed) return {};
  UnflushedWrites* const writes = unflushed_writes();
  if (writes == nullptr) {
    return fail(ErrorKind::kInvalidArgument, "unflushed writes of a disk that keeps none");
  }
  if (auto loaded = writes->load(latest.unflushed, info().size); !loaded) return loaded;
  // The server may have lost them before this process connected. Its first request sends them
  // again: until then the takeover may fail, and the other process goes on.
  recovery_.restart();
  return {};
}

NbdChannel::NbdChannel(RemoteDisk& disk, uring::Loop& loop, buf::OpenBounceAccount bounce,
                       std::shared_ptr<NbdLink> link)
    : RemoteChannel(disk, loop, std::move(bounce)), link_(std::move(link)) {
  link_->subscribe(*this);
}

}  // namespace guestio::disk
