"""A small OpenID provider on this machine, which checks what a real one checks."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

CLIENT, SECRET = "space-client", "space-secret"


class OpenIdProvider:
    """Signs in whoever `account` says, without asking.

    Attributes:
        account: claims about the person, with `sub` and `preferred_username`.
        address: of the provider.
        refuses: it sends people back with an error.
    """

    def __init__(self) -> None:
        self.account: dict[str, Any] = {}
        self.refuses = False
        self._asked: dict[str, dict[str, str]] = {}
        self._tokens: dict[str, dict[str, Any]] = {}
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                url = urlsplit(self.path)
                query = {key: value[0] for key, value in parse_qs(url.query).items()}
                provider._answer_get(self, url.path, query)

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"])).decode()
                provider._answer_token(self, {key: value[0] for key, value in parse_qs(body).items()})

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> OpenIdProvider:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _answer_get(self, request: BaseHTTPRequestHandler, path: str, query: dict[str, str]) -> None:
        if path == "/.well-known/openid-configuration":
            endpoints = ("authorization", "token", "userinfo")
            _send(request, 200, {f"{name}_endpoint": f"{self.address}/{name}" for name in endpoints})
        elif path == "/authorization":
            assert query["response_type"] == "code"
            assert query["client_id"] == CLIENT
            assert query["code_challenge_method"] == "S256"
            code = secrets.token_urlsafe(8)
            self._asked[code] = query | {"account": json.dumps(self.account)}
            back = {"error": "access_denied"} if self.refuses else {"code": code}
            request.send_response(302)
            request.send_header(
                "location", f"{query['redirect_uri']}?{urlencode(back | {'state': query['state']})}"
            )
            request.end_headers()
        else:
            token = request.headers.get("authorization", "").removeprefix("Bearer ")
            found = self._tokens.get(token)
            _send(request, 200 if found else 401, found or {})

    def _answer_token(self, request: BaseHTTPRequestHandler, form: dict[str, str]) -> None:
        client = base64.b64encode(f"{CLIENT}:{SECRET}".encode()).decode()
        asked = self._asked.pop(form.get("code", ""), None)  # a code is good for one time
        digest = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
        challenge = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
        if (
            asked is None
            or request.headers.get("authorization") != f"Basic {client}"
            or asked["code_challenge"] != challenge
            or asked["redirect_uri"] != form.get("redirect_uri")
        ):
            _send(request, 400, {"error": "invalid_grant"})
            return
        token = f"token-{form['code']}"
        self._tokens[token] = json.loads(asked["account"])
        _send(request, 200, {"access_token": token, "token_type": "bearer"})


def _send(request: BaseHTTPRequestHandler, status: int, content: dict[str, Any]) -> None:
    body = json.dumps(content).encode()
    request.send_response(status)
    request.send_header("content-type", "application/json")
    request.send_header("content-length", str(len(body)))
    request.end_headers()
    request.wfile.write(body)
