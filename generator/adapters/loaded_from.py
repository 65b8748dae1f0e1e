"""Sources of a generator's weights beside its folder: files of weights, and adapters merged as its base."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from generator.output import InputError
from generator.provenance import fingerprint
from generator.video_model import VideoModel

logger = logging.getLogger(__name__)

BASE_ADAPTERS = "base_adapters"
"""In `training.json`: adapters that were merged into the weights before training and are no part of what is saved."""
WEIGHT_FILES = "weight_files"
"""In `training.json`: the files that took the place of the folder's weights."""
BASE_WEIGHTS = "base_weights_fingerprint"
"""In `training.json`: fingerprint of the transformer's weights before any adapter was merged."""
_PATHS = "_weight_paths"
_BASES = "_base_adapter_paths"


@dataclass(frozen=True)
class WeightSources:
    """Files beside a model's folder that its weights were made from, as `load_generator` was given them.

    Attributes:
        base_adapters: path and weight of each adapter that was merged as the base.
        files: paths by the argument's name: `transformer`, `transformer_2`, `motion_adapter`.
    """

    base_adapters: tuple[tuple[Path, float], ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)

    def options(self) -> dict[str, Any]:
        """Keyword arguments of `load_generator`, and names of flags; empty for a folder alone."""
        bases = [str(path) if weight == 1 else f"{path}:{weight!r}" for path, weight in self.base_adapters]
        return {**({"base_adapter": bases} if bases else {}), **self.files}


def sources_of(generator: VideoModel) -> WeightSources:
    """Files beside its folder that the weights of a generator were made from."""
    known = vars(generator)
    return WeightSources(tuple(known.get(_BASES, ())), known.get(_PATHS, {}))


def remember_base_adapter(generator: VideoModel, path: Path, weight: float, record: dict[str, Any]) -> None:
    """Adds an adapter that was merged as the base to the generator's sources, and its record for `training.json`."""
    vars(generator).setdefault(_BASES, []).append((path, weight))
    vars(generator).setdefault(BASE_ADAPTERS, []).append(record)


def remember_files(
    generator: VideoModel, record: Mapping[str, dict[str, str]], paths: Mapping[str, str | Path | None]
) -> None:
    """Makes files the generator's sources.

    Args:
        record: name and SHA-256 of each, for `training.json`.
        paths: by the name of the argument of `load_generator`; None where it was not given.
    """
    vars(generator)[WEIGHT_FILES] = record
    vars(generator)[_PATHS] = {name: str(path) for name, path in paths.items() if path is not None}


@dataclass(frozen=True)
class _Merged:
    """Adapters in the weights of a generator.

    Attributes:
        base: fingerprint of the weights before the first adapter.
        adapters: fingerprints of what was added.
        result: fingerprint of the weights afterwards.
    """

    base: str
    adapters: tuple[str, ...]
    result: str


def _merged(generator: VideoModel) -> _Merged:
    now = fingerprint(generator.transformer)
    found: _Merged | None = vars(generator).get("_merged_weights")
    return found if found is not None and found.result == now else _Merged(now, (), now)


@contextmanager
def merging(generator: VideoModel, adapters: Sequence[str]) -> Iterator[None]:
    """Remembers, around a change of the weights, their fingerprint before it and those of the merged adapters."""
    before = _merged(generator)
    yield
    now = fingerprint(generator.transformer)
    vars(generator)["_merged_weights"] = _Merged(before.base, (*before.adapters, *adapters), now)


def weights_fingerprint(generator: VideoModel) -> str:
    """Fingerprint (16 hex digits) of the transformer's weights before adapters were merged, and of these adapters.

    It is the same in every data type, while the merged weights differ by whether they were rounded before merging. That
    of weights without merged adapters, or that were changed since, is `generator.provenance.fingerprint`.
    """
    merged = _merged(generator)
    if not merged.adapters:
        return merged.base
    text = " ".join([merged.base, *sorted(merged.adapters)])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def base_fingerprint(generator: VideoModel) -> str | None:
    """Fingerprint (16 hex digits) of the weights before any adapter was merged; None of quantised weights."""
    if not all(weight.is_floating_point() for weight in generator.transformer.parameters()):
        return None
    return _merged(generator).base


def loaded_from(generator: VideoModel) -> dict[str, Any]:
    """Names and hashes for `training.json` of what the weights were made from; empty for a folder alone."""
    found = {name: vars(generator).get(name) for name in (BASE_ADAPTERS, WEIGHT_FILES)}
    return {name: value for name, value in found.items() if value}


def check_loaded_from(generator: VideoModel, record: Mapping[str, Any], path: str | Path) -> None:
    """Compares the weights that an adapter was trained on with those of a generator.

    Args:
        record: the adapter's `training.json`.
        path: of the adapter, for messages.

    Raises:
        InputError: the adapter was trained on a base adapter that is not merged, or merged at another weight.
    """
    present = {(each["sha256"], each["weight"]) for each in vars(generator).get(BASE_ADAPTERS, [])}
    for each in record.get(BASE_ADAPTERS, []):
        if (each["sha256"], each["weight"]) not in present:
            weight = "" if each["weight"] == 1 else f":{each['weight']:g}"
            raise InputError(
                f"The adapter {path} was trained on {each['name']} (SHA-256 {each['sha256'][:12]}…, weight "
                f"{each['weight']:g}), which is not part of {generator.name} here: pass --base_adapter "
                f"{each['name']}{weight}."
            )
    files = vars(generator).get(WEIGHT_FILES, {})
    for name, each in record.get(WEIGHT_FILES, {}).items():
        if files.get(name, {}).get("sha256") != each["sha256"]:
            logger.warning(
                "%s was trained on the weights %s (--%s), and is loaded on others of the same shape.",
                path, each["name"], name,
            )  # fmt: skip


def check_base_weights(generator: VideoModel, record: Mapping[str, Any], path: str | Path) -> None:
    """Warns where an adapter was trained on other weights of the same model, not told already by their files' hashes.

    Args:
        record: the adapter's `training.json`; one without a fingerprint is not compared.
        path: of the adapter, for the message.
    """
    trained_on, here = record.get(BASE_WEIGHTS), base_fingerprint(generator)
    files = {name: each["sha256"] for name, each in record.get(WEIGHT_FILES, {}).items()}
    loaded = {name: each["sha256"] for name, each in vars(generator).get(WEIGHT_FILES, {}).items()}
    if None in (trained_on, here) or trained_on == here or not files.items() <= loaded.items():
        return
    logger.warning(
        "%s was trained on the weights of %s, and is loaded on %s, whose weights are others of the same shape: "
        "what it learnt may not carry over.",
        path, record.get("base_model", "another model"), generator.name,
    )  # fmt: skip
