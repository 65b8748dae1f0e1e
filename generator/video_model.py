"""`VideoModel`: the few operations that every family of video generators offers.

One convention holds inside (rectified flow): `sigma` in [0, 1] with 1 = noise,
`x_sigma = (1 - sigma) * x_0 + sigma * noise`, and the transformer predicts the velocity `noise - x_0`. Latents are
float32, normalised to about unit variance, and shaped `[batch, channels, frames, height, width]`; videos are float
tensors of that layout in [-1, 1].
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from generator import flow
from generator.inputs.conditions import Conditions
from generator.inputs.frames import FrameVelocity
from generator.inputs.images import ImageConditions
from generator.inputs.packing import PackedVelocity
from generator.output import InputError

BLOCK_LISTS = ("transformer_blocks", "blocks", "layers")


@dataclass(frozen=True)
class GenerationDefaults:
    """Sizes and sampling settings that a family uses where the user says nothing.

    Attributes:
        num_frames, height, width: size of a video in frames and pixels.
        fps: frames per second.
        num_inference_steps: steps of the ODE sampler.
        guidance_scale: weight of classifier-free guidance; 1 means none.
        shift: time shift of the schedule towards noise; 1 means none.
        guidance_scale_2: weight for the second of two transformers, that of low noise; `guidance_scale` where None.
    """

    num_frames: int
    height: int
    width: int
    fps: float
    num_inference_steps: int
    guidance_scale: float
    shift: float
    guidance_scale_2: float | None = None

    def replaced(self, values: Mapping[str, Any]) -> GenerationDefaults:
        """Returns them with other values; a `guidance_scale` alone is then that of both transformers."""
        both = {"guidance_scale_2": None} if "guidance_scale" in values else {}
        return replace(self, **{**both, **values})


class VideoModel(ABC):
    """A text-to-video model seen through the operations that sampling, training and evaluation need.

    Attributes:
        name: what it was loaded from (`nano`, a folder, a hub id).
        pipeline: the diffusers pipeline behind it.
        defaults: sizes and sampling settings used where the user says nothing.
        lora_target_modules: names of the linear layers that LoRA adapts by default.
        idle_layers: regular expression for the names of layers and weights that the velocity does not depend on, if
            there are any: they are never trained.
        base: of a cascade the model that makes the coarse videos, which alone is trained; None elsewhere.
        takes_control: whether videos can be steered by others (`control`).
        shares_tokens: whether several processes can share out the tokens of a video
            (`generator.hardware.context_parallel`).
    """

    name: str
    pipeline: Any
    defaults: GenerationDefaults
    lora_target_modules: list[str]
    idle_layers: str | None = None
    trained_weights: str | None = None
    sigma_max: float = 1.0
    base: VideoModel | None = None
    takes_control: bool = False
    shares_tokens: bool = False

    @property
    @abstractmethod
    def transformer(self) -> torch.nn.Module:
        """The network that predicts velocities; the only part that alignment trains."""

    @property
    def device(self) -> torch.device:
        return next(self.transformer.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.transformer.parameters()).dtype

    @property
    def boundary(self) -> float | None:
        """Noise level from which on the first of two transformers predicts; None for models with one."""
        return None

    @property
    def packing(self) -> PackedVelocity | None:
        """Clips of any sizes in one row, and with it training with `pack`; None where a batch has one size."""
        return None

    @property
    def frames(self) -> FrameVelocity | None:
        """A noise level for each frame, and with it videos as prompts (`generator.editing.video_prompts`); None where
        all frames have the same."""
        return None

    @property
    def image(self) -> ImageConditions | None:
        """The image that every video must begin with, as the transformer sees it; None where videos are made from text
        alone."""
        return None

    def control(self, videos: Tensor, masks: Tensor) -> Conditions:
        """Conditions of videos that steer those which are made, to be joined with those of the prompts.

        Args:
            videos: `[batch, 3, frames, height, width]` in [-1, 1]: what is kept, and what steers the rest (depth, pose,
                outlines); 0 where there is nothing.
            masks: `[batch, 1, frames, height, width]`: above 0.5 where the video is made anew.

        Raises:
            InputError: the family takes none.
        """
        raise InputError(f"{self.name} takes no control video: use a VACE model, or leave it out.")

    @abstractmethod
    def check_size(self, num_frames: int, height: int, width: int) -> None:
        """Raises `InputError` that names the nearest valid size when the family cannot make this size."""

    @abstractmethod
    def size_multiples(self) -> tuple[int, int]:
        """`(side, time)`: sides are multiples of `side` pixels and a video has `time * k + 1` frames."""

    @abstractmethod
    def latent_shape(self, num_frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """`(channels, frames, height, width)` of the latents of a video of this size."""

    def sigma_schedule(self, num_inference_steps: int, latent_shape: Sequence[int] | None = None) -> Tensor:
        """Noise levels `[num_inference_steps + 1]` of the family's sampler, from 1 (or, where `sigma_max` is below 1,
        from there or below) to exactly 0.

        Args:
            latent_shape: `(channels, frames, height, width)`, for families whose schedule depends on the size.
        """
        return flow.sigma_schedule(num_inference_steps, self.defaults.shift)

    @abstractmethod
    def encode(self, videos: Tensor) -> Tensor:
        """Videos `[batch, 3, frames, height, width]` in [-1, 1] to normalised latents (posterior mean)."""

    @abstractmethod
    def decode(self, latents: Tensor) -> Tensor:
        """Normalised latents to videos `[batch, 3, frames, height, width]`, clamped to [-1, 1]."""

    def decode_with_gradients(self, latents: Tensor) -> Tensor:
        """As `decode`, differentiable in `latents`; values may lie outside of [-1, 1], where a clamp would end the
        gradient.

        Raises:
            InputError: the autoencoder of this family passes none.
        """
        raise InputError(f"The decoder of {self.name} passes no gradients: use `ppo`, which needs none.")

    @abstractmethod
    def encode_prompts(self, prompts: Sequence[str]) -> Conditions:
        """Prompts to conditions; `""` is the unconditional prompt of classifier-free guidance."""

    @abstractmethod
    def velocity(
        self,
        latents: Tensor,
        sigma: Tensor,
        conditions: Conditions,
        transformer: torch.nn.Module | None = None,
    ) -> Tensor:
        """Predicted velocity in float32, shaped like `latents`.

        Args:
            latents: `[batch, channels, frames, height, width]`, float32.
            sigma: `[batch]`, float32 noise levels in [0, 1].
            conditions: from `encode_prompts`, one row a latent.
            transformer: the module to call in place of `self.transformer`, for example the engine that
                DeepSpeed or DDP wraps around it. Gradients flow through it.
        """

    @abstractmethod
    def features(
        self, latents: Tensor, sigma: Tensor, conditions: Conditions, num_blocks: int
    ) -> tuple[Tensor, Tensor]:
        """Hidden states of all tokens after the first `num_blocks` blocks, the trunk of a latent reward model.

        Args:
            latents: `[batch, channels, frames, height, width]`, float32.
            sigma: `[batch]`, float32 noise levels of the latents.
            conditions: from `encode_prompts`, one row a latent.
            num_blocks: how many blocks to run.

        Returns:
            Features `[batch, tokens, dim]` in the transformer's dtype, and a mask `[batch, tokens]` that is True
            where a token is real.
        """

    @property
    def max_prompt_tokens(self) -> int | None:
        """Most tokens of a prompt that are read, marks of its end included; None where that is not known."""
        return None

    def lost_end(self, prompt: str) -> str:
        """The end of a prompt that is not read, as it is longer than `max_prompt_tokens`; empty for most."""
        return ""

    def unknown_words(self, prompt: str) -> list[str]:
        """Words of a prompt that the text encoder has never seen, where it reads whole words."""
        return []

    def release_text_encoder(self) -> None:  # noqa: B027
        """Frees the memory of the text encoder once all prompts are encoded; families with a small one keep it."""

    def restore_text_encoder(self) -> None:  # noqa: B027
        """Undoes `release_text_encoder`; encoding another prompt does so by itself."""

    def run_all_experts(self, when_sampling: bool) -> None:
        """Makes every pass run all transformers of a model whose noise level chooses among several, so that the
        processes of an engine do the same; a model with one stays as it is.

        Args:
            when_sampling: passes without gradients too.
        """
        return

    def blocks(self) -> list[torch.nn.Module]:
        """The transformer's repeated blocks in the order in which they run."""
        parts: Any = dict(self.transformer.named_children())  # not the configuration's values of these names
        return [block for name in BLOCK_LISTS for block in parts.get(name, [])]

    def block_shares(self) -> list[float]:
        """Share of the video's tokens that each of `blocks` works on; those of a U-Net have fewer in the middle."""
        return [1.0] * len(self.blocks())

    def save_pretrained(self, folder: Path, state_dict: Mapping[str, Tensor] | None = None) -> None:
        """Saves the pipeline as diffusers does.

        Args:
            state_dict: weights of the transformer, where an engine divides those in memory.
        """
        self.pipeline.save_pretrained(folder)
        if state_dict is not None:
            weights = {name: value.contiguous() for name, value in state_dict.items()}
            component = getattr(self, "component", "transformer")
            save_file(weights, folder / component / "diffusion_pytorch_model.safetensors")

    def set_attention_backend(self, backend: str) -> None:
        """Chooses the attention kernel by diffusers' name: `native`, `_native_cudnn`, `flash`, `_flash_3`, …

        Raises:
            InputError: there is no such kernel, it cannot run here, or the family has no choice.
        """
        transformer: Any = self.transformer
        models: list[Any] = [m for m in transformer.modules() if hasattr(m, "set_attention_backend")]
        try:
            for model in models:
                model.set_attention_backend(backend)
        except (ValueError, RuntimeError, ImportError) as error:
            raise InputError(f"The attention kernel {backend!r} cannot be used: {error}") from error
        if not models:
            raise InputError(f"{self.name} has one attention kernel only: leave attention_backend unset.")


def require_one_model(generator: VideoModel, reason: str) -> None:
    """Raises `InputError` for a cascade, whose latents and steps are those of its base.

    Args:
        reason: beginning of the sentence, such as `--reward judges the videos of one model`.
    """
    if generator.base is not None:
        raise InputError(
            f"{reason}, but {generator.name} is a cascade: name its base, {generator.base.name}; adapters trained on "
            f"that work with {generator.name} too."
        )
