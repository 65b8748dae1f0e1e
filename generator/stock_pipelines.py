"""Calls of diffusers' pipelines as they are, from given noise, and exact predictions in their transformers' layouts.

The oracle of `vidalign prove` and of the tests of families: the latents of a pipeline's own call are those that our
sampler without noise must give.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import numpy as np
import torch
from diffusers import (
    CogVideoXDDIMScheduler,
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    WanPipeline,
)
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from torch import Tensor

from generator.output import InputError

if TYPE_CHECKING:
    from PIL.Image import Image

    from generator.video_model import VideoModel


@dataclass(frozen=True)
class StockVideos:
    """Videos that a pipeline is asked for in its own call.

    Attributes:
        prompts: one a video.
        noise: `[batch, C, F, H, W]`, float32, in the layout of `VideoModel`.
        num_frames, height, width: size in frames and pixels.
        num_inference_steps: Euler steps.
        guidance_scale: weight of classifier-free guidance; 1 means none.
        shift: of the schedule, for pipelines whose scheduler has one.
        fps: frames per second.
        image: the first frame, for pipelines that need one.
    """

    prompts: list[str]
    noise: Tensor
    num_frames: int
    height: int
    width: int
    num_inference_steps: int
    guidance_scale: float
    shift: float
    fps: float
    image: Image | None = None

    def arguments(self) -> dict[str, Any]:
        """Keyword arguments that all pipelines know."""
        return {
            "prompt": self.prompts,
            "height": self.height,
            "width": self.width,
            "num_frames": self.num_frames,
            "num_inference_steps": self.num_inference_steps,
            "guidance_scale": self.guidance_scale,
            "output_type": "latent",
            **({} if self.image is None else {"image": self.image}),
        }

    def one_by_one(self) -> list[StockVideos]:
        """The same videos, each alone."""
        return [
            replace(self, prompts=[prompt], noise=self.noise[row : row + 1])
            for row, prompt in enumerate(self.prompts)
        ]


class EulerWithExplicitSigmas(FlowMatchEulerDiscreteScheduler):
    """WanPipeline passes no sigmas, for which this scheduler's last step is wasted."""

    def set_timesteps(self, num_inference_steps: Any = None, device: Any = None, **_: Any) -> None:
        count = num_inference_steps
        super().set_timesteps(sigmas=np.linspace(1, 1 / count, count).tolist(), device=device)


def load_stock_pipeline(
    generator_class: type[VideoModel], folder: str | Path, device: torch.device, dtype: torch.dtype
) -> Any:
    """The pipeline in `folder` as diffusers loads it, without anything of ours.

    Args:
        generator_class: the family's adapter, which names the pipeline's class.
    """
    kind: Any = generator_class.pipeline_class  # type: ignore[attr-defined]
    pipeline = kind.from_pretrained(folder, dtype=dtype)
    if pipeline.config.get("expand_timesteps") and not isinstance(pipeline, WanPipeline):
        # TI2V-5B saved as an image-to-video pipeline also makes videos from text.
        parts = {name: part for name, part in pipeline.components.items() if not name.startswith("image_")}
        pipeline = WanPipeline(**parts, expand_timesteps=True)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device)


def load_stock_adapter(pipeline: Any, folder: Path, first: str, second: str) -> None:
    """Loads an adapter by the pipeline's own loader.

    Args:
        folder: holds the files.
        first, second: names of the file, and of that of the second transformer, where there is one.
    """
    if not hasattr(pipeline, "load_lora_weights"):
        # HunyuanVideo 1.5 has no loader; its transformer's needs the file's name.
        pipeline.transformer.load_lora_adapter(folder, weight_name=first, prefix="transformer")
        return
    pipeline.load_lora_weights(folder, weight_name=first)
    if (folder / second).is_file():
        pipeline.load_lora_weights(folder, weight_name=second, load_into_transformer_2=True)


@torch.no_grad()
def stock_latents(pipeline: Any, videos: StockVideos, **more: Any) -> Tensor:
    """Latents `[batch, C, F, H, W]` of the pipeline's own call, which `more` goes to.

    The solver is Euler's where the pipeline ships another one: Wan's UniPC, and what CogVideoX and AnimateDiff have,
    are replaced by the Euler and DDIM schedulers of diffusers.

    Raises:
        InputError: no call of this pipeline is known, or its scheduler cannot take this number of steps.
    """
    name = type(pipeline).__name__
    calls = {
        "Native": _plain,
        "VideoLDM": _plain,
        "WanVACE": _wan_vace,
        "Wan": _wan,
        "SkyReelsV2": _wan,
        "LTX2": _ltx2,
        "LTX": _ltx,
        "CogVideoX": _cogvideox,
    }
    calls |= {"AnimateDiff": _animatediff}
    calls |= {"HunyuanVideo15": _hunyuan_video15, "HunyuanVideo": _hunyuan_video}
    call = next((call for start, call in calls.items() if name.startswith(start)), None)
    if call is None:
        raise InputError(
            f"The call of a {name} is not known here: the pipelines are {', '.join(calls)}. docs/families.md says how "
            "to add a family."
        )
    if videos.image is None:
        return call(pipeline, videos, more)
    # Pipelines encode the image of a batch in different ways; the mode of its latents is the same in each call.
    with mock.patch.object(DiagonalGaussianDistribution, "sample", lambda self, generator=None: self.mode()):
        return torch.cat([call(pipeline, video, more) for video in videos.one_by_one()])


def _plain(pipeline: Any, videos: StockVideos, more: dict[str, Any]) -> Tensor:
    if pipeline.scheduler.config.shift != videos.shift:
        pipeline.scheduler = type(pipeline.scheduler).from_config(
            pipeline.scheduler.config, shift=videos.shift
        )
    return pipeline(**{**videos.arguments(), **more}, latents=videos.noise).frames


def _wan(pipeline: Any, videos: StockVideos, more: dict[str, Any]) -> Tensor:
    pipeline.scheduler = EulerWithExplicitSigmas(shift=videos.shift)
    return pipeline(**{**videos.arguments(), **more}, latents=videos.noise).frames


def _wan_vace(pipeline: Any, videos: StockVideos, more: dict[str, Any]) -> Tensor:
    """It takes one prompt, and no list of one."""
    return torch.cat(
        [_wan(pipeline, each, {"prompt": each.prompts[0], **more}) for each in videos.one_by_one()]
    )


def _ltx(pipeline: Any, videos: StockVideos, more: dict[str, Any]) -> Tensor:
    shape = videos.noise.shape[2:]
    packed = videos.noise.permute(0, 2, 3, 4, 1).flatten(1, 3)
    arguments = {**videos.arguments(), "frame_rate": videos.fps, **more}
    latents = pipeline(**arguments, latents=packed).frames
    return latents.unflatten(1, shape).permute(0, 4, 1, 2, 3)


def _ltx2(pipeline: Any, videos: StockVideos, more: dict[str, Any]) -> Tensor:
    """The video without sound: its guidance is classifier-free guidance alone."""
    plain = {"guidance_scale": 1.0, "stg_scale": 0.0, "modality_scale": 1.0, "guidance_rescale": 0.0}
    audio = {f"audio_{name}": value for name, value in plain.items()}
    arguments = {**plain, **audio, **videos.arguments(), "frame_rate": videos.fps, **more}
    arguments.setdefault("latents", videos.noise.permute(0, 2, 3, 4, 1).flatten(1, 3))
    with isolated_modalities(pipeline.transformer):
        latents = pipeline(**arguments).frames
    # Its latents come out as the autoencoder takes them.
    vae = pipeline.vae
    return pipeline._normalize_latents(latents, vae.latents_mean, vae.latents_std, vae.config.scaling_factor)


@contextmanager
def isolated_modalities(transformer: torch.nn.Module) -> Iterator[None]:
    """Inside, LTX-2's transformer lets sound and video see nothing of each other, whatever the pipeline says."""

    def isolate(
        _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return args, {**kwargs, "isolate_modalities": True}

    handle = transformer.register_forward_pre_hook(isolate, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def _cogvideox(pipeline: Any, videos: StockVideos, more: dict[str, Any]) -> Tensor:
    total, steps = pipeline.scheduler.config.num_train_timesteps, videos.num_inference_steps
    if total % steps:
        raise InputError(
            f"CogVideoX's scheduler ends above zero noise with {steps} steps, as {total} is no multiple of it: choose "
            "4, 8, 10, 20, 25, 40 or 50."
        )
    pipeline.scheduler = CogVideoXDDIMScheduler.from_config(pipeline.scheduler.config)
    seen: list[Tensor] = []

    def keep(_: Any, __: int, ___: int, values: dict[str, Any]) -> dict[str, Any]:
        seen.append(values["latents"])
        return values

    pipeline(
        **{**videos.arguments(), **more},
        max_sequence_length=pipeline.transformer.config.max_text_seq_length,
        latents=videos.noise.transpose(1, 2),
        callback_on_step_end=keep,
    )
    return seen[-1].transpose(1, 2)


def _animatediff(pipeline: Any, videos: StockVideos, more: dict[str, Any]) -> Tensor:
    """DDIM whose last step ends without noise; some configurations end at the noise of the first timestep."""
    pipeline.scheduler = DDIMScheduler.from_config(
        pipeline.scheduler.config, clip_sample=False, set_alpha_to_one=True
    )
    return pipeline(**{**videos.arguments(), **more}, latents=videos.noise).frames


def _hunyuan_video(pipeline: Any, videos: StockVideos, more: dict[str, Any]) -> Tensor:
    negative = [""] * len(videos.prompts)
    own = {"guidance_scale": 6.0, "true_cfg_scale": videos.guidance_scale, "negative_prompt": negative}
    return _plain(pipeline, videos, {**own, **more})


def _hunyuan_video15(pipeline: Any, videos: StockVideos, more: dict[str, Any]) -> Tensor:
    pipeline.guider = type(pipeline.guider)(guidance_scale=videos.guidance_scale)
    arguments = {**videos.arguments(), "negative_prompt": [""] * len(videos.prompts), **more}
    del arguments["guidance_scale"]
    if videos.image is None:
        return pipeline(**arguments, latents=videos.noise).frames
    # Its call chooses a size near the model's own for the shape of the image.
    size = arguments.pop("height"), arguments.pop("width")
    with mock.patch.object(pipeline.video_processor, "calculate_default_height_width", return_value=size):
        return pipeline(**arguments, latents=videos.noise).frames


class ExactPrediction(torch.nn.Module):
    """Stands for a family's transformer and predicts exactly, in its layout and parametrisation.

    Args:
        pipeline: the family's pipeline.
        x0: clean latents `[batch, C, F, H, W]`.
        noise: of the same shape.
    """

    def __init__(self, pipeline: Any, x0: Tensor, noise: Tensor) -> None:
        super().__init__()
        self.kind, self.scheduler = type(pipeline).__name__, pipeline.scheduler
        self.x0, self.noise = x0, noise

    def forward(self, *_: Any, timestep: Tensor, **__: Any) -> tuple[Tensor]:
        """The prediction; everything but the timestep is left unread."""
        if self.kind.startswith("CogVideoX"):
            return (self.scheduler.get_velocity(self.x0, self.noise, timestep).transpose(1, 2),)
        if self.kind.startswith("AnimateDiff"):
            return (self.noise,)
        velocity = self.noise - self.x0
        if self.kind.startswith("LTX"):
            return (velocity.permute(0, 2, 3, 4, 1).flatten(1, 3),)
        return (velocity,)
