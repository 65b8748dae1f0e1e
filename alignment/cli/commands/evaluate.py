"""`vidalign evaluate`: prompt adherence of a model and its adapters, side by side; its verbs are in
`alignment.cli.evaluate_verbs`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignment.cli.evaluate_verbs import VERBS as VERBS
from alignment.cli.evaluation_defaults import default_prompts, default_questions, default_verifier
from alignment.cli.generation_checks import check_generation
from alignment.cli.next_command import REWRITING, WORLD_PROMPTS, given_flags, new_folder, show_next
from alignment.cli.show_report import OPEN_HELP, print_summary
from alignment.rewriting.arguments import RewriterArguments, rewritten
from alignment.stages.arguments import LoadingArguments
from generator.files.built_in import find_adapter
from generator.files.model_folders import require_model
from generator.one_or_several import as_list
from generator.output import InputError, refuse_unwritable
from generator.provenance import file_hash, versions
from generator.solvers import SOLVERS
from generator.video_files.pixel_formats import PIXEL_FORMAT_HELP, PIXEL_FORMATS
from reward.adherence.verifier_names import check_verifier
from reward.reports.evaluation_folder import holds_unfinished

if TYPE_CHECKING:
    from generator.base import VideoGenerator
    from generator.data.prompts import PromptRecord
    from generator.training.shared_work import SharedWork

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
            "help": "LoRA files or folders, each a model of its own in the report; NAME=PATH names it there."
        },
    )
    videos: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Folders of videos that exist already, each a model of its own in the report, which are judged in "
            "place of generating any; NAME=FOLDER names it there. metadata.jsonl has their prompts."
        },
    )
    prompts: str | None = field(
        default=None,
        metadata={
            "help": "Text file, JSONL, world:SPLIT:N[:SEED] for prompts of the built-in world, suite:world[:N[:SEED]] "
            "for its held-out combinations by category, suite:general[:N] for prompts on anything, vbench:FILE or "
            "t2v_compbench:PATH; by default world:test:128 for nano and suite:general for all other models."
        },
    )
    verifier: str | None = field(
        default=None,
        metadata={
            "help": "Verifier: world, any reward (pickscore, ocr, videoalign:TA, …, the folder of a trained one), "
            "vlm:FOLDER (a vision-language model answers the questions), clip:FOLDER (CLIPScore), or module:function "
            "of your own; by default world for nano or the world's prompts, and videoalign:TA for all others."
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
            "of DSG, world for those of the built-in world's prompts, or general for those of suite:general."
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
            "choices": list(SOLVERS),
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
    open: bool = field(default=False, metadata={"help": OPEN_HELP})

    def __post_init__(self) -> None:
        self.adapter, self.reference = as_list(self.adapter), as_list(self.reference)
        check_generation(self)
        self.measures = as_list(self.measures) if self.measures else []
        self.videos = as_list(self.videos) if self.videos else []
        generated = [flag for flag in ("adapter", "prompts") if getattr(self, flag)]
        if self.videos and generated:
            raise InputError(
                f"--videos judges videos that exist already, so --{generated[0]} would change nothing: leave one out."
            )

    def check_inputs(self) -> None:
        """Raises `InputError` where the model, an adapter or the verifier is not there, or the folder is in use."""
        if self.verifier:
            check_verifier(self.verifier)
        if not self.videos:
            name_adapters(self.adapter)
            require_model(self.model)
        holds_unfinished(self.output_dir, self.overwrite)


ARGUMENTS = (EvaluateArguments, LoadingArguments, RewriterArguments)


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
    rewriting: RewriterArguments | None = None,
) -> None:
    """Generates, judges, and prints where the report is and the means with their intervals."""
    from generator.training.shared_work import SharedWork
    from reward.adherence.training_rewards import known_measures

    loading, work = loading or LoadingArguments(), SharedWork()
    refuse_unwritable(arguments.output_dir)
    if arguments.videos:
        if rewriting is not None and rewriting.rewriter is not None:
            raise InputError(
                "--videos judges videos that exist already, so --rewriter would change nothing: leave one out."
            )
        if work.is_first:
            _judge_existing(arguments)
        return
    adapters = name_adapters(arguments.adapter)
    trained_on = _rewards_of_training(adapters)
    summary, verifier = _compare(arguments, loading, adapters, trained_on, work, rewriting)
    if not work.is_first:
        return
    print_summary(summary, arguments.output_dir, arguments.open)
    for sentence in known_measures(trained_on, verifier, arguments.measures):
        print(sentence)
    _show_next(arguments, 1 + len(adapters), rewriting or RewriterArguments())


def _rewards_of_training(adapters: dict[str, str]) -> dict[str, list[str]]:
    from reward.adherence.training_rewards import rewards_of_training

    return {name: found for name, path in adapters.items() if (found := rewards_of_training(path))}


def _compare(
    arguments: EvaluateArguments,
    loading: LoadingArguments,
    adapters: dict[str, str],
    trained_on: dict[str, list[str]],
    work: SharedWork,
    rewriting: RewriterArguments | None,
) -> tuple[dict[str, Any], str]:
    """Compares the base model and its adapters; returns the summary and the verifier."""
    from generator import load_generator
    from generator.generation import GenerationSettings
    from reward.adherence.suites import load_suite
    from reward.adherence.verifiers import check_prompts_of
    from reward.reports.comparison import compare_models

    names = ["base", *adapters]
    unknown = [name for name in arguments.reference if name not in names]
    if unknown:
        raise InputError(f"The reference {unknown[0]!r} is not among the models {', '.join(names)}.")
    source = arguments.prompts or default_prompts(arguments.model)
    suite = load_suite(source)
    prompts = [record.prompt for record in suite.records]
    verifier = arguments.verifier or default_verifier(prompts)
    questions = arguments.questions or default_questions(source, verifier)
    check_prompts_of(verifier, questions, prompts)
    load = partial(load_generator, arguments.model, **loading.options())
    records, rewriter = rewritten(rewriting, suite.records, arguments.model, work)
    models = _checked_models(arguments, adapters, load, records)
    settings = {**_settings(arguments, loading, adapters, trained_on, records), **rewriter}
    summary = compare_models(
        models,
        records,
        arguments.output_dir,
        verifier=verifier,
        num_videos_per_prompt=arguments.num_videos_per_prompt,
        seed=arguments.seed,
        generation=GenerationSettings.of(arguments),
        references=arguments.reference or ["base"],
        settings={**settings, "prompt_file": source},
        overwrite=arguments.overwrite,
        title=arguments.title,
        questions=questions,
        categories=suite.categories_of if suite.categories else None,
        measures=arguments.measures,
        work=work,
    )
    return summary, verifier


def _judge_existing(arguments: EvaluateArguments) -> None:
    from reward.reports.existing import existing_videos, judge_existing, name_folders

    folders = name_folders(arguments.videos)
    prompts = list(dict.fromkeys(video.prompt for video in existing_videos(folders)))
    verifier = arguments.verifier or default_verifier(prompts)
    summary = judge_existing(
        folders,
        arguments.output_dir,
        verifier,
        questions=arguments.questions or None,
        measures=arguments.measures,
        references=arguments.reference,
        settings={
            "prompt_sha256": _texts_hash(prompts),
            "questions_sha256": _file_hash(arguments.questions),
            "versions": versions(),
        },
        overwrite=arguments.overwrite,
        title=arguments.title,
        batch_size=arguments.batch_size,
    )
    print_summary(summary, arguments.output_dir, arguments.open)
    if len(summary["adherence"]) > 1:
        _show_comparison(arguments, *(f"{name}={folder}" for name, folder in folders.items()))


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
        "prompt_sha256": _texts_hash(record.prompt for record in records),
        **_rewritten_hash(records),
        **_image_hashes(records),
        "questions_sha256": _file_hash(arguments.questions),
        "versions": versions(),
    }


def _show_comparison(arguments: EvaluateArguments, *compared: str) -> None:
    """The same videos, compared by people."""
    name = Path(arguments.output_dir).resolve().name
    show_next("label", "import", "--db", "labels.db", "--campaign", name, "--compare", *compared)


def _show_next(arguments: EvaluateArguments, num_models: int, rewriting: RewriterArguments) -> None:
    """People can compare several models; of one model, candidates are made first."""
    if num_models > 1:
        _show_comparison(arguments, arguments.output_dir)
        return
    source = arguments.prompts or ""
    other_source = source.partition(":")[0] in ("", "suite", "vbench", "t2v_compbench")
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
        WORLD_PROMPTS if other_source else source,
        *given_flags(arguments, sampling),
        *given_flags(rewriting, REWRITING),
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
    from generator.adapters.adapters import check_adapters
    from generator.first_frames import check_takes_images
    from generator.guidance import guidance_scales
    from generator.lost_words import looked_at, warn_of_lost_words
    from generator.sampling import video_size

    base = load()
    size = video_size(base, arguments.num_frames, arguments.height, arguments.width)
    check_takes_images(base, [record.images for record in records], len(records), size[1:])
    guidance_scales(base, arguments.guidance_scale, arguments.guidance_scale_2)
    check_adapters(base, list(adapters.values()))
    warn_of_lost_words(base, [record.model_prompt for record in records])
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


def _image_hashes(records: Sequence[PromptRecord]) -> dict[str, str]:
    """SHA-256 over the hashes of all images of prompts, if there are any."""
    files = [file for record in records for file in record.images or () if file is not None]
    hashes = {file: file_hash(file) for file in dict.fromkeys(files)}
    return {"image_sha256": _texts_hash(hashes[file] for file in files)} if files else {}


def _rewritten_hash(records: Sequence[PromptRecord]) -> dict[str, str]:
    """SHA-256 over the rewritten prompts, if there are any."""
    texts = [each.rewritten_prompt for each in records if each.rewritten_prompt is not None]
    return {"rewritten_sha256": _texts_hash(texts)} if texts else {}


def _file_hash(path: str) -> str | None:
    return file_hash(path) if Path(path).is_file() else None


def _adapter_hashes(adapters: dict[str, str]) -> dict[str, str]:
    from generator.adapters.base_adapters import adapter_hash

    return {name: adapter_hash(Path(path)) for name, path in adapters.items()}


def _path_hash(path: str) -> str:
    """SHA-256 of a file, or of the files of weights in a folder."""
    from generator.weight_files.base_weights import weights_hash

    return weights_hash(Path(path))


def _texts_hash(texts: Iterable[str]) -> str:
    """SHA-256 over texts, one a line."""
    import hashlib

    return hashlib.sha256("\n".join(texts).encode()).hexdigest()
