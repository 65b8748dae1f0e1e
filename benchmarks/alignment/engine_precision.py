"""Every engine against one process in bfloat16: losses, LoRA weights and seconds an iteration.

    python -m benchmarks.alignment.engine_precision --num_processes 2
    python -m benchmarks.alignment.engine_precision --num_processes 2 --baseline      # engines left to themselves
    python -m benchmarks.alignment.engine_precision --num_processes 2 --tiny          # also on a CPU

`sft`, `dpo` and `ppo` with `--bf16 true` as one process and under each engine, started as `--accelerate_config` starts
them, on a Wan of random weights. Nothing is downloaded and no video file is read: the worker is the command line with
random latents in the place of encoded videos. `accumulated` is one process that takes the batch in parts, which alone
changes what is rounded when: the spread that bfloat16 products have. `--baseline` gives DeepSpeed a `bf16` block and
FSDP accelerate's policy, which round weights and inputs too.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from alignment.cli.launcher import LaunchArguments, environment_without_gpu, launch_command

MODES = ("multi_gpu", "zero2", "zero3", "fsdp")
METHODS = ("sft", "dpo", "ppo")
ADAPTER = "pytorch_lora_weights.safetensors"
PROMPTS = (
    "a red circle moves left",
    "a blue square moves right",
    "the red square",
    "a circle on the dark background",
)
WARM_UP = 2
ROOT = Path(__file__).parents[3]


def brightness(videos: Tensor, prompts: list[str]) -> Tensor:
    """A reward that needs no model."""
    return videos.float().mean(dim=(1, 2, 3, 4))


# One process of a launch


def worker(arguments: argparse.Namespace) -> None:
    """The command line, once a method, in the processes that were launched for a mode."""
    from transformers import TrainerCallback, trainer

    from alignment import cli

    if arguments.baseline:
        leave_engines_to_themselves()
    replace_videos()
    times: list[float] = []

    class Stamps(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            times.append(time.perf_counter())

    trainer.DEFAULT_CALLBACKS.append(Stamps)
    for method in arguments.methods:
        times.clear()
        code = cli.main(command(method, arguments))
        if code != 0:
            raise SystemExit(code)
        if os.environ.get("RANK", "0") == "0":
            steady = times[WARM_UP - 1 :]
            seconds = (steady[-1] - steady[0]) / max(len(steady) - 1, 1)
            Path(arguments.worker, method, "seconds.json").write_text(json.dumps(seconds), encoding="utf-8")


def replace_videos() -> None:
    """Latents drawn from the number in a file's name take the place of encoded videos."""
    from alignment.stages import stage
    from generator.data import demonstrations

    def drawn(generator: Any, paths: list[Path], *size: int, **_: Any) -> list[Tensor]:
        shape = generator.latent_shape(*size[:3])
        return [torch.randn(shape, generator=torch.Generator().manual_seed(int(path.stem))) for path in paths]

    vars(stage)["encode_files"] = drawn
    vars(demonstrations)["check_video"] = lambda video: None


def leave_engines_to_themselves() -> None:
    """Arguments and trainers as transformers and accelerate have them."""
    from transformers import Trainer, TrainingArguments

    from generator.training.engines import EngineArguments, EngineTrainer

    def as_given(self: EngineArguments) -> None:
        self._autocast = False
        self.use_cpu = self.use_cpu or not torch.accelerator.is_available()
        TrainingArguments.__post_init__(self)

    own = EngineTrainer.create_accelerator_and_postprocess

    def without_policy(self: EngineTrainer) -> None:
        own(self)
        plugin = getattr(self.accelerator.state, "fsdp_plugin", None)
        if plugin is not None:
            plugin.mixed_precision_policy = None
            plugin.set_mixed_precision(self.accelerator.state.mixed_precision)

    changed: Any = EngineArguments
    changed.__post_init__ = as_given
    changed = EngineTrainer
    changed.create_accelerator_and_postprocess = without_policy
    changed.__init__ = Trainer.__init__


def command(method: str, arguments: argparse.Namespace) -> list[str]:
    """Words of `vidalign` for a method, with the whole batch over all processes."""
    data, frames = arguments.data, arguments.num_frames
    local = arguments.batch // int(os.environ.get("WORLD_SIZE", "1"))
    parts = 2 if arguments.accumulated else 1
    words = [method, "--model", str(data / "model"), "--output_dir", str(Path(arguments.worker) / method)]
    words += ["--num_frames", str(frames), "--height", str(arguments.size), "--width", str(arguments.size)]
    words += ["--bf16", str(not arguments.float32).lower(), "--seed", "3", "--logging_steps", "1"]
    words += ["--report_to", "none", "--save_strategy", "no", "--disable_tqdm", "true", "--overwrite", "true"]
    words += ["--learning_rate", "1e-3", "--adam_epsilon", "1e-3", "--lr_scheduler_type", "constant"]
    if arguments.dtype:
        words += ["--dtype", arguments.dtype]
    if method == "ppo":
        words += [
            "--prompts",
            str(data / "prompts.txt"),
            "--reward",
            "benchmarks.alignment.engine_precision:brightness",
        ]
        words += ["--num_rollouts", str(arguments.steps), "--num_prompts", str(len(PROMPTS))]
        words += ["--num_generations", "4", "--num_inference_steps", "4", "--num_mini_batches", "1"]
        return [*words, "--per_device_train_batch_size", str(3 * 4 * local // parts)]
    words += ["--max_steps", str(arguments.steps), "--per_device_train_batch_size", str(local // parts)]
    words += ["--gradient_accumulation_steps", str(parts)]
    source = {"sft": ["--dataset", str(data)], "dpo": ["--preferences", str(data / "rankings.jsonl")]}
    return [*words, *source[method]]


# What is launched


def prepare(folder: Path, arguments: argparse.Namespace) -> None:
    """A model of random weights, and data whose video files are only names."""
    from generator.loading import DEFAULTS_NAME
    from generator.testing.text_pipelines import tiny_wan

    heads, width = arguments.heads, arguments.head_dim
    transformer = {
        "num_layers": arguments.layers,
        "num_attention_heads": heads,
        "attention_head_dim": width,
        "ffn_dim": 4 * heads * width,
        "rope_max_seq_len": 128,
    }
    torch.manual_seed(0)
    pipeline = tiny_wan(transformer=transformer)
    pipeline.save_pretrained(folder / "model")
    defaults = {"num_frames": arguments.num_frames, "height": arguments.size, "width": arguments.size}
    (folder / "model" / DEFAULTS_NAME).write_text(json.dumps(defaults), encoding="utf-8")
    count = 2 * arguments.batch
    rows = [{"file_name": f"{i}.mp4", "prompt": PROMPTS[i % len(PROMPTS)]} for i in range(2 * count)]
    for row in rows:
        (folder / row["file_name"]).write_bytes(row["file_name"].encode())
    lines = [json.dumps(row) for row in rows[:count]]
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    pairs = [
        {"prompt": row["prompt"], "videos": [row["file_name"], f"{count + i}.mp4"], "ranks": [0, 1]}
        for i, row in enumerate(rows[:count])
    ]
    lines = [json.dumps(pair) for pair in pairs]
    (folder / "rankings.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "prompts.txt").write_text("\n".join(PROMPTS) + "\n", encoding="utf-8")


def run(name: str, mode: str, arguments: argparse.Namespace, folder: Path, *more: str) -> dict[str, Any]:
    """Trains all methods in one launch; losses, adapters and seconds of each."""
    processes = 1 if mode == "single" else arguments.num_processes
    launch = argparse.Namespace(**vars(LaunchArguments(accelerate_config=mode, num_processes=processes)))
    words = launch_command(launch, [], torch.cuda.device_count())
    out = folder / name
    out.mkdir()
    own = [
        word
        for name in ("num_frames", "size", "batch", "steps", "dtype")
        if (value := getattr(arguments, name))
        for word in (f"--{name}", str(value))
    ]
    own += ["--methods", *arguments.methods, "--data", str(folder), "--worker", str(out), *more]
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "VIDALIGN_LAUNCHED": "1", "HF_HUB_OFFLINE": "1"}
    if torch.cuda.device_count() == 0:
        environment |= environment_without_gpu(words) | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*words[: words.index("--module")], __file__, *own],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"{name} failed:\n{done.stdout[-3000:]}\n{done.stderr[-6000:]}")
    return {method: result(out / method) for method in arguments.methods}


def result(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    history = json.loads((folder / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
    return {
        "losses": [entry["loss"] for entry in history if "loss" in entry],
        "adapter": load_file(folder / ADAPTER),
        "seconds": json.loads((folder / "seconds.json").read_text(encoding="utf-8")),
        "engine": json.loads((folder / "training.json").read_text(encoding="utf-8"))["distributed_type"],
    }


def row(name: str, method: str, found: dict[str, Any], one: dict[str, Any]) -> dict[str, Any]:
    """A line of the table: distances from one process, of the adapter relative to the length of its B matrices."""
    pairs = zip(found["losses"], one["losses"], strict=True)
    learnt = [key for key in one["adapter"] if ".lora_B" in key]
    length = torch.stack([one["adapter"][key].float().norm() for key in learnt]).norm()
    apart = [(found["adapter"][key] - one["adapter"][key]).float() for key in one["adapter"]]
    return {
        "mode": name,
        "engine": found["engine"],
        "method": method,
        "losses": found["losses"],
        "loss_difference": max(abs(a - b) for a, b in pairs),
        "adapter_difference": float(torch.stack([part.norm() for part in apart]).norm() / length),
        "largest_weight_difference": max(float(part.abs().max()) for part in apart),
        "seconds": found["seconds"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--num_processes", type=int, default=2)
    parser.add_argument("--modes", nargs="+", default=list(MODES), choices=MODES)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--steps", type=int, default=6, help="Optimiser steps.")
    parser.add_argument("--batch", type=int, default=8, help="Examples of a step, over all processes.")
    parser.add_argument("--num_frames", type=int, default=17)
    parser.add_argument("--size", type=int, default=128, help="Height and width in pixels.")
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--heads", type=int, default=12)
    parser.add_argument("--head_dim", type=int, default=64)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="Type of the frozen weights.")
    parser.add_argument("--baseline", action="store_true", help="The engines' own ways with bf16.")
    parser.add_argument("--tiny", action="store_true", help="Tiny weights and videos, for a CPU.")
    parser.add_argument("--json", type=Path, help="Also write the figures to this file.")
    for hidden in ("accumulated", "float32"):
        parser.add_argument(f"--{hidden}", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--data", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        worker(arguments)
        return
    if arguments.tiny:
        tiny = {"steps": 3, "batch": 4, "num_frames": 9, "size": 32, "layers": 2, "heads": 2, "head_dim": 12}
        vars(arguments).update(tiny)
    print("| mode | engine | method | largest difference of the losses | of the LoRA | s an iteration |")
    print("|---|---|---|---|---|---|", flush=True)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="vidalign-precision-") as name:
        folder = Path(name)
        prepare(folder, arguments)
        one = run("single", "single", arguments, folder)
        for method in arguments.methods:
            show(rows, row("single", method, one[method], one[method]))
        own = ["--baseline"] if arguments.baseline else []
        for mode, kind, more in (
            ("accumulated", "single", ["--accumulated"]),
            ("float32", "single", ["--float32"]),
            *((mode, mode, own) for mode in arguments.modes),
        ):
            try:
                found = run(mode, kind, arguments, folder, *more)
            except RuntimeError as error:
                print(error, file=sys.stderr, flush=True)
                continue
            for method in arguments.methods:
                show(rows, row(mode, method, found[method], one[method]))
            if arguments.json:
                arguments.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    for method in arguments.methods:
        print(f"Losses of {method} as one process: {', '.join(f'{x:.5f}' for x in one[method]['losses'])}")


def show(rows: list[dict[str, Any]], found: dict[str, Any]) -> None:
    rows.append(found)
    print(
        f"| {found['mode']} | {found['engine']} | {found['method']} | {found['loss_difference']:.1e} "
        f"| {found['adapter_difference']:.1e} | {found['seconds']:.3f} |",
        flush=True,
    )


if __name__ == "__main__":
    main()
