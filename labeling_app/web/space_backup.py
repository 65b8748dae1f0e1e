"""Copies of a Space's database in a dataset repository, for a Space without persistent storage."""

from __future__ import annotations

import tempfile
import threading
from pathlib import Path
from types import TracebackType

import httpx
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError

from generator.output import InputError
from labeling_app.store.backup import backup, restore

FILE = "labels.backup.db"
SECONDS = 300.0


class DatasetBackup:
    """Copies an SQLite database to a dataset repository every few minutes and at the end, when it has changed.

    Use it as a context while the database is served; `restore` comes before.

    Args:
        database: the SQLite file.
        repository: such as `me/labels`; made private if it is new.
        token: secret that may write to it.
        seconds: between two copies.
        api: the hub.
    """

    def __init__(
        self,
        database: Path,
        repository: str,
        token: str | None,
        seconds: float = SECONDS,
        api: HfApi | None = None,
    ) -> None:
        self.database, self.repository, self.seconds = database, repository, seconds
        self.api = api or HfApi(token=token)
        self._saved: tuple[int, ...] = ()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._save_again_and_again, name="backup", daemon=True)

    def restore(self) -> bool:
        """Fills the database from the repository, unless it is there already; returns whether it did.

        Raises:
            InputError: the repository cannot be written to or read, or holds something else.
        """
        try:
            self.api.create_repo(self.repository, repo_type="dataset", private=True, exist_ok=True)
            if self.database.exists() or not self.api.file_exists(self.repository, FILE, repo_type="dataset"):
                return False
            copy = self.api.hf_hub_download(self.repository, FILE, repo_type="dataset")
        except (HfHubHTTPError, httpx.HTTPError, OSError, ValueError) as error:
            raise InputError(
                f"The dataset repository {self.repository} cannot be used ({str(error).splitlines()[0]}): correct "
                "VIDALIGN_BACKUP_DATASET, or give HF_TOKEN the right to write to it."
            ) from error
        restore(copy, self.database)
        return True

    def save(self) -> bool:
        """Copies the database if it has changed since the last copy; returns whether it did.

        Raises:
            InputError: the copy cannot be written.
            OSError, httpx.HTTPError: the hub cannot be reached or refuses the copy.
        """
        state = self._state()
        if state == self._saved:
            return False
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / FILE
            backup(self.database, copy)
            self.api.upload_file(
                path_or_fileobj=copy,
                path_in_repo=FILE,
                repo_id=self.repository,
                repo_type="dataset",
                commit_message="Backup of the labeling app",
            )
        self._saved = state
        return True

    def __enter__(self) -> DatasetBackup:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        self._try_to_save()

    def _save_again_and_again(self) -> None:
        while not self._ended.wait(self.seconds):
            self._try_to_save()

    def _try_to_save(self) -> None:
        try:
            self.save()
        except (InputError, HfHubHTTPError, httpx.HTTPError, OSError) as error:
            print(f"The database was not copied to {self.repository}: {error}", flush=True)

    def _state(self) -> tuple[int, ...]:
        files = (self.database, self.database.with_name(f"{self.database.name}-wal"))
        return tuple(file.stat().st_mtime_ns if file.exists() else 0 for file in files)
