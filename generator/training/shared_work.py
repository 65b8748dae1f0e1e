"""Work that the processes of one launch share: each takes the next portion, and all know how far the others are.

They speak through the store of their launch, not through collectives: whoever is done with a portion of an hour keeps
no other waiting on a GPU, and a process that is alone speaks to nobody.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

POLL_SECONDS = 0.05
BEAT_SECONDS = 5.0
SILENT_SECONDS = 300.0
"""A process that shows no sign of life for so long is taken for lost."""

_count = itertools.count()


class SharedWork:
    """A piece of work of all processes of a launch.

    All must make it, and call `first`, `gather` and `once`, in the same order.

    Attributes:
        rank: number of this process, from 0.
        size: number of processes.

    Args:
        rank, size: those of the launch (`RANK` and `WORLD_SIZE`) by default.
        store: through which they speak; that of the launch by default.
    """

    def __init__(self, rank: int | None = None, size: int | None = None, store: Any = None) -> None:
        self.rank = int(os.environ.get("RANK", "0")) if rank is None else rank
        self.size = int(os.environ.get("WORLD_SIZE", "1")) if size is None else size
        self._keys = itertools.count()
        self._beats: dict[int, tuple[str, float]] = {}
        self._position = 0.0
        if self.size > 1:
            self._store = _launch_store() if store is None else store
            self._name = f"shared_work/{next(_count)}" if store is None else "shared_work"
            _begin_to_beat(self.rank)

    @property
    def is_first(self) -> bool:
        """True for the process that speaks and writes for all."""
        return self.rank == 0

    def first(self, find: Callable[[], T]) -> T:
        """Result of `find`, a value of JSON, in the first process; the others wait for it and do not call it."""
        return self.once(find)()

    def once(self, find: Callable[[], T]) -> Callable[[], T]:
        """A function that calls `find` in the first process, and in the others waits until it has and returns the
        same; each process calls it at most once, at any time or not at all."""
        key = self._key()
        if self.size == 1:
            return find

        def called() -> T:
            if self.is_first:
                found = find()
                self._store.set(key, json.dumps(found))
                return found
            self._wait([key])
            value: T = json.loads(self._store.get(key))
            return value

        return called

    def portions(self, items: Sequence[T]) -> Iterator[tuple[int, T]]:
        """Yields number and value of the portions that this process is to do; the first process does the first one."""
        key = self._key()
        if self.size == 1:
            yield from enumerate(items)
            return
        number = 0 if self.is_first else self._store.add(key, 1)
        while number < len(items):
            yield number, items[number]
            number = self._store.add(key, 1)

    def gather(self, value: T, waiting: Callable[[], None] | None = None) -> list[T]:
        """The values of JSON of all processes, in their order, once all have called this.

        Args:
            waiting: called again and again meanwhile.
        """
        key = self._key()
        if self.size == 1:
            return [value]
        keys = [f"{key}/{rank}" for rank in range(self.size)]
        self._store.set(keys[self.rank], json.dumps(value))
        self._wait(keys, waiting)
        return [json.loads(found) for found in map(self._store.get, keys)]

    def report(self, position: float) -> None:
        """Tells the others how far this process is."""
        self._position = position
        if self.size > 1:
            self._store.set(f"{self._name}/position/{self.rank}", repr(position))

    def reported(self) -> float:
        """The sum of what all processes have told."""
        if self.size == 1:
            return self._position
        names = [f"{self._name}/position/{rank}" for rank in range(self.size)]
        return sum(float(self._store.get(name)) for name in names if self._store.check([name]))

    def _key(self) -> str:
        number = next(self._keys)
        return f"{self._name}/{number}" if self.size > 1 else ""

    def _wait(self, keys: Sequence[str], waiting: Callable[[], None] | None = None) -> None:
        """Waits for others, in short steps, so that signals are heeded.

        Raises:
            RuntimeError: another process is lost.
        """
        looked = time.monotonic()
        while not self._store.check(list(keys)):
            time.sleep(POLL_SECONDS)
            if waiting is not None:
                waiting()
            if time.monotonic() - looked > BEAT_SECONDS:
                looked = time.monotonic()
                self._look_for_lost(looked)

    def _look_for_lost(self, now: float) -> None:
        for rank in range(self.size):
            name = f"shared_work/beat/{rank}"
            beat = self._store.get(name).decode() if self._store.check([name]) else ""
            if rank not in self._beats or self._beats[rank][0] != beat:
                self._beats[rank] = beat, now
            elif now - self._beats[rank][1] > SILENT_SECONDS:
                raise RuntimeError(
                    f"Process {rank} of {self.size} has been silent for {SILENT_SECONDS:.0f} s and is taken for lost: "
                    "run the same command again; what is finished is kept."
                )


def kept_results(
    work: SharedWork,
    portions: Sequence[T],
    find: Callable[[T], Any],
    folder: Path,
    waiting: Callable[[], None] | None = None,
    found: Callable[[T], None] | None = None,
) -> list[Any]:
    """Results of `find` for all portions, values of JSON; each is found by one process, and known to all at the end.

    What is found is kept in a folder until all of it is there, so that the same work goes on after an interruption.

    Args:
        folder: of this very work: its name must tell it from any other.
        waiting: called again and again while others work.
        found: called with each portion that is done, by the process that did it; by the first one for those that were
            kept.
    """
    known: dict[int, Any] = {int(number): value for number, value in work.first(lambda: _read_kept(folder))}
    if found is not None and work.is_first:
        for number in known:
            found(portions[number])
    missing = [(number, portion) for number, portion in enumerate(portions) if number not in known]
    own = []
    for _, (number, portion) in work.portions(missing):
        own.append([number, find(portion)])
        _keep(folder / f"{work.rank}.jsonl", own[-1])
        if found is not None:
            found(portion)
    for rows in work.gather(own, waiting):
        known |= {int(number): value for number, value in rows}
    if work.is_first:
        shutil.rmtree(folder, ignore_errors=True)
    return [known[number] for number in range(len(portions))]


def _keep(file: Path, row: Any) -> None:
    """Adds a line to a file; work goes on without it where that cannot be written."""
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(row) + "\n")


def _read_kept(folder: Path) -> list[Any]:
    """The rows of all files in a folder, without one that was being written when its process was killed."""
    rows = []
    for file in sorted(folder.glob("*.jsonl")):
        with suppress(OSError, ValueError):
            for line in file.read_text(encoding="utf-8").split("\n"):
                rows.append(json.loads(line))
    return rows


_stores: dict[str, Any] = {}


def _launch_store() -> Any:
    """A client of the store of the launch; one for this process and each of its threads."""
    name = threading.current_thread().name
    if name not in _stores:
        from torch.distributed import PrefixStore, rendezvous

        store, *_ = next(iter(rendezvous("env://", timeout=timedelta(minutes=10))))
        # A store of the launcher outlives the processes that are started again. One of the first process is new, and a
        # machine that joins again has counted no restarts.
        kept = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") if kept else "0"
        _stores[name] = PrefixStore(f"vidalign/{attempt}", store)
    return _stores[name]


_beating: list[threading.Thread] = []


def _begin_to_beat(rank: int) -> None:
    """Lets a thread show that this process lives."""
    if _beating or "MASTER_ADDR" not in os.environ:
        return

    def beat() -> None:
        store = _launch_store()
        for number in itertools.count():
            try:
                store.set(f"shared_work/beat/{rank}", str(number))
            except RuntimeError:  # of the store: the launch has ended
                return
            time.sleep(BEAT_SECONDS)

    _beating.append(threading.Thread(target=beat, name="shared-work-beat", daemon=True))
    _beating[0].start()
