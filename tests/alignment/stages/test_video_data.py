"""Video files as the commands take them: cut off, still, of variable rate, with strange names."""

import json

import av
import pytest
import torch
from PIL import Image

from alignment.cli import main
from generator.data.latent_cache import encode_files, training_size
from generator.testing import tiny_generator
from generator.video import read_clip, read_video, write_video
from tests.film_files import VARIABLE_TIMES, flat, write


@pytest.fixture
def half(tmp_path):
    """A clip whose second half was never copied, in a folder of demonstrations."""
    folder = tmp_path / "set"
    folder.mkdir()
    write_video(folder / "half.mp4", torch.rand(3, 60, 64, 64) * 2 - 1, 30)
    (folder / "whole.mp4").write_bytes((folder / "half.mp4").read_bytes())
    (folder / "half.mp4").write_bytes((folder / "whole.mp4").read_bytes()[:50_000])
    (folder / "half.txt").write_text("a red circle")
    (folder / "whole.txt").write_text("a red circle")
    ranking = {"prompt": "a red circle", "videos": ["half.mp4", "whole.mp4"], "ranks": [1, 2]}
    (folder / "rankings.jsonl").write_text(json.dumps(ranking) + "\n")
    (folder / "prompts.txt").write_text("a red circle\n")
    return folder


@pytest.fixture
def no_model(monkeypatch):
    """Fails where a model is loaded: bad data should be known before."""

    def load(*_, **__):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("generator.load_generator", load)
    monkeypatch.setattr("generator.loading.load_generator", load)


@pytest.mark.parametrize(
    "command",
    [
        "sft --model nano --dataset {set} --output_dir {out}",
        "dpo --model nano --preferences {set}/rankings.jsonl --output_dir {out}",
        "reward --model nano --preferences {set}/rankings.jsonl --output_dir {out}",
        "reward --model nano --model_type vlm --preferences {set}/rankings.jsonl --output_dir {out}",
        "reward evaluate --reward world --preferences {set}/rankings.jsonl --output_dir {out}",
    ],
    ids=lambda command: " ".join(command.split()[:4]),
)
def test_a_cut_video_is_named_before_anything_is_loaded(half, no_model, tmp_path, capsys, command):
    assert main(command.format(set=half, out=tmp_path / "out").split()) == 2
    said = capsys.readouterr().err
    assert "half.mp4 is broken: its end is missing" in said
    assert "Traceback" not in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("size", [(None, None, None), (None, 32, 32), (17, 32, 32)])
def test_stills_become_latents_of_one_frame(tmp_path, size):
    generator = tiny_generator()
    Image.fromarray(flat(100, 32, 32)).save(tmp_path / "a.png")
    write(tmp_path / "a.mp4", [flat(100, 32, 32)], rate=1)
    write(tmp_path / "a.gif", [flat(100, 32, 32)], "gif", "rgb8", rate=1)
    write(tmp_path / "film.mp4", [flat(100, 32, 32)] * 17, rate=8)
    paths = [tmp_path / name for name in ("a.png", "a.mp4", "a.gif", "film.mp4")]
    latents = encode_files(
        generator, paths, *size, cache_dir=tmp_path / "cache", progress=False, native_size=True
    )
    one = generator.latent_shape(1, 32, 32)[1]
    assert [latent.shape[1] for latent in latents] == [one, one, one, generator.latent_shape(17, 32, 32)[1]]


@pytest.mark.parametrize("size", [(None, None, None), (33, 64, 64)])
def test_films_of_variable_rate_are_trained_on_at_their_own_speed(tmp_path, size):
    frames = [flat(int(60 * t)) for t in VARIABLE_TIMES]
    path = write(tmp_path / "vfr.mp4", frames, times=VARIABLE_TIMES)
    generator = tiny_generator()
    frames_and_size, _ = training_size(generator, path, *size, native_size=True)
    video = read_clip(path, *frames_and_size, target_fps=generator.defaults.fps)
    fps = generator.defaults.fps
    moments = [min(i / fps, VARIABLE_TIMES[-1]) for i in range(video.shape[1])]
    nearest = [min(VARIABLE_TIMES, key=lambda t: abs(t - moment - 1e-6)) for moment in moments]
    shown = video.mean((0, 2, 3)) * 127.5 + 127.5
    assert video.shape[1] >= 29
    assert shown.tolist() == pytest.approx([int(60 * t) for t in nearest], abs=3)


@pytest.fixture
def painter(monkeypatch, tmp_path):
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "model_index.json").write_text("{}")
    monkeypatch.setattr("generator.load_generator", lambda *_, **__: tiny_generator())


GENERATE = [
    "generate", "--model", "tiny", "--prompts", "prompts.txt", "--height", "32", "--width", "32",
    "--num_inference_steps", "2",
]  # fmt: skip


def test_colons_in_names_work_in_commands(tmp_path, monkeypatch, painter):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompts.txt").write_text("a red circle\n")
    assert main([*GENERATE, "--output_dir", "2025-01-31T12:30", "--num_frames", "5"]) == 0
    assert read_video("2025-01-31T12:30/0000.mp4")[0].shape == (3, 5, 32, 32)
    write_video("take:2.mp4", torch.zeros(3, 5, 32, 32), 8)
    assert main([*GENERATE, "--output_dir", "out:2", "--edit", "take:2.mp4"]) == 0
    assert read_video("out:2/0000.mp4")[0].shape == (3, 5, 32, 32)


def test_a_still_is_edited_as_one_frame(tmp_path, monkeypatch, painter):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompts.txt").write_text("a red circle\n")
    Image.fromarray(flat(100, 32, 32)).save("a.png")
    assert main([*GENERATE, "--output_dir", "out", "--edit", "a.png"]) == 0
    assert read_video("out/0000.mp4")[0].shape == (3, 1, 32, 32)


@pytest.mark.parametrize(("side", "choice", "found"), [(32, "auto", "yuv444p"), (32, "yuv420p", "yuv420p")])
def test_the_pixel_format_is_the_one_asked_for(tmp_path, monkeypatch, painter, side, choice, found):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompts.txt").write_text("a red circle\n")
    for command in (GENERATE, ["evaluate", *GENERATE[1:]]):
        out = f"{command[0]}-out"
        assert main([*command, "--output_dir", out, "--num_frames", "1", "--pixel_format", choice]) == 0
        (file,) = (tmp_path / out).rglob("*.mp4")
        with av.open(str(file)) as container:
            assert container.streams.video[0].codec_context.pix_fmt == found


def test_a_pixel_format_that_cannot_be_is_refused_at_once(tmp_path, no_model, capsys):
    (tmp_path / "prompts.txt").write_text("a red circle\n")
    for command in ("generate", "evaluate"):
        sizes = ["--height", "33", "--width", "32", "--pixel_format", "yuv420p"]
        rest = ["--prompts", str(tmp_path / "prompts.txt"), "--output_dir", str(tmp_path / "out")]
        assert main([command, "--model", "nano", *rest, *sizes]) == 2
        assert "needs even sides, but the videos are 32x33" in capsys.readouterr().err
        assert not (tmp_path / "out").exists()
