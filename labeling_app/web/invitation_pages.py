"""The page on which invited people choose their name and password."""

from __future__ import annotations

import html
from typing import Annotated

from fastapi import FastAPI, Form, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from generator.output import InputError
from labeling_app.people.invitations import NotInvited, accept, require_valid
from labeling_app.people.languages import translated, translated_page
from labeling_app.web.access import LEADS, Access
from labeling_app.web.guard import LEAD, PAGE
from labeling_app.web.login_pages import (
    END_OF_FORM,
    FORM,
    STATIC,
    client_address,
    keep_session,
    page_language,
    too_many_attempts,
)


def add_invitation_pages(app: FastAPI, access: Access) -> None:
    """Adds the page of an invitation, and the way to make an account by it."""
    template = (STATIC / "invitation.html").read_text(encoding="utf-8")

    def invitation_page(
        request: Request, status: int, message: str = "", token: str = "", name: str = ""
    ) -> Response:
        language = page_language(request)
        page = translated_page(template, language)
        if not token:
            page = page[: page.index(FORM)] + page[page.index(END_OF_FORM) :]
        for place, text in (("message", translated(message, language)), ("token", token), ("name", name)):
            page = page.replace(f"<!-- {place} -->", html.escape(text))
        return HTMLResponse(page, status)

    @app.get("/invitation", include_in_schema=False)
    def show(request: Request, token: str = "") -> Response:
        wait = access.addresses.wait(client_address(request))
        if wait > 0:
            return too_many_attempts(invitation_page, request, wait)
        try:
            require_valid(access.store, token)
        except NotInvited as error:
            access.addresses.failed(client_address(request))
            return invitation_page(request, 403, str(error))
        return invitation_page(request, 200, token=token)

    @app.post("/invitation", include_in_schema=False)
    def make_account(
        request: Request,
        token: Annotated[str, Form(max_length=200)],
        name: Annotated[str, Form(max_length=200)],
        password: Annotated[str, Form(max_length=2000)],
    ) -> Response:
        address = client_address(request)
        wait = access.addresses.wait(address)
        if wait > 0:
            return too_many_attempts(invitation_page, request, wait)
        # Counted as a failed login is: neither tokens nor names that are taken can be tried at will.
        access.addresses.failed(address)
        try:
            user = accept(access.store, token, name, password)
        except NotInvited as error:
            access.store.record("", "refused invitation", address=address)
            return invitation_page(request, 403, str(error))
        except InputError as error:
            return invitation_page(request, 400, str(error), token, name)
        access.addresses.succeeded(address)
        access.store.record(user.name, "accept invitation", user=user.name, role=user.role, address=address)
        response = RedirectResponse(f"{LEAD if user.role in LEADS else PAGE}/", 303)
        return keep_session(response, request, access.store.open_session(user))
