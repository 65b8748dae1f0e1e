"""`vidalign pretrain`: trains the built-in generator from scratch."""

from __future__ import annotations

from alignment.cli.next_command import WORLD_PROMPTS, new_folder, show_next
from generator.pretraining.config import PretrainConfig
from generator.video_ldm.config import VideoLDMConfig

HELP = "Train the built-in generator from scratch on clips of the video world."
EXAMPLE = "vidalign pretrain --output_dir runs/nano --autoencoder_seconds 330 --transformer_seconds 480"
ARGUMENTS = (PretrainConfig, VideoLDMConfig)


def run(config: PretrainConfig, video: VideoLDMConfig | None = None) -> None:
    """Pretrains, or goes on with an interrupted run, and prints where the pipeline is."""
    from generator.loading import default_device
    from generator.pretraining.pretrain import SliceDone, pretrain

    try:
        if video is not None and video.temporal_from is not None:
            from generator.video_ldm.training import train_temporal_layers

            folder = train_temporal_layers(config, video, default_device())
        else:
            folder = pretrain(config, default_device())
    except SliceDone as slice_done:
        print(f"{slice_done} Give the same command again to go on.")
        return
    print(f"The pretrained pipeline and its model card are in {folder}.")
    show_next(
        "generate",
        "--model",
        folder,
        "--prompts",
        WORLD_PROMPTS,
        "--output_dir",
        new_folder(folder, "videos"),
    )
