# SPDX-License-Identifier: MIT
"""What tools/bench.py is made of: guestio-blk beside its peers and beside the raw device."""
