"""Demonstrations: annotators answer a prompt with a video of their own or one from a library; it becomes SFT data."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from pathlib import Path

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from generator.files.folders import visible_files
from generator.files.output_folder import (
    MARK,
    Outputs,
    check_output_dir,
    empty_own,
    named_videos,
    open_output_dir,
)
from generator.first_frames import ImageFiles
from generator.one_or_several import as_list
from generator.output import InputError, files_into, has_rows_with, is_storable, write_jsonl
from labeling_app.campaigns.transcoding import transcode
from labeling_app.files.candidates import SUFFIXES, inspect_video
from labeling_app.people.groups import may_work_on
from labeling_app.store.contents import copy_verified, is_unchanged, require_unchanged
from labeling_app.store.new_tasks import media_id, media_row
from labeling_app.store.playable import keep_playable
from labeling_app.store.store import Store
from labeling_app.store.tables import (
    Campaign,
    Demonstration,
    DemonstrationPrompt,
    LibraryVideo,
    Media,
    Upload,
    User,
)
from labeling_app.store.task_images import inspect_images
from labeling_app.tasks.lease import MAXIMUM_ID, MAXIMUM_TEXT, Refused

STATES = ("given", "accepted", "rejected")
MAXIMUM_UNUSED_UPLOADS = 20


def ask(
    store: Store,
    campaign: str,
    prompts: Sequence[str],
    wanted: int = 1,
    images: Sequence[ImageFiles | None] | None = None,
) -> int:
    """Adds prompts to demonstrate; returns how many are new in the campaign.

    Args:
        wanted: demonstrations a prompt, each by another person.
        images: files of what the videos of each prompt shall begin and end with.

    Raises:
        InputError: there is no such campaign, or a prompt, an image or the number is not usable.
    """
    prompts = as_list(prompts)
    given = [inspect_images(files) for files in images or [None] * len(prompts)]
    row = store.campaign(campaign)
    if not 1 <= wanted <= 1000:
        raise InputError(f"{wanted} demonstrations a prompt are asked for: give a number from 1 to 1000.")
    added = 0
    with store.write() as session:
        known = set(
            session.scalars(
                select(DemonstrationPrompt.fingerprint).where(DemonstrationPrompt.campaign_id == row.id)
            )
        )
        for prompt, shown in zip(prompts, given, strict=True):
            if not prompt.strip() or len(prompt) > MAXIMUM_TEXT or not is_storable(prompt):
                raise InputError(f"The prompt {prompt[:60]!r} is empty, too long or holds a NUL: correct it.")
            parts = [prompt, *("" if each is None else each.sha256 for each in shown if any(shown))]
            fingerprint = hashlib.sha256("\0".join(parts).encode()).hexdigest()
            if fingerprint not in known:
                known.add(fingerprint)
                added += 1
                session.add(
                    DemonstrationPrompt(
                        campaign_id=row.id,
                        prompt=prompt,
                        fingerprint=fingerprint,
                        wanted=wanted,
                        image_id=media_id(session, shown[0]),
                        last_image_id=media_id(session, shown[1]),
                        created_at=store.clock(),
                    )
                )
    return added


def add_library(store: Store, campaign: str, folder: str | Path) -> int:
    """Offers the videos of a folder to annotators of a campaign; returns how many are new.

    Raises:
        InputError: there is no such campaign or folder, or a video cannot be used. Then none was added.
    """
    row = store.campaign(campaign)
    paths = visible_files(folder, SUFFIXES) if Path(folder).is_dir() else []
    if not paths:
        raise InputError(f"There are no videos in {folder}: name another folder.")
    videos = [inspect_video(path) for path in paths]
    keep_playable(store.uploads, videos)
    added = 0
    with store.write() as session:
        for video in videos:
            media = media_row(session, video)
            if session.get(LibraryVideo, (row.id, media.id)) is None:
                session.add(LibraryVideo(campaign_id=row.id, media_id=media.id))
                added += 1
    return added


def library(store: Store, campaign_id: int) -> list[Media]:
    """The videos that annotators of a campaign may choose."""
    query = (
        select(Media)
        .join(LibraryVideo, LibraryVideo.media_id == Media.id)
        .where(LibraryVideo.campaign_id == campaign_id)
    )
    with store.read() as session:
        return list(session.scalars(query.order_by(Media.id)))


def open_prompts(store: Store, user: User, campaign: str | None = None) -> list[DemonstrationPrompt]:
    """Prompts that still want a demonstration and have none of this user, in an order of the user's own, so that
    two people seldom work on the same one."""
    only = store.campaign(campaign).id if campaign is not None else None
    given = (
        select(func.count(Demonstration.id))
        .where(Demonstration.prompt_id == DemonstrationPrompt.id, Demonstration.state != "rejected")
        .correlate(DemonstrationPrompt)
        .scalar_subquery()
    )
    own = (
        select(Demonstration.id)
        .where(Demonstration.prompt_id == DemonstrationPrompt.id, Demonstration.user_id == user.id)
        .exists()
    )
    query = (
        select(DemonstrationPrompt)
        .join(Campaign, Campaign.id == DemonstrationPrompt.campaign_id)
        .where(given < DemonstrationPrompt.wanted, ~own, Campaign.state == "open", may_work_on(user.id))
    )
    if only is not None:
        query = query.where(DemonstrationPrompt.campaign_id == only)
    with store.read() as session:
        found = list(session.scalars(query))
    return sorted(found, key=lambda prompt: hashlib.sha256(f"{user.id}:{prompt.id}".encode()).digest())


def save_upload(store: Store, user: User, source: Path) -> Media:
    """Checks an uploaded file and keeps it, written anew, for its sender to preview and use.

    Raises:
        InputError: it is not a video that can be used.
        Refused: the user has too many uploads that were not used.
    """
    with store.read() as session:
        used = select(Demonstration.media_id).where(Demonstration.user_id == user.id)
        unused = session.scalar(
            select(func.count(Upload.media_id)).where(
                Upload.user_id == user.id,
                Upload.media_id.not_in(used),
                Upload.created_at > store.clock() - 3600,
            )
        )
    if (unused or 0) >= MAXIMUM_UNUSED_UPLOADS:
        raise Refused(f"You have {unused} uploads of the last hour that you have not used: wait a while.")
    store.uploads.mkdir(parents=True, exist_ok=True)
    target = store.uploads / f"{secrets.token_hex(16)}.mp4"
    transcode(source, target)
    video = inspect_video(target)
    with store.write() as session:
        media = media_row(session, video)
        session.add(Upload(media_id=media.id, user_id=user.id, created_at=store.clock()))
    return media


def demonstrate(store: Store, user: User, prompt_id: int, media_id: str, comment: str = "") -> int:
    """Answers a prompt with an own upload or a video of the campaign's library; returns the demonstration's id.

    Raises:
        Refused: there is no such prompt, it has enough demonstrations or one of this user, or the video is neither
            the user's nor in the library, or used for this prompt already.
    """
    if len(comment) > MAXIMUM_TEXT or not is_storable(comment) or not is_storable(media_id):
        raise Refused(f"The comment is longer than {MAXIMUM_TEXT} characters or holds a NUL character.")
    with store.write() as session:
        prompt = (
            session.scalar(
                select(DemonstrationPrompt)
                .join(Campaign, Campaign.id == DemonstrationPrompt.campaign_id)
                .where(DemonstrationPrompt.id == prompt_id, may_work_on(user.id))
                .with_for_update(of=DemonstrationPrompt)
            )
            if 0 < prompt_id <= MAXIMUM_ID
            else None
        )
        if prompt is None:
            raise Refused("There is no such prompt to demonstrate.")
        if prompt.campaign.state == "closed":
            raise Refused("The campaign is closed and takes no videos any more: ask the lead.")
        earlier = list(session.scalars(select(Demonstration).where(Demonstration.prompt_id == prompt.id)))
        if any(row.user_id == user.id for row in earlier):
            raise Refused("You have answered this prompt already.")
        if sum(row.state != "rejected" for row in earlier) >= prompt.wanted:
            raise Refused("Others have answered this prompt in the meantime: take the next one.")
        if any(row.media_id == media_id for row in earlier):
            raise Refused("This video has been given for this prompt already: choose another one.")
        demonstration = Demonstration(
            prompt_id=prompt.id,
            user_id=user.id,
            media_id=media_id,
            source=_source(session, user, prompt, media_id),
            comment=comment,
            created_at=store.clock(),
        )
        session.add(demonstration)
        session.flush()
        return demonstration.id


def _source(session: Session, user: User, prompt: DemonstrationPrompt, media_id: str) -> str:
    upload = session.get(Upload, media_id)
    if upload is not None and upload.user_id == user.id:
        return "upload"
    if session.get(LibraryVideo, (prompt.campaign_id, media_id)) is not None:
        return "library"
    raise Refused("This video is neither your upload nor one of those to choose from.")


def review(store: Store, demonstration_id: int, state: str) -> None:
    """A lead accepts or rejects a demonstration; a rejected one's prompt is asked again, of others.

    Raises:
        InputError: there is no such demonstration or state.
    """
    if state not in STATES:
        raise InputError(f"The state {state!r} is unknown: choose one of {', '.join(STATES)}.")
    with store.write() as session:
        known = 0 < demonstration_id <= MAXIMUM_ID
        found = session.get(Demonstration, demonstration_id) if known else None
        if found is None:
            raise InputError(f"There is no demonstration {demonstration_id}: name another.")
        found.state = state


def demonstrations(
    store: Store, campaign: str, first: int = 0, limit: int | None = None
) -> list[Demonstration]:
    """Demonstrations of a campaign, oldest first.

    Args:
        first: number of those that are left out at the beginning.
        limit: most that are returned; all by default.

    Raises:
        InputError: there is no such campaign.
    """
    row = store.campaign(campaign)
    query = (
        select(Demonstration)
        .join(DemonstrationPrompt, DemonstrationPrompt.id == Demonstration.prompt_id)
        .where(DemonstrationPrompt.campaign_id == row.id)
        .order_by(Demonstration.id)
        .offset(first)
        .limit(limit)
    )
    with store.read() as session:
        return list(session.scalars(query))


def count_demonstrations(store: Store, campaign: str) -> int:
    """Number of the demonstrations of a campaign.

    Raises:
        InputError: there is no such campaign.
    """
    row = store.campaign(campaign)
    query = (
        select(func.count(Demonstration.id))
        .join(DemonstrationPrompt, DemonstrationPrompt.id == Demonstration.prompt_id)
        .where(DemonstrationPrompt.campaign_id == row.id)
    )
    with store.read() as session:
        return session.scalar(query) or 0


DEMONSTRATION_OUTPUTS = Outputs(
    "label export --demonstrations",
    ("metadata.jsonl",),
    is_record=lambda folder: has_rows_with(
        folder / "metadata.jsonl", "file_name", "annotator", "source", "state"
    ),
    listed=named_videos,
)


def _names_in(folder: Path, part: Path) -> list[str]:
    """Files of a part of the folder, relative to the folder."""
    whole = folder.resolve()
    return [path.resolve().relative_to(whole).as_posix() for path in part.rglob("*")]


def export_demonstrations(
    store: Store,
    campaign: str,
    folder: str | Path,
    overwrite: bool = False,
    only_accepted: bool = False,
    skip_bad: bool = False,
) -> int:
    """Writes what `vidalign sft --dataset` reads: a folder with the videos and `metadata.jsonl`, in one step.

    Returns the number of demonstrations. Rejected ones are left out.

    Args:
        skip_bad: leave out videos whose files have changed or gone.

    Raises:
        InputError: there is no such campaign, it has no demonstrations, a video's file is not what was given and
            `skip_bad` is not set, or the folder exists and `overwrite` is not set.
    """
    folder = Path(folder)
    states = ("accepted",) if only_accepted else ("given", "accepted")
    kept = [row for row in demonstrations(store, campaign) if row.state in states]
    if skip_bad:
        kept = [row for row in kept if all(map(is_unchanged, (row.media, *row.prompt.images)))]
    if not kept:
        raise InputError(f"The campaign {campaign!r} has no demonstrations yet: let annotators give some.")
    media = [each for row in kept for each in (row.media, *row.prompt.images)]
    check_output_dir(folder, DEMONSTRATION_OUTPUTS, overwrite, [each.path for each in media])
    require_unchanged(media, "pass --skip_bad to leave them out")
    folder = open_output_dir(folder, DEMONSTRATION_OUTPUTS, overwrite, rewrites=True)
    with files_into(folder) as temporary:
        rows = []
        for number, row in enumerate(kept):
            name = f"{number:05d}{Path(row.media.path).suffix}"
            copy_verified(store.remote.local(row.media), temporary / name, row.media.sha256)
            images = {}
            for key, image in (("image", row.prompt.image), ("last_image", row.prompt.last_image)):
                if image is not None:
                    images[key] = f"images/{image.sha256[:20]}{Path(image.path).suffix.lower()}"
                    images[f"{key}_sha256"] = image.sha256
                    if not (temporary / images[key]).exists():
                        (temporary / "images").mkdir(exist_ok=True)
                        copy_verified(store.remote.local(image), temporary / images[key], image.sha256)
            rows.append(
                {
                    "file_name": name,
                    "prompt": row.prompt.prompt,
                    "annotator": row.user.name,
                    "source": row.source,
                    "state": row.state,
                    **images,
                }
            )
        write_jsonl(temporary / "metadata.jsonl", rows)
        # All has been copied: what an earlier export left goes, just before the new files take its place.
        empty_own(folder, DEMONSTRATION_OUTPUTS, keep=(MARK, *_names_in(folder, temporary)))
    return len(kept)
