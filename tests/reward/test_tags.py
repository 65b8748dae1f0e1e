"""Tags of videos: read from rankings files, made dimensions or weights, learned by a reward model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from alignment import cli
from generator.output import InputError
from generator.testing import tiny_generator
from generator.testing.stand_ins import COLOURS, coloured_video
from generator.video import write_video
from reward.preferences import Ranking, merge_annotators, read_rankings, write_rankings
from reward.tags import pair_weight, read_tag_weights, tag_dimension, tag_rankings, weighted_by_tags

VIDEOS = [Path("a.mp4"), Path("b.mp4"), Path("c.mp4")]
NONE: frozenset[str] = frozenset()


def answer(*tags: frozenset[str], annotator: str = "ada", dimension: str = "overall") -> Ranking:
    return Ranking("a ball", VIDEOS, [1, 2, 3], dimension, annotator, tags=tags)


def test_a_tag_is_a_dimension_by_its_letters() -> None:
    named = {"Wrong motion": "wrong_motion", "wrong_motion": "wrong_motion", " flicker! ": "flicker", "…": ""}
    assert {tag: tag_dimension(tag) for tag in named} == named


def test_a_video_with_the_tag_ranks_below_one_without_once_for_each_answer() -> None:
    given = (frozenset({"Wrong motion"}), NONE, frozenset({"artefact", "Wrong motion"}))
    rankings = [
        answer(*given, dimension="overall"),
        answer(*given, dimension="motion"),  # the same answer, whose tags count once
        answer(NONE, frozenset({"artefact"}), NONE, annotator="ben"),
        replace(answer(), tags=None, annotator="eve"),  # was not asked
    ]
    found = tag_rankings(rankings, ["wrong_motion", "artefact"])
    assert [(r.annotator, r.dimension, r.ranks) for r in found] == [
        ("ada", "wrong_motion", [2, 1, 2]),
        ("ben", "wrong_motion", [1, 1, 1]),
        ("ada", "artefact", [1, 1, 2]),
        ("ben", "artefact", [1, 2, 1]),
    ]
    # Two people of whom one saw each artefact: the video that nobody complained about is best.
    (merged,) = merge_annotators([ranking for ranking in found if ranking.dimension == "artefact"])
    assert merged.ranks == [1, 2, 2]


def test_a_video_that_was_not_judged_stays_so() -> None:
    one = replace(answer(frozenset({"artefact"}), NONE, NONE), ranks=[1, -1, 2])
    assert tag_rankings([one], ["artefact"])[0].ranks == [2, -1, 1]


@pytest.mark.parametrize(
    ("tags", "said"),
    [
        (["wrong_count"], r"has the tag 'wrong_count' \(there is: artefact\)"),
        (["artefact", "Artefact"], "each once"),
        ([], "name one or more"),
    ],
)
def test_tags_that_order_nothing_are_refused(tags: list[str], said: str) -> None:
    with pytest.raises(InputError, match=said):
        tag_rankings([answer(frozenset({"artefact"}), NONE, NONE)], tags)
    everywhere = [frozenset({"artefact"})] * 3
    with pytest.raises(InputError, match="orders nothing"):
        tag_rankings([answer(*everywhere)], ["artefact"])


def test_a_pair_weighs_the_product_of_the_weights_of_the_tags_that_either_video_has() -> None:
    weights = read_tag_weights(["Wrong motion=0.5", "artefact=3", "a=b=2"])
    assert weights == {"wrong_motion": 0.5, "artefact": 3.0, "a_b": 2.0}
    both = {"artefact", "wrong motion", "flicker"}
    assert (
        pair_weight(both, {"Artefact"}, weights) == 1.5
    )  # a tag counts once, one without a weight not at all
    assert pair_weight((), (), weights) == 1.0


def test_weights_are_divided_by_their_mean_over_the_judged_pairs_of_each_ranking() -> None:
    rankings = [
        answer(frozenset({"artefact"}), NONE, NONE),  # pairs 4, 4, 1
        replace(answer(NONE, NONE, frozenset({"artefact"})), ranks=[1, 2, -1]),  # the judged pair 1
        replace(answer(), tags=None),
    ]
    found = weighted_by_tags(rankings, {"artefact": 4.0})
    mean = (3 + 1 + 1) / 3
    assert found[0].weights is not None
    assert [found[0].weights[i][j] * mean for i, j in ((0, 1), (2, 0), (1, 2))] == pytest.approx([4, 4, 1])
    assert found[2].weights is not None
    assert found[2].weights[0][1] * mean == pytest.approx(1)
    assert [each.ranks for each in found] == [each.ranks for each in rankings]


def test_a_merged_ranking_has_the_mean_weight_of_the_answers_that_it_was_made_of() -> None:
    own = [
        answer(frozenset({"artefact"}), NONE, NONE),
        answer(frozenset({"artefact"}), NONE, NONE, dimension="motion"),  # the same answer once more
        answer(NONE, NONE, NONE, annotator="ben"),
        replace(answer(annotator="eve"), tags=None),  # was not asked
    ]
    merged = [replace(answer(), videos=VIDEOS[::-1], tags=None)]
    (found,) = weighted_by_tags(merged, {"artefact": 3.0}, own)
    assert found.weights is not None
    pairs = [found.weights[i][j] for i, j in ((2, 0), (2, 1), (0, 1))]
    assert pairs == pytest.approx([2 / (5 / 3), 2 / (5 / 3), 1 / (5 / 3)])


@pytest.mark.parametrize(
    "text", ["artefact", "=1", "artefact=", "artefact=-1", "artefact=nan", "artefact=inf"]
)
def test_weights_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="write TAG=NUMBER"):
        read_tag_weights([text])
    with pytest.raises(InputError, match="each tag once"):
        read_tag_weights(["a b=1", "A B=1"])


def test_a_weight_of_an_unknown_tag_and_weights_that_leave_nothing_are_refused() -> None:
    rankings = [answer(*[frozenset({"artefact"})] * 3)]
    with pytest.raises(InputError, match=r"has the tag 'wrong_count' \(there is: artefact\)"):
        weighted_by_tags(rankings, {"wrong_count": 2.0})
    with pytest.raises(InputError, match="weighs 0"):
        weighted_by_tags(rankings, {"artefact": 0.0})


def row(**changes: Any) -> dict[str, Any]:
    return {"prompt": "a ball", "videos": ["a.mp4", "b.mp4"], "ranks": [1, 2], **changes}


def test_tags_are_read_from_a_rankings_file_and_written_again(tmp_path: Path) -> None:
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / name).touch()
    path = tmp_path / "rankings.jsonl"
    mark = {"video": "b.mp4", "tag": "artefact", "seconds": 0.5, "x": 0.25, "y": 0.5}
    rows = [row(), row(tags=[]), row(tags=[mark, {"video": "b.mp4", "tag": "flicker"}])]
    path.write_text("".join(json.dumps(each) + "\n" for each in rows))
    tags = [None, (NONE, NONE), (NONE, frozenset({"artefact", "flicker"}))]
    assert [ranking.tags for ranking in read_rankings(path)] == tags
    write_rankings(tmp_path / "again.jsonl", read_rankings(path))
    assert [ranking.tags for ranking in read_rankings(tmp_path / "again.jsonl")] == tags


@pytest.mark.parametrize(
    "tags", ["artefact", ["artefact"], [{"video": "c.mp4", "tag": "x"}], [{"video": "a.mp4", "tag": "!"}]]
)
def test_tags_of_another_layout_are_refused_by_line(tmp_path: Path, tags: object) -> None:
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / name).touch()
    (tmp_path / "rankings.jsonl").write_text(json.dumps(row()) + "\n" + json.dumps(row(tags=tags)))
    with pytest.raises(InputError, match=r"rankings.jsonl, line 2: `tags` must list objects"):
        read_rankings(tmp_path / "rankings.jsonl")


def test_a_reward_model_learns_a_tag_beside_the_ranks_and_is_evaluated_on_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_generator().pipeline.save_pretrained(tmp_path / "model")
    rows = []
    for number in range(6):
        names = [f"{number}-{k}.mp4" for k in range(2)]
        for k, name in enumerate(names):
            video = coloured_video(COLOURS[(number + k) % 4], number * 2 + k)
            write_video(tmp_path / name, torch.nn.functional.interpolate(video[None], size=(9, 32, 32))[0], 8)
        tags = [{"video": names[0], "tag": "wrong colour"}]
        rows.append({"prompt": f"clip {number}", "videos": names, "ranks": [1, 2], "tags": tags})
    path = tmp_path / "rankings.jsonl"
    path.write_text("".join(json.dumps(each) + "\n" for each in rows))
    out = str(tmp_path / "reward")
    common = ["--preferences", str(path), "--tag_dimension", "wrong_colour"]
    trained = [
        "reward",
        "--model",
        str(tmp_path / "model"),
        *common,
        "--output_dir",
        out,
        "--use_cpu",
        "true",
    ]
    trained += ["--num_train_epochs", "1", "--report_to", "none", "--held_out_fraction", "0.34"]
    assert cli.main([*trained, "--dimensions", "overall"]) == 0
    metrics = json.loads((tmp_path / "reward" / "metrics.json").read_text())
    assert metrics["wrong_colour"]["held_out"]["pairs"] == 2
    assert json.loads((tmp_path / "reward" / "reward_config.json").read_text())["dimensions"] == [
        "overall",
        "wrong_colour",
    ]
    evaluated = ["reward", "evaluate", "--reward", out, "--device", "cpu", *common]
    assert cli.main([*evaluated, "--output_dir", str(tmp_path / "report")]) == 0
    assert "wrong_colour: pair accuracy" in capsys.readouterr().out
    trained += ["--overwrite", "true"]
    assert cli.main([*trained, "--tag_weights", "wrong_colour=2", "wrong_count=0.5"]) == 2
    assert "'wrong_count' (there is: wrong colour)" in capsys.readouterr().err
    trained[trained.index("wrong_colour")] = "wrong_count"
    assert cli.main(trained) == 2
    assert "there is: wrong colour" in capsys.readouterr().err
