"""The HTTP side: login, the API that the ranking page uses, and videos by opaque id.

Whatever the page may claim is checked here: that the user is logged in, that the task is assigned to this
user and still held, that the ranks are legal. No file name, path or model name leaves this module.
"""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from fastapi import Body, FastAPI, Form, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, RedirectResponse, Response
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel, ConfigDict, Field, StrictInt
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from generator.output import InputError
from labeling_app import assignment
from labeling_app.access import COOKIE, LEADS, Annotator, Door, NotAllowed, NotLoggedIn, Workers
from labeling_app.assignment import MAXIMUM_FLAG, MAXIMUM_TEXT, AlreadyAnswered, LeaseExpired, Refused
from labeling_app.browser_video import frame_times
from labeling_app.campaigns import guidelines
from labeling_app.demonstration_api import demonstration_api
from labeling_app.lead_api import lead_api
from labeling_app.login import LoginThrottle
from labeling_app.models import User
from labeling_app.playable import shown_file
from labeling_app.store import MAXIMUM_VIDEOS, Store, is_storable
from labeling_app.transcoding import MAXIMUM_BYTES

STATIC = Path(__file__).parent / "static"
PAGE, DEMONSTRATE, LEAD = "/rank", "/demonstrate", "/lead"
LARGEST_BODY = 1_000_000
UPLOADS = "/api/demonstrations/uploads"
CONTENT_SECURITY_POLICY = (
    # Gradio compiles its templates in the browser, which needs 'unsafe-eval'.
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; font-src 'self' data:; connect-src 'self'; object-src 'none'; base-uri 'self'; "
    "form-action 'self'; frame-ancestors 'none'"
)


GRADIO_FILES = re.compile(r"/+(gradio_api/+)?(file|proxy)=")


class Answer(BaseModel):
    """Ranks in the order shown, for each dimension of the campaign; 1 is best, equal ranks are ties."""

    model_config = ConfigDict(extra="forbid")
    ranks: dict[str, Annotated[list[StrictInt], Field(max_length=MAXIMUM_VIDEOS)]]
    seconds: float = Field(ge=0, le=1e6)
    comment: str = Field(default="", max_length=MAXIMUM_TEXT)
    flag: str = Field(default="", max_length=MAXIMUM_FLAG)


class SkipRequest(BaseModel):
    """Why a task cannot be ranked."""

    model_config = ConfigDict(extra="forbid")
    reason: str = Field(min_length=1, max_length=MAXIMUM_TEXT)
    seconds: float = Field(ge=0, le=1e6)
    comment: str = Field(default="", max_length=MAXIMUM_TEXT)


def create_app(store: Store, campaign: str | None = None, candidates: Path | None = None) -> FastAPI:
    """The whole labeling app on a store.

    Args:
        campaign: give out only tasks of this campaign; by default of all, oldest first.
        candidates: folder whose subfolders of videos leads may import from their page; by default none.

    Raises:
        InputError: there is no such campaign.
    """
    from labeling_app.app import mount_page

    if campaign is not None:
        store.campaign(campaign)
    door = Door(store, LoginThrottle(longest_wait=60.0), LoginThrottle(free_attempts=30))
    app = FastAPI(title="vidalign labeling", docs_url=None, redoc_url=None)
    app.state.door = door
    app.add_middleware(Guard, store=store)
    _add_error_messages(app)
    _add_login(app, door)
    _add_api(app, door, campaign)
    app.include_router(demonstration_api(store, campaign))
    app.include_router(lead_api(store, candidates))
    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    mount_page(app, PAGE, "Rank videos", "ranking", door.user)
    mount_page(app, DEMONSTRATE, "Demonstrate prompts", "demonstrate", door.user)
    return mount_page(app, LEAD, "Lead", "lead", door.lead)


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
        return JSONResponse({"message": str(error)}, statuses[type(error)])

    def illegal(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return JSONResponse({"message": _what_is_wrong(error)}, 422)

    for kind in statuses:
        app.add_exception_handler(kind, message)
    app.add_exception_handler(RequestValidationError, illegal)


def _what_is_wrong(error: RequestValidationError) -> str:
    found = error.errors()[0]
    place = ".".join(str(part) for part in found["loc"][1:]) or str(found["loc"][0])
    problem = found["msg"][:1].lower() + found["msg"][1:]
    return f"The request is wrong at {place[:60]!r}, {problem}: correct it and send it again."


def _add_login(app: FastAPI, door: Door) -> None:
    template = (STATIC / "login.html").read_text(encoding="utf-8")

    def login_page(message: str = "", status: int = 200, name: str = "") -> Response:
        page = template.replace("<!-- message -->", html.escape(message))
        if name:  # the name is kept, and the cursor waits for the password
            page = page.replace(" required autofocus>", f' value="{html.escape(name)}" required>')
            page = page.replace(' type="password"', ' type="password" autofocus')
        return HTMLResponse(page, status)

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
        wait = door.wait(name, address)
        if wait > 0:
            response = login_page(f"Too many attempts: wait {wait:.0f} seconds and try again.", 429, name)
            response.headers["retry-after"] = f"{wait:.0f}"
            return response
        token = door.log_in(name, password, address)
        if token is None:
            return login_page("Name or password is wrong.", 401, name)
        response = RedirectResponse(f"{PAGE[1:]}/", 303)
        response.set_cookie(
            COOKIE,
            token,
            max_age=7 * 86400,
            httponly=True,
            samesite="lax",
            secure=request.url.scheme == "https",
        )
        return response

    @app.post("/logout", include_in_schema=False)
    def log_out(request: Request) -> Response:
        token = request.cookies.get(COOKIE)
        if token:
            door.store.close_session(token)
        response = RedirectResponse("login", 303)
        response.delete_cookie(COOKIE)
        return response


def _add_api(app: FastAPI, door: Door, campaign: str | None) -> None:
    store = door.store
    workers = Workers(door)

    @app.get("/api/next")
    async def next_task(request: Request) -> dict[str, Any]:
        """The task that the user works on, or a new one; `task` is null when nothing is left."""
        return await workers.run(request, lambda user: _next(store, user, campaign))

    @app.get("/api/guidelines")
    def read_guidelines(user: Annotator, campaign: str) -> dict[str, Any]:
        """The newest guidelines of a campaign; version 0 where there are none."""
        found = guidelines(store, campaign)
        return {"version": found.version if found else 0, "text": found.text if found else ""}

    @app.post("/api/assignments/{assignment_id}/judgement")
    async def judge(
        request: Request, assignment_id: int, answer: Annotated[Answer, Body()]
    ) -> dict[str, Any]:
        """Stores the ranks of the videos in the order shown."""

        def store_answer(user: User) -> dict[str, Any]:
            given = (answer.ranks, answer.seconds, answer.comment, answer.flag)
            return {"version": assignment.submit(store, user, assignment_id, *given)}

        return await workers.run(request, store_answer)

    @app.post("/api/assignments/{assignment_id}/revision")
    def revise(user: Annotator, assignment_id: int, answer: Annotated[Answer, Body()]) -> dict[str, Any]:
        """Stores a changed answer as the next version; the earlier ones stay."""
        version = assignment.revise(
            store, user, assignment_id, answer.ranks, answer.seconds, answer.comment, answer.flag
        )
        return {"version": version}

    @app.get("/api/answers")
    def answers(user: Annotator) -> dict[str, Any]:
        """The user's latest answers that may still be changed, the newest first."""
        return {
            "answers": [
                {
                    **_task_for_page(answered.task),
                    "ranks": answered.ranks,
                    "seconds": answered.seconds,
                    "comment": answered.comment,
                    "flag": answered.flag,
                    "answered_at": answered.answered_at,
                }
                for answered in assignment.recent_answers(store, user)
            ]
        }

    @app.post("/api/assignments/{assignment_id}/skip")
    def skip(user: Annotator, assignment_id: int, answer: Annotated[SkipRequest, Body()]) -> dict[str, Any]:
        """Gives the task back for good, with a reason."""
        assignment.skip(store, user, assignment_id, answer.reason, answer.seconds, answer.comment)
        return {}

    @app.post("/api/assignments/{assignment_id}/lease")
    def renew(user: Annotator, assignment_id: int) -> dict[str, Any]:
        """Keeps the task for another lease."""
        return {"expires_at": assignment.renew(store, user, assignment_id)}

    @app.get("/api/media/{media_id}/times")
    def times(user: Annotator, media_id: str) -> Response:
        """Seconds at which each frame of a video of variable rate begins; null where the rate is steady."""
        found = assignment.visible_media(store, user, media_id) if is_storable(media_id) else None
        if found is None or not Path(found.path).is_file():
            return JSONResponse({"message": "There is no such video among your tasks."}, 404)
        return JSONResponse({"times": frame_times(found.path, found.sha256)})

    @app.get("/media/{media_id}")
    def media(user: Annotator, media_id: str) -> Response:
        """A video of a task that the user was given; Range requests are answered."""
        found = assignment.visible_media(store, user, media_id) if is_storable(media_id) else None
        if found is None or not Path(found.path).is_file():
            return JSONResponse({"message": "There is no such video among your tasks."}, 404)
        return FileResponse(
            shown_file(store.uploads, found),
            media_type=found.content_type,
            headers={
                "cache-control": "private, max-age=3600",
                # The file's own date could tell which model made it.
                "last-modified": "Thu, 01 Jan 1970 00:00:00 GMT",
                # Not the file's own either: a repeat would have the same.
                "etag": f'"{media_id}"',
            },
        )


def _next(store: Store, user: User, campaign: str | None) -> dict[str, Any]:
    task = assignment.next_task(store, user, campaign)
    progress = assignment.progress(store, user, campaign)
    return {
        "user": user.name,
        "lead": user.role in LEADS,
        "reason": "" if task else assignment.reason_for_nothing(store, user, campaign),
        "lease_seconds": store.lease_seconds,
        "progress": {"done": progress.done, "left": progress.left},
        "task": _task_for_page(task) if task else None,
    }


def _task_for_page(task: assignment.AssignedTask) -> dict[str, Any]:
    return {
        "assignment": task.assignment,
        "campaign": task.campaign,
        "prompt": task.prompt,
        "dimensions": list(task.dimensions),
        "videos": [
            {
                "id": assignment.shown_id(task.assignment, place),
                "fps": video.fps,
                "width": video.width,
                "height": video.height,
            }
            for place, video in enumerate(task.videos)
        ],
        "expires_at": task.expires_at,
    }


class Guard:
    """Around everything: security headers, no foreign or huge posts, the login page for who is not logged in.

    The mounted Gradio page only shows; it has no events and no files. So nothing but reading reaches it.
    """

    def __init__(self, app: ASGIApp, store: Store) -> None:
        self.app = app
        self.store = store

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["x-content-type-options"] = "nosniff"
                headers["content-security-policy"] = CONTENT_SECURITY_POLICY
                headers["referrer-policy"] = "same-origin"
                headers.setdefault("cache-control", "no-store")
            await send(message)

        refusal = self._refusal(scope)
        await (refusal or self.app)(scope, receive, send_guarded)

    def _refusal(self, scope: Scope) -> Response | None:
        headers, path, method = Headers(scope=scope), scope["path"], scope["method"]
        if method not in ("GET", "HEAD"):
            origin = headers.get("origin")
            foreign = headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none")
            if foreign or (origin is not None and urlsplit(origin).netloc != headers.get("host")):
                return JSONResponse({"message": "Requests from other sites are refused."}, 403)
            length = headers.get("content-length", "0" if "transfer-encoding" not in headers else "")
            largest = MAXIMUM_BYTES if path == UPLOADS else LARGEST_BODY
            if not length.isdecimal() or int(length) > largest:
                return JSONResponse({"message": "The request is too large."}, 413)
        for page in (PAGE, DEMONSTRATE, LEAD):
            if path != page and not path.startswith(f"{page}/"):
                continue
            inner = path.removeprefix(page)
            if method not in ("GET", "HEAD") or GRADIO_FILES.match(inner):
                return JSONResponse({"message": "There is nothing here."}, 404)
            if inner in ("", "/"):
                user = self._user(scope)
                if user is None:
                    return RedirectResponse("/login" if inner == "" else "../login", 303)
                if page == LEAD and user.role not in LEADS:
                    return RedirectResponse(PAGE if inner == "" else f"..{PAGE}/", 303)
        return None

    def _user(self, scope: Scope) -> User | None:
        token = Request(scope).cookies.get(COOKIE)
        return self.store.session_user(token) if token else None
