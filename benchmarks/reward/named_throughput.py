"""Videos a second and memory of rewards by name, with random weights of the published sizes.

Weights, in the data type that each reward has by default or `dtype=`, are made on the device, so nothing is downloaded;
`random_rewards.py` names the stand-ins. Videos are float32 in [-1, 1] on the device, as the trainers hand them over;
the time has frames, resizing, tokens and the model in it. Prompts are one a group of four, and stay the same.

    python -m benchmarks.reward.named_throughput                      # an H200: two minutes
    python -m benchmarks.reward.named_throughput --tiny --device cpu  # a few thousand weights
"""

from __future__ import annotations

import argparse
import gc
import json
import time
from typing import Any

import torch
from torch import Tensor

from benchmarks.reward.random_rewards import parameters, random_reward

REWARDS = (
    "pickscore", "pickscore:dtype=bfloat16", "hpsv2", "hpsv2:dtype=bfloat16", "videoalign", "videoalign:batch_size=8",
    "hpsv3", "hpsv3:batch_size=16",
)  # fmt: skip


def wait(device: torch.device) -> float:
    """Seconds on a clock, once the device has done all that it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def measure(name: str, videos: Tensor, arguments: argparse.Namespace) -> dict[str, Any]:
    """Figures of one reward on `videos [batch, 3, frames, height, width]`, judged again and again for some seconds."""
    device = videos.device
    on_gpu = device.type == "cuda"
    held = torch.cuda.memory_allocated(device) if on_gpu else 0
    start = wait(device)
    reward = random_reward(name, device, arguments.tiny)
    reward.set_frame_rate(arguments.fps)
    made = wait(device) - start
    weights = torch.cuda.memory_allocated(device) - held if on_gpu else 0
    prompts = [f"a red circle moves, take {number // 4}" for number in range(len(videos))]
    scores = reward.score(videos, prompts)
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(device)
    judged, start = 0, wait(device)
    while judged == 0 or time.perf_counter() - start < arguments.seconds:
        videos.mul_(1)  # dimensions of one model share the pass over the same videos: these count as others
        scores = reward.score(videos, prompts)
        judged += len(videos)
    seconds = wait(device) - start
    if not all(bool(torch.isfinite(value).all()) for value in scores.values()):
        raise RuntimeError(f"{name} has scores that are not finite.")
    settings: Any = reward
    return {
        "reward": name, "parameters": parameters(reward), "frames": getattr(settings, "frames", "2 a second"),
        "batch_size": settings.batch_size, "videos": judged, "videos_a_second": round(judged / seconds, 3),
        "weights_gb": round(weights / 1e9, 2),
        "peak_gb": round((torch.cuda.max_memory_allocated(device) - held) / 1e9, 2) if on_gpu else None,
        "seconds_to_make": round(made, 1),
    }  # fmt: skip


def row(found: dict[str, Any]) -> str:
    """A line of the table."""
    peak = "–" if found["peak_gb"] is None else f"{found['peak_gb']:.1f}"
    return (
        f"| `{found['reward']}` | {found['parameters'] / 1e9:.2f} B | {found['frames']} | {found['batch_size']} "
        f"| {found['videos_a_second']:.2f} | {peak} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rewards", nargs="+", default=REWARDS)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--tiny", action="store_true", help="Tiny weights and videos, for a CPU.")
    parser.add_argument("--videos", type=int, default=8, help="Videos handed over at once.")
    parser.add_argument("--num_frames", type=int, default=81)
    parser.add_argument("--height", type=int, default=480)
    parser.add_argument("--width", type=int, default=832)
    parser.add_argument("--fps", type=float, default=16.0)
    parser.add_argument(
        "--seconds", type=float, default=6.0, help="Least seconds of judging for each reward."
    )
    parser.add_argument("--json", help="Also write the figures to this file.")
    arguments = parser.parse_args()
    if arguments.tiny:
        arguments.videos, arguments.num_frames, arguments.height, arguments.width = 2, 9, 32, 48
    device = torch.device(arguments.device)
    shape = (arguments.videos, 3, arguments.num_frames, arguments.height, arguments.width)
    videos = torch.rand(shape, device=device) * 2 - 1
    found = []
    for name in arguments.rewards:
        found.append(measure(name, videos, arguments))
        print(json.dumps(found[-1]), flush=True)
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
        if arguments.json:
            with open(arguments.json, "w", encoding="utf-8") as file:
                json.dump(found, file, indent=2)
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    print(
        f"{where}, torch {torch.__version__}, videos of {shape[2]}x{shape[3]}x{shape[4]}, {shape[0]} at once"
    )
    print("| reward | parameters | frames | batch | videos a second | peak GB |")
    print("|---|---|---|---|---|---|")
    for each in found:
        print(row(each))


if __name__ == "__main__":
    main()
