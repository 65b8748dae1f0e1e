"""Video LDM as a `VideoGenerator`."""

from __future__ import annotations

from generator.families.native import NativeGenerator
from generator.inputs.packing import PackedVelocity
from generator.video_ldm.pipeline import VideoLDMPipeline


class VideoLDMGenerator(NativeGenerator):
    """Adapter of `VideoLDMPipeline`: the built-in model whose latent frames are images, one for each frame.

    LoRA adapts the attention of spatial and temporal layers by default, and training without LoRA trains the temporal
    layers alone.
    """

    pipeline_class = VideoLDMPipeline
    trained_weights = r"temporal\..*"

    @property
    def packing(self) -> PackedVelocity | None:  # type: ignore[override]
        return None
