"""`vidalign generate`: videos from prompts."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from alignment.cli.next_command import given_flags, new_folder, show_next
from alignment.cli.video_prompt_arguments import VideoPromptArguments, prompted
from alignment.stages.arguments import LoadingArguments
from generator.base import VideoGenerator
from generator.demonstrations import METADATA
from generator.files.output_folder import (
    Outputs,
    check_output_dir,
    named_videos,
    open_output_dir,
    require_own,
)
from generator.guidance import guidance_scales
from generator.lost_words import warn_of_lost_words
from generator.output import InputError, read_json, refuse_unwritable, write_json, write_jsonl
from generator.progress import VideoBar
from generator.prompts import PromptRecord, read_prompts
from generator.video import write_video
from generator.video_files.pixel_formats import PIXEL_FORMAT_HELP, PIXEL_FORMATS, check_pixel_format

if TYPE_CHECKING:
    from torch import Tensor

logger = logging.getLogger(__name__)

HELP = "Generates videos from prompts: mp4 files and a metadata.jsonl that names prompt, seed, model and adapter."
EXAMPLE = (
    "vidalign generate --model nano --prompts prompts.txt --output_dir runs/videos --num_videos_per_prompt 2"
)
RESUME = "Finished videos are kept; to go on:"

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
    adapter: str | None = field(
        default=None, metadata={"help": "LoRA file or folder for this model, ours or another tool's."}
    )
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
    guidance_scale_2: float | None = field(
        default=None,
        metadata={
            "help": "That of the second of two transformers, of low noise (Wan 2.2 A14B). Unset: guidance_scale "
            "where that is given, else the model's own."
        },
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
    pixel_format: str = field(
        default="auto", metadata={"help": PIXEL_FORMAT_HELP, "choices": list(PIXEL_FORMATS)}
    )
    overwrite: bool = field(
        default=False,
        metadata={
            "help": "Delete what this command wrote into the output folder before; other files are never deleted."
        },
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
    _check_combination(arguments, prompt)
    rows = video_rows(arguments, read_prompts(arguments.prompts))
    if prompt.task and any(row["negative_prompt"] for row in rows):
        raise InputError(
            "A negative prompt was given, but images and videos as prompts take none: remove it."
        )
    output_dir = Path(arguments.output_dir)
    changed = {**_what_matters(arguments), **prompt.changed(), **loading.changing()}
    state = {**changed, "prompts": [row["prompt"] for row in rows]}
    going_on = _is_unfinished(arguments, state, [*_inputs(arguments, prompt), *loading.files()])
    missing = [row for row in rows if not (going_on and (output_dir / row["file_name"]).is_file())]
    if missing:
        model = load_generator(arguments.model, adapter=arguments.adapter, **loading.options())
        texts = [text for row in rows for text in (row["prompt"], row["negative_prompt"]) if text]
        warn_of_lost_words(model, texts)
        scales = _guidance_scales(model, arguments, rows)
        sizes = [getattr(arguments, name) or getattr(model.defaults, name) for name in SIZES]
        generate: Callable[..., Tensor] = partial(model.generate, solver=arguments.solver)
        fps = model.defaults.fps
        if prompt.task:
            generate, fps = prompted(model, prompt, arguments.num_frames, *sizes[1:])
        else:
            model.check_size(*sizes)
        if arguments.reward:
            generate = _aligned(model, arguments, [row["prompt"] for row in missing])
        elif not prompt.task and model.needs_image:
            raise InputError(
                f"{arguments.model} animates images, and none was given: pass --image FILE, or use a text-to-video "
                "model."
            )
        refuse_unwritable(output_dir)

        def begin() -> None:
            """Makes the folder when the first videos are there, so that whatever refuses them leaves nothing."""
            open_output_dir(output_dir, OUTPUTS, arguments.overwrite, going_on)
            if not going_on:
                own = {
                    **vars(model.defaults),
                    "guidance_scale_2": None if model.boundary is None else scales[1],
                }
                in_effect = _in_effect(state, own, prompt.task)
                write_json(output_dir / ARGUMENTS_FILE, in_effect)

        plain = not prompt.task and not arguments.reward
        steps = arguments.num_inference_steps or model.defaults.num_inference_steps
        _generate_missing(generate, fps, missing, len(rows), arguments, begin, steps if plain else None)
    write_jsonl(output_dir / METADATA, rows)
    print(f"{len(rows)} videos in {output_dir}")
    _show_next(arguments, prompt, loading)


def _guidance_scales(
    model: VideoGenerator, arguments: GenerateArguments, rows: list[dict[str, Any]]
) -> tuple[float, float]:
    """Scales of guidance; warns where there is none, but negative prompts."""
    scales = guidance_scales(model, arguments.guidance_scale, arguments.guidance_scale_2)
    if scales == (1, 1) and any(row["negative_prompt"] for row in rows):
        logger.warning("Negative prompts have no effect without guidance: pass --guidance_scale above 1.")
    return scales


def _check_combination(arguments: GenerateArguments, prompt: VideoPromptArguments) -> None:
    """Refuses what does not go with a reward or with a video as a prompt."""
    if prompt.task and arguments.reward:
        raise InputError(f"--{prompt.task} and --reward were both given: ask for one of them.")
    if arguments.solver != "euler" and (prompt.task or arguments.reward):
        raise InputError(
            f"--solver {arguments.solver} was given with a reward or a video as a prompt, which sample by Euler steps: "
            "leave it out."
        )


def _show_next(arguments: GenerateArguments, prompt: VideoPromptArguments, loading: LoadingArguments) -> None:
    """Several videos of a prompt can be ranked; of single ones, more are made first."""
    if arguments.num_videos_per_prompt > 1:
        name = Path(arguments.output_dir).resolve().name
        show_next(
            "label", "import", "--db", "labels.db", "--campaign", name, "--videos", arguments.output_dir
        )
    else:
        given = [field.name for field in fields(arguments) if field.name not in ("output_dir", "overwrite")]
        asked = [field.name for field in fields(prompt)]
        words = [*given_flags(arguments, given), *given_flags(prompt, asked)]
        words += given_flags(loading, [field.name for field in fields(loading)])
        folder = new_folder(arguments.output_dir, "candidates")
        show_next("generate", *words, "--num_videos_per_prompt", 4, "--output_dir", folder)


def _generate_missing(
    generate: Callable[..., Tensor],
    fps: float,
    missing: list[dict[str, Any]],
    total: int,
    arguments: GenerateArguments,
    begin: Callable[[], None],
    steps: int | None,
) -> None:
    """Makes and writes videos; `steps` is the number of denoising steps where `generate` tells of each."""
    # Videos of one call share a negative prompt.
    missing = sorted(missing, key=lambda row: (row["negative_prompt"], row["index"]))
    with VideoBar(total, total - len(missing), "videos") as progress:
        stepping = {} if steps is None else {"stepped": progress.stepped(steps)}
        batches = _batches(missing, arguments.batch_size)
        for batch in batches:
            videos = generate(
                [row["prompt"] for row in batch],
                num_frames=arguments.num_frames,
                height=arguments.height,
                width=arguments.width,
                num_inference_steps=arguments.num_inference_steps,
                guidance_scale=arguments.guidance_scale,
                guidance_scale_2=arguments.guidance_scale_2,
                seed=[row["seed"] for row in batch],
                negative_prompt=batch[0]["negative_prompt"],
                batch_size=arguments.batch_size,
                **stepping,
            )
            if not torch.isfinite(videos).all():
                raise InputError(
                    f"{arguments.model} made pixels that are not finite numbers: check its weights, the adapter's and "
                    "the weight of guidance."
                )
            if batch is batches[0]:
                begin()
            for row, video in zip(batch, videos, strict=True):
                path = Path(arguments.output_dir) / row["file_name"]
                write_video(path, video, fps, full_colour=PIXEL_FORMATS[arguments.pixel_format])
            progress.finish(len(batch))


def _aligned(
    model: VideoGenerator, arguments: GenerateArguments, prompts: list[str]
) -> Callable[..., Tensor]:
    """`model.generate` with best-of-N and reward guidance."""
    from alignment.guided_sampling import check_alignment, sample_aligned
    from alignment.rollouts.reward_mixture import RewardMixture
    from alignment.rollouts.sampling_plan import SamplingPlan
    from reward import load_reward

    rewards = RewardMixture([load_reward(str(arguments.reward), device=model.device)])
    check_alignment(model, rewards, prompts, arguments.reward_guidance)

    def generate(prompts: list[str], seed: list[int], **more: Any) -> Tensor:
        plan = SamplingPlan.for_prompts(model, prompts, **more)
        samples = sample_aligned(plan, rewards, seed, arguments.best_of, arguments.reward_guidance)
        return model.decode(samples.latents.to(model.device)).cpu()

    return generate


def video_rows(arguments: GenerateArguments, prompts: list[PromptRecord]) -> list[dict[str, Any]]:
    """The line of `metadata.jsonl` of every video, all videos of a prompt in a row."""
    total = len(prompts) * arguments.num_videos_per_prompt
    rows = []
    for index in range(total):
        record = prompts[index // arguments.num_videos_per_prompt]
        rows.append(
            {
                "file_name": _file_name(index, total),
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
    check_pixel_format(arguments.pixel_format, arguments.height, arguments.width)
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
        if name in state and state[name] is None and value is not None and name not in follows
    }
    return {**state, **filled, BY_DEFAULT: sorted(filled)}


def _is_unfinished(arguments: GenerateArguments, state: dict[str, Any], inputs: list[str]) -> bool:
    """Whether the output folder holds work of the same arguments to go on with.

    Raises:
        InputError: it holds something else, and that may not be deleted.
    """
    output_dir = Path(arguments.output_dir)
    if arguments.overwrite or not (output_dir / ARGUMENTS_FILE).is_file():
        check_output_dir(output_dir, OUTPUTS, arguments.overwrite, inputs)
        return False
    require_own(output_dir, OUTPUTS)
    found = _stored_arguments(output_dir)
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


def _stored_arguments(folder: Path) -> dict[str, Any]:
    """What `generation.json` says; nothing where it is missing or damaged."""
    try:
        found = read_json(folder / ARGUMENTS_FILE)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _video_names(folder: Path) -> list[str]:
    """The videos that the records of an output folder name."""
    prompts = _stored_arguments(folder).get("prompts")  # one a video
    total = len(prompts) if isinstance(prompts, list) else 0
    return [*(_file_name(index, total) for index in range(total)), *named_videos(folder)]


def _file_name(index: int, total: int) -> str:
    return f"{index:0{max(4, len(str(total - 1)))}d}.mp4"


OUTPUTS = Outputs(
    "generate",
    (METADATA, ARGUMENTS_FILE),
    early=(ARGUMENTS_FILE,),
    is_record=lambda folder: "prompts" in _stored_arguments(folder),
    listed=_video_names,
)


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
