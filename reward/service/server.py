"""A reward model as an HTTP service: requests are joined to batches, and what it cannot take now is refused.

`POST /score` judges videos (`reward.service.protocol` says how they are sent), `GET /info` says what the model
judges and takes, `GET /health` how busy it is. Videos of all requests wait in one queue; a worker takes those of
one size from its head, up to `max_batch_size` of them, and waits at most `max_wait` seconds for a batch to fill.
When more than `max_queue` videos would wait, the request is refused at once with 503 and a `Retry-After` that
follows from the speed so far, so that clients slow down and memory stays bounded.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import math
import tempfile
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from torch import Tensor

from generator.first_frames import read_images
from generator.output import InputError
from reward.models.base import RewardModel, Scores, score_with_images
from reward.service.listening import address_of, listen
from reward.service.protocol import TENSORS, check, check_images, unpack


@dataclass(frozen=True)
class ServiceLimits:
    """Limits on what the service takes.

    Attributes:
        max_batch_size: videos judged together.
        max_wait: seconds that a batch waits to be filled.
        max_queue: videos that may wait.
        max_megabytes: largest body of a request.
    """

    max_batch_size: int = 32
    max_wait: float = 0.01
    max_queue: int = 256
    max_megabytes: int = 512

    def __post_init__(self) -> None:
        for name in ("max_batch_size", "max_queue", "max_megabytes"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}, but it must be at least 1.")
        if self.max_wait < 0:
            raise InputError(f"max_wait is {self.max_wait} s, but it must be at least 0.")


class BusyError(Exception):
    """The queue is full; `retry_after` seconds later it should have room."""

    def __init__(self, retry_after: int) -> None:
        super().__init__(f"busy for about {retry_after} s")
        self.retry_after = retry_after


@dataclass
class _Waiting:
    """One video of a request."""

    video: Tensor
    prompt: str
    fps: float | None
    uncertainty: bool
    image: Tensor | None
    answer: asyncio.Future[tuple[dict[str, float], dict[str, float]]] = field(repr=False)

    @property
    def kind(self) -> tuple[Any, ...]:
        """Facts that the videos of one call of the model share, beside their shape."""
        return self.uncertainty, self.fps, None if self.image is None else self.image.shape


class Batcher:
    """Joins the videos of concurrent requests to batches for one model."""

    def __init__(self, reward: RewardModel, limits: ServiceLimits) -> None:
        self.reward, self.limits = reward, limits
        self.queue: deque[_Waiting] = deque()
        self.arrived = asyncio.Event()
        self.seconds_per_video = 0.05
        self.batches = self.judged = 0

    async def submit(
        self,
        videos: Tensor,
        prompts: Sequence[str],
        uncertainty: bool = False,
        fps: float | None = None,
        images: Tensor | None = None,
    ) -> list[tuple[dict[str, float], dict[str, float]]]:
        """Scores and uncertainties of each video, once they are judged.

        Raises:
            BusyError: they do not fit into the queue now.
            InputError: they never will, or the model refuses them.
        """
        if len(videos) > self.limits.max_queue:
            raise InputError(
                f"{len(videos)} videos were sent at once, but the queue holds {self.limits.max_queue}: send fewer."
            )
        if len(self.queue) + len(videos) > self.limits.max_queue:
            raise BusyError(max(1, math.ceil(len(self.queue) * self.seconds_per_video)))
        loop = asyncio.get_running_loop()
        items = [
            _Waiting(video, prompt, fps, uncertainty, image, loop.create_future())
            for video, prompt, image in zip(
                videos, prompts, [None] * len(videos) if images is None else images, strict=True
            )
        ]
        self.queue.extend(items)
        self.arrived.set()
        answers = await asyncio.gather(*(item.answer for item in items), return_exceptions=True)
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
        return answers  # type: ignore[return-value]

    async def work(self) -> None:
        """Judges batches until it is cancelled."""
        while True:
            await self.arrived.wait()
            if len(self.queue) < self.limits.max_batch_size:
                await asyncio.sleep(self.limits.max_wait)
            batch = self._take()
            if not self.queue:
                self.arrived.clear()
            start = time.perf_counter()
            try:
                answers = await asyncio.to_thread(self._judge, batch)
            except Exception as error:  # is raised where the answers are awaited; the others are judged on
                for item in batch:
                    if not item.answer.done():
                        item.answer.set_exception(error)
                continue
            took = (time.perf_counter() - start) / max(len(batch), 1)
            self.seconds_per_video += 0.3 * (took - self.seconds_per_video)
            self.batches += 1
            self.judged += len(batch)
            for item, answer in zip(batch, answers):
                if not item.answer.done():
                    item.answer.set_result(answer)

    def _take(self) -> list[_Waiting]:
        """The videos at the head of the queue and those behind it that fit them, in their order."""
        batch: list[_Waiting] = []
        rest: deque[_Waiting] = deque()
        while self.queue:
            item = self.queue.popleft()
            if item.answer.done():
                continue
            fits = not batch or (item.video.shape == batch[0].video.shape and item.kind == batch[0].kind)
            (batch if fits and len(batch) < self.limits.max_batch_size else rest).append(item)
        self.queue = rest
        return batch

    def _judge(self, batch: Sequence[_Waiting]) -> list[tuple[dict[str, float], dict[str, float]]]:
        if not batch:
            return []
        videos, prompts = torch.stack([item.video for item in batch]), [item.prompt for item in batch]
        if batch[0].fps is not None:
            self.reward.set_frame_rate(batch[0].fps)
        with torch.no_grad():
            images = [item.image for item in batch if item.image is not None]
            scores = score_with_images(self.reward, videos, prompts, torch.stack(images) if images else None)
            doubt = self.reward.uncertainty(videos, prompts) if batch[0].uncertainty else {}
        return list(zip(_rows(scores, len(batch)), _rows(doubt, len(batch))))


def _rows(scores: Scores, count: int) -> list[dict[str, float]]:
    lists = {name: value.float().cpu().tolist() for name, value in scores.items()}
    return [{name: values[row] for name, values in lists.items()} for row in range(count)]


def create_app(reward: RewardModel, limits: ServiceLimits | None = None) -> FastAPI:
    """The service of one reward model."""
    limits = limits or ServiceLimits()
    batcher = Batcher(reward, limits)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        worker = asyncio.create_task(batcher.work())
        yield
        worker.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await worker

    app = FastAPI(title="vidalign reward", lifespan=lifespan, docs_url=None, redoc_url=None)

    @app.exception_handler(InputError)
    async def refuse(request: Request, error: InputError) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, status_code=422)

    @app.exception_handler(BusyError)
    async def busy(request: Request, error: BusyError) -> JSONResponse:
        seconds = error.retry_after
        headers = {"Retry-After": str(seconds)}
        return JSONResponse({"detail": f"The queue is full: try again in {seconds} s."}, 503, headers)

    @app.get("/info")
    async def info() -> dict[str, Any]:
        return _info(reward, limits)

    @app.get("/health")
    async def health() -> dict[str, Any]:
        return {
            "waiting": len(batcher.queue),
            "judged": batcher.judged,
            "batches": batcher.batches,
            "seconds_per_video": batcher.seconds_per_video,
        }

    @app.post("/score")
    async def score(request: Request, uncertainty: bool = False) -> JSONResponse:
        body = await _body(request, limits.max_megabytes)
        kind = request.headers.get("content-type", "").split(";")[0]
        parse = unpack if kind == TENSORS else partial(_from_files, reward=reward)
        videos, prompts, fps, images = await asyncio.to_thread(parse, body)
        answers = await batcher.submit(videos, prompts, uncertainty, fps, images)
        document = {"scores": _columns([scores for scores, _ in answers])}
        if uncertainty:
            document["uncertainty"] = _columns([doubt for _, doubt in answers])
        return JSONResponse(document)

    return app


def _info(reward: RewardModel, limits: ServiceLimits) -> dict[str, Any]:
    """Facts about the model, and what the service takes."""
    return {
        "reward": reward.name,
        "dimensions": list(reward.dimensions),
        "video": reward.video_size(),
        "record": reward.record(),
        "scale": reward.scale,
        "sees_frames": reward.sees_frames,
        "takes_images": reward.takes_images,
        "max_batch_size": limits.max_batch_size,
        "max_queue": limits.max_queue,
        "max_megabytes": limits.max_megabytes,
    }


async def _body(request: Request, max_megabytes: int) -> bytes:
    """The body of a request, which is not read further than it may be long."""
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > max_megabytes * 2**20:
            raise InputError(f"The request is larger than {max_megabytes} MB: send fewer videos at once.")
        parts.append(part)
    return b"".join(parts)


def _columns(rows: Sequence[dict[str, float]]) -> dict[str, list[float | None]]:
    """Rows to lists by name; JSON has no NaN, so what is not finite becomes null."""
    names = rows[0] if rows else ()
    return {name: [row[name] if math.isfinite(row[name]) else None for row in rows] for name in names}


def _from_files(body: bytes, reward: RewardModel) -> tuple[Tensor, list[str], float | None, Tensor | None]:
    """Videos, prompts, frame rate and images of a JSON request; files are read as the model wants to see them."""
    import json

    try:
        document = json.loads(body)
        prompts, files = document["prompts"], document["videos"]
        contents = [base64.b64decode(text, validate=True) for text in files]
        pictures = [base64.b64decode(text, validate=True) for text in document.get("images") or []]
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(
            'The request must be JSON {"prompts": [text…], "videos": [base64 of a video file…]} or a safetensors file '
            f"({error})."
        ) from error
    videos, rates = [], set()
    with tempfile.TemporaryDirectory() as folder:
        for number, content in enumerate(contents):
            path = Path(folder) / f"{number}.mp4"
            path.write_bytes(content)
            try:
                video, fps = reward.read_video_and_rate(path)
                videos.append(video)
                rates.add(fps)
            except InputError as error:
                # The caller knows no file of ours.
                message = str(error).replace(str(path), f"Video {number + 1} of the request")
                raise InputError(message) from error
    if not videos or any(video.shape != videos[0].shape for video in videos):
        raise InputError("The videos of one request must have one size, and there must be at least one.")
    if len(rates) > 1:
        raise InputError(
            f"The videos of one request have {min(rates):g} to {max(rates):g} frames a second: send those of one rate "
            "together."
        )
    checked = check(torch.stack(videos), prompts)
    images = _images_from_files(pictures, checked[0]) if pictures else None
    return *checked, rates.pop(), images


def _images_from_files(contents: Sequence[bytes], videos: Tensor) -> Tensor:
    """Images of a request, at the size of its videos."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for number, content in enumerate(contents):
            path = Path(folder) / f"{number}.png"
            path.write_bytes(content)
            try:
                found.append(read_images([path], *videos.shape[3:])[0])
            except InputError as error:
                message = str(error).replace(str(path), f"Image {number + 1} of the request")
                raise InputError(message) from error
    return check_images(torch.stack(found), videos)


def serve(reward: RewardModel, limits: ServiceLimits, host: str, port: int) -> None:
    """Serves until it is interrupted, and prints where.

    Raises:
        InputError: the port is taken.
    """
    import uvicorn

    listener = listen(host, port)
    print(f"Reward {reward.name}: {address_of(listener, host)}  (Ctrl+C ends it)", flush=True)
    server = uvicorn.Server(uvicorn.Config(create_app(reward, limits), log_level="warning"))
    with contextlib.suppress(KeyboardInterrupt):
        server.run(sockets=[listener])
