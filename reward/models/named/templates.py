"""Prompt texts of published rewards, which belong to their authors: found in what the user has of theirs, by hash.

A reward model gives the scores that its authors published only under the very text that it was trained with. The
project ships the hash of such a text and where it stands, not the text. It is looked for in a text file, a Python or
Markdown file, a wheel, an archive or a checkout; Python is read, never run. What was found stays in the cache.
"""

from __future__ import annotations

import ast
import hashlib
import re
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from generator.output import InputError, write_text

SUFFIXES = (".py", ".md", ".txt")
MOST_BYTES = 2 * 2**20
"""Size of a file up to which texts are looked for in it."""

_FENCE = re.compile(r"^```[^\n]*\n(.*?)^```", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class PromptText:
    """A prompt text that is known by its hash only.

    Attributes:
        reward: name of the reward that needs it.
        sha256: of the whole text, UTF-8.
        parts: of the string constants that make it, in their order; one where it is a constant itself. A part of an
            f-string is written as its source has it, `{name}` for each value.
        placeholder: stands for the prompt of the video.
        source: what to do to get it, after "get it with".
    """

    reward: str
    sha256: str
    parts: tuple[str, ...]
    placeholder: str
    source: str

    def fill(self, text: str, prompt: str) -> str:
        """The text for a prompt, which may hold braces and dollars."""
        return text.replace(self.placeholder, prompt)

    def load(self, source: str | Path | None = None) -> str:
        """The text from `source`, or from the cache where None; what a source gave is kept in the cache.

        Raises:
            InputError: it is not there; says how to get it.
        """
        kept = cache_file(self)
        if source is not None:
            text = self.find(Path(source).expanduser())
            if not kept.is_file() or kept.read_bytes() != text.encode():
                write_text(kept, text)
            return text
        if kept.is_file() and digest(text := kept.read_bytes().decode("utf-8", "replace")) == self.sha256:
            return text
        raise InputError(
            f"The prompt text of {self.reward} belongs to its authors, is not shipped, and is not in the cache "
            f"({kept}): get it with {self.source}, and name that once as {self.reward}:template=PATH."
        )

    def find(self, source: Path) -> str:
        """The text in a file, an archive or a folder.

        Raises:
            InputError: there is no such path, or the text is not in it.
        """
        if not source.exists():
            raise InputError(
                f"{source}, which was to hold the prompt text of {self.reward}, does not exist: check template=."
            )
        found: dict[str, str] = {}
        for name, content in _documents(source):
            for text in _texts(name, content):
                found.setdefault(digest(text), text)
            if self.sha256 in found:
                return found[self.sha256]
            if all(part in found for part in self.parts):
                whole = "".join(found[part] for part in self.parts)
                if digest(whole) == self.sha256:
                    return whole
        raise InputError(
            f"{source} does not hold the prompt text of {self.reward} (SHA-256 {self.sha256[:12]}…): get it with "
            f"{self.source}."
        )


def digest(text: str) -> str:
    """SHA-256 of a text in UTF-8, in hexadecimal."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def cache_file(text: PromptText) -> Path:
    """The file in the cache that holds a prompt text."""
    from generator.data.latent_cache import default_cache_dir

    return default_cache_dir() / "templates" / f"{text.reward}-{text.sha256[:16]}.txt"


def _documents(source: Path) -> Iterator[tuple[str, bytes]]:
    """Name and content of each file in which a text may stand."""
    if source.is_dir():
        for path in sorted(source.rglob("*")):
            if path.suffix in SUFFIXES and path.is_file() and path.stat().st_size <= MOST_BYTES:
                yield path.name, path.read_bytes()
    elif zipfile.is_zipfile(source):
        with zipfile.ZipFile(source) as archive:
            for entry in archive.infolist():
                if entry.filename.endswith(SUFFIXES) and entry.file_size <= MOST_BYTES:
                    yield entry.filename, archive.read(entry)
    elif source.suffix not in SUFFIXES and tarfile.is_tarfile(source):
        with tarfile.open(source) as archive:
            for member in archive:
                file = archive.extractfile(member) if member.isfile() else None
                if file is not None and member.name.endswith(SUFFIXES) and member.size <= MOST_BYTES:
                    yield member.name, file.read()
    else:
        yield source.name, source.read_bytes()


def _texts(name: str, content: bytes) -> Iterator[str]:
    """The texts of a file: string constants of Python, also in the code blocks of Markdown, or the file itself."""
    try:
        text = content.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError:
        return
    if name.endswith(".py"):
        yield from _constants(text)
        return
    for block in _FENCE.findall(text):
        yield from _constants(block)
    yield text
    yield text.removesuffix("\n")


def _constants(source: str) -> Iterator[str]:
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
        elif isinstance(node, ast.JoinedStr):
            yield "".join(
                str(part.value)
                if isinstance(part, ast.Constant)
                else f"{{{ast.unparse(part.value) if isinstance(part, ast.FormattedValue) else ''}}}"
                for part in node.values
            )
