"""Videos that exist already, judged by any reward: `vidalign evaluate --videos`."""

import json
import shutil

import pytest
import torch

from alignment.cli import main
from alignment.cli.evaluation_defaults import default_prompts, default_questions, default_verifier
from generator.data.demonstrations import write_demonstrations
from generator.output import InputError
from reward.reports import existing
from reward.reports.existing import existing_videos, judge_existing, name_folders

VERIFIER = "tests.reward.brightness:judge"


@pytest.fixture
def folders(tmp_path):
    """Two folders of six prompts with two seeds each, the second brighter; it has one prompt more."""
    for name, shade, count in (("dark", -0.6, 6), ("light", 0.4, 7)):
        prompts = [f"prompt {i}" for i in range(count) for _ in range(2)]
        videos = torch.stack([torch.full((3, 4, 16, 16), shade + 0.01 * i) for i in range(len(prompts))])
        write_demonstrations(
            tmp_path / name, videos, prompts, 8.0, [{"seed": 7 + i} for i in range(len(prompts))]
        )
    return name_folders([str(tmp_path / "dark"), f"bright={tmp_path / 'light'}"])


def test_the_command_compares_folders_by_prompt_and_seed(folders, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = ["evaluate", "--videos", str(folders["dark"]), f"bright={folders['bright']}"]
    arguments += ["--verifier", VERIFIER, "--measures", "tests.reward.test_evaluation:brightness"]
    assert main([*arguments, "--output_dir", str(out)]) == 0
    assert "bright − dark: +" in capsys.readouterr().out
    report = json.loads((out / "report.json").read_text())
    assert list(report["adherence"]) == ["dark", "bright"]
    assert {row["n"] for row in report["adherence"].values()} == {12}
    assert report["settings"]["left_out"] == 2
    assert report["difference_to_dark"]["bright"]["mean"] == pytest.approx(0.5, abs=0.02)
    assert report["made"]["command"].startswith("vidalign evaluate --videos")
    measured = [name for name in report["measures"] if name.startswith("reward ")]
    assert report["measure_differences"]["dark"]["bright"][measured[0]]["mean"] > 0.4
    assert {(sample["prompt"], sample["seed"]) for sample in report["samples"][:2]} == {
        ("prompt 0", 7),
        ("prompt 0", 8),
    }
    page = (out / "report.html").read_text()
    assert "2 videos of prompts and seeds that not every model has are left out." in page
    assert main([*arguments, "--output_dir", str(out)]) == 2
    assert len(list(folders["dark"].glob("*.mp4"))) == 12


def test_an_interrupted_run_judges_only_what_is_missing(folders, tmp_path, monkeypatch):
    whole = judge_existing(folders, tmp_path / "whole", VERIFIER, batch_size=2, progress=False)
    seen = []
    judge = existing.judge

    def interrupted(*args, **kwargs):
        if len(seen) == 3:
            raise KeyboardInterrupt
        seen.append(args[3])
        return judge(*args, **kwargs)

    monkeypatch.setattr(existing, "judge", interrupted)
    with pytest.raises(KeyboardInterrupt):
        judge_existing(folders, tmp_path / "part", VERIFIER, batch_size=2, progress=False)
    again = []
    monkeypatch.setattr(existing, "judge", lambda *args, **kw: again.append(args[3]) or judge(*args, **kw))
    assert judge_existing(folders, tmp_path / "part", VERIFIER, batch_size=2, progress=False) == whole
    assert sum(map(len, again)) == 24 - sum(map(len, seen))


def test_folders_that_cannot_be_judged_are_named(folders, tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        name_folders([str(tmp_path / "none")])
    with pytest.raises(InputError, match="Two models would be called 'dark'"):
        name_folders([str(folders["dark"]), f"dark={folders['bright']}"])
    with pytest.raises(InputError, match="lie in the output folder"):
        judge_existing(folders, folders["dark"], VERIFIER)
    with pytest.raises(InputError, match="'z' is not among the models"):
        judge_existing(folders, tmp_path / "out", VERIFIER, references=["z"])
    shutil.copytree(folders["dark"], tmp_path / "twice")
    rows = (tmp_path / "twice" / "metadata.jsonl").read_text()
    (tmp_path / "twice" / "metadata.jsonl").write_text(rows.replace('"seed": 8', '"seed": 7'))
    with pytest.raises(InputError, match="two videos of the prompt 'prompt 0' and seed 7"):
        existing_videos({"twice": tmp_path / "twice"})
    assert not (tmp_path / "out").exists()


def test_other_models_than_nano_get_general_prompts_and_a_reward():
    assert default_prompts("nano") == "world:test:128"
    assert default_prompts("Wan-AI/Wan2.1-T2V-1.3B-Diffusers") == "suite:general"
    assert default_verifier(["a red circle moves left"]) == "world"
    assert default_verifier(["a red circle moves left", "a man peels an orange"]) == "videoalign:TA"
    assert default_questions("suite:general:2", "vlm:folder") == "general"
    assert default_questions("suite:general", "judge:x:http://host/v1") == "general"
    assert default_questions("suite:general", "videoalign:TA") is None
    assert default_questions("prompts.txt", "vlm:folder") is None
