"""Wan VACE (arXiv 2503.07598): Wan with blocks beside its own that see a control video and a mask."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import WanVACEPipeline
from einops import rearrange
from torch import Tensor, nn

from generator.families.pipeline_generator import ATTENTION_LAYERS
from generator.families.wan import WanGenerator
from generator.inputs.conditions import Conditions
from generator.inputs.images import Shapes
from generator.output import InputError

CONTROL = "control_latents"
"""Condition that holds latents of the control video and its mask; without it nothing is controlled."""


class WanVACEGenerator(WanGenerator):
    """Adapter of `WanVACEPipeline`: videos from text, and from control videos where prompts name one.

    LoRA changes the blocks that are also Wan's, so that an adapter serves the model without control too.
    """

    pipeline_class = WanVACEPipeline
    side_lists = ("vace_blocks",)
    takes_control = True
    shares_tokens = False

    def __init__(self, pipeline: WanVACEPipeline, name: str) -> None:
        if pipeline.transformer is None or pipeline.transformer_2 is not None:
            raise InputError(
                f"{name} has a second transformer, but of Wan's VACE models those with one (2.1) are supported."
            )
        super().__init__(pipeline, name)
        self._grey: dict[tuple[int, ...], Tensor] = {}
        """Latents of grey videos by their size: encoded once, not beside decoding in another thread."""
        self.lora_target_modules = [
            name
            for name, module in pipeline.transformer.named_modules()
            if isinstance(module, nn.Linear)
            and name.startswith("blocks.")
            and name.endswith(tuple(f".{layer}" for layer in ATTENTION_LAYERS))
        ]

    @torch.no_grad()
    def control(self, videos: Tensor, masks: Tensor) -> Conditions:
        made = (masks > 0.5).to(videos)
        kept, steering = (self.encode(videos * part) for part in (1 - made, made))
        space, _ = self._compression()
        pixels = rearrange(made[:, 0], "b f (h p) (w q) -> b (p q) f h w", p=space, q=space)
        mask = nn.functional.interpolate(pixels, size=kept.shape[2:], mode="nearest-exact")
        return {CONTROL: torch.cat([kept, steering, mask.to(kept)], dim=1)}

    def _no_control(self, latents: Tensor) -> Tensor:
        """The control `[batch, channels, frames, height, width]` of grey videos that are all made anew."""
        shape = tuple(latents.shape[2:])
        if shape not in self._grey:
            space, time = self._compression()
            size = (shape[0] - 1) * time + 1, shape[1] * space, shape[2] * space
            self._grey[shape] = self.encode(torch.zeros(1, 3, *size, device=self.device))
        grey = self._grey[shape].to(latents.device)
        channels = self.pipeline.transformer.config.vace_in_channels - 2 * grey.shape[1]
        control = torch.cat([grey, grey, grey.new_ones(1, channels, *shape)], dim=1)
        return control.expand(len(latents), -1, -1, -1, -1)

    def control_shapes(self, latent_shape: Sequence[int]) -> Shapes:
        channels = self.pipeline.transformer.config.vace_in_channels
        return {CONTROL: ((channels, *latent_shape[1:]), torch.float32)}

    def _transformer_arguments(
        self, latents: Tensor, sigma: Tensor, conditions: Conditions
    ) -> dict[str, Any]:
        arguments = super()._transformer_arguments(latents, sigma, conditions)
        control = conditions.get(CONTROL)
        if control is None:
            control = self._no_control(latents)
        arguments["control_hidden_states"] = control.to(latents.device, self.dtype)
        return arguments
