"""`vidalign label`: the labeling app and its data."""

from __future__ import annotations

import contextlib
import math
import secrets
import socket
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from alignment.cli import Verb
from alignment.cli.commands.label_campaign import CAMPAIGN_HELP, DB_HELP, command_line_user
from alignment.cli.commands.label_export import ExportArguments, run_export
from alignment.cli.commands.label_lead import LEAD_VERBS, reward_score
from alignment.cli.commands.label_token import TokenArguments, run_token
from alignment.cli.commands.label_webhook import WebhookArguments, run_webhook
from alignment.cli.next_command import show_next
from generator.output import InputError, read_jsonl
from labeling_app.campaigns.overview import prepare_quality
from labeling_app.files.candidates import import_tasks, read_candidates
from labeling_app.files.foreign_preferences import import_preferences
from labeling_app.files.remote_candidates import as_source
from labeling_app.quality.agreement import agreement, skips
from labeling_app.quality.hidden_checks import HiddenChecks, hidden_checks
from labeling_app.quality.reliability import reliabilities
from labeling_app.simulate import Score, precomputed_scores, simulate
from labeling_app.store.backup import backup, restore
from labeling_app.store.database import existing_database
from labeling_app.store.remote_files import RemoteFiles
from labeling_app.store.store import Store
from reward.formats import FORMAT_HELP, read_preferences

HELP = (
    "Collect human rankings and demonstrations: serve, import, select, export, quality, simulate, backup, …"
)
EXAMPLE = "vidalign label serve --db sqlite:///labels.db --port 7860"
LONGEST_LEASE_MINUTES = 7 * 24 * 60


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
class UsersArguments:
    """People who may log in. Without --add, --set_role and --set_password, all users are listed."""

    db: str = field(metadata={"help": DB_HELP})
    add: str | None = field(
        default=None, metadata={"help": "Add a user of this name; prints the password once."}
    )
    role: str = field(
        default="annotator", metadata={"help": "Role of the new user: annotator, lead or admin."}
    )
    set_role: str | None = field(
        default=None, metadata={"help": "Give the user of this name the role that --role says."}
    )
    set_password: str | None = field(
        default=None, metadata={"help": "Give the user of this name a new password; prints it once."}
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
    import uvicorn

    from labeling_app.web.server import create_app
    from labeling_app.web.webhook_delivery import WebhookDelivery
    from reward.service.listening import address_of, listen

    if not 0 < arguments.lease_minutes <= LONGEST_LEASE_MINUTES:
        raise InputError(
            f"lease_minutes is {arguments.lease_minutes}: give a number above 0 and at most {LONGEST_LEASE_MINUTES}."
        )
    candidates = Path(arguments.candidates) if arguments.candidates else None
    if candidates is not None and not candidates.is_dir():
        raise InputError(f"The folder {candidates} of candidates does not exist: make it or name another.")
    lease = 60.0 * arguments.lease_minutes
    if not 0 <= arguments.cache_gb < math.inf:
        raise InputError(f"cache_gb is {arguments.cache_gb}: give the gigabytes that may be used, 0 or more.")
    kept = int(arguments.cache_gb * 1e9)
    with Store(arguments.db, lease_seconds=lease, uploads=arguments.uploads, cache_bytes=kept) as store:
        app = create_app(store, arguments.campaign, candidates)
        listener = listen(arguments.host, arguments.port)
        if not any(user.password_hash for user in store.users()):
            password = secrets.token_urlsafe(9)
            name = _free_name(store, "admin")
            store.add_user(name, password, role="admin")
            store.record(command_line_user(), "add user", user=name, role="admin")
            print(f"Made the first user: {name}, password {password} (shown only now).")
        if not store.campaigns():
            print("There is nothing to rank yet: vidalign label import adds videos while this runs.")
        host = "127.0.0.1" if arguments.host == "0.0.0.0" else arguments.host
        address = address_of(listener, host)

        class AnnouncedServer(uvicorn.Server):
            """Says its address as soon as, and not before, it takes connections."""

            async def startup(self, sockets: list[socket.socket] | None = None) -> None:
                await super().startup(sockets)
                if self.started:
                    print(f"Labeling app: {address}  (Ctrl+C ends it)", flush=True)

        server = AnnouncedServer(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=3))
        prepare_quality(store)
        with WebhookDelivery(store), contextlib.suppress(KeyboardInterrupt):
            server.run(sockets=[listener])


def run_import(arguments: ImportArguments) -> None:
    """Imports candidates as tasks, or rankings with their tasks."""
    if (arguments.videos is None) == (arguments.preferences is None):
        raise InputError("Say what to import: either --videos to rank or --preferences, rankings of others.")
    if arguments.videos is None:
        _import_preferences(arguments)
        return
    # A mistake in a file makes no database. Nothing is fetched yet but lists of videos.
    read_candidates([as_source(source) for source in arguments.videos], RemoteFiles(Path()))
    with Store(arguments.db) as store:
        summary = import_tasks(
            store,
            arguments.videos,
            campaign=arguments.campaign,
            overlap=arguments.overlap,
            dimensions=arguments.dimensions,
            skip_bad=arguments.skip_bad,
            progress=True,
        )
        store.record(command_line_user(), "import", campaign=arguments.campaign, tasks=summary.added)
    for problem in summary.problems:
        print(f"Left out: {problem}")
    print(f"Campaign {arguments.campaign}: {summary.added} new task(s), {summary.known} known already.")
    show_next("label", "serve", "--db", arguments.db)


def _import_preferences(arguments: ImportArguments) -> None:
    read_preferences(
        arguments.preferences or "", arguments.format
    )  # A mistake in the file makes no database.
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


def run_users(arguments: UsersArguments) -> None:
    """Adds a user, sets a password or a role, or lists all users."""
    if sum(name is not None for name in (arguments.add, arguments.set_role, arguments.set_password)) > 1:
        raise InputError(
            "More than one of --add, --set_role and --set_password was given: give one at a time."
        )
    with Store(arguments.db if arguments.add is not None else existing_database(arguments.db)) as store:
        password = secrets.token_urlsafe(9)
        if arguments.add is not None:
            user = store.add_user(arguments.add, password, role=arguments.role)
            store.record(command_line_user(), "add user", user=user.name, role=user.role)
            print(f"{user.role} {user.name}, password {password} (shown only now)")
        elif arguments.set_role is not None:
            store.set_role(arguments.set_role, arguments.role)
            store.record(command_line_user(), "set role", user=arguments.set_role, role=arguments.role)
            print(f"{arguments.set_role} is {arguments.role} now")
        elif arguments.set_password is not None:
            store.set_password(arguments.set_password, password)
            store.record(command_line_user(), "set password", user=arguments.set_password)
            print(f"{arguments.set_password}, new password {password} (shown only now)")
        else:
            for user in store.users():
                print(f"{user.name}\t{'simulated' if user.simulated else user.role}")


def run_quality(arguments: QualityArguments) -> None:
    """Prints how far the annotators agree."""
    with Store(existing_database(arguments.db)) as store:
        found = agreement(store, arguments.campaign, arguments.dimension)
        reliability = {person.name: person for person in reliabilities(store, arguments.campaign)}
        hidden = hidden_checks(store, arguments.campaign)
        reasons = Counter(skip.reason for skip in skips(store, arguments.campaign))
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
    for reason, count in reasons.most_common(10):
        print(f"skipped {count}: {' '.join(reason.split())[:100]}")


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


def _free_name(store: Store, name: str) -> str:
    taken = {user.name for user in store.users()}
    return next(
        candidate for candidate in (name, *(f"{name}{i}" for i in range(2, 1000))) if candidate not in taken
    )


def _seconds(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.1f}"


def _number(value: float) -> str:
    return "  –  " if math.isnan(value) else f"{value:.3f}"


VERBS = {
    "serve": Verb("Open the labeling app in the browser.", (ServeArguments,), run_serve),
    "import": Verb("Add videos to rank.", (ImportArguments,), run_import),
    "export": Verb("Write rankings as JSONL.", (ExportArguments,), run_export),
    "users": Verb("Add or list users.", (UsersArguments,), run_users),
    "token": Verb("Make, revoke or list API tokens of programs.", (TokenArguments,), run_token),
    "webhook": Verb("Tell other programs of events.", (WebhookArguments,), run_webhook),
    "backup": Verb("Copy the database into one file.", (BackupArguments,), run_backup),
    "restore": Verb("Fill an empty database from a backup.", (RestoreArguments,), run_restore),
    "quality": Verb("Print how far annotators agree.", (QualityArguments,), run_quality),
    **LEAD_VERBS,
    "simulate": Verb("Let simulated annotators rank.", (SimulateArguments,), run_simulate),
}
