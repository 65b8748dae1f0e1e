"""Captions of a folder: every video gets one in `metadata.jsonl`, and nothing that was written is lost.

Captions go into a journal beside the videos as they come, and from there into `metadata.jsonl` in one step, when all
are done, and also when the run fails or is interrupted; the journal of a killed process is read by the next one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from generator.data.demonstrations import METADATA, ORIGINAL, folder_rows
from generator.output import InputError, is_storable, refuse_unwritable, write_jsonl
from reward.captioning.captioners import Captioner, Captions

JOURNAL = ".captions.jsonl"
FAILURES_IN_A_ROW = 3
"""Failures of the captioner, one after another, after which it is taken for dead."""
_NAMED_AT_MOST = 20


@dataclass
class CaptionedFolder:
    """Outcome of captioning a folder.

    Attributes:
        captioned: videos with a new caption.
        kept: videos that had the caption of this captioner before.
        failures: why a video has none, by its name.
    """

    captioned: int = 0
    kept: int = 0
    failures: dict[str, str] = field(default_factory=dict)

    def sentence(self, folder: Path) -> str:
        """A sentence that names the videos without a caption."""
        listed = "".join(f"\n  {reason}" for reason in list(self.failures.values())[:_NAMED_AT_MOST])
        more = len(self.failures) - _NAMED_AT_MOST
        listed += f"\n  … and {more} more" if more > 0 else ""
        total = self.captioned + self.kept + len(self.failures)
        return (
            f"{len(self.failures)} of {total} videos in {folder} have no new caption; the others are written, and the "
            f"same command tries these again:{listed}"
        )


def caption_folder(
    folder: str | Path, captioner: Captioner, keep_original: bool = True, overwrite: bool = False
) -> CaptionedFolder:
    """Captions every video of a folder that this captioner has not captioned yet, and writes `metadata.jsonl`.

    Each line gets `prompt` (long), `short_prompt`, `captioner`, and what the captions depend on; all its other keys
    stay. A prompt that no captioner wrote is kept as `original_prompt`.

    Args:
        keep_original: whether earlier prompts are kept.
        overwrite: whether videos that this captioner has captioned are captioned anew.

    Raises:
        InputError: the folder has no videos or may not be written to, or the captioner fails time after time; what
            was captioned before is then in `metadata.jsonl`.
    """
    folder = Path(folder)
    rows = folder_rows(folder)
    refuse_unwritable(folder)
    made_by = {"captioner": captioner.name, **captioner.record}
    known = {} if overwrite else _read_journal(folder / JOURNAL, made_by)
    result = CaptionedFolder()
    waiting = []
    for row in rows:
        had = not overwrite and all(row.get(key) == value for key, value in made_by.items())
        if row["file_name"] in known or (had and row.get("prompt") and row.get("short_prompt")):
            result.kept += 1
        else:
            waiting.append(row["file_name"])
    if overwrite:
        (folder / JOURNAL).unlink(missing_ok=True)
    try:
        if waiting:
            for name, captions in _captions(folder, waiting, captioner, result):
                known[name] = captions
                _note(folder / JOURNAL, {"file_name": name, **captions._asdict(), **made_by})
                result.captioned += 1
    finally:
        if known:
            write_jsonl(folder / METADATA, [_captioned(row, known, made_by, keep_original) for row in rows])
        (folder / JOURNAL).unlink(missing_ok=True)
    return result


def _captions(
    folder: Path, names: Sequence[str], captioner: Captioner, result: CaptionedFolder
) -> Iterator[tuple[str, Captions]]:
    """Captions as they come; failures are noted in `result`."""
    in_a_row = 0
    total = result.kept + len(names)
    with tqdm(total=total, initial=result.kept, desc="captions", unit="video") as bar:
        for start in range(0, len(names), captioner.batch_size):
            batch = names[start : start + captioner.batch_size]
            videos = {}
            for name in batch:
                try:
                    videos[name] = captioner.read(folder / name)
                except InputError as error:
                    result.failures[name] = str(error)
            said = captioner.caption(list(videos), list(videos.values())) if videos else []
            for name, captions in zip(videos, said, strict=True):
                if isinstance(captions, Captions) and all(map(is_storable, captions)):
                    yield name, captions
                    in_a_row = 0
                    continue
                reason = (
                    str(captions) if isinstance(captions, InputError) else "its caption is not UTF-8 text."
                )
                result.failures[name] = reason if name in reason else f"{name}: {reason}"
                in_a_row += 1
            bar.update(len(batch))
            if in_a_row >= FAILURES_IN_A_ROW and captioner.name != "world":
                raise InputError(
                    f"The captioner {captioner.name} failed for {in_a_row} videos in a row "
                    f"({list(result.failures.values())[-1]}): {result.captioned + result.kept} of {total} captions are "
                    "kept; the same command goes on when it answers."
                )


def _captioned(
    row: dict[str, Any], known: dict[str, Captions], made_by: dict[str, Any], keep_original: bool
) -> dict[str, Any]:
    """A line of `metadata.jsonl` with its new caption, if it has one."""
    captions = known.get(row["file_name"])
    if captions is None:
        return row
    own = {key: value for key, value in row.items() if not _is_of_a_caption(key)}
    earlier = row.get(ORIGINAL) or ("" if "captioner" in row else row.get("prompt"))
    own.pop(ORIGINAL, None)
    line = {**own, "prompt": captions.long, "short_prompt": captions.short}
    if keep_original and earlier:
        line[ORIGINAL] = earlier
    return {**line, **made_by}


def _is_of_a_caption(key: str) -> bool:
    """Returns whether a captioner wrote the key, so that another one's stays out."""
    return key in ("short_prompt", "captioner", "captioner_model") or key.startswith(
        ("caption_", "short_caption_")
    )


def _note(journal: Path, line: dict[str, Any]) -> None:
    """Adds a line that is on the disk when this returns."""
    with journal.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line, ensure_ascii=False) + "\n")
        file.flush()
        os.fsync(file.fileno())


def _read_journal(journal: Path, made_by: dict[str, Any]) -> dict[str, Captions]:
    """Captions that a killed process of the same captioner noted; a torn last line is left out."""
    known = {}
    if journal.is_file():
        for text in journal.read_text(encoding="utf-8", errors="replace").split("\n"):
            try:
                line = json.loads(text)
                if all(line.get(key) == value for key, value in made_by.items()):
                    known[str(line["file_name"])] = Captions(str(line["long"]), str(line["short"]))
            except (ValueError, KeyError, AttributeError):
                continue
    return known
