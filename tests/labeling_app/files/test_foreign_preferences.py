"""Preferences of other projects: written from a campaign and brought into one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from generator.output import InputError
from labeling_app.files.candidates import import_tasks
from labeling_app.files.foreign_preferences import export_preferences, import_preferences
from labeling_app.files.rankings import export_rankings
from labeling_app.quality.agreement import agreement
from labeling_app.quality.reliability import reliabilities
from labeling_app.store.store import Store
from labeling_app.tasks import next_task as assignment
from labeling_app.tasks.answers import submit
from reward.formats import read_preferences

FILES = {
    "videogen-rewardbench": "bench.csv",
    "genai-bench": "votes.json",
    "imagereward": "rankings.json",
    "rapidata": "table.parquet",
}


def ranked(database: str, folder: Path, people: dict[str, dict[str, list[int]]]) -> Store:
    """A store with a campaign "main" in which each person gave all tasks the same ranks, in the task's order."""
    store = Store(database)
    import_tasks(
        store,
        folder,
        campaign="main",
        overlap=len(people),
        dimensions=list(next(iter(people.values()))),
    )
    for name, ranks in people.items():
        user = store.add_user(name)
        while (task := assignment.next_task(store, user)) is not None:
            shown = {d: [places[p] for p in task.permutation] for d, places in ranks.items()}
            submit(store, user, task.assignment, shown, 2.0)
    return store


@pytest.fixture
def pairs(tmp_path: Path, candidates: Path) -> Path:
    """Two prompts with two videos each."""
    rows = [
        {"file_name": f"secret-model-{number:03d}-{index}.mp4", "prompt": f"take {number}"}
        for number in range(2)
        for index in range(2)
    ]
    folder = tmp_path / "pairs"
    folder.mkdir()
    for row in rows:
        (folder / row["file_name"]).write_bytes((candidates / row["file_name"]).read_bytes())
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


def orders(path: Path) -> list[tuple[str, str, tuple[tuple[bytes, int], ...]]]:
    """What a file says, whatever its videos are called and in which order they stand."""
    return sorted(
        (
            ranking.prompt,
            ranking.dimension,
            tuple(sorted(zip([v.read_bytes() for v in ranking.videos], ranking.ranks))),
        )
        for ranking in read_preferences(path)
    )


@pytest.mark.parametrize("format", list(FILES))
def test_a_layout_survives_export_import_export(
    format: str, database: str, pairs: Path, tmp_path: Path
) -> None:
    path, again = tmp_path / "out" / FILES[format], tmp_path / "again" / FILES[format]
    with ranked(database, pairs, {"ada": {"overall": [2, 1]}, "bob": {"overall": [2, 1]}}) as store:
        count, left = export_preferences(store, "main", path, format)
        # One label or share of votes for a pair, or a row for each of the two annotators.
        assert (count, left) == (2 if format in ("videogen-rewardbench", "rapidata") else 4, 0)
        files = sorted(item.name for item in (path.parent / "videos").iterdir())
        assert len(files) == 4
        assert not any("secret" in name for name in files)
        done = import_preferences(store, path, "second", annotator="bench")
        assert (done.tasks, done.judgements, done.known) == (2, count, 0)
        assert done.annotators == (("bench",) if count == 2 else ("bench", "bench-2"))
        assert import_preferences(store, path, "second", annotator="bench").known == count
        export_preferences(store, "second", again, format)
    assert orders(again) == orders(path)
    assert {ranks for _, _, videos in orders(path) for _, ranks in videos} == {1, 2}


def test_rankings_of_more_videos_become_their_pairs_and_majorities(
    database: str, candidates: Path, tmp_path: Path
) -> None:
    people = {"ada": {"overall": [1, 2, 3, 3]}, "bob": {"overall": [1, 3, 2, 2]}}
    with ranked(database, candidates, people) as store:
        assert export_preferences(store, "main", tmp_path / "b.csv", "videogen-rewardbench") == (12 * 6, 0)
        assert export_preferences(store, "main", tmp_path / "v.json", "genai-bench") == (2 * 12 * 6, 0)
        assert export_preferences(store, "main", tmp_path / "i.json", "imagereward") == (2 * 12, 0)
        assert export_preferences(store, "main", tmp_path / "r.parquet", "rapidata") == (12 * 6, 0)
    labels = [ranking.ranks for ranking in read_preferences(tmp_path / "b.csv")][:6]
    assert labels == [[1, 2], [1, 2], [1, 2], [1, 1], [1, 1], [1, 1]]
    shares = [ranking.votes for ranking in read_preferences(tmp_path / "r.parquet")][:6]
    assert shares == [[1, 0], [1, 0], [1, 0], [0.5, 0.5], [0.5, 0.5], [0.5, 0.5]]


def test_our_own_layout_keeps_annotators_and_dimensions(
    database: str, candidates: Path, tmp_path: Path
) -> None:
    people = {
        "ada": {"visual": [1, 2, 3, 4], "motion": [4, 3, 2, 1]},
        "bob": {"visual": [1, 1, 3, 3], "motion": [1, 2, 1, 2]},
    }
    with ranked(database, candidates, people) as store:
        export_rankings(store, "main", tmp_path / "rankings.jsonl")
        done = import_preferences(store, tmp_path / "rankings.jsonl", "second", annotator="bench")
        assert done.annotators == ("bench/ada", "bench/bob")
        assert done.judgements == 2 * 2 * 12
        row = store.campaign("second")
        assert (row.overlap, row.dimensions) == (2, ["visual", "motion"])
        assert all(task.filled and task.completed == 2 for task in store.tasks("second"))
        export_rankings(store, "second", tmp_path / "again.jsonl")
        assert orders(tmp_path / "again.jsonl") == orders(tmp_path / "rankings.jsonl")
        first, last = (
            [json.loads(line) for line in (tmp_path / name).read_text().splitlines()]
            for name in ("rankings.jsonl", "again.jsonl")
        )
        assert [row["created_at"] for row in first] == [row["created_at"] for row in last]
        with pytest.raises(InputError, match="overall rankings only"):
            export_preferences(store, "main", tmp_path / "new" / "v.json", "genai-bench")
    assert not (tmp_path / "new").exists()


def test_external_annotators_are_marked_and_can_never_log_in(
    database: str, pairs: Path, tmp_path: Path
) -> None:
    with ranked(database, pairs, {"ada": {"overall": [2, 1]}}) as store:
        export_preferences(store, "main", tmp_path / "v.json", "genai-bench")
        import_preferences(store, tmp_path / "v.json", "second", annotator="genai")
        user = store.user("genai")
        assert user is not None
        assert user.imported
        assert store.authenticate("genai", "") is None
        for change in (store.set_password, store.set_role):
            with pytest.raises(InputError, match="no person 'genai'"):
                change("genai", "annotator")
        (person,) = agreement(store, "second").annotators
        assert person.imported
        assert person.median_seconds != person.median_seconds  # not known
        assert reliabilities(store, "second")[0].flags in ((), ("spammer",))
        with pytest.raises(InputError, match="another name with --annotator"):
            import_preferences(store, tmp_path / "v.json", "second", annotator="ada")


def test_people_may_rank_what_was_imported(database: str, pairs: Path, tmp_path: Path) -> None:
    with ranked(database, pairs, {"ada": {"overall": [2, 1]}}) as store:
        export_preferences(store, "main", tmp_path / "v.json", "genai-bench")
        import_preferences(store, tmp_path / "v.json", "second", annotator="genai", overlap=2)
        ada = store.user("ada")
        assert ada is not None
        while (task := assignment.next_task(store, ada, "second")) is not None:
            submit(store, ada, task.assignment, {"overall": [1, 2]}, 1.0)
        assert all(task.filled for task in store.tasks("second"))
        assert {j.user.name for j in store.judgements("second")} == {"ada", "genai"}


def test_what_cannot_be_used_is_one_sentence_and_leaves_nothing(
    database: str, pairs: Path, tmp_path: Path
) -> None:
    with ranked(database, pairs, {"ada": {"overall": [2, 1]}}) as store:
        with pytest.raises(InputError, match="unknown"):
            export_preferences(store, "main", tmp_path / "new" / "v.json", "no-such")
        with pytest.raises(InputError, match="suffix"):
            export_preferences(store, "main", tmp_path / "new" / "v.csv", "imagereward")
        assert not (tmp_path / "new").exists()
        export_preferences(store, "main", tmp_path / "v.json", "genai-bench")
        with pytest.raises(InputError, match="--overwrite"):
            export_preferences(store, "main", tmp_path / "v.json", "genai-bench")
        rows = json.loads((tmp_path / "v.json").read_text())
        import_preferences(store, tmp_path / "v.json", "second")
        for row in rows:
            row["vote_type"] = "leftvote"
        (tmp_path / "other.json").write_text(json.dumps(rows))
        with pytest.raises(InputError, match="differently before"):
            import_preferences(store, tmp_path / "other.json", "second")
        (tmp_path / "rankings.jsonl").write_text(
            json.dumps(
                {
                    "prompt": "p",
                    "videos": ["pairs/secret-model-000-0.mp4", "pairs/secret-model-000-1.mp4"],
                    "ranks": [1, 2],
                    "dimension": "motion",
                }
            )
        )
        with pytest.raises(InputError, match="name another campaign"):
            import_preferences(store, tmp_path / "rankings.jsonl", "second")
        assert len(store.judgements("second")) == 2
        with pytest.raises(InputError, match="overlap is 0"):
            import_preferences(store, tmp_path / "v.json", "third", overlap=0)
        with pytest.raises(InputError, match="1 to 100 printable"):
            import_preferences(store, tmp_path / "v.json", "third", annotator=" ")
        assert "third" not in {row.name for row in store.campaigns()}
