"""Text files that people and other programs write, read by every command: separators, encodings, broken characters."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from alignment.cli import main
from generator.data.demonstrations import read_demonstrations
from generator.data.prompts import read_prompts
from generator.output import InputError
from generator.testing import tiny_generator
from generator.video import write_video
from labeling_app.files.candidates import read_candidates
from reward.adherence.suites import load_suite
from reward.formats import FORMATS, read_preferences, write_preferences
from reward.preferences import Ranking
from reward.questions import read_question_graphs

SEPARATED = "a red circle\u2028moves\u2029to the\x85left"
PROMPT = "ein grüner Würfel"
TABLES = {
    "genai.json": [
        {"prompt": PROMPT, "left_video": "0.mp4", "right_video": "1.mp4", "vote_type": "leftvote"}
    ],
    "imagereward.json": [{"prompt": PROMPT, "generations": ["0.mp4", "1.mp4"], "ranking": [1, 2]}],
}
DSG = (
    "text,proposition_id,dependency,category_broad,question_natural_language\n"
    + f"{PROMPT},1,0,entity,Is it?\n"
)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    for name in ("0.mp4", "1.mp4"):
        write_video(folder / name, torch.zeros(3, 5, 32, 32), fps=8)
    return folder


@pytest.fixture
def folder(videos: Path, tmp_path: Path) -> Path:
    for name in ("0.mp4", "1.mp4"):
        (tmp_path / name).write_bytes((videos / name).read_bytes())
    return tmp_path


def lines(*rows: Any) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


RANKING = {"prompt": PROMPT, "videos": ["0.mp4", "1.mp4"], "ranks": [1, 2]}
METADATA = lines(*({"file_name": f"{i}.mp4", "prompt": PROMPT} for i in range(2)))
QUESTIONS = lines({"prompt": PROMPT, "questions": [{"name": "it", "text": "Is it?"}]})

# Name of a file, its text, what a reader finds in it, and the command that reads it.
READERS: dict[str, tuple[str, Callable[[Path], Any], str]] = {
    "p.txt": (
        f"{PROMPT}\n",
        lambda p: read_prompts(p)[0].prompt,
        "generate --model nano --prompts FILE --output_dir OUT",
    ),
    "p.jsonl": (
        lines({"prompt": PROMPT}),
        lambda p: read_prompts(p)[0].prompt,
        "label demonstrations --db NEW --prompts FILE",
    ),
    "metadata.jsonl": (
        METADATA,
        lambda p: read_demonstrations(p.parent)[0].prompt,
        "sft --model nano --dataset FOLDER --output_dir OUT",
    ),
    "0.txt": (
        PROMPT,
        lambda p: read_demonstrations(p.parent, require_prompts=False)[0].prompt,
        "sft --model nano --dataset FOLDER --output_dir OUT",
    ),
    "tasks.jsonl": (
        lines(RANKING),
        lambda p: read_candidates([p])[0].prompt,
        "label import --db NEW --videos FILE",
    ),
    "rankings.jsonl": (
        lines(RANKING),
        lambda p: read_preferences(p)[0].prompt,
        "label import --db NEW --preferences FILE",
    ),
    "dpo.jsonl": (
        lines(RANKING),
        lambda p: read_preferences(p)[0].prompt,
        "dpo --model nano --preferences FILE --output_dir OUT",
    ),
    **{
        name: (
            json.dumps(rows, ensure_ascii=False),
            lambda p: read_preferences(p)[0].prompt,
            "reward --preferences FILE --output_dir OUT",
        )
        for name, rows in TABLES.items()
    },
    "genai.jsonl": (
        lines(*TABLES["genai.json"]),
        lambda p: read_preferences(p)[0].prompt,
        "reward evaluate --reward world --preferences FILE --output_dir OUT",
    ),
    "rewardbench.csv": (
        f"path_A,path_B,prompt,Overall\n0.mp4,1.mp4,{PROMPT},A\n",
        lambda p: read_preferences(p)[0].prompt,
        "reward --preferences FILE --output_dir OUT",
    ),
    "q.jsonl": (
        QUESTIONS,
        lambda p: next(iter(read_question_graphs(p))),
        "evaluate --model nano --prompts world:test:1 --verifier tests.test_text_files:judge --questions FILE "
        "--output_dir OUT",
    ),
    "dsg.csv": (
        DSG,
        lambda p: next(iter(read_question_graphs(p))),
        "evaluate --model nano --prompts world:test:1 --verifier tests.test_text_files:judge --questions FILE "
        "--output_dir OUT",
    ),
    "VBench_full_info.json": (
        json.dumps([{"prompt_en": PROMPT, "dimension": ["color"]}], ensure_ascii=False),
        lambda p: load_suite(f"vbench:{p}").records[0].prompt,
        "evaluate --model nano --prompts vbench:FILE --output_dir OUT",
    ),
}


@pytest.mark.parametrize("name", READERS)
def test_a_byte_order_mark_is_no_part_of_what_is_read(name: str, folder: Path) -> None:
    text, read, _ = READERS[name]
    (folder / name).write_text("\ufeff" + text, encoding="utf-8")
    assert read(folder / name) == PROMPT


def run(command: str, folder: Path, file: Path) -> int:
    words = {"FILE": file, "FOLDER": folder, "OUT": folder / "out", "NEW": folder / "new.db"}
    return main(
        [str(words.get(word, word)).replace("vbench:FILE", f"vbench:{file}") for word in command.split()]
    )


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16", "utf-16-le"])
@pytest.mark.parametrize("name", READERS)
def test_other_encodings_are_refused_in_one_sentence_and_nothing_is_made(
    name: str, encoding: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text, _, command = READERS[name]
    (folder / name).write_bytes(text.encode(encoding))
    before = sorted(folder.iterdir())
    assert run(command, folder, folder / name) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert f"{name} is not UTF-8 text" in said
    assert sorted(folder.iterdir()) == before


MORE_FILES = {
    "--config": ("generate --prompts world:test:1 --output_dir OUT --config FILE", "model: nano\n# Größe\n"),
    "--accelerate_config": (
        "sft --model nano --dataset FOLDER --output_dir OUT --accelerate_config FILE",
        "distributed_type: 'NO'\n# Größe\n",
    ),
    "--guidelines": ("label campaign --db NEW --campaign a --guidelines FILE", "Zähle die Fehler.\n"),
}


@pytest.mark.parametrize("name", MORE_FILES)
@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_configurations_and_guidelines_in_other_encodings_are_refused(
    name: str, encoding: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command, text = MORE_FILES[name]
    file = folder / "file.yaml"
    file.write_bytes(text.encode(encoding))
    before = sorted(folder.iterdir())
    assert run(command, folder, file) == 2
    assert "file.yaml is not UTF-8 text" in capsys.readouterr().err
    assert sorted(folder.iterdir()) == before


def test_a_configuration_and_guidelines_may_begin_with_a_byte_order_mark(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = folder / "file.yaml"
    file.write_text("\ufeffcampaign: of the file\noverlap: 2\n", encoding="utf-8")
    assert run("label campaign --db NEW --config FILE", folder, file) == 0
    assert run("label campaign --db NEW --campaign a --guidelines FILE", folder, file) == 0
    said = capsys.readouterr().out
    assert "Campaign of the file" in said
    assert "Guidelines, version 1" in said


BROKEN = '{"prompt": "a red circle \\ud83d"%s}\n'


@pytest.mark.parametrize(
    ("name", "text", "command"),
    [
        ("p.jsonl", BROKEN % "", "generate --model nano --prompts FILE --output_dir OUT"),
        ("p.jsonl", BROKEN % "", "evaluate --model nano --prompts FILE --output_dir OUT"),
        ("p.jsonl", BROKEN % "", "ppo --model nano --prompts FILE --reward world --output_dir OUT"),
        (
            "p.jsonl",
            '{"prompt": "a", "id": "x\\ud83d"}',
            "generate --model nano --prompts FILE --output_dir OUT",
        ),
        ("p.jsonl", '{"prompt": "a\\u0000b"}', "generate --model nano --prompts FILE --output_dir OUT"),
        (
            "metadata.jsonl",
            BROKEN % ', "file_name": "0.mp4"',
            "sft --model nano --dataset FOLDER --output_dir OUT",
        ),
        (
            "metadata.jsonl",
            BROKEN % ', "file_name": "0.mp4"',
            "label import --db NEW --videos FOLDER",
        ),
        (
            "metadata.jsonl",
            '{"file_name": "\\udc30.mp4", "prompt": "a"}',
            "sft --model nano --dataset FOLDER --output_dir OUT",
        ),
        (
            "r.jsonl",
            BROKEN % ', "videos": ["0.mp4", "1.mp4"], "ranks": [1, 2]',
            "dpo --model nano --preferences FILE --output_dir OUT",
        ),
        (
            "r.jsonl",
            BROKEN % ', "videos": ["0.mp4", "1.mp4"], "ranks": [1, 2]',
            "label import --db NEW --videos FILE",
        ),
        (
            "r.json",
            "[" + BROKEN % ', "left_video": "0.mp4", "right_video": "1.mp4", "vote_type": "leftvote"' + "]",
            "reward --preferences FILE --output_dir OUT",
        ),
        ("c.yaml", 'prompts: "world:test:1"\nmodel: "n\\ud83d"\noutput_dir: out\n', "generate --config FILE"),
    ],
)
def test_text_that_utf_8_cannot_hold_is_refused_before_anything_is_made(
    name: str, text: str, command: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / name).write_text(text)
    before = sorted(folder.iterdir())
    assert run(command, folder, folder / name) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "holds a NUL or half a character" in said
    assert name in said
    assert sorted(folder.iterdir()) == before


LATIN = os.fsdecode(b"nu_\xfc")
needs_bytes_as_names = pytest.mark.skipif(
    sys.platform != "linux", reason="file names are bytes on Linux only"
)


@needs_bytes_as_names
@pytest.mark.parametrize(
    "command",
    [
        "generate --model nano --prompts world:test:1 --output_dir NAME",
        "sft --model nano --dataset NAME --output_dir OUT",
        "label import --db NEW --videos NAME",
        "label users --db NEW --add NAME",
    ],
)
def test_arguments_that_are_not_utf_8_are_refused(
    command: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(folder.iterdir())
    assert run(command.replace("NAME", LATIN), folder, folder) == 2
    assert r"'nu_\udcfc' is not UTF-8 text" in capsys.readouterr().err
    assert sorted(folder.iterdir()) == before


@needs_bytes_as_names
def test_file_names_that_are_not_utf_8_are_refused(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    inside = folder / LATIN
    inside.mkdir()
    (inside / "metadata.jsonl").write_text(METADATA, encoding="utf-8")
    for name in ("0.mp4", "1.mp4"):
        (folder / name).rename(inside / name)
    monkeypatch.chdir(inside)
    assert run("label import --db NEW --videos .", folder, folder) == 2
    assert run("label demonstrations --db NEW --library .", folder, folder) == 2
    (inside / "metadata.jsonl").unlink()
    (inside / "0.txt").write_text("a")
    (inside / "1.txt").write_text("a")
    assert run("sft --model nano --dataset FOLDER --output_dir OUT", folder, folder) == 2
    said = capsys.readouterr().err
    assert said.count("is not UTF-8") == said.count("\n") == 3
    assert not (folder / "out").exists()


@pytest.mark.parametrize("format", ["vidalign", *FORMATS])
@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".parquet"])
def test_unusual_separators_survive_every_layout_of_preferences(
    format: str, suffix: str, folder: Path
) -> None:
    if (format == "vidalign" and suffix != ".jsonl") or (format == "imagereward" and suffix == ".csv"):
        pytest.skip("the layout has no such file")
    ranking = Ranking(f"{SEPARATED}\r\nor\nright", [folder / "0.mp4", folder / "1.mp4"], [1, 2])
    write_preferences(folder / f"r{suffix}", [ranking], format)
    (found,) = read_preferences(folder / f"r{suffix}", format)
    assert found.prompt == ranking.prompt


def judge(videos: torch.Tensor, prompts: list[str]) -> torch.Tensor:
    """Brightness in [0, 1]."""
    return (videos.mean(dim=(1, 2, 3, 4)) + 1) / 2


SIZE = "--num_frames 5 --height 16 --width 16"
SAMPLED = f"{SIZE} --num_inference_steps 1 --guidance_scale 1"


def test_a_prompt_with_unusual_separators_goes_from_videos_to_rankings_to_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VIDALIGN_CACHE", str(tmp_path / "cache"))
    prompts = tmp_path / "p.jsonl"
    prompts.write_text(lines({"prompt": SEPARATED}, {"prompt": "a\u2028b"}), encoding="utf-8")
    training = f"--model nano --max_steps 1 --report_to none --use_cpu true {SIZE}"
    for command in (
        f"generate --model nano --prompts p.jsonl --num_videos_per_prompt 2 {SAMPLED} --output_dir made",
        f"generate --model nano --prompts made/metadata.jsonl {SAMPLED} --output_dir again",
        f"sft --dataset made {training} --output_dir sft",
        "label import --db labels.db --videos made",
        "label simulate --db labels.db --reward tests.test_text_files:judge --tie_threshold 0",
        "label export --db labels.db --output_file rankings.jsonl",
        f"dpo --preferences rankings.jsonl {training} --output_dir dpo",
        "reward evaluate --reward tests.test_text_files:judge --preferences rankings.jsonl --output_dir agreement",
    ):
        assert main(command.split()) == 0, command
    assert [record.prompt for record in read_prompts("again/metadata.jsonl")] == [SEPARATED] * 2 + [
        "a\u2028b"
    ] * 2
    assert {ranking.prompt for ranking in read_preferences("rankings.jsonl")} == {SEPARATED, "a\u2028b"}


def test_an_evaluation_of_such_prompts_goes_on_and_is_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p.jsonl").write_text(lines({"prompt": SEPARATED}, {"prompt": "b\x85"}), encoding="utf-8")
    evaluate = f"evaluate --model nano --prompts p.jsonl --verifier tests.test_text_files:judge {SAMPLED}"
    assert main(f"{evaluate} --output_dir whole".split()) == 0
    assert main(f"{evaluate} --output_dir killed".split()) == 0
    (tmp_path / "killed" / "report.json").unlink()
    metadata = tmp_path / "killed" / "metadata.jsonl"
    metadata.write_text(metadata.read_text(encoding="utf-8").split("\n")[0] + "\n", encoding="utf-8")
    assert main(f"{evaluate} --output_dir killed".split()) == 0
    assert main(["evaluate", "compare", "whole", "killed", "--output_dir", "both"]) == 0
    assert json.loads((tmp_path / "both" / "report.json").read_text())["settings"]["left_out"] == 0


def test_a_line_of_a_text_file_is_a_prompt_whatever_other_separators_it_holds(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_bytes(f"{SEPARATED}\r\nb\rc\n".encode())
    assert [record.prompt for record in read_prompts(tmp_path / "p.txt")] == [SEPARATED, "b", "c"]


def test_scores_and_gold_items_are_read_with_a_byte_order_mark(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "metadata.jsonl").write_text("\ufeff" + METADATA, encoding="utf-8")
    (folder / "gold.jsonl").write_text("\ufeff" + lines(RANKING), encoding="utf-8")
    scores = folder / "scores.jsonl"
    scores.write_text(
        "\ufeff" + lines(*({"video": f"{i}.mp4", "score": i} for i in range(2))), encoding="utf-8"
    )
    assert run("label import --db NEW --videos FOLDER", folder, scores) == 0
    assert run("label gold --db NEW --rankings FILE", folder, folder / "gold.jsonl") == 0
    assert run("label simulate --db NEW --scores FILE", folder, scores) == 0
    for name in ("gold", "scores"):
        file = folder / f"{name}.jsonl"
        file.write_bytes(file.read_bytes().decode("utf-8-sig").encode("utf-16"))
        verb = "gold --db NEW --rankings FILE" if name == "gold" else "simulate --db NEW --scores FILE"
        assert run(f"label {verb}", folder, file) == 2
    assert capsys.readouterr().err.count("is not UTF-8 text") == 2


def test_half_a_character_in_a_prompt_from_python_is_refused() -> None:
    with pytest.raises(InputError, match="half a character"):
        tiny_generator().generate(["a red circle \ud83d"], 5, 16, 16, num_inference_steps=1)
