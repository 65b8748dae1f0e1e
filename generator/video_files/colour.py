"""Pixels of decoded frames as 8-bit RGB for a screen: colour matrix, transparency, high dynamic range."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from av.video.reformatter import ColorRange, Colorspace, Interpolation

from generator.video_files.reformatting import reformatted

PQ, HLG = 16, 18
"""Transfer characteristics of ITU-T H.273 that state high dynamic range: SMPTE ST 2084 and ARIB STD-B67."""

REFERENCE_WHITE = 203.0
"""cd/m² of diffuse white in high dynamic range (ITU-R BT.2408); it becomes the white of the screen."""
_HLG_PEAK = 1000.0

# Linear light of BT.2020 primaries to BT.709 primaries (ITU-R BT.2087).
_BT2020_TO_BT709 = np.array(
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]], np.float32
)
_BT2020_LUMINANCE = np.array([0.2627, 0.6780, 0.0593], np.float32)

# Chroma interpolated instead of repeated, arithmetic rounded instead of truncated.
_EXACT = int(
    Interpolation.BILINEAR
    | Interpolation.FULL_CHR_H_INT
    | Interpolation.FULL_CHR_H_INP
    | Interpolation.ACCURATE_RND
)
# Untagged video is BT.601 by custom, as FFmpeg and its players take it.
_MATRIX = {1: Colorspace.ITU709, 9: Colorspace.BT2020, 7: Colorspace.SMPTE240M, 4: Colorspace.FCC}


def is_transparent(frame: Any) -> bool:
    """True where pixels may be see-through: a plane of alpha, or a palette, whose colours may have one."""
    return frame.format.has_palette or any(part.is_alpha for part in frame.format.components)


def is_high_dynamic_range(frame: Any) -> bool:
    """True for HLG and PQ, whose code values are not those of a screen."""
    return frame.color_trc in (PQ, HLG)


def rgb_pixels(frame: Any, height: int, width: int) -> np.ndarray:
    """A decoded frame as uint8 RGB `[height, width, 3]`, over white where it is transparent.

    Args:
        frame: a `VideoFrame` of any pixel format.
        height, width: of the result; the frame is resized where it has others.
    """
    transparent, bright = is_transparent(frame), is_high_dynamic_range(frame)
    deep = bright and not transparent
    pixels = reformatted(
        frame,
        width=width,
        height=height,
        format="rgba" if transparent else "rgb48le" if deep else "rgb24",
        src_colorspace=int(_MATRIX.get(frame.colorspace, Colorspace.ITU601)),
        dst_color_range=int(ColorRange.JPEG),
        interpolation=_EXACT,
    ).to_ndarray()
    if deep:
        return tone_mapped(pixels, frame.color_trc)
    return over_white(pixels) if transparent else pixels


def over_white(pixels: np.ndarray) -> np.ndarray:
    """uint8 RGBA `[height, width, 4]`, not premultiplied, laid over white: `[height, width, 3]`."""
    alpha = pixels[..., 3:].astype(np.float32) / 255
    return np.rint(pixels[..., :3] * alpha + 255 * (1 - alpha)).astype(np.uint8)


def light_of_pq(signal: np.ndarray) -> np.ndarray:
    """Display light in cd/m² of PQ code values in [0, 1] (ITU-R BT.2100, table 4)."""
    m1, m2, c1, c2, c3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128
    root = np.power(signal, 1 / m2)
    return 10000 * np.power(np.maximum(root - c1, 0) / (c2 - c3 * root), 1 / m1)


def scene_of_hlg(signal: np.ndarray) -> np.ndarray:
    """Scene light in [0, 1] of HLG code values in [0, 1] (ITU-R BT.2100, table 5)."""
    a = 0.17883277
    b, c = 1 - 4 * a, 0.5 - a * np.log(4 * a)
    return np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12)


def tone_mapped(pixels: np.ndarray, transfer: int) -> np.ndarray:
    """High dynamic range on a screen: `REFERENCE_WHITE` becomes white, what is brighter too.

    Args:
        pixels: code values of BT.2020 in uint16 `[height, width, 3]`.
        transfer: `PQ` or `HLG`.

    Returns:
        uint8 `[height, width, 3]` with the gamma of 2.4 of BT.1886.
    """
    light = _light_table(transfer)[pixels]
    if transfer == HLG:
        # The system gamma of 1.2 of a display of 1000 cd/m² (BT.2100) works on luminance, not on each colour.
        light = light * np.power(light @ _BT2020_LUMINANCE, 0.2)[..., None] * (_HLG_PEAK / REFERENCE_WHITE)
    shown = np.clip(light @ _BT2020_TO_BT709.T, 0, 1)
    return np.rint(255 * np.power(shown, 1 / 2.4)).astype(np.uint8)


@cache
def _light_table(transfer: int) -> np.ndarray:
    signal = np.arange(65536) / 65535
    light = light_of_pq(signal) / REFERENCE_WHITE if transfer == PQ else scene_of_hlg(signal)
    return light.astype(np.float32)
