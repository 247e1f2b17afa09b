// SPDX-License-Identifier: MIT
#include "guestio/vhost/session/log_handlers.h"

#include <sys/stat.h>

#include <cstdint>
#include <memory>
#include <utility>

#include "guestio/base/align.h"
#include "guestio/base/mapping.h"
#include "guestio/vhost/wire/descriptor_kind.h"

namespace guestio::vhost {

namespace {

Result<std::shared_ptr<const mem::DirtyLog>> map_log(const LogDescription& description, int file) {
  struct stat status{};
  if (::fstat(file, &status) != 0) return fail_host("stat a dirty log");
  const auto end = checked_add(description.offset, description.size);
  const bool is_inside = end && *end <= static_cast<std::uint64_t>(status.st_size);
  if (!S_ISREG(status.st_mode) || !is_inside || description.size == 0 ||
      !is_aligned(description.offset, kPageSize)) {
    return fail(Error::peer_fault("dirty log is not a page-aligned range inside a regular file",
                                  description.offset));
  }
  auto bitmap = Mapping::shared_file(file, FileOffset(description.offset), description.size,
                                     Mapping::Access::kReadWrite);
  if (!bitmap) return fail(bitmap.error());
  return std::make_shared<const mem::DirtyLog>(std::move(*bitmap));
}

}  // namespace

task::Task<Result<Reply>> LogHandlers::handle_set_log_base() {
  if (auto required = session_.require_feature(kProtocolLogShmfd); !required) {
    co_return fail(required.error());
  }
  const auto description = session_.payload_as<LogDescription>();
  if (!description) co_return fail(description.error());
  DescriptorList& descriptors = session_.message.descriptors;
  if (descriptors.size() != 1) {
    co_return fail(
        Error::peer_fault("SET_LOG_BASE without exactly one descriptor", descriptors.size()));
  }
  if (auto used = use_log(*description, descriptors.take(0)); !used) co_return fail(used.error());
  const auto updated = co_await session_.update_logs();
  if (!updated) co_return fail(updated.error());
  // Front-ends wait for this reply, whatever its value.
  co_return Reply::of(std::uint64_t{0});
}

Result<> LogHandlers::use_log(const LogDescription& description, UniqueFd file) {
  auto mapped = map_log(description, file.get());
  if (!mapped) return fail(mapped.error());
  session_.log.pages = std::move(*mapped);
  session_.log.description = description;
  session_.log.file = std::move(file);
  return {};
}

task::Task<Result<Reply>> LogHandlers::handle_set_log_fd() {
  DescriptorList& descriptors = session_.message.descriptors;
  if (descriptors.size() != 1) {
    co_return fail(
        Error::peer_fault("SET_LOG_FD without exactly one descriptor", descriptors.size()));
  }
  if (auto set = set_event(descriptors.take(0)); !set) {
    co_return fail(set.error());
  }
  const auto updated = co_await session_.update_logs();
  if (!updated) co_return fail(updated.error());
  co_return Reply::empty();
}

Result<> LogHandlers::add_to(SessionState& state) const {
  if (session_.log.pages) {
    auto file = duplicate_fd(session_.log.file.get());
    if (!file) return fail(file.error());
    state.log = {session_.log.description, std::move(*file)};
  }
  auto event = duplicate_fd(session_.log.event.get());
  if (!event) return fail(event.error());
  state.log_event = std::move(*event);
  return {};
}

Result<> LogHandlers::restore_log(std::optional<SessionState::Log> log) {
  if (!log) return {};
  return use_log(log->description, std::move(log->file));
}

Result<> LogHandlers::set_event(UniqueFd event) {
  if (event && !is_eventfd(event.get())) {
    return fail(Error::peer_fault("dirty log descriptor is not an eventfd"));
  }
  session_.log.event = std::move(event);
  return {};
}

}  // namespace guestio::vhost
