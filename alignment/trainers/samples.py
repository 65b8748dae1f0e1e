"""Videos to look at while training: of fixed prompts and noise beside the reference, and the best and worst of a group.

Making them changes nothing that is trained: weights, random states, modes, averages and adapters are what they were.
"""

from __future__ import annotations

import logging
import math
import os
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av
import numpy as np
import torch
from accelerate.utils import broadcast_object_list, gather_object
from transformers import TrainerCallback

from alignment.data.example_images import check_all_or_none
from alignment.data.latent_dataset import LatentDataset
from alignment.lora import adapters_disabled
from alignment.rollouts.rollout import Rollout, ode_samples
from alignment.rollouts.sampling_plan import SamplingPlan
from alignment.trainers.context_groups import check_latents
from alignment.trainers.trackers import show_video
from generator.data.demonstrations import METADATA
from generator.data.prompts import FILE_COLUMNS, read_prompts
from generator.editing.image_cache import size_of_latents
from generator.files.output_folder import Outputs, empty_own
from generator.generation import (
    GenerationSettings,
    PlannedVideo,
    generate_videos_to,
    missing_videos,
    plan_videos,
)
from generator.output import InputError, read_json, write_json, write_jsonl
from generator.training.checkpoints import any_process
from generator.training.progress import VideoBar
from generator.video import read_video, write_video
from generator.video_files.animation import side_by_side

if TYPE_CHECKING:
    from alignment.trainers.base_trainer import AlignmentTrainer

logger = logging.getLogger(__name__)

MOST_FRAMES = 33
"""Frames of a sample, unless more are asked for."""
SAMPLES, GROUPS, BESIDE, SETTINGS = "samples", "groups", "beside_reference", "settings.json"
SAMPLE_FILES = (SETTINGS, *(f"{folder}step-#/*" for folder in ("", f"{BESIDE}/", f"{GROUPS}/")))
"""Patterns of the files in `output_dir/samples`; see `Outputs.files`."""
EARLY_SAMPLE_FILES = (SETTINGS, *(f"{folder}step-000000/*" for folder in ("", f"{GROUPS}/")))
"""Patterns of those that are there before anything is learnt."""
FAILURES = (OSError, av.FFmpegError, InputError, torch.OutOfMemoryError)
"""Errors of samples that training outlives."""


@dataclass
class SampleSettings:
    """Sampling of the videos; fields as in `SamplingPlan.for_training`."""

    num_frames: int | None
    height: int | None
    width: int | None
    num_inference_steps: int
    guidance_scale: float | None
    guidance_scale_2: float | None
    negative_prompt: str = ""


def sampling_interval(args: Any) -> int:
    """Optimiser steps between two times at which videos are kept: `args.sample_steps`, in whole rollouts."""
    updates = getattr(args, "updates_per_rollout", 1)
    return math.ceil(args.sample_steps / updates) * updates


def step_name(step: int) -> str:
    """The folder of the videos of an optimiser step."""
    return f"step-{step:06d}"


def file_stem(prompt: str) -> str:
    """The beginning of a prompt as part of a file's name."""
    return re.sub(r"\W+", "-", prompt.lower()).strip("-")[:40].strip("-") or "video"


def share_of(
    items: Sequence[Any], processes: int, process: int, group_size: int = 1
) -> list[tuple[Any, bool]]:
    """One process's share of items, and for each whether it is its own; all processes get equally many.

    An engine that divides the weights needs every process at every call of the network.

    Args:
        group_size: processes of a group, which has one share together; each item is one of its processes' own.
    """
    groups, group, place = processes // group_size, process // group_size, process % group_size
    count = math.ceil(len(items) / groups) * groups
    return [
        (items[i % len(items)], i < len(items) and number % group_size == place)
        for number, i in enumerate(range(group, count, groups))
    ]


@contextmanager
def undisturbed(module: torch.nn.Module) -> Iterator[None]:
    """Inside, `module` is in evaluation mode without gradients; afterwards modes and random states are as before."""
    modes = [(each, each.training) for each in module.modules()]
    states = random.getstate(), np.random.get_state()  # noqa: NPY002
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices), torch.no_grad():
        module.eval()
        try:
            yield
        finally:
            for each, training in modes:
                each.training = training
            random.setstate(states[0])
            np.random.set_state(states[1])  # noqa: NPY002


class SampleVideos(TrainerCallback):
    """Makes videos of `args.sample_prompts` before training, every `args.sample_steps` steps, and at the end.

    Those before training are the reference's. A step that has its videos is not repeated; one that lacks some, since
    the run was stopped, gets them when the run goes on at that step.

    Args:
        trainer: whose policy makes them; it has encoded its own prompts.

    Raises:
        InputError: the model cannot make videos from prompts alone, or not of this size.
    """

    def __init__(self, trainer: AlignmentTrainer) -> None:
        self.trainer = trainer
        args, generator = trainer.args, trainer.generator
        self.folder = Path(str(args.output_dir)) / SAMPLES
        records = read_prompts(str(args.sample_prompts))[: args.sample_count]
        negative = getattr(args, "negative_prompt", "")
        named = [record.images for record in records]
        images = [each for each in named if each is not None]
        check_all_or_none(str(args.sample_prompts), named, "prompts", False)
        settings = self._settings()
        self.plan = SamplingPlan.for_training(
            generator,
            settings,
            [record.prompt for record in records],
            [record.negative_prompt or negative for record in records],
            args.sample_batch_size,
            trainer.conditions_of,
            images or None,
        )
        check_latents(generator, args, self.plan.latent_shape)
        digits = len(str(max(len(records) - 1, 10)))
        self.videos = plan_videos(
            records,
            1,
            args.sample_seed,
            lambda number, _: f"{number:0{digits}d}_{file_stem(records[number].prompt)}.mp4",
        )
        self.record = {
            "model": generator.name,
            "model_fingerprint": trainer.fingerprint,
            "num_frames": settings.num_frames,
            "height": settings.height,
            "width": settings.width,
            "num_inference_steps": settings.num_inference_steps,
            **self.plan.guidance_settings(),
            "seed": args.sample_seed,
            "prompts": self.plan.prompts,
            "negative_prompts": [record.negative_prompt or negative for record in records],
            **({"images": [list(each) for each in images]} if images else {}),
        }
        self._warned = False

    def _settings(self) -> SampleSettings:
        """Settings that are asked for, and those of the training in place of the rest."""
        trainer, args = self.trainer, self.trainer.args
        defaults = trainer.generator.defaults
        frames, height, width = self._size_in_training()
        time = trainer.generator.size_multiples()[1]
        asked = trainer.generation_defaults()
        guidance: list[tuple[Any, Any]] = [
            (args.sample_guidance_scale, None),
            (getattr(args, "guidance_scale", None), getattr(args, "guidance_scale_2", None)),
            (asked.get("guidance_scale"), asked.get("guidance_scale_2")),
        ]
        return SampleSettings(
            args.sample_num_frames or (min(frames, MOST_FRAMES) - 1) // time * time + 1,
            args.sample_height or height,
            args.sample_width or width,
            args.sample_num_inference_steps or defaults.num_inference_steps,
            *next((scales for scales in guidance if scales != (None, None)), (None, None)),
        )

    def _size_in_training(self) -> tuple[int, int, int]:
        """Frames, height and width of most videos that are trained on."""
        trainer, defaults = self.trainer, self.trainer.generator.defaults
        dataset, plan = trainer.train_dataset, getattr(trainer, "plan", None)
        if isinstance(plan, SamplingPlan):
            return size_of_latents(trainer.generator, plan.latent_shape)
        if isinstance(dataset, LatentDataset) and len(dataset):
            return size_of_latents(trainer.generator, Counter(dataset.shapes).most_common(1)[0][0])
        return defaults.num_frames, defaults.height, defaults.width

    # When

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        resumed = state.global_step > 0
        self._begin_folder(resumed)
        if not resumed or self.trainer.lora.use_peft:
            self.make(0)
        if resumed and self._is_due(state):
            self.make(state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self._is_due(state):
            self.make(state.global_step)

    def _is_due(self, state: Any) -> bool:
        step = state.global_step
        return step % sampling_interval(self.trainer.args) == 0 or step >= state.max_steps

    def _begin_folder(self, resumed: bool) -> None:
        """Takes up the folder of the run that is resumed, or an empty one.

        Raises:
            InputError: a resumed run would put other videos beside those that it has.
        """
        differing: list[Any] = [[]]
        file = self.folder / SETTINGS
        if self._is_first:
            known = read_json(file) if file.is_file() else None
            if known is not None and known != self.record:
                differing[0] = [name for name in self.record if known.get(name) != self.record[name]]
            if not resumed or known is None:
                self._empty(keep_reference=known == self.record)
                write_json(file, self.record)
        differing = broadcast_object_list(differing) if self._processes > 1 else differing
        if resumed and differing[0]:
            raise InputError(
                f"The videos in {self.folder} were made with other settings ({', '.join(differing[0])}), so they could "
                "not be compared: resume with the sample_… arguments of before, or move that folder away."
            )

    def _empty(self, keep_reference: bool) -> None:
        """Deletes the videos of an earlier run in the same folder."""
        if not self.folder.is_dir():
            return
        reference = self.folder / step_name(0)
        kept = [file.relative_to(self.folder) for file in reference.glob("*")] if keep_reference else []
        empty_own(self.folder, Outputs("samples", SAMPLE_FILES), keep=map(str, kept))

    # How

    @property
    def _is_first(self) -> bool:
        return self.trainer.args.process_index == 0

    @property
    def _processes(self) -> int:
        return self.trainer.args.world_size

    def make(self, step: int) -> None:
        """Makes the videos of an optimiser step that are not there yet; step 0 is the reference."""
        folder = self.folder / step_name(step)
        found: list[Any] = [missing_videos(folder, self.videos), (folder / METADATA).is_file()]
        missing, is_complete = broadcast_object_list(found) if self._processes > 1 else found
        if not missing and is_complete:
            return
        with ExitStack() as stack:
            stack.enter_context(undisturbed(self.trainer.policy))
            if step == 0:
                stack.enter_context(adapters_disabled(self.trainer.policy))
            elif self.trainer.ema is not None:
                stack.enter_context(self.trainer.ema.swapped())
            problem = self._make_videos(step, missing)
        if problem is None and self._is_first:
            problem = _failure_of(lambda: self._present(step, folder))
        if problem and not self._warned:
            self._warned = True
            logger.warning("No samples of step %d (%s): training goes on.", step, problem)

    def _make_videos(self, step: int, missing: Sequence[PlannedVideo]) -> str | None:
        """Makes videos, each process its share; returns what went wrong, empty after a request to stop."""
        args, schedule = self.trainer.args, self.trainer.checkpoint_schedule
        share = share_of(missing, self._processes, args.process_index, args.context_parallel)
        problems: list[str] = []
        what = "Samples of the reference" if step == 0 else f"Samples of step {step}"
        hidden = bool(args.disable_tqdm) or not self._is_first
        with VideoBar(len(share), 0, what, disable=hidden, leave=False) as bar:
            for start in range(0, len(share), args.sample_batch_size):
                if any_process([bool(schedule.request)], args)[0]:
                    return ""
                batch = share[start : start + args.sample_batch_size]
                divided = bool(self.trainer.divided_by) or args.context_parallel > 1
                problem = _failure_of(partial(self._make_batch, step, batch, bar), divided)
                problems += [problem] if problem else []
        found = gather_object(problems) if self._processes > 1 else problems
        return found[0] if found else None

    def _make_batch(self, step: int, batch: Sequence[tuple[PlannedVideo, bool]], bar: VideoBar) -> None:
        generator, plan = self.trainer.generator, self.plan
        rows = torch.tensor([self.videos.index(planned) for planned, _ in batch])
        seeds = [planned.seed for planned, _ in batch]
        stepped = bar.stepped(len(plan.sigmas) - 1)
        plan.prepare(rows)
        latents = ode_samples(plan, self.trainer.policy, rows, seeds, stepped=stepped).final
        if generator.device.type == "cuda":
            torch.cuda.empty_cache()
        folder, one = self.folder / step_name(step), GenerationSettings(batch_size=1)
        for (planned, own), each in zip(batch, latents.split(1), strict=True):
            if own:
                videos = generate_videos_to(
                    folder, [planned], partial(self._decoded, each), one, generator.defaults.fps
                )
                list(videos)
        bar.finish(len(batch))

    def _decoded(self, latents: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        return self.trainer.generator.decode(latents).cpu()

    def _present(self, step: int, folder: Path) -> None:
        """Writes the folder's records, puts each video beside the reference's, and shows them in the trackers."""
        lost = missing_videos(folder, self.videos)
        if lost:
            raise InputError(
                f"{lost[0].file_name} was made by another process and is not in {folder}: all machines must share "
                "output_dir"
            )
        trainer, fps = self.trainer, self.trainer.generator.defaults.fps
        for planned in self.videos:
            video, reference = folder / planned.file_name, self.folder / step_name(0) / planned.file_name
            if step > 0 and reference.is_file():
                both = side_by_side(read_video(reference)[0], read_video(video)[0])
                video = self.folder / BESIDE / step_name(step) / planned.file_name
                write_video(video, both, fps)
            tag = f"{SAMPLES}/{Path(planned.file_name).stem}"
            show_video(trainer.callback_handler.callbacks, tag, video, planned.record.prompt, step)
        write_jsonl(folder / METADATA, [self._row(step, planned) for planned in self.videos])

    def _row(self, step: int, planned: PlannedVideo) -> dict[str, Any]:
        named = {name: getattr(planned.record, name) for name in FILE_COLUMNS}
        folder = self.folder / step_name(step)
        return {
            "file_name": planned.file_name,
            "prompt": planned.record.prompt,
            "negative_prompt": planned.record.negative_prompt,
            "id": planned.record.id,
            "seed": planned.seed,
            "model": self.trainer.generator.name,
            "step": step,
            **{name: os.path.relpath(file, folder) for name, file in named.items() if file is not None},
        }


def _failure_of(work: Callable[[], None], divided: bool = False) -> str | None:
    """Does `work`; returns what went wrong with a file or the memory, or None.

    Args:
        divided: whether processes share the weights, or tokens. Out of memory, one has left the others waiting, and
            must end.
    """
    try:
        work()
    except FAILURES as error:
        if divided and isinstance(error, torch.OutOfMemoryError):
            raise
        return str(error).split("\n")[0] or type(error).__name__
    return None


class GroupSamples:
    """Keeps the best and the worst video of the first group of some rollouts.

    Args:
        trainer: whose rollouts they are.
    """

    def __init__(self, trainer: AlignmentTrainer) -> None:
        self.trainer = trainer
        self._warned = False

    def keep(self, rollout: Rollout) -> None:
        """Writes and shows the two videos, if this rollout's turn has come and they differ in reward."""
        args: Any = self.trainer.args
        step = rollout.index * args.updates_per_rollout
        if not args.sample_groups or args.process_index > 0 or step % sampling_interval(args):
            return
        rewards = rollout.rewards[: args.num_generations]
        if rewards.max() > rewards.min():
            problem = _failure_of(lambda: self._write(step, rollout, rewards))
            if problem and not self._warned:
                self._warned = True
                logger.warning("No videos of rollout %d are kept (%s).", rollout.index, problem)

    @torch.no_grad()
    def _write(self, step: int, rollout: Rollout, rewards: torch.Tensor) -> None:
        generator = self.trainer.generator
        folder = Path(str(self.trainer.args.output_dir)) / SAMPLES / GROUPS / step_name(step)
        prompt, fps, rows, videos = rollout.prompts[0], generator.defaults.fps, [], []
        for name, index in (("worst", int(rewards.argmin())), ("best", int(rewards.argmax()))):
            videos.append(generator.decode(rollout.trajectories.final[index : index + 1])[0].cpu())
            file = f"{name}_{file_stem(prompt)}.mp4"
            write_video(folder / file, videos[-1], fps)
            rows.append({"file_name": file, "prompt": prompt, "reward": float(rewards[index]), "step": step})
        both = folder / "worst_and_best.mp4"
        write_video(both, side_by_side(videos[0], videos[1]), fps)
        write_jsonl(folder / METADATA, rows)
        caption = f"{prompt} (left: reward {rewards.min():.3g}, right: {rewards.max():.3g})"
        callbacks = self.trainer.callback_handler.callbacks
        show_video(callbacks, f"{SAMPLES}/{GROUPS}/worst_and_best", both, caption, step)
