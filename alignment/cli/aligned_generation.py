"""Best-of-N and reward guidance of `vidalign generate`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from generator.base import VideoGenerator
from generator.generation import PlannedVideo


def aligned(model: VideoGenerator, arguments: Any, videos: Sequence[PlannedVideo]) -> Callable[..., Tensor]:
    """A function like `model.generate` with best-of-N and reward guidance, which judge by the prompts as they were
    written.

    Args:
        arguments: has `reward`, `best_of` and `reward_guidance`.
        videos: that are made; each is known by its seed.
    """
    from alignment.guided_sampling import check_alignment, sample_aligned
    from alignment.rollouts.reward_mixture import RewardMixture
    from alignment.rollouts.sampling_plan import SamplingPlan
    from reward import load_reward

    rewards = RewardMixture([load_reward(str(arguments.reward), device=model.device)])
    judged_by = {each.seed: each.record.prompt for each in videos}
    check_alignment(model, rewards, list(judged_by.values()), arguments.reward_guidance)

    def generate(prompts: list[str], seed: list[int], **more: Any) -> Tensor:
        judged = [judged_by[each] for each in seed]
        plan = SamplingPlan.for_prompts(model, judged, rewritten_prompts=prompts, **more)
        samples = sample_aligned(plan, rewards, seed, arguments.best_of, arguments.reward_guidance)
        return model.decode(samples.latents.to(model.device)).cpu()

    return generate
