"""Images and videos as prompts on the command line: reads the files and calls `generator.editing.video_prompts`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

from alignment.cli.upsampling_arguments import UpsamplingArguments
from generator.base import VideoGenerator
from generator.editing import video_prompts
from generator.editing.flow_edit import edit
from generator.editing.video_prompts import Sampling
from generator.one_or_several import as_list
from generator.output import InputError
from generator.video import read_clip, read_video, video_shape
from generator.video_files.timing import frames_in_clip

TASKS = ("image", "extend", "connect", "interpolate", "edit", "long")


@dataclass
class VideoPromptArguments(UpsamplingArguments):
    """An image or videos as a prompt, besides the text, at most one of the tasks; super-resolution stages behind."""

    image: str | None = field(
        default=None, metadata={"help": "Image (or video, whose first frame counts) with which videos begin."}
    )
    video: str | None = field(
        default=None,
        metadata={
            "help": "Video for --extend, --interpolate and --upsample; the last needs neither --model nor --prompts."
        },
    )
    extend: str | None = field(
        default=None,
        metadata={
            "help": "Add --new_frames to --video: forward, backward, or loop back to its beginning.",
            "choices": ["forward", "backward", "loop"],
        },
    )
    connect: list[str] | None = field(
        default=None, metadata={"help": "Two videos that --new_frames lead over from one to the other."}
    )
    interpolate: int | None = field(
        default=None, metadata={"help": "Multiply the frame rate of --video by this power of two."}
    )
    edit: str | None = field(
        default=None, metadata={"help": "Video that is changed towards the prompt; works with every model."}
    )
    strength: float = field(
        default=0.6, metadata={"help": "Share that --edit may change: above 0, at most 1 (keeps nothing)."}
    )
    source_prompt: str | None = field(
        default=None,
        metadata={
            "help": "Prompt of what the video of --edit shows now. What old and new prompt share is then kept; "
            "--strength 1 is a good start."
        },
    )
    long: float | None = field(
        default=None,
        metadata={"help": "Seconds of a long video: key frames, interpolated twice, in sliding windows."},
    )
    new_frames: int = field(default=8, metadata={"help": "Frames that --extend and --connect add."})

    @property
    def task(self) -> str | None:
        """The one of `TASKS` that is asked for, if any; `video` where a video is only upsampled.

        Raises:
            InputError: there are several, or a task lacks what it needs.
        """
        asked = [name for name in TASKS if getattr(self, name) is not None]
        if len(asked) > 1:
            raise InputError(f"--{asked[0]} and --{asked[1]} were both given: ask for one thing at a time.")
        task = asked[0] if asked else None
        if task in ("extend", "interpolate") and self.video is None:
            raise InputError(f"--{task} needs a video to start from: pass --video FILE.")
        if self.video is not None and task is None and self.upsample:
            task = "video"
        if self.video is not None and task not in ("extend", "interpolate", "video"):
            raise InputError(
                "--video was given alone: say what to do with it, --extend, --interpolate or --upsample."
            )
        if self.source_prompt is not None and task != "edit":
            raise InputError("--source_prompt was given, but only --edit takes one: pass --edit VIDEO too.")
        if self.strength != VideoPromptArguments.strength and task != "edit":
            raise InputError(
                f"--strength is {self.strength}, but only --edit takes one: pass --edit VIDEO too."
            )
        if self.new_frames != VideoPromptArguments.new_frames and task not in ("extend", "connect"):
            raise InputError(
                f"--new_frames is {self.new_frames}, but only --extend and --connect add so many frames: leave it out."
            )
        connected = as_list(self.connect or [])
        if self.connect is not None and len(connected) != 2:
            raise InputError(f"--connect got {len(connected)} videos: give two.")
        return task

    def changed(self) -> dict[str, Any]:
        """The arguments that differ from their defaults."""
        return {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default}


def prompted(
    generator: VideoGenerator,
    arguments: VideoPromptArguments,
    num_frames: int | None,
    height: int,
    width: int,
) -> tuple[Callable[..., Tensor], float]:
    """A function like `VideoGenerator.generate` that makes the videos asked for, and their frames a second.

    Files are read once, brought to `height` and `width` (centre crop), and to the model's frame rate where the frame
    rate matters.

    Raises:
        InputError: a file cannot be read, the size cannot be made, or the model takes no frames as a prompt.
    """
    task = arguments.task
    assert task is not None
    _check_task(generator, task)
    fps = generator.defaults.fps

    def source(path: str, rate: float | None = fps, frames: int | None = None) -> tuple[Tensor, float]:
        shape = video_shape(path)
        target = rate or shape.fps
        count = frames or frames_in_clip(shape.num_frames, shape.fps, target)
        return read_clip(path, count, height, width, target), target

    make = _TASKS[task](generator, arguments, num_frames, source, (height, width))
    rate = fps
    if task == "video":
        rate = video_shape(str(arguments.video)).fps
    elif task == "interpolate":
        rate = video_shape(str(arguments.video)).fps * (arguments.interpolate or 1)
    elif task == "long":
        rate = 4 * video_prompts.KEY_FRAME_FPS

    def generate(prompts: Sequence[str], seed: Sequence[int], **more: Any) -> Tensor:
        made = [
            make(
                [prompt],
                Sampling(
                    more["num_inference_steps"], more["guidance_scale"], one, more.get("guidance_scale_2")
                ),
            )
            for prompt, one in zip(prompts, seed, strict=True)
        ]
        return torch.cat(made)

    return generate, rate


def _check_task(generator: VideoGenerator, task: str) -> None:
    """Raises `InputError` if the model cannot do the task."""
    if task in ("edit", "video") or (task == "image" and generator.image is not None):
        return
    if generator.frames is None:
        can = "--image or --edit" if generator.image is not None else "--edit"
        raise InputError(
            f"{generator.name} takes no frames as a prompt, but --{task} needs a model with a noise level for each "
            f"frame: use the built-in model, LTX-Video or Wan 2.2 TI2V, or {can}, which work with this one."
        )
    if task in ("interpolate", "long") and not generator.frames.takes_key_frames:
        raise InputError(
            f"{generator.name} knows only frames that follow each other at its own frame rate, but --{task} makes "
            "frames between key frames: use the built-in model."
        )


Make = Callable[[list[str], Sampling], Tensor]


def _image(
    model: VideoGenerator, asked: VideoPromptArguments, frames: int | None, source: Any, _: Any
) -> Make:
    video, _ = source(str(asked.image), None, 1)
    return lambda prompts, sampling: video_prompts.animate(
        model, video[None, :, 0], prompts, frames or model.defaults.num_frames, sampling
    )


def _extend(model: VideoGenerator, asked: VideoPromptArguments, _: Any, source: Any, __: Any) -> Make:
    video, _ = source(str(asked.video))
    direction = str(asked.extend)
    return lambda prompts, sampling: video_prompts.extend(
        model, video[None], prompts, asked.new_frames, direction, sampling=sampling
    )


def _connect(model: VideoGenerator, asked: VideoPromptArguments, _: Any, source: Any, __: Any) -> Make:
    first, second = (source(path)[0] for path in asked.connect or [])
    return lambda prompts, sampling: video_prompts.connect(
        model, first[None], second[None], prompts, asked.new_frames, sampling=sampling
    )


def _interpolate(model: VideoGenerator, asked: VideoPromptArguments, _: Any, source: Any, __: Any) -> Make:
    video, rate = source(str(asked.video), None)
    factor = int(asked.interpolate or 0)
    return lambda prompts, sampling: video_prompts.interpolate(
        model, video[None], prompts, rate, factor, sampling
    )


def _edit(
    model: VideoGenerator, asked: VideoPromptArguments, frames: int | None, source: Any, _: Any
) -> Make:
    video, _ = source(str(asked.edit))
    _, time = model.size_multiples()
    count = min(frames or video.shape[1], video.shape[1])
    video = video[:, : (count - 1) // time * time + 1]
    old = None if asked.source_prompt is None else [asked.source_prompt]
    return lambda prompts, sampling: edit(model, video[None], prompts, asked.strength, sampling, old)


def _long(model: VideoGenerator, asked: VideoPromptArguments, _: Any, __: Any, size: tuple[int, int]) -> Make:
    seconds = float(asked.long or 0)
    return lambda prompts, sampling: video_prompts.generate_long(model, prompts, seconds, *size, sampling)


def _video(_: VideoGenerator, asked: VideoPromptArguments, frames: int | None, __: Any, ___: Any) -> Make:
    """The video as it is, of its own size and rate; of its beginning where a number of frames is asked for."""
    video, _rate = read_video(str(asked.video))
    return lambda prompts, sampling: video[None, :, : frames or video.shape[1]]


_TASKS: dict[str, Callable[..., Make]] = {
    "image": _image,
    "extend": _extend,
    "connect": _connect,
    "interpolate": _interpolate,
    "edit": _edit,
    "long": _long,
    "video": _video,
}
