"""The API of the lead's pages: projects, campaigns, people, progress, quality, adjudication, export."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Body, Query
from fastapi.responses import Response
from pydantic import Field, StrictInt

from generator.output import InputError, is_storable
from labeling_app.campaigns import campaigns, cloning, demonstrations, lifecycle
from labeling_app.campaigns.campaigns import Rules
from labeling_app.campaigns.overview import campaign_overview, campaign_quality
from labeling_app.files.candidates import read_tasks
from labeling_app.files.ranking_tables import TABLE_TYPES, TABLES, attachment
from labeling_app.files.rankings import ranking_rows
from labeling_app.quality import adjudication
from labeling_app.store import guidelines
from labeling_app.store.campaign_rows import MAXIMUM_OVERLAP
from labeling_app.store.new_tasks import MAXIMUM_VIDEOS, NewTask
from labeling_app.store.store import Store
from labeling_app.tasks.lease import MAXIMUM_ID, MAXIMUM_TEXT
from labeling_app.tasks.marks import MAXIMUM_MARKS
from labeling_app.web.access import Lead
from labeling_app.web.annotator_api import TagMark, marks_of
from labeling_app.web.demonstration_api import media_for_page
from labeling_app.web.people_api import Strict, people_api
from labeling_app.web.plots import PLOTS, plot
from labeling_app.web.programs_api import programs_api
from labeling_app.web.tasks_api import disagreement_for_page

DEMONSTRATIONS_A_PAGE = 50
PATIENCE = 0.2
"""Seconds that a page waits for a result of a large campaign that is made for the first time, before it says so."""
CampaignName = Annotated[str, Query(max_length=200)]
Text = Annotated[str, Field(max_length=MAXIMUM_TEXT)]


class NewProject(Strict):
    """A project to make."""

    name: str = Field(max_length=200)
    description: Text = ""


class NewCampaign(Strict):
    """A campaign to make; its videos come from one of the folders that the server offers."""

    name: str = Field(max_length=200)
    overlap: int = Field(default=1, ge=1, le=MAXIMUM_OVERLAP)
    dimensions: list[str] = Field(default=["overall"], max_length=4)
    project: str | None = None
    candidates: str | None = None


class CampaignRules(Strict):
    """Rules to change; those left out stay."""

    gold_share: float | None = None
    repeat_share: float | None = None
    daily_cap: int | None = None
    quiz_size: int | None = None
    quiz_pass: float | None = None
    overlap: int | None = None
    dimensions: list[str] | None = Field(default=None, max_length=4)
    tags: list[str] | None = Field(default=None, max_length=100)
    gold_feedback: bool | None = None
    project: str | None = None


class NewName(Strict):
    """Another name of a campaign."""

    name: str = Field(max_length=200)


class Clone(Strict):
    """Name of a campaign that is made of another one, and whether it gets the tasks too."""

    name: str = Field(max_length=200)
    tasks: bool = False


class State(Strict):
    """State by which tasks of a campaign are given out."""

    state: Literal["open", "paused", "closed"]


class Deletion(Strict):
    """The name of the campaign to delete, typed once more."""

    name: str = Field(max_length=200)


class NewGuidelines(Strict):
    """The next version of the guidelines."""

    text: str = Field(max_length=guidelines.MAXIMUM_GUIDELINES)


class Decision(Strict):
    """A lead's ranking of a task, in the task's order; `gold` makes a hidden gold item of it."""

    ranks: dict[str, Annotated[list[StrictInt], Field(max_length=MAXIMUM_VIDEOS)]]
    comment: Text = ""
    gold: bool = False
    tags: list[TagMark] | None = Field(default=None, max_length=MAXIMUM_MARKS)


class NewPrompts(Strict):
    """Prompts that want demonstrations."""

    prompts: list[Text] = Field(max_length=1000)
    wanted: int = Field(default=1, ge=1, le=1000)


class Review(Strict):
    """Judgement of a lead on a demonstration."""

    state: Literal["given", "accepted", "rejected"]


def lead_api(store: Store, candidates: Path | None = None) -> APIRouter:
    """The routes.

    Args:
        candidates: folder whose subfolders with `metadata.jsonl` may be imported.
    """
    api = APIRouter(prefix="/api/lead", tags=["lead"])
    _add_campaigns(api, store, candidates)
    _add_lifecycle(api, store)
    api.include_router(people_api(store))
    api.include_router(programs_api(store))
    _add_audit(api, store)
    _add_quality(api, store)
    _add_demonstrations(api, store)
    return api


def _add_campaigns(api: APIRouter, store: Store, candidates: Path | None) -> None:
    @api.get("/overview")
    def overview(user: Lead) -> dict[str, Any]:
        """Projects, campaigns with their rules and progress, and the folders that can be imported."""
        return {
            "user": user.name,
            "role": user.role,
            "projects": [{"name": p.name, "description": p.description} for p in campaigns.projects(store)],
            "campaigns": [campaign_overview(store, row) for row in store.campaigns()],
            "candidates": _candidate_folders(candidates),
        }

    @api.post("/projects")
    def add_project(user: Lead, body: Annotated[NewProject, Body()]) -> dict[str, Any]:
        """Makes a project."""
        made = campaigns.add_project(store, body.name, body.description)
        store.record(user.name, "add project", project=made.name)
        return {"name": made.name}

    @api.post("/campaigns")
    def add_campaign(user: Lead, body: Annotated[NewCampaign, Body()]) -> dict[str, Any]:
        """Makes a campaign, with the videos of a folder where one is named."""
        if body.candidates is not None and body.candidates not in _candidate_folders(candidates):
            raise InputError(
                f"There is no folder {body.candidates!r} to import: choose one of those offered."
            )
        tasks: list[NewTask] = []
        if body.candidates is not None and candidates is not None:
            tasks, _ = read_tasks(candidates / body.candidates)
        row = campaigns.add_campaign(
            store, body.name.strip(), body.overlap, body.dimensions, body.project or None, tasks
        )
        added = len(store.tasks(row.name))
        store.record(user.name, "add campaign", campaign=row.name, tasks=added)
        return {"name": row.name, "tasks": added}

    @api.post("/rules")
    def set_rules(
        user: Lead, campaign: CampaignName, body: Annotated[CampaignRules, Body()]
    ) -> dict[str, Any]:
        """Changes a campaign's rules from the next task on."""
        given = body.model_dump(exclude_none=True)
        rules = {rule: value for rule, value in given.items() if rule != "project"}
        row = campaigns.set_rules(store, campaign, Rules(**rules), body.project)
        store.record(user.name, "set rules", campaign=campaign, **given)
        return campaign_overview(store, row)


def _add_lifecycle(api: APIRouter, store: Store) -> None:
    @api.post("/campaigns/name")
    def rename(user: Lead, campaign: CampaignName, body: Annotated[NewName, Body()]) -> dict[str, Any]:
        """Gives a campaign another name."""
        name = lifecycle.rename_campaign(store, campaign, body.name)
        store.record(user.name, "rename campaign", campaign=campaign, name=name)
        return {"name": name}

    @api.post("/campaigns/clone")
    def clone(user: Lead, campaign: CampaignName, body: Annotated[Clone, Body()]) -> dict[str, Any]:
        """Makes a campaign with the rules and guidelines of another, and with its tasks where asked to."""
        name, tasks = cloning.clone_campaign(store, campaign, body.name, body.tasks)
        store.record(user.name, "clone campaign", campaign=campaign, name=name, tasks=tasks)
        return {"name": name, "tasks": tasks}

    @api.post("/campaigns/state")
    def set_state(user: Lead, campaign: CampaignName, body: Annotated[State, Body()]) -> dict[str, Any]:
        """Opens, pauses or closes a campaign."""
        lifecycle.set_state(store, campaign, body.state)
        store.record(user.name, "set campaign state", campaign=campaign, state=body.state)
        return {"state": body.state}

    @api.post("/campaigns/delete")
    def delete(user: Lead, campaign: CampaignName, body: Annotated[Deletion, Body()]) -> dict[str, Any]:
        """Deletes a campaign with its tasks and answers; video files stay."""
        deleted = lifecycle.delete_campaign(store, campaign, body.name)
        store.record(user.name, "delete campaign", campaign=campaign, **deleted)
        return dict(deleted)

    @api.post("/guidelines")
    def set_guidelines(
        user: Lead, campaign: CampaignName, body: Annotated[NewGuidelines, Body()]
    ) -> dict[str, Any]:
        """Adds a version of a campaign's guidelines."""
        version = guidelines.set_guidelines(store, campaign, body.text)
        store.record(user.name, "set guidelines", campaign=campaign, version=version)
        return {"version": version}


def _add_audit(api: APIRouter, store: Store) -> None:
    @api.get("/audit")
    def audit(user: Lead) -> dict[str, Any]:
        """The latest events, newest first."""
        return {
            "events": [
                {"at": e.created_at, "user": e.user_name, "action": e.action, "details": e.details}
                for e in store.audit_events(200)
            ]
        }


def _add_quality(api: APIRouter, store: Store) -> None:
    @api.get("/quality")
    def quality(user: Lead, campaign: CampaignName) -> dict[str, Any]:
        """Agreement with its interval, and each annotator's reliability; null where there is too little data. Status
        202, with the share that is done as `computing`, while that of a large campaign is made for the first time."""
        return _without_nan(campaign_quality(store, campaign, PATIENCE))

    @api.get("/plots/{name}.svg", response_class=Response)
    def quality_plot(user: Lead, name: str, campaign: CampaignName) -> Response:
        """A plot of a campaign's quality."""
        if name not in PLOTS:
            raise InputError(f"There is no plot {name!r}: choose one of {', '.join(PLOTS)}.")
        return Response(plot(store, campaign, name), media_type="image/svg+xml")

    @api.get("/disagreements")
    def disagreements(user: Lead, campaign: CampaignName) -> dict[str, Any]:
        """Tasks that annotators disagree about or have flagged, the worst first. Status 202 as of the quality."""
        found = adjudication.disagreements(store, campaign, patience=PATIENCE)
        return {"tasks": [disagreement_for_page(item) for item in found]}

    @api.post("/tasks/{task_id}/adjudication")
    def adjudicate(user: Lead, task_id: int, body: Annotated[Decision, Body()]) -> dict[str, Any]:
        """Stores the lead's ranking of a task, which the export uses in place of those of annotators."""
        adjudication.adjudicate(store, user, task_id, body.ranks, body.comment, marks_of(body.tags))
        gold = campaigns.make_gold(store, task_id, body.ranks) if body.gold else None
        store.record(user.name, "adjudicate", task=task_id, gold=gold)
        return {"task": task_id, "gold": gold}

    @api.get("/export", response_class=Response)
    def export(
        user: Lead,
        campaign: CampaignName,
        raw: bool = False,
        skip_bad: bool = False,
        format: Literal["jsonl", "csv", "parquet"] = "jsonl",
    ) -> Response:
        """The rankings of a campaign as JSONL, CSV or Parquet; `raw` without the lead's decisions, `skip_bad` without
        those of videos whose files have changed or gone."""
        rows = ranking_rows(store, campaign, None, raw, skip_bad)
        store.record(user.name, "export", campaign=campaign, rows=len(rows))
        if format in TABLES:
            return Response(
                TABLES[format](rows), media_type=TABLE_TYPES[format], headers=attachment(campaign, format)
            )
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        return Response(text, media_type="application/x-ndjson", headers=attachment(campaign, "jsonl"))


def _add_demonstrations(api: APIRouter, store: Store) -> None:
    @api.get("/demonstrations")
    def given(
        user: Lead, campaign: CampaignName, first: Annotated[int, Query(ge=0, le=MAXIMUM_ID)] = 0
    ) -> dict[str, Any]:
        """A page of the demonstrations of a campaign, from the `first` on (0 is the oldest), and how many there are."""
        return {
            "count": demonstrations.count_demonstrations(store, campaign),
            "page": DEMONSTRATIONS_A_PAGE,
            "demonstrations": [
                {
                    "id": row.id,
                    "prompt": row.prompt.prompt,
                    "annotator": row.user.name,
                    "video": media_for_page(row.media),
                    "source": row.source,
                    "comment": row.comment,
                    "state": row.state,
                }
                for row in demonstrations.demonstrations(store, campaign, first, DEMONSTRATIONS_A_PAGE)
            ],
        }

    @api.post("/demonstrations/prompts")
    def ask(user: Lead, campaign: CampaignName, body: Annotated[NewPrompts, Body()]) -> dict[str, Any]:
        """Asks for demonstrations of prompts."""
        added = demonstrations.ask(store, campaign, body.prompts, body.wanted)
        store.record(user.name, "ask for demonstrations", campaign=campaign, prompts=added)
        return {"added": added}

    @api.post("/demonstrations/{demonstration_id}/review")
    def review(user: Lead, demonstration_id: int, body: Annotated[Review, Body()]) -> dict[str, Any]:
        """Accepts or rejects a demonstration."""
        demonstrations.review(store, demonstration_id, body.state)
        store.record(user.name, "review demonstration", demonstration=demonstration_id, state=body.state)
        return {"state": body.state}


def _candidate_folders(candidates: Path | None) -> list[str]:
    """Names of the folders that hold candidates, directly in the one that the server was given."""
    if candidates is None:
        return []
    names = (path.parent.name for path in candidates.glob("*/metadata.jsonl"))
    return sorted(name for name in names if not name.startswith(".") and is_storable(name))


def _without_nan(value: Any) -> Any:
    """The same with None for numbers that are not, which JSON does not have."""
    if isinstance(value, dict):
        return {key: _without_nan(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
