"""LoRA files of other tools are read, with stock diffusers as the judge."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from generator.adapters.adapters import load_adapters
from generator.base import VideoGenerator
from generator.output import InputError
from generator.weight_files.release_names import flat
from tests.generator.weight_files.lora_forms import (
    WAN,
    Pairs,
    ab,
    assert_weights,
    down_up,
    generator_of,
    merged_by_hand,
    random_pairs,
    shapes_of,
    stock_weights,
    wan_release,
    write,
)

FORMS: dict[str, Any] = {
    "diffusers": lambda pairs: ab(pairs, "transformer."),
    "comfyui": lambda pairs: ab(pairs, "diffusion_model.", wan_release),
    "comfyui with down, up and alpha": lambda pairs: down_up(pairs, "diffusion_model.", wan_release, 5.0),
    "comfyui with A, B and alpha": lambda pairs: {
        **{
            key: tensor * 2 if ".lora_B" in key else tensor
            for key, tensor in ab(pairs, "diffusion_model.", wan_release).items()
        },
        **{
            f"diffusion_model.{wan_release(name)}.alpha": torch.tensor(len(a) / 2)
            for name, (a, _) in pairs.items()
        },
    },
    "musubi with alpha": lambda pairs: down_up(pairs, "lora_unet_", lambda n: flat(wan_release(n)), 5.0),
    "musubi without alpha": lambda pairs: down_up(pairs, "lora_unet_", lambda n: flat(wan_release(n)), None),
    "VideoX-Fun": lambda pairs: down_up(pairs, "lora_unet__", lambda n: flat(wan_release(n)), 5.0),
    "DiffSynth": lambda pairs: ab(pairs, "", wan_release, ".default"),
    "raw peft": lambda pairs: ab(pairs, "base_model.model."),
    "model.diffusion_model": lambda pairs: ab(pairs, "model.diffusion_model.", wan_release),
    "transformer and the release's names": lambda pairs: ab(pairs, "transformer.", wan_release),
    "attention only": lambda pairs: ab(
        {name: pair for name, pair in pairs.items() if "attn" in name}, "diffusion_model.", wan_release
    ),
    "feed-forward only": lambda pairs: ab(
        {name: pair for name, pair in pairs.items() if "ffn" in name}, "diffusion_model.", wan_release
    ),
    "one block": lambda pairs: ab(
        {name: pair for name, pair in pairs.items() if "blocks.1" in name}, "diffusion_model.", wan_release
    ),
    "musubi, attention of one block": lambda pairs: down_up(
        {name: pair for name, pair in pairs.items() if "blocks.1.attn1" in name},
        "lora_unet_",
        lambda n: flat(wan_release(n)),
        4.0,
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_file_of_any_form_changes_the_weights_as_by_hand(
    form: str, wan: VideoGenerator, pairs: Pairs, tmp_path: Path
) -> None:
    path = write(tmp_path / "lora.safetensors", FORMS[form](pairs))
    kept = {
        "attention only": "attn", "musubi, attention of one block": "blocks.1.attn1", "feed-forward only": "ffn",
        "one block": "blocks.1",
    }.get(form, "")  # fmt: skip
    expected = merged_by_hand(wan.transformer, {name: pair for name, pair in pairs.items() if kept in name})
    load_adapters(wan, path)
    assert_weights(wan.transformer, expected)


STOCK = ("diffusers", "comfyui", "comfyui with down, up and alpha", "comfyui with A, B and alpha", "musubi with alpha",
         "attention only", "feed-forward only", "one block")  # fmt: skip


@pytest.mark.parametrize("form", STOCK)
def test_what_stock_diffusers_reads_is_read_the_same(
    form: str, wan: VideoGenerator, pairs: Pairs, tmp_path: Path
) -> None:
    path = write(tmp_path / "lora.safetensors", FORMS[form](pairs))
    load_adapters(wan, path)
    assert_weights(wan.transformer, stock_weights(path))


def test_pefts_own_folder_is_read_with_the_scale_of_its_configuration(
    wan: VideoGenerator, pairs: Pairs, tmp_path: Path
) -> None:
    write(tmp_path / "adapter_model.safetensors", ab(pairs, "base_model.model."))
    config = {"r": 4, "lora_alpha": 8, "use_rslora": True, "alpha_pattern": {"blocks.0.attn1.to_q": 1}}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    scaled = {
        name: (a, b * (1 if name == "blocks.0.attn1.to_q" else 8) / len(a) ** 0.5)
        for name, (a, b) in pairs.items()
    }
    expected = merged_by_hand(wan.transformer, scaled)
    load_adapters(wan, tmp_path)
    assert_weights(wan.transformer, expected)


def offsets_of(transformer: Any) -> dict[str, Any]:
    random = torch.Generator().manual_seed(5)
    names = [
        "blocks.0.norm2.weight", "blocks.0.norm2.bias", "blocks.1.attn1.norm_q.weight", "blocks.0.scale_shift_table",
        "scale_shift_table", "proj_out.weight", "proj_out.bias", "patch_embedding.weight", "patch_embedding.bias",
        "blocks.0.attn1.to_q.bias", "condition_embedder.time_embedder.linear_1.bias", "blocks.0.attn2.to_k.weight",
    ]  # fmt: skip
    weights = transformer.state_dict()
    return {name: torch.randn(weights[name].shape, generator=random) for name in names}


def distilled_keys(offsets: dict[str, Any]) -> dict[str, Any]:
    """As LightX2V extracts them."""
    names = {
        "blocks.0.norm2.weight": "blocks.0.norm3.diff", "blocks.0.norm2.bias": "blocks.0.norm3.diff_b",
        "blocks.1.attn1.norm_q.weight": "blocks.1.self_attn.norm_q.diff",
        "blocks.0.scale_shift_table": "blocks.0.diff_m", "scale_shift_table": "head.diff_m",
        "proj_out.weight": "head.head.diff", "proj_out.bias": "head.head.diff_b",
        "patch_embedding.weight": "patch_embedding.diff", "patch_embedding.bias": "patch_embedding.diff_b",
        "blocks.0.attn1.to_q.bias": "blocks.0.self_attn.q.diff_b",
        "condition_embedder.time_embedder.linear_1.bias": "time_embedding.0.diff_b",
        "blocks.0.attn2.to_k.weight": "blocks.0.cross_attn.k.diff",
    }  # fmt: skip
    return {f"diffusion_model.{names[name]}": change for name, change in offsets.items()}


def test_offsets_of_distilled_files_are_added(wan: VideoGenerator, pairs: Pairs, tmp_path: Path) -> None:
    offsets = offsets_of(wan.transformer)
    tensors = {**down_up(pairs, "diffusion_model.", wan_release, None), **distilled_keys(offsets)}
    path = write(tmp_path / "distilled.safetensors", tensors)
    expected = merged_by_hand(wan.transformer, pairs, offsets)
    load_adapters(wan, path)
    assert_weights(wan.transformer, expected)


@pytest.mark.parametrize("with_pairs", [True, False])
def test_biases_of_all_layers_and_a_head_alone_are_added(
    with_pairs: bool, wan: VideoGenerator, pairs: Pairs, tmp_path: Path
) -> None:
    """Of the head's weight alone stock diffusers makes a KeyError."""
    weights = wan.transformer.state_dict()
    names = [f"{name}.bias" for name in pairs] if with_pairs else ["proj_out.weight"]
    offsets = {name: torch.randn(weights[name].shape) for name in names}
    keys = {"proj_out.weight": "head.head.diff"} | {
        f"{name}.bias": f"{wan_release(name)}.diff_b" for name in pairs
    }
    tensors = {f"diffusion_model.{keys[name]}": change for name, change in offsets.items()}
    tensors |= ab(pairs, "diffusion_model.", wan_release) if with_pairs else {}
    expected = merged_by_hand(wan.transformer, pairs if with_pairs else {}, offsets)
    load_adapters(wan, write(tmp_path / "offsets.safetensors", tensors))
    assert_weights(wan.transformer, expected)


@pytest.mark.parametrize("key", ["blocks.0.modulation.diff", "head.modulation.diff", "blocks.1.diff_m"])
def test_modulations_are_known_by_both_names(key: str, wan: VideoGenerator, tmp_path: Path) -> None:
    name = "scale_shift_table" if "head" in key else f"blocks.{key.split('.')[1]}.scale_shift_table"
    change = torch.randn(wan.transformer.state_dict()[name].shape)
    expected = merged_by_hand(wan.transformer, {}, {name: change})
    load_adapters(wan, write(tmp_path / "m.safetensors", {f"diffusion_model.{key}": change}))
    assert_weights(wan.transformer, expected)


@pytest.mark.parametrize(
    ("layer", "shapes"),
    [("head.head", ((3, 24), (64, 3))), ("text_embedding.0", ((3, 32), (24, 3))),
     ("patch_embedding", ((3, 16, 1, 2, 2), (24, 3, 1, 1, 1))), ("time_projection.1", ((3, 24), (144, 3)))],
)  # fmt: skip
@pytest.mark.parametrize("prefix", ["diffusion_model.", "lora_unet_"])
def test_layers_outside_the_blocks_are_read_with_alpha(
    prefix: str, layer: str, shapes: Any, wan: VideoGenerator, tmp_path: Path
) -> None:
    down, up = (torch.randn(shape) for shape in shapes)
    name = layer if "." in prefix else flat(layer)
    stem = f"{prefix}{name}"
    tensors = {
        f"{stem}.lora_down.weight": down,
        f"{stem}.lora_up.weight": up,
        f"{stem}.alpha": torch.tensor(6.0),
    }
    ours = {"head.head": "proj_out", "text_embedding.0": "condition_embedder.text_embedder.linear_1",
            "patch_embedding": "patch_embedding",
            "time_projection.1": "condition_embedder.time_proj"}[layer]  # fmt: skip
    expected = merged_by_hand(wan.transformer, {}, {f"{ours}.weight": 2 * up.flatten(1) @ down.flatten(1)})
    load_adapters(wan, write(tmp_path / "outside.safetensors", tensors))
    assert_weights(wan.transformer, expected)


def plain() -> dict[str, Any]:
    return {"diffusion_model.blocks.0.self_attn.q.lora_A.weight": torch.ones(2, 24),
            "diffusion_model.blocks.0.self_attn.q.lora_B.weight": torch.ones(24, 2)}  # fmt: skip


@pytest.mark.parametrize(
    ("key", "shape", "said"),
    [
        ("blocks.0.self_attn.q.lokr_w1", (2, 2), "LoKr"),
        ("blocks.0.self_attn.q.hada_w1_a", (2, 2), "LoHa"),
        ("blocks.0.self_attn.q.dora_scale", (24,), "DoRA"),
        ("blocks.0.self_attn.q.lora_magnitude_vector", (24,), "DoRA"),
        ("blocks.0.self_attn.q.lora_B.bias", (24,), "LoRA with biases"),
        ("patch_embedding.set_weight", (24, 32, 1, 2, 2), "set_weight"),
        ("patch_embedding.reshape_weight", (5,), "control LoRA"),
        ("blocks.0.self_attn.q.something", (2,), "only plain LoRA"),
        ("blocks.7.self_attn.q.diff", (24, 24), "no such layer"),
        ("text_encoder.layers.0.q.diff", (24, 24), "no such layer"),
        ("blocks.0.self_attn.k.alpha", (), "no matching pair"),
        ("blocks.0.self_attn.k.diff", (25, 24), r"shape \(25, 24\)"),
        ("blocks.0.norm1.diff", (24,), "no such layer"),
        ("blocks.0.self_attn.norm_q.diff_b", (24,), "nothing there that it could change"),
    ],
)
def test_what_cannot_be_loaded_is_named_and_nothing_changes(
    key: str, shape: Any, said: str, wan: VideoGenerator, tmp_path: Path
) -> None:
    before = {name: value.clone() for name, value in wan.transformer.state_dict().items()}
    path = write(tmp_path / "odd.safetensors", {**plain(), f"diffusion_model.{key}": torch.ones(shape)})
    with pytest.raises(InputError, match=said):
        load_adapters(wan, path)
    assert_weights(wan.transformer, before)


def test_layers_that_see_an_image_have_no_effect_on_a_model_without_them(
    wan: VideoGenerator, pairs: Pairs, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tensors = ab(pairs, "diffusion_model.", wan_release)
    for layer in ("blocks.0.cross_attn.k_img", "blocks.0.cross_attn.v_img"):
        tensors |= {f"diffusion_model.{layer}.lora_A.weight": torch.ones(2, 24)}
        tensors |= {f"diffusion_model.{layer}.lora_B.weight": torch.ones(24, 2)}
    tensors |= {"diffusion_model.img_emb.proj.1.diff_b": torch.ones(4)}
    tensors |= {"diffusion_model.patch_embedding.diff": torch.ones(24, 36, 1, 2, 2)}
    expected = merged_by_hand(wan.transformer, pairs)
    with caplog.at_level(logging.WARNING):
        load_adapters(wan, write(tmp_path / "i2v.safetensors", tensors))
    assert_weights(wan.transformer, expected)
    assert "5 tensors of" in caplog.text
    assert "no layers that see an image" in caplog.text
    assert "another number of channels" in caplog.text


def test_layers_that_see_an_image_are_changed_one_by_one_where_they_are(tmp_path: Path) -> None:
    generator = generator_of("wan-i2v")
    pairs = random_pairs({"blocks.0.attn2.add_k_proj": (24, 24), "blocks.1.attn2.to_q": (24, 24)})
    names = {
        "blocks.0.attn2.add_k_proj": "blocks.0.cross_attn.k_img",
        "blocks.1.attn2.to_q": "blocks.1.cross_attn.q",
    }
    expected = merged_by_hand(generator.transformer, pairs)
    load_adapters(
        generator, write(tmp_path / "k.safetensors", ab(pairs, "diffusion_model.", names.__getitem__))
    )
    assert_weights(generator.transformer, expected)


@pytest.mark.parametrize("sees_an_image", [False, True])
@pytest.mark.parametrize("family", ["wan-i2v", "wan2.2-i2v-a14b"])
def test_files_of_other_wan_models_change_the_layers_that_they_share(
    family: str, sees_an_image: bool, pairs: Pairs, tmp_path: Path
) -> None:
    """A file of a text-to-video model on Wan 2.1 and 2.2 I2V; one of Wan 2.1 I2V on 2.2, which has no `k_img`."""
    generator: Any = generator_of(family)
    transformers = [generator.pipeline.transformer] + (
        [generator.pipeline.transformer_2] if "2.2" in family else []
    )
    image = random_pairs({"blocks.0.attn2.add_k_proj": (24, 24)}, 3) if sees_an_image else {}
    tensors = ab(pairs, "diffusion_model.", wan_release)
    tensors |= ab(image, "diffusion_model.", lambda _: "blocks.0.cross_attn.k_img")
    shown = {} if "2.2" in family else image
    expected = [merged_by_hand(each, {**pairs, **shown}) for each in transformers]
    for name in ("x_high_noise", "x_low_noise")[: len(transformers)]:
        path = write(tmp_path / "lora" / f"{name}.safetensors", tensors)
    load_adapters(generator, path.parent if len(transformers) == 2 else path)
    for each, weights in zip(transformers, expected, strict=True):
        assert_weights(each, weights)


def test_the_same_layer_twice_is_refused(wan: VideoGenerator, tmp_path: Path) -> None:
    twice = {
        key.replace("lora_A", "lora_down").replace("lora_B", "lora_up"): value
        for key, value in plain().items()
    }
    with pytest.raises(InputError, match="the same for one layer"):
        load_adapters(wan, write(tmp_path / "twice.safetensors", {**plain(), **twice}))


# Two transformers


@pytest.mark.parametrize(
    "name",
    ["{}_noise_model", "Wan2.2-Lightning_{}_fp16", "wan2.2_t2v_A14b_{}_noise_lora_rank64_lightx2v_4step"],
)
def test_two_files_change_two_transformers_by_their_names(name: str, tmp_path: Path) -> None:
    generator = generator_of("wan2.2-a14b")
    transformer: Any = generator.transformer
    shapes = shapes_of(transformer.transformer, list(WAN.values()))
    high, low = random_pairs(shapes, 1), random_pairs(shapes, 2)
    for noise, pairs in (("high", high), ("low", low)):
        spelled = noise.upper() if "fp16" in name else noise
        write(tmp_path / f"{name.format(spelled)}.safetensors", ab(pairs, "diffusion_model.", wan_release))
    expected = merged_by_hand(transformer.transformer, high), merged_by_hand(transformer.transformer_2, low)
    load_adapters(generator, tmp_path)
    assert_weights(transformer.transformer, expected[0])
    assert_weights(transformer.transformer_2, expected[1])


def test_a_file_that_names_neither_transformer_is_refused(pairs: Pairs, tmp_path: Path) -> None:
    generator = generator_of("wan2.2-a14b")
    path = write(tmp_path / "style.safetensors", ab(pairs, "diffusion_model.", wan_release))
    with pytest.raises(
        InputError, match="does not say which one it changes: let it end in high_noise or low_noise"
    ):
        load_adapters(generator, path)


def test_a_low_noise_file_alone_changes_the_second_transformer(pairs: Pairs, tmp_path: Path) -> None:
    generator = generator_of("wan2.2-a14b")
    transformer: Any = generator.transformer
    before = {name: value.clone() for name, value in transformer.transformer.state_dict().items()}
    expected = merged_by_hand(transformer.transformer_2, pairs)
    load_adapters(
        generator, write(tmp_path / "x_low_noise.safetensors", ab(pairs, "diffusion_model.", wan_release))
    )
    assert_weights(transformer.transformer, before)
    assert_weights(transformer.transformer_2, expected)


def test_one_file_of_diffusers_with_both_prefixes_changes_both(pairs: Pairs, tmp_path: Path) -> None:
    generator = generator_of("wan2.2-a14b")
    transformer: Any = generator.transformer
    other = {name: (a, -b) for name, (a, b) in pairs.items()}
    expected = (
        merged_by_hand(transformer.transformer, pairs),
        merged_by_hand(transformer.transformer_2, other),
    )
    tensors = {**ab(pairs, "transformer."), **ab(other, "transformer_2.")}
    load_adapters(generator, write(tmp_path / "pytorch_lora_weights.safetensors", tensors))
    assert_weights(transformer.transformer, expected[0])
    assert_weights(transformer.transformer_2, expected[1])


def test_a_pair_of_files_is_refused_by_a_model_of_one_transformer(
    wan: VideoGenerator, pairs: Pairs, tmp_path: Path
) -> None:
    for noise in ("high", "low"):
        write(tmp_path / f"x_{noise}_noise.safetensors", ab(pairs, "diffusion_model.", wan_release))
    with pytest.raises(InputError, match="has one transformer"):
        load_adapters(wan, tmp_path)


def test_evaluate_names_a_file_without_its_ending(tmp_path: Path) -> None:
    from alignment.cli.commands.evaluate import name_adapters

    file = write(tmp_path / "style.safetensors", plain())
    assert name_adapters([str(file), f"other={file}"]) == {"style": str(file), "other": str(file)}
    with pytest.raises(InputError, match="is not there"):
        name_adapters([str(tmp_path / "none.safetensors")])
