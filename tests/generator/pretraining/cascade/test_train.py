"""Training of stages: their loss, their clips, slices that resume, and a cascade of what was trained."""

import json

import pytest
import torch

from alignment.cli import main
from generator import load_generator
from generator.cascade.conditioning import augment, network_input, network_target, residual, velocity
from generator.cascade.resampling import blend_frames, enlarge, reduce
from generator.flow import interpolate
from generator.native.building import save_pipeline
from generator.output import InputError
from generator.pretraining.cascade.config import StageConfig
from generator.pretraining.cascade.data import StageScenes, coarse, encode_pairs, measure_residual, stage_mix
from generator.pretraining.cascade.loss import StageLoss, channel_weights
from generator.pretraining.cascade.train import build_stage, noise_shift, pretrain_stage
from generator.pretraining.config import PretrainConfig
from generator.pretraining.latent_pool import LatentBatch
from generator.pretraining.phase import STATE
from generator.pretraining.pretrain import SliceDone
from generator.testing import tiny_generator
from generator.video import write_video

CPU = torch.device("cpu")
SMALL = {"stage_width": 64, "stage_layers": 1, "stage_sides": [16], "stage_frames": 17}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    save_pipeline(tiny_generator().pipeline, folder)
    return folder


def general(folder, **changes):
    arguments = {"transformer_tokens": 200, "num_workers": 0, "evaluation_prompts": 2, "tensorboard": False}
    return PretrainConfig(output_dir=str(folder), **{**arguments, **changes})


@pytest.mark.parametrize("stage", ["temporal", "spatial"])
def test_pairs_are_latents_of_the_clip_and_of_its_coarse_version_upsampled(stage):
    codec = tiny_generator()
    clips = torch.rand(2, 3, 9, 16, 16) * 2 - 1
    pairs = encode_pairs(codec, clips, stage)
    low = clips[:, :, ::4] if stage == "temporal" else reduce(clips, 2)
    assert torch.equal(coarse(clips, stage), low)
    upsampled = blend_frames(low, 4) if stage == "temporal" else enlarge(low, 2)
    torch.testing.assert_close(pairs[:, :4], codec.encode(clips))
    torch.testing.assert_close(pairs[:, 4:8], codec.encode(upsampled))
    if stage == "temporal":
        for frame in range(3):
            image = codec.encode(clips[:, :, 4 * frame : 4 * frame + 1])[:, :, 0]
            torch.testing.assert_close(pairs[:, 8:, frame], image, atol=1e-5, rtol=1e-5)
    else:
        assert pairs.shape[1] == 8


@pytest.mark.parametrize("stage", ["temporal", "spatial"])
def test_the_loss_is_the_error_of_the_prediction_at_unit_variance(stage):
    codec = tiny_generator()
    config = StageConfig(stage, **SMALL)
    scenes = StageScenes(codec.pipeline.tokenizer, config, general("unused")).batch(0)
    gain, std = measure_residual(codec, [scenes], stage)
    network = build_stage(config, codec, gain, std, 0)
    pairs = encode_pairs(codec, scenes.render(CPU), stage)
    batch = LatentBatch(scenes.kind, pairs, scenes.input_ids, scenes.attention_mask)
    loss = StageLoss(network, codec, 0.3, 0.4, channel_power=0.0)
    key, inputs = loss.prepare(batch, torch.Generator().manual_seed(0))
    value, metrics = loss.compute(key, inputs)
    assert ((inputs["level"] >= 0) & (inputs["level"] <= 0.4)).all()
    noised = augment(pairs[:, 4:], inputs["noise"][:, 4:], inputs["level"])
    statistics = torch.tensor(gain), torch.tensor(std)
    known = residual(noised[:, :4], inputs["sigma"], inputs["level"], *statistics)
    target = network_target(pairs[:, :4], inputs["noise"][:, :4], inputs["sigma"], known)
    torch.testing.assert_close(
        value, target.square().mean(), atol=1e-5, rtol=1e-4
    )  # a new network predicts 0
    state = interpolate(pairs[:, :4], inputs["noise"][:, :4], inputs["sigma"])
    guess = velocity(
        network_input(state, inputs["sigma"], known), torch.zeros_like(state), inputs["sigma"], known
    )
    error = guess - (inputs["noise"][:, :4] - pairs[:, :4])
    torch.testing.assert_close(metrics["mse"], error.square().mean(), atol=1e-5, rtol=1e-4)
    value.backward()
    assert network.proj_out.weight.grad.any()
    assert all(p.grad is None for p in codec.pipeline.text_encoder.parameters())


def test_errors_weigh_as_their_channels_do_in_pixels_and_the_schedule_follows_the_residual():
    weights = channel_weights([1.0, 2.0], [0.5, 0.5], 1.0)
    assert weights.tolist() == pytest.approx([2 / 3, 4 / 3])
    assert noise_shift([1.0, 1.0], [0.2, 0.4]) == pytest.approx(0.3)


def test_a_mix_has_both_sides_both_lengths_and_images_only_in_space():
    spatial, temporal = (stage_mix(StageConfig(stage)) for stage in ("spatial", "temporal"))
    for mix in (spatial, temporal):
        assert sum(mix.values()) == pytest.approx(1)
        assert {kind.fps for kind in mix} == {16.0}
    assert {kind.num_frames for kind in spatial} == {1, 17, 33}
    assert {kind.height for kind in spatial} == {64, 128}
    assert {kind.num_frames for kind in temporal} == {17, 33}


def test_stages_are_trained_in_slices_and_join_to_a_cascade(base, tmp_path):
    temporal = StageConfig("temporal", stage_seconds=2.0, stage_base=str(base), **SMALL)
    with pytest.raises(SliceDone, match="temporal stage has been trained for"):
        pretrain_stage(temporal, general(tmp_path / "temporal", slice_seconds=0.3), CPU)
    state = torch.load(tmp_path / "temporal" / STATE, weights_only=True)
    assert not (tmp_path / "temporal" / "model_index.json").exists()
    other = StageConfig("spatial", stage_seconds=2.0, stage_base=str(base), **SMALL)
    with pytest.raises(InputError, match="an interrupted training of the temporal stage"):
        pretrain_stage(other, general(tmp_path / "temporal"), CPU)
    folder = pretrain_stage(temporal, general(tmp_path / "temporal"), CPU)
    later = torch.load(folder / STATE, weights_only=True)
    assert later["step"] > state["step"] > 0
    assert state["elapsed"] < 2.0 <= later["elapsed"]
    metrics = json.loads((folder / "metrics.json").read_text())
    assert set(metrics["sizes"]["17x16x16"]) == {
        "rendered clips",
        "autoencoder alone",
        "stage",
        "frame doubling",
        "linear blending",
    }
    assert "four times the frame rate" in (folder / "README.md").read_text()
    assert (folder / "samples.png").is_file()
    with pytest.raises(InputError, match="finished model"):
        pretrain_stage(temporal, general(folder), CPU)
    words = f"--stage spatial --stage_base {base} --stage_seconds 0.3 --stage_width 64 --stage_layers 1"
    words += (
        " --stage_sides 16 --stage_frames 5 --transformer_tokens 200 --num_workers 0 --evaluation_prompts 2"
    )
    assert main(f"pretrain --output_dir {tmp_path / 'spatial'} {words} --tensorboard false") == 0
    joined = f"--join_stages {tmp_path / 'temporal'} {tmp_path / 'spatial'} {tmp_path / 'spatial'}"
    assert main(f"pretrain --output_dir {tmp_path / 'cascade'} --stage_base {base} {joined}") == 0
    cascade = load_generator(tmp_path / "cascade", device="cpu")
    assert [stage.settings.stage for stage in cascade.stages] == ["temporal", "spatial", "spatial"]
    assert (cascade.defaults.num_frames, cascade.defaults.height, cascade.defaults.fps) == (33, 128, 16)
    made = cascade.generate(["a red circle"], 9, 32, 32, num_inference_steps=1)
    assert made.shape == (1, 3, 9, 32, 32)


def test_a_stage_learns_from_camera_clips(base, tmp_path):
    for number in range(2):
        write_video(tmp_path / "clips" / f"{number}.mp4", torch.rand(3, 9, 32, 48) * 2 - 1, 16.0)
    config = StageConfig("spatial", stage_seconds=0.3, stage_base=str(base), **SMALL)
    asked = general(tmp_path / "stage", footage=str(tmp_path / "clips"), footage_share=1.0)
    folder = pretrain_stage(config, asked, CPU)
    assert "100% of the batches camera clips" in (folder / "README.md").read_text()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stage": "temporal", "stage_frames": 21}, "16k \\+ 1 frames, such as 33"),
        ({"stage": "spatial", "stage_sides": [40]}, "multiples of 16"),
        ({"stage": "spatial", "stage_width": 100}, "multiple of 64"),
        ({"stage": "spatial", "stage_augmentation": 1.0}, "at least 0 and below 1"),
        ({"stage": "spatial", "stage_seconds": 0.0}, "must be above 0"),
        ({"stage": "spatial", "join_stages": ["a"]}, "both given"),
    ],
)
def test_settings_of_a_stage_that_cannot_be_are_named(changes, message):
    with pytest.raises(InputError, match=message):
        StageConfig(**changes)


def test_a_base_of_another_family_is_refused_before_anything_is_written(tmp_path):
    from generator.testing.pipelines import save_tiny_pipeline

    other = save_tiny_pipeline("ltx", tmp_path / "ltx")
    config = StageConfig("spatial", stage_base=str(other), **SMALL)
    with pytest.raises(InputError, match="the autoencoder of the built-in family"):
        pretrain_stage(config, general(tmp_path / "stage"), CPU)
    assert not (tmp_path / "stage").exists()
