"""`vidalign generate`: videos from prompts."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignment.cli.aligned_generation import aligned
from alignment.cli.generation_checks import (
    check_combination,
    check_generation,
    check_images,
    refuse_negatives,
)
from alignment.cli.next_command import given_flags, new_folder, show_next
from alignment.cli.upsampled_generation import (
    behind_stages,
    coarse_model,
    load_stages,
    model_and_prompts,
    require_model_and_prompts,
)
from alignment.cli.video_prompt_arguments import VideoPromptArguments, prompted
from alignment.rewriting.arguments import RewriterArguments, rewritten, rewritten_text
from alignment.stages.arguments import LoadingArguments
from generator.base import VideoGenerator
from generator.data.demonstrations import METADATA
from generator.data.prompts import FILE_COLUMNS, PromptRecord, require_prompt_file
from generator.files.model_folders import require_model
from generator.files.output_folder import (
    Outputs,
    check_output_dir,
    named_videos,
    open_output_dir,
    require_own,
)
from generator.first_frames import check_takes_images
from generator.generation import (
    GenerationSettings,
    PlannedVideo,
    describe_generation,
    generate_videos_to,
    missing_videos,
    plan_videos,
    require_all,
)
from generator.guidance import guidance_scales
from generator.lost_words import warn_of_lost_words
from generator.output import InputError, read_record, refuse_unwritable, write_json, write_jsonl
from generator.passwords import without_passwords
from generator.solvers import SOLVERS
from generator.training.progress import VideoBar
from generator.training.shared_work import SharedWork
from generator.video_files.pixel_formats import PIXEL_FORMAT_HELP, PIXEL_FORMATS
from generator.video_ldm.config import StackArguments
from generator.video_model import require_one_model

if TYPE_CHECKING:
    from torch import Tensor

logger = logging.getLogger(__name__)

HELP = (
    "Generate videos from prompts: mp4 files and a metadata.jsonl that names prompt, seed, model and adapter."
)
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
    """Prompts, model and sampling."""

    output_dir: str = field(metadata={"help": "Folder for the videos and metadata.jsonl."})
    model: str | None = field(
        default=None,
        metadata={
            "help": "Generator: nano, a folder of a diffusers pipeline, or a hub id. Required, but for --video with "
            "--upsample: unset, the model that the first stage names."
        },
    )
    prompts: str | None = field(
        default=None,
        metadata={
            "help": "Text file with one prompt a line, JSONL with `prompt` and `image`, or world:SPLIT:N[:SEED]. "
            "Required, but for --video with --upsample: unset, the empty prompt."
        },
    )
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
            "help": "Solver: euler; heun (two network calls a step); ab2 or dpm (second order, one call a step).",
            "choices": list(SOLVERS),
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

    def __post_init__(self) -> None:
        if self.reward is None and (self.best_of != 1 or self.reward_guidance):
            raise InputError("--best_of and --reward_guidance need a judge: pass --reward FOLDER.")
        check_generation(self, "best_of")

    def check_together(self, others: Sequence[Any]) -> None:
        """Raises `InputError` where the model or prompts are missing that the other arguments need."""
        require_model_and_prompts(self.model, self.prompts, others)

    def check_inputs(self) -> None:
        """Raises `InputError` where there are no prompts or no model, or the folder holds something else."""
        if self.prompts is not None:
            require_prompt_file(self.prompts)
        if self.model is not None:
            require_model(self.model, [self.adapter] if self.adapter else [])
        if self.overwrite or not (Path(self.output_dir) / ARGUMENTS_FILE).is_file():
            check_output_dir(self.output_dir, OUTPUTS, self.overwrite)


ARGUMENTS = (GenerateArguments, VideoPromptArguments, LoadingArguments, RewriterArguments, StackArguments)


def run(
    arguments: GenerateArguments,
    prompt: VideoPromptArguments,
    loading: LoadingArguments | None = None,
    rewriting: RewriterArguments | None = None,
    stack: StackArguments | None = None,
) -> None:
    """Generates every video that the output folder lacks, then writes `metadata.jsonl`."""
    loading, stack = loading or LoadingArguments(), stack or StackArguments()
    rewriting = rewriting or RewriterArguments()
    arguments.check_together([prompt, loading, rewriting, stack])
    check_combination(arguments, prompt)
    stack.check_combination(prompt.task, arguments.reward, arguments.solver)
    work, (model, records) = SharedWork(), model_and_prompts(arguments.model, arguments.prompts, prompt)
    arguments = replace(arguments, model=model)
    records, facts = rewritten(rewriting, records, model, work)
    plan = planned(arguments, records)
    refuse_negatives(prompt, plan)
    check_images(arguments, prompt, plan)
    output_dir = Path(arguments.output_dir)
    changed = {**_what_matters(arguments), **prompt.changed(), **loading.changing(), **stack.changed()}
    state = {**changed, **facts, "prompts": [each.record.prompt for each in plan]}
    if any(each.record.rewritten_prompt is not None for each in plan):
        state["rewritten_prompts"] = [each.record.rewritten_prompt for each in plan]
    images = [each.record.images for each in plan]
    if any(images):
        state["images"] = [each and list(each) for each in images]
    inputs = [*_inputs(arguments, prompt, plan), *loading.files(), *stack.models()]

    def left() -> tuple[bool, list[int]]:
        going_on = _is_unfinished(arguments, state, inputs)
        made = {each.file_name for each in plan}
        made -= {each.file_name for each in (missing_videos(output_dir, plan) if going_on else plan)}
        return going_on, [number for number, each in enumerate(plan) if each.file_name not in made]

    going_on, numbers = work.first(left)
    if numbers:
        missing = [plan[number] for number in numbers]
        _generate_missing(arguments, prompt, loading, stack, plan, missing, state, going_on, work)
    if work.is_first:
        write_jsonl(output_dir / METADATA, [_row(arguments, *each, prompt.image) for each in enumerate(plan)])
        print(f"{len(plan)} videos in {output_dir}")
        if arguments.prompts is not None:
            _show_next(arguments, [prompt, loading, rewriting, stack])


def _generate_missing(
    arguments: GenerateArguments,
    prompt: VideoPromptArguments,
    loading: LoadingArguments,
    stack: StackArguments,
    plan: list[PlannedVideo],
    missing: list[PlannedVideo],
    state: dict[str, Any],
    going_on: bool,
    work: SharedWork,
) -> None:
    """Makes the missing videos of the plan, each process its share, and returns when all are there."""
    from generator import load_generator

    output_dir = Path(arguments.output_dir)
    model = load_generator(str(arguments.model), adapter=arguments.adapter, **loading.options())
    negatives = any(each.record.negative_prompt for each in plan)
    records = [each.record for each in plan]
    warn_of_lost_words(model, [text for r in records for text in (r.model_prompt, r.negative_prompt) if text])
    scales = _guidance_scales(model, arguments, negatives)
    if stack.interpolation_model:
        from generator.video_ldm.stack import stacked

        long, rate = stacked(model, stack, arguments.num_frames, arguments.adapter, loading.options())
        generate, fps = behind_stages(model, prompt, load_stages(model, prompt), long, rate)
    else:
        generate, fps = _way_to_generate(model, arguments, prompt, missing)
    refuse_unwritable(output_dir)

    def begin() -> None:
        open_output_dir(output_dir, OUTPUTS, arguments.overwrite, going_on)
        if not going_on:
            own = {**vars(model.defaults), "guidance_scale_2": None if model.boundary is None else scales[1]}
            write_json(output_dir / ARGUMENTS_FILE, _in_effect(state, own, prompt.task))

    plain = not prompt.task and not arguments.reward and not stack.interpolation_model
    steps = arguments.num_inference_steps or model.defaults.num_inference_steps
    if not prompt.task and not stack.interpolation_model and work.is_first:
        done = len(plan) - len(missing)
        print(describe_generation(model, GenerationSettings.of(arguments), len(plan), done), flush=True)
    with VideoBar(len(plan), len(plan) - len(missing), "videos", work=work) as bar:
        for _ in generate_videos_to(
            output_dir,
            missing,
            generate,
            GenerationSettings.of(arguments),
            fps,
            source=str(arguments.model),
            begin=begin,
            bar=bar,
            steps=steps if plain else None,
            work=work,
        ):
            pass
        work.gather(None, bar.show)
    require_all(output_dir, plan, work)


def _guidance_scales(
    model: VideoGenerator, arguments: GenerateArguments, negatives: bool
) -> tuple[float, float]:
    """Scales of guidance; warns where there is none, but negative prompts."""
    scales = guidance_scales(model, arguments.guidance_scale, arguments.guidance_scale_2)
    if scales == (1, 1) and negatives:
        logger.warning("Negative prompts have no effect without guidance: pass --guidance_scale above 1.")
    return scales


def _way_to_generate(
    model: VideoGenerator,
    arguments: GenerateArguments,
    prompt: VideoPromptArguments,
    plan: list[PlannedVideo],
) -> tuple[Callable[..., Tensor], float]:
    """A function like `VideoGenerator.generate` that makes what is asked for, and the frames a second of its videos.

    Raises:
        InputError: the model cannot make it.
    """
    stages = load_stages(model, prompt)
    images = [each.record.images for each in plan]
    plain = not prompt.task and not arguments.reward and not any(images)
    model = coarse_model(model, stages) if plain else model
    sizes = [getattr(arguments, name) or getattr(model.defaults, name) for name in SIZES]
    if prompt.task:
        generate, fps = prompted(model, prompt, arguments.num_frames, *sizes[1:])
        return behind_stages(model, prompt, stages, generate, fps)
    model.check_size(*sizes)
    fps = model.defaults.fps
    if arguments.reward:
        require_one_model(model, "--reward judges the videos of one model")
        return behind_stages(model, prompt, stages, aligned(model, arguments, plan), fps)
    check_takes_images(model, images, len(plan), sizes[1:])
    solver = arguments.solver
    generate = partial(model.generate, solver=solver)
    return behind_stages(model, prompt, stages, generate, fps, solver if plain else None)


def _show_next(arguments: GenerateArguments, others: list[Any]) -> None:
    """Several videos of a prompt can be ranked; of single ones, more are made first."""
    if arguments.num_videos_per_prompt > 1:
        name = Path(arguments.output_dir).resolve().name
        show_next(
            "label", "import", "--db", "labels.db", "--campaign", name, "--videos", arguments.output_dir
        )
    else:
        given = [field.name for field in fields(arguments) if field.name not in ("output_dir", "overwrite")]
        words = given_flags(arguments, given)
        for asked in others:
            words += given_flags(asked, [field.name for field in fields(asked)])
        folder = new_folder(arguments.output_dir, "candidates")
        show_next("generate", *words, "--num_videos_per_prompt", 4, "--output_dir", folder)


def planned(arguments: GenerateArguments, prompts: list[PromptRecord]) -> list[PlannedVideo]:
    """Every video of the prompts."""
    each = arguments.num_videos_per_prompt
    total = len(prompts) * each
    return plan_videos(prompts, each, arguments.seed, lambda _, index: _file_name(index, total))


def _row(
    arguments: GenerateArguments, index: int, planned: PlannedVideo, image: str | None
) -> dict[str, Any]:
    """The line of `metadata.jsonl` of a video, which may begin with an `image` that all share."""
    named = {name: getattr(planned.record, name) for name in FILE_COLUMNS}
    named["image"] = named["image"] or image
    return {
        "file_name": planned.file_name,
        "prompt": planned.record.prompt,
        **rewritten_text(planned.record),
        "negative_prompt": planned.record.negative_prompt,
        "id": planned.record.id,
        "seed": planned.seed,
        "model": arguments.model,
        "adapter": arguments.adapter,
        "index": index,
        **{
            name: os.path.relpath(file, arguments.output_dir)
            for name, file in named.items()
            if file is not None
        },
    }


def _inputs(
    arguments: GenerateArguments, prompt: VideoPromptArguments, plan: list[PlannedVideo]
) -> list[str]:
    """The files and folders that are read."""
    named = [arguments.model, arguments.prompts, arguments.adapter, arguments.reward]
    named += [prompt.image, prompt.video, prompt.edit, *(prompt.connect or [])]
    images = [str(file) for each in plan for file in each.record.images or () if file is not None]
    return [name for name in dict.fromkeys([*named, *images]) if name]


def _what_matters(arguments: GenerateArguments) -> dict[str, Any]:
    """The arguments that change what is generated."""
    neutral = {"overwrite", "batch_size", "output_dir"}
    given = {name: value for name, value in asdict(arguments).items() if name not in neutral}
    return {**given, "reward": arguments.reward and without_passwords(arguments.reward)}


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
    """Returns whether the output folder holds work of the same arguments to go on with.

    Raises:
        InputError: it holds something else, and that may not be deleted.
    """
    output_dir = Path(arguments.output_dir)
    if arguments.overwrite or not (output_dir / ARGUMENTS_FILE).is_file():
        check_output_dir(output_dir, OUTPUTS, arguments.overwrite, inputs)
        return False
    require_own(output_dir, OUTPUTS)
    found = read_record(output_dir / ARGUMENTS_FILE)
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


def _video_names(folder: Path) -> list[str]:
    """The videos that the records of an output folder name."""
    prompts = read_record(folder / ARGUMENTS_FILE).get("prompts")  # one a video
    total = len(prompts) if isinstance(prompts, list) else 0
    return [*(_file_name(index, total) for index in range(total)), *named_videos(folder)]


def _file_name(index: int, total: int) -> str:
    return f"{index:0{max(4, len(str(total - 1)))}d}.mp4"


OUTPUTS = Outputs(
    "generate",
    (METADATA, ARGUMENTS_FILE),
    early=(ARGUMENTS_FILE,),
    is_record=lambda folder: "prompts" in read_record(folder / ARGUMENTS_FILE),
    listed=_video_names,
)
