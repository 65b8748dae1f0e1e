"""Near-duplicates: a perceptual hash of three frames of a clip, and the clips that are nearly another one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

ROWS = COLUMNS = 8
BITS = 3 * ROWS * COLUMNS
"""Bits of the hash of one frame."""
_CLEAR = 2
"""Grey levels of 255 by which neighbours differ at least, so that noise on an even surface sets no bit."""


def frame_hash(pixels: np.ndarray) -> np.ndarray:
    """Difference hash `[192]` of bool of a frame, uint8 RGB `[height, width, 3]`: a bit of each channel is set where a
    cell of an 8x9 grid is brighter than its left neighbour, so colours count too."""
    small = np.asarray(
        Image.fromarray(pixels).resize((COLUMNS + 1, ROWS), Image.Resampling.BOX), dtype=np.int16
    )
    return (np.diff(small, axis=1) > _CLEAR).transpose(2, 0, 1).reshape(-1)


def clip_hash(frames: Sequence[np.ndarray]) -> str:
    """Hashes of frames, as a hexadecimal text for records."""
    return np.packbits(np.concatenate([frame_hash(frame) for frame in frames])).tobytes().hex()


def hash_distance(first: str, second: str) -> float:
    """Mean number of bits a frame, of `BITS`, in which two hashes of `clip_hash` differ."""
    bits = [np.unpackbits(np.frombuffer(bytes.fromhex(each), np.uint8)) for each in (first, second)]
    return float((bits[0] != bits[1]).sum() / (len(bits[0]) / BITS))


def near_duplicates(hashes: Sequence[str], limit: float) -> dict[int, int]:
    """Clips that are nearly an earlier one which is kept: their places, and the place of that one.

    Args:
        hashes: of `clip_hash`, all of as many frames.
        limit: bits a frame in which they differ at most; negative for no duplicates at all.
    """
    if not hashes:
        return {}
    packed = np.stack([np.frombuffer(bytes.fromhex(each), np.uint8) for each in hashes])
    allowed = limit * packed.shape[1] * 8 / BITS
    kept: list[int] = []
    found: dict[int, int] = {}
    for place, bits in enumerate(packed):
        if kept:
            distance = np.bitwise_count(packed[kept] ^ bits).sum(1, dtype=np.int64)
            nearest = int(distance.argmin())
            if distance[nearest] <= allowed:
                found[place] = kept[nearest]
                continue
        kept.append(place)
    return found
