// SPDX-License-Identifier: MIT
#include "guestio/disk/nbd/nbd_connection.h"

#include <cerrno>
#include <utility>

#include "guestio/disk/nbd/plain_connection.h"
#include "guestio/disk/nbd/tls_connection.h"

namespace guestio::disk {

namespace {

const char* name_of_command(IoKind kind) noexcept {
  switch (kind) {
    case IoKind::kRead: return "read from the NBD server";
    case IoKind::kWrite: return "write to the NBD server";
    case IoKind::kFlush: return "flush of the NBD server";
    case IoKind::kDiscard: return "trim of the NBD server";
    case IoKind::kWriteZeroes: return "write-zeroes of the NBD server";
    case IoKind::kSecureErase: break;
  }
  return "request to the NBD server";
}

}  // namespace

Result<> nbd_result(IoKind kind, int error) noexcept {
  if (error == 0) return {};
  // ESHUTDOWN: the server is about to end.
  if (error == ENOTCONN || error == ESHUTDOWN) return fail(ErrorKind::kClosed, "NBD server");
  return fail(Error::host(error, name_of_command(kind)));
}

Result<std::unique_ptr<NbdConnection>> NbdConnection::create(uring::Loop& loop, NbdHandle handle,
                                                             Owner& owner) {
  if (::nbd_get_tls_negotiated(handle.get()) != 0) {
    return std::make_unique<TlsConnection>(loop, std::move(handle), owner);
  }
  auto socket = duplicate_fd(::nbd_aio_get_fd(handle.get()));
  if (!socket) return fail(socket.error());
  return std::make_unique<PlainConnection>(loop, std::move(*socket), owner);
}

}  // namespace guestio::disk
