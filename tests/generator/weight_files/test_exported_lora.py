"""LoRA files for other tools are written, with stock diffusers as the judge."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from generator.adapters.adapters import LoraAdapter, read_adapter
from generator.adapters.export import export_adapter, layer_names
from generator.base import VideoGenerator
from generator.loading import load_generator
from generator.testing.pipelines import build_tiny_pipeline, save_tiny_pipeline
from generator.weight_files.release_names import LayerNames, flat
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


@pytest.mark.parametrize("form", ["comfyui", "kohya", "diffusers"])
def test_stock_diffusers_reads_what_is_exported_as_it_was_trained(
    form: str, wan: VideoGenerator, pairs: Pairs, tmp_path: Path
) -> None:
    names = layer_names(wan.transformer, form)
    (file,) = export_adapter(tmp_path, LoraAdapter(pairs), names, form, "ours", torch.float32)
    expected = merged_by_hand(wan.transformer, pairs)
    stock = stock_weights(file)
    for name, value in stock.items():
        torch.testing.assert_close(value, expected[name], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("form", ["comfyui", "kohya"])
def test_no_exported_key_has_diffusers_names_and_forty_stay_forty(
    form: str, wan: VideoGenerator, tmp_path: Path
) -> None:
    pairs = random_pairs(shapes_of(wan.transformer, list(WAN.values())))
    assert len(pairs) == 20
    names = layer_names(wan.transformer, form)
    (file,) = export_adapter(tmp_path, LoraAdapter(pairs), names, form, "ours", torch.float32)
    keys = [key for key in load_file(file) if not key.endswith(".alpha")]
    assert len(keys) == 40
    assert not [key for key in keys if "attn1" in key or "attn2" in key or ".net." in key]
    prefix = "diffusion_model." if form == "comfyui" else "lora_unet_"
    spelled = {
        prefix + (wan_release(name) if form == "comfyui" else flat(wan_release(name))) for name in pairs
    }
    assert {key.rsplit(".lora_", 1)[0] for key in keys} == spelled
    assert len(read_adapter(file, wan.transformer).pairs) == 20


ROUND_TRIPS = [
    "wan",
    "wan-i2v",
    "wan2.2-a14b",
    "wan-vace",
    "skyreels_v2",
    "ltx",
    "ltx2.3",
    "hunyuan_video",
    "hunyuan_video1.5",
]


@pytest.mark.parametrize("form", ["comfyui", "kohya"])
@pytest.mark.parametrize("family", ROUND_TRIPS)
def test_what_is_written_is_read_back(family: str, form: str, tmp_path: Path) -> None:
    pipeline = build_tiny_pipeline(family)
    transformer: Any = pipeline.transformer
    if family == "wan2.2-a14b":
        transformer = generator_of(family).transformer
    layers = [
        name for name, module in transformer.named_modules()
        if isinstance(module, torch.nn.Linear) and ("block" in name or name.endswith(("norm_out.linear", "proj_out")))
    ]  # fmt: skip
    pairs = random_pairs(shapes_of(transformer, layers))
    weights = dict(transformer.named_parameters())
    offsets = {name: torch.randn(weights[name].shape) for name in list(weights)[::3] if "block" in name}
    names = layer_names(transformer, form)
    files = export_adapter(
        tmp_path / "x", LoraAdapter(pairs, offsets=offsets), names, form, "x", torch.float32
    )
    assert len(files) == len(names)
    read = read_adapter(files[0] if len(files) == 1 else files[0].parent, transformer)
    assert set(read.pairs) == set(pairs)
    for name, (down, up) in pairs.items():
        torch.testing.assert_close(read.pairs[name][1] @ read.pairs[name][0], up @ down, atol=1e-5, rtol=1e-5)
        assert len(read.pairs[name][0]) == len(down)
    written = {name: change for name, change in read.offsets.items() if change.any()}
    assert set(written) == set(offsets)
    for name, change in offsets.items():
        torch.testing.assert_close(read.offsets[name], change)


def test_two_files_of_two_transformers_are_named_and_crosswise_they_differ(tmp_path: Path) -> None:
    generator = generator_of("wan2.2-a14b")
    transformer: Any = generator.transformer
    shapes = shapes_of(transformer.transformer, ["to_q", "to_v"])
    high, low = random_pairs(shapes, 1), random_pairs(shapes, 2)
    adapter = LoraAdapter({
        **{f"transformer.{name}": pair for name, pair in high.items()},
        **{f"transformer_2.{name}": pair for name, pair in low.items()},
    })  # fmt: skip
    names = layer_names(transformer, "comfyui")
    files = export_adapter(tmp_path, adapter, names, "comfyui", "style", torch.float32)
    assert [file.name for file in files] == ["style_high_noise.safetensors", "style_low_noise.safetensors"]
    expected = merged_by_hand(transformer.transformer_2, low)
    right = stock_weights(files[1], "transformer_2", load_into_transformer_2=True)
    crosswise = stock_weights(files[0], "transformer_2", load_into_transformer_2=True)
    for name in shapes:
        torch.testing.assert_close(right[f"{name}.weight"], expected[f"{name}.weight"], atol=1e-6, rtol=1e-5)
        assert (crosswise[f"{name}.weight"] - expected[f"{name}.weight"]).abs().max() > 1e-2


def test_hunyuan_video_of_full_size_is_read_by_diffusers_as_it_was_written(tmp_path: Path) -> None:
    """diffusers' converter has the hidden size 3072 built in, so one double and one single block have it here."""
    from accelerate import init_empty_weights
    from diffusers import HunyuanVideoPipeline, HunyuanVideoTransformer3DModel

    with init_empty_weights():
        transformer = HunyuanVideoTransformer3DModel(num_layers=1, num_single_layers=1, num_refiner_layers=1)
    layers = ["attn.to_q", "attn.to_k", "attn.add_v_proj", "attn.to_out.0", "proj_mlp"]
    shapes = shapes_of(transformer, layers)
    # Of the token refiner and of norm_out, which LoRA leaves alone by default, diffusers cuts A as it does B.
    pairs = random_pairs({name: shape for name, shape in shapes.items() if "refiner" not in name})
    names = layer_names(transformer, "comfyui")
    (file,) = export_adapter(tmp_path, LoraAdapter(pairs), names, "comfyui", "h", torch.float32)
    state = HunyuanVideoPipeline.lora_state_dict(load_file(file))
    state = state[0] if isinstance(state, tuple) else state
    for name, (down, up) in pairs.items():
        read = state[f"transformer.{name}.lora_B.weight"] @ state[f"transformer.{name}.lora_A.weight"]
        torch.testing.assert_close(read[:64], (up @ down)[:64], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(read[-64:], (up @ down)[-64:], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", ["ltx", "ltx2.3"])
def test_stock_diffusers_reads_a_file_of_ltx_video_for_comfyui(family: str, tmp_path: Path) -> None:
    pipeline: Any = build_tiny_pipeline(family)
    pairs = random_pairs(shapes_of(pipeline.transformer, ["to_q", "to_out.0", "net.2"]))
    names = layer_names(pipeline.transformer, "comfyui")
    (file,) = export_adapter(tmp_path, LoraAdapter(pairs), names, "comfyui", "ltx", torch.float32)
    expected = merged_by_hand(pipeline.transformer, pairs)
    pipeline.load_lora_weights(tmp_path, weight_name=file.name)
    pipeline.fuse_lora(components=["transformer"])
    pipeline.unload_lora_weights()
    assert_weights(pipeline.transformer, expected)


@pytest.mark.parametrize("family", ["wan-i2v", "ltx", "ltx2"])
def test_the_names_of_the_release_are_those_that_diffusers_converts(family: str) -> None:
    """Every weight, under the name that we give it, is found by diffusers' converter of whole checkpoints."""
    from diffusers.loaders import single_file_utils

    convert = {
        "wan-i2v": single_file_utils.convert_wan_transformer_to_diffusers,
        "ltx": single_file_utils.convert_ltx_transformer_checkpoint_to_diffusers,
        "ltx2": single_file_utils.convert_ltx2_transformer_to_diffusers,
    }[family]
    transformer: Any = build_tiny_pipeline(family).transformer
    names = LayerNames.of(transformer)
    theirs = {}
    for layer in names.comfyui:
        for ending in ("", ".weight", ".bias"):
            if f"{layer.parts[0]}{ending}" in names.shapes:
                theirs[f"{layer.name}{ending}"] = transformer.state_dict()[f"{layer.parts[0]}{ending}"]
    assert len(theirs) == len(names.shapes)
    converted = convert(dict(theirs))
    for name, value in transformer.state_dict().items():
        assert torch.equal(converted[name], value), name


def test_a_family_without_names_of_its_own_is_refused_by_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from alignment.cli import main

    folder = save_tiny_pipeline("cogvideox", tmp_path / "model")
    pairs = random_pairs(shapes_of(build_tiny_pipeline("cogvideox").transformer, ["to_q"]))
    path = write(tmp_path / "lora.safetensors", ab(pairs, "transformer."))
    words = [
        "export-lora",
        "--adapter",
        str(path),
        "--model",
        str(folder),
        "--output_dir",
        str(tmp_path / "out"),
    ]
    assert main([*words, "--format", "comfyui"]) == 2
    assert "export with --format diffusers" in capsys.readouterr().err.replace("\n", " ")
    assert not (tmp_path / "out").exists()
    assert main([*words, "--format", "diffusers", "--dtype", "float32"]) == 0
    assert load_generator(folder, adapter=tmp_path / "out").name


def test_the_command_writes_a_file_for_comfyui_from_kohyas(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from alignment.cli import main

    folder = save_tiny_pipeline("wan", tmp_path / "model")
    pairs = random_pairs(shapes_of(build_tiny_pipeline("wan").transformer, ["to_q"]))
    path = write(
        tmp_path / "style.safetensors", down_up(pairs, "lora_unet_", lambda n: flat(wan_release(n)), 7.0)
    )
    words = ["export-lora", "--adapter", str(path), "--output_dir", str(tmp_path / "out")]
    assert main(words) == 2
    assert "pass --model" in capsys.readouterr().err.replace("\n", " ")
    assert main([*words, "--model", str(folder)]) == 0
    tensors = load_file(tmp_path / "out" / "style.safetensors")
    assert {value.dtype for value in tensors.values()} == {torch.bfloat16}
    assert set(tensors) == set(ab(pairs, "diffusion_model.", wan_release))
