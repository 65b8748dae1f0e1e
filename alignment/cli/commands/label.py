"""`vidalign label`: the labeling app and its data."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alignment.cli import Verb
from alignment.cli.commands.label_campaign import CAMPAIGN_HELP, DB_HELP, command_line_user
from alignment.cli.commands.label_export import ExportArguments, run_export
from alignment.cli.commands.label_lead import LEAD_VERBS, reward_score
from alignment.cli.commands.label_people import PEOPLE_VERBS
from alignment.cli.commands.label_space import SPACE_VERBS
from alignment.cli.commands.label_token import TokenArguments, run_token
from alignment.cli.commands.label_webhook import WebhookArguments, run_webhook
from alignment.cli.next_command import show_next
from generator.output import InputError, read_jsonl
from generator.video_files.remote_files import RemoteFiles
from labeling_app.files.candidates import import_tasks, read_candidates
from labeling_app.files.compared_models import import_compared, read_compared
from labeling_app.files.foreign_preferences import import_preferences
from labeling_app.files.remote_candidates import as_source
from labeling_app.quality.agreement import agreement, skips
from labeling_app.quality.compared_models import win_rates
from labeling_app.quality.hidden_checks import HiddenChecks, hidden_checks
from labeling_app.quality.reliability import reliabilities
from labeling_app.quality.tag_summary import tag_summaries
from labeling_app.simulate import Score, precomputed_scores, simulate
from labeling_app.store.backup import backup, restore
from labeling_app.store.database import existing_database
from labeling_app.store.store import Store
from reward.formats import FORMAT_HELP

HELP = (
    "Collect human rankings and demonstrations: serve, import, select, export, quality, simulate, backup, …"
)
EXAMPLE = "vidalign label serve --db sqlite:///labels.db --port 7860"


@dataclass
class ServeArguments:
    """Database and address of the labeling app."""

    db: str = field(metadata={"help": DB_HELP})
    host: str = field(
        default="127.0.0.1", metadata={"help": "Address to listen on; 0.0.0.0 for the whole network."}
    )
    port: int = field(default=7860, metadata={"help": "Port to listen on; 0 takes a free one."})
    campaign: str | None = field(
        default=None, metadata={"help": "Give out only this campaign; by default all, oldest first."}
    )
    lease_minutes: float = field(
        default=15.0, metadata={"help": "Minutes of silence after which a task goes to somebody else."}
    )
    candidates: str | None = field(
        default=None,
        metadata={"help": "Folder whose subfolders of generated videos leads may import from their page."},
    )
    uploads: str | None = field(
        default=None,
        metadata={"help": "Folder for uploaded demonstrations; beside an SQLite file by default."},
    )
    oidc: str | None = field(
        default=None,
        metadata={"help": "JSON file that describes an OpenID provider by which people may sign in too."},
    )
    cache_gb: float = field(
        default=20.0,
        metadata={
            "help": "Gigabytes of videos of other storage that are kept in that folder while they are used."
        },
    )


@dataclass
class ImportArguments:
    """Videos to rank, or rankings that people gave elsewhere."""

    db: str = field(metadata={"help": DB_HELP})
    videos: list[str] | None = field(
        default=None,
        metadata={
            "help": "Folders with metadata.jsonl (as `vidalign generate` writes them) or JSONL files with "
            "prompt and videos, paths or URLs such as s3://bucket/folder; the videos of a prompt from several folders "
            "are put together."
        },
    )
    compare: list[str] | None = field(
        default=None,
        metadata={
            "help": "Instead: folders of two or more models, NAME=FOLDER or FOLDER, whose videos of the same prompt "
            "and seed are compared two by two without their names; `vidalign evaluate human` has the result."
        },
    )
    preferences: str | None = field(
        default=None,
        metadata={"help": "Instead: file of rankings that were given elsewhere, in a layout of --format."},
    )
    format: str = field(default="auto", metadata={"help": FORMAT_HELP})
    annotator: str = field(
        default="imported", metadata={"help": "Name of the external annotator of --preferences."}
    )
    campaign: str = field(default="default", metadata={"help": "Name of the campaign; made if it is new."})
    overlap: int | None = field(
        default=None,
        metadata={
            "help": "Different annotators a task, for a new campaign (1 if not given, "
            "or as many as judged the tasks of --preferences)."
        },
    )
    dimensions: list[str] | None = field(
        default=None,
        metadata={
            "help": "Dimensions that are judged, for a new campaign: overall, visual, motion, alignment (overall, or "
            "those of --preferences, if not given)."
        },
    )
    skip_bad: bool = field(
        default=False, metadata={"help": "Leave out unusable videos instead of importing nothing."}
    )


@dataclass
class QualityArguments:
    """Judgements that are looked at."""

    db: str = field(metadata={"help": DB_HELP})
    campaign: str = field(default="default", metadata={"help": CAMPAIGN_HELP})
    dimension: str | None = field(default=None, metadata={"help": "Only this dimension; all if not given."})


@dataclass
class SimulateArguments:
    """Annotators who are programs; their users are named and flagged as simulated."""

    db: str = field(metadata={"help": DB_HELP})
    campaign: str = field(default="default", metadata={"help": CAMPAIGN_HELP})
    reward: str | None = field(
        default=None,
        metadata={
            "help": "Reward model that scores the videos; `world` is the gold score of the built-in world."
        },
    )
    scores: str | None = field(
        default=None,
        metadata={"help": "Instead of --reward: JSONL with video (relative to the file) and score."},
    )
    annotators: int = field(default=3, metadata={"help": "Number of simulated annotators."})
    noise: float = field(default=0.15, metadata={"help": "Standard deviation of their noise on the score."})
    tie_threshold: float = field(default=0.1, metadata={"help": "Step of their scale; 0 for no ties."})
    position_bias: float = field(default=0.0, metadata={"help": "Added to the video shown first."})
    motion_bias: float = field(
        default=0.0, metadata={"help": "Added for each standard deviation of more motion; people: negative."}
    )
    seed: int = field(default=0, metadata={"help": "Seed of everything drawn."})


@dataclass
class BackupArguments:
    """Source and target of the copy. The server may go on; video files are not copied."""

    db: str = field(metadata={"help": DB_HELP})
    output_file: str = field(metadata={"help": "Backup to write, an SQLite file such as labels.backup.db."})
    overwrite: bool = field(default=False, metadata={"help": "Replace the file if it exists."})


@dataclass
class RestoreArguments:
    """Source and target of the restoration; from SQLite to PostgreSQL and back works too."""

    db: str = field(metadata={"help": DB_HELP + " It must be empty."})
    backup: str = field(metadata={"help": "File that `label backup` wrote."})


def run_backup(arguments: BackupArguments) -> None:
    """Writes all rows of a moment into one file."""
    count = backup(arguments.db, arguments.output_file, arguments.overwrite)
    with Store(existing_database(arguments.db)) as store:
        store.record(command_line_user(), "backup", rows=count)
    print(f"{count} row(s) in {arguments.output_file}")


def run_restore(arguments: RestoreArguments) -> None:
    """Fills an empty database from a backup."""
    count = restore(arguments.backup, arguments.db)
    with Store(arguments.db) as store:
        store.record(command_line_user(), "restore", rows=count)
    print(f"{count} row(s) restored")


def run_serve(arguments: ServeArguments) -> None:
    """Serves the labeling app until it is interrupted."""
    from labeling_app.web.launching import LabelingApp

    with LabelingApp(
        arguments.db,
        campaign=arguments.campaign,
        lease_minutes=arguments.lease_minutes,
        candidates=arguments.candidates,
        uploads=arguments.uploads,
        cache_gb=arguments.cache_gb,
        provider=arguments.oidc,
        user=command_line_user(),
    ) as app:
        app.serve(arguments.host, arguments.port)


def run_import(arguments: ImportArguments) -> None:
    """Imports candidates as tasks, or rankings with their tasks."""
    given = [
        each for each in (arguments.videos, arguments.compare, arguments.preferences) if each is not None
    ]
    if len(given) != 1:
        raise InputError(
            "Say what to import: either --videos to rank, --compare, models to compare, or --preferences, rankings of "
            "others."
        )
    if arguments.preferences is not None:
        _import_preferences(arguments)
        return
    # A mistake in a file makes no database.
    if arguments.compare is not None:
        read_compared(arguments.compare, RemoteFiles(Path()))
    else:
        # Nothing is fetched yet but lists of videos.
        read_candidates([as_source(source) for source in arguments.videos or ()], RemoteFiles(Path()))
    setup: dict[str, Any] = {
        name: getattr(arguments, name) for name in ("campaign", "overlap", "dimensions", "skip_bad")
    }
    notes: list[str] = []
    with Store(arguments.db) as store:
        if arguments.compare is not None:
            summary, notes = import_compared(store, arguments.compare, **setup, progress=True)
        else:
            summary = import_tasks(store, arguments.videos or (), **setup, progress=True)
        store.record(command_line_user(), "import", campaign=arguments.campaign, tasks=summary.added)
    for problem in summary.problems:
        print(f"Left out: {problem}")
    for note in notes:
        print(f"Note: {note}")
    print(f"Campaign {arguments.campaign}: {summary.added} new task(s), {summary.known} known already.")
    show_next("label", "serve", "--db", arguments.db)


def _import_preferences(arguments: ImportArguments) -> None:
    with Store(arguments.db) as store:
        done = import_preferences(
            store,
            arguments.preferences or "",
            campaign=arguments.campaign,
            annotator=arguments.annotator,
            format=arguments.format,
            overlap=arguments.overlap,
            dimensions=arguments.dimensions,
            progress=True,
        )
        store.record(
            command_line_user(), "import rankings", campaign=arguments.campaign, judgements=done.judgements
        )
    names = ", ".join(done.annotators[:5]) + (" …" if len(done.annotators) > 5 else "")
    print(
        f"Campaign {arguments.campaign}: {done.judgements} new ranking(s) of {names} (imported), {done.known} known "
        f"already; {done.tasks} new task(s)."
    )


def run_quality(arguments: QualityArguments) -> None:
    """Prints how far the annotators agree."""
    with Store(existing_database(arguments.db)) as store:
        found = agreement(store, arguments.campaign, arguments.dimension)
        reliability = {person.name: person for person in reliabilities(store, arguments.campaign)}
        hidden = hidden_checks(store, arguments.campaign)
        reasons = Counter(skip.reason for skip in skips(store, arguments.campaign))
        tags = tag_summaries(store, arguments.campaign)
        rates = win_rates(store, arguments.campaign)
    print(f"{found.num_judgements} rankings of {found.num_tasks} tasks, {found.num_labels} pair labels")
    print(f"Krippendorff's alpha      {_number(found.alpha)}  [{_number(found.alpha_low)}, ", end="")
    print(f"{_number(found.alpha_high)}]")
    print(f"pairwise agreement        {_number(found.pairwise)}")
    print(f"  among labels, no ties   {_number(found.pairwise_without_ties)}")
    print(f"tie rate                  {_number(found.tie_rate)}")
    print("annotator             tasks skips seconds  ties  agreement  accuracy   gold  repeats  look at")
    for person in found.annotators:
        known = reliability.get(person.name)
        checks = hidden.get(person.name, HiddenChecks())
        print(
            f"{person.name[:20]:20}  {person.judgements:5} {person.skips:5} {_seconds(person.median_seconds):>7} "
            f"{_number(person.tie_rate)}      {_number(person.agreement)}     "
            f"{_number(known.accuracy if known else math.nan)}     {_number(checks.gold_accuracy)}    "
            f"{_number(checks.self_consistency)}  {', '.join(known.flags) if known else ''}"
        )
    for tag in tags:
        print(
            f"tag {tag.tag}: {tag.videos} video(s), {_percent(tag.share)} of those judged, alpha "
            f"{_number(tag.alpha).strip()}"
        )
    for reason, count in reasons.most_common(10):
        print(f"skipped {count}: {' '.join(reason.split())[:100]}")
    for (first, second), result in rates.items():
        rate = result.win_rate
        print(
            f"{first} against {second}: win rate {rate.mean:.3f}  [{_number(rate.low)}, {_number(rate.high)}], width "
            f"{_number(result.width)}, {rate.n} judgements"
        )


def run_simulate(arguments: SimulateArguments) -> None:
    """Lets simulated annotators rank what is left to rank."""
    if (arguments.reward is None) == (arguments.scores is None):
        raise InputError("Simulated annotators need one gold score: give either --reward or --scores.")
    with Store(existing_database(arguments.db)) as store:
        dimensions = store.campaign(arguments.campaign).dimensions
        if arguments.reward is not None:
            score = {dimension: reward_score(arguments.reward, dimension) for dimension in dimensions}
        else:
            score = dict.fromkeys(dimensions, _scores_from_file(Path(arguments.scores or "")))
        done = simulate(
            store,
            arguments.campaign,
            score,
            annotators=arguments.annotators,
            seed=arguments.seed,
            noise=arguments.noise,
            tie_threshold=arguments.tie_threshold,
            position_bias=arguments.position_bias,
            motion_bias=arguments.motion_bias,
            progress=True,
        )
        store.record(
            command_line_user(), "simulate", campaign=arguments.campaign, judgements=done.num_judgements
        )
    print(f"{done.num_judgements} ranking(s) by {len(done.annotators)} simulated annotators")
    for dimension in dimensions:
        best = done.best_possible_pair_accuracy(dimension)
        print(f"best possible pair accuracy ({dimension}): {_number(best)}")
    file = f"{arguments.campaign}.jsonl"
    show_next(
        "label", "export", "--db", arguments.db, "--campaign", arguments.campaign, "--output_file", file
    )


def _scores_from_file(path: Path) -> Score:
    try:
        rows = [row for _, row in read_jsonl(path)]
        return precomputed_scores({path.parent / row["video"]: float(row["score"]) for row in rows})
    except InputError:
        raise
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f'{path} is not a file of scores: each line needs "video" and a number as "score".'
        ) from error


def _seconds(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.1f}"


def _percent(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.1%}"


def _number(value: float) -> str:
    return "  –  " if math.isnan(value) else f"{value:.3f}"


VERBS = {
    "serve": Verb("Open the labeling app in the browser.", (ServeArguments,), run_serve),
    "import": Verb("Add videos to rank.", (ImportArguments,), run_import),
    "export": Verb("Write rankings as JSONL.", (ExportArguments,), run_export),
    **PEOPLE_VERBS,
    "token": Verb("Make, revoke or list API tokens of programs.", (TokenArguments,), run_token),
    "webhook": Verb("Tell other programs of events.", (WebhookArguments,), run_webhook),
    "backup": Verb("Copy the database into one file.", (BackupArguments,), run_backup),
    "restore": Verb("Fill an empty database from a backup.", (RestoreArguments,), run_restore),
    "quality": Verb("Print how far annotators agree.", (QualityArguments,), run_quality),
    **LEAD_VERBS,
    **SPACE_VERBS,
    "simulate": Verb("Let simulated annotators rank.", (SimulateArguments,), run_simulate),
}
