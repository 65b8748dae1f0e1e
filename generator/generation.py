"""Planned videos, made and written batch by batch: what `vidalign generate`, `vidalign evaluate` and the demo share.

A plan is a list of prompts, seeds and file names. Every video has a seed of its own, so any part of a plan may be made
at any time and by any process: the videos are the same.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from torch import Tensor

from generator.data.prompts import PromptRecord
from generator.guidance import guidance_scales, guidance_text
from generator.hardware.compute import count_tokens, operations_text, video_work
from generator.output import InputError
from generator.training.progress import VideoBar
from generator.training.shared_work import SharedWork
from generator.training.table import format_table, millions
from generator.video import write_video
from generator.video_files.pixel_formats import PIXEL_FORMATS
from generator.video_model import VideoModel

CALLS_OF_A_STEP = {"heun": 2}
"""Network calls of a denoising step, where it is not one."""


@dataclass(frozen=True)
class GenerationSettings:
    """Sizes, sampling and file format; None takes the generator's default."""

    num_frames: int | None = None
    height: int | None = None
    width: int | None = None
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    batch_size: int = 8
    solver: str = "euler"
    pixel_format: str = "auto"
    guidance_scale_2: float | None = None

    @classmethod
    def of(cls, arguments: Any) -> GenerationSettings:
        """The settings among the arguments of a command."""
        return cls(**{field.name: getattr(arguments, field.name) for field in fields(cls)})


@dataclass(frozen=True)
class PlannedVideo:
    """One video to make.

    Attributes:
        record: its prompt.
        seed: of its noise.
        file_name: where it will lie, relative to the output folder, with `/`.
    """

    record: PromptRecord
    seed: int
    file_name: str


def plan_videos(
    records: Sequence[PromptRecord], num_videos_per_prompt: int, seed: int, name: Callable[[int, int], str]
) -> list[PlannedVideo]:
    """The videos of all prompts, those of one prompt in a row.

    Args:
        seed: of the first video; each further one has the next.
        name: the file name of a video from the number of its prompt and its own number, counted over all.
    """
    numbers = [number for number in range(len(records)) for _ in range(num_videos_per_prompt)]
    return [
        PlannedVideo(records[number], seed + index, name(number, index))
        for index, number in enumerate(numbers)
    ]


def missing_videos(folder: str | Path, plan: Sequence[PlannedVideo]) -> list[PlannedVideo]:
    """Returns the planned videos that are not in the folder yet."""
    return [planned for planned in plan if not (Path(folder) / planned.file_name).is_file()]


def require_all(folder: str | Path, plan: Sequence[PlannedVideo], work: SharedWork) -> None:
    """Raises `InputError` in the first process where videos that others made are not in its folder."""
    missing = missing_videos(folder, plan) if work.is_first and work.size > 1 else []
    if missing:
        raise InputError(
            f"{len(missing)} of {len(plan)} videos are not in {folder} of the first machine: all machines must write "
            "into one shared folder; run the same command again with such a folder."
        )


def generate_videos_to(
    folder: str | Path,
    plan: Sequence[PlannedVideo],
    generate: Callable[..., Tensor],
    settings: GenerationSettings,
    fps: float,
    *,
    source: str = "The model",
    begin: Callable[[], None] | None = None,
    bar: VideoBar | None = None,
    steps: int | None = None,
    work: SharedWork | None = None,
) -> Iterator[tuple[list[PlannedVideo], Tensor]]:
    """Makes the videos of a plan and writes each batch into the folder as soon as it is there.

    Args:
        plan: what to make: of an interrupted run, what `missing_videos` tells.
        generate: a function like `VideoGenerator.generate`.
        settings: all but the solver, which `generate` has.
        fps: frames a second of the files.
        source: what makes the videos, for the message.
        begin: called once, by the first process, before the first file is written, so that whatever refuses the first
            batch leaves nothing.
        bar: moved by every batch.
        steps: denoising steps of a video, where `generate` tells of each (`stepped`), by which the bar then moves too.
        work: whose processes share the batches, which stay those of one process; all must have the same plan.

    Yields:
        Videos `[batch, 3, frames, height, width]` as they were generated, with their plan, after they were written.

    Raises:
        InputError: pixels are not finite.
    """
    stepping = {} if bar is None or steps is None else {"stepped": bar.stepped(steps)}
    work = SharedWork(0, 1) if work is None else work
    opened, open_folder = begin is None, work.once(begin or _nothing)
    for _, batch in work.portions(list(_batches(plan, settings.batch_size))):
        videos = generate(
            [planned.record.model_prompt for planned in batch],
            num_frames=settings.num_frames,
            height=settings.height,
            width=settings.width,
            num_inference_steps=settings.num_inference_steps,
            guidance_scale=settings.guidance_scale,
            guidance_scale_2=settings.guidance_scale_2,
            seed=[planned.seed for planned in batch],
            negative_prompt=batch[0].record.negative_prompt,
            batch_size=settings.batch_size,
            **stepping,
            **_images_of(batch),
        )
        if not videos.isfinite().all():
            raise InputError(
                f"{source} made pixels that are not finite numbers: check its weights, the adapter's and the weight of "
                "guidance."
            )
        if not opened:
            open_folder()
            opened = True
        for planned, video in zip(batch, videos, strict=True):
            path = Path(folder) / planned.file_name
            write_video(path, video, fps, full_colour=PIXEL_FORMATS[settings.pixel_format])
        yield batch, videos
        if bar is not None:
            bar.finish(len(batch))


def _nothing() -> None:
    """Stands for what is begun where nothing is."""


def _batches(plan: Sequence[PlannedVideo], size: int) -> Iterator[list[PlannedVideo]]:
    """At most `size` videos together, all of one negative prompt, and all or none with a first or last image or a
    control video."""
    ordered = sorted(plan, key=_kind)
    for _, same in itertools.groupby(ordered, key=_kind):
        remaining = list(same)
        while remaining:
            yield remaining[:size]
            remaining = remaining[size:]


def _kind(planned: PlannedVideo) -> tuple[str, bool, bool, bool]:
    record = planned.record
    controlled = record.control_video is not None
    return record.negative_prompt, record.image is not None, record.last_image is not None, controlled


def _images_of(batch: Sequence[PlannedVideo]) -> dict[str, Any]:
    """The argument `images` of a batch whose videos begin with images; none for others."""
    files = [planned.record.images for planned in batch if planned.record.images is not None]
    return {"images": files} if files else {}


def describe_generation(
    generator: VideoModel, settings: GenerationSettings, videos: int, done: int = 0, models: int = 1
) -> str:
    """The table that is shown before videos are generated: how many, how large, and how much work.

    Args:
        videos: of all models.
        done: of them, finished by an earlier run.
        models: that make them, one after another.
    """
    own = generator.defaults
    size = [getattr(settings, name) or getattr(own, name) for name in ("num_frames", "height", "width")]
    steps = settings.num_inference_steps or own.num_inference_steps
    scales = guidance_scales(generator, settings.guidance_scale, settings.guidance_scale_2)
    guided = any(scale != 1 for scale in scales)
    calls = steps * CALLS_OF_A_STEP.get(settings.solver, 1) * (2 if guided else 1)
    shape = generator.latent_shape(*size)
    work = 2.0 * calls * video_work(generator, shape) * len(generator.blocks()) * (videos - done)
    rows = {
        "videos": f"{videos}"
        + (f" by {models} models" if models > 1 else "")
        + (f", {done} done" if done else ""),
        "size": f"{size[0]} frames of {size[1]}x{size[2]} ({size[0] / own.fps:.1f} s)",
        "tokens": f"{count_tokens(generator, shape)} a video",
        "steps": f"{steps} ({settings.solver}), guidance {guidance_text(*scales)}: {calls} network calls a video",
        "model": f"{generator.name}, {millions(sum(p.numel() for p in generator.transformer.parameters()))} parameters",
        "device": f"{generator.device}, {str(generator.dtype).removeprefix('torch.')}",
        "compute": f"{operations_text(work)} in the transformer; the bar forecasts the time from the first step on",
    }
    return format_table("Generates", rows)
