"""Tiles of equal size for autoencoders that work tile by tile.

diffusers' autoencoders lay tiles of a fixed size at a fixed stride, so the last ones may be a few pixels wide and cost
nearly as much as they save. Here the video is divided evenly instead.
"""

from __future__ import annotations

from typing import Any

TILE = 256
OVERLAP_SHARE = 0.25


def even_tiles(length: int, tile: int, overlap: int, multiple: int) -> tuple[int, int]:
    """`(size, stride)` of the fewest equal tiles that cover `length`, all in pixels.

    Args:
        length: side of the video, a multiple of `multiple`.
        tile: largest size of a tile.
        overlap: what a tile shares with the next one; below `tile`.
        multiple: pixels of a latent, of which strides and sizes are whole numbers.

    Returns:
        `(length, length)` where one tile is enough.
    """
    if length <= tile:
        return length, length
    overlap = -(-overlap // multiple) * multiple
    # A tile is the stride and the overlap.
    largest_stride = max((tile - overlap) // multiple, 1)
    latents = -(-length // multiple)
    count = -(-latents // largest_stride)
    stride = -(-latents // count) * multiple
    return stride + overlap, stride


def lay_tiles(vae: Any, height: int, width: int, multiple: int, tile: int) -> None:
    """Lays even tiles over videos of `height` x `width` pixels, if the autoencoder tiles and has sizes and strides.

    Args:
        vae: a diffusers autoencoder; others keep the tiles that they have.
        multiple: pixels of a latent.
        tile: largest side of a tile in pixels; a quarter of it overlaps.
    """
    if not getattr(vae, "use_tiling", False) or not hasattr(vae, "tile_sample_stride_height"):
        return
    for side, length in (("height", height), ("width", width)):
        size, stride = even_tiles(length, tile, round(OVERLAP_SHARE * tile), multiple)
        setattr(vae, f"tile_sample_min_{side}", size)
        setattr(vae, f"tile_sample_stride_{side}", stride)
