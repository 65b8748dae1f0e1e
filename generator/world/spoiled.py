"""Scenes with a blemish that no caption speaks of: objects that melt or change their shape, and one object too many.

    python -m generator.world.spoiled --output_dir runs/spoiled --groups 200

A spoiled clip blends two renderings, `(1 - share) · first + share · second` with a share for each frame: a shape that
fades into another, one that is swapped in some frames, or one object more, faint or full.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from generator.files.output_folder import check_output_dir

from .meaning import GAP, RADII
from .near_misses import OUTPUTS, run_command, solvable_groups, write_groups
from .render import render_scenes
from .scene import SceneBatch, frame_times, offsets
from .shapes import COLOURS, REACH, SHAPES

BLEMISHES = ("melted", "swapped", "extra")
_PLACES = 64


@dataclass(frozen=True)
class SpoiledScenes:
    """Clips that blend two scenes.

    Attributes:
        first, second: the scenes.
        share: of the second in each frame `[clips, frames]`, in [0, 1]; 0 leaves a clip as it was.
        blemish: number of each clip's blemish in `BLEMISHES`, -1 where it has none `[clips]`.
    """

    first: SceneBatch
    second: SceneBatch
    share: Tensor
    blemish: Tensor

    def render(
        self, height: int = 32, width: int = 32, fps: float = 8, device: torch.device | None = None
    ) -> Tensor:
        """Clips `[clips, 3, frames, height, width]` in [-1, 1]."""
        frames = self.share.shape[1]
        size = {"num_frames": frames, "height": height, "width": width, "fps": fps, "device": device}
        one, other = render_scenes(self.first, **size), render_scenes(self.second, **size)  # type: ignore[arg-type]
        return torch.lerp(one, other, self.share.to(one)[:, None, :, None, None])

    def index(self, rows: slice) -> SpoiledScenes:
        """The clips at `rows`."""
        return SpoiledScenes(
            self.first.index(rows), self.second.index(rows), self.share[rows], self.blemish[rows]
        )

    def pack(self) -> Tensor:
        """Everything as one float32 tensor `[clips, columns]`, cheap to send between processes."""
        parts = (self.first.pack(), self.second.pack(), self.share, self.blemish[:, None].float())
        return torch.cat(parts, dim=1)

    @staticmethod
    def unpack(packed: Tensor, frames: int) -> SpoiledScenes:
        """The inverse of `pack`."""
        columns = (packed.shape[1] - frames - 1) // 2
        first, second, share, blemish = packed.split([columns, columns, frames, 1], dim=1)
        return SpoiledScenes(
            SceneBatch.unpack(first), SceneBatch.unpack(second), share, blemish[:, 0].round().long()
        )


def spoil(
    scenes: SceneBatch,
    spoiled: Tensor,
    seed: int,
    num_frames: int = 9,
    height: int = 32,
    width: int = 32,
    fps: float = 8,
) -> SpoiledScenes:
    """Gives some scenes a random blemish each; where there is no room for one object more, a shape is swapped.

    Args:
        scenes: on the CPU.
        spoiled: which of them `[batch]`.
        seed: of everything that is drawn.
        num_frames, height, width, fps: size of the clips.
    """
    generator = torch.Generator().manual_seed(seed)
    count = len(scenes)
    second = SceneBatch(*(value.clone() for value in scenes.tensors()))
    kind = torch.randint(len(BLEMISHES), (count,), generator=generator)
    extra = kind == BLEMISHES.index("extra")
    found = _add_object(second, extra & spoiled, generator, num_frames, height, width, fps)
    kind = torch.where(extra & ~found, BLEMISHES.index("swapped"), kind)
    changed = spoiled & (kind != BLEMISHES.index("extra"))
    _change_shape(second, changed, generator)
    # At least a third of the frames is another shape, and not all: a shorter slip hardly anyone would see.
    frame, least = torch.arange(num_frames), -(-num_frames // 3)
    middle = least + (num_frames - 2 * least) * torch.rand(count, 1, generator=generator)
    melted = ((frame - middle + 1.5) / 3).clamp(0, 1)
    length = least + (torch.rand(count, 1, generator=generator) * (num_frames // 2 - least + 1)).floor()
    begin = (torch.rand(count, 1, generator=generator) * (num_frames - length + 1)).floor()
    swapped = ((frame >= begin) & (frame < begin + length)).float()
    ink = (0.5 + 0.5 * torch.rand(count, 1, generator=generator)).expand(-1, num_frames)
    share = torch.stack([melted, swapped, ink])[kind, torch.arange(count)]
    share = torch.where(spoiled[:, None], share, 0.0)
    return SpoiledScenes(scenes, second, share, torch.where(spoiled, kind, -1))


def _change_shape(scenes: SceneBatch, rows: Tensor, generator: torch.Generator) -> None:
    """Gives one object of each scene in `rows` another shape, in place."""
    count = len(scenes)
    chance = torch.rand(scenes.on.shape, generator=generator).masked_fill(~scenes.on, -1.0)
    slot = chance.argmax(1)
    step = torch.randint(1, len(SHAPES), (count,), generator=generator)
    place = torch.arange(count), slot
    changed = (scenes.shape[place] + step) % len(SHAPES)
    scenes.shape[place] = torch.where(rows, changed, scenes.shape[place])


def _add_object(
    scenes: SceneBatch,
    rows: Tensor,
    generator: torch.Generator,
    num_frames: int,
    height: int,
    width: int,
    fps: float,
) -> Tensor:
    """Puts a small still object into a free slot of the scenes in `rows`, in place; returns where that was possible."""
    count = len(scenes)
    times = frame_times(num_frames, fps)
    shape = torch.randint(len(SHAPES), (count,), generator=generator)
    radius = RADII["small"] * (0.8 + 0.4 * torch.rand(count, generator=generator))
    own_reach = radius * REACH[shape]
    shorter = min(height, width)
    half = torch.tensor([width, height]) / shorter / 2
    room = half[None, None] - own_reach[:, None, None]
    places = (2 * torch.rand(count, _PLACES, 2, generator=generator) - 1) * room
    dx, dy = offsets(scenes, times)
    x, y = scenes.x[..., None] + dx, scenes.y[..., None] + dy
    reach = (
        scenes.radius[..., None] * (scenes.growth[..., None] * times).exp() * REACH[scenes.shape][..., None]
    )
    across = places[:, :, 0, None, None] - x[:, None]
    along = places[:, :, 1, None, None] - y[:, None]
    far = torch.hypot(across, along) > reach[:, None] + own_reach[:, None, None, None] + GAP
    free = (far | ~scenes.on[:, None, :, None]).flatten(2).all(2)
    slot = (~scenes.on).int().argmax(1)
    found = rows & free.any(1) & ~scenes.on.all(1)
    chosen = places[torch.arange(count), free.int().argmax(1)]
    at = torch.arange(count)[found], slot[found]
    for name, value in (
        ("on", torch.ones(count, dtype=torch.bool)),
        ("shape", shape),
        ("colour", torch.randint(len(COLOURS), (count,), generator=generator)),
        ("radius", radius),
        ("x", chosen[:, 0]),
        ("y", chosen[:, 1]),
        ("angle", torch.zeros(count)),
    ):
        getattr(scenes, name)[at] = value[found].to(getattr(scenes, name).dtype)
    for name in ("vx", "vy", "growth", "spin", "orbit_radius", "orbit_rate", "bounce_height", "bounce_rate"):
        getattr(scenes, name)[at] = 0
    return found


CLIPS = 4
"""Clips of a group: the right one, that one spoiled, a near miss, and the near miss spoiled."""
MISSING = -1
RANKS = (
    (0, (0, 1, MISSING, MISSING)),
    (0, (0, MISSING, 1, 2)),
    (2, (MISSING, MISSING, 0, 1)),
    (2, (1, 2, 0, MISSING)),
)
"""Clip whose caption is asked for, and ranks of the group's clips. Only what is certain is ranked: a clip above itself
with a blemish, and the right one above the near miss; two clips with different blemishes are not compared."""


def spoiled_near_misses(
    groups: int,
    seed: int = 0,
    split: str = "train",
    num_frames: int = 9,
    height: int = 32,
    width: int = 32,
    fps: float = 8,
) -> tuple[list[list[str]], SpoiledScenes]:
    """Captions `[groups][CLIPS]` and clips, group by group, which `RANKS` orders; drawn until `groups` fit the size."""
    rng = random.Random(f"spoiled near misses {seed} {split}")
    prompts: list[list[str]] = []
    scenes: list[SceneBatch] = []
    size = (num_frames, height, width, fps)
    for _, (right, miss), clips in solvable_groups(groups, 2, rng, split, *size):
        prompts.append([right, right, miss, miss])
        scenes.append(clips.index([0, 0, 1, 1]))
    spoiled = torch.tensor([False, True]).repeat(2 * groups)
    return prompts, spoil(SceneBatch.concatenate(scenes), spoiled, rng.getrandbits(60), *size)


def write_spoiled_near_misses(
    folder: str | Path,
    groups: int,
    seed: int = 0,
    num_frames: int = 9,
    height: int = 32,
    width: int = 32,
    fps: float = 8,
    overwrite: bool = False,
) -> Path:
    """Writes the clips and `rankings.jsonl` of `spoiled_near_misses` into `folder`; returns the rankings file."""
    check_output_dir(folder, OUTPUTS, overwrite)
    prompts, scenes = spoiled_near_misses(groups, seed, "train", num_frames, height, width, fps)
    made = (
        (
            scenes.index(slice(row * CLIPS, (row + 1) * CLIPS)).render(height, width, fps),
            [(names[asked], ranks) for asked, ranks in RANKS],
        )
        for row, names in enumerate(prompts)
    )
    return write_groups(folder, made, fps, overwrite)


def main(arguments: Sequence[str] | None = None) -> None:
    run_command(
        write_spoiled_near_misses, "python -m generator.world.spoiled", __doc__, arguments, videos=False
    )


if __name__ == "__main__":
    main()
