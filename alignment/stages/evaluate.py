"""Prompt adherence of models side by side: from prompts to a report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from alignment.stages.arguments import GeneratorArguments
from generator.base import VideoGenerator
from generator.data.prompts import PromptRecord, read_prompts
from generator.generation import GenerationSettings
from generator.loading import load_generator
from reward.reports.comparison import compare_models

Model = str | Path | GeneratorArguments | VideoGenerator


def evaluate(
    models: Mapping[str, Model],
    prompts: str | Path | Sequence[str],
    output_dir: str | Path,
    *,
    verifier: str = "world",
    num_videos_per_prompt: int = 1,
    seed: int = 0,
    references: Sequence[str] = (),
    overwrite: bool = False,
    progress: bool = True,
    measures: Sequence[str] = (),
    **generation: Any,
) -> dict[str, Any]:
    """Compares models on the same prompts and seeds; writes videos, `metadata.jsonl`, `report.html`, `report.json`.

    Args:
        models: name of each model in the report, and the model: its name or folder, how it is loaded, or itself.
        prompts: a file of prompts, `world:SPLIT:N`, or the prompts themselves.
        output_dir: where the report is written.
        verifier: what judges a video; see `vidalign evaluate --help`.
        num_videos_per_prompt: videos of each prompt.
        seed: of the first video; each further one has the next.
        references: models that the others are compared with; the first one where not given.
        overwrite: whether what an evaluation wrote there before is deleted.
        progress: whether to show a progress bar.
        measures: rewards for `reward.load_reward` whose scores the report shows beside motion and flicker.
        generation: fields of `generator.generation.GenerationSettings`, such as `num_inference_steps`.

    Returns:
        The summary that `report.json` holds: `adherence` of each model with its interval, `difference_to_…`.

    Raises:
        InputError: a model, the prompts, the size, the verifier or the output folder cannot be used.
    """
    if isinstance(prompts, str | Path):
        records = read_prompts(str(prompts))
    else:
        records = [PromptRecord(prompt) for prompt in prompts]
    return compare_models(
        {name: _loader(model) for name, model in models.items()},
        records,
        output_dir,
        verifier,
        num_videos_per_prompt,
        seed,
        GenerationSettings(**generation),
        references,
        overwrite=overwrite,
        progress=progress,
        measures=measures,
    )


def _loader(model: Model) -> Callable[[], VideoGenerator]:
    if isinstance(model, VideoGenerator):
        return lambda: model
    arguments = GeneratorArguments.of(model)
    return partial(load_generator, arguments.model, adapter=arguments.adapter, **arguments.options())
