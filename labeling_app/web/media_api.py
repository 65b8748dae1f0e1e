"""Videos, images and thumbnails by opaque id, for those who may see them.

No file name, path or URL leaves this module: files of other storage are answered by this server too.
"""

from __future__ import annotations

import logging
from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import FileResponse, JSONResponse, Response

from generator.output import InputError, is_storable
from generator.video_files.remote_files import is_url
from labeling_app.browser_video import frame_times
from labeling_app.store.contents import is_unchanged
from labeling_app.store.playable import shown_file
from labeling_app.store.store import Store
from labeling_app.store.tables import Media, User
from labeling_app.store.task_images import IMAGE_TYPE, shown_image
from labeling_app.store.thumbnails import thumbnail
from labeling_app.tasks.next_task import visible_media
from labeling_app.web.access import Annotator

logger = logging.getLogger(__name__)

HEADERS = {
    "cache-control": "private, max-age=3600",
    # The file's own date could tell which model made it.
    "last-modified": "Thu, 01 Jan 1970 00:00:00 GMT",
}


def media_api(store: Store) -> APIRouter:
    """The routes."""
    api = APIRouter()

    @api.get("/api/media/{media_id}/times")
    def times(user: Annotator, media_id: str) -> Response:
        """Seconds at which each frame of a video of variable rate begins; null where the rate is steady."""
        found = _seen(store, user, media_id)
        if found is None:
            return _missing()
        try:
            return JSONResponse({"times": frame_times(str(store.remote.local(found)), found.sha256)})
        except InputError as error:
            return _unfetched(found, error)

    @api.get("/media/{media_id}")
    def media(user: Annotator, media_id: str) -> Response:
        """A video or image of a task that the user was given; Range requests are answered."""
        found = _seen(store, user, media_id)
        if found is None:
            return _missing()
        if not is_url(found.path) and not is_unchanged(found):
            return _changed()
        try:
            is_image = found.content_type == IMAGE_TYPE
            file = (shown_image if is_image else shown_file)(store.uploads, found, store.remote)
        except InputError as error:
            return _unfetched(found, error)
        # The tag is not that of the file: a repeat would have the same.
        return FileResponse(file, media_type=found.content_type, headers={**HEADERS, "etag": f'"{media_id}"'})

    @api.get("/media/{media_id}/thumbnail")
    def small_picture(user: Annotator, media_id: str) -> Response:
        """The first frame of a video that the user may see, as a small JPEG."""
        found = _seen(store, user, media_id)
        if found is None:
            return _missing()
        if not is_url(found.path) and not is_unchanged(found):
            return _changed()
        try:
            file = thumbnail(store.uploads, found, store.remote)
        except InputError as error:
            return _unfetched(found, error)
        return FileResponse(file, media_type="image/jpeg", headers={**HEADERS, "etag": f'"{media_id}.small"'})

    return api


def _seen(store: Store, user: User, media_id: str) -> Media | None:
    """The video or image of this id, if the user may see it and it is there or elsewhere."""
    found = visible_media(store, user, media_id) if is_storable(media_id) else None
    return found if found is not None and (is_url(found.path) or Path(found.path).is_file()) else None


def _missing() -> Response:
    return JSONResponse({"message": "There is no such video among your tasks."}, 404)


def _changed() -> Response:
    changed = "This video's file has changed since it was imported, so it is not shown: tell the lead."
    return JSONResponse({"message": changed}, 409)


def _unfetched(media: Media, error: InputError) -> Response:
    """Says that a file is not to be had; why, and where it is, only the server's log says."""
    if not is_url(media.path):
        raise error
    logger.warning("%s", error)
    message = "This video cannot be fetched at the moment: try again in a minute, or tell the lead."
    return JSONResponse({"message": message}, 502)
