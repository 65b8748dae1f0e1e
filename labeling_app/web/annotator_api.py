"""The API of the ranking page: tasks, answers and guidelines.

Whatever the page may claim is checked here: that the task is assigned to this user and still held, that the ranks are
legal. No file name, path or model name leaves this module.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Body, Query, Request
from pydantic import BaseModel, ConfigDict, Field, StrictInt

from labeling_app.people.languages import translated, user_language
from labeling_app.store.new_tasks import MAXIMUM_VIDEOS
from labeling_app.store.store import Store
from labeling_app.store.tables import User
from labeling_app.store.tags import LONGEST_TAG
from labeling_app.tasks import answers as task_answers
from labeling_app.tasks import guideline_reading
from labeling_app.tasks import next_task as assignment
from labeling_app.tasks.feedback import after_answer, trial_results
from labeling_app.tasks.lease import MAXIMUM_FLAG, MAXIMUM_ID, MAXIMUM_TEXT, AssignedTask
from labeling_app.tasks.marks import MAXIMUM_MARKS
from labeling_app.web.access import LEADS, Access, Annotator, RequestThreads
from labeling_app.web.demonstration_api import images_for_page

RemarkVideos = dict[
    Literal["flag", "comment", "skip_reason"], Annotated[list[StrictInt], Field(max_length=MAXIMUM_VIDEOS)]
]
"""Places shown (from 0) of the videos that each remark is about; of one that is left out, those that it names."""


class TagMark(BaseModel):
    """A tag of a video, by its place shown (from 0): as a whole, at a moment (`seconds`), or also at a point (`x`, `y`)
    or in a box (`width`, `height`) of the picture, in shares of it."""

    model_config = ConfigDict(extra="forbid")
    video: StrictInt = Field(ge=0, lt=MAXIMUM_VIDEOS)
    tag: str = Field(max_length=LONGEST_TAG)
    seconds: float | None = None
    x: float | None = None
    y: float | None = None
    width: float | None = None
    height: float | None = None


class Answer(BaseModel):
    """Ranks in the order shown, for each dimension of the campaign; 1 is best, equal ranks are ties."""

    model_config = ConfigDict(extra="forbid")
    ranks: dict[str, Annotated[list[StrictInt], Field(max_length=MAXIMUM_VIDEOS)]]
    seconds: float = Field(ge=0, le=1e6)
    comment: str = Field(default="", max_length=MAXIMUM_TEXT)
    flag: str = Field(default="", max_length=MAXIMUM_FLAG)
    remark_videos: RemarkVideos | None = None
    tags: list[TagMark] | None = Field(default=None, max_length=MAXIMUM_MARKS)


class SkipRequest(BaseModel):
    """Reason for which a task cannot be ranked."""

    model_config = ConfigDict(extra="forbid")
    reason: str = Field(min_length=1, max_length=MAXIMUM_TEXT)
    seconds: float = Field(ge=0, le=1e6)
    comment: str = Field(default="", max_length=MAXIMUM_TEXT)
    remark_videos: RemarkVideos | None = None


class ReadVersion(BaseModel):
    """The version of the guidelines that was read."""

    model_config = ConfigDict(extra="forbid")
    version: int = Field(ge=1)


def annotator_api(access: Access, campaign: Callable[[], str | None]) -> APIRouter:
    """The routes.

    Args:
        campaign: name of the only campaign whose tasks are given out; None for all.
    """
    api = APIRouter()
    threads = RequestThreads(access)
    _add_tasks(api, access.store, threads, campaign)
    _add_guidelines(api, access.store)
    _add_answers(api, access.store, threads)
    return api


def _add_tasks(
    api: APIRouter, store: Store, threads: RequestThreads, campaign: Callable[[], str | None]
) -> None:
    @api.get("/api/next")
    async def next_task(
        request: Request, take: bool = False, after: Annotated[int, Query(ge=0, le=MAXIMUM_ID)] = 0
    ) -> dict[str, Any]:
        """The task that the user works on, or a new one; `task` is null when nothing is left, or while the
        `guidelines` that come instead are not acknowledged. Leads look at tasks, one `after` the other, and get one to
        answer only with `take`."""

        def find(user: User) -> dict[str, Any]:
            if user.role in LEADS and not take:
                return _look(store, user, campaign(), after)
            found = _next(store, user, campaign())
            language = user_language(user, request.headers.get("accept-language", ""))
            return {**found, "reason": translated(found["reason"], language)}

        return await threads.run(request, find)


def _add_guidelines(api: APIRouter, store: Store) -> None:
    @api.get("/api/guidelines")
    def read_guidelines(user: Annotator, campaign: str) -> dict[str, Any]:
        """The newest guidelines of a campaign, as Markdown and as HTML; version 0 where there are none."""
        return guideline_reading.guidelines_for_page(store, campaign)

    @api.post("/api/guidelines/acknowledgement")
    def acknowledge(user: Annotator, campaign: str, body: Annotated[ReadVersion, Body()]) -> dict[str, Any]:
        """Says that the user has read this version of a campaign's guidelines."""
        guideline_reading.acknowledge(store, user, campaign, body.version)
        return {}


def _add_answers(api: APIRouter, store: Store, threads: RequestThreads) -> None:
    @api.post("/api/assignments/{assignment_id}/judgement")
    async def judge(
        request: Request, assignment_id: str, answer: Annotated[Answer, Body()]
    ) -> dict[str, Any]:
        """Stores the ranks of the videos in the order shown; returns what the annotator is shown after it."""

        def store_answer(user: User) -> dict[str, Any]:
            answered = task_answers.submit(store, user, assignment_id, *_given(answer))
            shown = after_answer(store, user, assignment_id) if answered.kind == "gold" else {}
            return {"version": 1, **shown}

        return await threads.run(request, store_answer)

    @api.post("/api/assignments/{assignment_id}/revision")
    def revise(user: Annotator, assignment_id: str, answer: Annotated[Answer, Body()]) -> dict[str, Any]:
        """Stores a changed answer as the next version; the earlier ones stay."""
        version = task_answers.revise(store, user, assignment_id, *_given(answer))
        return {"version": version}

    @api.get("/api/answers")
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
                    "given_tags": answered.tags,
                    "answered_at": answered.answered_at,
                }
                for answered in task_answers.recent_answers(store, user)
            ]
        }

    @api.post("/api/assignments/{assignment_id}/skip")
    def skip(user: Annotator, assignment_id: str, answer: Annotated[SkipRequest, Body()]) -> dict[str, Any]:
        """Gives the task back for good, with a reason."""
        task_answers.skip(store, user, assignment_id, *_given_skip(answer))
        return after_answer(store, user, assignment_id)

    @api.get("/api/trials")
    def trials(user: Annotator) -> dict[str, Any]:
        """The results of the trials that the user has been through."""
        return {"trials": [vars(result) for result in trial_results(store, user)]}

    @api.post("/api/assignments/{assignment_id}/lease")
    def renew(user: Annotator, assignment_id: str) -> dict[str, Any]:
        """Keeps the task for another lease."""
        return {"expires_at": assignment.renew(store, user, assignment_id)}


def _given(answer: Answer) -> tuple[Any, ...]:
    about = _by_name(answer.remark_videos)
    return answer.ranks, answer.seconds, answer.comment, answer.flag, about, marks_of(answer.tags)


def marks_of(tags: list[TagMark] | None) -> list[dict[str, Any]] | None:
    """The marks of a request as `labeling_app.tasks.marks.checked_marks` takes them."""
    return None if tags is None else [mark.model_dump() for mark in tags]


def _given_skip(answer: SkipRequest) -> tuple[Any, ...]:
    return answer.reason, answer.seconds, answer.comment, _by_name(answer.remark_videos)


def _by_name(videos: RemarkVideos | None) -> dict[str, list[int]]:
    return {str(kind): slots for kind, slots in (videos or {}).items()}


def _next(store: Store, user: User, campaign: str | None) -> dict[str, Any]:
    found = assignment.next_with_progress(store, user, campaign)
    task, progress = found.task, found.progress
    unread = guideline_reading.guidelines_for_page(store, found.unread) if found.unread else None
    return {
        "user": user.name,
        "lead": user.role in LEADS,
        "looking": False,
        "reason": found.reason,
        "lease_seconds": store.lease_seconds,
        "progress": {"done": progress.done, "left": progress.left},
        "guidelines": unread,
        "task": _task_for_page(task) if task else None,
    }


def _look(store: Store, user: User, campaign: str | None, after: int) -> dict[str, Any]:
    """Task as a lead sees it who does not take tasks."""
    task = assignment.task_to_look_at(store, campaign, after)
    shown = task and {
        "assignment": None,
        "task": task.id,
        "campaign": task.campaign.name,
        "prompt": task.prompt,
        "dimensions": list(task.campaign.dimensions),
        "tags": list(task.campaign.tags),
        "videos": [
            {"id": v.media.id, "fps": v.media.fps, "width": v.media.width, "height": v.media.height}
            for v in task.videos
        ],
        **images_for_page(task),
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


def _task_for_page(task: AssignedTask) -> dict[str, Any]:
    return {
        "assignment": task.assignment,
        "campaign": task.campaign,
        "prompt": task.prompt,
        "dimensions": list(task.dimensions),
        "tags": list(task.tags),
        "videos": [
            {
                "id": assignment.shown_id(task.assignment, slot),
                "fps": video.fps,
                "width": video.width,
                "height": video.height,
            }
            for slot, video in enumerate(task.videos)
        ],
        "image": assignment.shown_id(task.assignment, "image") if task.image else None,
        "last_image": assignment.shown_id(task.assignment, "last") if task.last_image else None,
        "expires_at": task.expires_at,
    }
