// SPDX-License-Identifier: MIT
#include "guestio/disk/rbd/rados_connections.h"

#include <fmt/format.h>

#include <array>
#include <cerrno>
#include <string_view>
#include <utility>

#include "guestio/disk/rbd/rbd_error.h"

namespace guestio::disk {

namespace {

struct Setting {
  const char* key;
  const char* value;
};

/// Whatever the configuration file says.
constexpr std::array kForced = {
    // The guest's flush is the only one, and a completed write is on stable storage.
    Setting{"rbd_cache", "false"},
    // An open ends with an error while no monitor answers.
    Setting{"client_mount_timeout", "10"},
    Setting{"rados_mon_op_timeout", "10"},
    // Requests wait while their OSD is away: a write that timed out may still land, later.
    Setting{"rados_osd_op_timeout", "0"},
    // The queues have limits of their own; a full throttle would block a thread of the connection.
    Setting{"objecter_inflight_ops", "0"},
    Setting{"objecter_inflight_op_bytes", "0"},
    // A thread for each connection.
    Setting{"admin_socket", ""},
    // Our log lines say what the operator needs.
    Setting{"log_to_stderr", "false"},
    Setting{"err_to_stderr", "false"},
};

/// Threads of a connection. It serves a few images, and the process has several connections; a
/// second thread that works off librbd's queue costs half as much processor time again, for
/// wake-ups. Another number than librados's default is the operator's.
struct ThreadCount {
  const char* key;
  std::string_view usual;
  const char* value;
};
constexpr std::array kThreadCounts = {ThreadCount{"ms_async_op_threads", "3", "1"},
                                      ThreadCount{"librados_thread_count", "2", "1"}};

std::string explain_connect(int error, const RadosUser& user) {
  switch (error) {
    case ENOENT:
      return fmt::format("no key of client.{} (keyring), or no monitor in the configuration",
                         user.user);
    case EPERM:
    case EACCES: return fmt::format("the cluster refuses the key of client.{}", user.user);
    case ETIMEDOUT: return "no monitor answers (10 s)";
    case EINVAL: return "no monitor in the configuration";
    default: return describe_rbd_errno(error);
  }
}

}  // namespace

OpenResult<std::unique_ptr<RadosConnection>> RadosConnection::open(const RadosUser& user) {
  rados_t cluster = nullptr;
  const std::string name = "client." + user.user;
  if (const int r = ::rados_create2(&cluster, "ceph", name.c_str(), 0); r < 0) {
    return rbd_failure(-r, "create a client of the cluster", describe_rbd_errno(-r));
  }
  std::unique_ptr<RadosConnection> self(new RadosConnection(cluster));
  const char* const file = user.conf.empty() ? nullptr : user.conf.c_str();
  if (const int r = ::rados_conf_read_file(cluster, file); r < 0) {
    return rbd_failure(-r, "read the configuration of Ceph",
                       fmt::format("{}: {}", user.conf.empty() ? "/etc/ceph/ceph.conf" : user.conf,
                                   describe_rbd_errno(-r)));
  }
  for (const Setting& setting : kForced) {
    (void)::rados_conf_set(cluster, setting.key, setting.value);
  }
  for (const ThreadCount& threads : kThreadCounts) {
    if (self->setting(threads.key) == threads.usual) {
      (void)::rados_conf_set(cluster, threads.key, threads.value);
    }
  }
  if (const int r = ::rados_connect(cluster); r < 0) {
    return rbd_failure(-r, "connect to the cluster", explain_connect(-r, user));
  }
  char* address = nullptr;
  if (::rados_getaddrs(cluster, &address) == 0) {
    self->address_ = address;
    ::free(address);
  }
  return self;
}

RadosConnection::~RadosConnection() { ::rados_shutdown(cluster_); }

std::string RadosConnection::setting(const char* key) const {
  std::array<char, 64> value{};
  if (::rados_conf_get(cluster_, key, value.data(), value.size()) < 0) return {};
  return value.data();
}

OpenResult<RadosConnections::Share> RadosConnections::share(const RadosUser& user,
                                                            unsigned max_images) {
  std::unique_lock lock(mutex_);
  for (;;) {
    bool must_wait = false;
    for (const auto& slot : slots_) {
      if (slot->user != user || slot->images >= max_images) continue;
      if (slot->is_connecting) {
        must_wait = true;
        continue;
      }
      const auto connection = slot->connection.lock();
      if (connection && !connection->is_fenced()) return make_share(connection, slot);
    }
    if (!must_wait) break;
    connected_.wait(lock);
  }
  auto slot = std::make_shared<Slot>();
  slot->user = user;
  slot->is_connecting = true;
  slots_.push_back(slot);
  lock.unlock();
  auto opened = RadosConnection::open(user);
  lock.lock();
  slot->is_connecting = false;
  connected_.notify_all();
  if (!opened) {
    std::erase(slots_, slot);
    return std::unexpected(std::move(opened.error()));
  }
  const Share connection = std::move(*opened);
  slot->connection = connection;
  return make_share(connection, slot);
}

std::size_t RadosConnections::count() const {
  const std::lock_guard lock(mutex_);
  return slots_.size();
}

RadosConnections::Share RadosConnections::make_share(const Share& connection,
                                                     const std::shared_ptr<Slot>& slot) {
  ++slot->images;
  return {connection.get(), [this, held = connection, slot](RadosConnection*) mutable {
            end_share(slot);
            held = nullptr;
          }};
}

void RadosConnections::end_share(const std::shared_ptr<Slot>& slot) {
  const std::lock_guard lock(mutex_);
  if (--slot->images == 0) std::erase(slots_, slot);
}

}  // namespace guestio::disk
