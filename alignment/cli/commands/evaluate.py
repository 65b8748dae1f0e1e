"""`vidalign evaluate`: prompt adherence of a model and its adapters, side by side; `evaluate compare` of several
runs; `evaluate vbench`, VBench's aggregation."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignment.cli import Verb
from alignment.cli.generation_checks import check_generation
from alignment.cli.next_command import WORLD_PROMPTS, given_flags, new_folder, show_next
from alignment.stages.arguments import LoadingArguments
from generator.files.built_in import find_adapter
from generator.files.model_folders import require_model
from generator.one_or_several import as_list
from generator.output import InputError, refuse_unwritable
from generator.provenance import file_hash, versions
from generator.video_files.pixel_formats import PIXEL_FORMAT_HELP, PIXEL_FORMATS
from reward.adherence.verifier_names import check_verifier
from reward.reports.evaluation_folder import holds_unfinished

if TYPE_CHECKING:
    from generator.base import VideoGenerator
    from generator.prompts import PromptRecord

HELP = "Compare how well a model and its adapters follow prompts, with confidence intervals and a report."
EXAMPLE = (
    "vidalign evaluate --model nano --adapter runs/dpo runs/ppo "
    "--prompts world:test:128 --output_dir runs/evaluation"
)


MOST_COMPARED = 9
"""Videos in one ranking, at most."""


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
            "help": "LoRA files or folders, each a model of its own in the report; NAME=PATH names it there."
        },
    )
    prompts: str = field(
        default="world:test:128",
        metadata={
            "help": "Text file, JSONL, world:SPLIT:N[:SEED] for prompts of the built-in world, suite:world[:N[:SEED]] "
            "for its held-out combinations by category, vbench:FILE or t2v_compbench:PATH."
        },
    )
    verifier: str = field(
        default="world",
        metadata={
            "help": "Verifier: world, a reward by name (pickscore, ocr, videoalign:TA, …), vlm:FOLDER (a "
            "vision-language model answers the questions), clip:FOLDER (CLIPScore), or module:function of your own."
        },
    )
    measures: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Rewards, as `--reward` of ppo names them, whose scores the report shows beside motion and flicker."
        },
    )
    questions: str = field(
        default="",
        metadata={
            "help": "Question graphs of the prompts for vlm:FOLDER, judge and module:function: a .jsonl file, a .csv "
            "of DSG, or world for those of the built-in world's prompts."
        },
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
    solver: str = field(
        default="euler",
        metadata={
            "help": "Solver: euler; heun (two network calls a step); ab2 or dpm (second order, one call a step).",
            "choices": ["euler", "heun", "ab2", "dpm"],
        },
    )
    guidance_scale: float | None = field(default=None, metadata={"help": "Weight of guidance; 1 is none."})
    guidance_scale_2: float | None = field(
        default=None,
        metadata={"help": "That of the second of two transformers, of low noise (Wan 2.2 A14B)."},
    )
    batch_size: int = field(default=8, metadata={"help": "Videos generated at a time."})
    pixel_format: str = field(
        default="auto", metadata={"help": PIXEL_FORMAT_HELP, "choices": list(PIXEL_FORMATS)}
    )
    title: str = field(default="Prompt adherence", metadata={"help": "Title of the report."})
    overwrite: bool = field(default=False, metadata={"help": "Empty an existing output folder first."})

    def __post_init__(self) -> None:
        self.adapter, self.reference = as_list(self.adapter), as_list(self.reference)
        check_generation(self)
        self.measures = as_list(self.measures) if self.measures else []

    def check_inputs(self) -> None:
        """Raises `InputError` where the model, an adapter or the verifier is not there, or the folder is in use."""
        name_adapters(self.adapter)
        check_verifier(self.verifier)
        require_model(self.model)
        holds_unfinished(self.output_dir, self.overwrite)


@dataclass
class CompareArguments:
    """Arguments of `vidalign evaluate compare`."""

    runs: list[str] = field(
        metadata={"help": "Output folders of vidalign evaluate; NAME=FOLDER names one in the report."}
    )
    output_dir: str = field(metadata={"help": "Folder for report.html and report.json."})
    reference: list[str] = field(
        default_factory=list,
        metadata={"help": "Names of the models that the others are compared with; the first one by default."},
    )
    title: str = field(default="Comparison of evaluations", metadata={"help": "Title of the report."})
    overwrite: bool = field(default=False, metadata={"help": "Empty an existing output folder first."})

    def __post_init__(self) -> None:
        self.runs, self.reference = as_list(self.runs), as_list(self.reference)


@dataclass
class VBenchArguments:
    """Arguments of `vidalign evaluate vbench`."""

    results: list[str] = field(
        metadata={
            "help": "VBench's *_eval_results.json files, or folders of them, with all sixteen dimensions."
        }
    )
    output: str = field(default="", metadata={"help": "JSON file for the aggregated scores."})
    overwrite: bool = field(default=False, metadata={"help": "Replace an existing file."})


ARGUMENTS = (EvaluateArguments, LoadingArguments)


def name_adapters(adapters: list[str]) -> dict[str, str]:
    """`{name in the report: folder}` from `NAME=FOLDER` or `FOLDER`, whose last part then is the name.

    Raises:
        InputError: two would have one name, a name is `base` or not fit for a folder, or a folder does not
        exist.
    """
    adapters = as_list(adapters)
    named: dict[str, str] = {}
    for text in adapters:
        name, separator, path = text.partition("=")
        if not separator:
            path = text
            whole = Path(text).resolve()
            name = whole.stem if whole.is_file() else whole.name
        path = str(find_adapter(path))
        if not Path(path).exists():
            raise InputError(
                f"The adapter {path} is not there: give the output folder of sft, dpo or ppo, or a LoRA file."
            )
        if name in named or name == "base":
            raise InputError(f"Two models would be called {name!r} in the report: name one with NAME={path}.")
        if not name or "/" in name or name.startswith("."):
            raise InputError(f"{name!r} cannot be a model's name: use letters, digits, dots, _ and -.")
        named[name] = path
    return named


def run(
    arguments: EvaluateArguments,
    loading: LoadingArguments | None = None,
) -> None:
    """Generates, judges, and prints where the report is and the means with their intervals."""
    from generator import load_generator
    from generator.generation import GenerationSettings
    from reward.adherence.suites import load_suite
    from reward.adherence.training_rewards import known_measures, rewards_of_training
    from reward.adherence.verifiers import check_prompts_of
    from reward.reports.comparison import compare_models

    loading = loading or LoadingArguments()
    adapters = name_adapters(arguments.adapter)
    names = ["base", *adapters]
    unknown = [name for name in arguments.reference if name not in names]
    if unknown:
        raise InputError(f"The reference {unknown[0]!r} is not among the models {', '.join(names)}.")
    trained_on = {name: found for name, path in adapters.items() if (found := rewards_of_training(path))}
    suite = load_suite(arguments.prompts)
    prompts = [record.prompt for record in suite.records]
    check_prompts_of(arguments.verifier, arguments.questions or None, prompts)
    refuse_unwritable(arguments.output_dir)
    load = partial(load_generator, arguments.model, **loading.options())
    models = _checked_models(arguments, adapters, load, suite.records)
    summary = compare_models(
        models,
        suite.records,
        arguments.output_dir,
        verifier=arguments.verifier,
        num_videos_per_prompt=arguments.num_videos_per_prompt,
        seed=arguments.seed,
        generation=GenerationSettings.of(arguments),
        references=arguments.reference or ["base"],
        settings=_settings(arguments, loading, adapters, trained_on, suite.records),
        overwrite=arguments.overwrite,
        title=arguments.title,
        questions=arguments.questions or None,
        categories=suite.categories_of if suite.categories else None,
        measures=arguments.measures,
    )
    print_summary(summary, arguments.output_dir)
    for sentence in known_measures(trained_on, arguments.verifier, arguments.measures):
        print(sentence)
    _show_next(arguments, 1 + len(adapters))


def _settings(
    arguments: EvaluateArguments,
    loading: LoadingArguments,
    adapters: dict[str, str],
    trained_on: dict[str, list[str]],
    records: Sequence[PromptRecord],
) -> dict[str, Any]:
    """Facts for the report beside those that `compare_models` knows."""
    return {
        "model": arguments.model,
        **loading.changing(),
        "loading_sha256": {path: _path_hash(path) for path in loading.files()},
        "adapters": adapters,
        **({"trained_on": trained_on} if trained_on else {}),
        "adapter_sha256": _adapter_hashes(adapters),
        "prompt_file": arguments.prompts,
        "prompt_sha256": _texts_hash(record.prompt for record in records),
        **_image_hashes(records),
        "questions_sha256": _file_hash(arguments.questions),
        "versions": versions(),
    }


def _show_next(arguments: EvaluateArguments, num_models: int) -> None:
    """People can rank the videos of several models; of one model, candidates are made first."""
    if 2 <= num_models * arguments.num_videos_per_prompt <= MOST_COMPARED:
        name = Path(arguments.output_dir).resolve().name
        show_next(
            "label", "import", "--db", "labels.db", "--campaign", name, "--videos", arguments.output_dir
        )
        return
    other_source = arguments.prompts.partition(":")[0] in ("suite", "vbench", "t2v_compbench")
    sampling = (
        "num_frames",
        "height",
        "width",
        "num_inference_steps",
        "guidance_scale",
        "guidance_scale_2",
        "solver",
    )
    show_next(
        "generate",
        "--model",
        arguments.model,
        "--prompts",
        WORLD_PROMPTS if other_source else arguments.prompts,
        *given_flags(arguments, sampling),
        "--num_videos_per_prompt",
        4,
        "--output_dir",
        new_folder(arguments.output_dir, "candidates"),
    )


def _checked_models(
    arguments: EvaluateArguments,
    adapters: dict[str, str],
    load: Callable[..., VideoGenerator],
    records: Sequence[PromptRecord],
) -> dict[str, Callable[[], VideoGenerator]]:
    """Functions that load the models, after the size and all adapters were found to fit the base model.

    Raises:
        InputError: one does not fit.
    """
    from generator.adapters import check_adapters
    from generator.first_frames import check_takes_images
    from generator.guidance import guidance_scales
    from generator.lost_words import looked_at, warn_of_lost_words
    from generator.sampling import video_size

    base = load()
    check_takes_images(base, [record.images for record in records], len(records))
    video_size(base, arguments.num_frames, arguments.height, arguments.width)
    guidance_scales(base, arguments.guidance_scale, arguments.guidance_scale_2)
    check_adapters(base, list(adapters.values()))
    warn_of_lost_words(base, [record.prompt for record in records])
    held = [base]
    told = set(looked_at(base))

    def remembering(model: VideoGenerator) -> VideoGenerator:
        looked_at(model).update(told)
        return model

    def load_base() -> VideoGenerator:
        return held.pop() if held else remembering(load())

    def load_adapted(path: str) -> VideoGenerator:
        held.clear()  # one model is in memory at a time
        return remembering(load(adapter=path))

    return {"base": load_base, **{name: partial(load_adapted, path) for name, path in adapters.items()}}


def run_compare(arguments: CompareArguments) -> None:
    """Writes the joint report of several evaluations and prints the means with their intervals."""
    from reward.reports.runs import compare_runs, name_runs

    runs = name_runs(arguments.runs)
    summary = compare_runs(
        runs, arguments.output_dir, arguments.reference, arguments.overwrite, arguments.title
    )
    print_summary(summary, arguments.output_dir)


def run_vbench(arguments: VBenchArguments) -> None:
    """Prints quality, semantic and total score of VBench's results."""
    from generator.output import check_output_file, write_json
    from reward.adherence.vbench import aggregate, read_results

    target = Path(arguments.output) if arguments.output else None
    if target is not None:
        check_output_file(target, arguments.overwrite, _is_aggregate, "a file of aggregated scores")
    scores = read_results(arguments.results)
    result = aggregate(scores)
    if target is not None:
        write_json(target, {"scores": scores, **result})
    for name in ("quality", "semantic", "total"):
        print(f"{name:10s} {100 * result[name]:.2f}")


def _is_aggregate(path: Path) -> bool:
    try:
        return {"scores", "total"} <= json.loads(path.read_text(encoding="utf-8")).keys()
    except (OSError, ValueError, AttributeError):
        return False


def print_summary(summary: dict[str, Any], output_dir: str) -> None:
    """Means, differences to the first reference, what the number of prompts can show, and where the report is."""
    from reward.reports.adherence import power_text
    from reward.statistics import interval_text

    for name, interval in summary["adherence"].items():
        print(f"{name:12s} {interval['mean']:.3f}  {interval_text(interval)}")
    reference = next(iter(summary["category_differences"]))
    rows = summary[f"difference_to_{reference}"]
    for name, row in rows.items():
        print(
            f"{name} − {reference}: {row['mean']:+.3f} {interval_text(row, signed=True)} ({row['verdict']}), "
            f"win rate {row['win_rate']['mean']:.1%}, ties {row['tie_rate']:.1%}"
        )
    if power_text(summary):
        print(power_text(summary))
    print(f"The report is {Path(output_dir) / 'report.html'}.")


def _image_hashes(records: Sequence[PromptRecord]) -> dict[str, str]:
    """SHA-256 over the hashes of all images of prompts, if there are any."""
    files = [file for record in records for file in record.images or () if file is not None]
    hashes = {file: file_hash(file) for file in dict.fromkeys(files)}
    return {"image_sha256": _texts_hash(hashes[file] for file in files)} if files else {}


def _file_hash(path: str) -> str | None:
    return file_hash(path) if Path(path).is_file() else None


def _adapter_hashes(adapters: dict[str, str]) -> dict[str, str]:
    from generator.base_adapters import adapter_hash

    return {name: adapter_hash(Path(path)) for name, path in adapters.items()}


def _path_hash(path: str) -> str:
    """SHA-256 of a file, or of the files of weights in a folder."""
    from generator.weight_files.base_weights import weights_hash

    return weights_hash(Path(path))


def _texts_hash(texts: Iterable[str]) -> str:
    """SHA-256 over texts, one a line."""
    import hashlib

    return hashlib.sha256("\n".join(texts).encode()).hexdigest()


VERBS = {
    "compare": Verb(
        "Compare several evaluations with each other, with intervals and a report.",
        (CompareArguments,),
        run_compare,
        "vidalign evaluate compare runs/evaluation runs/other --output_dir runs/comparison",
        positional="runs",
    ),
    "vbench": Verb(
        "Aggregate VBench's sixteen dimensions to quality, semantic and total score.",
        (VBenchArguments,),
        run_vbench,
        "vidalign evaluate vbench evaluation_results --output vbench.json",
        positional="results",
    ),
}
