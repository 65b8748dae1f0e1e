"""Arguments of `vidalign demo`, and the sizes of its steps on a CPU and on a GPU."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class DemoConfig:
    """The whole loop on the built-in model and the built-in video world."""

    output_dir: str = field(metadata={"help": "Folder for everything that is made, and the report."})
    model: str = field(
        default="nano-v1",
        metadata={
            "help": "Generator to align, on the built-in world. nano-v1 is the first version of nano, which has more "
            "to learn."
        },
    )
    adapter: str | None = field(
        default=None,
        metadata={
            "help": "Adapter of that model with which the loop begins. Unset: nano-v1-distilled or nano-distilled, "
            "which have learnt what guidance adds, with nano-v1 and nano, and none with another model; '' is none."
        },
    )
    reward: str | None = field(
        default=None,
        metadata={
            "help": "Reward model from which that of the demo learns on. Unset: nano-v1-reward or nano-reward, which "
            "near misses have taught, with nano-v1 and nano and videos as small as these know, else none; '' is none."
        },
    )
    theme: str = field(
        default="counts",
        metadata={
            "help": "Prompts of the campaign: `everything` that the video world can show, or a part of it.",
            "choices": ["everything", "counts", "relations", "actions", "camera"],
        },
    )
    seed: int = field(default=0, metadata={"help": "Seed of prompts, annotators, training and noise."})
    scale: str = field(
        default="auto",
        metadata={
            "help": "Size of the demo: `cpu` (minutes on two cores), `gpu` (larger videos, more of them) or `smoke` (a "
            "quick check that proves nothing); `auto` looks for a GPU.",
            "choices": ["auto", "cpu", "gpu", "smoke"],
        },
    )
    rewriter: str | None = field(
        default=None,
        metadata={
            "help": "Rewriter of the prompts that videos are made from, such as nano-rewriter; annotators and judges "
            "see the originals. Unset: none."
        },
    )
    overwrite: bool = field(default=False, metadata={"help": "Start afresh in an existing folder."})
    open: bool = field(default=False, metadata={"help": "Open the report in a browser when it is there."})

    def __post_init__(self) -> None:
        if self.adapter is None:
            self.adapter = f"{self.model}-distilled" if self.model in ("nano", "nano-v1") else ""


@dataclass(frozen=True)
class DemoScale:
    """Sizes of every step.

    Attributes:
        num_frames, height, width, num_inference_steps: of all videos.
        num_demonstrations: rendered clips for SFT.
        num_ranked_prompts, num_candidates: prompts that are ranked, and videos of each.
        num_annotators: simulated annotators; each ranks every prompt.
        num_ppo_prompts: prompts that PPO samples for.
        num_guidance_prompts: held-out prompts of the sweep of guidance scales, none of the evaluation's; as many others
            tell which of PPO's checkpoints is best.
        num_test_prompts, num_videos_per_prompt: held-out prompts of the evaluation, and videos of each.
        sft_steps, dpo_steps, num_rollouts: lengths of the trainings.
        batch_size: videos in a training step of SFT and DPO.
        rollout_prompts, num_generations: groups of a PPO rollout and videos of each.
        reward_epochs: passes of the reward model over the rankings.
        inference_batch_size: videos in one pass where nothing is trained.
        seconds: expected duration of each stage, for the progress bar.
    """

    num_frames: int
    height: int
    width: int
    num_inference_steps: int
    num_demonstrations: int
    num_ranked_prompts: int
    num_candidates: int
    num_annotators: int
    num_ppo_prompts: int
    num_guidance_prompts: int
    num_test_prompts: int
    num_videos_per_prompt: int
    sft_steps: int
    dpo_steps: int
    num_rollouts: int
    batch_size: int
    rollout_prompts: int
    num_generations: int
    reward_epochs: int
    inference_batch_size: int
    seconds: dict[str, float]


STAGES = (
    *("demonstrations", "sft", "candidates", "annotators", "reward"),
    *("dpo", "ppo", "guidance", "evaluation", "report"),
)
GUIDANCE_SCALES = (1.0, 2.0, 3.0, 5.0)
"""Scales of classifier-free guidance of the sweep."""

SCALES = {
    "smoke": DemoScale(
        num_frames=5,
        height=32,
        width=32,
        num_inference_steps=4,
        num_demonstrations=8,
        num_ranked_prompts=8,
        num_candidates=3,
        num_annotators=2,
        num_ppo_prompts=8,
        num_guidance_prompts=2,
        num_test_prompts=6,
        num_videos_per_prompt=1,
        sft_steps=2,
        dpo_steps=2,
        num_rollouts=1,
        batch_size=4,
        rollout_prompts=2,
        num_generations=2,
        reward_epochs=2,
        inference_batch_size=4,
        seconds=dict.fromkeys(STAGES, 4.0),
    ),
    "cpu": DemoScale(
        num_frames=9,
        height=32,
        width=32,
        num_inference_steps=6,
        num_demonstrations=256,
        num_ranked_prompts=200,
        num_candidates=4,
        num_annotators=3,
        num_ppo_prompts=256,
        num_guidance_prompts=36,
        num_test_prompts=128,
        num_videos_per_prompt=1,
        sft_steps=30,
        dpo_steps=60,
        num_rollouts=24,
        batch_size=16,
        rollout_prompts=4,
        num_generations=8,
        reward_epochs=8,
        inference_batch_size=16,
        seconds={
            "demonstrations": 2,
            "sft": 24,
            "candidates": 62,
            "annotators": 20,
            "reward": 74,
            "dpo": 72,
            "ppo": 118,
            "guidance": 100,
            "evaluation": 90,
            "report": 2,
        },
    ),
    "gpu": DemoScale(
        num_frames=17,
        height=64,
        width=64,
        num_inference_steps=10,
        num_demonstrations=1024,
        num_ranked_prompts=512,
        num_candidates=4,
        num_annotators=3,
        num_ppo_prompts=2048,
        num_guidance_prompts=128,
        num_test_prompts=256,
        num_videos_per_prompt=2,
        sft_steps=150,
        dpo_steps=150,
        num_rollouts=40,
        batch_size=32,
        rollout_prompts=16,
        num_generations=16,
        reward_epochs=8,
        inference_batch_size=128,
        seconds={
            "demonstrations": 15,
            "sft": 60,
            "candidates": 30,
            "annotators": 90,
            "reward": 60,
            "dpo": 60,
            "ppo": 150,
            "guidance": 60,
            "evaluation": 90,
            "report": 5,
        },
    ),
}


def demo_scale(name: str, has_gpu: bool) -> DemoScale:
    """The sizes for `cpu`, `gpu`, `smoke` or, with `auto`, for what the machine has."""
    if name == "auto":
        name = "gpu" if has_gpu else "cpu"
    return SCALES[name]
