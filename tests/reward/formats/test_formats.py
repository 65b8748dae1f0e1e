"""Preference files of other projects: read from small files of exactly their layout, and written back."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import torch

from generator.output import InputError
from generator.video import write_video
from reward.formats import FORMATS, detect_format, read_preferences, write_preferences
from reward.preferences import Ranking

REWARDBENCH = """path_A,path_B,prompt,VQ,MQ,TA,Overall,A_model,B_model,fps_A,num_frames_A,fps_B,num_frames_B
./videos/a.mp4,./videos/b.mp4,"a red ball, rolling",A,same,B,A,gen2,pika,8.0,4,8.0,6
./videos/a.mp4,./videos/c.mp4,a cat,B ,,same,,gen2,luma,8.0,4,8.0,4
"""


@pytest.fixture
def folder(tmp_path) -> Path:
    for name, frames in (("a", 4), ("b", 6), ("c", 4)):
        write_video(tmp_path / "videos" / f"{name}.mp4", torch.zeros(3, frames, 16, 16), fps=8)
    return tmp_path


def said(rankings: list[Ranking]) -> list[tuple]:
    return [(r.prompt, [video.name for video in r.videos], r.ranks, r.dimension, r.votes) for r in rankings]


def test_videogen_rewardbench_has_a_label_for_each_dimension(folder):
    path = folder / "videogen-rewardbench.csv"
    path.write_text(REWARDBENCH)
    assert detect_format(path) == "videogen-rewardbench"
    first, second = ["a.mp4", "b.mp4"], ["a.mp4", "c.mp4"]
    assert said(read_preferences(path)) == [
        ("a red ball, rolling", first, [1, 2], "visual", None),
        ("a red ball, rolling", first, [1, 1], "motion", None),
        ("a red ball, rolling", first, [2, 1], "alignment", None),
        ("a red ball, rolling", first, [1, 2], "overall", None),
        ("a cat", second, [2, 1], "visual", None),
        ("a cat", second, [1, 1], "alignment", None),
    ]


def test_labels_that_are_not_known_are_counted_in_a_warning(folder, capsys):
    path = folder / "labels.csv"
    path.write_text(
        "path_A,path_B,prompt,VQ,MQ,TA,Overall\n"
        "./videos/a.mp4,./videos/b.mp4,p,Same,tie,a,A\n"
        "./videos/a.mp4,./videos/c.mp4,q,,tie,left,B\n"
    )
    assert said(read_preferences(path)) == [
        ("p", ["a.mp4", "b.mp4"], [1, 1], "visual", None),
        ("p", ["a.mp4", "b.mp4"], [1, 2], "alignment", None),
        ("p", ["a.mp4", "b.mp4"], [1, 2], "overall", None),
        ("q", ["a.mp4", "c.mp4"], [2, 1], "overall", None),
    ]
    warned = capsys.readouterr().err
    assert "3 labels that are none of A, B and same" in warned
    assert "'tie' (2), 'left' (1)" in warned


def test_genai_bench_votes_are_pairs_and_both_bad_is_a_tie(folder):
    votes = ["leftvote", "rightvote", "tievote", "bothbad_vote"]
    rows = [
        {"prompt": "a cat", "left_model": "gen2", "right_model": "pika", "left_video": "videos/a.mp4",
         "right_video": "https://example.org/somewhere/b.mp4", "vote_type": vote}
        for vote in votes
    ]  # fmt: skip
    for path in (folder / "video_generation.json", folder / "votes.parquet"):
        if path.suffix == ".json":
            path.write_text(json.dumps(rows))
        else:
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
        assert detect_format(path) == "genai-bench"
        assert [ranking.ranks for ranking in read_preferences(path)] == [[1, 2], [2, 1], [1, 1], [1, 1]]


def test_image_reward_rankings_have_many_generations(folder):
    path = folder / "test.json"
    rows = [{"prompt": "a cat", "generations": ["videos/a.mp4", "b.mp4", "c.mp4"], "ranking": [2, 1, 2]}]
    path.write_text(json.dumps(rows))
    assert detect_format(path) == "imagereward"
    assert said(read_preferences(path)) == [
        ("a cat", ["a.mp4", "b.mp4", "c.mp4"], [2, 1, 2], "overall", None)
    ]


def test_rapidata_shares_are_votes_of_each_question(folder):
    row = {
        "prompt": "a cat", "video1": "https://assets.rapidata.ai/a.mp4", "video2": "https://assets.rapidata.ai/b.mp4",
        "weighted_results1_Preference": 0.7, "weighted_results2_Preference": 0.3, "detailedResults_Preference": "[]",
        "weighted_results1_Coherence": 0.5, "weighted_results2_Coherence": 0.5, "detailedResults_Coherence": "[]",
        "weighted_results1_Alignment": None, "weighted_results2_Alignment": None, "detailedResults_Alignment": "[]",
        "file_name1": "a.mp4", "file_name2": "b.mp4", "model1": "sora", "model2": "hunyuan",
    }  # fmt: skip
    path = folder / "train-00000-of-00001.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row]), path)
    assert detect_format(path) == "rapidata"
    assert said(read_preferences(path)) == [
        ("a cat", ["a.mp4", "b.mp4"], [1, 2], "overall", [0.7, 0.3]),
        ("a cat", ["a.mp4", "b.mp4"], [1, 1], "motion", [0.5, 0.5]),
    ]


@pytest.mark.parametrize(
    ("name", "suffix"),
    [
        ("videogen-rewardbench", "csv"),
        ("genai-bench", "json"),
        ("genai-bench", "parquet"),
        ("imagereward", "json"),
        ("rapidata", "parquet"),
        ("rapidata", "csv"),
        ("vidalign", "jsonl"),
    ],
)
def test_what_is_written_is_read_back_the_same_and_detected(folder, name, suffix):
    a, b = folder / "videos" / "a.mp4", folder / "videos" / "b.mp4"
    votes = [0.25, 0.75] if name == "rapidata" else None
    rankings = [
        Ranking("a cat, alone", [a, b], [2, 1], votes=votes),
        Ranking("ein Hund – groß", [b, a], [1, 1], votes=[0.5, 0.5] if votes else None),
    ]
    if name in ("videogen-rewardbench", "rapidata"):
        rankings.append(
            Ranking("a cat, alone", [a, b], [1, 2], "alignment", votes=[3.0, 1.0] if votes else None)
        )
    path = folder / f"written.{suffix}"
    write_preferences(path, rankings, name)
    assert detect_format(path) == name
    found = read_preferences(path)
    assert sorted(said(found), key=str) == sorted(said(rankings), key=str)


def test_a_written_videogen_rewardbench_file_has_its_columns_and_the_facts_of_the_videos(folder):
    path = folder / "videogen-rewardbench.csv"
    path.write_text(REWARDBENCH)
    write_preferences(folder / "again.csv", read_preferences(path), "videogen-rewardbench")
    with (folder / "again.csv").open() as file:
        rows = list(csv.DictReader(file))
    with path.open() as file:
        original = list(csv.DictReader(file))
    assert list(rows[0]) == list(original[0])
    for name in ("prompt", "VQ", "MQ", "TA", "Overall", "fps_A", "num_frames_A", "num_frames_B"):
        assert [row[name] for row in rows] == [row[name].strip() for row in original], name


def test_mistakes_name_file_and_row(folder):
    path = folder / "pairs.csv"
    path.write_text(REWARDBENCH.replace("./videos/c.mp4", "./videos/gone.mp4"))
    with pytest.raises(InputError, match=r"pairs.csv, row 2: the video ./videos/gone.mp4"):
        read_preferences(path)
    path.write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="columns a, b, which fit none of"):
        read_preferences(path)
    with pytest.raises(InputError, match="format 'hpd' is unknown"):
        read_preferences(path, "hpd")
    votes = folder / "votes.json"
    votes.write_text(
        json.dumps([{"prompt": "x", "left_video": "a.mp4", "right_video": "b.mp4", "vote_type": "both"}])
    )
    with pytest.raises(InputError, match="row 1: vote_type is 'both'"):
        read_preferences(votes)
    votes.write_text("[")
    with pytest.raises(InputError, match="this is not JSON"):
        read_preferences(votes)
    with pytest.raises(InputError, match="does not exist"):
        read_preferences(folder / "no.jsonl")
    three = [Ranking("x", [folder / "videos" / f"{n}.mp4" for n in "abc"], [1, 2, 3])]
    for name in sorted(set(FORMATS) - {"imagereward"}):
        with pytest.raises(InputError, match="3 videos"):
            write_preferences(folder / "x.csv", three, name)


def test_line_separators_inside_of_a_prompt_and_a_byte_order_mark_are_read(folder):
    row = {
        "prompt": "a\u2028cat",
        "left_video": "videos/a.mp4",
        "right_video": "videos/b.mp4",
        "vote_type": "leftvote",
    }
    for name, text in (("a.jsonl", json.dumps(row, ensure_ascii=False)), ("b.json", json.dumps([row]))):
        (folder / name).write_text("\ufeff" + text, encoding="utf-8")
        assert said(read_preferences(folder / name)) == [
            ("a\u2028cat", ["a.mp4", "b.mp4"], [1, 2], "overall", None)
        ]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "path_A,path_B,prompt,Overall\nvideos/a.mp4,./videos/a.mp4,a cat,A\n"),
        ("b.csv", "path_A,path_B,prompt,Overall\ngen2/a.mp4,pika/a.mp4,a cat,A\n"),
        ("c.json", '[{"prompt": "a cat", "generations": ["a.mp4", "a.mp4"], "ranking": [1, 2]}]'),
        ("d.jsonl", '{"prompt": "a cat", "videos": ["videos/a.mp4", "./videos/a.mp4"], "ranks": [1, 2]}'),
    ],
)
def test_a_video_that_is_compared_with_itself_is_refused(folder, name, text):
    (folder / name).write_text(text)
    with pytest.raises(InputError, match=r"name each video once|share their last name"):
        read_preferences(folder / name)


def test_votes_that_are_no_votes_are_refused(folder):
    pair = {"prompt": "a cat", "left_video": "a.mp4", "right_video": "b.mp4", "vote_type": ["leftvote"]}
    (folder / "genai.json").write_text(json.dumps([pair]))
    with pytest.raises(InputError, match="vote_type is"):
        read_preferences(folder / "genai.json")
    head = "prompt,video1,video2,weighted_results1_Preference,weighted_results2_Preference\n"
    (folder / "rapidata.csv").write_text(head + "a cat,a.mp4,b.mp4,inf,1\n")
    with pytest.raises(InputError, match="must be a finite number"):
        read_preferences(folder / "rapidata.csv")


@pytest.mark.parametrize("name", ["videogen-rewardbench", "rapidata", "genai-bench"])
def test_the_labels_of_several_annotators_of_a_pair_are_all_written(folder, name):
    videos = [folder / "videos/a.mp4", folder / "videos/b.mp4"]
    dimensions = ["overall"] if name == "genai-bench" else ["overall", "motion"]
    rankings = [
        Ranking("a cat", videos, ranks, dimension)
        for dimension in dimensions
        for ranks in ([1, 2], [2, 1], [1, 1])
    ]
    path = folder / ("votes.json" if name == "genai-bench" else "votes.csv")
    write_preferences(path, rankings, name)
    found = [(ranking.dimension, ranking.ranks) for ranking in read_preferences(path, name)]
    assert sorted(found) == sorted((ranking.dimension, ranking.ranks) for ranking in rankings)


@pytest.mark.parametrize("kind", ["symbolic", "hard"])
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "path_A,path_B,prompt,Overall\nvideos/a.mp4,videos/link.mp4,a cat,A\n"),
        ("b.json", '[{"prompt": "a cat", "generations": ["a.mp4", "link.mp4"], "ranking": [1, 2]}]'),
        (
            "c.jsonl",
            '{"prompt": "a", "left_video": "a.mp4", "right_video": "link.mp4", "vote_type": "leftvote"}',
        ),
        (
            "d.csv",
            "prompt,video1,video2,weighted_results1_Preference,weighted_results2_Preference\na,a.mp4,link.mp4,0.2,0.8\n",
        ),
        ("e.jsonl", '{"prompt": "a cat", "videos": ["videos/a.mp4", "videos/link.mp4"], "ranks": [1, 2]}'),
    ],
)
def test_a_link_to_a_video_is_the_same_video(folder, name, text, kind):
    if kind == "symbolic":
        (folder / "videos" / "link.mp4").symlink_to("a.mp4")
    else:
        (folder / "videos" / "link.mp4").hardlink_to(folder / "videos" / "a.mp4")
    (folder / name).write_text(text)
    with pytest.raises(InputError, match=r"(row|entry|line) 1: two videos of one ranking are one file"):
        read_preferences(folder / name)


def test_a_file_that_two_names_mean_is_refused_unless_both_are_paths_to_it(folder):
    head = "path_A,path_B,prompt,Overall\n"
    table = folder / "t.csv"
    for text, row in (
        ("gen2/a.mp4,b.mp4,a cat,A\npika/a.mp4,c.mp4,a cat,A\n", 2),
        ("videos/a.mp4,b.mp4,a cat,A\npika/a.mp4,c.mp4,a cat,A\n", 2),
        ("https://gen2.org/a.mp4,b.mp4,a cat,A\nhttps://pika.org/a.mp4,c.mp4,a cat,A\n", 2),
        ("gen2/a.mp4,pika/a.mp4,a cat,A\n", 1),
    ):
        table.write_text(head + text)
        with pytest.raises(InputError, match=rf"t\.csv, row {row}: .* share their last name"):
            read_preferences(table)
    # The same address with another signature, and several paths of a file that is there.
    table.write_text(
        head + "https://a.org/x/a.mp4?sig=1,b.mp4,a cat,A\nhttps://a.org/x/a.mp4?sig=2,c.mp4,a cat,A\n"
        "./videos/b.mp4,videos/c.mp4,a dog,A\n"
    )
    assert len(read_preferences(table)) == 3
