"""Videos made while training: files, trackers, and a training that they do not change."""

import io
import json
import logging
import os
import signal

import pytest
import torch
from PIL import Image, ImageSequence
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from transformers.integrations import TrackioCallback, WandbCallback

from alignment.cli import main
from alignment.lora import LoraArguments
from alignment.trainers import samples
from alignment.trainers.backprop_config import BackpropConfig
from alignment.trainers.backprop_trainer import BackpropTrainer
from alignment.trainers.dpo_config import DPOConfig
from alignment.trainers.dpo_trainer import DPOTrainer
from alignment.trainers.nft_config import NFTConfig
from alignment.trainers.nft_trainer import NFTTrainer
from alignment.trainers.online_dpo_config import OnlineDPOConfig
from alignment.trainers.online_dpo_trainer import OnlineDPOTrainer
from alignment.trainers.ppo_config import PPOConfig
from alignment.trainers.ppo_trainer import PPOTrainer
from alignment.trainers.rwr_config import RWRConfig
from alignment.trainers.rwr_trainer import RWRTrainer
from alignment.trainers.sft_config import SFTConfig
from alignment.trainers.sft_trainer import SFTTrainer
from alignment.trainers.trackers import show_video
from generator.adapters.adapters import load_adapters
from generator.data.demonstrations import write_demonstrations
from generator.data.prompts import read_prompts
from generator.output import InputError
from generator.training.interruption import Interrupted
from generator.video import read_video, write_video
from labeling_app.files.candidates import read_tasks

ON_REWARDS = {
    "ppo": (PPOTrainer, PPOConfig), "rwr": (RWRTrainer, RWRConfig), "nft": (NFTTrainer, NFTConfig),
    "online_dpo": (OnlineDPOTrainer, OnlineDPOConfig),
}  # fmt: skip
KINDS = ("sft", "dpo", "backprop", *ON_REWARDS)
STEPS = ["step-000000", "step-000002", "step-000004"]


@pytest.fixture
def make(make_generator, latents, prompts, bright, quiet, tmp_path):
    """Trainers of four optimiser steps that make two samples every second step."""
    file = tmp_path / "looked at.jsonl"
    rows = [
        {"prompt": "A bright day!"},
        {"prompt": "дождь", "negative_prompt": "sun", "id": "rain"},
        {"prompt": "c"},
    ]
    file.write_text("\n".join(json.dumps(row) for row in rows))
    asked = {"sample_prompts": str(file), "sample_steps": 2, "sample_count": 2, "sample_seed": 7}

    def trainer(kind, generator=None, sampled=True, lora=None, **more):
        generator = generator or make_generator()
        settings = quiet | (asked if sampled else {}) | {"learning_rate": 1e-2} | more
        if kind in ON_REWARDS:
            trainer_class, config_class = ON_REWARDS[kind]
            settings = {
                "num_rollouts": 2, "num_prompts": 2, "num_generations": 4, "num_inference_steps": 4,
                "num_mini_batches": 2, "per_device_train_batch_size": 6,
            } | settings  # fmt: skip
            return trainer_class(generator, config_class(**settings), prompts, bright, lora=lora)
        settings = {"max_steps": 4, "per_device_train_batch_size": 3} | settings
        if kind == "backprop":
            config = BackpropConfig(num_inference_steps=4, backprop_steps=1, **settings)
            return BackpropTrainer(generator, config, prompts, bright, lora=lora)
        if kind == "sft":
            lora = lora or LoraArguments(lora_dropout=0.2)
            return SFTTrainer(generator, SFTConfig(**settings), latents, prompts, lora=lora)
        config = DPOConfig(**settings)
        return DPOTrainer.from_pairs(generator, config, latents, latents[::-1], prompts, lora=lora)

    trainer.prompts = [row["prompt"] for row in rows[:2]]
    return trainer


def weights(trainer):
    return {name: p.detach().clone() for name, p in trainer.policy.named_parameters() if p.requires_grad}


def folders(tmp_path):
    return sorted(folder.name for folder in (tmp_path / "out" / "samples").glob("step-*"))


@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_bit_for_bit_those_without_samples(kind, make, tmp_path):
    """Dropout of LoRA (SFT) draws from the global random numbers; the average is what is sampled from."""
    found = {}
    for sampled in (False, True):
        trainer = make(kind, sampled=sampled, ema_decay=0.5)
        trainer.train()
        found[sampled] = weights(trainer), trainer.ema.average, torch.get_rng_state()
    assert trainer.state.global_step == 4
    assert folders(tmp_path) == STEPS
    for one, other in zip(found[False][:2], found[True][:2]):
        assert all(torch.equal(one[name], other[name]) for name in one)
    assert torch.equal(found[False][2], found[True][2])
    assert any((value != 0).any() for name, value in found[True][0].items() if "lora_B" in name)


@pytest.mark.parametrize(
    ("given", "scales"),
    [
        ({}, (4.0, 3.0)),
        ({"guidance_scale": 2.0}, (2.0, 2.0)),
        ({"guidance_scale": 2.0, "guidance_scale_2": 1.5}, (2.0, 1.5)),
        ({"guidance_scale_2": 1.5, "sample_guidance_scale": 5.0}, (5.0, 5.0)),
    ],
)
def test_samples_of_two_transformers_have_the_guidance_of_rollouts_or_their_own(
    given, scales, make, make_generator, monkeypatch
):
    generator = make_generator()
    monkeypatch.setattr(type(generator), "boundary", 0.9)
    generator.defaults = generator.defaults.replaced({"guidance_scale": 4.0, "guidance_scale_2": 3.0})
    callbacks = make("ppo", generator, **given).callback_handler.callbacks
    found = next(each for each in callbacks if isinstance(each, samples.SampleVideos))
    assert found.plan.scales == scales
    assert (found.record["guidance_scale"], found.record["guidance_scale_2"]) == scales


def test_samples_are_those_of_generate_before_and_after_training(make, make_generator, tmp_path):
    trainer = make("sft", sample_num_inference_steps=3, sample_num_frames=5, sample_batch_size=2)
    trainer.train()
    trainer.save_model()
    folder, model = tmp_path / "out" / "samples", make_generator()
    for step in (0, 4):
        if step:
            load_adapters(model, tmp_path / "out")
        videos = model.generate(
            make.prompts, num_frames=5, num_inference_steps=3, seed=7, negative_prompt=["", "sun"]
        )
        for video, name in zip(videos, ("00_a-bright-day.mp4", "01_дождь.mp4")):
            write_video(tmp_path / "expected.mp4", video, model.defaults.fps)
            expected, found = (
                read_video(tmp_path / "expected.mp4"),
                read_video(folder / f"step-{step:06d}" / name),
            )
            assert found[1] == model.defaults.fps
            assert (found[0] - expected[0]).abs().max() < 0.02
    reference, beside = (
        read_video(folder / name / "00_a-bright-day.mp4")[0]
        for name in ("step-000000", "beside_reference/step-000004")
    )
    trained = read_video(folder / "step-000004" / "00_a-bright-day.mp4")[0]
    assert beside.shape == (3, 5, 8, 8 + 4 + 8)
    assert (beside[..., :8] - reference).abs().max() < 0.1
    assert (beside[..., 12:] - trained).abs().max() < 0.1
    assert beside[..., 9:11].min() > 0.9
    assert (trained - reference).abs().max() > 0.02


def test_folders_of_two_steps_are_compared_by_annotators_and_serve_as_prompts(make, tmp_path):
    make("dpo").train()
    folder = tmp_path / "out" / "samples"
    tasks, problems = read_tasks([folder / "step-000000", folder / "step-000004"])
    assert not problems
    assert [(task.prompt, len(task.videos)) for task in tasks] == [(prompt, 2) for prompt in make.prompts]
    rows = [json.loads(line) for line in (folder / "step-000004" / "metadata.jsonl").read_text().splitlines()]
    assert [(row["seed"], row["step"], row["id"]) for row in rows] == [(7, 4, None), (8, 4, "rain")]
    assert [
        record.prompt for record in read_prompts(folder / "step-000004" / "metadata.jsonl")
    ] == make.prompts


def images_in(folder):
    """`{(tag, step): content}` of the image summaries in the event files of a folder."""
    found = {}
    for file in sorted(folder.rglob("events.out.tfevents.*")):
        for event in EventFileLoader(str(file)).Load():
            for value in event.summary.value:
                content = value.tensor.string_val[2:] if value.HasField("tensor") else []
                if value.metadata.plugin_data.plugin_name == "images":
                    found[value.tag, event.step] = content[0]
    return found


def test_tensorboard_has_an_animation_of_each_sample_whose_frames_are_the_video(make, tmp_path):
    make("ppo", report_to="tensorboard").train()
    found = images_in(tmp_path)
    tags = ["samples/00_a-bright-day", "samples/01_дождь"]
    assert {(tag, step) for tag in tags for step in (0, 2, 4)} <= found.keys()
    assert ("samples/groups/worst_and_best", 0) in found
    content = found[tags[0], 4]
    assert content.startswith(b"GIF89a")
    video, fps = read_video(tmp_path / "out/samples/beside_reference/step-000004/00_a-bright-day.mp4")
    shown, ends = [], []
    for frame in ImageSequence.Iterator(Image.open(io.BytesIO(content))):
        pixels = bytearray(frame.convert("RGB").tobytes())
        shown.append(torch.frombuffer(pixels, dtype=torch.uint8).view(frame.height, frame.width, 3))
        ends.append(sum(ends[-1:]) + frame.info["duration"] / 1000)
    assert ends[-1] == pytest.approx(video.shape[1] / fps, abs=0.01)
    for index, frame in enumerate((video * 127.5 + 127.5).permute(1, 2, 3, 0)):
        at_that_time = next(each for each, end in zip(shown, ends) if (index + 0.5) / fps < end)
        assert (at_that_time - frame).abs().mean() < 2  # 256 colours


def test_wandb_and_trackio_are_given_the_files(tmp_path):
    class Tracker:
        def __init__(self):
            self.logged = []

        def Video(self, path, **more):
            return path, more

        def log(self, values):
            self.logged.append(values)

    trackers = [(WandbCallback, "_wandb", {"format": "mp4"}), (TrackioCallback, "_trackio", {})]
    for kind, name, more in trackers:
        callback = kind.__new__(kind)
        tracker = Tracker()
        setattr(callback, name, tracker)
        show_video([callback], "samples/a", tmp_path / "a.mp4", "a prompt", 5)
        video = (str(tmp_path / "a.mp4"), {"caption": "a prompt", **more})
        assert tracker.logged == [{"samples/a": video, "train/global_step": 5}]


def test_a_tracker_that_fails_is_named_once(tmp_path, caplog):
    callback = WandbCallback.__new__(WandbCallback)
    callback._wandb = object()
    for step in (1, 2):
        show_video([callback], "samples/a", tmp_path / "a.mp4", "a prompt", step)
    (warning,) = [record.message for record in caplog.records]
    assert "WandbCallback does not show" in warning


def test_the_best_and_the_worst_of_a_group_are_kept(make, bright, tmp_path):
    kept = []
    trainer = make("rwr", sampled=False, sample_steps=3, num_rollouts=3)
    trainer.monitors.append(lambda rollout: kept.append(rollout) or {})
    trainer.train()
    folder = tmp_path / "out" / "samples" / "groups"
    assert sorted(each.name for each in folder.iterdir()) == [
        "step-000000",
        "step-000004",
    ]  # whole rollouts of two
    for rollout in (kept[0], kept[2]):
        rows = [
            json.loads(line)
            for line in (folder / f"step-{2 * rollout.index:06d}/metadata.jsonl").read_text().splitlines()
        ]
        group = rollout.rewards[:4]
        assert [row["reward"] for row in rows] == pytest.approx([group.min().item(), group.max().item()])
        assert {row["prompt"] for row in rows} == {rollout.prompts[0]}
        best = rollout.trajectories.final[int(group.argmax())]
        shown = read_video(folder / f"step-{2 * rollout.index:06d}" / rows[1]["file_name"])[0]
        decoded = trainer.generator.decode(best[None])[0].clamp(-1, 1)
        assert (shown - decoded).abs().mean() < 0.02
    assert not (tmp_path / "out" / "samples" / "settings.json").exists()


def test_a_run_stopped_while_it_makes_samples_goes_on_with_those_that_are_missing(
    make, tmp_path, monkeypatch
):
    whole = make("ppo", output_dir=str(tmp_path / "whole"), save_strategy="steps", save_steps=2)
    whole.train()
    made, written = [], samples.generate_videos_to

    def watched(folder, plan, *arguments, **more):
        made.append((folder.name, plan[0].file_name))
        if len(made) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return written(folder, plan, *arguments, **more)

    monkeypatch.setattr(samples, "generate_videos_to", watched)
    with pytest.raises(Interrupted) as stop:
        make("ppo", save_strategy="steps", save_steps=100).train()
    folder = tmp_path / "out" / "samples"
    assert stop.value.saved == tmp_path / "out" / "checkpoint-2"
    assert [name for name, _ in made] == ["step-000000"] * 2 + ["step-000002"]
    assert not (folder / "step-000002" / "metadata.jsonl").exists()
    resumed = make("ppo", save_strategy="steps", save_steps=100)
    resumed.train(resume_from_checkpoint=str(stop.value.saved))
    assert [name for name, _ in made[3:]] == ["step-000002"] + ["step-000004"] * 2
    assert made[3] != made[2]
    assert all(torch.equal(value, weights(whole)[name]) for name, value in weights(resumed).items())
    for file in (tmp_path / "whole" / "samples").rglob("*.mp4"):
        assert torch.equal(
            read_video(file)[0], read_video(folder / file.relative_to(tmp_path / "whole/samples"))[0]
        )

    with pytest.raises(
        InputError, match=r"other settings \(seed\).*resume with the sample_… arguments of before"
    ):
        make("ppo", sample_seed=8).train(resume_from_checkpoint=str(stop.value.saved))
    monkeypatch.setattr(samples, "generate_videos_to", written)
    monkeypatch.setattr(
        samples.SampleVideos, "_make_batch", lambda self, step, *_: made.append((samples.step_name(step), ""))
    )
    made.clear()
    make("ppo").train()  # anew in the same folder: the reference stays, the rest is of other weights
    assert [name for name, _ in made] == ["step-000002"] * 2 + ["step-000004"] * 2


def test_training_outlives_a_full_disk_and_says_so_once(make, tmp_path, monkeypatch, caplog):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(samples, "generate_videos_to", full)
    with caplog.at_level(logging.WARNING):
        trainer = make("sft")
        trainer.train()
    assert trainer.state.global_step == 4
    warned = [record.message for record in caplog.records if "training goes on" in record.message]
    assert warned == ["No samples of step 0 ([Errno 28] No space left on device): training goes on."]


def test_processes_share_samples_with_equally_many_calls_each():
    for count in range(1, 7):
        shares = [samples.share_of(range(count), 4, process) for process in range(4)]
        assert len({len(share) for share in shares}) == 1
        assert sorted(item for share in shares for item, own in share if own) == list(range(count))


def test_a_context_group_has_one_share_and_each_sample_one_process():
    for count in range(1, 7):
        shares = [samples.share_of(range(count), 4, process, group_size=2) for process in range(4)]
        items = [[item for item, _ in share] for share in shares]
        assert (items[0], items[2]) == (items[1], items[3])
        assert len(items[0]) == len(items[2])
        assert sorted(item for share in shares for item, own in share if own) == list(range(count))


def test_bad_arguments_are_refused_before_anything_is_loaded(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("generator.load_generator", None)
    write_demonstrations(tmp_path / "videos", torch.zeros(1, 3, 5, 16, 16), ["a ball"], 8.0)
    dataset = str(tmp_path / "videos")
    command = ["sft", "--model", "nano", "--dataset", dataset, "--output_dir", str(tmp_path / "out")]
    for words, message in (
        (["--sample_prompts", "none.txt"], "The prompt file none.txt does not exist"),
        (["--sample_steps", "0"], "sample_steps is 0, but must be at least 1"),
    ):
        assert main([*command, *words]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
