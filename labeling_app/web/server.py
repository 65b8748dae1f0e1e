"""The HTTP side: the application with its pages, its APIs and its error messages."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, RedirectResponse, Response
from fastapi.staticfiles import StaticFiles

from generator.output import InputError
from labeling_app.people.languages import DEFAULT, translated, user_language
from labeling_app.store.computed import StillComputing
from labeling_app.store.store import Store
from labeling_app.tasks.lease import AlreadyAnswered, LeaseExpired, Refused
from labeling_app.web.access import Access, NotAllowed, NotLoggedIn
from labeling_app.web.annotator_api import annotator_api
from labeling_app.web.demonstration_api import demonstration_api
from labeling_app.web.guard import DEMONSTRATE, LEAD, PAGE, Guard
from labeling_app.web.invitation_pages import add_invitation_pages
from labeling_app.web.lead_api import lead_api
from labeling_app.web.login_pages import STATIC, add_login_pages
from labeling_app.web.login_throttle import LoginThrottle
from labeling_app.web.media_api import media_api
from labeling_app.web.page_root import PageRoot
from labeling_app.web.provider import Provider
from labeling_app.web.provider_pages import add_provider_pages
from labeling_app.web.reader_api import reader_api
from labeling_app.web.tasks_api import tasks_api


def create_app(
    store: Store,
    campaign: str | None = None,
    candidates: Path | None = None,
    provider: Provider | None = None,
    passwords: bool = True,
    framed_by: str = "'none'",
) -> FastAPI:
    """The whole labeling app on a store.

    Args:
        campaign: give out only tasks of this campaign; by default of all, oldest first.
        candidates: folder whose subfolders of videos leads may import from their page; by default none.
        provider: OpenID provider by which people may sign in.
        passwords: people may log in by name and password, and make accounts by invitations.
        framed_by: sites that may show the pages within theirs, as in `frame-ancestors` of a content security policy.

    Raises:
        InputError: there is no such campaign.
    """
    from labeling_app.web.pages import mount_page, preloads

    only = _followed(store, campaign)
    access = Access(store, LoginThrottle(longest_wait=60.0), LoginThrottle(free_attempts=30))
    app = FastAPI(title="vidalign labeling", docs_url=None, redoc_url=None)
    app.state.access = access
    scripts = {PAGE: "ranking/page", DEMONSTRATE: "demonstrate", LEAD: "lead"}
    app.add_middleware(PageRoot, paths={f"{page}/": preloads(script) for page, script in scripts.items()})
    app.add_middleware(Guard, access=access, framed_by=framed_by)
    _add_error_messages(app)
    _add_home(app)
    login_page = add_login_pages(app, access, provider.settings.name if provider else None, passwords)
    if provider is not None:
        add_provider_pages(app, access, provider, login_page)
    if passwords:
        add_invitation_pages(app, access)
    app.include_router(annotator_api(access, only))
    app.include_router(media_api(store))
    app.include_router(demonstration_api(store, only))
    app.include_router(lead_api(store, candidates))
    app.include_router(reader_api(store))
    app.include_router(tasks_api(store))
    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    mount_page(app, PAGE, "Rank videos", scripts[PAGE], access.user)
    mount_page(app, DEMONSTRATE, "Demonstrate prompts", scripts[DEMONSTRATE], access.user)
    return mount_page(app, LEAD, "Lead", scripts[LEAD], access.lead)


def _followed(store: Store, campaign: str | None) -> Callable[[], str | None]:
    """Gives the campaign's name, also after it was renamed."""
    if campaign is None:
        return lambda: None
    number = store.campaign(campaign).id

    def name() -> str:
        found = next((row.name for row in store.campaigns() if row.id == number), None)
        if found is None:
            raise InputError("The campaign of this server was deleted: ask the lead.")
        return found

    return name


def _add_error_messages(app: FastAPI) -> None:
    statuses: dict[type[Exception], int] = {
        NotLoggedIn: 401,
        NotAllowed: 403,
        Refused: 403,
        InputError: 400,
        AlreadyAnswered: 409,
        LeaseExpired: 410,
    }

    def message(request: Request, error: Exception) -> Response:
        status = next(statuses[kind] for kind in type(error).__mro__ if kind in statuses)
        user = request.scope.get("state", {}).get("user")
        # The lead's page is in English.
        of_lead = request.url.path.startswith("/api/lead/")
        language = DEFAULT if of_lead else user_language(user, request.headers.get("accept-language", ""))
        return JSONResponse({"message": translated(str(error), language)}, status)

    def illegal(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return JSONResponse({"message": _what_is_wrong(error)}, 422)

    def computing(request: Request, error: Exception) -> Response:
        assert isinstance(error, StillComputing)
        told = {"computing": error.share, "message": str(error)}
        return JSONResponse(told, 202, headers={"retry-after": "1"})

    app.add_exception_handler(StillComputing, computing)
    for kind in statuses:
        app.add_exception_handler(kind, message)
    app.add_exception_handler(RequestValidationError, illegal)


def _add_home(app: FastAPI) -> None:
    @app.get("/", include_in_schema=False)
    def home() -> Response:
        return RedirectResponse(f"{PAGE[1:]}/")

    @app.get("/manifest.json", include_in_schema=False)
    def manifest() -> Response:
        # Gradio's page asks for one.
        return JSONResponse({"name": "Rank videos", "start_url": f"{PAGE}/", "display": "browser"})

    @app.get("/favicon.ico", include_in_schema=False)
    def icon() -> Response:
        # Browsers ask for one.
        return Response(status_code=204)


def _what_is_wrong(error: RequestValidationError) -> str:
    found = error.errors()[0]
    place = ".".join(str(part) for part in found["loc"][1:]) or str(found["loc"][0])
    problem = found["msg"][:1].lower() + found["msg"][1:]
    return f"The request is wrong at {place[:60]!r}, {problem}: correct it and send it again."
