"""The ways to an OpenID provider and back."""

from __future__ import annotations

from fastapi import FastAPI, Request
from fastapi.responses import RedirectResponse, Response

from labeling_app.people.provider_accounts import NotAdmitted, sign_in
from labeling_app.web.access import Access, cookie_name
from labeling_app.web.login_pages import LoginPage, client_address, logged_in_response, too_many_attempts
from labeling_app.web.provider import ATTEMPT_SECONDS, CALLBACK, Provider, SignInFailed


def add_provider_pages(app: FastAPI, access: Access, provider: Provider, login_page: LoginPage) -> None:
    """Adds them. Both lie beside the login page, whose relative addresses they share."""
    store = access.store

    def refused(request: Request, error: SignInFailed | NotAdmitted) -> Response:
        address = client_address(request)
        access.addresses.failed(address)
        store.record("", "failed provider login", reason=error.reason, address=address)
        return login_page(request, 403, str(error))

    @app.get("/login-provider", include_in_schema=False)
    def leave(request: Request) -> Response:
        wait = access.addresses.wait(client_address(request))
        if wait > 0:
            return too_many_attempts(login_page, request, wait)
        try:
            url, browser = provider.begin(store)
        except SignInFailed as error:
            store.record("", "failed provider login", reason=error.reason)
            return login_page(request, 503, str(error))
        response = RedirectResponse(url, 303)
        response.set_cookie(
            f"{cookie_name(request)}_provider",
            browser,
            max_age=int(ATTEMPT_SECONDS),
            httponly=True,
            samesite="lax",
            secure=provider.secure,
        )
        return response

    @app.get(f"/{CALLBACK}", include_in_schema=False)
    def come_back(request: Request) -> Response:
        wait = access.addresses.wait(client_address(request))
        if wait > 0:
            return too_many_attempts(login_page, request, wait)
        browser = request.cookies.get(f"{cookie_name(request)}_provider", "")
        try:
            claims = provider.finish(store, browser, request.query_params)
            user = sign_in(store, provider.settings.issuer, claims, provider.settings.rules)
        except (SignInFailed, NotAdmitted) as error:
            return refused(request, error)
        access.addresses.succeeded(client_address(request))
        store.record(user.name, "provider login", address=client_address(request), role=user.role)
        response = logged_in_response(request, user, store.open_session(user), provider.secure or None)
        response.delete_cookie(f"{cookie_name(request)}_provider")
        return response
