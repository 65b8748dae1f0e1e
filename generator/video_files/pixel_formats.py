"""Choices of `--pixel_format`, for commands that write videos; imports nothing heavy."""

from __future__ import annotations

from generator.output import InputError

FULL_COLOUR_SIDE = 128
"""Videos with a shorter side below this are written with full colour resolution (see `generator.video.write_video`)."""

PIXEL_FORMATS: dict[str, bool | None] = {"auto": None, "yuv420p": False, "yuv444p": True}
"""Names, as `full_colour` of `write_video`."""

PIXEL_FORMAT_HELP = (
    "Colour resolution of the files: yuv420p plays in every browser, yuv444p keeps a colour for each pixel; auto is "
    f"yuv444p for videos with a side below {FULL_COLOUR_SIDE} pixels (or an odd one) and yuv420p for others."
)


def check_pixel_format(pixel_format: str, height: int | None, width: int | None) -> None:
    """Raises `InputError` where a pixel format is unknown or cannot hold videos of this size; None is any size."""
    if pixel_format not in PIXEL_FORMATS:
        raise InputError(
            f"--pixel_format is {pixel_format!r}, but must be one of {', '.join(PIXEL_FORMATS)}: choose one of them."
        )
    if pixel_format == "yuv420p" and ((height or 0) % 2 or (width or 0) % 2):
        raise InputError(
            f"--pixel_format yuv420p needs even sides, but the videos are {width}x{height}: take another size or auto."
        )
