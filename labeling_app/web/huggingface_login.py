"""Signing in with an account of Hugging Face instead of a password, for the app in a Space.

Authorization code with PKCE ([OpenID Connect Core 1.0](https://openid.net/specs/openid-connect-core-1_0.html),
RFC 7636). Who somebody is comes from the provider's own address for that, over the connection that this server opened,
so no token of the browser is believed. Gradio's `LoginButton` would put its own session beside that of the app, which
checks role, task and lease by the user of the store.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import html
import secrets
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import httpx
from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from generator.output import InputError
from labeling_app.store.identities import user_of_identity
from labeling_app.web.access import Access
from labeling_app.web.login_pages import STATIC, add_logout, logged_in_response

CALLBACK = "/login/callback"
COOKIE = "vidalign_sign_in"
COOKIE_SECONDS = 600
TIMEOUT_SECONDS = 15.0


@dataclass(frozen=True)
class HuggingFaceLogin:
    """Settings of the sign-in, and who may sign in as what.

    Attributes:
        provider: address of the OpenID provider, `https://huggingface.co`.
        client_id, client_secret: of this app at the provider.
        address: address of this app as browsers know it, such as `https://me-labels.hf.space`.
        leads: names of accounts that are leads.
        annotators: names of the only other accounts that may sign in; None for all.
        scopes: what is asked for.
    """

    provider: str
    client_id: str
    client_secret: str
    address: str
    leads: Collection[str] = ()
    annotators: Collection[str] | None = None
    scopes: str = "openid profile"

    def __call__(self, app: FastAPI, access: Access) -> None:
        """Adds the page on which people sign in, and the ways in and out."""
        page = (STATIC / "sign-in.html").read_text(encoding="utf-8")

        def sign_in_page(message: str = "", status: int = 200, root: str = "") -> Response:
            shown = page.replace("<!-- root -->", root).replace("<!-- message -->", html.escape(message))
            return HTMLResponse(shown, status)

        @app.get("/login", include_in_schema=False)
        def show_sign_in() -> Response:
            return sign_in_page()

        @app.get("/login/huggingface", include_in_schema=False)
        def begin() -> Response:
            state, verifier = secrets.token_urlsafe(32), secrets.token_urlsafe(48)
            try:
                response = RedirectResponse(self.authorization_url(state, verifier), 303)
            except (httpx.HTTPError, ValueError, KeyError):
                return sign_in_page("Hugging Face cannot be reached: try again in a moment.", 502, "../")
            self._set_cookie(response, f"{state}.{verifier}", COOKIE_SECONDS)
            return response

        @app.get(CALLBACK, include_in_schema=False)
        def callback(request: Request, code: str = "", state: str = "", error: str = "") -> Response:
            expected, _, verifier = request.cookies.get(COOKIE, "").partition(".")
            if not verifier or not hmac.compare_digest(state.encode(), expected.encode()):
                message = "This sign-in was begun in another browser, or too long ago: try again."
                return sign_in_page(message, 400, "../")
            if error or not code:
                return sign_in_page("You were not signed in at Hugging Face: try again.", 403, "../")
            try:
                account = self.account(code, verifier)
                name, subject = str(account["preferred_username"]), str(account["sub"])
            except (httpx.HTTPError, ValueError, KeyError, TypeError):
                return sign_in_page("Hugging Face did not say who you are: try again.", 502, "../")
            address = request.client.host if request.client else ""
            role = self.role(name)
            if role is None:
                access.store.record(name, "failed login", address=address)
                return sign_in_page(f"{name} is not invited to this Space: ask its owner.", 403, "../")
            try:
                user = user_of_identity(access.store, self.provider, subject, name, role)
            except InputError as problem:
                return sign_in_page(str(problem), 403, "../")
            access.store.record(user.name, "login", address=address)
            response = logged_in_response(
                request, user, access.store.open_session(user), self.address.startswith("https://")
            )
            self._set_cookie(response, "", 0)
            return response

        add_logout(app, access)

    def role(self, name: str) -> str | None:
        """Role of an account of this name; None where it may not sign in. Case does not matter, as at Hugging Face."""
        if name.casefold() in {each.casefold() for each in self.leads}:
            return "lead"
        if self.annotators is not None and name.casefold() not in {
            each.casefold() for each in self.annotators
        }:
            return None
        return "annotator"

    def authorization_url(self, state: str, verifier: str) -> str:
        """Address at the provider to which the browser is sent.

        Raises:
            httpx.HTTPError, ValueError, KeyError: the provider does not say where that is.
        """
        digest = hashlib.sha256(verifier.encode()).digest()
        query = {
            "response_type": "code",
            "client_id": self.client_id,
            "redirect_uri": self.address + CALLBACK,
            "scope": self.scopes,
            "state": state,
            "code_challenge": base64.urlsafe_b64encode(digest).rstrip(b"=").decode(),
            "code_challenge_method": "S256",
        }
        with httpx.Client(timeout=TIMEOUT_SECONDS) as client:
            return f"{self._endpoints(client)['authorization_endpoint']}?{urlencode(query)}"

    def account(self, code: str, verifier: str) -> dict[str, Any]:
        """Claims about the account that the browser has come back with.

        Raises:
            httpx.HTTPError, ValueError, KeyError: the provider refuses the code or cannot be reached.
        """
        with httpx.Client(timeout=TIMEOUT_SECONDS) as client:
            endpoints = self._endpoints(client)
            form = {
                "grant_type": "authorization_code",
                "code": code,
                "redirect_uri": self.address + CALLBACK,
                "client_id": self.client_id,
                "code_verifier": verifier,
            }
            answer = client.post(
                endpoints["token_endpoint"], data=form, auth=(self.client_id, self.client_secret)
            )
            token = answer.raise_for_status().json()["access_token"]
            answer = client.get(endpoints["userinfo_endpoint"], headers={"authorization": f"Bearer {token}"})
            return dict(answer.raise_for_status().json())

    def _endpoints(self, client: httpx.Client) -> dict[str, Any]:
        answer = client.get(f"{self.provider}/.well-known/openid-configuration")
        return dict(answer.raise_for_status().json())

    def _set_cookie(self, response: Response, value: str, seconds: int) -> None:
        secure = self.address.startswith("https://")
        response.set_cookie(COOKIE, value, max_age=seconds, httponly=True, samesite="lax", secure=secure)
