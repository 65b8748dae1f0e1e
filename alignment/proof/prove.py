"""All checks of a model, one model in memory at a time: first ours, then the stock pipeline from the same files."""

from __future__ import annotations

import gc
import logging
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from alignment.proof.adapters import add_random_adapter, check_export, effect_result
from alignment.proof.checks import check_batch, check_log_prob, check_oracle, check_steps
from alignment.proof.memory import check_sampling_memory, check_update_memory
from alignment.proof.result import CHECKS, Result
from alignment.proof.subject import Size, Subject, relative_distance
from generator.adapters.adapters import SECOND_WEIGHTS_NAME, WEIGHTS_NAME, model_fingerprint, write_adapter
from generator.base import VideoGenerator
from generator.loading import load_generator
from generator.output import InputError
from generator.provenance import fingerprint, latent_space_fingerprint, versions
from generator.stock_pipelines import StockVideos, load_stock_adapter, load_stock_pipeline, stock_latents
from generator.video_model import require_one_model

logger = logging.getLogger(__name__)

SAMPLER = {torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 3e-2}
"""Largest relative distance of our latents from the pipeline's; pipelines round their latents to the weights' dtype in
every step, ours stay in float32."""
NEED_ADAPTER = {"adapter", "export", "memory"}


@dataclass
class Proof:
    """Results of the checks, and the facts that they hold for.

    Attributes:
        results: in the order of the checks.
        facts: versions, device, dtype, size and hashes, for `prove.json`.
    """

    results: list[Result] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Returns whether no check failed."""
        return all(each.passed is not False for each in self.results)

    def record(self) -> dict[str, Any]:
        """Content of `prove.json`."""
        return {"passed": self.passed, **self.facts, "results": [each.record() for each in self.results]}

    def attempt(self, check: str, what: str, run: Callable[[], list[Result]]) -> None:
        """Adds the results of `run`; a check that ends in an error has failed, and the others go on.

        Raises:
            InputError: the user asked for something impossible.
            OutOfMemoryError: the memory is full.
        """
        try:
            self.results += run()
        except (InputError, MemoryError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # the model's own code and its libraries run here: the check has failed
            logger.info("The error of the check %s came from here:", check, exc_info=error)
            note = f"{type(error).__name__}: {error}".splitlines()[0]
            self.results.append(Result(check, what, note=note, failed=True))


@dataclass
class _Ours:
    """Remains of our model when the stock pipeline takes its place: latents on the CPU, and the request."""

    videos: StockVideos
    family: type[VideoGenerator]
    folder: Path
    device: torch.device
    dtype: torch.dtype
    before: Tensor
    adapted: Tensor | None


def prove(
    model: str,
    size: Size,
    dtype: torch.dtype | None = None,
    checks: Sequence[str] = CHECKS,
    device: torch.device | str | None = None,
) -> Proof:
    """Checks a model against its own pipeline and against closed forms.

    Args:
        model: as `load_generator` takes it.
        size: of the videos; small by default.
        dtype: of the weights; float32 is the strictest proof.
        checks: some of `CHECKS`.
        device: the first GPU if there is one, otherwise the CPU.

    Raises:
        InputError: the model cannot be loaded or cannot make this size.
    """
    begun = time.perf_counter()
    proof = Proof()
    with tempfile.TemporaryDirectory(prefix="vidalign-prove-") as temporary:
        ours = _check_ours(proof, model, size, dtype, checks, device, Path(temporary))
        gc.collect()
        if ours.device.type == "cuda":
            torch.cuda.empty_cache()
        if {"sampler", "adapter"} & set(checks):
            _check_stock(proof, ours, checks, Path(temporary) / "adapter")
    order = {name: index for index, name in enumerate(CHECKS)}
    proof.results = sorted(proof.results, key=lambda each: order[each.check])
    proof.facts["seconds"] = round(time.perf_counter() - begun, 1)
    return proof


def _check_ours(
    proof: Proof,
    model: str,
    size: Size,
    dtype: torch.dtype | None,
    checks: Sequence[str],
    device: torch.device | str | None,
    temporary: Path,
) -> _Ours:
    """Everything that our model does alone."""
    generator = load_generator(model, dtype=dtype, device=device)
    require_one_model(generator, "One model is checked")
    folder = Path(vars(generator)["folder"])
    subject = Subject(generator, size)
    proof.facts = _facts(model, subject)
    alone: dict[str, Callable[[Subject], list[Result]]] = {
        "oracle": check_oracle, "steps": check_steps, "batch": check_batch, "log_prob": check_log_prob,
    }  # fmt: skip
    for name, check in alone.items():
        if name in checks:
            proof.attempt(name, "the check runs", lambda check=check: check(subject))  # type: ignore[misc]
    before, adapted = subject.sample(), None
    if "memory" in checks:
        proof.attempt("memory", "sampling runs", lambda: check_sampling_memory(subject, folder))
    if NEED_ADAPTER & set(checks):
        adapter = add_random_adapter(generator)
        if "adapter" in checks:
            adapted = subject.sample()
            write_adapter(temporary / "adapter", adapter, {})
        if "export" in checks:
            proof.attempt("export", "files are read back", lambda: check_export(temporary, folder, adapter))
        if "memory" in checks:
            proof.attempt("memory", "a step of LoRA runs", lambda: check_update_memory(subject, folder))
    home, kind = generator.device, type(generator)
    return _Ours(subject.stock_videos(), kind, folder, home, generator.dtype, before, adapted)


def _check_stock(proof: Proof, ours: _Ours, checks: Sequence[str], adapter: Path) -> None:
    """The pipeline's own call without an adapter and with it."""
    pipeline: Any = None
    before = torch.empty(0)

    def sampler() -> list[Result]:
        nonlocal pipeline, before
        pipeline = load_stock_pipeline(ours.family, ours.folder, ours.device, ours.dtype)
        before = stock_latents(pipeline, ours.videos).cpu()
        if "sampler" not in checks:
            return []
        distance = relative_distance(before, ours.before)
        what = "our sampler gives the latents of the pipeline's own call"
        return [Result("sampler", what, distance, SAMPLER[ours.dtype])]

    def adapted() -> list[Result]:
        assert ours.adapted is not None
        load_stock_adapter(pipeline, adapter, WEIGHTS_NAME, SECOND_WEIGHTS_NAME)
        found = stock_latents(pipeline, ours.videos).cpu()
        return [effect_result((before, found), (ours.before, ours.adapted), ours.dtype)]

    proof.attempt("sampler", "the pipeline's own call runs", sampler)
    if "adapter" in checks:
        proof.attempt("adapter", "the stock pipeline takes the adapter", adapted)


def _facts(model: str, subject: Subject) -> dict[str, Any]:
    """Facts of `prove.json` beside the results. A folder is told by its name alone, as the file is to be shared."""
    generator = subject.generator
    device = generator.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return {
        "model": Path(model).resolve().name if Path(model).exists() else model,
        "pipeline": type(generator.pipeline).__name__,
        "versions": versions(),
        "device": name,
        "cuda": torch.version.cuda,
        "dtype": str(generator.dtype).removeprefix("torch."),
        "hashes": {
            "configuration": model_fingerprint(generator.transformer),
            "transformer": fingerprint(generator.transformer),
            "autoencoder_and_text_encoders": latent_space_fingerprint(generator),
        },
        "size": dict(zip(("num_frames", "height", "width"), subject.size)),
        "num_inference_steps": subject.steps,
        "guidance_scale": subject.guidance_scale,
        "shift": generator.defaults.shift,
    }
