"""PPO of each family's tiny pipeline on a reward on frames, one on video, and a judge that compares a group."""

from __future__ import annotations

import dataclasses
import json

import pytest
from PIL import Image

from alignment.cli import main
from generator.testing.pipelines import save_tiny_pipeline
from reward.models.named import videoalign
from reward.models.named.templates import digest
from tests.reward.models.named import tiny_checkpoints as tiny
from tests.reward.models.named.published_qwen import TEMPLATE, save_video_reward
from tests.reward.models.named.scripted_server import Script, completion, images_of, serve


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("named")
    tiny.write_clip(folder / "pickscore")
    save_video_reward(folder / "VideoReward")
    (folder / "text.txt").write_text(TEMPLATE)
    (folder / "prompts.txt").write_text("a red ball\na blue cube\n")
    Image.new("RGB", (32, 32), (200, 40, 40)).save(folder / "image.png")
    rows = [{"prompt": prompt, "image": "image.png"} for prompt in ("a red ball", "a blue cube")]
    (folder / "images.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


@pytest.fixture
def judge(monkeypatch, tmp_path):
    """A judge that prefers the video whose first picture makes the larger file."""
    monkeypatch.setenv("VIDALIGN_CACHE", str(tmp_path / "cache"))
    text = dataclasses.replace(videoalign.TEXT, sha256=digest(TEMPLATE), parts=(digest(TEMPLATE),))
    monkeypatch.setattr(videoalign, "TEXT", text)

    def larger(request, _):
        pictures = images_of(request)[-4:]  # after the image that the videos were to begin with
        first = len(pictures[0]) > len(pictures[len(pictures) // 2])
        return completion("1", [("1", {"1": 0.9 if first else 0.1, "2": 0.1 if first else 0.9})])

    with serve(Script(larger)) as script:
        yield script


def ppo(files, family, judge, output_dir, *more: str) -> list[str]:
    prompts = files / ("images.jsonl" if "i2v" in family else "prompts.txt")
    return [
        "ppo", "--model", str(files / family), "--prompts", str(prompts), "--reward",
        f"pickscore:frames=2:{files / 'pickscore'}",
        f"videoalign:TA:template={files / 'text.txt'}:{files / 'VideoReward'}",
        f"judge:pairs=true:frames=2:{judge.address}", "--reward_weights", "1", "0.5", "1", "--reward_normalisation",
        "group", "--num_frames", "9", "--height", "32", "--width", "32", "--num_inference_steps", "3",
        "--guidance_scale", "1", "--num_rollouts", "1", "--num_prompts", "2", "--num_generations", "3",
        "--num_mini_batches", "1", "--per_device_train_batch_size", "2", "--probe_prompts", "0",
        "--monitor_videos", "0", "--reward_batch_size", "6", "--output_dir", str(output_dir), *more,
    ]  # fmt: skip


@pytest.mark.parametrize(
    "family",
    [
        *("wan", "wan-i2v", "wan2.2-ti2v", "wan2.2-a14b", "ltx", "ltx2.3", "cogvideox"),
        *("hunyuan_video", "hunyuan_video1.5", "animatediff"),
    ],
)
def test_each_family_learns_from_them_mixed_and_logged_by_name(files, judge, tmp_path, family):
    if not (files / family).exists():
        save_tiny_pipeline(family, files / family)
    out = tmp_path / "out"
    assert main(ppo(files, family, judge, out)) == 0
    log = json.loads((out / "trainer_state.json").read_text())["log_history"]
    entry = next(each for each in log if "reward" in each)
    assert {f"rewards/{name}/overall/mean" for name in ("pickscore", "videoalign:TA", "judge")} <= set(entry)
    # Win rates of a group add up to half of its pairs.
    assert entry["rewards/judge/overall/mean"] == pytest.approx(0.5)
    assert len(judge.requests) == 2 * 3 * 2
    assert {len(images_of(each)) for each in judge.requests} == {5 if "i2v" in family else 4}
    record = json.loads((out / "training.json").read_text())
    assert record["reward"] == ["pickscore", "videoalign:TA", "judge"]
    assert record["rewards"][1]["template_sha256"] == digest(TEMPLATE)
    assert record["rewards"][2]["served_model"] == "tiny"


def test_a_batch_that_would_part_a_group_is_refused_before_anything_is_made(files, judge, tmp_path, capsys):
    if not (files / "wan").exists():
        save_tiny_pipeline("wan", files / "wan")
    command = ppo(files, "wan", judge, tmp_path / "out", "--reward_batch_size", "4")
    del command[command.index("--reward_batch_size") : command.index("--reward_batch_size") + 2]
    assert main(command) == 2
    assert (
        "reward_batch_size is 4, which would part them: give a multiple of num_generations"
        in capsys.readouterr().err
    )
    assert not (tmp_path / "out").exists()
    assert not judge.requests
