"""`vidalign evaluate`: prompt adherence of a model and its adapters, side by side."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from generator.output import InputError

HELP = "Compare how well a model and its adapters follow prompts, with confidence intervals and a report."
EXAMPLE = (
    "vidalign evaluate --model nano --adapter runs/dpo runs/ppo "
    "--prompts world:test:128 --output_dir runs/evaluation"
)


@dataclass
class EvaluateArguments:
    """Arguments of `vidalign evaluate`."""

    output_dir: str = field(
        metadata={"help": "Folder for report.html, report.json, metadata.jsonl and the videos."}
    )
    model: str = field(default="nano", metadata={"help": "Built-in model, folder or hub id."})
    adapter: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Adapter folders, each a model of its own in the report; NAME=FOLDER names it there."
        },
    )
    prompts: str = field(
        default="world:test:128",
        metadata={"help": "Text file, JSONL, or world:SPLIT:N[:SEED] for prompts of the built-in world."},
    )
    verifier: str = field(
        default="world",
        metadata={"help": "What judges: world, or module:function of your own (videos, prompts) -> scores."},
    )
    reference: list[str] = field(
        default_factory=list,
        metadata={"help": "Names of the models that the others are compared with; base by default."},
    )
    num_videos_per_prompt: int = field(default=1, metadata={"help": "Videos of each prompt and model."})
    seed: int = field(default=0, metadata={"help": "Seed of the first video; all models get the same seeds."})
    num_frames: int | None = field(default=None, metadata={"help": "Frames; the model's default if unset."})
    height: int | None = field(
        default=None, metadata={"help": "Height in pixels; the model's default if unset."}
    )
    width: int | None = field(
        default=None, metadata={"help": "Width in pixels; the model's default if unset."}
    )
    num_inference_steps: int | None = field(default=None, metadata={"help": "Sampling steps."})
    guidance_scale: float | None = field(default=None, metadata={"help": "Weight of guidance; 1 is none."})
    batch_size: int = field(default=8, metadata={"help": "Videos generated at a time."})
    title: str = field(default="Prompt adherence", metadata={"help": "Title of the report."})
    overwrite: bool = field(default=False, metadata={"help": "Empty an existing output folder first."})


ARGUMENTS = (EvaluateArguments,)


def name_adapters(adapters: list[str]) -> dict[str, str]:
    """`{name in the report: folder}` from `NAME=FOLDER` or `FOLDER`, whose last part then is the name.

    Raises:
        InputError: two would have one name, a name is `base` or not fit for a folder, or a folder does not
        exist.
    """
    named: dict[str, str] = {}
    for text in adapters:
        name, separator, path = text.partition("=")
        if not separator:
            path = text
            name = Path(text).resolve().name
        if not Path(path).is_dir():
            raise InputError(
                f"The adapter {path} is not a folder: give the output folder of sft, dpo or ppo."
            )
        if name in named or name == "base":
            raise InputError(f"Two models would be called {name!r} in the report: name one with NAME={path}.")
        if not name or "/" in name or name.startswith("."):
            raise InputError(f"{name!r} cannot be a model's name: use letters, digits, dots, _ and -.")
        named[name] = path
    return named


def run(arguments: EvaluateArguments) -> None:
    """Generates, judges, and prints where the report is and the means with their intervals."""
    from functools import partial

    from generator import load_generator
    from generator.prompts import read_prompts
    from reward.adherence.comparison import GenerationSettings, compare_models
    from reward.reward_trainer import file_hash, versions

    if arguments.num_videos_per_prompt < 1 or arguments.batch_size < 1:
        raise InputError("--num_videos_per_prompt and --batch_size must be at least 1.")
    adapters = name_adapters(arguments.adapter)
    models = {"base": partial(load_generator, arguments.model)}
    for name, path in adapters.items():
        models[name] = partial(load_generator, arguments.model, adapter=path)
    unknown = [name for name in arguments.reference if name not in models]
    if unknown:
        raise InputError(f"The reference {unknown[0]!r} is not among the models {', '.join(models)}.")
    records = read_prompts(arguments.prompts)
    source = Path(arguments.prompts)
    summary = compare_models(
        models,
        records,
        arguments.output_dir,
        verifier=arguments.verifier,
        num_videos_per_prompt=arguments.num_videos_per_prompt,
        seed=arguments.seed,
        generation=GenerationSettings(
            num_frames=arguments.num_frames,
            height=arguments.height,
            width=arguments.width,
            num_inference_steps=arguments.num_inference_steps,
            guidance_scale=arguments.guidance_scale,
            batch_size=arguments.batch_size,
        ),
        references=arguments.reference or ["base"],
        settings={
            "model": arguments.model,
            "adapters": adapters,
            "prompt_file": arguments.prompts,
            "prompt_sha256": file_hash(source) if source.is_file() else None,
            "versions": versions(),
        },
        overwrite=arguments.overwrite,
        title=arguments.title,
    )
    for name, interval in summary["adherence"].items():
        print(f"{name:12s} {interval['mean']:.3f}  [{interval['low']:.3f}, {interval['high']:.3f}]")
    print(f"The report is {Path(arguments.output_dir) / 'report.html'}.")
