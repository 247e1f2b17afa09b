# SPDX-License-Identifier: MIT
"""The parts of tools/bench.py: guestio-blk compared with its peers and with the raw device."""
