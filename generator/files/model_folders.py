"""Folders of models: built-in ones, local ones and those of the hub, found without importing torch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from generator.files.adapter_paths import find_adapter_files
from generator.files.built_in import PRETRAINED, find_adapter
from generator.output import InputError

CASCADE_CLASS = "VideoCascade"
"""Name in the `model_index.json` of a cascade, where a pipeline has its class."""
CASCADE = "nano-cascade"
"""Name of the built-in cascade."""
TRAIN_CASCADE = (
    "train its stages with `vidalign pretrain --stage temporal --output_dir runs/temporal` and `vidalign pretrain "
    "--stage spatial --output_dir runs/spatial`, and join them with `vidalign pretrain --join_stages runs/temporal "
    "runs/spatial runs/spatial --output_dir runs/cascade`, which is then the model's name"
)


def find_pipeline(
    name_or_path: str | Path, without: Sequence[str] = (), only: Sequence[str] | None = None
) -> Path:
    """The folder with `model_index.json` for a built-in name, a local folder or a hub id.

    Args:
        without: patterns of files that are not needed from the hub.
        only: patterns of the files that are needed from there; all where not given.

    Raises:
        InputError: nothing of that name can be found.
    """
    built_in = sorted(index.parent.name for index in PRETRAINED.glob("*/model_index.json"))
    for folder in (PRETRAINED / str(name_or_path), Path(name_or_path)):
        if (folder / "model_index.json").is_file():
            return folder
    if str(name_or_path) == CASCADE:
        raise InputError(f"{CASCADE} is not part of this installation: {TRAIN_CASCADE}.")
    names = ", ".join(built_in) or "none is installed"
    known = f"a built-in model ({names}), a folder with model_index.json, or a hub id"
    if Path(name_or_path).exists():
        raise InputError(f"{name_or_path} holds no model_index.json, but the model must be {known}.")
    if str(name_or_path).count("/") != 1:
        raise InputError(f"The model {str(name_or_path)!r} is unknown: name {known}.")
    name = str(name_or_path)
    return hub_folder(name, f"The model {name!r} is", known, without, only)


def hub_folder(
    name: str, subject: str, known: str, without: Sequence[str] = (), only: Sequence[str] | None = None
) -> Path:
    """The folder of a hub id, fetched if it is not in the cache.

    Args:
        name: the hub id.
        subject: beginning of the sentence where it cannot be had, such as `The model 'a/b' is`.
        known: what may be named instead.
        without, only: patterns of files, as `find_pipeline` takes them.

    Raises:
        InputError: it cannot be had.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        wanted, unwanted = None if only is None else list(only), list(without)
        return Path(snapshot_download(name, allow_patterns=wanted, ignore_patterns=unwanted))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise InputError(
            f"{subject} not on this machine, and {hub_failure(error)}, or name {known}."
        ) from error


def hub_failure(error: Exception) -> str:
    """Reason for which the hub gave nothing, and advice."""
    from huggingface_hub import constants
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError

    if constants.HF_HUB_OFFLINE:
        return "the hub is not asked, as HF_HUB_OFFLINE is set: unset it, or download the model first"
    if isinstance(error, GatedRepoError):
        return "the hub gives it only to who has accepted its terms: accept them there and log in with `hf auth login`"
    if isinstance(error, RepositoryNotFoundError | HFValidationError):
        return "the hub has nothing of that name for you: check the name, log in with `hf auth login` if it is private"
    return f"the hub cannot be reached ({type(error).__name__}): check the connection"


def require_model(name_or_path: str | Path, adapters: Iterable[str | Path] | None = None) -> None:
    """Looks for a model and its adapters, of which nothing is loaded.

    Of a hub id only the file `model_index.json` is asked for.

    Raises:
        InputError: one of them cannot be found.
    """
    find_pipeline(name_or_path, only=["model_index.json"])
    for path in adapters or ():
        find_adapter_files(find_adapter(path))
