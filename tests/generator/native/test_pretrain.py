"""Pretraining: its parts against independent computations, and a whole run of a few seconds."""

import copy
import json
from functools import partial

import pytest
import torch
from torch.nn import functional as F

from generator import load_generator
from generator.native import model_card, pretrain
from generator.native.building import build_pipeline
from generator.native.pretrain_config import PretrainConfig
from generator.native.pretrain_data import SceneStream
from generator.output import InputError
from generator.testing import tiny_generator

CPU = torch.device("cpu")


def test_the_learning_rate_is_a_trapezoid():
    factor = partial(pretrain.trapezoid, warmup_steps=10, cooldown_share=0.4)
    assert factor(0.0, 0) == pytest.approx(0.1)
    assert factor(0.0, 9) == factor(0.3, 500) == factor(0.6, 500) == 1
    assert factor(0.8, 500) == pytest.approx(0.5)
    assert factor(1.0, 500) == factor(1.1, 500) == 0


def test_the_average_is_the_exponential_moving_average():
    torch.manual_seed(0)
    layer = torch.nn.Linear(3, 2)
    average = pretrain.Average([layer], decay=0.9)
    expected = layer.weight.detach().double()
    for step in range(1, 200):
        with torch.no_grad():
            layer.weight.add_(torch.randn_like(layer.weight))
        average.update()
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * layer.weight.detach().double()
    torch.testing.assert_close(average.average[0].double(), expected, atol=1e-5, rtol=1e-5)
    average.copy_to_live()
    torch.testing.assert_close(layer.weight.detach().double(), expected, atol=1e-5, rtol=1e-5)


def test_weight_decay_is_for_matrices():
    layer = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.LayerNorm(2))
    decayed, rest = pretrain.optimizer_groups([layer], 0.01)
    assert decayed["weight_decay"] == 0.01
    assert rest["weight_decay"] == 0
    assert [p.ndim for p in decayed["params"]] == [2]
    assert len(rest["params"]) == 3


def test_gradients_of_a_call_in_bfloat16_reach_the_float32_masters():
    torch.manual_seed(0)
    layer = torch.nn.Linear(16, 4)
    x = torch.randn(8, 16)
    output = pretrain.call_in_dtype(layer, torch.bfloat16, x.bfloat16())
    assert output.dtype == torch.bfloat16
    output.float().pow(2).sum().backward()
    assert layer.weight.dtype == layer.weight.grad.dtype == torch.float32
    exact = copy.deepcopy(layer).double()
    exact.zero_grad()
    exact(x.double()).pow(2).sum().backward()
    for name, p in layer.named_parameters():
        reference = exact.get_parameter(name).grad.float()
        assert F.cosine_similarity(p.grad.flatten(), reference.flatten(), dim=0) > 0.999, name


def scenes(tokenizer):
    return SceneStream(tokenizer, 600, (4, 8), 24, 0.0, 0.1, 0).batch(0)


def test_the_flow_matching_loss_of_a_new_model_is_two_and_trains_text_encoder_and_transformer():
    pipeline = tiny_generator().pipeline
    batch = scenes(pipeline.tokenizer)
    pretrain.measure_latents(pipeline.vae, [batch], CPU)
    with torch.no_grad():
        pipeline.transformer.proj_out.weight.zero_()
    for module in (pipeline.transformer, pipeline.text_encoder):
        module.requires_grad_(True)
    loss = pretrain.flow_matching_loss(pipeline, 2.0, CPU)
    value, _ = loss(batch, torch.Generator().manual_seed(0))
    assert value.item() == pytest.approx(2, abs=0.15)
    again, _ = loss(batch, torch.Generator().manual_seed(0))
    assert again.item() == value.item()
    value.backward()
    assert pipeline.transformer.proj_out.weight.grad.any()
    with torch.no_grad():
        pipeline.transformer.proj_out.weight.normal_(std=0.1)
    loss(batch, torch.Generator().manual_seed(0))[0].backward()
    assert all(p.grad.any() for p in pipeline.transformer.parameters())
    assert all(p.grad is not None and p.grad.any() for p in pipeline.text_encoder.parameters())
    assert all(p.grad is None for p in pipeline.vae.parameters())


def test_measured_statistics_normalise_the_latents():
    pipeline = tiny_generator().pipeline
    batch = scenes(pipeline.tokenizer)
    pretrain.measure_latents(pipeline.vae, [batch], CPU)
    with torch.no_grad():
        latents = pipeline.vae.encode(batch.render(CPU)).latent_dist.mean
    normal = pipeline.vae.normalise(latents).transpose(0, 1).flatten(1)
    torch.testing.assert_close(normal.mean(1), torch.zeros(4), atol=2e-3, rtol=0)
    torch.testing.assert_close(normal.std(1), torch.ones(4), atol=2e-3, rtol=0)


def test_the_kl_of_the_autoencoder_is_the_closed_form():
    pipeline = tiny_generator().pipeline
    batch = scenes(pipeline.tokenizer)
    _, metrics = pretrain.autoencoder_loss(pipeline.vae, 1e-5, CPU)(batch, torch.Generator().manual_seed(0))
    with torch.no_grad():
        posterior = pipeline.vae.encode(batch.render(CPU)).latent_dist
    normal = torch.distributions.Normal(posterior.mean, posterior.std)
    standard = torch.distributions.Normal(torch.tensor(0.0), torch.tensor(1.0))
    expected = torch.distributions.kl_divergence(normal, standard).mean()
    torch.testing.assert_close(metrics["kl"], expected, atol=1e-5, rtol=1e-4)


class Interrupted(Exception):
    pass


def phase(path, seed=0, seconds=1e6):
    torch.manual_seed(seed)
    config = PretrainConfig(output_dir="", save_seconds=0.0, num_layers=1, hidden_size=64)
    return pretrain.Phase("toy", {"layer": torch.nn.Linear(8, 8)}, config, seconds, 1e-2, path)


class Batch:
    input_ids = torch.zeros(4, 1)


def toy_loss(current, stop_at):
    def loss(batch, generator):
        if current.step == stop_at:
            raise Interrupted
        x = torch.randn(4, 8, generator=generator)
        return (current.modules["layer"](x) - x).pow(2).mean(), {}

    return loss


def test_an_interrupted_phase_goes_on_exactly(tmp_path):
    def run(current, stop_at):
        with pytest.raises(Interrupted):
            current.run([Batch()] * 200, toy_loss(current, stop_at), CPU)
        return current

    whole = run(phase(tmp_path / "whole.pt"), 120)
    first = run(phase(tmp_path / "state.pt"), 70)
    second = phase(tmp_path / "state.pt", seed=1)
    assert second.resume()
    assert (second.step, second.clips) == (70, 280)
    assert second.elapsed == pytest.approx(first.elapsed, abs=0.5)
    run(second, 120)
    weights = whole.modules["layer"].weight
    torch.testing.assert_close(second.modules["layer"].weight, weights, atol=1e-6, rtol=0)
    for before, after in zip(whole.average.average, second.average.average, strict=True):
        torch.testing.assert_close(after, before, atol=1e-6, rtol=0)
    assert [row["step"] for row in second.history] == [50, 100]


def test_the_state_of_another_phase_or_none_is_not_taken_up(tmp_path):
    assert not phase(tmp_path / "state.pt").resume()
    other = phase(tmp_path / "state.pt")
    other.name = "other"
    other.save()
    assert not phase(tmp_path / "state.pt").resume()


def test_the_state_of_another_architecture_is_an_input_error(tmp_path):
    phase(tmp_path / "state.pt").save()
    other = phase(tmp_path / "state.pt")
    other.config.num_layers = 3
    with pytest.raises(InputError, match="num_layers 1, but 3 was asked for"):
        other.resume()


def test_a_phase_ends_with_its_budget_and_leaves_the_average(tmp_path):
    current = phase(tmp_path / "state.pt", seconds=0.2)
    endless = iter(lambda: Batch(), None)
    current.run(endless, toy_loss(current, -1), CPU)
    assert 0.2 <= current.elapsed < 5
    assert torch.equal(current.modules["layer"].weight, current.average.average[0])


@pytest.fixture
def small(monkeypatch):
    """Two sizes to train on, one to evaluate on, a tiny autoencoder; all else is the command's."""
    monkeypatch.setattr("generator.native.pretrain_data.SIZES", ((1, 32, 32, 1.0), (5, 32, 32, 1.0)))
    monkeypatch.setattr(model_card, "SIZES", ((1, 32, 32, 1.0), (5, 32, 32, 1.0)))
    monkeypatch.setattr(model_card, "EVALUATION_SIZES", ((5, 32, 32),))
    monkeypatch.setattr(
        pretrain,
        "build_pipeline",
        partial(
            build_pipeline,
            autoencoder={"channels": (8, 16), "num_blocks": 1},
            text_encoder={"hidden_size": 32, "num_layers": 1, "num_heads": 2},
        ),
    )


def configuration(folder, **changes):
    arguments = {
        "autoencoder_seconds": 1.0,
        "transformer_seconds": 1.0,
        "autoencoder_pixels": 20_000,
        "transformer_tokens": 400,
        "num_layers": 3,
        "hidden_size": 64,
        "num_workers": 0,
        "evaluation_prompts": 4,
        **changes,
    }
    return PretrainConfig(output_dir=str(folder), **arguments)


def test_pretraining_resumes_after_an_interruption_and_writes_a_pipeline_that_loads(
    small, tmp_path, monkeypatch
):
    folder = tmp_path / "model"
    with monkeypatch.context() as patch:
        patch.setattr(pretrain, "train_transformer", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            pretrain.pretrain(configuration(folder), CPU)
    assert not (folder / "model_index.json").exists()
    with monkeypatch.context() as patch:
        patch.setattr(
            pretrain, "train_autoencoder", lambda *_: pytest.fail("the autoencoder was trained again")
        )
        assert pretrain.pretrain(configuration(folder), CPU) == folder

    generator = load_generator(folder, device="cpu")
    assert generator.transformer.config.num_attention_heads == 1
    assert generator.pipeline.vae.config.latents_std != [1.0] * 8
    video = generator.generate(["a red circle"], num_frames=5, height=32, width=32)
    assert video.isfinite().all()
    metrics = json.loads((folder / "metrics.json").read_text())
    assert 0 <= metrics["gold"]["5x32x32"]["all"] <= 1
    assert metrics["history"].keys() == {"autoencoder", "transformer"}
    card = (folder / "README.md").read_text()
    assert f"{metrics['gold']['5x32x32']['all']:.3f}" in card
    assert (folder / "samples.png").is_file()

    with pytest.raises(InputError, match="finished pipeline"):
        pretrain.pretrain(configuration(folder), CPU)


def test_overwriting_a_finished_run_starts_anew(tmp_path):
    for name in ("model_index.json", pretrain.STATE, "autoencoder/vae/config.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("{}")
    pretrain.forget_finished_run(tmp_path, keep_autoencoder=True)
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == ["config.json"]
    (tmp_path / "model_index.json").write_text("{}")
    pretrain.forget_finished_run(tmp_path, keep_autoencoder=False)
    assert list(tmp_path.iterdir()) == []


def test_a_width_that_heads_do_not_divide_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="--hidden_size 128"):
        pretrain.pretrain(configuration(tmp_path / "model", hidden_size=100), CPU)
    assert not (tmp_path / "model").exists()


def test_channel_weights_follow_the_standard_deviation_and_average_one():
    vae = build_pipeline(autoencoder={"channels": (8, 8), "num_blocks": 1}).vae
    vae.register_to_config(latents_std=[0.5, 1.0, 2.0, 0.5, 1.0, 2.0, 1.0, 1.0])
    assert torch.equal(pretrain.channel_weights(vae, 0.0), torch.ones(8))
    weights = pretrain.channel_weights(vae, 2.0)
    assert weights.mean().item() == pytest.approx(1.0)
    assert (weights[2] / weights[0]).item() == pytest.approx(16.0)
