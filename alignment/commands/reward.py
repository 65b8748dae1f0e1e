"""`vidalign reward`: trains a reward model on rankings; `reward evaluate` says how well one agrees with people, and
`reward serve` lets one judge over HTTP."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignment.cli import Verb
from generator.output import InputError, prepare_output_dir
from reward.formats import FORMAT_HELP
from reward.reward_config import RewardConfig
from reward.vlm_trainer import VLMArguments

if TYPE_CHECKING:
    from reward.preferences import Ranking

HELP = "Train a reward model on the rankings of people (or of simulated annotators)."
EXAMPLE = "vidalign reward --model nano --preferences rankings.jsonl --output_dir runs/reward"


@dataclass
class RewardArguments:
    """What `vidalign reward` reads, beside the arguments of the training."""

    preferences: str = field(
        metadata={
            "help": "Rankings file (JSONL, or one of VideoGen-RewardBench, GenAI-Bench, ImageReward or Rapidata), "
            "or db:URL#campaign of the labeling app."
        }
    )
    format: str = field(default="auto", metadata={"help": FORMAT_HELP})
    model_type: str = field(
        default="latent",
        metadata={
            "help": "latent (the generator's first blocks, no decoding) or vlm (a vision-language model, see --vlm)."
        },
    )
    model: str = field(
        default="nano",
        metadata={"help": "Generator whose first blocks are the trunk: built-in model, folder or hub id."},
    )
    adapter: str | None = field(
        default=None, metadata={"help": "Adapter that the trunk is loaded with, such as the one from sft."}
    )
    demonstrations: str = field(
        default="",
        metadata={
            "help": "Folder of demonstrations (videos with right prompts), from which matching is learned first."
        },
    )
    pretraining: str = field(
        default="",
        metadata={
            "help": "Rankings file to learn from before those of people, such as of near misses: "
            "`python -m generator.world.near_misses`; best with --full_trunk true."
        },
    )
    weights_from: str = field(
        default="",
        metadata={
            "help": "Folder of a latent reward model to go on from, when more rankings have come: it says what the "
            "model is made of, and --model and --adapter are its own."
        },
    )
    merge_annotators: bool = field(
        default=False,
        metadata={
            "help": "Merge the rankings of several annotators of the same videos: by mean rank, or from a "
            "database weighed by how reliable each annotator is."
        },
    )
    overwrite: bool = field(default=False, metadata={"help": "Empty an existing output folder first."})


@dataclass
class EvaluateArguments:
    """What `vidalign reward evaluate` reads."""

    reward: str = field(
        metadata={
            "help": "Folder of a reward model, several joined by commas, world, module:function, or the address of "
            "`reward serve`."
        }
    )
    preferences: str = field(
        metadata={"help": "Rankings file of any known layout, or db:URL#campaign of the labeling app."}
    )
    output_dir: str = field(
        metadata={"help": "Folder for evaluation.html, evaluation.json and reliability.png."}
    )
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
    best_possible: float | None = field(
        default=None,
        metadata={
            "help": "Accuracy of a perfect model, where it is known (simulated annotators); for the report."
        },
    )
    batch_size: int = field(default=16, metadata={"help": "Videos judged at a time."})
    seed: int = field(default=0, metadata={"help": "Seed of the calibration split and the intervals."})
    device: str | None = field(
        default=None, metadata={"help": "Where the model runs; a GPU if there is one."}
    )
    overwrite: bool = field(default=False, metadata={"help": "Empty an existing output folder first."})


@dataclass
class ServeArguments:
    """Where `vidalign reward serve` listens, and how much it takes at a time."""

    reward: str = field(
        metadata={"help": "Folder of a reward model, several joined by commas, world, or module:function."}
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
    device: str | None = field(
        default=None, metadata={"help": "Where the model runs; a GPU if there is one."}
    )


def read_source(preferences: str, format: str, merge: bool) -> list[Ranking]:
    """Rankings from a file of any known layout or from the labeling app's database."""
    from reward.formats import read_preferences
    from reward.preferences import merge_annotators

    if preferences.startswith("db:"):
        from labeling_app.reliability import read_store

        return read_store(preferences, weighted=merge)
    rankings = read_preferences(preferences, format)
    return merge_annotators(rankings) if merge else rankings


def run(arguments: RewardArguments, config: RewardConfig, vlm: VLMArguments) -> None:
    """Trains, writes the model with its figures, and prints the held-out accuracy of each dimension."""
    import torch

    from generator import load_generator
    from generator.demonstrations import read_demonstrations
    from generator.zero import outside_engine
    from reward.reward_training import train_reward_model
    from reward.vlm_trainer import train_vlm_reward_model, vlm_reward_config

    if arguments.model_type not in ("latent", "vlm"):
        raise InputError(f"The model type {arguments.model_type!r} is unknown: use latent or vlm.")
    if arguments.model_type == "vlm" and (
        arguments.pretraining or arguments.demonstrations or arguments.weights_from
    ):
        raise InputError(
            "--pretraining, --demonstrations and --weights_from are for --model_type latent: leave them off with vlm."
        )
    if arguments.weights_from:
        _take_trunk(arguments, config)
    from_store = arguments.preferences.startswith("db:")
    rankings = read_source(arguments.preferences, arguments.format, arguments.merge_annotators)
    demonstrations = read_demonstrations(arguments.demonstrations) if arguments.demonstrations else []
    pretraining = read_source(arguments.pretraining, "auto", False) if arguments.pretraining else []
    source = None if from_store else arguments.preferences
    if arguments.model_type == "latent":
        # Weights that are trained themselves need the precision of float32; `--bf16` is for the arithmetic.
        dtype = torch.float32 if config.full_trunk else None
        with outside_engine():
            generator = load_generator(
                arguments.model, adapter=arguments.adapter, device=config.device, dtype=dtype
            )
    else:
        vlm_reward_config(vlm, config, rankings)
    first = config.process_index == 0
    if config.resume_from_checkpoint is None and first:
        prepare_output_dir(str(config.output_dir), arguments.overwrite)
    if first:
        without_order = sum(not ranking.has_order for ranking in rankings)
        print(
            f"{len(rankings)} rankings of {len({ranking.prompt for ranking in rankings})} prompts; "
            f"{without_order} of them carry no order (everything tied)."
        )
    if arguments.model_type == "vlm":
        _, metrics = train_vlm_reward_model(rankings, vlm, config, source)
    else:
        _, metrics = train_reward_model(
            generator,
            rankings,
            config,
            trunk_adapter=arguments.adapter,
            source=source,
            demonstrations=demonstrations,
            pretraining=pretraining,
            weights_from=arguments.weights_from or None,
        )
    if first:
        _report(metrics)
        print(f"The reward model is in {Path(str(config.output_dir))}.")


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


def _take_trunk(arguments: RewardArguments, config: RewardConfig) -> None:
    """Lets the arguments name the trunk of the model that learns on."""
    from reward.models.latent import ADAPTER_NAME
    from reward.models.storage import read_reward_config

    folder = Path(arguments.weights_from)
    if arguments.adapter is not None:
        raise InputError(
            f"--adapter was given with --weights_from {folder}, whose trunk has its own: leave --adapter off."
        )
    if folder.resolve() == Path(str(config.output_dir)).resolve():
        raise InputError(
            f"--weights_from and --output_dir are both {folder}: write the new model to another folder."
        )
    stored = read_reward_config(folder)
    if arguments.model == RewardArguments.model:
        arguments.model = str(stored.get("base_model", arguments.model))
    if (folder / ADAPTER_NAME).is_dir():
        arguments.adapter = str(folder / ADAPTER_NAME)
    config.full_trunk = bool(stored.get("full_trunk"))


def _is_constant(figures: dict[str, Any]) -> bool:
    """Whether the model gave both videos of every training pair the same score: it is sure of none at all."""
    confidence = (figures.get("train") or {}).get("reliability", {}).get("confidence", [])
    return bool(confidence) and all(abs(value - 0.5) < 1e-6 for value in confidence)


def run_evaluate(arguments: EvaluateArguments) -> None:
    """Writes the report and prints the accuracy of each dimension beside its baselines."""
    from dataclasses import asdict

    from generator.loading import default_device
    from reward import load_reward
    from reward.evaluation import calibration_of, evaluate_reward, held_out_of_training
    from reward.evaluation_report import write_evaluation
    from reward.reward_trainer import file_hash, versions

    if arguments.batch_size < 1:
        raise InputError(f"--batch_size is {arguments.batch_size}, but it must be at least 1.")
    rankings = read_source(arguments.preferences, arguments.format, merge=False)
    model = load_reward(arguments.reward, device=arguments.device)
    held_out = None
    if not arguments.all_prompts:
        held_out = held_out_of_training(arguments.reward, arguments.preferences, rankings)
    if held_out is not None:
        print(f"The model learned from this file: only its {len(held_out)} held-out rankings are evaluated.")
        rankings = held_out
    fraction = arguments.calibration_fraction
    if fraction is None:
        fraction = 0.0 if calibration_of(model)[0] else 0.2
    output_dir = prepare_output_dir(arguments.output_dir, arguments.overwrite)
    result = evaluate_reward(
        model, rankings, fraction, arguments.seed, arguments.batch_size, arguments.best_possible
    )
    source = Path(arguments.preferences)
    settings = {
        **asdict(arguments),
        "device": arguments.device or str(default_device()),
        "calibration_fraction": fraction,
        "held_out_only": held_out is not None,
        "preferences_sha256": file_hash(source) if source.is_file() else None,
        "versions": versions(),
    }
    write_evaluation(output_dir, result, settings)
    for name, figures in result["dimensions"].items():
        print(f"{name}: {_summary(figures)}")
    if result["not_scored"]:
        print(f"Not scored by this model: {', '.join(result['not_scored'])}.")
    print(f"The report is {output_dir / 'evaluation.html'}.")


def _summary(figures: dict[str, Any]) -> str:
    accuracy, with_ties = figures["accuracy"], figures["accuracy_with_ties"]
    return (
        f"pair accuracy {accuracy['mean']:.3f} [{accuracy['low']:.3f}, {accuracy['high']:.3f}], with ties "
        f"{with_ties['mean']:.3f} (majority {figures['majority_baseline']:.3f}, first video "
        f"{figures['position_baseline']:.3f}, tie rate {figures['tie_rate']:.3f}, calibration error "
        f"{figures['calibration_error_after_temperature']:.3f}, {figures['pairs']} pairs of "
        f"{figures['prompts']} prompts)."
    )


def run_serve(arguments: ServeArguments) -> None:
    """Judges what comes over HTTP until it is interrupted."""
    from reward import load_reward
    from reward.service import ServiceLimits, serve

    limits = ServiceLimits(
        arguments.max_batch_size, arguments.max_wait_ms / 1000, arguments.max_queue, arguments.max_megabytes
    )
    model = load_reward(arguments.reward, device=arguments.device)
    serve(model, limits, arguments.host, arguments.port)


ARGUMENTS = (RewardArguments, RewardConfig, VLMArguments)
VERBS = {
    "evaluate": Verb(
        "How well a reward model agrees with people: accuracy, baselines, calibration, plots.",
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
