"""Judges behind an OpenAI-compatible server: answers, frames, failures, the cache, the key, pairs, and verifying."""

import io
import json
import math
import threading
import time
from email.utils import formatdate

import numpy as np
import pytest
import torch
from PIL import Image

from alignment.cli import main
from generator.output import InputError
from reward import load_reward
from reward.adherence.verifiers import ask, load_verifier
from reward.models.named.answers import Reply, last_number, said_yes, win_rates, yes_share
from reward.models.named.chat_cache import ReplyCache
from reward.models.named.chat_server import ChatServer
from reward.models.named.judge import JudgeReward, JudgeSettings
from reward.models.named.registry import parse
from reward.models.named.status import status_of
from tests.reward.models.named.scripted_server import Script, completion, images_of, serve, texts_of, yes_with


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("VIDALIGN_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    return tmp_path / "cache"


def videos_of(count=2, frames=5, size=(24, 32)):
    """Smooth videos, so that JPEG changes little; each has its own brightness."""
    ramp = torch.linspace(-0.5, 0.5, size[1]).expand(3, frames, *size)
    shift = torch.linspace(-0.4, 0.4, count)[:, None, None, None, None]
    return (ramp + shift + 0.05 * torch.arange(frames)[None, None, :, None, None]).clamp(-1, 1)


def judge_of(script, **settings):
    server = ChatServer(script.address, backoff=0.001, attempts=3, timeout=5.0)
    return JudgeReward(server, JudgeSettings(**settings))


def test_the_score_is_the_probability_of_yes_over_all_spellings():
    words = {"Yes": 0.3, " yes": 0.2, "YES": 0.05, "No": 0.1, " no": 0.05, "Maybe": 0.3}
    with serve(Script(lambda *_: completion("Yes", [("Yes", words)]))) as script:
        model = load_reward(f"judge:{script.address}")
        score = model.score(videos_of(), ["a cat", "a dog"])
    assert score["overall"].tolist() == pytest.approx([0.55 / 0.7] * 2, abs=1e-6)
    request = script.requests[0]
    assert (request["max_tokens"], request["temperature"], request["top_logprobs"]) == (1, 0, 20)
    assert request["logprobs"] is True
    assert request["model"] == "tiny"
    assert texts_of(request) == ['Does this video show "a cat"? Answer yes or no.']
    assert request["messages"][0]["content"][-1]["type"] == "text"
    assert model.name == "judge"
    assert model.record()["served_model"] == "tiny"


def test_the_image_that_a_video_was_to_begin_with_is_one_more_picture_before_its_frames():
    images = torch.stack([torch.full((3, 24, 32), value) for value in (-1.0, 0.0, 1.0)])
    with serve(Script(lambda *_: yes_with(0.5))) as script:
        judge = judge_of(script, frames=2)
        judge.score(videos_of(1), ["a cat"], images=images[:1])
        judge.score(videos_of(1), ["a cat"])
        with_image, without = script.requests[-2:]
        assert [len(images_of(request)) for request in (with_image, without)] == [3, 2]
        assert texts_of(with_image)[:2] == ["The video was to begin with this image:", "The video:"]
        assert texts_of(without) == texts_of(with_image)[2:]
        first = np.asarray(Image.open(io.BytesIO(images_of(with_image)[0])))
        assert first.max() <= 2
        # Videos of one prompt that begin with different images are not compared.
        script.requests.clear()
        pairs = judge_of(script, frames=2, pairs=True, answer="words")
        script.answer = lambda *_: completion("1")
        shown = images[[0, 0, 2]]
        pairs.score(videos_of(3), ["a cat"] * 3, images=shown)
        assert len(script.requests) == 2
        assert [len(images_of(request)) for request in script.requests] == [5, 5]
        # A verifier hands it on.
        script.requests.clear()
        script.answer = lambda *_: yes_with(0.5)
        verify, _ = load_verifier(f"judge:{script.address}")
        ask(verify, videos_of(2), ["a cat", "a dog"], 8.0, images[:2])
        assert {len(images_of(request)) for request in script.requests} == {6}


def test_shares_are_of_yes_and_no_only():
    assert yes_share([("▁Yes", math.log(0.1)), ("no", math.log(0.3)), ("nope", 0.0)]) == pytest.approx(
        (0.25, 0.4)
    )
    assert math.isnan(yes_share([("Sure", 0.0)])[0])


def test_doctor_says_which_model_answers_how_many_pictures_it_takes_and_whether_it_gives_probabilities(
    capsys,
):
    def limited(request, _):
        if len(images_of(request)) > 4:
            return 400, {"error": {"message": "At most 4 images may be provided in one request."}}, {}
        return yes_with(0.9)

    def wordy(request, _):
        if "logprobs" in request:
            return 400, {"error": {"message": "logprobs are not supported"}}, {}
        return completion("Yes")

    for answer, options, ready, says in (
        (limited, ":frames=4", True, "tiny, takes 4 pictures, gives probabilities"),
        (limited, "", False, "At most 4 images may be provided"),
        (limited, ":frames=3:pairs=true", False, "At most 4 images may be provided"),
        (wordy, "", True, "takes 8 pictures, gives no probabilities, so that its words are read"),
    ):
        with serve(Script(answer)) as script:
            state = status_of(parse(f"judge{options}:{script.address}"))
            assert state["ready"] is ready
            assert says in state["says"]
            assert main(["doctor", "--reward", f"judge{options}:{script.address}"]) == 0
            assert says in " ".join(capsys.readouterr().out.split())
    assert not status_of(parse(f"judge:{script.address}"))["ready"]


def test_frames_are_spread_from_the_first_to_the_last_and_decode_to_the_pixels():
    with serve(Script(lambda *_: yes_with(0.5))) as script:
        for picture, most in (("jpeg", 3), ("png", 0)):
            video = videos_of(1, frames=9)
            load_reward(f"judge:frames=3:image_format={picture}:{script.address}").score(video, ["a cat"])
            found = images_of(script.requests[-1])
            assert len(found) == 3
            for data, frame in zip(found, (0, 4, 8)):
                image = Image.open(io.BytesIO(data))
                assert image.format.lower() == picture
                expected = ((video[0, :, frame] + 1) * 127.5).round().permute(1, 2, 0).numpy()
                assert np.abs(np.asarray(image).astype(float) - expected).max() <= most
        large = torch.zeros(1, 3, 2, 600, 800)
        load_reward(f"judge:frame_pixels=10000:{script.address}").score(large, ["a cat"])
        assert Image.open(io.BytesIO(images_of(script.requests[-1])[0])).size == (115, 86)


def test_a_hundred_requests_in_flight_keep_their_order():
    barrier = threading.Barrier(100)

    def answer(request, number):
        wanted = float(texts_of(request)[0].split()[0])
        if number:  # the first is asked alone, to see whether there are probabilities
            barrier.wait(timeout=20)
            time.sleep((97 * number % 100) / 2000)
        return yes_with(wanted)

    probabilities = [(number + 0.5) / 101 for number in range(101)]
    with serve(Script(answer)) as script:
        server = ChatServer(script.address, concurrency=100)
        model = JudgeReward(server, JudgeSettings(question="{prompt}", frames=1))
        score = model.score(videos_of(101, frames=1, size=(8, 8)), [f"{value} ?" for value in probabilities])
    assert score["overall"].tolist() == pytest.approx(probabilities, abs=1e-6)
    assert script.most_in_flight == 100


def test_a_resumed_run_asks_nothing_twice_and_equal_questions_are_asked_once(cache):
    with serve(Script(lambda *_: yes_with(0.75))) as script:
        videos = videos_of(2).repeat(2, 1, 1, 1, 1)
        first = load_reward(f"judge:{script.address}").score(videos, ["a cat"] * 4)
        assert len(script.requests) == 2
        again = load_reward(f"judge:{script.address}").score(videos, ["a cat"] * 4)
        assert len(script.requests) == 2
        assert again["overall"].tolist() == first["overall"].tolist()
        changed = videos.clone()
        changed[0, 0, 0, 0, 0] = 0.9
        for other, prompts, options in [
            (changed, ["a cat"] * 4, ""),
            (videos, ["a dog"] * 4, ""),
            (videos, ["a cat"] * 4, "image_format=png:"),
        ]:
            before = len(script.requests)
            load_reward(f"judge:{options}{script.address}").score(other, prompts)
            assert len(script.requests) > before
        (cache / "judge" / "replies.sqlite").write_bytes(b"not a database" * 100)
        load_reward(f"judge:{script.address}").score(videos, ["a cat"] * 4)
        before = len(script.requests)
        load_reward(f"judge:{script.address}").score(videos, ["a cat"] * 4)
        assert len(script.requests) == before


def test_what_passes_is_tried_again_after_the_time_that_the_server_asks_for():
    seen = []

    def answer(request, number):
        seen.append(time.monotonic())
        return [
            (429, {"error": {"message": "slow down"}}, {"Retry-After": "0.3"}),
            (503, {}, {"Retry-After": formatdate(time.time() - 5, usegmt=True)}),
            yes_with(0.9),
        ][number]

    with serve(Script(answer)) as script:
        score = judge_of(script).score(videos_of(1), ["a cat"])
    assert score["overall"].item() == pytest.approx(0.9)
    assert seen[1] - seen[0] >= 0.3
    assert len(seen) == 3


def test_what_is_wrong_is_not_tried_again_and_the_server_is_quoted():
    message = "At most 1 image(s) may be provided in one prompt."
    with (
        serve(Script(lambda *_: (400, {"error": {"message": message}}, {}))) as script,
        pytest.raises(InputError, match=r"refused the request \(400\): At most 1 image"),
    ):
        judge_of(script).score(videos_of(1), ["a cat"])
    assert len(script.requests) == 1


def test_a_judge_that_keeps_failing_raises_and_never_scores():
    with serve(Script(lambda *_: (500, {"error": "out of memory"}, {}))) as script:
        with pytest.raises(InputError, match=r"failed 3 times .500: out of memory.: nothing was scored"):
            judge_of(script).score(videos_of(2), ["a cat"] * 2)
        assert len(script.requests) == 3
    # The others are not waited for, whatever the server asks them to do.
    patient = (429, {}, {"Retry-After": "60"})
    with serve(
        Script(lambda request, _: patient if "cow" in texts_of(request)[0] else (400, {}, {}))
    ) as script:
        started = time.monotonic()
        with pytest.raises(InputError, match="refused the request"):
            judge_of(script, question="{prompt}", answer="words").score(videos_of(2), ["a cat", "a cow"])
        assert time.monotonic() - started < 10
    with serve(Script(lambda *_: time.sleep(1.0))) as script:
        server = ChatServer(script.address, backoff=0.001, attempts=2, timeout=0.2)
        with pytest.raises(InputError, match=r"failed 2 times .timed out.*timeout=SECONDS"):
            JudgeReward(server).score(videos_of(1), ["a cat"])
    with (
        serve(Script(lambda *_: (200, b"<html>", {}))) as script,
        pytest.raises(InputError, match=r"failed 3 times"),
    ):
        judge_of(script).score(videos_of(1), ["a cat"])
    with (
        serve(Script(lambda *_: {"choices": []})) as script,
        pytest.raises(InputError, match="not of OpenAI's layout"),
    ):
        judge_of(script).score(videos_of(1), ["a cat"])


def test_the_key_comes_from_the_environment_and_stands_in_no_message_record_or_cache(
    monkeypatch, cache, caplog
):
    key = "sk-very-secret-key"
    monkeypatch.setenv("MY_KEY", key)
    with serve(Script(lambda *_: yes_with(0.5))) as script:
        caplog.set_level("DEBUG")
        model = load_reward(f"judge:api_key_env=MY_KEY:{script.address}")
        model.score(videos_of(1), ["a cat"])
        assert {headers.get("Authorization") for headers in script.headers} == {f"Bearer {key}"}
        assert key not in json.dumps(model.record()) + caplog.text
        assert model.record()["api_key_env"] == "MY_KEY"
        assert all(key.encode() not in path.read_bytes() for path in cache.rglob("*") if path.is_file())
        with pytest.raises(InputError, match="NO_KEY, named for the key of the judge, is not set"):
            load_reward(f"judge:api_key_env=NO_KEY:{script.address}")
        with pytest.raises(InputError, match="holds a name, a password or a query") as raised:
            load_reward(f"judge:{script.address.replace('127', 'me:word@127')}")
        assert "word@" not in str(raised.value)
        script.answer = lambda *_: (401, {"error": {"message": f"Incorrect key {key}"}}, {})
        with pytest.raises(InputError, match=r"\(401\): Incorrect key \[key\]"):
            model.score(videos_of(1), ["a dog"])


def test_servers_without_probabilities_are_read_in_words_and_thoughts_are_passed_over():
    refusal = (400, {"error": {"message": "logprobs are not supported for this model"}}, {})

    def answer(request, number):
        if "logprobs" in request:
            return refusal
        return completion("<think>no, no ... yes? 3</think>\nYes, it does." if number % 2 else "**No.**")

    with serve(Script(answer)) as script:
        model = judge_of(script)
        assert sorted(model.score(videos_of(2), ["a cat", "a cow"])["overall"].tolist()) == [0.0, 1.0]
        assert [("logprobs" in each) for each in script.requests] == [True, False, False]
        assert script.requests[1]["max_tokens"] == 512
        with pytest.raises(InputError, match="gives no probabilities: logprobs are not supported"):
            judge_of(script, answer="probabilities").score(videos_of(1), ["a cat"])
        script.answer = lambda request, _: (
            refusal if "logprobs" in request else completion("I cannot", finish="length")
        )
        with pytest.raises(
            InputError, match="was to answer yes or no, but wrote 'I cannot', cut at 512 tokens"
        ):
            judge_of(script).score(videos_of(1), ["a cat"])


def test_a_first_word_that_is_neither_yes_nor_no_is_no_half():
    unclear = completion("Okay", [("Okay", {"Okay": 0.95, "Yes": 0.03, "No": 0.01})])

    def answer(request, _):
        return unclear if "logprobs" in request else completion("yes")

    with serve(Script(answer)) as script:
        assert judge_of(script).score(videos_of(1), ["a cat"])["overall"].item() == 1.0
        with pytest.raises(InputError, match=r"no clear probability of yes or no .it began with 'Okay'"):
            judge_of(script, answer="probabilities").score(videos_of(1), ["a cat"])


def test_parameters_that_a_server_does_not_know_are_left_out():
    def answer(request, _):
        for name in ("chat_template_kwargs", "temperature", "max_tokens"):
            if name in request:
                return 400, {"error": {"message": f"Unsupported parameter: '{name}'"}}, {}
        assert request["max_completion_tokens"] == 1
        return yes_with(0.25)

    with serve(Script(answer)) as script:
        score = judge_of(script).score(videos_of(3), ["a cat", "a dog", "a cow"])["overall"]
    assert score.tolist() == pytest.approx([0.25] * 3)
    assert len(script.requests) == 6


def test_numbers_of_a_range_become_shares_of_it(tmp_path):
    (tmp_path / "ask.txt").write_text('How smooth is "{prompt}"?\n')
    with serve(Script(lambda *_: completion("<think>5</think> I give it 4/5 points."))) as script:
        model = load_reward(f"judge:range=1-5:question=@{tmp_path}/ask.txt:{script.address}")
        assert model.score(videos_of(1), ["a cat"])["overall"].item() == pytest.approx(0.75)
        assert texts_of(script.requests[0]) == ['How smooth is "a cat"? Answer with the number alone.']
        assert len(model.record()["question_sha256"]) == 64
        tokens = [("Score: ", {}), ("4", {"4": 0.5, "2": 0.25, " 3": 0.125, "x": 0.125})]
        script.answer = lambda *_: completion("Score: 4", tokens)
        model = load_reward(f"judge:range=1-5:answer=probabilities:{script.address}")
        expected = (4 * 0.5 + 2 * 0.25 + 3 * 0.125) / 0.875
        assert model.score(videos_of(1), ["a cat"])["overall"].item() == pytest.approx((expected - 1) / 4)
        script.answer = lambda *_: completion("It is a 9.")
        with pytest.raises(InputError, match=r"was to answer a number from 1 to 5, but wrote 'It is a 9.'"):
            load_reward(f"judge:range=1-5:{script.address}").score(videos_of(1), ["a bee"])


@pytest.mark.parametrize(
    ("text", "number", "yes"),
    [
        ("7 out of 10", 7, None),
        ("3.5", 3.5, None),
        ("Score (1-5): **4**", 4, None),
        ("NO! It never does, yes or no", None, 0.0),
        ("The answer is: Yes", None, 1.0),
        ("<think>yes</think>none", None, None),
        ("v2.0", None, None),
    ],
)
def test_answers_are_read_from_words(text, number, yes):
    assert last_number(Reply(text), 0, 10) == number
    assert said_yes(Reply(text)) == yes


def test_questions_come_from_lines_or_from_the_graph_of_the_prompt(tmp_path):
    (tmp_path / "lines.txt").write_text('Is "{prompt}" sharp?\n\nIs it steady?\n')
    graph = {
        "prompt": "a cat on a mat",
        "questions": [
            {"name": "cat", "text": "Is there a cat?"},
            {"name": "mat", "text": "Is there a mat?"},
            {"name": "on", "text": "Is the cat on the mat?", "parents": ["cat", "mat"]},
        ],
    }
    (tmp_path / "graphs.jsonl").write_text(json.dumps(graph))

    def answer(request, _):
        text = texts_of(request)[0]
        return yes_with(0.25 if "mat?" in text and "on" not in text else 0.8)

    with serve(Script(answer)) as script:
        lines = load_reward(f"judge:questions={tmp_path}/lines.txt:{script.address}")
        lines.score(videos_of(1), ["a cat"])
        asked = sorted(texts_of(each)[0] for each in script.requests)
        assert asked == ['Is "a cat" sharp? Answer yes or no.', "Is it steady? Answer yes or no."]
        graphs = load_reward(f"judge:questions={tmp_path}/graphs.jsonl:{script.address}")
        scores = graphs.score(videos_of(2), ["a cat on a mat", "a dog"])["overall"].tolist()
        # The mat is missing, so that nothing lies on it.
        assert scores == pytest.approx([(0.8 + 0.25 + 0) / 3, 0.8])
        world = load_reward(f"judge:questions=world:{script.address}")
        before = len(script.requests)
        world.score(videos_of(1), ["a red circle"])
        assert len(script.requests) - before == 3
        with pytest.raises(InputError, match="one question or several"):
            load_reward(f"judge:question=Why?:questions=world:{script.address}")


def test_a_judge_is_a_verifier_of_evaluate(tmp_path):
    with serve(Script(lambda request, _: yes_with(0.9 if "red" in texts_of(request)[0] else 0.2))) as script:
        verify, categories = load_verifier(f"judge:{script.address}", "world")
        judgement = verify(videos_of(1), ["a red circle"])[0]
        assert set(judgement.answers) == {"object 1 is there", "object 1 is a circle", "object 1 is red"}
        assert judgement.answers["object 1 is red"] == pytest.approx(0.9)
        assert categories("two circles") == {"object", "count"}
        verify, _ = load_verifier(f"judge:{script.address}")
        assert [each.score for each in verify(videos_of(2), ["red", "blue"])] == pytest.approx([0.9, 0.2])
        with pytest.raises(InputError, match="leave pairs out"):
            load_verifier(f"judge:pairs=true:{script.address}")


def brightness(data):
    return np.asarray(Image.open(io.BytesIO(data))).mean()


def test_the_brighter_of_two_wins_and_a_judge_that_always_takes_the_first_makes_ties():
    def brighter(request, _):
        pictures = images_of(request)
        half = len(pictures) // 2
        first = brightness(pictures[0]) > brightness(pictures[half])
        return completion(
            "1" if first else "2", [("1", {"1": 0.8 if first else 0.3, "2": 0.2 if first else 0.7})]
        )

    with serve(Script(brighter)) as script:
        model = load_reward(f"judge:pairs=true:frames=2:{script.address}")
        assert model.compares_groups
        videos = videos_of(4)[[2, 0, 3, 1]]
        scores = model.score(videos, ["a cat", "a cat", "a cat", "a dog"])["overall"].tolist()
        assert scores == pytest.approx([0.5, 0.0, 1.0, 0.5])
        assert len(script.requests) == 6
        content = script.requests[0]["messages"][0]["content"]
        assert [part.get("text", "image") for part in content][:6] == [
            "First video:", "image", "image", "Second video:", "image", "image"
        ]  # fmt: skip
        script.answer = lambda *_: completion("1", [("1", {"1": 0.99, "2": 0.01})])
        scores = model.score(videos[:3] * 0.5, ["a cow"] * 3)["overall"].tolist()
        assert scores == [0.5, 0.5, 0.5]


def test_win_rates_are_shares_of_the_others_that_are_beaten():
    assert win_rates([[0, 0.9, 0.2], [0.1, 0, 0.5], [0.7, 0.5, 0]]) == [0.5, 0.25, 0.75]
    assert win_rates([[0]]) == [0.5]


def test_the_model_is_the_servers_only_one_or_named_and_absent_servers_are_a_sentence():
    with serve(Script(lambda *_: yes_with(0.5), models=("one", "two"))) as script:
        with pytest.raises(InputError, match=r"has 2 models \(one, two\): choose one, model=NAME"):
            load_reward(f"judge:{script.address}")
        assert load_reward(f"judge:model=two:{script.address}").server.model == "two"
        with pytest.raises(InputError, match=r"refused to list its models .404: no such page.*ends in /v1"):
            load_reward(f"judge:{script.address}/chat")
    with pytest.raises(InputError, match=r"failed 3 times .*Connection refused"):
        load_reward(f"judge:{script.address}")
    with pytest.raises(InputError, match=r"judge:http://HOST:PORT/v1"):
        load_reward("judge")


def test_replies_stay_in_memory_where_no_folder_is_wanted(cache):
    with serve(Script(lambda *_: yes_with(0.5))) as script:
        load_reward(f"judge:cache=none:{script.address}").score(videos_of(1), ["a cat"])
    assert not (cache / "judge").exists()
    kept = ReplyCache(None)
    kept.put("key", Reply("text"))
    assert kept.get("key") == Reply("text")
    assert kept.get("other") is None
