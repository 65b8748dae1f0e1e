"""Plans of sampling: a rewritten prompt is what the generator is given, the prompt what judges are told."""

from __future__ import annotations

import torch

from alignment.rollouts.sampling_plan import SamplingPlan
from generator.testing import tiny_generator

PROMPTS, REWRITTEN = ["a", "a circle"], ["a red circle", "two blue squares move left"]


def test_the_generator_gets_rewritten_prompts_and_judges_the_originals() -> None:
    generator = tiny_generator()
    plan = SamplingPlan.for_prompts(generator, PROMPTS, rewritten_prompts=REWRITTEN)
    as_written = SamplingPlan.for_prompts(generator, PROMPTS)
    as_rewritten = SamplingPlan.for_prompts(generator, REWRITTEN)
    both = torch.tensor([1, 0])
    assert plan.texts(both) == ["a circle", "a"]

    def masked(conditions: dict[str, torch.Tensor]) -> torch.Tensor:
        embeddings, mask = conditions["encoder_hidden_states"], conditions["encoder_attention_mask"]
        return (embeddings * mask[..., None].to(embeddings)).sum(1)

    judged = masked(plan.text_conditions_of(both))
    torch.testing.assert_close(judged, masked(as_written.text_conditions_of(both)))
    given = masked(plan.conditions_of(both))
    torch.testing.assert_close(given, masked(as_rewritten.conditions_of(both)))
    assert not torch.allclose(given, judged)
