"""Videos and images that a rankings file names: by paths relative to its folder, or by URLs of other storage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from generator.output import InputError
from generator.video_files.remote_files import RemoteFiles, is_url


def kept_files() -> RemoteFiles:
    """The place of fetched files that stay for later commands: `$VIDALIGN_CACHE/remote`, of any size."""
    from generator.data.latent_cache import default_cache_dir

    return RemoteFiles(default_cache_dir() / "remote", limit=None)


class RankedFiles:
    """Paths of the files that a rankings file in `folder` names.

    Args:
        remote: gives files of other storage their places, and whoever gives it fetches their videos. By default they
            have places among `kept_files`, and `fetch` brings them there.
    """

    def __init__(self, folder: Path, remote: RemoteFiles | None = None) -> None:
        self.folder = folder
        self._remote = remote
        self._fetches = remote is None
        self._named: dict[Path, str] = {}

    def path(self, name: str, place: str) -> Path:
        """The path of a file; one of other storage is not there before it is fetched.

        Args:
            place: file and line, for messages.

        Raises:
            InputError: it is a URL that may not be read.
        """
        if not is_url(name):
            return self.folder / name
        self._remote = self._remote or kept_files()
        try:
            path = self._remote.place(name)
        except InputError as error:
            raise InputError(f"{place}: {error}") from error
        self._named[path] = place
        return path

    def is_elsewhere(self, path: Path) -> bool:
        """Returns whether a path is the place of a file of other storage."""
        return path in self._named

    def with_images(self, row: dict[str, Any], place: str) -> dict[str, Any]:
        """The line with paths in place of the URLs of its images, which are fetched now.

        Raises:
            InputError: one cannot be fetched.
        """
        found = dict(row)
        for key in ("image", "last_image", "image_file_name", "last_image_file_name"):
            if isinstance(row.get(key), str) and is_url(row[key]):
                path = self.path(row[key], place)
                assert self._remote is not None
                self._remote.fetch(path)
                found[key] = str(path.absolute())
        return found

    def fetch(self) -> None:
        """Brings all files of other storage to their places, several at a time, with a progress bar.

        Raises:
            InputError: one cannot be fetched.
        """
        if self._fetches and self._remote is not None:
            self._remote.fetch_all(self._named)
