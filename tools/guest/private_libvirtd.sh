#!/bin/bash
# SPDX-License-Identifier: MIT
# A libvirtd with private directories and only QEMU's driver, isolated from the host's libvirt. It
# has no networks, D-Bus, polkit, cgroups or virtlogd, and ends with this process. For libvirt.py,
# in namespaces of its own:
#
#   unshare --mount --pid --fork --kill-child --mount-proc private_libvirtd.sh DIRECTORY LOGS USER GROUP
#
# It listens on DIRECTORY/libvirt-sock, logs into LOGS, and runs QEMU with this numeric user and
# group, named libvirt-qemu here.
set -euo pipefail

directory=$1 logs=$2 user=$3 group=$4

umount --recursive --lazy /sys/fs/cgroup 2>/dev/null || true
mount -t tmpfs -o mode=755 tmpfs /run
for own in /etc/libvirt /var/lib/libvirt /var/cache/libvirt; do
  mkdir -p "$own"
  mount -t tmpfs -o mode=755 tmpfs "$own"
done
mkdir -p /var/log/libvirt
mount --bind "$logs" /var/log/libvirt

# Debian's libvirtd does not start without QEMU's user and group.
for own in passwd group; do
  grep -v '^libvirt-qemu:' "/etc/$own" >"/run/$own"
done
echo "libvirt-qemu:x:$user:$group::/:/usr/sbin/nologin" >>/run/passwd
echo "libvirt-qemu:x:$group:" >>/run/group
for own in passwd group; do mount --bind "/run/$own" "/etc/$own"; done

cat >/etc/libvirt/libvirtd.conf <<EOF
unix_sock_dir = "$directory"
unix_sock_ro_perms = "0700"
unix_sock_rw_perms = "0700"
auth_unix_ro = "none"
auth_unix_rw = "none"
EOF
cat >/etc/libvirt/qemu.conf <<EOF
dynamic_ownership = 0
remember_owner = 0
security_driver = "none"
namespaces = []
stdio_handler = "file"
EOF

export LIBVIRT_DRIVER_DIR=/run/drivers
mkdir "$LIBVIRT_DRIVER_DIR"
for driver in /usr/lib/*/libvirt/connection-driver/libvirt_driver_qemu.so; do
  ln -s "$driver" "$LIBVIRT_DRIVER_DIR"
done
# This shell is process 1 here, and reaps orphaned QEMU processes as well.
libvirtd --config /etc/libvirt/libvirtd.conf &
wait $!
