"""Processes share work through a store: each portion is done once, all know all, and nothing kept is done again."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch.distributed import HashStore

from generator.training import shared_work
from generator.training.progress import VideoBar
from generator.training.shared_work import SharedWork, kept_results


def processes(size: int, run: Callable[[SharedWork], Any]) -> list[Any]:
    """What `run` returns in each of several processes, for which threads stand, in their order."""
    store, found, failed = HashStore(), {}, []

    def one(rank: int) -> None:
        try:
            found[rank] = run(SharedWork(rank, size, store))
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=one, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]
    return [found[rank] for rank in range(size)]


def test_each_portion_is_done_by_one_process_and_the_first_by_the_first() -> None:
    done = processes(3, lambda work: list(work.portions("abcdefg")))
    assert sorted(each for own in done for each in own) == list(enumerate("abcdefg"))
    assert done[0][0] == (0, "a")


def test_a_process_that_is_alone_does_all_and_needs_no_store() -> None:
    work = SharedWork(0, 1)
    assert list(work.portions("ab")) == [(0, "a"), (1, "b")]
    assert (work.first(lambda: 3), work.gather(4)) == (3, [4])


def test_the_first_process_finds_and_all_are_told() -> None:
    called: list[int] = []

    def run(work: SharedWork) -> Any:
        def find() -> dict[str, float]:
            called.append(work.rank)
            return {"a": 0.1}

        told = work.once(lambda: [1, 2])
        return work.first(find), work.gather(work.rank), told() if work.rank != 2 else None

    assert processes(3, run) == [
        ({"a": 0.1}, [0, 1, 2], [1, 2]),
        ({"a": 0.1}, [0, 1, 2], [1, 2]),
        ({"a": 0.1}, [0, 1, 2], None),
    ]
    assert called == [0]


def test_the_bar_counts_the_videos_of_all_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[Any] = []
    monkeypatch.setattr(
        "generator.training.progress.tqdm", lambda **given: shown.append(Counted(given)) or shown[-1]
    )

    class Counted:
        def __init__(self, given: dict[str, Any]) -> None:
            self.n, self.disable = given["initial"], given["disable"]

        def update(self, n: float) -> None:
            self.n += n

        def close(self) -> None:
            pass

    def run(work: SharedWork) -> None:
        with VideoBar(10, 2, "videos", work=work) as bar:
            for _ in range(4):
                bar.stepped(4)(work.rank + 1)
            bar.finish(work.rank + 1)
            work.gather(None, bar.show)
            bar.show()

    processes(3, run)
    assert [bar.n for bar in shown if not bar.disable] == [pytest.approx(2 + 1 + 2 + 3)]


def test_what_was_kept_of_a_killed_run_is_not_found_again(tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    folder.mkdir()
    (folder / "0.jsonl").write_text(json.dumps([0, 0.1]) + "\n" + json.dumps([3, [9]]) + "\n")
    (folder / "1.jsonl").write_text(json.dumps([2, 4.0]) + "\n[1, 0.")
    asked: list[int] = []

    def find(portion: int) -> float:
        asked.append(portion)
        return portion / 3

    found = processes(2, lambda work: kept_results(work, [10, 11, 12, 13, 14], find, folder))
    assert found == [[0.1, 11 / 3, 4.0, [9], 14 / 3]] * 2
    assert sorted(asked) == [11, 14]
    assert not folder.exists()


def test_what_is_found_is_kept_until_all_is_there(tmp_path: Path) -> None:
    def find(portion: int) -> int:
        if portion == 2:
            raise KeyboardInterrupt
        return portion

    with pytest.raises(KeyboardInterrupt):
        kept_results(SharedWork(0, 1), [0, 1, 2], find, tmp_path / "kept")
    asked: list[int] = []
    found = kept_results(SharedWork(0, 1), [0, 1, 2], lambda p: asked.append(p) or p, tmp_path / "kept")
    assert (found, asked) == ([0, 1, 2], [2])


def test_a_process_that_shows_no_sign_of_life_is_said_to_be_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_work, "BEAT_SECONDS", 0.02)
    monkeypatch.setattr(shared_work, "SILENT_SECONDS", 0.1)
    store = HashStore()
    begun = time.monotonic()
    with pytest.raises(RuntimeError, match=r"Process [01] of 2 has been silent"):
        SharedWork(0, 2, store).gather(None)
    assert time.monotonic() - begun < 10


@pytest.mark.parametrize(("kept", "meet"), [("False", True), ("True", False)])
def test_a_machine_that_joins_again_speaks_with_those_that_have_restarted(
    kept: str, meet: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the store of the first process, new in each meeting; that of a launcher holds what was said before."""
    store = HashStore()
    monkeypatch.setattr("torch.distributed.rendezvous", lambda *_, **__: iter([(store, 0, 2)]))
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", kept)
    said = []
    for restarts in ("1", "0"):
        monkeypatch.setattr(shared_work, "_stores", {})
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", restarts)
        launch_store = shared_work._launch_store()
        said.append(launch_store.check(["word"]))
        launch_store.set("word", "said")
    assert said == [False, meet]
