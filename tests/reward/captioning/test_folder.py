"""Captioned folders: what is written, what is kept, and what happens when the captioner fails or the run is ended."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from alignment.cli import main
from generator.data.demonstrations import read_demonstrations, write_demonstrations
from generator.output import InputError, write_jsonl
from generator.video import write_video
from generator.world import parse, training_batch, verify
from generator.world.render import render_scenes
from reward.captioning.captioners import (
    Captions,
    CaptionSettings,
    ServerSettings,
    WorldCaptioner,
    load_captioner,
)
from reward.captioning.folder import JOURNAL, CaptionedFolder, caption_folder
from tests.reward.models.named.scripted_server import Script, completion, images_of, serve, texts_of
from tests.reward.models.tiny_vlm import save_tiny_llava, save_tiny_qwen


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("VIDALIGN_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]


def grey_folder(folder: Path, count: int) -> Path:
    """Videos of two frames of 8x8 pixels, each of its own grey, with prompts."""
    levels = torch.linspace(-1, 1, count)
    videos = (torch.full((3, 2, 8, 8), float(level)) for level in levels)
    write_demonstrations(folder, videos, [f"old prompt {number}" for number in range(count)], fps=8)
    return folder


def is_black(image: bytes) -> bool:
    return max(Image.open(io.BytesIO(image)).convert("L").getextrema()) < 40


def served(script: Script, **settings: Any) -> Any:
    plan = ServerSettings(concurrency=8, attempts=2, timeout=5.0, backoff=0.001)
    return load_captioner(script.address, CaptionSettings(**settings), plan)


def answer(request: dict[str, Any], _: int) -> Any:
    return completion("a short one" if "short" in texts_of(request)[0] else "a long\n  caption")


def test_world_says_what_the_verifier_sees_and_the_wrong_prompt_becomes_the_original(tmp_path: Path) -> None:
    prompts, scenes, wrong = training_batch(12, 5, num_frames=9, height=48, width=48, wrong_share=1.0)
    videos = render_scenes(scenes, 9, 48, 48, 8)
    folder = tmp_path / "clips"
    write_demonstrations(folder, videos, prompts, 8, extra=[{"seed": row} for row in range(len(prompts))])
    assert wrong.all()
    assert main(["caption", "--videos", str(folder), "--captioner", "world"]) == 0
    rows = rows_of(folder)
    assert [row["original_prompt"] for row in rows] == prompts
    assert [row["seed"] for row in rows] == list(range(len(prompts)))
    for row, video in zip(rows, videos, strict=True):
        assert all(verify(video, row["prompt"]).parts.values()), row
        assert all(verify(video, row["short_prompt"]).parts.values()), row
        assert len(parse(row["prompt"]).objects) == len(parse(row["short_prompt"]).objects)
        assert (row["captioner"], row["caption_seed"]) == ("world", 0)
    before = (folder / "metadata.jsonl").read_bytes()
    assert main(["caption", "--videos", str(folder), "--captioner", "world"]) == 0
    assert (folder / "metadata.jsonl").read_bytes() == before
    demonstrations = read_demonstrations(folder)
    assert [each.original for each in demonstrations] == prompts


def test_a_server_is_shown_the_frames_and_writes_both_captions(tmp_path: Path) -> None:
    folder = grey_folder(tmp_path / "set", 3)
    with serve(Script(answer)) as script:
        result = caption_folder(folder, served(script, frames=2))
        assert (result.captioned, result.failures) == (3, {})
        assert len(script.requests) == 6
        assert {len(images_of(request)) for request in script.requests} == {2}
        assert caption_folder(folder, served(script, frames=2)).kept == 3
        assert len(script.requests) == 6
        # Another number of frames is another captioner; the first prompt stays the original one.
        assert caption_folder(folder, served(script, frames=1)).captioned == 3
        address = script.address
    row = rows_of(folder)[1]
    assert (row["prompt"], row["short_prompt"]) == ("a long caption", "a short one")
    assert (row["original_prompt"], row["captioner"], row["captioner_model"]) == (
        "old prompt 1",
        address,
        "tiny",
    )
    assert row["caption_frames"] == 1
    assert row["caption_instruction"] == CaptionSettings().instruction
    assert not (folder / JOURNAL).exists()


def test_a_server_that_dies_midway_loses_no_caption_and_the_next_run_asks_for_the_rest(
    tmp_path: Path,
) -> None:
    folder = grey_folder(tmp_path / "set", 40)
    healthy, lock, good = [True], threading.Lock(), [0]

    def dies(request: dict[str, Any], number: int) -> Any:
        with lock:
            if healthy[0] and good[0] >= 20:
                healthy[0] = False
            if not healthy[0]:
                return 503, {"error": {"message": "gone"}}, {}
            good[0] += 1
        return answer(request, number)

    with serve(Script(dies)) as script:
        with pytest.raises(InputError, match=r"failed for \d+ videos in a row .*gone.* captions are kept"):
            caption_folder(folder, served(script))
        kept = [row for row in rows_of(folder) if "captioner" in row]
        assert len(rows_of(folder)) == 40
        assert len(kept) >= 8
        assert all(row["prompt"] == "a long caption" for row in kept)
        assert all(row["prompt"].startswith("old") for row in rows_of(folder) if row not in kept)
        script.answer = answer
        script.requests.clear()
        result = caption_folder(folder, served(script))
        # No reply that came before is asked for again.
        assert len(script.requests) == 80 - 20
    assert (result.kept, result.captioned) == (len(kept), 40 - len(kept))
    assert all(row["original_prompt"] == f"old prompt {place}" for place, row in enumerate(rows_of(folder)))


def test_one_refused_video_is_named_and_tried_again_and_the_others_are_captioned(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = grey_folder(tmp_path / "set", 4)
    strict = [True]

    def refuses_black(request: dict[str, Any], number: int) -> Any:
        if strict[0] and is_black(images_of(request)[0]):
            return 400, {"error": {"message": "content policy"}}, {}
        return answer(request, number)

    with serve(Script(refuses_black)) as script:
        words = ["caption", "--videos", str(folder), "--captioner", script.address]
        assert main(words) == 2
        said = capsys.readouterr().err
        assert "1 of 4 videos" in said
        assert "0000.mp4" in said
        assert "content policy" in said
        assert [("captioner" in row) for row in rows_of(folder)] == [False, True, True, True]
        strict[0] = False
        assert main(words) == 0
    assert all("captioner" in row for row in rows_of(folder))


def test_hostile_files_are_named_and_the_others_captioned(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    video = torch.zeros(3, 2, 8, 8)
    names = ["ok.mp4", "line\u2028break.mp4", "--overwrite.mp4", "a b'\"c.mp4", "take:2.mp4"]
    for name in names:
        write_video(folder / name, video, 8)
    (folder / "deep").mkdir()
    write_video(folder / "deep" / "ok.mp4", video, 8)
    (folder / "ok.txt").write_text("a text beside it")
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "broken.mp4").write_bytes((folder / "ok.mp4").read_bytes()[:-200])
    (folder / "text.mp4").write_text("no video")
    (folder / "._ok.mp4").write_bytes(b"macOS")
    with serve(Script(answer)) as script:
        result = caption_folder(folder, served(script))
    assert set(result.failures) == {"empty.mp4", "broken.mp4", "text.mp4"}
    assert all(name in reason for name, reason in result.failures.items())
    rows = {
        row["file_name"]: row
        for row in map(json.loads, (folder / "metadata.jsonl").read_text().split("\n")[:-1])
    }
    assert {name for name, row in rows.items() if row["prompt"]} == {*names, "deep/ok.mp4"}
    assert rows["ok.mp4"]["original_prompt"] == "a text beside it"
    assert "original_prompt" not in rows["take:2.mp4"]
    assert len(read_demonstrations(folder, skip_bad=True, require_prompts=False)) == 6


def test_an_interruption_keeps_what_is_done_and_a_journal_of_a_killed_process_is_read(tmp_path: Path) -> None:
    folder = grey_folder(tmp_path / "set", 3)

    class Stops(WorldCaptioner):
        batch_size = 1

        def caption(self, names: Sequence[str], videos: Sequence[tuple[Tensor, float]]) -> list[Any]:
            if names[0] == "0002.mp4":
                raise KeyboardInterrupt
            return [Captions("long", "short")]

    with pytest.raises(KeyboardInterrupt):
        caption_folder(folder, Stops())
    assert [row["prompt"] for row in rows_of(folder)] == ["long", "long", "old prompt 2"]
    assert not (folder / JOURNAL).exists()
    note = {"file_name": "0002.mp4", "long": "noted", "short": "n", "captioner": "world", "caption_seed": 0}
    write_jsonl(folder / JOURNAL, [note])
    with (folder / JOURNAL).open("a") as file:
        file.write('{"file_name": "0001.mp4", "lo')
    result = caption_folder(folder, WorldCaptioner())
    assert (result.kept, result.captioned) == (3, 0)
    assert rows_of(folder)[2]["prompt"] == "noted"


def test_a_video_that_is_none_of_the_world_is_said_to_be_so(tmp_path: Path) -> None:
    folder = grey_folder(tmp_path / "set", 1)
    result = caption_folder(folder, WorldCaptioner())
    assert "0000.mp4 shows no scene of the built-in world" in result.failures["0000.mp4"]
    assert rows_of(folder)[0]["prompt"] == "old prompt 0"
    assert "1 of 1 videos" in CaptionedFolder(failures=result.failures).sentence(folder)


@pytest.mark.parametrize("save", [save_tiny_qwen, save_tiny_llava])
def test_a_model_of_transformers_captions(save: Any, tmp_path: Path) -> None:
    model = save(tmp_path / "model")
    folder = tmp_path / "set"
    write_demonstrations(folder, [torch.rand(3, 5, 32, 32) * 2 - 1], ["old"], fps=4)
    captioner = load_captioner(f"vlm:{model}", CaptionSettings(frames=3, max_tokens=5))
    video, fps = captioner.read(folder / "0000.mp4")
    assert (video.shape, fps) == ((3, 3, 32, 32), pytest.approx(3 / 1.25))
    # The greedy words, step by step, from the logits of the whole sequence.
    instruction = CaptionSettings().instruction
    written = captioner.model.write(video, fps, instruction, 5)
    inputs = captioner.model.inputs([video], [fps], [instruction])
    ids = []
    for _ in range(5):
        token = int(captioner.model.model(**inputs, use_cache=False).logits[0, -1].argmax())
        ids.append(token)
        if token == captioner.model.tokenizer.eos_token_id:
            break
        extra = torch.tensor([[token]])
        inputs["input_ids"] = torch.cat([inputs["input_ids"], extra], 1)
        inputs["attention_mask"] = torch.cat([inputs["attention_mask"], torch.ones_like(extra)], 1)
        if "mm_token_type_ids" in inputs:
            zero = torch.zeros_like(extra, dtype=inputs["mm_token_type_ids"].dtype)
            inputs["mm_token_type_ids"] = torch.cat([inputs["mm_token_type_ids"], zero], 1)
    assert written == captioner.model.tokenizer.decode(ids, skip_special_tokens=True).strip()
    result = caption_folder(folder, captioner)
    assert result.captioned + len(result.failures) == 1
    if result.captioned:
        assert rows_of(folder)[0]["captioner"] == f"vlm:{model}"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--captioner", "wrld"], "There is no captioner 'wrld'"),
        (["--captioner", "vlm:"], "There is no captioner 'vlm:'"),
        (["--captioner", "world", "--frames", "0"], "frames is 0"),
        (["--captioner", "world", "--timeout", "0"], "timeout is 0"),
        (
            ["--captioner", "http://127.0.0.1:9/v1", "--attempts", "1"],
            "captioner http://127.0.0.1:9/v1 failed",
        ),
        (["--captioner", "http://127.0.0.1:9/v1", "--api_key_env", "NOT_SET"], "NOT_SET"),
        (["--captioner", "vlm:/nowhere"], "cannot be loaded as a vision-language model"),
    ],
)
def test_mistakes_are_one_sentence_and_write_nothing(
    arguments: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = grey_folder(tmp_path / "set", 1)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert main(["caption", "--videos", str(folder), *arguments]) == 2
    assert said in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert main(["caption", "--videos", str(tmp_path / "none"), "--captioner", "world"]) == 2
    assert "does not exist" in capsys.readouterr().err
