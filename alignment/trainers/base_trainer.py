"""`AlignmentTrainer`: what SFT, DPO and PPO share on top of `transformers.Trainer`.

The trained module is `Policy`, a thin shell around the generator's transformer. Checkpoints hold the trained
weights exactly; what is saved for use is one self-contained LoRA adapter, or the whole pipeline after full
fine-tuning.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from transformers import TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from alignment.data.example_weights import batch_loss, example_share
from alignment.data.latent_dataset import BucketBatchSampler, LatentDataset, collate, collate_counted
from alignment.data.packed_rows import RowBatchSampler, RowDataset, collate_rows
from alignment.lora import LoraArguments, add_lora, train_all_weights, trained_adapter
from alignment.memory.allocator import keep_freed_memory
from alignment.trainers.activation_offloading import activation_offloading
from alignment.trainers.base_config import AlignmentConfig
from alignment.trainers.checks import check_trainable
from alignment.trainers.context_groups import check_engine, check_latents, group_of, prepare_batches
from alignment.trainers.policy import TRAINED_NAME, Policy, evenly_spread, load_trained
from alignment.trainers.samples import SampleVideos
from alignment.trainers.table import describe_dataset
from alignment.trainers.weight_average import AverageEachStep, WeightAverage
from generator.adapters.adapters import DEFAULTS_KEY, adapter_defaults, model_fingerprint, write_adapter
from generator.adapters.export import export_adapter, layer_names
from generator.adapters.loaded_from import BASE_WEIGHTS, base_fingerprint, loaded_from
from generator.base import VideoGenerator
from generator.guidance import guidance_scales
from generator.hardware.context_parallel import sum_gradients
from generator.hardware.zero3 import gather_as_one
from generator.inputs.conditions import Conditions, select
from generator.output import InputError, files_into, write_json
from generator.provenance import versions
from generator.training.checkpoints import CheckpointingTrainer
from generator.weight_files.release_names import LayerNames

EMA_NAME = "ema.safetensors"
EXTRA_NAME = "extra_state.pt"
PREFIX = "transformer."
RESIDENT_BYTES = 2**28
"""Tables of prompts up to this size are kept on the device; larger ones stay in the host's memory."""


class _EpochOrder(TrainerCallback):
    """Tells the batch sampler the epoch, through whatever wraps it after resuming."""

    def __init__(self, sampler: BucketBatchSampler | RowBatchSampler) -> None:
        self.sampler = sampler

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.sampler.set_epoch(int(state.epoch or 0))


class AlignmentTrainer(CheckpointingTrainer):
    """Trains a generator's transformer.

    Args:
        generator: what is trained; LoRA layers are added to its transformer.
        args: the trainer's configuration.
        lora: LoRA settings; the whole transformer is trained if `use_peft` is off.
        record: facts for `training.json` (data hashes, say).
        dropout: whether the network's dropout is on while training.
        rows: packed rows of the training data, instead of batches of one size.
    """

    args: AlignmentConfig
    shows_first_frames = False
    """True where models that need an image are shown the first frames of the training videos."""
    evaluates_after_training = True
    """False where the last step of a training is evaluated within it."""
    loss_is_scaled_for_ga = False

    def __init__(
        self,
        generator: VideoGenerator,
        args: AlignmentConfig,
        train_dataset: Dataset,
        eval_dataset: Dataset | None = None,
        lora: LoraArguments | None = None,
        record: dict[str, Any] | None = None,
        callbacks: Sequence[TrainerCallback] = (),
        data_collator: Any = collate,
        dropout: bool = False,
        rows: RowBatchSampler | None = None,
    ) -> None:
        self.lora = lora = lora or LoraArguments()
        method = type(self).__name__.removesuffix("Trainer")
        check_trainable(generator, args, lora, method, self.shows_first_frames)
        self.generator, self.rows, self.record = generator, rows, record or {}
        self.lora_layers: list[str] = []
        self.exports = self._export_names(generator, args)
        for shape in self.latent_shapes(train_dataset, eval_dataset):
            check_latents(generator, args, shape)
        self.base_weights = base_fingerprint(generator)
        self.policy = policy = self._prepare_network(generator, args, dropout)
        self.fingerprint = model_fingerprint(generator.transformer)  # FSDP renames the transformer's class
        self._metrics: dict[str, list[Tensor]] = defaultdict(list)
        self._resident: dict[int, tuple[Conditions, Conditions]] = {}
        self._shares: dict[bool, float] = {}  # of an example, while training and evaluating
        super().__init__(
            model=policy,
            args=args,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            data_collator=data_collator,
            callbacks=list(callbacks),
        )
        self.can_return_loss = True
        check_engine(args.context_parallel, self.divided_by)
        sum_gradients(self.accelerator, args.context_parallel)
        if args.world_size > 1 and (self.is_deepspeed_enabled or self.is_fsdp_enabled or self.adds_calls):
            generator.run_all_experts(when_sampling=bool(self.divided_by))
        if self.divided_by == "DeepSpeed ZeRO-3" and self.calls_once:
            gather_as_one(policy, generator.blocks())
            policy.gathers_blocks = True
        if self.divided_by == "FSDP" and not self.lora.use_peft:
            raise InputError(
                "use_peft is off with FSDP, which is for LoRA here: train all weights with zero3."
            )
        self.ema: WeightAverage | None = None
        if args.ema_decay:
            if self.divided_by:
                raise InputError(
                    f"ema_decay is set with {self.divided_by}, which partitions the weights: use ZeRO-2."
                )
            self.ema = WeightAverage(policy)
            self.add_callback(AverageEachStep(self.ema, args.ema_decay))
        if args.sample_prompts:
            self.add_callback(SampleVideos(self))
            # After the samples, so that a wish to stop that comes meanwhile is heard at the same step.
            self.remove_callback(self.checkpoint_schedule)
            self.add_callback(self.checkpoint_schedule)

    def _prepare_network(self, generator: VideoGenerator, args: AlignmentConfig, dropout: bool) -> Policy:
        """The network with what is trained set apart, its kernels chosen, as engines and optimisers see it."""
        if self.lora.use_peft:
            self.lora_layers = add_lora(generator, self.lora, args.seed)
        else:
            train_all_weights(generator)
        if generator.device.type == "cpu":
            keep_freed_memory()
        if args.attention_backend is not None:
            generator.set_attention_backend(args.attention_backend)
        self.context_group = group_of(generator, args)
        if args.compile_blocks:
            generator.compile_blocks()
        share = args.gradient_checkpointing_share
        blocks = generator.blocks()
        chosen = evenly_spread(blocks, share) if share < 1 else None
        return Policy(generator.transformer, dropout, chosen, blocks)

    def _export_names(self, generator: VideoGenerator, args: AlignmentConfig) -> dict[str, list[LayerNames]]:
        """Names of the layers for each of `args.export`, before engines and LoRA layers change the modules."""
        if args.export and not self.lora.use_peft:
            raise InputError("export is for LoRA, but use_peft is off: leave export out.")
        return {form: layer_names(generator.transformer, form) for form in args.export or []}

    @cached_property
    def offloads_activations(self) -> AbstractContextManager[Any]:
        """Context of each training step."""
        return activation_offloading(self.policy, self.args)

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        with self.offloads_activations:
            return super().training_step(*args, **kwargs)

    @property
    def calls_once(self) -> bool:
        """True where each loss calls the network once with gradients, so that ZeRO-3 may gather whole blocks."""
        return True

    @property
    def adds_calls(self) -> bool:
        """True where a loss adds up calls of the network at other noise levels: DDP knows only those experts of a model
        that the last call needed, so each must run all."""
        return False

    @property
    def trains_alike(self) -> bool:
        """True for LoRA on the family's own layers, all of which are used, unless the noise level chooses an expert."""
        own = self.lora.use_peft and self.lora.lora_target_modules is None
        return own and (self.generator.boundary is None or self.adds_calls)

    @property
    def divided_by(self) -> str:
        """The engine that divides the weights among the processes; empty where each has them all."""
        state: Any = self.accelerator.state
        deepspeed = getattr(state, "deepspeed_plugin", None)
        if deepspeed is not None and deepspeed.zero_stage == 3:
            return "DeepSpeed ZeRO-3"
        return "FSDP" if getattr(state, "fsdp_plugin", None) is not None else ""

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Trains; afterwards the network is in evaluation mode, ready to sample from."""
        if self.args.release_text_encoder:
            self.generator.release_text_encoder()  # all prompts are encoded by now
        try:
            return super().train(*args, **kwargs)
        finally:
            self.policy.eval()

    # Data

    row_name = "examples"
    """Unit that a batch is counted in, in messages."""

    def latent_shapes(self, *datasets: Dataset | None) -> set[tuple[int, ...]]:
        """Shapes `(channels, frames, height, width)` of the latents of data sets."""
        return {shape for each in datasets if isinstance(each, LatentDataset) for shape in each.shapes}

    def describe_data(self) -> dict[str, str]:
        """Rows of the table that is shown before the first step: what is learnt from."""
        dataset = self.train_dataset
        return describe_dataset(self, dataset) if isinstance(dataset, LatentDataset) else {}

    def get_train_dataloader(self) -> DataLoader:
        dataset: Any = self.train_dataset
        if self.rows is not None:
            self.add_callback(_EpochOrder(self.rows))
            self._shares[True] = self._example_share(dataset, self.rows)
            return self.accelerator.prepare(
                DataLoader(RowDataset(dataset), batch_sampler=self.rows, collate_fn=collate_rows)
            )
        buckets = getattr(dataset, "buckets", None)
        if buckets is None:
            return super().get_train_dataloader()
        collator, identities = self.data_collator, getattr(dataset, "identities", None)
        if isinstance(dataset, LatentDataset) and not self.args.compile_blocks:
            collator = collate_counted  # compiled blocks are compiled for each size of batch
        size, seed = self._train_batch_size, self.args.seed
        sampler = BucketBatchSampler(buckets, size, seed, self.args.data_parallel_size, identities)
        self._shares[True] = self._example_share(dataset, sampler)
        self.add_callback(_EpochOrder(sampler))
        loader = DataLoader(dataset, batch_sampler=sampler, collate_fn=collator)
        return prepare_batches(self.accelerator, loader, self.args)

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader:
        dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        if not isinstance(dataset, LatentDataset):
            return super().get_eval_dataloader(eval_dataset)
        sampler = BucketBatchSampler(
            dataset.buckets, self.args.eval_batch_size, seed=0, processes=self.args.data_parallel_size
        )
        self._shares[False] = example_share(len(dataset), len(sampler))
        loader = DataLoader(dataset, batch_sampler=sampler, collate_fn=self.data_collator)
        return prepare_batches(self.accelerator, loader, self.args)

    def _example_share(self, dataset: Any, sampler: BucketBatchSampler | RowBatchSampler) -> float:
        args = self.args
        processes, accumulation = args.data_parallel_size, args.gradient_accumulation_steps
        return example_share(len(dataset), len(sampler), processes, accumulation)

    def loss_of(self, losses: Tensor, weights: Tensor) -> Tensor:
        """The loss of a batch from those of its examples `[batch]`, of which each counts the same over an epoch."""
        training = torch.is_grad_enabled()
        share = self._shares.get(training)
        if share is not None and training:
            # The last step of an epoch may have fewer micro-batches, over which `Trainer` takes the mean.
            steps = self.args.gradient_accumulation_steps
            share *= getattr(self, "current_gradient_accumulation_steps", steps) / steps
        return batch_loss(losses, weights, share)

    def conditions_of(self, table: Conditions, rows: Tensor) -> Conditions:
        """Rows of a prompt table, on the device."""
        device = self.args.device
        if device.type != "cpu" and sum(value.nbytes for value in table.values()) <= RESIDENT_BYTES:
            if id(table) not in self._resident:  # the table is kept too, so that no other one gets its id
                self._resident[id(table)] = table, {k: value.to(device) for k, value in table.items()}
            return select(self._resident[id(table)][1], rows)
        chosen = select(table, rows.cpu())
        return {name: value.to(device) for name, value in chosen.items()}

    # Metrics

    def observe(self, values: dict[str, Tensor]) -> None:
        """Remembers tensors for the next log, which shows their mean over elements, steps and processes."""
        prefix = "" if torch.is_grad_enabled() else "eval_"
        for name, value in values.items():
            self._metrics[prefix + name].append(value.detach().float().mean())

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        evaluating = any(name.startswith("eval_") for name in logs)
        logs = {**logs, **self._means(evaluating)}
        super().log(logs, start_time)

    def _means(self, evaluating: bool) -> dict[str, float]:
        """Means of what was observed since the last log, over the processes that observed it."""
        found = {
            name: torch.stack(self._metrics.pop(name)).mean()
            for name in list(self._metrics)
            if name.startswith("eval_") == evaluating
        }
        names = sorted(found)
        if self.args.world_size > 1:
            # A process whose rankings are all ties has no margin, say; all must reduce the same numbers.
            names = sorted(set(gather_object(names)))
        if not names:
            return {}
        missing = torch.zeros((), device=self.args.device)
        values = torch.stack([found.get(name, missing).to(self.args.device) for name in names])
        counts = values.new_tensor([float(name in found) for name in names])
        sums, counts = self.accelerator.reduce(torch.stack([values, counts]), reduction="sum")
        return dict(zip(names, (sums / counts).tolist()))

    def prediction_step(
        self, model: torch.nn.Module, inputs: Any, prediction_loss_only: bool, ignore_keys: Any = None
    ) -> tuple[Tensor, None, None]:
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            loss: Any = self.compute_loss(model, inputs)
        return loss.detach(), None, None

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        # `Trainer` sets it back after each evaluation to one that cuts the last batch off by its length.
        self.gather_function = self.accelerator.gather
        with self.ema.swapped() if self.ema else nullcontext():
            return super().evaluate(*args, **kwargs)

    # Saving and resuming

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        """Writes what is for use, and into checkpoints also the trained weights exactly as they are."""
        folder = Path(output_dir or self.args.output_dir or ".")
        if state_dict is None:
            state_dict = self.policy.state_dict()
        if not self.args.should_save:
            return
        names = [name for name, parameter in self.policy.named_parameters() if parameter.requires_grad]
        lost = next((name for name in names if not torch.isfinite(state_dict[name]).all()), None)
        if lost is not None:
            raise InputError(
                f"Training has diverged by step {self.state.global_step}: {lost} holds values that are not finite "
                f"numbers, so nothing is saved at {folder}. Lower learning_rate, which is {self.args.learning_rate:g}, "
                "and start again or from an earlier checkpoint."
            )
        folder.mkdir(parents=True, exist_ok=True)
        if folder.name.startswith(PREFIX_CHECKPOINT_DIR):
            trained = {name: state_dict[name].detach().cpu().contiguous() for name in names}
            save_file(trained, folder / TRAINED_NAME)
            if self.ema:
                save_file({n: v.cpu().contiguous() for n, v in self.ema.average.items()}, folder / EMA_NAME)
            extra = self.extra_state()
            if extra:
                torch.save(extra, folder / EXTRA_NAME)
        if self.ema:
            state_dict = {**state_dict, **self.ema.average}
        self._export(folder, state_dict)

    def _export(self, folder: Path, state_dict: dict[str, Tensor]) -> None:
        if self.lora.use_peft:
            adapter = trained_adapter(self.generator, state_dict, PREFIX)
            adapter.training = self.training_record()
            write_adapter(folder, adapter, adapter.training)
            if not folder.name.startswith(PREFIX_CHECKPOINT_DIR):
                for form, names in self.exports.items():
                    export_adapter(folder / form, adapter, names, form, folder.resolve().name)
        elif not folder.name.startswith(PREFIX_CHECKPOINT_DIR):
            self.generator.restore_text_encoder()
            with files_into(folder) as new, self.ema.swapped() if self.ema else nullcontext():
                weights = {name.removeprefix(PREFIX): value for name, value in state_dict.items()}
                self.generator.save_pretrained(new, weights if self.divided_by else None)
            write_json(folder / "training.json", self.training_record())

    def training_record(self) -> dict[str, Any]:
        """Content of `training.json`: base model, data, arguments, versions, metrics."""
        last = [entry for entry in self.state.log_history if "loss" in entry]
        return {
            "trainer": type(self).__name__,
            "base_model": self.generator.name,
            "model_fingerprint": self.fingerprint,
            BASE_WEIGHTS: self.base_weights,
            "lora": self.lora.in_effect() if self.lora.use_peft else None,
            "lora_layers": self.lora_layers,
            DEFAULTS_KEY: self.generation_defaults(),
            "arguments": self._arguments_in_effect(),
            "global_step": self.state.global_step,
            "metrics": last[-1] if last else {},
            "versions": versions(),
            "distributed_type": self.accelerator.distributed_type.value,
            "num_processes": self.accelerator.num_processes,
            **loaded_from(self.generator),
            **self.record,
        }

    def generation_defaults(self) -> dict[str, Any]:
        """Sampling settings that the trained adapter asks for, beside the model's own."""
        return adapter_defaults(self.generator)

    def _arguments_in_effect(self) -> dict[str, Any]:
        """The arguments, with the model's own values for sizes and sampling settings that were not given."""
        defaults = {
            name: value
            for name, value in asdict(self.generator.defaults).items()
            if hasattr(self.args, name) and getattr(self.args, name) is None
        }
        if "guidance_scale_2" in defaults and self.generator.boundary is not None:
            defaults["guidance_scale_2"] = guidance_scales(
                self.generator, getattr(self.args, "guidance_scale", None)
            )[1]
        return {**self.args.to_sanitized_dict(), **defaults}

    def _load_from_checkpoint(
        self, resume_from_checkpoint: str, model: torch.nn.Module | None = None
    ) -> None:
        """Puts the trained weights of a checkpoint back, bit for bit (engines load their own copy
        themselves)."""
        load_trained(self.policy, Path(resume_from_checkpoint), self.divided_by == "FSDP")

    def extra_state(self) -> dict[str, Any]:
        """State that a method must remember beside weights and optimiser, for checkpoints."""
        return {}

    def load_extra_state(self, state: dict[str, Any]) -> None:
        """Takes back what `extra_state` gave."""

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Also what engines know nothing of: the averaged weights and the method's own state."""
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None:
            return
        folder = Path(checkpoint)
        if self.ema:
            if not (folder / EMA_NAME).is_file():
                raise InputError(f"The checkpoint {folder} has no {EMA_NAME}: resume without ema_decay.")
            self.ema.average = load_file(folder / EMA_NAME)
        if (folder / EXTRA_NAME).is_file():
            path = folder / EXTRA_NAME
            self.load_extra_state(torch.load(path, map_location=self.args.device, weights_only=True))

    def _issue_warnings_after_load(self, load_result: Any) -> None:
        """Frozen weights are not in checkpoints on purpose."""
