// SPDX-License-Identifier: MIT
#include "testing/ceph_cluster.h"

#include <csignal>
#include <filesystem>
#include <fstream>

namespace guestio::testing {

CephCluster::CephCluster()
    : program_(std::make_unique<ChildProcess>(std::vector<std::string>{
          "/usr/bin/python3", GUESTIO_CEPH_CLUSTER, folder_.file("cluster")})) {
  if (!program_->wait_for_output("ready\n")) return;
  rados_t client = nullptr;
  if (::rados_create2(&client, "ceph", "client.admin", 0) < 0) return;
  const bool is_connected =
      ::rados_conf_read_file(client, conf().c_str()) == 0 && ::rados_connect(client) == 0;
  if (is_connected) {
    admin_ = client;
  } else {
    ::rados_shutdown(client);
  }
}

CephCluster::~CephCluster() {
  if (admin_ != nullptr) ::rados_shutdown(admin_);
  program_->send_signal(SIGTERM);
  (void)program_->wait();
}

bool CephCluster::is_installed() {
  return std::filesystem::exists("/usr/bin/ceph-osd") &&
         std::filesystem::exists("/usr/bin/ceph-mon");
}

int CephCluster::osd() const {
  int pid = 0;
  std::ifstream(folder_.file("cluster/osd.pid")) >> pid;
  return pid;
}

void CephCluster::pause_osd() const { ::kill(osd(), SIGSTOP); }
void CephCluster::continue_osd() const { ::kill(osd(), SIGCONT); }
void CephCluster::kill_osd() const { ::kill(osd(), SIGKILL); }
void CephCluster::start_osd() const { program_->send_signal(SIGUSR1); }

bool CephCluster::fence(const std::string& address) const {
  const std::string command =
      R"({"prefix": "osd blocklist", "blocklistop": "add", "addr": ")" + address + R"("})";
  const char* const commands[] = {command.c_str()};
  return ::rados_mon_command(admin_, const_cast<const char**>(commands), 1, nullptr, 0, nullptr,
                             nullptr, nullptr, nullptr) == 0 &&
         ::rados_wait_for_latest_osdmap(admin_) == 0;
}

}  // namespace guestio::testing
