"""The API of the lead's task browser, and of a task that a lead decides on the ranking page."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query

from labeling_app.campaigns.task_list import MAXIMUM_PAGE, TaskFilter, find_tasks
from labeling_app.quality import adjudication
from labeling_app.store.store import Store
from labeling_app.store.tables import Task, User
from labeling_app.web.access import Lead
from labeling_app.web.demonstration_api import images_for_page, media_for_page

CampaignName = Annotated[str, Query(max_length=200)]
Words = Annotated[str, Query(max_length=300)]


def tasks_api(store: Store) -> APIRouter:
    """The routes."""
    api = APIRouter(prefix="/api/lead", tags=["lead"])

    @api.get("/tasks")
    def tasks(
        user: Lead,
        campaign: CampaignName,
        prompt: Words = "",
        status: Words = "",
        flagged: bool = False,
        metadata: Words = "",
        max_agreement: float | None = None,
        kind: Words = "normal",
        page: Annotated[int, Query(ge=1, le=MAXIMUM_PAGE)] = 1,
    ) -> dict[str, Any]:
        """A page of a campaign's tasks: those that all filters given leave, the oldest first."""
        wanted = TaskFilter(prompt, status, flagged, metadata, max_agreement, kind)
        return find_tasks(store, campaign, wanted, page)

    @api.get("/tasks/{task_id}")
    def task(user: Lead, task_id: int) -> dict[str, Any]:
        """A task to decide on the ranking page, with the answers so far in the task's own order, and the task that is
        most in dispute after it."""
        found = adjudication.task_to_decide(store, task_id)
        return _deciding(store, user, found)

    return api


def _deciding(store: Store, user: User, found: adjudication.Disagreement) -> dict[str, Any]:
    task, campaign = found.task, found.task.campaign
    others = adjudication.disagreements(store, campaign.name)
    following = [other.task.id for other in others if other.task.id != task.id]
    return {
        "user": user.name,
        "lead": True,
        "looking": True,
        "reason": "",
        "lease_seconds": store.lease_seconds,
        "progress": {"done": 0, "left": None},
        "guidelines": None,
        "deciding": {
            **disagreement_for_page(found),
            "decision": adjudication.decision(store, task),
            "next": following[0] if following else None,
            "left": len(following),
        },
        "task": {
            "assignment": None,
            "task": task.id,
            "campaign": campaign.name,
            "prompt": task.prompt,
            "dimensions": list(campaign.dimensions),
            "tags": list(campaign.tags),
            "videos": [media_for_page(video.media) for video in task.videos],
            **images_for_page(task),
            "expires_at": None,
        },
    }


def disagreement_for_page(found: adjudication.Disagreement) -> dict[str, Any]:
    """A task in dispute: its videos in its own order, and what annotators said."""
    task: Task = found.task
    return {
        "task": task.id,
        "prompt": task.prompt,
        "dimensions": task.campaign.dimensions,
        "videos": [media_for_page(video.media) for video in task.videos],
        **images_for_page(task),
        "share": round(found.share, 3),
        "answers": found.answers,
        "remarks": [remark.as_json() for remark in found.remarks],
        "tags": found.tags,
    }
