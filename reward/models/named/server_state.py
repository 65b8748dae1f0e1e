"""State of a judge's server for `vidalign doctor`, by one small question: its model, whether it takes as many pictures
as it would be sent, and whether it gives probabilities."""

from __future__ import annotations

from dataclasses import replace

import torch

from generator.output import InputError
from reward.models.named.chat_server import Ask, NoProbabilitiesError
from reward.models.named.entry import RewardRequest
from reward.models.named.serving import open_server

PATIENCE = 20.0
"""Seconds that the answer may take."""
SIDE = 56
"""Sides of the black pictures that are sent, in pixels."""
QUESTION = "Are these pictures black? Answer yes or no."


def server_state(request: RewardRequest) -> tuple[bool, str]:
    """Asks a request's server one question, without a second try; returns whether it can be used, and a phrase."""
    options = {**request.options, "attempts": 1, "timeout": PATIENCE, "cache": "none"}
    frames = options.get("frames", 8)
    count = (frames if isinstance(frames, int) else 1 if frames == "first" else 8) * (
        2 if options.get("pairs") else 1
    )
    try:
        server = open_server(replace(request, options=options))
        ask = Ask((torch.zeros(count, SIDE, SIDE, 3, dtype=torch.uint8), QUESTION), 1, True)
        try:
            gives = bool(server.ask_all([ask])[0].tokens)
        except NoProbabilitiesError:
            server.ask_all([replace(ask, probabilities=False)])
            gives = False
    except InputError as error:
        return False, str(error)
    said = "gives probabilities" if gives else "gives no probabilities, so that its words are read"
    return True, f"{request.place} answers: {server.model}, takes {count} pictures, {said}"
