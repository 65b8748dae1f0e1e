"""A reward service that asks for a password is used, and the password is shown and written nowhere."""

from __future__ import annotations

import base64
import json
import logging
import sys
import threading
import types
from collections.abc import Iterator
from dataclasses import field, make_dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from safetensors.torch import load

from alignment.cli import main
from generator.output import InputError
from generator.testing import tiny_generator
from reward import load_reward
from reward.preferences import Ranking, write_rankings

SECRET = "s3@cret"
TYPED = "anna:s3%40cret"


class Service(BaseHTTPRequestHandler):
    """Judges by the first pixel, and answers only who knows the password."""

    def do_GET(self) -> None:
        self.answer({"dimensions": ["overall"], "max_batch_size": 8, "max_megabytes": 8})

    def do_POST(self) -> None:
        videos = load(self.rfile.read(int(self.headers["Content-Length"])))["videos"]
        self.answer({"scores": {"overall": videos[:, 0, 0, 0, 0].tolist()}})

    def answer(self, value: object) -> None:
        expected = "Basic " + base64.b64encode(f"anna:{SECRET}".encode()).decode()
        known = self.headers.get("Authorization") == expected
        self.send_response(200 if known else 401)
        self.end_headers()
        self.wfile.write(json.dumps(value if known else {"detail": "log in"}).encode())

    def log_message(self, *_: object) -> None:
        """Keeps the test's output clean."""


@pytest.fixture
def host() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Service)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VIDALIGN_CACHE", str(tmp_path / "cache"))
    tiny_generator().pipeline.save_pretrained(tmp_path / "model")
    (tmp_path / "prompts.txt").write_text("a red circle\na blue square\n")
    return tmp_path


def check_nothing_tells(folder: Path, said: str) -> None:
    secrets = ("s3@cret", "s3%40cret", "cret@", base64.b64encode(f"anna:{SECRET}".encode()).decode())
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    for secret in secrets:
        assert secret not in said
        assert not [path for path in files if secret.encode() in path.read_bytes()]
        assert not [path for path in folder.rglob("*") if secret in path.name]


def test_no_command_shows_or_records_the_password_of_a_reward(
    place: Path, host: str, capfd: pytest.CaptureFixture[str]
) -> None:
    sizes = "--num_frames 5 --height 16 --width 16 --num_inference_steps 3"
    reward = f"--reward http://{TYPED}@{host}"
    generate = (
        f"generate --model model --prompts prompts.txt {sizes} {reward} --best_of 2 --output_dir out/videos"
    )
    assert main(generate) == 0
    assert main(generate.replace("cret@", "cre@")) == 0, "the folder is gone on with, whatever the password"
    assert json.loads((place / "out/videos/generation.json").read_text())["reward"] == f"http://***@{host}"
    ppo = (
        f"ppo --model model --prompts prompts.txt {sizes} {reward} --output_dir out/ppo --num_rollouts 1 "
        "--num_prompts 2 --num_generations 2 --num_mini_batches 1 "
        "--probe_prompts 0 --monitor_videos 0 --lora_r 2 --use_cpu true"
    )
    assert main(ppo) == 0
    assert json.loads((place / "out/ppo/training.json").read_text())["reward"] == [f"http://{host}"]
    videos = sorted((place / "out/videos").glob("*.mp4"))
    write_rankings(
        place / "out/rankings.jsonl",
        [Ranking("a red circle", videos, [0, 1]), Ranking("a blue square", videos, [1, 0])],
    )
    evaluate = f"reward evaluate {reward} --preferences out/rankings.jsonl --output_dir out/agreement"
    assert main(evaluate) == 0
    written = json.loads((place / "out/agreement/report.json").read_text())
    assert written["settings"]["reward"] == f"http://***@{host}"
    check_nothing_tells(place / "out", "".join(capfd.readouterr()))


@pytest.mark.parametrize(
    "reward", ["http://anna:s3@cret@127.0.0.1:1", "htp://anna:s3%40cret@host", "http://anna:s3/cret@host"]
)
def test_no_refusal_shows_the_password(
    place: Path, reward: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reward.service.client.CONNECTION_ATTEMPTS", 1)
    words = ["--model", "model", "--prompts", "prompts.txt", "--best_of", "2", "--output_dir", "out"]
    assert main(["generate", *words, "--verbose", "--reward", reward]) == 2
    said = "".join(capfd.readouterr())
    assert "***@" in said or "http://127.0.0.1:1 does not answer" in said
    assert "cret" not in said
    with pytest.raises(InputError, match=r"\*\*\*@|127.0.0.1:1 does not answer") as refused:
        load_reward(reward)
    assert "cret" not in str(refused.value)


def test_an_interrupted_command_is_told_without_its_password(
    place: Path, host: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("alignment.guided_sampling.sample_aligned", interrupted)
    words = ["--model", "model", "--prompts", "prompts.txt", "--best_of", "2", "--output_dir", "out"]
    assert main(["generate", *words, "--reward", f"http://{TYPED}@{host}"]) == 130
    said = "".join(capfd.readouterr())
    assert f"--reward http://***@{host}" in said.replace("'", "")
    assert "cret" not in said


def test_launched_processes_get_the_password_but_their_words_do_not_show_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    started: list[tuple[list[str], dict[str, str]]] = []

    class Process:
        """Stands for `accelerate launch`, and remembers how it was started."""

        def __init__(self, words: list[str], env: dict[str, str], **_: object) -> None:
            started.append((words, env))

        def wait(self) -> int:
            return 0

    monkeypatch.setattr("alignment.cli.launcher.subprocess.Popen", Process)
    reward = f"http://{TYPED}@host:1"
    words = ["ppo", "--reward", reward, "--prompts", "world:train:8", "--output_dir", str(tmp_path / "out")]
    assert main([*words, "--accelerate_config", "multi_gpu", "--num_processes", "2"]) == 0
    [(shown, environment)] = started
    assert "http://***@host:1" in shown
    assert not [word for word in shown if "cret" in word]

    module = types.ModuleType("alignment.cli.commands.ppo")
    seen: list[str] = []
    fields = {name: (str, field(default="")) for name in ("reward", "prompts", "output_dir")}
    arguments = make_dataclass("Arguments", [(name, *made) for name, made in fields.items()])
    contents = {
        "HELP": "",
        "EXAMPLE": "",
        "ARGUMENTS": (arguments,),
        "run": lambda got: seen.append(got.reward),
    }
    vars(module).update(contents)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    for name in ("VIDALIGN_LAUNCHED", "VIDALIGN_ARGUMENTS", "VIDALIGN_COMMAND_LINE"):
        monkeypatch.setenv(name, environment[name])
    monkeypatch.setattr(sys, "argv", ["vidalign", *shown[shown.index("alignment.cli") + 1 :]])
    assert main() == 0
    assert seen == [reward]
    assert "cret" not in "".join(capfd.readouterr())


def test_logs_show_no_password(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    main(["doctor", "--no_such_flag"])
    logging.getLogger("alignment").warning("asked %s", "http://anna:s3cret@host")
    assert "vidalign: WARNING: asked http://***@host" in capsys.readouterr().err
