"""Sentences that are said where a policy is trained with another guidance than it is sampled with."""

from __future__ import annotations

from generator.guidance import guidance_text


def guidance_warning(
    method: str,
    model: str,
    trained: tuple[float, float],
    sampled: tuple[float, float],
    recorded: bool,
    learns_without: bool,
) -> str | None:
    """Sentence on the guidance scale of a training, or None where nothing is to be said.

    A gain at one scale need not be one at another: what is learnt without guidance can be what guidance gives anyway.

    Args:
        method, model: names of the method and of the model.
        trained: scales that videos are sampled with in training, of each of two transformers, see
            `generator.guidance.guidance_scales`; 1 is none.
        sampled: the model's defaults for sampling.
        recorded: whether the result asks to be sampled with `trained`, as an adapter can.
        learns_without: whether the method fits the velocity without guidance to videos that were made with it.
    """
    if learns_without and trained != (1, 1):
        return (
            f"{method} fits the velocity without guidance to videos that were made with guidance "
            f"{guidance_text(*trained)}, which so gets into the weights and acts twice when the result is sampled with "
            "it: pass --guidance_scale 1."
        )
    if trained == sampled:
        return None
    asks = (
        f"the adapter asks for {guidance_text(*trained)}, which generate and evaluate then take, and "
        f"--eval_guidance_scale {sampled[0]:g} measures it there"
        if recorded
        else f"sample the result with {_flags(trained)}"
    )
    return (
        f"{method} trains with guidance {guidance_text(*trained)}, but {model} is sampled with "
        f"{guidance_text(*sampled)} by default, where the gain over the untrained model can vanish: pass "
        f"{_flags(sampled)} to train for it; else {asks}."
    )


def unguided_warning(method: str, model: str, sampled: tuple[float, float]) -> str | None:
    """Sentence on a method that compares videos by the velocity without guidance, or None where nothing is to be said.

    Args:
        method, model: names of the method and of the model.
        sampled: the model's default scales for sampling.
    """
    if sampled == (1, 1):
        return None
    return (
        f"{method} learns without guidance, but {model} is sampled with {guidance_text(*sampled)} by default, where "
        f"the gain can be another: measure it at both, with evaluate and --guidance_scale 1, or {_flags(sampled)}."
    )


def _flags(scales: tuple[float, float]) -> str:
    """Arguments that ask for these scales."""
    first, second = scales
    return f"--guidance_scale {first:g}" + ("" if first == second else f" --guidance_scale_2 {second:g}")
