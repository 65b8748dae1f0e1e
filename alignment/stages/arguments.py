"""Generator that a stage works on, and its loading: type of the weights, memory savers."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from generator.files.model_folders import require_model
from generator.one_or_several import as_list

CHANGING = (
    *("base_adapter", "transformer", "transformer_2", "motion_adapter"),
    *("flow_shift", "dtype", "quantization", "tiling"),
)
"""Fields of `LoadingArguments` that change the videos."""


@dataclass
class LoadingArguments:
    """Loading of the generator."""

    base_adapter: list[str] | None = field(
        default=None,
        metadata={
            "help": "LoRA files FILE[:WEIGHT] that make the base, such as those of few-step distillation: merged "
            "first, and no part of what is saved."
        },
    )
    transformer: str | None = field(
        default=None,
        metadata={
            "help": "File with the transformer's weights instead of those in the model's folder: .safetensors (names "
            "of the release or of diffusers; bf16, fp16, fp8) or .gguf. Of two transformers, that of high noise."
        },
    )
    transformer_2: str | None = field(
        default=None, metadata={"help": "The same for the transformer of low noise (Wan 2.2 A14B)."}
    )
    motion_adapter: str | None = field(
        default=None,
        metadata={
            "help": "Folder or file of AnimateDiff's motion modules (.safetensors, .ckpt), by which a Stable Diffusion "
            "1.5 or XL pipeline makes videos."
        },
    )
    flow_shift: float | None = field(
        default=None,
        metadata={"help": "Time shift of the noise levels towards noise. Unset: the model's own."},
    )
    dtype: str | None = field(
        default=None,
        metadata={
            "help": "Data type of the weights; those of LoRA, where it is trained, are float32 always. Unset: the "
            "model's own.",
            "choices": ["float32", "bfloat16", "float16"],
        },
    )

    quantization: str | None = field(
        default=None,
        metadata={
            "help": "Weights in `8bit` or `4bit` (bitsandbytes), frozen: less memory, slower steps.",
            "choices": ["8bit", "4bit"],
        },
    )
    text_encoder_device: str | None = field(
        default=None,
        metadata={
            "help": "Device that encodes prompts, for example `cpu` where the text encoder and the transformer "
            "do not fit the GPU together. Unset: the GPU."
        },
    )
    offload_weights: bool = field(
        default=False,
        metadata={
            "help": "Keep the blocks' frozen weights in the host's memory and copy each layer to the GPU when it "
            "is used: for models that do not fit it. What is trained must be LoRA."
        },
    )
    tiling: bool = field(
        default=False,
        metadata={
            "help": "Encode and decode videos tile by tile and one by one: less memory for large videos."
        },
    )

    def __post_init__(self) -> None:
        self.base_adapter = None if self.base_adapter is None else as_list(self.base_adapter)

    def options(self) -> dict[str, Any]:
        """Keyword arguments of `load_generator`."""
        import torch

        found = {each.name: getattr(self, each.name) for each in fields(LoadingArguments)}
        return {**found, "dtype": getattr(torch, self.dtype) if self.dtype else None}

    def files(self) -> list[str]:
        """Files and folders that are read beside the model's folder."""
        from generator.adapters.base_adapters import split_weight

        base = [str(split_weight(text)[0]) for text in self.base_adapter or []]
        files = (self.transformer, self.transformer_2, self.motion_adapter)
        return [*base, *(path for path in files if path)]

    def changing(self) -> dict[str, Any]:
        """Returns the settings that change the videos."""
        asked = {name: getattr(self, name) for name in CHANGING}
        return {name: value for name, value in asked.items() if value}


@dataclass
class _ModelArguments:
    """Generator that is trained, and its adapters."""

    model: str = field(
        default="nano",
        metadata={"help": "Generator to train: `nano`, a folder of a diffusers pipeline, or a hub id."},
    )
    adapter: list[str] | None = field(
        default=None,
        metadata={
            "help": "Adapters to start from, for example the folder that `sft` wrote, or LoRA files of other tools. "
            "They are part of the reference policy, and of the adapter that is saved."
        },
    )


@dataclass
class GeneratorArguments(LoadingArguments, _ModelArguments):
    """Generator that is trained, and its loading."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.adapter = None if self.adapter is None else as_list(self.adapter)

    def check_inputs(self) -> None:
        """Raises `InputError` where the model or an adapter is not there."""
        require_model(self.model, self.adapter)

    @classmethod
    def of(cls, model: str | Path | GeneratorArguments) -> GeneratorArguments:
        """The arguments themselves, or those of a model by its name or folder."""
        return model if isinstance(model, cls) else cls(model=str(model))


@dataclass
class TrainingSizeArguments:
    """Sizes and lengths of the videos that are trained on."""

    num_frames: int | None = field(
        default=None,
        metadata={
            "help": "Frames to train on. Unset: the video's own at the model's rate, at most the model's."
        },
    )
    height: int | None = field(
        default=None, metadata={"help": "Height to resize to. Unset: the video's own, at most the model's."}
    )
    width: int | None = field(
        default=None, metadata={"help": "Width to resize to. Unset: the video's own, at most the model's."}
    )
    native_size: bool | None = field(
        default=None,
        metadata={
            "help": "Keep the size and duration of videos that are larger than the model's own. Unset: on with --pack, "
            "whose rows take clips of any size, else off."
        },
    )
    area: str | None = field(
        default=None,
        metadata={
            "help": "Size of as many pixels as all videos are brought to, such as 480x832: each to the one of about "
            "seven ratios from 1:2 to 2:1 that is nearest to its own, so that few sizes fill batches."
        },
    )
    frame_buckets: list[int] | None = field(
        default=None,
        metadata={
            "help": "Lengths to train on, such as 17 33 81: each video has the longest that it fills at the model's "
            "rate, one that fills none is left out, and stills have one frame."
        },
    )

    # Of videos that are compared, the beginnings are.
    clips: str = field(default="first", init=False)
    clips_per_video: int = field(default=1, init=False)

    def __post_init__(self) -> None:
        if self.frame_buckets is not None:
            self.frame_buckets = [int(each) for each in as_list(self.frame_buckets)]


@dataclass
class ClipArguments(TrainingSizeArguments):
    """Parts of long videos that are trained on, their sizes and lengths."""

    clips: str = field(
        default="first",
        metadata={
            "help": "Parts of a longer video: the `first` or the `middle` one, `uniform` (clips_per_video at equal "
            "distances), or `all`, one after the other.",
            "choices": ["first", "middle", "uniform", "all"],
        },
    )
    clips_per_video: int = field(
        default=4, metadata={"help": "With `clips uniform`: clips of each video, fewer of short ones."}
    )
