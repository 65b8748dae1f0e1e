"""Tags that annotators gave in a campaign: how often, and how far they agree about them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from labeling_app.quality.agreement import krippendorff_alpha
from labeling_app.store.judgement_rows import JudgementRow
from labeling_app.store.store import Store


@dataclass(frozen=True)
class TagSummary:
    """One tag of a campaign.

    Attributes:
        videos: videos that somebody gave the tag.
        share: share of the judged videos of all answers that have it; NaN where nobody was asked.
        marks: moments and places that were marked for it.
        alpha: Krippendorff's alpha of having the tag or not, over the videos that several people judged; NaN without
            such videos.
    """

    tag: str
    videos: int
    share: float
    marks: int
    alpha: float


def tag_summaries(
    store: Store, campaign: str, judgements: Sequence[JudgementRow] | None = None
) -> list[TagSummary]:
    """The tags of a campaign in their order; newest answers of those who were asked for tags count.

    Args:
        judgements: the newest ones of the campaign, where they were read already; skips among them do not count.

    Raises:
        InputError: there is no such campaign.
    """
    tags = store.campaign(campaign).tags
    if not tags:
        return []
    given = store.judgements(campaign) if judgements is None else judgements
    # All dimensions of an answer carry the same tags.
    answers = {
        (judgement.user_id, judgement.task_id): judgement
        for judgement in given
        if judgement.tags is not None and judgement.ranks is not None
    }
    rows = {user: row for row, user in enumerate(sorted({user for user, _ in answers}))}
    units = {
        unit: column
        for column, unit in enumerate(
            sorted(
                {
                    (task, position)
                    for (_, task), judgement in answers.items()
                    for position in range(len(judgement.ranks or ()))
                }
            )
        )
    }
    found = []
    for tag in tags:
        values, marks = np.full((len(rows), len(units)), np.nan), 0
        for (user, task), judgement in answers.items():
            own = [mark for mark in judgement.tags or () if mark["tag"] == tag]
            marks += sum("seconds" in mark for mark in own)
            for position in range(len(judgement.ranks or ())):
                has_it = any(mark["video"] == position for mark in own)
                values[rows[user], units[task, position]] = float(has_it)
        found.append(
            TagSummary(
                tag=tag,
                videos=int(np.nansum(values > 0, axis=0).astype(bool).sum()),
                share=float(np.nanmean(values)) if units else float("nan"),
                marks=marks,
                alpha=krippendorff_alpha(values) if units else float("nan"),
            )
        )
    return found
