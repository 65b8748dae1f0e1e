"""A vision-language model behind an OpenAI-compatible server: vLLM, SGLang, llama.cpp, or a commercial one.

Frames travel as images, which every such server takes. The key comes from the environment, goes into the header and
nowhere else. A request that fails is repeated; one that keeps failing raises, it never becomes a score.
"""

from __future__ import annotations

import base64
import io
import json
import logging
import os
import random
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from http.client import HTTPException
from pathlib import Path
from threading import Event, Lock
from typing import Any

import torch
from torch import Tensor

from generator.output import InputError
from reward.models.named.answers import Reply, Token
from reward.models.named.chat_cache import ReplyCache, key_of
from reward.models.vlm_loading import VideoBudget, fit_size, resize_frames
from reward.proxies import is_this_machine, proxy_of

logger = logging.getLogger(__name__)

KEY_VARIABLE = "OPENAI_API_KEY"
ALTERNATIVES = 20
"""Tokens whose probabilities are asked for at each place; what every server gives."""
ALL_KEPT = 8
"""Tokens up to which a reply keeps the alternatives of all of them."""
LONGEST_WAIT = 300.0
"""Seconds, at most, that a `Retry-After` is obeyed for one attempt."""

ROLES = {
    "judge": (
        "Frames of the judged videos",
        "nothing was scored; start it, check the address, or give it more time with timeout=SECONDS.",
    ),
    "captioner": (
        "Frames of the captioned videos",
        "nothing was captioned; start it, check the address, or give it more time with timeout=SECONDS.",
    ),
    "rewriter": ("Prompts", "start it, or check the address."),
}
"""Roles of a server: the data that it is sent, and advice where it fails."""

Part = str | Tensor
"""A text, or frames `[n, height, width, 3]`, uint8."""


@dataclass(frozen=True)
class Ask:
    """A question about frames.

    Attributes:
        parts: of the one message, in their order.
        max_tokens: of the reply.
        probabilities: whether those of the tokens are wanted.
        thinking: whether a model that can think before its answer may.
    """

    parts: tuple[Part, ...]
    max_tokens: int
    probabilities: bool = False
    thinking: bool = False


class NoProbabilitiesError(InputError):
    """The server gives no probabilities of tokens."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Another address must not get the key."""

    def redirect_request(self, *_: Any) -> None:
        return None


class ChatServer:
    """Asks a server, many questions at a time.

    Args:
        address: up to and with the version, `http://host:8000/v1`.
        model: its name there; where None the server's only model.
        key_variable: variable of the environment that holds the key.
        concurrency: requests in flight, at most.
        attempts: how often a request is made before it has failed.
        timeout: seconds that one request may take.
        image_format: `jpeg` of quality 95, or `png` for text in videos.
        cache: keeps replies; in memory where None.
        backoff: seconds before the second attempt; doubled for each further one, at most 10.
        role: a name for messages, one of `ROLES`.

    Raises:
        InputError: nothing answers at the address, or which model is meant is not clear.
    """

    def __init__(
        self,
        address: str,
        model: str | None = None,
        key_variable: str = KEY_VARIABLE,
        concurrency: int = 32,
        attempts: int = 8,
        timeout: float = 120.0,
        image_format: str = "jpeg",
        cache: ReplyCache | None = None,
        backoff: float = 0.5,
        role: str = "judge",
    ) -> None:
        self.role = role
        parts = urllib.parse.urlsplit(address)
        if parts.username or parts.password or parts.query or parts.fragment:
            raise InputError(
                f"The address of a {role} at {parts.hostname} holds a name, a password or a query, which records would "
                f"keep: give the plain address, and the key in the environment variable {key_variable}."
            )
        self.address = address.rstrip("/")
        self.key_variable, self.concurrency, self.attempts = key_variable, concurrency, attempts
        self.timeout, self.image_format, self.backoff = timeout, image_format, backoff
        self.role = role
        self.cache = cache or ReplyCache(None)
        self.usage = {"requests": 0, "prompt_tokens": 0, "completion_tokens": 0}
        self._refused: set[str] = set()
        self._lock = Lock()
        self._stopped = Event()
        proxy = proxy_of(self.address)
        handlers: list[Any] = [_NoRedirect()] + ([] if proxy else [urllib.request.ProxyHandler({})])
        self._opener = urllib.request.build_opener(*handlers)
        self.model = self._chosen_model(model)
        if not is_this_machine(self.address):
            logger.warning("%s are sent to %s.", ROLES[role][0], parts.netloc)

    def ask_all(self, asks: Sequence[Ask]) -> list[Reply]:
        """The replies, in the order of the questions; equal questions and those of earlier runs are asked once.

        Raises:
            InputError: a request failed for good; the others are stopped.
        """
        keys = [self._key(ask) for ask in asks]
        replies = {key: self.cache.get(key) for key in dict.fromkeys(keys)}
        waiting = {key: ask for key, ask in zip(keys, asks) if replies[key] is None}
        if waiting:
            self._stopped.clear()
            pool = ThreadPoolExecutor(min(self.concurrency, len(waiting)), thread_name_prefix="judge")
            try:
                jobs = {key: pool.submit(self._ask, key, ask) for key, ask in waiting.items()}
                for job in as_completed(jobs.values()):
                    job.result()  # the first failure ends all
                replies |= {key: job.result() for key, job in jobs.items()}
            except BaseException:
                self._stopped.set()
                raise
            finally:
                pool.shutdown(wait=True, cancel_futures=True)
        found = [replies[key] for key in keys]
        return [reply for reply in found if reply is not None]

    def answered(self, ask: Ask) -> Reply | None:
        """The reply to a question that was asked before."""
        return self.cache.get(self._key(ask))

    def _key(self, ask: Ask) -> str:
        frames = [
            str(tuple(part.shape)).encode() + part.numpy().tobytes()
            for part in ask.parts
            if isinstance(part, Tensor)
        ]
        texts = [part if isinstance(part, str) else None for part in ask.parts]
        facts = {
            "model": self.model,
            "max_tokens": ask.max_tokens,
            "probabilities": ask.probabilities,
            "thinking": ask.thinking,
            "image_format": self.image_format,
        }
        return key_of(frames, json.dumps(texts), facts)

    def _ask(self, key: str, ask: Ask) -> Reply:
        content: list[dict[str, Any]] = []
        for part in ask.parts:
            if isinstance(part, str):
                content.append({"type": "text", "text": part})
            else:
                urls = [data_url(frame, self.image_format) for frame in part]
                content += [{"type": "image_url", "image_url": {"url": url}} for url in urls]
        body = {
            "model": self.model,
            "messages": [{"role": "user", "content": content}],
            "max_tokens": ask.max_tokens,
            "temperature": 0,
        }
        if ask.probabilities:
            body |= {"logprobs": True, "top_logprobs": ALTERNATIVES}
        if not ask.thinking:
            body["chat_template_kwargs"] = {"enable_thinking": False}
        reply = self._reply(self._post("/chat/completions", body))
        self.cache.put(key, reply)
        return reply

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """The answer to a request; parameters that the server is found not to know are left out from then on."""
        while True:
            sent = self._known_to_server(body)
            try:
                return self._request(path, sent)
            except _RefusedError as error:
                refused = self._refused_parameter(error.detail, sent)
                if refused is None:
                    raise InputError(
                        f"The {self.role} {self.address} refused the request ({error.code}): {error.detail}"
                    ) from error
                with self._lock:
                    self._refused.add(refused)

    def _known_to_server(self, body: dict[str, Any]) -> dict[str, Any]:
        known = {name: value for name, value in body.items() if name not in self._refused}
        if "max_tokens" in self._refused:
            known["max_completion_tokens"] = body["max_tokens"]
        return known

    def _refused_parameter(self, detail: str, sent: dict[str, Any]) -> str | None:
        """The optional parameter that a refusal names, if it was sent.

        Raises:
            NoProbabilitiesError: it is that of the probabilities.
        """
        if "logprobs" in detail and "logprobs" in sent:
            raise NoProbabilitiesError(f"The {self.role} {self.address} gives no probabilities: {detail}")
        names = ("chat_template_kwargs", "temperature", "max_tokens")
        return next((name for name in names if name in detail and name in sent), None)

    def _chosen_model(self, named: str | None) -> str:
        """The model that was named, or the server's only one; the server is seen to answer in any case."""
        try:
            found = self._request("/models", None, attempts=3)
            names = [str(each["id"]) for each in found["data"]]
        except _RefusedError as error:
            if named and error.code not in (401, 403):
                return named
            advice = (
                f"set the key in the environment variable {self.key_variable}"
                if error.code in (401, 403)
                else f"check the address, which ends in /v1 with most servers, or give {_model_flag(self.role)}"
            )
            raise InputError(
                f"The {self.role} {self.address} refused to list its models ({error.code}: {error.detail}): {advice}."
            ) from error
        except (KeyError, TypeError) as error:
            if named:
                return named
            raise InputError(
                f"{self.address} is no OpenAI-compatible server (its /models has no list): check the address, which "
                "ends in /v1 with most servers."
            ) from error
        if named:
            return named
        if len(names) != 1:
            raise InputError(
                f"The {self.role} {self.address} has {len(names)} models ({', '.join(names[:5])}): choose one, "
                f"{_model_flag(self.role)}."
            )
        return names[0]

    def _request(self, path: str, body: dict[str, Any] | None, attempts: int | None = None) -> dict[str, Any]:
        """The JSON of one request; what may pass by itself is tried again.

        Raises:
            _RefusedError: the server does not accept the request.
            InputError: all attempts failed.
        """
        attempts = attempts or self.attempts
        data = None if body is None else json.dumps(body).encode()
        for attempt in range(1, attempts + 1):
            wait: float | None = None
            request = urllib.request.Request(self.address + path, data, self._headers())
            try:
                with self._opener.open(request, timeout=self.timeout) as response:
                    found = json.load(response)
                if not isinstance(found, dict):
                    raise ValueError("its answer is no JSON object")
                return found
            except urllib.error.HTTPError as error:
                detail = self._without_key(_detail(error))
                if error.code not in (408, 425, 429) and error.code < 500:
                    raise _RefusedError(error.code, detail) from error
                reason, wait = f"{error.code}: {detail}", _retry_after(error)
            except (OSError, HTTPException, ValueError) as error:
                reason = self._without_key(str(getattr(error, "reason", error)) or type(error).__name__)
            if attempt < attempts and self._stopped.wait(wait if wait is not None else self._pause(attempt)):
                raise InputError(
                    f"The {self.role} {self.address} is asked no more: another request has failed."
                )
        raise InputError(
            f"The {self.role} {self.address} failed {attempts} times ({reason}): {ROLES[self.role][1]}"
        )

    def _pause(self, attempt: int) -> float:
        return min(10.0, self.backoff * 2 ** (attempt - 1)) * random.uniform(0.5, 1.0)

    def _headers(self) -> dict[str, str]:
        key = os.environ.get(self.key_variable, "").strip()
        return {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})

    def _without_key(self, text: str) -> str:
        key = os.environ.get(self.key_variable, "").strip()
        return text.replace(key, "[key]") if key else text

    def _reply(self, found: dict[str, Any]) -> Reply:
        try:
            choice = found["choices"][0]
            message = choice["message"]
            text = str(message.get("content") or "")
            listed = (choice.get("logprobs") or {}).get("content") or []
            tokens = tuple(_token(each, len(listed) <= ALL_KEPT) for each in listed)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            raise InputError(
                f"The {self.role} {self.address} sent an answer that is not of OpenAI's layout ({error!r}): check the "
                "address."
            ) from error
        counts = found.get("usage") or {}
        with self._lock:
            self.usage["requests"] += 1
            for name in ("prompt_tokens", "completion_tokens"):
                self.usage[name] += int(counts.get(name) or 0)
        return Reply(text, tokens, choice.get("finish_reason") == "length")


def _model_flag(role: str) -> str:
    return {"judge": "model=NAME", "captioner": "served_model=NAME"}.get(role, f"--{role}_model NAME")


class _RefusedError(Exception):
    """The server does not accept a request, and would not the next time."""

    def __init__(self, code: int, detail: str) -> None:
        super().__init__(detail)
        self.code, self.detail = code, detail


def _token(said: dict[str, Any], keep: bool) -> Token:
    """A token as servers write it; of a long reply only digits keep their alternatives."""
    text = str(said["token"])
    if not keep and not any(character.isdigit() for character in text):
        return Token(text)
    others = said.get("top_logprobs") or [said]
    return Token(text, tuple((str(other["token"]), float(other["logprob"])) for other in others))


def pictures(frames: Tensor, frame_pixels: int) -> Tensor:
    """Frames `[n, 3, height, width]` in [-1, 1] as pictures `[n, height, width, 3]`, uint8, on the CPU.

    Args:
        frame_pixels: largest area of a picture; larger ones are reduced, the aspect ratio kept.
    """
    height, width = frames.shape[2:]
    if height * width > frame_pixels:
        budget = VideoBudget(max_frame_pixels=frame_pixels, min_frame_pixels=1)
        height, width = fit_size(height, width, 1, budget)
    pixels = resize_frames(frames, height, width).mul(255).round().clamp(0, 255)
    return pixels.to("cpu", torch.uint8).permute(0, 2, 3, 1).contiguous()


def data_url(frame: Tensor, image_format: str = "jpeg") -> str:
    """A picture `[height, width, 3]`, uint8, as a data address."""
    from PIL import Image

    held = io.BytesIO()
    options = {"quality": 95, "subsampling": 0} if image_format == "jpeg" else {}
    Image.fromarray(frame.numpy()).save(held, image_format, **options)
    return f"data:image/{image_format};base64,{base64.b64encode(held.getvalue()).decode()}"


def default_cache() -> ReplyCache:
    """The cache of all judges in the user's cache folder."""
    from generator.data.latent_cache import default_cache_dir

    return ReplyCache(Path(default_cache_dir()) / "judge")


def _retry_after(error: urllib.error.HTTPError) -> float | None:
    """Seconds that the server asks to wait, as a number or a date."""
    said = error.headers.get("Retry-After")
    if said is None:
        return None
    try:
        seconds = float(said)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(said).timestamp() - time.time()
        except (ValueError, TypeError):
            return None
    return min(LONGEST_WAIT, max(0.0, seconds))


def _detail(error: urllib.error.HTTPError) -> str:
    """Text of the server about an error, shortened."""
    try:
        text = error.read(20_000).decode("utf-8", "replace")
        found = json.loads(text)
        inner = found.get("error", found)
        text = (
            str(inner.get("message") or inner.get("detail") or inner)
            if isinstance(inner, dict)
            else str(inner)
        )
    except (OSError, ValueError, AttributeError, HTTPException):
        text = str(error.reason)
    return " ".join(text.split())[:300] or str(error.reason)
