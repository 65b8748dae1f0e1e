"""`load_generator`: from a name, a folder or a hub id to a `VideoGenerator`."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError

from generator.base import GenerationDefaults, VideoGenerator
from generator.output import InputError

DEFAULTS_NAME = "generation_defaults.json"
"""In a model's folder: sizes and sampling settings instead of the family's own, as `GenerationDefaults` has them."""

PRETRAINED = Path(__file__).parent / "pretrained"

FAMILIES = {
    "NativeVideoPipeline": "generator.families.native:NativeGenerator",
    "WanPipeline": "generator.families.wan:WanGenerator",
    "LTXPipeline": "generator.families.ltx:LTXGenerator",
    "CogVideoXPipeline": "generator.families.cogvideox:CogVideoXGenerator",
    "HunyuanVideoPipeline": "generator.families.hunyuan_video:HunyuanVideoGenerator",
    "HunyuanVideo15Pipeline": "generator.families.hunyuan_video:HunyuanVideo15Generator",
}
"""Pipeline class in `model_index.json` -> `module:class` of the adapter that serves it."""


def find_pipeline(name_or_path: str | Path) -> Path:
    """The folder with `model_index.json` for a built-in name, a local folder or a hub id.

    Raises:
        InputError: nothing of that name can be found.
    """
    built_in = sorted(index.parent.name for index in PRETRAINED.glob("*/model_index.json"))
    for folder in (PRETRAINED / str(name_or_path), Path(name_or_path)):
        if (folder / "model_index.json").is_file():
            return folder
    names = ", ".join(built_in) or "none is installed"
    known = f"a built-in model ({names}), a folder with model_index.json, or a hub id"
    if Path(name_or_path).exists():
        raise InputError(f"{name_or_path} holds no model_index.json, but the model must be {known}.")
    if str(name_or_path).count("/") != 1:
        raise InputError(f"The model {str(name_or_path)!r} is unknown: name {known}.")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(str(name_or_path)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise InputError(
            f"The model {str(name_or_path)!r} is neither here nor could it be fetched from the hub "
            f"({type(error).__name__}): name {known}."
        ) from error


def read_class_name(index: Path) -> str:
    """The name of the pipeline class in a `model_index.json`.

    Raises:
        InputError: the file is damaged.
    """
    try:
        return str(json.loads(index.read_text(encoding="utf-8"))["_class_name"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{index} names no pipeline class ({error!r}): restore it or download the model again."
        ) from error


def read_defaults(folder: Path, defaults: GenerationDefaults) -> GenerationDefaults:
    """`defaults` with what the model folder's `generation_defaults.json`, if it has one, says instead.

    Raises:
        InputError: the file is damaged or has an unknown field.
    """
    path = folder / DEFAULTS_NAME
    if not path.is_file():
        return defaults
    try:
        return dataclasses.replace(defaults, **json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        known = ", ".join(item.name for item in dataclasses.fields(defaults))
        raise InputError(
            f"{path} cannot be used ({error}): it must be a JSON object with some of {known}."
        ) from error


def default_device() -> torch.device:
    """The first GPU if there is one, the CPU otherwise."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@contextlib.contextmanager
def _no_progress_bars() -> Iterator[None]:
    """Loading takes a second; its bars would tear those of the work around it."""
    import diffusers.utils.logging as diffusers_logging
    import transformers.utils.logging as transformers_logging

    libraries = (diffusers_logging, transformers_logging)
    enabled = [library.is_progress_bar_enabled() for library in libraries]
    for library in libraries:
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library, on in zip(libraries, enabled, strict=True):
            if on:
                library.enable_progress_bar()


def load_generator(
    name_or_path: str | Path,
    adapter: str | Path | Sequence[str | Path] | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> VideoGenerator:
    """Loads a text-to-video generator.

    Args:
        name_or_path: a built-in model (`nano`), a folder written by `save_pretrained`, or a hub id.
        adapter: folder of a LoRA adapter, or several whose effects add up.
        device: where to put it; the first GPU if there is one, otherwise the CPU.
        dtype: of the transformer and text encoder; bfloat16 on a GPU and float32 on the CPU by default. The
            autoencoder stays in float32 on the CPU and follows `dtype` on a GPU.

    Raises:
        InputError: the model or the adapter cannot be found or read, or does not fit.
    """
    folder = find_pipeline(name_or_path)
    class_name = read_class_name(folder / "model_index.json")
    if class_name not in FAMILIES:
        raise InputError(
            f"{name_or_path} is a {class_name}, but the supported pipelines are {', '.join(FAMILIES)}: "
            "docs/families.md says how to add a family."
        )
    module_name, adapter_name = FAMILIES[class_name].split(":")
    family = getattr(importlib.import_module(module_name), adapter_name)
    device = torch.device(device) if device is not None else default_device()
    dtype = dtype or (torch.bfloat16 if device.type == "cuda" else torch.float32)
    try:
        with _no_progress_bars():
            pipeline = family.pipeline_class.from_pretrained(folder, dtype=dtype).to(device)
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"The model {name_or_path} cannot be read ({error}): restore its files or download it again."
        ) from error
    pipeline.set_progress_bar_config(disable=True)
    for component in pipeline.components.values():
        if isinstance(component, torch.nn.Module):
            component.requires_grad_(False).eval()
    generator = family(pipeline, str(name_or_path))
    generator.defaults = read_defaults(folder, generator.defaults)
    if adapter:
        from generator.adapters import load_adapters

        paths = [adapter] if isinstance(adapter, str | Path) else list(adapter)
        load_adapters(generator, [Path(path) for path in paths])
    return generator
