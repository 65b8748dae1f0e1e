"""`vidalign reward`: trains a reward model on rankings; `reward evaluate` says how well one agrees with people, and
`reward serve` lets one judge over HTTP."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from alignment.cli import Verb
from alignment.cli.next_command import new_folder, show_next
from alignment.stages.outputs import check_training_dir, goes_on_inside
from alignment.stages.table import describe_device, format_table, trained_share
from generator.files.output_folder import check_output_dir, open_output_dir
from generator.output import InputError, refuse_unwritable
from reward.formats import FORMAT_HELP
from reward.training.reward_config import RewardConfig
from reward.training.vlm_trainer import VLMArguments

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
    overwrite: bool = field(
        default=False,
        metadata={
            "help": "Delete what this command wrote into the output folder before; other files are never deleted."
        },
    )


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


def _shown(preferences: str) -> str:
    """The source of rankings as a report may name it: the URL of a database has a password."""
    if not preferences.startswith("db:"):
        return preferences
    from labeling_app.store.database import shown_source

    return shown_source(preferences)


def read_source(preferences: str, format: str, merge: bool) -> list[Ranking]:
    """Rankings from a file of any known layout or from the labeling app's database."""
    from reward.formats import read_preferences
    from reward.preferences import merge_annotators

    if preferences.startswith("db:"):
        from labeling_app.quality.reliability import read_store

        return read_store(preferences, weighted=merge)
    rankings = read_preferences(preferences, format)
    return merge_annotators(rankings) if merge else rankings


class RewardTable(TrainerCallback):
    """Prints what a reward model learns from, once, when training starts."""

    def __init__(self, rankings: Sequence[Ranking]) -> None:
        self.rankings: Sequence[Ranking] | None = rankings

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        rankings, self.rankings = self.rankings, None
        if rankings is None or args.disable_tqdm or not state.is_world_process_zero:
            return
        videos = {video for ranking in rankings for video in ranking.videos}
        size = model.reward_model.video_size()
        shown = (
            "each video's own"
            if size is None
            else f"{size['num_frames']} frames of {size['height']}x{size['width']}"
        )
        tied = sum(not ranking.has_order for ranking in rankings)
        rows = {
            "rankings": f"{len(rankings)} of {len({ranking.prompt for ranking in rankings})} prompts; {tied} of them "
            "carry no order (everything tied)",
            "videos": str(len(videos)),
            "size": shown,
            "steps": f"{state.max_steps} of {args.per_device_train_batch_size * args.world_size} rankings",
            "judges": ", ".join(model.reward_model.dimensions),
            "trained": trained_share(model),
            "device": describe_device(args, next(model.parameters()).dtype),
        }
        print(format_table("The reward model learns from", rows), flush=True)


def run(arguments: RewardArguments, config: RewardConfig, vlm: VLMArguments) -> None:
    """Trains, writes the model with its figures, and prints the held-out accuracy of each dimension."""
    import torch

    from generator import load_generator
    from generator.demonstrations import read_demonstrations
    from generator.hardware.zero3 import outside_engine
    from generator.lost_words import warn_of_lost_words
    from generator.sampling import video_size
    from generator.video import check_videos
    from reward.models.storage import CONFIG_NAME
    from reward.preferences import split_rankings, warn_of_few_prompts
    from reward.training.outputs import OUTPUTS
    from reward.training.train import train_reward_model
    from reward.training.vlm_trainer import train_vlm_reward_model, vlm_reward_config

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
    inputs = [arguments.model, arguments.adapter, arguments.preferences, arguments.demonstrations]
    inputs += [arguments.pretraining, arguments.weights_from, vlm.vlm, vlm.vlm_settings]
    checkpoint = check_training_dir(
        config, OUTPUTS, CONFIG_NAME, config.overwrite, [name for name in inputs if name]
    )
    go_on = goes_on_inside(config, checkpoint)
    if config.ensemble == 1:  # the members of an ensemble look for their own
        config.resume_from_checkpoint = checkpoint
    from_store = arguments.preferences.startswith("db:")
    rankings = read_source(arguments.preferences, arguments.format, arguments.merge_annotators)
    demonstrations = read_demonstrations(arguments.demonstrations) if arguments.demonstrations else []
    pretraining = read_source(arguments.pretraining, "auto", False) if arguments.pretraining else []
    source = None if from_store else arguments.preferences
    check_videos([video for ranking in (*rankings, *pretraining) for video in ranking.videos])
    split_rankings(rankings, config.held_out_fraction, config.validation_fraction, config.seed)
    refuse_unwritable(str(config.output_dir))
    if arguments.model_type == "latent":
        # Weights that are trained themselves need the precision of float32; `--bf16` is for the arithmetic.
        dtype = torch.float32 if config.full_trunk else None
        with outside_engine():
            generator = load_generator(
                arguments.model, adapter=arguments.adapter, device=config.device, dtype=dtype
            )
        warn_of_lost_words(generator, [ranking.prompt for ranking in rankings])
        video_size(generator, config.num_frames, config.height, config.width)
    else:
        vlm_reward_config(vlm, config, rankings)
    first = config.process_index == 0
    if first:
        open_output_dir(str(config.output_dir), OUTPUTS, config.overwrite, go_on)
        warn_of_few_prompts(
            (ranking.prompt for ranking in rankings),
            "a reward model learns its prompts by heart and its held-out accuracy has no interval",
        )
    table = RewardTable(rankings)
    if arguments.model_type == "vlm":
        _, metrics = train_vlm_reward_model(rankings, vlm, config, source, callbacks=[table])
    else:
        _, metrics = train_reward_model(
            generator,
            rankings,
            config,
            trunk_adapter=arguments.adapter,
            source=source,
            callbacks=[table],
            demonstrations=demonstrations,
            pretraining=pretraining,
            weights_from=arguments.weights_from or None,
        )
    if first:
        _report(metrics)
        print(f"The reward model is in {Path(str(config.output_dir))}.")
        folder = str(config.output_dir)
        if any(figures.get("held_out") for figures in metrics.values() if isinstance(figures, dict)):
            show_next(
                "reward", "evaluate", "--reward", folder, "--preferences", arguments.preferences,
                "--output_dir", new_folder(folder, "agreement"),
            )  # fmt: skip
        elif arguments.model_type == "latent":
            _show_ppo(folder, arguments.model, arguments.adapter, arguments.preferences)


def _show_ppo(reward: str, model: str, adapter: str | None, preferences: str) -> None:
    """PPO against the reward model, on the prompts of its rankings where their file is one of prompts too."""
    prompts = preferences if Path(preferences).suffix.lower() == ".jsonl" else "world:train:256"
    start = [] if adapter is None else ["--adapter", adapter]
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
    from generator.provenance import file_hash, versions
    from generator.video import check_videos
    from reward import load_reward
    from reward.evaluation import calibration_of, evaluate_reward, held_out_of_training
    from reward.reports.agreement import EVALUATION_OUTPUTS, write_evaluation

    if arguments.batch_size < 1:
        raise InputError(f"--batch_size is {arguments.batch_size}, but it must be at least 1.")
    check_output_dir(
        arguments.output_dir,
        EVALUATION_OUTPUTS,
        arguments.overwrite,
        [arguments.preferences, arguments.reward],
    )
    rankings = read_source(arguments.preferences, arguments.format, merge=False)
    model = load_reward(arguments.reward, device=arguments.device)
    held_out = None
    if not arguments.all_prompts:
        held_out = held_out_of_training(arguments.reward, arguments.preferences, rankings)
    if held_out is not None:
        print(f"The model learned from this file: only its {len(held_out)} held-out rankings are evaluated.")
        rankings = held_out
    model.check_prompts([ranking.prompt for ranking in rankings])
    check_videos([video for ranking in rankings for video in ranking.videos])
    fraction = arguments.calibration_fraction
    if fraction is None:
        fraction = 0.0 if calibration_of(model)[0] else 0.2
    result = evaluate_reward(
        model, rankings, fraction, arguments.seed, arguments.batch_size, arguments.best_possible
    )
    source = Path(arguments.preferences)
    settings = {
        **asdict(arguments),
        "preferences": _shown(arguments.preferences),
        "device": arguments.device or str(default_device()),
        "calibration_fraction": fraction,
        "held_out_only": held_out is not None,
        "preferences_sha256": file_hash(source) if source.is_file() else None,
        "versions": versions(),
    }
    output_dir = open_output_dir(arguments.output_dir, EVALUATION_OUTPUTS, arguments.overwrite, rewrites=True)
    write_evaluation(output_dir, result, settings)
    for name, figures in result["dimensions"].items():
        print(f"{name}: {_summary(figures)}")
    if result["not_scored"]:
        print(f"Not scored by this model: {', '.join(result['not_scored'])}.")
    print(f"The report is {output_dir / 'evaluation.html'}.")
    record = Path(arguments.reward) / "training.json"
    if record.is_file():
        trained = json.loads(record.read_text(encoding="utf-8"))
        if "trunk_adapter" in trained:
            start = trained["trunk_adapter"]
            _show_ppo(arguments.reward, trained["base_model"], start, arguments.preferences)


def _summary(figures: dict[str, Any]) -> str:
    from reward.statistics import interval_text

    accuracy, with_ties = figures["accuracy"], figures["accuracy_with_ties"]
    return (
        f"pair accuracy {accuracy['mean']:.3f} {interval_text(accuracy)}, with ties "
        f"{with_ties['mean']:.3f} (majority {figures['majority_baseline']:.3f}, first video "
        f"{figures['position_baseline']:.3f}, tie rate {figures['tie_rate']:.3f}, calibration error "
        f"{figures['calibration_error_after_temperature']:.3f}, {figures['pairs']} pairs of "
        f"{figures['prompts']} prompts)."
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
