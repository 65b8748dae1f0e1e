import copy
import json

import pytest
import torch

from generator.adapters.adapters import LoraAdapter, write_adapter
from generator.adapters.loaded_from import weights_fingerprint
from generator.loading import load_generator
from generator.output import InputError
from generator.provenance import fingerprint, latent_space_fingerprint
from generator.testing import tiny_generator
from reward import load_reward
from reward.models.latent import LatentRewardConfig, LatentRewardModel
from reward.models.trunk import trunk_features


def trained_like(generator=None, **changes) -> LatentRewardModel:
    """A model with random instead of zero output layers."""
    torch.manual_seed(0)
    config = LatentRewardConfig("tiny", dropout=0.0, hidden_size=16, **changes)
    model = LatentRewardModel(config, generator or tiny_generator())
    layers = [model.head.mlp[-1], model.head.evidence and model.head.evidence.linear]
    layers.append(model.head.quality and model.head.quality.mlp[-1])
    for layer in layers:
        if layer is not None:
            torch.nn.init.normal_(layer.weight)
    return model.eval()


def inputs(generator, count: int = 3):
    shape = generator.latent_shape(9, 32, 32)
    latents = torch.randn(count, *shape, generator=torch.Generator().manual_seed(1))
    prompts = ["a red square moves left", "two blue circles", "a star"][:count]
    return latents, generator.encode_prompts(prompts), prompts


def test_trunk_features_tell_video_tokens_from_text_and_padding():
    generator = tiny_generator()
    latents, conditions, _ = inputs(generator)
    features, is_video = trunk_features(generator, latents, torch.full((3,), 0.1), conditions, 1)
    patches = latents[0, 0].numel() // 4
    assert is_video.sum(1).tolist() == [patches] * 3
    padding = (features == 0).all(dim=2)
    assert padding.any()
    assert not (padding & is_video).any()


@pytest.mark.parametrize("evidence", [False, True])
def test_scores_do_not_depend_on_the_batch(evidence):
    model = trained_like(implicit_evidence=evidence)
    latents, conditions, _ = inputs(model.generator)
    together = model.score_latents(latents, conditions)["overall"]
    alone = [
        model.score_latents(latents[i : i + 1], {k: v[i : i + 1] for k, v in conditions.items()})["overall"]
        for i in range(3)
    ]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-4, rtol=1e-4)
    assert together.std() > 1e-3


@pytest.mark.parametrize("evidence", [False, True])
def test_scores_are_differentiable_in_the_latents(evidence):
    model = trained_like(implicit_evidence=evidence)
    latents, conditions, _ = inputs(model.generator, 1)
    latents.requires_grad_()
    (gradient,) = torch.autograd.grad(model.score_latents(latents, conditions)["overall"].sum(), latents)
    direction = torch.randn(latents.shape, generator=torch.Generator().manual_seed(2))
    step = 1e-2
    with torch.no_grad():
        high, low = (
            model.score_latents(latents + sign * step * direction, conditions)["overall"] for sign in (1, -1)
        )
    expected = (high - low).item() / (2 * step)
    assert (gradient * direction).sum().item() == pytest.approx(expected, rel=0.03, abs=1e-3)


def test_the_prompt_changes_the_score():
    model = trained_like()
    latents, conditions, _ = inputs(model.generator, 2)
    same = latents[:1].expand_as(latents)
    scores = model.score_latents(same, conditions)["overall"]
    assert abs(scores[0] - scores[1]) > 1e-4


def test_evidence_is_the_difference_of_denoising_errors():
    model = trained_like(implicit_evidence=True, evidence_sigmas=(0.6,), evidence_draws=1)
    generator = model.generator
    latents, conditions, _ = inputs(generator)
    found = model.features(latents, conditions).evidence
    source = torch.Generator().manual_seed(20240229)
    noise = torch.randn((2, *latents.shape[1:]), generator=source)[1]
    sigma = torch.full((3,), 0.6)
    noisy, target = 0.4 * latents + 0.6 * noise, noise - latents
    empty = generator.encode_prompts(["", "", ""])
    errors = [
        ((generator.velocity(noisy, sigma, c) - target) ** 2).mean(dim=(1, 2, 3, 4))
        for c in (empty, conditions)
    ]
    torch.testing.assert_close(found[:, 0], errors[0] - errors[1], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found[:, 1], errors[1].log(), atol=1e-5, rtol=1e-4)


def test_videos_are_scored_through_the_autoencoder():
    model = trained_like()
    generator = model.generator
    videos = torch.rand(3, 3, 9, 32, 32, generator=torch.Generator().manual_seed(3)) * 2 - 1
    _, conditions, prompts = inputs(generator)
    direct = model.score_latents(generator.encode(videos), conditions)["overall"]
    torch.testing.assert_close(
        model.score(videos, prompts, batch_size=2)["overall"], direct, atol=1e-4, rtol=1e-4
    )
    with pytest.raises(InputError, match="one prompt a video"):
        model.score(videos, prompts[:2])


def test_a_saved_model_is_the_same_and_refuses_another_generator(tmp_path):
    model = trained_like(implicit_evidence=True, lora_rank=2)
    for value in model.trunk_lora.values():
        torch.nn.init.normal_(value, std=0.1)
    model.score_mean.fill_(0.3)
    model.score_std.fill_(2.0)
    model.save_pretrained(tmp_path)
    latents, conditions, _ = inputs(model.generator)
    loaded = load_reward(tmp_path, generator=tiny_generator())
    torch.testing.assert_close(
        loaded.score_latents(latents, conditions), model.score_latents(latents, conditions)
    )
    with pytest.raises(InputError, match="is not the one that this reward model was trained on"):
        load_reward(tmp_path, generator=tiny_generator(seed=1))


def adapter_of(generator, folder, seed: int = 0):
    """Folder of an adapter that changes the generator's transformer, with random matrices."""
    random = torch.Generator().manual_seed(seed)
    pairs = {
        name: (
            torch.randn(2, module.in_features, generator=random),
            0.05 * torch.randn(module.out_features, 2, generator=random),
        )
        for name, module in generator.transformer.named_modules()
        if isinstance(module, torch.nn.Linear)
    }
    write_adapter(folder, LoraAdapter(pairs), {})
    return folder


@pytest.fixture
def adapted(tmp_path):
    """A reward model on a trunk with an adapter, in float32, and where it is saved."""
    tiny_generator().pipeline.save_pretrained(tmp_path / "model")
    adapter = adapter_of(tiny_generator(), tmp_path / "adapter")
    model = trained_like(load_generator(tmp_path / "model", adapter=adapter, device="cpu"))
    model.config.base_model, model.trunk_adapter = str(tmp_path / "model"), adapter
    model.save_pretrained(tmp_path / "reward")
    return model, tmp_path / "reward"


def test_a_trunk_with_an_adapter_is_known_again_in_another_data_type(adapted):
    model, folder = adapted
    trunk = folder / "trunk_adapter"
    rounded = load_generator(model.config.base_model, adapter=trunk, device="cpu", dtype=torch.bfloat16)
    assert fingerprint(rounded.transformer) != fingerprint(model.generator.transformer)
    assert weights_fingerprint(rounded) == weights_fingerprint(model.generator)
    latents, conditions, prompts = inputs(model.generator)
    expected = model.score_latents(latents, conditions)["overall"]
    found = load_reward(folder, generator=rounded).score_latents(latents, rounded.encode_prompts(prompts))
    torch.testing.assert_close(found["overall"], expected, atol=0.1, rtol=0.1)
    exact = load_reward(folder, device="cpu").score_latents(latents, conditions)["overall"]
    torch.testing.assert_close(exact, expected)


def test_a_trunk_without_its_adapter_or_with_another_or_changed_since_is_refused(adapted, tmp_path):
    model, folder = adapted
    base, own = model.config.base_model, folder / "trunk_adapter"
    other = adapter_of(model.generator, tmp_path / "other", seed=1)
    changed = load_generator(base, adapter=own, device="cpu")
    with torch.no_grad():
        next(changed.transformer.parameters()).add_(1)
    again = load_generator(base, adapter=own, device="cpu", base_adapter=f"{own}:0.5")
    for generator in (load_generator(base, device="cpu"), load_generator(base, other, "cpu"), changed, again):
        with pytest.raises(InputError, match="is not the one that this reward model was trained on"):
            load_reward(folder, generator=generator)


def test_the_fingerprint_of_merged_weights_in_older_reward_models_is_known(adapted):
    model, folder = adapted
    path = folder / "reward_config.json"
    stored = json.loads(path.read_text())
    path.write_text(json.dumps(stored | {"trunk": fingerprint(model.generator.transformer)}))
    assert load_reward(folder, device="cpu").config.trunk == stored["trunk"]


def test_policies_of_another_latent_space_are_refused():
    model = trained_like()
    model.check_generator(tiny_generator())
    with pytest.raises(InputError, match="another autoencoder or text encoder"):
        model.check_generator(tiny_generator(seed=1))


def test_fingerprints_ignore_adapters_and_see_every_weight():
    from peft import LoraConfig, inject_adapter_in_model

    generator = tiny_generator()
    before = fingerprint(generator.transformer)
    changed = copy.deepcopy(generator.transformer)
    with torch.no_grad():
        next(reversed(list(changed.parameters()))).add_(1e-3)
    assert fingerprint(changed) != before
    space = latent_space_fingerprint(generator)
    inject_adapter_in_model(
        LoraConfig(r=2, target_modules=generator.lora_target_modules), generator.transformer
    )
    assert fingerprint(generator.transformer) == before
    assert latent_space_fingerprint(generator) == space


def test_a_reward_of_a_user_function_is_called_and_checked(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_reward_of_users.py").write_text(
        "def brightness(videos, prompts):\n    return videos.mean(dim=(1, 2, 3, 4))\n"
        "def wrong(videos, prompts):\n    return [1.0]\n"
    )
    videos = torch.stack([torch.ones(3, 2, 4, 4), -torch.ones(3, 2, 4, 4)])
    assert load_reward("my_reward_of_users:brightness").score(videos, ["a", "b"])["overall"].tolist() == [
        1,
        -1,
    ]
    with pytest.raises(InputError, match="one number a video"):
        load_reward("my_reward_of_users:wrong").score(videos, ["a", "b"])
    with pytest.raises(InputError, match="no function 'missing'"):
        load_reward("my_reward_of_users:missing")


@pytest.mark.parametrize("name", ["nothing", "no/such/folder", "no_such_module:f"])
def test_unknown_rewards_are_input_errors(name):
    with pytest.raises(InputError):
        load_reward(name)


def test_folders_with_commas_judge_together_on_one_trunk(tmp_path):
    tiny_generator().pipeline.save_pretrained(tmp_path / "model")
    model = trained_like()
    model.config.base_model = str(tmp_path / "model")
    for name, offset in (("a", 0.0), ("b", 1.0)):
        model.score_mean.fill_(-offset)
        model.save_pretrained(tmp_path / name)
    both = load_reward(f"{tmp_path / 'a'},{tmp_path / 'b'}", device="cpu")
    assert both.members[0].generator is both.members[1].generator
    latents, conditions, _ = inputs(model.generator)
    model.score_mean.zero_()
    expected = model.score_latents(latents, conditions)["overall"]
    torch.testing.assert_close(both.score_latents(latents, conditions)["overall"], expected + 0.5)
    spread = both.uncertainty_of_latents(latents, conditions)["overall"]
    torch.testing.assert_close(spread, torch.full((3,), 0.5**0.5))


def test_weights_of_another_version_are_an_input_error(tmp_path):
    from safetensors.torch import load_file, save_file

    trained_like().save_pretrained(tmp_path)
    path = tmp_path / "reward_model.safetensors"
    weights = load_file(path)
    weights["head.of_another_version"] = weights.pop("head.mlp.1.weight")
    save_file(weights, path)
    with pytest.raises(InputError, match="train it again"):
        load_reward(tmp_path, generator=tiny_generator())


@pytest.mark.parametrize(
    "changes",
    [
        {"implicit_evidence": True},
        {"dimensions": ("visual", "alignment")},
        {"architecture": "matching", "dimensions": ("visual", "alignment"), "implicit_evidence": True},
    ],
)
def test_scores_are_linear_in_what_the_last_layer_reads(changes):
    generator = tiny_generator()
    torch.manual_seed(0)
    model = LatentRewardModel(
        LatentRewardConfig("tiny", hidden_size=16, sigmas=(0.1,), **changes), generator
    ).eval()
    for name, parameter in model.head.named_parameters():
        torch.nn.init.normal_(parameter, std=0.3) if "norm" not in name else None
    if "architecture" in changes:
        # A constant of the prompt, which no comparison of its videos sees.
        torch.nn.init.zeros_(model.head.matching.score.bias)
    latents = torch.randn(80, *generator.latent_shape(9, 32, 32))
    conditions = generator.encode_prompts([f"{n} red squares move left" for n in range(80)])
    with torch.no_grad():
        features = model.features(latents, conditions)
        scores = model.score_features(features)
        for dimension in model.dimensions:
            inputs = model.last_layer(features, dimension)
            assert inputs.shape[1] < 60
            design = torch.cat([inputs, torch.ones(80, 1)], dim=1).double()
            target = scores[dimension].double()[:, None]
            residual = target - design @ torch.linalg.lstsq(design, target, driver="gelsd").solution
            assert target.std() > 1e-2
            assert residual.abs().max() < 1e-3 * target.std()
