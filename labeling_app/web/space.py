"""The labeling app in a Hugging Face Space, as the `app.py` of `vidalign label space` runs it.

Everything secret comes from the environment: `OAUTH_CLIENT_SECRET`, which the hub sets in a Space with
`hf_oauth: true`, and `HF_TOKEN`, which its owner sets.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import select

from generator.output import InputError, read_json
from labeling_app.files.candidates import file_hash, import_tasks
from labeling_app.files.space_folder import SETTINGS, TASKS
from labeling_app.people.provider_accounts import AccountRules
from labeling_app.store.store import Store
from labeling_app.store.tables import AuditEvent
from labeling_app.web.launching import LabelingApp
from labeling_app.web.provider import Provider, ProviderSettings
from labeling_app.web.space_backup import DatasetBackup

PERSISTENT = "/data"
"""Folder in which the hub keeps files over restarts, in a Space that has such storage."""
FRAMED_BY = "https://huggingface.co"
IMPORTED = "import of the Space"


@dataclass(frozen=True)
class SpaceSettings:
    """Settings of a Space, from its environment.

    Attributes:
        provider: Hugging Face, by whose accounts people sign in.
        storage: folder of the database.
        dataset: repository to which the database is copied; None with persistent storage.
        token: secret that may write to the repository.
        port: to listen on.
    """

    provider: Provider
    storage: Path
    dataset: str | None
    token: str | None
    port: int


def space_settings(folder: Path, environment: Mapping[str, str]) -> SpaceSettings:
    """Reads the settings of a Space whose files are in `folder`.

    Raises:
        InputError: a variable is missing, or answers would be lost at a restart.
    """
    missing = [
        name
        for name in ("OAUTH_CLIENT_ID", "OAUTH_CLIENT_SECRET", "OPENID_PROVIDER_URL", "SPACE_HOST")
        if not environment.get(name)
    ]
    if missing:
        raise InputError(
            f"{', '.join(missing)} is not set: run this in a Space whose README.md says hf_oauth: true."
        )
    persistent = Path(environment.get("VIDALIGN_STORAGE") or PERSISTENT)
    kept = persistent.is_dir() and os.access(persistent, os.W_OK)
    dataset, token = environment.get("VIDALIGN_BACKUP_DATASET"), environment.get("HF_TOKEN")
    if not kept and not (dataset and token):
        raise InputError(
            "This Space would lose all answers at a restart: add persistent storage, or set the variable "
            "VIDALIGN_BACKUP_DATASET and the secret HF_TOKEN."
        )
    storage = persistent if kept else folder / "storage"
    port = int(environment.get("GRADIO_SERVER_PORT") or 7860)
    return SpaceSettings(_provider(environment), storage, None if kept else dataset, token, port)


def _provider(environment: Mapping[str, str]) -> Provider:
    annotators = _names(environment.get("VIDALIGN_ANNOTATORS", ""))
    settings = ProviderSettings(
        name="Hugging Face",
        issuer=environment["OPENID_PROVIDER_URL"].rstrip("/"),
        client_id=environment["OAUTH_CLIENT_ID"],
        # The first of several names is that of the hub, to which alone it sends people back.
        address=f"https://{environment['SPACE_HOST'].partition(',')[0].strip()}",
        scope=environment.get("OAUTH_SCOPES") or "openid profile",
        rules=AccountRules(
            name_claim="preferred_username",
            anyone=not annotators,
            leads=_names(environment.get("VIDALIGN_LEADS") or environment.get("SPACE_AUTHOR_NAME", "")),
            annotators=annotators,
        ),
    )
    return Provider(settings, environment["OAUTH_CLIENT_SECRET"])


def serve_space(folder: Path, settings: SpaceSettings) -> None:
    """Serves the app until the process is told to end.

    Raises:
        InputError: the database cannot be opened, or the copy of it not be read or written.
    """
    settings.storage.mkdir(parents=True, exist_ok=True)
    database = settings.storage / "labels.db"
    copies = None if settings.dataset is None else DatasetBackup(database, settings.dataset, settings.token)
    if copies is not None:
        copies.restore()
    # The hub's proxy says from where people come.
    os.environ.setdefault("FORWARDED_ALLOW_IPS", "*")
    signal.signal(signal.SIGTERM, _end)
    with LabelingApp(
        database, provider=settings.provider, passwords=False, user="space", framed_by=FRAMED_BY
    ) as app:
        import_own_tasks(app.store, folder)
        if copies is None:
            app.serve("0.0.0.0", settings.port)
            return
        with copies:
            app.serve("0.0.0.0", settings.port)


def import_own_tasks(store: Store, folder: Path) -> None:
    """Imports the tasks of the folder once; what leads change afterwards is never undone by a restart."""
    tasks = folder / TASKS
    if not tasks.is_file():
        return
    content = file_hash(tasks)
    with store.read() as session:
        events = session.scalars(select(AuditEvent).where(AuditEvent.action == IMPORTED))
        if any(event.details.get("sha256") == content for event in events):
            return
    settings = read_json(folder / SETTINGS)
    name = settings["campaign"]
    is_new = name not in {campaign.name for campaign in store.campaigns()}
    try:
        done = import_tasks(
            store,
            tasks,
            name,
            overlap=settings["overlap"] if is_new else None,
            dimensions=settings["dimensions"] if is_new else None,
            copy=False,
        )
    except InputError as error:
        # Those who rank other tasks go on.
        print(f"The tasks of this Space were not imported: {error}", flush=True)
        return
    store.record("space", IMPORTED, campaign=name, tasks=done.added, sha256=content)
    print(f"Campaign {name}: {done.added} new task(s).", flush=True)


def main(folder: Path) -> None:
    """Serves the Space whose files are in `folder`; a mistake in its settings is one sentence and exit code 2."""
    try:
        serve_space(folder, space_settings(folder, os.environ))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _end(*_: object) -> None:
    raise KeyboardInterrupt
