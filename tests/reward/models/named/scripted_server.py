"""An OpenAI-compatible server in a thread, whose answers are scripted."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = tuple[int, dict[str, Any], dict[str, str]]
"""Status, document and headers."""


class Script:
    """What a server answers, and what it was asked.

    Args:
        answer: `(request, number of the request) -> Answer`, or a document for status 200.
        models: names that it lists.
    """

    def __init__(
        self, answer: Callable[[dict[str, Any], int], Any], models: tuple[str, ...] = ("tiny",)
    ) -> None:
        self.answer, self.models = answer, models
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.in_flight = self.most_in_flight = 0
        self.lock = threading.Lock()
        self.address = ""


def completion(
    text: str, tokens: list[tuple[str, dict[str, float]]] | None = None, finish: str = "stop"
) -> Any:
    """A document of `/chat/completions`; `tokens` are texts with the probabilities of their alternatives."""
    choice: dict[str, Any] = {"message": {"role": "assistant", "content": text}, "finish_reason": finish}
    if tokens is not None:
        choice["logprobs"] = {
            "content": [
                {
                    "token": word,
                    "logprob": math.log(others[word]) if word in others else -9.0,
                    "top_logprobs": [{"token": t, "logprob": math.log(p)} for t, p in others.items()],
                }
                for word, others in tokens
            ]
        }
    return {"choices": [choice], "usage": {"prompt_tokens": 100, "completion_tokens": 2}}


def yes_with(probability: float) -> Any:
    """The answer "Yes" or "No" with a probability of yes."""
    word = "Yes" if probability >= 0.5 else "No"
    return completion(word, [(word, {"Yes": max(probability, 1e-9), "No": max(1 - probability, 1e-9)})])


def texts_of(request: dict[str, Any]) -> list[str]:
    """The text parts of a request."""
    return [part["text"] for part in request["messages"][0]["content"] if part["type"] == "text"]


def images_of(request: dict[str, Any]) -> list[bytes]:
    """The pictures of a request, as files."""
    import base64

    parts = [part for part in request["messages"][0]["content"] if part["type"] == "image_url"]
    return [base64.b64decode(part["image_url"]["url"].partition("base64,")[2]) for part in parts]


@contextmanager
def serve(script: Script) -> Iterator[Script]:
    """Runs the server while the block does; its address is `script.address`."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def _send(self, status: int, document: Any, headers: dict[str, str]) -> None:
            body = document if isinstance(document, bytes) else json.dumps(document).encode()
            with suppress(BrokenPipeError, ConnectionResetError):  # a client that waits no longer
                self.send_response(status)
                for name, value in {"Content-Length": str(len(body)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

        def do_GET(self) -> None:
            script.headers.append(dict(self.headers))
            if self.path == "/v1/models":
                self._send(200, {"data": [{"id": name} for name in script.models]}, {})
            else:
                self._send(404, {"error": {"message": "no such page"}}, {})

        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with script.lock:
                number = len(script.requests)
                script.requests.append(request)
                script.headers.append(dict(self.headers))
                script.in_flight += 1
                script.most_in_flight = max(script.most_in_flight, script.in_flight)
            try:
                found = script.answer(request, number)
            finally:
                with script.lock:
                    script.in_flight -= 1
            status, document, headers = found if isinstance(found, tuple) else (200, found, {})
            self._send(status, document, headers)

    class Server(ThreadingHTTPServer):
        request_queue_size = 256
        daemon_threads = True

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    script.address = f"http://127.0.0.1:{server.server_address[1]}/v1"
    try:
        yield script
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
