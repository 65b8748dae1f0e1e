"""Hidden gold items and repeats, limits and trials, guidelines, projects, adjudication."""

from __future__ import annotations

import html
import json
import shutil
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from generator.output import InputError
from labeling_app.campaigns.campaigns import Rules, add_project, import_gold, make_gold, set_rules
from labeling_app.campaigns.overview import campaign_overview
from labeling_app.files.candidates import import_tasks
from labeling_app.files.rankings import export_rankings
from labeling_app.quality.adjudication import adjudicate, disagreement_share, disagreements, final_rankings
from labeling_app.quality.hidden_checks import hidden_checks
from labeling_app.quality.reliability import aggregate, read_store
from labeling_app.simulate import SimulatedAnnotator, simulate
from labeling_app.store.guidelines import guidelines, set_guidelines
from labeling_app.store.store import Store
from labeling_app.store.tables import Assignment, Task, User
from labeling_app.tasks import next_task as assignment
from labeling_app.tasks.answers import revise, skip, submit
from labeling_app.tasks.hidden_tasks import pair_accuracy
from labeling_app.tasks.progress import Progress, progress
from labeling_app.web import plots
from labeling_app.web.plots import plot

RANKS = {"overall": [1, 2, 3, 4]}


@pytest.fixture
def gold_file(tmp_path: Path, write_candidates: Any) -> Path:
    """Six known answers, about other videos than the tasks'."""
    folder = write_candidates([f"gold {number}" for number in range(6)], 4, first_seed=5000)
    rows = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
    items = [
        {
            "prompt": f"gold {number}",
            "videos": [row["file_name"] for row in rows if row["prompt"] == f"gold {number}"],
            "ranks": [4, 3, 2, 1],
        }
        for number in range(6)
    ]
    path = folder / "gold.jsonl"
    path.write_text("".join(json.dumps(item) + "\n" for item in items), encoding="utf-8")
    return path


def work(store: Store, user: User, ranks_of: Any = None, draw: Any = None, limit: int = 100) -> list[Task]:
    """Ranks what comes; by default every video by its position in the task. Returns the tasks."""
    seen = []
    generator = np.random.default_rng(0)
    while len(seen) < limit and (
        given := assignment.next_task(store, user, draw=draw or (lambda: float(generator.random())))
    ):
        with store.read() as session:
            task = session.get_one(Task, given.task)
        ranks = ranks_of(task) if ranks_of else [1, 2, 3, 4]
        shown = [ranks[position] for position in given.permutation]
        submit(store, user, given.assignment, {"overall": shown}, 1.0)
        seen.append(task)
    return seen


def test_gold_items_and_repeats_come_with_their_shares_and_leave_the_overlap_alone(
    filled: Store, gold_file: Path
) -> None:
    assert import_gold(filled, gold_file, "main") == 6
    assert import_gold(filled, gold_file, "main") == 0
    set_rules(filled, "main", Rules(gold_share=0.3, repeat_share=0.3))
    people = [filled.add_user(f"person-{number}") for number in range(2)]
    for person in people:
        seen = Counter(task.kind for task in work(filled, person))
        assert seen["normal"] == 12
        assert seen["gold"] >= 2
        assert seen["repeat"] >= 1
    assert work(filled, filled.add_user("late")) == []
    assert [task.completed for task in filled.tasks("main")] == [2, 2] * 6
    assert len(filled.judgements("main")) == 24
    assert {r.task_id for r in final_rankings(filled, "main")} == {t.id for t in filled.tasks("main")}


def test_the_videos_of_a_gold_item_never_come_in_another_task_of_the_same_person(
    filled: Store, candidates: Path, tmp_path: Path
) -> None:
    rows = [json.loads(line) for line in (candidates / "metadata.jsonl").read_text().splitlines()]
    copied = tmp_path / "a-copy.mp4"
    shutil.copy(candidates / rows[4]["file_name"], copied)  # of the second task
    known = [
        {"videos": [str(candidates / row["file_name"]) for row in rows[:2]]},
        {"videos": [str(copied), str(candidates / rows[9]["file_name"])]},  # of the second and the third
    ]
    path = tmp_path / "known.jsonl"
    path.write_text("".join(json.dumps({"prompt": "gold", "ranks": [1, 2], **row}) + "\n" for row in known))
    import_gold(filled, path, "main")
    set_rules(filled, "main", Rules(gold_share=0.5))
    prompts = [task.prompt for task in filled.tasks("main")]

    def seen(name: str, draw: Any) -> list[str]:
        ranks = lambda task: list(range(1, len(task.videos) + 1))  # noqa: E731
        return [task.prompt for task in work(filled, filled.add_user(name), ranks, draw)]

    # Gold items first: none of the three tasks follows. Tasks first: no gold item follows.
    assert seen("gold-first", lambda: 0.0) == ["gold", "gold", *prompts[3:]]
    assert seen("tasks-first", lambda: 0.9) == prompts
    # One task first: only the gold item without its videos follows.
    draws = iter([0.9, *[0.0] * 50])
    assert seen("mixed", lambda: next(draws)) == [prompts[0], "gold"]


def test_a_repeat_is_shown_in_another_order_and_never_twice(filled: Store) -> None:
    set_rules(filled, "main", Rules(repeat_share=0.5))
    ada = filled.add_user("ada")
    work(filled, ada, draw=lambda: 0.4)
    repeats = filled.tasks("main", kind="repeat")
    assert len(repeats) == len({task.copy_of for task in repeats}) > 3
    with filled.read() as session:
        orders = {row.task_id: row.permutation for row in session.query(Assignment)}
    assert all(orders[task.id] != orders[task.copy_of or 0] for task in repeats)
    checks = hidden_checks(filled, "main")["ada"]
    assert (checks.self_consistency, checks.repeat_pairs) == (1.0, 6 * len(repeats))


def test_the_page_cannot_tell_gold_items_from_others(filled: Store, gold_file: Path) -> None:
    import_gold(filled, gold_file, "main")
    set_rules(filled, "main", Rules(gold_share=0.5))
    ada = filled.add_user("ada")
    gold = assignment.next_task(filled, ada, draw=lambda: 0.0)
    assert gold is not None
    assert gold.prompt == "gold 0"
    assert progress(filled, ada) == Progress(0, None)
    assert not hasattr(gold, "kind")


def test_gold_accuracy_counts_the_pairs_that_the_known_answer_decides(filled: Store, gold_file: Path) -> None:
    import_gold(filled, gold_file, "main")
    set_rules(filled, "main", Rules(gold_share=0.5))
    good, bad = filled.add_user("good"), filled.add_user("bad")
    work(filled, good, lambda task: [4, 3, 2, 1], draw=lambda: 0.0, limit=3)
    work(filled, bad, lambda task: [3, 4, 2, 1], draw=lambda: 0.0, limit=3)
    checks = hidden_checks(filled, "main")
    assert checks["good"].gold_accuracy == 1.0
    assert checks["bad"].gold_accuracy == pytest.approx(5 / 6)
    assert pair_accuracy([1, 1, 2], [1, 2, 2]) == (1, 2)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"ranks": [1, 2, 3, 4]}, "another known answer"),
        ({"ranks": [4, 3, 2, -1]}, "not all of them"),
    ],
)
def test_gold_items_have_one_whole_known_answer(
    filled: Store, gold_file: Path, change: dict[str, Any], said: str
) -> None:
    import_gold(filled, gold_file, "main")
    rows = [json.loads(line) for line in gold_file.read_text().splitlines()]
    turned = {**rows[0], "videos": rows[0]["videos"][::-1], "ranks": rows[0]["ranks"][::-1]}
    other = gold_file.with_name("other.jsonl")
    other.write_text(json.dumps(turned) + "\n")
    assert import_gold(filled, other, "main") == 0
    other.write_text(json.dumps({**rows[0], **change}) + "\n")
    with pytest.raises(InputError, match=said):
        import_gold(filled, other, "main")
    other.write_text(
        "".join(json.dumps({**rows[0], "ranks": ranks}) + "\n" for ranks in ([1, 2, 3, 4], [1, 1, 2, 3]))
    )
    with pytest.raises(InputError, match="in two ways"):
        import_gold(filled, other, "main")


def test_a_trial_counts_every_dimension(store: Store, gold_file: Path, candidates: Path) -> None:
    rows = [json.loads(line) for line in gold_file.read_text().splitlines()]
    both = [{**row, "dimension": name} for row in rows for name in ("visual", "motion")]
    gold_file.write_text("".join(json.dumps(row) + "\n" for row in both))
    import_tasks(store, candidates, campaign="main", dimensions=["visual", "motion"])
    import_gold(store, gold_file, "main")
    set_rules(store, "main", Rules(quiz_size=2, quiz_pass=0.8))
    half = store.add_user("half")
    for _ in range(2):
        task = assignment.next_task(store, half)
        assert task is not None
        right = [[4, 3, 2, 1][position] for position in task.permutation]
        ranks = {"visual": right, "motion": [5 - rank for rank in right]}
        submit(store, half, task.assignment, ranks, 1.0)
    assert assignment.next_task(store, half) is None
    assert assignment.next_with_progress(store, half).reason.startswith("The first tasks were a trial")


def test_a_trial_opens_the_campaign_only_to_those_who_pass(filled: Store, gold_file: Path) -> None:
    import_gold(filled, gold_file, "main")
    set_rules(filled, "main", Rules(quiz_size=3, quiz_pass=0.8))
    good, bad = filled.add_user("good"), filled.add_user("bad")
    kinds = [task.kind for task in work(filled, good, lambda task: [4, 3, 2, 1])]
    assert kinds == ["gold"] * 3 + ["normal"] * 12
    assert [task.kind for task in work(filled, bad, lambda task: [1, 2, 3, 4])] == ["gold"] * 3
    assert assignment.next_with_progress(filled, bad).reason.startswith("The first tasks were a trial")
    assert assignment.next_with_progress(filled, good).reason == ""


def test_the_daily_limit_ends_the_day_and_not_the_next(database: str, candidates: Path, clock: Any) -> None:
    with Store(database, clock=clock) as store:
        import_tasks(store, candidates, campaign="main")
        set_rules(store, "main", Rules(daily_cap=4))
        ada = store.add_user("ada")
        assert len(work(store, ada)) == 4
        assert assignment.next_with_progress(store, ada).reason.startswith("You have given 4 answers")
        clock.now += 86_401
        assert len(work(store, ada)) == 4


@pytest.mark.parametrize(
    "rules", [Rules(gold_share=0.6), Rules(repeat_share=-0.1), Rules(daily_cap=-1), Rules(quiz_pass=1.5)]
)
def test_rules_out_of_range_are_one_sentence_and_change_nothing(filled: Store, rules: Rules) -> None:
    with pytest.raises(InputError, match="give"):
        set_rules(filled, "main", rules)
    row = filled.campaign("main")
    assert (row.gold_share, row.repeat_share, row.daily_cap, row.quiz_pass) == (0.0, 0.0, 0, 0.7)


def test_each_answer_names_the_guidelines_that_held(filled: Store) -> None:
    ada = filled.add_user("ada")
    work(filled, ada, limit=1)
    assert set_guidelines(filled, "main", "Look at the hands.") == 1
    work(filled, ada, limit=1)
    assert set_guidelines(filled, "main", "Look at the hands and faces.") == 2
    work(filled, ada, limit=1)
    assert [j.guidelines_version for j in filled.judgements("main")] == [0, 1, 2]
    newest = guidelines(filled, "main")
    assert newest is not None
    assert newest.text == "Look at the hands and faces."


def test_campaigns_belong_to_projects(filled: Store) -> None:
    add_project(filled, "spring")
    with pytest.raises(InputError, match="exists already"):
        add_project(filled, "spring")
    set_rules(filled, "main", Rules(), project="spring")
    project = filled.campaign("main").project
    assert project is not None
    assert project.name == "spring"
    with pytest.raises(InputError, match="no project 'autumn'"):
        set_rules(filled, "main", Rules(), project="autumn")


def test_a_lead_decides_what_annotators_disagree_about(filled: Store, tmp_path: Path) -> None:
    people = [filled.add_user(name) for name in ("ada", "bob")]
    first = filled.tasks("main")[0].id
    for person, ranks in zip(people, ([1, 2, 3, 4], [4, 3, 2, 1])):
        work(filled, person, lambda task, ranks=ranks: ranks if task.id == first else [1, 2, 3, 4])
    (found,) = disagreements(filled, "main")
    assert (found.task.id, found.share) == (first, 1.0)
    assert found.answers["overall"] == {"ada": [1, 2, 3, 4], "bob": [4, 3, 2, 1]}
    lead = filled.add_user("lead", role="lead")
    adjudicate(filled, lead, first, {"overall": [1, 1, 4, 4]}, "first two are alike")
    assert disagreements(filled, "main") == []
    decided = [r for r in final_rankings(filled, "main") if r.task_id == first]
    assert [(r.annotator, r.ranks) for r in decided] == [("adjudicated by lead", [1, 1, 2, 2])]
    assert export_rankings(filled, "main", tmp_path / "decided.jsonl") == 23
    assert export_rankings(filled, "main", tmp_path / "raw.jsonl", raw=True) == 24
    assert next(r.ranks for r in aggregate(filled, "main")) == [1, 1, 2, 2]
    assert len(read_store(f"db:{filled.url}#main")) == 23


def test_a_decided_task_becomes_a_gold_item_for_those_who_have_not_ranked_it(filled: Store) -> None:
    ada, bob = filled.add_user("ada"), filled.add_user("bob")
    task = work(filled, ada, limit=1)[0]
    assert make_gold(filled, task.id, RANKS) is not None
    assert make_gold(filled, task.id, RANKS) is None
    set_rules(filled, "main", Rules(gold_share=0.5))
    assert [t.kind for t in work(filled, bob, draw=lambda: 0.0, limit=2)] == ["gold", "normal"]
    assert {t.kind for t in work(filled, ada, draw=lambda: 0.0)} == {"normal"}
    with pytest.raises(InputError, match="no task"):
        make_gold(filled, 10**6, RANKS)


def test_disagreement_is_the_share_of_pairs_labelled_differently() -> None:
    assert disagreement_share([[1, 2, 3], [1, 2, 3]]) == 0.0
    assert disagreement_share([[1, 2, 3], [2, 1, 3], [1, 2, 3]]) == pytest.approx(2 / 9)
    assert np.isnan(disagreement_share([[1, 2]]))


def test_simulated_annotators_work_through_gold_items_and_repeats(filled: Store, gold_file: Path) -> None:
    import_gold(filled, gold_file, "main")
    set_rules(filled, "main", Rules(gold_share=0.4, repeat_share=0.2))
    people = [
        SimulatedAnnotator("steady", noise=0.0, tie_threshold=0.0),
        SimulatedAnnotator("random", noise=100.0, tie_threshold=0.0),
    ]
    # Files are named secret-model-TASK-INDEX; the known answer of gold items is that the last is best.
    done = simulate(filled, "main", lambda path, prompt: float(path.stem[-1]), annotators=people)
    assert done.num_judgements == 24
    checks = hidden_checks(filled, "main")
    assert checks["steady"].gold_accuracy == checks["steady"].self_consistency == 1.0
    assert checks["random"].gold_accuracy < 0.9


def test_roles_change_and_one_admin_stays(store: Store) -> None:
    store.add_user("root", role="admin")
    store.add_user("ada")
    store.set_role("ada", "lead")
    ada = store.user("ada")
    assert ada is not None
    assert ada.role == "lead"
    with pytest.raises(InputError, match="only admin"):
        store.set_role("root", "annotator")
    with pytest.raises(InputError, match="unknown"):
        store.set_role("ada", "queen")


def test_a_flag_that_was_taken_back_does_not_count(filled: Store) -> None:
    ada = filled.add_user("ada")
    task = assignment.next_task(filled, ada)
    assert task is not None
    submit(filled, ada, task.assignment, RANKS, 1.0, flag="odd")
    assert campaign_overview(filled, filled.campaign("main"))["flagged"] == 1
    revise(filled, ada, task.assignment, RANKS, 1.0)
    assert campaign_overview(filled, filled.campaign("main"))["flagged"] == 0


def test_plots_name_annotators_in_any_script(filled: Store) -> None:
    names = ["王小明", "李小龙", "🙂🙃", "محمد علي", "<b>$1$"]
    for name in names:
        person = filled.add_user(name)
        task = assignment.next_task(filled, person)
        assert task is not None
        submit(filled, person, task.assignment, RANKS, 1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # such as: Glyph 29579 missing from font
        pages = [plot(filled, "main", name).decode() for name in ("annotators", "speed", "positions")]
    for shown in pages:
        places = [shown.index(f">{html.escape(name)}</text>") for name in names]
    assert len(set(places)) == len(names)


def test_plots_of_speed_and_days_show_the_newest_answers_and_no_skips(filled: Store) -> None:
    for name, seconds in (("ada", [4.0, 6.0]), ("bob", [9.0])):
        person = filled.add_user(name)
        for taken in seconds:
            task = assignment.next_task(filled, person)
            assert task is not None
            submit(filled, person, task.assignment, RANKS, taken)
        revise(filled, person, task.assignment, RANKS, taken + 1)
        task = assignment.next_task(filled, person)
        assert task is not None
        skip(filled, person, task.assignment, "odd", 99.0)
    axes = Figure().subplots()
    plots.PLOTS["speed"](filled, "main", axes)
    assert [label.get_text() for label in axes.get_xticklabels()] == ["ada", "bob"]
    medians = axes.collections[-1].get_segments()
    assert [segment[0][1] for segment in medians] == [5.5, 10.0]
    boxes = [(bar.get_y(), bar.get_y() + bar.get_height()) for bar in axes.patches]
    assert boxes == [(4.75, 6.25), (10.0, 10.0)]
    axes = Figure().subplots()
    plots.PLOTS["days"](filled, "main", axes)
    assert sum(bar.get_height() for bar in axes.patches) == 3
