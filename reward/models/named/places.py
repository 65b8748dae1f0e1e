"""Places of the files of named rewards: a folder or the Hugging Face cache; and the records that runs keep of them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from generator.output import InputError, atomic_path
from reward.models.named.entry import HubFiles, NamedReward, RewardRequest

HASHED_WHOLE = 64 * 2**20
"""Bytes up to which a file is recorded by its SHA-256; a larger one by its size and, from the hub's cache, its blob."""


def files_of(request: RewardRequest, source: HubFiles | None = None) -> dict[str, Path]:
    """Paths of the files of `source` by the names that `HubFiles` has for them, absent optional ones left out.

    The folder that was given comes first: the files lie in it, or in its folder that is called as the repository. What
    the main repository (the first of the entry) has must be there; further ones may come from the hub's cache.

    Args:
        source: one of `request.entry.weights` or another of a repository of theirs; the first where None.

    Raises:
        InputError: some are missing, and the hub does not give them.
    """
    entry = request.entry
    source = source or entry.weights[0]
    folder = request.folder()
    if folder is not None:
        found = _in_folder(folder, source)
        if found is not None:
            return found
        if source.repository == entry.weights[0].repository:
            raise _wrong_folder(entry, source, folder)
    elif request.place and source.repository == entry.weights[0].repository:
        source = HubFiles(request.place, source.files, source.gigabytes, source.optional)
    return _from_hub(entry, source)


def folder_of(files: Mapping[str, Path]) -> Path:
    """The folder that the first of the files is in, for `from_pretrained`."""
    return next(iter(files.values())).parent


def cached(source: HubFiles) -> bool:
    """Returns whether all files of `source` are in the Hugging Face cache; asks no network."""
    return all(_cached(source, name) is not None for name in source.files)


def download_command(source: HubFiles) -> str:
    """The command that fetches the files of `source`."""
    if source.address:
        return f"curl -L --create-dirs -o '{_checkpoint(source)}' '{source.address}'"
    names = [name.split("|")[0] for name in source.files]
    return f"hf download {source.repository} {' '.join([*names, *source.optional])}".rstrip()


def fingerprints(files: Iterable[Path]) -> dict[str, str]:
    """By file name, what tells its content apart: SHA-256 of small files, size and hub blob or time of large ones."""
    from generator.provenance import file_hash

    found = {}
    for path in dict.fromkeys(files):
        size = path.stat().st_size
        if size <= HASHED_WHOLE:
            found[path.name] = f"sha256:{file_hash(path)}"
        elif path.is_symlink():  # in the cache a file is a link to a blob that its hash names
            found[path.name] = f"{size} bytes, blob {path.resolve().name}"
        else:
            found[path.name] = f"{size} bytes, modified {int(path.stat().st_mtime)}"
    return found


def identify(model: Any, request: RewardRequest, files: Iterable[Path] = (), **more: Any) -> Any:
    """Gives a loaded model the name, dimensions, scale and settings of its request; returns it.

    Args:
        files: the weights that it was loaded from.
        more: further settings to record, such as `frames` and `reduce` in effect or the hash of a template.
    """
    factor = float(request.options.get("scale", 1.0))
    model.name = request.name
    model.dimensions = request.dimensions
    model.names_dimensions = True
    model.scale = tuple(sorted(factor * bound for bound in request.entry.scale))
    model.settings = {
        "place": request.place or None,
        **{name: value for name, value in request.options.items() if isinstance(value, str | int | float)},
        **more,
        "files": fingerprints(files),
    }
    return model


def _in_folder(folder: Path, source: HubFiles) -> dict[str, Path] | None:
    owner, _, name = source.repository.partition("/")
    for place in (folder, folder / name, folder / f"{owner}--{name}"):
        found = {wanted: _first(place, wanted) for wanted in source.files}
        if all(found.values()):
            extra = {name: place / name for name in source.optional if (place / name).is_file()}
            return {name: path for name, path in found.items() if path is not None} | extra
    return None


def _first(folder: Path, wanted: str) -> Path | None:
    paths = (path for name in wanted.split("|") for path in _matches(folder, name))
    return next((path for path in paths if path.is_file()), None)


def _shown(wanted: str) -> str:
    """A file and its alternatives for messages."""
    return " or ".join(name for name in wanted.split("|") if "*" not in name and not name.startswith("../"))


def _matches(folder: Path, name: str) -> list[Path]:
    """The paths that a name stands for, the highest number first where it holds `*`."""
    if "*" not in name:
        return [folder / name]

    def numbers(path: Path) -> list[int]:
        return [int(digits) for digits in re.findall(r"\d+", str(path.relative_to(folder)))]

    return sorted(folder.glob(name), key=numbers, reverse=True)


def _wrong_folder(entry: NamedReward, source: HubFiles, folder: Path) -> InputError:
    missing = [_shown(name) for name in source.files if _first(folder, name) is None]
    present = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    shown = ", ".join(present[:8]) + (", …" if len(present) > 8 else "") if present else "nothing"
    return InputError(
        f"{folder} lacks {', '.join(missing)} of {source.repository}, which {entry.name} reads (found: {shown}): give "
        "the folder that holds it."
    )


def _checkpoint(source: HubFiles) -> Path:
    """Path of a file that is not on the hub; torch.hub's own rule for it, without importing torch."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "torch"
    folder = Path(os.environ.get("TORCH_HOME", cache)).expanduser()
    return folder / "hub" / "checkpoints" / source.files[0].split("|")[0]


def _cached(source: HubFiles, wanted: str) -> Path | None:
    if source.address:
        path = _checkpoint(source)
        return path if path.is_file() else None
    from huggingface_hub import try_to_load_from_cache

    for repository in (source.repository, *source.aliases):
        for name in wanted.split("|"):
            found: Any
            if "*" in name:
                # The first file's folder is that of the snapshot.
                first = try_to_load_from_cache(repository, source.files[0].split("|")[0])
                found = _first(Path(first).parent, name) if isinstance(first, str) else None
            else:
                found = None if name.startswith("../") else try_to_load_from_cache(repository, name)
            if isinstance(found, str | Path):
                return Path(found)
    return None


def _from_hub(entry: NamedReward, source: HubFiles) -> dict[str, Path]:
    found = {}
    for wanted in (*source.files, *source.optional):
        path = _cached(source, wanted) or _fetch(source, wanted)
        if path is not None:
            found[wanted] = path
        elif wanted in source.files:
            size = (
                f"{source.gigabytes:.2g} GB"
                if source.gigabytes >= 0.01
                else f"{1000 * source.gigabytes:.2g} MB"
            )
            raise InputError(
                f"The weights of {entry.name} ({source.repository}, {size}) are not in the cache, and "
                f"{_shown(wanted)} cannot be downloaded here: fetch them with "
                f"`{download_command(source)}` or give a folder, {entry.name}:FOLDER."
            )
    return found


def _fetch(source: HubFiles, wanted: str) -> Path | None:
    """A file from where it is published; None where it is not there or cannot be reached."""
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    if source.address:
        return None if constants.HF_HUB_OFFLINE else _fetch_checkpoint(source)
    for name in wanted.split("|"):
        if "*" in name or name.startswith("../"):
            continue
        try:
            return Path(hf_hub_download(source.repository, name))
        except (OSError, HfHubHTTPError, HFValidationError):
            continue
    return None


def _fetch_checkpoint(source: HubFiles) -> Path | None:
    """Downloads the file of an address; what is not the published file is not kept."""
    import hashlib
    import urllib.request

    try:
        with urllib.request.urlopen(source.address, timeout=60) as answer:
            content = answer.read()
    except (OSError, ValueError):
        return None
    if source.md5 and hashlib.md5(content).hexdigest() != source.md5:
        return None
    path = _checkpoint(source)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)
    return path
