"""Two processes on the CPU that share the tokens of every video, against one: the same losses and the same weights.

All that one launch trains is a list of jobs, as most of a launch's time goes to its imports.
"""

import json
from functools import cache
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from alignment import cli
from alignment.stages.sft import SFTArguments, train_sft
from alignment.trainers.sft_config import SFTConfig
from generator.output import InputError
from generator.testing.pipelines import save_tiny_pipeline
from generator.video import read_video, write_video
from tests.alignment.trainers.context_parallel_run import IMAGE, KINDS, SIZE, train
from tests.alignment.trainers.launching import ADAPTER, launched

MODULE = "tests.alignment.trainers.context_parallel_run"
LAUNCHES = {
    "two": ("multi_gpu", 2, tuple(KINDS)),
    "four": ("multi_gpu", 4, ("sft", "sft_checkpoints", "ppo")),
    "fsdp": ("fsdp", 2, ("sft_checkpoints", "ppo")),
}
"""Engine, processes and kinds of each launch; two processes share tokens."""
OWN_BATCHES = {"per_device_train_batch_size": 2}
"""With two groups each has half of the four examples."""


OF_SOME_VIDEOS = "videos/", "latents/"
"""Beginnings of the names of figures of a few videos of each group, or of spread within it."""


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    for family in {family for _, family, _ in KINDS.values()}:
        save_tiny_pipeline(family, folder / family)
    Image.linear_gradient("L").convert("RGB").save(folder / IMAGE)
    return folder


@pytest.fixture(scope="module")
def trained_by(models, tmp_path_factory):
    """Gives the folder of what the processes of a launch have trained."""

    @cache
    def launch(name):
        engine, processes, kinds = LAUNCHES[name]
        folder = tmp_path_factory.mktemp(name)
        further = {"sft": OWN_BATCHES, "sft_checkpoints": {"per_device_train_batch_size": 1}}
        jobs = [
            {"kind": kind, "folder": str(folder / kind)} | (further.get(kind, {}) if processes == 4 else {})
            for kind in kinds
        ]
        if name == "two":
            checkpoint = str(folder / "sft" / "checkpoint-2")
            jobs.append({"kind": "sft", "folder": str(folder / "resumed"), "resumed_from": checkpoint})
            jobs.append({"kind": "dpo", "folder": str(folder / "own_seeds"), "own_seeds": True})
        (folder / "jobs.json").write_text(json.dumps(jobs))
        launched(engine, MODULE, 2, models, folder / "jobs.json", folder=folder, processes=processes)
        return folder

    return launch


@pytest.fixture(scope="module")
def alone(models, tmp_path_factory):
    """Gives the folder of a kind that one process has trained."""
    folder = tmp_path_factory.mktemp("alone")

    @cache
    def run(kind):
        train(kind, models, folder / kind)
        return folder / kind

    return run


def logged(folder, without):
    """Logged figures by step and name, without those whose names begin so."""
    entries = json.loads((folder / "log0.json").read_text())
    return {
        (entry["step"], name): value
        for entry in entries
        for name, value in entry.items()
        if not name.startswith(without)
    }


def check_equal(one, other, tolerance=1e-5, without=()):
    """Compares adapters and logged figures of two trainings."""
    adapters = sorted(path.name for path in one.glob(f"{Path(ADAPTER).stem}*"))
    assert adapters == sorted(path.name for path in other.glob(f"{Path(ADAPTER).stem}*"))
    for name in adapters:
        whole, shared = load_file(one / name), load_file(other / name)
        assert any(value.abs().max() > 1e-3 for key, value in whole.items() if "lora_B" in key)
        assert max((value - shared[key]).abs().max().item() for key, value in whole.items()) < tolerance
    assert logged(other, without) == pytest.approx(logged(one, without), abs=tolerance, rel=tolerance)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "context_parallel is 2, but must be a divisor of the number of processes, which is 1"),
        ("--accelerate_config multi_gpu --num_processes 3", "number of processes, which is 3"),
        ("--context_parallel 0", "context_parallel is 0, but must be at least 1"),
    ],
)
def test_groups_that_are_not_whole_are_refused_before_anything_starts(words, message, tmp_path, capsys):
    (tmp_path / "prompts.txt").write_text("a ball\n")
    command = f"ppo --prompts {tmp_path}/prompts.txt --reward world --output_dir {tmp_path}/out"
    assert cli.main(f"{command} --context_parallel 2 {words}") == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("family", "size", "message"),
    [
        ("ltx", SIZE, "ltx cannot share out its tokens, as only Wan 2.1 and 2.2 can"),
        ("wan", (9, 16, 16), "a divisor of the 3 tokens of 9 frames of 16x16: choose another size"),
        ("wan", SIZE, "context_parallel is 2, but there is no GPU here: leave it out"),
    ],
)
def test_what_cannot_be_shared_out_is_refused_before_the_weights_are_read(
    family, size, message, tmp_path, monkeypatch
):
    save_tiny_pipeline(family, tmp_path / family)
    random = torch.Generator().manual_seed(0)
    (tmp_path / "videos").mkdir()
    write_video(tmp_path / "videos" / "0.mp4", torch.rand(3, *SIZE, generator=random) * 2 - 1, 8)
    (tmp_path / "videos" / "metadata.jsonl").write_text('{"file_name": "0.mp4", "prompt": "a ball"}\n')
    monkeypatch.setattr(SFTConfig, "world_size", 2)
    monkeypatch.setattr("torch.accelerator.device_count", lambda: 0)
    monkeypatch.setattr("generator.load_generator", None)
    args = SFTConfig(str(tmp_path / "out"), context_parallel=2, report_to="none", use_cpu=True)
    data = SFTArguments(str(tmp_path / "videos"), **dict(zip(("num_frames", "height", "width"), size)))
    with pytest.raises(InputError, match=message):
        train_sft(tmp_path / family, data, args=args)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_that_share_tokens_equal_one(kind, trained_by, alone):
    tolerance = 1e-3 if "bfloat16" in kind else 1e-5
    check_equal(alone(kind), trained_by("two") / kind, tolerance)
    weights = [load_file(trained_by("two") / kind / f"rank{rank}.safetensors") for rank in (0, 1)]
    assert all((weights[0][name] == weights[1][name]).all() for name in weights[0])


@pytest.mark.slow
@pytest.mark.parametrize("launch", ["four", "fsdp"])
def test_groups_train_data_parallel_and_fsdp_divides_the_weights_beside(launch, trained_by, alone):
    """Two groups of two processes, each with half of the batch; and FSDP 2 on one group."""
    for kind in LAUNCHES[launch][2]:
        check_equal(alone(kind), trained_by(launch) / kind, without=OF_SOME_VIDEOS)


@pytest.mark.slow
def test_a_checkpoint_resumes_as_if_uninterrupted(trained_by):
    whole, resumed = (load_file(trained_by("two") / name / ADAPTER) for name in ("sft", "resumed"))
    assert all((whole[name] == resumed[name]).all() for name in whole)


@pytest.mark.slow
def test_different_batches_in_a_group_are_a_mistake(trained_by):
    for rank in (0, 1):
        told = (trained_by("two") / "own_seeds" / f"error{rank}.txt").read_text()
        assert told.startswith(
            "Processes 0 and 1, which share tokens (context_parallel 2), were given different batches"
        )


@pytest.mark.slow
def test_samples_are_those_of_one_process(trained_by, alone):
    samples = sorted(path.relative_to(alone("sft")) for path in alone("sft").glob("samples/step-*/*.mp4"))
    assert len(samples) == 3 * 3
    for name in samples:
        pair = [read_video(folder / name)[0] for folder in (alone("sft"), trained_by("two") / "sft")]
        assert (pair[0] - pair[1]).abs().max() < 0.05
