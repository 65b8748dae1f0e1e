"""Generators small enough to train in a test within a second: their latents are averaged pixels.

`StandInGenerator` is what trainers learn on; `ColourGenerator` has features for latent reward models, and its videos
can be judged: a prompt asks for a colour. Models of a family's real class are in `generator.testing.pipelines`.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.loaders import PeftAdapterMixin
from torch import Tensor, nn

from generator.base import VideoGenerator
from generator.inputs.conditions import Conditions
from generator.output import InputError
from generator.video_model import GenerationDefaults

CELL = 4
RGB = {"red": (1, -1, -1), "green": (-1, 1, -1), "blue": (-1, -1, 1), "white": (1, 1, 1)}
COLOURS = tuple(RGB)


class AveragedPixels(VideoGenerator):
    """Generator without an autoencoder: a latent pixel is the mean of a cell of 4 by 4 pixels."""

    channels: int
    frame_stride: int

    def __init__(
        self, name: str, network: nn.Module, lora_target_modules: list[str], flow_shift: float
    ) -> None:
        self.name = name
        self.network = network
        self.lora_target_modules = lora_target_modules
        self.defaults = GenerationDefaults(3, 8, 8, 8.0, 4, 1.0, flow_shift)
        self.pipeline: Any = SimpleNamespace()

    @property
    def transformer(self) -> nn.Module:
        return self.network

    def check_size(self, num_frames: int, height: int, width: int) -> None:
        nearest = (
            round((num_frames - 1) / self.frame_stride) * self.frame_stride + 1,
            *(max(CELL, round(side / CELL) * CELL) for side in (height, width)),
        )
        if nearest != (num_frames, height, width):
            raise InputError(
                f"{num_frames} frames of {height}x{width} are not a size of this model: "
                f"the nearest is {nearest[1]}x{nearest[2]} with {nearest[0]} frames."
            )

    def size_multiples(self) -> tuple[int, int]:
        return CELL, self.frame_stride

    def latent_shape(self, num_frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        return self.channels, (num_frames - 1) // self.frame_stride + 1, height // CELL, width // CELL


class Attention(nn.Module):
    """Self-attention with the layer names of diffusers."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.to_q, self.to_k, self.to_v = (nn.Linear(size, size) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(size, size)])

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (layer(x)[:, None] for layer in (self.to_q, self.to_k, self.to_v))
        return self.to_out[0](nn.functional.scaled_dot_product_attention(q, k, v)[:, 0])


class StandInTransformer(ModelMixin, ConfigMixin, PeftAdapterMixin):
    """Transformer over the latent pixels of a video and its text, with all that training asks of diffusers' models."""

    _supports_gradient_checkpointing = True

    @register_to_config
    def __init__(self, channels: int = 4, size: int = 16, layers: int = 2) -> None:
        super().__init__()
        self.proj_in = nn.Linear(channels + 1, size)
        self.blocks = nn.ModuleList([Attention(size) for _ in range(layers)])
        self.proj_out = nn.Linear(size, channels)
        self.gradient_checkpointing = False

    def forward(self, hidden_states: Tensor, timestep: Tensor, encoder_hidden_states: Tensor) -> Tensor:
        tokens = hidden_states.flatten(2).transpose(1, 2)
        time = timestep[:, None, None].expand(*tokens.shape[:2], 1).to(tokens)
        x = self.proj_in(torch.cat([tokens, time], -1))
        x = torch.cat([encoder_hidden_states.to(x), x], 1)
        for block in self.blocks:
            if torch.is_grad_enabled() and self.gradient_checkpointing:
                x = x + self._gradient_checkpointing_func(block, x)
            else:
                x = x + block(x)
        x = self.proj_out(x[:, encoder_hidden_states.shape[1] :])
        return x.transpose(1, 2).reshape(hidden_states.shape)


class StandInGenerator(AveragedPixels):
    """Generator with random weights whose transformer takes LoRA, checkpoints and engines.

    Args:
        seed: of the weights.
        config: arguments of `StandInTransformer`.
    """

    channels, frame_stride = 4, 2

    def __init__(self, seed: int = 0, **config: int) -> None:
        torch.manual_seed(seed)
        targets = ["to_q", "to_k", "to_v", "to_out.0"]
        super().__init__("stand-in", StandInTransformer(**config).eval(), targets, flow_shift=2.0)

    def encode(self, videos: Tensor) -> Tensor:
        pooled = nn.functional.avg_pool3d(videos[:, :, ::2], (1, CELL, CELL))
        return torch.cat([pooled, pooled.mean(1, keepdim=True)], 1)

    def decode(self, latents: Tensor) -> Tensor:
        frames = latents[:, :3].repeat_interleave(2, 2)[:, :, 1:]
        return nn.functional.interpolate(frames, scale_factor=(1, CELL, CELL)).clamp(-1, 1)

    def encode_prompts(self, prompts: Sequence[str]) -> Conditions:
        rows = []
        for prompt in prompts:
            random = torch.Generator().manual_seed(sum(map(ord, prompt)))
            rows.append(torch.randn(3, 16, generator=random))
        return {"text": torch.stack(rows)}

    def velocity(
        self, latents: Tensor, sigma: Tensor, conditions: Conditions, transformer: nn.Module | None = None
    ) -> Tensor:
        return (transformer or self.network)(
            hidden_states=latents.to(self.dtype), timestep=sigma, encoder_hidden_states=conditions["text"]
        ).float()

    def features(
        self, latents: Tensor, sigma: Tensor, conditions: Conditions, num_blocks: int
    ) -> tuple[Tensor, Tensor]:
        raise NotImplementedError("StandInGenerator has no features: ColourGenerator has.")


class ColourBlock(nn.Module):
    """Attention over video and text, which leave it as two streams."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(size, 2, batch_first=True)
        self.to_out = nn.Linear(size, size)

    def forward(self, video: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        joint = torch.cat([video, text], dim=1)
        joint = joint + self.to_out(self.attention(joint, joint, joint, need_weights=False)[0]).tanh()
        return joint[:, : video.shape[1]], joint[:, video.shape[1] :]


class ColourTransformer(nn.Module):
    """Four blocks over the latent pixels of a video and one token a colour."""

    def __init__(self, size: int = 16) -> None:
        super().__init__()
        self.patch = nn.Linear(3, size)
        self.transformer_blocks = nn.ModuleList([ColourBlock(size) for _ in range(4)])
        self.out = nn.Linear(size, 3)

    def streams(self, latents: Tensor, sigma: Tensor, text: Tensor, num_blocks: int) -> tuple[Tensor, Tensor]:
        """Tokens of the video and of the text after `num_blocks` blocks."""
        video = self.patch(latents.flatten(2).transpose(1, 2)) + sigma[:, None, None]
        for block in self.transformer_blocks[:num_blocks]:
            video, text = block(video, text)
        return video, text

    def forward(self, latents: Tensor, sigma: Tensor, text: Tensor) -> Tensor:
        video, _ = self.streams(latents, sigma, text, 4)
        return self.out(video).transpose(1, 2).reshape(latents.shape)


class ColourGenerator(AveragedPixels):
    """Generator whose text is one token for each colour that the prompt names.

    Args:
        seed: of the weights; the random state outside stays as it is.

    Attributes:
        encoded_videos: number of videos that `encode` has taken.
    """

    channels, frame_stride = 3, 1

    def __init__(self, seed: int = 0) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            network, vae = ColourTransformer(), nn.Linear(3, 3)
        super().__init__("colours", network, ["to_out"], flow_shift=1.0)
        self.pipeline.components = {"transformer": network, "vae": vae}
        self.vae = vae
        self.encoded_videos = 0

    def encode(self, videos: Tensor) -> Tensor:
        self.encoded_videos += len(videos)
        return nn.functional.avg_pool3d(videos, (1, CELL, CELL))

    def decode(self, latents: Tensor) -> Tensor:
        return nn.functional.interpolate(latents, scale_factor=(1, CELL, CELL)).clamp(-1, 1)

    def encode_prompts(self, prompts: Sequence[str]) -> Conditions:
        rows = torch.zeros(len(prompts), len(COLOURS), 16)
        for row, prompt in enumerate(prompts):
            for number, colour in enumerate(COLOURS):
                rows[row, number, number] = 3.0 * (colour in prompt)
        return {"text": rows}

    def velocity(
        self, latents: Tensor, sigma: Tensor, conditions: Conditions, transformer: nn.Module | None = None
    ) -> Tensor:
        return (transformer or self.network)(latents, sigma, conditions["text"])

    def features(
        self, latents: Tensor, sigma: Tensor, conditions: Conditions, num_blocks: int
    ) -> tuple[Tensor, Tensor]:
        network: Any = self.network
        joint = torch.cat(network.streams(latents, sigma, conditions["text"], num_blocks), dim=1)
        return joint, torch.ones(joint.shape[:2], dtype=torch.bool)


def coloured_video(colour: str, seed: int) -> Tensor:
    """A noisy video `[3, 3, 8, 8]` of one colour."""
    noise = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    base = torch.tensor(RGB[colour], dtype=torch.float32)[:, None, None, None]
    return (base * 0.6 + 0.3 * noise).clamp(-1, 1)
