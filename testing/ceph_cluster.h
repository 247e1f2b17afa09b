// SPDX-License-Identifier: MIT
#pragma once

#include <rados/librados.h>

#include <memory>
#include <string>

#include "testing/child_process.h"
#include "testing/temporary.h"

namespace guestio::testing {

/// A Ceph cluster of one monitor and one OSD (testing/ceph_cluster.py), with the pool "rbd". It
/// ends with this process, however that ends.
class CephCluster {
 public:
  /// Sets it up in about 5 s. Check is_up().
  CephCluster();
  CephCluster(const CephCluster&) = delete;
  CephCluster& operator=(const CephCluster&) = delete;
  ~CephCluster();

  /// Whether Ceph's daemons are installed on this machine.
  [[nodiscard]] static bool is_installed();
  [[nodiscard]] bool is_up() const noexcept { return admin_ != nullptr; }
  [[nodiscard]] std::string output() const { return program_->output(); }
  [[nodiscard]] std::string conf() const { return folder_.file("cluster/ceph.conf"); }
  /// A client with all rights.
  [[nodiscard]] rados_t admin() const noexcept { return admin_; }

  /// Stops and continues the OSD: it does not answer meanwhile.
  void pause_osd() const;
  void continue_osd() const;
  /// Kills the OSD. Its data stays.
  void kill_osd() const;
  /// Starts a killed OSD; returns before it serves.
  void start_osd() const;
  /// Puts a client ("127.0.0.1:0/123") on the blocklist.
  [[nodiscard]] bool fence(const std::string& address) const;

 private:
  [[nodiscard]] int osd() const;

  TemporaryDirectory folder_;
  std::unique_ptr<ChildProcess> program_;
  rados_t admin_ = nullptr;
};

}  // namespace guestio::testing
