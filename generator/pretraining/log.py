"""Signs of life of a pretraining run: curves and sample grids for TensorBoard."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from generator.families.native import NativeGenerator
from generator.native.pipeline import NativeVideoPipeline
from generator.world import sample_prompts

if TYPE_CHECKING:
    from generator.pretraining.phase import Phase

FOLDER = "tensorboard"
SAMPLES = 6
FRAMES_SHOWN = 5


def sample_grid(videos: Tensor) -> Tensor:
    """A picture `[3, height, width]` in [0, 1] of videos `[n, 3, f, h, w]` in [-1, 1]: a row each."""
    frames = torch.linspace(0, videos.shape[2] - 1, min(FRAMES_SHOWN, videos.shape[2])).round().long()
    shown = torch.nn.functional.pad(videos[:, :, frames].float().cpu(), (1, 1, 1, 1), value=1.0)
    return (
        torch.cat([torch.cat(list(video.unbind(1)), dim=2) for video in shown], dim=1).clamp(-1, 1) / 2 + 0.5
    )


class PretrainLog:
    """Writes to `FOLDER` in the output folder of a run.

    Args:
        output_dir: of the run.
        pipeline: that is trained.
        num_frames: of the samples; the model's own number where not given.
    """

    def __init__(
        self, output_dir: str | Path, pipeline: NativeVideoPipeline, num_frames: int | None = None
    ) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer: Any = SummaryWriter(str(Path(output_dir) / FOLDER))
        self.pipeline = pipeline
        self.num_frames = num_frames
        self.prompts = sample_prompts(SAMPLES, 1, "test", num_frames == 1)

    def curves(self, phase: Phase, row: dict[str, float]) -> None:
        """One row of the history."""
        for name, value in row.items():
            self.writer.add_scalar(f"{phase.name}/{name}", value, phase.step)

    @torch.no_grad()
    def samples(self, phase: Phase, batch: Any) -> None:
        """Videos of the averaged weights: of fixed held-out prompts, or reconstructions below the clips of `batch`."""
        device = next(self.pipeline.transformer.parameters()).device
        with averaged(phase):
            if phase.name == "autoencoder":
                clips = batch.render(device)[: SAMPLES // 2]
                found = self.pipeline.vae.decode(self.pipeline.vae.encode(clips).latent_dist.mode()).sample
                videos = torch.stack([clips, found.float()], dim=1).flatten(0, 1)
            else:
                generator = NativeGenerator(self.pipeline, "pretraining")
                videos = generator.generate(self.prompts, num_frames=self.num_frames)
                self.writer.add_text(f"{phase.name}/prompts", "\n\n".join(self.prompts), phase.step)
        self.writer.add_image(f"{phase.name}/samples", sample_grid(videos), phase.step)
        self.writer.flush()


@contextmanager
def averaged(phase: Phase) -> Iterator[None]:
    """Inside, the modules of the phase hold the averaged weights, in evaluation mode."""
    live = phase.weights.live
    kept = [values.clone() for values in live]
    for values, average in zip(live, phase.average.average, strict=True):
        values.copy_(average)
    for module in phase.modules.values():
        module.eval()
    try:
        yield
    finally:
        for values, before in zip(live, kept, strict=True):
            values.copy_(before)
        for module in phase.modules.values():
            module.train()
