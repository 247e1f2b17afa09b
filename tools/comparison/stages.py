# SPDX-License-Identifier: MIT
"""Maps a profile sample to a stage of a request.

In our code the room of the innermost source line decides. In the kernel the innermost known function
of the call chain decides; locks and allocations are not known.
"""

import re

OTHER = "other"

# In request order. Each prefix is a room, or a file listed before its room.
ROOMS = (
    ("copies of bytes", ("mem/recover_copy", "mem/recover_x86_64.cc", "mem/recover_aarch64.cc")),
    ("ring: fetch the chain, write the used entry", ("virtio", "mem/recover")),
    ("request: parse, status", ("blk",)),
    ("guest addresses to host segments", ("mem", "registered")),
    ("plan, bounce memory", ("buf",)),
    ("disk", ("disk",)),
    ("loop, coroutines", ("uring", "task", "base")),
    ("vring: batches, call", ("vhost", "apps")),
)

# Matched against function names from the innermost outwards; the first match wins.
KERNEL = (
    ("kernel: copies of bytes", r"_copy_(to|from)_iter|copy_page_to_iter|copy_folio|"
                                r"rep_movs|memcpy|shmem_file_read|generic_perform_write"),
    ("kernel: pinning memory", r"gup_|pin_user|unpin_|bio_iov_iter|iov_iter_extract|"
                               r"bio_release_pages|bio_set_pages|__import_iovec|import_ubuf|"
                               r"copy_iovec|io_import"),
    ("kernel: interrupt, completion of the device", r"asm_.*interrupt|common_interrupt|irq_exit|"
                                                    r"handle_.*irq|softirq|vring_interrupt|"
                                                    r"virtblk_done|blk_mq_complete|blk_mq_end|"
                                                    r"iomap_dio_.*end_io|bio_endio"),
    ("kernel: block layer and driver", r"submit_bio|blk_|bio_|__blk|dd_|elv_|rq_qos|wbt_|virtblk|"
                                       r"virtqueue|virtio|vp_|vm_notify|iowrite|nvme|scsi|loop_|"
                                       r"dm_|__rq|sbitmap|blkg"),
    ("kernel: file system", r"ext4|iomap|xfs|btrfs|shmem|tmpfs|jbd2|touch_atime|atime_needs|"
                            r"file_remove_privs|file_update_time|inode|generic_file"),
    ("kernel: worker threads of the ring", r"io_wq|io_queue_iowq|create_io_thread|io_worker"),
    ("kernel: sleeping, waking, eventfds", r"schedule|try_to_wake|ttwu|eventfd|__wake_up|"
                                           r"io_cqring_wait|pick_next|dequeue_|enqueue_|poll|"
                                           r"finish_task_switch|switch_to|update_curr"),
    ("kernel: io_uring", r"^(__)?(do_sys_|se_sys_|x64_sys_)?_?io_"),
    ("kernel: system call entry", r"entry_SYSCALL|do_syscall|syscall_|x64_sys"),
)
KERNEL = tuple((stage, re.compile(pattern)) for stage, pattern in KERNEL)


def stage_of_source(path):
    """The stage of one of our source lines; None for other sources."""
    place = path.rpartition("/guestio/")[2] if "/guestio/" in path else None
    if place is None:
        return "vring: batches, call" if "/apps/" in path else None
    for stage, prefixes in ROOMS:
        if any(place.startswith(prefix) for prefix in prefixes):
            return stage
    return None


def stage_of_symbol(symbol):
    """The stage of one of our functions without a usable source line."""
    room = re.search(r"guestio::(\w+)::", symbol)
    return stage_of_source(f"/guestio/{room.group(1)}/") if room else None


def stage_of_kernel(symbols):
    """The stage of a kernel call chain, innermost frame first."""
    for symbol in symbols:
        for stage, pattern in KERNEL:
            if pattern.search(symbol):
                return stage
    return "kernel: " + OTHER


def all_stages():
    return [stage for stage, _ in ROOMS] + ["libraries"] + [stage for stage, _ in KERNEL] + \
        ["kernel: " + OTHER]
