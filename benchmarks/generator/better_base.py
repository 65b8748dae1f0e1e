"""Further pretraining of the built-in generator, and the figures that say whether it pays.

    python -m benchmarks.generator.better_base compare --output_dir D --seconds 36  # recipes, at equal seconds
    python -m benchmarks.generator.better_base train --output_dir D --total 430 --slice 290  # the best, in slices
    torchrun --nproc_per_node 2 -m benchmarks.generator.better_base train --output_dir D --total 430  # on two GPUs
    python -m benchmarks.generator.better_base measure --output_dir D --models nano D/model
    python -m benchmarks.generator.better_base ceiling --output_dir D --model D/model --seconds 60

`compare` trains every recipe on the same encoded clips, from the weights of `nano`, with its learning rate brought to
zero, and writes the best to `D/choice.json`. `train` goes on from the weights of `nano` by that recipe; 40 % of the
captions stay wrong. `measure` gives every model the same prompts and noise. `ceiling` trains on with right captions.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from benchmarks.generator.short_training import collect, encode, held_out, held_out_loss, new_pipeline, train
from generator import load_generator
from generator.base import VideoGenerator
from generator.families.native import NativeGenerator
from generator.native.building import save_pipeline
from generator.output import write_json
from generator.pretraining.config import PretrainConfig
from generator.pretraining.data import FPS
from generator.pretraining.phase import STATE, Phase
from generator.pretraining.pretrain import SliceDone, pretrain
from generator.pretraining.processes import is_first
from generator.pretraining.starting_weights import start_from
from generator.world import categories, sample_prompts, verify_batch
from generator.world.constancy import keep_shapes

RECIPES: dict[str, dict[str, Any]] = {
    "adamw": {},
    "layout": {"several_weight": 1.5, "logit_mean": 0.4},
    "muon": {"optimizer": "muon"},
    "muon, layout": {"optimizer": "muon", "several_weight": 1.5, "logit_mean": 0.4},
}
SIZE = {"num_frames": 9, "height": 32, "width": 32}
STEPS = 8
SWEEP = (1.0, 2.0, 3.0, 5.0)
COOLDOWN = 0.5


def configuration(output_dir: Path, tiny: bool, **changes: Any) -> PretrainConfig:
    """The recipe's arguments of `vidalign pretrain`; `tiny` is for a CPU."""
    on_gpu = torch.cuda.is_available()
    size = (
        {"transformer_tokens": 1500, "num_workers": 0}
        if tiny
        else {"transformer_tokens": 32_768, "num_workers": 14}
    )
    settings: dict[str, Any] = {
        "autoencoder_from": "nano", "weights_from": "nano", "pack": True, "compile_blocks": on_gpu,
        "cooldown_share": COOLDOWN, "ema_decay": 0.9995, "pool_gigabytes": 1 if tiny else 20,
        "scene_reuse": 16, "tensorboard": False, "evaluation_prompts": 2 if tiny else 128,
    }  # fmt: skip
    return PretrainConfig(str(output_dir), **settings | size | changes)


@torch.no_grad()
def measure(
    generator: VideoGenerator, prompts: Sequence[str], guidance: float, batch: int = 512
) -> dict[str, Any]:
    """Gold score of every prompt's video, the mean of each category, and whether all objects keep their shape."""
    if generator.device.type == "cpu":
        batch = 16
    videos = generator.generate(
        list(prompts), **SIZE, num_inference_steps=STEPS, guidance_scale=guidance, seed=0, batch_size=batch
    )  # fmt: skip
    scores: list[float] = []
    kept: list[bool] = []
    for start in range(0, len(prompts), batch):
        part = videos[start : start + batch].to(generator.device)
        scores += [one.score for one in verify_batch(part, prompts[start : start + batch], fps=FPS)]
        kept += keep_shapes(part, FPS).tolist()
    groups: dict[str, list[float]] = defaultdict(list)
    for prompt, score in zip(prompts, scores, strict=True):
        for category in categories(prompt):
            groups[category].append(score)
    return {
        "gold": mean(scores),
        "keeps_shape": mean(kept),
        "categories": {name: round(mean(values), 4) for name, values in sorted(groups.items())},
        "scores": [round(score, 4) for score in scores],
        "kept": [int(one) for one in kept],
    }


def say(name: str, guidance: float, found: dict[str, Any]) -> None:
    """Prints one row of figures."""
    parts = ", ".join(f"{key} {value:.3f}" for key, value in found["categories"].items())
    print(
        f"| {name} | {guidance:g} | {found['gold']:.4f} | {found['keeps_shape']:.3f} | {parts} |", flush=True
    )


def compare(arguments: argparse.Namespace) -> None:
    """Trains every recipe for equally many seconds on the same clips, and remembers the best."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    prompts = sample_prompts(arguments.prompts, 31, "test")
    vae = load_generator("nano", device=device).pipeline.vae.requires_grad_(False)
    rows: dict[str, Any] = {}
    pools: dict[float, Any] = {}
    for name in arguments.recipes:
        changes = RECIPES[name]
        config = configuration(arguments.output_dir, arguments.tiny, **changes)
        pipeline = new_pipeline(config, vae, torch.device("cpu"))
        start_from(pipeline, "nano")
        pipeline.to(device)
        weight = config.several_weight
        if weight not in pools:
            clips = collect(pipeline.tokenizer, config, arguments.collect, most=arguments.batches)
            pools[weight] = clips, encode(clips, pipeline, config, device)
        clips, pool = pools[weight]
        plain = copy.copy(clips)
        plain.stream = copy.copy(clips.stream)
        plain.stream.several, plain.stream.wrong_share = 1.0, 0.0
        tests = held_out(plain, 2 if arguments.tiny else 24)
        before = held_out_loss(pipeline, tests, config, device)
        run = train(pipeline, config, pool, clips.stream, device, arguments.seconds)
        after = held_out_loss(pipeline, tests, config, device)
        generator = NativeGenerator(pipeline, name)
        gold = {f"{scale:g}": measure(generator, prompts, scale) for scale in (1.0, 3.0)}
        for scale, found in gold.items():
            say(name, float(scale), found)
        rows[name] = {
            "settings": changes, "steps": run.phase.step, "tokens_per_second": run.late_tokens_per_second,
            "held_out_loss": [before, after], "gold": gold, "history": run.phase.history,
        }  # fmt: skip
        print(f"{name}: {run.phase.step} steps, {run.late_tokens_per_second:,.0f} tokens/s, held-out loss "
              f"{before:.5f} -> {after:.5f}", flush=True)  # fmt: skip
        write_json(arguments.output_dir / "compare.json", rows)
    best = max(rows, key=lambda name: sum(found["gold"] for found in rows[name]["gold"].values()))
    write_json(arguments.output_dir / "choice.json", {"recipe": best, "settings": rows[best]["settings"]})
    print(f"best: {best}", flush=True)


def chosen(output_dir: Path, recipe: str | None = None) -> dict[str, Any]:
    """Settings of `recipe`, or of the one that `compare` found best, or of AdamW's where that was not run."""
    if recipe is not None:
        return RECIPES[recipe]
    path = output_dir / "choice.json"
    return json.loads(path.read_text(encoding="utf-8"))["settings"] if path.is_file() else {}


def go_on(arguments: argparse.Namespace) -> None:
    """Trains a slice of the chosen recipe; the same call continues, and the last one writes the pipeline."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    folder = arguments.output_dir / "model"
    config = configuration(
        folder, arguments.tiny, transformer_seconds=arguments.total, slice_seconds=arguments.slice,
        weights_from=arguments.weights_from, **chosen(arguments.output_dir, arguments.recipe),
    )  # fmt: skip
    if arguments.evaluation_prompts:
        config = replace(config, evaluation_prompts=arguments.evaluation_prompts)
    try:
        print(f"finished: {pretrain(config, device)}", flush=True)
    except SliceDone as done:
        print(done, flush=True)
        if is_first():
            export(config, arguments.output_dir / "slice")


def export(config: PretrainConfig, folder: Path) -> None:
    """Writes the averaged weights of an unfinished run as a pipeline, from which another run may start."""
    vae = load_generator("nano", device="cpu").pipeline.vae
    pipeline = new_pipeline(config, vae, torch.device("cpu"))
    modules = {"transformer": pipeline.transformer, "text_encoder": pipeline.text_encoder}
    phase = Phase("transformer", modules, config, 1.0, 1.0, Path(config.output_dir) / STATE)
    phase.resume()
    phase.weights.finish(phase.average.average)
    save_pipeline(pipeline, folder)


def sweep(arguments: argparse.Namespace) -> None:
    """Gold and kept shapes of every model at every guidance scale, with the same prompts and noise."""
    prompts = sample_prompts(arguments.prompts, 0, "test")
    rows: dict[str, Any] = {}
    for name in arguments.models:
        model, _, adapter = name.partition("+")
        generator = load_generator(model, adapter=adapter or None)
        for scale in arguments.guidance:
            rows.setdefault(name, {})[f"{scale:g}"] = found = measure(generator, prompts, scale)
            say(name, scale, found)
    write_json(arguments.output_dir / arguments.name, rows)


def ceiling(arguments: argparse.Namespace) -> None:
    """Trains all weights of a model on with right captions, and measures it at guidance 1 and 3."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    config = configuration(
        arguments.output_dir / "clean", arguments.tiny, weights_from=str(arguments.model), wrong_share=0.0,
        transformer_seconds=arguments.seconds, overwrite=True, evaluation_prompts=2,
        **chosen(arguments.output_dir, arguments.recipe),
    )  # fmt: skip
    started = time.monotonic()
    pretrain(replace(config, learning_rate=5e-4), device)
    print(
        f"ceiling: {asdict(config)['transformer_seconds']:.0f} s, {time.monotonic() - started:.0f} s in all"
    )
    arguments.models, arguments.guidance, arguments.name = (
        [config.output_dir],
        [1.0, 3.0, 5.0],
        "ceiling.json",
    )
    sweep(arguments)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("part", choices=("compare", "train", "measure", "ceiling"))
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--recipes", nargs="+", default=list(RECIPES), choices=RECIPES)
    parser.add_argument("--seconds", type=float, default=36.0, help="Of each recipe, or of the ceiling.")
    parser.add_argument("--collect", type=float, default=12.0, help="Seconds of sampling scenes for compare.")
    parser.add_argument("--batches", type=int, default=400, help="Most batches of scenes for compare.")
    parser.add_argument("--recipe", choices=RECIPES, help="Of train; the one that compare chose by default.")
    parser.add_argument("--evaluation_prompts", type=int, help="Of the model card that train writes.")
    parser.add_argument("--total", type=float, default=430.0, help="Seconds of the whole training.")
    parser.add_argument("--slice", type=float, help="Seconds of this call; all that is left by default.")
    parser.add_argument("--weights_from", default="nano", help="Pipeline that train starts from.")
    parser.add_argument("--model", type=Path, help="Pipeline of the ceiling.")
    parser.add_argument(
        "--models", nargs="+", default=["nano"], help="To measure; MODEL+ADAPTER for an adapter."
    )
    parser.add_argument("--guidance", type=float, nargs="+", default=list(SWEEP))
    parser.add_argument("--prompts", type=int, default=512)
    parser.add_argument("--name", default="measures.json")
    parser.add_argument("--tiny", action="store_true", help="Small enough to try it out on a CPU.")
    arguments = parser.parse_args()
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    {"compare": compare, "train": go_on, "measure": sweep, "ceiling": ceiling}[arguments.part](arguments)


if __name__ == "__main__":
    main()
