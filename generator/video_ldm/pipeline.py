"""Video LDM as a diffusers pipeline, and its making from an image model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from transformers import T5EncoderModel, T5Tokenizer

from generator.native.autoencoder import NativeVideoAutoencoder
from generator.native.pipeline import NativeVideoPipeline
from generator.native.transformer import NativeVideoTransformer3DModel
from generator.output import InputError
from generator.video_ldm.autoencoder import VideoLDMAutoencoder
from generator.video_ldm.transformer import VideoLDMTransformer3DModel


class VideoLDMPipeline(NativeVideoPipeline):
    """Text to video: prompt -> T5 -> image transformer with temporal layers -> decoder with temporal layers.

    Every frame is an image in latent space; `fps` is the frame rate that the model is told.
    """

    def __init__(
        self,
        tokenizer: T5Tokenizer,
        text_encoder: T5EncoderModel,
        vae: VideoLDMAutoencoder,
        transformer: VideoLDMTransformer3DModel,
        scheduler: FlowMatchEulerDiscreteScheduler,
        fps: float = 8.0,
    ) -> None:
        super().__init__(tokenizer, text_encoder, vae, transformer, scheduler, fps)


@dataclass(frozen=True)
class Inserted:
    """A video model around the layers of an image model.

    Attributes:
        pipeline: the video model.
        has_decoder: whether the source's decoder already has temporal layers.
    """

    pipeline: VideoLDMPipeline
    has_decoder: bool


def insert_temporal_layers(
    source: NativeVideoPipeline, name: str, task: str = "generation", seed: int = 0
) -> Inserted:
    """Video model whose spatial layers are those of `source`, an image model or a video model made from one.

    The temporal layers of an image model are new, with alpha 1: its frames are the image model's. Those of a video
    model are its own.

    Args:
        name: of the source, for messages.
        task: that is to be trained, one of `generator.video_ldm.transformer.TASKS`.
        seed: of new weights.

    Raises:
        InputError: the source's transformer does not take images one by one.
    """
    config = _arguments(source.transformer, NativeVideoTransformer3DModel)
    frames, *_ = config["patch_size"]
    if config["attention"] != "full" or frames != 1:
        raise InputError(
            f"{name} has attention {config['attention']!r} and patches of {frames} frames, but "
            "temporal layers are inserted into an image model: train one with `vidalign pretrain --images_only`."
        )
    known = isinstance(source.transformer, VideoLDMTransformer3DModel)
    seconds = source.transformer.config.image_seconds_per_frame if known else source.seconds_per_latent_frame
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        transformer = VideoLDMTransformer3DModel(
            **{**config, "image_seconds_per_frame": seconds, "task": task}
        )
        vae = VideoLDMAutoencoder(**_arguments(source.vae, NativeVideoAutoencoder))
    transformer.load_state_dict({**transformer.state_dict(), **source.transformer.state_dict()})
    vae.load_state_dict({**vae.state_dict(), **source.vae.state_dict()})
    for module in (transformer, vae):
        module.requires_grad_(False).eval()
    pipeline = VideoLDMPipeline(
        tokenizer=source.tokenizer,
        text_encoder=source.text_encoder,
        vae=vae,
        transformer=transformer,
        scheduler=source.scheduler,
        fps=source.config.fps,
    )
    return Inserted(pipeline, isinstance(source.vae, VideoLDMAutoencoder))


def _arguments(module: Any, kind: Any) -> dict[str, Any]:
    """Arguments of `kind` in the configuration of a module that is one."""
    names = kind._get_init_keys(kind) - {"self", "kwargs"}
    return {name: value for name, value in dict(module.config).items() if name in names}
