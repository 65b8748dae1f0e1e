"""Prompt texts of others: found by hash wherever they stand, kept in the cache, never shipped."""

import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from generator.output import InputError
from reward.models.named import hpsv3, served_rewards, videoalign
from reward.models.named.templates import PromptText, _documents, _texts, digest

ROOT = Path(__file__).resolve().parents[4]
TEXT = 'Judge {prompt} & say "yes"\n  or no; \n'
KNOWN = PromptText("own", digest(TEXT), (digest(TEXT),), "{prompt}", "`pip download own`")


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("VIDALIGN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def sources(folder):
    """The text as a file, as a constant, an f-string, a Markdown block, and inside of a folder and of archives."""
    code = f"x = 1\nTEXT = {TEXT!r}\n"
    head, tail = TEXT.split("{prompt}")
    f_string = f"def ask(prompt):\n    return ({head!r} f'{{prompt}}' {tail!r})\n"
    (folder / "text.txt").write_text(TEXT)
    (folder / "text_with_a_newline_more.txt").write_text(TEXT + "\n")
    (folder / "code.py").write_text(code)
    (folder / "f_string.py").write_text(f_string)
    (folder / "README.md").write_text(f"# Usage\n```python\n{code}```\n")
    (folder / "checkout" / "inner").mkdir(parents=True)
    (folder / "checkout" / "inner" / "prompt.py").write_text(code)
    (folder / "checkout" / "broken.py").write_text("def (")
    (folder / "checkout" / "binary.txt").write_bytes(b"\xff\xfe\x00")
    with zipfile.ZipFile(folder / "package-1-py3-none-any.whl", "w") as wheel:
        wheel.writestr("package/prompt.py", code)
    with tarfile.open(folder / "package-1.tar.gz", "w:gz") as archive:
        member = tarfile.TarInfo("package-1/prompt.py")
        member.size = len(code.encode())
        archive.addfile(member, io.BytesIO(code.encode()))
    return list(folder.iterdir())


def test_a_text_is_found_in_every_kind_of_source_and_stays_in_the_cache(tmp_path, cache):
    (tmp_path / "sources").mkdir()
    for source in sources(tmp_path / "sources"):
        assert KNOWN.find(source) == TEXT, source
    with pytest.raises(InputError, match="is not shipped, and is not in the cache"):
        KNOWN.load()
    assert KNOWN.load(tmp_path / "sources" / "code.py") == TEXT
    assert KNOWN.load() == TEXT
    (kept,) = (cache / "templates").iterdir()
    kept.write_text("changed")
    with pytest.raises(InputError, match="own:template=PATH"):
        KNOWN.load()


def test_reading_a_source_runs_nothing_in_it(tmp_path):
    trap = tmp_path / "trap.py"
    trap.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nTEXT = {TEXT!r}\n")
    assert KNOWN.find(trap) == TEXT
    assert not (tmp_path / "ran").exists()


def test_a_source_without_the_text_is_refused_and_says_where_it_is(tmp_path):
    (tmp_path / "other.py").write_text("TEXT = 'another'\n")
    with pytest.raises(
        InputError, match=r"does not hold the prompt text of own .* get it with `pip download own`"
    ):
        KNOWN.load(tmp_path / "other.py")
    with pytest.raises(InputError, match="does not exist: check template="):
        KNOWN.load(tmp_path / "nowhere")


def test_a_prompt_is_put_in_as_it_is():
    assert KNOWN.fill(TEXT, "{a} $b \\1") == TEXT.replace("{prompt}", "{a} $b \\1")


def test_the_hashes_are_those_of_the_published_texts():
    assert videoalign.TEXT.sha256.startswith("fdb6309bac618dd0c8b1b589d3a0970a")
    assert hpsv3.TEXT.sha256.startswith("f6ee57479d4e9eee76b49c00dc962e1e")
    assert [part[:8] for part in hpsv3.TEXT.parts] == ["0393599d", "2471faca"]
    assert served_rewards.VIDEOSCORE2.text.sha256.startswith("63a228e02ca61abc")
    assert served_rewards.UNIFIEDREWARD.text.sha256.startswith("707411fb9175547e")


def test_no_file_of_the_project_holds_one_of_the_texts():
    hashes = {
        part
        for text in (
            videoalign.TEXT, hpsv3.TEXT, served_rewards.VIDEOSCORE2.text, served_rewards.UNIFIEDREWARD.text
        )
        for part in (text.sha256, *text.parts)
    }  # fmt: skip
    for folder in ("reward", "tests/reward", "docs"):
        found = {
            digest(text) for name, content in _documents(ROOT / folder) for text in _texts(name, content)
        }
        assert digest(videoalign.TEXT.placeholder) in found or folder == "docs"  # constants are seen
        assert not found & hashes
