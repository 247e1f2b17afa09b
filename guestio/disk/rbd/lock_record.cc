// SPDX-License-Identifier: MIT
#include "guestio/disk/rbd/lock_record.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <filesystem>
#include <utility>

#include "guestio/base/unique_fd.h"

namespace guestio::disk {

namespace {

constexpr std::size_t kMaxFileBytes = 32768;
/// Of processes that were killed before they owned the lock.
constexpr std::size_t kMaxRecords = 64;

std::optional<std::string> read_small_file(const std::string& path) {
  const UniqueFd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
  if (!file) return std::nullopt;
  std::string text(kMaxFileBytes, '\0');
  const auto size = ::read(file.get(), text.data(), text.size());
  if (size < 0) return std::nullopt;
  text.resize(static_cast<std::size_t>(size));
  return text;
}

std::string boot_id() {
  auto text = read_small_file("/proc/sys/kernel/random/boot_id").value_or("");
  while (text.ends_with('\n')) text.pop_back();
  return text;
}

std::string own_pid_namespace() {
  std::error_code ignored;
  return std::filesystem::read_symlink("/proc/self/ns/pid", ignored).string();
}

/// Field 22 of /proc/PID/stat; nothing if there is no such process, or only its remains.
std::optional<std::uint64_t> start_of(std::uint64_t pid) {
  const auto stat = read_small_file(fmt::format("/proc/{}/stat", pid));
  if (!stat) return std::nullopt;
  // The name before it may hold anything.
  auto at = stat->rfind(')');
  if (at == std::string::npos || stat->substr(at).starts_with(") Z")) return std::nullopt;
  for (int field = 2; field < 22 && at != std::string::npos; ++field) at = stat->find(' ', at + 1);
  std::uint64_t start = 0;
  if (at == std::string::npos) return std::nullopt;
  std::from_chars(stat->data() + at + 1, stat->data() + stat->size(), start);
  return start;
}

bool set_number(std::string_view text, std::uint64_t& to) {
  const auto parsed = std::from_chars(text.data(), text.data() + text.size(), to);
  return parsed.ec == std::errc() && parsed.ptr == text.data() + text.size();
}

}  // namespace

LockRecord LockRecord::of_process(std::string address) {
  const auto pid = static_cast<std::uint64_t>(::getpid());
  return {.address = std::move(address),
          .pid = pid,
          .start = start_of(pid).value_or(0),
          .boot = boot_id(),
          .pid_namespace = own_pid_namespace()};
}

std::string LockRecord::to_text() const {
  return fmt::format("address {}\npid {}\nstart {}\nboot {}\nnamespace {}\n", address, pid, start,
                     boot, pid_namespace);
}

std::optional<LockRecord> LockRecord::from_text(std::string_view text) {
  LockRecord record;
  while (!text.empty()) {
    const auto line = text.substr(0, text.find('\n'));
    text.remove_prefix(std::min(line.size() + 1, text.size()));
    const auto key = line.substr(0, line.find(' '));
    const auto value = line.substr(std::min(key.size() + 1, line.size()));
    bool is_valid = true;
    if (key == "address") record.address = value;
    if (key == "pid") is_valid = set_number(value, record.pid);
    if (key == "start") is_valid = set_number(value, record.start);
    if (key == "boot") record.boot = value;
    if (key == "namespace") record.pid_namespace = value;
    if (!is_valid) return std::nullopt;
  }
  if (record.address.empty() || record.pid == 0 || record.start == 0) return std::nullopt;
  return record;
}

bool LockRecord::is_gone() const {
  if (boot != boot_id() || pid_namespace != own_pid_namespace()) return false;
  return start_of(pid) != start;
}

LockRecords load_records(const std::string& path) {
  LockRecords records;
  if (path.empty()) return records;
  const std::string text = read_small_file(path).value_or("");
  constexpr std::string_view kFirstKey = "address ";
  for (auto at = text.find(kFirstKey); at != std::string::npos && records.size() < kMaxRecords;) {
    const auto next = text.find(kFirstKey, at + 1);
    auto record = LockRecord::from_text(std::string_view(text).substr(at, next - at));
    if (record) records.push_back(std::move(*record));
    at = next;
  }
  return records;
}

Result<> save_records(const LockRecords& records, const std::string& path) {
  if (records.empty()) {
    if (::unlink(path.c_str()) != 0 && errno != ENOENT) {
      return fail_host("remove the record of the lock");
    }
    return {};
  }
  std::string text;
  for (const LockRecord& record : records) text += record.to_text();
  const std::string next = path + ".new";
  (void)::unlink(next.c_str());
  const UniqueFd file(
      ::open(next.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!file) return fail_host("create the record of the lock");
  const auto written = ::write(file.get(), text.data(), text.size());
  if (written != static_cast<ssize_t>(text.size()))
    return fail_host("write the record of the lock");
  if (::rename(next.c_str(), path.c_str()) != 0) return fail_host("write the record of the lock");
  return {};
}

}  // namespace guestio::disk
