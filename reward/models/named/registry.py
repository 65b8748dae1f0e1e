"""The registry of rewards that are known by name: `NAME[:DIMENSION][:key=value]…[:FOLDER_OR_URL]`.

Case, hyphens and underscores of names and dimensions do not matter. The place comes last and may hold colons:
`pickscore`, `hpsv2:v2.0`, `aesthetic:frames=4:reduce=min`, `videoalign:TA:/models/VideoReward`,
`judge:question=@ask.txt:http://host:8000/v1`.

How a reward registers
    1. An entry `NamedReward(…)` in a module that imports neither torch nor transformers (`frame_entries`,
       `plain_entries`); its tuple is added to `ENTRIES` below.
    2. A loader, `(request: RewardRequest) -> RewardModel`, in a module of its own, which `NamedReward.loader` names as
       `module:function`. It is imported only when the reward is asked for. In it

       - `files_of(request, source)` (`places`) gives the paths of the files of a `HubFiles`, from the user's folder or
         the Hugging Face cache, or raises the one sentence that says how to get them;
       - `shared(key, load)` (`sharing`) gives weights that another reward of this process loaded under the same key, so
         that names and dimensions share them;
       - the model sets `name = request.name`, `dimensions = request.dimensions`, `names_dimensions = True`,
         `scale = entry.scale` and `settings` (what a run records: place, options, `frames`, `reduce`, hashes by
         `fingerprints`); `identify(model, request, files, **more)` does all of that;
       - a reward on single frames derives from `frames.FrameReward` and has only `frame_scores` to write;
       - a reward on whole videos reads their frame rate from `self.frame_rate`, which callers set (`RewardModel`);
       - where gradients pass, `pixel_gradients = True` and `score_pixels`; see `RewardModel`.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from generator.output import InputError
from reward.models.named.entry import COMMON_OPTIONS, NamedReward, RewardRequest
from reward.models.named.frame_entries import FRAME_REWARDS
from reward.models.named.plain_entries import PLAIN_REWARDS
from reward.models.named.video_entries import VIDEO_REWARDS

if TYPE_CHECKING:
    from reward.models.base import RewardModel

ENTRIES: tuple[NamedReward, ...] = (*FRAME_REWARDS, *PLAIN_REWARDS, *VIDEO_REWARDS)

_OPTION = re.compile(r"([A-Za-z][\w-]*)=(.*)", re.DOTALL)
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def plain(word: str) -> str:
    """A name without case, hyphens and underscores."""
    return word.lower().replace("-", "").replace("_", "")


def find(name: str) -> NamedReward | None:
    """The entry that the part of `name` before the first colon names, if it names one."""
    word = plain(name.partition(":")[0].strip())
    return next((entry for entry in ENTRIES if plain(entry.name) == word), None)


def nearest(name: str) -> str:
    """The registered name most like `name`; empty where none is."""
    names = {plain(entry.name): entry.name for entry in ENTRIES}
    found = difflib.get_close_matches(plain(name.partition(":")[0]), names, 1, 0.7)
    return names[found[0]] if found else ""


def parse(text: str, device: Any = None) -> RewardRequest:
    """Reads `NAME[:DIMENSION][:key=value]…[:FOLDER_OR_URL]`.

    Raises:
        InputError: there is no such name, dimension, option or value, or the place is missing or superfluous.
    """
    entry = find(text)
    if entry is None:
        raise InputError(f"There is no reward {text!r} in the registry: {names_text()} are known.")
    rest, place = _without_url(text.partition(":")[2])
    dimension: str | None = None
    options: dict[str, Any] = {}
    words = rest.split(":") if rest else []
    for number, word in enumerate(words):
        option = _OPTION.fullmatch(word)
        chosen = _same(word, (*entry.dimensions, *entry.versions))
        if option is not None:
            name, value = _read_option(entry, option.group(1), option.group(2))
            options[name] = value
        elif chosen is not None and dimension is None and not options:
            dimension = chosen
        elif not place:
            place = ":".join(words[number:])
            _check_place(entry, place)
            break
        else:
            raise _unknown_word(entry, word)
    if place and not entry.weights and not entry.served:
        raise InputError(
            f"The reward {entry.name} reads no weights, so it has no place: leave {place!r} out."
        )
    if entry.served and not place.startswith(("http://", "https://")):
        raise InputError(
            f"The reward {entry.name} is behind a server: end its name with the address, {entry.name}:http://HOST:PORT/v1."
        )
    return RewardRequest(entry, dimension, options, place, options.pop("device", None) or device)


def load(text: str, device: Any = None) -> RewardModel:
    """The reward that `text` names; see `parse`.

    Raises:
        InputError: it cannot be read, a package is missing, or its weights are not at hand.
    """
    request = parse(text, device)
    missing = missing_modules(request.entry)
    if missing:
        raise InputError(
            f"The reward {request.entry.name} needs {', '.join(missing)}: {install_command(request.entry)}"
        )
    module, _, function = request.entry.loader.partition(":")
    return getattr(importlib.import_module(module), function)(request)


def missing_modules(entry: NamedReward) -> list[str]:
    """The modules of an entry that are not installed."""
    return [name for name in entry.modules if importlib.util.find_spec(name) is None]


def names_text() -> str:
    """All names, joined for a message."""
    return ", ".join(entry.name for entry in ENTRIES)


def install_command(entry: NamedReward) -> str:
    """The command that installs the modules of an entry."""
    return (
        f"pip install 'vidalign[{entry.extra}]'" if entry.extra else f"pip install {' '.join(entry.modules)}"
    )


def _without_url(rest: str) -> tuple[str, str]:
    """Returns the text before an address, and the address."""
    found = re.search(r"(?:^|:)(https?://)", rest)
    if found is None:
        return rest, ""
    return rest[: found.start()], rest[found.start(1) :]


def _same(word: str, choices: Iterable[str]) -> str | None:
    return next((choice for choice in choices if plain(choice) == plain(word)), None)


def _read_option(entry: NamedReward, name: str, value: str) -> tuple[str, Any]:
    readers = {**COMMON_OPTIONS, **entry.options}
    known = _same(name, readers)
    if known is None:
        close = difflib.get_close_matches(name, readers, 1)
        advice = f" Did you mean {close[0]}?" if close else ""
        raise InputError(
            f"The reward {entry.name} has no option {name!r}: {', '.join(sorted(readers))} are known.{advice}"
        )
    try:
        return known, readers[known](value)
    except ValueError as error:
        raise InputError(f"{known} of the reward {entry.name} is {value!r}, but must be {error}.") from None


def _check_place(entry: NamedReward, place: str) -> None:
    """Raises `InputError` unless `place` is a folder or file that exists or looks like a hub id."""
    if Path(place).expanduser().exists():
        return
    first = place.partition(":")[0]
    if re.fullmatch(r"\d*\.?\d+", first):
        raise InputError(
            f"{entry.name}:{first} looks like a weight: name {entry.name} and give --reward_weights {first}."
        )
    if "/" not in place or entry.served:
        raise _unknown_word(entry, place)
    if place.startswith(("/", "./", "../", "~")) or not _HUB_ID.fullmatch(place):
        raise InputError(
            f"There is no folder {place}, where the weights of {entry.name} were expected: check it."
        )


def _unknown_word(entry: NamedReward, word: str) -> InputError:
    choices = [choice for choice in (*entry.dimensions, *entry.versions) if choice != "overall"]
    known = f"a dimension ({', '.join(choices)})" if choices else "a dimension (it has none to choose from)"
    place = "an address http://…" if entry.served else "a folder"
    return InputError(
        f"{word!r} of the reward {entry.name} is neither {known} nor an option key=value nor {place}: write "
        f"{entry.name}[:DIMENSION][:key=value][:{'URL' if entry.served else 'FOLDER'}]; your own module "
        f"{entry.name}.py needs another name to be used as module:function."
    )
