"""Names and folders of stages on the command line, and videos through them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from generator.base import VideoGenerator
from generator.cascade.cascade import CascadeGenerator, base_of, read_cascade, through_stages
from generator.cascade.latent_upsampler import LatentUpsampler, upsampler_folder
from generator.cascade.stage import (
    INDEX_NAME,
    KINDS,
    CascadeStage,
    StageSampling,
    Upsampler,
    load_stage,
    read_settings,
)
from generator.files.built_in import PRETRAINED
from generator.files.model_folders import CASCADE, CASCADE_CLASS, TRAIN_CASCADE, hub_folder
from generator.output import InputError, read_record
from generator.provenance import latent_space_fingerprint
from generator.sampling import generate_latents

NETWORK = ("config.json", "diffusion_pytorch_model*.safetensors", "latent_upsampler/*")
"""Files of a latent upsampler in a hub repository, without those of a whole model beside it."""


def find_upsampler(name: str) -> Path:
    """The folder of a stage or a latent upsampler.

    Args:
        name: `temporal` or `spatial` for those of the built-in cascade, a folder, or the hub id of a latent upsampler,
            of which the network alone is fetched.

    Raises:
        InputError: there is none.
    """
    built_in = PRETRAINED / CASCADE / name
    if name in KINDS and not (Path(name) / INDEX_NAME).is_file():
        if (built_in / INDEX_NAME).is_file():
            return built_in
        raise InputError(
            f"--upsample {name} names a stage of {CASCADE}, which is not installed: {TRAIN_CASCADE}."
        )
    if name == CASCADE:
        raise InputError(f"--upsample {CASCADE} names what is not installed: {TRAIN_CASCADE}.")
    folder = Path(name)
    if name.count("/") == 1 and not folder.exists() and not name.startswith((".", "/", "~")):
        subject = f"The upsampler {name!r} is"
        folder = hub_folder(name, subject, "a folder of a stage or a latent upsampler", only=NETWORK)
    network = upsampler_folder(folder) if folder.is_dir() else None
    if network is not None:
        return network
    if (folder / INDEX_NAME).is_file():
        read_settings(folder)
        return folder
    raise InputError(
        f"--upsample {name} is neither temporal nor spatial, nor a cascade, nor a folder with a stage of `vidalign "
        "pretrain --stage`, nor a folder or hub id of a latent upsampler of LTX-Video or LTX-2: name one of these."
    )


def find_upsamplers(names: Sequence[str]) -> list[Path]:
    """Folders of stages and latent upsamplers in the order of their names, those of a cascade in its own order.

    Args:
        names: as `find_upsampler` takes them, or a cascade: `nano-cascade` or a folder.

    Raises:
        InputError: one cannot be found.
    """
    found: list[Path] = []
    for name in names:
        cascade = _cascade_folder(name)
        if cascade is None:
            found.append(find_upsampler(name))
        else:
            found += [cascade / stage for stage in read_cascade(cascade)["stages"]]
    return found


def base_of_upsamplers(names: Sequence[str]) -> str:
    """Name, hub id or folder of the model that the first of some upsamplers names as its own, for `load_generator`.

    Raises:
        InputError: it cannot be found, or is a latent upsampler, which names none.
    """
    folder = _cascade_folder(names[0]) or find_upsampler(names[0])
    if (folder / "config.json").is_file():
        raise InputError(
            f"--upsample {names[0]} is a latent upsampler, which does not say whose latents it takes: name the model "
            "with --model."
        )
    return base_of(folder)


def _cascade_folder(name: str) -> Path | None:
    """The folder of a cascade, built-in or the user's own; None where the name is of something else."""
    for folder in (PRETRAINED / name, Path(name)):
        index = folder / INDEX_NAME
        if index.is_file() and read_record(index).get("_class_name") == CASCADE_CLASS:
            return folder
    return None


def load_upsamplers(
    names: Sequence[str], model: VideoGenerator, load: Callable[..., VideoGenerator]
) -> list[Upsampler]:
    """Stages and latent upsamplers in the order of their names.

    A stage uses the autoencoder and text encoder of `model` where it was trained with these, else those of the model
    that it names.

    Args:
        names: as `find_upsamplers` takes them.
        model: that makes the coarse videos.
        load: `generator.load_generator`.

    Raises:
        InputError: one cannot be found, cannot be read, or does not fit the model.
    """
    found: list[Upsampler] = []
    codecs = {latent_space_fingerprint(model): model}
    for number, folder in enumerate(find_upsamplers(names)):
        if (folder / "config.json").is_file():
            found.append(LatentUpsampler(folder, model))
            continue
        wanted = read_settings(folder).codec_fingerprint
        if wanted not in codecs:
            codecs[wanted] = load(base_of(folder), device=model.device)
        found.append(load_stage(folder, codecs[wanted], number))
    return found


def with_rate_of(model: VideoGenerator, stages: Sequence[Upsampler]) -> VideoGenerator:
    """`model` with videos at the rate of what the first stage was trained to fill up, as a cascade has it.

    That is so for a temporal stage in front and a model of another rate that knows key frames (one of a multiple of the
    rate then makes all frames, of which some are kept); all others stay as they are, and a temporal stage then
    multiplies the model's own rate.
    """
    first = stages[0]
    frames = model.frames
    if not isinstance(first, CascadeStage) or first.settings.stage != "temporal":
        return model
    if frames is None or not frames.takes_key_frames:
        return model
    own = model.defaults
    size = own.num_frames, own.height, own.width
    return CascadeGenerator(model, [], model.name, first.settings.fps / first.settings.factor, size)


def upsampled(
    generate: Callable[..., Tensor],
    fps: float,
    stages: Sequence[Upsampler],
    sampling: StageSampling,
    model: VideoGenerator | None = None,
    solver: str = "euler",
) -> tuple[Callable[..., Tensor], float]:
    """A function like `generate` whose videos pass the stages, and their frames a second.

    Args:
        generate: a function like `VideoGenerator.generate`.
        fps: frames a second of its videos.
        stages: from `load_upsamplers`.
        sampling: of the stages.
        model: whose latents the first stages take as they are where these are latent upsamplers and `generate` is the
            model's own; None where it is not.
        solver: of the model, where its latents are taken.
    """
    on_latents: list[LatentUpsampler] = []
    for stage in stages if model is not None else ():
        if not isinstance(stage, LatentUpsampler):
            break
        on_latents.append(stage)
    rest, rate = stages[len(on_latents) :], _rate(on_latents, fps)

    def finer(prompts: Sequence[str], seed: Sequence[int], **options: Any) -> Tensor:
        if on_latents and model is not None:
            latents = generate_latents(model, prompts, seed=seed, solver=solver, **options)
            for upsampler in on_latents:
                latents = upsampler.upsample_latents(latents)
            videos = model.decode(latents.to(model.device)).cpu()
        else:
            videos = generate(prompts, seed=seed, **options)
        return through_stages(rest, videos, rate, list(prompts), list(seed), sampling)[0]

    return finer, _rate(rest, rate)


def _rate(stages: Sequence[Upsampler], fps: float) -> float:
    """Frames a second behind stages of what comes in at `fps`."""
    for stage in stages:
        fps = stage.finer_rate(fps)
    return fps
