"""Latent upsamplers of diffusers for LTX-Video and LTX-2 behind the operations of a stage."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from generator.base import VideoGenerator
from generator.cascade.stage import OWN_SAMPLING, StageSampling
from generator.output import InputError, read_record

PIPELINES = {
    "LTXLatentUpsamplerModel": "LTXLatentUpsamplePipeline",
    "LTX2LatentUpsamplerModel": "LTX2LatentUpsamplePipeline",
}
"""Class of the network of a latent upsampler -> pipeline of diffusers that applies it."""
FAMILIES = {"LTXLatentUpsamplePipeline": "LTXGenerator", "LTX2LatentUpsamplePipeline": "LTX2Generator"}


def upsampler_folder(folder: Path) -> Path | None:
    """The folder with the network of a latent upsampler: `folder` itself or `latent_upsampler` in it; None where there
    is none."""
    for candidate in (folder / "latent_upsampler", folder):
        config = candidate / "config.json"
        if config.is_file() and read_record(config).get("_class_name") in PIPELINES:
            return candidate
    return None


class LatentUpsampler:
    """Upsampler of diffusers that works on the latents of one model.

    Args:
        folder: with the network, from `upsampler_folder`.
        generator: the model whose latents it takes.

    Raises:
        InputError: the network is for another family, or cannot be read.
    """

    def __init__(self, folder: Path, generator: VideoGenerator) -> None:
        import diffusers
        from diffusers.pipelines import ltx, ltx2

        kind = str(read_record(folder / "config.json")["_class_name"])
        pipeline = PIPELINES[kind]
        if type(generator).__name__ != FAMILIES[pipeline]:
            raise InputError(
                f"{folder} is a {kind}, which works on the latents of {FAMILIES[pipeline].removesuffix('Generator')}, "
                f"but the model is {generator.name}: name a model of that family."
            )
        module: Any = ltx2 if kind.startswith("LTX2") else ltx
        try:
            network = getattr(module, kind).from_pretrained(folder, torch_dtype=generator.dtype)
        except (OSError, ValueError, SafetensorError) as error:
            raise InputError(
                f"The upsampler {folder} cannot be read ({error}): restore its files."
            ) from error
        network = network.to(generator.device).requires_grad_(False).eval()
        self.pipeline = getattr(diffusers, pipeline)(vae=generator.pipeline.vae, latent_upsampler=network)
        self.generator: Any = generator
        self.name = str(folder)
        config = network.config
        self.time = 2 if config.temporal_upsample else 1
        scale = (
            config.get("rational_spatial_scale", 2.0) if config.get("use_rational_resampler", False) else 2.0
        )
        self.space = scale if config.spatial_upsample else 1.0

    def finer_size(self, num_frames: int, height: int, width: int) -> tuple[int, int, int]:
        """Size of what becomes of videos of this size."""
        return self.time * (num_frames - 1) + 1, round(self.space * height), round(self.space * width)

    def finer_rate(self, fps: float) -> float:
        """Frames a second of what becomes of videos at `fps`."""
        return fps * self.time

    @torch.no_grad()
    def upsample_latents(self, latents: Tensor) -> Tensor:
        """Normalised latents of the finer videos from normalised latents `[batch, channels, frames, height, width]`."""
        normalised = {"latents_normalized": True} if type(self.pipeline).__name__.startswith("LTX2") else {}
        side = self.pipeline.vae_spatial_compression_ratio
        found = self.pipeline(
            latents=latents.to(self.generator.device),
            height=side * latents.shape[3],
            width=side * latents.shape[4],
            output_type="latent",
            return_dict=False,
            **normalised,
        )[0]
        # The pipeline of LTX-2 gives the autoencoder's own latents, that of LTX-Video normalised ones.
        return self.generator.normalise(found.float()) if normalised else found.float()

    def upsample(
        self,
        videos: Tensor,
        fps: float,
        prompts: Sequence[str],
        seeds: Sequence[int],
        sampling: StageSampling = OWN_SAMPLING,
    ) -> Tensor:
        """Finer videos, as `Upsampler.upsample`; the videos are encoded first, and text and noise play no part."""
        self.generator.check_size(*videos.shape[2:])
        latents = self.generator.encode(videos.to(self.generator.device))
        return self.generator.decode(self.upsample_latents(latents)).cpu()
