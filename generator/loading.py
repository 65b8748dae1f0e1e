"""`load_generator`: from a name, a folder or a hub id to a `VideoGenerator`."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from generator.adapters.loaded_from import remember_files
from generator.base import VideoGenerator
from generator.files.model_folders import CASCADE_CLASS, find_pipeline
from generator.hardware.offloading import offload_linear_layers
from generator.output import InputError, read_json
from generator.video_model import GenerationDefaults, VideoModel

DEFAULTS_NAME = "generation_defaults.json"
"""In a model's folder: sizes and sampling settings instead of the family's own, as `GenerationDefaults` has them."""

FAMILIES = {
    "NativeVideoPipeline": "generator.families.native:NativeGenerator",
    "VideoLDMPipeline": "generator.video_ldm.family:VideoLDMGenerator",
    "WanPipeline": "generator.families.wan:WanGenerator",
    "WanImageToVideoPipeline": "generator.families.wan:WanImageToVideoGenerator",
    "WanVACEPipeline": "generator.families.wan_vace:WanVACEGenerator",
    "SkyReelsV2Pipeline": "generator.families.skyreels:SkyReelsV2Generator",
    "SkyReelsV2ImageToVideoPipeline": "generator.families.skyreels:SkyReelsV2ImageToVideoGenerator",
    "LTXPipeline": "generator.families.ltx:LTXGenerator",
    "LTXImageToVideoPipeline": "generator.families.ltx:LTXGenerator",
    "LTX2Pipeline": "generator.families.ltx2:LTX2Generator",
    "LTX2ImageToVideoPipeline": "generator.families.ltx2:LTX2Generator",
    "CogVideoXPipeline": "generator.families.cogvideox:CogVideoXGenerator",
    "CogVideoXImageToVideoPipeline": "generator.families.cogvideox:CogVideoXImageToVideoGenerator",
    "AnimateDiffPipeline": "generator.families.animatediff:AnimateDiffGenerator",
    "AnimateDiffSDXLPipeline": "generator.families.animatediff:AnimateDiffSDXLGenerator",
    "HunyuanVideoPipeline": "generator.families.hunyuan_video:HunyuanVideoGenerator",
    "HunyuanVideo15Pipeline": "generator.families.hunyuan_video:HunyuanVideo15Generator",
    "HunyuanVideo15ImageToVideoPipeline": "generator.families.hunyuan_video:HunyuanVideo15ImageToVideoGenerator",
}
"""Pipeline class in `model_index.json` -> `module:class` of the adapter that serves it."""


ANIMATED = {
    "StableDiffusionPipeline": "AnimateDiffPipeline",
    "StableDiffusionXLPipeline": "AnimateDiffSDXLPipeline",
}
"""Pipeline class of an image model -> that of the video model which it becomes with a motion adapter."""


def read_class_name(index: Path) -> str:
    """The name of the pipeline class in a `model_index.json`.

    Raises:
        InputError: the file is damaged.
    """
    try:
        return str(read_json(index)["_class_name"])
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
        return defaults.replaced(read_json(path))
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


def quantization_options(quantization: str | None, class_name: str, dtype: torch.dtype) -> dict[str, Any]:
    """Arguments with which `from_pretrained` can quantise the transformer's weights as it reads them.

    Raises:
        InputError: bitsandbytes or a GPU is missing, or pipeline and number of bits are not what it can be used for.
    """
    if quantization is None:
        return {}
    if quantization not in ("8bit", "4bit"):
        raise InputError(f"The quantization is {quantization!r}, but must be 8bit or 4bit.")
    if class_name in ("NativeVideoPipeline", "VideoLDMPipeline"):
        raise InputError("The built-in models are too small to be quantised: leave quantization out.")
    if importlib.util.find_spec("bitsandbytes") is None:
        raise InputError(
            f"{quantization} weights need bitsandbytes, which is not installed: pip install 'vidalign[quantization]'."
        )
    if not torch.cuda.is_available():
        raise InputError(
            f"{quantization} weights need a GPU that torch sees, and there is none: leave quantization out."
        )
    from diffusers import BitsAndBytesConfig, PipelineQuantizationConfig

    if quantization == "8bit":
        config = BitsAndBytesConfig(load_in_8bit=True)
    else:
        config = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype
        )
    mapping = dict.fromkeys(("transformer", "transformer_2", "unet"), config)
    return {"quantization_config": PipelineQuantizationConfig(quant_mapping=mapping)}


def transformers_from_files(
    folder: Path, files: Mapping[str, str | Path | None], dtype: torch.dtype
) -> tuple[dict[str, torch.nn.Module], dict[str, dict[str, str]]]:
    """Transformers with the weights of files, by the name of the component, and name and SHA-256 of each file.

    Raises:
        InputError: a file is missing, unreadable or of another model, or the folder lacks the weights of the other of
            two transformers.
    """
    from generator.files.adapter_paths import expert_of
    from generator.weight_files.adapter_files import EXPERT_NAMES
    from generator.weight_files.base_weights import load_transformer, weights_hash
    from generator.weight_files.skeleton import COMPONENTS, transformer_class

    given = {name: Path(path) for name, path in files.items() if path is not None}
    found, record = {}, {}
    two = transformer_class(folder, COMPONENTS[1]) is not None
    for index, name in enumerate(COMPONENTS):
        if name in given and two and expert_of(given[name].name) == 1 - index:
            raise InputError(
                f"--{name} is {given[name]}, but {name} is the transformer of {EXPERT_NAMES[index]}: exchange "
                "--transformer and --transformer_2."
            )
        weights = _weight_files(folder / name)
        if name not in given and (two or index == 0) and not weights:
            raise InputError(f"{folder} has no weights of its {name}: give them with --{name} FILE.")
    for name, path in given.items():
        found[name] = load_transformer(folder, name, path, dtype)
        record[name] = {"name": path.name, "sha256": weights_hash(path)}
    return found, record


def _weight_files(folder: Path) -> list[Path]:
    return [*folder.glob("*.safetensors"), *folder.glob("*.bin")]


def _unreadable(name: str | Path, folder: Path, error: Exception) -> InputError:
    """Reason why a model cannot be read; one whose transformer has no weights can be given them."""
    found = [weights for name in ("transformer", "unet") for weights in _weight_files(folder / name)]
    remedy = "restore its files or download it again"
    if not found:
        remedy += ", or give the transformer's weights with --transformer FILE"
    return InputError(f"The model {name} cannot be read ({error}): {remedy}.")


def _freeze(pipeline: Any) -> None:
    pipeline.set_progress_bar_config(disable=True)
    for component in pipeline.components.values():
        if isinstance(component, torch.nn.Module):
            component.requires_grad_(False).eval()


def _lay_tiles(generator: Any) -> None:
    if not hasattr(generator, "save_decoding_memory"):
        raise InputError(f"{generator.name} has no tiling, and is too small to need it: leave it out.")
    generator.save_decoding_memory()


def _set_shift(generator: VideoGenerator, shift: float | None) -> None:
    if shift is None:
        return
    if type(generator).sigma_schedule is not VideoModel.sigma_schedule:
        raise InputError(
            f"{generator.name} has a schedule of its own, without a shift: leave flow_shift out."
        )
    if not 0 < shift < float("inf"):
        raise InputError(f"flow_shift is {shift}, but must be above 0.")
    generator.defaults = generator.defaults.replaced({"shift": shift})


def place(
    pipeline: Any, family: Any, device: torch.device, text_encoder_device: torch.device | str | None
) -> None:
    """Moves each part of the pipeline to where it belongs; quantised parts are where they were read to, and parts that
    the family has no use for stay in the host's memory."""
    encoders = getattr(family, "text_encoders", ("text_encoder",))
    for name, component in pipeline.components.items():
        if not isinstance(component, torch.nn.Module) or getattr(component, "is_loaded_in_8bit", False):
            continue
        if name not in getattr(family, "idle_components", ()):
            component.to(text_encoder_device if name in encoders and text_encoder_device else device)


def _family(name: str | Path, folder: Path, animated: bool) -> tuple[str, Any]:
    """Class of the pipeline that a folder makes, with a motion adapter or without, and the adapter that serves it."""
    class_name = read_class_name(folder / "model_index.json")
    if class_name in ANIMATED and not animated:
        raise InputError(
            f"{name} makes images: give a motion adapter with --motion_adapter FOLDER, as in "
            "docs/families.md#animatediff."
        )
    if animated and class_name not in (*ANIMATED, *ANIMATED.values()):
        raise InputError(
            f"{name} is a {class_name}, but motion adapters are for {', '.join(ANIMATED)}: leave it out."
        )
    class_name = ANIMATED.get(class_name, class_name)
    if class_name not in FAMILIES:
        raise InputError(
            f"{name} is a {class_name}, but the supported pipelines are {', '.join(FAMILIES)}: docs/families.md says "
            "how to add a family."
        )
    module_name, adapter_name = FAMILIES[class_name].split(":")
    return class_name, getattr(importlib.import_module(module_name), adapter_name)


def _check_takes_files(
    name: str | Path, class_name: str, component: str, files: Mapping[str, str | Path | None]
) -> None:
    if any(files.values()) and component not in files:
        raise InputError(
            f"{name} is a {class_name}, whose {component} is read from its folder alone: leave the file of weights out."
        )


def _read_pipeline(
    folder: Path,
    family: Any,
    files: Mapping[str, str | Path | None],
    motion_adapter: str | Path | None,
    dtype: torch.dtype,
    options: dict[str, Any],
) -> tuple[Any, dict[str, dict[str, str]]]:
    """The pipeline in a folder with weights from other files, and what these files were."""
    if motion_adapter is not None:
        found: tuple[Any, dict[str, dict[str, str]]] = family.animated(folder, motion_adapter, dtype, options)
        return found
    weight_files: dict[str, dict[str, str]] = {}
    if any(files.values()):
        options, weight_files = transformers_from_files(folder, files, dtype)
    return family.pipeline_class.from_pretrained(folder, dtype=dtype, **options), weight_files


def _cascade(folder: Path, name: str | Path, asked: dict[str, Any]) -> VideoGenerator:
    """The cascade in a folder; what is asked for is for its base."""
    from generator.cascade.cascade import load_cascade

    return load_cascade(folder, str(name), lambda base: load_generator(base, **asked))


def load_generator(
    name_or_path: str | Path,
    adapter: str | Path | Sequence[str | Path] | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    quantization: str | None = None,
    text_encoder_device: torch.device | str | None = None,
    tiling: bool = False,
    offload_weights: bool = False,
    base_adapter: str | Path | Sequence[str | Path] | None = None,
    transformer: str | Path | None = None,
    transformer_2: str | Path | None = None,
    flow_shift: float | None = None,
    motion_adapter: str | Path | None = None,
) -> VideoGenerator:
    """Loads a text-to-video generator.

    Args:
        name_or_path: a built-in model (`nano`), a folder written by `save_pretrained`, or a hub id.
        adapter: file or folder of a LoRA adapter or name of a built-in one (`nano-distilled`), or several whose effects
            add up.
        device: where to put it; the first GPU if there is one, otherwise the CPU.
        dtype: of the transformer and text encoder; bfloat16 on a GPU and float32 on the CPU by default. The
            autoencoder stays in float32 on the CPU and follows `dtype` on a GPU.
        quantization: `8bit` or `4bit` weights of the transformer (bitsandbytes), to train LoRA on.
        text_encoder_device: where prompts are encoded, for example `cpu` if the text encoder and the transformer do
            not fit the GPU together; `device` where not given.
        tiling: encode and decode videos tile by tile and one by one, for large videos.
        offload_weights: keep the weights of the transformer's blocks in the host's memory and copy each layer to the
            device when it is used; not together with `quantization`.
        base_adapter: LoRA files `FILE[:weight]`, such as those of few-step distillation, that make the base: training
            starts on top of them and saves none of them.
        transformer: file with the weights of the transformer, in place of those in the folder: names of the release or
            of diffusers, fp8 with and without scales, GGUF. Of two transformers, that of high noise.
        transformer_2: the same for that of low noise.
        flow_shift: time shift of the sampler towards noise, in place of the model's own; few-step models want 5 or so.
        motion_adapter: folder or file of AnimateDiff's motion modules, by which a Stable Diffusion 1.5 or XL pipeline
            makes videos; in place of those of an AnimateDiff pipeline.

    Raises:
        InputError: the model or the adapter cannot be found or read, does not fit, or the family or machine cannot
            do what was asked for.
    """
    files = {"transformer": transformer, "transformer_2": transformer_2}
    if any(files.values()) and quantization:
        raise InputError("quantization and a file of weights were both given: choose one of them.")
    unneeded = [
        f"{name}/*.{ending}" for name, path in files.items() if path for ending in ("safetensors", "bin")
    ]
    folder = find_pipeline(name_or_path, unneeded)
    if read_class_name(folder / "model_index.json") == CASCADE_CLASS:
        asked: dict[str, Any] = {"quantization": quantization, "text_encoder_device": text_encoder_device}
        asked |= {"tiling": tiling, "offload_weights": offload_weights, "base_adapter": base_adapter, **files}
        asked |= {"adapter": adapter, "device": device, "dtype": dtype, "flow_shift": flow_shift}
        asked["motion_adapter"] = motion_adapter
        return _cascade(folder, name_or_path, asked)
    class_name, family = _family(name_or_path, folder, motion_adapter is not None)
    component = getattr(family, "component", "transformer")
    _check_takes_files(name_or_path, class_name, component, files)
    device = torch.device(device) if device is not None else default_device()
    dtype = dtype or (torch.bfloat16 if device.type == "cuda" else torch.float32)
    try:
        with _no_progress_bars():
            options = quantization_options(quantization, class_name, dtype)
            pipeline, weight_files = _read_pipeline(folder, family, files, motion_adapter, dtype, options)
            if offload_weights:  # before the device sees them
                offload_linear_layers(family(pipeline, str(name_or_path)).blocks())
            place(pipeline, family, device, text_encoder_device)
    except (OSError, SafetensorError) as error:
        raise _unreadable(name_or_path, folder, error) from error
    _freeze(pipeline)
    generator = family(pipeline, str(name_or_path))
    vars(generator)["folder"] = folder
    remember_files(generator, weight_files, {**files, "motion_adapter": motion_adapter})
    if tiling:
        _lay_tiles(generator)
    generator.defaults = read_defaults(folder, generator.defaults)
    if base_adapter:
        from generator.adapters.base_adapters import merge_base_adapters

        merge_base_adapters(generator, base_adapter)
    if adapter:
        from generator.adapters.adapters import load_adapters

        load_adapters(generator, adapter)
    _set_shift(generator, flow_shift)  # after the adapters, which may ask for another
    return generator
