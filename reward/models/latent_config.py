"""Configuration of latent reward models."""

from __future__ import annotations

from dataclasses import dataclass, field

from generator.one_or_several import as_list
from generator.output import InputError

ARCHITECTURES = ("pooled", "matching")
PROMPT_FREE = ("visual", "motion")
"""Dimensions that judge the video alone; their scores never see the prompt (arXiv 2501.13918, section 3.2)."""


@dataclass
class LatentRewardConfig:
    """Configuration of a latent reward model; stored beside its weights.

    Attributes:
        base_model: name of the generator whose blocks are the trunk.
        dimensions: one head each.
        architecture: `pooled` (prompt and video pass the trunk together, each is pooled) or `matching` (the video
            passes it alone, and each word of the prompt looks for its evidence in the video).
        num_blocks: how many transformer blocks; 0 takes the first half (of `matching` the first third), at
            least one.
        sigmas: noise levels in (0, 1) at which features are taken; a score is the mean over them.
        noise_levels: further noise levels that the model is trained on, so that it also judges noisy latents;
            none where it judges clean ones only.
        gaussian: whether each score has a variance (`gaussian_bradley_terry`).
        num_queries: learned queries of the attention pooling.
        hidden_size: width of pooling and head.
        num_heads: attention heads of the pooling.
        dropout: on pooled features while training.
        implicit_evidence: whether the head sees the generator's own evidence for the prompt.
        evidence_sigmas: noise levels of the evidence.
        evidence_draws: noise samples a level; their evidence is averaged.
        decoded_frames: whether the head also looks at the decoded video.
        lora_rank: rank of a LoRA on the trunk that is trained with the head; 0 freezes the trunk.
        lora_target_modules: layers it adapts; empty takes the generator's own list.
        full_trunk: whether the trunk's own weights are trained with the head, instead of a LoRA.
        num_frames, height, width: size of the videos it was trained on, 0 where unknown.
        base_adapter_weights: of the adapters in `base_adapter-0`, … beside the weights, merged as the trunk's base.
        weight_files: files that the trunk's weights come from, by the argument of `load_generator`.
        latent_space: fingerprint of the autoencoder and text encoder that it reads.
        trunk: fingerprint of the trunk's weights and of the adapter that is merged into them, see
            `generator.adapters.loaded_from.weights_fingerprint`.
        temperature: divides a score difference to give calibrated preference probabilities.
        tie_threshold: largest score difference that is called a tie, for each dimension.
    """

    base_model: str
    dimensions: tuple[str, ...] = ("overall",)
    architecture: str = "pooled"
    num_blocks: int = 0
    sigmas: tuple[float, ...] = (0.1, 0.4)
    noise_levels: tuple[float, ...] = ()
    gaussian: bool = False
    num_queries: int = 4
    hidden_size: int = 128
    num_heads: int = 4
    dropout: float = 0.1
    implicit_evidence: bool = False
    evidence_sigmas: tuple[float, ...] = (0.6, 0.85)
    evidence_draws: int = 1
    decoded_frames: bool = False
    lora_rank: int = 0
    lora_target_modules: tuple[str, ...] = ()
    full_trunk: bool = False
    num_frames: int = 0
    height: int = 0
    width: int = 0
    base_adapter_weights: tuple[float, ...] = ()
    weight_files: dict[str, str] = field(default_factory=dict)
    latent_space: str = ""
    trunk: str = ""
    temperature: dict[str, float] = field(default_factory=dict)
    tie_threshold: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in (
            "dimensions",
            "sigmas",
            "noise_levels",
            "evidence_sigmas",
            "lora_target_modules",
            "base_adapter_weights",
        ):
            setattr(self, name, tuple(as_list(getattr(self, name))))
        for sigma in (*self.sigmas, *self.noise_levels, *self.evidence_sigmas):
            if not 0 < sigma < 1:
                raise InputError(f"The noise level {sigma} of the reward model must lie between 0 and 1.")
        if not self.sigmas:
            raise InputError("The reward model needs at least one noise level in `sigmas`.")
        if self.architecture not in ARCHITECTURES:
            raise InputError(
                f"The architecture {self.architecture!r} is unknown: use {' or '.join(ARCHITECTURES)}."
            )

        if self.decoded_frames and (
            self.noise_levels or self.architecture != "pooled" or not self.judged_with_prompt
        ):
            raise InputError(
                "Decoded frames are read by the pooled head for dimensions that see the prompt, from clean latents: "
                "leave off --decoded_frames, or --noise_conditioned, --architecture matching and dimensions such as "
                "visual."
            )
        if self.full_trunk and self.lora_rank:
            raise InputError(
                "The trunk is trained either whole or by a LoRA: leave --lora_rank or --full_trunk off."
            )
        if self.full_trunk and self.implicit_evidence:
            raise InputError(
                "Implicit evidence needs the generator as it was, but --full_trunk changes it: use --lora_rank, or "
                "leave --implicit_evidence off."
            )

    @property
    def trains_trunk(self) -> bool:
        """True where the trunk is trained with the head, whole or by a LoRA."""
        return self.full_trunk or self.lora_rank > 0

    @property
    def prompt_free(self) -> tuple[str, ...]:
        """The dimensions whose head never sees the prompt."""
        return tuple(name for name in self.dimensions if name in PROMPT_FREE)

    @property
    def judged_with_prompt(self) -> tuple[str, ...]:
        """The dimensions whose head sees the prompt."""
        return tuple(name for name in self.dimensions if name not in PROMPT_FREE)
