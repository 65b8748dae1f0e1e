"""Copies of videos for browsers: texts in their metadata are left out, and pictures stay."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np

from labeling_app.browser_video import write_playable
from labeling_app.files.candidates import import_tasks, inspect_video
from labeling_app.store.playable import shown_file
from labeling_app.store.store import Store
from tests.labeling_app.model_folders import write_model


def with_text(source: Path, target: Path, text: str) -> Path:
    """A copy with a comment, as programs write their settings into a file."""
    with av.open(str(source)) as reading, av.open(str(target), "w", format="mp4") as writing:
        writing.metadata["comment"] = text
        stream = reading.streams.video[0]
        copied = writing.add_stream_from_template(stream)
        for packet in reading.demux(stream):
            if packet.dts is not None:
                packet.stream = copied
                writing.mux(packet)
    return target


def decoded(path: Path) -> tuple[np.ndarray, list[float]]:
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    return np.stack([frame.to_ndarray(format="rgb24") for frame in frames]), [
        frame.time or 0.0 for frame in frames
    ]


def test_a_copy_has_the_same_pictures_and_no_text(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "a", 20, ["a cat"])
    plain = next(folder.glob("*.mp4"))
    told = with_text(plain, tmp_path / "told.mp4", "made by secret-model")
    assert b"secret-model" in told.read_bytes()
    assert (inspect_video(plain).playable, inspect_video(told).playable) == (True, False)
    write_playable(told, tmp_path / "copy.mp4")
    assert b"secret-model" not in (tmp_path / "copy.mp4").read_bytes()
    assert inspect_video(tmp_path / "copy.mp4").playable
    for before, after in zip(decoded(told), decoded(tmp_path / "copy.mp4"), strict=True):
        assert np.array_equal(before, after)


def test_annotators_get_the_copy_even_where_the_one_of_the_import_is_gone(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "a", 20, ["a cat"], seeds=(0, 1))
    for path in sorted(folder.glob("*.mp4")):
        with_text(path, path.with_suffix(".new"), "made by secret-model").replace(path)
    with Store(tmp_path / "labels.db") as store:
        import_tasks(store, folder, campaign="main")
        media = store.tasks("main")[0].videos[0].media
        for _ in range(2):
            shown = shown_file(store.uploads, media, store.remote)
            assert shown != Path(media.path)
            assert b"secret-model" not in shown.read_bytes()
            shown.unlink()


def test_a_file_without_texts_is_shown_itself(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "a", 20, ["a cat"], seeds=(0, 1))
    with Store(tmp_path / "labels.db") as store:
        import_tasks(store, folder, campaign="main")
        media = store.tasks("main")[0].videos[0].media
        assert shown_file(store.uploads, media, store.remote) == Path(media.path)
