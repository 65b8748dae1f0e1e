"""The traps of diffusers' pipelines and schedulers, each as a fact about this project."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl_hunyuanvideo15 import HunyuanVideo15AttnBlock
from torch import Tensor

from alignment.lora import LoraArguments, add_lora
from alignment.trainers.base_trainer import Policy, evenly_spread
from generator import flow
from generator.base import VideoGenerator
from generator.families.cogvideox import CogVideoXGenerator, velocity_from_v_prediction
from generator.families.hunyuan_video import frame_causal_mask
from generator.inputs.conditions import repeat
from generator.loading import load_generator
from generator.sampling import guided_velocity
from generator.testing.pipelines import build_tiny_pipeline
from generator.testing.stock import PROMPTS, noise_for
from generator.testing.text_pipelines import TINY_PIPELINES

only = pytest.mark.parametrize

# Words of one row in docs/families.md, "Traps of the pipelines": the file and the test.
TRAPS = {
    "num_videos_per_prompt": ("test_families", "test_groups_from_repeated_conditions_equal_prompts_written_out"),
    "wastes its last step": ("test_families", "test_a_schedule_has_no_wasted_last_step"),
    "the prediction's dtype": ("test_families", "test_sampling_in_bfloat16_keeps_latents_in_float32"),
    "loses alpha": ("test_family_adapters", "test_an_adapter_saved_here_changes_the_stock_pipeline_as_it_changes_ours"),
    "flow_shift": ("test_family_traps", "test_the_shift_of_unipc_is_not_dropped"),
    "the last trajectory": ("test_families", "test_the_schedule_leaves_no_state_in_the_schedulers"),
    "a timestep of 999": ("test_family_traps", "test_timesteps_in_bfloat16_keep_their_resolution"),
    "two videos at once": ("test_family_traps", "test_hunyuan_video_15_encodes_and_decodes_several_videos_at_once"),
    "the token refiner": ("test_family_adapters", "test_lora_leaves_the_token_refiner_of_hunyuan_video_alone"),
    "training mode": ("test_family_traps", "test_text_encoders_give_the_same_embedding_twice"),
    "226 tokens": ("test_family_traps", "test_wan_gets_512_text_tokens_although_its_encode_prompt_gives_226"),
    "ftfy": ("test_image_to_video", "test_an_animated_image_equals_the_call_of_the_stock_pipeline"),
    "ignores the image": ("test_image_to_video", "test_an_animated_image_equals_the_call_of_the_stock_pipeline"),
    "1.5-I2V": ("test_image_to_video", "test_an_animated_image_equals_the_call_of_the_stock_pipeline"),
    "depends on its sound": (
        "test_ltx2", "test_the_video_is_the_same_whatever_stands_in_the_place_of_its_sound"
    ),
    "layers of sound": (
        "test_ltx2", "test_plain_names_would_put_lora_on_layers_without_a_gradient_and_here_do_not"
    ),
    "fails without `sigma`": (
        "test_ltx2", "test_the_stock_transformer_of_ltx_23_fails_without_the_noise_level_of_the_whole_video"
    ),
    "latents of five dimensions": (
        "test_ltx2", "test_latents_that_are_given_or_returned_in_five_dimensions_are_those_of_the_autoencoder"
    ),
    "all layers of Gemma 3": ("test_ltx2", "test_prompts_go_through_the_text_encoder_one_by_one"),
    "the connectors too": ("test_ltx2", "test_embeddings_on_disk_belong_to_the_connectors_too"),
    "compresses the image": ("test_ltx2", "test_the_image_is_not_compressed_before_it_is_encoded"),
    "know the frame rate": ("test_wan_relatives", "test_models_that_know_the_frame_rate_are_told_it"),
    "the blocks of control": ("test_wan_relatives", "test_an_adapter_of_vace_leaves_the_blocks_of_control_alone"),
    "trainer's autocast": ("test_family_memory", "test_decoding_is_the_same_inside_a_trainers_autocast"),
    "tiles of a fixed size": (
        "test_family_memory", "test_tiles_are_even_cover_the_video_and_are_no_larger_than_allowed"
    ),
}  # fmt: skip


def test_the_documentation_lists_these_traps_and_each_has_its_test() -> None:
    page = (Path(__file__).parents[3] / "docs" / "families.md").read_text(encoding="utf-8")
    table = page.partition("## Traps of the pipelines")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (?!trap )([^|-][^|]*) \|", table, flags=re.MULTILINE)
    assert [sum(words in row for words in TRAPS) for row in rows] == [1] * len(TRAPS)
    for file, test in TRAPS.values():
        assert f"def {test}(" in Path(__file__).with_name(f"{file}.py").read_text(encoding="utf-8")


@only("family", ["hunyuan_video1.5"], indirect=True)
def test_hunyuan_video_15_encodes_and_decodes_several_videos_at_once(generator: Any) -> None:
    videos = torch.rand(3, 3, 9, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    latents = generator.encode(videos)
    alone = torch.cat([generator.encode(video[None]) for video in videos])
    torch.testing.assert_close(latents, alone, atol=1e-5, rtol=1e-5)
    assert generator.decode(latents).shape == videos.shape


@only("batch", [None, 2])
def test_the_mask_of_hunyuan_video_15_is_made_frame_by_frame(batch: int | None) -> None:
    arguments = (4, 6, torch.bfloat16, torch.device("cpu"), batch)
    stock = HunyuanVideo15AttnBlock.prepare_causal_attention_mask(*arguments)
    assert torch.equal(frame_causal_mask(*arguments), stock)


@only("family", ["wan", "wan2.2-a14b", "wan2.2-ti2v", "wan-vace"], indirect=True)
def test_the_shift_of_unipc_is_not_dropped(generator: VideoGenerator) -> None:
    """`FlowMatchEulerDiscreteScheduler.from_config(unipc.config)` would have shift 1."""
    assert generator.defaults.shift == 3.0
    schedule = generator.sigma_schedule(8)
    expected = torch.tensor([1, 0.9545, 0.9, 0.8333, 0.75, 0.6429, 0.5, 0.3, 0])
    torch.testing.assert_close(schedule, expected, atol=1e-4, rtol=0)


def test_every_lora_parameter_gets_a_gradient(generator: VideoGenerator) -> None:
    add_lora(generator, LoraArguments(lora_r=2), seed=0)
    policy = Policy(generator.transformer)
    trained = {name for name, p in policy.named_parameters() if p.requires_grad}
    assert set(lora_gradients(generator, policy)) == trained


def test_nothing_that_a_module_returns_is_changed_in_place(generator: VideoGenerator) -> None:
    """FSDP gathers weights for the backward pass from hooks on what blocks and network return; a change in place would
    lose them, and with them gradients."""
    add_lora(generator, LoraArguments(lora_r=2), seed=0)
    policy = Policy(generator.transformer)
    returned: list[tuple[str, Tensor, int]] = []

    def note(module: torch.nn.Module, _: Any, output: Any) -> None:
        for value in [output] if isinstance(output, Tensor) else output:
            if isinstance(value, Tensor) and value.requires_grad:
                returned.append((type(module).__name__, value, value._version))

    for module in (*generator.blocks(), generator.transformer, policy):
        module.register_forward_hook(note)
    assert lora_gradients(generator, policy)
    assert len(returned) > 2
    assert {name for name, value, version in returned if value._version != version} == set()


def lora_gradients(generator: VideoGenerator, policy: Policy) -> dict[str, Tensor]:
    policy.zero_grad()
    latents, sigma = noise_for(generator), torch.tensor([0.9, 0.4])
    velocity = generator.velocity(latents, sigma, generator.encode_prompts(PROMPTS), policy)
    velocity.square().mean().backward()
    return {name: p.grad.clone() for name, p in policy.named_parameters() if p.grad is not None}


@only("share", [1.0, 0.5])
def test_lora_on_a_frozen_base_gets_the_same_gradients_with_checkpointing(
    generator: VideoGenerator, share: float
) -> None:
    add_lora(generator, LoraArguments(lora_r=2), seed=0)
    chosen = evenly_spread(generator.blocks(), share) if share < 1 else None
    policy = Policy(generator.transformer, checkpointed=chosen)
    plain = lora_gradients(generator, policy)
    policy.gradient_checkpointing_enable()
    checkpointed = lora_gradients(generator, policy)
    assert plain
    assert {name for name, p in policy.named_parameters() if p.requires_grad} >= set(plain)
    assert any(gradient.abs().max() > 0 for gradient in plain.values())
    torch.testing.assert_close(checkpointed, plain, atol=1e-6, rtol=1e-4)


@only("family", ["ltx", "cogvideox"], indirect=True)
def test_compiled_blocks_that_are_checkpointed_give_the_same_gradients(generator: VideoGenerator) -> None:
    add_lora(generator, LoraArguments(lora_r=2), seed=0)
    policy = Policy(generator.transformer)
    plain = lora_gradients(generator, policy)
    policy.gradient_checkpointing_enable()
    generator.compile_blocks(backend="aot_eager")
    torch.testing.assert_close(lora_gradients(generator, policy), plain, atol=1e-6, rtol=1e-4)


@only("family", ["wan", "cogvideox"], indirect=True)
def test_the_unconditional_branch_without_gradient_changes_no_velocity_and_only_its_own_gradient(
    generator: VideoGenerator,
) -> None:
    add_lora(generator, LoraArguments(lora_r=2), seed=0)
    latents, sigma, scale = noise_for(generator), torch.tensor([0.9, 0.4]), 3.0
    conditions, negative = generator.encode_prompts(PROMPTS), generator.encode_prompts([""])
    noted: list[torch.Tensor] = []
    given = generator, conditions, negative, scale
    both = guided_velocity(*given, noted=lambda each: noted.append(each.detach()))(latents, sigma)
    apart = guided_velocity(*given, unconditional=noted[0])(latents, sigma)
    torch.testing.assert_close(both, apart, atol=1e-5, rtol=1e-5)
    trained = [p for p in generator.transformer.parameters() if p.requires_grad]
    found = torch.autograd.grad(apart.square().sum(), trained, allow_unused=True)
    # d/dθ of w v_c(θ) + (1 − w) v_u with v_u fixed.
    unconditional = generator.velocity(latents, sigma, repeat(negative, 2)).detach()
    conditional = generator.velocity(latents, sigma, conditions)
    guided = flow.guide(conditional, unconditional, scale)
    expected = torch.autograd.grad(guided.square().sum(), trained, allow_unused=True)
    for one, other in zip(found, expected):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-3)


@only("family", ["wan"], indirect=True)
def test_under_autocast_lora_layers_keep_no_float32_copy_of_their_input(folder: Path) -> None:
    generator = load_generator(folder, device="cpu", dtype=torch.bfloat16)
    add_lora(generator, LoraArguments(lora_r=2), seed=0)
    seen: list[torch.dtype] = []
    layer: Any = next(m for m in generator.transformer.modules() if hasattr(m, "lora_A"))
    layer.lora_A["default"].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].dtype))
    arguments = noise_for(generator), torch.tensor([0.9, 0.4]), generator.encode_prompts(PROMPTS)
    generator.velocity(*arguments)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        generator.velocity(*arguments)
    assert seen == [torch.float32, torch.bfloat16]


def test_a_share_of_the_blocks_is_spread_evenly() -> None:
    blocks = [torch.nn.Identity() for _ in range(10)]
    places = [blocks.index(block) for block in evenly_spread(blocks, 0.3)]
    assert places == [3, 6, 9]
    assert evenly_spread(blocks, 1.0) == blocks
    assert evenly_spread(blocks, 0.0) == []


@only("family", ["hunyuan_video", "wan", "ltx"])
def test_tokenizers_are_the_same_in_every_build(family: str) -> None:
    first, second = (build_tiny_pipeline(family) for _ in range(2))
    for name in ("tokenizer", "tokenizer_2"):
        if getattr(first, name, None) is not None:
            assert getattr(first, name).get_vocab() == getattr(second, name).get_vocab()


def test_the_time_shift_goes_towards_noise(generator: VideoGenerator) -> None:
    assert generator.defaults.shift >= 1
    median = flow.shift_sigma(torch.tensor(0.5), generator.defaults.shift)
    assert median >= 0.5


def network_arguments(generator: VideoGenerator, sigma: Tensor) -> dict[str, Any]:
    """Arguments that the network is called with for one velocity."""
    seen: dict[str, Any] = {}
    hook = generator.transformer.register_forward_pre_hook(
        lambda _, args, kwargs: seen.update(kwargs), with_kwargs=True
    )
    velocity = generator.velocity(noise_for(generator), sigma, generator.encode_prompts(PROMPTS))
    hook.remove()
    assert torch.isfinite(velocity).all()
    return seen


def test_timesteps_in_bfloat16_keep_their_resolution(family: str, folder: Path) -> None:
    """999 is 1000 in bfloat16; the timestep must reach the sinusoids in float32 (or as an integer)."""
    generator = load_generator(folder, device="cpu", dtype=torch.bfloat16)
    timesteps = [
        network_arguments(generator, torch.full((2,), level * generator.sigma_max))["timestep"]
        for level in (0.9990, 0.9970)
    ]
    assert timesteps[0].dtype in {torch.float32, torch.int64}
    assert not torch.equal(*timesteps)


def test_text_encoders_give_the_same_embedding_twice(generator: VideoGenerator) -> None:
    """A text encoder built from a configuration stays in training mode, and T5's dropout makes it random."""
    first, second = (generator.encode_prompts(PROMPTS) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    modules = [m for m in generator.pipeline.components.values() if isinstance(m, torch.nn.Module)]
    assert not any(module.training for module in modules)


@only("family", ["wan"], indirect=True)
def test_wan_gets_512_text_tokens_although_its_encode_prompt_gives_226(generator: Any) -> None:
    conditions = generator.encode_prompts(PROMPTS)
    assert conditions["encoder_hidden_states"].shape[1] < 226
    assert network_arguments(generator, torch.ones(2))["encoder_hidden_states"].shape[1] == 512


@only("family", ["ltx", "ltx2"], indirect=True)
def test_the_schedule_of_ltx_depends_on_the_size(generator: VideoGenerator) -> None:
    small, large = (
        generator.sigma_schedule(8, generator.latent_shape(*s)) for s in ((9, 32, 32), (33, 256, 256))
    )
    assert (large[1:-2] > small[1:-2]).all()
    assert small[-2].item() == pytest.approx(0.1, abs=1e-6)


def test_cogvideox_noise_levels_are_those_of_its_scheduler() -> None:
    generator = CogVideoXGenerator(build_tiny_pipeline("cogvideox"), "tiny")
    scheduler = generator.pipeline.scheduler
    x0, noise = (torch.randn(4, 2, 3, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    steps = torch.tensor([0, 250, 700, 999])
    noisy = scheduler.add_noise(x0, noise, steps)
    sigma = generator.timestep_sigmas[steps]
    norm = flow.expand(torch.sqrt((1 - sigma) ** 2 + sigma**2), x0)
    torch.testing.assert_close(flow.interpolate(x0, noise, sigma) / norm, noisy, atol=1e-6, rtol=1e-6)
    assert torch.equal(generator.timesteps(sigma), steps)
    assert sigma[-1] == 1


def test_velocity_from_v_prediction_is_exact_at_every_noise_level() -> None:
    x0, noise = (
        torch.randn(5, 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(s)) for s in (0, 1)
    )
    sigma = torch.tensor([0.0, 0.2, 0.5, 0.9, 1.0], dtype=torch.float64)
    level = sigma[:, None, None]
    signal_weight, noise_weight = 1 - level, level
    norm = torch.sqrt(signal_weight**2 + noise_weight**2)
    prediction = (signal_weight * noise - noise_weight * x0) / norm
    found = velocity_from_v_prediction(prediction, flow.interpolate(x0, noise, sigma.float()), sigma.float())
    torch.testing.assert_close(found, noise - x0, atol=1e-6, rtol=1e-6)


def test_tiny_videos_are_of_sizes_that_the_families_can_make(family: str, generator: VideoGenerator) -> None:
    generator.check_size(*TINY_PIPELINES[family][1])
