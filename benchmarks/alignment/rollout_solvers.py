"""Gold score of PPO's rollouts by the solver of their ODE steps: `python -m benchmarks.alignment.rollout_solvers`.

    python -m benchmarks.alignment.rollout_solvers --model nano-v1 --guidance_scale 3 --steps 6 8 10

A generator makes groups of videos of 9×32×32 of held-out prompts of the built-in world, as `vidalign ppo` does: the
first half of the steps is stochastic, the rest follow the ODE with each of `--solvers`. The noise is the same for all.
Shown are the mean gold score with its standard error over prompts, the standard deviation of gold within a group, which
is what PPO learns from, and the seconds a video. `--window 0` makes no step stochastic, as rollouts of NFT do.
"""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import replace
from typing import Any

import torch

from alignment.rollouts.rollout import ode_samples, sample_groups
from alignment.rollouts.sampling_plan import SamplingPlan
from alignment.trainers.ppo_config import DEFAULT_NOISE_LEVELS
from benchmarks.alignment.engine_modes import add_to
from generator import load_generator
from generator.pretraining.model_card import gold_scores
from generator.sampling import SdeSettings
from generator.solvers import ONE_CALL_SOLVERS
from generator.world import sample_prompts


@torch.no_grad()
def measure(
    plan: SamplingPlan, groups: int, kernel: str, noise_level: float, window: float
) -> dict[str, Any]:
    """Figures of `groups` videos of each prompt of the plan.

    Args:
        window: share of the steps, from the first, that is stochastic.
    """
    generator = plan.generator
    prompts = torch.arange(len(plan.prompts)).repeat_interleave(groups)
    seeds = list(range(len(prompts)))
    count = round(window * (len(plan.sigmas) - 1))
    began = time.perf_counter()
    if count:
        settings = SdeSettings(kernel, noise_level, 0, count)
        latents = sample_groups(plan, generator.transformer, prompts, seeds, settings).final
    else:
        latents = ode_samples(plan, generator.transformer, prompts, seeds).final
    if generator.device.type == "cuda":
        torch.cuda.synchronize()
    seconds = (time.perf_counter() - began) / len(seeds)
    videos = torch.cat([generator.decode(part) for part in latents.split(plan.batch_size)])
    judged = gold_scores(videos, plan.texts(prompts), generator.device)
    gold = torch.tensor([one.score for one in judged]).view(-1, groups)
    return {
        "gold": float(gold.mean()),
        "error": float(gold.mean(1).std() / math.sqrt(len(gold))),
        "spread": float(gold.std(1).mean()),
        "seconds": seconds,
        "stochastic": count,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="nano")
    parser.add_argument("--device", help="Cpu or cuda; the best by default.")
    parser.add_argument("--guidance_scale", type=float, default=3.0)
    parser.add_argument("--steps", type=int, nargs="+", default=[6, 8, 10])
    parser.add_argument("--solvers", nargs="+", default=list(ONE_CALL_SOLVERS), choices=ONE_CALL_SOLVERS)
    parser.add_argument("--kernel", default="flow_sde", choices=list(DEFAULT_NOISE_LEVELS))
    parser.add_argument("--noise_level", type=float, default=1.0)
    parser.add_argument("--window", type=float, default=0.5, help="Share of the steps that is stochastic.")
    parser.add_argument("--prompts", type=int, default=128)
    parser.add_argument("--groups", type=int, default=4, help="Videos of each prompt.")
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--json", help="Append the figures to this file, a line a setting.")
    arguments = parser.parse_args()
    generator = load_generator(arguments.model, device=arguments.device)
    prompts = sample_prompts(arguments.prompts, 1, "test")
    print(
        "| steps, stochastic | solver | gold | std in a group | s a video |\n|---|---|---|---|---|",
        flush=True,
    )
    for steps in arguments.steps:
        plan = SamplingPlan.for_prompts(
            generator,
            prompts,
            num_inference_steps=steps,
            guidance_scale=arguments.guidance_scale,
            batch_size=arguments.batch_size,
        )
        for solver in arguments.solvers:
            found = measure(
                replace(plan, solver=solver),
                arguments.groups,
                arguments.kernel,
                arguments.noise_level,
                arguments.window,
            )
            line = "| {steps}, {stochastic} | `{solver}` | {gold:.3f} ± {error:.3f} | {spread:.3f} | {seconds:.4f} |"
            print(line.format(steps=steps, solver=solver, **found), flush=True)
            add_to(arguments.json, {"steps": steps, "solver": solver, **found})


if __name__ == "__main__":
    main()
