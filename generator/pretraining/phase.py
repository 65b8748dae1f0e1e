"""One phase of pretraining: the loop with its wall-clock budget, learning rate, average of weights, resumable state."""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from tqdm import tqdm

from generator.output import InputError, atomic_path
from generator.pretraining.config import PretrainConfig
from generator.pretraining.graphed_loss import GraphedLoss, Loss
from generator.pretraining.master_weights import MasterWeights
from generator.pretraining.muon import Muon
from generator.pretraining.processes import Processes
from generator.training.interruption import Interrupted, StopRequest, stoppable

STATE = "pretraining-state.pt"
WARMUP_STEPS = 200
RANK_SEED = 1_000_000_007
"""Distance between the seeds of the noise of two processes."""
SETTING_UP = 5
"""Batches on a GPU whose time does not count, as the code is compiled and graphs are recorded."""


def read_state(path: Path) -> dict[str, Any]:
    """State of an interrupted phase, as `Phase.save` wrote it.

    Raises:
        InputError: the file is damaged.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, UnpicklingError) as error:
        reason = " ".join(str(error).split())[:120]
        raise InputError(
            f"{path} cannot be read as the state of an interrupted training ({reason}): delete it to begin anew."
        ) from error
    return state


def trapezoid(progress: float, step: int, warmup_steps: int, cooldown_share: float) -> float:
    """Learning-rate factor: linear warm-up by steps, constant, linear to zero over the last `cooldown_share`."""
    return min((step + 1) / warmup_steps, 1.0, max(1.0 - progress, 0.0) / max(cooldown_share, 1e-9))


class Average:
    """Exponential moving average of parameters with decay `min(decay, (1 + step) / (10 + step))`."""

    def __init__(self, parameters: Iterable[Tensor], decay: float) -> None:
        self.live = list(parameters)
        self.average = [p.detach().clone().float() for p in self.live]
        self.decay = decay
        self.steps = 0

    @torch.no_grad()
    def update(self) -> None:
        """Moves the average towards the parameters as they are now."""
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        for average, live in zip(self.average, self.live, strict=True):
            average.lerp_(live.detach().float(), 1 - decay)


class PhaseLog(Protocol):
    """Observer of a phase while it goes on."""

    def curves(self, phase: Phase, row: dict[str, float]) -> None:
        """Takes a new row of the history."""
        ...

    def samples(self, phase: Phase, batch: Any) -> None:
        """Is called every `sample_seconds` with the batch that was just trained on."""
        ...


class Phase:
    """One training phase with a wall-clock budget: loop, learning rate, average, resumable state, progress bar."""

    def __init__(
        self,
        name: str,
        modules: dict[str, nn.Module],
        config: PretrainConfig,
        seconds: float,
        learning_rate: float,
        state_path: Path,
        dtype: torch.dtype = torch.float32,
        processes: Processes | None = None,
    ) -> None:
        self.processes = Processes() if processes is None else processes
        self.name = name
        self.modules = modules
        self.config = config
        self.seconds = seconds
        self.learning_rate = learning_rate
        self.state_path = state_path
        self.weights = MasterWeights(modules.values(), dtype, config.optimizer == "muon")
        self.average = Average(self.weights.masters, config.ema_decay)
        self.muon = None
        if self.weights.hidden_shapes:
            self.muon = Muon(
                self.weights.masters[0], self.weights.hidden_shapes, learning_rate, config.weight_decay
            )
        self.optimizer = torch.optim.AdamW(
            self.weights.groups(config.weight_decay),
            lr=learning_rate,
            betas=(0.9, 0.95),
            fused=self.weights.masters[0].is_cuda,
        )
        self.step = 0
        self.clips = 0
        self.elapsed = 0.0
        self.history: list[dict[str, float]] = []
        self.log: PhaseLog | None = None
        self.stop_code: int | None = None

    @property
    def finished(self) -> bool:
        """True where the whole budget is used."""
        return self.elapsed >= self.seconds

    def save(self) -> None:
        """Writes everything that `resume` needs, in one step; of several processes, the first does."""
        if not self.processes.is_first:
            return
        with atomic_path(self.state_path) as path:
            torch.save(
                {
                    "phase": self.name,
                    "step": self.step,
                    "clips": self.clips,
                    "elapsed": self.elapsed,
                    "history": self.history,
                    "average": self.average.average,
                    "average_steps": self.average.steps,
                    "optimizer": self.optimizer.state_dict(),
                    "muon": None if self.muon is None else self.muon.state_dict(),
                    "masters": [p.detach() for p in self.weights.masters],
                    "config": asdict(self.config),
                },
                path,
            )

    def resume(self) -> bool:
        """Takes up the state of an interrupted run of this phase, if there is one."""
        if not self.state_path.is_file():
            return False
        state = read_state(self.state_path)
        if state["phase"] != self.name:
            return False
        for name in ("num_layers", "hidden_size", "optimizer"):
            if state["config"].get(name, "adamw") != getattr(self.config, name):
                raise InputError(
                    f"{self.state_path} is an interrupted run with {name} {state['config'].get(name, 'adamw')}, but "
                    f"{getattr(self.config, name)} was asked for: give the same value or another --output_dir."
                )
        with torch.no_grad():
            for master, value in zip(self.weights.masters, state["masters"], strict=True):
                master.copy_(value)
        self.weights.give()
        self.optimizer.load_state_dict(state["optimizer"])
        if self.muon is not None:
            self.muon.load_state_dict(state["muon"])
        self.average.average = [
            a.to(p.device) for a, p in zip(state["average"], self.average.live, strict=True)
        ]
        self.average.steps = state["average_steps"]
        self.step, self.clips, self.elapsed = state["step"], state["clips"], state["elapsed"]
        self.history = state["history"]
        return True

    def run(self, batches: Iterable[Any], loss: Loss, device: torch.device) -> None:
        """Trains until the budget or this slice of it is used; a used-up budget puts the average into the modules.

        Args:
            batches: endless; each has `input_ids` with one row a clip, or says how many `clips` it has.
            loss: of a batch.
            device: of the random generator of each step.
        """
        on_gpu = device.type == "cuda"
        # Graphs may not be recorded on the default stream, and gradients must come from the stream that recorded.
        with torch.cuda.stream(torch.cuda.Stream(device)) if on_gpu else nullcontext():
            graphed = GraphedLoss(loss, self.weights, on_gpu and self.config.cuda_graphs)
            with stoppable("the state is saved at the end of this step, then training stops") as stop:
                asked = self._train(batches, graphed, device, stop)
            self.stop_code = stop.code if asked or stop else None
        if on_gpu:
            torch.cuda.synchronize(device)
        self.save()
        if self.stop_code is not None and not self.finished:
            raise Interrupted("pretraining was stopped", self.stop_code, self.state_path)
        if self.finished:
            self.weights.finish(self.average.average)

    def _train(
        self, batches: Iterable[Any], loss: GraphedLoss, device: torch.device, stop: StopRequest
    ) -> bool:
        """The loop of `run`; returns whether it was asked to stop."""
        started = saved = 0.0
        sampled = float("-inf")
        end = self.seconds
        if self.config.slice_seconds is not None:
            end = min(end, self.elapsed + self.config.slice_seconds)
        bar = tqdm(
            total=round(self.seconds),
            initial=round(self.elapsed),
            desc=self.name,
            unit="s",
            disable=not self.processes.is_first,
        )
        asked = waited = 0.0
        stopped = False
        setting_up = SETTING_UP if device.type == "cuda" else 0
        for calls, batch in enumerate(batches):
            if calls <= setting_up:  # waiting for worker processes is not training time either
                started, saved = time.monotonic() - self.elapsed, time.monotonic()
            else:
                waited += time.monotonic() - asked
            self.elapsed, stopped = self.processes.agree(self.elapsed, bool(stop))
            if self.elapsed >= end or stopped:
                break
            factor = trapezoid(
                self.elapsed / self.seconds, self.step, WARMUP_STEPS, self.config.cooldown_share
            )
            metrics, norm = self._update(batch, loss, factor, device)
            if self.step % 50 == 0:
                self.record({**metrics, "gradient_norm": norm}, factor, waited)
                bar.set_postfix({k: f"{v:.4g}" for k, v in self.history[-1].items() if k in ("loss", "psnr")})
            if calls >= setting_up:
                self.elapsed = time.monotonic() - started
            bar.update(round(self.elapsed) - bar.n)
            if time.monotonic() - saved > self.config.save_seconds:
                self.save()
                saved = time.monotonic()
            if self.log is not None and time.monotonic() - sampled > self.config.sample_seconds:
                sampled = time.monotonic()
                self.log.samples(self, batch)
                started += time.monotonic() - sampled  # looking is not training
            asked = time.monotonic()
        bar.close()
        return stopped

    def _update(
        self, batch: Any, loss: GraphedLoss, factor: float, device: torch.device
    ) -> tuple[dict[str, Tensor], Tensor]:
        """One step of the optimiser; the metrics with the loss, and the norm of the gradient before clipping."""
        optimizers = [self.optimizer] if self.muon is None else [self.muon, self.optimizer]
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            group["lr"] = self.learning_rate * factor
        seed = self.config.seed + self.step + self.processes.rank * RANK_SEED
        value, metrics = loss(batch, torch.Generator(device).manual_seed(seed))
        self.weights.take_gradients()
        self.processes.average([master.grad for master in self.weights.masters if master.grad is not None])
        norm = nn.utils.clip_grad_norm_(self.weights.masters, 1.0)
        for optimizer in optimizers:
            optimizer.step()
        self.weights.give()
        self.average.update()
        self.step += 1
        clips = batch.clips if hasattr(batch, "clips") else len(batch.input_ids)
        self.clips += clips * self.processes.size  # about: every process has other clips
        return {**metrics, "loss": value}, norm

    def record(self, metrics: dict[str, Tensor], factor: float, waited: float) -> None:
        """Adds one row to the history; `waited` is the time in seconds spent waiting for batches so far."""
        row = {name: float(value) for name, value in metrics.items()}
        row |= {"step": self.step, "clips": self.clips, "seconds": self.elapsed, "lr_factor": factor}
        row["waited_seconds"] = waited
        self.history.append(row)
        if self.log is not None:
            self.log.curves(self, row)
