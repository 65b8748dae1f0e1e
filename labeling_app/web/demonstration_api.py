"""The API of the demonstration page."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Annotated, Any

from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter, Body, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import ClientDisconnect

from generator.output import InputError
from labeling_app.campaigns import demonstrations
from labeling_app.campaigns.transcoding import MAXIMUM_BYTES, PROCESSES, TOO_LARGE
from labeling_app.store.store import Store
from labeling_app.store.tables import DemonstrationPrompt, Media, Task, User
from labeling_app.tasks.guideline_reading import guidelines_for_page, is_unread
from labeling_app.tasks.lease import MAXIMUM_TEXT
from labeling_app.web.access import LEADS, Annotator

VIDEO_BODY = {
    "requestBody": {
        "required": True,
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}


class NewDemonstration(BaseModel):
    """Video that answers a prompt."""

    model_config = ConfigDict(extra="forbid")
    media: str = Field(min_length=1, max_length=32)
    comment: str = Field(default="", max_length=MAXIMUM_TEXT)


def demonstration_api(store: Store, campaign: Callable[[], str | None]) -> APIRouter:
    """The routes.

    Args:
        campaign: gives the only campaign whose prompts are shown, or None for all.
    """
    api = APIRouter(prefix="/api/demonstrations", tags=["demonstrations"])

    @cache
    def turns() -> CapacityLimiter:
        return CapacityLimiter(PROCESSES)

    @api.get("/prompts")
    def prompts(user: Annotator) -> dict[str, Any]:
        """Prompts that wait for a video of this user, in the user's own order, and the videos to choose from in the
        campaign of each; none while the `guidelines` that come with them are not acknowledged."""
        waiting = demonstrations.open_prompts(store, user, campaign())
        shown = waiting[:50]
        unread = unread_campaign(store, user, shown)
        if unread is not None:
            waiting, shown = [], []
        campaigns = {found.campaign_id: found.campaign.name for found in shown}
        return {
            "user": user.name,
            "lead": user.role in LEADS,
            "waiting": len(waiting),
            "guidelines": guidelines_for_page(store, unread) if unread else None,
            "prompts": [
                {
                    "id": found.id,
                    "prompt": found.prompt,
                    "campaign": found.campaign.name,
                    **images_for_page(found),
                }
                for found in shown
            ],
            "library": [
                {**media_for_page(video), "campaign": name}
                for number, name in campaigns.items()
                for video in demonstrations.library(store, number)
            ],
        }

    @api.post("/uploads", openapi_extra=VIDEO_BODY)
    async def upload(user: Annotator, request: Request) -> dict[str, Any]:
        """Checks a video (the body of the request), writes it anew and keeps it for a preview."""
        store.uploads.mkdir(parents=True, exist_ok=True)
        received = store.uploads / f".received-{secrets.token_hex(16)}"
        try:
            await _receive(request, received)
            work = partial(demonstrations.save_upload, store, user, received)
            # Uploads wait for their turn here and not in the threads that everything else needs.
            return media_for_page(await to_thread.run_sync(work, limiter=turns()))
        finally:
            received.unlink(missing_ok=True)

    @api.post("/{prompt_id}")
    def demonstrate(
        user: Annotator, prompt_id: int, answer: Annotated[NewDemonstration, Body()]
    ) -> dict[str, Any]:
        """Answers a prompt with an own upload or a video of the library."""
        made = demonstrations.demonstrate(store, user, prompt_id, answer.media, answer.comment)
        return {"demonstration": made}

    return api


async def _receive(request: Request, path: Path) -> None:
    size = 0
    with path.open("wb") as file:
        try:
            async for chunk in request.stream():
                size += len(chunk)
                if size > MAXIMUM_BYTES:
                    raise InputError(TOO_LARGE)
                file.write(chunk)
        except ClientDisconnect as error:
            raise InputError("The upload ended before its end: upload the video again.") from error


def unread_campaign(store: Store, user: User, prompts: Sequence[DemonstrationPrompt]) -> str | None:
    """The first campaign of prompts whose guidelines an annotator has not acknowledged."""
    names = {prompt.campaign_id: prompt.campaign.name for prompt in prompts}
    with store.read() as session:
        unread = (name for number, name in names.items() if is_unread(session, user.id, number))
        return None if user.role in LEADS else next(unread, None)


def images_for_page(task: Task | DemonstrationPrompt) -> dict[str, str | None]:
    """Ids of the images that videos begin and end with; None where there are none."""
    return {"image": task.image_id, "last_image": task.last_image_id}


def media_for_page(video: Media) -> dict[str, Any]:
    """Facts that a page needs to play a video; nothing that tells where it comes from."""
    return {
        "id": video.id,
        "fps": video.fps,
        "num_frames": video.num_frames,
        "width": video.width,
        "height": video.height,
    }
