"""Stage that trains a rewriter of prompts, on pairs of prompts or on rewards of the videos that its texts give."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from alignment.rewriting.grpo import VideoRewardArguments, grpo_config, grpo_trainer
from alignment.rewriting.instructions import read_instruction
from alignment.rewriting.rewriters import RECORD, find_chat_model
from alignment.rewriting.training import (
    SCRATCH,
    RewriterTrainingArguments,
    read_pairs,
    sft_config,
    sft_trainer,
)
from alignment.stages.arguments import LoadingArguments
from alignment.stages.stage import load_rewards
from generator.data.prompts import read_prompts
from generator.files.output_folder import Outputs, open_output_dir
from generator.hardware.zero3 import outside_engine
from generator.output import read_record, write_json
from generator.training.checkpoints import CheckpointSchedule, saved_before_stopping
from generator.training.output_dir import check_training_dir, goes_on_inside
from generator.training.table import describe_device, format_table, trained_share

OUTPUTS = Outputs(
    "rewriter",
    (
        RECORD,
        "*.json",
        "*.safetensors",
        "*.jinja",
        "*.bin",
        "README.md",
        "runs/*/*",
        "checkpoint-#/*",
        "checkpoint-#/*/*",
    ),
    early=("runs/*/*", "checkpoint-#/*", "checkpoint-#/*/*"),
)


def train_rewriter(
    arguments: RewriterTrainingArguments,
    videos: VideoRewardArguments | None = None,
    loading: LoadingArguments | None = None,
    callbacks: Sequence[Any] = (),
) -> Any:
    """Trains a rewriter by TRL's `SFTTrainer` or `GRPOTrainer`; writes the model in half precision, its tokenizer and
    `rewriter.json` to `arguments.output_dir`.

    Args:
        arguments: language model, method and training.
        videos: prompts, generator and rewards of the method `grpo`.
        loading: loading of the generator.
        callbacks: further callbacks of the trainer.

    Returns:
        The trainer after training.

    Raises:
        InputError: the pairs, the prompts, a model, a reward or the output folder cannot be used.
        Interrupted: somebody stopped it; a checkpoint of the last step is saved.
    """
    grpo = arguments.method == "grpo"
    videos = videos or VideoRewardArguments()
    instruction = _instruction_of(arguments)
    if grpo:
        videos.require()
        data = [record.prompt for record in read_prompts(videos.prompts)]
        config = grpo_config(arguments, videos, len(data))
        read = [arguments.model, videos.prompts, videos.generator, *(videos.adapter or []), *videos.reward]
    else:
        pairs = read_pairs(str(arguments.pairs))
        config = sft_config(arguments)
        read = [arguments.model, str(arguments.pairs)]
    checkpoint = check_training_dir(config, OUTPUTS, RECORD, arguments.overwrite, read)
    if grpo:
        trainer = _rewarded_trainer(arguments, videos, loading, config, instruction, data)
        facts = {"prompts": videos.prompts, "num_prompts": len(data), **_video_facts(videos)}
    else:
        trainer = sft_trainer(arguments, config, instruction, pairs)
        facts = {"pairs": arguments.pairs, "num_pairs": len(pairs)}
    for callback in callbacks:
        trainer.add_callback(callback)
    _train(trainer, arguments, checkpoint, _table(trainer, facts, videos if grpo else None))
    name = "GRPOTrainer" if grpo else "SFTTrainer"
    record = {"instruction": instruction, "trainer": name, "model": arguments.model, **facts}
    _save(trainer, Path(arguments.output_dir), {**record, "max_steps": arguments.max_steps})
    return trainer


def _instruction_of(arguments: RewriterTrainingArguments) -> str:
    """The instruction that is asked for, else that of the rewriter that is trained further, else none."""
    if arguments.instruction is not None:
        return read_instruction(arguments.instruction)
    if arguments.model == SCRATCH:
        return ""
    return str(read_record(find_chat_model(arguments.model) / RECORD).get("instruction") or "")


def _rewarded_trainer(
    arguments: RewriterTrainingArguments,
    videos: VideoRewardArguments,
    loading: LoadingArguments | None,
    config: Any,
    instruction: str,
    prompts: Sequence[str],
) -> Any:
    """The trainer of `grpo` with its generator and rewards, which belong to no engine."""
    from generator import load_generator

    with outside_engine():
        generator = load_generator(
            videos.generator,
            adapter=videos.adapter,
            device=config.device,
            **(loading or LoadingArguments()).options(),
        )
    rewards = load_rewards(videos.reward, config)
    return grpo_trainer(arguments, videos, config, instruction, prompts, generator, rewards)


def _video_facts(videos: VideoRewardArguments) -> dict[str, Any]:
    """Facts for the record: what made and judged the videos."""
    names = (
        "generator",
        "adapter",
        "reward",
        "num_generations",
        "num_videos",
        "guidance_scale",
        "dropped_penalty",
    )
    return {name: getattr(videos, name) for name in names}


def _table(trainer: Any, facts: dict[str, Any], videos: VideoRewardArguments | None) -> str:
    """Table of what is trained, for a terminal."""
    args = trainer.args
    batch = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
    rows = {"trained": trained_share(trainer.model), "device": describe_device(args, trainer.model.dtype)}
    if videos is None:
        rows |= {"pairs": str(facts["num_pairs"]), "steps": f"{args.max_steps} of {batch} pairs"}
        return format_table("SFT trains on", rows)
    groups, most = batch // videos.num_generations, args.max_steps * batch * videos.num_videos
    rows |= {
        "prompts": str(facts["num_prompts"]),
        "steps": f"{args.max_steps} of {groups} prompts with {videos.num_generations} texts each",
        "videos": f"at most {most} by {videos.generator}; the bar forecasts the time from the first step on",
        "rewards": ", ".join(videos.reward),
    }
    return format_table("GRPO trains on", rows)


def _train(trainer: Any, arguments: RewriterTrainingArguments, checkpoint: str | None, table: str) -> None:
    """Opens the output folder and trains; a signal has a checkpoint saved first."""
    args = trainer.args
    trainer.accelerator.wait_for_everyone()  # all have looked at the folder before one writes into it
    if args.process_index == 0:
        open_output_dir(arguments.output_dir, OUTPUTS, arguments.overwrite, goes_on_inside(args, checkpoint))
        print(table, flush=True)
    schedule = CheckpointSchedule(arguments.save_minutes)
    trainer.add_callback(schedule)
    with saved_before_stopping(schedule, args.output_dir):
        trainer.train(resume_from_checkpoint=checkpoint)


def _save(trainer: Any, folder: Path, record: dict[str, Any]) -> None:
    """Writes model, tokenizer and record, by the first process; all take part where the weights are divided."""
    divided = trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled
    state = trainer.accelerator.get_state_dict(trainer.model_wrapped) if divided else None
    if trainer.args.process_index == 0:
        model = trainer.accelerator.unwrap_model(trainer.model_wrapped)
        with outside_engine() if divided else nullcontext():
            if state is None:
                model.to(torch.float16).save_pretrained(folder)
            else:
                model.save_pretrained(folder, state_dict=_halved(state))
        trainer.processing_class.save_pretrained(folder)
        write_json(folder / RECORD, record)
    trainer.accelerator.wait_for_everyone()


def _halved(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights in half precision; those that share their memory still do."""
    halves = {value.data_ptr(): value.half() for value in state.values()}
    return {name: halves[value.data_ptr()] for name, value in state.items()}
