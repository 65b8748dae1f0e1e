"""LoRA adapters of every family: saved by us, loaded by the stock pipeline, and back."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from peft.tuners.lora import LoraLayer

from alignment.lora import LoraArguments, add_lora, trained_adapter
from generator.adapters.adapters import (
    SECOND_WEIGHTS_NAME,
    WEIGHTS_NAME,
    load_adapters,
    read_adapter,
    write_adapter,
)
from generator.base import VideoGenerator
from generator.inputs.conditions import repeat
from generator.loading import load_generator
from generator.output import InputError
from generator.testing.image_pipelines import TINY_IMAGE_PIPELINES
from generator.testing.pipelines import save_tiny_pipeline
from generator.testing.stock import PROMPTS, noise_for, ours, stock_call
from generator.testing.text_pipelines import TINY_PIPELINES


def train_by_chance(generator: VideoGenerator, **lora: Any) -> None:
    """LoRA layers as training could have left them: B is not zero."""
    add_lora(generator, LoraArguments(**{"lora_r": 4, "lora_alpha": 12, **lora}), seed=0)
    random = torch.Generator().manual_seed(7)
    for module in generator.transformer.modules():
        if isinstance(module, LoraLayer):
            layer: Any = module
            weight = layer.lora_B["default"].weight
            weight.data = 0.3 * torch.randn(weight.shape, generator=random)


def load_into_stock(family: str, pipeline: Any, adapter: Path) -> None:
    if family == "hunyuan_video1.5":
        # Trap 5: its pipeline has no LoRA loader; the transformer's own call needs the file's name.
        pipeline.transformer.load_lora_adapter(adapter, weight_name=WEIGHTS_NAME, prefix="transformer")
        return
    pipeline.load_lora_weights(adapter, weight_name=WEIGHTS_NAME)
    if family == "wan2.2-a14b":
        pipeline.load_lora_weights(adapter, weight_name=SECOND_WEIGHTS_NAME, load_into_transformer_2=True)


@pytest.mark.parametrize("family", TINY_PIPELINES, indirect=True)
def test_an_adapter_saved_here_changes_the_stock_pipeline_as_it_changes_ours(
    family: str, folder: Path, generator: VideoGenerator, tmp_path: Path
) -> None:
    """Trap 5: the scale alpha / r of 3 must survive."""
    before = ours(generator, 3.0)
    train_by_chance(generator)
    trained = ours(generator, 3.0)
    write_adapter(tmp_path, trained_adapter(generator), {})
    pipeline = type(generator).pipeline_class.from_pretrained(folder)  # type: ignore[attr-defined]
    pipeline.set_progress_bar_config(disable=True)
    load_into_stock(family, pipeline, tmp_path)

    assert (trained - before).abs().max() > 1e-3
    torch.testing.assert_close(
        stock_call(family, pipeline, generator, 3.0).float(), trained, atol=5e-4, rtol=5e-4
    )


def test_an_adapter_loaded_again_gives_the_trained_model(
    folder: Path, generator: VideoGenerator, tmp_path: Path
) -> None:
    train_by_chance(generator)
    write_adapter(tmp_path, trained_adapter(generator), {})
    loaded = load_generator(folder, adapter=tmp_path, device="cpu")
    torch.testing.assert_close(ours(loaded, 3.0), ours(generator, 3.0), atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("family", ["wan", "ltx", "ltx2", "cogvideox", "hunyuan_video"], indirect=True)
def test_an_adapter_saved_by_the_stock_pipeline_is_read_with_its_scale(
    family: str, folder: Path, generator: VideoGenerator, tmp_path: Path
) -> None:
    from peft import get_peft_model_state_dict

    train_by_chance(generator)
    transformer: Any = generator.transformer
    type(generator).pipeline_class.save_lora_weights(  # type: ignore[attr-defined]
        tmp_path,
        transformer_lora_layers=get_peft_model_state_dict(transformer, adapter_name="default"),
        transformer_lora_adapter_metadata=transformer.peft_config["default"].to_dict(),
    )
    loaded = load_generator(folder, adapter=tmp_path, device="cpu")
    torch.testing.assert_close(ours(loaded, 3.0), ours(generator, 3.0), atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("family", ["hunyuan_video", "hunyuan_video1.5"], indirect=True)
def test_lora_leaves_the_token_refiner_of_hunyuan_video_alone(generator: VideoGenerator) -> None:
    matched = add_lora(generator, LoraArguments(lora_r=2), seed=0)
    assert matched
    assert not [name for name in matched if "context_embedder" in name or "refiner" in name]
    assert {name.split(".")[-1] for name in matched} >= {"to_q", "add_q_proj", "to_add_out"}


@pytest.mark.parametrize("family", ["wan2.2-a14b"], indirect=True)
def test_both_experts_get_lora_layers_and_each_has_its_own_file(
    folder: Path, generator: VideoGenerator, tmp_path: Path
) -> None:
    train_by_chance(generator)
    write_adapter(tmp_path, trained_adapter(generator), {})
    assert (tmp_path / WEIGHTS_NAME).is_file()
    assert (tmp_path / SECOND_WEIGHTS_NAME).is_file()
    modules = read_adapter(tmp_path).pairs
    assert {name.split(".")[0] for name in modules} == {"transformer", "transformer_2"}


@pytest.mark.parametrize("family", ["wan2.2-a14b"], indirect=True)
def test_an_adapter_of_one_file_changes_the_expert_of_high_noise_only(
    folder: Path, generator: VideoGenerator, tmp_path: Path
) -> None:
    train_by_chance(generator)
    write_adapter(tmp_path, trained_adapter(generator), {})
    (tmp_path / SECOND_WEIGHTS_NAME).unlink()
    base, changed = (load_generator(folder, device="cpu") for _ in range(2))
    load_adapters(changed, tmp_path)
    latents = noise_for(base)
    conditions = base.encode_prompts(PROMPTS)
    for sigma, expected_equal in ((0.95, False), (0.5, True)):
        levels = torch.full((2,), sigma)
        equal = torch.equal(
            base.velocity(latents, levels, conditions), changed.velocity(latents, levels, conditions)
        )
        assert equal == expected_equal


@pytest.mark.parametrize("family", ["wan2.2-a14b"], indirect=True)
def test_a_batch_of_mixed_noise_levels_goes_to_both_experts_with_gradients(generator: VideoGenerator) -> None:
    train_by_chance(generator)
    latents, levels = noise_for(generator, 4), torch.tensor([0.95, 0.2, 0.9, 0.6])
    conditions = repeat(generator.encode_prompts(PROMPTS), 2)
    together = generator.velocity(latents, levels, conditions)
    alone = [
        generator.velocity(
            latents[i : i + 1], levels[i : i + 1], {k: v[i : i + 1] for k, v in conditions.items()}
        )
        for i in range(4)
    ]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=1e-5)
    together.square().mean().backward()
    gradients = {
        name.split(".")[0] for name, p in generator.transformer.named_parameters() if p.grad is not None
    }
    assert gradients == {"transformer", "transformer_2"}


@pytest.mark.parametrize("family", ["wan2.2-a14b"], indirect=True)
@pytest.mark.parametrize("levels", [(0.95, 0.9), (0.2, 0.5), (0.95, 0.2)])
def test_an_expert_without_a_row_runs_along_with_gradients_of_zero(
    generator: VideoGenerator, levels: tuple[float, float]
) -> None:
    train_by_chance(generator)
    latents, sigma = noise_for(generator), torch.tensor(levels)
    conditions = generator.encode_prompts(PROMPTS)
    usual = generator.velocity(latents, sigma, conditions)
    generator.run_all_experts(when_sampling=False)
    along = generator.velocity(latents, sigma, conditions)
    torch.testing.assert_close(along, usual)
    along.square().mean().backward()
    largest = {"transformer": 0.0, "transformer_2": 0.0}
    for name, parameter in generator.transformer.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            expert = name.split(".")[0]
            largest[expert] = max(largest[expert], parameter.grad.abs().max().item())
    assert (largest["transformer"] > 0) == (max(levels) > 0.875)
    assert (largest["transformer_2"] > 0) == (min(levels) < 0.875)


def test_an_adapter_of_another_family_is_refused(tiny_folders: dict[str, Path], tmp_path: Path) -> None:
    wan = load_generator(tiny_folders["wan"], device="cpu")
    train_by_chance(wan)
    write_adapter(tmp_path, trained_adapter(wan), {})
    with pytest.raises(InputError, match="no such layer"):
        load_generator(tiny_folders["ltx"], adapter=tmp_path, device="cpu")


STOCK_PROCESS = """
import sys, torch, diffusers
assert "generator" not in sys.modules
for job in torch.load(sys.argv[1]):
    pipeline = diffusers.DiffusionPipeline.from_pretrained(job["folder"])
    outputs = []
    for adapted in (False, True):
        if adapted and hasattr(pipeline, "load_lora_weights"):
            pipeline.load_lora_weights(job["adapter"], weight_name="pytorch_lora_weights.safetensors")
            if len(job["calls"]) == 2:
                second = "pytorch_lora_weights_2.safetensors"
                pipeline.load_lora_weights(job["adapter"], weight_name=second, load_into_transformer_2=True)
        elif adapted:
            name = "pytorch_lora_weights.safetensors"
            pipeline.transformer.load_lora_adapter(job["adapter"], weight_name=name, prefix="transformer")
        with torch.no_grad():
            outputs.append(
                [getattr(pipeline, part)(**call, return_dict=False)[0] for part, call in job["calls"].items()]
            )
    torch.save(outputs, job["out"])
"""


def transformer_calls(generator: Any) -> dict[str, dict[str, Any]]:
    """What each transformer of the pipeline is called with for one video, and a first frame where it needs one."""
    size, noise = generator.defaults, noise_for(generator, 1)
    conditions = generator.encode_prompts(["a red circle"])
    if generator.image is not None:
        conditions |= generator.image(noise.new_zeros(1, 3, size.height, size.width), size.num_frames)
    levels = {generator.component: 0.95}
    if getattr(generator.pipeline, "transformer_2", None) is not None:
        levels["transformer_2"] = 0.5
    return {
        part: generator._transformer_arguments(noise, torch.tensor([level]), conditions)
        for part, level in levels.items()
    }


@pytest.mark.slow
def test_adapters_of_all_families_work_in_stock_diffusers_in_a_fresh_process(
    tiny_folders: dict[str, Path], tmp_path: Path
) -> None:
    folders = {**tiny_folders, **{f: save_tiny_pipeline(f, tmp_path / f) for f in TINY_IMAGE_PIPELINES}}
    jobs, expected = [], []
    for family, folder in folders.items():
        generator: Any = load_generator(folder, device="cpu")
        calls = transformer_calls(generator)
        both = []
        for adapted in (False, True):
            if adapted:
                train_by_chance(generator)
                write_adapter(tmp_path / f"{family}-adapter", trained_adapter(generator), {})
            with torch.no_grad():
                both.append(
                    [
                        getattr(generator.pipeline, part)(**c, return_dict=False)[0]
                        for part, c in calls.items()
                    ]
                )
        expected.append(both)
        jobs.append({"folder": str(folder), "adapter": str(tmp_path / f"{family}-adapter"), "calls": calls,
                     "out": str(tmp_path / f"{family}.pt")})  # fmt: skip
    torch.save(jobs, tmp_path / "jobs.pt")
    subprocess.run(
        [sys.executable, "-c", STOCK_PROCESS, str(tmp_path / "jobs.pt")],
        check=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": ""}, timeout=240, capture_output=True,
    )  # fmt: skip
    for job, (base, trained) in zip(jobs, expected):
        found_base, found = torch.load(job["out"])
        for index in range(len(base)):
            assert (trained[index] - base[index]).abs().max() > 1e-3, job["folder"]
            torch.testing.assert_close(found_base[index], base[index], atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(found[index], trained[index], atol=2e-5, rtol=1e-4)


def test_every_tiny_pipeline_is_covered(tiny_folders: dict[str, Path]) -> None:
    assert set(tiny_folders) == set(TINY_PIPELINES)
