"""`vidalign generate`: videos from prompts."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from tqdm import tqdm

from alignment.loading_arguments import LoadingArguments
from alignment.prompted_generation import VideoPromptArguments, prompted
from generator.base import VideoGenerator
from generator.demonstrations import METADATA
from generator.output import InputError, prepare_output_dir, refuse_inputs_in, write_json, write_jsonl
from generator.prompts import PromptRecord, read_prompts
from generator.video import write_video

if TYPE_CHECKING:
    from torch import Tensor

HELP = "Generates videos from prompts: mp4 files and a metadata.jsonl that names prompt, seed, model and adapter."
EXAMPLE = (
    "vidalign generate --model nano --prompts prompts.txt --output_dir runs/videos --num_videos_per_prompt 2"
)
RESUME = "Run the same command again: finished videos are kept."

ARGUMENTS_FILE = "generation.json"
"""Says with which arguments a folder of videos is made, so that only the same command goes on with it."""
BY_DEFAULT = "by_default"
"""In that file: the arguments that were not given, whose values are the model's."""
SIZES = ("num_frames", "height", "width")


@dataclass
class GenerateArguments:
    """What to generate."""

    model: str = field(metadata={"help": "nano, a folder or a hub id."})
    prompts: str = field(
        metadata={"help": "Text file with one prompt a line, JSONL with `prompt`, or world:SPLIT:N[:SEED]."}
    )
    output_dir: str = field(metadata={"help": "Folder for the videos and metadata.jsonl."})
    adapter: str | None = field(default=None, metadata={"help": "Folder of a LoRA adapter of this model."})
    num_frames: int | None = field(
        default=None, metadata={"help": "Frames; the model's own number by default."}
    )
    height: int | None = field(default=None, metadata={"help": "Pixels; the model's own height by default."})
    width: int | None = field(default=None, metadata={"help": "Pixels; the model's own width by default."})
    num_inference_steps: int | None = field(
        default=None, metadata={"help": "Steps of the sampler; the model's own number by default."}
    )
    solver: str = field(
        default="euler",
        metadata={
            "help": "euler; heun (two network calls a step); ab2 or dpm (second order, one call a step).",
            "choices": ["euler", "heun", "ab2", "dpm"],
        },
    )
    guidance_scale: float | None = field(
        default=None,
        metadata={"help": "Weight of classifier-free guidance, 1 for none; the model's own by default."},
    )
    seed: int = field(default=0, metadata={"help": "Video i, counted over all, takes the seed SEED + i."})
    num_videos_per_prompt: int = field(default=1, metadata={"help": "Videos of each prompt."})
    batch_size: int = field(default=8, metadata={"help": "Videos generated at once."})
    reward: str | None = field(
        default=None,
        metadata={
            "help": "Reward model for best_of and reward_guidance: a folder that `vidalign reward` wrote, "
            "`world`, module:function, or http://… of `vidalign reward serve`."
        },
    )
    best_of: int = field(
        default=1,
        metadata={"help": "Candidates of each video, of which the one with the best reward is kept."},
    )
    reward_guidance: float = field(
        default=0.0,
        metadata={
            "help": "Weight of the reward's gradient in every step of the sampler; 1 tilts the distribution by "
            "e^reward. The reward must judge latents."
        },
    )
    overwrite: bool = field(
        default=False, metadata={"help": "Delete what is in the output folder, whatever made it."}
    )


ARGUMENTS = (GenerateArguments, VideoPromptArguments, LoadingArguments)


def run(
    arguments: GenerateArguments,
    prompt: VideoPromptArguments,
    loading: LoadingArguments | None = None,
) -> None:
    """Generates every video that the output folder lacks, then writes `metadata.jsonl`."""
    from generator import load_generator

    loading = loading or LoadingArguments()
    _check(arguments)
    if prompt.task and arguments.reward:
        raise InputError(f"--{prompt.task} and --reward were both given: ask for one of them.")
    if arguments.solver != "euler" and (prompt.task or arguments.reward):
        raise InputError(
            f"--solver {arguments.solver} was given with a reward or a video as a prompt, which sample by Euler steps: "
            "leave it out."
        )
    rows = video_rows(arguments, read_prompts(arguments.prompts))
    if prompt.task and any(row["negative_prompt"] for row in rows):
        raise InputError(
            "A negative prompt was given, but images and videos as prompts take none: remove it."
        )
    output_dir = Path(arguments.output_dir)
    changed = {**_what_matters(arguments), **prompt.changed(), **loading.changing()}
    state = {**changed, "prompts": [row["prompt"] for row in rows]}
    going_on = _is_unfinished(arguments, state)
    missing = [row for row in rows if not (going_on and (output_dir / row["file_name"]).is_file())]
    if missing:
        model = load_generator(arguments.model, adapter=arguments.adapter, **loading.options())
        sizes = [getattr(arguments, name) or getattr(model.defaults, name) for name in SIZES]
        generate: Callable[..., Tensor] = partial(model.generate, solver=arguments.solver)
        fps = model.defaults.fps
        if prompt.task:
            generate, fps = prompted(model, prompt, arguments.num_frames, *sizes[1:])
        else:
            model.check_size(*sizes)
        if arguments.reward:
            generate = _aligned(model, arguments)
        if not going_on:
            if arguments.overwrite:
                refuse_inputs_in(output_dir, _inputs(arguments, prompt))
            prepare_output_dir(output_dir, arguments.overwrite)
            write_json(output_dir / ARGUMENTS_FILE, _in_effect(state, vars(model.defaults), prompt.task))
        _generate_missing(generate, fps, missing, len(rows), arguments)
    write_jsonl(output_dir / METADATA, rows)
    print(f"{len(rows)} videos in {output_dir}")


def _generate_missing(
    generate: Callable[..., Tensor],
    fps: float,
    missing: list[dict[str, Any]],
    total: int,
    arguments: GenerateArguments,
) -> None:
    # Videos of one call share a negative prompt.
    missing = sorted(missing, key=lambda row: (row["negative_prompt"], row["index"]))
    with tqdm(total=total, initial=total - len(missing), desc="videos", unit="video") as progress:
        for batch in _batches(missing, arguments.batch_size):
            videos = generate(
                [row["prompt"] for row in batch],
                num_frames=arguments.num_frames,
                height=arguments.height,
                width=arguments.width,
                num_inference_steps=arguments.num_inference_steps,
                guidance_scale=arguments.guidance_scale,
                seed=[row["seed"] for row in batch],
                negative_prompt=batch[0]["negative_prompt"],
                batch_size=arguments.batch_size,
            )
            if not torch.isfinite(videos).all():
                raise InputError(
                    f"{arguments.model} made pixels that are not finite numbers: check its weights, the adapter's and "
                    "the weight of guidance."
                )
            for row, video in zip(batch, videos, strict=True):
                write_video(Path(arguments.output_dir) / row["file_name"], video, fps)
                progress.update()


def _aligned(model: VideoGenerator, arguments: GenerateArguments) -> Callable[..., Tensor]:
    """`model.generate` with best-of-N and reward guidance."""
    from alignment.guided_sampling import sample_aligned
    from alignment.reward_mixture import RewardMixture
    from reward import load_reward

    rewards = RewardMixture([load_reward(str(arguments.reward), device=model.device)])

    def generate(prompts: list[str], seed: list[int], **more: Any) -> Tensor:
        samples = sample_aligned(
            model, rewards, prompts, seed, arguments.best_of, arguments.reward_guidance, **more
        )
        return model.decode(samples.latents.to(model.device)).cpu()

    return generate


def video_rows(arguments: GenerateArguments, prompts: list[PromptRecord]) -> list[dict[str, Any]]:
    """The line of `metadata.jsonl` of every video, all videos of a prompt in a row."""
    total = len(prompts) * arguments.num_videos_per_prompt
    digits = max(4, len(str(total - 1)))
    rows = []
    for index in range(total):
        record = prompts[index // arguments.num_videos_per_prompt]
        rows.append(
            {
                "file_name": f"{index:0{digits}d}.mp4",
                "prompt": record.prompt,
                "negative_prompt": record.negative_prompt,
                "id": record.id,
                "seed": arguments.seed + index,
                "model": arguments.model,
                "adapter": arguments.adapter,
                "index": index,
            }
        )
    return rows


def _inputs(arguments: GenerateArguments, prompt: VideoPromptArguments) -> list[str]:
    """The files and folders that are read."""
    named = [arguments.model, arguments.prompts, arguments.adapter, arguments.reward]
    return [
        name for name in (*named, prompt.image, prompt.video, prompt.edit, *(prompt.connect or [])) if name
    ]


def _check(arguments: GenerateArguments) -> None:
    if arguments.reward is None and (arguments.best_of != 1 or arguments.reward_guidance):
        raise InputError("--best_of and --reward_guidance need a judge: pass --reward FOLDER.")
    for name in (*SIZES, "num_inference_steps", "num_videos_per_prompt", "batch_size", "best_of"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise InputError(f"--{name} is {value}, but it must be at least 1.")
    if abs(arguments.seed) >= 2**62:
        raise InputError(f"--seed is {arguments.seed}, but it must be between -2^62 and 2^62.")


def _what_matters(arguments: GenerateArguments) -> dict[str, Any]:
    """The arguments that change what is generated."""
    neutral = {"overwrite", "batch_size", "output_dir"}
    return {name: value for name, value in asdict(arguments).items() if name not in neutral}


def _in_effect(state: dict[str, Any], defaults: dict[str, Any], task: str | None) -> dict[str, Any]:
    """`state` with the model's values for arguments that were not given, and the names of these.

    The frames of a video that continues or edits another one follow from that one.
    """
    follows = {"num_frames"} if task else set()
    filled = {
        name: value
        for name, value in defaults.items()
        if name in state and state[name] is None and name not in follows
    }
    return {**state, **filled, BY_DEFAULT: sorted(filled)}


def _is_unfinished(arguments: GenerateArguments, state: dict[str, Any]) -> bool:
    """Whether the output folder holds work of the same arguments to go on with.

    Raises:
        InputError: it holds something else, and that may not be deleted.
    """
    output_dir = Path(arguments.output_dir)
    if arguments.overwrite or not output_dir.exists():
        return False
    if not (output_dir / ARGUMENTS_FILE).is_file():
        prepare_output_dir(output_dir)
        return False
    try:
        found = json.loads((output_dir / ARGUMENTS_FILE).read_text(encoding="utf-8"))
    except ValueError:
        found = {}
    defaulted = set(found.pop(BY_DEFAULT, []))
    differing = [
        name
        for name in {**state, **found}
        if found.get(name) != state.get(name) and not (state.get(name) is None and name in defaulted)
    ]
    if differing:
        raise InputError(
            f"{output_dir} holds videos made with other arguments ({', '.join(differing)}): name another folder "
            "or pass --overwrite."
        )
    return True


def _batches(rows: list[dict[str, Any]], size: int) -> list[list[dict[str, Any]]]:
    """Consecutive rows of one negative prompt, at most `size` together."""
    batches: list[list[dict[str, Any]]] = []
    for row in rows:
        last = batches[-1] if batches else []
        if last and len(last) < size and last[0]["negative_prompt"] == row["negative_prompt"]:
            last.append(row)
        else:
            batches.append([row])
    return batches
