// SPDX-License-Identifier: MIT
#include "guestio/disk/nbd/nbd_factory.h"
#include "guestio/disk/nbd/test/nbd_keys.h"
#include "guestio/disk/nbd/test/nbd_subject.h"
#include "testing/disk_conformance.h"
#include "testing/nbd_server.h"

namespace guestio::disk {
namespace {

using testing::DiskConformance;
using testing::DiskKind;
using testing::NbdServer;
using testing::NbdSubject;

constexpr ByteCount kMuchBounce(std::uint64_t{8} << 20);
constexpr ByteCount kLittleBounce(std::uint64_t{64} << 10);

std::unique_ptr<testing::DiskSubject> make_tls() {
  if (!testing::NbdKeys::can_make()) return nullptr;
  const auto keys = std::make_shared<testing::NbdKeys>();
  const std::string file = keys->psk_file("keys");
  auto server = NbdServer::nbdkit({"--tls=require", "--tls-psk=" + file, "memory", "4M"});
  if (!server) return nullptr;
  const std::string uri = "nbds+unix://alice@/?socket=" + server->path() + "&tls-psk-file=" + file;
  return NbdSubject::make(std::move(server), kMuchBounce, uri);
}

DiskKind nbdkit(std::string name, std::vector<std::string> arguments,
                ByteCount bounce = kMuchBounce) {
  return {std::move(name), [=] { return NbdSubject::make(NbdServer::nbdkit(arguments), bounce); }};
}

INSTANTIATE_TEST_SUITE_P(
    Nbd, DiskConformance,
    ::testing::Values(
        nbdkit("Memory", {"memory", "4M"}),
        nbdkit("MemoryWithLittleBounceMemory", {"memory", "4M"}, kLittleBounce),
        nbdkit("File", {"file", "IMAGE"}),
        nbdkit("BlocksOf4096", {"--filter=blocksize-policy", "memory", "4M",
                                "blocksize-minimum=4096", "blocksize-preferred=4096",
                                "blocksize-maximum=65536", "blocksize-error-policy=error"}),
        nbdkit("OneConnection", {"--filter=multi-conn", "memory", "4M", "multi-conn-mode=disable"}),
        nbdkit("WithoutFua", {"--filter=fua", "memory", "4M"}),
        nbdkit("WithoutZero", {"--filter=nozero", "memory", "4M"}), DiskKind{"Tls", &make_tls},
        DiskKind{"QemuNbd", [] { return NbdSubject::make(NbdServer::qemu_nbd(), kMuchBounce); }}),
    [](const auto& instance) { return instance.param.name; });

}  // namespace
}  // namespace guestio::disk
