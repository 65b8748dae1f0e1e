"""One super-resolution stage: from a coarse video and its prompt to a finer one, in the latents of a codec."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from generator import flow
from generator.base import VideoGenerator
from generator.cascade.conditioning import augment
from generator.cascade.resampling import blend_frames, enlarge
from generator.cascade.transformer import StageTransformer3DModel
from generator.inputs.conditions import concatenate
from generator.one_or_several import as_list
from generator.output import InputError, read_record, write_json
from generator.provenance import latent_space_fingerprint
from generator.sampling import sample_latents, seeded_noise

INDEX_NAME = "model_index.json"
STAGE_CLASS = "CascadeStage"
"""Name in a stage's `model_index.json`, where a pipeline has its class."""
KINDS = ("temporal", "spatial")
FACTORS = {"temporal": 4, "spatial": 2}
"""Times the frame rate of a temporal stage; times the height and width of a spatial one."""


@dataclass(frozen=True)
class StageSettings:
    """Kind of a stage, and how it is sampled where nothing else is asked for.

    Attributes:
        stage: `temporal` or `spatial`.
        codec: model whose autoencoder and text encoder the stage works with.
        codec_fingerprint: of these (`generator.provenance.latent_space_fingerprint`).
        num_frames: frames of its longest training clips; longer videos are made piece by piece.
        fps: frames a second of its training clips.
        num_inference_steps: steps of the sampler.
        guidance_scale: weight of classifier-free guidance, 1 for none.
        augmentation: noise level of the input in sampling.
        shift: time shift of the noise levels; below 1 towards the clean end, as most of a finer video is known.
    """

    stage: str
    codec: str
    codec_fingerprint: str
    num_frames: int = 33
    fps: float = 16.0
    num_inference_steps: int = 4
    guidance_scale: float = 1.0
    augmentation: float = 0.05
    shift: float = 1.0

    @property
    def factor(self) -> int:
        """Times the frame rate, or the height and width."""
        return FACTORS[self.stage]


@dataclass(frozen=True)
class StageSampling:
    """Sampling of a stage; None is the stage's own value."""

    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    augmentation: float | None = None


OWN_SAMPLING = StageSampling()
"""Each stage as it says itself."""


class Upsampler(Protocol):
    """A step from coarse videos to finer ones."""

    name: str

    def finer_size(self, num_frames: int, height: int, width: int) -> tuple[int, int, int]:
        """Size in frames and pixels of what becomes of videos of this size."""
        ...

    def finer_rate(self, fps: float) -> float:
        """Frames a second of what becomes of videos at `fps`."""
        ...

    def upsample(
        self,
        videos: Tensor,
        fps: float,
        prompts: Sequence[str],
        seeds: Sequence[int],
        sampling: StageSampling = OWN_SAMPLING,
    ) -> Tensor:
        """Finer videos, on the CPU.

        Args:
            videos: `[batch, 3, frames, height, width]` in [-1, 1].
            fps: frames a second of `videos`.
            prompts, seeds: one a video.
            sampling: what to change of the stage's own.
        """
        ...


def stage_input(stage: str, codec: VideoGenerator, videos: Tensor) -> Tensor:
    """Latents of the upsampled videos, and of a temporal stage behind them those of the given frames as images.

    In time frames are blended linearly, in space pixels are interpolated bicubically. A video of 4 k + 1 frames has
    k + 1 latent frames, and given frame i is the last that latent frame i holds.

    Args:
        stage: `temporal` or `spatial`.
        codec: that encodes.
        videos: `[batch, 3, frames, height, width]` in [-1, 1] on the codec's device.
    """
    if stage == "spatial":
        return codec.encode(enlarge(videos, FACTORS[stage]))
    images = videos.transpose(1, 2).flatten(0, 1)[:, :, None]
    of_frames = codec.encode(images)[:, :, 0].unflatten(0, (len(videos), -1)).transpose(1, 2)
    return torch.cat([codec.encode(blend_frames(videos, FACTORS[stage])), of_frames], dim=1)


def condition_channels(stage: str, latent_channels: int) -> int:
    """Channels of what `stage_input` returns."""
    return 2 * latent_channels if stage == "temporal" else latent_channels


def stage_seeds(seeds: Sequence[int], *place: int) -> list[int]:
    """Seeds of a stage's noise: a function of each video's own seed and of `place`, the numbers of stage and piece."""
    texts = (" ".join(map(str, (seed, *place))) for seed in seeds)
    return [int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big") for text in texts]


def pieces(num_frames: int, longest: int) -> list[slice]:
    """Parts of a video of at most `longest` frames, each of which begins with the last frame of the one before."""
    step = max(longest - 1, 1)
    return [slice(start, start + longest) for start in range(0, max(num_frames - 1, 1), step)]


class CascadeStage:
    """A trained stage with the codec that it works with.

    Args:
        transformer: its network.
        settings: what it does, and how it is sampled.
        codec: model whose autoencoder and text encoder it uses; its transformer is not called.
        name: what it was loaded from.
        number: place in a cascade, on which its noise depends.
    """

    def __init__(
        self,
        transformer: StageTransformer3DModel,
        settings: StageSettings,
        codec: VideoGenerator,
        name: str,
        number: int = 0,
    ) -> None:
        self.transformer = transformer
        self.settings = settings
        self.codec = codec
        self.name = name
        self.number = number

    def finer_size(self, num_frames: int, height: int, width: int) -> tuple[int, int, int]:
        """Size of what becomes of videos of this size."""
        factor = self.settings.factor
        if self.settings.stage == "temporal":
            return factor * (num_frames - 1) + 1, height, width
        return num_frames, factor * height, factor * width

    def finer_rate(self, fps: float) -> float:
        """Frames a second of what becomes of videos at `fps`."""
        return fps * self.settings.factor if self.settings.stage == "temporal" else fps

    def upsample(
        self,
        videos: Tensor,
        fps: float,
        prompts: Sequence[str],
        seeds: Sequence[int],
        sampling: StageSampling = OWN_SAMPLING,
    ) -> Tensor:
        """Finer videos, as `Upsampler.upsample`; a temporal stage returns given frames as they came.

        Raises:
            InputError: a temporal stage got videos of one frame.
        """
        prompts = as_list(prompts)
        temporal = self.settings.stage == "temporal"
        if temporal and videos.shape[2] < 2:
            raise InputError(
                "A temporal stage makes frames between given ones, but the video has one: give at least two."
            )
        longest = self.settings.num_frames
        if temporal:
            longest = (longest - 1) // self.settings.factor + 1
        made = []
        for number, part in enumerate(pieces(videos.shape[2], longest)):
            drawn = stage_seeds(seeds, self.number, number)
            finer = self._upsample_piece(videos[:, :, part], fps, prompts, drawn, sampling)
            made.append(finer if number == 0 else finer[:, :, 1:])
        joined = torch.cat(made, dim=2)
        if temporal:
            joined[:, :, :: self.settings.factor] = videos.to(joined)
        return joined

    @torch.no_grad()
    def _upsample_piece(
        self, videos: Tensor, fps: float, prompts: list[str], seeds: list[int], sampling: StageSampling
    ) -> Tensor:
        """Finer videos of at most the stage's own length; what the codec cannot encode is padded and cut off again."""
        frames, height, width = self.finer_size(*videos.shape[2:])
        side, time = self.codec.size_multiples()
        device = self.codec.device
        known = self.settings.factor if self.settings.stage == "spatial" else 1
        side = max(side // known, 1)
        missing = 0 if self.settings.stage == "temporal" else -(videos.shape[2] - 1) % time
        padding = (0, -videos.shape[4] % side, 0, -videos.shape[3] % side, 0, missing)
        padded = functional.pad(videos.to(device), padding, mode="replicate")
        condition = stage_input(self.settings.stage, self.codec, padded)
        latents = self._sample(
            condition, prompts, seeds, sampling, time / self.finer_rate(fps), self.transformer.dtype
        )
        return self.codec.decode(latents)[:, :, :frames, :height, :width].cpu()

    def _sample(
        self,
        condition: Tensor,
        prompts: list[str],
        seeds: list[int],
        sampling: StageSampling,
        seconds_per_frame: float,
        dtype: torch.dtype,
    ) -> Tensor:
        """Latents of the finer videos `[batch, channels, frames, height, width]`."""
        own = self.settings
        steps = sampling.num_inference_steps or own.num_inference_steps
        scale = own.guidance_scale if sampling.guidance_scale is None else sampling.guidance_scale
        level = own.augmentation if sampling.augmentation is None else sampling.augmentation
        channels = self.transformer.config.in_channels
        shape = (channels + condition.shape[1], *condition.shape[2:])
        noise = seeded_noise(seeds, shape).to(condition.device)
        levels = torch.full((len(condition),), float(level), device=condition.device)
        noised = augment(condition, noise[:, channels:], levels)
        text = self.codec.encode_prompts(prompts)
        if scale != 1:
            text = concatenate([text, self.codec.encode_prompts([""] * len(prompts))])
        copies = 1 if scale == 1 else 2

        def velocity(x: Tensor, sigma: Tensor) -> Tensor:
            predicted = self.transformer(
                x.repeat(copies, 1, 1, 1, 1),
                sigma.repeat(copies) * 1000,
                noised.repeat(copies, 1, 1, 1, 1),
                levels.repeat(copies),
                text["encoder_hidden_states"].to(dtype),
                text["encoder_attention_mask"],
                seconds_per_frame,
            )
            if scale == 1:
                return predicted
            conditional, unconditional = predicted.chunk(2)
            return flow.guide(conditional, unconditional, scale)

        return sample_latents(velocity, noise[:, :channels], flow.sigma_schedule(steps, own.shift))


def save_stage(folder: Path, transformer: StageTransformer3DModel, settings: StageSettings) -> None:
    """Writes a stage: its network in `transformer/`, in the dtype that it has, and `model_index.json`."""
    transformer.register_to_config(_name_or_path="")
    transformer.save_pretrained(folder / "transformer", max_shard_size="14MB")
    write_json(folder / INDEX_NAME, {"_class_name": STAGE_CLASS, **asdict(settings)})


def read_settings(folder: Path) -> StageSettings:
    """Settings of the stage in a folder.

    Raises:
        InputError: there is none, or its file is damaged.
    """
    index = folder / INDEX_NAME
    if not index.is_file():
        raise InputError(
            f"{folder} holds no {INDEX_NAME}, but a stage of `vidalign pretrain --stage` is needed: name its folder."
        )
    found: dict[str, Any] = read_record(index)
    names = {field.name for field in fields(StageSettings)}
    if found.get("_class_name") != STAGE_CLASS or found.get("stage") not in KINDS:
        raise InputError(
            f"{folder} holds a {found.get('_class_name')}, but a {STAGE_CLASS} of `vidalign pretrain --stage` is "
            "needed: name its folder."
        )
    try:
        return StageSettings(**{name: value for name, value in found.items() if name in names})
    except TypeError as error:
        raise InputError(f"{index} is damaged ({error}): restore it or train the stage again.") from error


def load_stage(folder: Path, codec: VideoGenerator, number: int = 0) -> CascadeStage:
    """Reads a stage that works with `codec`.

    Raises:
        InputError: the folder holds no stage, or one that was trained with another autoencoder or text encoder.
    """
    settings = read_settings(folder)
    if settings.codec_fingerprint != latent_space_fingerprint(codec):
        raise InputError(
            f"The stage {folder} was trained with the autoencoder and text encoder of {settings.codec}, and "
            f"{codec.name} has others: name that model."
        )
    try:
        transformer = StageTransformer3DModel.from_pretrained(
            folder, subfolder="transformer", torch_dtype=codec.dtype
        )
    except (OSError, ValueError) as error:
        raise InputError(
            f"The stage {folder} cannot be read ({error}): restore it or train it again."
        ) from error
    transformer = transformer.to(codec.device).requires_grad_(False).eval()
    return CascadeStage(transformer, settings, codec, str(folder), number)
