"""Sentences that are said where a policy is trained with another guidance than it is sampled with."""

from __future__ import annotations


def guidance_warning(
    method: str, model: str, trained: float, sampled: float, recorded: bool, learns_without: bool
) -> str | None:
    """Sentence on the guidance scale of a training, or None where nothing is to be said.

    A gain at one scale need not be one at another: what is learnt without guidance can be what guidance gives anyway.

    Args:
        method, model: names of the method and of the model.
        trained: scale that videos are sampled with in training; 1 is none.
        sampled: the model's default for sampling.
        recorded: whether the result asks to be sampled with `trained`, as an adapter can.
        learns_without: whether the method fits the velocity without guidance to videos that were made with it.
    """
    if learns_without and trained != 1:
        return (
            f"{method} fits the velocity without guidance to videos that were made with guidance {trained:g}, which "
            "so gets into the weights and acts twice when the result is sampled with it: pass --guidance_scale 1."
        )
    if trained == sampled:
        return None
    asks = (
        f"the adapter asks for {trained:g}, which generate and evaluate then take, and --eval_guidance_scale "
        f"{sampled:g} measures it there"
        if recorded
        else f"sample the result with --guidance_scale {trained:g}"
    )
    return (
        f"{method} trains with guidance {trained:g}, but {model} is sampled with {sampled:g} by default, where the "
        f"gain over the untrained model can vanish: pass --guidance_scale {sampled:g} to train for it; else {asks}."
    )
