"""Overview of a campaign for leads: its progress, and its quality in one table."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from sqlalchemy import Integer, func, select, union

from generator.video_files.remote_files import is_url
from labeling_app.campaigns.campaigns import RULES
from labeling_app.quality.agreement import agreement, skips
from labeling_app.quality.compared_models import win_rates
from labeling_app.quality.hidden_checks import HiddenChecks, hidden_checks
from labeling_app.quality.reliability import Reliability, reliabilities
from labeling_app.quality.tag_summary import tag_summaries
from labeling_app.store.campaign_rows import has_answers
from labeling_app.store.computed import Computation, Report, StillComputing
from labeling_app.store.contents import content_hash
from labeling_app.store.judgement_rows import has_newer_version
from labeling_app.store.store import Store
from labeling_app.store.tables import (
    Assignment,
    Campaign,
    Demonstration,
    DemonstrationPrompt,
    Guidelines,
    Judgement,
    Media,
    Task,
    TaskVideo,
)


def campaign_overview(store: Store, row: Campaign) -> dict[str, Any]:
    """A campaign's rules and how far it is.

    Returns:
        name, `state`, `has_answers`, project, overlap, dimensions, tags, the rules, and counts: `tasks`, `filled` (with
        as many answers as the overlap), `answers` of `answers_wanted`, `held` now, `skips`, `flagged`, `gold`,
        `repeats`, `prompts` and `demonstrations`, and the version of the guidelines.
    """
    of_campaign = Task.campaign_id == row.id
    with store.read() as session:
        kinds = {
            kind: (count, filled or 0, completed or 0)
            for kind, count, filled, completed in session.execute(
                select(Task.kind, func.count(), func.sum(Task.filled.cast(Integer)), func.sum(Task.completed))
                .where(of_campaign)
                .group_by(Task.kind)
            )
        }
        states = (
            select(func.count(Assignment.id)).join(Task, Task.id == Assignment.task_id).where(of_campaign)
        )
        held = states.where(Assignment.state == "open", Assignment.expires_at > store.clock())
        flagged = (
            select(func.count(func.distinct(Judgement.task_id)))
            .join(Task, Task.id == Judgement.task_id)
            .where(of_campaign, Judgement.flag != "", ~has_newer_version())
        )
        prompts = select(func.count(DemonstrationPrompt.id)).where(DemonstrationPrompt.campaign_id == row.id)
        given = (
            select(func.count(Demonstration.id))
            .join(DemonstrationPrompt, DemonstrationPrompt.id == Demonstration.prompt_id)
            .where(DemonstrationPrompt.campaign_id == row.id, Demonstration.state != "rejected")
        )
        version = select(func.max(Guidelines.version)).where(Guidelines.campaign_id == row.id)
        tasks, filled, answers = kinds.get("normal", (0, 0, 0))
        return {
            "name": row.name,
            "state": row.state,
            "has_answers": has_answers(session, row),
            "project": row.project.name if row.project else "",
            **{rule: getattr(row, rule) for rule in RULES},
            "tasks": tasks,
            "filled": filled,
            "answers": answers,
            "answers_wanted": tasks * row.overlap,
            "held": session.scalar(held),
            "skips": session.scalar(states.where(Assignment.state == "skipped")),
            "flagged": session.scalar(flagged),
            "gold": kinds.get("gold", (0,))[0],
            "repeats": kinds.get("repeat", (0,))[0],
            "prompts": session.scalar(prompts),
            "demonstrations": session.scalar(given),
            "guidelines_version": session.scalar(version) or 0,
        }


def campaign_quality(store: Store, campaign: str, patience: float | None = None) -> dict[str, Any]:
    """Agreement of a campaign, and for each annotator all that is known.

    Returns:
        the fields of `quality.Agreement`, and `annotators` with those of `quality.AnnotatorQuality`,
        `reliability.Reliability` and `hidden_checks.HiddenChecks`; NaN where there is too little data; `skipped`:
        who skipped which prompt and why, with the videos meant; `tags`: those of `tag_summary.TagSummary`; `win_rates`:
        of each two models that are compared, with the interval; `changed_files`: paths of videos that are not there any
        more as they were judged (those of other storage are looked at by exports only: it is a request for each).

    In a large campaign it may be that of a moment ago (`labeling_app.store.computed`); `made_at` says of when, in
    seconds since the epoch.

    Args:
        patience: seconds to wait in a large campaign for what is made for the first time; None waits. With a number,
            files are not waited for: `changed_files` is None until `files_checked`, the share that was read, is 1.

    Raises:
        InputError: there is no such campaign.
        StillComputing: the quality is being made for the first time.
    """
    found = quality_of_answers(store, campaign, patience)
    checking = Computation(lambda report: _changed_files(store, campaign, report))
    try:
        changed = store.computed("changed files", campaign, checking, None if patience is None else 0.0)
    except StillComputing as still:
        return {**found, "changed_files": None, "files_checked": still.share}
    return {**found, "changed_files": changed, "files_checked": 1.0}


def quality_of_answers(store: Store, campaign: str, patience: float | None = None) -> dict[str, Any]:
    """As `campaign_quality`, without looking at files."""
    how = Computation(lambda report: _quality_of_answers(store, campaign, report))
    return store.computed("quality", campaign, how, patience)


def _quality_of_answers(store: Store, campaign: str, report: Report) -> dict[str, Any]:
    judgements = store.judgements(campaign, include_skips=True)
    report(0.3)
    found = agreement(store, campaign, judgements=judgements)
    report(0.5)
    reliability = {person.name: person for person in reliabilities(store, campaign, judgements)}
    report(0.8)
    checks = hidden_checks(store, campaign, judgements)
    nothing = float("nan")
    people = []
    for person in found.annotators:
        known = reliability.get(person.name) or Reliability(person.name, nothing, nothing, nothing, ())
        hidden = checks.get(person.name, HiddenChecks())
        people.append(
            {
                **asdict(person),
                **asdict(known),
                **asdict(hidden),
                "gold_accuracy": hidden.gold_accuracy,
                "self_consistency": hidden.self_consistency,
            }
        )
    return {
        **{k: v for k, v in asdict(found).items() if k != "annotators"},
        "annotators": people,
        "skipped": [
            {
                "annotator": skip.annotator,
                "prompt": skip.prompt,
                "reason": skip.reason,
                "remark": skip.remark.as_json(),
                "media": list(skip.media),
            }
            for skip in skips(store, campaign, judgements)
        ],
        "tags": [asdict(tag) for tag in tag_summaries(store, campaign, judgements)],
        "win_rates": [
            {"first": first, "second": second, **result.win_rate.as_dict(), "tie_rate": result.tie_rate}
            for (first, second), result in win_rates(store, campaign, judgements).items()
        ],
        "made_at": store.clock(),
    }


def _changed_files(store: Store, campaign: str, report: Report) -> list[str]:
    """Paths of the files of a campaign's normal tasks on this machine that are not there any more as imported."""
    of_campaign = (Task.campaign_id == store.campaign(campaign).id, Task.kind == "normal")
    shown = select(TaskVideo.media_id).join(Task, Task.id == TaskVideo.task_id).where(*of_campaign)
    images = [select(image).where(*of_campaign) for image in (Task.image_id, Task.last_image_id)]
    files = select(Media.path, Media.sha256).where(Media.id.in_(union(shown, *images)))
    with store.read() as session:
        found = [(path, sha256) for path, sha256 in session.execute(files).tuples() if not is_url(path)]
    changed = []
    for number, (path, sha256) in enumerate(found):
        if content_hash(path) != sha256:
            changed.append(path)
        report(number / len(found))
    return changed
