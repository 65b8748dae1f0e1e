"""Rewards by name: the grammar, what is refused, and that the names reach every command's `load_reward`."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import uvicorn

from alignment.cli import main
from generator.output import InputError
from reward import load_reward
from reward.models.base import FunctionReward, RewardModel
from reward.models.named import registry
from reward.models.named.entry import HubFiles, NamedReward, RewardRequest, frame_choice, reduction
from reward.models.named.places import fingerprints, identify
from reward.models.named.sharing import LastForward, shared

ENTRY = NamedReward(
    "video-judge",
    "somewhere:load",
    "a test's reward",
    "video",
    (-3.0, 3.0),
    dimensions=("VQ", "MQ", "TA", "overall"),
    weights=(HubFiles("somebody/weights", ("config.json", "model.safetensors|model.bin"), 5.03),),
)
SERVED = NamedReward("asker", "somewhere:load", "a test's server", "frames", (0.0, 1.0), served=True)


@pytest.fixture
def known(monkeypatch):
    monkeypatch.setattr(registry, "ENTRIES", (*registry.ENTRIES, ENTRY, SERVED))


@pytest.mark.parametrize(
    ("text", "name", "options", "place"),
    [
        ("video-judge", "video-judge", {}, ""),
        ("Video_Judge:ta", "video-judge:TA", {}, ""),
        ("videojudge:frames=4:reduce=top30", "video-judge", {"frames": 4, "reduce": "top30"}, ""),
        ("videojudge:MQ:somebody/else", "video-judge:MQ", {}, "somebody/else"),
        ("asker:scale=2:http://host:8000/v1?x=a:b", "asker", {"scale": 2.0}, "http://host:8000/v1?x=a:b"),
    ],
)
def test_names_dimensions_options_and_places_are_read(known, text, name, options, place):
    request = registry.parse(text)
    assert (request.name, dict(request.options), request.place) == (name, options, place)


def test_a_folder_may_hold_colons_and_equals_signs(known, tmp_path):
    folder = tmp_path / "a:b=c"
    folder.mkdir()
    request = registry.parse(f"videojudge:VQ:frames=2:{folder}")
    assert (request.place, request.dimension, request.options["frames"]) == (str(folder), "VQ", 2)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("videojudge:0.7", "give --reward_weights 0.7"),
        ("videojudge:QQ", r"neither a dimension \(VQ, MQ, TA\) nor an option"),
        ("videojudge:frame=4", "Did you mean frames"),
        ("videojudge:frames=0", "frames of the reward video-judge is '0', but must be a number of frames"),
        ("videojudge:reduce=median", "mean, min, max, first or topNN"),
        ("videojudge:/no/such/folder", "There is no folder /no/such/folder"),
        ("asker", "asker:http://HOST:PORT/v1"),
        ("motion:target=0.2:/tmp", "reads no weights"),
        ("motion", "motion:target=0.2"),
        ("world:frames=2", "no use for frames=2"),
        ("pikscore,", "folder of a trained reward model"),
        ("flickr", "did you mean flicker"),
    ],
)
def test_what_cannot_be_read_is_refused_in_one_sentence(known, text, sentence):
    with pytest.raises(InputError, match=sentence) as error:
        load_reward(text)
    assert "\n" not in str(error.value)


def test_a_folder_called_as_a_reward_is_meant_where_it_is_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "world").mkdir()
    assert load_reward("world").name == "world"
    for folder in ("./world", Path("world")):
        with pytest.raises(InputError, match="world holds no reward model"):
            load_reward(folder)


def test_every_entry_names_a_function_that_exists():
    for entry in registry.ENTRIES:
        module, _, function = entry.loader.partition(":")
        assert callable(getattr(__import__(module, fromlist=[function]), function)), entry.name
        assert entry.scale[0] < entry.scale[1]


def test_the_registry_imports_neither_torch_nor_transformers():
    code = "import sys, reward.models.named.registry; print({'torch', 'transformers'} & set(sys.modules))"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "set()"
    )


def test_absent_weights_give_one_sentence_with_size_and_command(known, tmp_path, monkeypatch):
    from huggingface_hub import constants

    from reward.models.named.places import files_of

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError) as error:
        files_of(registry.parse("videojudge:TA"))
    assert "\n" not in str(error.value)
    for part in (
        "somebody/weights, 5 GB",
        "`hf download somebody/weights config.json model.safetensors`",
        "FOLDER",
    ):
        assert part in str(error.value)


def test_a_folder_is_looked_at_for_every_file_and_its_alternatives(known, tmp_path):
    from reward.models.named.places import files_of

    request = registry.parse(f"videojudge:{tmp_path}")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InputError, match=r"lacks model.safetensors or model.bin .*found: config.json"):
        files_of(request)
    (tmp_path / "model.bin").write_bytes(b"x")
    assert files_of(request)["model.safetensors|model.bin"] == tmp_path / "model.bin"
    inner = tmp_path / "inner" / "weights"
    inner.mkdir(parents=True)
    for name in ("config.json", "model.safetensors"):
        (inner / name).write_bytes(b"y")
    assert (
        files_of(registry.parse(f"videojudge:{tmp_path / 'inner'}"))["config.json"] == inner / "config.json"
    )


def test_a_cache_of_another_id_and_a_checkpoint_of_another_number_are_found(tmp_path, monkeypatch):
    from huggingface_hub import constants

    from reward.models.named.places import cached, files_of
    from reward.models.named.status import status_of

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    request = registry.parse("videoalign")
    assert not cached(request.entry.weights[0])
    repository = tmp_path / "models--KwaiVGI--VideoReward"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("abc")
    snapshot = repository / "snapshots" / "abc"
    for number in (9, 12):
        tokenizer = snapshot / f"checkpoint-{number}" / "tokenizer"
        tokenizer.mkdir(parents=True)
        for name in ("tokenizer.json", "tokenizer_config.json"):
            (tokenizer / name).write_text("{}")
        (tokenizer.parent / "model.pth").write_bytes(b"x")
    (snapshot / "model_config.json").write_text("{}")
    assert files_of(request)[request.entry.weights[0].files[1]] == snapshot / "checkpoint-12" / "model.pth"
    assert status_of(request)["ready"]
    for folder in (snapshot, snapshot / "checkpoint-9"):
        state = status_of(registry.parse(f"videoalign:{folder}"))
        assert state["ready"], state["says"]
    (snapshot / "checkpoint-9" / "model.pth").unlink()
    said = status_of(registry.parse(f"videoalign:{snapshot / 'checkpoint-9'}"))["says"]
    assert "checkpoint-11352/model.pth or model.pth or adapter_model.safetensors" in said


def test_a_file_off_the_hub_is_fetched_once_and_only_if_it_is_the_published_one(known, tmp_path, monkeypatch):
    import hashlib

    from huggingface_hub import constants

    from reward.models.named.places import files_of

    published = tmp_path / "head.pth"
    published.write_bytes(b"weights")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)

    def source(md5: str) -> HubFiles:
        return HubFiles("head", ("head.pth",), 0.001, address=published.as_uri(), md5=md5)

    with pytest.raises(InputError, match="curl -L --create-dirs"):
        files_of(RewardRequest(ENTRY), source("0" * 32))
    kept = files_of(RewardRequest(ENTRY), source(hashlib.md5(b"weights").hexdigest()))["head.pth"]
    assert kept == tmp_path / "torch/hub/checkpoints/head.pth"
    published.unlink()
    assert files_of(RewardRequest(ENTRY), source("0" * 32))["head.pth"] == kept


def test_records_name_the_place_the_options_and_the_weights(known, tmp_path):
    (tmp_path / "model.bin").write_bytes(b"x")
    request = registry.parse(f"videojudge:TA:scale=0.5:{tmp_path}")
    model = identify(FunctionReward(len, ""), request, [tmp_path / "model.bin"], frames=8)  # type: ignore[arg-type]
    assert model.record() == {
        "name": "video-judge:TA",
        "place": str(tmp_path),
        "scale": 0.5,
        "frames": 8,
        "files": {"model.bin": "sha256:2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"},
    }
    assert model.scale == (-1.5, 1.5)
    assert model.dimensions == ("overall",)
    assert fingerprints([]) == {}


def test_weights_are_loaded_once_while_somebody_uses_them():
    loaded = []

    def load() -> torch.nn.Module:
        loaded.append(1)
        return torch.nn.Linear(1, 1)

    first, second = shared("key", load), shared("key", load)
    assert first is second
    del first, second
    shared("key", load)
    assert len(loaded) == 2


def test_dimensions_of_one_model_share_the_pass_over_the_same_tensor():
    passes = []
    forward, videos = LastForward(), torch.zeros(2)
    for _ in range(2):
        forward(videos, ("a",), lambda: passes.append(1))
    assert len(passes) == 1
    forward(videos, ("b",), lambda: passes.append(1))
    videos += 1
    forward(videos, ("b",), lambda: passes.append(1))
    forward(videos.clone(), ("b",), lambda: passes.append(1))
    assert len(passes) == 4


class Rate(RewardModel):
    """Its score is the frame rate that it was told."""

    name = "rate"

    def score(self, videos, prompts):
        return {"overall": torch.full((len(prompts),), self.frame_rate or -1.0)}


@contextmanager
def served(reward: RewardModel):
    """The address of a real server on a free port."""
    from reward.service.server import create_app

    server = uvicorn.Server(uvicorn.Config(create_app(reward), port=0, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join(timeout=10)


def test_the_frame_rate_reaches_a_reward_behind_the_service():
    from reward.service.client import RemoteReward

    with served(Rate()) as address:
        remote = RemoteReward(address)
        assert remote.score(torch.zeros(1, 3, 2, 8, 8), ["x"])["overall"].tolist() == [-1.0]
        remote.set_frame_rate(24)
        assert remote.score(torch.zeros(1, 3, 2, 8, 8), ["x"])["overall"].tolist() == [24.0]
        assert remote.record()["service"] == {"name": "rate"}


def test_the_frame_rate_reaches_members_and_functions():
    def told(videos, prompts, fps):
        return [fps] * len(prompts)

    from reward.models.ensemble import EnsembleRewardModel

    both = EnsembleRewardModel([FunctionReward(told, "a"), FunctionReward(told, "b")])
    both.set_frame_rate(12)
    assert both.score(torch.zeros(1, 3, 2, 8, 8), ["x"])["overall"].tolist() == [12.0]


def test_frames_and_reductions_are_words_or_numbers():
    assert [frame_choice(text) for text in ("8", "All", "middle")] == [8, "all", "middle"]
    assert [reduction(text) for text in ("mean", "Top30")] == ["mean", "top30"]
    for text in ("top0", "top101", "topx"):
        with pytest.raises(ValueError, match="topNN"):
            reduction(text)


def test_doctor_lists_every_name_and_its_state(capsys):
    assert main(["doctor"]) == 0
    printed = capsys.readouterr().out
    assert "Rewards by name" in printed
    for entry in registry.ENTRIES:
        assert f"  {entry.name} " in printed
