"""The U-ViT over spacetime patches."""

import math

import pytest
import torch
from peft import LoraConfig
from torch.nn import functional as F

from generator.flow import interpolate, velocity_target
from generator.native.blocks import linear_velocity, patch_coordinates, rotary_angles, rotate
from generator.native.transformer import NativeVideoTransformer3DModel

TINY = {
    "in_channels": 4,
    "hidden_size": 32,
    "num_layers": 3,
    "num_attention_heads": 2,
    "text_dim": 12,
    "rope_axes_dim": (4, 6, 6),
}


def build(seed=0, **changes):
    torch.manual_seed(seed)
    return NativeVideoTransformer3DModel(**{**TINY, **changes})


def with_output(model, seed=1):
    """The same model with an output layer that is not zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        started_at_zero = [block.temporal_attn.to_out[0] for block in model.blocks if block.temporal_attn]
        for layer in (model.proj_out, *started_at_zero):
            layer.weight.copy_(0.1 * torch.randn(layer.weight.shape, generator=generator))
    return model


def inputs(batch=2, length=5, seed=2):
    generator = torch.Generator().manual_seed(seed)
    return {
        "hidden_states": torch.randn(batch, 4, 3, 4, 6, generator=generator),
        "timestep": 1000 * torch.rand(batch, generator=generator),
        "encoder_hidden_states": torch.randn(batch, length, 12, generator=generator),
        "encoder_attention_mask": torch.ones(batch, length, dtype=torch.long),
    }


VARIANTS = [
    {"conditioning": "tokens"},
    {"conditioning": "adaln"},
    {"long_skips": False},
    {"conditioning": "adaln", "long_skips": False},
    {"patch_size": (1, 1, 2)},
    {"patch_size": (2, 2, 2)},
    {"num_layers": 4},
    {"attention": "separable"},
    {"attention": "separable", "conditioning": "adaln"},
]


@pytest.mark.parametrize("changes", VARIANTS, ids=str)
def test_velocities_have_the_shape_of_the_latents_and_gradients_reach_every_parameter(changes):
    model = with_output(build(**changes))
    if model.time_modulation is not None:
        # It starts at zero, which hides the time embedding before it until the first step.
        torch.nn.init.normal_(model.time_modulation.weight, std=0.1)
    arguments = inputs()
    velocity = model(**arguments).sample
    assert velocity.shape == arguments["hidden_states"].shape
    velocity.pow(2).mean().backward()
    assert {n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()} == set()


@pytest.mark.parametrize("conditioning", ["tokens", "adaln"])
def test_a_few_steps_of_training_lower_the_loss(conditioning):
    model = build(conditioning=conditioning)
    arguments = inputs(batch=4)
    clean = arguments["hidden_states"]
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(5))
    sigma = arguments["timestep"] / 1000
    arguments["hidden_states"] = interpolate(clean, noise, sigma)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(15):
        loss = F.mse_loss(model(**arguments).sample, velocity_target(clean, noise))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


def test_the_loss_of_a_new_model_on_unit_variance_latents_is_two():
    generator = torch.Generator().manual_seed(3)
    clean, noise = (torch.randn(64, 4, 3, 8, 8, generator=generator) for _ in range(2))
    arguments = {**inputs(64), "hidden_states": interpolate(clean, noise, 0.5)}
    with torch.no_grad():
        velocity = build()(**arguments).sample
    assert torch.count_nonzero(velocity) == 0
    # The mean of n squares of variance-2 normals has the standard deviation 2 sqrt(2 / n).
    deviation = 2 * math.sqrt(2 / clean.numel())
    assert F.mse_loss(velocity, velocity_target(clean, noise)).item() == pytest.approx(2, abs=4 * deviation)


def test_patches_come_back_where_they_were():
    """With token width equal to patch size and identity in- and output layers, only the permutation is left."""
    model = build(
        in_channels=2, patch_size=(1, 2, 2), hidden_size=8, num_attention_heads=1, rope_axes_dim=(4, 2, 2)
    )
    model.blocks = torch.nn.ModuleList()
    model.norm_out = torch.nn.Identity()
    with torch.no_grad():
        for layer in (model.patch_embed, model.proj_out):
            layer.weight.copy_(torch.eye(8))
            layer.bias.zero_()
        model.position_embed.weight.zero_()
    arguments = inputs()
    arguments["hidden_states"] = arguments["hidden_states"][:, :2]
    with torch.no_grad():
        assert torch.equal(model(**arguments).sample, arguments["hidden_states"])


@torch.no_grad()
def test_a_patch_holds_the_channels_of_one_square_of_one_frame():
    """Changing one latent position changes the token of its own patch and no other."""
    model = build()
    arguments = inputs(batch=1)
    embed = {
        "timestep": arguments["timestep"],
        "text": arguments["encoder_hidden_states"],
        "text_mask": None,
        "seconds_per_frame": 0.5,
        "key_frames": False,
    }
    latents = arguments["hidden_states"]
    changed = latents.clone()
    changed[0, 1, 2, 3, 4] += 1
    before = model._embed(latents, **embed)[0]
    after = model._embed(changed, **embed)[0]
    # One time token, five of text, then frames of 2 x 3 patches: frame 2, row 3 // 2, column 4 // 2.
    assert (before != after).any(-1)[0].nonzero().flatten().tolist() == [6 + 2 * 6 + 1 * 3 + 2]


@torch.no_grad()
@pytest.mark.parametrize("conditioning", ["tokens", "adaln"])
def test_padding_of_the_text_changes_nothing(conditioning):
    model = with_output(build(conditioning=conditioning))
    arguments = inputs()
    padded = {
        **arguments,
        "encoder_hidden_states": F.pad(arguments["encoder_hidden_states"], (0, 0, 0, 4), value=9.0),
        "encoder_attention_mask": F.pad(arguments["encoder_attention_mask"], (0, 4)),
    }
    torch.testing.assert_close(model(**padded).sample, model(**arguments).sample, atol=1e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("conditioning", ["tokens", "adaln"])
def test_every_input_matters(conditioning):
    model = with_output(build(conditioning=conditioning))
    if model.time_modulation is not None:
        torch.nn.init.normal_(model.time_modulation.weight, std=0.1)
    arguments = inputs()
    before = model(**arguments).sample
    for name in ("hidden_states", "timestep", "encoder_hidden_states"):
        changed = model(**{**arguments, name: arguments[name].flip(0)}).sample
        assert (changed - before).abs().amax() > 1e-4, name
    assert (model(**arguments, seconds_per_frame=1.0).sample - before).abs().amax() > 1e-4


@torch.no_grad()
def test_long_skips_start_as_identities():
    """A new model with skips is the model without, since each skip starts as [identity, 0]."""
    model, plain = with_output(build()), with_output(build(long_skips=False))
    weights = {k: v for k, v in model.state_dict().items() if "skip_linear" not in k}
    plain.load_state_dict(weights)
    torch.testing.assert_close(model(**inputs()).sample, plain(**inputs()).sample)


@torch.no_grad()
def test_the_last_block_hears_the_first_through_its_skip():
    model = with_output(build())
    before = model(**inputs()).sample
    model.blocks[2].skip_linear.weight[:, 32:].normal_(std=0.5)
    assert (model(**inputs()).sample - before).abs().amax() > 1e-4


@pytest.mark.parametrize("conditioning", ["tokens", "adaln"])
def test_gradient_checkpointing_gives_the_same_gradients_of_lora(conditioning):
    model = with_output(build(conditioning=conditioning)).requires_grad_(False)
    model.add_adapter(
        LoraConfig(r=2, target_modules=["to_q", "to_k", "to_v", "to_out.0"], init_lora_weights=False)
    )
    trainable = {n: p for n, p in model.named_parameters() if p.requires_grad}
    assert len(trainable) == 3 * 4 * 2
    gradients = []
    for checkpointing in (False, True):
        (model.enable_gradient_checkpointing if checkpointing else model.disable_gradient_checkpointing)()
        model.zero_grad()
        model.train()(**inputs()).sample.pow(2).mean().backward()
        gradients.append({n: p.grad.clone() for n, p in trainable.items()})
    for name, gradient in gradients[0].items():
        assert gradient.any(), name
        torch.testing.assert_close(gradients[1][name], gradient)


def test_rotary_scores_depend_on_distances_only():
    generator = torch.Generator().manual_seed(0)
    query, key = (torch.randn(1, 1, 1, 16, generator=generator, dtype=torch.float64) for _ in range(2))

    def score(at_query, at_key):
        coordinates = torch.tensor([at_query, at_key], dtype=torch.float64)
        cos, sin = rotary_angles(coordinates, (4, 6, 6), 100.0)
        return (rotate(query, cos[:1], sin[:1]) * rotate(key, cos[1:], sin[1:])).sum()

    near, shifted = score((0, 0, 0), (1, 2, 3)), score((4, -2, 0.5), (5, 0, 3.5))
    torch.testing.assert_close(near, shifted)
    assert (score((0, 0, 0), (2, 2, 3)) - near).abs() > 1e-3


def test_rotation_keeps_lengths():
    x = torch.randn(2, 3, 5, 16)
    cos, sin = rotary_angles(torch.randn(5, 3), (4, 6, 6), 100.0)
    torch.testing.assert_close(rotate(x, cos, sin).norm(dim=-1), x.norm(dim=-1))


def test_coordinates_count_half_seconds_and_are_centred_in_space():
    coordinates = patch_coordinates(2, 2, 3, 0.5).view(2, 2, 3, 3)
    assert coordinates[:, 0, 0, 0].tolist() == [0, 1]
    assert coordinates[0, :, 0, 1].tolist() == [-0.5, 0.5]
    assert coordinates[0, 0, :, 2].tolist() == [-1, 0, 1]
    assert patch_coordinates(3, 1, 1, 1.0)[:, 0].tolist() == [0, 2, 4]


@torch.no_grad()
def test_features_after_all_blocks_are_what_the_output_layer_reads():
    model = with_output(build())
    arguments = inputs()
    arguments["encoder_attention_mask"][0, 3:] = 0
    tokens, mask = model.features(**arguments, num_blocks=3)
    assert tokens.shape == (2, 1 + 5 + 18, 32)
    assert mask.sum(1).tolist() == [22, 24]
    assert not mask[0, 4:6].any()
    patches = model.proj_out(model.norm_out(tokens[:, 6:]))
    velocity = patches.view(2, 3, 2, 3, 4, 1, 2, 2).permute(0, 4, 1, 5, 2, 6, 3, 7).reshape(2, 4, 3, 4, 6)
    torch.testing.assert_close(model(**arguments).sample, velocity)


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"conditioning": "film"}, "'film'"), ({"rope_axes_dim": (4, 4, 4)}, "sums to 12, but a head has 16")],
)
def test_an_impossible_configuration_is_an_error_that_names_it(changes, message):
    with pytest.raises(ValueError, match=message):
        build(**changes)


def test_a_configuration_without_the_newer_fields_behaves_as_before():
    """Weights saved before `initialization` and `linear_velocity` existed keep their outputs and their start."""
    model = with_output(build())
    old = {k: v for k, v in model.config.items() if k not in ("initialization", "linear_velocity")}
    loaded = NativeVideoTransformer3DModel.from_config(old)
    loaded.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert torch.equal(model(**inputs()).sample, loaded(**inputs()).sample)
        expected = model.patch_embed.weight
        torch.manual_seed(0)
        fresh = NativeVideoTransformer3DModel.from_config(old)
    assert torch.equal(fresh.patch_embed.weight, expected)
    assert fresh.blocks[0].mlp[0].weight.std().item() == pytest.approx(0.02, rel=0.1)


def test_xavier_initialization_scales_matrices_by_their_sides_but_keeps_skips_and_output():
    model = build(initialization="xavier")
    weight = model.blocks[0].mlp[0].weight
    assert weight.abs().max() <= math.sqrt(6 / sum(weight.shape))
    assert weight.std().item() == pytest.approx(math.sqrt(2 / sum(weight.shape)), rel=0.05)
    assert torch.equal(model.blocks[-1].skip_linear.weight[:, :32], torch.eye(32))
    assert not model.proj_out.weight.any()
    with pytest.raises(ValueError, match="initialization"):
        build(initialization="zeros")


@pytest.mark.parametrize("sigma", [0.0, 0.1, 0.5, 0.8, 1.0])
def test_linear_velocity_is_the_least_squares_fit_for_unit_latents(sigma):
    generator = torch.Generator().manual_seed(0)
    latents, noise = torch.randn(2, 200_000, generator=generator, dtype=torch.float64)
    x = interpolate(latents, noise, sigma)
    fit = torch.linalg.lstsq(x[:, None], velocity_target(latents, noise)[:, None]).solution.item()
    factor = linear_velocity(torch.ones(1, 1), torch.tensor([sigma])).item()
    assert factor == pytest.approx(fit, abs=0.01)


def test_a_fresh_model_with_linear_velocity_predicts_the_linear_velocity():
    values = inputs()
    with torch.no_grad():
        output = build(linear_velocity=True)(**values).sample
    sigma = values["timestep"] / 1000
    assert torch.equal(output, linear_velocity(values["hidden_states"], sigma))


@pytest.mark.parametrize("conditioning", ["tokens", "adaln"])
def test_equal_levels_of_all_frames_are_one_level(conditioning):
    model = with_output(build(conditioning=conditioning, initialization="xavier")).eval()
    arguments = inputs()
    with torch.no_grad():
        if model.time_modulation is not None:
            torch.nn.init.xavier_uniform_(model.time_modulation.weight)
        one = model(**arguments).sample
        arguments["timestep"] = arguments["timestep"][:, None].expand(-1, 3)
        each = model(**arguments).sample
    torch.testing.assert_close(each, one, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("conditioning", ["tokens", "adaln"])
def test_a_frame_hears_its_own_level(conditioning):
    model = with_output(build(conditioning=conditioning, initialization="xavier")).eval()
    arguments = inputs()
    arguments["timestep"] = torch.full((2, 3), 500.0)
    with torch.no_grad():
        if model.time_modulation is not None:
            torch.nn.init.xavier_uniform_(model.time_modulation.weight)
        before = model(**arguments).sample
        arguments["timestep"][0, 1] = 0.0
        after = model(**arguments).sample
    assert torch.equal(before[1], after[1])
    change = (before[0] - after[0]).abs().amax(dim=(0, 2, 3))
    assert change[1] > change[[0, 2]].max()


def test_key_frames_are_told_from_frames_of_a_video():
    model = with_output(build()).eval()
    with torch.no_grad():
        model.frame_kind_embed.normal_()
        video = model(**inputs()).sample
        stills = model(**inputs(), key_frames=True).sample
        one = {**inputs(), "hidden_states": inputs()["hidden_states"][:, :, :1]}
        image, still = model(**one).sample, model(**one, key_frames=True).sample
    assert not torch.allclose(video, stills)
    assert torch.equal(image, still)


@pytest.mark.parametrize("patch_size", [(1, 2, 2), (2, 2, 2), (3, 1, 2)])
@pytest.mark.parametrize("frames", [1, 3, 4, 5])
def test_patches_count_as_the_sizes_say_and_give_the_latents_back(patch_size, frames):
    model = build(patch_size=patch_size)
    latents = torch.randn(2, 4, frames, 4, 6, generator=torch.Generator().manual_seed(0))
    patches, shape = model.patchify(latents), model.clip_shape(latents.shape, 0.5)
    p_t, p_h, p_w = patch_size
    assert patches.shape == (2, math.ceil(frames / p_t) * (4 // p_h) * (6 // p_w), 4 * p_t * p_h * p_w)
    assert shape.tokens == patches.shape[1]
    assert shape.seconds_per_patch == 0.5 * p_t
    assert torch.equal(model.unpatchify(patches, shape, frames), latents)
