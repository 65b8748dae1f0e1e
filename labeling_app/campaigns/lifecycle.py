"""Campaigns over their life: renamed, paused, closed, opened again, deleted."""

from __future__ import annotations

from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from generator.output import InputError, is_storable
from labeling_app.store.campaign_rows import campaign_name, find_campaign
from labeling_app.store.computed_rows import forget_results
from labeling_app.store.names import composed
from labeling_app.store.people_tables import CampaignGroup, CampaignPerson
from labeling_app.store.store import Store
from labeling_app.store.tables import (
    Acknowledgement,
    Adjudication,
    Assignment,
    Campaign,
    Demonstration,
    DemonstrationPrompt,
    Guidelines,
    GuidelineVideo,
    Judgement,
    LibraryVideo,
    Media,
    Task,
    TaskMetadata,
    TaskVideo,
    Upload,
)
from labeling_app.store.webhooks import delete_webhooks_of

STATES = ("open", "paused", "closed")
"""States of a campaign. Of a paused or closed one no task is given out, while tasks in people's hands may be answered.
Of a closed one answers do not change any more, and nothing is added to it."""


def rename_campaign(store: Store, campaign: str, name: str) -> str:
    """Gives a campaign another name, which it returns as it is kept.

    Raises:
        InputError: there is no such campaign, or the new name is taken or no name.
    """
    row_id, name = store.campaign(campaign).id, campaign_name(name)
    with store.write() as session:
        other = find_campaign(session, name)
        if other is not None and other.id != row_id:
            raise InputError(f"The campaign {name!r} exists already: choose another name.")
        session.get_one(Campaign, row_id).name = name
    return name


def set_state(store: Store, campaign: str, state: str) -> None:
    """Opens, pauses or closes a campaign (`STATES`).

    Raises:
        InputError: there is no such campaign or state.
    """
    if state not in STATES:
        raise InputError(f"The state {state!r} is unknown: choose one of {', '.join(STATES)}.")
    row_id = store.campaign(campaign).id
    with store.write() as session:
        session.get_one(Campaign, row_id).state = state


def delete_campaign(store: Store, campaign: str, typed: str) -> dict[str, int]:
    """Deletes a campaign with its tasks, answers, decisions and demonstrations; video files stay where they are.

    Args:
        typed: the campaign's name once more, so that none is deleted by a slip.

    Returns:
        how many `tasks`, `judgements` and `demonstrations` there were.

    Raises:
        InputError: there is no such campaign, or `typed` is another name. Then nothing was deleted.
    """
    row = store.campaign(campaign)
    if not is_storable(typed) or composed(typed) != row.name:
        raise InputError(
            f"The campaign is called {row.name!r}, but {typed[:60]!r} was typed: nothing was deleted."
        )
    with store.write() as session:
        deleted = _delete_tasks(session, row.id) | _delete_demonstrations(session, row.id)
        delete_webhooks_of(session, row.id)
        forget_results(session, row.id)
        for table in (
            *(Guidelines, GuidelineVideo, Acknowledgement, LibraryVideo),
            *(CampaignPerson, CampaignGroup),
        ):
            session.execute(delete(table).where(table.campaign_id == row.id))
        session.execute(delete(Campaign).where(Campaign.id == row.id))
        _forget_unused_media(session)
    return deleted


def _delete_tasks(session: Session, campaign_id: int) -> dict[str, int]:
    tasks = select(Task.id).where(Task.campaign_id == campaign_id)
    count = session.scalar(select(func.count()).select_from(tasks.subquery())) or 0
    judged = select(func.count(Judgement.id)).where(Judgement.task_id.in_(tasks))
    judgements = session.scalar(judged) or 0
    for table in (Judgement, Adjudication, Assignment, TaskVideo, TaskMetadata):
        session.execute(delete(table).where(table.task_id.in_(tasks)))
    session.execute(update(Task).where(Task.campaign_id == campaign_id).values(copy_of=None))
    session.execute(delete(Task).where(Task.campaign_id == campaign_id))
    return {"tasks": count, "judgements": judgements}


def _delete_demonstrations(session: Session, campaign_id: int) -> dict[str, int]:
    prompts = select(DemonstrationPrompt.id).where(DemonstrationPrompt.campaign_id == campaign_id)
    given = select(func.count(Demonstration.id)).where(Demonstration.prompt_id.in_(prompts))
    count = session.scalar(given) or 0
    session.execute(delete(Demonstration).where(Demonstration.prompt_id.in_(prompts)))
    session.execute(delete(DemonstrationPrompt).where(DemonstrationPrompt.campaign_id == campaign_id))
    return {"demonstrations": count}


def _forget_unused_media(session: Session) -> None:
    """Rows of videos that no campaign has any more, so that a changed file may be imported anew."""
    used = [
        select(table.media_id).where(table.media_id == Media.id).correlate(Media).exists()
        for table in (TaskVideo, LibraryVideo, GuidelineVideo, Upload, Demonstration)
    ]
    used += [
        select(image).where(image == Media.id).correlate(Media).exists()
        for table in (Task, DemonstrationPrompt)
        for image in (table.image_id, table.last_image_id)
    ]
    session.execute(
        delete(Media).where(*(~found for found in used)).execution_options(synchronize_session=False)
    )
