"""The reward for text in videos: the formulas by hand, and RapidOCR on rendered phrases."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from generator.output import InputError
from reward import load_reward
from reward.models.named.written_text import edit_distance, letters, quoted_texts, text_score

PHRASES = ("OPEN", "Hello World", "the last train", "Exit")


def frame(text: str, size: int, number: int = 0, height: int = 480, width: int = 832) -> Tensor:
    """A frame with text of this height in pixels in its middle, in colours that `number` chooses."""
    import matplotlib

    random = np.random.default_rng(number)
    background, colour = random.integers(0, 90, 3), random.integers(170, 256, 3)
    if number % 2:
        background, colour = colour, background
    picture = Image.new("RGB", (width, height), tuple(map(int, background)))
    path = f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans.ttf"
    ImageDraw.Draw(picture).text(
        (width / 2, height / 2), text, tuple(map(int, colour)), ImageFont.truetype(path, size), anchor="mm"
    )
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 127.5 - 1


@cache
def reader(name: str = "ocr:frames=all"):
    pytest.importorskip("rapidocr", reason="the extra ocr is not installed: pip install 'vidalign[ocr]'")
    pytest.importorskip("onnxruntime", reason="the extra ocr is not installed: pip install 'vidalign[ocr]'")
    return load_reward(name)


@pytest.mark.parametrize("size", [64, 32, 18])
def test_rendered_phrases_are_read_exactly(size):
    videos = torch.stack([frame(phrase, size, number)[:, None] for number, phrase in enumerate(PHRASES)])
    prompts = [f'A sign that says "{phrase}"' for phrase in PHRASES]
    assert reader().score(videos, prompts)["overall"].tolist() == [1.0] * len(PHRASES)


def test_a_blank_frame_has_nothing_and_frames_are_averaged():
    blank = torch.zeros(3, 480, 832)
    video = torch.stack([frame("OPEN", 64), blank, frame("OPEN", 64), blank], 1)[None]
    prompt = ['A sign that says "OPEN"']
    assert reader().score(blank[None, :, None], prompt)["overall"].tolist() == [0.0]
    assert reader().score(video, prompt)["overall"].tolist() == [0.5]
    assert reader("ocr:reduce=min").score(video, prompt)["overall"].tolist() == [0.0]
    assert reader("ocr:frames=1:scale=2").score(video, prompt)["overall"].tolist() == [2.0]


def test_surplus_text_counts_where_it_is_asked_for():
    video = frame("OPEN TODAY", 48)[None, :, None]
    assert reader().score(video, ['"open"'])["overall"].tolist() == [1.0]
    assert reader("ocr:match=exact").score(video, ['"open"'])["overall"].tolist() == [0.0]
    both = reader().score(video, ['"open" and "closed"'])["overall"].item()
    assert both == pytest.approx((1 + text_score("opentoday", "closed")) / 2)


def test_the_target_column_of_a_prompt_file_takes_the_place_of_quotation_marks(tmp_path):
    lines = [
        '{"prompt": "a shop at night", "target": "OPEN"}',
        '{"prompt": "two signs", "target": ["OPEN", "CLOSED"]}',
        '{"prompt": "a sign that says \\"OPEN\\""}',
    ]
    (tmp_path / "prompts.jsonl").write_text("\n".join(lines))
    model = reader(f"ocr:targets={tmp_path / 'prompts.jsonl'}")
    video = frame("OPEN", 64)[None, :, None].expand(3, -1, -1, -1, -1)
    scores = model.score(video, ["a shop at night", "two signs", 'a sign that says "OPEN"'])["overall"]
    assert scores.tolist() == pytest.approx([1, (1 + text_score("open", "closed")) / 2, 1])
    assert model.record()["files"]["prompts.jsonl"].startswith("sha256:")
    with pytest.raises(InputError, match="ocr:targets=FILE"):
        model.check_prompts(["another prompt"])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"prompt": "a", "target": 3}', "found 3"),
        ('{"prompt": "a", "target": ["?!"]}', r"letters or digits"),
        ('{"target": "x"}', "expected a text `prompt`"),
        ('{"prompt": "a"}', "no column `target`"),
        ('{"prompt": "a", "target": "x"}\n{"prompt": "a", "target": "y"}', "another target above"),
    ],
)
def test_wrong_targets_are_refused_in_a_sentence(tmp_path, line, message):
    from reward.models.named.ocr import read_targets

    (tmp_path / "p.jsonl").write_text(line)
    with pytest.raises(InputError, match=message):
        read_targets(tmp_path / "p.jsonl")


def test_threads_share_the_readers_that_were_made_and_order_is_kept(monkeypatch):
    from types import SimpleNamespace

    from reward.models.named import ocr

    made = []

    def engine():
        made.append(1)
        return lambda picture, use_cls: SimpleNamespace(txts=[f"w{int(picture[0, 0, 0])}"])

    monkeypatch.setattr(ocr, "_engine", engine)
    model = ocr.OCRReward(frames="all", threads=3, exact=True)
    videos = (torch.arange(12.0).reshape(4, 1, 3, 1, 1) / 127.5 - 1).expand(-1, 3, -1, 2, 2)
    prompts = [f'"w{3 * number + 1}"' for number in range(4)]
    first = model.score(videos, prompts)["overall"]
    assert first.tolist() == pytest.approx(
        [sum(text_score(f"w{3 * n + f}", f"w{3 * n + 1}", True) for f in range(3)) / 3 for n in range(4)]
    )
    assert torch.equal(model.score(videos, prompts)["overall"], first)
    assert len(made) <= 3


def test_the_processes_of_a_training_share_the_cores(monkeypatch):
    from reward.models.named import ocr

    monkeypatch.setattr(ocr.os, "sched_getaffinity", lambda _: set(range(16)), raising=False)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert ocr.OCRReward().threads == 4
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "32")
    assert ocr.OCRReward().threads == 1
    assert ocr.OCRReward(threads=5).threads == 5


def test_a_run_records_the_reader(tmp_path):
    record = reader().record()
    assert (record["name"], record["frames"], record["reduce"]) == ("ocr", "all", "mean")
    assert set(record["packages"]) == {"rapidocr", "onnxruntime"}


def test_a_prompt_without_quoted_text_is_refused_by_its_words():
    from reward.models.named.ocr import OCRReward

    with pytest.raises(InputError, match='the prompt "the cat\'s hat" has none'):
        OCRReward().check_prompts(['"a"', "the cat's hat"])


@pytest.mark.parametrize(
    ("prompt", "texts"),
    [
        ('a sign "OPEN" and “Shut”', ["OPEN", "Shut"]),
        ("the cat's mug says 'HI' and the dogs' bowl", ["HI"]),
        ("招牌上写着「开门」", ["开门"]),
        ("«Ouvert» „Offen“ ‘Yes’", ["Ouvert", "Offen", "Yes"]),
        ('nothing "!?" here', []),
    ],
)
def test_texts_between_quotation_marks_are_found(prompt, texts):
    assert quoted_texts(prompt) == texts


@pytest.mark.parametrize(
    ("read", "target", "contained", "exact"),
    [
        ("OPEN", "open", 1, 1),
        ("ＯＰＥＮ!", "o p e n", 1, 1),
        ("we are open", "open", 1, 0),
        ("opem", "open", 0.75, 0.75),
        ("pn", "open", 0.5, 0.5),
        ("", "open", 0, 0),
        ("straße", "STRASSE", 1, 1),
    ],
)
def test_scores_are_those_of_the_formula(read, target, contained, exact):
    assert text_score(read, target) == contained
    assert text_score(read, target, exact=True) == exact


def test_the_edit_distance_is_that_of_all_alignments():
    def slow(a: str, b: str) -> int:
        if not a or not b:
            return len(a) + len(b)
        return min(slow(a[1:], b) + 1, slow(a, b[1:]) + 1, slow(a[1:], b[1:]) + (a[0] != b[0]))

    for pair in (("kitten", "sitting"), ("", "ab"), ("flaw", "lawn"), ("abc", "abc")):
        assert edit_distance(*pair) == slow(*pair)
    assert letters("Ａ-b 1!") == "ab1"
