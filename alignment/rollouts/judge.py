"""Judging of the videos of a rollout: all at the end, or as they come in a thread of its own."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from generator.base import VideoGenerator
from generator.hardware.context_parallel import ContextGroup

Judged = tuple[Tensor, dict[str, Tensor]]
"""Rewards `[models, batch]` and every score `[batch]` by name."""


class Judging:
    """Judges the videos of one rollout in batches of a fixed size, counted from its first video.

    The batches are the same whether they are judged while further videos are sampled or after all of them, and so
    are the rewards.

    Args:
        judge: `(latents of the batch, its rows in the rollout) -> Judged`.
        batch_size: videos in a batch.
        device: whose autocast is in force, and on which the thread works.
        asynchronous: judge in a thread as soon as a batch is full.
        group: processes that have the same videos, of which each judges every so many batches; all take part in
            `finish`.
    """

    def __init__(
        self,
        judge: Callable[[Tensor, slice], Judged],
        batch_size: int,
        device: torch.device,
        asynchronous: bool,
        group: ContextGroup | None = None,
    ) -> None:
        self.judge = judge
        self.batch_size = batch_size
        self.device = device
        self.pool = ThreadPoolExecutor(1, thread_name_prefix="rewards") if asynchronous else None
        self.waiting: list[Tensor] = []
        self.jobs: list[Future[Judged] | None] = []
        self.group = group
        self.seen = 0

    def __enter__(self) -> Judging:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.pool is not None:
            self.pool.shutdown(wait=True, cancel_futures=True)

    def add(self, latents: Tensor) -> None:
        """Takes the next clean latents `[n, C, F, H, W]` of the rollout; does not wait."""
        self.seen += len(latents)
        if self.pool is None:
            return
        self.waiting.append(latents)
        while sum(map(len, self.waiting)) >= self.batch_size:
            held = torch.cat(self.waiting)
            self.waiting = [held[self.batch_size :]]
            self.jobs.append(self._submit(held[: self.batch_size]) if self._is_own(len(self.jobs)) else None)

    def finish(self, latents: Tensor) -> Judged:
        """The judgement of all latents of the rollout, those that were added among them."""
        judged = {number: job.result() for number, job in enumerate(self.jobs) if job is not None}
        for number in range(len(self.jobs), -(-len(latents) // self.batch_size)):
            start = number * self.batch_size
            rows = slice(start, min(start + self.batch_size, len(latents)))
            if self._is_own(number):
                judged[number] = self.judge(latents[rows], rows)
        parts = self._of_all(judged)
        names = parts[0][1]
        return (
            torch.cat([rewards for rewards, _ in parts], dim=1),
            {name: torch.cat([scores[name] for _, scores in parts]) for name in names},
        )

    def _is_own(self, number: int) -> bool:
        """Returns whether this process judges a batch."""
        return self.group is None or number % self.group.size == self.group.place

    def _of_all(self, judged: dict[int, Judged]) -> list[Judged]:
        """The judgements of all batches in order, those of the other processes of the group among them."""
        if self.group is not None:
            device = self.device
            own = {
                number: (rewards.cpu(), {name: values.cpu() for name, values in scores.items()})
                for number, (rewards, scores) in judged.items()
            }
            judged = {
                number: (rewards.to(device), {name: values.to(device) for name, values in scores.items()})
                for each in self.group.gather(own)
                for number, (rewards, scores) in each.items()
            }
        return [judged[number] for number in sorted(judged)]

    def _submit(self, latents: Tensor) -> Future[Judged]:
        assert self.pool is not None
        kind, start = self.device.type, len(self.jobs) * self.batch_size
        # Autocast and the current device belong to a thread.
        enabled, dtype = torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)

        def work() -> Judged:
            if kind == "cuda":
                torch.cuda.set_device(self.device)
            with torch.autocast(kind, dtype=dtype, enabled=enabled):
                return self.judge(latents, slice(start, start + len(latents)))

        return self.pool.submit(work)


def decode_for_reward(
    generator: VideoGenerator,
    latents: Tensor,
    num_frames: int | None = None,
    scale: float = 1.0,
    gradients: bool = False,
) -> Tensor:
    """Videos `[batch, 3, frames, height, width]` of no more than a reward looks at.

    Args:
        latents: `[batch, C, F, H, W]`.
        num_frames: only the first so many frames. An autoencoder that is causal throughout (Wan's and the built-in
            one) gives the very frames that it gives when it decodes all; the others nearly.
        scale: below 1, latents are averaged to this part of their sides before they are decoded, which gives a rough
            small video at the square of it of the cost.
        gradients: pass them to the latents; see `VideoGenerator.decode_with_gradients`.
    """
    if num_frames is not None:
        side, time = generator.size_multiples()
        whole = -(-(num_frames - 1) // time) * time + 1
        latents = latents[:, :, : generator.latent_shape(whole, side, side)[1]]
    if scale < 1:
        sides = [max(1, round(scale * length)) for length in latents.shape[3:]]
        flat = torch.nn.functional.interpolate(latents.flatten(1, 2), sides, mode="area")
        latents = flat.unflatten(1, latents.shape[1:3])
    videos = generator.decode_with_gradients(latents) if gradients else generator.decode(latents)
    return videos if num_frames is None else videos[:, :, :num_frames]


def check_decoding(num_frames: int | None, scale: float, refuse: Callable[..., Any]) -> None:
    """Calls `refuse(condition, name, value, expected)` for what `decode_for_reward` is to be given."""
    refuse(num_frames is None or num_frames >= 1, "reward_num_frames", num_frames, "at least 1")
    refuse(0 < scale <= 1, "reward_scale", scale, "above 0 and at most 1")
