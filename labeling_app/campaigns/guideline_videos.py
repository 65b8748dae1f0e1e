"""Example videos of guidelines: files that a Markdown file shows as pictures, kept in the store."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from generator.output import InputError
from labeling_app.files.candidates import SUFFIXES, inspect_video
from labeling_app.store.new_tasks import VideoFile, media_row
from labeling_app.store.playable import keep_playable
from labeling_app.store.store import Store

PICTURE = re.compile(r"(!\[[^\]\n]*\])\(\s*<?([^)<>\n]+?)>?\s*\)")
"""A picture of Markdown: its text in brackets, and its address."""


def read_example_videos(text: str, folder: Path) -> dict[str, VideoFile]:
    """The videos that a Markdown text shows as pictures, by their addresses in it.

    Args:
        folder: that of the text, from which relative paths lead.

    Raises:
        InputError: a video does not exist or cannot be read.
    """
    addresses = dict.fromkeys(address for _, address in PICTURE.findall(text))
    files = [
        address for address in addresses if "://" not in address and Path(address).suffix.lower() in SUFFIXES
    ]
    try:
        return {address: inspect_video(folder / address) for address in files}
    except InputError as error:
        raise InputError(f"The guidelines show a video that cannot be used: {error}") from error


def with_example_videos(store: Store, text: str, videos: Mapping[str, VideoFile]) -> str:
    """The text with `video:ID` in place of the address of each video, which is in the store now.

    Raises:
        InputError: a video's file has changed since the store has known it.
    """
    keep_playable(store.uploads, videos.values())
    with store.write() as session:
        named = {address: media_row(session, video).id for address, video in videos.items()}
    return PICTURE.sub(
        lambda found: f"{found[1]}(video:{named[found[2]]})" if found[2] in named else found[0], text
    )
