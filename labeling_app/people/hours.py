"""Progress and hours of people, from the times of their answers.

The rule: an answer counts the time since the answer before it of the same person, in any campaign. Where that is
longer than a break, or there is no answer before it, it counts the seconds that the page measured, at most the length
of a break. Answers are rankings, changed rankings, skipped tasks and demonstrations; of a changed ranking the seconds
of the change alone count, and no seconds are measured of a demonstration.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from sqlalchemy import func, select

from labeling_app.store.store import Store
from labeling_app.store.tables import Demonstration, DemonstrationPrompt, Judgement, Task, User

BREAK_SECONDS = 600.0
"""Time without an answer that is no work."""


@dataclass(frozen=True)
class Given:
    """An answer: when it was given, the seconds that the page measured, its campaign and its kind.

    Attributes:
        kind: `answer`, `change`, `skip` or `demonstration`.
    """

    at: float
    seconds: float
    campaign: int
    kind: str


@dataclass
class PersonHours:
    """Work of a person.

    Attributes:
        answers, changes, skips, demonstrations: how many were given.
        seconds: active time.
        by_day: active seconds of each day (UTC, `2026-01-31`).
        last_at: time of the last answer; None where there is none.
    """

    name: str
    state: str
    answers: int = 0
    changes: int = 0
    skips: int = 0
    demonstrations: int = 0
    seconds: float = 0.0
    by_day: dict[str, float] = field(default_factory=dict)
    last_at: float | None = None


def active_seconds(
    times: Sequence[float], measured: Sequence[float], break_seconds: float = BREAK_SECONDS
) -> list[float]:
    """Active time of each of a person's answers, by the rule of this module.

    Args:
        times: when the answers were given, in seconds, ascending.
        measured: seconds that the page measured for each.
    """
    result = []
    for number, (at, seconds) in enumerate(zip(times, measured, strict=True)):
        gap = at - times[number - 1] if number else float("inf")
        result.append(gap if gap <= break_seconds else min(max(seconds, 0.0), break_seconds))
    return result


def people_hours(
    store: Store, campaign: str | None = None, since: float | None = None, until: float | None = None
) -> list[PersonHours]:
    """Progress and hours of everybody who can log in or has answered, by name; not of programs and external annotators.

    Args:
        campaign: counts answers of this campaign only.
        since, until: count answers from one time to before the other, seconds since the epoch.

    Raises:
        InputError: there is no such campaign.
    """
    only = store.campaign(campaign).id if campaign is not None else None
    given = _given(store)
    with store.read() as session:
        people = list(session.scalars(select(User).where(User.simulated.is_(False)).order_by(User.name)))
    result = []
    for user in people:
        found = sorted(given.get(user.id, []), key=lambda each: each.at)
        if user.imported or (user.state == "removed" and not found):
            continue
        person = PersonHours(user.name, user.state)
        active = active_seconds([each.at for each in found], [each.seconds for each in found])
        for each, seconds in zip(found, active, strict=True):
            in_time = (since is None or each.at >= since) and (until is None or each.at < until)
            if in_time and only in (None, each.campaign):
                _count(person, each, seconds)
        result.append(person)
    return result


def _count(person: PersonHours, given: Given, seconds: float) -> None:
    person.answers += given.kind == "answer"
    person.changes += given.kind == "change"
    person.skips += given.kind == "skip"
    person.demonstrations += given.kind == "demonstration"
    person.seconds += seconds
    day = datetime.fromtimestamp(given.at, UTC).date().isoformat()
    person.by_day[day] = person.by_day.get(day, 0.0) + seconds
    person.last_at = given.at


def _given(store: Store) -> dict[int, list[Given]]:
    """Answers by the number of their user. Several dimensions of an answer are one row here."""
    judged = (
        select(
            Judgement.task_id,
            Judgement.user_id,
            Judgement.created_at,
            func.max(Judgement.seconds),
            Task.campaign_id,
            Judgement.version,
            func.max(Judgement.skip_reason),
        )
        .join(Task, Task.id == Judgement.task_id)
        .group_by(
            Judgement.task_id, Judgement.user_id, Judgement.version, Judgement.created_at, Task.campaign_id
        )
        .order_by(Judgement.version)
    )
    shown = select(Demonstration.user_id, Demonstration.created_at, DemonstrationPrompt.campaign_id).join(
        DemonstrationPrompt, DemonstrationPrompt.id == Demonstration.prompt_id
    )
    found: dict[int, list[Given]] = defaultdict(list)
    with store.read() as session:
        before: dict[tuple[int, int], float] = {}
        for task, user, at, seconds, campaign, version, skipped in session.execute(judged):
            kind = "skip" if skipped else "answer" if version == 1 else "change"
            # The page goes on counting from the seconds of the version before.
            found[user].append(Given(at, seconds - before.get((task, user), 0.0), campaign, kind))
            before[task, user] = seconds
        for user, at, campaign in session.execute(shown):
            found[user].append(Given(at, 0.0, campaign, "demonstration"))
    return found
