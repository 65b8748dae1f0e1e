"""Effect of the tint on the verifier: `python -m benchmarks.generator.verifier_tints` prints Markdown tables.

Scenes of the world are drawn anew, not by its own renderer but by Pillow, in supersampled (antialiased) polygons, in
lighter, darker, greyer and purer tints of the palette's colours, on the world's grounds. Every part of the prompt is
true, so every answer should be yes.
"""

from __future__ import annotations

import argparse
import colorsys
import math
import random
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor
from tqdm import tqdm

from generator.video import read_video, write_video
from generator.world import describe, verify
from generator.world.calibrate import part_kind
from generator.world.meaning import BACKGROUNDS, MOTIONS, Meaning, ObjectMeaning, is_sayable
from generator.world.render import render_scenes
from generator.world.scene import SceneBatch, frame_times, offsets
from generator.world.scene_sampling import sample_scenes, training_batch
from generator.world.shapes import COLOURS, PALETTE, SHAPES

LIGHTNESS = (0.7, 1.0, 1.3)
SATURATION = (0.85, 1.0, 1.15)
SIDES = (48, 64, 96, 128)
FRAMES, FPS = 17, 8
_SUPERSAMPLING = 4


@dataclass(frozen=True)
class Proportions:
    """Proportions of a shape, as others draw it too; the defaults are the world's.

    Attributes:
        star: radius of the notches over that of the tips.
        ring: radius of the hole over that of the ring.
        cross: half the width of an arm over its length.
        triangle: height over the width of its base.
    """

    star: float = 0.42
    ring: float = 0.58
    cross: float = 0.27
    triangle: float = math.sqrt(3) / 2


Point = tuple[float, float]


def outline(shape: str, proportions: Proportions) -> list[Point]:
    """Corners of an upright shape of the area π about its centre, y downwards; none for a circle or a ring."""
    if shape == "square":
        corners = [(-1.0, -1.0), (1.0, -1.0), (1.0, 1.0), (-1.0, 1.0)]
    elif shape == "triangle":
        height = 2 * proportions.triangle
        corners = [(0.0, -height * 2 / 3), (1.0, height / 3), (-1.0, height / 3)]
    elif shape == "star":
        turns = [(i * math.pi / 5, 1.0 if i % 2 == 0 else proportions.star) for i in range(10)]
        corners = [(radius * math.sin(angle), -radius * math.cos(angle)) for angle, radius in turns]
    elif shape == "cross":
        arm = proportions.cross
        quarter = [(-arm, -1.0), (arm, -1.0), (arm, -arm)]
        corners = [_turned(point, quarters * math.pi / 2) for quarters in range(4) for point in quarter]
    else:
        return []
    pairs = zip(corners, corners[1:] + corners[:1], strict=True)
    area = abs(sum(ax * by - bx * ay for (ax, ay), (bx, by) in pairs)) / 2
    return [(x * math.sqrt(math.pi / area), y * math.sqrt(math.pi / area)) for x, y in corners]


def _turned(point: Point, angle: float) -> Point:
    x, y = point
    return x * math.cos(angle) - y * math.sin(angle), x * math.sin(angle) + y * math.cos(angle)


def draw_shape(
    canvas: Image.Image,
    shape: str,
    centre: Point,
    radius: float,
    angle: float,
    colour: tuple[int, int, int],
    proportions: Proportions = Proportions(),
) -> None:
    """Draws a shape of an equal-area `radius` in pixels about `centre` in pixels."""
    corners = outline(shape, proportions)
    if corners:
        points = [_turned(point, angle) for point in corners]
        place = [(centre[0] + radius * x, centre[1] + radius * y) for x, y in points]
        ImageDraw.Draw(canvas).polygon(place, fill=colour)
        return
    outer = radius if shape == "circle" else radius / math.sqrt(1 - proportions.ring**2)
    box = (centre[0] - outer, centre[1] - outer, centre[0] + outer, centre[1] + outer)
    if shape == "circle":
        ImageDraw.Draw(canvas).ellipse(box, fill=colour)
    else:
        width = round(outer * (1 - proportions.ring))
        ImageDraw.Draw(canvas).ellipse(box, outline=colour, width=width)


def tinted(colour: int, lightness: float, saturation: float) -> tuple[int, int, int]:
    """RGB in [0, 255] of a palette colour with its lightness and saturation (HSL) times the factors."""
    hue, light, pure = colorsys.rgb_to_hls(*PALETTE[colour].tolist())
    rgb = colorsys.hls_to_rgb(hue, min(1.0, light * lightness), min(1.0, pure * saturation))
    return (round(255 * rgb[0]), round(255 * rgb[1]), round(255 * rgb[2]))


def draw_scene(
    scene: SceneBatch,
    colours: Sequence[tuple[int, int, int]],
    side: int,
    num_frames: int = FRAMES,
    proportions: Proportions = Proportions(),
    resampling: Image.Resampling = Image.Resampling.BOX,
) -> Tensor:
    """Video `[3, num_frames, side, side]` in [-1, 1] of one scene: the world's ground, Pillow's shapes."""
    empty = SceneBatch(*(value.clone() for value in scene.tensors()))
    empty.on[:] = False
    grounds = render_scenes(empty, num_frames, side, side, FPS)[0]
    times = frame_times(num_frames, FPS)
    dx, dy = offsets(scene, times)
    camera, magnification = scene.pan[0] * times, (scene.zoom[0] * times).exp()
    large = side * _SUPERSAMPLING
    frames = []
    for frame in range(num_frames):
        ground = ((grounds[:, frame] + 1) * 127.5).round().clamp(0, 255).byte().permute(1, 2, 0).numpy()
        canvas = Image.fromarray(ground).resize((large, large), Image.Resampling.NEAREST)
        for slot in scene.on[0].nonzero()[:, 0].tolist():
            x = (scene.x[0, slot] + dx[0, slot, frame] - camera[frame]) * magnification[frame]
            y = (scene.y[0, slot] + dy[0, slot, frame]) * magnification[frame]
            radius = scene.radius[0, slot] * (scene.growth[0, slot] * times[frame]).exp()
            angle = float(scene.angle[0, slot] + scene.spin[0, slot] * times[frame])
            centre = ((float(x) + 0.5) * large, (float(y) + 0.5) * large)
            size = float(radius * magnification[frame]) * large
            shape = SHAPES[int(scene.shape[0, slot])]
            draw_shape(canvas, shape, centre, size, angle, colours[slot], proportions)
        frames.append(np.asarray(canvas.resize((side, side), resampling)))
    return torch.from_numpy(np.stack(frames)).permute(3, 0, 1, 2).float() / 127.5 - 1


@dataclass(frozen=True)
class Case:
    """A clip to be judged: its prompt, its scene, and the tint of each object as factors."""

    prompt: str
    scene: SceneBatch
    tints: tuple[tuple[float, float], ...]
    side: int

    def colours(self) -> list[tuple[int, int, int]]:
        """RGB of each slot."""
        return [tinted(int(c), *tint) for c, tint in zip(self.scene.colour[0], self.tints, strict=True)]

    def draw(self, proportions: Proportions = Proportions(), smooth: bool = False) -> Tensor:
        """The clip, reduced by averaging, or by Pillow's Lanczos filter where `smooth`."""
        resampling = Image.Resampling.LANCZOS if smooth else Image.Resampling.BOX
        return draw_scene(
            self.scene, self.colours(), self.side, proportions=proportions, resampling=resampling
        )


def single_cases(seed: int, repeats: int, sides: Sequence[int] = SIDES) -> Iterator[Case]:
    """Every colour, tint, shape and side, `repeats` times each with a motion, size and ground drawn at random.

    Every second ground is black, white or another one that the world itself does not draw.
    """
    rng = random.Random(seed)
    grid = [
        (colour, lightness, saturation, shape, side)
        for colour in COLOURS
        for lightness in LIGHTNESS
        for saturation in SATURATION
        for shape in SHAPES
        for side in sides
    ]
    for colour, lightness, saturation, shape, side in grid * repeats:
        meaning = None
        while meaning is None or not is_sayable(meaning):
            motion = rng.choice(MOTIONS)
            size = None if motion in ("growing", "shrinking") else rng.choice(("small", "medium", "large"))
            said = ObjectMeaning(shape=shape, colour=colour, size=size, motion=motion)
            meaning = Meaning((said,), background=rng.choice(tuple(BACKGROUNDS)))
        scene = sample_scenes([meaning], rng.getrandbits(40), FRAMES, side, side, FPS)
        if rng.random() < 0.5 and meaning.background != "grey":
            scene.background[:] = (
                rng.uniform(0.0, 0.2) if meaning.background == "dark" else rng.uniform(0.8, 1.0)
            )
            scene.background[:] = scene.background.round() if rng.random() < 0.5 else scene.background
        tint = (lightness, saturation)
        yield Case(describe(meaning, rng), scene, (tint, tint, tint), side)


def scene_cases(seed: int, count: int, side: int) -> Iterator[Case]:
    """Prompts and scenes as the world draws them, with counts, relations and cameras; every object its own tint."""
    rng = random.Random(seed)
    prompts, scenes, _ = training_batch(count, seed, "test", FRAMES, side, side, FPS)
    for row, prompt in enumerate(prompts):
        tints = tuple((rng.uniform(0.7, 1.3), rng.uniform(0.85, 1.15)) for _ in range(3))
        yield Case(prompt, scenes.index([row]), tints, side)


@dataclass
class Tally:
    """Answers counted by what they are sorted by."""

    right: dict[str, int]
    asked: dict[str, int]

    def add(self, key: str, answer: bool) -> None:
        self.right[key] = self.right.get(key, 0) + answer
        self.asked[key] = self.asked.get(key, 0) + 1

    def rows(self) -> Iterator[str]:
        for key, asked in self.asked.items():
            yield f"| {key} | {asked} | {self.right[key] / asked:.4f} |"


def through_mp4(video: Tensor, full_colour: bool) -> Tensor:
    """The clip as it comes back from an mp4 file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        write_video(path, video, FPS, full_colour=full_colour)
        return read_video(path)[0]


def judge_cases(
    cases: Sequence[Case],
    title: str,
    proportions: Proportions = Proportions(),
    full_colour: bool | None = None,
) -> Tally:
    """Prints and counts the answers about `cases`, read back from an mp4 file where `full_colour` is given."""
    tally = Tally({}, {})
    for number, case in enumerate(tqdm(cases, desc=title, file=sys.stderr)):
        video = case.draw(proportions, smooth=number % 2 == 1)
        if full_colour is not None:
            video = through_mp4(video, full_colour)
        lightness, saturation = case.tints[0]
        single = int(case.scene.on.sum()) == 1
        for name, answer in verify(video, case.prompt, FPS).parts.items():
            tally.add("all", answer)
            tally.add(f"part: {part_kind(name)}", answer)
            tally.add(f"side: {case.side}", answer)
            if single:
                tally.add(f"colour: {COLOURS[int(case.scene.colour[0, 0])]}", answer)
                tally.add(f"shape: {SHAPES[int(case.scene.shape[0, 0])]}", answer)
                tally.add(f"tint: lightness {lightness:g}, saturation {saturation:g}", answer)
                if part_kind(name) == "motion":
                    tally.add(f"motion: {name.split(' ', 2)[-1].removeprefix('is ')}", answer)
    return tally


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=1, help="Clips of each colour, tint, shape and size.")
    parser.add_argument("--scenes", type=int, default=100, help="Clips of whole scenes of each size.")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()

    def show(title: str, tally: Tally, details: bool = False) -> None:
        if details:
            print(f"\n#### {title}\n\n| of | parts | yes |\n|---|---|---|")
            print("\n".join(sorted(tally.rows(), key=lambda row: row.split(":")[0])), flush=True)
        else:
            print(
                f"| {title} | {tally.asked['all']} | {tally.right['all'] / tally.asked['all']:.4f} |",
                flush=True,
            )

    singles = list(single_cases(given.seed, given.repeats))
    show("One object", judge_cases(singles, "one object"), details=True)
    print("\n#### Other ways\n\n| clips | parts | yes |\n|---|---|---|")
    for side in SIDES:
        scenes = list(scene_cases(given.seed + side, given.scenes, side))
        show(f"whole scenes, {side} pixels", judge_cases(scenes, f"scenes of {side}"))
    large = [case for case in singles if case.side == 128][::3]
    for full_colour, name in ((True, "4:4:4"), (False, "4:2:0")):
        show(f"one object, 128 pixels, mp4 {name}", judge_cases(large, name, full_colour=full_colour))
    small = singles[::7]
    for name, proportions in {
        "star's notches at 0.38": Proportions(star=0.38),
        "star's notches at 0.5": Proportions(star=0.5),
        "ring's hole at 0.5": Proportions(ring=0.5),
        "ring's hole at 0.7": Proportions(ring=0.7),
        "arms of the cross a third wide": Proportions(cross=1 / 3),
        "triangle as high as wide": Proportions(triangle=1.0),
    }.items():
        shape = name.split()[0].removesuffix("'s")
        shape = "cross" if shape == "arms" else shape
        chosen = [case for case in small if SHAPES[int(case.scene.shape[0, 0])] == shape]
        show(f"one object, {name}", judge_cases(chosen, name, proportions))


if __name__ == "__main__":
    main()
