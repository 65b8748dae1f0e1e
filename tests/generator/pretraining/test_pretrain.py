"""Pretraining: its parts against independent computations, and a whole run of a few seconds."""

import copy
import json
from functools import partial

import pytest
import torch
from torch.nn import functional as F

from generator import load_generator
from generator.native.building import build_pipeline
from generator.output import InputError
from generator.pretraining import flow_loss, model_card, pretrain
from generator.pretraining.config import PretrainConfig
from generator.pretraining.data import SceneStream
from generator.pretraining.latent_pool import LatentBatch, LatentPool
from generator.pretraining.master_weights import MasterWeights
from generator.pretraining.packed_pool import RowsFromPool
from generator.pretraining.phase import STATE, Average, Phase, trapezoid
from generator.testing import tiny_generator

CPU = torch.device("cpu")


def test_the_learning_rate_is_a_trapezoid():
    factor = partial(trapezoid, warmup_steps=10, cooldown_share=0.4)
    assert factor(0.0, 0) == pytest.approx(0.1)
    assert factor(0.0, 9) == factor(0.3, 500) == factor(0.6, 500) == 1
    assert factor(0.8, 500) == pytest.approx(0.5)
    assert factor(1.0, 500) == factor(1.1, 500) == 0


def test_the_average_is_the_exponential_moving_average():
    torch.manual_seed(0)
    layer = torch.nn.Linear(3, 2)
    average = Average(layer.parameters(), decay=0.9)
    expected = layer.weight.detach().double()
    for step in range(1, 200):
        with torch.no_grad():
            layer.weight.add_(torch.randn_like(layer.weight))
        average.update()
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * layer.weight.detach().double()
    torch.testing.assert_close(average.average[0].double(), expected, atol=1e-5, rtol=1e-5)


def test_weight_decay_is_for_matrices():
    layer = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.LayerNorm(2))
    matrix = layer[0].weight.detach().flatten().clone()
    decayed, rest = MasterWeights([layer]).groups(0.01)
    assert decayed["weight_decay"] == 0.01
    assert rest["weight_decay"] == 0
    assert torch.equal(decayed["params"][0], matrix)
    assert rest["params"][0].numel() == 6


def test_a_parameter_without_a_gradient_has_the_gradient_zero():
    layers = torch.nn.ModuleList([torch.nn.Linear(3, 2), torch.nn.Linear(2, 2)])
    weights = MasterWeights([layers])
    for used in (layers, layers[:1]):
        weights.clear_gradients()
        x = torch.ones(1, 3)
        for layer in used:
            x = layer(x)
        x.sum().backward()
        weights.collect_gradients()
    weights.take_gradients()
    first, second = weights.masters[0].grad.split([6, 4])
    assert torch.equal(first, torch.ones(6))
    assert not second.any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_reach_the_float32_masters_and_rounded_weights_come_back(dtype):
    torch.manual_seed(0)
    layer = torch.nn.Linear(16, 4)
    exact = copy.deepcopy(layer).double()
    weights = MasterWeights([layer], dtype)
    x = torch.randn(8, 16)
    for _ in range(2):  # the gradients of the first pass are cleared
        weights.clear_gradients()
        layer(x.to(dtype)).float().pow(2).sum().backward()
        weights.collect_gradients()
    weights.take_gradients()
    exact(x.double()).pow(2).sum().backward()
    for master, reference in zip(weights.masters, exact.parameters(), strict=True):
        assert master.dtype == master.grad.dtype == torch.float32
        assert F.cosine_similarity(master.grad, reference.grad.float().flatten(), dim=0) > 0.999
    with torch.no_grad():
        for master in weights.masters:
            master.add_(1e-5)
    weights.give()
    assert torch.equal(layer.weight.flatten(), weights.masters[0].to(dtype))
    assert torch.equal(layer.bias, weights.masters[1].to(dtype))
    weights.finish([master + 1 for master in weights.masters])
    assert layer.weight.dtype == torch.float32
    assert torch.equal(layer.weight.flatten(), weights.masters[0])
    assert layer.weight.untyped_storage().nbytes() == 4 * layer.weight.numel()


def test_tied_weights_stay_tied():
    first, second = torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)
    second.weight = first.weight
    weights = MasterWeights([first, second])
    assert first.weight is second.weight
    assert weights.masters[0].numel() == 16
    weights.finish([torch.ones_like(m) for m in weights.masters])
    assert first.weight is second.weight
    assert (second.weight == 1).all()


def scenes(tokenizer):
    return SceneStream(tokenizer, 600, (4, 8), 24, 0.0, 0.1, 0).batch(0)


def encoded(pipeline, key_frames=False):
    batch = scenes(pipeline.tokenizer)
    pretrain.measure_latents(pipeline.vae, [batch], CPU)
    with torch.no_grad():
        latents = pretrain.encode_clips(pipeline.vae, batch.render(CPU), key_frames)
    return LatentBatch(batch.kind, latents, batch.input_ids, batch.attention_mask)


def evaluate(loss, batch):
    return loss.compute(*loss.prepare(batch, torch.Generator().manual_seed(0)))


def trainable(pipeline):
    for module in (pipeline.transformer, pipeline.text_encoder):
        module.requires_grad_(True)
    return pretrain.FlowMatchingLoss(pipeline, 2.0)


def test_the_flow_matching_loss_of_a_new_model_is_two_and_trains_text_encoder_and_transformer():
    pipeline = tiny_generator().pipeline
    batch = encoded(pipeline)
    with torch.no_grad():
        pipeline.transformer.proj_out.weight.zero_()
    loss = trainable(pipeline)
    value, _ = evaluate(loss, batch)
    assert value.item() == pytest.approx(2, abs=0.15)
    again, _ = evaluate(loss, batch)
    assert again.item() == value.item()
    value.backward()
    assert pipeline.transformer.proj_out.weight.grad.any()
    with torch.no_grad():
        pipeline.transformer.proj_out.weight.normal_(std=0.1)
    evaluate(loss, batch)[0].backward()
    assert all(p.grad.any() for p in pipeline.transformer.parameters())
    assert all(p.grad is not None and p.grad.any() for p in pipeline.text_encoder.parameters())
    assert all(p.grad is None for p in pipeline.vae.parameters())


def test_known_frames_do_not_count_and_come_clean():
    pipeline = tiny_generator().pipeline
    batch = encoded(pipeline)
    frames = batch.latents.shape[2]
    assert frames > 1
    batch.known = torch.zeros(len(batch.latents), frames, dtype=torch.bool)
    batch.known[:, 0] = True
    seen = {}

    def spy(module, args, kwargs):
        seen.update(latents=args[0], timestep=args[1])

    handle = pipeline.transformer.register_forward_pre_hook(spy, with_kwargs=True)
    loss = trainable(pipeline)
    _, metrics = evaluate(loss, batch)
    handle.remove()
    assert torch.equal(seen["latents"][:, :, 0], batch.latents[:, :, 0])
    assert (seen["timestep"][:, 0] == 0).all()
    assert (seen["timestep"][:, 1:] > 0).all()
    assert seen["timestep"].shape == (len(batch.latents), frames)
    noise = torch.randn(batch.latents.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        text = pipeline.text_encoder(batch.input_ids, attention_mask=batch.attention_mask).last_hidden_state
        velocity = pipeline.transformer(
            seen["latents"], seen["timestep"], text, batch.attention_mask, seconds_per_frame=0.5
        ).sample
    expected = F.mse_loss(velocity[:, :, 1:], (noise - batch.latents)[:, :, 1:])
    torch.testing.assert_close(metrics["mse"], expected, atol=1e-5, rtol=1e-5)


def test_key_frames_are_encoded_each_as_an_image():
    pipeline = tiny_generator().pipeline
    clips = torch.rand(2, 3, 5, 16, 16) * 2 - 1
    with torch.no_grad():
        latents = pretrain.encode_clips(pipeline.vae, clips, key_frames=True)
        third = pretrain.encode_clips(pipeline.vae, clips[:, :, 3:4], key_frames=False)
    assert latents.shape[2] == 5
    torch.testing.assert_close(latents[:, :, 3:4], third, atol=1e-5, rtol=1e-5)


def test_a_slice_ends_with_its_state_saved_and_the_next_goes_on(tmp_path):
    first = phase(tmp_path / "state.pt", seconds=1.0)
    first.config.slice_seconds = 0.2
    first.run(iter(lambda: Batch(), None), ToyLoss(first, -1), CPU)
    assert 0.2 <= first.elapsed < 0.9
    assert not first.finished
    second = phase(tmp_path / "state.pt", seconds=1.0)
    assert second.resume()
    assert second.step == first.step
    second.run(iter(lambda: Batch(), None), ToyLoss(second, -1), CPU)
    assert second.finished


@pytest.mark.parametrize("left", [0, 1, 100])
def test_a_damaged_state_is_one_sentence(tmp_path, left):
    first = phase(tmp_path / "state.pt", seconds=1.0)
    first.save()
    whole = (tmp_path / "state.pt").read_bytes()
    (tmp_path / "state.pt").write_bytes(whole[:left])
    with pytest.raises(InputError, match="delete it to begin anew"):
        phase(tmp_path / "state.pt", seconds=1.0).resume()


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
    _, metrics = evaluate(pretrain.AutoencoderLoss(pipeline.vae, 1e-5, CPU), batch)
    with torch.no_grad():
        posterior = pipeline.vae.encode(batch.render(CPU)).latent_dist
    normal = torch.distributions.Normal(posterior.mean, posterior.std)
    standard = torch.distributions.Normal(torch.tensor(0.0), torch.tensor(1.0))
    expected = torch.distributions.kl_divergence(normal, standard).mean()
    torch.testing.assert_close(metrics["kl"], expected, atol=1e-5, rtol=1e-4)


class Interrupted(Exception):
    pass


def phase(path, seed=0, seconds=1e6, optimizer="adamw"):
    torch.manual_seed(seed)
    config = PretrainConfig(
        output_dir="", save_seconds=0.0, num_layers=1, hidden_size=64, optimizer=optimizer
    )
    blocks = torch.nn.ModuleList([torch.nn.Linear(8, 8)])
    return Phase("toy", {"blocks": blocks}, config, seconds, 1e-2, path)


class Batch:
    input_ids = torch.zeros(4, 1)


class ToyLoss:
    def __init__(self, current, stop_at):
        self.current, self.stop_at = current, stop_at

    def prepare(self, batch, generator):
        if self.current.step == self.stop_at:
            raise Interrupted
        return "toy", {"x": torch.randn(4, 8, generator=generator)}

    def compute(self, key, inputs):
        return (self.current.modules["blocks"][0](inputs["x"]) - inputs["x"]).pow(2).mean(), {}


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_an_interrupted_phase_goes_on_exactly(tmp_path, optimizer):
    def run(current, stop_at):
        with pytest.raises(Interrupted):
            current.run([Batch()] * 200, ToyLoss(current, stop_at), CPU)
        return current

    whole = run(phase(tmp_path / "whole.pt", optimizer=optimizer), 120)
    first = run(phase(tmp_path / "state.pt", optimizer=optimizer), 70)
    second = phase(tmp_path / "state.pt", seed=1, optimizer=optimizer)
    assert (second.muon is not None) == (optimizer == "muon")
    assert second.resume()
    assert (second.step, second.clips) == (70, 280)
    assert second.elapsed == pytest.approx(first.elapsed, abs=0.5)
    run(second, 120)
    weights = whole.modules["blocks"][0].weight
    torch.testing.assert_close(second.modules["blocks"][0].weight, weights, atol=1e-6, rtol=0)
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
    with pytest.raises(InputError, match="optimizer adamw, but muon was asked for"):
        phase(tmp_path / "state.pt", optimizer="muon").resume()


def test_a_phase_ends_with_its_budget_and_leaves_the_average(tmp_path):
    current = phase(tmp_path / "state.pt", seconds=0.2)
    endless = iter(lambda: Batch(), None)
    current.run(endless, ToyLoss(current, -1), CPU)
    assert 0.2 <= current.elapsed < 5
    assert torch.equal(current.modules["blocks"][0].weight.flatten(), current.average.average[0])


@pytest.fixture
def small(monkeypatch):
    """Two sizes to train on, one to evaluate on, a tiny autoencoder; all else is the command's."""
    monkeypatch.setattr("generator.pretraining.data.SIZES", ((1, 32, 32, 1.0), (5, 32, 32, 1.0)))
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
    monkeypatch.setattr(
        "sys.argv", ["model_card", str(folder), "--prompts", "4", "--right_captions", str(folder)]
    )
    model_card.main()
    again = json.loads((folder / "metrics.json").read_text())
    assert again["right_captions"]["guidance"] == again["guidance"] == metrics["guidance"]
    assert "right captions" in (folder / "README.md").read_text()
    assert "right captions: gold" not in card

    with pytest.raises(InputError, match="finished pipeline"):
        pretrain.pretrain(configuration(folder), CPU)


def test_overwriting_a_finished_run_starts_anew(tmp_path):
    for name in ("model_index.json", STATE, "autoencoder/vae/config.json"):
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
    assert torch.equal(flow_loss.channel_weights(vae, 0.0), torch.ones(8))
    weights = flow_loss.channel_weights(vae, 2.0)
    assert weights.mean().item() == pytest.approx(1.0)
    assert (weights[2] / weights[0]).item() == pytest.approx(16.0)


def test_the_packed_loss_of_a_row_of_one_kind_is_the_loss_of_the_batch():
    pipeline = tiny_generator().pipeline
    batch = encoded(pipeline)
    pool = LatentPool(1.0, pipeline.tokenizer.pad_token_id, pipeline.tokenizer.eos_token_id)
    pool.add(batch.kind, 1.0, batch.latents, batch.input_ids)
    seconds = flow_loss.seconds_per_latent(pipeline.vae, batch.kind)
    rows = RowsFromPool(pool, pipeline.transformer, 2000, lambda _: 1.0, lambda _: seconds, lambda: 0.0, 0)
    row = rows.draw()
    packed = flow_loss.PackedFlowMatchingLoss(pipeline, 2.0)
    key, inputs = packed.prepare(row, torch.Generator().manual_seed(0))
    found = packed.compute(key, inputs)[0]
    # The same clips, noise and noise levels as a batch.
    clip, video = row.layout.clip, row.layout.is_video
    shape = pipeline.transformer.clip_shape(batch.latents.shape, seconds)
    frames = batch.latents.shape[2]

    def clips(patches):
        chosen = [patches[(clip == i) & video] for i in range(row.clips)]
        return pipeline.transformer.unpatchify(torch.stack(chosen), shape, frames)

    captions = [ids for group in row.captions for ids in F.pad(group, (0, 64 - group.shape[1]))][: row.clips]
    ids = torch.stack(captions)
    same = {
        "latents": clips(inputs["patches"]),
        "noise": clips(inputs["noise"]),
        "sigma": inputs["sigma"][: row.clips],
        "input_ids": ids,
        "attention_mask": (ids != 0).long(),
    }
    plain_key = flow_loss.FlowMatchingKey(batch.kind, row.clips, 64, False)
    expected = flow_loss.FlowMatchingLoss(pipeline, 2.0).compute(plain_key, same)[0]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_known_patches_of_a_packed_row_come_clean_and_do_not_count():
    pipeline = tiny_generator().pipeline
    batch = encoded(pipeline)
    pool = LatentPool(1.0, 0, 1, known_share=1.0)
    pool.add(batch.kind, 1.0, batch.latents, batch.input_ids)
    row = RowsFromPool(pool, pipeline.transformer, 2000, lambda _: 1.0, lambda _: 0.5, lambda: 0.0, 0).draw()
    loss = flow_loss.PackedFlowMatchingLoss(pipeline, 2.0)
    key, inputs = loss.prepare(row, torch.Generator().manual_seed(0))
    before = loss.compute(key, inputs)[0]
    noise = torch.where(row.known[:, None], 7.0, inputs["noise"])
    assert torch.equal(loss.compute(key, {**inputs, "noise": noise})[0], before)
    assert row.known.any()


@pytest.mark.parametrize("more", [{}, {"attention": "separable", "token_dropping": 0.5}], ids=str)
def test_packed_pretraining_goes_on_after_a_slice(small, tmp_path, more):
    folder = tmp_path / "nano"
    more = {**more, "pack": True, "autoencoder_seconds": 0.5}
    with pytest.raises(pretrain.SliceDone):
        # However long a step takes on a busy machine, the budget is longer.
        pretrain.pretrain(configuration(folder, slice_seconds=0.5, transformer_seconds=1e4, **more), CPU)
    pretrain.pretrain(configuration(folder, transformer_seconds=1.5, **more), CPU)
    state = torch.load(folder / STATE, weights_only=True)
    assert state["clips"] > state["step"] > 0
    loaded = load_generator(str(folder))
    assert loaded.transformer.config.attention == more.get("attention", "full")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("compiled", [False, True])
def test_packed_pretraining_on_a_gpu_records_and_replays_graphs(small, tmp_path, compiled):
    config = configuration(
        tmp_path / "nano",
        pack=True,
        transformer_tokens=4000,
        transformer_seconds=60.0 if compiled else 15.0,
        compile_blocks=compiled,
    )
    pretrain.pretrain(config, torch.device("cuda"))
    metrics = json.loads((tmp_path / "nano" / "metrics.json").read_text())
    rows = metrics["history"]["transformer"]
    assert rows[-1]["loss"] < 0.9 * rows[0]["loss"]


def test_settings_that_do_not_go_together_are_named(tmp_path):
    for changes, message in (
        ({"token_dropping": 0.5}, "needs packed rows"),
        ({"patch_size": [2, 2, 2]}, "need patches of one frame"),
        ({"patch_size": [2, 2]}, "must be three numbers"),
        ({"attention": "sparse"}, "must be one of full, separable"),
        ({"optimizer": "sgd"}, "must be one of adamw, muon"),
        ({"several_weight": 0.0}, "must be above 0"),
    ):
        with pytest.raises(InputError, match=message):
            pretrain.pretrain(PretrainConfig(output_dir=str(tmp_path / "o"), **changes), CPU)


def test_pretraining_can_start_from_the_weights_of_another_pipeline(small, tmp_path):
    first = configuration(tmp_path / "first", transformer_seconds=0.5)
    pretrain.pretrain(first, CPU)
    sources = {"weights_from": str(tmp_path / "first"), "autoencoder_from": str(tmp_path / "first")}
    again = configuration(tmp_path / "again", **sources, transformer_seconds=0.0)
    pretrain.pretrain(again, CPU)
    loaded, started = (load_generator(str(tmp_path / name)).pipeline for name in ("first", "again"))
    for part in ("transformer", "text_encoder"):
        expected = getattr(loaded, part).state_dict()
        for name, value in getattr(started, part).state_dict().items():
            assert torch.equal(value, expected[name])
    histories = [
        json.loads((tmp_path / name / "metrics.json").read_text())["history"] for name in ("first", "again")
    ]
    assert histories[1] == {
        "autoencoder": histories[0]["autoencoder"],
        "transformer, run 1": histories[0]["transformer"],
    }
    other = configuration(tmp_path / "other", weights_from=str(tmp_path / "first"), num_layers=5)
    with pytest.raises(InputError, match="another architecture"):
        pretrain.pretrain(other, CPU)


def test_an_image_model_is_trained_on_images_and_makes_images(small, tmp_path, monkeypatch):
    monkeypatch.setattr(model_card, "IMAGE_EVALUATION_SIZES", ((1, 32, 32),))
    seen = set()
    render = SceneStream.batch
    monkeypatch.setattr(
        SceneStream, "batch", lambda *arguments: seen.add((batch := render(*arguments)).size) or batch
    )
    config = configuration(
        tmp_path / "image", images_only=True, autoencoder_seconds=0.4, transformer_seconds=0.4
    )
    pretrain.pretrain(config, CPU)
    assert seen
    assert all(frames == 1 for frames, _, _ in seen)
    generator = load_generator(tmp_path / "image", device="cpu")
    assert generator.defaults.num_frames == 1
    assert generator.generate(["a red circle"]).shape == (1, 3, 1, 32, 32)
    assert json.loads((tmp_path / "image" / "metrics.json").read_text())["gold"].keys() == {"1x32x32"}
    assert "text-to-image generator" in (tmp_path / "image" / "README.md").read_text()
