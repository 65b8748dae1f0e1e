"""`vidalign reward`: trains a reward model on rankings; `reward evaluate` says how well one agrees with people, and
`reward serve` lets one judge over HTTP."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignment.cli import Verb
from alignment.cli.next_command import new_folder, show_next
from alignment.cli.show_report import OPEN_HELP, show_report
from generator.files.output_folder import check_output_dir, open_output_dir
from generator.one_or_several import as_list
from generator.output import InputError
from generator.passwords import without_passwords
from reward.formats import FORMAT_HELP
from reward.preferences import require_source
from reward.tags import tag_rankings
from reward.training.reward_config import RewardConfig
from reward.training.stage import RewardArguments, read_rankings_file, train_reward, with_stored_trunk
from reward.training.vlm_trainer import VLMArguments

if TYPE_CHECKING:
    from reward.preferences import Ranking

HELP = "Train a reward model on the rankings of people (or of simulated annotators)."
EXAMPLE = "vidalign reward --model nano --preferences rankings.jsonl --output_dir runs/reward"


@dataclass
class EvaluateArguments:
    """Reward model and rankings that are compared."""

    reward: str = field(
        metadata={
            "help": "Folder of a reward model, several joined by commas, a name such as pickscore (`vidalign doctor` "
            "lists them), module:function, or the address of `reward serve`."
        }
    )
    preferences: str = field(
        metadata={"help": "Rankings file of any known layout, or db:URL#campaign of the labeling app."}
    )
    output_dir: str = field(metadata={"help": "Folder for report.html, report.json and reliability.png."})
    format: str = field(default="auto", metadata={"help": FORMAT_HELP})
    calibration_fraction: float | None = field(
        default=None,
        metadata={
            "help": "Share of the prompts that tie threshold and temperature are chosen on, left out of the figures; "
            "by default 0 where the model has its own, else 0.2."
        },
    )
    all_prompts: bool = field(
        default=False,
        metadata={
            "help": "Evaluate on the training prompts too where this is the file that the model learned from."
        },
    )
    tag_dimension: list[str] | None = field(
        default=None,
        metadata={"help": "Tags that the model learned as dimensions and that are evaluated too."},
    )
    best_possible: float | None = field(
        default=None,
        metadata={
            "help": "Accuracy of a perfect model, where it is known (simulated annotators); for the report."
        },
    )
    batch_size: int = field(default=16, metadata={"help": "Videos judged at a time."})
    seed: int = field(default=0, metadata={"help": "Seed of the calibration split and the intervals."})
    device: str | None = field(default=None, metadata={"help": "Device of the model; a GPU if there is one."})
    overwrite: bool = field(
        default=False,
        metadata={
            "help": "Delete what this command wrote into the output folder before; other files are never deleted."
        },
    )
    open: bool = field(default=False, metadata={"help": OPEN_HELP})

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise InputError(f"--batch_size is {self.batch_size}, but it must be at least 1.")

    def check_inputs(self) -> None:
        """Raises `InputError` where there is no file of rankings."""
        require_source(self.preferences, self.format)


@dataclass
class ServeArguments:
    """Reward model, address and limits of the service."""

    reward: str = field(
        metadata={
            "help": "Folder of a reward model, several joined by commas, a name such as videoalign, or module:function."
        }
    )
    host: str = field(default="127.0.0.1", metadata={"help": "Address; 0.0.0.0 for the whole network."})
    port: int = field(default=8765, metadata={"help": "Port; 0 takes a free one."})
    max_batch_size: int = field(default=32, metadata={"help": "Videos that are judged together."})
    max_wait_ms: float = field(
        default=10.0,
        metadata={"help": "Longest wait for more videos before a batch that is not full is judged."},
    )
    max_queue: int = field(
        default=256,
        metadata={"help": "Videos that may wait; more are refused with 503 and a Retry-After."},
    )
    max_megabytes: int = field(default=512, metadata={"help": "Largest request."})
    device: str | None = field(default=None, metadata={"help": "Device of the model; a GPU if there is one."})


def _shown(preferences: str) -> str:
    """The source of rankings as a report may name it: the URL of a database has a password."""
    if not preferences.startswith("db:"):
        return preferences
    from labeling_app.store.database import shown_source

    return shown_source(preferences)


def read_source(preferences: str, format: str, merge: bool) -> list[Ranking]:
    """Rankings from a file of any known layout or from the labeling app's database."""
    if preferences.startswith("db:"):
        from labeling_app.quality.reliability import read_store

        return read_store(preferences, weighted=merge)
    return read_rankings_file(preferences, format, merge)


def run(arguments: RewardArguments, config: RewardConfig, vlm: VLMArguments) -> None:
    """Runs `train_reward`, and prints the held-out accuracy of each dimension and the next command."""
    _, metrics = train_reward(preferences=arguments, args=config, vlm=vlm, read=read_source)
    if config.process_index == 0:
        _report(metrics)
        print(f"The reward model is in {Path(str(config.output_dir))}.")
        folder = str(config.output_dir)
        if any(figures.get("held_out") for figures in metrics.values() if isinstance(figures, dict)):
            show_next(
                "reward",
                "evaluate",
                "--reward",
                folder,
                "--preferences",
                arguments.preferences,
                "--output_dir",
                new_folder(folder, "agreement"),
            )
        elif arguments.model_type == "latent":
            trunk, _ = with_stored_trunk(arguments)
            _show_ppo(folder, trunk.model, trunk.adapter, trunk.preferences, trunk.sources())


def _show_ppo(reward: str, model: str, adapter: str | None, preferences: str, files: dict[str, Any]) -> None:
    """PPO against the reward model, on the prompts of its rankings where their file is one of prompts too.

    Args:
        files: of the trunk beside its folder, by the names of flags.
    """
    prompts = preferences if Path(preferences).suffix.lower() == ".jsonl" else "world:train:256"
    start = [word for name, value in files.items() for word in (f"--{name}", *as_list(value))]
    start += [] if adapter is None else ["--adapter", adapter]
    folder = new_folder(reward, "ppo")
    show_next(
        "ppo", "--model", model, *start, "--prompts", prompts, "--reward", reward, "--output_dir", folder
    )


def _report(metrics: dict[str, Any]) -> None:
    """Prints the held-out figures of each dimension, and a warning where it has learned nothing."""
    for dimension, figures in metrics.items():
        held_out = figures.get("held_out") if isinstance(figures, dict) else None
        if held_out:
            print(f"{dimension}: held-out {_summary(held_out)}")
        if isinstance(figures, dict) and _is_constant(figures):
            print(
                f"Warning: {dimension} has the same score for every video, because no epoch was better on the "
                "validation prompts than the untrained model: add rankings, train longer (--num_train_epochs) or "
                "lower --warmup_steps."
            )


def _is_constant(figures: dict[str, Any]) -> bool:
    """Returns whether the model gave both videos of every training pair the same score: it is sure of none at all."""
    confidence = (figures.get("train") or {}).get("reliability", {}).get("confidence", [])
    return bool(confidence) and all(abs(value - 0.5) < 1e-6 for value in confidence)


def run_evaluate(arguments: EvaluateArguments) -> None:
    """Writes the report and prints the accuracy of each dimension beside its baselines."""
    from dataclasses import asdict

    from generator.loading import default_device
    from generator.provenance import file_hash, versions
    from generator.training.shared_work import SharedWork
    from generator.video import check_videos
    from reward import load_reward
    from reward.evaluation import calibration_of, evaluate_reward, held_out_of_training
    from reward.reports.agreement import EVALUATION_OUTPUTS, write_evaluation

    work = SharedWork()
    inputs = [arguments.preferences, arguments.reward]
    work.first(
        lambda: check_output_dir(arguments.output_dir, EVALUATION_OUTPUTS, arguments.overwrite, inputs)
    )
    rankings = _with_tags(read_source(arguments.preferences, arguments.format, merge=False), arguments)
    model = load_reward(arguments.reward, device=arguments.device)
    held_out = None
    if not arguments.all_prompts:
        held_out = held_out_of_training(arguments.reward, arguments.preferences, rankings)
    if held_out is not None:
        if work.is_first:
            print(
                f"The model learned from this file: only its {len(held_out)} held-out rankings are evaluated."
            )
        rankings = held_out
    model.check_prompts([ranking.prompt for ranking in rankings])
    check_videos([video for ranking in rankings for video in ranking.videos])
    fraction = arguments.calibration_fraction
    if fraction is None:
        fraction = 0.0 if calibration_of(model)[0] else 0.2
    result = evaluate_reward(
        model,
        rankings,
        fraction,
        arguments.seed,
        arguments.batch_size,
        arguments.best_possible,
        work=work,
        source=arguments.reward,
    )
    if not work.is_first:
        return
    source = Path(arguments.preferences)
    settings = {
        **asdict(arguments),
        "preferences": _shown(arguments.preferences),
        "reward": without_passwords(arguments.reward),
        "device": arguments.device or str(default_device()),
        "calibration_fraction": fraction,
        "held_out_only": held_out is not None,
        "preferences_sha256": file_hash(source) if source.is_file() else None,
        "versions": versions(),
    }
    output_dir = open_output_dir(arguments.output_dir, EVALUATION_OUTPUTS, arguments.overwrite, rewrites=True)
    page = write_evaluation(output_dir, result, settings)
    _say(arguments, result, page)


def _with_tags(rankings: list[Ranking], arguments: EvaluateArguments) -> list[Ranking]:
    if not arguments.tag_dimension:
        return rankings
    return [*rankings, *tag_rankings(rankings, arguments.tag_dimension)]


def _say(arguments: EvaluateArguments, result: dict[str, Any], page: Path) -> None:
    """Prints the figures of each dimension, where the report is, and the next command."""
    for name, figures in result["dimensions"].items():
        print(f"{name}: {_summary(figures)}")
    if result["not_scored"]:
        print(f"Not scored by this model: {', '.join(result['not_scored'])}.")
    show_report(page, arguments.open)
    record = Path(arguments.reward) / "training.json"
    if record.is_file():
        trained = json.loads(record.read_text(encoding="utf-8"))
        if "trunk_adapter" in trained:
            start = trained["trunk_adapter"]
            files = trained.get("trunk_files", {})
            _show_ppo(arguments.reward, trained["base_model"], start, arguments.preferences, files)


def _summary(figures: dict[str, Any]) -> str:
    from reward.statistics import interval_text

    accuracy, with_ties = figures["accuracy"], figures["accuracy_with_ties"]
    return (
        f"pair accuracy {accuracy['mean']:.3f} {interval_text(accuracy)}, with ties {with_ties['mean']:.3f} (majority "
        f"{figures['majority_baseline']:.3f}, first video {figures['position_baseline']:.3f}, tie rate "
        f"{figures['tie_rate']:.3f}, calibration error {figures['calibration_error_after_temperature']:.3f}, "
        f"{figures['pairs']} pairs of {figures['prompts']} prompts)."
    )


def run_serve(arguments: ServeArguments) -> None:
    """Judges what comes over HTTP until it is interrupted."""
    from reward import load_reward
    from reward.service.server import ServiceLimits, serve

    limits = ServiceLimits(
        arguments.max_batch_size, arguments.max_wait_ms / 1000, arguments.max_queue, arguments.max_megabytes
    )
    model = load_reward(arguments.reward, device=arguments.device)
    serve(model, limits, arguments.host, arguments.port)


ARGUMENTS = (RewardArguments, RewardConfig, VLMArguments)
VERBS = {
    "evaluate": Verb(
        "Measure how well a reward model agrees with people: accuracy, baselines, calibration, plots.",
        (EvaluateArguments,),
        run_evaluate,
        "vidalign reward evaluate --reward runs/reward --preferences rankings.jsonl --output_dir runs/agreement",
    ),
    "serve": Verb(
        "Let a reward model judge over HTTP, in batches.",
        (ServeArguments,),
        run_serve,
        "vidalign reward serve --reward runs/reward --port 8765",
    ),
}
