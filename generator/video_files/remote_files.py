"""Videos on S3 and other storage that fsspec knows, named by URLs and kept in a bounded folder while they are used.

Browsers never get a URL, which could name the model that made a video: they ask the labeling app, which fetches a file
as a whole, checks it against the hash that was imported, and answers ranges of it from the folder.
"""

from __future__ import annotations

import hashlib
import logging
import os
import posixpath
import re
import threading
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from generator.output import InputError, atomic_path, write_text

logger = logging.getLogger(__name__)

CACHE_BYTES = 20 * 10**9
MAXIMUM_BYTES = 4 * 10**9
"""Largest file that is fetched."""
LONGEST_TEXT = 256 * 10**6
"""Largest list of videos that is fetched."""
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_NOT_REMOTE = frozenset(
    {
        "file",
        "local",
        "data",
        "dir",
        "zip",
        "tar",
        "libarchive",
        "cached",
        "blockcache",
        "filecache",
        "simplecache",
    }
    | {"reference", "generic", "async_wrapper", "git", "jlab", "jupyter", "dask"}
)
"""Protocols of fsspec that read files of this machine, or wrap another one."""
_VERSION_KEYS = (
    *("etag", "md5", "md5hash", "content_md5", "content-md5", "generation", "versionid"),
    *("lastmodified", "last_modified", "mtime", "created"),
)
_CHUNK, _BLOCK = 1 << 20, 1 << 23
_MARK = ".mark"
FETCHED_AT_A_TIME = 8


class KnownFile(Protocol):
    """A file whose contents are known: its path or URL, their SHA-256, and what its storage said of the version."""

    @property
    def path(self) -> str: ...
    @property
    def sha256(self) -> str: ...
    @property
    def remote_version(self) -> str: ...


class FileOfHash(NamedTuple):
    """A `KnownFile` of which no version is known."""

    path: str
    sha256: str
    remote_version: str = ""


def is_url(source: str | Path) -> bool:
    """Returns whether a source is a URL and not a path."""
    return _URL.match(str(source)) is not None


def checked_url(url: str) -> str:
    """The URL as it is kept.

    Raises:
        InputError: it names files of this machine or several protocols, holds a user, a password or a signature, or
            leads upwards.
    """
    scheme, rest = url.partition("://")[::2]
    shown = f"{scheme[:20]}://{rest.rpartition('@')[2].partition('?')[0][:80]}"
    if scheme.lower() in _NOT_REMOTE or "::" in url:
        raise InputError(
            f"{shown} is not the URL of a storage: give a plain path for files of this machine, or one URL such as "
            "s3://bucket/folder."
        )
    if "@" in rest.partition("/")[0] or (scheme.lower() in ("http", "https") and "?" in rest):
        raise InputError(
            f"The URL {shown} holds a user, a password or a signature, which would be stored: leave it out, and give "
            "the key by the storage's own settings, such as AWS_ACCESS_KEY_ID."
        )
    if {".", ".."} & set(rest.split("/")) or not url.isprintable() or "\\" in rest or not rest.strip("/"):
        raise InputError(f"The URL {shown!r} is not plain: write it without ., .. and special characters.")
    return f"{scheme.lower()}://{rest}"


def joined_url(folder: str, name: str) -> str:
    """The URL of a file that a list in `folder` names; a list elsewhere may name only what is in its own storage.

    Raises:
        InputError: the name is a path of this machine, leads out of the folder, or is a URL of another storage.
    """
    if is_url(name):
        named, own = checked_url(name), folder.split("/")[:3]
        if named.split("/")[:3] != own:
            raise InputError(
                f"The list in {folder} names {name[:80]!r}, which is in another storage: name files of "
                f"{'/'.join(own)} only, or keep the list on this machine."
            )
        return named
    if name.startswith("/") or "\\" in name or posixpath.normpath(name).startswith(".."):
        raise InputError(
            f"The list in {folder} names {name[:80]!r}, which leads out of its folder: name files in it."
        )
    return checked_url(f"{folder.rstrip('/')}/{posixpath.normpath(name)}")


class RemoteFiles:
    """The folder in which files of other storage are kept while they are used.

    Args:
        folder: made when the first file is fetched.
        limit: bytes of all files in it; those not used for longest go first. None keeps all.
    """

    def __init__(self, folder: Path, limit: int | None = CACHE_BYTES) -> None:
        self.folder = folder.absolute()
        self.limit = limit
        self._urls: dict[Path, str] = {}
        self._locks: defaultdict[Path, threading.Lock] = defaultdict(threading.Lock)
        self._held: Counter[Path] = Counter()
        self._counting = threading.Lock()

    def place(self, url: str) -> Path:
        """The path that a file gets here; it is not fetched yet.

        Raises:
            InputError: the URL may not be read (`checked_url`), or names neither a video nor an image.
        """
        from generator.video_files.decoding import VIDEO_SUFFIXES
        from generator.video_files.still_images import IMAGE_SUFFIXES

        url = checked_url(url)
        suffix = posixpath.splitext(url)[1].lower()
        if suffix not in VIDEO_SUFFIXES | IMAGE_SUFFIXES:
            raise InputError(
                f"{url} is neither a video file (mp4, webm, mov, mkv, …) nor an image: convert it."
            )
        path = self.folder / (hashlib.sha256(url.encode(errors="replace")).hexdigest()[:40] + suffix)
        self._urls[path] = url
        return path

    def url(self, path: Path) -> str:
        """The URL of a file that has a place here; empty for other files."""
        return self._urls.get(path, "")

    def fetch(self, path: Path) -> str:
        """Brings a file to its place if it is not there; returns what its storage says of its version.

        Raises:
            InputError: it is not there, too large, or cannot be read.
        """
        url = self._urls[path]
        with self._locks[path]:
            version = remote_version(url)
            if not version or self._mark(path)[1:] != [version]:
                self._bring(url, path, version)
            os.utime(path)
        return version

    def fetch_all(self, paths: Iterable[Path], progress: bool = True) -> None:
        """Brings the files among `paths` that have a place here, several at a time; what is there is not fetched again.

        Args:
            progress: show a bar.

        Raises:
            InputError: one of them cannot be fetched.
        """
        from tqdm import tqdm

        elsewhere = [path for path in dict.fromkeys(paths) if path in self._urls]
        pool = ThreadPoolExecutor(FETCHED_AT_A_TIME)
        try:
            hidden = not progress or not elsewhere
            for _ in tqdm(
                pool.map(self.fetch, elsewhere),
                desc="Fetching videos",
                unit="file",
                total=len(elsewhere),
                disable=hidden,
            ):
                pass
        finally:
            pool.shutdown(cancel_futures=True)  # one that cannot be fetched, or an interruption, ends all

    @contextmanager
    def held(self, path: Path) -> Iterator[None]:
        """Keeps a file at its place while a block reads it, however much is fetched meanwhile."""
        with self._counting:
            self._held[path] += 1
        try:
            yield
        finally:
            with self._counting:
                self._held[path] -= 1
            self._make_room()

    def local(self, media: KnownFile) -> Path:
        """A file with the contents of a video or image that were imported, fetched if need be.

        Raises:
            InputError: it cannot be fetched, or its storage holds something else by now.
        """
        if not is_url(media.path):
            return Path(media.path)
        path = self.place(media.path)
        with self._locks[path]:
            if self._mark(path)[:1] != [media.sha256]:
                self._bring(media.path, path, media.remote_version, media.sha256)
            os.utime(path)
        return path

    def _bring(self, url: str, path: Path, version: str, sha256: str | None = None) -> None:
        found = _download(url, path, sha256)
        write_text(path.with_name(f"{path.name}{_MARK}"), f"{found}\n{version}")
        self._make_room(path)

    def _mark(self, path: Path) -> list[str]:
        """Hash and version of the file that lies at a place; empty where there is none."""
        try:
            return (
                path.with_name(f"{path.name}{_MARK}").read_text("utf-8").split("\n") if path.is_file() else []
            )
        except OSError:
            return []

    def _make_room(self, kept: Path | None = None) -> None:
        if self.limit is None or not self.folder.is_dir():
            return
        found = []
        with os.scandir(self.folder) as entries:
            for entry in entries:
                if not entry.name.startswith(".") and not entry.name.endswith(_MARK) and entry.is_file():
                    state = entry.stat()
                    found.append((state.st_mtime, state.st_size, Path(entry.path)))
        total = sum(size for _, size, _ in found)
        for _, size, path in sorted(found):
            if total <= self.limit:
                return
            if path != kept and not self._held[path]:
                path.unlink(missing_ok=True)
                path.with_name(f"{path.name}{_MARK}").unlink(missing_ok=True)
                total -= size


def remote_version(url: str) -> str:
    """Hash of the facts that a storage tells of a file: another one means that it was written again; empty where it
    tells too few.

    Raises:
        InputError: there is no such file, or the storage cannot be read.
    """
    fs, path = _file_system(url)
    try:
        info = fs.info(path)
    except Exception as error:  # each storage's library has errors of its own, without a common class
        raise _unreadable(url, error) from error
    said = {str(key).lower(): value for key, value in info.items()}
    facts = [f"{key}={said[key]}" for key in _VERSION_KEYS if said.get(key)]
    return hashlib.sha256("\n".join([str(said.get("size")), *facts]).encode()).hexdigest() if facts else ""


def remote_hash(url: str) -> str | None:
    """SHA-256 of a file in a storage; None where it cannot be read."""
    try:
        digest = hashlib.sha256()
        fs, path = _file_system(url)
        with fs.open(path, "rb", block_size=_BLOCK, cache_type="readahead") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
    except Exception as error:  # of the storage's library
        logger.warning("%s", _unreadable(url, error))
        return None
    return digest.hexdigest()


def holds_version(media: KnownFile) -> bool:
    """Returns whether a storage still holds what was imported: in the same version, or else with the same contents."""
    try:
        version = remote_version(media.path)
    except InputError:
        return False
    return (version != "" and version == media.remote_version) or remote_hash(media.path) == media.sha256


def read_remote_text(url: str, path: Path) -> None:
    """Brings a list of videos to a path.

    Raises:
        InputError: it is not there, larger than 256 MB, or cannot be read.
    """
    _download(checked_url(url), path, longest=LONGEST_TEXT)


def _file_system(url: str) -> tuple[Any, str]:
    import fsspec

    try:
        return fsspec.core.url_to_fs(url)
    except ImportError as error:
        scheme = url.partition("://")[0]
        advice = 'pip install "vidalign[s3]"' if scheme in ("s3", "s3a") else f"install it ({error})"
        raise InputError(f"The library that reads {scheme}:// is not installed: {advice}.") from error
    except Exception as error:  # of the storage's library
        raise _unreadable(url, error) from error


def _download(url: str, path: Path, sha256: str | None = None, longest: int = MAXIMUM_BYTES) -> str:
    """Writes a file in one step, if it is not too large and, where that is known, holds what it shall; returns its
    SHA-256."""
    fs, source = _file_system(url)
    digest, size = hashlib.sha256(), 0
    with atomic_path(path) as temporary:
        try:
            # In order and once, so that no more of a file than a block is in memory; those of S3 are 50 MB by default.
            with (
                fs.open(source, "rb", block_size=_BLOCK, cache_type="readahead") as reading,
                temporary.open("wb") as writing,
            ):
                while chunk := reading.read(_CHUNK):
                    size += len(chunk)
                    if size > longest:
                        raise InputError(f"{url} has more than {longest / 1e9:g} GB: make it smaller.")
                    digest.update(chunk)
                    writing.write(chunk)
        except InputError:
            raise
        except Exception as error:  # of the storage's library
            raise _unreadable(url, error) from error
        if sha256 is not None and digest.hexdigest() != sha256:
            raise InputError(f"{url} has changed since it was imported: put the old file back.")
    return digest.hexdigest()


def _unreadable(url: str, error: Exception) -> InputError:
    if isinstance(error, FileNotFoundError):
        return InputError(f"There is no file {url}: correct the URL.")
    said = " ".join(str(error).split())[:200]
    return InputError(
        f"{url} cannot be read ({type(error).__name__}: {said}): check the URL, the key and the network."
    )
