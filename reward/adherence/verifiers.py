"""Verifiers, which judge videos: that of the world, a vision-language model, CLIP, or a user's function."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from generator.one_or_several import as_list
from generator.output import InputError
from reward.adherence.judgement import Judgement
from reward.adherence.verifier_names import check_verifier
from reward.models.base import score_with_images
from reward.models.named import registry
from reward.models.storage import built_in_rewards
from reward.models.user_functions import import_function
from reward.question_graphs import Graphs, load_graphs
from reward.questions import (
    YES,
    QuestionGraph,
    apply_dependencies,
    graph_score,
    single_question,
)

Verifier = Callable[..., Sequence[Judgement]]
"""Judges videos `[batch, 3, frames, height, width]` in [-1, 1], one prompt a video; one with a parameter `fps` is told
their frames a second, one with a parameter `images` is given what they begin with `[batch, 3, height, width]`."""

Categories = Callable[[str], "set[str]"]
"""The categories that a prompt belongs to."""


def ask(
    verifier: Verifier,
    videos: Tensor,
    prompts: Sequence[str],
    fps: float,
    images: Tensor | None = None,
) -> Sequence[Judgement]:
    """The verifier's judgements; it is told the frames a second, and given the images `[batch, 3, height, width]` with
    which videos begin, if it has parameters for them."""
    prompts = as_list(prompts)
    takes = inspect.signature(verifier).parameters
    told = {name: value for name, value in {"fps": fps, "images": images}.items() if name in takes}
    return verifier(videos, prompts, **told)


def no_categories(prompt: str) -> set[str]:
    return set()


def judge_answers(graph: QuestionGraph, answers: Mapping[str, float | bool]) -> Judgement:
    """The judgement that follows from the answers to a prompt's questions, by DSG's rules."""
    kept = apply_dependencies(graph, answers)
    return Judgement(
        graph_score(kept),
        {name: answer >= YES for name, answer in kept.items()},
        {name: float(answers[name]) for name in kept},
    )


def load_verifier(name: str, questions: str | None = None) -> tuple[Verifier, Categories]:
    """Loads the function that judges the videos, and that which sorts the prompts into categories.

    Args:
        name: `world`, the verifier of the built-in world; any reward of `reward.load_reward`: a name such as
            `pickscore` or `videoalign:TA`, the folder of a trained model, the address of `reward serve` (their scores
            keep their own range); `vlm:FOLDER`, a vision-language model that answers the
            questions of a prompt (or the single question of VQAScore where it has none); `judge:…:http://HOST/v1`, one
            behind a server (`reward.models.named.judge`); `clip:FOLDER`, a CLIP model's CLIPScore; or
            `module:function`, a function `(videos, prompts)`, also with the parameters
            `questions` (`{name: text}` of each video), `fps` and `images` (what videos begin with) if it has them, that
            returns for each video a score in [0, 1], `{"score": …, "parts": {question: bool}}`, or, of
            a prompt with questions, `{"parts": {question: bool or probability}}`. Its attribute
            `categories`, if it has one, maps a prompt to its categories.
        questions: source of the question graphs, for `load_graphs`.

    Raises:
        InputError: there is no such verifier, or it cannot ask these questions.
    """
    graphs = load_graphs(questions)
    if name == "world":
        if questions and questions != "world":
            raise InputError("The world's verifier asks its own questions: leave --questions out.")
        from reward.world_questions import world_categories

        return _world_verifier, world_categories
    kind, _, path = name.partition(":")
    entry = registry.find(name)
    if entry is not None and entry.name == "judge":
        return _judge_verifier(name, questions)
    if entry is not None and not (kind == "clip" and path):
        if questions:
            raise InputError(
                f"The reward {kind} answers no questions: leave --questions out, or use vlm:FOLDER."
            )
        return reward_verifier(name), no_categories
    trained = name in built_in_rewards() or Path(name.split(",")[0]).is_dir()
    if kind in ("http", "https") or trained:
        if questions:
            raise InputError(
                f"The reward {name} answers no questions: leave --questions out, or use vlm:FOLDER."
            )
        return reward_verifier(name), no_categories
    check_verifier(name)
    if kind == "clip":
        from reward.adherence.clip_score import ClipScore

        if questions:
            raise InputError("CLIPScore answers no questions: leave --questions out, or use vlm:FOLDER.")
        return ClipScore.from_pretrained(path).judge, no_categories
    if kind == "vlm":
        from reward.models.vlm_loading import load_vision_language_model

        return vlm_verifier(load_vision_language_model(path), graphs), categories_of(graphs)
    function = import_function(name)
    found = getattr(function, "categories", None)
    return _function_verifier(function, name, graphs), found or categories_of(graphs)


def reward_verifier(name: str) -> Verifier:
    """Judges with a reward by name: its score `overall`, or the mean of its scores."""
    from reward import load_reward

    reward = load_reward(name)

    def verify(
        videos: Tensor, prompts: Sequence[str], fps: float = 8.0, images: Tensor | None = None
    ) -> list[Judgement]:
        reward.set_frame_rate(fps)
        scores = score_with_images(reward, videos, prompts, images)
        values = scores["overall"] if "overall" in scores else torch.stack(list(scores.values())).mean(0)
        return [Judgement(float(value)) for value in values]

    return verify


def check_prompts_of(name: str, questions: str | None, prompts: Sequence[str]) -> None:
    """Raises `InputError` where the verifier `name` cannot judge videos of some prompt; see `load_verifier`."""
    if name == "world" or questions == "world":
        from generator.world import check_prompts

        check_prompts(prompts)


def categories_of(graphs: Graphs) -> Categories:
    """Sorts prompts by what their questions are about."""

    def categories(prompt: str) -> set[str]:
        graph = graphs(prompt)
        return graph.categories if graph else set()

    return categories


def _world_verifier(videos: Tensor, prompts: Sequence[str], fps: float = 8.0) -> list[Judgement]:
    from generator.world import verify_batch

    return [
        Judgement(float(a.score), dict(a.parts), factor=float(a.factor))
        for a in verify_batch(videos, list(prompts), fps)
    ]


def vlm_verifier(model: Any, graphs: Graphs) -> Verifier:
    """Asks a vision-language model with `probability_of_yes(videos, texts, fps) -> [batch]` all questions of a
    prompt."""

    def verify(videos: Tensor, prompts: Sequence[str], fps: float = 8.0) -> list[Judgement]:
        judgements = []
        for video, prompt in zip(videos, prompts):
            graph = graphs(prompt) or single_question(prompt)
            texts = [question.text for question in graph.questions]
            probabilities = model.probability_of_yes([video] * len(texts), texts, fps)
            answers = {
                question.name: float(probability)
                for question, probability in zip(graph.questions, probabilities)
            }
            judgements.append(judge_answers(graph, answers))
        return judgements

    return verify


def _judge_verifier(name: str, questions: str | None) -> tuple[Verifier, Categories]:
    """A judge behind a server: questions of a prompt where it has some, else the judge's own."""
    model: Any = registry.load(name)
    if model.compares_groups:
        raise InputError(
            f"The verifier {name} compares videos with each other, but each is to be judged by itself: leave pairs out."
        )
    graphs: Graphs = load_graphs(questions) if questions else model.graph_of

    def verify(videos: Tensor, prompts: Sequence[str], images: Tensor | None = None) -> list[Judgement]:
        asked = [graphs(prompt) for prompt in prompts]
        owners = [row for row, graph in enumerate(asked) for _ in (graph.questions if graph else ())]
        texts = [question.text for graph in asked if graph is not None for question in graph.questions]
        each = list(videos)  # one object a video, so that its frames are taken once
        shown = None if images is None else [images[row] for row in owners]
        answers = model.probability_of_yes([each[row] for row in owners], texts, images=shown)
        found = iter(answers.tolist())
        plain = [row for row, graph in enumerate(asked) if graph is None]
        texts_of_plain = [prompts[row] for row in plain]
        images_of_plain = None if images is None else images[plain]
        scores = (
            score_with_images(model, videos[plain], texts_of_plain, images_of_plain)["overall"].tolist()
            if plain
            else []
        )
        remaining = iter(scores)
        return [
            Judgement(next(remaining))
            if graph is None
            else judge_answers(graph, {question.name: next(found) for question in graph.questions})
            for graph in asked
        ]

    return verify, categories_of(graphs)


def _function_verifier(function: Callable[..., Any], name: str, graphs: Graphs) -> Verifier:
    takes = inspect.signature(function).parameters

    def verify(
        videos: Tensor, prompts: Sequence[str], fps: float = 8.0, images: Tensor | None = None
    ) -> list[Judgement]:
        known = [graphs(prompt) for prompt in prompts]
        asked = [{q.name: q.text for q in graph.questions} if graph else {} for graph in known]
        offered = {"questions": asked, "fps": fps, "images": images}
        extra = {name: value for name, value in offered.items() if name in takes}
        values = list(function(videos, list(prompts), **extra))
        if len(values) != len(prompts):
            raise InputError(
                f"The verifier {name} returned {len(values)} results for {len(prompts)} videos: "
                "it must return one a video."
            )
        return [_as_judgement(value, name, graph) for value, graph in zip(values, known)]

    return verify


def _as_judgement(value: Any, name: str, graph: QuestionGraph | None) -> Judgement:
    if isinstance(value, Mapping) and graph is not None and "parts" in value and "score" not in value:
        return judge_answers(graph, value["parts"])
    if isinstance(value, Mapping) and "score" in value:
        value = Judgement(
            float(value["score"]), {k: bool(v) for k, v in dict(value.get("parts", {})).items()}
        )
    elif hasattr(value, "score"):
        value = Judgement(float(value.score), dict(getattr(value, "parts", {})))
    else:
        try:
            value = Judgement(float(value))
        except (TypeError, ValueError):
            raise InputError(
                f"The verifier {name} returned {value!r} for a video: it must return a number in [0, 1], "
                'or {"score": number, "parts": {question: true or false}}.'
            ) from None
    if not 0 <= value.score <= 1:
        raise InputError(f"The verifier {name} returned the score {value.score}: scores must be in [0, 1].")
    return value
