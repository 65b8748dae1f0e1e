"""Memory that a method needs on a built-in model: small enough for one step of it to be run and measured."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from alignment.lora import LoraArguments, add_lora
from alignment.memory.work import Forecast, Work
from generator.base import VideoGenerator
from generator.hardware.memory_tracker import StorageTracker
from generator.inputs.conditions import Conditions
from generator.loading import load_generator

PROMPT = "a big red circle moves left above two small blue stars on a grey background"


def native_forecast(folder: Path, work: Work) -> Forecast:
    """Memory of `work` on the built-in model in `folder` in float32 on the CPU; a GPU's bfloat16 needs less.

    Raises:
        InputError: the model cannot make this size.
    """
    generator = load_generator(folder, device="cpu")
    generator.check_size(work.num_frames, work.height, work.width)
    found = Forecast()
    weights = list(generator.transformer.parameters())
    found.resident["transformer"] = sum(weight.nbytes for weight in weights)
    found.resident["autoencoder"] = sum(weight.nbytes for weight in generator.pipeline.vae.parameters())
    if work.method != "generate":
        add_lora(generator, LoraArguments(lora_r=work.lora_r), seed=0)
        trained = [weight.nbytes for weight in generator.transformer.parameters() if weight.requires_grad]
        # The weights, and AdamW's two averages of their gradients.
        found.resident["adapters and AdamW"] = 3 * sum(trained)
        branches = 2 if work.method == "dpo" or (work.method == "ppo" and work.guided) else 1
        update = _inputs(generator, work, work.batch * branches)
        found.transient["update"] = _peak(lambda: generator.velocity(*update).square().mean().backward())
    found.resident |= work.reward_weights
    found.transient |= work.judging
    if work.method in ("ppo", "generate"):
        videos = work.rollout_batch if work.method == "ppo" else work.batch
        sampled = _inputs(generator, work, videos * (2 if work.guided else 1))
        shape = generator.latent_shape(work.num_frames, work.height, work.width)
        with torch.no_grad():
            found.transient["sampling"] = _peak(lambda: generator.velocity(*sampled))
            latents = torch.zeros(work.decode_batch, *shape)
            found.transient["decoding"] = _peak(lambda: generator.decode(latents))
    return found


def _inputs(generator: VideoGenerator, work: Work, batch: int) -> tuple[Tensor, Tensor, Conditions]:
    shape = generator.latent_shape(work.num_frames, work.height, work.width)
    return torch.zeros(batch, *shape), torch.full((batch,), 0.5), generator.encode_prompts([PROMPT] * batch)


def _peak(run: Callable[[], object]) -> int:
    with StorageTracker() as tracker:
        run()
    return tracker.peak
