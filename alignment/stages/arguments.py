"""How commands load a generator: the type of its weights, and what saves memory."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any


@dataclass
class LoadingArguments:
    """How a generator is loaded."""

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
        metadata={"help": "Weights in `8bit` or `4bit` (bitsandbytes), frozen: less memory, slower steps.",
                  "choices": ["8bit", "4bit"]},
    )  # fmt: skip
    text_encoder_device: str | None = field(
        default=None,
        metadata={"help": "Where prompts are encoded, for example `cpu` where the text encoder and the transformer "
                  "do not fit the GPU together. Unset: the GPU."},
    )  # fmt: skip
    offload_weights: bool = field(
        default=False,
        metadata={"help": "Keep the blocks' frozen weights in the host's memory and copy each layer to the GPU when it "
                  "is used: for models that do not fit it. What is trained must be LoRA."},
    )  # fmt: skip
    tiling: bool = field(
        default=False,
        metadata={
            "help": "Encode and decode videos tile by tile and one by one: less memory for large videos."
        },
    )

    def options(self) -> dict[str, Any]:
        """Keyword arguments of `load_generator`."""
        import torch

        found = {each.name: getattr(self, each.name) for each in fields(LoadingArguments)}
        return {**found, "dtype": getattr(torch, self.dtype) if self.dtype else None}

    def changing(self) -> dict[str, Any]:
        """What was asked for that changes the videos."""
        asked = {name: getattr(self, name) for name in ("dtype", "quantization", "tiling")}
        return {name: value for name, value in asked.items() if value}
