"""The HTTP side: login, the API that the ranking page uses, and videos by opaque id.

Whatever the page may claim is checked here: that the user is logged in, that the task is assigned to this
user and still held, that the ranks are legal. No file name, path or model name leaves this module.
"""

from __future__ import annotations

import html
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import Body, FastAPI, Form, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, RedirectResponse, Response
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel, ConfigDict, Field, StrictInt

from generator.output import InputError, is_storable
from labeling_app.browser_video import frame_times
from labeling_app.store.contents import is_unchanged
from labeling_app.store.new_tasks import MAXIMUM_VIDEOS
from labeling_app.store.playable import shown_file
from labeling_app.store.store import Store
from labeling_app.store.tables import User
from labeling_app.tasks import guideline_reading
from labeling_app.tasks import next_task as assignment
from labeling_app.tasks.next_task import (
    MAXIMUM_FLAG,
    MAXIMUM_ID,
    MAXIMUM_TEXT,
    AlreadyAnswered,
    LeaseExpired,
    Refused,
)
from labeling_app.web.access import LEADS, Annotator, Door, NotAllowed, NotLoggedIn, Workers, cookie_name
from labeling_app.web.demonstration_api import demonstration_api
from labeling_app.web.guard import DEMONSTRATE, LEAD, PAGE, Guard
from labeling_app.web.lead_api import lead_api
from labeling_app.web.login_throttle import LoginThrottle
from labeling_app.web.page_root import PageRoot

STATIC = Path(__file__).parents[1] / "static"


RemarkVideos = dict[
    Literal["flag", "comment", "skip_reason"], Annotated[list[StrictInt], Field(max_length=MAXIMUM_VIDEOS)]
]
"""Places shown (from 0) of the videos that each remark is about; of one that is left out, those that it names."""


class Answer(BaseModel):
    """Ranks in the order shown, for each dimension of the campaign; 1 is best, equal ranks are ties."""

    model_config = ConfigDict(extra="forbid")
    ranks: dict[str, Annotated[list[StrictInt], Field(max_length=MAXIMUM_VIDEOS)]]
    seconds: float = Field(ge=0, le=1e6)
    comment: str = Field(default="", max_length=MAXIMUM_TEXT)
    flag: str = Field(default="", max_length=MAXIMUM_FLAG)
    remark_videos: RemarkVideos | None = None


class SkipRequest(BaseModel):
    """Why a task cannot be ranked."""

    model_config = ConfigDict(extra="forbid")
    reason: str = Field(min_length=1, max_length=MAXIMUM_TEXT)
    seconds: float = Field(ge=0, le=1e6)
    comment: str = Field(default="", max_length=MAXIMUM_TEXT)
    remark_videos: RemarkVideos | None = None


class ReadVersion(BaseModel):
    """The version of the guidelines that was read."""

    model_config = ConfigDict(extra="forbid")
    version: int = Field(ge=1)


def create_app(store: Store, campaign: str | None = None, candidates: Path | None = None) -> FastAPI:
    """The whole labeling app on a store.

    Args:
        campaign: give out only tasks of this campaign; by default of all, oldest first.
        candidates: folder whose subfolders of videos leads may import from their page; by default none.

    Raises:
        InputError: there is no such campaign.
    """
    from labeling_app.web.pages import mount_page

    only = _followed(store, campaign)
    door = Door(store, LoginThrottle(longest_wait=60.0), LoginThrottle(free_attempts=30))
    app = FastAPI(title="vidalign labeling", docs_url=None, redoc_url=None)
    app.state.door = door
    app.add_middleware(PageRoot, paths=[f"{page}/" for page in (PAGE, DEMONSTRATE, LEAD)])
    app.add_middleware(Guard, door=door)
    _add_error_messages(app)
    _add_login(app, door)
    _add_api(app, door, only)
    app.include_router(demonstration_api(store, only))
    app.include_router(lead_api(store, candidates))
    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    mount_page(app, PAGE, "Rank videos", "ranking", door.user)
    mount_page(app, DEMONSTRATE, "Demonstrate prompts", "demonstrate", door.user)
    return mount_page(app, LEAD, "Lead", "lead", door.lead)


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
        entered = door.log_in(name, password, address)
        if entered is None:
            return login_page("Name or password is wrong.", 401, name)
        session, user = entered
        response = RedirectResponse(f"{LEAD if user.role in LEADS else PAGE}/", 303)
        response.set_cookie(
            cookie_name(request),
            session,
            max_age=7 * 86400,
            httponly=True,
            samesite="lax",
            secure=request.url.scheme == "https",
        )
        return response

    @app.post("/logout", include_in_schema=False)
    def log_out(request: Request) -> Response:
        token = request.cookies.get(cookie_name(request))
        if token:
            door.store.close_session(token)
        response = RedirectResponse("login", 303)
        response.delete_cookie(cookie_name(request))
        return response


def _add_api(app: FastAPI, door: Door, campaign: Callable[[], str | None]) -> None:
    store = door.store
    workers = Workers(door)

    @app.get("/api/next")
    async def next_task(
        request: Request, take: bool = False, after: Annotated[int, Query(ge=0, le=MAXIMUM_ID)] = 0
    ) -> dict[str, Any]:
        """The task that the user works on, or a new one; `task` is null when nothing is left, or while the
        `guidelines` that come instead are not acknowledged. Leads look at tasks, one `after` the other, and get one to
        answer only with `take`."""

        def find(user: User) -> dict[str, Any]:
            if user.role in LEADS and not take:
                return _look(store, user, campaign(), after)
            return _next(store, user, campaign())

        return await workers.run(request, find)

    @app.get("/api/guidelines")
    def read_guidelines(user: Annotator, campaign: str) -> dict[str, Any]:
        """The newest guidelines of a campaign, as Markdown and as HTML; version 0 where there are none."""
        return guideline_reading.guidelines_for_page(store, campaign)

    @app.post("/api/guidelines/acknowledgement")
    def acknowledge(user: Annotator, campaign: str, body: Annotated[ReadVersion, Body()]) -> dict[str, Any]:
        """Says that the user has read this version of a campaign's guidelines."""
        guideline_reading.acknowledge(store, user, campaign, body.version)
        return {}

    @app.post("/api/assignments/{assignment_id}/judgement")
    async def judge(
        request: Request, assignment_id: str, answer: Annotated[Answer, Body()]
    ) -> dict[str, Any]:
        """Stores the ranks of the videos in the order shown."""

        def store_answer(user: User) -> dict[str, Any]:
            given = _given(answer)
            return {"version": assignment.submit(store, user, assignment_id, *given)}

        return await workers.run(request, store_answer)

    @app.post("/api/assignments/{assignment_id}/revision")
    def revise(user: Annotator, assignment_id: str, answer: Annotated[Answer, Body()]) -> dict[str, Any]:
        """Stores a changed answer as the next version; the earlier ones stay."""
        version = assignment.revise(store, user, assignment_id, *_given(answer))
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
                    "remark_videos": answered.remark_videos,
                    "answered_at": answered.answered_at,
                }
                for answered in assignment.recent_answers(store, user)
            ]
        }

    @app.post("/api/assignments/{assignment_id}/skip")
    def skip(user: Annotator, assignment_id: str, answer: Annotated[SkipRequest, Body()]) -> dict[str, Any]:
        """Gives the task back for good, with a reason."""
        assignment.skip(store, user, assignment_id, *_given_skip(answer))
        return {}

    @app.post("/api/assignments/{assignment_id}/lease")
    def renew(user: Annotator, assignment_id: str) -> dict[str, Any]:
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
        if not is_unchanged(found):
            changed = (
                "This video's file has changed since it was imported, so it is not shown: tell the lead."
            )
            return JSONResponse({"message": changed}, 409)
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


def _given(answer: Answer) -> tuple[Any, ...]:
    return answer.ranks, answer.seconds, answer.comment, answer.flag, _by_name(answer.remark_videos)


def _given_skip(answer: SkipRequest) -> tuple[Any, ...]:
    return answer.reason, answer.seconds, answer.comment, _by_name(answer.remark_videos)


def _by_name(videos: RemarkVideos | None) -> dict[str, list[int]]:
    return {str(kind): places for kind, places in (videos or {}).items()}


def _next(store: Store, user: User, campaign: str | None) -> dict[str, Any]:
    task, unread = None, None
    try:
        task = assignment.next_task(store, user, campaign, only_informed=True)
    except assignment.GuidelinesUnread as error:
        unread = guideline_reading.guidelines_for_page(store, error.campaign)
    progress = assignment.progress(store, user, campaign)
    return {
        "user": user.name,
        "lead": user.role in LEADS,
        "looking": False,
        "reason": "" if task or unread else assignment.reason_for_nothing(store, user, campaign),
        "lease_seconds": store.lease_seconds,
        "progress": {"done": progress.done, "left": progress.left},
        "guidelines": unread,
        "task": _task_for_page(task) if task else None,
    }


def _look(store: Store, user: User, campaign: str | None, after: int) -> dict[str, Any]:
    """What a lead sees who does not take tasks."""
    task = assignment.task_to_look_at(store, campaign, after)
    shown = task and {
        "assignment": None,
        "task": task.id,
        "campaign": task.campaign.name,
        "prompt": task.prompt,
        "dimensions": list(task.campaign.dimensions),
        "videos": [
            {"id": v.media.id, "fps": v.media.fps, "width": v.media.width, "height": v.media.height}
            for v in task.videos
        ],
        "expires_at": None,
    }
    return {
        "user": user.name,
        "lead": True,
        "looking": True,
        "reason": "",
        "lease_seconds": store.lease_seconds,
        "progress": {"done": 0, "left": None},
        "guidelines": None,
        "task": shown,
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
