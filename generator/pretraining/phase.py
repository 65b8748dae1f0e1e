"""One phase of pretraining: the loop with its wall-clock budget, learning rate, average of weights, resumable state.

Weights are computed with in `dtype` and kept in float32: gradients go to float32 masters, the optimiser changes those,
and a rounded copy goes back.
"""

from __future__ import annotations

import time
from collections.abc import Hashable, Iterable
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from tqdm import tqdm

from generator.output import InputError, atomic_path
from generator.pretraining.config import PretrainConfig
from generator.pretraining.muon import Muon
from generator.training.interruption import Interrupted, StopRequest, stoppable

STATE = "pretraining-state.pt"
WARMUP_STEPS = 200
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


def hidden_matrices(modules: Iterable[nn.Module]) -> list[nn.Parameter]:
    """Weights of linear layers inside blocks (members of a `ModuleList`), sorted by shape.

    Embeddings, layers in front of and behind the blocks, and tables are not among them: Muon is not for these.
    """
    found: dict[nn.Parameter, None] = {}
    for module in modules:
        for blocks in module.modules():
            if isinstance(blocks, nn.ModuleList):
                for linear in blocks.modules():
                    if isinstance(linear, nn.Linear):
                        found[cast(nn.Parameter, linear.weight)] = None
    return sorted(found, key=lambda weight: tuple(weight.shape))


class MasterWeights:
    """Parameters of modules as flat buffers: float32 masters, and live weights and gradients in `dtype`.

    One buffer holds the matrices, which decay, and one the rest; with `hidden`, a third and first one the matrices
    inside blocks, by shape. Optimiser, clipping and averaging then take a few calls whatever the number of parameters,
    and gradients always lie at the same place, as CUDA graphs need.

    Args:
        modules: converted to `dtype` in place; their parameters become views of the flat buffers.
        dtype: of forward and backward passes.
        hidden: give the linear layers inside blocks a buffer of their own.
    """

    def __init__(
        self, modules: Iterable[nn.Module], dtype: torch.dtype = torch.float32, hidden: bool = False
    ) -> None:
        self.modules = list(modules)
        parameters = list(dict.fromkeys(p for module in self.modules for p in module.parameters()))
        inner = hidden_matrices(self.modules) if hidden else []
        rest = [p for p in parameters if not any(p is one for one in inner)]
        self.groups_of_parameters = [
            group
            for group in (inner, [p for p in rest if p.ndim > 1], [p for p in rest if p.ndim <= 1])
            if group
        ]
        self.hidden_shapes = [(p.shape[0], p.shape[1]) for p in inner]
        self.masters = [
            nn.Parameter(torch.cat([p.detach().float().flatten() for p in group]))
            for group in self.groups_of_parameters
        ]
        self.decays = [bool(group[0].ndim > 1) for group in self.groups_of_parameters]
        for module in self.modules:
            module.to(dtype=dtype)
        self.live: list[Tensor] = []
        self.gradients: list[Tensor] = []
        self.places: list[tuple[nn.Parameter, Tensor]] = []
        for master, group in zip(self.masters, self.groups_of_parameters, strict=True):
            live, gradient = master.detach().to(dtype, copy=True), torch.zeros_like(master, dtype=dtype)
            offset = 0
            for p in group:
                place = slice(offset, offset + p.numel())
                p.data = live[place].view(p.shape)
                self.places.append((p, gradient[place].view(p.shape)))
                offset += p.numel()
            self.live.append(live)
            self.gradients.append(gradient)

    def groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """Groups for AdamW, all but the hidden matrices: matrices decay; biases, norms and vectors do not."""
        first = 1 if self.hidden_shapes else 0
        return [
            {"params": [master], "weight_decay": weight_decay if decays else 0.0}
            for master, decays in zip(self.masters[first:], self.decays[first:], strict=True)
        ]

    def clear_gradients(self) -> None:
        """Forgets the gradients of the modules: the backward pass then need not add to them."""
        for p, _ in self.places:
            p.grad = None

    def collect_gradients(self) -> None:
        """Copies the gradients of the modules to the flat buffers, 0 where there is none."""
        found = [(place, p.grad) for p, place in self.places if p.grad is not None]
        if len(found) < len(self.places):
            for gradient in self.gradients:
                gradient.zero_()
        torch._foreach_copy_([place for place, _ in found], [grad for _, grad in found])

    def take_gradients(self) -> None:
        """Copies the flat gradients to the masters."""
        for master, gradient in zip(self.masters, self.gradients, strict=True):
            master.grad = gradient.float() if gradient.dtype != master.dtype else gradient.clone()

    @torch.no_grad()
    def give(self) -> None:
        """Copies the masters, rounded, into the modules."""
        for live, master in zip(self.live, self.masters, strict=True):
            live.copy_(master)

    @torch.no_grad()
    def finish(self, values: list[Tensor]) -> None:
        """Puts float32 `values`, shaped like the masters, into the modules, each parameter with its own storage."""
        for live, master, value in zip(self.live, self.masters, values, strict=True):
            master.copy_(value)
            live.copy_(value)
        for value, group in zip(values, self.groups_of_parameters, strict=True):
            start = 0
            for p in group:
                p.data = value[start : start + p.numel()].view(p.shape).float().clone()
                p.grad = None
                start += p.numel()


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


class Loss(Protocol):
    """A loss whose random part and whose arithmetic are apart, so that the arithmetic can be recorded and replayed."""

    def prepare(self, batch: Any, generator: torch.Generator) -> tuple[Hashable, dict[str, Tensor]]:
        """Inputs of the arithmetic: a key that fixes shapes and control flow, and tensors on the device."""
        ...

    def compute(self, key: Any, inputs: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss and metrics of prepared inputs; no random numbers, no copies from the CPU."""
        ...


class PhaseLog(Protocol):
    """Observer of a phase while it goes on."""

    def curves(self, phase: Phase, row: dict[str, float]) -> None:
        """Takes a new row of the history."""
        ...

    def samples(self, phase: Phase, batch: Any) -> None:
        """Is called every `sample_seconds` with the batch that was just trained on."""
        ...


class GraphedLoss:
    """Forward and backward pass, recorded as a CUDA graph for every key that comes often.

    A small transformer spends most of a step on launching kernels; a graph launches them all at once.

    Args:
        loss: the loss.
        weights: whose gradients are computed.
        graphs: record graphs; else every call runs as it is.
        after: calls with one key before its graph is recorded.
    """

    def __init__(self, loss: Loss, weights: MasterWeights, graphs: bool, after: int = 2) -> None:
        self.loss = loss
        self.weights = weights
        self.graphs = graphs
        self.after = after
        self.calls: dict[Hashable, int] = {}
        self.recorded: dict[Hashable, tuple[Any, dict[str, Tensor], Any]] = {}
        self.memory = torch.cuda.graph_pool_handle() if graphs else None

    def __call__(self, batch: Any, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Leaves the gradients of `batch` in the weights' flat buffers and returns the loss and its metrics."""
        key, inputs = self.loss.prepare(batch, generator)
        if key in self.recorded:
            graph, places, outputs = self.recorded[key]
            for name, place in places.items():
                place.copy_(inputs[name])
            graph.replay()
            return outputs
        self.calls[key] = self.calls.get(key, 0) + 1
        if not self.graphs or self.calls[key] <= self.after:
            return self._run(key, inputs)
        places = {name: value.clone() for name, value in inputs.items()}
        graph = torch.cuda.CUDAGraph()
        torch.cuda.synchronize()
        graph.capture_begin(pool=self.memory)  # `torch.cuda.graph` would also empty the cache, every time
        outputs = self._run(key, places)
        graph.capture_end()
        self.recorded[key] = (graph, places, outputs)
        graph.replay()
        return outputs

    def _run(self, key: Any, inputs: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        self.weights.clear_gradients()
        value, metrics = self.loss.compute(key, inputs)
        value.backward()
        self.weights.collect_gradients()
        return value.detach(), {name: metric.detach() for name, metric in metrics.items()}


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
    ) -> None:
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
        """Writes everything that `resume` needs, in one step."""
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
                self._train(batches, graphed, device, stop)
            self.stop_code = stop.code if stop else None
        if on_gpu:
            torch.cuda.synchronize(device)
        self.save()
        if self.stop_code is not None and not self.finished:
            raise Interrupted("pretraining was stopped", self.stop_code, self.state_path)
        if self.finished:
            self.weights.finish(self.average.average)

    def _train(
        self, batches: Iterable[Any], loss: GraphedLoss, device: torch.device, stop: StopRequest
    ) -> None:
        """The loop of `run`."""
        started = saved = 0.0
        sampled = float("-inf")
        end = self.seconds
        if self.config.slice_seconds is not None:
            end = min(end, self.elapsed + self.config.slice_seconds)
        bar = tqdm(total=round(self.seconds), initial=round(self.elapsed), desc=self.name, unit="s")
        asked = waited = 0.0
        setting_up = SETTING_UP if device.type == "cuda" else 0
        for calls, batch in enumerate(batches):
            if calls <= setting_up:  # waiting for worker processes is not training time either
                started, saved = time.monotonic() - self.elapsed, time.monotonic()
            else:
                waited += time.monotonic() - asked
            if self.elapsed >= end or stop:
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

    def _update(
        self, batch: Any, loss: GraphedLoss, factor: float, device: torch.device
    ) -> tuple[dict[str, Tensor], Tensor]:
        """One step of the optimiser; the metrics with the loss, and the norm of the gradient before clipping."""
        optimizers = [self.optimizer] if self.muon is None else [self.muon, self.optimizer]
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            group["lr"] = self.learning_rate * factor
        value, metrics = loss(batch, torch.Generator(device).manual_seed(self.config.seed + self.step))
        self.weights.take_gradients()
        norm = nn.utils.clip_grad_norm_(self.weights.masters, 1.0)
        for optimizer in optimizers:
            optimizer.step()
        self.weights.give()
        self.average.update()
        self.step += 1
        self.clips += batch.clips if hasattr(batch, "clips") else len(batch.input_ids)
        return {**metrics, "loss": value}, norm

    def record(self, metrics: dict[str, Tensor], factor: float, waited: float) -> None:
        """Adds one row to the history; `waited` is the time in seconds spent waiting for batches so far."""
        row = {name: float(value) for name, value in metrics.items()}
        row |= {"step": self.step, "clips": self.clips, "seconds": self.elapsed, "lr_factor": factor}
        row["waited_seconds"] = waited
        self.history.append(row)
        if self.log is not None:
            self.log.curves(self, row)
