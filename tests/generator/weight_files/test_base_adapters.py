"""Distilled LoRA files as a base: merged before training, recorded, never saved again, asked for afterwards."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from alignment.cli import main
from generator.adapters.adapters import load_adapters, read_adapter
from generator.adapters.loaded_from import check_base_weights, loaded_from
from generator.data.demonstrations import METADATA, write_demonstrations
from generator.loading import load_generator
from generator.output import InputError, read_jsonl, write_jsonl
from generator.provenance import file_hash, fingerprint
from generator.testing.pipelines import build_tiny_pipeline, save_tiny_pipeline
from reward import load_reward
from tests.generator.weight_files.lora_forms import (
    ab,
    merged_by_hand,
    random_pairs,
    shapes_of,
    wan_release,
    write,
)

SIZE = ["--num_frames", "5", "--height", "16", "--width", "16"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """A tiny Wan, a distilled file with offsets, and an adapter that `sft` trained on top of both."""
    root = tmp_path_factory.mktemp("base")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VIDALIGN_CACHE", str(root / "cache"))
        model = save_tiny_pipeline("wan", root / "model")
        transformer: Any = load_generator(model, device="cpu").transformer
        pairs = random_pairs(shapes_of(transformer, ["to_q", "net.2"]))
        norm = torch.full((24,), 0.25)
        distilled = {
            **ab(pairs, "diffusion_model.", wan_release),
            "diffusion_model.blocks.0.norm3.diff": norm,
        }
        file = write(root / "lightx2v.safetensors", distilled)
        videos = torch.rand(2, 3, 5, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
        write_demonstrations(root / "data", videos, ["a circle", "a square"], 8)
        (root / "prompts.txt").write_text("a red circle\n")
        words = [
            *(
                "sft",
                "--model",
                str(model),
                "--base_adapter",
                f"{file}:0.5",
                "--dataset",
                str(root / "data"),
                *SIZE,
            ),
            *("--output_dir", str(root / "trained"), "--export", "comfyui", "kohya", "--max_steps", "2"),
            *("--learning_rate", "0.1", "--use_cpu", "true", "--report_to", "none", "--lora_r", "2"),
            *("--per_device_train_batch_size", "1", "--disable_tqdm", "true", "--save_strategy", "no"),
        ]
        assert main(words) == 0
        base = merged_by_hand(
            transformer,
            {name: (a, b / 2) for name, (a, b) in pairs.items()},
            {"blocks.0.norm2.weight": norm / 2},
        )
        yield {
            "root": root,
            "model": model,
            "file": file,
            "base": base,
            "norm": norm,
            "trained": root / "trained",
        }


def test_a_base_adapter_is_recorded_and_is_no_part_of_what_is_saved(place: dict[str, Any]) -> None:
    record = json.loads((place["trained"] / "training.json").read_text())
    (entry,) = record["base_adapters"]
    assert entry == {"name": "lightx2v.safetensors", "sha256": file_hash(place["file"]), "weight": 0.5}
    adapter = read_adapter(place["trained"])
    assert not adapter.offsets
    assert {len(down) for down, _ in adapter.pairs.values()} == {2}
    assert not any("ffn" in name for name in adapter.pairs)


def test_the_trained_adapter_on_its_base_is_base_and_change(place: dict[str, Any]) -> None:
    generator = load_generator(place["model"], place["trained"], "cpu", base_adapter=f"{place['file']}:0.5")
    change = read_adapter(place["trained"]).pairs
    for name, value in generator.transformer.state_dict().items():
        layer = name.removesuffix(".weight")
        expected = place["base"][name]
        if name.endswith(".weight") and layer in change:
            expected = expected + change[layer][1] @ change[layer][0]
        torch.testing.assert_close(value, expected, atol=1e-6, rtol=1e-5)


def test_an_adapter_is_refused_without_the_base_that_it_was_trained_on(
    place: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--model", str(place["model"]), "--adapter", str(place["trained"]), *SIZE]
    words += [
        "--prompts",
        str(place["root"] / "prompts.txt"),
        "--num_inference_steps",
        "1",
        "--guidance_scale",
        "1",
    ]
    for command in ("generate", "evaluate"):
        out = str(tmp_path / command)
        for base in ([], ["--base_adapter", str(place["file"])]):  # not at all, and at another weight
            assert main([command, *words, *base, "--output_dir", out]) == 2
            said = capsys.readouterr().err.replace("\n", " ")
            assert "pass --base_adapter lightx2v.safetensors:0.5" in said
        assert not Path(out).exists()
    given = ["--base_adapter", f"{place['file']}:0.5"]
    assert main(["generate", *words, *given, "--output_dir", str(tmp_path / "videos")]) == 0
    stored = json.loads((tmp_path / "videos" / "generation.json").read_text())
    assert stored["base_adapter"] == [given[1]]


def test_exported_files_hold_the_change_alone_and_know_their_base(place: dict[str, Any]) -> None:
    generator = load_generator(place["model"], device="cpu")
    adapter = read_adapter(place["trained"])
    for form in ("comfyui", "kohya"):
        file = place["trained"] / form / "trained.safetensors"
        read = read_adapter(file, generator.transformer)
        assert set(read.pairs) == set(adapter.pairs)
        assert {tensor.dtype for key, tensor in load_file(file).items() if "alpha" not in key} == {
            torch.bfloat16
        }
        for name, (down, up) in adapter.pairs.items():
            torch.testing.assert_close(
                read.pairs[name][1] @ read.pairs[name][0], up @ down, atol=2e-2, rtol=2e-2
            )
        with pytest.raises(InputError, match=r"pass --base_adapter lightx2v\.safetensors:0\.5"):
            load_adapters(generator, file)


def test_an_adapter_with_offsets_is_continued_and_saved_with_them(
    place: dict[str, Any], tmp_path: Path
) -> None:
    generator = load_generator(place["model"], place["file"], "cpu")
    from alignment.lora import LoraArguments, add_lora, trained_adapter
    from generator.adapters.adapters import write_adapter

    expected = {name: value.clone() for name, value in generator.transformer.state_dict().items()}
    add_lora(generator, LoraArguments(lora_r=2), seed=0)
    write_adapter(tmp_path, trained_adapter(generator), {})
    again = load_generator(place["model"], tmp_path, "cpu")
    for name, value in again.transformer.state_dict().items():
        torch.testing.assert_close(value, expected[name], atol=1e-6, rtol=1e-5)
    write(tmp_path / "offsets.safetensors", {"blocks.0.norm2.weight": torch.ones(3)})
    with pytest.raises(InputError, match=r"changes 'blocks.0.norm2.weight' of shape \(3,\), but"):
        load_generator(place["model"], tmp_path, "cpu")


def test_an_adapter_of_other_weights_of_the_same_shape_is_loaded_with_a_warning(
    place: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(place["trained"], tmp_path / "trained")
    record = json.loads((tmp_path / "trained" / "training.json").read_text())
    record["weight_files"] = {"transformer": {"name": "finetune.safetensors", "sha256": "0" * 64}}
    (tmp_path / "trained" / "training.json").write_text(json.dumps(record))
    base = {"base_adapter": f"{place['file']}:0.5"}
    load_generator(place["model"], place["trained"], "cpu", **base)
    assert "others of the same shape" not in caplog.text
    load_generator(place["model"], tmp_path / "trained", "cpu", **base)
    assert (
        "was trained on the weights finetune.safetensors (--transformer), and is loaded on others"
        in caplog.text
    )


def test_an_adapter_knows_the_weights_that_it_was_trained_on(
    place: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    said = "was trained on the weights of"
    base: dict[str, Any] = {"base_adapter": f"{place['file']}:0.5"}
    record = json.loads((place["trained"] / "training.json").read_text())
    alone = load_generator(place["model"], device="cpu")
    assert record["base_weights_fingerprint"] == fingerprint(alone.transformer)
    for dtype in (torch.float32, torch.bfloat16):
        load_generator(place["model"], place["trained"], "cpu", dtype, **base)
    load_generator(place["model"], [place["trained"], place["trained"]], "cpu", **base)
    load_adapters(alone, place["file"])
    check_base_weights(alone, record, "trained")  # merged adapters are no part of the base
    exported = place["trained"] / "comfyui" / "trained.safetensors"
    load_generator(place["model"], exported, "cpu", **base)
    assert said not in caplog.text
    other = save_tiny_pipeline("wan", tmp_path / "other", seed=1)
    for adapter in (place["trained"], exported):
        caplog.clear()
        load_generator(other, adapter, "cpu", **base)
        assert f"{adapter} {said} {record['base_model']}, and is loaded on" in caplog.text


def test_the_adapter_of_one_nano_is_not_taken_for_that_of_the_other(caplog: pytest.LogCaptureFixture) -> None:
    for model in ("nano", "nano-v1"):
        load_generator(model, f"{model}-distilled", "cpu")
    assert "others of the same shape" not in caplog.text
    load_generator("nano", "nano-v1-distilled", "cpu")
    assert "trained on the weights of nano-v1, and is loaded on nano, whose weights are others" in caplog.text


@pytest.mark.parametrize(("weight", "said"), [("much", "must be a number"), ("nan", "must be a number")])
def test_a_weight_that_is_no_number_is_refused(weight: str, said: str, place: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=said):
        load_generator(place["model"], device="cpu", base_adapter=f"{place['file']}:{weight}")


def test_the_shift_of_few_step_models_is_set_and_refused_where_there_is_none(
    place: dict[str, Any], tmp_path: Path
) -> None:
    generator = load_generator(place["model"], device="cpu", flow_shift=5.0)
    levels = torch.tensor([1.0, 0.75, 0.5, 0.25, 0.0])
    torch.testing.assert_close(generator.sigma_schedule(4), 5 * levels / (1 + 4 * levels))
    with pytest.raises(InputError, match="a schedule of its own"):
        load_generator(save_tiny_pipeline("ltx", tmp_path / "ltx"), device="cpu", flow_shift=5.0)


def test_a_base_adapter_says_how_the_model_is_sampled_and_a_given_shift_wins(
    place: dict[str, Any], tmp_path: Path
) -> None:
    folder = write(
        tmp_path / "distilled" / "pytorch_lora_weights.safetensors", load_file(place["file"])
    ).parent
    (folder / "training.json").write_text('{"generation_defaults": {"guidance_scale": 1.0, "shift": 4.0}}')
    for given in ({"base_adapter": folder}, {"adapter": folder}):
        defaults = load_generator(place["model"], device="cpu", **given).defaults
        assert (defaults.guidance_scale, defaults.shift) == (1.0, 4.0)
        assert load_generator(place["model"], device="cpu", flow_shift=7.0, **given).defaults.shift == 7.0


def test_a_built_in_adapter_is_a_base_by_its_name_and_weight() -> None:
    generator = load_generator("nano", device="cpu", base_adapter="nano-distilled:0.5")
    (entry,) = loaded_from(generator)["base_adapters"]
    assert (entry["name"], entry["weight"]) == ("nano-distilled", 0.5)
    assert generator.defaults.guidance_scale == 1.0


def test_four_steps_without_guidance_are_rolled_out_on_a_distilled_base(
    place: dict[str, Any], tmp_path: Path
) -> None:
    from generator.world import sample_prompts

    prompts = tmp_path / "prompts.txt"
    prompts.write_text(sample_prompts(1)[0] + "\n")
    words = [
        *("ppo", "--config", "wan/ppo_few_steps", "--model", str(place["model"]), "--reward", "world"),
        *(
            "--base_adapter",
            str(place["file"]),
            "--prompts",
            str(prompts),
            "--num_frames",
            "5",
            "--height",
            "16",
        ),
        *(
            "--width",
            "16",
            "--num_prompts",
            "1",
            "--num_generations",
            "2",
            "--num_rollouts",
            "1",
            "--use_cpu",
            "true",
        ),
        *(
            "--bf16",
            "false",
            "--compile_blocks",
            "false",
            "--lora_r",
            "2",
            "--report_to",
            "none",
            "--disable_tqdm",
        ),
        *("true", "--monitor_videos", "0", "--probe_prompts", "0", "--output_dir", str(tmp_path / "ppo")),
    ]
    assert main(words) == 0
    record = json.loads((tmp_path / "ppo" / "training.json").read_text())
    assert record["arguments"]["num_inference_steps"] == 4
    assert record["arguments"]["guidance_scale"] == 1.0
    assert record["base_adapters"][0]["weight"] == 1.0


def test_a_reward_model_keeps_what_its_trunk_was_loaded_from(
    place: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VIDALIGN_CACHE", str(tmp_path / "cache"))
    other: Any = build_tiny_pipeline("wan", seed=3)
    weights = write(tmp_path / "finetune.safetensors", dict(other.transformer.state_dict()))
    distilled = tmp_path / "lightx2v.safetensors"
    shutil.copyfile(place["file"], distilled)
    names = [
        place["root"] / "data" / row["file_name"] for _, row in read_jsonl(place["root"] / "data" / METADATA)
    ]
    rows = [{"prompt": prompt, "videos": list(map(str, names)), "ranks": [0, 1]} for prompt in ("a", "b")]
    write_jsonl(tmp_path / "rankings.jsonl", rows)
    words = ["reward", "--model", str(place["model"]), "--adapter", str(place["trained"]), "--preferences",
             str(tmp_path / "rankings.jsonl"), *SIZE, "--held_out_fraction", "0", "--max_steps", "1", "--use_cpu",
             "true", "--report_to", "none", "--disable_tqdm", "true", "--save_strategy", "no"]  # fmt: skip
    out = tmp_path / "reward"
    assert main([*words, "--output_dir", str(out)]) == 2
    assert "pass --base_adapter lightx2v.safetensors:0.5" in capsys.readouterr().err.replace("\n", " ")
    given = ["--base_adapter", f"{distilled}:0.5", "--transformer", str(weights)]
    assert main([*words, *given, "--output_dir", str(out)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert f"ppo --model {place['model']} {' '.join(given)} --adapter {place['trained']}" in said
    record = json.loads((out / "training.json").read_text())
    assert record["trunk_files"] == {"base_adapter": [given[1]], "transformer": given[3]}
    assert record["base_adapters"][0]["sha256"] == file_hash(distilled)

    distilled.unlink()
    reward: Any = load_reward(out, device="cpu")
    by_hand = load_generator(
        place["model"], place["trained"], "cpu", base_adapter=f"{place['file']}:0.5", transformer=weights
    )
    for name, value in by_hand.transformer.state_dict().items():
        assert torch.equal(reward.generator.transformer.state_dict()[name], value), name
    reward.save_pretrained(tmp_path / "copy")
    assert load_reward(tmp_path / "copy", device="cpu").record() is not None
    # A training that goes on from it finds the same trunk.
    more = [words[0], *words[words.index("--preferences") :], "--weights_from", str(out), "--output_dir"]
    assert main([*more, str(tmp_path / "more")]) == 0
    assert json.loads((tmp_path / "more" / "reward_config.json").read_text())["trunk"] == reward.config.trunk
    assert main([*more, str(tmp_path / "other"), *given]) == 2
    assert "whose trunk has its own: leave --base_adapter off" in capsys.readouterr().err.replace("\n", " ")
    weights.rename(tmp_path / "moved.safetensors")
    with pytest.raises(InputError, match=r"--transformer .*finetune\.safetensors, which is not there"):
        load_reward(out, device="cpu")
