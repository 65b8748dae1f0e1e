"""A small generator with random weights, small data, and settings that make trainers run in a second."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.loaders import PeftAdapterMixin
from torch import nn

from generator.base import VideoGenerator
from generator.output import InputError
from generator.video_model import GenerationDefaults
from reward.models.base import RewardModel


class Attention(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.to_q, self.to_k, self.to_v = (nn.Linear(size, size) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(size, size)])

    def forward(self, x):
        q, k, v = (layer(x)[:, None] for layer in (self.to_q, self.to_k, self.to_v))
        return self.to_out[0](nn.functional.scaled_dot_product_attention(q, k, v)[:, 0])


class StandInTransformer(ModelMixin, ConfigMixin, PeftAdapterMixin):
    _supports_gradient_checkpointing = True

    @register_to_config
    def __init__(self, channels=4, size=16, layers=2):
        super().__init__()
        self.proj_in = nn.Linear(channels + 1, size)
        self.blocks = nn.ModuleList([Attention(size) for _ in range(layers)])
        self.proj_out = nn.Linear(size, channels)
        self.gradient_checkpointing = False

    def forward(self, hidden_states, timestep, encoder_hidden_states):
        batch, channels, frames, height, width = hidden_states.shape
        tokens = hidden_states.flatten(2).transpose(1, 2)
        time = timestep[:, None, None].expand(batch, tokens.shape[1], 1).to(tokens)
        x = self.proj_in(torch.cat([tokens, time], -1))
        x = torch.cat([encoder_hidden_states.to(x), x], 1)
        for block in self.blocks:
            if torch.is_grad_enabled() and self.gradient_checkpointing:
                x = x + self._gradient_checkpointing_func(block, x)
            else:
                x = x + block(x)
        x = self.proj_out(x[:, encoder_hidden_states.shape[1] :])
        return x.transpose(1, 2).reshape(batch, channels, frames, height, width)


class StandInGenerator(VideoGenerator):
    def __init__(self, seed=0, **config):
        torch.manual_seed(seed)
        self.name = "stand-in"
        self.pipeline = SimpleNamespace()
        self.defaults = GenerationDefaults(3, 8, 8, 8.0, 4, 1.0, 2.0)
        self.lora_target_modules = ["to_q", "to_k", "to_v", "to_out.0"]
        self._transformer = StandInTransformer(**config).eval()

    @property
    def transformer(self):
        return self._transformer

    def check_size(self, num_frames, height, width):
        if num_frames % 2 == 0 or height % 4 or width % 4:
            raise InputError("Frames must be odd, height and width multiples of 4.")

    def size_multiples(self):
        return 4, 2

    def features(self, latents, sigma, conditions, num_blocks):
        raise NotImplementedError

    def latent_shape(self, num_frames, height, width):
        return 4, (num_frames + 1) // 2, height // 4, width // 4

    def encode(self, videos):
        pooled = nn.functional.avg_pool3d(videos[:, :, ::2], (1, 4, 4))
        return torch.cat([pooled, pooled.mean(1, keepdim=True)], 1)

    def decode(self, latents):
        frames = latents[:, :3].repeat_interleave(2, 2)[:, :, 1:]
        return nn.functional.interpolate(frames, scale_factor=(1, 4, 4)).clamp(-1, 1)

    def encode_prompts(self, prompts):
        rows = []
        for prompt in prompts:
            random = torch.Generator().manual_seed(sum(map(ord, prompt)))
            rows.append(torch.randn(3, 16, generator=random))
        return {"text": torch.stack(rows)}

    def velocity(self, latents, sigma, conditions, transformer=None):
        return (transformer or self.transformer)(
            hidden_states=latents.to(self.dtype), timestep=sigma, encoder_hidden_states=conditions["text"]
        ).float()


class BrightReward(RewardModel):
    """Likes bright latents; judges latents directly."""

    name = "bright"
    scores_latents = True

    def score_latents(self, latents, conditions):
        return {"overall": latents.mean((1, 2, 3, 4))}

    def score(self, videos, prompts):
        return {"overall": videos.mean((1, 2, 3, 4))}


@pytest.fixture
def make_generator():
    return StandInGenerator


@pytest.fixture
def generator():
    return StandInGenerator()


@pytest.fixture
def bright():
    return BrightReward()


PROMPTS = ["a red ball", "a blue cube", "a star", "two rings", "a green cross", "a cat"]


@pytest.fixture
def prompts():
    return list(PROMPTS)


@pytest.fixture
def latents():
    random = torch.Generator().manual_seed(1)
    return [torch.randn(4, 2, 2, 2, generator=random) for _ in PROMPTS]


@pytest.fixture
def quiet(tmp_path):
    """Arguments of every trainer here."""
    return {
        "output_dir": str(tmp_path / "out"),
        "report_to": "none",
        "disable_tqdm": True,
        "save_strategy": "no",
        "logging_steps": 1,
        "use_cpu": True,
        "seed": 3,
    }
