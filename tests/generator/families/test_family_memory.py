"""Options that save memory leave the results as they are, or as near as they must."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch

from alignment.data.latent_dataset import PromptTable
from alignment.lora import LoraArguments, add_lora, trained_adapter
from alignment.trainers.base_trainer import Policy
from alignment.trainers.sft_config import SFTConfig
from alignment.trainers.sft_trainer import SFTTrainer
from generator.adapters.adapters import load_adapters, write_adapter
from generator.hardware import offloading
from generator.hardware.host_memory import HostMemory
from generator.hardware.offloading import offload_linear_layers
from generator.hardware.tiling import even_tiles
from generator.loading import load_generator
from generator.output import InputError
from generator.sampling import seeded_noise
from generator.testing.stock import PROMPTS, noise_for

HAS_BITSANDBYTES = importlib.util.find_spec("bitsandbytes") is not None


def test_a_released_text_encoder_holds_no_memory_and_comes_back_for_another_prompt(generator: Any) -> None:
    before = generator.encode_prompts(PROMPTS)
    generator.release_text_encoder()
    for name in generator.text_encoders:
        encoder = getattr(generator.pipeline, name)
        assert all(parameter.device.type == "meta" for parameter in encoder.parameters())
    after = generator.encode_prompts(PROMPTS)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_pipeline_saved_after_its_text_encoder_was_released_is_whole(
    generator: Any, tmp_path: Path
) -> None:
    generator.release_text_encoder()
    generator.restore_text_encoder()
    generator.pipeline.save_pretrained(tmp_path)
    again = load_generator(tmp_path, device="cpu")
    first, second = generator.encode_prompts(PROMPTS), again.encode_prompts(PROMPTS)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_prompts_are_encoded_once_each(generator: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    real = generator.encode_prompts
    monkeypatch.setattr(generator, "encode_prompts", lambda prompts: seen.extend(prompts) or real(prompts))
    table = PromptTable.encode(generator, [*PROMPTS, *PROMPTS, PROMPTS[0]])
    assert sorted(seen) == sorted(["", *PROMPTS])
    assert table.rows.tolist() == [1, 2, 1, 2, 1]


def test_tiling_and_slicing_decode_a_small_video_as_before(folder: Path, generator: Any) -> None:
    tiled = load_generator(folder, device="cpu", tiling=True)
    latents = noise_for(generator)
    torch.testing.assert_close(tiled.decode(latents), generator.decode(latents), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("length", "tile", "expected"),
    [(240, 256, (240, 240)), (416, 256, (208, 144)), (832, 256, (232, 168)), (32, 16, (16, 8))],
)
def test_tiles_are_even_cover_the_video_and_are_no_larger_than_allowed(
    length: int, tile: int, expected: tuple[int, int]
) -> None:
    size, stride = even_tiles(length, tile, 64 if tile > 64 else 8, 8)
    assert (size, stride) == expected
    assert size <= tile
    starts = list(range(0, length, stride))
    assert starts[-1] + size >= length


@pytest.mark.parametrize("family", ["wan", "wan2.2-ti2v", "hunyuan_video"], indirect=True)
def test_a_video_of_several_tiles_has_the_size_and_far_from_seams_the_pixels_of_the_whole(
    family: str, folder: Path, generator: Any
) -> None:
    side, time = generator.size_multiples()
    height, width = 2 * side, 12 * side
    latents = seeded_noise([0], generator.latent_shape(time + 1, height, width))
    whole = generator.decode(latents)
    tiled: Any = load_generator(folder, device="cpu")
    tiled.save_decoding_memory(tile=6 * side)
    found = tiled.decode(latents)
    assert tiled.pipeline.vae.tile_sample_min_width < width
    assert found.shape == whole.shape
    assert not torch.equal(found, whole)
    if family.startswith("wan"):  # HunyuanVideo's autoencoder looks at all pixels, mostly by attention
        assert (found - whole)[..., : side // 2].abs().mean() < 0.1 * whole.abs().mean()


def test_decoding_is_the_same_inside_a_trainers_autocast(generator: Any) -> None:
    latents = noise_for(generator)
    outside = generator.decode(latents)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(generator.decode(latents), outside)
        assert torch.equal(generator.encode(outside), generator.encode(outside))


def test_offloaded_weights_give_the_same_velocity_and_the_same_lora_gradients(
    folder: Path, generator: Any, tmp_path: Path
) -> None:
    offloaded: Any = load_generator(folder, device="cpu", offload_weights=True)
    held = {name for block in offloaded.blocks() for name, _ in block.named_parameters()}
    assert not [name for name in held if name.endswith("to_q.weight")]
    latents, sigma = noise_for(generator), torch.tensor([0.9, 0.4])
    gradients = []
    for model in (generator, offloaded):
        add_lora(model, LoraArguments(lora_r=2), seed=0)
        policy = Policy(model.transformer)
        policy.gradient_checkpointing_enable()
        velocity = model.velocity(latents, sigma, model.encode_prompts(PROMPTS), policy)
        velocity.square().mean().backward()
        gradients.append({n: p.grad for n, p in model.transformer.named_parameters() if p.grad is not None})
        gradients[-1]["velocity"] = velocity.detach()
    assert len(gradients[0]) > 1
    torch.testing.assert_close(gradients[1], gradients[0], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("family", ["wan"], indirect=True)
@pytest.mark.parametrize("page_locked", [False, True])
def test_an_adapter_is_merged_into_offloaded_weights(
    folder: Path, generator: Any, tmp_path: Path, page_locked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[HostMemory] = []

    def memory(total: int) -> HostMemory | None:
        if page_locked:
            made.append(HostMemory(total, lambda size: torch.empty(size, dtype=torch.uint8)))
        return made[0] if page_locked else None

    monkeypatch.setattr(offloading, "_page_locked_memory", memory)
    add_lora(generator, LoraArguments(lora_r=2), seed=0)
    for name, parameter in generator.transformer.named_parameters():
        if "lora_B" in name:
            parameter.data.fill_(0.1)
    write_adapter(tmp_path, trained_adapter(generator), {})
    loaded, offloaded = (
        load_generator(folder, adapter=tmp_path, device="cpu", offload_weights=o) for o in (False, True)
    )
    arguments = noise_for(generator), torch.tensor([0.9, 0.4]), generator.encode_prompts(PROMPTS)
    torch.testing.assert_close(offloaded.velocity(*arguments), loaded.velocity(*arguments))
    held = [m.weight for m in offloaded.transformer.modules() if isinstance(m, offloading.OffloadedLinear)]
    assert held
    assert len(made) == page_locked
    pieces = {piece.untyped_storage().data_ptr() for memory in made for piece in memory.pieces}
    assert {weight.untyped_storage().data_ptr() in pieces for weight in held} == {page_locked}


@pytest.mark.parametrize("family", ["wan"], indirect=True)
def test_offloaded_weights_are_refused_where_they_do_not_work(folder: Path, tmp_path: Path) -> None:
    offloaded = load_generator(folder, device="cpu", offload_weights=True)
    config = SFTConfig(output_dir=str(tmp_path), use_cpu=True, report_to="none", compile_blocks=True)
    with pytest.raises(InputError, match="compile_blocks"):
        SFTTrainer(offloaded, config, [], [])
    with pytest.raises(InputError, match="no linear layers"):
        offload_linear_layers([torch.nn.Conv3d(1, 1, 1)])


@pytest.mark.parametrize("family", ["wan"], indirect=True)
def test_an_unknown_quantization_is_an_error(folder: Path) -> None:
    with pytest.raises(InputError, match="8bit or 4bit"):
        load_generator(folder, device="cpu", quantization="2bit")


@pytest.mark.parametrize("family", ["wan"], indirect=True)
def test_quantization_without_its_package_says_what_to_install(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install"):
        load_generator(folder, device="cpu", quantization="4bit")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("family", ["wan"], indirect=True)
def test_quantization_without_a_gpu_is_an_error(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    with pytest.raises(InputError, match="GPU"):
        load_generator(folder, device="cpu", quantization="4bit")


@pytest.mark.skipif(
    not (HAS_BITSANDBYTES and torch.cuda.is_available()), reason="needs bitsandbytes and a GPU"
)
@pytest.mark.parametrize("family", ["wan", "cogvideox"], indirect=True)
def test_lora_trains_on_four_bit_weights(folder: Path, tmp_path: Path) -> None:
    quantised = load_generator(folder, device="cuda", quantization="4bit")
    linear = [m for m in quantised.transformer.modules() if type(m).__name__ == "Linear4bit"]
    assert linear
    generator = load_generator(folder, device="cuda")
    latents, sigma = noise_for(generator).cuda(), torch.tensor([0.9, 0.4]).cuda()
    exact = generator.velocity(latents, sigma, generator.encode_prompts(PROMPTS))
    found = quantised.velocity(latents, sigma, quantised.encode_prompts(PROMPTS))
    assert not torch.equal(found, exact)
    assert torch.nn.functional.cosine_similarity(found.flatten(), exact.flatten(), dim=0) > 0.9

    add_lora(quantised, LoraArguments(lora_r=2), seed=0)
    quantised.velocity(latents, sigma, quantised.encode_prompts(PROMPTS)).square().mean().backward()
    trained = [p for p in quantised.transformer.parameters() if p.requires_grad]
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in trained)

    add_lora(generator, LoraArguments(lora_r=2), seed=0)
    write_adapter(tmp_path, trained_adapter(generator), {})
    with pytest.raises(InputError, match="quantised"):
        load_adapters(load_generator(folder, device="cuda", quantization="4bit"), tmp_path)
