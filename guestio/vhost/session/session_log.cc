// SPDX-License-Identifier: MIT
// A session's messages about the dirty log: which pages the device has written, for a live
// migration. When one of them is answered, nothing goes unnoted any more, nor into the log before.
#include <sys/stat.h>

#include "guestio/base/align.h"
#include "guestio/vhost/session/session.h"
#include "guestio/vhost/wire/descriptor_kind.h"

namespace guestio::vhost {

namespace {

Result<std::shared_ptr<const mem::DirtyLog>> map_log(const LogDescription& where, int file) {
  struct stat status{};
  if (::fstat(file, &status) != 0) return fail_host("look at a dirty log");
  const auto end = checked_add(where.offset, where.size);
  const bool is_inside = end && *end <= static_cast<std::uint64_t>(status.st_size);
  if (!S_ISREG(status.st_mode) || !is_inside || where.size == 0 ||
      !is_aligned(where.offset, kPageSize)) {
    return fail(Error::peer_fault("place of a dirty log", where.offset));
  }
  auto bitmap =
      Mapping::shared_file(file, FileOffset(where.offset), where.size, Mapping::Access::kReadWrite);
  if (!bitmap) return fail(bitmap.error());
  return std::make_shared<const mem::DirtyLog>(std::move(*bitmap));
}

}  // namespace

task::Task<Result<Session::Answer>> Session::set_log_base() {
  if (auto wanted = require_feature(kProtocolLogShmfd); !wanted) co_return fail(wanted.error());
  const auto where = payload_as<LogDescription>();
  if (!where) co_return fail(where.error());
  if (message_.descriptors.size() != 1) {
    co_return fail(Error::peer_fault("one descriptor for a log", message_.descriptors.size()));
  }
  UniqueFd file = message_.descriptors.take(0);
  if (auto mapped = use_log(*where, std::move(file)); !mapped) co_return fail(mapped.error());
  auto changing = change_logs();
  const auto changed = co_await std::move(changing);
  if (!changed) co_return fail(changed.error());
  // The answer that the message has of its own; front-ends look for one, not into it.
  co_return Answer::of(std::uint64_t{0});
}

Result<> Session::use_log(const LogDescription& where, UniqueFd file) {
  auto mapped = map_log(where, file.get());
  if (!mapped) return fail(mapped.error());
  log_ = std::move(*mapped);
  log_where_ = where;
  log_file_ = std::move(file);
  return {};
}

task::Task<Result<Session::Answer>> Session::set_log_event() {
  if (message_.descriptors.size() != 1) {
    co_return fail(
        Error::peer_fault("one descriptor for a log's event", message_.descriptors.size()));
  }
  UniqueFd event = message_.descriptors.take(0);
  if (!is_eventfd(event.get())) co_return fail(Error::peer_fault("a log's event is an eventfd"));
  log_event_ = std::move(event);
  auto changing = change_logs();
  const auto changed = co_await std::move(changing);
  if (!changed) co_return fail(changed.error());
  co_return Answer::none();
}

/// For all rings, also where one of them fails.
task::Task<Result<>> Session::change_logs() {
  Result<> outcome;
  for (const auto& ring : rings_) {
    auto changing = ring->change_log(context());
    auto changed = co_await std::move(changing);
    if (!changed) outcome = std::move(changed);
  }
  co_return outcome;
}

}  // namespace guestio::vhost
