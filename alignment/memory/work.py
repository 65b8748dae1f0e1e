"""Work on a GPU, and the memory that it needs."""

from __future__ import annotations

from dataclasses import dataclass, field

from generator.hardware.weight_copies import BUFFERS

METHODS = ("sft", "dpo", "ppo", "backprop", "generate")
BYTES_OF_QUANTISED_WEIGHT = {"8bit": 1.0, "4bit": 0.53}
"""Of one weight; 4 bits and a 32-bit scale for each 64 weights, itself quantised (QLoRA, arXiv 2305.14314)."""


@dataclass(frozen=True)
class Work:
    """Work on a GPU.

    Attributes:
        method: one of `METHODS`.
        num_frames, height, width: size of the videos.
        batch: videos (SFT), pairs (DPO) or denoising steps (PPO) in one backward pass; videos for `generate` and
            `backprop`.
        rollout_batch: videos sampled together (PPO).
        decode_batch: videos decoded together (PPO, generate); 0 if nothing is decoded.
        guided: classifier-free guidance.
        unconditional_gradient: whether the unconditional branch is trained (PPO).
        lora_r: rank of the adapters.
        checkpointed_share: share of the blocks whose activations are computed again.
        activation_offloading: what is kept for the backward pass waits in the host's memory.
        quantization: None, `8bit` or `4bit`.
        offload_weights: the blocks' weights are in the host's memory.
        tiling: videos are decoded tile by tile and one by one.
        keep_text_encoder: whether the text encoder stays on the GPU.
        reward_bytes: weights of reward models on the same GPU.
        judging_bytes: what these need beside their weights while they judge one video.
        judging_gradient_bytes: the same while gradients go to the pixels, or to latents (backprop).
        judges_pixels: whether some reward judges decoded videos; those on latents need none.
        reward_num_frames: frames that are decoded with gradients (backprop); None for all.
        context_parallel: processes that share out the tokens of each video, of which this is one.
    """

    method: str
    num_frames: int
    height: int
    width: int
    batch: int = 1
    rollout_batch: int = 8
    decode_batch: int = 8
    guided: bool = True
    unconditional_gradient: bool = True
    lora_r: int = 16
    checkpointed_share: float = 0.0
    activation_offloading: bool = False
    quantization: str | None = None
    offload_weights: bool = False
    tiling: bool = False
    keep_text_encoder: bool = False
    reward_bytes: int = 0
    judging_bytes: int = 0
    judging_gradient_bytes: int = 0
    judges_pixels: bool = True
    reward_num_frames: int | None = None
    context_parallel: int = 1

    @property
    def reward_weights(self) -> dict[str, int]:
        """Part of `Forecast.resident` that the rewards take."""
        return {"rewards": self.reward_bytes} if self.reward_bytes else {}

    @property
    def judging(self) -> dict[str, int]:
        """Part of `Forecast.transient` in which rewards judge without gradients, decoded videos in float32 included."""
        if self.method != "ppo" or not self.judging_bytes:
            return {}
        pixels = (
            self.decode_batch * 3 * self.num_frames * self.height * self.width if self.judges_pixels else 0
        )
        return {"judging": self.judging_bytes + 4 * pixels}


@dataclass
class Forecast:
    """Bytes.

    Attributes:
        resident: what is there all the time: weights, adapters, optimiser.
        transient: the most that each part of the work needs on top.
        linear_weights: number of weights that can be quantised or offloaded, in all transformers.
        largest_linear: weights of the largest layer; an offloaded model has two at a time on the GPU.
    """

    resident: dict[str, int] = field(default_factory=dict)
    transient: dict[str, int] = field(default_factory=dict)
    linear_weights: int = 0
    largest_linear: int = 0

    @property
    def peak(self) -> int:
        """The most at any time."""
        return sum(self.resident.values()) + max(self.transient.values(), default=0)

    def quantised(self, bits: str) -> Forecast:
        """The same with the transformer's linear layers in `8bit` or `4bit` instead of bfloat16."""
        saved = round(self.linear_weights * (2 - BYTES_OF_QUANTISED_WEIGHT[bits]))
        resident = {**self.resident, "transformer": self.resident["transformer"] - saved}
        return Forecast(resident, self.transient, self.linear_weights, self.largest_linear)

    def offloaded(self) -> Forecast:
        """The same with the transformer's linear layers in the host's memory, two at a time on the GPU."""
        resident = {**self.resident, "transformer": self.resident["transformer"] - 2 * self.linear_weights}
        transient = {name: size + BUFFERS * 2 * self.largest_linear for name, size in self.transient.items()}
        return Forecast(resident, transient, self.linear_weights, self.largest_linear)
