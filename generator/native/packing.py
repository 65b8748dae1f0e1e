"""Patch n' pack: clips of different size and duration in one row of a fixed token budget (NaViT, arXiv 2307.06304).

Two parts: the places of tokens in a row (`PackedLayout`), and attention that never crosses from one clip to another
(`segment_attention`, with one back end for any device and dtype and one for CUDA in half precision). A packed row
gives every clip the result that it has alone. The remainder of a row is a segment of its own, so that a row has one
shape whatever it holds. Clips are put together in rows by `generator.inputs.packing.pack_rows`.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from generator.native.blocks import patch_coordinates

Item = TypeVar("Item")
LENGTH_STEP = 128
"""The longest segment is rounded up to this, so that few different values occur."""


class ClipShape(NamedTuple):
    """Size of a clip in patches, the duration of one in seconds, and whether each frame is an image of its own."""

    frames: int
    height: int
    width: int
    seconds_per_patch: float
    key_frames: bool = False

    @property
    def tokens(self) -> int:
        """Number of patches."""
        return self.frames * self.height * self.width


@lru_cache(maxsize=4096)
def _places(shape: ClipShape) -> np.ndarray:
    """Places of tokens `[tokens, 7]`: time, row, column, the clip's extent in them, and 1 where it is of an image."""
    coordinates = patch_coordinates(shape.frames, shape.height, shape.width, shape.seconds_per_patch).numpy()
    extent = np.array(
        [shape.frames * shape.seconds_per_patch * 2, shape.height, shape.width], dtype=np.float32
    )
    images = shape.frames if shape.key_frames else 1
    image = np.repeat(np.arange(shape.frames) < images, shape.height * shape.width)[:, None]
    return np.concatenate(
        [coordinates, np.broadcast_to(extent, coordinates.shape), image], axis=1, dtype=np.float32
    )


@dataclass
class Segments:
    """Assignment of queries to keys: segment i of the queries to segment i of the keys.

    Attributes:
        lengths: `(queries, keys)` of each segment, for the back end that goes from segment to segment.
        query_ends, key_ends: int32 `[segments + 1]`, where segments begin and end, for the other back end.
        longest: `(queries, keys)`, at least those of the longest segment.
        query_index, key_index: tokens in the order of the segments, or None where they stand so already.
        query_places: the inverse of `query_index`.
    """

    lengths: tuple[tuple[int, int], ...]
    query_ends: Tensor
    key_ends: Tensor
    longest: tuple[int, int]
    query_index: Tensor | None = None
    key_index: Tensor | None = None
    query_places: Tensor | None = None

    def __call__(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attention of one packed row; all `[1, heads, tokens, dim]`."""
        query, key, value = (x[0].transpose(0, 1) for x in (query, key, value))
        if self.query_index is not None:
            query = query.index_select(0, self.query_index)
        if self.key_index is not None:
            key, value = key.index_select(0, self.key_index), value.index_select(0, self.key_index)
        out = segment_attention(query, key, value, self)
        if self.query_places is not None:
            out = out.index_select(0, self.query_places)
        return out.transpose(0, 1)[None]

    def to(self, device: torch.device) -> Segments:
        return _with(self, {n: on_device(v, device) for n, v in _tensors(self).items()})


def on_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A copy on `device`, made while the device works on what it was given before, as pinned memory allows."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def _tensors(data: Any) -> dict[str, Any]:
    found = {field.name: getattr(data, field.name) for field in fields(data)}
    return {name: value for name, value in found.items() if isinstance(value, Tensor)}


def _with(data: Item, changes: dict[str, Any]) -> Item:
    return replace(data, **changes)  # type: ignore[type-var]


def segment_attention(query: Tensor, key: Tensor, value: Tensor, segments: Segments) -> Tensor:
    """Attention within segments: `[tokens, heads, dim]` each, without any padding.

    On a CUDA device in half precision by `torch.nn.attention.varlen` (FlashAttention on packed sequences), elsewhere by
    scaled dot-product attention, segments of equal length that stand side by side at once.
    """
    if query.is_cuda and query.dtype in (torch.bfloat16, torch.float16):
        return _varlen(query, key, value, segments)
    return _by_segment(query, key, value, segments)


def _varlen(query: Tensor, key: Tensor, value: Tensor, segments: Segments) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    # Only what all versions from 2.10 on have in common is passed.
    result = varlen_attn(
        query.contiguous(),
        key.contiguous(),
        value.contiguous(),
        segments.query_ends,
        segments.key_ends,
        *segments.longest,
    )
    return result[0] if isinstance(result, tuple) else result


def _by_segment(query: Tensor, key: Tensor, value: Tensor, segments: Segments) -> Tensor:
    outputs = []
    q_start = k_start = 0
    for (q_length, k_length), run in itertools.groupby(segments.lengths):
        count = sum(1 for _ in run)
        q_end, k_end = q_start + count * q_length, k_start + count * k_length
        parts = (query[q_start:q_end], key[k_start:k_end], value[k_start:k_end])
        q, k, v = (part.unflatten(0, (count, -1)).transpose(1, 2) for part in parts)
        outputs.append(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(0, 1))
        q_start, k_start = q_end, k_end
    return torch.cat(outputs)


@dataclass
class PackedLayout:
    """Places of the tokens of clips in one row. Tensors `[length]`, in the order of the row.

    A clip is `[time token | text | video patches]`; the time token is there if the transformer takes the noise level as
    a token.

    Attributes:
        clip: to which clip a token belongs (0 in the remainder).
        prefix_source: row in `[all text tokens | one time token a clip | zero]` that the token takes.
        patch: number of the patch within all patches of its clip (0 where it is none).
        is_video: whether the token is a patch.
        coordinates: `[…, 6]`: seconds times two, row and column from the centre; the clip's extent in the three.
        image: 1 where the patch belongs to a frame that is encoded as an image.
        full, spatial, temporal: who attends to whom; the last two only for separable attention.
        fill: share of the row that is not remainder.
    """

    clip: Tensor
    prefix_source: Tensor
    patch: Tensor
    is_video: Tensor
    coordinates: Tensor
    image: Tensor
    full: Segments
    spatial: Segments | None
    temporal: Segments | None
    fill: float

    @property
    def shape(self) -> tuple[int, ...]:
        """Key of the shapes of all tensors and of the lengths that attention is told."""
        sizes = [len(self.clip)]
        for part in self._parts().values():
            sizes += [*part.longest, *(len(value) for value in _tensors(part).values())]
        return tuple(sizes)

    def to(self, device: torch.device) -> PackedLayout:
        """The layout with its tensors on `device`."""
        parts: dict[str, Any] = {n: s.to(device) for n, s in self._parts().items()}
        return _with(self, parts | {n: on_device(v, device) for n, v in _tensors(self).items()})

    def tensors(self) -> dict[str, Tensor]:
        """All tensors by name, for CUDA graphs, which need them at fixed places."""
        named = dict(_tensors(self))
        for part, segments in self._parts().items():
            named |= {f"{part}.{name}": value for name, value in _tensors(segments).items()}
        return named

    def with_tensors(self, named: dict[str, Tensor]) -> PackedLayout:
        """The same layout with other tensors of equal names and shapes."""
        parts: dict[str, Any] = {}
        for part, segments in self._parts().items():
            parts[part] = _with(segments, {n: named[f"{part}.{n}"] for n in _tensors(segments)})
        return _with(self, parts | {name: named[name] for name in _tensors(self)})

    def _parts(self) -> dict[str, Segments]:
        parts = {"full": self.full, "spatial": self.spatial, "temporal": self.temporal}
        return {name: part for name, part in parts.items() if part is not None}


class _Row(NamedTuple):
    """Arrays of one row under construction: of each real token its clip, its number in it, and where it stands."""

    clip: np.ndarray
    within: np.ndarray
    lengths: np.ndarray
    prefix: np.ndarray
    remainder: int


def pack_layout(
    shapes: Sequence[ClipShape],
    text_lengths: Sequence[int],
    text_starts: Sequence[int],
    num_text: int,
    time_token: bool,
    length: int | None = None,
    kept: Sequence[np.ndarray] | None = None,
    separable: bool = False,
    num_clips: int | None = None,
    longest: int = 0,
) -> PackedLayout:
    """One row of clips, in the order in which they are given.

    Args:
        shapes: of the clips.
        text_lengths, text_starts: tokens of each caption, and where it begins among all `num_text` text tokens.
        time_token: whether the noise level is a token.
        length: of the row; just enough by default.
        kept: numbers of the patches of each clip that are not dropped; all by default.
        separable: prepare attention within frames and along time instead of full attention.
        num_clips: at least the number of clips; segments are filled up with empty ones to this number plus one, so that
            rows of different numbers of clips have tensors of equal shape.
        longest: what the longest clip is taken to have at least, so that rows of different clips are alike.

    Raises:
        ValueError: the clips do not fit into `length`.
    """
    prefix = np.asarray(text_lengths, dtype=np.int64) + time_token
    counts = [s.tokens for s in shapes] if kept is None else [len(k) for k in kept]
    lengths = prefix + np.asarray(counts, dtype=np.int64)
    total = int(lengths.sum())
    length = total if length is None else length
    if total > length:
        raise ValueError(f"{len(shapes)} clips of {total} tokens do not fit into a row of {length}.")
    clip = np.repeat(np.arange(len(shapes)), lengths)
    within = np.arange(total) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    is_video = within >= prefix[clip]
    slots = num_clips or len(shapes)
    source = np.asarray(text_starts, dtype=np.int64)[clip] + within - time_token
    source[within < time_token] = num_text + clip[within < time_token]
    source[is_video] = num_text + slots
    patches = [np.arange(s.tokens) for s in shapes] if kept is None else list(kept)
    patch = np.zeros(total, dtype=np.int64)
    patch[is_video] = np.concatenate(patches)
    places = np.zeros((total, 7), dtype=np.float32)
    places[is_video] = np.concatenate([_places(s)[p] for s, p in zip(shapes, patches, strict=True)])
    row = _Row(clip, within, lengths, prefix, length - total)

    def padded(values: np.ndarray, fill: int = 0) -> Tensor:
        widths = [(0, length - total)] + [(0, 0)] * (values.ndim - 1)
        return torch.from_numpy(np.pad(values, widths, constant_values=fill))

    return PackedLayout(
        clip=padded(clip),
        prefix_source=padded(source, num_text + slots),
        patch=padded(patch),
        is_video=padded(is_video),
        coordinates=padded(places[:, :6]),
        image=padded(places[:, 6].astype(np.int64)),
        full=_segments(row, slots, longest),
        spatial=_spatial_segments(row, shapes, patch, is_video) if separable else None,
        temporal=_temporal_segments(row, shapes, patch, is_video) if separable else None,
        fill=total / length,
    )


def _build(
    q_lengths: np.ndarray,
    k_lengths: np.ndarray,
    slots: int = 0,
    query_index: np.ndarray | None = None,
    key_index: np.ndarray | None = None,
    longest: int = 0,
) -> Segments:
    """Segments of these lengths, in tensors that are filled up to `slots` segments with empty ones."""
    missing = max(slots - len(q_lengths), 0)

    def ends(lengths: np.ndarray) -> Tensor:
        places = torch.from_numpy(np.pad(np.cumsum(lengths), (1, 0)).astype(np.int32))
        return torch.cat([places, places[-1:].expand(missing)])

    def rounded(lengths: np.ndarray) -> int:
        return -(-max(int(lengths.max()), longest) // LENGTH_STEP) * LENGTH_STEP

    return Segments(
        lengths=tuple(zip(q_lengths.tolist(), k_lengths.tolist(), strict=True)),
        query_ends=ends(q_lengths),
        key_ends=ends(k_lengths),
        longest=(rounded(q_lengths), rounded(k_lengths)),
        query_index=None if query_index is None else torch.from_numpy(query_index),
        key_index=None if key_index is None else torch.from_numpy(key_index),
        query_places=None if query_index is None else torch.from_numpy(np.argsort(query_index)),
    )


def _segments(row: _Row, slots: int, longest: int) -> Segments:
    """One segment a clip, and one for the remainder of the row."""
    lengths = np.append(row.lengths, row.remainder) if row.remainder else row.lengths
    return _build(lengths, lengths, slots + 1, longest=longest)


def _groups(row: _Row, group: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tokens ordered by clip and group, and clip and length of each run of them."""
    order = np.lexsort((np.arange(len(group)), group, row.clip))
    keys = np.stack([row.clip[order], group[order]])
    starts = np.flatnonzero(np.any(np.diff(keys, axis=1, prepend=-1), axis=0))
    return order, keys[:, starts], np.diff(starts, append=len(group))


def _spatial_segments(
    row: _Row, shapes: Sequence[ClipShape], patch: np.ndarray, is_video: np.ndarray
) -> Segments:
    """Each frame attends to the prefix of its clip and to itself; the prefix to itself."""
    area = np.array([s.height * s.width for s in shapes])
    group = np.where(is_video, 1 + patch // area[row.clip], 0)
    _, keys, counts = _groups(row, group)
    of_clip, is_frame = keys[0], keys[1] > 0
    starts = np.cumsum(counts) - counts
    clip_starts = (np.cumsum(row.lengths) - row.lengths)[of_clip]
    shared = np.where(is_frame, row.prefix[of_clip], 0)
    k_counts = counts + shared
    offset = np.arange(int(k_counts.sum())) - np.repeat(np.cumsum(k_counts) - k_counts, k_counts)
    shared, starts, clip_starts = (np.repeat(x, k_counts) for x in (shared, starts, clip_starts))
    key_index = np.where(offset < shared, clip_starts + offset, starts + offset - shared)
    return _with_remainder(row, counts, k_counts, None, key_index)


def _temporal_segments(
    row: _Row, shapes: Sequence[ClipShape], patch: np.ndarray, is_video: np.ndarray
) -> Segments:
    """Each place attends to itself in all frames; the prefix to itself."""
    area = np.array([s.height * s.width for s in shapes])
    group = np.where(is_video, 1 + patch % area[row.clip], 0)
    order, _, counts = _groups(row, group)
    return _with_remainder(row, counts, counts, order, order)


def _with_remainder(
    row: _Row,
    q_counts: np.ndarray,
    k_counts: np.ndarray,
    query_index: np.ndarray | None,
    key_index: np.ndarray,
) -> Segments:
    if row.remainder:
        rest = len(row.clip) + np.arange(row.remainder)
        q_counts, k_counts = np.append(q_counts, row.remainder), np.append(k_counts, row.remainder)
        key_index = np.append(key_index, rest)
        query_index = None if query_index is None else np.append(query_index, rest)
    return _build(q_counts, k_counts, 0, query_index, key_index)
