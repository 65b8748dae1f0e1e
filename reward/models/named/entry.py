"""`NamedReward`, the entry of a reward in the registry, and `RewardRequest`, a reward that was asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from generator.output import InputError

Option = Callable[[str], Any]
"""Reads the text of an option; raises `ValueError` with the expected values where it cannot."""


@dataclass(frozen=True)
class HubFiles:
    """Files of one hub repository that a reward reads.

    Attributes:
        repository: id on the hub; of a file that is not on it, a name for messages.
        files: names in it; `first|second` is satisfied by either, the first one preferred. In a folder and in the cache
            a name may hold `*`, for which the highest number is taken, and begin with `../`.
        gigabytes: size of the weights.
        optional: files that are read where they exist.
        address: of the one file of a repository that is not on the hub; kept in torch.hub's checkpoints.
        md5: of that file.
        aliases: other ids of the repository, from before or after it moved, under which a cache may hold it.
    """

    repository: str
    files: tuple[str, ...]
    gigabytes: float
    optional: tuple[str, ...] = ()
    address: str = ""
    md5: str = ""
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True)
class NamedReward:
    """A reward as the registry knows it. Making one imports nothing.

    Attributes:
        name: as it is written and logged, for example `pickscore`.
        loader: `module:function` of the function `(request: RewardRequest) -> RewardModel`, imported on use.
        summary: a phrase for tables.
        sees: `frames` (each by itself), `video` (with its frame rate) or `pixels and prompt` of the world.
        scale: usual range of the scores on videos, which warnings about mixtures compare.
        dimensions: names of its scores, in upstream's spelling. `NAME:DIMENSION` gives that one alone, which the model
            then exposes as `overall`; plain `NAME` gives all.
        versions: further words in the place of a dimension that choose other weights, for example `v2.0`.
        weights: what is read from the hub or the user's folder, the main repository first; empty where nothing is.
        licence: of the weights.
        gradients: whether `score_pixels` passes gradients.
        options: its own options and their readers, beside `COMMON_OPTIONS`.
        extra: extra of vidalign to install, for example `ocr`.
        modules: modules that have to be installed.
        served: the place is the address of a server.
        hacks: what optimising it is known to do.
        paper: arXiv number or address.
    """

    name: str
    loader: str
    summary: str
    sees: str
    scale: tuple[float, float]
    dimensions: tuple[str, ...] = ("overall",)
    versions: tuple[str, ...] = ()
    weights: tuple[HubFiles, ...] = ()
    licence: str = ""
    gradients: bool = False
    options: Mapping[str, Option] = field(default_factory=dict)
    extra: str = ""
    modules: tuple[str, ...] = ()
    served: bool = False
    hacks: str = ""
    paper: str = ""

    @property
    def gigabytes(self) -> float:
        """Size of all weights."""
        return sum(source.gigabytes for source in self.weights)


@dataclass(frozen=True)
class RewardRequest:
    """A reward that was asked for: `NAME[:DIMENSION][:key=value]…[:FOLDER_OR_URL]`, read.

    Attributes:
        entry: what was named.
        dimension: the dimension or version that was named, in the entry's spelling; None for all.
        options: values of the options that were given.
        place: folder, hub id or URL that was given; empty where none was.
        device: where the model goes; None leaves the choice to the loader.
    """

    entry: NamedReward
    dimension: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    place: str = ""
    device: Any = None

    @property
    def name(self) -> str:
        """Short name for logs: `videoalign:TA`."""
        return self.entry.name + (f":{self.dimension}" if self.dimension else "")

    @property
    def dimensions(self) -> tuple[str, ...]:
        """Names of the scores of the loaded model: all, or `overall` for the one that was asked for."""
        chosen = self.dimension in self.entry.dimensions
        return ("overall",) if chosen else self.entry.dimensions

    def refuse(self, *names: str) -> None:
        """Raises `InputError` where one of these common options was given, which the reward has no use for."""
        for name in names:
            if name in self.options:
                raise InputError(
                    f"The reward {self.entry.name} has no use for {name}={self.options[name]}: leave it out."
                )

    def folder(self) -> Path | None:
        """The folder that was given, where the place is one; that of a file that was given."""
        path = Path(self.place).expanduser()
        if not self.place or not path.exists():
            return None
        return path.parent if path.is_file() else path


def whole_number(text: str) -> int:
    """A whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise ValueError("a whole number of at least 1")
    return int(text)


def number(text: str) -> float:
    """Any finite number."""
    try:
        value = float(text)
    except ValueError:
        raise ValueError("a number") from None
    if value != value or abs(value) == float("inf"):
        raise ValueError("a finite number")
    return value


def one_of(*choices: str) -> Option:
    """A reader of one of some words."""

    def read(text: str) -> str:
        if text.lower() not in choices:
            raise ValueError(", ".join(choices))
        return text.lower()

    return read


def frame_choice(text: str) -> int | str:
    """Frames to look at: their number, evenly from the first to the last, or `all`, `first`, `middle`."""
    if text.lower() in ("all", "first", "middle"):
        return text.lower()
    try:
        return whole_number(text)
    except ValueError:
        raise ValueError("a number of frames, all, first or middle") from None


def reduction(text: str) -> str:
    """Rule that makes one score of those of frames: `mean`, `min`, `max`, `first`, or `topNN` (best NN %, averaged)."""
    word = text.lower()
    if word in ("mean", "min", "max", "first"):
        return word
    share = word.removeprefix("top")
    if word.startswith("top") and share.isdecimal() and 1 <= int(share) <= 100:
        return word
    raise ValueError("mean, min, max, first or topNN with NN from 1 to 100")


COMMON_OPTIONS: Mapping[str, Option] = {
    "frames": frame_choice,
    "reduce": reduction,
    "batch_size": whole_number,
    "dtype": one_of("float32", "bfloat16", "float16"),
    "device": str,
    "scale": number,
}
"""Options of every reward; a loader refuses those it has no use for (`RewardRequest.refuse`). `scale` multiplies the
scores."""
