"""The captioned, verifiable video world: prompts from a grammar, videos from a renderer, truth from the pixels."""

from .grammar import (
    CATEGORIES,
    VOCABULARY,
    Meaning,
    ObjectMeaning,
    categories,
    check_prompts,
    corrupt,
    describe,
    parse,
    sample_meaning,
    sample_prompts,
)
from .render import render, render_scenes
from .scene import SceneBatch
from .scene_sampling import sample_scenes, training_batch
from .verify import Adherence, verify, verify_batch

__all__ = [
    "CATEGORIES",
    "VOCABULARY",
    "Adherence",
    "Meaning",
    "ObjectMeaning",
    "SceneBatch",
    "categories",
    "check_prompts",
    "corrupt",
    "describe",
    "parse",
    "render",
    "render_scenes",
    "sample_meaning",
    "sample_prompts",
    "sample_scenes",
    "training_batch",
    "verify",
    "verify_batch",
]
