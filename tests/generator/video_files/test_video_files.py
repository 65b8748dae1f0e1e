"""Video files of other programs: variable rates, broken ends, covers, odd pixels, transparency, strange names."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from av.stream import Disposition
from PIL import Image, ImageOps
from torch import Tensor

from generator.output import InputError
from generator.video import check_video, is_still, read_clip, read_resized, read_video, resample, write_video
from generator.video_files.timing import even_rate, frames_in_clip, steady_rate
from tests.film_files import VARIABLE_TIMES, flat, noise, write


def brightness(video: Tensor) -> list[float]:
    return (video.mean((0, 2, 3)) * 127.5 + 127.5).tolist()


@pytest.mark.parametrize(("name", "codec"), [("a.mp4", "libx264"), ("a.webm", "libvpx"), ("a.mkv", "ffv1")])
def test_frames_of_variable_rate_are_chosen_by_their_time_stamps(
    tmp_path: Path, name: str, codec: str
) -> None:
    path = write(
        tmp_path / name, [flat(int(60 * t)) for t in VARIABLE_TIMES], codec=codec, times=VARIABLE_TIMES
    )
    right = [60 * t for t in (0, 0.5, 1, 1.5, 2, 2.5, 3, 3.5, 3.97)]
    video, fps = read_video(path)
    reduced, same_fps = read_resized(path, lambda height, width: (32, 32))
    assert same_fps == fps
    for clip in (
        read_clip(path, 9, 32, 32, target_fps=2.0),
        resample(video, fps, 9, 32, 32, target_fps=2.0),
        resample(reduced / 127.5 - 1, fps, 9, 32, 32, target_fps=2.0),
        read_clip(path, 9, 32, 32),
    ):
        assert brightness(clip) == pytest.approx(right, abs=3)
    assert video.shape[1] / fps == pytest.approx(4.0, abs=0.05)


def test_a_steady_film_keeps_its_frames_and_rate() -> None:
    for rate in (8.0, 24000 / 1001, 30.0, 59.94):
        exact = [i / rate for i in range(100)]
        milliseconds = [round(time, 3) for time in exact]
        for times in (exact, milliseconds):
            assert steady_rate(times, [rate]) == rate
            assert steady_rate(times, []) == pytest.approx(rate, rel=1e-3)
    assert steady_rate([i / 30 for i in range(300) if i not in (150, 151)], [30.0]) is None
    assert even_rate([i / 30 for i in range(300) if i not in (150, 151)], [29.0, 30.0]) == 30.0
    assert even_rate(VARIABLE_TIMES, [16.0, 30.0]) == 30.0
    assert even_rate([0, 5, 10, 10.001, 10.002], []) == pytest.approx(4 * 4 / 10.002)


def test_a_file_without_a_stated_rate_has_that_of_its_time_stamps(tmp_path: Path) -> None:
    """As a browser's MediaRecorder writes it: milliseconds, no rate, no duration."""
    times = [i / 12 for i in range(13)]
    path = write(tmp_path / "a.webm", [flat(20 * i) for i in range(13)], "libvpx", times=times)
    data = path.read_bytes()
    place = data.index(bytes.fromhex("23e383"))  # DefaultDuration; EBML's Void in its place
    path.write_bytes(data[:place] + bytes.fromhex("ec85") + data[place + 2 :])
    video, fps = read_video(path)
    assert video.shape[1] == 13
    assert fps == pytest.approx(12, abs=0.02)


def test_a_video_cut_in_half_is_refused_by_all_readers(tmp_path: Path) -> None:
    write_video(tmp_path / "whole.mp4", torch.rand(3, 60, 64, 64) * 2 - 1, 30)
    for name, codec, pixels in (
        ("whole.mp4", None, ""),
        ("whole.mkv", "libx264", "yuv420p"),
        ("whole.webm", "libvpx-vp9", "yuv420p"),
        ("whole.avi", "mpeg4", "yuv420p"),
        ("whole.mov", "libx264", "yuv420p"),
        ("whole.gif", "gif", "rgb8"),
    ):
        whole = tmp_path / name
        if codec:
            write(whole, noise(), codec, pixels)
        check_video(whole)
        data = whole.read_bytes()
        for number, content in enumerate((data[: len(data) // 2], data[:-1])):
            half = tmp_path / f"half-{number}{whole.suffix}"
            half.write_bytes(content)
            for read in (read_video, check_video, is_still, lambda path: read_clip(path, 2, 32, 32, 30.0)):
                with pytest.raises(InputError, match=half.name):
                    read(half)


@pytest.mark.parametrize(
    ("name", "codec", "pixels"),
    [("a.mkv", "libx264", "yuv420p"), ("a.webm", "libvpx", "yuv420p"), ("a.avi", "mpeg4", "yuv420p")],
)
def test_an_end_of_zeros_is_refused(tmp_path: Path, name: str, codec: str, pixels: str) -> None:
    """What an interrupted download leaves that took the room first."""
    path = write(tmp_path / name, noise(), codec, pixels)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2] + bytes(len(data) - len(data) // 2))
    with pytest.raises(InputError, match=rf"{name} is broken"):
        read_video(path)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_a_cut_image_is_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    Image.fromarray(noise(1)[0]).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match=f"a{suffix} is broken|a{suffix} is not an image"):
        read_video(path)


def test_frames_hidden_by_an_edit_list_do_not_count(tmp_path: Path) -> None:
    options = {"g": "250", "keyint_min": "250", "sc_threshold": "0", "bf": "0"}
    long = write(tmp_path / "long.mp4", [flat(40 * i // 30) for i in range(180)], options=options)
    cut = tmp_path / "cut.mp4"
    with av.open(long) as source, av.open(cut, "w") as target:
        stream = source.streams.video[0]
        copy = target.add_stream_from_template(stream)
        for packet in source.demux(stream):
            if packet.dts is not None and packet.pts is not None:
                packet.dts -= round(5.6 / stream.time_base)  # what is shown before 0 gets an edit list
                packet.pts -= round(5.6 / stream.time_base)
                packet.stream = copy
                target.mux(packet)
    assert b"elst" in cut.read_bytes()
    clip = read_clip(cut, 9, 32, 32)
    torch.testing.assert_close(clip, resample(*read_video(cut), 9, 32, 32), atol=0.51 / 127.5, rtol=0)
    assert brightness(clip)[0] == pytest.approx(40 * 5.6, abs=3)
    assert brightness(clip)[1] < 228


def test_sound_with_a_cover_holds_no_video(tmp_path: Path) -> None:
    song = tmp_path / "song.mp4"
    silence = av.AudioFrame.from_ndarray(np.zeros((1, 44_100), np.float32), format="fltp", layout="mono")
    silence.rate = 44_100
    with av.open(song, "w") as container:
        sound, cover = container.add_stream("aac", rate=44_100), container.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 64, 64, "yuvj420p"
        cover.disposition = Disposition.attached_pic
        picture = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 200, np.uint8), format="rgb24")
        container.mux([*cover.encode(picture), *cover.encode(None)])
        container.mux([*sound.encode(silence), *sound.encode(None)])
    for read in (read_video, check_video):
        with pytest.raises(InputError, match=r"song\.mp4 holds no video stream"):
            read(song)


def test_pixels_that_are_not_square_are_read_in_the_shape_that_is_shown(tmp_path: Path) -> None:
    rows, columns = np.mgrid[:64, :64]
    disc = np.where(np.hypot((columns - 31.5) * 2, rows - 31.5) < 24, 255, 0).astype(np.uint8)
    path = write(tmp_path / "a.mp4", [np.repeat(disc[..., None], 3, 2)] * 3, aspect=2)
    for video in (read_video(path)[0], read_clip(path, 3, 64, 128, 30.0)):
        assert video.shape == (3, 3, 64, 128)
        shown = video[0, 0] > 0
        assert int(shown.any(0).sum()) == pytest.approx(int(shown.any(1).sum()), abs=2)


@pytest.mark.parametrize(
    ("name", "codec", "pixels", "options"),
    [
        ("a.mov", "prores_ks", "yuva444p10le", {"profile": "4444"}),
        ("a.webm", "libvpx-vp9", "yuva420p", {}),
        ("b.webm", "libvpx", "yuva420p", {"auto-alt-ref": "0"}),
        ("a.mkv", "ffv1", "yuva444p", {}),
        ("b.mkv", "ffv1", "yuva422p10le", {}),
        ("c.mkv", "ffv1", "gbrap16le", {}),
        ("b.mov", "qtrle", "argb", {}),
        ("c.mov", "png", "rgba", {}),
        ("d.mov", "png", "ya16be", {}),
    ],
)
def test_transparent_films_lie_over_white(
    tmp_path: Path, name: str, codec: str, pixels: str, options: dict[str, str]
) -> None:
    red = np.zeros((64, 64, 4), np.uint8)
    red[..., 0] = 255
    path = write(tmp_path / name, [red] * 2, codec, pixels, options=options, source="rgba")
    assert read_video(path)[0].min() >= 1 - 2 / 127.5


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_images_lie_over_white(tmp_path: Path, mode: str) -> None:
    Image.new("RGBA", (8, 8), (255, 0, 0, 0)).convert(mode).save(tmp_path / "a.png")
    assert read_video(tmp_path / "a.png")[0].min() == 1.0


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photos_are_turned_and_mirrored_as_the_camera_noted(tmp_path: Path, orientation: int) -> None:
    image = Image.fromarray(np.kron(noise(1)[0][:4, :6], np.ones((8, 8, 1), np.uint8)))
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(tmp_path / "a.jpg", exif=exif, quality=95, subsampling=0)
    with Image.open(tmp_path / "a.jpg") as opened:
        expected = np.asarray(ImageOps.exif_transpose(opened))
    read = ((read_video(tmp_path / "a.jpg")[0][:, 0] + 1) * 127.5).permute(1, 2, 0).numpy()
    np.testing.assert_allclose(read, expected, atol=1)


def test_a_mirrored_film_is_read_as_it_was_filmed(tmp_path: Path) -> None:
    """The display matrix of a phone's front camera, which turns and mirrors."""
    upright = torch.full((3, 3, 64, 32), -1.0)
    upright[0, :, :16, :16] = 1.0  # red in the upper left corner
    write_video(tmp_path / "a.mp4", upright.transpose(2, 3).contiguous(), fps=8)
    data = bytearray((tmp_path / "a.mp4").read_bytes())
    matrices = [
        b"".join(int(v).to_bytes(4, "big", signed=True) for v in (a, b, 0, c, d, 0, 0, 0, 1 << 30))
        for a, b, c, d in ((65536, 0, 0, 65536), (0, 65536, 65536, 0))
    ]
    place = data.index(matrices[0], data.index(b"tkhd"))
    data[place : place + 36] = matrices[1]
    (tmp_path / "a.mp4").write_bytes(data)
    assert (read_video(tmp_path / "a.mp4")[0] - upright).abs().mean() < 0.03


def test_grey_images_of_16_bits_keep_their_brightness(tmp_path: Path) -> None:
    Image.fromarray(np.full((8, 8), 257 * 100, np.uint16)).save(tmp_path / "a.png")
    assert brightness(read_video(tmp_path / "a.png")[0]) == pytest.approx([100], abs=0.1)


def test_an_animated_image_is_a_film(tmp_path: Path) -> None:
    images = [Image.fromarray(flat(level)) for level in (0, 100, 200)]
    images[0].save(tmp_path / "a.webp", save_all=True, append_images=images[1:], duration=125, lossless=True)
    video, fps = read_video(tmp_path / "a.webp")
    assert fps == pytest.approx(8)
    assert brightness(video) == pytest.approx([0, 100, 200], abs=2)


def test_stills_are_one_frame_at_every_rate(tmp_path: Path) -> None:
    Image.fromarray(flat(100)).save(tmp_path / "a.png")
    write(tmp_path / "a.mp4", [flat(100)], rate=1)
    write(tmp_path / "a.gif", [flat(100)], "gif", "rgb8", rate=1)
    for name in ("a.png", "a.mp4", "a.gif"):
        video, fps = read_video(tmp_path / name)
        assert is_still(tmp_path / name)
        assert frames_in_clip(video.shape[1], fps, 24.0) == 1
    write(tmp_path / "b.mp4", [flat(100)] * 2, rate=1)
    assert not is_still(tmp_path / "b.mp4")
    assert frames_in_clip(2, 1.0, 8.0) == 16


@pytest.mark.parametrize("name", ["a:b.mp4", "2025-01-31T12:30/0.mp4", "100%d.mp4", "concat:a|b.mp4"])
def test_names_that_look_like_addresses_are_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_video(name, torch.zeros(3, 4, 16, 16), 8)
    assert read_video(name)[0].shape == (3, 4, 16, 16)
    check_video(name)
    image = Path(name).with_suffix(".png")
    Image.fromarray(flat(7)).save(image)
    assert read_video(image)[0].shape == (3, 1, 64, 64)


@pytest.mark.parametrize(("transfer", "code"), [(18, 0.75), (16, 0.58)])
def test_white_of_high_dynamic_range_is_white_and_there_is_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, transfer: int, code: float
) -> None:
    """75 % of HLG and 58 % of PQ are diffuse white (ITU-R BT.2408)."""
    path = tmp_path / "hdr.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx265", rate=30, options={"x265-params": "log-level=none:crf=4"})
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p10le"
        context = stream.codec_context
        context.colorspace, context.color_primaries, context.color_trc, context.color_range = (
            9,
            9,
            transfer,
            1,
        )
        frame = av.VideoFrame(64, 64, "yuv420p10le")
        for index, level in enumerate((round(64 + 876 * code), 512, 512)):
            side = 64 if index == 0 else 32
            rows = np.zeros((side, frame.planes[index].line_size // 2), np.uint16)
            rows[:, :side] = level
            frame.planes[index].update(rows.tobytes())
        frame.colorspace, frame.color_range = 9, 1
        for index in range(3):
            frame.pts, frame.time_base = index, Fraction(1, 30)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    assert brightness(read_video(path)[0]) == pytest.approx([255] * 3, abs=6)
    assert "hdr.mp4 has high dynamic range" in caplog.text
