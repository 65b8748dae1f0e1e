"""Arguments of `vidalign pretrain`."""

from __future__ import annotations

from dataclasses import dataclass, field

from generator.output import InputError

HEAD_DIM = 64


@dataclass
class PretrainConfig:
    """Pretraining of the built-in generator on rendered clips: autoencoder first, then text encoder and transformer.

    Durations are wall-clock seconds, because learning rates follow elapsed time: the same recipe fits any machine.
    """

    output_dir: str = field(
        metadata={"help": "Folder for the finished pipeline, its model card and metrics."}
    )
    autoencoder_from: str | None = field(
        default=None, metadata={"help": "Pipeline whose autoencoder is used as it is; none trains a new one."}
    )
    weights_from: str | None = field(
        default=None,
        metadata={
            "help": "Pipeline whose transformer and text encoder are the start, for example nano, to go on with other "
            "captions or clips; none starts from random weights."
        },
    )
    images_only: bool = field(
        default=False,
        metadata={
            "help": "Train an image model: all clips have one frame, and so have its videos. --temporal_from makes a "
            "video model of it."
        },
    )
    autoencoder_seconds: float = field(
        default=330.0, metadata={"help": "Wall-clock seconds of autoencoder training."}
    )
    transformer_seconds: float = field(
        default=480.0, metadata={"help": "Wall-clock seconds of transformer training; 0 stops before it."}
    )
    wrong_share: float = field(
        default=0.4,
        metadata={
            "help": "Share of captions that are wrong, as web captions are: in these every claim is re-drawn with "
            "probability one half. Alignment mends what this teaches."
        },
    )
    autoencoder_pixels: int = field(
        default=2_200_000, metadata={"help": "Pixels (frames x height x width) of an autoencoder batch."}
    )
    transformer_tokens: int = field(
        default=25_000, metadata={"help": "Tokens (text and patches) of a transformer batch."}
    )
    autoencoder_learning_rate: float = field(default=1.5e-3, metadata={"help": "Peak rate, autoencoder."})
    learning_rate: float = field(
        default=1.0e-3, metadata={"help": "Peak rate, transformer and text encoder."}
    )
    optimizer: str = field(
        default="adamw",
        metadata={
            "help": "Optimiser: 'adamw', or 'muon' for the linear layers inside blocks and AdamW for the rest, at the "
            "same learning rate."
        },
    )
    logit_mean: float = field(
        default=0.0,
        metadata={
            "help": "Mean of the normal variable behind the transformer's noise levels: above 0 trains more on high "
            "noise, where layout, counts and motion are decided."
        },
    )
    several_weight: float = field(
        default=1.0,
        metadata={
            "help": "Weight of scenes with several objects (counts, pairs) among the transformer's clips, relative to "
            "the world's own mix."
        },
    )
    channel_weight_power: float = field(
        default=1.0,
        metadata={
            "help": "Latent channels weigh in the transformer's loss as their standard deviation to this power; "
            "0 weighs all alike."
        },
    )
    weight_decay: float = field(default=0.01, metadata={"help": "AdamW weight decay of matrices."})
    cooldown_share: float = field(
        default=0.4,
        metadata={"help": "Last share of the time in which the learning rate falls linearly to zero."},
    )
    kl_weight: float = field(
        default=1e-5, metadata={"help": "Weight of the autoencoder's KL, mean per element."}
    )
    caption_dropout: float = field(
        default=0.1, metadata={"help": "Share of captions replaced by the empty one, for guidance."}
    )
    ema_decay: float = field(default=0.999, metadata={"help": "Final decay of the weights' moving average."})
    shift: float = field(
        default=2.0, metadata={"help": "Time shift towards noise, in training and sampling."}
    )
    num_layers: int = field(default=13, metadata={"help": "Blocks of the transformer (odd: long skips)."})
    hidden_size: int = field(default=256, metadata={"help": "Width of the transformer, a multiple of 64."})
    compile_blocks: bool = field(
        default=False,
        metadata={
            "help": "Compile the transformer's blocks (torch.compile). It pays with --pack, where all batches have one "
            "shape; other batches compile for every size."
        },
    )
    cuda_graphs: bool = field(
        default=True,
        metadata={"help": "On a GPU, record forward and backward pass as CUDA graphs and replay them."},
    )
    num_workers: int = field(default=12, metadata={"help": "Processes that sample scenes and captions."})
    scene_reuse: int = field(
        default=8,
        metadata={
            "help": "Number of times that a sampled scene with its caption is used on average, at least; 1 for once."
        },
    )
    pool_gigabytes: float = field(
        default=4.0, metadata={"help": "Encoded clips kept on the training device to be drawn again."}
    )
    known_frames_share: float = field(
        default=0.25,
        metadata={
            "help": "Share of transformer batches in which some latent frames are given, so that the model animates "
            "images, extends, connects and interpolates."
        },
    )
    key_frame_share: float = field(
        default=0.08,
        metadata={
            "help": "Share of transformer batches whose frames are encoded each as an image, up to 1/2 s apart."
        },
    )
    conditioning: str = field(
        default="adaln", metadata={"help": "Way in which the noise level enters: 'tokens' or 'adaln'."}
    )
    patch_size: list[int] = field(
        default_factory=lambda: [1, 2, 2],
        metadata={
            "help": "Frames, rows and columns of latents that make one token; 1 2 2 are spatial patches."
        },
    )
    long_skips: bool = field(
        default=True, metadata={"help": "Join the blocks of the transformer's two halves (U-ViT)."}
    )
    attention: str = field(
        default="full",
        metadata={"help": "Attention of a block: 'full', or 'separable': within frames, then along time."},
    )
    pack: bool = field(
        default=False,
        metadata={
            "help": "Patch n' pack: a batch is one row of transformer_tokens tokens with clips of all sizes. Off: a "
            "batch holds clips of one size."
        },
    )
    token_dropping: float = field(
        default=0.0,
        metadata={
            "help": "With pack: share of each clip's tokens left out at the start; it falls to none after four fifths "
            "of the time."
        },
    )
    initialization: str = field(
        default="xavier", metadata={"help": "Of the transformer's matrices: 'normal' or 'xavier'."}
    )
    slice_seconds: float | None = field(
        default=None,
        metadata={
            "help": "End after this many seconds of a phase, with its state saved; the same command goes on."
        },
    )
    save_seconds: float = field(
        default=60.0, metadata={"help": "Seconds between two writings of the resumable state."}
    )
    tensorboard: bool = field(
        default=True,
        metadata={"help": "Write curves and grids of samples for TensorBoard into the output folder."},
    )
    sample_seconds: float = field(
        default=120.0, metadata={"help": "Seconds between two grids of samples for TensorBoard."}
    )
    footage: str | None = field(
        default=None,
        metadata={
            "help": "Folder of camera clips to train on too: videos with captions in metadata.jsonl or in a text file "
            "beside each; one without a caption has the empty prompt."
        },
    )
    footage_share: float = field(
        default=0.5, metadata={"help": "Share of batches that are footage; 1 renders no scenes at all."}
    )
    footage_side: int = field(
        default=96, metadata={"help": "Longest side of footage in pixels; larger clips are reduced."}
    )
    footage_frames: int = field(
        default=17, metadata={"help": "Frames of a window of footage at 8 frames a second, 4k + 1."}
    )
    evaluation_prompts: int = field(
        default=512, metadata={"help": "Held-out prompts for the gold scores in the model card."}
    )
    seed: int = field(default=0, metadata={"help": "Seed of weights, data and noise."})
    overwrite: bool = field(default=False, metadata={"help": "Replace an existing output folder."})

    def check(self) -> None:
        """Raises `InputError` where settings do not go together."""
        if not 0 <= self.token_dropping < 1:
            raise InputError(f"token_dropping is {self.token_dropping}, but must be at least 0 and below 1.")
        if self.token_dropping and not self.pack:
            raise InputError(
                f"token_dropping is {self.token_dropping}, which needs packed rows: pass --pack."
            )
        if len(self.patch_size) != 3 or min(self.patch_size) < 1 or self.patch_size[1] != self.patch_size[2]:
            raise InputError(
                f"patch_size is {self.patch_size}, but must be three numbers from 1 on, rows equal to columns, such as "
                "--patch_size 1 2 2."
            )
        if self.patch_size[0] > 1 and (self.pack or self.known_frames_share or self.key_frame_share):
            raise InputError(
                f"patch_size is {self.patch_size}, but known frames, key frames and packed rows need patches of one "
                "frame: pass --known_frames_share 0 --key_frame_share 0 and leave out --pack."
            )
        if not 0 < self.footage_share <= 1:
            raise InputError(f"footage_share is {self.footage_share}, but must be above 0 and at most 1.")
        if self.footage_frames % 4 != 1 or self.footage_side < 8:
            raise InputError(
                f"footage_frames is {self.footage_frames} and footage_side {self.footage_side}, but footage has 4k + 1 "
                "frames and at least 8 pixels, for example --footage_frames 17 --footage_side 96."
            )
        if not self.several_weight > 0:
            raise InputError(f"several_weight is {self.several_weight}, but must be above 0.")
        for name, choices in (
            ("attention", ("full", "separable")),
            ("conditioning", ("tokens", "adaln")),
            ("optimizer", ("adamw", "muon")),
        ):
            if getattr(self, name) not in choices:
                raise InputError(
                    f"{name} is {getattr(self, name)!r}, but must be one of {', '.join(choices)}."
                )

    def check_width(self) -> None:
        """Raises `InputError` where the transformer's width does not divide into heads."""
        if self.hidden_size % HEAD_DIM or self.hidden_size < HEAD_DIM:
            raise InputError(
                f"hidden_size is {self.hidden_size}, but must be a multiple of {HEAD_DIM}, the width of a head: give "
                f"--hidden_size {max(round(self.hidden_size / HEAD_DIM), 1) * HEAD_DIM}."
            )
