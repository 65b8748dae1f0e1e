"""What versions before the wings wrote is still read: a pipeline, adapters, checkpoints, a reward model and a database.

The files are in `artefacts/before-wings.zip`, made by the commands of that version with their smallest settings.
"""

from __future__ import annotations

import json
import sqlite3
import zipfile
from contextlib import closing
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from alignment.cli import main
from generator import load_generator
from labeling_app.store import Store
from reward import load_reward

ARCHIVE = Path(__file__).parent / "artefacts" / "before-wings.zip"


@pytest.fixture
def before(tmp_path, monkeypatch):
    with zipfile.ZipFile(ARCHIVE) as archive:
        archive.extractall(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VIDALIGN_CACHE", str(tmp_path / "cache"))
    return tmp_path


def test_an_old_pipeline_with_an_old_adapter_makes_the_same_pixels_and_an_old_reward_model_judges(before):
    expected = json.loads((before / "expected.json").read_text())
    generator = load_generator("pipeline", adapter="sft")
    videos = generator.generate(
        ["a red circle"], num_frames=5, height=16, width=16, num_inference_steps=2, seed=3
    )
    torch.testing.assert_close(videos.flatten()[::256], torch.tensor(expected["pixels"]), atol=1e-4, rtol=0)
    scores = load_reward("reward").score(videos, ["a red circle"])
    torch.testing.assert_close(
        scores["overall"], torch.tensor(expected["score"]["overall"]), atol=1e-4, rtol=0
    )


def test_old_checkpoints_are_gone_on_with_to_the_weights_that_the_old_version_reached(before):
    stage = {
        "sft": "sft --dataset videos --max_steps 2 --lora_r 2 --per_device_train_batch_size 2",
        "ppo": "ppo --prompts prompts.txt --reward world --num_rollouts 2 --lora_r 2 --num_prompts 1 "
        "--num_generations 4 --num_mini_batches 1 --num_frames 5 --height 16 --width 16 --num_inference_steps 3",
    }
    for name, words in stage.items():
        reached = load_file(f"{name}/pytorch_lora_weights.safetensors")
        command = f"{words} --model pipeline --output_dir {name} --save_steps 1 --report_to none"
        assert main(f"{command} --resume_from_checkpoint latest") == 0
        found = load_file(f"{name}/pytorch_lora_weights.safetensors")
        for key, value in found.items():
            torch.testing.assert_close(value, reached[key], atol=1e-4, rtol=1e-3)
        apart = torch.cat([(found[key] - value).abs().flatten() for key, value in reached.items()])
        assert apart.mean() < 1e-5


def test_an_old_database_is_brought_up_to_date_and_exported(before):
    with closing(sqlite3.connect("labels.db")) as connection, connection:
        for number, path in connection.execute("SELECT id, path FROM media").fetchall():
            # The database names its videos by their whole paths, which were others on the machine that made it.
            here = str(before / "videos" / Path(path).name)
            connection.execute("UPDATE media SET path = ? WHERE id = ?", (here, number))
    old = [json.loads(line) for line in (before / "rankings.jsonl").read_text().splitlines()]
    assert main("label export --db labels.db --campaign first --output_file again.jsonl") == 0
    new = [json.loads(line) for line in (before / "again.jsonl").read_text().splitlines()]
    kept = ("prompt", "videos", "ranks", "dimension", "annotator", "created_at")
    assert [[row[name] for name in kept] for row in new] == [[row[name] for name in kept] for row in old]
    with Store(str(before / "labels.db")) as store:
        assert len(store.tasks("first")) == 2
