"""A cascade: a base model and the stages behind it, as one `VideoGenerator`.

The folder of a cascade holds `model_index.json`, which names the base (a built-in model, a hub id, or a folder relative
to this one) and the folders of the stages in their order; a stage may come twice. Noise levels, latents and velocities
are those of the base, so adapters of the base load unchanged; `generate` alone runs the stages.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from generator.base import VideoGenerator
from generator.cascade.resampling import blend_frames, keep_frames
from generator.cascade.stage import (
    INDEX_NAME,
    OWN_SAMPLING,
    CascadeStage,
    StageSampling,
    load_stage,
    read_settings,
)
from generator.files.built_in import is_built_in
from generator.files.model_folders import CASCADE_CLASS
from generator.inputs.conditions import Conditions
from generator.one_or_several import as_list
from generator.output import InputError, read_record, write_json
from generator.sampling import one_seed_each

BASE_FPS = 4.0
"""Frames a second of the base's videos where the cascade's file does not say."""
BASE_SIZE = (9, 32, 32)
"""Frames, height and width of the base's videos where the cascade's file does not say."""


class CascadeGenerator(VideoGenerator):
    """A base and its stages.

    A base whose frame rate is a multiple of the cascade's makes videos at its own rate, of which every `every`-th frame
    is kept. One of any other rate makes key frames, each encoded as an image, `1 / base_fps` seconds apart; it must
    know such frames (`generator.inputs.frames.FrameVelocity.takes_key_frames`).

    Args:
        base: model of the coarse videos.
        stages: in the order in which they run.
        name: what the cascade was loaded from.
        base_fps: frames a second of the coarse videos.
        base_size: their frames, height and width by default.

    Raises:
        InputError: the base makes no frames at that rate.
    """

    def __init__(
        self,
        base: VideoGenerator,
        stages: Sequence[CascadeStage],
        name: str,
        base_fps: float = BASE_FPS,
        base_size: tuple[int, int, int] = BASE_SIZE,
    ) -> None:
        self.base: VideoGenerator = base
        self.stages = list(stages)
        self.name = name
        self.pipeline = base.pipeline
        self.lora_target_modules = base.lora_target_modules
        self.base_fps = base_fps
        times = max(round(base.defaults.fps / base_fps), 1)
        self.key_frames = base.defaults.fps != times * base_fps
        self.every = 1 if self.key_frames else times
        frames = base.frames
        if self.key_frames and (frames is None or not frames.takes_key_frames):
            raise InputError(
                f"The cascade {name} wants {base_fps:g} frames a second of its base, but {base.name} makes "
                f"{base.defaults.fps:g}: name a base of that rate or a multiple of it."
            )
        size, fps = base_size, base_fps
        for stage in self.stages:
            size, fps = stage.finer_size(*size), stage.finer_rate(fps)
        self.defaults = replace(base.defaults, num_frames=size[0], height=size[1], width=size[2], fps=fps)

    @property
    def transformer(self) -> torch.nn.Module:
        return self.base.transformer

    def factors(self) -> tuple[int, int]:
        """Times the base's frame rate, and times its height and width, that the stages make."""
        found = {"temporal": 1, "spatial": 1}
        for stage in self.stages:
            found[stage.settings.stage] *= stage.settings.factor
        return found["temporal"], found["spatial"]

    def base_size(self, num_frames: int, height: int, width: int) -> tuple[int, int, int]:
        """Size of the base's videos for finer ones of this size, rounded to what the base can make."""
        time, space = self.factors()
        side, step = self._base_multiples()
        frames = round((num_frames - 1) / (time * step)) * step + 1
        return frames, *(max(round(n / (space * side)), 1) * side for n in (height, width))  # type: ignore[return-value]

    def _base_multiples(self) -> tuple[int, int]:
        side, time = self.base.size_multiples()
        return side, 1 if self.key_frames else time // math.gcd(time, self.every)

    def size_multiples(self) -> tuple[int, int]:
        (time, space), (side, step) = self.factors(), self._base_multiples()
        return space * side, time * step

    def check_size(self, num_frames: int, height: int, width: int) -> None:
        time, space = self.factors()
        base = self.base_size(num_frames, height, width)
        least = 1 + self._base_multiples()[1] if time > 1 else 1
        base = (max(base[0], least), *base[1:])
        nearest = (time * (base[0] - 1) + 1, space * base[1], space * base[2])
        if nearest != (num_frames, height, width):
            raise InputError(
                f"{self.name} cannot make {num_frames} frames of {height}x{width} from its base: the nearest is "
                f"--num_frames {nearest[0]} --height {nearest[1]} --width {nearest[2]}."
            )

    def latent_shape(self, num_frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """`(channels, frames, height, width)` of the base's latents for finer videos of this size."""
        frames, height, width = self.base_size(num_frames, height, width)
        if not self.key_frames:
            return self.base.latent_shape(self.every * (frames - 1) + 1, height, width)
        channels, _, rows, columns = self.base.latent_shape(1, height, width)
        return channels, frames, rows, columns

    def sigma_schedule(self, num_inference_steps: int, latent_shape: Sequence[int] | None = None) -> Tensor:
        return self.base.sigma_schedule(num_inference_steps, latent_shape)

    def encode(self, videos: Tensor) -> Tensor:
        """Coarse videos `[batch, 3, frames, height, width]` to the base's latents; frames of the base between those
        that are kept are blended linearly."""
        if not self.key_frames:
            return self.base.encode(blend_frames(videos, self.every))
        images = videos.transpose(1, 2).flatten(0, 1)[:, :, None]
        return self.base.encode(images)[:, :, 0].unflatten(0, (len(videos), -1)).transpose(1, 2)

    def decode(self, latents: Tensor) -> Tensor:
        """The base's latents to coarse videos `[batch, 3, frames, height, width]`."""
        if not self.key_frames:
            return keep_frames(self.base.decode(latents), self.every)
        images = self.base.decode(latents.transpose(1, 2).flatten(0, 1)[:, :, None])[:, :, 0]
        return images.unflatten(0, (len(latents), -1)).transpose(1, 2)

    def encode_prompts(self, prompts: Sequence[str]) -> Conditions:
        return self.base.encode_prompts(prompts)

    @property
    def max_prompt_tokens(self) -> int | None:
        return self.base.max_prompt_tokens

    def lost_end(self, prompt: str) -> str:
        return self.base.lost_end(prompt)

    def unknown_words(self, prompt: str) -> list[str]:
        return self.base.unknown_words(prompt)

    def velocity(
        self,
        latents: Tensor,
        sigma: Tensor,
        conditions: Conditions,
        transformer: torch.nn.Module | None = None,
    ) -> Tensor:
        frames = self.base.frames
        if not self.key_frames or frames is None:
            return self.base.velocity(latents, sigma, conditions, transformer)
        levels = sigma[:, None].expand(-1, latents.shape[2])
        return frames(latents, levels, conditions, 1 / self.base_fps, True, transformer)

    def features(
        self, latents: Tensor, sigma: Tensor, conditions: Conditions, num_blocks: int
    ) -> tuple[Tensor, Tensor]:
        return self.base.features(latents, sigma, conditions, num_blocks)

    def save_pretrained(self, folder: Path, state_dict: Any = None) -> None:
        raise InputError(
            f"{self.name} is a cascade, whose base alone is trained and saved: name its base {self.base.name}."
        )

    def generate(
        self,
        prompts: Sequence[str],
        *args: Any,
        seed: int | Sequence[int] = 0,
        batch_size: int = 8,
        stage_sampling: StageSampling = OWN_SAMPLING,
        **options: Any,
    ) -> Tensor:
        """Videos `[len(prompts), 3, frames, height, width]` in [-1, 1] on the CPU, through all stages.

        Args:
            prompts, seed, batch_size, args, options: as in `VideoGenerator.generate`; steps and guidance are the
                base's.
            stage_sampling: steps, guidance and augmentation of the stages; each has its own by default.
        """
        prompts = as_list(prompts)
        seeds = one_seed_each(seed, len(prompts))
        videos = self.generate_base(prompts, *args, seed=seeds, batch_size=batch_size, **options)
        parts = [
            through_stages(
                self.stages,
                videos[start : start + batch_size],
                self.base_fps,
                prompts[start : start + batch_size],
                seeds[start : start + batch_size],
                stage_sampling,
            )[0]
            for start in range(0, len(prompts), batch_size)
        ]
        return torch.cat(parts)

    def generate_base(self, prompts: Sequence[str], *args: Any, **options: Any) -> Tensor:
        """Coarse videos of the base alone; the arguments, with the size of the finer videos, are those of
        `generate`."""
        return super().generate(prompts, *args, **options)


def through_stages(
    stages: Sequence[Any],
    videos: Tensor,
    fps: float,
    prompts: Sequence[str],
    seeds: Sequence[int],
    sampling: StageSampling = OWN_SAMPLING,
) -> tuple[Tensor, float]:
    """Videos after all stages, and their frames a second."""
    prompts = as_list(prompts)
    for stage in stages:
        videos, fps = stage.upsample(videos, fps, prompts, seeds, sampling), stage.finer_rate(fps)
    return videos, fps


def read_cascade(folder: Path) -> dict[str, Any]:
    """Content of a cascade's `model_index.json`.

    Raises:
        InputError: it is damaged.
    """
    found = read_record(folder / INDEX_NAME)
    stages = found.get("stages")
    named = isinstance(stages, list) and stages and all(isinstance(each, str) for each in stages)
    if not named or not isinstance(found.get("base"), str):
        raise InputError(
            f"{folder / INDEX_NAME} names no base and stages: restore it, or join the stages again with "
            "`vidalign pretrain --join_stages`."
        )
    return found


def base_of(folder: Path) -> str:
    """Name, hub id or folder of a cascade's base or a stage's codec, for `load_generator`."""
    found = read_record(folder / INDEX_NAME)
    named = str(found.get("base") or found.get("codec"))
    relative = folder / named
    return os.path.normpath(relative) if (relative / INDEX_NAME).is_file() else named


def load_cascade(folder: Path, name: str, load_base: Callable[[str], VideoGenerator]) -> CascadeGenerator:
    """Reads a cascade.

    Args:
        folder: of the cascade.
        name: what the user called it.
        load_base: loads a model by its name, with the adapters and on the device that were asked for.

    Raises:
        InputError: base or stages cannot be read, or do not fit each other.
    """
    found = read_cascade(folder)
    base = load_base(base_of(folder))
    stages = [load_stage(folder / each, base, number) for number, each in enumerate(found["stages"])]
    size = tuple(found.get("base_size", BASE_SIZE))
    if len(size) != 3:
        raise InputError(
            f"{folder / INDEX_NAME} has base_size {size}, but frames, height and width are needed."
        )
    return CascadeGenerator(base, stages, name, float(found.get("base_fps", BASE_FPS)), size)


def join_stages(
    folder: Path,
    stages: Sequence[str | Path],
    base: str | None = None,
    base_fps: float = BASE_FPS,
    base_size: Sequence[int] = BASE_SIZE,
) -> None:
    """Writes a cascade of trained stages, which are copied into `folder`; one that comes twice is copied once.

    Args:
        folder: of the cascade.
        stages: folders of the stages in their order.
        base: model in front of them; the one whose autoencoder the first stage was trained with by default.
        base_fps: frames a second of the base's videos.
        base_size: their frames, height and width.

    Raises:
        InputError: a folder holds no stage.
    """
    names: dict[Path, str] = {}
    order = []
    for each in stages:
        source = Path(each).resolve()
        kind = read_settings(source).stage
        if source not in names:
            same = sum(name.split("-")[0] == kind for name in names.values())
            names[source] = kind if not same else f"{kind}-{same + 1}"
        order.append(names[source])
    base = base or base_of(Path(stages[0]))
    for source, name in names.items():
        shutil.copytree(source / "transformer", folder / name / "transformer", dirs_exist_ok=True)
        settings = read_record(source / INDEX_NAME)
        codec = base_of(source)
        write_json(folder / name / INDEX_NAME, {**settings, "codec": _portable(codec, folder / name)})
    found = {"_class_name": CASCADE_CLASS, "base": _portable(base, folder), "base_fps": base_fps}
    write_json(folder / INDEX_NAME, {**found, "base_size": list(base_size), "stages": order})


def _portable(model: str, folder: Path) -> str:
    """A model's name as it is written into `folder`: built-in names and hub ids as they are, folders relative to it."""
    if is_built_in(model) or not (Path(model) / INDEX_NAME).is_file():
        return model
    return Path(os.path.relpath(Path(model).resolve(), folder.resolve())).as_posix()
