"""Video files whose end is missing: the sizes that a container states, against the bytes that are there.

Decoders often say nothing of an end that is missing (an interrupted download, a full disk). Containers write down the
size of their parts, so a few bytes of the file tell it, whatever its length and before anything is decoded.
"""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

_EBML, _SEGMENT, _CLUSTER = 0x1A45DFA3, 0x18538067, 0x1F43B675
_UNKNOWN = -1


def missing_bytes(path: str | Path) -> int:
    """Number of bytes that a file lacks by what its container states; 0 where nothing is known to be missing.

    mp4 and mov, webm and mkv, avi (RIFF) and gif files are checked. A file that is cut in a gif or at the end of a live
    recording, which states no sizes, lacks at least 1.
    """
    size = Path(path).stat().st_size
    with Path(path).open("rb") as file:
        start = file.read(12)
        file.seek(0)
        if start[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
            return _missing_of_boxes(file, size)
        if int.from_bytes(start[:4], "big") == _EBML:
            return _missing_of_elements(file, size)
        if start[:4] == b"RIFF":
            return max(0, int.from_bytes(start[4:8], "little") + 8 - size)
        if start[:4] == b"GIF8":
            return _missing_of_gif(file)
    return 0


def _missing_of_boxes(file: BinaryIO, size: int) -> int:
    """ISO base media (mp4, mov): a row of boxes, each with its size before its name."""
    place = 0
    while place + 8 <= size:
        file.seek(place)
        header = file.read(16)
        length, name = int.from_bytes(header[:4], "big"), header[4:8]
        if length == 1:
            length = int.from_bytes(header[8:16], "big")
        if length < 8 or not name.isascii() or not name.decode("ascii").isprintable():
            return 0  # 0 reaches to the end; what is no box was added behind the film, as some cameras do
        place += length
    return max(0, place - size)


def _missing_of_elements(file: BinaryIO, size: int) -> int:
    """EBML (webm, mkv): elements of id, size and content; the size of live recordings is unknown."""
    place = 0
    while place < size:
        file.seek(place)
        head = file.read(12)
        element, id_length = _variable_number(head, keep_marker=True)
        length, size_length = _variable_number(head[id_length:], keep_marker=False)
        if id_length == 0 or size_length == 0:
            # Neither an id nor a size begins with a zero byte; at the very end the header itself is cut.
            return 1 if len(head) < 12 else 0
        place += id_length + size_length
        if element == _SEGMENT and length != _UNKNOWN:
            return max(0, place + length - size)
        if element in (_SEGMENT, _CLUSTER):
            continue  # its children follow
        if length == _UNKNOWN:
            return 0
        place += length
    return max(0, place - size)


def _variable_number(head: bytes, keep_marker: bool) -> tuple[int, int]:
    """Value and length of an EBML number: as many leading zero bits as further bytes; length 0 where there is none."""
    length = 9 - head[0].bit_length() if head and head[0] else 0
    if length == 0 or len(head) < length:
        return 0, 0
    value = int.from_bytes(head[:length], "big")
    if keep_marker:
        return value, length
    value &= (1 << 7 * length) - 1
    return (_UNKNOWN if value == (1 << 7 * length) - 1 else value), length


def _missing_of_gif(file: BinaryIO) -> int:
    """GIF: blocks up to a trailer; 1 where there is no trailer."""
    header = file.read(13)
    if len(header) < 13:
        return 1
    _skip_colours(file, header[10])
    while True:
        kind = file.read(1)
        if kind == b";":
            return 0
        if kind == b"!":
            file.seek(1, 1)
        elif kind == b",":
            _skip_colours(file, file.read(9)[-1:].ljust(1, b"\0")[0])
            file.seek(1, 1)
        else:
            return 1
        while length := file.read(1):
            if length == b"\0":
                break
            file.seek(length[0], 1)


def _skip_colours(file: BinaryIO, flags: int) -> None:
    if flags & 0x80:
        file.seek(3 << (flags & 7) + 1, 1)
