"""Logging in and out."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Annotated

from fastapi import FastAPI, Form, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from generator.output import is_storable
from labeling_app.store.tables import User
from labeling_app.web.access import LEADS, Access, cookie_name
from labeling_app.web.guard import LEAD, PAGE

STATIC = Path(__file__).parents[1] / "static"
"""Folder of the pages' files."""


def add_login_pages(app: FastAPI, access: Access) -> None:
    """Adds the page on which people log in, and the ways in and out."""
    template = (STATIC / "login.html").read_text(encoding="utf-8")

    def login_page(message: str = "", status: int = 200, name: str = "") -> Response:
        page = template.replace("<!-- message -->", html.escape(message))
        if name:  # the name is kept, and the cursor waits for the password
            page = page.replace(" required autofocus>", f' value="{html.escape(name)}" required>')
            page = page.replace(' type="password"', ' type="password" autofocus')
        return HTMLResponse(page, status)

    @app.get("/login", include_in_schema=False)
    def show_login() -> Response:
        return login_page()

    @app.post("/login", include_in_schema=False)
    def log_in(
        request: Request,
        name: Annotated[str, Form(max_length=200)],
        password: Annotated[str, Form(max_length=2000)],
    ) -> Response:
        address = request.client.host if request.client else ""
        if not is_storable(name):
            return login_page("Name or password is wrong.", 401)
        wait = access.wait(name, address)
        if wait > 0:
            response = login_page(f"Too many attempts: wait {wait:.0f} seconds and try again.", 429, name)
            response.headers["retry-after"] = f"{wait:.0f}"
            return response
        entered = access.log_in(name, password, address)
        if entered is None:
            return login_page("Name or password is wrong.", 401, name)
        session, user = entered
        return logged_in_response(request, user, session, request.url.scheme == "https")

    add_logout(app, access)


def logged_in_response(request: Request, user: User, session: str, secure: bool) -> Response:
    """Sends a browser with the cookie of its new session to the first page of its user.

    Args:
        secure: browsers send the cookie over HTTPS only.
    """
    response = RedirectResponse(f"{LEAD if user.role in LEADS else PAGE}/", 303)
    response.set_cookie(
        cookie_name(request), session, max_age=7 * 86400, httponly=True, samesite="lax", secure=secure
    )
    return response


def add_logout(app: FastAPI, access: Access) -> None:
    """Adds the way out."""

    @app.post("/logout", include_in_schema=False)
    def log_out(request: Request) -> Response:
        token = request.cookies.get(cookie_name(request))
        if token:
            access.store.close_session(token)
        response = RedirectResponse("login", 303)
        response.delete_cookie(cookie_name(request))
        return response
