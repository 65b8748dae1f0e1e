"""Instructions for language models that rewrite prompts: one a family of generators, as each was trained on captions of
its own kind."""

from __future__ import annotations

from pathlib import Path

from generator.output import InputError, read_text

RULES = (
    "Keep everything that it says: each object, number, colour, size, place, action, camera movement, style and quoted "
    "text, and contradict none of it. Add only what it leaves open. Write in the language of the prompt. Answer with "
    "the new prompt alone, in one paragraph, without quotation marks or explanation."
)

GENERAL = (
    "Rewrite the prompt below as a caption of about 80 words for a text-to-video model. Name the subject and its "
    "looks, the action from beginning to end, the surroundings, the light and the camera. "
)

INSTRUCTIONS = {
    "WanPipeline": (
        "Rewrite the prompt below as a caption of 80 to 100 words for the text-to-video model Wan. Begin with the "
        "style where there is one, then say who or what is seen and how it looks, what it does, where it is, the light "
        "and mood, and end with the size of the shot and the camera's movement. "
    ),
    "LTXPipeline": (
        "Rewrite the prompt below as one flowing paragraph of at most 150 words for the text-to-video model LTX-Video. "
        "Begin with the main action in one sentence, go on with movements and gestures in their order in time, then "
        "the looks of subjects, the background, the camera's angle and movement, light and colours. "
    ),
    "HunyuanVideoPipeline": (
        "Rewrite the prompt below as a caption of 60 to 100 words for the text-to-video model HunyuanVideo. Say in "
        "this order: the main subject, its action, the scene, the camera's movement, the size of the shot, the light "
        "and the style. "
    ),
    "CogVideoXPipeline": (
        "Rewrite the prompt below as a caption of about 100 words, in whole sentences, for the text-to-video model "
        "CogVideoX. Describe the scene, its subjects and what happens in their order, with concrete details of looks "
        "and light. "
    ),
    "NativeVideoPipeline": (
        "Rewrite the prompt below as one sentence for a model that draws moving shapes. Use only these words: circle, "
        "square, triangle, star, ring, cross; red, orange, yellow, green, cyan, blue, purple, pink; small, medium, "
        "large; two, three; moves left, right, up, down, slowly, quickly; grows, shrinks, spins, bounces, stays still; "
        "left of, right of, above, below; on a dark, grey or light background; while the camera pans left or right or "
        "zooms in or out. An example: a large red circle moves left slowly on a dark background. "
    ),
}
INSTRUCTIONS["VideoLDMPipeline"] = INSTRUCTIONS["NativeVideoPipeline"]
"""Instruction by the class of a pipeline; others get that of the class whose name theirs begins with, or `GENERAL`."""


def instruction_for(class_name: str) -> str:
    """The instruction for a family of generators, by the class of its pipeline in `model_index.json`."""
    begins = class_name.removesuffix("Pipeline")
    known = [name for name in INSTRUCTIONS if begins.startswith(name.removesuffix("Pipeline"))]
    return (INSTRUCTIONS[max(known, key=len)] if known else GENERAL) + RULES


def read_instruction(path: str | Path) -> str:
    """The instruction in a text file.

    Raises:
        InputError: it cannot be read or is empty.
    """
    text = read_text(path).strip()
    if not text:
        raise InputError(f"The instruction {path} is empty: write what the rewriter is to do with a prompt.")
    return text


def message_of(instruction: str, prompt: str) -> str:
    """The one message that a language model gets: the instruction, where there is one, and the prompt."""
    return f"{instruction}\n\nPrompt: {prompt}" if instruction else prompt
