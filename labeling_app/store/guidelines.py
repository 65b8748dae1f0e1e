"""Versions of a campaign's guidelines."""

from __future__ import annotations

import re

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from generator.output import InputError, is_storable
from labeling_app.store.store import Store
from labeling_app.store.tables import Campaign, Guidelines, GuidelineVideo, Media

MAXIMUM_GUIDELINES = 50_000
"""Characters of guidelines."""
EXAMPLE_ADDRESS = re.compile(r"video:([A-Za-z0-9_-]{1,32})")
"""Address of an example video in guidelines, by its id in the store."""


def guidelines(store: Store, campaign: str) -> Guidelines | None:
    """The newest version of a campaign's guidelines.

    Raises:
        InputError: there is no such campaign.
    """
    row = store.campaign(campaign)
    newest = (
        select(Guidelines)
        .where(Guidelines.campaign_id == row.id)
        .order_by(Guidelines.version.desc())
        .limit(1)
    )
    with store.read() as session:
        return session.scalar(newest)


def set_guidelines(store: Store, campaign: str, text: str) -> int:
    """Adds a version of the guidelines and returns its number; each answer names the version that held.

    Raises:
        InputError: there is no such campaign, the text is empty, too long or cannot be stored, or it shows a video
            that is not in the store.
    """
    check_guidelines(text)
    row = store.campaign(campaign)
    examples = set(re.findall(rf"\]\({EXAMPLE_ADDRESS.pattern}\)", text))
    with store.write() as session:
        session.scalar(select(Campaign.id).where(Campaign.id == row.id).with_for_update())
        last = session.scalar(select(func.max(Guidelines.version)).where(Guidelines.campaign_id == row.id))
        version = (last or 0) + 1
        session.add(Guidelines(campaign_id=row.id, version=version, text=text, created_at=store.clock()))
        _add_examples(session, row.id, examples)
    return version


def _add_examples(session: Session, campaign_id: int, examples: set[str]) -> None:
    missing = examples - set(session.scalars(select(Media.id).where(Media.id.in_(examples))))
    if missing:
        raise InputError(
            f"The guidelines show the video {min(missing)!r}, which is not there: add it again as an example video."
        )
    shown = select(GuidelineVideo.media_id).where(GuidelineVideo.campaign_id == campaign_id)
    new = examples - set(session.scalars(shown))
    session.add_all([GuidelineVideo(campaign_id=campaign_id, media_id=example) for example in sorted(new)])


def check_guidelines(text: str) -> str:
    """The text, if it can be guidelines.

    Raises:
        InputError: it is empty, too long or cannot be stored.
    """
    if not text.strip() or len(text) > MAXIMUM_GUIDELINES or not is_storable(text):
        raise InputError(
            f"The guidelines have {len(text)} characters: give 1 to {MAXIMUM_GUIDELINES}, without NUL."
        )
    return text
