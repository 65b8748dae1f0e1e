"""Rankings as CSV and Parquet, and the names under which browsers save them."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import pyarrow.parquet as pq
import pytest
from fastapi.testclient import TestClient

from alignment import cli
from generator.output import InputError
from labeling_app.files.candidates import import_tasks
from labeling_app.files.ranking_tables import COLUMNS, as_csv, attachment, export_table, harmless
from labeling_app.files.rankings import ranking_rows
from labeling_app.store.api_tokens import add_token
from labeling_app.store.store import Store
from labeling_app.tasks import next_task as assignment
from labeling_app.tasks.answers import submit
from labeling_app.web.server import create_app


@pytest.fixture
def ranked(tmp_path: Path, candidates: Path) -> Iterator[Store]:
    """A campaign with two rankings, of which one has a flag that a spreadsheet would run."""
    with Store(tmp_path / "labels.db") as store:
        import_tasks(store, candidates, campaign="main", overlap=1)
        user = store.add_user("=ada()")
        for flag in ('=HYPERLINK("http://evil")', ""):
            task = assignment.next_task(store, user, order=lambda task: range(4))
            assert task is not None
            submit(store, user, task.assignment, {"overall": [2, 1, 3, 3]}, 2.5, "", flag)
        yield store


def test_a_csv_has_a_line_for_each_video_and_no_formula(ranked: Store, tmp_path: Path) -> None:
    assert export_table(ranked, "main", tmp_path / "r.csv", "csv") == 2
    lines = list(csv.DictReader(io.StringIO((tmp_path / "r.csv").read_text("utf-8"), newline="")))
    rows = ranking_rows(ranked, "main", tmp_path)
    assert list(lines[0]) == list(COLUMNS)
    assert [(line["ranking"], line["rank"]) for line in lines] == [
        (str(n), str(rank)) for n, row in enumerate(rows, start=1) for rank in row["ranks"]
    ]
    assert [line["video"] for line in lines] == [harmless(video) for row in rows for video in row["videos"]]
    assert {line["annotator"] for line in lines} == {"'=ada()"}
    assert [line["flag"] for line in lines] == ['\'=HYPERLINK("http://evil")'] * 4 + [""] * 4
    with pytest.raises(InputError, match="--overwrite"):
        export_table(ranked, "main", tmp_path / "r.csv", "csv")
    assert export_table(ranked, "main", tmp_path / "r.csv", "csv", overwrite=True) == 2


def test_a_parquet_file_holds_what_the_rankings_file_does(ranked: Store, tmp_path: Path) -> None:
    assert export_table(ranked, "main", tmp_path / "r.parquet", "parquet") == 2
    read = pq.read_table(tmp_path / "r.parquet").to_pylist()
    for found, row in zip(read, ranking_rows(ranked, "main", tmp_path), strict=True):
        assert {key: found[key] for key in row if key != "letters"} == {
            k: v for k, v in row.items() if k != "letters"
        }
        assert {key for key, value in found.items() if value is not None} == set(row)


@pytest.mark.parametrize(
    "cell", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", " =1", "＝1", "-2+3"]
)
def test_beginnings_of_formulas_get_an_apostrophe(cell: str) -> None:
    assert harmless(cell) == f"'{cell}"


def test_other_texts_and_numbers_stay_and_nothing_leaves_its_cell() -> None:
    assert [harmless(text) for text in ("a = b", "", "1-2", "'x", "ä-")] == ["a = b", "", "1-2", "'x", "ä-"]
    row = {"prompt": 'a",=1\n;=2', "videos": ["a.mp4", "b.mp4"], "ranks": [1, 2], "seconds": -1.5}
    lines = list(csv.reader(io.StringIO(as_csv([row]).decode(), newline="")))
    assert lines[1][1] == 'a",=1\n;=2'
    assert lines[1][6] == "-1.5"


@pytest.mark.parametrize(
    "name", ["a\r\nset-cookie: x=1", 'a"; filename="evil.exe', "../../etc/passwd", "Größe 1", "..", "a;b"]
)
def test_a_campaigns_name_neither_ends_the_header_nor_names_a_folder(name: str) -> None:
    header = attachment(name, "csv")["content-disposition"]
    assert header.isascii()
    assert header.isprintable()
    plain = header.split('"')[1]
    whole = unquote(header.rpartition("''")[2])
    assert header.count('"') == 2
    for each in (plain, whole):
        assert "/" not in each
        assert "\\" not in each
        assert each.endswith(".csv")
        assert not each.startswith(".")
    if name == "Größe 1":
        assert (plain, whole) == ("Gr_e 1.csv", "Größe 1.csv")


def test_leads_and_programs_download_every_format_and_the_command_writes_it(
    ranked: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    client = TestClient(create_app(ranked), headers={"authorization": f"Bearer {add_token(ranked, 'sheet')}"})
    for format, kind in (("jsonl", "application/x-ndjson"), ("csv", "text/csv; charset=utf-8")):
        got = client.get(f"/api/lead/export?campaign=main&format={format}")
        assert (got.status_code, got.headers["content-type"]) == (200, kind)
        assert f'filename="main.{format}"' in got.headers["content-disposition"]
    got = client.get("/api/lead/export?campaign=main&format=parquet")
    assert pq.read_table(io.BytesIO(got.content)).num_rows == 2
    assert client.get("/api/lead/export?campaign=main&format=xls").status_code == 422
    command = ["label", "export", "--db", str(tmp_path / "labels.db"), "--campaign", "main", "--format"]
    assert cli.main([*command, "csv", "--output_file", str(tmp_path / "a.csv")]) == 0
    assert "2 ranking(s)" in capsys.readouterr().out
    assert cli.main([*command, "csv", "--output_file", str(tmp_path / "a.jsonl")]) == 2
    assert "ends in .csv" in capsys.readouterr().err
    assert cli.main([*command, "xls", "--output_file", str(tmp_path / "a.xls")]) == 2
    assert "parquet" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.glob("a.*")) == ["a.csv"]
