"""PPO on `ocr`: the built-in model learns to write words, and PPO mends how it spells them.

Supervised fine-tuning on pictures of words, of which a share has another word's prompt, then PPO on the reward `ocr`
from there. Words are three letters in alphabetical order, as ACT or FLY: the built-in text encoder spells words that it
does not know, but does not tell where in the word a letter stands, so only such words can be written that the model
has not been shown. Both models are measured on the words that they learnt and on held-out ones, with the same noise.

    python -m benchmarks.reward.ocr_ppo --output_dir runs/ocr --sft_seconds 140 --ppo_seconds 260 --bf16

prints the figures, and writes them to `ocr_ppo.json` beside the adapters and `before_after.png`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from alignment.cli.launcher import without_gpu
from alignment.lora import LoraArguments
from alignment.trainers.ppo_config import PPOConfig
from alignment.trainers.ppo_trainer import PPOTrainer
from alignment.trainers.sft_config import SFTConfig
from alignment.trainers.sft_trainer import SFTTrainer
from benchmarks.alignment.study.arms import Budget, train
from benchmarks.alignment.study.settings import ALL_LINEAR
from generator import load_generator
from generator.base import VideoGenerator
from generator.sampling import generate_latents
from reward import load_reward
from reward.models.base import RewardModel
from reward.models.named.written_text import text_score
from reward.statistics import cluster_bootstrap, paired_difference

LETTERS = "ABCEFHLMNRTY"
SIZE = {"num_frames": 1, "height": 32, "width": 64}
INK, PAPER = (240, 240, 240), (20, 24, 40)
HELD_OUT_SEEDS = 700_000


@dataclass(frozen=True)
class Scale:
    """Sizes of the trainings and of the measurement.

    Attributes:
        words, held_out: words that are learnt, and words that are only measured.
        demonstrations: pictures of SFT.
        sft_batch, sft_learning_rate, lora_r: of SFT.
        num_prompts, num_generations: groups of a PPO rollout, and pictures of each.
        rows: denoising steps in one pass of PPO.
        measured_words, seeds: words of either kind that are measured, and pictures of each.
        batch: pictures sampled at once.
    """

    words: int
    held_out: int
    demonstrations: int
    sft_batch: int
    num_prompts: int
    num_generations: int
    rows: int
    measured_words: int
    seeds: int
    batch: int
    sft_learning_rate: float = 2e-3
    lora_r: int = 64


SCALES = {
    "gpu": Scale(180, 40, 8192, 256, 32, 16, 1024, 40, 8, 512),
    "tiny": Scale(4, 2, 8, 2, 2, 2, 4, 2, 1, 4),
}


def split_words(scale: Scale, seed: int) -> tuple[list[str], list[str]]:
    """Words to learn and held-out words: letters in alphabetical order, in an order drawn from `seed`."""
    words = ["".join(letters) for letters in itertools.combinations(LETTERS, 3)]
    random.Random(seed).shuffle(words)
    return words[: scale.words], words[scale.words : scale.words + scale.held_out]


def prompt_of(word: str) -> str:
    return f'a sign that says "{word}"'


def draw_word(word: str, left: int = 0, down: int = 0) -> Image.Image:
    """A picture of a word in large letters, moved off the centre by `left` and `down` pixels."""
    height, width = SIZE["height"], SIZE["width"]
    font = ImageFont.load_default(26)
    box = font.getbbox(word)
    picture = Image.new("RGB", (width, height), PAPER)
    place = ((width - box[0] - box[2]) / 2 - left, (height - box[1] - box[3]) / 2 + down)
    ImageDraw.Draw(picture).text(place, word, font=font, fill=INK)
    return picture


def pixels(pictures: Sequence[Image.Image]) -> Tensor:
    """Pictures as videos of one frame `[n, 3, 1, height, width]` in [-1, 1]."""
    stacked = torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures]))
    return stacked.permute(0, 3, 1, 2)[:, :, None].float() / 127.5 - 1


def demonstrations(
    generator: VideoGenerator, words: Sequence[str], count: int, wrong: float, seed: int
) -> tuple[list[Tensor], list[str]]:
    """Latents of `count` pictures of words, and their prompts; a share `wrong` has another word's prompt."""
    draw = random.Random(seed + 1)
    shown = [words[number % len(words)] for number in range(count)]
    videos = pixels([draw_word(word, draw.randint(-2, 2), draw.randint(-2, 2)) for word in shown])
    latents = [generator.encode(part.to(generator.device)).cpu() for part in videos.split(256)]
    said = [
        draw.choice([other for other in words if other != word]) if draw.random() < wrong else word
        for word in shown
    ]
    return list(torch.cat(latents)), [prompt_of(word) for word in said]


def common(arguments: argparse.Namespace, name: str) -> dict[str, Any]:
    """Arguments of both trainers' configurations."""
    return {
        "output_dir": str(arguments.output_dir / name), "seed": arguments.seed, "report_to": "none",
        "save_strategy": "no", "disable_tqdm": True, "logging_steps": 1, "lr_scheduler_type": "constant",
        "bf16": arguments.bf16, "compile_blocks": arguments.compile,
        **(without_gpu() if arguments.device == "cpu" else {}),
    }  # fmt: skip


def fine_tune(arguments: argparse.Namespace, words: Sequence[str]) -> dict[str, Any]:
    """SFT of an adapter on pictures of words."""
    scale: Scale = arguments.sizes
    generator = load_generator(arguments.model, device=arguments.device)
    latents, prompts = demonstrations(
        generator, words, scale.demonstrations, arguments.wrong_share, arguments.seed
    )
    config = SFTConfig(
        **common(arguments, "sft"), max_steps=arguments.sft_steps, logit_mean=1.0,
        per_device_train_batch_size=scale.sft_batch, learning_rate=scale.sft_learning_rate,
    )  # fmt: skip
    trainer = SFTTrainer(
        generator, config, latents, prompts, lora=lora(scale),
        callbacks=[Budget("sft", arguments.sft_seconds, time.time() + 36_000)],
    )  # fmt: skip
    seconds = train(trainer)
    trainer.save_model()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    tail = losses[-max(1, len(losses) // 20) :]
    return {"seconds": seconds, "steps": trainer.state.global_step, "last_loss": sum(tail) / len(tail)}


def lora(scale: Scale) -> LoraArguments:
    return LoraArguments(lora_r=scale.lora_r, lora_target_modules=ALL_LINEAR)


def align(arguments: argparse.Namespace, words: Sequence[str], judge: RewardModel) -> dict[str, Any]:
    """PPO on `judge` from the SFT adapter."""
    scale: Scale = arguments.sizes
    generator = load_generator(
        arguments.model, device=arguments.device, adapter=str(arguments.output_dir / "sft")
    )
    config = PPOConfig(
        **common(arguments, "ppo"), **SIZE, num_rollouts=arguments.ppo_rollouts, num_iterations=2,
        num_mini_batches=2, num_prompts=scale.num_prompts, num_generations=scale.num_generations,
        num_inference_steps=arguments.num_inference_steps, sde_window_size=4, noise_level=1.0,
        step_weight="inverse_std", learning_rate=arguments.ppo_learning_rate, guidance_scale=1.0,
        rollout_batch_size=2 * scale.batch, reward_batch_size=scale.batch, beta=0.0, monitor_kl=False,
        monitor_videos=0, probe_prompts=0, per_device_train_batch_size=scale.rows,
    )  # fmt: skip
    prompts = [prompt_of(word) for word in words]
    trainer = PPOTrainer(
        generator, config, prompts, judge, lora=lora(scale),
        callbacks=[Budget("ppo", arguments.ppo_seconds, time.time() + 36_000)],
    )  # fmt: skip
    seconds = train(trainer)
    trainer.save_model()
    rewards = [round(row["reward"], 4) for row in trainer.state.log_history if "reward" in row]
    videos = len(rewards) * config.num_prompts * config.num_generations
    return {"seconds": seconds, "rollouts": len(rewards), "videos": videos, "rewards": rewards}


@torch.no_grad()
def sampled(arguments: argparse.Namespace, adapter: str, words: Sequence[str]) -> Tensor:
    """Pictures `[n · seeds, 3, 1, height, width]` in [-1, 1] of words by a model, seeds of a word in a row."""
    scale: Scale = arguments.sizes
    generator = load_generator(
        arguments.model, device=arguments.device, adapter=str(arguments.output_dir / adapter)
    )
    prompts = [prompt_of(word) for word in words for _ in range(scale.seeds)]
    seeds = list(range(HELD_OUT_SEEDS, HELD_OUT_SEEDS + len(prompts)))
    latents = generate_latents(
        generator, prompts, **SIZE, num_inference_steps=arguments.num_inference_steps, guidance_scale=1.0,
        seed=seeds, batch_size=scale.batch,
    )  # fmt: skip
    return torch.cat([generator.decode(part.to(generator.device)).cpu() for part in latents.split(256)])


def figures(
    judge: RewardModel, videos: dict[str, Tensor], words: Sequence[str], seeds: int
) -> dict[str, Any]:
    """`ocr` before and after with intervals by word, the paired difference, and the ceiling of drawn words."""
    clusters = [word for word in words for _ in range(seeds)]
    scores = {
        name: judge.score(each, [prompt_of(word) for word in clusters])["overall"].numpy()
        for name, each in videos.items()
    }
    found: dict[str, Any] = {
        name: cluster_bootstrap(each, clusters).as_dict() | {"exact": float(np.mean(each == 1))}
        for name, each in scores.items()
    }
    return found | {"difference": paired_difference(scores["ppo"], scores["sft"], clusters).as_dict()}


def drawn_and_reconstructed(arguments: argparse.Namespace, words: Sequence[str]) -> dict[str, Tensor]:
    """Drawn words, and the same through the model's autoencoder: what no model that draws like them can exceed."""
    generator = load_generator(arguments.model, device=arguments.device)
    videos = pixels([draw_word(word) for word in words])
    return {
        "drawn": videos,
        "reconstructed": generator.decode(generator.encode(videos.to(generator.device))).cpu(),
    }


def chance(words: Sequence[str], others: Sequence[str]) -> float:
    """Mean score of a model that writes any of `others` whatever it is asked for."""
    return sum(text_score(other, word) for word in words for other in others) / (len(words) * len(others))


def contact_sheet(videos: dict[str, Tensor], words: Sequence[str], seeds: int, shown: int = 4) -> Image.Image:
    """A row a word: its prompt, `shown` pictures before PPO, and the same seeds after it."""
    shown = min(shown, seeds)
    height, width, margin = 2 * SIZE["height"], 2 * SIZE["width"], 6
    column = width + margin
    sheet = Image.new("RGB", (90 + 2 * shown * column + 30, 30 + len(words) * (height + margin)), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(18)
    for half, name in enumerate(("sft", "ppo")):
        start = 90 + half * (shown * column + 24)
        pen.text((start, 4), {"sft": "before PPO", "ppo": "after PPO"}[name], font=font, fill="black")
        for row, word in enumerate(words):
            top = 30 + row * (height + margin)
            pen.text((8, top + 20), word, font=font, fill="black")
            for place in range(shown):
                frame = (videos[name][row * seeds + place, :, 0] + 1) * 127.5
                picture = Image.fromarray(frame.round().clamp(0, 255).byte().permute(1, 2, 0).numpy())
                sheet.paste(picture.resize((width, height)), (start + place * column, top))
    return sheet


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Both trainings, measured; writes the contact sheet."""
    scale: Scale = arguments.sizes
    learnt, held_out = split_words(scale, arguments.seed)
    found: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if arguments.device != "cpu" else "cpu",
        "torch": torch.__version__,
        "settings": {
            key: value for key, value in vars(arguments).items() if key not in ("sizes", "output_dir")
        }
        | asdict(scale),
    }
    judge = load_reward("ocr")
    words = {"learnt": learnt[: scale.measured_words], "held_out": held_out[: scale.measured_words]}
    words = {name: each for name, each in words.items() if each}
    drawn = [word for each in words.values() for word in each]
    for name, pictures in drawn_and_reconstructed(arguments, drawn).items():
        judged = judge.score(pictures, [prompt_of(word) for word in drawn])["overall"]
        found[name] = float(judged.mean())
    found["any_word"] = chance(learnt[: scale.measured_words], learnt)
    found["sft"] = fine_tune(arguments, learnt)
    print(json.dumps(found["sft"]), flush=True)
    before = {name: sampled(arguments, "sft", each) for name, each in words.items()}
    found["ppo"] = align(arguments, learnt, judge)
    for name, each in words.items():
        videos = {"sft": before[name], "ppo": sampled(arguments, "ppo", each)}
        found[name] = figures(judge, videos, each, scale.seeds)
        suffix = "" if name == "learnt" else "_held_out"
        contact_sheet(videos, each[:10], scale.seeds).save(arguments.output_dir / f"before_after{suffix}.png")
    return found


def parse_arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--scale", choices=list(SCALES), help="Unset: gpu on a GPU, else tiny.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sft_seconds", type=float, default=100.0)
    parser.add_argument("--sft_steps", type=int, default=100_000, help="Most steps of SFT.")
    parser.add_argument("--ppo_seconds", type=float, default=180.0)
    parser.add_argument("--ppo_rollouts", type=int, default=10_000, help="Most rollouts of PPO.")
    parser.add_argument("--wrong_share", type=float, default=0.4, help="Pictures with another word's prompt.")
    parser.add_argument("--num_inference_steps", type=int, default=8)
    parser.add_argument("--ppo_learning_rate", type=float, default=5e-4)
    parser.add_argument("--sft_learning_rate", type=float)
    parser.add_argument("--sft_batch", type=int)
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--compile", action="store_true", help="Compile the transformer's blocks.")
    arguments = parser.parse_args(given)
    sizes = SCALES[arguments.scale or ("tiny" if arguments.device == "cpu" else "gpu")]
    changed = {
        name: getattr(arguments, name)
        for name in ("sft_learning_rate", "sft_batch")
        if getattr(arguments, name)
    }
    arguments.sizes = replace(sizes, **changed)
    return arguments


def main(given: Sequence[str] | None = None) -> None:
    arguments = parse_arguments(given)
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    torch.set_float32_matmul_precision("high")
    found = run(arguments)
    text = json.dumps(found, indent=2)
    (arguments.output_dir / "ocr_ppo.json").write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
