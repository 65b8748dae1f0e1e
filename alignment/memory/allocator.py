"""Memory of training on a CPU: freed blocks are kept for the next step."""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
KEPT_SIZES = 1 << 30, 1 << 25
"""The block size up to which memory is kept; some versions of glibc take no more than the second."""


def keep_freed_memory() -> bool:
    """Lets the C library reuse large blocks instead of giving them back to the system and asking again.

    Activations of every step are blocks of megabytes. glibc maps each anew, and the kernel zeroes its pages,
    which is about a tenth of the time of a training step of a small model. Returns whether the C library took
    the settings (only glibc has them).
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    taken = any(mallopt(M_MMAP_THRESHOLD, size) for size in KEPT_SIZES)
    return taken and bool(mallopt(M_TRIM_THRESHOLD, KEPT_SIZES[0]))
