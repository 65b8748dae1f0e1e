"""Keys of LoRA files: which layer a tensor belongs to, under what name, and what it is for that layer."""

from __future__ import annotations

import re
from dataclasses import dataclass

PREFIXES = (
    *("base_model.model.", "model.diffusion_model.", "diffusion_model.", "transformer.", "unet."),
    *("lora_unet__", "lora_unet_", "lora_transformer_", "lycoris_"),
)
"""Prefixes of the names of layers; of a file's key, those that are there are taken off one after another."""
SECOND_PREFIX = "transformer_2."
"""Prefix of the second of two transformers, in files that diffusers wrote for both."""

_KINDS = {
    "down": r"(?:\.lora_A(?:\.[^.]+)?(?:\.weight)?|\.lora_down\.weight|[._]lora\.down\.weight"
    r"|\.lora_linear_layer\.down\.weight)",
    "up": r"(?:\.lora_B(?:\.[^.]+)?(?:\.weight)?|\.lora_up\.weight|[._]lora\.up\.weight"
    r"|\.lora_linear_layer\.up\.weight)",
    "alpha": r"\.alpha",
    "diff": r"\.diff",
    "diff_b": r"\.diff_b",
    "diff_m": r"\.diff_m",
}
_REFUSED = {
    r"\.lora_[AB](?:\.[^.]+)?\.bias|\.lora_(?:up|down)\.bias": "LoRA with biases",
    r"\.lora_mid\.weight": "LoRA of convolutions in three matrices",
    r"\.lokr_\w+": "LoKr",
    r"\.hada_\w+": "LoHa",
    r"\.dora_scale|\.lora_magnitude_vector.*": "DoRA",
    r"\.oft_\w+|\.(?:oft|boft)_\w+.*": "OFT",
    r"\.[ab][12]\.weight": "GLoRA",
    r"\.set_weight": "a weight in place of the model's (set_weight)",
    r"\.reshape_weight": "a control LoRA, which widens the input (reshape_weight)",
    r"\.[wb]_norm": "a norm in place of the model's",
}


@dataclass(frozen=True)
class Key:
    """Key of a LoRA file.

    Attributes:
        text: as it stands in the file.
        layer: name of the layer, without prefixes.
        kind: `down`, `up`, `alpha`, `diff` (of a weight), `diff_b` (of a bias) or `diff_m` (of a modulation).
        second: whether it says that it belongs to the second of two transformers.
    """

    text: str
    layer: str
    kind: str
    second: bool = False


def parse_key(text: str) -> Key | None:
    """Takes a key apart; None where nothing is known of its kind."""
    for kind, ending in _KINDS.items():
        match = re.fullmatch(rf"(.+?){ending}", text)
        if match:
            layer, second = _without_prefixes(match.group(1))
            return Key(text, layer, kind, second)
    return None


def refused_kind(text: str) -> str | None:
    """Kind of a key that is no plain LoRA; None where it is not known."""
    for ending, kind in _REFUSED.items():
        if re.fullmatch(rf".+?(?:{ending})", text):
            return kind
    return None


def _without_prefixes(layer: str) -> tuple[str, bool]:
    second = False
    while True:
        if layer.startswith(SECOND_PREFIX):
            layer, second = layer.removeprefix(SECOND_PREFIX), True
            continue
        prefix = next((prefix for prefix in PREFIXES if layer.startswith(prefix)), None)
        if prefix is None:
            return layer, second
        layer = layer.removeprefix(prefix)
