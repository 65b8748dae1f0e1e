"""Damages of videos on their way: noise, softness, compression, wrong colours, wrong time.

Each function takes and returns videos [batch, 3, frames, height, width] in [-1, 1]; calibration uses them to measure
how the verifier answers when a clip is damaged a little (it should not mind) or a lot (the score should fall).
"""

from __future__ import annotations

import io
import math

import av
import numpy as np
import torch
import torch.nn.functional as functional
from torch import Tensor

from generator.video_files.reformatting import reformatted


def noise(videos: Tensor, sigma: float, seed: int = 0) -> Tensor:
    """Gaussian noise of standard deviation `sigma` on the [0, 1] scale, independent in each pixel and frame."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(videos.shape, generator=generator).to(videos)
    return (videos + 2 * sigma * drawn).clamp(-1, 1)


def blur(videos: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of each frame with `sigma` in pixels."""
    if sigma == 0:
        return videos
    half = math.ceil(3 * sigma)
    kernel = torch.exp(-(torch.arange(-half, half + 1) ** 2) / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).to(videos)
    batch, channels, frames, height, width = videos.shape
    images = videos.transpose(1, 2).reshape(-1, 1, height, width)
    images = functional.pad(images, (half, half, half, half), mode="replicate")
    images = functional.conv2d(images, kernel[None, None, :, None])
    images = functional.conv2d(images, kernel[None, None, None, :])
    return images.view(batch, frames, channels, height, width).transpose(1, 2)


def halve(videos: Tensor) -> Tensor:
    """Down to half the height and width and up again, bilinearly."""
    _, _, frames, height, width = videos.shape
    small = functional.interpolate(videos, (frames, height // 2, width // 2), mode="area")
    return functional.interpolate(small, (frames, height, width), mode="trilinear")


def soft_and_noisy(videos: Tensor, seed: int = 0) -> Tensor:
    """A stand-in for a mediocre autoencoder: half resolution, blur of 0.7 pixels, noise of 0.03."""
    return noise(blur(halve(videos), 0.7), 0.03, seed)


def h264(videos: Tensor, fps: float = 8, crf: int = 18) -> Tensor:
    """An H.264 round trip with 4:2:0 chroma subsampling and 8 bits."""
    return torch.stack([_h264_one(video, fps, crf) for video in videos])


def _h264_one(video: Tensor, fps: float, crf: int) -> Tensor:
    frames = ((video.float() + 1) * 127.5).round().clamp(0, 255).byte().permute(1, 2, 3, 0).cpu().numpy()
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=round(fps), options={"crf": str(crf), "threads": "1"})
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"
        for frame in frames:
            container.mux(
                stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24"))
            )
        container.mux(stream.encode())
    buffer.seek(0)
    with av.open(buffer, "r") as source:
        decoded = np.stack(
            [reformatted(frame, format="rgb24").to_ndarray() for frame in source.decode(video=0)]
        )
    return (torch.from_numpy(decoded).permute(3, 0, 1, 2).float() / 127.5 - 1).to(video)


def rotate_hue(videos: Tensor, degrees: float) -> Tensor:
    """Turns every colour about the grey axis."""
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    third, root = (1 - cosine) / 3, sine / math.sqrt(3)
    matrix = videos.new_tensor(
        [
            [cosine + third, third - root, third + root],
            [third + root, cosine + third, third - root],
            [third - root, third + root, cosine + third],
        ]
    )
    return torch.einsum("dc,bcfhw->bdfhw", matrix, videos).clamp(-1, 1)


def desaturate(videos: Tensor, share: float) -> Tensor:
    """Mixes every pixel with its grey level."""
    return videos + share * (videos.mean(1, keepdim=True) - videos)


def shuffle_frames(videos: Tensor, share: float, seed: int = 0) -> Tensor:
    """Permutes a share of the frames, chosen at random, among themselves; all clips alike."""
    frames = videos.shape[2]
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(frames, generator=generator)[: round(share * frames)]
    order = torch.arange(frames)
    if len(chosen) > 1:
        order[chosen] = chosen.roll(1)
    return videos[:, :, order]


def reverse(videos: Tensor) -> Tensor:
    """Last frame first."""
    return videos.flip(2)


def freeze(videos: Tensor) -> Tensor:
    """The middle frame, again and again."""
    middle = videos.shape[2] // 2
    return videos[:, :, middle : middle + 1].expand_as(videos)


def mirror(videos: Tensor) -> Tensor:
    """Left and right exchanged."""
    return videos.flip(4)
