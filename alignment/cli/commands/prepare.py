"""`vidalign prepare`: long camera videos to training clips."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from alignment.cli.next_command import show_next
from generator.data.demonstrations import METADATA, require_data_set
from generator.output import InputError

HELP = "Make training clips of long camera videos: scene cuts, filters, near-duplicates out."
EXAMPLE = "vidalign prepare --videos films/ --output_dir runs/clips --min_seconds 2 --max_seconds 10"
RESUME = "Videos that are done are kept; to go on:"

DETECTORS = ["both", "adaptive", "content"]
NEXT_CAPTIONER = "http://localhost:8000/v1"


@dataclass
class PrepareArguments:
    """Videos, and the clips that are kept."""

    videos: str = field(metadata={"help": "Folder of long videos; folders in it count too."})
    output_dir: str = field(
        metadata={"help": "Folder for the clips, metadata.jsonl, rejected.jsonl and report.html."}
    )
    detector: str = field(
        default="both",
        metadata={
            "help": "Detector of cuts: `adaptive` compares a change with those around it, `content` with a threshold; "
            "`both` takes the cuts of either.",
            "choices": DETECTORS,
        },
    )
    adaptive_threshold: float = field(
        default=3.0, metadata={"help": "Change of a frame over that of its neighbours, for `adaptive`."}
    )
    content_threshold: float = field(
        default=27.0,
        metadata={
            "help": "Change of hue, saturation and luma of 255, for `content`; higher where lights flash."
        },
    )
    margin: int = field(default=1, metadata={"help": "Frames left out on either side of a cut."})
    min_seconds: float = field(default=2.0, metadata={"help": "Duration of a clip, at least."})
    max_seconds: float = field(
        default=10.0,
        metadata={"help": "Duration of a clip, at most; longer scenes are divided into equal parts."},
    )
    min_side: int = field(default=240, metadata={"help": "Pixels of the shorter side, at least."})
    max_side: int = field(
        default=0,
        metadata={
            "help": "Pixels of the shorter side to which larger videos are reduced; 0 leaves all as they are."
        },
    )
    min_motion: float = field(
        default=0.02,
        metadata={
            "help": "Speed of the fastest parts in shorter sides a second, at least; 0 keeps still clips."
        },
    )
    max_flicker: float = field(
        default=0.1,
        metadata={"help": "Change that no motion explains, at most, as a share of the pixel range."},
    )
    duplicate_bits: float = field(
        default=10.0,
        metadata={
            "help": "Bits of 192 in which frames of near-duplicates differ at most; -1 keeps duplicates."
        },
    )
    overwrite: bool = field(
        default=False,
        metadata={
            "help": "Delete what this command wrote into the output folder before; other files are never deleted."
        },
    )

    def __post_init__(self) -> None:
        if not 0 < self.min_seconds <= self.max_seconds:
            raise InputError(
                f"min_seconds is {self.min_seconds:g} and max_seconds {self.max_seconds:g}: give more than 0, "
                "and no more for the shortest than for the longest."
            )
        for name in ("margin", "min_side", "max_side", "min_motion"):
            if getattr(self, name) < 0:
                raise InputError(f"{name} is {getattr(self, name)}, but must not be below 0: raise it.")
        if self.max_side and self.max_side < self.min_side:
            raise InputError(
                f"max_side is {self.max_side}, below min_side, which is {self.min_side}: raise it, or lower min_side."
            )
        for name in ("adaptive_threshold", "content_threshold"):
            if getattr(self, name) <= 0:
                raise InputError(f"{name} is {getattr(self, name):g}, but must be above 0: raise it.")

    def check_inputs(self) -> None:
        """Raises `InputError` where there is no folder of videos."""
        require_data_set(self.videos)


ARGUMENTS = (PrepareArguments,)


def run(arguments: PrepareArguments) -> None:
    """Makes the clips that the output folder lacks, then the records."""
    from alignment.preparation.clips import Limits
    from alignment.preparation.folder import PAGE, REJECTED, prepare_folder

    limits = Limits(
        arguments.min_seconds,
        arguments.max_seconds,
        arguments.min_side,
        arguments.max_side,
        arguments.min_motion,
        arguments.max_flicker,
        arguments.detector,
        arguments.adaptive_threshold,
        arguments.content_threshold,
        arguments.margin,
    )
    folder = Path(arguments.output_dir)
    made = prepare_folder(arguments.videos, folder, limits, arguments.duplicate_bits, arguments.overwrite)
    if not made.kept:
        first = made.rejected[0]["reason"] if made.rejected else "there is none"
        raise InputError(
            f"None of {len(made.rejected)} parts was kept (the first: {first}): read {folder / REJECTED} and "
            "change the limits."
        )
    seconds = sum(row["end"] - row["start"] for row in made.kept)
    print(f"{len(made.kept)} clips ({seconds:.0f} seconds) in {folder / METADATA}")
    print(f"{len(made.rejected)} parts left out, with reasons in {folder / REJECTED}")
    print(f"What was kept and why the rest was not: {folder / PAGE}")
    show_next("caption", "--videos", folder, "--captioner", NEXT_CAPTIONER)
