"""Camera clips in pretraining: windows of native size, captions or none, mixed with rendered scenes."""

import json
import shutil
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from generator.data.demonstrations import read_demonstrations
from generator.native.building import build_pipeline
from generator.native.text_encoder import build_tokenizer
from generator.output import InputError
from generator.pretraining import model_card, pretrain
from generator.pretraining.config import PretrainConfig
from generator.pretraining.data import ClipKind, SceneStream
from generator.pretraining.footage import Footage, MixedStream, footage_size, windows
from generator.video import read_video, write_video
from generator.world import VOCABULARY
from tests.film_files import VARIABLE_TIMES, flat, write


def test_windows_cover_a_video_in_pieces_of_4k_plus_1_frames():
    assert windows(250, 25.0, 17) == [(i * 17 / 8, 17) for i in range(4)] + [(68 / 8, 9)]
    assert windows(1, 25.0, 17) == [(0.0, 1)]
    assert windows(18, 8.0, 17) == [(0.0, 17)]
    assert windows(12, 4.0, 9) == [(0.0, 9)]


def test_sizes_keep_the_aspect_ratio_and_never_grow():
    assert footage_size(272, 640, 96) == (40, 96)
    assert footage_size(720, 1280, 96) == (56, 96)
    assert footage_size(30, 20, 96) == (24, 16)
    with pytest.raises(InputError, match="the least is 8x8"):
        footage_size(6, 100, 96)


@pytest.fixture
def folder(tmp_path):
    """Three clips: one named in metadata.jsonl, one with a text file, one without a caption."""
    generator = torch.Generator().manual_seed(0)
    for name, size in (("a", (21, 32, 48)), ("b", (5, 48, 32)), ("c", (9, 32, 48))):
        write_video(tmp_path / f"{name}.mp4", torch.rand(3, *size, generator=generator) * 2 - 1, 8.0)
    (tmp_path / "metadata.jsonl").write_text(
        json.dumps({"file_name": "a.mp4", "prompt": "a red circle"}) + "\n"
    )
    (tmp_path / "b.txt").write_text("a blue\n square\n")
    return tmp_path


def test_windows_of_a_film_of_variable_rate_and_of_a_still_show_the_right_moments(tmp_path):
    write(tmp_path / "vfr.mp4", [flat(int(60 * t)) for t in VARIABLE_TIMES], times=VARIABLE_TIMES)
    write(tmp_path / "still.mp4", [flat(200, 32, 32)], rate=1)
    footage = Footage(tmp_path, build_tokenizer(VOCABULARY), 64, 17)
    assert {kind.fps for kind in footage.clips} == {8.0}
    assert [kind.size for kind in footage.clips if kind.size[1] == 32] == [(1, 32, 32)]
    windows = [
        clip.float().mean((0, 2, 3))
        for kind in footage.clips
        if kind.size[1] == 64
        for clip, _ in footage.clips[kind]
    ]
    shown = torch.cat(sorted(windows, key=lambda levels: levels[0]))
    moments = [min(VARIABLE_TIMES, key=lambda t: abs(t - i / 8 - 1e-6)) for i in range(len(shown))]
    assert shown.tolist() == pytest.approx([int(60 * t) for t in moments], abs=3)


def test_captions_come_from_metadata_or_text_files_or_are_empty(folder):
    found = {d.video.name: d.prompt for d in read_demonstrations(folder, require_prompts=False)}
    assert found == {"a.mp4": "a red circle", "b.mp4": "a blue square", "c.mp4": ""}
    assert [d.video.name for d in read_demonstrations(folder)] == ["a.mp4"]
    (folder / "metadata.jsonl").unlink()
    with pytest.raises(InputError, match=r"2 of 3 videos .* have no prompt \(a\.mp4, c\.mp4\)"):
        read_demonstrations(folder)
    for name in "ac":
        (folder / f"{name}.txt").write_text("a star")
    assert [d.prompt for d in read_demonstrations(folder)] == ["a star", "a blue square", "a star"]
    for text in folder.glob("*.txt"):
        text.unlink()
    with pytest.raises(InputError, match=r"holds no metadata\.jsonl"):
        read_demonstrations(folder)


def stream(tokenizer):
    return SceneStream(tokenizer, 600, (4, 8), 12, 0.0, 0.0, seed=0)


def test_footage_is_cut_into_windows_of_its_own_size_with_its_caption(folder):
    tokenizer = build_tokenizer(VOCABULARY)
    footage = Footage(folder, tokenizer, longest_side=96, num_frames=17)
    assert {kind: len(clips) for kind, clips in footage.clips.items()} == {
        ClipKind(17, 32, 48): 1,
        ClipKind(5, 48, 32): 1,
        ClipKind(9, 32, 48): 1,
    }
    clip, prompt = footage.clips[ClipKind(17, 32, 48)][0]
    video, _ = read_video(folder / "a.mp4")
    torch.testing.assert_close(clip.float() / 127.5 - 1, video[:, :17], atol=0.02, rtol=0)
    assert prompt == "a red circle"
    batch = footage.batch(stream(tokenizer), torch.Generator().manual_seed(0))
    rendered = batch.render(torch.device("cpu"))
    assert rendered.shape == (len(batch.input_ids), 3, *batch.kind.size)
    assert rendered.abs().max() <= 1


def test_the_mix_has_the_share_of_footage_that_was_asked_for(folder):
    tokenizer = build_tokenizer(VOCABULARY)
    footage = Footage(folder, tokenizer, 96, 17)
    mixed = MixedStream(stream(tokenizer), footage, 0.25, seed=0)
    assert sum(mixed.mix.values()) == pytest.approx(1)
    assert sum(mixed.mix[kind] for kind in footage.clips) == pytest.approx(0.25, abs=0.03)
    loader = mixed.loader(0)
    drawn = [isinstance(next(loader).render(torch.device("cpu")), torch.Tensor) for _ in range(4)]
    assert all(drawn)
    only = MixedStream(stream(tokenizer), footage, 1.0, seed=0)
    assert set(only.mix) == set(footage.clips)
    assert {next(only.loader(0)).kind for _ in range(3)} <= set(footage.clips)


def test_pretraining_on_camera_clips_alone_runs_and_shows_samples(tmp_path, monkeypatch):
    source = Path(find_spec("gradio").origin).parent / "media_assets" / "videos"
    clips = tmp_path / "clips"
    clips.mkdir()
    shutil.copy(source / "muted_b.mp4", clips / "muted_b.mp4")
    monkeypatch.setattr(model_card, "EVALUATION_SIZES", ((5, 32, 32),))
    small = {
        "autoencoder": {"channels": (8, 16), "num_blocks": 1},
        "text_encoder": {"hidden_size": 32, "num_layers": 1, "num_heads": 2},
    }
    monkeypatch.setattr(pretrain, "build_pipeline", partial(build_pipeline, **small))
    config = PretrainConfig(
        output_dir=str(tmp_path / "model"),
        autoencoder_seconds=0.5,
        transformer_seconds=0.5,
        autoencoder_pixels=20_000,
        transformer_tokens=400,
        num_layers=3,
        hidden_size=64,
        num_workers=0,
        evaluation_prompts=2,
        pack=True,
        footage=str(clips),
        footage_share=1.0,
        footage_side=48,
        footage_frames=5,
    )
    pretrain.pretrain(config, torch.device("cpu"))
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "model" / "tensorboard"))
    events.Reload()
    assert {"autoencoder/samples", "transformer/samples"} <= set(events.Tags()["images"])


def test_settings_of_footage_are_checked(tmp_path):
    for changes, message in (({"footage_share": 0.0}, "above 0"), ({"footage_frames": 16}, r"4k \+ 1")):
        config = PretrainConfig(output_dir=str(tmp_path / "o"), footage="x", **changes)
        with pytest.raises(InputError, match=message):
            pretrain.pretrain(config, torch.device("cpu"))
