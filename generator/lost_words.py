"""Words of prompts that a generator does not see: past the end of what its text encoder reads, or unknown to it."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from generator.one_or_several import as_list

if TYPE_CHECKING:
    from generator.video_model import VideoModel

logger = logging.getLogger(__name__)

_SHOWN = 60
"""Letters of a prompt in a message."""


def lost_end(tokenizer: Any, prompt: str, limit: int) -> str:
    """The end of a prompt that does not fit into `limit` tokens, marks of beginning and end among them; empty where
    all is read."""
    ids = tokenizer(prompt, truncation=False, verbose=False).input_ids
    if len(ids) <= limit:
        return ""
    kept = tokenizer(prompt, truncation=True, max_length=limit).input_ids
    # A truncated text has the same mark at its end.
    marks = 1 if kept[-1] == ids[-1] else 0
    end = tokenizer.decode(ids[limit - marks : len(ids) - marks], skip_special_tokens=True).strip()
    return end or prompt.split()[-1]


def looked_at(generator: VideoModel) -> set[str]:
    """The prompts that `warn_of_lost_words` has looked at for this generator."""
    return vars(generator).setdefault("_prompts_looked_at", set())


def warn_of_lost_words(generator: VideoModel, prompts: Sequence[str]) -> None:
    """Warns once of the prompts whose end is not seen and once of those with unknown words; counts them and names the
    first. Prompts that were looked at before do not count."""
    told = looked_at(generator)
    fresh = [prompt for prompt in dict.fromkeys(as_list(prompts)) if prompt and prompt not in told]
    told.update(fresh)
    if not fresh or os.environ.get("RANK", "0") != "0":
        return
    ends = {prompt: end for prompt in fresh if (end := generator.lost_end(prompt))}
    if ends:
        prompt, end = next(iter(ends.items()))
        logger.warning(
            "%d of %d prompts are longer than what %s reads (%d tokens), the first %r: its end %r is not seen. "
            "Write it shorter.",
            len(ends),
            len(fresh),
            generator.name,
            generator.max_prompt_tokens,
            _short(prompt),
            _short(end),
        )
    unknown = {prompt: words for prompt in fresh if (words := generator.unknown_words(prompt))}
    if unknown:
        prompt, words = next(iter(unknown.items()))
        distinct = list(dict.fromkeys(word for words in unknown.values() for word in words))
        logger.warning(
            "%d of %d prompts have words that %s does not know (%d in all, such as %s), the first %r: it has learnt "
            "nothing of them but their letters.",
            len(unknown),
            len(fresh),
            generator.name,
            len(distinct),
            ", ".join(map(repr, distinct[:3])),
            _short(prompt),
        )


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN].rstrip()}…"
