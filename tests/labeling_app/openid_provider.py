"""A small OpenID provider on this machine: discovery, authorization code with PKCE, signed ID tokens."""

from __future__ import annotations

import base64
import hashlib
import secrets
import threading
import time
from dataclasses import dataclass, field
from typing import Annotated, Any
from urllib.parse import urlencode

import uvicorn
from fastapi import FastAPI, Form, Request
from fastapi.responses import JSONResponse, RedirectResponse, Response
from joserfc import jwk, jwt

CLIENT, CLIENT_SECRET = "vidalign", "the secret of the client"


@dataclass
class OpenIDProvider:
    """A provider that agrees to every sign-in of `person` at once.

    Attributes:
        person: claims about who signs in.
        changes: claims of the ID token that are set otherwise, for tokens that are wrong; None leaves one out.
        redirect_uri: the one that is registered.
        refuses: it sends people back with an error.
    """

    url: str = ""
    redirect_uri: str = ""
    person: dict[str, Any] = field(default_factory=dict)
    changes: dict[str, Any] = field(default_factory=dict)
    only_user_info: bool = False
    refuses: bool = False
    key: Any = field(default_factory=lambda: jwk.RSAKey.generate_key(2048, {"kid": "one"}))
    signing_key: Any = None
    codes: dict[str, dict[str, str]] = field(default_factory=dict)

    def id_token(self, nonce: str) -> str:
        now = int(time.time())
        claims = {"iss": self.url, "aud": CLIENT, "exp": now + 300, "iat": now, "nonce": nonce}
        claims |= {"sub": self.person["sub"]} if self.only_user_info else self.person
        claims = {key: value for key, value in (claims | self.changes).items() if value is not None}
        return jwt.encode({"alg": "RS256", "kid": "one"}, claims, self.signing_key or self.key)

    def app(self) -> FastAPI:
        app = FastAPI()

        @app.get("/.well-known/openid-configuration")
        def describe() -> dict[str, Any]:
            ends = {"authorization_endpoint": "authorize", "token_endpoint": "token", "jwks_uri": "keys"}
            ends["userinfo_endpoint"] = "userinfo"
            return {"issuer": self.url, **{name: f"{self.url}/{path}" for name, path in ends.items()}}

        @app.get("/authorize")
        def authorize(request: Request) -> Response:
            asked = dict(request.query_params)
            right = (asked["client_id"], asked["redirect_uri"]) == (CLIENT, self.redirect_uri)
            if not right or asked["response_type"] != "code" or asked["code_challenge_method"] != "S256":
                return JSONResponse({"error": "invalid_request"}, 400)
            code = secrets.token_urlsafe(16)
            self.codes[code] = asked
            back = {"error": "access_denied"} if self.refuses else {"code": code}
            answer = urlencode({**back, "state": asked["state"], "iss": self.url})
            return RedirectResponse(f"{self.redirect_uri}?{answer}", 302)

        @app.post("/token")
        def token(
            request: Request,
            code: Annotated[str, Form()],
            code_verifier: Annotated[str, Form()],
            redirect_uri: Annotated[str, Form()],
        ) -> Response:
            given = base64.b64decode(request.headers["authorization"].removeprefix("Basic ")).decode()
            asked = self.codes.pop(code, None)
            digest = hashlib.sha256(code_verifier.encode()).digest()
            challenge = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
            if given != f"{CLIENT}:{CLIENT_SECRET}":
                return JSONResponse({"error": "invalid_client"}, 401)
            if asked is None or asked["code_challenge"] != challenge or redirect_uri != self.redirect_uri:
                return JSONResponse({"error": "invalid_grant"}, 400)
            id_token = self.id_token(asked["nonce"])
            return JSONResponse({"access_token": "access", "token_type": "Bearer", "id_token": id_token})

        @app.get("/userinfo")
        def user_info(request: Request) -> Response:
            if request.headers.get("authorization") != "Bearer access":
                return JSONResponse({"error": "invalid_token"}, 401)
            return JSONResponse(self.person)

        @app.get("/keys")
        def keys() -> dict[str, Any]:
            return {"keys": [self.key.as_dict(private=False)]}

        return app


def start_provider(provider: OpenIDProvider) -> uvicorn.Server:
    """Starts it on a free port and sets its `url`."""
    server = uvicorn.Server(uvicorn.Config(provider.app(), host="127.0.0.1", port=0, log_level="error"))
    threading.Thread(target=server.run, daemon=True).start()
    while not server.started:
        time.sleep(0.02)
    provider.url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    return server
