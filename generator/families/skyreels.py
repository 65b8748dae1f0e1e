"""SkyReels V2 (arXiv 2504.13074) with one noise level for all frames: Wan's layout with other sizes and settings.

Its diffusion-forcing models predict with a noise level for each block of frames, by pipelines of their own, and are not
served.
"""

from __future__ import annotations

from typing import Any

from diffusers import SkyReelsV2ImageToVideoPipeline, SkyReelsV2Pipeline
from torch import Tensor

from generator.families.wan import WanGenerator, WanImageToVideoGenerator
from generator.inputs.conditions import Conditions
from generator.video_model import GenerationDefaults

SLOW_FPS = 16.0
"""Frame rate of the first of the two embeddings of frame rates; the second is of all others."""


class SkyReelsV2Generator(WanGenerator):
    """Adapter of `SkyReelsV2Pipeline`.

    Attributes:
        card_shift, card_guidance_scale: of the model cards; a scheduler's shift of 1 stands for none given.
    """

    pipeline_class = SkyReelsV2Pipeline
    shares_tokens = False
    card_shift, card_guidance_scale = 8.0, 6.0

    def _pipeline_defaults(self) -> GenerationDefaults:
        scheduler = self.pipeline.scheduler.config
        shift = scheduler.get("flow_shift", scheduler.get("shift", 1.0))
        shift = self.card_shift if shift in (None, 1.0) else shift
        return GenerationDefaults(97, 544, 960, 24.0, 50, self.card_guidance_scale, shift)

    def _transformer_arguments(
        self, latents: Tensor, sigma: Tensor, conditions: Conditions
    ) -> dict[str, Any]:
        arguments = super()._transformer_arguments(latents, sigma, conditions)
        if self.pipeline.transformer.config.inject_sample_info:
            arguments["fps"] = [0 if self.defaults.fps == SLOW_FPS else 1] * len(latents)
        return arguments


class SkyReelsV2ImageToVideoGenerator(SkyReelsV2Generator, WanImageToVideoGenerator):
    """Adapter of `SkyReelsV2ImageToVideoPipeline`, which sees the image as Wan 2.1 I2V does."""

    pipeline_class = SkyReelsV2ImageToVideoPipeline
    card_shift, card_guidance_scale = 5.0, 5.0
