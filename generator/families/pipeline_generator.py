"""`PipelineGenerator`: what the adapters of diffusers' own text-to-video pipelines share.

A family says how its latents are normalised, how its prompts are encoded and how its transformer is called; sizes,
devices, dtypes, padding and features are handled here. `docs/families.md` shows how to add a family.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from generator.base import VideoGenerator
from generator.hardware.decoding_gradients import differentiable_decoding
from generator.hardware.tiling import TILE, lay_tiles
from generator.inputs.conditions import Conditions
from generator.inputs.images import Shapes
from generator.lost_words import lost_end
from generator.one_or_several import as_list
from generator.output import InputError
from generator.video_model import GenerationDefaults

ATTENTION_LAYERS = ["to_q", "to_k", "to_v", "to_out.0"]


class PipelineGenerator(VideoGenerator):
    """Adapter of a diffusers pipeline with `transformer`, `vae`, `scheduler` and one or more text encoders.

    Attributes:
        component: name of the pipeline's component that predicts.
        block_lists: names of the transformer's lists of blocks, in the order in which they run.
        side_lists: names of lists of blocks that run beside those and are not counted among `blocks`.
        text_encoders: names of the components that encode prompts.
        idle_components: names of those that stay in the host's memory, as nothing here needs them.
        folder: what the pipeline was read from, or None if it was made in memory.
        tile: largest side in pixels of the tiles that `save_decoding_memory` works in.
    """

    pipeline_class: ClassVar[Any]
    component: ClassVar[str] = "transformer"
    block_lists: ClassVar[tuple[str, ...]] = ("transformer_blocks",)
    side_lists: ClassVar[tuple[str, ...]] = ()
    text_encoders: ClassVar[tuple[str, ...]] = ("text_encoder",)
    idle_components: ClassVar[tuple[str, ...]] = ()
    lora_target_modules: list[str] = ATTENTION_LAYERS
    tile = TILE

    def __init__(self, pipeline: Any, name: str) -> None:
        self.pipeline = pipeline
        self.name = name
        self.folder: Path | None = None
        self._released = False
        self.defaults = self._pipeline_defaults()

    @property
    def transformer(self) -> nn.Module:
        return getattr(self.pipeline, self.component)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that the transformer computes in: of its weights without those kept in float32 and LoRA."""
        in_float32 = getattr(self.transformer, "_keep_in_fp32_modules", None) or []
        for name, parameter in self.transformer.named_parameters():
            kept = "lora_" in name or any(part in name for part in in_float32)
            if parameter.is_floating_point() and not kept:
                return parameter.dtype
        return torch.float32

    @abstractmethod
    def _pipeline_defaults(self) -> GenerationDefaults:
        """Sizes and sampling settings that the model's authors recommend."""

    # Sizes

    def check_size(self, num_frames: int, height: int, width: int) -> None:
        side, time = self.size_multiples()
        nearest = (
            max(0, round((num_frames - 1) / time)) * time + 1,
            max(1, round(height / side)) * side,
            max(1, round(width / side)) * side,
        )
        if nearest != (num_frames, height, width):
            raise InputError(
                f"{self.name} cannot make {num_frames} frames of {height}x{width}: frames must be {time} k + 1 and "
                f"sides multiples of {side}. The nearest size is {nearest[0]} frames of {nearest[1]}x{nearest[2]}."
            )

    def latent_shape(self, num_frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        space, time = self._compression()
        return self._latent_channels(), (num_frames - 1) // time + 1, height // space, width // space

    @abstractmethod
    def _compression(self) -> tuple[int, int]:
        """Pixels a latent has along a side, and frames a latent frame has."""

    def _latent_channels(self) -> int:
        return self.pipeline.transformer.config.in_channels

    # Videos and latents

    @torch.no_grad()
    def encode(self, videos: Tensor) -> Tensor:
        return self.normalise(self._encode(videos).float())

    def _encode(self, videos: Tensor) -> Tensor:
        """The autoencoder's own latents, the mode of their distribution."""
        vae = self.pipeline.vae
        lay_tiles(vae, videos.shape[3], videos.shape[4], self._compression()[0], self.tile)
        with own_precision(vae):
            return vae.encode(videos.to(vae.device, vae.dtype)).latent_dist.mode()

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        return self._pixels(latents).clamp(-1, 1)

    def decode_with_gradients(self, latents: Tensor) -> Tensor:
        with differentiable_decoding(self.pipeline.vae):
            return self._pixels(latents)

    def _pixels(self, latents: Tensor) -> Tensor:
        vae, space = self.pipeline.vae, self._compression()[0]
        lay_tiles(vae, latents.shape[3] * space, latents.shape[4] * space, space, self.tile)
        with own_precision(vae):
            return self._decode(self.denormalise(latents.float()).to(vae.device, vae.dtype)).float()

    def _decode(self, latents: Tensor) -> Tensor:
        return self.pipeline.vae.decode(latents).sample

    @abstractmethod
    def normalise(self, latents: Tensor) -> Tensor:
        """The autoencoder's latents to about unit variance."""

    @abstractmethod
    def denormalise(self, latents: Tensor) -> Tensor:
        """The inverse of `normalise`."""

    def save_decoding_memory(self, tiling: bool = True, slicing: bool = True, tile: int = TILE) -> None:
        """Decodes and encodes tile by tile, and video by video: less memory, a little slower.

        Tiles overlap and are blended, so their result differs slightly from that of the whole.

        Args:
            tile: largest side of a tile in pixels, for the autoencoders whose tiles can be laid evenly.
        """
        vae = self.pipeline.vae
        self.tile = tile
        if tiling:
            vae.enable_tiling()
        if slicing:
            vae.enable_slicing()

    # Prompts

    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[str]) -> Conditions:
        prompts = as_list(prompts)
        if self._released:
            self.restore_text_encoder()
        conditions = self._encode_prompts(list(prompts))
        return {name: value.to(self.device) for name, value in conditions.items()}

    @abstractmethod
    def _encode_prompts(self, prompts: list[str]) -> Conditions:
        """The pipeline's own encoding, trimmed to the longest real prompt where the transformer allows it."""

    @property
    def max_prompt_tokens(self) -> int | None:
        return self.condition_shapes()["encoder_hidden_states"][0][0]

    def lost_end(self, prompt: str) -> str:
        limit = self.max_prompt_tokens
        return "" if limit is None else lost_end(self.pipeline.tokenizer, prompt, limit)

    @abstractmethod
    def condition_shapes(self) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        """Size without the batch, and dtype, of the longest conditions; for forecasts of memory."""

    def control_shapes(self, latent_shape: Sequence[int]) -> Shapes:
        """Size without the batch, and dtype, of conditions that control videos of latents `(channels, frames, height,
        width)`, where the transformer always sees some; for forecasts of memory."""
        return {}

    @property
    def text_device(self) -> torch.device:
        """Device that encodes prompts."""
        return next(getattr(self.pipeline, self.text_encoders[0]).parameters()).device

    def release_text_encoder(self) -> None:
        """Frees the memory of the text encoders; they are read again from the model's folder when needed."""
        if self.folder is None or self._released:
            return
        self._text_home = self.text_device, getattr(self.pipeline, self.text_encoders[0]).dtype
        for name in self.text_encoders:
            getattr(self.pipeline, name).to("meta")
        self._released = True

    def restore_text_encoder(self) -> None:
        """Reads the text encoders again after `release_text_encoder`."""
        if not self._released:
            return
        device, dtype = self._text_home
        for name in self.text_encoders:
            kind = type(getattr(self.pipeline, name))
            encoder = kind.from_pretrained(self.folder, subfolder=name, dtype=dtype).to(device)
            setattr(self.pipeline, name, encoder.requires_grad_(False).eval())
        self._released = False

    # The transformer

    def velocity(
        self,
        latents: Tensor,
        sigma: Tensor,
        conditions: Conditions,
        transformer: nn.Module | None = None,
    ) -> Tensor:
        module = self.transformer if transformer is None else transformer
        arguments = self._transformer_arguments(latents, sigma, conditions)
        output = module(**arguments, return_dict=False)[0].float()
        return self._to_velocity(output, latents, sigma)

    @abstractmethod
    def _transformer_arguments(
        self, latents: Tensor, sigma: Tensor, conditions: Conditions
    ) -> dict[str, Any]:
        """Arguments of the transformer, in its own layout and time scale."""

    def _to_velocity(self, output: Tensor, latents: Tensor, sigma: Tensor) -> Tensor:
        """The transformer's output in float32 as the velocity, shaped like `latents`."""
        return output

    def blocks(self) -> list[nn.Module]:
        """The transformer's blocks in the order in which they run."""
        return [block for name in self.block_lists for block in getattr(self.transformer, name)]

    def features(
        self, latents: Tensor, sigma: Tensor, conditions: Conditions, num_blocks: int
    ) -> tuple[Tensor, Tensor]:
        blocks = self.blocks()
        if not 0 <= num_blocks <= len(blocks):
            raise InputError(
                f"Features after {num_blocks} blocks were asked for, but {self.name} has {len(blocks)} blocks."
            )
        if self.image is not None and "image_latents" not in conditions:
            raise InputError(
                f"{self.name} animates images, but features were asked for without one: give conditions of an image."
            )
        arguments = self._transformer_arguments(latents, sigma, conditions)
        tokens = hidden_states_after(self.transformer, blocks, num_blocks, arguments)
        return tokens, torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)


def own_precision(module: Any) -> torch.autocast:
    """The autoencoder computes in its own dtype, also inside a trainer's autocast, which would cost memory and time."""
    return torch.autocast(module.device.type, enabled=False)


class _Reached(Exception):
    """Carries the hidden states out of a forward pass that need not go on."""

    def __init__(self, tokens: Tensor) -> None:
        self.tokens = tokens


def hidden_states_after(
    transformer: nn.Module, blocks: Sequence[nn.Module], num_blocks: int, arguments: dict[str, Any]
) -> Tensor:
    """Video tokens `[batch, tokens, dim]` after the first `num_blocks` of `blocks`; the rest does not run.

    In all families a block's first argument, and its output or the first of its outputs, are the video tokens.
    """

    def stop_before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        raise _Reached(args[0] if args else kwargs["hidden_states"])

    def stop_after(_: nn.Module, __: Any, output: Any) -> None:
        raise _Reached(output[0] if isinstance(output, tuple) else output)

    if num_blocks < len(blocks):
        handle = blocks[num_blocks].register_forward_pre_hook(stop_before, with_kwargs=True)
    else:
        handle = blocks[-1].register_forward_hook(stop_after)
    try:
        transformer(**arguments, return_dict=False)
    except _Reached as reached:
        return reached.tokens
    finally:
        handle.remove()
    raise RuntimeError("the blocks of the transformer did not run")


def zero_pad(tokens: Tensor, length: int) -> Tensor:
    """`[batch, n, ...]` with zeros up to `length` in the second dimension."""
    missing = length - tokens.shape[1]
    return torch.cat([tokens, tokens.new_zeros(tokens.shape[0], missing, *tokens.shape[2:])], dim=1)


def trim(tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens `[batch, n, dim]` and their mask without the columns that are padding in every row; one stays."""
    used = mask.bool().any(dim=0).nonzero()
    longest = int(used.max()) + 1 if len(used) else 1
    return tokens[:, :longest].contiguous(), mask[:, :longest].bool().contiguous()
