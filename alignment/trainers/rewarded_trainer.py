"""`RewardedTrainer`: what the methods that learn from rewards share: measuring the policy on held-out prompts, the best
model and when to stop by it, and the guidance that the result asks for."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor
from transformers import TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, EvalLoopOutput, IntervalStrategy

from alignment.rollouts.held_out import EvaluationSampling, HeldOutPrompts
from alignment.rollouts.reward_mixture import RewardMixture
from alignment.rollouts.sampling_plan import SamplingPlan
from alignment.trainers.base_trainer import EMA_NAME, AlignmentTrainer
from alignment.trainers.context_groups import rows_of_groups
from alignment.trainers.guidance import guidance_warning
from alignment.trainers.rollout_config import RewardedSamplingConfig
from generator.base import VideoGenerator
from generator.first_frames import ImageFiles
from generator.guidance import guidance_scales
from generator.one_or_several import as_list
from generator.output import InputError

logger = logging.getLogger(__name__)

REWARD_METRIC = "eval_reward"


class RewardedTrainer(AlignmentTrainer):
    """Trains on rewards of sampled videos; subclasses set `plan` and `rewards` before they call `hold_out`."""

    args: RewardedSamplingConfig
    plan: SamplingPlan
    rewards: RewardMixture
    held_out: HeldOutPrompts | None = None
    evaluates_after_training = False
    shows_first_frames = True
    _resumed_from: str | None = None

    def hold_out(
        self,
        generator: VideoGenerator,
        args: RewardedSamplingConfig,
        prompts: Sequence[str] | None,
        negative_prompts: Sequence[str] | None,
        images: Sequence[ImageFiles] | None = None,
        rewritten_prompts: Sequence[str] | None = None,
    ) -> HeldOutPrompts | None:
        """Prompts that the policy is measured on, for `Trainer`'s `eval_dataset`; None where there are none.

        Raises:
            InputError: what depends on an evaluation is asked for without one, or the other way round.
        """
        self.warn_of_guidance(generator, args)
        prompts = as_list(prompts or [])
        if not prompts:
            for name in ("load_best_model_at_end", "early_stopping_patience"):
                if getattr(args, name):
                    raise InputError(
                        f"{name} is set, but there are no held-out prompts: give --eval_prompts."
                    )
            args.eval_strategy, args.eval_on_start = IntervalStrategy.NO, False
            return None
        if args.eval_strategy == IntervalStrategy.NO:
            raise InputError(
                "eval_prompts are given, but eval_strategy is no: set it to steps, or leave them out."
            )
        scales = args.guidance_scale, args.guidance_scale_2
        if args.eval_guidance_scale is not None:
            scales = args.eval_guidance_scale, None
        sizes = args.num_frames, args.height, args.width
        settings = EvaluationSampling(*sizes, args.num_inference_steps, *scales, args.negative_prompt)
        together = min(self.plan.batch_size, args.per_device_eval_batch_size)
        plan = SamplingPlan.for_training(
            generator,
            settings,
            prompts,
            negative_prompts,
            together,
            self.conditions_of,
            images,
            rewritten_prompts,
            self.plan.solver,
        )
        self.held_out = HeldOutPrompts(plan, self.rewards, args.num_eval_videos, args.reward_batch_size)
        self._check_metric(args.metric_for_best_model, self.held_out.known_metrics())
        return self.held_out

    def _check_metric(self, metric: str, known: Sequence[str] | None) -> None:
        """Raises `InputError` where `metric_for_best_model` is none of those that are measured."""
        assert self.held_out is not None
        name = metric.removeprefix("eval_")
        if name == "gold" and self.held_out.gold is None:
            raise InputError(
                "metric_for_best_model is eval_gold, which needs eval_prompts of the built-in world: give "
                "world:SPLIT:N, or choose eval_reward."
            )
        if known is not None and name not in known:
            raise InputError(
                f"metric_for_best_model is {metric}, but must be one of {', '.join(f'eval_{each}' for each in known)}."
            )

    def watch_held_out(self) -> None:
        """Takes part in the training loop, after everything else that has a say in when it saves and stops."""
        self.add_callback(_HeldOutSchedule(self))

    # Measuring

    def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
        """The held-out prompts themselves, as each process samples its share of them."""
        return self.held_out if eval_dataset is None or eval_dataset is self.held_out else None

    def evaluation_loop(
        self,
        dataloader: Any,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """Measures the policy (its average, with `ema_decay`) on the held-out prompts; the same on all processes."""
        if not isinstance(dataloader, HeldOutPrompts):
            raise InputError(
                f"{type(self).__name__} is evaluated on prompts alone: give it eval_prompts when it is made."
            )
        args = self.args
        groups, group = args.data_parallel_size, args.data_parallel_rank
        share = len(dataloader.share(groups, group))
        advance, ended = self.show_evaluation(share)
        try:
            with self.compute_loss_context_manager():
                measured = dataloader.measure(self.policy, groups, group, self.gather_once, advance)
        finally:
            ended()
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in measured.items()}
        return EvalLoopOutput(None, None, metrics, len(dataloader))  # type: ignore[arg-type]

    def latent_shapes(self, *datasets: Any) -> set[tuple[int, ...]]:
        return {self.plan.latent_shape}

    def gather_once(self, rows: Tensor) -> Tensor:
        """Rows of all processes, those that a group has in common once."""
        return rows_of_groups(self.accelerator.gather(rows), self.args)

    def show_evaluation(self, videos: int) -> tuple[Callable[[int], None], Callable[[], None]]:
        """Functions that show progress of so many videos, and that end showing it."""
        return lambda count: None, lambda: None

    def _evaluate(
        self, trial: Any, ignore_keys_for_eval: Any, skip_scheduler: bool = False
    ) -> dict[str, float]:
        """Evaluates; on start only before the first step of all, not where a run is resumed."""
        if self.held_out is not None and skip_scheduler and self.state.global_step:
            return {}
        return super()._evaluate(trial, ignore_keys_for_eval, skip_scheduler)

    def evaluations(self) -> list[dict[str, Any]]:
        """Logged evaluations in their order; that of the untrained model has step 0."""
        return [entry for entry in self.state.log_history if REWARD_METRIC in entry]

    # The best model

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        """Returns whether to save; asks for a checkpoint of a new best model and, out of patience, for an end."""
        if self.held_out is None:
            return super()._determine_best_metric(metrics, trial)
        self._check_metric(
            self.args.metric_for_best_model,
            [n.removeprefix("eval_") for n in metrics if n.startswith("eval_")],
        )
        is_new_best = super()._determine_best_metric(metrics, trial)
        if is_new_best:
            self.state.best_global_step = self.state.global_step
            self.control.should_save |= self.args.load_best_model_at_end
        patience = self.args.early_stopping_patience
        since = [e for e in self.evaluations() if e["step"] > (self.state.best_global_step or 0)]
        if patience and len(since) >= patience:
            self.control.should_training_stop = True
        return is_new_best or self.control.should_save

    def _load_best_model(self) -> None:
        best = str(self.state.best_model_checkpoint)
        if self.is_deepspeed_enabled:
            super()._load_best_model()
        else:
            self._load_from_checkpoint(best)
        if self.ema:
            self.ema.average = load_file(Path(best) / EMA_NAME)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        self._resumed_from = checkpoint
        super()._load_optimizer_and_scheduler(checkpoint)

    def make_up_evaluation(self) -> None:
        """Measures a resumed policy that was to be measured when its run was stopped."""
        metrics = self.evaluate()
        self._determine_best_metric(metrics, None)
        if self.state.best_global_step == self.state.global_step and self.args.load_best_model_at_end:
            self.state.best_model_checkpoint = self._resumed_from

    def train(self, *args: Any, **kwargs: Any) -> Any:
        result = super().train(*args, **kwargs)
        self._say_best()
        return result

    def _say_best(self) -> None:
        """Prints which model is the result, and warns where none was better than the untrained one."""
        args, state = self.args, self.state
        metric = f"eval_{args.metric_for_best_model.removeprefix('eval_')}"
        start = next((entry.get(metric) for entry in self.evaluations() if entry["step"] == 0), None)
        best = state.best_metric
        if best is None or args.process_index:
            return
        if args.load_best_model_at_end and not args.disable_tqdm:
            print(
                f"The result is the best model, that of step {state.best_global_step}: {metric} {best:.4g}."
            )
        if start is not None and (best < start if args.greater_is_better else best > start):
            logger.warning(
                f"No evaluation was better than that of the untrained model: {metric} was {start:.4g} before the first "
                f"step and at best {best:.4g}, at step {state.best_global_step}; lower learning_rate, or look at the "
                "reward."
            )

    # What the result says

    @staticmethod
    def fits_unguided_velocity(args: Any) -> bool:
        """Returns whether guidance of the samples can get into the weights, whose velocity has none."""
        return False

    def warn_of_guidance(self, generator: VideoGenerator, args: RewardedSamplingConfig) -> None:
        """Logs what is to be said of the guidance scale, see `guidance_warning`."""
        warning = guidance_warning(
            type(self).__name__.removesuffix("Trainer"),
            generator.name,
            self.plan.scales,
            guidance_scales(generator),
            self.records_guidance,
            self.fits_unguided_velocity(args),
        )
        if warning is not None and args.process_index == 0:
            logger.warning(warning)

    records_guidance = True
    """True where the result is an adapter, whose `training.json` says how it is sampled."""

    def generation_defaults(self) -> dict[str, Any]:
        """The guidance that the policy was trained with, where the model's own is another."""
        defaults = super().generation_defaults()
        if self.plan.scales != guidance_scales(self.generator):
            defaults |= self.plan.guidance_settings()
        return defaults

    def training_record(self) -> dict[str, Any]:
        record = super().training_record()
        if self.held_out is None:
            return record
        state, own = self.state, {"epoch", "step"}
        measured = {entry["step"]: entry for entry in self.evaluations()}
        best = measured.get(state.best_global_step, {})
        return {
            **record,
            "evaluation": {
                "prompts": len(self.held_out.plan.prompts),
                "videos": len(self.held_out),
                **self.held_out.plan.guidance_settings(),
                "metric_for_best_model": self.args.metric_for_best_model,
                "best_step": state.best_global_step,
                "best": {name: value for name, value in best.items() if name not in own},
                "is_best": self.args.load_best_model_at_end and bool(best),
            },
        }


class _HeldOutSchedule(TrainerCallback):
    """Evaluates at `args.eval_steps`, after the last step, and on resuming where a run was stopped from outside before
    an evaluation that was due."""

    def __init__(self, trainer: RewardedTrainer) -> None:
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        # A resumed run compares this with `args.eval_steps`, and warns where they differ.
        state.eval_steps = args.eval_steps
        if not state.global_step or self.trainer.held_out is None:
            return
        # A folder that was moved or renamed still holds the best checkpoint.
        best = Path(str(args.output_dir)) / f"{PREFIX_CHECKPOINT_DIR}-{state.best_global_step}"
        if state.best_model_checkpoint is None and best.is_dir():
            state.best_model_checkpoint = str(best)
        measured = {entry["step"] for entry in self.trainer.evaluations()}
        if self._is_due(args, state) and state.global_step not in measured:
            self.trainer.make_up_evaluation()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        stopped = self.trainer.checkpoint_schedule.stopped
        if args.eval_strategy == IntervalStrategy.STEPS:
            ends = control.should_training_stop and not stopped
            control.should_evaluate = self._is_due(args, state) or ends
        if stopped and not args.early_stopping_patience:
            # Where patience may run out, the resumed run must know before it takes its first step.
            control.should_evaluate = False

    @staticmethod
    def _is_due(args: Any, state: Any) -> bool:
        steps = args.eval_steps
        interval = max(1, math.ceil(state.max_steps * steps)) if steps < 1 else int(steps)
        interval = getattr(args, "eval_interval", interval)
        in_time = state.global_step % interval == 0 and state.global_step >= args.eval_delay
        return (
            args.eval_strategy == IntervalStrategy.STEPS and in_time
        ) or state.global_step >= state.max_steps
