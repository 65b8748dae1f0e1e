"""Base weights from single files: names, precision, scaled fp8, GGUF, contradictions."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from alignment.cli import main
from generator.loading import load_generator
from generator.output import InputError
from generator.testing.pipelines import build_tiny_pipeline, save_tiny_pipeline
from generator.testing.stock import ours
from generator.weight_files.release_names import LayerNames
from tests.generator.weight_files.lora_forms import write

FAMILIES = [
    *(
        "wan",
        "wan-i2v",
        "wan-vace",
        "skyreels_v2",
        "ltx",
        "ltx2",
        "ltx2.3",
        "hunyuan_video",
        "hunyuan_video1.5",
    ),
    "hunyuan_video1.5-i2v",
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of tiny models without the weights of their transformers."""
    root = tmp_path_factory.mktemp("bases")
    found = {}
    for family in (*FAMILIES, "wan2.2-a14b", "cogvideox"):
        found[family] = save_tiny_pipeline(family, root / family)
        for weights in found[family].glob("transformer*/*.safetensors"):
            weights.unlink()
    return found


def released(transformer: Any, comfyui: bool = True) -> dict[str, Tensor]:
    """Weights under the names of the release, joined where it has them joined."""
    names = LayerNames.of(transformer)
    weights = transformer.state_dict()
    found = {}
    for layer in names.comfyui if comfyui else names.kohya:
        for ending in ("", ".weight", ".bias"):
            if f"{layer.parts[0]}{ending}" in weights:
                whole = torch.cat([weights[f"{part}{ending}"] for part in layer.parts])
                found[layer.name + ending] = whole.roll(len(whole) // 2, 0) if layer.swaps_halves else whole
    return found


def other(family: str, component: str = "transformer") -> Any:
    """A transformer with other weights than those of the tiny folder."""
    return getattr(build_tiny_pipeline(family, seed=3), component)


@pytest.mark.parametrize("comfyui", [True, False])
@pytest.mark.parametrize("prefix", ["", "diffusion_model.", "model.diffusion_model."])
@pytest.mark.parametrize("family", FAMILIES)
def test_weights_under_the_names_of_the_release_are_loaded_bit_for_bit(
    family: str, prefix: str, comfyui: bool, folders: dict[str, Path], tmp_path: Path
) -> None:
    if prefix == "diffusion_model." and not comfyui:
        pytest.skip("the same but for the prefix")
    transformer = other(family)
    tensors = {f"{prefix}{name}": value for name, value in released(transformer, comfyui).items()}
    if prefix == "model.diffusion_model.":
        tensors["vae.decoder.conv_in.weight"] = torch.zeros(3)  # whole checkpoints hold other parts too
        if family == "ltx2.3":
            tensors[f"{prefix}video_embeddings_connector.learnable_registers"] = torch.zeros(3)
    generator = load_generator(
        folders[family], transformer=write(tmp_path / "w.safetensors", tensors), device="cpu"
    )
    for name, value in generator.transformer.state_dict().items():
        assert torch.equal(value, transformer.state_dict()[name]), name


@pytest.mark.parametrize("family", ["wan", "cogvideox"])
def test_diffusers_names_and_shards_are_loaded_too(
    family: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    transformer = other(family)
    tensors = dict(transformer.state_dict())
    names = sorted(tensors)
    for number, part in enumerate((names[::2], names[1::2])):
        write(
            tmp_path / "shards" / f"model-0000{number}-of-00002.safetensors",
            {name: tensors[name] for name in part},
        )
    whole = write(tmp_path / "whole.safetensors", tensors)
    for path in (whole, tmp_path / "shards"):
        loaded = load_generator(folders[family], transformer=path, device="cpu").transformer
        assert all(torch.equal(value, tensors[name]) for name, value in loaded.state_dict().items())


def test_tables_keep_the_precision_that_diffusers_keeps(folders: dict[str, Path], tmp_path: Path) -> None:
    pipeline = build_tiny_pipeline("wan", seed=3)
    pipeline.save_pretrained(tmp_path / "stock")
    stock = type(pipeline).from_pretrained(tmp_path / "stock", dtype=torch.bfloat16).transformer
    path = write(tmp_path / "w.safetensors", released(pipeline.transformer))
    loaded = load_generator(folders["wan"], transformer=path, device="cpu", dtype=torch.bfloat16).transformer
    expected = stock.state_dict()
    assert {str(value.dtype) for value in expected.values()} == {"torch.float32", "torch.bfloat16"}
    for name, value in loaded.state_dict().items():
        assert value.dtype == expected[name].dtype, name
        assert torch.equal(value, expected[name]), name


FLOAT8 = torch.float8_e4m3fn


def quantised(
    weights: dict[str, Tensor], scale_name: str, rows: bool = False, scaled: bool = True
) -> dict[str, Tensor]:
    """Matrices in fp8, with a scale each (or one a row) so that their largest value is 448."""
    found: dict[str, Tensor] = {}
    for name, value in weights.items():
        if value.ndim != 2 or not name.endswith(".weight"):
            found[name] = value
            continue
        largest = value.abs().amax(1, keepdim=True) if rows else value.abs().amax()
        scale = largest / 448 if scaled else torch.tensor(1.0)
        found[name] = (value / scale).to(FLOAT8)
        if scaled:
            found[name.removesuffix("weight") + scale_name] = scale
    return found


@pytest.mark.parametrize(
    ("scale_name", "rows"), [("scale_weight", False), ("weight_scale", False), ("weight_scale", True)]
)
def test_scaled_fp8_is_multiplied_by_its_scales(
    scale_name: str, rows: bool, folders: dict[str, Path], tmp_path: Path
) -> None:
    transformer = other("wan")
    tensors = quantised(released(transformer), scale_name, rows)
    tensors |= {"scaled_fp8": torch.zeros(2, dtype=FLOAT8), "blocks.0.ffn.0.scale_input": torch.ones(1)}
    path = write(tmp_path / "scaled.safetensors", tensors)
    generator = load_generator(folders["wan"], transformer=path, device="cpu")
    for name, value in generator.transformer.state_dict().items():
        exact = transformer.state_dict()[name]
        # Three bits after the point: one in 16 at most.
        assert (value - exact).abs().max() <= exact.abs().max() / 16
        assert (value - exact).norm() <= 0.04 * exact.norm() + 1e-6
    exact = load_generator(
        folders["wan"], transformer=write(tmp_path / "e.safetensors", released(transformer)), device="cpu"
    )
    assert (ours(generator, 1.0) - ours(exact, 1.0)).abs().max() < 0.1


def test_plain_fp8_is_cast(folders: dict[str, Path], tmp_path: Path) -> None:
    transformer = other("wan")
    path = write(tmp_path / "plain.safetensors", quantised(released(transformer), "", scaled=False))
    loaded = load_generator(folders["wan"], transformer=path, device="cpu").transformer
    name = "blocks.1.ffn.net.2.weight"
    assert torch.equal(loaded.state_dict()[name], transformer.state_dict()[name].to(FLOAT8).float())


def test_a_gguf_file_is_dequantised(folders: dict[str, Path], tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    transformer = other("wan")
    path = tmp_path / "wan-Q8_0.gguf"
    writer = gguf.GGUFWriter(path, "wan")
    exact, changed = {}, []
    for name, value in released(transformer).items():
        array = value.numpy()
        exact[name] = value
        if value.ndim == 2 and value.shape[1] % 32 == 0 and name.endswith(".weight"):
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(name, gguf.quants.quantize(array, kind), raw_dtype=kind)
            changed.append(name)
        else:
            flat = array.reshape(array.shape[0], -1) if value.ndim > 4 else array
            writer.add_tensor(name, flat)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert changed
    loaded = load_generator(folders["wan"], transformer=path, device="cpu")
    read = released(loaded.transformer)
    for name, value in exact.items():
        if name in changed:
            blocks = value.reshape(-1, 32).abs().amax(1, keepdim=True) / 127
            assert ((read[name] - value).reshape(-1, 32).abs() <= 0.6 * blocks + 1e-7).all()
        else:
            assert torch.equal(read[name], value), name


@pytest.mark.skipif(importlib.util.find_spec("gguf") is not None, reason="gguf is installed")
def test_a_gguf_file_without_the_package_says_what_to_install(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    with pytest.raises(InputError, match=r"pip install 'vidalign\[gguf\]'"):
        load_generator(folders["wan"], transformer=tmp_path / "x.gguf", device="cpu")


def test_both_transformers_are_given_by_files_and_exchanged_ones_are_refused(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = folders["wan2.2-a14b"]
    high, low = (other("wan2.2-a14b", name) for name in ("transformer", "transformer_2"))
    paths = [
        write(tmp_path / f"wan_{noise}_noise.safetensors", released(each))
        for noise, each in (("high", high), ("low", low))
    ]
    loaded: Any = load_generator(
        folder, transformer=paths[0], transformer_2=paths[1], device="cpu"
    ).transformer
    for ours_now, theirs in ((loaded.transformer, high), (loaded.transformer_2, low)):
        assert all(
            torch.equal(value, theirs.state_dict()[name]) for name, value in ours_now.state_dict().items()
        )
    with pytest.raises(InputError, match="exchange --transformer and --transformer_2"):
        load_generator(folder, transformer=paths[1], transformer_2=paths[0], device="cpu")
    with pytest.raises(InputError, match="no weights of its transformer_2: give them with --transformer_2"):
        load_generator(folder, transformer=paths[0], device="cpu")


def refused(
    family: str, tensors: dict[str, Tensor], folders: dict[str, Path], tmp_path: Path, **more: Any
) -> str:
    path = tmp_path / "w.safetensors"
    save_file({name: value.contiguous() for name, value in tensors.items()}, path, **more)
    with pytest.raises(InputError) as caught:
        load_generator(folders[family], transformer=path, device="cpu")
    return str(caught.value)


def test_contradictions_are_named(folders: dict[str, Path], tmp_path: Path) -> None:
    weights = released(other("wan"))
    i2v = released(other("wan-i2v"))
    assert "takes 36 channels where the model takes 16" in refused("wan", i2v, folders, tmp_path)
    missing = {name: value for name, value in weights.items() if "blocks.1" not in name}
    assert "lack 27 of the model's weights, such as 'blocks.1" in refused("wan", missing, folders, tmp_path)
    extra = {**weights, "blocks.2.self_attn.q.weight": torch.ones(24, 24)}
    said = refused("wan", extra, folders, tmp_path)
    assert "hold 1 that it does not have, such as 'blocks.2.self_attn.q.weight'" in said
    integers = {**weights, "blocks.0.ffn.0.weight": torch.ones(32, 24, dtype=torch.int8)}
    assert "quantised as int8" in refused("wan", integers, folders, tmp_path)
    by_key = {**weights, "blocks.0.ffn.0.comfy_quant": torch.ones(3, dtype=torch.uint8)}
    assert "comfy_quant" in refused("wan", by_key, folders, tmp_path)
    metadata = {
        "_quantization_metadata": json.dumps({"layers": {"blocks.0.ffn.0": {"format": "int8_convrot"}}})
    }
    assert "comfy_quant (int8_convrot)" in refused("wan", weights, folders, tmp_path, metadata=metadata)
    blocks = {**weights, "blocks.0.ffn.0.scale_weight": torch.ones(32, 3)}
    assert "scales of shape (32, 3)" in refused("wan", blocks, folders, tmp_path)
    lost = {**weights, "blocks.0.nothing.scale_weight": torch.ones(1)}
    assert "no weight of that name" in refused("wan", lost, folders, tmp_path)
    (tmp_path / "text.safetensors").write_text("no weights")
    for path, sentence in (
        (tmp_path / "text.safetensors", "not a readable file"),
        (tmp_path / "none", "No weights were"),
    ):
        with pytest.raises(InputError, match=sentence):
            load_generator(folders["wan"], transformer=path, device="cpu")
    whole = write(tmp_path / "whole.safetensors", weights)
    with pytest.raises(InputError, match="has no transformer_2"):
        load_generator(folders["wan"], transformer=whole, transformer_2=whole, device="cpu")
    with pytest.raises(InputError, match="of which no other tool has files"):
        load_generator("nano", transformer=whole, device="cpu")
    with pytest.raises(InputError, match="quantization and a file of weights were both given"):
        load_generator(folders["wan"], transformer=whole, device="cpu", quantization="8bit")


def test_commands_take_weights_from_files(
    folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "finetune.safetensors", released(other("wan")))
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a red circle\n")
    words = ["--prompts", str(prompts), "--num_inference_steps", "1", "--guidance_scale", "1"]
    done = main(["generate", "--model", str(folders["wan"]), *words, "--output_dir", str(tmp_path / "none")])
    assert done == 2
    assert "give the transformer's weights with --transformer FILE" in capsys.readouterr().err.replace(
        "\n", " "
    )
    assert not (tmp_path / "none").exists()
    out = tmp_path / "videos"
    asked = ["--model", str(folders["wan"]), "--transformer", str(path)]
    assert main(["generate", *asked, *words, "--output_dir", str(out)]) == 0
    assert json.loads((out / "generation.json").read_text())["transformer"] == str(path)
    shutil.rmtree(out)
