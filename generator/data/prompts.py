"""Prompts: from a text file, from JSONL, or from the built-in world."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from generator.output import InputError, read_jsonl, read_lines
from generator.video_files.control_files import ControlFiles

FILE_COLUMNS = ("image", "last_image", "control_video", "mask")
"""Fields of a prompt that name files."""
VAGUE = {"vague": "train", "vague_test": "test"}
"""Vague prompts of the built-in world by name, and the split that they are of."""


@dataclass(frozen=True)
class PromptRecord:
    """One prompt.

    Attributes:
        prompt: what the video shall show.
        negative_prompt: what it shall not show; used where classifier-free guidance is.
        id: the user's own name for it.
        image: file of the image (or video, whose first frame counts) with which its videos begin.
        last_image: the same of the image with which they end.
        control_video: file of the video that steers its videos, where the model takes one.
        mask: file of a video or image that is white where they are made anew and black where the control video is kept;
            all is made anew where not given.
        rewritten_prompt: text that the model is given in place of `prompt`, by which its videos are still judged.
    """

    prompt: str
    negative_prompt: str = ""
    id: str | None = None
    image: str | None = None
    last_image: str | None = None
    control_video: str | None = None
    mask: str | None = None
    rewritten_prompt: str | None = None

    @property
    def model_prompt(self) -> str:
        """Text that the model is given."""
        return self.prompt if self.rewritten_prompt is None else self.rewritten_prompt

    @property
    def images(self) -> tuple[str, str | None] | ControlFiles | None:
        """Files of the first and the last image, or of the control video and its mask; None where there are none."""
        if self.control_video is not None:
            return ControlFiles(self.control_video, self.mask)
        return None if self.image is None else (self.image, self.last_image)


def read_prompts(path: str | Path) -> list[PromptRecord]:
    """Prompts in the order in which they stand.

    Args:
        path: a text file with one prompt a line (empty lines are skipped; lines end in a line feed, a carriage return
            or both, any other separator is part of the prompt); a `.jsonl` file whose lines have
            `prompt` and optionally `rewritten_prompt`, `negative_prompt`, `id`, `image` and `last_image`, or
            `control_video` and `mask` (files, relative to the folder of this one; each is opened), other keys being
            ignored, such as the
            `metadata.jsonl` of a folder of videos;
            or `world:SPLIT:N[:SEED]` for N prompts of the built-in world, SPLIT being one of its splits, or `vague` or
            `vague_test` for those of a split that leave open colour, size or motion, and SEED 0 by default.

    Raises:
        InputError: the file is missing, not UTF-8 text or without a prompt, a line is wrong, or an image cannot be
            read; the message names file and line.
    """
    if str(path).startswith("world:"):
        return _world_prompts(str(path))
    require_prompt_file(path)
    path = Path(path)
    if path.suffix.lower() in {".jsonl", ".json"}:
        opened: set[str] = set()
        records = [_json_prompt(row, place, path.parent, opened) for place, row in read_jsonl(path)]
    else:
        records = [PromptRecord(line) for _, line in read_lines(path)]
    if not records:
        raise InputError(f"The prompt file {path} holds no prompt: write at least one line.")
    return records


def require_prompt_file(source: str | Path) -> None:
    """Raises `InputError` where a source of prompts is neither the built-in world nor a file."""
    path = Path(source)
    if not str(source).startswith("world:") and not path.is_file():
        found = "is a folder" if path.is_dir() else "does not exist"
        raise InputError(
            f"The prompt file {path} {found}: name a text file, a .jsonl file or world:SPLIT:N[:SEED]."
        )


def _json_prompt(row: dict[str, Any], place: str, folder: Path, opened: set[str]) -> PromptRecord:
    """The prompt of a line; its images are looked for in `folder`, and opened unless they are among `opened`."""
    if not isinstance(row.get("prompt"), str) or not row["prompt"].strip():
        keys = ", ".join(row) or "an empty object"
        raise InputError(f"{place}: expected an object with a non-empty text `prompt`, found {keys}.")
    negative = row.get("negative_prompt") or ""
    if not isinstance(negative, str):
        raise InputError(f"{place}: `negative_prompt` must be text, found {type(negative).__name__}.")
    rewritten = row.get("rewritten_prompt")
    if rewritten is not None and (not isinstance(rewritten, str) or not rewritten.strip()):
        raise InputError(f"{place}: `rewritten_prompt` must be a non-empty text, found {rewritten!r}.")
    identifier: Any = row.get("id")
    image, last = read_image_files(row, place, folder, opened) or (None, None)
    control, mask = (_image_file(row, key, place, folder, opened) for key in ("control_video", "mask"))
    if mask is not None and control is None:
        raise InputError(f"{place}: `mask` is given without `control_video`: name the video that it is of.")
    if control is not None and image is not None:
        raise InputError(
            f"{place}: `control_video` and `image` are both given: let the image be the first frame "
            "of the control video, with a mask that is black there."
        )
    name = None if identifier is None else str(identifier)
    return PromptRecord(row["prompt"], negative, name, image, last, control, mask, rewritten)


def read_image_files(
    row: dict[str, Any], place: str, folder: Path, opened: set[str]
) -> tuple[str, str | None] | None:
    """Files of the first and the last image that a line of a JSONL file names; None where it names none.

    Args:
        row: its `image` and `last_image`, or `image_file_name` and `last_image_file_name`, are looked at.
        place: file and line, for messages.
        folder: that of the file, which paths are relative to.
        opened: files that were opened before, to which those of this line are added.

    Raises:
        InputError: a file is missing or no image, or there is a last image without a first one.
    """
    image, last = (_image_file(row, key, place, folder, opened) for key in ("image", "last_image"))
    if image is None:
        if last is not None:
            raise InputError(
                f"{place}: `last_image` is given without `image`: name the first image of the video too."
            )
        return None
    return image, last


def _image_file(row: dict[str, Any], key: str, place: str, folder: Path, opened: set[str]) -> str | None:
    """The file that a line names as `key` or `key_file_name`, after it was opened."""
    kind = "image" if key.endswith("image") else key.replace("_", " ")
    from generator.video import check_video

    named = [row[name] for name in (key, f"{key}_file_name") if row.get(name) is not None]
    if not named:
        return None
    if len(named) > 1 or not isinstance(named[0], str) or not named[0]:
        raise InputError(f"{place}: `{key}` must be the name of one file, found {named}.")
    file = folder / named[0]
    if not file.is_file():
        raise InputError(
            f"{place}: the {kind} {file} does not exist: paths are relative to the folder of the file that names it."
        )
    if str(file) not in opened:
        try:
            check_video(file)
        except InputError as error:
            raise InputError(f"{place}: {error}") from error
        opened.add(str(file))
    return str(file)


def _world_prompts(source: str) -> list[PromptRecord]:
    from generator.world import sample_prompts
    from generator.world.elaborate import vague_prompts

    parts = source.split(":")
    numbers = parts[2:]
    if len(parts) not in {3, 4} or not parts[1] or not all(number.isdecimal() for number in numbers):
        raise InputError(
            f"{source} is not a source of world prompts: write world:SPLIT:N or world:SPLIT:N:SEED."
        )
    count, seed = int(numbers[0]), int(numbers[1]) if len(numbers) > 1 else 0
    if count < 1:
        raise InputError(f"{source} asks for no prompt: N must be at least 1.")
    try:
        if parts[1] in VAGUE:
            prompts = vague_prompts(count, seed, VAGUE[parts[1]])
        else:
            prompts = sample_prompts(count, seed=seed, split=parts[1])
    except (KeyError, ValueError) as error:
        raise InputError(f"{source} cannot be sampled: {error}.") from error
    return [PromptRecord(prompt, id=f"{parts[1]}-{seed}-{index}") for index, prompt in enumerate(prompts)]
