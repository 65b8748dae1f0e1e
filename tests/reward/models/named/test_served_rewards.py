"""VideoScore2 and UnifiedReward behind a server: frames, texts, and what is read from their answers."""

import dataclasses
import io

import numpy as np
import pytest
import torch
from PIL import Image

from generator.output import InputError
from reward import load_reward
from reward.models.named import served_rewards
from reward.models.named.answers import Reply, Token, axis_number, confident_digit
from reward.models.named.served_rewards import from_the_start, two_a_second
from reward.models.named.templates import digest
from tests.reward.models.named.scripted_server import Script, completion, images_of, serve, texts_of

OWN = {"videoscore2": "Rate the film $t2v_prompt\n", "unifiedreward": "Rate: [{prompt}]"}
THOUGHT = (
    "<think>The visual quality: 1 at first sight.</think>\n"
    "(1) visual quality – sharp: 4;\n(2) text-to-video alignment: 3,\nphysical/common-sense consistency: **5**\n"
)
SCORES = "Alignment Score (1-5): 2.4\nPhysics Score (1-5): 3.1\n**Style Score** (1-5): 3.5\n"


@pytest.fixture(autouse=True)
def own_texts(monkeypatch, tmp_path):
    """Texts of our own in the place of upstream's, which are not shipped."""
    monkeypatch.setenv("VIDALIGN_CACHE", str(tmp_path / "cache"))
    for name, known in (("VIDEOSCORE2", "videoscore2"), ("UNIFIEDREWARD", "unifiedreward")):
        form, own = getattr(served_rewards, name), OWN[known]
        text = dataclasses.replace(form.text, sha256=digest(own), parts=(digest(own),))
        monkeypatch.setattr(served_rewards, name, dataclasses.replace(form, text=text))
        (tmp_path / f"{known}.txt").write_text(own)
    return tmp_path


def numbered(count):
    """A video whose frame i has the brightness i."""
    steps = torch.arange(count).float() / 127.5 - 1
    return steps[None, None, :, None, None].expand(1, 3, count, 16, 16).clone()


def shown(request):
    return [round(float(np.asarray(Image.open(io.BytesIO(data))).mean())) for data in images_of(request)]


def test_videoscore2_sees_two_frames_a_second_and_its_answer_is_read_after_the_thoughts(own_texts):
    with serve(Script(lambda *_: completion(THOUGHT))) as script:
        model = load_reward(f"videoscore2:form=number:template={own_texts}/videoscore2.txt:{script.address}")
        model.set_frame_rate(16.0)
        scores = model.score(numbered(81), ["a {cat} $x"])
    assert {name: value.item() for name, value in scores.items()} == {
        "overall": 4.0, "visual": 4.0, "alignment": 3.0, "physics": 5.0
    }  # fmt: skip
    (request,) = script.requests
    assert shown(request) == [0, 9, 18, 27, 36, 44, 53, 62, 71, 80]
    assert texts_of(request) == ["Rate the film a {cat} $x\n"]
    assert request["max_tokens"] == 1024
    assert "chat_template_kwargs" not in request
    assert model.record()["template_sha256"] == digest(OWN["videoscore2"])


def test_the_soft_score_is_the_likeliest_digit_times_its_share(own_texts):
    tokens = [
        ("<think>The visual quality: ", {}), ("1", {"1": 1.0}), ("</think>\n(1) visual quality", {}), (": ", {}),
        ("4", {"4": 0.6, "3": 0.2, "x": 0.2}), (";\ntext-to-video alignment: ", {}), ("3", {"3": 0.5, "2": 0.5}),
        (",\nphysical/common-sense consistency:", {}), (" 5", {" 5": 0.9, "4": 0.1}),
    ]  # fmt: skip
    text = "".join(word for word, _ in tokens)
    with serve(Script(lambda *_: completion(text, tokens))) as script:
        name = f"videoscore2:visual:fps=8:template={own_texts}/videoscore2.txt:{script.address}"
        assert load_reward(name).score(numbered(17), ["a cat"])["overall"].item() == pytest.approx(4 * 0.75)
        scores = load_reward(name.replace(":visual", "")).score(numbered(17), ["a cat"])
        assert scores["alignment"].item() == pytest.approx(1.0)
        assert scores["physics"].item() == pytest.approx(4.5)
        assert len(script.requests) == 1
        script.answer = lambda *_: completion(text)
        with pytest.raises(InputError, match=r"gave no probabilities of the scores.*form=number"):
            load_reward(name).score(numbered(16), ["a cat"])


def test_unifiedreward_sees_sixteen_frames_from_the_start(own_texts):
    with serve(Script(lambda *_: completion(SCORES))) as script:
        name = f"unifiedreward:template={own_texts}/unifiedreward.txt:{script.address}"
        scores = load_reward(name).score(numbered(81), ["a cat"])
        style = load_reward(name.replace(":", ":style:scale=2:", 1)).score(numbered(81), ["a cat"])
        assert len(script.requests) == 1
    expected = {"overall": 3.0, "alignment": 2.4, "physics": 3.1, "style": 3.5}
    assert {key: value.item() for key, value in scores.items()} == pytest.approx(expected)
    assert style["overall"].item() == pytest.approx(7.0)
    assert shown(script.requests[0]) == [int(index * 81 / 16) for index in range(16)]
    assert texts_of(script.requests[0]) == ["Rate: [a cat]"]


def test_frames_of_short_videos_are_shown_once():
    assert from_the_start(5, None, None) == [0, 1, 2, 3, 4]
    assert from_the_start(33, None, 4) == [0, 8, 16, 24]
    assert two_a_second(81, 16.0, None)[-1] == 80
    with pytest.raises(InputError, match="frame rate of the videos is not known"):
        two_a_second(81, None, None)


def test_an_answer_without_a_score_raises_and_a_missing_text_is_a_sentence(own_texts):
    with serve(Script(lambda *_: completion("I like it", finish="length"))) as script:
        name = f"unifiedreward:template={own_texts}/unifiedreward.txt:{script.address}"
        with pytest.raises(
            InputError, match="no score from 1 to 5 for 'Alignment Score', cut at 4096 tokens"
        ):
            load_reward(name).score(numbered(4), ["a cat"])
        with pytest.raises(InputError, match=r"hf download TIGER-Lab/VideoScore2 README\.md"):
            load_reward(f"videoscore2:{script.address}")


def test_axes_are_read_with_notes_and_emphasis_between():
    reply = Reply("Style Score (1-5): 2\nStyle Score: 4.5")
    assert axis_number(reply, "Style Score", 1, 5) == 4.5
    assert axis_number(Reply("Style Score: 7"), "Style Score", 1, 5) is None
    assert axis_number(Reply("Style: 3"), "Style Score", 1, 5) is None
    assert confident_digit(Token("4", (("x", 0.0),)), 1, 5) is None
