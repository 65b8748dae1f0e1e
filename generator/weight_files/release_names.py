"""Names of a transformer's layers in its authors' release, which ComfyUI and most trainers use, and in diffusers.

A layer of the release may hold the rows of several layers of diffusers (`img_attn_qkv`), or the halves of one in the
other order. The tables are rules from diffusers' names; the other direction is looked up among a model's own layers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

LEAVES = (".weight", ".bias")


@dataclass(frozen=True)
class Layer:
    """Layer of the release.

    Attributes:
        name: in the release, without `.weight` and `.bias`.
        parts: diffusers' layers that hold its rows, from the first row to the last.
        swaps_halves: whether diffusers has the lower half of the rows first.
    """

    name: str
    parts: tuple[str, ...]
    swaps_halves: bool = False


@dataclass(frozen=True)
class Rule:
    """Pattern of diffusers' names, and what they are in the release.

    Attributes:
        pattern: of the whole name.
        name: in the release, with `\\1` for the pattern's groups.
        part: place among the layers of diffusers that one of the release holds; None where it holds this alone.
        swaps_halves: as of `Layer`.
    """

    pattern: str
    name: str
    part: int | None = None
    swaps_halves: bool = False


@dataclass(frozen=True)
class Release:
    """Names of a class of transformers.

    Attributes:
        rules: the first that matches applies; a layer that none matches has the same name in both.
        comfyui: rules that come before in ComfyUI's own files.
        spellings: further spellings `(pattern, replacement)` of the release's names, all applied.
        forms: formats with these names that files are written in; all are read.
    """

    rules: tuple[Rule, ...]
    comfyui: tuple[Rule, ...] = ()
    spellings: tuple[tuple[str, str], ...] = ()
    forms: tuple[str, ...] = ("comfyui", "kohya")


def _fused(pattern: str, name: str, parts: Sequence[str]) -> tuple[Rule, ...]:
    """Rules of layers whose rows are joined; `PART` in the pattern stands for each of `parts`."""
    return tuple(
        Rule(pattern.replace("PART", re.escape(part)), name, index) for index, part in enumerate(parts)
    )


_WAN_BLOCK = r"((?:vace_)?blocks\.\d+)"
_WAN = Release(
    (
        Rule(_WAN_BLOCK + r"\.attn1\.to_([qkv])", r"\1.self_attn.\2"),
        Rule(_WAN_BLOCK + r"\.attn2\.to_([qkv])", r"\1.cross_attn.\2"),
        Rule(_WAN_BLOCK + r"\.attn1\.to_out\.0", r"\1.self_attn.o"),
        Rule(_WAN_BLOCK + r"\.attn2\.to_out\.0", r"\1.cross_attn.o"),
        Rule(_WAN_BLOCK + r"\.attn1\.norm_([qk])", r"\1.self_attn.norm_\2"),
        Rule(_WAN_BLOCK + r"\.attn2\.norm_([qk])", r"\1.cross_attn.norm_\2"),
        Rule(_WAN_BLOCK + r"\.attn2\.add_([kv])_proj", r"\1.cross_attn.\2_img"),
        Rule(_WAN_BLOCK + r"\.attn2\.norm_added_k", r"\1.cross_attn.norm_k_img"),
        Rule(_WAN_BLOCK + r"\.ffn\.net\.0\.proj", r"\1.ffn.0"),
        Rule(_WAN_BLOCK + r"\.ffn\.net\.2", r"\1.ffn.2"),
        Rule(_WAN_BLOCK + r"\.norm2", r"\1.norm3"),
        Rule(_WAN_BLOCK + r"\.scale_shift_table", r"\1.modulation"),
        Rule(r"(vace_blocks\.\d+)\.proj_in", r"\1.before_proj"),
        Rule(r"(vace_blocks\.\d+)\.proj_out", r"\1.after_proj"),
        Rule("scale_shift_table", "head.modulation"),
        Rule("proj_out", "head.head"),
        Rule(r"condition_embedder\.text_embedder\.linear_1", "text_embedding.0"),
        Rule(r"condition_embedder\.text_embedder\.linear_2", "text_embedding.2"),
        Rule(r"condition_embedder\.time_embedder\.linear_1", "time_embedding.0"),
        Rule(r"condition_embedder\.time_embedder\.linear_2", "time_embedding.2"),
        Rule(r"condition_embedder\.time_proj", "time_projection.1"),
        Rule(r"condition_embedder\.image_embedder\.norm1", "img_emb.proj.0"),
        Rule(r"condition_embedder\.image_embedder\.ff\.net\.0\.proj", "img_emb.proj.1"),
        Rule(r"condition_embedder\.image_embedder\.ff\.net\.2", "img_emb.proj.3"),
        Rule(r"condition_embedder\.image_embedder\.norm2", "img_emb.proj.4"),
        Rule(r"condition_embedder\.image_embedder\.pos_embed", "img_emb.emb_pos"),
    )
)

_LTX = Release(
    (
        Rule("proj_in", "patchify_proj"),
        Rule(r"time_embed\.(.+)", r"adaln_single.\1"),
        Rule(r"(.+)\.norm_([qk])", r"\1.\2_norm"),
    )
)

_LTX2 = Release(
    (
        Rule("(audio_)?proj_in", r"\1patchify_proj"),
        Rule(r"(audio_)?time_embed\.(.+)", r"\1adaln_single.\2"),
        Rule(r"(audio_)?prompt_adaln\.(.+)", r"\1prompt_adaln_single.\2"),
        Rule(r"av_cross_attn_(video|audio)_scale_shift\.(.+)", r"av_ca_\1_scale_shift_adaln_single.\2"),
        Rule(r"av_cross_attn_video_a2v_gate\.(.+)", r"av_ca_a2v_gate_adaln_single.\1"),
        Rule(r"av_cross_attn_audio_v2a_gate\.(.+)", r"av_ca_v2a_gate_adaln_single.\1"),
        Rule(r"(.+)\.(video|audio)_a2v_cross_attn_scale_shift_table", r"\1.scale_shift_table_a2v_ca_\2"),
        Rule(r"(.+)\.norm_([qk])", r"\1.\2_norm"),
    )
)

_QKV = ("to_q", "to_k", "to_v")
_ADDED_QKV = ("add_q_proj", "add_k_proj", "add_v_proj")
_DOUBLE = r"transformer_blocks\.(\d+)"
_SINGLE = r"single_transformer_blocks\.(\d+)"
_REFINER = r"context_embedder\.token_refiner\.refiner_blocks\.(\d+)"
_REFINER_NAME = r"txt_in.individual_token_refiner.blocks.\1"
_HUNYUAN_FUSED = (
    *_fused(_DOUBLE + r"\.attn\.PART", r"double_blocks.\1.img_attn_qkv", _QKV),
    *_fused(_DOUBLE + r"\.attn\.PART", r"double_blocks.\1.txt_attn_qkv", _ADDED_QKV),
)
_HUNYUAN_BOTH = (
    Rule(_DOUBLE + r"\.norm1\.linear", r"double_blocks.\1.img_mod.linear"),
    Rule(_DOUBLE + r"\.norm1_context\.linear", r"double_blocks.\1.txt_mod.linear"),
    Rule(_DOUBLE + r"\.attn\.norm_([qk])", r"double_blocks.\1.img_attn_\2_norm"),
    Rule(_DOUBLE + r"\.attn\.norm_added_([qk])", r"double_blocks.\1.txt_attn_\2_norm"),
    Rule(_DOUBLE + r"\.attn\.to_out\.0", r"double_blocks.\1.img_attn_proj"),
    Rule(_DOUBLE + r"\.attn\.to_add_out", r"double_blocks.\1.txt_attn_proj"),
    Rule(_DOUBLE + r"\.ff\.net\.0\.proj", r"double_blocks.\1.img_mlp.fc1"),
    Rule(_DOUBLE + r"\.ff\.net\.2", r"double_blocks.\1.img_mlp.fc2"),
    Rule(_DOUBLE + r"\.ff_context\.net\.0\.proj", r"double_blocks.\1.txt_mlp.fc1"),
    Rule(_DOUBLE + r"\.ff_context\.net\.2", r"double_blocks.\1.txt_mlp.fc2"),
    *_fused(_REFINER + r"\.attn\.PART", _REFINER_NAME + ".self_attn_qkv", _QKV),
    Rule(_REFINER + r"\.attn\.to_out\.0", _REFINER_NAME + ".self_attn_proj"),
    Rule(_REFINER + r"\.norm([12])", _REFINER_NAME + r".norm\2"),
    Rule(_REFINER + r"\.ff\.net\.0\.proj", _REFINER_NAME + ".mlp.fc1"),
    Rule(_REFINER + r"\.ff\.net\.2", _REFINER_NAME + ".mlp.fc2"),
    Rule(_REFINER + r"\.norm_out\.linear", _REFINER_NAME + ".adaLN_modulation.1"),
    Rule(r"context_embedder\.proj_in", "txt_in.input_embedder"),
    Rule(r"context_embedder\.time_text_embed\.timestep_embedder\.linear_1", "txt_in.t_embedder.mlp.0"),
    Rule(r"context_embedder\.time_text_embed\.timestep_embedder\.linear_2", "txt_in.t_embedder.mlp.2"),
    Rule(r"context_embedder\.time_text_embed\.text_embedder\.(.+)", r"txt_in.c_embedder.\1"),
    Rule(r"x_embedder\.proj", "img_in.proj"),
    Rule(r"norm_out\.linear", "final_layer.adaLN_modulation.1", swaps_halves=True),
    Rule("proj_out", "final_layer.linear"),
)
_HUNYUAN_SPELLINGS = (
    # ComfyUI's own files; the dots become underscores in kohya's, which are the same then.
    (r"_attn_(qkv|proj)$", r"_attn.\1"),
    (r"_attn_([qk])_norm$", r"_attn.norm.\1_norm"),
    (r"(single_blocks\.\d+)\.([qk])_norm$", r"\1.norm.\2_norm"),
    (r"mlp\.fc1$", "mlp.0"),
    (r"mlp\.fc2$", "mlp.2"),
    (r"(_mod|modulation)\.linear$", r"\1.lin"),
    (r"(time_in|guidance_in|time_r_in|t_embedder)\.mlp\.0$", r"\1.in_layer"),
    (r"(time_in|guidance_in|time_r_in|t_embedder)\.mlp\.2$", r"\1.out_layer"),
    (r"c_embedder\.linear_1$", "c_embedder.in_layer"),
    (r"c_embedder\.linear_2$", "c_embedder.out_layer"),
    (r"\bq_norm$", "query_norm"),
    (r"\bk_norm$", "key_norm"),
)
_HUNYUAN = Release(
    (
        *_HUNYUAN_FUSED,
        *_fused(
            _SINGLE + r"\.PART",
            r"single_blocks.\1.linear1",
            ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"),
        ),
        Rule(_SINGLE + r"\.proj_out", r"single_blocks.\1.linear2"),
        Rule(_SINGLE + r"\.norm\.linear", r"single_blocks.\1.modulation.linear"),
        Rule(_SINGLE + r"\.attn\.norm_([qk])", r"single_blocks.\1.\2_norm"),
        *_HUNYUAN_BOTH,
        Rule(r"time_text_embed\.timestep_embedder\.linear_1", "time_in.mlp.0"),
        Rule(r"time_text_embed\.timestep_embedder\.linear_2", "time_in.mlp.2"),
        Rule(r"time_text_embed\.guidance_embedder\.linear_1", "guidance_in.mlp.0"),
        Rule(r"time_text_embed\.guidance_embedder\.linear_2", "guidance_in.mlp.2"),
        Rule(r"time_text_embed\.text_embedder\.linear_1", "vector_in.in_layer"),
        Rule(r"time_text_embed\.text_embedder\.linear_2", "vector_in.out_layer"),
    ),
    spellings=_HUNYUAN_SPELLINGS,
)
_HUNYUAN15 = Release(
    (
        Rule(_DOUBLE + r"\.attn\.to_([qkv])", r"double_blocks.\1.img_attn_\2"),
        Rule(_DOUBLE + r"\.attn\.add_([qkv])_proj", r"double_blocks.\1.txt_attn_\2"),
        *_HUNYUAN_BOTH,
        Rule(r"time_embed\.timestep_embedder\.linear_1", "time_in.mlp.0"),
        Rule(r"time_embed\.timestep_embedder\.linear_2", "time_in.mlp.2"),
        Rule(r"time_embed\.timestep_embedder_r\.linear_1", "time_r_in.mlp.0"),
        Rule(r"time_embed\.timestep_embedder_r\.linear_2", "time_r_in.mlp.2"),
        Rule(r"context_embedder_2\.norm", "byt5_in.layernorm"),
        Rule(r"context_embedder_2\.linear_([123])", r"byt5_in.fc\1"),
        Rule(r"image_embedder\.norm_in", "vision_in.proj.0"),
        Rule(r"image_embedder\.linear_1", "vision_in.proj.1"),
        Rule(r"image_embedder\.linear_2", "vision_in.proj.3"),
        Rule(r"image_embedder\.norm_out", "vision_in.proj.4"),
        Rule("cond_type_embed", "cond_type_embedding"),
    ),
    comfyui=_HUNYUAN_FUSED,
    spellings=_HUNYUAN_SPELLINGS,
)

_MOTION_BLOCK = r"(.+\.motion_modules\.\d+)\.(transformer_blocks\.\d+)"
_ANIMATEDIFF = Release(
    (),  # kohya's trainers have diffusers' names for Stable Diffusion 1.5
    comfyui=(  # motion LoRA as AnimateDiff's authors write it
        Rule(_MOTION_BLOCK + r"\.attn1\.(.+)", r"\1.temporal_transformer.\2.attention_blocks.0.\3"),
        Rule(_MOTION_BLOCK + r"\.attn2\.(.+)", r"\1.temporal_transformer.\2.attention_blocks.1.\3"),
    ),
    spellings=((r"\.(to_[qkv])$", r".processor.\1"), (r"\.to_out\.0$", ".processor.to_out")),
    forms=("kohya",),
)

RELEASES = {
    "WanTransformer3DModel": _WAN,
    "WanVACETransformer3DModel": _WAN,
    "SkyReelsV2Transformer3DModel": _WAN,
    "LTXVideoTransformer3DModel": _LTX,
    "LTX2VideoTransformer3DModel": _LTX2,
    "HunyuanVideoTransformer3DModel": _HUNYUAN,
    "HunyuanVideo15Transformer3DModel": _HUNYUAN15,
    "UNetMotionModel": _ANIMATEDIFF,
}
"""Classes of transformers whose release has names of its own."""


def _layers(names: Sequence[str], rules: Sequence[Rule]) -> list[Layer]:
    """Layers of the release that diffusers' layers `names` are, or are parts of."""
    found: dict[str, list[tuple[int, str, bool]]] = {}
    for name in names:
        for rule in rules:
            match = re.fullmatch(rule.pattern, name)
            if match:
                part = (rule.part or 0, name, rule.swaps_halves)
                found.setdefault(match.expand(rule.name), []).append(part)
                break
        else:
            found.setdefault(name, []).append((0, name, False))
    return [
        Layer(name, tuple(part for _, part, _ in sorted(parts)), parts[0][2]) for name, parts in found.items()
    ]


def flat(name: str) -> str:
    """Name of a layer in kohya's files, without the prefix."""
    return name.replace(".", "_")


@dataclass
class LayerNames:
    """Layers of one transformer by all of their names.

    Attributes:
        kind: class of the transformer.
        shapes: of every weight, bias and table, by diffusers' name.
        comfyui: layers as ComfyUI and most trainers name them.
        kohya: layers as kohya's trainers name them, still with dots.
    """

    kind: str
    shapes: dict[str, tuple[int, ...]]
    comfyui: list[Layer]
    kohya: list[Layer]
    _spelled: dict[str, Layer] = field(default_factory=dict)

    @classmethod
    def of(cls, transformer: nn.Module) -> LayerNames:
        """Names of the layers of a transformer, which may be on the device `meta`."""
        shapes = {name: tuple(value.shape) for name, value in named_weights(transformer)}
        for name, module in transformer.named_modules():
            # Quantised weights are stored in another shape.
            if isinstance(module, nn.Linear) and f"{name}.weight" in shapes:
                shapes[f"{name}.weight"] = module.out_features, module.in_features
        layers = list(dict.fromkeys(layer_of(name) for name in shapes))
        kind = type(transformer).__name__
        release = RELEASES.get(kind, Release(()))
        comfyui = _layers(layers, (*release.comfyui, *release.rules))
        kohya = _layers(layers, release.rules)
        names = cls(kind, shapes, comfyui, kohya)
        for layer in (*(Layer(name, (name,)) for name in layers), *kohya, *comfyui):
            spelled = layer.name
            for pattern, replacement in release.spellings:
                spelled = re.sub(pattern, replacement, spelled)
            for name in (layer.name, spelled):
                names._spelled.setdefault(name, layer)
        names._spelled = {**{flat(name): layer for name, layer in names._spelled.items()}, **names._spelled}
        return names

    @property
    def forms(self) -> tuple[str, ...]:
        """Formats in which other tools have names of their own for these layers."""
        return RELEASES[self.kind].forms if self.kind in RELEASES else ()

    def find(self, name: str) -> Layer | None:
        """The layer of any of its names, with dots or flat."""
        return self._spelled.get(name)

    def rows(self, part: str) -> int:
        """Number of rows of a layer, by diffusers' name."""
        return self.shapes[self.weight_of(part)][0]

    def weight_of(self, part: str) -> str:
        """Name of the weight of one of diffusers' layers, or of the table that has no layer around it."""
        return part if part in self.shapes else f"{part}.weight"


def layer_of(name: str) -> str:
    """Name of the layer that a weight or bias belongs to."""
    return name.removesuffix(".weight").removesuffix(".bias")


def named_weights(transformer: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Weights, biases and tables of a transformer, those that visit the device from the host's memory too; LoRA layers
    do not count."""
    for prefix, module in transformer.named_modules():
        if "lora_" in prefix or prefix.endswith(".base_layer"):
            continue  # a layer with LoRA shows the weights of the one inside it as its own
        own: Any = module
        for leaf in dict.fromkeys(("weight", "bias", *module._parameters)):
            value = getattr(own, leaf, None)
            if isinstance(value, Tensor):
                yield (f"{prefix}.{leaf}" if prefix else leaf), value
