"""Videos a second of `vidalign generate` as one process and shared by several GPUs.

    python -m benchmarks.generator.generate_scaling --num_processes 2 --json runs/generate_scaling.json

The model has the layers of Wan2.1-1.3B and random weights. The same command runs alone and with
`--accelerate_config multi_gpu`; its files are compared byte for byte. `--tiny` tries it out on a CPU.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.alignment.random_wan import build_generator
from generator.output import write_json
from generator.provenance import file_hash


def save_model(architecture: str, folder: Path) -> None:
    """Writes a model of random weights, made on the GPU where there is one, whose memory is free afterwards."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    build_generator(architecture, device, torch.bfloat16).pipeline.save_pretrained(folder)
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def generate(model: Path, prompts: Path, folder: Path, words: Sequence[str]) -> dict[str, Any]:
    """Seconds of the whole command, and videos a second between its first and its last finished batch."""
    command = [sys.executable, "-m", "alignment.cli", "generate", "--model", str(model)]
    command += ["--prompts", str(prompts), "--output_dir", str(folder), *words]
    began = time.monotonic()
    done = subprocess.run(
        command, env={**os.environ, "HF_HUB_OFFLINE": "1"}, capture_output=True, text=True, check=False
    )
    seconds = time.monotonic() - began
    if done.returncode != 0:
        raise RuntimeError(f"generate failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    times = sorted(path.stat().st_mtime for path in folder.rglob("*.mp4"))
    return {"seconds": seconds, "videos": len(times), "times": [each - times[0] for each in times]}


def rate(found: dict[str, Any], batch: int) -> float:
    """Videos a second from the end of the first batches (`batch` videos) to that of the last."""
    times = found["times"]
    return (len(times) - batch) / max(times[-1] - times[batch - 1], 1e-9)


def hashes(folder: Path) -> dict[str, str]:
    """Hash of every video by its path in the folder."""
    return {str(path.relative_to(folder)): file_hash(path) for path in sorted(folder.rglob("*.mp4"))}


def main(given: Sequence[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--num_processes", type=int, default=2)
    parser.add_argument("--videos", type=int, default=64)
    parser.add_argument("--batch_size", type=int, default=4)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--json", help="Also write the figures to this file.")
    arguments = parser.parse_args(given)
    size = ("5", "16", "16", "2") if arguments.tiny else ("33", "240", "416", "10")
    flags = ("--num_frames", "--height", "--width", "--num_inference_steps")
    words = [word for pair in zip(flags, size) for word in pair]
    words += ["--guidance_scale", "5", "--batch_size", str(arguments.batch_size)]
    if torch.cuda.is_available():
        words += ["--dtype", "bfloat16"]
    shared = ["--accelerate_config", "multi_gpu", "--num_processes", str(arguments.num_processes)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        architecture = "tiny" if arguments.tiny else "1.3B"
        save_model(architecture, folder / "model")
        prompts = folder / "prompts.txt"
        prompts.write_text("".join(f"a red circle moves left, number {i}\n" for i in range(arguments.videos)))
        alone = generate(folder / "model", prompts, folder / "alone", words)
        print(
            f"one process: {alone['seconds']:.1f} s in all, {rate(alone, arguments.batch_size):.3f} videos a second",
            flush=True,
        )
        together = generate(folder / "model", prompts, folder / "together", [*words, *shared])
        same = hashes(folder / "alone") == hashes(folder / "together")
    batch = arguments.batch_size
    found = {
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "torch": torch.__version__,
        "processes": arguments.num_processes,
        "videos": alone["videos"],
        "same_files": same,
        "command_seconds": [alone["seconds"], together["seconds"]],
        "command_speed_up": alone["seconds"] / together["seconds"],
        "videos_a_second": [rate(alone, batch), rate(together, batch * arguments.num_processes)],
    }
    found["speed_up"] = found["videos_a_second"][1] / found["videos_a_second"][0]
    print(json.dumps(found, indent=2))
    if arguments.json:
        write_json(Path(arguments.json), found)
    return found


if __name__ == "__main__":
    main()
