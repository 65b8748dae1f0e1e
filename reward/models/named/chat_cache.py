"""Replies of judges on disk by the content of what was asked, so that nothing is asked twice."""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from reward.models.named.answers import Reply, Token

FILE_NAME = "replies.sqlite"
_PATIENCE = 60.0
"""Seconds that a process waits while another one writes."""


def key_of(frames: Sequence[bytes], text: str, facts: dict[str, Any]) -> str:
    """SHA-256 of what a reply depends on.

    Args:
        frames: raw 8-bit pixels of each frame, its size before them.
        text: all texts of the message.
        facts: model and sampling.
    """
    hashed = hashlib.sha256(json.dumps([text, facts], sort_keys=True, ensure_ascii=True).encode())
    for frame in frames:
        hashed.update(len(frame).to_bytes(8, "little"))
        hashed.update(frame)
    return hashed.hexdigest()


class ReplyCache:
    """Replies by key in `FOLDER/replies.sqlite`, which processes may share; a damaged file is made again.

    Args:
        folder: None keeps replies in memory only.
    """

    def __init__(self, folder: Path | None) -> None:
        self.path = None if folder is None else folder / FILE_NAME
        self.memory: dict[str, Reply] = {}
        self.lock = threading.Lock()

    def get(self, key: str) -> Reply | None:
        """The reply that was kept under a key."""
        with self.lock:
            if self.path is not None and self.path.is_file():
                with contextlib.suppress(sqlite3.Error, ValueError, TypeError), self._open() as database:
                    row = database.execute("SELECT reply FROM replies WHERE key = ?", (key,)).fetchone()
                    return None if row is None else _read(row[0])
            return self.memory.get(key)

    def put(self, key: str, reply: Reply) -> None:
        """Keeps a reply."""
        with self.lock:
            if self.path is None:
                self.memory[key] = reply
                return
            self.path.parent.mkdir(parents=True, exist_ok=True)
            try:
                self._write(key, reply)
            except sqlite3.OperationalError:
                raise
            except sqlite3.DatabaseError:
                self.path.unlink()
                self._write(key, reply)

    def _write(self, key: str, reply: Reply) -> None:
        with self._open() as database:
            database.execute("CREATE TABLE IF NOT EXISTS replies (key TEXT PRIMARY KEY, reply TEXT NOT NULL)")
            database.execute("INSERT OR REPLACE INTO replies VALUES (?, ?)", (key, _written(reply)))
            database.commit()

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        assert self.path is not None
        with closing(sqlite3.connect(self.path, timeout=_PATIENCE)) as database:
            yield database


def _written(reply: Reply) -> str:
    tokens = [[token.text, token.alternatives] for token in reply.tokens]
    return json.dumps({"text": reply.text, "tokens": tokens, "cut": reply.cut})


def _read(text: str) -> Reply:
    found = json.loads(text)
    tokens = tuple(
        Token(word, tuple((other, float(value)) for other, value in alternatives))
        for word, alternatives in found["tokens"]
    )
    return Reply(found["text"], tokens, bool(found["cut"]))
