"""A moving contact sheet of two models, for READMEs and messages where a page cannot be shown."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image, ImageDraw
from torch import Tensor
from torch.nn.functional import interpolate

from generator.label_fonts import picture_font
from generator.output import atomic_path
from reward.reports.examples import Group, LoadVideo

SIDE, GAP, TEXT_HEIGHT, LABEL_WIDTH = 128, 6, 44, 64
MOST_FRAMES = 24
_GROUND, _INK = (255, 255, 255), (30, 34, 40)


def write_contact_sheet(
    path: str | Path, groups: Sequence[Group], models: Sequence[str], load_video: LoadVideo
) -> Path:
    """Writes a GIF with a column for each prompt and a row for each model, the prompts below.

    Args:
        groups: prompts, from `reward.reports.examples.choose`.
        models: rows, from top to bottom.
    """
    clips = [[_frames(load_video(group[model])[0]) for group in groups] for model in models]
    fps = load_video(groups[0][models[0]])[1]
    count = max(len(clip) for row in clips for clip in row)
    stride = -(-count // MOST_FRAMES)
    sheet = _plain_sheet(groups, models)
    frames = []
    for number in range(0, count, stride):
        frame = sheet.copy()
        for row, of_model in enumerate(clips):
            for column, clip in enumerate(of_model):
                frame.paste(clip[min(number, len(clip) - 1)], _place(column, row))
        frames.append(frame.quantize(128, dither=Image.Dither.NONE))
    path = Path(path)
    with atomic_path(path) as temporary:
        frames[0].save(
            temporary,
            format="GIF",
            save_all=True,
            append_images=frames[1:],
            duration=max(20, round(1000 * stride / fps)),
            loop=0,
        )
    return path


def _place(column: int, row: int) -> tuple[int, int]:
    """Left upper corner of a video on the sheet."""
    return LABEL_WIDTH + column * (SIDE + GAP), row * (SIDE + GAP)


def _plain_sheet(groups: Sequence[Group], models: Sequence[str]) -> Image.Image:
    """The sheet with names and prompts, without videos."""
    width, height = _place(len(groups), len(models))
    sheet = Image.new("RGB", (width - GAP, height + TEXT_HEIGHT), _GROUND)
    draw = ImageDraw.Draw(sheet)
    for row, model in enumerate(models):
        font, name = picture_font(model[:9], 14)
        draw.text((0, _place(0, row)[1] + SIDE // 2 - 6), name, _INK, font)
    for column, group in enumerate(groups):
        prompt = next(iter(group.values())).prompt
        font, text = picture_font("\n".join(textwrap.wrap(prompt, 21)[:3]), 11)
        draw.multiline_text((_place(column, 0)[0], height), text, _INK, font, spacing=2)
    return sheet


def _frames(video: Tensor) -> list[Image.Image]:
    """Frames of a video `[3, frames, height, width]` in [-1, 1], each in the middle of a square of `SIDE` pixels."""
    frames = video.detach().float().cpu().transpose(0, 1)
    largest = max(frames.shape[2:])
    if largest * 2 <= SIDE:
        frames = interpolate(frames, scale_factor=SIDE // largest, mode="nearest")
    elif largest > SIDE:
        frames = interpolate(frames, scale_factor=SIDE / largest, mode="area")
    pixels = ((frames.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    squares = []
    for frame in pixels:
        square = Image.new("RGB", (SIDE, SIDE), _GROUND)
        square.paste(Image.fromarray(frame), ((SIDE - frame.shape[1]) // 2, (SIDE - frame.shape[0]) // 2))
        squares.append(square)
    return squares
