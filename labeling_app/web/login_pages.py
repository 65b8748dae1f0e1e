"""Logging in and out."""

from __future__ import annotations

import html
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

from fastapi import FastAPI, Form, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from generator.output import is_storable
from labeling_app.people.languages import preferred_language, say, translated, translated_page
from labeling_app.store.tables import User
from labeling_app.web.access import LEADS, Access, cookie_name
from labeling_app.web.guard import LEAD, PAGE

STATIC = Path(__file__).parents[1] / "static"
"""Folder of the pages' files."""
SESSION_SECONDS = 7 * 86400
FORM, END_OF_FORM = "<!-- form -->", "<!-- end of form -->"
"""Around the part of a page that is left out where nothing can be sent."""


LoginPage = Callable[..., Response]
"""Makes the login page from the request, a status, a message and the name that was typed."""


def add_login_pages(
    app: FastAPI, access: Access, provider: str | None = None, passwords: bool = True
) -> LoginPage:
    """Adds the page on which people log in, and the ways in and out; returns what makes the page.

    Args:
        provider: name of the OpenID provider by which people may sign in.
        passwords: people may log in by name and password.
    """
    template = (STATIC / "login.html").read_text(encoding="utf-8")

    def login_page(request: Request, status: int = 200, message: str = "", name: str = "") -> Response:
        language = page_language(request)
        page = translated_page(template, language)
        page = page.replace("<!-- message -->", html.escape(translated(message, language)))
        if not passwords:
            page = page[: page.index(FORM)] + page[page.index(END_OF_FORM) :]
        link = "" if provider is None else _provider_link(provider, language, alone=not passwords)
        page = page.replace("<!-- provider -->", link)
        if name:  # the name is kept, and the cursor waits for the password
            page = page.replace(" required autofocus>", f' value="{html.escape(name)}" required>')
            page = page.replace(' type="password"', ' type="password" autofocus')
        return HTMLResponse(page, status)

    @app.get("/login", include_in_schema=False)
    def show_login(request: Request) -> Response:
        return login_page(request)

    if passwords:
        _add_password_login(app, access, login_page)
    _add_logout(app, access)
    return login_page


def _provider_link(provider: str, language: str, alone: bool) -> str:
    """The link to the provider; alone on the page, it says what it is for."""
    link = html.escape(say(language, "login.provider", name=provider))
    if not alone:
        return f'<p><a class="provider" href="login-provider">{link}</a></p>'
    words = html.escape(say(language, "login.provider_words", name=provider))
    return f'<p>{words}</p><a class="provider primary" href="login-provider">{link}</a>'


def _add_password_login(app: FastAPI, access: Access, login_page: LoginPage) -> None:
    @app.post("/login", include_in_schema=False)
    def log_in(
        request: Request,
        name: Annotated[str, Form(max_length=200)],
        password: Annotated[str, Form(max_length=2000)],
    ) -> Response:
        address = client_address(request)
        wrong = say(page_language(request), "login.wrong")
        if not is_storable(name):
            return login_page(request, 401, wrong)
        wait = access.wait(name, address)
        if wait > 0:
            return too_many_attempts(login_page, request, wait, name=name)
        entered = access.log_in(name, password, address)
        if entered is None:
            return login_page(request, 401, wrong, name)
        session, user = entered
        return logged_in_response(request, user, session)


def logged_in_response(request: Request, user: User, session: str, secure: bool | None = None) -> Response:
    """Sends a browser with the cookie of its new session (`keep_session`) to the first page of its user."""
    response = RedirectResponse(f"{LEAD if user.role in LEADS else PAGE}/", 303)
    return keep_session(response, request, session, secure)


def _add_logout(app: FastAPI, access: Access) -> None:
    @app.post("/logout", include_in_schema=False)
    def log_out(request: Request) -> Response:
        token = request.cookies.get(cookie_name(request))
        if token:
            access.store.close_session(token)
        response = RedirectResponse("login", 303)
        response.delete_cookie(cookie_name(request))
        return response


def page_language(request: Request) -> str:
    """The language of a page for somebody who is not logged in."""
    return preferred_language(request.headers.get("accept-language", ""))


def client_address(request: Request) -> str:
    """The address that a request comes from; empty where it is not known."""
    return request.client.host if request.client else ""


def too_many_attempts(
    page: Callable[..., Response], request: Request, wait: float, **values: str
) -> Response:
    """A page that says how many seconds to wait."""
    message = say(page_language(request), "login.wait", seconds=f"{wait:.0f}")
    response = page(request, 429, message, **values)
    response.headers["retry-after"] = f"{wait:.0f}"
    return response


def keep_session(response: Response, request: Request, session: str, secure: bool | None = None) -> Response:
    """Puts the secret of a session into the browser's cookie.

    Args:
        secure: browsers send the cookie over HTTPS only; by default where the request came over it.
    """
    response.set_cookie(
        cookie_name(request),
        session,
        max_age=SESSION_SECONDS,
        httponly=True,
        samesite="lax",
        secure=request.url.scheme == "https" if secure is None else secure,
    )
    return response
