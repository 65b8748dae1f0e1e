"""Verifier's scores of videos made from images and videos: `python -m benchmarks.generator.video_prompts`.

Source clips are rendered from held-out prompts with a motion. For every task: the gold score of the whole video
with the prompt, the share of videos whose object keeps its shape and colour, and whether the motion goes on; for
interpolation also PSNR of the new frames against the rendered ones and against linear blending.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from generator import load_generator
from generator.base import VideoGenerator
from generator.editing import flow_edit as editing
from generator.editing import video_prompts
from generator.editing.video_prompts import Sampling
from generator.output import InputError
from generator.video import contact_sheet
from generator.world import parse, render_scenes, sample_prompts, sample_scenes, verify_batch

FPS = 8.0
FRAMES = 17
COLOURS = ("red", "blue", "green", "yellow")


def sources(count: int, seed: int) -> tuple[list[str], Tensor]:
    """Prompts of one moving object that fit into `FRAMES` frames, and their clips."""
    prompts: list[str] = []
    for prompt in sample_prompts(50 * count, seed, "test"):
        meaning = parse(prompt)
        moves = len(meaning.objects) == 1 and meaning.objects[0].count == 1 and meaning.objects[0].motion
        if not moves or meaning.camera or not meaning.objects[0].shape or not meaning.objects[0].colour:
            continue
        try:
            sample_scenes([meaning], seed, FRAMES, 32, 32, FPS)
        except InputError:
            continue
        prompts.append(prompt)
        if len(prompts) == count:
            break
    scenes = sample_scenes([parse(prompt) for prompt in prompts], seed, FRAMES, 32, 32, FPS)
    return prompts, render_scenes(scenes, FRAMES, 32, 32, FPS)


def parts(videos: Tensor, prompts: Sequence[str]) -> dict[str, float]:
    """Mean score, and the share of right answers about identity (shape, colour) and motion."""
    judged = verify_batch(videos, list(prompts), fps=FPS)

    def share(chosen: Callable[[str], bool]) -> float:
        answers = [float(answer) for one in judged for name, answer in one.parts.items() if chosen(name)]
        return sum(answers) / max(len(answers), 1)

    return {
        "gold": sum(one.score for one in judged) / len(judged),
        "identity": share(lambda name: " is " in name and "there" not in name),
        "motion": share(lambda name: name.startswith("object") and " is " not in name),
    }


def psnr(first: Tensor, second: Tensor) -> float:
    return float(10 * torch.log10(4 / (first - second).pow(2).mean()))


def recoloured(prompts: Sequence[str]) -> list[str]:
    """The prompts with another colour."""
    changed = []
    for prompt in prompts:
        colour = parse(prompt).objects[0].colour
        changed.append(prompt.replace(str(colour), next(c for c in COLOURS if c != colour)))
    return changed


def measure(
    generator: VideoGenerator, count: int, sampling: Sampling
) -> tuple[dict[str, dict[str, float]], list[Tensor]]:
    """Figures of every task, and a video of each for the picture."""
    prompts, clips = sources(count, sampling.seed)
    half = clips[:, :, :9]
    made = {
        "rendered clips": clips,
        "animate an image": video_prompts.animate(generator, clips[:, :, 0], prompts, 9, sampling),
        "extend forward by 8": video_prompts.extend(
            generator, half, prompts, 8, "forward", sampling=sampling
        ),
        "extend backward by 8": video_prompts.extend(
            generator, clips[:, :, 8:], prompts, 8, "backward", sampling=sampling
        ),
        "connect (8 of 17 hidden)": video_prompts.connect(
            generator, clips[:, :, :5], clips[:, :, 13:], prompts, 8, sampling=sampling
        ),
        "interpolate 4 to 8 fps": video_prompts.interpolate(
            generator, clips[:, :, ::2], prompts, FPS / 2, 2, sampling
        ),
        "held still for 8": torch.cat([half, half[:, :, -1:].expand(-1, -1, 8, -1, -1)], dim=2),
    }
    table = {name: parts(videos, prompts) for name, videos in made.items()}
    between = (clips[:, :, :-1:2] + clips[:, :, 2::2]) / 2
    table["interpolate 4 to 8 fps"]["psnr"] = psnr(
        made["interpolate 4 to 8 fps"][:, :, 1::2], clips[:, :, 1::2]
    )
    table["blended linearly"] = {"psnr": psnr(between, clips[:, :, 1::2])}
    wanted = recoloured(prompts)
    for strength in (0.4, 0.6, 0.8, 1.0):
        for way, old in (("", None), (", source prompt", prompts)):
            edited = editing.edit(generator, half, wanted, strength, sampling, old)
            table[f"edit the colour{way}, strength {strength}"] = {
                **parts(edited, wanted),
                "old prompt": parts(edited, prompts)["gold"],
            }
    pictures = [videos[0] for videos in made.values()]
    long = video_prompts.generate_long(generator, [prompts[0]], 6.0, 32, 32, sampling)
    labels = [f"{name}: {prompts[0]}" for name in made]
    contact_sheet([*pictures, long[0]], PICTURE, labels=[*labels, f"long, 6 s: {prompts[0]}"])
    return table, pictures


PICTURE = Path("docs/images/video-prompts.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--count", type=int, default=32, help="Source clips.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--num_inference_steps", type=int, default=None, help="The model's own by default.")
    parser.add_argument("--guidance_scale", type=float, default=None, help="The model's own by default.")
    arguments = parser.parse_args()
    sampling = Sampling(arguments.num_inference_steps, arguments.guidance_scale, arguments.seed)
    table, _ = measure(load_generator(arguments.model), arguments.count, sampling)
    columns = ("gold", "identity", "motion", "old prompt", "psnr")
    print("| task | gold | identity | motion | gold of the old prompt | PSNR of new frames (dB) |")
    print("|---|---|---|---|---|---|")
    for name, figures in table.items():
        cells = [f"{figures[c]:.{1 if c == 'psnr' else 3}f}" if c in figures else "–" for c in columns]
        print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
