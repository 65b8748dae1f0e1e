"""Gradio component in which people rank videos, for anybody's `gr.Blocks`.

The component's template is a constant. Prompts and addresses of videos reach the page as the component's value and are
set as text and properties by `static/ranking/component.js`, because Gradio evaluates templates as JavaScript literals.
"""

from __future__ import annotations

import secrets
import shutil
import threading
from abc import ABCMeta
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, TypedDict

import gradio as gr
from gradio.component_meta import ComponentMeta, updateable
from gradio.data_classes import FileData
from gradio.processing_utils import _check_allowed

from generator.output import InputError, atomic_path, is_storable
from labeling_app.browser_video import frame_times, write_playable
from labeling_app.files.candidates import inspect_video
from labeling_app.store.new_tasks import MAXIMUM_VIDEOS, VideoFile
from labeling_app.web.login_pages import STATIC
from reward.preferences import DIMENSIONS, MISSING

LARGEST_PROMPT = 20_000
REMEMBERED_TASKS = 10_000
"""Tasks of open pages whose ranks are taken; those shown first are forgotten first."""
START = """
import(props.value.script.url)
    .then((component) => component.start(element, props, trigger, watch))
    .catch((error) => { element.textContent = 'The ranking could not be loaded: ' + error.message; });
"""

gr.set_static_paths(STATIC)


class RankedVideos(TypedDict):
    """Prompt and videos as the app gave them, with ranks: a line of a rankings file.

    Attributes:
        prompt: the text that the videos were made from.
        videos: 2 to 9 paths or URLs.
        ranks: one a video; lower is better, equal is a tie, -1 has no rank yet.
        dimension: `overall`, `visual`, `motion` or `alignment`.
    """

    prompt: str
    videos: list[str]
    ranks: list[int]
    dimension: str


class _ShownTasks:
    """Tasks by the tokens that pages have instead of paths."""

    def __init__(self, remembered: int = REMEMBERED_TASKS) -> None:
        self.remembered = remembered
        self._lasting: dict[str, RankedVideos] = {}
        self._recent: OrderedDict[str, RankedVideos] = OrderedDict()
        self._lock = threading.Lock()

    def add(self, task: RankedVideos, lasting: bool) -> str:
        """Returns a new token; a `lasting` task is never forgotten."""
        token = secrets.token_urlsafe(16)
        with self._lock:
            if lasting:
                self._lasting[token] = task
            else:
                self._recent[token] = task
                while len(self._recent) > self.remembered:
                    self._recent.popitem(last=False)
        return token

    def find(self, token: Any) -> RankedVideos | None:
        """Returns the task of a token, or None where it is unknown or forgotten."""
        with self._lock:
            found = self._recent.get(token) if isinstance(token, str) else None
            return found or (self._lasting.get(token) if isinstance(token, str) else None)


_SHOWN = _ShownTasks()


class _WithoutStub(ComponentMeta):
    """Metaclass of components, but without the `.pyi` file that Gradio writes beside the source of each."""

    def __new__(cls, name: str, bases: tuple[type, ...], attributes: dict[str, Any]) -> Any:
        attributes["__init__"] = updateable(attributes["__init__"])
        return ABCMeta.__new__(cls, name, bases, attributes)


class VideoRanking(gr.HTML, metaclass=_WithoutStub):
    """Videos of a prompt that play in step, and that people put on ranks by keys, taps or drag; equal ranks are ties.

    As an input the component gives a `RankedVideos`, or None where nothing is shown. Its event `submit` comes when
    every video has a rank; `change` after every rank. Local videos are shown as copies whose names tell nothing, and no
    path of an original is sent to browsers.

    Args:
        value: `prompt` and 2 to 9 `videos` (paths or http addresses), if wanted `ranks` to begin with (-1 for none) and
            a `dimension`, which chooses the question; a function that returns such a mapping for each visitor; or None.
        play_to_end: submit opens only after every video has played to its end once.
        fps: frames per second of videos given by address, for steps of one frame; those of files are read.
        visible, elem_id, elem_classes, render, key: as of every component of Gradio.

    Raises:
        InputError: the prompt, a video or a rank cannot be shown.
    """

    def __init__(
        self,
        value: Mapping[str, Any] | Callable[[], Mapping[str, Any] | None] | None = None,
        *,
        play_to_end: bool = True,
        fps: float = 24.0,
        visible: bool | Literal["hidden"] = True,
        elem_id: str | None = None,
        elem_classes: list[str] | str | None = None,
        render: bool = True,
        key: int | str | tuple[int | str, ...] | None = None,
    ) -> None:
        if not 0 < fps <= 1000:
            raise InputError(f"fps is {fps}: give frames per second above 0 and at most 1000.")
        self.fps = fps
        self._lasting = True
        super().__init__(
            value,
            html_template='<div class="ranking-page"></div>',
            js_on_load=START,
            apply_default_css=False,
            visible=visible,
            elem_id=elem_id,
            elem_classes=elem_classes,
            render=render,
            key=key,
            play_to_end=play_to_end,
        )
        self._lasting = False

    def postprocess(self, value: Mapping[str, Any] | None) -> dict[str, Any]:  # type: ignore[override]
        """Returns what the page is sent for a prompt with its videos."""
        sent: dict[str, Any] = {"script": _file(STATIC / "ranking" / "component.js"), "task": None}
        if value is None:
            return sent
        task = _checked(value)
        shown = [self._shown(video) for video in task["videos"]]
        return sent | {
            "task": _SHOWN.add(task, self._lasting),
            "prompt": task["prompt"],
            "dimension": task["dimension"],
            "videos": shown,
            "ranks": task["ranks"],
        }

    def preprocess(self, payload: Any) -> RankedVideos | None:  # type: ignore[override]
        """Returns the ranks that a page sent, with the prompt and the videos that it was shown.

        Raises:
            gradio.Error: the page shows no task of this process, or its ranks are not legal.
        """
        token = payload.get("task") if isinstance(payload, dict) else payload
        if token is None:
            return None
        task = _SHOWN.find(token)
        if task is None:
            raise gr.Error("These videos are not known to the server any more: reload the page.")
        ranks, count = payload.get("ranks"), len(task["videos"])
        if not _are_ranks(ranks, count):
            raise gr.Error(f"The ranks are not those of {count} videos: reload the page.")
        return {**task, "ranks": list(ranks)}

    def api_info(self) -> dict[str, Any]:
        """Returns the JSON schema of what pages send."""
        ranks = {"type": "array", "items": {"type": "integer"}}
        return {"type": "object", "properties": {"task": {"type": "string"}, "ranks": ranks}}

    def example_payload(self) -> Any:
        """Returns a payload as a page sends it."""
        return {"task": None, "ranks": []}

    def example_value(self) -> Any:
        """Returns a value as an app gives it."""
        return None

    def _shown(self, video: str) -> dict[str, Any]:
        if _is_address(video):
            return {"url": video, "fps": self.fps, "width": None, "height": None, "times": None}
        # The copy hides the path from Gradio's own check of files that an app may show.
        _check_allowed(video, check_in_upload_folder=False)
        path = Path(video)
        if not path.is_file():
            raise InputError(f"The video {path} does not exist: correct the path.")
        status = path.stat()
        found = _inspected(str(path), status.st_mtime_ns, status.st_size)
        return {
            "file": _file(_copy(found, Path(self.GRADIO_CACHE))),
            "fps": found.fps,
            "width": found.width,
            "height": found.height,
            "times": frame_times(str(found.path), found.sha256),
        }


def _file(path: Path) -> dict[str, Any]:
    return FileData(path=str(path)).model_dump()


@lru_cache(maxsize=4096)
def _inspected(path: str, modified: int, size: int) -> VideoFile:
    return inspect_video(path)


def _copy(video: VideoFile, cache: Path) -> Path:
    """A copy that browsers play, under a name that tells nothing of the original."""
    suffix = video.path.suffix.lower() if video.playable else ".mp4"
    copy = cache / video.sha256 / f"video{suffix}"
    if not copy.is_file():
        if video.playable:
            with atomic_path(copy) as temporary:
                shutil.copyfile(video.path, temporary)
        else:
            write_playable(video.path, copy)
    return copy


def _is_address(video: str) -> bool:
    return video.startswith(("http://", "https://"))


def _are_ranks(ranks: Any, count: int) -> bool:
    whole = isinstance(ranks, list | tuple) and all(type(rank) is int for rank in ranks)
    return whole and len(ranks) == count and all(rank == MISSING or 1 <= rank <= count for rank in ranks)


def _checked(value: Mapping[str, Any]) -> RankedVideos:
    """The value of an app in full.

    Raises:
        InputError: it is not one.
    """
    if not isinstance(value, Mapping) or not {"prompt", "videos"} <= value.keys():
        raise InputError("A VideoRanking shows a mapping with prompt and videos: give both, or None.")
    prompt, videos = value["prompt"], value["videos"]
    if not isinstance(prompt, str) or len(prompt) > LARGEST_PROMPT or not is_storable(prompt):
        raise InputError(f"The prompt must be text of at most {LARGEST_PROMPT} characters: correct it.")
    listed = isinstance(videos, Sequence) and not isinstance(videos, str)
    if not listed or not 2 <= len(videos) <= MAXIMUM_VIDEOS:
        found = f"{len(videos)} videos" if listed else repr(videos)[:100]
        raise InputError(f"A VideoRanking shows 2 to {MAXIMUM_VIDEOS} videos, but was given {found}.")
    ranks = value.get("ranks") or [MISSING] * len(videos)
    if not _are_ranks(ranks, len(videos)):
        raise InputError(
            f"The ranks {ranks} are not those of {len(videos)} videos: give one a video, from 1 to {len(videos)}, "
            "or -1 for none."
        )
    dimension = value.get("dimension", "overall")
    if dimension not in DIMENSIONS:
        raise InputError(f"The dimension {dimension!r} is unknown: choose one of {', '.join(DIMENSIONS)}.")
    return {
        "prompt": prompt,
        "videos": [str(v) for v in videos],
        "ranks": list(ranks),
        "dimension": dimension,
    }
