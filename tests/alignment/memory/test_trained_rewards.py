"""Memory of trained reward models: forecast from headers and configurations, against what the loaded models hold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from alignment.cli import main
from alignment.memory.asked_rewards import asked_rewards, is_trained
from alignment.memory.trained_rewards import trained_rewards
from alignment.memory.work import Work
from generator.hardware.memory_tracker import StorageTracker, fused_attention, norms_in_float32
from generator.loading import load_generator
from generator.output import InputError
from generator.testing import tiny_generator
from generator.testing.pipelines import save_tiny_pipeline
from generator.testing.stand_ins import COLOURS, coloured_video
from generator.video import write_video
from reward import load_reward
from reward.models.latent import LatentRewardConfig, LatentRewardModel
from reward.models.vlm import VLMRewardConfig, VLMRewardModel
from reward.models.vlm_loading import VideoBudget, load_vision_language_model
from tests.reward.models.tiny_vlm import save_tiny_qwen

SIZE = (9, 32, 32)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model, a reward model and an ensemble on it that `vidalign reward` trained, and one with a LoRA."""
    root = tmp_path_factory.mktemp("trained")
    tiny_generator().pipeline.save_pretrained(root / "model")
    rows = []
    for number in range(4):
        names = [f"{number}-{k}.mp4" for k in range(2)]
        for k, name in enumerate(names):
            write_video(root / name, coloured_video(COLOURS[(number + k) % 4], 2 * number + k), fps=8)
        rows.append({"prompt": f"{COLOURS[number]} clip", "videos": names, "ranks": [1, 2]})
    (root / "rankings.jsonl").write_text("\n".join(map(json.dumps, rows)))
    command = f"reward --model {root}/model --preferences {root}/rankings.jsonl --num_train_epochs 1"
    command += " --use_cpu true --report_to none --output_dir"
    for name, more in (("pooled", ""), ("pair", "--ensemble 2"), ("lora", "--lora_rank 2")):
        assert main(f"{command} {root}/{name} {more}") == 0
    return root


def held(*models: LatentRewardModel) -> int:
    """Bytes of parameters and buffers of loaded models, shared ones once, without LoRA layers that nothing reads."""
    tensors: dict[int, torch.Tensor] = {}
    for model in models:
        tensors |= {id(tensor): tensor for tensor in model.state_dict(keep_vars=True).values()}
        for part in model.generator.pipeline.components.values():
            named = part.state_dict(keep_vars=True) if isinstance(part, torch.nn.Module) else {}
            tensors |= {id(tensor): tensor for name, tensor in named.items() if ".reward." not in name}
    return sum(tensor.nbytes for tensor in tensors.values())


def test_weights_are_those_of_the_loaded_models_and_shared_trunks_count_once(files: Path) -> None:
    pooled, lora = (load_reward(files / name, "cpu") for name in ("pooled", "lora"))
    pair: Any = load_reward(files / "pair", "cpu")
    assert asked_rewards([str(files / "pooled")]).weight_bytes == held(pooled)
    assert asked_rewards([str(files / "lora")]).weight_bytes == held(lora)
    assert asked_rewards([str(files / "pair")]).weight_bytes == held(*pair.members)
    together = f"{files / 'pooled'},{files / 'pooled'}"
    joined: Any = load_reward(together, "cpu")
    assert asked_rewards([together]).weight_bytes == held(*joined.members) < 2 * held(pooled)
    # Rewards that are named one by one are loaded each with a trunk of its own; CLIP-H is counted beside.
    both = asked_rewards([str(files / "pooled"), str(files / "lora"), "pickscore"])
    assert both.weight_bytes - held(pooled) - held(lora) == asked_rewards(["pickscore"]).weight_bytes > 1e9


def test_a_latent_reward_needs_no_decoded_videos_and_keeps_its_activations_with_gradients(
    files: Path,
) -> None:
    rewards = asked_rewards([str(files / "pooled"), str(files / "lora")])
    assert rewards.gradients
    assert not rewards.judges_pixels
    assert not asked_rewards([str(files / "pooled"), "module:function"]).gradients
    assert asked_rewards([str(files / "pooled"), "module:function"]).judges_pixels
    work = rewards.of(Work("backprop", *SIZE), 8.0)
    (_, pooled), (_, lora) = rewards.judging(work, 8.0)
    assert work.judging_gradient_bytes == pooled.gradients + lora.gradients
    assert work.judging_bytes == max(pooled.scoring, lora.scoring) < pooled.gradients < lora.gradients


@pytest.mark.parametrize("architecture", ["pooled", "matching"])
def test_fake_judging_needs_what_real_judging_allocates(architecture: str, tmp_path: Path) -> None:
    pipeline = save_tiny_pipeline("wan", tmp_path / "wan")
    generator = load_generator(pipeline, device="cpu", dtype=torch.bfloat16)
    config = LatentRewardConfig(str(pipeline), ("visual", "alignment"), architecture, lora_rank=2)
    model = LatentRewardModel(config, generator).eval()
    model.save_pretrained(tmp_path / "reward")
    (found,) = trained_rewards([str(tmp_path / "reward")])
    latents = torch.randn(1, *generator.latent_shape(*SIZE))
    shapes = generator.condition_shapes()
    conditions = {name: torch.ones(1, *shape, dtype=dtype) for name, (shape, dtype) in shapes.items()}
    model._empty_prompt = conditions
    peaks = []
    for gradients in (False, True):
        with fused_attention(), norms_in_float32(), StorageTracker() as tracker:
            scores = model.score_latents(latents.clone().requires_grad_(gradients), conditions)
            if gradients:
                torch.stack(list(scores.values())).sum().backward()
        peaks.append(tracker.peak)
    judging = found.judging(*SIZE, 8.0)
    assert [judging.scoring, judging.gradients] == pytest.approx(peaks, rel=0.05)
    # In bfloat16, as on a GPU, where the autoencoder follows.
    bare = load_generator(pipeline, device="cpu", dtype=torch.bfloat16)
    parts = (bare.transformer, bare.pipeline.text_encoder, bare.pipeline.vae.to(torch.bfloat16))
    assert found.below_bytes() == sum(parameter.nbytes for part in parts for parameter in part.parameters())


def test_a_vision_language_reward_counts_its_base_model_and_what_was_trained(tmp_path: Path) -> None:
    base = save_tiny_qwen(tmp_path / "qwen")
    config = VLMRewardConfig(str(base), ("visual", "overall"), VideoBudget(), lora_rank=2)
    model = VLMRewardModel(config, load_vision_language_model(base, "cpu", torch.bfloat16))
    model.save_pretrained(tmp_path / "reward")
    rewards = asked_rewards([str(tmp_path / "reward")])
    expected = {id(value): value for value in model.state_dict(keep_vars=True).values()}
    # Without the two rows that the tiny vocabulary has to grow by for the tokens.
    assert rewards.weight_bytes == pytest.approx(sum(value.nbytes for value in expected.values()), rel=0.005)
    assert not rewards.gradients
    assert rewards.judges_pixels
    assert rewards.unmeasured == {str(tmp_path / "reward")}


def test_doctor_counts_trained_rewards_and_says_so(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    peaks = []
    for more in ([], ["--reward", str(files / "pooled")]):
        report = tmp_path / "found.json"
        assert main(["doctor", "--model", str(files / "model"), "--json", str(report), *more]) == 0
        methods = json.loads(report.read_text())["model"]["methods"]
        peaks.append({name: option["peak"] for name, (option,) in methods.items()})
        resident = methods["ppo"][0]["resident"].get("rewards", 0)
        assert resident == asked_rewards(more[1:]).weight_bytes
    printed = capsys.readouterr().out
    assert f"{files / 'pooled'} needs 0.00 GB beside its weights" in printed
    assert "a trained reward model" in printed
    assert "not in the forecast" not in printed
    assert peaks[1]["ppo"] >= peaks[0]["ppo"] + asked_rewards([str(files / "pooled")]).weight_bytes
    assert peaks[1]["sft"] == peaks[0]["sft"]


def test_a_reward_that_ships_is_counted_by_its_name() -> None:
    shipped = load_reward("nano-v1-reward", "cpu")
    rewards = asked_rewards(["nano-v1-reward"])
    below = sum(value.nbytes for value in shipped.generator.transformer.parameters())  # type: ignore[attr-defined]
    assert rewards.weight_bytes > below
    assert rewards.gradients
    assert not rewards.judges_pixels
    assert [each.name for each in rewards.trained] == ["nano-v1-reward"]
    assert is_trained("nano-v1-reward")
    assert not is_trained("nano-v2-reward")


def test_a_damaged_reward_folder_is_one_sentence(files: Path, tmp_path: Path) -> None:
    config = json.loads((files / "pooled" / "reward_config.json").read_text())
    for change, says in (
        ({"model_type": "other"}, "unknown type 'other'"),
        ({}, "reward_model.safetensors is not a readable file of weights"),
        ({"base_model": "gone"}, "The model 'gone' is unknown"),
    ):
        (tmp_path / "reward_config.json").write_text(json.dumps(config | change))
        with pytest.raises(InputError, match=says):
            asked_rewards([str(tmp_path)])
        (tmp_path / "reward_model.safetensors").write_bytes(
            (files / "pooled" / "reward_model.safetensors").read_bytes() if change == {} else b""
        )
