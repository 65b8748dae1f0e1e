"""LoRA on the transformer: matching, reference, saving, loading, concatenation."""

import json
import re
from pathlib import Path

import pytest
import torch
from peft.tuners.lora import LoraLayer

from alignment.lora import LoraArguments, adapters_disabled, add_lora, trained_adapter
from alignment.trainers.base_trainer import Policy
from generator.adapters.adapters import (
    WEIGHTS_NAME,
    concatenate_adapters,
    load_adapters,
    merged_adapter,
    model_fingerprint,
    read_adapter,
    write_adapter,
)
from generator.output import InputError


def output(generator):
    random = torch.Generator().manual_seed(9)
    latents = torch.randn(3, 4, 2, 2, 2, generator=random)
    with torch.no_grad():
        return generator.velocity(
            latents, torch.tensor([0.2, 0.5, 0.9]), generator.encode_prompts(["a", "b", "c"])
        )


def train_randomly(generator, seed, **arguments):
    """LoRA layers with random weights, as after training."""
    add_lora(generator, LoraArguments(**arguments), seed=seed)
    random = torch.Generator().manual_seed(seed)
    for parameter in generator.transformer.parameters():
        if parameter.requires_grad:
            parameter.data = 0.3 * torch.randn(parameter.shape, generator=random)
    return generator


def record(generator):
    return {"base_model": generator.name, "model_fingerprint": model_fingerprint(generator.transformer)}


def test_lora_matches_layers_lists_them_and_leaves_the_output_unchanged(generator, caplog):
    before = output(generator)
    with caplog.at_level("INFO", logger="alignment"):
        matched = add_lora(generator, LoraArguments(), seed=0)
    assert len(matched) == 8
    assert matched[0] in caplog.text
    assert torch.equal(output(generator), before)
    trainable = [name for name, p in generator.transformer.named_parameters() if p.requires_grad]
    assert len(trainable) == 16
    assert all("lora_" in name for name in trainable)


@pytest.mark.parametrize(("names", "kinds"), [(["to_q"], {"to_q"}), (["to_q", "to_v"], {"to_q", "to_v"})])
def test_a_single_name_adapts_the_layers_that_end_in_it_as_one_of_several_does(names, kinds, generator):
    matched = add_lora(generator, LoraArguments(lora_target_modules=names), seed=0)
    assert {name.rpartition(".")[2] for name in matched} == kinds
    assert len(matched) == 2 * len(names)


def test_lora_that_matches_no_layer_is_an_error_that_names_layers(generator):
    with pytest.raises(InputError, match=r"match no layer.*proj_in"):
        add_lora(generator, LoraArguments(lora_target_modules=["query"]), seed=0)


def test_lora_weights_are_float32_on_a_bfloat16_base(generator):
    generator.transformer.to(torch.bfloat16)
    add_lora(generator, LoraArguments(), seed=0)
    lora = [p for p in generator.transformer.parameters() if p.requires_grad]
    assert {p.dtype for p in lora} == {torch.float32}
    assert generator.transformer.proj_in.weight.dtype == torch.bfloat16


def test_disabled_adapters_are_the_base_also_inside_a_wrapper(generator):
    base = output(generator)
    train_randomly(generator, 1)
    changed = output(generator)
    assert not torch.allclose(changed, base)
    with adapters_disabled(torch.nn.Sequential(Policy(generator.transformer))):
        assert torch.equal(output(generator), base)
        assert all(p.requires_grad for n, p in generator.transformer.named_parameters() if "lora_" in n)
    assert torch.equal(output(generator), changed)


@pytest.mark.parametrize("arguments", [{}, {"lora_r": 4, "lora_alpha": 3}, {"use_rslora": True}])
def test_a_saved_adapter_gives_the_trained_output(make_generator, tmp_path, arguments):
    trained = train_randomly(make_generator(), 1, **arguments)
    write_adapter(tmp_path, trained_adapter(trained), record(trained))
    loaded = make_generator()
    load_adapters(loaded, tmp_path)
    assert torch.allclose(output(loaded), output(trained), atol=1e-5)


def test_diffusers_itself_loads_a_saved_adapter(make_generator, tmp_path):
    trained = train_randomly(make_generator(), 1, lora_r=4, lora_alpha=12)
    write_adapter(tmp_path, trained_adapter(trained), record(trained))
    loaded = make_generator()
    loaded.transformer.load_lora_adapter(str(tmp_path), weight_name=WEIGHTS_NAME)
    assert any(isinstance(module, LoraLayer) for module in loaded.transformer.modules())
    assert torch.allclose(output(loaded), output(trained), atol=1e-5)


def test_the_folder_of_an_adapter_holds_the_files_that_the_documentation_names(make_generator, tmp_path):
    trained = train_randomly(make_generator(), 1, lora_r=4)
    write_adapter(tmp_path, trained_adapter(trained), record(trained))
    text = (Path(__file__).parents[2] / "docs" / "data-formats.md").read_text(encoding="utf-8")
    section = text.split("## Adapters")[1].split("##")[0]
    named = set(re.findall(r"`([a-z_0-9]+\.(?:json|safetensors))`", section))
    assert {path.name for path in tmp_path.iterdir()} == {WEIGHTS_NAME, "training.json"}
    assert named == {
        WEIGHTS_NAME,
        "pytorch_lora_weights_2.safetensors",
        "offsets.safetensors",
        "training.json",
    }


def test_diffusers_own_files_are_read_with_their_alpha(make_generator, tmp_path):
    trained = train_randomly(make_generator(), 1, lora_r=4, lora_alpha=12)
    trained.transformer.save_lora_adapter(str(tmp_path))
    loaded = make_generator()
    load_adapters(loaded, tmp_path)
    assert torch.allclose(output(loaded), output(trained), atol=1e-5)


def test_training_from_an_adapter_saves_one_that_contains_it(make_generator, tmp_path):
    first = train_randomly(make_generator(), 1, lora_r=4)
    write_adapter(tmp_path / "sft", trained_adapter(first), record(first))

    second = make_generator()
    load_adapters(second, [tmp_path / "sft"])
    train_randomly(second, 2, lora_r=8, lora_alpha=5, lora_target_modules=["to_q", "proj_out"])
    with adapters_disabled(second.transformer):
        assert torch.allclose(output(second), output(first), atol=1e-5)
    write_adapter(tmp_path / "ppo", trained_adapter(second), record(second))

    reloaded = make_generator()
    load_adapters(reloaded, tmp_path / "ppo")
    assert torch.allclose(output(reloaded), output(second), atol=1e-5)


def test_several_adapters_add_up_exactly(make_generator, tmp_path):
    paths = []
    for seed in (1, 2):
        trained = train_randomly(make_generator(), seed, lora_r=2 * seed)
        paths.append(tmp_path / str(seed))
        write_adapter(paths[-1], trained_adapter(trained), record(trained))
    adapters = [read_adapter(path) for path in paths]
    joined = concatenate_adapters(adapters)
    for module, (down, up) in joined.pairs.items():
        parts = [adapter.pairs[module] for adapter in adapters]
        assert torch.allclose(up @ down, sum(b @ a for a, b in parts), atol=1e-5)
    both, one_by_one = make_generator(), make_generator()
    load_adapters(both, paths)
    for path in paths:
        load_adapters(one_by_one, path)
    assert torch.allclose(output(both), output(one_by_one), atol=1e-5)
    assert len(merged_adapter(both).pairs) == len(merged_adapter(one_by_one).pairs) == 8


def test_an_adapter_of_another_model_is_refused_and_nothing_changes(make_generator, tmp_path):
    trained = train_randomly(make_generator(size=32), 1)
    write_adapter(tmp_path, trained_adapter(trained), record(trained))
    other = make_generator()
    before = output(other)
    with pytest.raises(InputError, match=r"was trained for stand-in .*load it on the model"):
        load_adapters(other, tmp_path)
    (tmp_path / "training.json").unlink()
    with pytest.raises(InputError, match=r"of shape \(32, 32\)"):
        load_adapters(other, tmp_path)
    assert torch.equal(output(other), before)


def test_missing_and_damaged_adapters_are_named(generator, tmp_path):
    with pytest.raises(InputError, match="No adapter was found at"):
        load_adapters(generator, tmp_path / "nowhere")
    (tmp_path / WEIGHTS_NAME).write_bytes(b"not a safetensors file")
    with pytest.raises(InputError, match="not a readable LoRA file"):
        load_adapters(generator, tmp_path)


def test_training_json_is_read_back(generator, tmp_path):
    train_randomly(generator, 1)
    write_adapter(tmp_path, trained_adapter(generator), record(generator))
    assert json.loads((tmp_path / "training.json").read_text())["base_model"] == "stand-in"
    assert read_adapter(tmp_path).training["model_fingerprint"].startswith("StandInTransformer-")


def test_a_field_added_with_its_default_changes_no_fingerprint() -> None:
    class Old(torch.nn.Module):
        def __init__(self, width: int = 4) -> None:
            super().__init__()
            self.config = {"width": width}

    class New(torch.nn.Module):
        def __init__(self, width: int = 4, extra: bool = False) -> None:
            super().__init__()
            self.config = {"width": width, "extra": extra}

    New.__name__ = "Old"
    assert model_fingerprint(New(8)) == model_fingerprint(Old(8))
    assert model_fingerprint(New(8, extra=True)) != model_fingerprint(Old(8))
    assert model_fingerprint(Old(8)) != model_fingerprint(Old(16))


@pytest.mark.parametrize("text", ['{"base_model": ', "[1]"])
def test_a_damaged_record_beside_an_adapter_is_named(make_generator, tmp_path, text):
    trained = train_randomly(make_generator(), 1)
    write_adapter(tmp_path, trained_adapter(trained), record(trained))
    (tmp_path / "training.json").write_text(text)
    with pytest.raises(InputError, match=r"training\.json is damaged"):
        load_adapters(make_generator(), tmp_path)


@pytest.mark.parametrize(
    ("name", "value"), [("lora_r", 0), ("lora_alpha", 0), ("lora_dropout", 1.5), ("lora_dropout", -0.1)]
)
def test_impossible_lora_settings_are_refused(name, value):
    with pytest.raises(InputError, match=f"{name} is {value}, but must be"):
        LoraArguments(**{name: value})
