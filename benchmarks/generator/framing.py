"""Cropping to squares against native sizes: `python -m benchmarks.generator.framing --device cuda --seconds 120`.

Two models are trained for equally long on the same scenes of wide and tall clips: one on the clips as they are, one on
their centre-cropped squares. Each then generates at native sizes and at squares. An object is whole in the frame when
it is seen and never touches the frame's edge; the table has the share of such clips with Wilson's 95 % interval, and
that of the training clips.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.generator.short_training import Clips, collect, encode, new_pipeline, train
from generator import load_generator
from generator.families.native import NativeGenerator
from generator.output import InputError
from generator.pretraining.config import PretrainConfig
from generator.pretraining.data import CaptionedScenes, ClipKind
from generator.world import parse, sample_prompts, sample_scenes

NATIVE = {ClipKind(9, *size): 0.25 for size in ((32, 48), (48, 32), (40, 72), (72, 40))}
COLOURED = 0.35
"""Least difference in [0, 1] of the largest and smallest colour of an object's pixel: grounds are grey."""
SEEN = 0.004
"""Least share of the pixels of a frame that an object covers."""


def whole_in_frame(videos: Tensor) -> Tensor:
    """True for each video `[n, 3, f, h, w]` that shows something coloured in every frame, away from the edge."""
    colour = videos.float()
    coloured = (colour.amax(1) - colour.amin(1)) / 2 > COLOURED
    seen = coloured.float().mean((2, 3)) > SEEN
    edge = coloured.clone()
    edge[:, :, 1:-1, 1:-1] = False
    return seen.all(1) & (edge.sum((2, 3)) <= 1).all(1)


def wilson(successes: int, count: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share (1927)."""
    z = 1.959964
    share = successes / count
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return centre - half, centre + half


@dataclass
class CroppedScenes:
    """Scenes of which only the centred square is seen."""

    scenes: CaptionedScenes

    @property
    def kind(self) -> ClipKind:
        """That of the square."""
        _, height, width = self.scenes.size
        return self.scenes.kind._replace(height=min(height, width), width=min(height, width))

    @property
    def input_ids(self) -> Tensor:
        """Of the captions, which do not know of the crop."""
        return self.scenes.input_ids

    def render(self, device: torch.device) -> Tensor:
        """The squares `[batch, 3, frames, side, side]`."""
        return centre_square(self.scenes.render(device))


def centre_square(videos: Tensor) -> Tensor:
    """The middle of `[..., height, width]`."""
    height, width = videos.shape[-2:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return videos[..., top : top + side, left : left + side]


def cropped(clips: Clips) -> Clips:
    """The same scenes as centred squares."""
    scenes = [CroppedScenes(one) for one in clips.scenes]
    stream = copy.copy(clips.stream)
    stream.mix = {}
    for kind, share in clips.stream.mix.items():
        side = min(kind.height, kind.width)
        square = kind._replace(height=side, width=side)
        stream.mix[square] = stream.mix.get(square, 0.0) + share
    return Clips(stream, scenes)  # type: ignore[arg-type]


def single_object_prompts(count: int) -> list[str]:
    """Held-out prompts of one object that fit into the smallest native size."""
    prompts = []
    for prompt in sample_prompts(60 * count, 1, "test"):
        meaning = parse(prompt)
        if len(meaning.objects) != 1 or meaning.objects[0].count != 1 or meaning.camera:
            continue
        try:
            sample_scenes([meaning], 0, 9, 32, 48, 8.0)
        except InputError:
            continue
        prompts.append(prompt)
        if len(prompts) == count:
            return prompts
    return prompts


def share_row(name: str, sizes: str, videos: list[Tensor]) -> dict[str, Any]:
    """Share of videos with the object whole in the frame, printed as a row."""
    whole = torch.cat([whole_in_frame(batch.cpu()) for batch in videos])
    low, high = wilson(int(whole.sum()), len(whole))
    row = {"model": name, "sizes": sizes, "share": float(whole.float().mean()), "low": low, "high": high}
    row["count"] = len(whole)
    print("| {model} | {sizes} | {share:.3f} ({low:.3f}–{high:.3f}) | {count} |".format(**row), flush=True)
    return row


def generated(
    generator: NativeGenerator, prompts: list[str], kinds: list[ClipKind], batch: int
) -> list[Tensor]:
    """Videos of the prompts, spread over the sizes."""
    parts = []
    for index, kind in enumerate(kinds):
        own = prompts[index :: len(kinds)]
        if own:
            size = {"num_frames": kind.num_frames, "height": kind.height, "width": kind.width}
            parts.append(generator.generate(own, seed=1000 * index, batch_size=batch, **size))
    return parts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seconds", type=float, default=120.0, help="Seconds of training each model.")
    parser.add_argument("--prompts", type=int, default=512)
    parser.add_argument("--tokens", type=int, default=25_000)
    parser.add_argument("--hidden_size", type=int, default=256)
    parser.add_argument("--num_layers", type=int, default=13)
    parser.add_argument("--collect_seconds", type=float, default=60.0)
    parser.add_argument("--batches", type=int, default=500, help="Batches of scenes, at most.")
    parser.add_argument("--num_workers", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=None)
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    config = PretrainConfig(
        output_dir="",
        transformer_tokens=arguments.tokens,
        hidden_size=arguments.hidden_size,
        num_layers=arguments.num_layers,
        num_workers=arguments.num_workers,
        wrong_share=0.0,
        known_frames_share=0.0,
        key_frame_share=0.0,
        tensorboard=False,
        pack=True,
        seed=arguments.seed,
    )
    nano = load_generator("nano", device=device).pipeline
    native = collect(nano.tokenizer, config, arguments.collect_seconds, 8, arguments.batches, NATIVE)
    squares = cropped(native)
    prompts = single_object_prompts(arguments.prompts)
    batch = 128 if device.type == "cuda" else 8
    rows = []
    print("| trained on | clips | object whole in the frame (95 %) | clips judged |\n|---|---|---|---|")
    for name, clips in (("native sizes", native), ("squares", squares)):
        rows.append(share_row("training clips", name, [one.render(device) for one in clips.scenes[:8]]))
    for name, clips in (("native sizes", native), ("squares", squares)):
        pipeline = new_pipeline(config, nano.vae, device)
        train(
            pipeline, config, encode(clips, pipeline, config, device), clips.stream, device, arguments.seconds
        )
        generator = NativeGenerator(pipeline, name)
        for sizes, kinds in (("native sizes", native.stream.mix), ("squares", squares.stream.mix)):
            rows.append(share_row(name, sizes, generated(generator, prompts, list(kinds), batch)))
        if arguments.output:
            arguments.output.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
