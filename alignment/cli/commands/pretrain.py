"""`vidalign pretrain`: trains the built-in generator from scratch."""

from __future__ import annotations

from alignment.cli.next_command import WORLD_PROMPTS, new_folder, show_next
from generator.pretraining.cascade.config import StageConfig
from generator.pretraining.config import PretrainConfig
from generator.video_ldm.config import VideoLDMConfig

HELP = "Train the built-in generator from scratch on clips of the video world."
EXAMPLE = "vidalign pretrain --output_dir runs/nano --autoencoder_seconds 330 --transformer_seconds 480"
ARGUMENTS = (PretrainConfig, StageConfig, VideoLDMConfig)


def run(
    config: PretrainConfig, stage: StageConfig | None = None, video: VideoLDMConfig | None = None
) -> None:
    """Pretrains, or goes on with an interrupted run, and prints where the pipeline is."""
    from generator.loading import default_device
    from generator.pretraining.pretrain import SliceDone, pretrain
    from generator.pretraining.processes import check_alone, is_first

    if stage is not None and (stage.stage or stage.join_stages):
        check_alone("--stage" if stage.stage else "--join_stages")
        run_stage(config, stage)
        return
    try:
        if video is not None and video.temporal_from is not None:
            check_alone("--temporal_from")
            from generator.video_ldm.training import train_temporal_layers

            folder = train_temporal_layers(config, video, default_device())
        else:
            folder = pretrain(config, default_device())
    except SliceDone as slice_done:
        if is_first():
            print(f"{slice_done} Give the same command again to go on.")
        return
    if not is_first():
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


def run_stage(config: PretrainConfig, stage: StageConfig) -> None:
    """Trains a stage of a cascade, or joins trained ones, and prints what is sensible next."""
    from generator.loading import default_device
    from generator.pretraining.cascade.train import join, pretrain_stage
    from generator.pretraining.pretrain import SliceDone

    if stage.join_stages:
        folder = join(stage, config)
        print(f"The cascade is in {folder}.")
        model = ["--model", folder]
    else:
        try:
            folder = pretrain_stage(stage, config, default_device())
        except SliceDone as slice_done:
            print(f"{slice_done} Give the same command again to go on.")
            return
        print(f"The {stage.stage} stage and its card are in {folder}.")
        model = ["--model", stage.stage_base, "--upsample", folder]
    videos = new_folder(folder, "videos")
    show_next("generate", *model, "--prompts", WORLD_PROMPTS, "--output_dir", videos)
