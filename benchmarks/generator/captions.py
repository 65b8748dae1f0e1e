"""Captions made true: `python -m benchmarks.generator.captions` prints Markdown tables.

Clips of the built-in world get three sets of captions: web-like ones, of which a share is wrong; those that the
captioner `world` writes from the pixels of the mp4 files; and true ones. The claims of each are held against the scene
that was rendered, not against the verifier. With `--steps`, `nano` is fine-tuned on each set for as many steps, from
the same clips and seed, and the gold scores of its videos are compared on held-out prompts, in pairs.
"""

from __future__ import annotations

import argparse
import math
import random
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import fields
from itertools import permutations
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from alignment.cli.launcher import without_gpu
from generator.data.demonstrations import METADATA, folder_rows, write_demonstrations
from generator.output import write_jsonl
from generator.world import Meaning, ObjectMeaning, corrupt, describe, parse, sample_prompts, training_batch
from generator.world.meaning import BACKGROUNDS, CAMERAS, DIRECTIONS, RADII, RELATIONS, SIZES
from generator.world.render import render_scenes
from generator.world.scene import SceneBatch
from generator.world.shapes import COLOURS, SHAPES
from reward.captioning.captioners import WorldCaptioner
from reward.captioning.folder import caption_folder

FRAMES, SIDE, FPS = 17, 48, 8
CLAIMS = tuple(field.name for field in fields(ObjectMeaning) if field.name != "count")
_QUICK = 0.15
"""Shorter sides a second between a slow and a quick motion; the world draws nothing between .11 and .20 where a speed
is said."""


def true_object(scenes: SceneBatch, row: int, slot: int) -> ObjectMeaning:
    """Every claim about an object, from the numbers that it was drawn with."""

    def value(name: str) -> float:
        return float(getattr(scenes, name)[row, slot])

    velocity = value("vx"), value("vy")
    speed = math.hypot(*velocity)
    if value("growth"):
        motion = "growing" if value("growth") > 0 else "shrinking"
    elif value("spin"):
        motion = "spinning"
    elif value("orbit_radius"):
        motion = "circling"
    elif value("bounce_height"):
        motion = "bouncing"
    elif speed:
        motion = max(
            DIRECTIONS,
            key=lambda name: (
                sum(a * b for a, b in zip(velocity, DIRECTIONS[name])) / math.hypot(*DIRECTIONS[name])
            ),
        )
    else:
        motion = "still"
    return ObjectMeaning(
        shape=SHAPES[int(value("shape"))],
        colour=COLOURS[int(value("colour"))],
        size=min(SIZES, key=lambda name: abs(math.log(value("radius") / RADII[name]))),
        motion=motion,
        speed=("quickly" if speed > _QUICK else "slowly") if motion in DIRECTIONS else None,
    )


def true_claims(scenes: SceneBatch, row: int) -> tuple[list[ObjectMeaning], dict[str, Any], list[int]]:
    """Objects, claims about the world, and the slots of the objects, of a scene."""
    slots = [int(slot) for slot in scenes.on[row].nonzero()[:, 0]]
    pan, zoom = float(scenes.pan[row]), float(scenes.zoom[row])
    camera = None
    if pan or zoom:
        moves = (pan < 0, pan > 0, zoom > 0, zoom < 0)
        camera = CAMERAS[moves.index(True)]
    grey = float(scenes.background[row])
    ground = min(BACKGROUNDS, key=lambda name: abs(sum(BACKGROUNDS[name]) / 2 - grey))
    return [true_object(scenes, row, slot) for slot in slots], {"background": ground, "camera": camera}, slots


def claims_right(caption: Meaning, scenes: SceneBatch, row: int) -> Counter[tuple[str, bool]]:
    """Claims of a caption by kind and whether the scene bears them out, objects assigned in the best way."""
    objects, world, slots = true_claims(scenes, row)
    best: Counter[tuple[str, bool]] | None = None
    count = len(caption.objects) if len(caption.objects) == 2 else caption.objects[0].count
    for order in permutations(range(len(objects)), min(count, len(objects))):
        tally: Counter[tuple[str, bool]] = Counter()
        for place in range(len(caption.objects)):
            said = caption.objects[place]
            shown = [objects[each] for each in (order if said.count > 1 else order[place : place + 1])]
            for claim in CLAIMS:
                value = getattr(said, claim)
                if value is not None:
                    right = bool(shown) and all(getattr(each, claim) == value for each in shown)
                    tally[claim, right] += 1
        if caption.relation is not None:
            tally["relation", _related(caption.relation, scenes, row, [slots[each] for each in order])] += 1
        if best is None or _right(tally) > _right(best):
            best = tally
    assert best is not None
    best["count", count == len(objects)] += 1
    for claim in ("background", "camera"):
        value = getattr(caption, claim)
        if value is not None:
            best[claim, world[claim] == value] += 1
    return best


def _right(tally: Counter[tuple[str, bool]]) -> int:
    return sum(number for (_, right), number in tally.items() if right)


def _related(relation: str, scenes: SceneBatch, row: int, slots: Sequence[int]) -> bool:
    """Returns whether the middle of the first object lies so that the second is on its other side."""
    if len(slots) < 2:
        return False
    first, second = slots
    across = float(scenes.x[row, second] - scenes.x[row, first])
    down = float(scenes.y[row, second] - scenes.y[row, first])
    towards = {"left of": across, "right of": -across, "above": down, "below": -down}
    assert relation in RELATIONS
    return towards[relation] > 0


def write_clips(folder: Path, count: int, seed: int, wrong_share: float) -> tuple[SceneBatch, list[str]]:
    """Writes clips with web-like captions; gives back their scenes and their true captions."""
    prompts, scenes, _ = training_batch(count, seed, "train", FRAMES, SIDE, SIDE, FPS)
    rng = random.Random(seed)
    web = [
        describe(corrupt(parse(prompt), rng), rng) if rng.random() < wrong_share else prompt
        for prompt in prompts
    ]
    clips = (
        clip
        for start in range(0, len(prompts), 64)
        for clip in render_scenes(
            scenes.index(slice(start, min(start + 64, len(prompts)))), FRAMES, SIDE, SIDE, FPS
        )
    )
    write_demonstrations(folder, clips, web, FPS)
    return scenes, prompts


def caption_sets(folder: Path, true: Sequence[str]) -> dict[str, list[str]]:
    """The three sets of captions of a folder, in the order of its clips; it is captioned by `world`."""
    web = [str(row["prompt"]) for row in folder_rows(folder)]
    done = caption_folder(folder, WorldCaptioner())
    if done.failures:
        print(f"{len(done.failures)} clips got no caption and keep that of the web.")
    return {
        "web": web,
        "world": [str(row["prompt"]) for row in folder_rows(folder)],
        "true": list(true),
    }


def accuracy_rows(sets: dict[str, list[str]], scenes: SceneBatch) -> Iterator[str]:
    """Rows of the table of claims."""
    kinds = ("shape", "colour", "size", "motion", "speed", "count", "relation", "background", "camera")
    yield (
        "| captions | claims a caption | right | captions without a wrong claim | " + " | ".join(kinds) + " |"
    )
    yield "|---" * (len(kinds) + 4) + "|"
    for name, captions in sets.items():
        tallies = [claims_right(parse(caption), scenes, row) for row, caption in enumerate(captions)]
        total = sum(tallies, Counter())
        whole = sum(not any(number for (_, right), number in each.items() if not right) for each in tallies)
        shares = [_share(total[kind, True], total[kind, False]) for kind in kinds]
        yield (
            f"| {name} | {total.total() / len(captions):.2f} | {_right(total) / total.total():.4f} | "
            f"{whole / len(captions):.3f} | " + " | ".join(shares) + " |"
        )


def _share(right: int, wrong: int) -> str:
    return f"{right / (right + wrong):.3f}" if right + wrong else "–"


def train(folder: Path, captions: Sequence[str], clips: Path, given: argparse.Namespace) -> Path:
    """Fine-tunes `nano` on the clips with these captions; gives back the adapter."""
    from alignment.lora import LoraArguments
    from alignment.stages.sft import SFTArguments, train_sft
    from alignment.trainers.sft_config import SFTConfig

    data, output = folder / "data", folder / "adapter"
    data.mkdir(parents=True)
    rows = folder_rows(clips)
    for row in rows:
        (data / row["file_name"]).symlink_to(clips / row["file_name"])
    lines = [
        {"file_name": row["file_name"], "prompt": said} for row, said in zip(rows, captions, strict=True)
    ]
    write_jsonl(data / METADATA, lines)
    on_gpu = torch.cuda.is_available()
    config = SFTConfig(
        output_dir=str(output),
        max_steps=given.steps,
        per_device_train_batch_size=given.batch_size,
        learning_rate=given.learning_rate,
        lr_scheduler_type="cosine",
        caption_dropout=0.1,
        bf16=on_gpu,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        seed=given.seed,
        **without_gpu(),
    )
    size = {"num_frames": FRAMES, "height": SIDE, "width": SIDE}
    train_sft("nano", SFTArguments(dataset=str(data), **size), args=config, lora=LoraArguments(lora_r=32))
    return output


def gold(adapter: Path | None, prompts: Sequence[str], seed: int) -> Tensor:
    """Gold score `[prompts]` of a video of each prompt, from the same noise for all adapters."""
    from generator import load_generator
    from generator.world import verify_batch

    model = load_generator("nano", adapter=None if adapter is None else str(adapter))
    seeds = [seed + place for place in range(len(prompts))]
    videos = model.generate(
        list(prompts), seed=seeds, num_frames=FRAMES, height=SIDE, width=SIDE, batch_size=64
    )
    parts = zip(
        videos.split(64), (prompts[start : start + 64] for start in range(0, len(prompts), 64)), strict=True
    )
    return torch.tensor(
        [one.score for part, said in parts for one in verify_batch(part.to(model.device), said, FPS)]
    )


def training_rows(
    sets: dict[str, list[str]], clips: Path, folder: Path, given: argparse.Namespace
) -> Iterator[str]:
    """Rows of the table of gold scores, the differences to the web's captions paired by prompt."""
    prompts = sample_prompts(given.prompts, seed=given.seed, split="test")
    yield "| trained on captions | seconds | gold | minus web, paired | gap closed |"
    yield "|---|---|---|---|---|"
    yield f"| none (`nano`) | 0 | {float(gold(None, prompts, given.seed).mean()):.4f} | | |"
    scores, seconds = {}, {}
    for name, captions in sets.items():
        begun = time.monotonic()
        adapter = train(folder / name, captions, clips, given)
        seconds[name] = time.monotonic() - begun
        scores[name] = gold(adapter, prompts, given.seed)
    gaps = scores["true"] - scores["web"]
    gap = float(gaps.mean())
    clear = gap > 1.96 * float(gaps.std()) / len(gaps) ** 0.5  # else a share of it means nothing
    for name, values in scores.items():
        gain = values - scores["web"]
        error = float(gain.std() / len(gain) ** 0.5)
        closed = f"{float(gain.mean()) / gap:.0%}" if clear and name == "world" else ""
        paired = "" if name == "web" else f"{float(gain.mean()):+.4f} ± {1.96 * error:.4f}"
        yield f"| {name} | {seconds[name]:.0f} | {float(values.mean()):.4f} | {paired} | {closed} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000, help="Clips.")
    parser.add_argument("--wrong_share", type=float, default=0.4, help="Share of wrong captions.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=0, help="Steps of each training; 0 trains nothing.")
    parser.add_argument("--batch_size", type=int, default=64, help="Clips a step.")
    parser.add_argument("--learning_rate", type=float, default=1e-3)
    parser.add_argument("--prompts", type=int, default=512, help="Held-out prompts for the gold scores.")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "clips"
        scenes, true = write_clips(folder, given.count, given.seed, given.wrong_share)
        sets = caption_sets(folder, true)
        print("\n".join(accuracy_rows(sets, scenes)), flush=True)
        if given.steps:
            print()
            for row in training_rows(sets, folder, Path(temporary), given):
                print(row, flush=True)


if __name__ == "__main__":
    main()
