"""Hashes of files and weights, and versions of packages: what a result was made from."""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn

    from generator.video_model import VideoModel

PACKAGES = ("vidalign", "torch", "transformers", "trl", "diffusers", "peft", "accelerate", "numpy", "av")
_SAMPLED_VALUES = 4096


def file_hash(path: str | Path) -> str:
    """SHA-256 of a file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that a result depends on; those that are not installed are left out."""
    installed = {package: _installed_version(package) for package in PACKAGES}
    return {
        "python": platform.python_version(),
        **{package: version for package, version in installed.items() if version is not None},
    }


@cache
def _installed_version(package: str) -> str | None:
    """Version of a package; None if it is not installed. Every checkpoint records all of them."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def autoencoder_hash(generator: VideoModel) -> str | None:
    """SHA-256 of the autoencoder's weights; None if the pipeline has no `vae` (latents are then not
    cached)."""
    import torch

    vae = getattr(generator.pipeline, "vae", None)
    if not isinstance(vae, torch.nn.Module):
        return None
    digest = hashlib.sha256(type(vae).__name__.encode())
    for name, tensor in sorted(vae.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().contiguous().cpu().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _weights(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Named weights without adapters, under the names that they have before PEFT wraps their layers."""
    for name, value in sorted(module.state_dict().items()):
        if "lora_" in name:
            continue
        yield name.replace(".base_layer", "").replace("base_model.model.", ""), value


def fingerprint(module: nn.Module) -> str:
    """SHA-256 (16 hex digits) over names, shapes and evenly spread values of the weights; adapters do not
    count."""
    return tensors_fingerprint(_weights(module))


def tensors_fingerprint(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """SHA-256 (16 hex digits) over names, shapes and evenly spread values of named tensors.

    At most 4096 values of each enter, rounded to bfloat16, so a model of billions of parameters takes seconds.
    """
    import torch

    digest = hashlib.sha256()
    for name, value in sorted(tensors, key=lambda item: item[0]):
        flat = value.detach().reshape(-1)
        sample = flat[:: max(1, flat.numel() // _SAMPLED_VALUES)][:_SAMPLED_VALUES]
        digest.update(f"{name}{tuple(value.shape)}".encode())
        # Rounded, so that a model that was trained in bfloat16 on a GPU is known again in float32 on a CPU.
        rounded = sample.to(device="cpu", dtype=torch.bfloat16).float()
        digest.update(rounded.numpy().tobytes())
    return digest.hexdigest()[:16]


def latent_space_fingerprint(generator: VideoModel) -> str:
    """Fingerprint of everything that makes latents and conditions: all modules of the pipeline but the
    transformer."""
    from torch import nn

    digest = hashlib.sha256()
    components = getattr(generator.pipeline, "components", {})
    for name, component in sorted(components.items()):
        if (
            isinstance(component, nn.Module)
            and component is not generator.transformer
            and name != "transformer"
        ):
            digest.update(f"{name}{fingerprint(component)}".encode())
    return digest.hexdigest()[:16]
