"""Loss of writing to mp4 and reading back: `python -m benchmarks.generator.video_codec`.

The table is of small coloured objects; with `--verifier` it is of clips of the built-in world instead: the share of
parts of their prompts that the verifier still sees.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import torch
from torch import Tensor

from generator.video import read_video, write_video
from generator.world.calibrate import Rates, sample_clips
from generator.world.verify import verify_batch

COLOURS = torch.tensor([[230, 20, 20], [20, 200, 40], [30, 60, 240], [250, 220, 20]]) / 127.5 - 1
CLIPS = 4


def moving_discs(side: int, num_frames: int, seed: int) -> Tensor:
    """Three soft-edged discs `[3, num_frames, side, side]` moving over grey."""
    draw = torch.Generator().manual_seed(seed)
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    video = torch.full((3, num_frames, side, side), torch.rand((), generator=draw).item() - 0.5)
    for colour in COLOURS[torch.randperm(4, generator=draw)[:3]]:
        place = (0.2 + 0.6 * torch.rand(2, generator=draw)) * side
        step = (torch.rand(2, generator=draw) - 0.5) * 0.08 * side
        radius = side * (0.08 + 0.08 * torch.rand((), generator=draw))
        for frame in range(num_frames):
            row, column = place + step * frame
            inside = (radius - torch.hypot(rows - row, columns - column) + 0.5).clamp(0, 1)
            video[:, frame] += (colour[:, None, None] - video[:, frame]) * inside
    return video


def verifier_table(clips: int) -> None:
    """Parts right, clips with full marks and mean score, before and after each colour resolution, by size."""
    print("| size | colour | parts right | clips with full marks | mean score |")
    print("|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for side in (32, 64, 96, 128, 160, 192, 256):
            prompts, videos = sample_clips(clips, 0, (9, side, side))
            for name, full_colour in (("as rendered", None), ("4:4:4", True), ("4:2:0", False)):
                shown = videos
                if full_colour is not None:
                    shown = torch.stack(
                        [kept(Path(folder) / "clip.mp4", video, full_colour) for video in videos]
                    )
                rates = Rates.of(verify_batch(shown, prompts))
                figures = f"{rates.share():.4f} | {rates.full_share:.3f} | {rates.mean_score:.4f}"
                print(f"| {side}×{side} | {name} | {figures} |", flush=True)


def kept(path: Path, video: Tensor, full_colour: bool) -> Tensor:
    """A video as it comes back from a file."""
    write_video(path, video, fps=8, full_colour=full_colour)
    return read_video(path)[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--verifier", type=int, default=0, metavar="CLIPS", help="Clips of the world a size.")
    if clips := parser.parse_args().verifier:
        verifier_table(clips)
        return
    print("| size | colour | PSNR, worst clip | bytes a frame | write, ms a frame | read, ms a frame |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        for side in (32, 64, 128, 256, 512):
            for full_colour in (True, False):
                quality, size, writing, reading, frames = [], 0, 0.0, 0.0, 0
                for seed in range(CLIPS):
                    video = moving_discs(side, 9, seed)
                    start = time.perf_counter()
                    write_video(path, video, fps=8, full_colour=full_colour)
                    written = time.perf_counter()
                    read, _ = read_video(path)
                    writing, reading = writing + written - start, reading + time.perf_counter() - written
                    size, frames = size + path.stat().st_size, frames + video.shape[1]
                    quality.append(float(10 * torch.log10(4 / (read - video).square().mean())))
                print(
                    f"| {side}×{side} | {'4:4:4' if full_colour else '4:2:0'} | {min(quality):.1f} dB "
                    f"| {size / frames:.0f} | {writing / frames * 1e3:.1f} | {reading / frames * 1e3:.1f} |"
                )


if __name__ == "__main__":
    main()
