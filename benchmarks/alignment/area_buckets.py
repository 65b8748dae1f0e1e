"""Buckets of mixed footage: sizes of one area against each clip's own size.

    python -m benchmarks.alignment.area_buckets

Cuts clips of mixed sizes and lengths out of the camera footage that gradio's wheel holds (or out of `--footage`), and
prints for both ways how many buckets they make, how full batches are, and where the network's work goes.
"""

from __future__ import annotations

import argparse
import json
import math
import random
from collections import Counter
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from alignment.data.clips import ClipChooser
from alignment.data.latent_dataset import BucketBatchSampler
from alignment.stages.sft import SFTArguments
from alignment.trainers.table import bucket_rows, format_buckets
from generator.base import VideoGenerator
from generator.data.latent_cache import Clip
from generator.hardware.compute import block_work, count_tokens
from generator.loading import load_generator
from generator.testing.pipelines import save_tiny_pipeline
from generator.video import read_clip, video_shape, write_video

FPS = 16
BLOCK_WEIGHTS, WIDTH = 46_399_488, 1536
"""Of a block of Wan 2.1 1.3B, by which work is counted: attention over 1,536 channels, feed-forward over 8,960."""


def own_footage() -> Path:
    """The folder of camera clips in gradio's wheel."""
    specification = find_spec("gradio")
    assert specification is not None
    assert specification.origin is not None
    return Path(specification.origin).parent / "media_assets" / "videos"


def cut(sources: Sequence[Path], folder: Path, count: int, largest: int, seed: int) -> list[Path]:
    """Clips of 0.3 to 3 seconds, of ratios from 9:16 to 16:9, and of half to all of `largest` pixels on the longer
    side."""
    draw, paths = random.Random(seed), []
    for index in range(count):
        source = sources[index % len(sources)]
        ratio = draw.choice([9 / 16, 3 / 4, 1, 4 / 3, 16 / 9]) * draw.uniform(0.95, 1.05)
        longer = draw.uniform(0.5, 1) * largest
        width, height = (longer, longer / ratio) if ratio > 1 else (longer * ratio, longer)
        frames = draw.randint(5, 3 * FPS)
        shape = video_shape(source)
        start = draw.uniform(0, max(0.0, shape.num_frames / shape.fps - frames / FPS))
        clip = read_clip(source, frames, 2 * round(height / 2), 2 * round(width / 2), FPS, start)
        paths.append(folder / f"{index:02d}.mp4")
        write_video(paths[-1], clip, FPS)
    return paths


def measured(generator: VideoGenerator, clips: Sequence[Clip], batch_size: int, fill: bool) -> dict[str, Any]:
    """Figures of one way to train on clips.

    Args:
        fill: whether short batches are filled up with copies, as they were before.
    """
    shapes = [(1, *generator.latent_shape(*clip.size)) for clip in clips]
    sizes = Counter(shapes)
    work = {shape: block_work(count_tokens(generator, shape[1:]), BLOCK_WEIGHTS, WIDTH) for shape in sizes}
    useful = sum(work[shape] for shape in shapes)
    batches = list(BucketBatchSampler(shapes, batch_size, seed=0))
    computed = [len(batch) if fill else sum(type(index) is int for index in batch) for batch in batches]
    total = sum(number * work[shapes[batch[0]]] for number, batch in zip(computed, batches, strict=True))
    steps = [number * work[shapes[batch[0]]] for number, batch in zip(computed, batches, strict=True)]
    largest = sorted((work[shape] for shape in shapes), reverse=True)[: math.ceil(len(shapes) / 10)]
    return {
        "clips": len(clips),
        "buckets": len(sizes),
        "buckets of one clip": sum(number == 1 for number in sizes.values()),
        "batches": len(batches),
        "clips a batch": round(len(clips) / len(batches), 2),
        "share of compute on clips": round(useful / total, 3),
        "share of compute on copies": round(1 - useful / total, 3),
        "share of compute on the largest tenth": round(sum(largest) / useful, 3),
        "largest step by mean step": round(max(steps) * len(steps) / sum(steps), 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--footage", type=Path, help="Folder of videos to cut from; that of gradio by default."
    )
    parser.add_argument("--count", type=int, default=60)
    parser.add_argument("--largest", type=int, default=416, help="Longer side of the largest clips.")
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--area", default="256x384")
    parser.add_argument("--frame_buckets", type=int, nargs="+", default=[5, 17, 33])
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    footage = asked.footage or own_footage()
    sources = sorted(path for path in footage.iterdir() if path.suffix == ".mp4")
    with TemporaryDirectory() as folder:
        # Its sizes and tokens are those of Wan; its weights do not matter here.
        generator = load_generator(save_tiny_pipeline("wan", Path(folder) / "model"))
        paths = cut(sources, Path(folder), asked.count, asked.largest, asked.seed)
        groups = [[path] for path in paths]
        own = ClipChooser(generator, SFTArguments(), native_size=True).choose(groups)
        area = SFTArguments(area=asked.area, frame_buckets=asked.frame_buckets)
        chosen = ClipChooser(generator, area).choose(groups)
    before, after = ([clip for clips in found.clips for clip in clips] for found in (own, chosen))
    figures = {
        "own sizes, filled batches": measured(generator, before, asked.batch_size, fill=True),
        f"area {asked.area}, frames {asked.frame_buckets}": measured(
            generator, after, asked.batch_size, fill=False
        ),
    }
    print(json.dumps(figures, indent=2))
    print(*chosen.remarks(), sep="\n")
    buckets = [(1, *generator.latent_shape(*clip.size)) for clip in after]
    print(format_buckets(bucket_rows(generator, buckets, asked.batch_size), "clips"))


if __name__ == "__main__":
    main()
