"""Judges as the registry makes them: the server of a request, and what it is asked."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from generator.output import InputError, read_text
from reward.models.base import RewardModel
from reward.models.named.chat_cache import ReplyCache
from reward.models.named.chat_server import KEY_VARIABLE, ChatServer, default_cache
from reward.models.named.entry import RewardRequest
from reward.models.named.judge import PROMPT, JudgeReward, JudgeSettings
from reward.models.named.places import identify
from reward.models.named.templates import digest
from reward.question_graphs import load_graphs


def open_server(request: RewardRequest) -> ChatServer:
    """The server of a request: its place, and the options that concern it.

    Raises:
        InputError: nothing answers there, or an environment variable that was named is not set.
    """
    options = request.options
    variable = options.get("api_key_env")
    if variable and not os.environ.get(variable):
        raise InputError(
            f"The environment variable {variable}, named for the key of the judge, is not set: set it."
        )
    kept = options.get("cache")
    if kept is None:
        cache = default_cache()
    else:
        cache = ReplyCache(None if kept == "none" else Path(kept).expanduser())
    return ChatServer(
        request.place,
        options.get("model"),
        variable or KEY_VARIABLE,
        options.get("concurrency", 32),
        options.get("attempts", 8),
        options.get("timeout", 120.0),
        options.get("image_format", "jpeg"),
        cache,
    )


def load_judge(request: RewardRequest) -> RewardModel:
    """The judge of a request.

    Raises:
        InputError: nothing answers at its address, or its questions cannot be read.
    """
    request.refuse("reduce", "batch_size", "dtype", "scale")
    options = request.options
    frames = options.get("frames", 8)
    if frames in ("first", "middle"):
        raise InputError(f"A judge takes frames=NUMBER or frames=all, not frames={frames}.")
    question = _text(options["question"]) if "question" in options else ""
    listed = options.get("questions", "")
    several, graphs = _several(listed)
    if question and listed:
        raise InputError("A judge has one question or several: give question or questions, not both.")
    settings = JudgeSettings(
        question=question,
        questions=several,
        scale=options.get("range"),
        answer=options.get("answer", "auto"),
        pairs=options.get("pairs", False),
        frames=2**31 if frames == "all" else int(frames),
        frame_pixels=options.get("frame_pixels", JudgeSettings.frame_pixels),
        thinking=options.get("thinking", False),
        max_tokens=options.get("max_tokens", JudgeSettings.max_tokens),
    )
    server = open_server(request)
    model = JudgeReward(server, settings, graphs)
    asked: dict[str, Any] = {"question_sha256": digest(question)} if question else {}
    if listed:
        asked = {"questions_sha256": digest(read_text(listed)) if Path(listed).is_file() else listed}
    return identify(model, request, served_model=server.model, frames_shown=str(frames), **asked)


def _text(said: str) -> str:
    """The text of an option, or of the file that `@FILE` names."""
    text = read_text(Path(said[1:]).expanduser()) if said.startswith("@") else said
    text = text.strip()
    if not text:
        raise InputError(
            f"The question {said!r} is empty: write one, with {PROMPT} where the prompt is to stand."
        )
    return text


def _several(listed: str) -> tuple[tuple[str, ...], Any]:
    """Questions about every video from the lines of a .txt file, or graphs by prompt from any other source."""
    if not listed:
        return (), None
    if listed.endswith(".txt"):
        lines = tuple(line.strip() for line in read_text(listed).split("\n") if line.strip())
        if not lines:
            raise InputError(f"{listed} holds no question: write one a line.")
        return lines, None
    return (), load_graphs(listed)
