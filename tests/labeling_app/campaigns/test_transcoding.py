"""Videos that some browser does not play are shown as copies; the originals are ranked and exported."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from playwright.sync_api import Page

from alignment.cli import main
from generator.output import InputError
from generator.video import read_video, write_video
from generator.video_files.decoding import opened_video
from labeling_app.browser_video import frame_times
from labeling_app.campaigns.transcoding import BROKEN, NOT_A_VIDEO, transcode
from labeling_app.files.candidates import import_tasks, inspect_video
from labeling_app.store.playable import shown_file
from labeling_app.store.store import Store
from tests.film_files import VARIABLE_TIMES, flat, noise, write

KINDS = {
    "high444.mp4": ("libx264", "yuv444p", {}),
    "high10.mp4": ("libx264", "yuv420p10le", {}),
    "high422.mp4": ("libx264", "yuv422p", {}),
    "lossless.mp4": ("libx264", "yuv420p", {"crf": "0"}),
    "hevc.mp4": ("libx265", "yuv420p", {"x265-params": "log-level=none"}),
    "av1.mp4": ("libsvtav1", "yuv420p", {}),
    "mpeg4.mp4": ("mpeg4", "yuv420p", {}),
    "prores.mov": ("prores_ks", "yuv422p10le", {}),
    "h264.mkv": ("libx264", "yuv420p", {}),
    "vp9.mp4": ("libvpx-vp9", "yuv420p", {}),
    "alpha.webm": ("libvpx-vp9", "yuva420p", {}),
    "422.webm": ("libvpx-vp9", "yuv422p", {}),
    "a.gif": ("gif", "rgb8", {}),
}


def coded(path: Path) -> tuple[str, str, str]:
    with av.open(str(path)) as container:
        context = container.streams.video[0].codec_context
        return context.name, str(context.pix_fmt), str(context.profile)


def set_of(folder: Path, *names: str) -> Path:
    (folder / "metadata.jsonl").write_text(
        "".join(json.dumps({"file_name": name, "prompt": "a red circle"}) + "\n" for name in names)
    )
    return folder


@pytest.mark.parametrize("name", KINDS)
def test_what_some_browser_does_not_play_is_shown_as_a_copy(tmp_path: Path, name: str) -> None:
    codec, pixels, options = KINDS[name]
    levels = [40, 120, 200]
    folder = tmp_path / "videos"
    folder.mkdir()
    path = write(folder / name, [flat(level) for level in levels], codec, pixels, rate=10, options=options)
    write(folder / "plain.mp4", [flat(level) for level in levels])
    before = path.read_bytes()
    arguments = ["--db", str(tmp_path / "labels.db"), "--campaign", "c"]
    assert main(["label", "import", *arguments, "--videos", str(set_of(folder, name, "plain.mp4"))]) == 0
    assert path.read_bytes() == before
    (copy,) = (tmp_path / "labels.uploads" / "playable").iterdir()
    assert coded(copy) == ("h264", "yuv420p", "High")
    shown, fps = read_video(copy)
    assert fps == pytest.approx(read_video(path)[1])
    assert (shown.mean((0, 2, 3)) * 127.5 + 127.5).tolist() == pytest.approx(levels, abs=4)


@pytest.mark.parametrize(
    ("name", "codec"),
    [("a.mp4", "libx264"), ("a.m4v", "libx264"), ("a.webm", "libvpx"), ("b.webm", "libvpx-vp9")],
)
def test_what_every_browser_plays_is_shown_itself(tmp_path: Path, name: str, codec: str) -> None:
    found = inspect_video(write(tmp_path / name, [flat(9)] * 2, codec))
    assert found.playable
    assert found.content_type == ("video/webm" if codec.startswith("libvpx") else "video/mp4")


def test_the_server_makes_copies_that_are_missing(
    tmp_path: Path, page: Page, serve: Callable[[Store], Any]
) -> None:
    """As with `label serve --uploads`, or with videos that were imported before there were copies."""
    for index in range(2):
        write_video(tmp_path / f"{index}.mp4", torch.full((3, 8, 32, 32), index - 0.5), 8)
    with Store(tmp_path / "labels.db") as store:
        import_tasks(store, set_of(tmp_path, "0.mp4", "1.mp4"), campaign="main")
    with Store(tmp_path / "labels.db", uploads=tmp_path / "elsewhere") as store:
        store.add_user("ada", PASSWORD)
        open_task(page, serve(store).url)
        assert page.evaluate(f"{VIDEOS}.map((video) => video.videoWidth)") == [64, 64]
    copies = list((tmp_path / "elsewhere" / "playable").iterdir())
    assert [coded(copy) for copy in copies] == [("h264", "yuv420p", "High")] * 2


def test_copies_can_wait_until_they_are_shown(tmp_path: Path) -> None:
    for index in range(2):
        write_video(tmp_path / f"{index}.mp4", torch.full((3, 8, 32, 32), index - 0.5), 8)
    with Store(tmp_path / "labels.db") as store:
        import_tasks(store, set_of(tmp_path, "0.mp4", "1.mp4"), campaign="main", copy=False)
        assert not (store.uploads / "playable").exists()
        shown = [
            shown_file(store.uploads, video.media, store.remote) for video in store.tasks("main")[0].videos
        ]
    assert [coded(copy) for copy in shown] == [("h264", "yuv420p", "High")] * 2


def test_exports_and_scores_are_of_the_original(tmp_path: Path) -> None:
    folder = tmp_path / "videos"
    folder.mkdir()
    for index in range(2):
        write_video(folder / f"{index}.mp4", torch.rand(3, 5, 32, 32) * 2 - 1, 8)
    with Store(tmp_path / "labels.db") as store:
        import_tasks(store, set_of(folder, "0.mp4", "1.mp4"), campaign="c")
        videos = [video.media for video in store.tasks("c")[0].videos]
    assert [Path(video.path) for video in videos] == [folder / "0.mp4", folder / "1.mp4"]
    arguments = ["--db", str(tmp_path / "labels.db"), "--campaign", "c"]
    assert main(["label", "simulate", *arguments, "--reward", "world"]) == 0
    out = tmp_path / "out"
    assert main(["label", "export", *arguments, "--output_file", str(out / "rankings.jsonl")]) == 0
    (row,) = [json.loads(line) for line in (out / "rankings.jsonl").read_text().splitlines()][:1]
    assert [(out / name).resolve() for name in row["videos"]] == [folder / "0.mp4", folder / "1.mp4"]
    bench = ["--output_file", str(tmp_path / "bench" / "b.csv"), "--format", "videogen-rewardbench"]
    assert main(["label", "export", *arguments, *bench]) == 0
    given = {path.read_bytes() for path in (tmp_path / "bench" / "videos").iterdir()}
    assert given == {(folder / f"{index}.mp4").read_bytes() for index in range(2)}


def test_films_of_phones_have_the_size_that_is_shown(tmp_path: Path) -> None:
    turned = tmp_path / "turned.mp4"
    with av.open(str(turned), "w") as container:
        stream: Any = container.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = 640, 360, "yuv420p"
        stream.set_display_rotation(90)
        for _ in range(3):
            frame = av.VideoFrame.from_ndarray(flat(9, 360, 640), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    found = inspect_video(turned)
    assert (found.width, found.height) == (360, 640)
    wide = inspect_video(write(tmp_path / "wide.mp4", [flat(9)] * 2, aspect=2))
    assert (wide.width, wide.height) == (128, 64)


def test_cut_and_still_files_are_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", noise(20), options={"movflags": "faststart"})
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(InputError, match=r"a\.mp4 is broken: its end is missing"):
        inspect_video(path)
    (tmp_path / "a.png").write_bytes(b"x")
    with pytest.raises(InputError, match="is not a video file"):
        inspect_video(tmp_path / "a.png")


@pytest.mark.parametrize(("name", "codec"), [("a.mp4", "libx264"), ("a.webm", "libvpx")])
def test_uploads_keep_their_timing(tmp_path: Path, name: str, codec: str) -> None:
    frames = [flat(int(60 * t)) for t in VARIABLE_TIMES]
    source = write(tmp_path / name, frames, codec, times=VARIABLE_TIMES)
    transcode(source, tmp_path / "kept.mp4")
    with opened_video(tmp_path / "kept.mp4") as reader:
        kept = [float(frame.time) for frame in reader.frames()]
    assert kept == pytest.approx(VARIABLE_TIMES, abs=0.002)
    assert inspect_video(tmp_path / "kept.mp4").playable


def test_uploads_without_a_stated_rate_are_taken(tmp_path: Path) -> None:
    times = [i / 12 for i in range(13)]
    source = write(tmp_path / "a.webm", [flat(20 * i) for i in range(13)], "libvpx", times=times)
    data = source.read_bytes()
    place = data.index(bytes.fromhex("23e383"))
    source.write_bytes(data[:place] + bytes.fromhex("ec85") + data[place + 2 :])
    transcode(source, tmp_path / "kept.mp4")
    video, fps = read_video(tmp_path / "kept.mp4")
    assert video.shape[1] == 13
    assert fps == pytest.approx(12, abs=0.02)


def test_uploads_are_kept_as_they_are_shown(tmp_path: Path) -> None:
    """Square pixels, over white, BT.709 and tagged so."""
    transcode(write(tmp_path / "wide.mp4", [flat(9)] * 2, aspect=2), tmp_path / "kept-wide.mp4")
    assert read_video(tmp_path / "kept-wide.mp4")[0].shape == (3, 2, 64, 128)
    red = np.zeros((64, 64, 4), np.uint8)
    red[..., 0] = 255
    for name, codec, pixels, options in (
        ("clear.mov", "prores_ks", "yuva444p10le", {"profile": "4444"}),
        ("clear.webm", "libvpx-vp9", "yuva420p", {}),
    ):
        source = write(tmp_path / name, [red] * 2, codec, pixels, options=options, source="rgba")
        transcode(source, tmp_path / "kept.mp4")
        assert read_video(tmp_path / "kept.mp4")[0].min() > 0.97
    with av.open(str(tmp_path / "kept.mp4")) as container:
        context = container.streams.video[0].codec_context
        assert (context.colorspace, context.color_primaries, context.color_trc) == (1, 1, 1)


def test_a_cut_upload_and_sound_with_a_cover_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", noise(20), options={"movflags": "faststart"})
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError) as caught:
        transcode(path, tmp_path / "kept.mp4")
    assert str(caught.value) == BROKEN
    with av.open(str(tmp_path / "song.mp4"), "w") as container:
        stream: Any = container.add_stream("mjpeg", rate=1)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuvj420p"
        stream.disposition = av.stream.Disposition.attached_pic
        container.mux(stream.encode(av.VideoFrame.from_ndarray(flat(9), format="rgb24")))
        container.mux(stream.encode())
    with pytest.raises(InputError) as caught:
        transcode(tmp_path / "song.mp4", tmp_path / "kept.mp4")
    assert str(caught.value) == NOT_A_VIDEO


def test_frame_times_are_told_of_variable_rates_only(tmp_path: Path) -> None:
    frames = [flat(int(60 * t)) for t in VARIABLE_TIMES]
    path = write(tmp_path / "vfr.mp4", frames, times=VARIABLE_TIMES)
    assert frame_times(str(path), "1") == pytest.approx(VARIABLE_TIMES, abs=0.002)
    assert frame_times(str(write(tmp_path / "even.mp4", frames)), "2") is None


PASSWORD = "correct horse"
VIDEOS = "[...document.querySelectorAll('.card video')]"
SHOWN_COLOUR = """(video) => {
    const canvas = document.createElement('canvas');
    canvas.width = video.videoWidth;
    canvas.height = video.videoHeight;
    const drawing = canvas.getContext('2d', {willReadFrequently: true});
    drawing.drawImage(video, 0, 0);
    return [...drawing.getImageData(canvas.width / 2, canvas.height / 2, 1, 1).data].slice(0, 3);
}"""


def open_task(page: Page, url: str) -> None:
    page.goto(url)
    page.get_by_label("Name").fill("ada")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Log in").click()
    page.wait_for_selector(".card")
    page.wait_for_function(f"{VIDEOS}.every((video) => video.readyState >= 2)")


@pytest.mark.parametrize("names", [("high444.mp4", "hevc.mp4"), ("prores.mov", "mpeg4.mp4")])
def test_the_page_shows_what_browsers_do_not_play(
    tmp_path: Path, page: Page, serve: Callable[[Store], Any], names: tuple[str, str]
) -> None:
    colours = {names[0]: (200, 40, 40), names[1]: (40, 60, 200)}
    for name, colour in colours.items():
        codec, pixels, options = KINDS[name]
        frame = np.full((64, 64, 3), colour, np.uint8)
        write(tmp_path / name, [frame] * 8, codec, pixels, rate=8, options=options)
    with Store(tmp_path / "labels.db") as store:
        import_tasks(store, set_of(tmp_path, *names), campaign="main")
        store.add_user("ada", PASSWORD)
        open_task(page, serve(store).url)
        found = page.evaluate(f"{VIDEOS}.map({SHOWN_COLOUR})")
    assert sorted(map(tuple, found)) == [pytest.approx(colour, abs=8) for colour in sorted(colours.values())]


def test_the_page_steps_from_frame_to_frame_of_a_variable_rate(
    tmp_path: Path, page: Page, serve: Callable[[Store], Any]
) -> None:
    for name, scale in (("a.mp4", 60), ("b.mp4", 50)):
        frames = [flat(int(scale * t)) for t in VARIABLE_TIMES]
        write(tmp_path / name, frames, times=VARIABLE_TIMES)
    with Store(tmp_path / "labels.db") as store:
        import_tasks(store, set_of(tmp_path, "a.mp4", "b.mp4"), campaign="main")
        store.add_user("ada", PASSWORD)
        open_task(page, serve(store).url)
        page.wait_for_load_state("networkidle")
        page.keyboard.press("Space")
        page.wait_for_function(f"{VIDEOS}.every((video) => video.paused && !video.seeking)")
        page.evaluate(f"{VIDEOS}.forEach((video) => {{ video.currentTime = 0; }})")
        page.wait_for_function(f"{VIDEOS}.every((video) => !video.seeking)")
        shown, times = [], []
        for _ in range(6):
            page.keyboard.press(".")
            page.wait_for_function(f"{VIDEOS}.every((video) => !video.seeking)")
            shown.append(max(page.evaluate(f"{VIDEOS}.map({SHOWN_COLOUR})"))[0])
            times.append(page.evaluate(f"{VIDEOS}.map((video) => video.currentTime)"))
    # Where encoders leave out changes as small as those of the last frames, the times alone tell these apart.
    middles = [(before + after) / 2 for before, after in pairwise(VARIABLE_TIMES[1:8])]
    assert times == [pytest.approx([middle, middle], abs=0.003) for middle in middles]
    assert shown == pytest.approx([60 * t for t in VARIABLE_TIMES[1:7]], abs=4.5)


def test_pure_colours_of_an_upload_are_those_of_the_file_in_a_browser(
    tmp_path: Path, page: Page, serve: Callable[[Store], Any]
) -> None:
    colours = ((0, 255, 0), (255, 255, 0), (255, 0, 0))
    for index, colour in enumerate(colours):
        video = torch.tensor(colour)[:, None, None, None].expand(3, 4, 720, 1280) / 127.5 - 1
        write_video(tmp_path / f"sent{index}.mp4", video, 8)
        transcode(tmp_path / f"sent{index}.mp4", tmp_path / f"kept{index}.mp4")
    names = [f"{name}{index}.mp4" for name in ("sent", "kept") for index in range(3)]
    with Store(tmp_path / "labels.db") as store:
        import_tasks(store, set_of(tmp_path, *names), campaign="main")
        store.add_user("ada", PASSWORD)
        open_task(page, serve(store).url)
        page.wait_for_function(f"{VIDEOS}.every((video) => video.currentTime > 0)")
        found = sorted(page.evaluate(f"{VIDEOS}.map({SHOWN_COLOUR})"), key=lambda rgb: [x > 128 for x in rgb])
    # Chromium's own conversion gives pure green and yellow a blue of 11 of 255, whoever wrote them.
    for sent, kept, colour in zip(found[::2], found[1::2], sorted(colours)):
        assert sent == pytest.approx(kept, abs=2)
        assert kept == pytest.approx(colour, abs=12)
