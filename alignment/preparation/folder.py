"""A folder of long videos made into a folder of clips, video by video, so that an interrupted run goes on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from alignment.preparation.clips import Limits, Part, clips_of
from alignment.preparation.cuts import require_detectors
from alignment.preparation.duplicates import near_duplicates
from alignment.preparation.report import PAGE, REPORT, write_report
from generator.data.demonstrations import METADATA, folder_rows
from generator.files.output_folder import Outputs, check_output_dir, open_output_dir, require_own
from generator.output import InputError, read_jsonl, read_record, write_json, write_jsonl
from generator.video import contact_sheet, read_clip

SETTINGS, PROGRESS, REJECTED, SHEET = "prepare.json", "progress.jsonl", "rejected.jsonl", "kept.png"
OUTPUTS = Outputs(
    "prepare",
    ("#-#.mp4", METADATA, SETTINGS, PROGRESS, REJECTED, SHEET, PAGE, REPORT),
    early=(SETTINGS,),
    is_record=lambda folder: (folder / SETTINGS).is_file(),
)
_SHEET_ROWS, _SHEET_FRAMES, _SHEET_SIDE = 40, 6, 90


@dataclass(frozen=True)
class Prepared:
    """Outcome of a preparation: clips that are kept, and parts and videos that are not."""

    kept: list[dict[str, Any]]
    rejected: list[dict[str, Any]]


def prepare_folder(
    videos: str | Path,
    output_dir: str | Path,
    limits: Limits | None = None,
    duplicate_bits: float = 10.0,
    overwrite: bool = False,
) -> Prepared:
    """Cuts every video of a folder into clips and writes them with `metadata.jsonl`, `rejected.jsonl`, `kept.png` and
    the page `report.html`.

    The same call goes on after an interruption: videos that are done stay.

    Args:
        videos: folder of long videos; their prompts, if any, go over to their clips.
        output_dir: of the clips.
        limits: of the clips that are kept.
        duplicate_bits: bits a frame, of 192, up to which a clip is a near-duplicate; negative keeps all.
        overwrite: whether what this command wrote into the folder before is deleted.

    Raises:
        InputError: there is no video, or the output folder lies among them, is in use or was made with other
            settings.
    """
    limits, source, folder = limits or Limits(), Path(videos), Path(output_dir)
    if folder.resolve().is_relative_to(source.resolve()):
        raise InputError(
            f"The output folder {folder} lies in {source}, whose videos would then be cut again: name another one."
        )
    rows = folder_rows(source)
    require_detectors()
    state = {"videos": str(source.resolve()), "duplicate_bits": duplicate_bits, **asdict(limits)}
    going_on = not overwrite and (folder / SETTINGS).is_file()
    if going_on:
        _check_same(folder, state)
    else:
        check_output_dir(folder, OUTPUTS, overwrite, [source])
    open_output_dir(folder, OUTPUTS, overwrite, going_on)
    write_json(folder / SETTINGS, state)
    done = _read_progress(folder)
    with tqdm(total=len(rows), desc="videos", unit="video") as bar:
        for number, row in enumerate(rows):
            name = row["file_name"]
            if name not in done:
                done[name] = _parts(source / name, name, number, folder, limits)
                if any("start" in part for part in done[name]):  # a file that cannot be read may be mended
                    _note(folder, name, done[name])
            bar.update(1)
    prompts = {row["file_name"]: row.get("prompt") or "" for row in rows}
    made = _finish(folder, [done[row["file_name"]] for row in rows], prompts, duplicate_bits)
    write_report(folder, source, made.kept, made.rejected, state)
    return made


def _parts(path: Path, name: str, number: int, folder: Path, limits: Limits) -> list[dict[str, Any]]:
    """Records of the parts of a video; of one that cannot be read the reason."""
    try:
        parts: list[Part] = clips_of(path, name, number, folder, limits)
    except InputError as error:
        return [{"source": name, "reason": str(error)}]
    return [part.row() for part in parts]


def _finish(
    folder: Path, done: Sequence[list[dict[str, Any]]], prompts: dict[str, str], duplicate_bits: float
) -> Prepared:
    """Takes near-duplicates out and writes the records; the same again if it is called again."""
    parts = [part for of_video in done for part in of_video]
    clips = [part for part in parts if part.get("file_name")]
    twins = near_duplicates([clip["hash"] for clip in clips], duplicate_bits)
    kept, rejected = [], [part for part in parts if not part.get("file_name")]
    for place, clip in enumerate(clips):
        line = {key: value for key, value in clip.items() if key != "hash"}
        if place in twins:
            twin = clips[twins[place]]["file_name"]
            rejected.append({**line, "reason": f"it is a near-duplicate of {twin}"})
        else:
            kept.append({"file_name": line.pop("file_name"), "prompt": prompts[line["source"]], **line})
    write_jsonl(folder / REJECTED, rejected)
    if kept:
        write_jsonl(folder / METADATA, kept)
        _write_sheet(folder, kept)
    for place in twins:
        (folder / clips[place]["file_name"]).unlink(missing_ok=True)
    return Prepared(kept, rejected)


def _write_sheet(folder: Path, kept: Sequence[dict[str, Any]]) -> None:
    """A picture of the clips that were kept, or of some spread evenly over them."""
    count = min(len(kept), _SHEET_ROWS)
    shown = [kept[place * len(kept) // count] for place in range(count)]
    videos, labels = [], []
    for row in shown:
        height = _SHEET_SIDE
        width = max(1, min(4 * height, round(height * row["width"] / row["height"])))
        videos.append(read_clip(folder / row["file_name"], _SHEET_FRAMES, height, width))
        seconds = f"{row['start']:.1f}-{row['end']:.1f} s"
        labels.append(f"{row['file_name']}  {row['source']}  {seconds}  motion {row['motion']:.3f}")
    contact_sheet(videos, folder / SHEET, labels, _SHEET_FRAMES, min_side=_SHEET_SIDE)


def _check_same(folder: Path, state: dict[str, Any]) -> None:
    require_own(folder, OUTPUTS)
    before = read_record(folder / SETTINGS)
    differing = [key for key in state if before.get(key) != state[key]]
    if differing:
        raise InputError(
            f"{folder} was made with another {', '.join(differing)}: give the same arguments to go on, name another "
            "output folder, or pass --overwrite."
        )


def _note(folder: Path, name: str, parts: list[dict[str, Any]]) -> None:
    with (folder / PROGRESS).open("a", encoding="utf-8") as file:
        file.write(json.dumps({"file_name": name, "parts": parts}, ensure_ascii=False) + "\n")


def _read_progress(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Videos that are done; the torn last line of a killed process is taken out."""
    path = folder / PROGRESS
    if not path.is_file():
        return {}
    whole, end, torn = path.read_text(encoding="utf-8", errors="replace").rpartition("\n")
    if torn:
        path.write_text(whole + end, encoding="utf-8")
    return {row["file_name"]: row["parts"] for _, row in read_jsonl(path)}
