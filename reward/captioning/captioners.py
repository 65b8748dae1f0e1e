"""Captioners, which say what a video shows: the world's perception, a vision-language model, or a served one."""

from __future__ import annotations

import os
import random
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from generator.output import InputError
from generator.video import read_clip, video_shape
from reward.captioning.names import check_captioner
from reward.models.named.answers import Reply
from reward.models.named.chat_server import KEY_VARIABLE, Ask, ChatServer, default_cache, pictures
from reward.models.vlm_loading import (
    VideoBudget,
    VisionLanguageModel,
    fit_size,
    load_vision_language_model,
)

INSTRUCTION = (
    "Describe this video in one paragraph for somebody who cannot see it: what is there, how it looks, what it does "
    "from the beginning to the end, the background, the light and the camera. Say only what is to be seen."
)
SHORT_INSTRUCTION = "Describe this video in one short sentence. Say only what is to be seen."
FRAMES = 8
FRAME_PIXELS = 448 * 448
MAX_TOKENS = 512
_WORLD_SIDE = 128
_WORLD_FRAMES = 240


class Captions(NamedTuple):
    """A long and a short caption of one video."""

    long: str
    short: str


@dataclass(frozen=True)
class CaptionSettings:
    """Instructions and frames of a captioner that is asked.

    Attributes:
        instruction, short_instruction: ask for the long and for the short caption.
        frames: shown of each video, evenly from the first to the last.
        frame_pixels: largest area of a frame; larger ones are reduced.
        max_tokens: of a caption, at most.
        seed: of the world's wording.
    """

    instruction: str = INSTRUCTION
    short_instruction: str = SHORT_INSTRUCTION
    frames: int = FRAMES
    frame_pixels: int = FRAME_PIXELS
    max_tokens: int = MAX_TOKENS
    seed: int = 0


@dataclass(frozen=True)
class ServerSettings:
    """Requests to a server.

    Attributes:
        model: its name there; None for the server's only model.
        key_variable: variable of the environment that holds the key.
        concurrency: requests in flight, at most.
        attempts: how often a request is made before it has failed.
        timeout: seconds that one request may take.
        backoff: seconds before the second attempt.
    """

    model: str | None = None
    key_variable: str = KEY_VARIABLE
    concurrency: int = 32
    attempts: int = 8
    timeout: float = 120.0
    backoff: float = 0.5


class Captioner(ABC):
    """Says what videos show.

    Attributes:
        name: of the captioner in records.
        record: what else the captions depend on: the instructions, and the number of frames.
        batch_size: videos that are handed over at once.
    """

    name: str
    record: dict[str, object]
    batch_size = 1

    @abstractmethod
    def read(self, path: Path) -> tuple[Tensor, float]:
        """Frames `[3, frames, height, width]` in [-1, 1] of a file that are looked at, and their number a second.

        Raises:
            InputError: the file cannot be read as a video.
        """

    @abstractmethod
    def caption(
        self, names: Sequence[str], videos: Sequence[tuple[Tensor, float]]
    ) -> list[Captions | InputError]:
        """Captions of videos that `read` gave, or why there is none.

        Args:
            names: of the files in their folder.
        """


class WorldCaptioner(Captioner):
    """Perceives the shapes of the built-in world and describes them in its grammar.

    Args:
        seed: of the wording; with the name of a video it gives the same words each time.
    """

    name = "world"
    batch_size = 8

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self.record = {"caption_seed": seed}

    def read(self, path: Path) -> tuple[Tensor, float]:
        """The first 240 frames, at a shorter side of at most 128 pixels."""
        shape = video_shape(path)
        scale = min(1.0, _WORLD_SIDE / min(shape.height, shape.width))
        height, width = (max(1, round(side * scale)) for side in (shape.height, shape.width))
        count = min(shape.num_frames, _WORLD_FRAMES)
        return read_clip(path, count, height, width, shape.fps), shape.fps

    def caption(
        self, names: Sequence[str], videos: Sequence[tuple[Tensor, float]]
    ) -> list[Captions | InputError]:
        """Captions of what is perceived; see `Captioner.caption`."""
        return [self._caption(name, *video) for name, video in zip(names, videos, strict=True)]

    def _caption(self, name: str, video: Tensor, fps: float) -> Captions | InputError:
        from generator.world.captions import captions_of
        from generator.world.verify import see

        said = captions_of(see(video[None], fps)[0], random.Random(f"{self.seed}-{name}"))
        if said is None:
            return InputError(
                f"{name} shows no scene of the built-in world: caption it with vlm:FOLDER or a server."
            )
        return Captions(*said)


class _AskedCaptioner(Captioner):
    """A vision-language model that follows an instruction for each caption."""

    def __init__(self, settings: CaptionSettings) -> None:
        self.settings = settings
        self.record = {
            "caption_instruction": settings.instruction,
            "short_caption_instruction": settings.short_instruction,
            "caption_frames": settings.frames,
        }

    def read(self, path: Path) -> tuple[Tensor, float]:
        """Frames spread evenly over the whole video, reduced to the area of the settings."""
        shape, settings = video_shape(path), self.settings
        budget = VideoBudget(max_frame_pixels=settings.frame_pixels, min_frame_pixels=1)
        height, width = fit_size(shape.height, shape.width, 1, budget)
        count = min(settings.frames, shape.num_frames)
        seconds = shape.num_frames / shape.fps
        return read_clip(path, count, height, width), count / seconds


class VlmCaptioner(_AskedCaptioner):
    """A vision-language model of transformers.

    Args:
        model: the model; its budget should show all frames.
        settings: instructions and frames.
    """

    def __init__(self, model: VisionLanguageModel, settings: CaptionSettings | None = None) -> None:
        super().__init__(settings or CaptionSettings())
        self.model, self.name = model, f"vlm:{model.name}"

    def caption(
        self, names: Sequence[str], videos: Sequence[tuple[Tensor, float]]
    ) -> list[Captions | InputError]:
        """Captions that the model writes; see `Captioner.caption`."""
        return [self._caption(name, *video) for name, video in zip(names, videos, strict=True)]

    def _caption(self, name: str, video: Tensor, fps: float) -> Captions | InputError:
        settings = self.settings
        texts = [
            self.model.write(video, fps, instruction, settings.max_tokens)
            for instruction in (settings.instruction, settings.short_instruction)
        ]
        return _captions(name, [Reply(text) for text in texts])


class ServedCaptioner(_AskedCaptioner):
    """A vision-language model behind an OpenAI-compatible server.

    Args:
        server: the server, which repeats failing requests and keeps its replies.
        settings: instructions and frames.
    """

    def __init__(self, server: ChatServer, settings: CaptionSettings | None = None) -> None:
        super().__init__(settings or CaptionSettings())
        self.server, self.batch_size = server, max(1, server.concurrency // 2)
        self.name = server.address
        self.record |= {"captioner_model": server.model}

    def caption(
        self, names: Sequence[str], videos: Sequence[tuple[Tensor, float]]
    ) -> list[Captions | InputError]:
        """Captions that the server writes; see `Captioner.caption`. Where a request fails, videos are asked about one
        by one, so that a failure is that of its own video."""
        asks = [self._asks(video) for video, _ in videos]
        try:
            replies = iter(self.server.ask_all([ask for pair in asks for ask in pair]))
            return [_captions(name, [next(replies), next(replies)]) for name in names]
        except InputError as error:
            if len(names) == 1:
                return [error]
        return [self._alone(name, pair) for name, pair in zip(names, asks, strict=True)]

    def _alone(self, name: str, asks: Sequence[Ask]) -> Captions | InputError:
        try:
            return _captions(name, self.server.ask_all(asks))
        except InputError as error:
            return error

    def _asks(self, video: Tensor) -> tuple[Ask, Ask]:
        frames = pictures(video.transpose(0, 1), self.settings.frame_pixels)
        long, short = (
            Ask((frames, text), self.settings.max_tokens)
            for text in (self.settings.instruction, self.settings.short_instruction)
        )
        return long, short


def _captions(name: str, replies: Sequence[Reply]) -> Captions | InputError:
    """The replies as captions of one line each, without thoughts."""
    texts = [" ".join(reply.answer.split()) for reply in replies]
    if any(reply.cut for reply in replies):
        return InputError(f"{name}: the caption was cut at the largest number of tokens: raise max_tokens.")
    if not all(texts):
        return InputError(
            f"{name}: the captioner wrote an empty caption: change the instruction or the model."
        )
    return Captions(*texts)


def load_captioner(
    name: str, settings: CaptionSettings | None = None, server: ServerSettings | None = None
) -> Captioner:
    """Loads a captioner.

    Args:
        name: `world`, `vlm:FOLDER` with a folder or hub id of an image-text-to-text model of transformers, or the
            address of an OpenAI-compatible server.
        settings: instructions and frames.
        server: how a server is asked.

    Raises:
        InputError: there is no such captioner, the model cannot be loaded, or nothing answers at the address.
    """
    check_captioner(name)
    settings, server = settings or CaptionSettings(), server or ServerSettings()
    if name == "world":
        return WorldCaptioner(settings.seed)
    kind, _, place = name.partition(":")
    if kind == "vlm":
        budget = VideoBudget(max_frames=settings.frames, max_frame_pixels=settings.frame_pixels)
        return VlmCaptioner(load_vision_language_model(place, budget=budget), settings)
    if server.key_variable != KEY_VARIABLE and not os.environ.get(server.key_variable):
        raise InputError(
            f"The environment variable {server.key_variable}, named for the key of the captioner, is not set: set it."
        )
    chat = ChatServer(
        name,
        server.model,
        server.key_variable,
        server.concurrency,
        server.attempts,
        server.timeout,
        cache=default_cache(),
        backoff=server.backoff,
        role="captioner",
    )
    return ServedCaptioner(chat, settings)
