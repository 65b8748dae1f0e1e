"""`vidalign export-lora`: LoRA files that other tools read."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from generator.files.output_folder import Outputs, check_output_dir, open_output_dir
from generator.output import InputError, refuse_unwritable

HELP = "Write an adapter as a LoRA file for ComfyUI, kohya's trainers or diffusers."
EXAMPLE = "vidalign export_lora --adapter runs/ppo --format comfyui --output_dir runs/ppo-comfyui"


@dataclass
class ExportArguments:
    """Settings of the exported file."""

    adapter: str = field(metadata={"help": "LoRA file or folder, ours or another tool's."})
    output_dir: str = field(metadata={"help": "Folder for the files."})
    format: str = field(
        default="comfyui",
        metadata={
            "help": "Format: comfyui (also read by kijai's wrapper, LightX2V, DiffSynth-Studio, ai-toolkit), kohya "
            "(musubi-tuner, with alpha) or diffusers.",
            "choices": ["comfyui", "diffusers", "kohya"],
        },
    )
    dtype: str = field(
        default="bfloat16",
        metadata={"help": "Data type of the matrices.", "choices": ["bfloat16", "float16", "float32"]},
    )
    model: str | None = field(
        default=None,
        metadata={
            "help": "Folder or hub id of the model that the adapter is for, of which only configurations are read. "
            "Unset: the one that it was trained on."
        },
    )
    overwrite: bool = field(
        default=False,
        metadata={
            "help": "Delete what this command wrote into the output folder before; other files are never deleted."
        },
    )


ARGUMENTS = (ExportArguments,)
OUTPUTS = Outputs("export_lora", ("*.safetensors", "training.json"))
CONFIGURATIONS = ("model_index.json", "*/config.json")


def run(arguments: ExportArguments) -> None:
    """Writes the files and prints their names."""
    from generator.adapters.adapters import read_adapter
    from generator.adapters.export import DTYPES, export_adapter, layer_names
    from generator.files.model_folders import find_pipeline
    from generator.weight_files.skeleton import model_skeleton

    check_output_dir(arguments.output_dir, OUTPUTS, arguments.overwrite, [arguments.adapter])
    folder = find_pipeline(_model(arguments), only=CONFIGURATIONS)
    transformer = model_skeleton(folder)
    names = layer_names(transformer, arguments.format)
    adapter = read_adapter(arguments.adapter, transformer, str(folder))
    stem = _stem(Path(arguments.adapter))
    refuse_unwritable(Path(arguments.output_dir))
    output_dir = open_output_dir(arguments.output_dir, OUTPUTS, arguments.overwrite)
    files = export_adapter(output_dir, adapter, names, arguments.format, stem, DTYPES[arguments.dtype])
    for file in files:
        print(file)
    _warn_of_base(adapter.training)


def _model(arguments: ExportArguments) -> str:
    """The model that the adapter is for."""
    if arguments.model is not None:
        return arguments.model
    from generator.adapters.adapters import adapter_record
    from generator.files.adapter_paths import find_adapter_files
    from generator.weight_files.adapter_files import read_file

    path = Path(arguments.adapter)
    model = adapter_record(path).get("base_model")
    if model is None:
        model = read_file(find_adapter_files(path)[0].path).facts.get("base_model")
    if model is None:
        raise InputError(
            f"{path} does not say which model it is for: pass --model with the model's folder or hub id."
        )
    return str(model)


def _stem(path: Path) -> str:
    """Name of the files without ending, and without what says high or low noise."""
    from generator.weight_files.adapter_files import EXPERT_NAMES

    whole = path.resolve()
    stem = whole.stem if whole.is_file() else whole.name
    for expert in EXPERT_NAMES:
        stem = stem.removesuffix(f"_{expert}")
    return stem


def _warn_of_base(training: dict[str, Any]) -> None:
    """Says what the files are to be loaded on top of."""
    for each in training.get("base_adapters", []):
        print(f"Load {each['name']} at strength {each['weight']:g} beside it: it was trained on top of that.")
