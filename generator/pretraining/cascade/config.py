"""Arguments of `vidalign pretrain --stage` and `--join_stages`."""

from __future__ import annotations

from dataclasses import dataclass, field

from generator.output import InputError


@dataclass
class StageConfig:
    """Super-resolution stages of a cascade, trained in place of the whole generator.

    Batches, optimiser, footage, slices and resuming are those of pretraining.
    """

    stage: str | None = field(
        default=None,
        metadata={
            "help": "Train a stage: `temporal` (four times the frame rate) or `spatial` (twice the height and width). "
            "Unset: the generator itself.",
            "choices": ["temporal", "spatial"],
        },
    )
    stage_seconds: float = field(
        default=480.0, metadata={"help": "Wall-clock seconds of the stage's training, over all slices."}
    )
    stage_base: str = field(
        default="nano",
        metadata={"help": "Pipeline whose autoencoder and text encoder the stage works with, as they are."},
    )
    stage_sides: list[int] = field(
        default_factory=list,
        metadata={
            "help": "Sides in pixels of the finer clips. Unset: 32 and 48 of a temporal stage, 64 and 128 of a spatial "
            "one, which serves both."
        },
    )
    stage_frames: int = field(
        default=33,
        metadata={"help": "Frames of the longest finer clips, 4k + 1; of a temporal stage 16k + 1."},
    )
    stage_fps: float = field(default=16.0, metadata={"help": "Frames a second of the finer clips."})
    stage_width: int = field(
        default=192, metadata={"help": "Width of the stage's network, a multiple of 64."}
    )
    stage_layers: int = field(default=6, metadata={"help": "Blocks of the stage's network."})
    stage_window: int | None = field(
        default=None,
        metadata={
            "help": "Rows and columns of tokens that attend to each other within a frame, 0 for whole frames. Unset: "
            "0 of a temporal stage, 8 of a spatial one."
        },
    )
    stage_temporal: str | None = field(
        default=None,
        metadata={
            "help": "Operation along time: `attention` or `convolution`. Unset: attention in a temporal stage, "
            "convolution in a spatial one.",
            "choices": ["attention", "convolution"],
        },
    )
    stage_augmentation: float = field(
        default=0.4,
        metadata={
            "help": "Highest noise level of the stage's input in training: each clip has a random one up to it, more "
            "often a low one, which the network is told."
        },
    )
    stage_base_fps: float = field(
        default=4.0,
        metadata={
            "help": "With --join_stages: frames a second of the base's videos. Of a base with a multiple of it, such "
            "as nano with 8, every second (or third, …) frame is kept; one of another rate makes key frames so far "
            "apart."
        },
    )
    join_stages: list[str] | None = field(
        default=None,
        metadata={
            "help": "Trained stages in their order, which become one cascade in output_dir; nothing is trained."
        },
    )

    @property
    def sides(self) -> list[int]:
        """Sides of the finer clips."""
        return self.stage_sides or ([32, 48] if self.stage == "temporal" else [64, 128])

    @property
    def window(self) -> int:
        """Rows and columns of a window, 0 for whole frames."""
        return (0 if self.stage == "temporal" else 8) if self.stage_window is None else self.stage_window

    @property
    def temporal(self) -> str:
        """Operation along time."""
        return self.stage_temporal or ("attention" if self.stage == "temporal" else "convolution")

    def __post_init__(self) -> None:
        if self.stage is not None and self.join_stages:
            raise InputError(
                "--stage and --join_stages were both given: train a stage, or join trained ones."
            )
        time = 16 if self.stage == "temporal" else 4
        if self.stage_frames % time != 1 or self.stage_frames < time + 1:
            raise InputError(
                f"--stage_frames is {self.stage_frames}, but a {self.stage} stage is trained on {time}k + 1 frames, "
                f"such as {2 * time + 1}."
            )
        if any(side % 16 or side < 16 for side in self.sides):
            raise InputError(f"--stage_sides is {self.sides}, but sides must be multiples of 16 pixels.")
        if self.stage_width % 64 or self.stage_width < 64 or self.stage_layers < 1 or self.window < 0:
            raise InputError(
                f"--stage_width is {self.stage_width}, --stage_layers {self.stage_layers} and --stage_window "
                f"{self.window}, but the width must be a multiple of 64, with at least one block and a window of at "
                "least 0."
            )
        if not 0 <= self.stage_augmentation < 1:
            raise InputError(
                f"--stage_augmentation is {self.stage_augmentation}, but it must be at least 0 and below 1."
            )
        for name in ("stage_fps", "stage_seconds", "stage_base_fps"):
            if not getattr(self, name) > 0:
                raise InputError(f"--{name} is {getattr(self, name)}, but it must be above 0.")
