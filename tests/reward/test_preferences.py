import json
import random
from pathlib import Path

import pytest

from generator.output import InputError
from reward.preferences import (
    Ranking,
    merge_annotators,
    preference_pairs,
    read_rankings,
    split_by_prompt,
    split_rankings,
    write_rankings,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "videos").mkdir()
    for name in "abcdefghij":
        (tmp_path / "videos" / f"{name}.mp4").write_bytes(b"video")
    return tmp_path


def write(folder: Path, *rows: object) -> Path:
    path = folder / "rankings.jsonl"
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return path


def row(**changes: object) -> dict[str, object]:
    return {"prompt": "a ball", "videos": ["videos/a.mp4", "videos/b.mp4"], "ranks": [1, 2], **changes}


def test_rankings_survive_writing_and_reading(folder):
    rankings = [
        Ranking(
            "a ball", [folder / "videos/a.mp4", folder / "videos/b.mp4"], [1, 1], "motion", "ann", 2.5, "2026"
        ),
        Ranking("a cube", [folder / "videos/c.mp4", folder / "videos/d.mp4"], [2, 0]),
    ]
    path = folder / "nested" / "rankings.jsonl"
    path.parent.mkdir()
    write_rankings(path, rankings)
    assert json.loads(path.read_text().splitlines()[0])["videos"][0] == "../videos/a.mp4"
    read = read_rankings(path)
    assert [[v.resolve() for v in r.videos] for r in read] == [
        [v.resolve() for v in r.videos] for r in rankings
    ]
    assert [(r.prompt, r.ranks, r.dimension, r.annotator, r.seconds, r.created_at) for r in read] == [
        (r.prompt, r.ranks, r.dimension, r.annotator, r.seconds, r.created_at) for r in rankings
    ]


ten = [f"videos/{name}.mp4" for name in "abcdefghij"]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("{", "not JSON"),
        ([1], "a JSON object was expected"),
        (row(prompt=" "), "`prompt` must be a non-empty text"),
        (row(videos=["videos/a.mp4", "videos/missing.mp4"]), "videos/missing.mp4 does not exist"),
        (row(ranks=[1, 2, 3]), "3 ranks were found for 2 videos"),
        (row(ranks=None), "has no order"),
        (row(ranks=[]), "has no order"),
        (row(ranks=[1, -1]), "has no order"),
        (row(ranks=[1, "2"]), "is not a whole number"),
        (row(ranks=[1, 1.5]), "is not a whole number"),
        (row(dimension="beauty"), "'beauty' is unknown"),
        (row(videos=ten[:1], ranks=[1]), "1 videos were found"),
        (row(videos=ten, ranks=list(range(10))), "10 videos were found"),
        (row(videos=["videos/a.mp4"] * 2), "name each video once"),
        (row(seconds="long"), "`seconds` must be a number"),
    ],
)
def test_a_bad_line_is_named_with_file_and_line(folder, bad, message):
    path = write(folder, row(), bad)
    with pytest.raises(InputError, match=message) as error:
        read_rankings(path)
    assert f"{path}, line 2: " in str(error.value)


def test_missing_and_empty_files_are_errors(folder):
    with pytest.raises(InputError, match="does not exist"):
        read_rankings(folder / "no.jsonl")
    with pytest.raises(InputError, match="is empty"):
        read_rankings(write(folder, ""))


def test_a_file_in_which_everything_is_tied_has_no_order(folder):
    with pytest.raises(InputError, match="no order at all"):
        read_rankings(write(folder, row(ranks=[1, 1]), row(ranks=[3, 3])))


def test_one_tied_ranking_among_others_is_kept(folder):
    read = read_rankings(write(folder, row(ranks=[1, 1]), row()))
    assert [ranking.has_order for ranking in read] == [False, True]


def rankings_of(prompts: int, each: int) -> list[Ranking]:
    return [
        Ranking(f"prompt {p}", [Path(f"{p}a"), Path(f"{p}b")], [0, 1])
        for p in range(prompts)
        for _ in range(each)
    ]


def test_no_prompt_stands_on_both_sides_of_a_split():
    train, held_out = split_by_prompt(rankings_of(50, 3), 0.2, seed=1)
    assert len(held_out) == 30
    assert not {r.prompt for r in train} & {r.prompt for r in held_out}
    assert split_by_prompt(rankings_of(50, 3), 0.2, seed=1)[1] == held_out
    assert split_by_prompt(rankings_of(50, 3), 0.2, seed=2)[1] != held_out


@pytest.mark.parametrize(
    "twin", ["a red circle ", " a  red\tcircle", "A Red Circle", "a\u00a0red circle", "a red circle\n"]
)
def test_prompts_that_differ_in_how_they_are_typed_stand_on_one_side(twin):
    texts = ["a red circle", twin, *(f"prompt {number}" for number in range(6))]
    rankings = [Ranking(text, [Path("a"), Path("b")], [1, 2]) for text in texts]
    for seed in range(20):
        splits = [*split_by_prompt(rankings, 0.25, seed), *split_rankings(rankings, 0.25, 0.25, seed)]
        for side in splits:
            assert ("a red circle" in {r.prompt for r in side}) == (twin in {r.prompt for r in side})


def test_accents_are_the_same_in_either_unicode_form():
    rankings = [Ranking(text, [Path("a"), Path("b")], [1, 2]) for text in ("caf\u00e9", "cafe\u0301")]
    with pytest.raises(InputError, match="1 prompt, but a split by prompt needs at least 2"):
        split_by_prompt(rankings, 0.5, 0)


def test_other_prompts_are_held_out_as_they_always_were():
    """Models remember their split by seed alone, so the order in which prompts are drawn must stay."""
    texts = sorted(["a cat", "A dog", "Zebra", "b", "C", "d"])
    rankings = [Ranking(text, [Path("a"), Path("b")], [1, 2]) for text in texts]
    for seed in range(5):
        drawn = list(texts)
        random.Random(seed).shuffle(drawn)
        assert {r.prompt for r in split_by_prompt(rankings, 0.34, seed)[1]} == set(drawn[:2])


def test_a_split_leaves_something_on_each_side_or_says_that_it_cannot():
    train, held_out = split_by_prompt(rankings_of(2, 1), 0.01, seed=0)
    assert (len(train), len(held_out)) == (1, 1)
    with pytest.raises(InputError, match="at least 2"):
        split_by_prompt(rankings_of(1, 3), 0.5, seed=0)


def test_pairs_have_trl_columns_and_the_better_video_first():
    ranking = Ranking("p", [Path("a"), Path("b"), Path("c"), Path("d")], [2, 0, 2, -1])
    assert preference_pairs([ranking]) == [
        {"prompt": "p", "chosen": "b", "rejected": "a", "tie": False},
        {"prompt": "p", "chosen": "b", "rejected": "c", "tie": False},
    ]
    tied = [pair for pair in preference_pairs([ranking], ties=True) if pair["tie"]]
    assert [(pair["chosen"], pair["rejected"]) for pair in tied] == [("a", "c")]


def test_annotators_are_merged_by_mean_rank_whatever_their_scale_and_order_of_videos():
    a, b, c = Path("a"), Path("b"), Path("c")
    merged = merge_annotators(
        [
            Ranking("p", [a, b, c], [10, 20, 30], annotator="x"),
            Ranking("p", [c, b, a], [2, 1, 0], annotator="y"),
            Ranking("p", [a, b, c], [2, 1, 3], annotator="z"),
            Ranking("q", [a, b], [0, 1]),
        ]
    )
    assert len(merged) == 2
    assert merged[0].ranks == [1, 2, 3]
    assert merged[0].annotator == "x+y+z"


def test_opposite_annotators_merge_to_a_tie():
    a, b = Path("a"), Path("b")
    assert merge_annotators([Ranking("p", [a, b], [0, 1]), Ranking("p", [a, b], [1, 0])])[0].ranks == [1, 1]


def test_a_rankings_file_may_have_a_byte_order_mark_and_unusual_line_separators_in_its_prompts(folder):
    path = folder / "rankings.jsonl"
    prompts = [f"a ball{mark}rolls" for mark in "\u2028\u2029\x85"]
    videos = [folder / "videos/a.mp4", folder / "videos/b.mp4"]
    write_rankings(path, [Ranking(prompt, videos, [1, 2]) for prompt in prompts])
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert [ranking.prompt for ranking in read_rankings(path)] == prompts


def test_a_rankings_file_that_is_not_utf_8_is_refused(folder):
    path = folder / "rankings.jsonl"
    path.write_bytes(json.dumps(row(prompt="café"), ensure_ascii=False).encode("latin-1"))
    with pytest.raises(InputError, match="is not UTF-8 text"):
        read_rankings(path)
