"""The reward service: what it answers, how it joins requests, and what it does when it is busy."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest
import torch
import uvicorn
from fastapi.testclient import TestClient
from PIL import Image
from torch import Tensor

from alignment.rollouts.reward_mixture import RewardMixture
from generator.output import InputError
from generator.testing.stand_ins import ColourGenerator, coloured_video
from generator.video import write_video
from reward import load_reward
from reward.models.base import FunctionReward, RewardModel, Scores, score_with_images
from reward.service.protocol import TENSORS, pack, unpack
from reward.service.server import ServiceLimits, create_app


class Brightness(RewardModel):
    """The mean of the pixels; remembers its batches, and can be slow or held."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.name, self.seconds = "brightness", seconds
        self.batches: list[tuple[int, ...]] = []
        self.may_go = threading.Event()
        self.may_go.set()

    def score(self, videos: Tensor, prompts: Sequence[str]) -> Scores:
        self.may_go.wait()
        time.sleep(self.seconds)
        self.batches.append(tuple(videos.shape))
        if "refuse" in prompts:
            raise InputError("This prompt is refused.")
        return {"overall": videos.mean(dim=(1, 2, 3, 4))}

    def uncertainty(self, videos: Tensor, prompts: Sequence[str]) -> Scores:
        return {"overall": torch.full((len(videos),), 0.5)}


@contextmanager
def served(reward: RewardModel, limits: ServiceLimits | None = None) -> Iterator[str]:
    """The address of a real server on a free port."""
    config = uvicorn.Config(create_app(reward, limits), port=0, log_level="error")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(timeout=10)


def videos(count: int, size: int = 4, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, 2, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def seen(videos: Tensor, prompts: Sequence[str], images: Tensor | None = None) -> Tensor:
    """The mean of the image; -2 where there is none."""
    return torch.full((len(videos),), -2.0) if images is None else images.mean((1, 2, 3))


def test_images_reach_a_reward_that_takes_them_and_no_other() -> None:
    images = torch.linspace(-1, 1, 5)[:, None, None, None].expand(-1, 3, 4, 4)
    with served(FunctionReward(seen, "seen"), ServiceLimits(max_batch_size=2)) as address:
        remote = load_reward(address)
        assert remote.takes_images
        scores = score_with_images(remote, videos(5), ["a"] * 5, images)
        torch.testing.assert_close(scores["overall"], torch.linspace(-1, 1, 5))
        assert remote.score(videos(2), ["a"] * 2)["overall"].tolist() == [-2, -2]
    with served(Brightness()) as address:
        remote = load_reward(address)
        assert not remote.takes_images
        score_with_images(remote, videos(1), ["a"], images[:1])


def test_a_service_from_before_images_is_sent_none(monkeypatch: pytest.MonkeyPatch) -> None:
    with served(FunctionReward(seen, "seen")) as address:
        remote = load_reward(address)
        del remote.info["takes_images"]
        remote.takes_images = bool(remote.info.get("takes_images", False))  # as of an older `/info`
        assert score_with_images(remote, videos(1), ["a"], torch.ones(1, 3, 4, 4))["overall"].tolist() == [-2]


def test_images_come_as_files_too_and_wrong_ones_are_refused(tmp_path) -> None:
    clip = tmp_path / "clip.mp4"
    write_video(clip, torch.zeros(3, 2, 16, 16), 8.0)
    Image.new("RGB", (64, 32), (255, 255, 255)).save(tmp_path / "white.png")
    encoded = {
        name: base64.b64encode((tmp_path / name).read_bytes()).decode() for name in ("clip.mp4", "white.png")
    }
    body = {"prompts": ["a"], "videos": [encoded["clip.mp4"]], "images": [encoded["white.png"]]}
    with TestClient(create_app(FunctionReward(seen, "seen"))) as client:
        answer = client.post("/score", json=body)
        assert answer.json()["scores"]["overall"] == pytest.approx([1.0], abs=0.02)
        for wrong, message in (
            ([encoded["white.png"]] * 2, "one image a video"),
            (["bm8="], "Image 1 of the request"),
            (["?"], "must be JSON"),
        ):
            refused = client.post("/score", json={**body, "images": wrong})
            assert refused.status_code == 422
            assert message in refused.json()["detail"]
        for images in (torch.zeros(2, 3, 4, 4), torch.zeros(1, 4, 4, 4), torch.full((1, 3, 4, 4), torch.nan)):
            sent = pack(videos(1), ["a"], images=images)
            refused = client.post("/score", content=sent, headers={"content-type": TENSORS})
            assert refused.status_code == 422


def test_a_packed_request_is_unpacked_the_same():
    sent = videos(2)
    found, prompts, fps, images = unpack(pack(sent, ["a “cat”", "b"], 24))
    assert (fps, images) == (24.0, None)
    torch.testing.assert_close(found, sent, atol=5e-4, rtol=1e-3)
    assert prompts == ["a “cat”", "b"]
    with pytest.raises(InputError, match="not a safetensors file"):
        unpack(b"nonsense")
    with pytest.raises(InputError, match="one prompt a video"):
        unpack(pack(sent, ["only one"]))


def test_a_remote_reward_scores_as_the_model_itself():
    local = Brightness()
    with served(local, ServiceLimits(max_batch_size=4)) as address:
        remote = load_reward(address)
        assert remote.dimensions == ("overall",)
        sent = videos(10)
        torch.testing.assert_close(
            remote.score(sent, ["x"] * 10)["overall"], sent.mean(dim=(1, 2, 3, 4)), atol=1e-3, rtol=1e-3
        )
        assert remote.uncertainty(sent, ["x"] * 10)["overall"].tolist() == [0.5] * 10
        with pytest.raises(InputError, match=r"refused the request \(422\): This prompt is refused"):
            remote.score(sent[:1], ["refuse"])
        assert max(shape[0] for shape in local.batches) == 4


def test_a_policy_is_rewarded_over_http_as_by_the_model_itself():
    generator = ColourGenerator()
    local = Brightness()
    latents = generator.encode(torch.stack([coloured_video(colour, 1) for colour in ("red", "white")]))
    with served(local) as address:
        mixtures = [RewardMixture([reward]) for reward in (local, load_reward(address))]
        found = [
            mixture.judge(generator, latents, generator.encode_prompts(["a", "b"]), ["a", "b"], 2)[0]
            for mixture in mixtures
        ]
    torch.testing.assert_close(found[1], found[0], atol=1e-3, rtol=1e-3)
    assert not mixtures[1].differentiable


def test_concurrent_requests_share_batches_of_one_size():
    local = Brightness(seconds=0.02)
    with served(local, ServiceLimits(max_batch_size=8, max_wait=0.05)) as address:
        answers: dict[int, Tensor] = {}

        def ask(number: int) -> None:
            sent = videos(2, size=4 if number % 4 else 6, seed=number)
            answers[number] = load_reward(address).score(sent, ["x", "x"])["overall"] - sent.mean(
                dim=(1, 2, 3, 4)
            )

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert all(answer.abs().max() < 1e-3 for answer in answers.values())
    assert len(answers) == 12
    assert len(local.batches) < 12
    assert sum(shape[0] for shape in local.batches) == 24


def test_a_full_queue_answers_503_with_retry_after_and_clients_come_back():
    local = Brightness()
    local.may_go.clear()
    with served(local, ServiceLimits(max_batch_size=1, max_wait=0.0, max_queue=2)) as address:
        import urllib.error
        import urllib.request

        remote = load_reward(address)
        results: list[Tensor] = []
        threads = [
            threading.Thread(
                target=lambda n=n: results.append(remote.score(videos(1, seed=n), ["x"])["overall"])
            )
            for n in range(6)
        ]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + 10
        refused = None
        while refused is None and time.monotonic() < deadline:
            request = urllib.request.Request(
                f"{address}/score", pack(videos(2), ["x", "x"]), {"Content-Type": TENSORS}
            )
            try:
                urllib.request.urlopen(request, timeout=0.5)
            except urllib.error.HTTPError as error:
                refused = error
            except TimeoutError:
                continue
        assert refused is not None
        assert refused.code == 503
        assert int(refused.headers["Retry-After"]) >= 1
        local.may_go.set()
        for thread in threads:
            thread.join(timeout=30)
        assert len(results) == 6


def test_video_files_as_json_are_read_and_judged(tmp_path):
    write_video(tmp_path / "a.mp4", torch.ones(3, 4, 16, 16), fps=8)
    encoded = base64.b64encode((tmp_path / "a.mp4").read_bytes()).decode()
    with TestClient(create_app(Brightness())) as client:
        answer = client.post("/score?uncertainty=true", json={"prompts": ["a"], "videos": [encoded]}).json()
        assert answer["scores"]["overall"][0] == pytest.approx(1, abs=0.02)
        assert answer["uncertainty"] == {"overall": [0.5]}
        assert client.get("/health").json()["judged"] == 1
        assert client.post("/score", json={"prompts": ["a"]}).status_code == 422
        half = json.dumps({"prompts": ["a\ud83d"], "videos": [encoded]})
        refused = client.post("/score", content=half, headers={"content-type": "application/json"})
        assert (refused.status_code, "half a character" in refused.text) == (422, True)
        assert client.post("/score", json={"prompts": ["a", "b"], "videos": [encoded]}).status_code == 422


def test_scores_that_are_no_numbers_travel_as_such_and_too_much_is_refused():
    broken = FunctionReward(lambda videos, prompts: [float("nan")] * len(prompts), "broken")
    with served(broken, ServiceLimits(max_megabytes=1)) as address:
        assert torch.isnan(load_reward(address).score(videos(1), ["x"])["overall"]).all()
        with TestClient(create_app(broken, ServiceLimits(max_megabytes=1))) as client:
            large = pack(videos(1, size=512), ["x"])
            answer = client.post("/score", content=large, headers={"Content-Type": TENSORS})
            assert answer.status_code == 422
            assert "larger than 1 MB" in answer.json()["detail"]


def test_a_proxy_is_not_asked_for_this_machine_and_named_for_others(monkeypatch):
    monkeypatch.setattr("reward.service.client.CONNECTION_ATTEMPTS", 1)
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://somebody:secret@127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with served(Brightness()) as address:
        port = address.rpartition(":")[2]
        for host in ("127.0.0.1", "localhost"):
            assert load_reward(f"http://{host}:{port}").dimensions == ("overall",)
    with pytest.raises(
        InputError, match=r"through the proxy 127\.0\.0\.1:9 .*check the address and the proxy"
    ) as told:
        load_reward("http://rewards.example:8765")
    assert "secret" not in str(told.value)


def test_an_address_without_a_service_is_an_input_error(monkeypatch):
    monkeypatch.setattr("reward.service.client.CONNECTION_ATTEMPTS", 1)
    with pytest.raises(InputError, match="does not answer"):
        load_reward("http://127.0.0.1:9")
    with pytest.raises(InputError, match="max_queue is 0"):
        ServiceLimits(max_queue=0)
