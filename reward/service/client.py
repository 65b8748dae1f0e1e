"""A reward model behind HTTP (`vidalign reward serve`), as if it were here."""

from __future__ import annotations

import base64
import json
import math
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from generator.one_or_several import as_list
from generator.output import InputError
from reward.models.base import RewardModel, Scores, join_scores
from reward.proxies import proxy_of
from reward.service.protocol import TENSORS, pack

CONNECTION_ATTEMPTS = 5


class RemoteReward(RewardModel):
    """Sends videos to a reward service in parts that it takes, and waits when it is busy.

    Scores do not pass gradients, and the service judges decoded videos.

    Args:
        address: `http://host:port`, or `http://user:password@host:port` of one that asks for them (HTTP Basic); special
            characters of user and password are percent-encoded. `name` and `address` are without them.
        timeout: seconds that one request may take.
        patience: seconds that a busy service is waited for in all.

    Raises:
        InputError: there is no reward service at the address.
    """

    names_dimensions = True

    def __init__(self, address: str, timeout: float = 600.0, patience: float = 3600.0) -> None:
        self.address, self._credentials = split_credentials(address.rstrip("/"))
        self.name = self.address
        self.timeout, self.patience = timeout, patience
        self.proxy = proxy_of(self.address)
        handlers = [] if self.proxy else [urllib.request.ProxyHandler({})]
        self._opener = urllib.request.build_opener(*handlers)
        self.info: dict[str, Any] = self._ask("/info")
        if "dimensions" not in self.info:
            raise InputError(
                f"{self.address} is no reward service: give the address of `vidalign reward serve`."
            )
        self.dimensions = tuple(self.info["dimensions"])
        self.settings = {"service": self.info.get("record", {"name": self.info.get("reward", "")})}
        bounds = self.info.get("scale")
        self.scale = None if bounds is None else (float(bounds[0]), float(bounds[1]))
        self.sees_frames = bool(self.info.get("sees_frames", False))
        self.takes_images = bool(self.info.get("takes_images", False))

    def video_size(self) -> dict[str, float] | None:
        """The size that the model of the service wants, or None."""
        return self.info.get("video")

    def score(self, videos: Tensor, prompts: Sequence[str], images: Tensor | None = None) -> Scores:
        """Scores `[batch]` of videos `[batch, 3, frames, height, width]` in [-1, 1].

        Args:
            images: `[batch, 3, height, width]`, with which they begin, for a service that takes these.

        Raises:
            InputError: the service refuses them, has gone, or stays busy.
        """
        prompts = as_list(prompts)
        return self._judge(videos, prompts, "", images if self.takes_images else None)["scores"]

    def uncertainty(self, videos: Tensor, prompts: Sequence[str]) -> Scores:
        """Standard deviations `[batch]` of the scores, where the model of the service knows them."""
        prompts = as_list(prompts)
        return self._judge(videos, prompts, "?uncertainty=true")["uncertainty"]

    def _judge(
        self, videos: Tensor, prompts: Sequence[str], query: str, images: Tensor | None = None
    ) -> dict[str, Scores]:
        if len(videos) != len(prompts):
            raise InputError(
                f"{len(videos)} videos and {len(prompts)} prompts were given: one each is needed."
            )
        one = 2 * max(videos[0].numel(), 1) if len(videos) else 1
        one += 0 if images is None or not len(images) else 2 * images[0].numel()
        most = max(1, min(self.info["max_batch_size"], int(0.9 * self.info["max_megabytes"] * 2**20 / one)))
        parts: dict[str, list[Scores]] = {"scores": [], "uncertainty": []}
        for start in range(0, len(videos), most):
            rows = slice(start, start + most)
            shown = None if images is None else images[rows]
            answer = self._ask(f"/score{query}", pack(videos[rows], prompts[rows], self.frame_rate, shown))
            for name in parts:
                parts[name].append({key: _tensor(values) for key, values in answer.get(name, {}).items()})
        return {name: join_scores(values) for name, values in parts.items()}

    def _ask(self, path: str, body: bytes | None = None) -> dict[str, Any]:
        """The JSON answer to a request; waits while the service is busy or starting."""
        deadline, failures = time.monotonic() + self.patience, 0
        while True:
            request = urllib.request.Request(self.address + path, body, {"Content-Type": TENSORS})
            if self._credentials:
                # A service that the answer sends us on to is not told them.
                request.add_unredirected_header("Authorization", f"Basic {self._credentials}")
            try:
                with self._opener.open(request, timeout=self.timeout) as response:
                    return json.load(response)
            except urllib.error.HTTPError as error:
                wait = _retry_after(error)
                if error.code != 503 or time.monotonic() + wait > deadline:
                    raise InputError(
                        f"The reward service {self.address}{self._through()} refused the request ({error.code}): "
                        f"{_detail(error)}"
                    ) from error
            except (urllib.error.URLError, OSError, ValueError) as error:
                failures += 1
                wait = 0.2 * 2**failures
                if failures >= CONNECTION_ATTEMPTS:
                    raise InputError(
                        f"The reward service {self.address} does not answer{self._through()} ({error}): start it "
                        f"with `vidalign reward serve`, or check the address{' and the proxy' * bool(self.proxy)}."
                    ) from error
            time.sleep(wait)

    def _through(self) -> str:
        return f" through the proxy {self.proxy} of the environment" if self.proxy else ""


def split_credentials(address: str) -> tuple[str, str | None]:
    """An address without user and password, and these in base64 as HTTP Basic sends them; None where it has none.

    Raises:
        InputError: the parts of the address cannot be told apart.
    """
    try:
        parts = urllib.parse.urlsplit(address)
        readable = bool(parts.hostname) and parts.port != 0
    except ValueError:
        readable = False
    if not readable:
        raise InputError(
            f"The address {address} cannot be read: write http://HOST:PORT or http://USER:PASSWORD@HOST:PORT, with "
            "special characters of user and password as %40."
        )
    user, at, host = parts.netloc.rpartition("@")
    if not at:
        return address, None
    name, _, password = user.partition(":")
    pair = f"{urllib.parse.unquote(name)}:{urllib.parse.unquote(password)}"
    return address.replace(parts.netloc, host, 1), base64.b64encode(pair.encode()).decode()


def _tensor(values: Sequence[float | None]) -> Tensor:
    return torch.tensor([math.nan if value is None else value for value in values])


def _retry_after(error: urllib.error.HTTPError) -> float:
    try:
        return min(60.0, max(0.1, float(error.headers.get("Retry-After", 1))))
    except ValueError:
        return 1.0


def _detail(error: urllib.error.HTTPError) -> str:
    try:
        return str(json.load(error).get("detail", error.reason))
    except ValueError:
        return str(error.reason)
