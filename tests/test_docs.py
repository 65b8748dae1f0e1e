"""The documentation: links, paths and modules that it names are there, and the lists of pages and papers are whole."""

from __future__ import annotations

import re
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from alignment.cli.config_files import find_config

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("alignment", "benchmarks", "generator", "labeling_app", "reward")
PAGES = [*sorted((ROOT / "docs").glob("*.md")),
         *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "benchmarks/README.md"))]  # fmt: skip
PLACEHOLDERS = ("x.py", "x_config.py", "x_trainer.py", "yours.py")


def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub writes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_local_link_leads_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(((?!https?:)[^)#\s]*)(?:#([^)]*))?\)", page.read_text(encoding="utf-8"))
    targets = [(page.parent / path if path else page, anchor) for path, anchor in links]
    assert not [str(target) for target, _ in targets if not target.exists()]
    assert not [
        f"{target.name}#{anchor}" for target, anchor in targets if anchor and anchor not in anchors(target)
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_path_and_module_that_a_page_names_is_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    tops = "|".join((*PACKAGES, "docs", "tests"))
    paths = re.findall(rf"`((?:{tops})(?:/[\w-]+)+(?:\.\w+|/)?)`", text)
    missing = [
        path
        for path in paths
        if not path.endswith(PLACEHOLDERS) and not any((top / path).exists() for top in (ROOT, page.parent))
    ]
    assert not missing
    modules = re.findall(rf"(?:python -m|from|import) ((?:{'|'.join(PACKAGES)})(?:\.\w+)*)", text)
    assert not [module for module in set(modules) if find_spec(module) is None]


def shown_commands() -> list[list[str]]:
    """Words of the commands of `vidalign` in the pages' blocks."""
    blocks = [
        block
        for page in PAGES
        for block in re.findall(r"```bash\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    ]
    lines = [line.split() for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [words for words in lines if words[:1] == ["vidalign"]]


def test_rollouts_of_several_processes_are_shown_with_prompts_for_each() -> None:
    checked = 0
    for words in shown_commands():
        given = {word.removeprefix("--"): value for word, value in pairwise(words)}
        if words[1] not in ("ppo", "nft", "online_dpo", "rwr") or "num_processes" not in given:
            continue
        if not given["config"].startswith(("wan/", "nano/")):  # somebody's own, with what it holds
            continue
        values = yaml.safe_load(find_config(given["config"]).read_text(encoding="utf-8")) | given
        groups = int(values["num_processes"]) // int(values.get("context_parallel", 1))
        assert int(values["num_prompts"]) % groups == 0, " ".join(words)
        checked += 1
    assert checked >= 2


def test_the_index_lists_every_page() -> None:
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    pages = {page.name for page in (ROOT / "docs").glob("*.md")} - {"index.md"}
    assert not {page for page in pages if f"({page})" not in index}


def test_the_page_of_papers_has_every_paper_of_the_code() -> None:
    page = (ROOT / "docs" / "papers.md").read_text(encoding="utf-8")
    cited = {
        (number, path.relative_to(ROOT).as_posix())
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        for number in re.findall(r"arXiv\s+(\d{4}\.\d{4,5})", path.read_text(encoding="utf-8"))
    }
    assert cited
    assert not {(number, path) for number, path in cited if number not in page}


def test_the_readme_of_the_benchmarks_lists_every_command() -> None:
    readme = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
    commands = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in (ROOT / "benchmarks").rglob("*.py")
        if '__name__ == "__main__"' in path.read_text(encoding="utf-8")
    ]
    assert commands
    assert not [command for command in commands if f"python -m {command}" not in readme]
