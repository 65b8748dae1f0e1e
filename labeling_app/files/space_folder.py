"""Folder of a Hugging Face Space that serves the labeling app."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml
from tqdm import tqdm

from generator.files.output_folder import Outputs, check_output_dir, open_output_dir
from generator.output import InputError, atomic_path, check_storable, write_json, write_jsonl, write_text
from labeling_app.files.candidates import read_tasks
from labeling_app.store.campaign_rows import campaign_name, check_setup
from labeling_app.store.new_tasks import NewTask, VideoFile

TASKS, SETTINGS = "tasks.jsonl", "campaign.json"
OUTPUTS = Outputs(
    "label space", ("README.md", "requirements.txt", "app.py", TASKS, SETTINGS, "videos/*", "images/*")
)
APP = '''"""Labeling app of vidalign; README.md says what to set."""

from pathlib import Path

from labeling_app.web.space import main

if __name__ == "__main__":
    main(Path(__file__).parent)
'''
REQUIREMENTS = "--extra-index-url https://download.pytorch.org/whl/cpu\n{requirement}\n"
ABOUT = """
# {title}

People rank videos here, with the labeling app of vidalign. They sign in with their Hugging Face account and become
annotators. Open the Space by its own address (`https://OWNER-NAME.hf.space`): browsers keep no login within another
page.

Set these under *Settings*, *Variables and secrets*:

| name | kind | is |
|---|---|---|
| `VIDALIGN_LEADS` | variable | accounts of the leads, with commas; the Space's owner if not set |
| `VIDALIGN_ANNOTATORS` | variable | the only other accounts that may sign in; everybody if not set |
| `VIDALIGN_BACKUP_DATASET` | variable | dataset repository for copies of the database, such as `me/labels` |
| `HF_TOKEN` | secret | token that may write to that repository |

Answers are kept in persistent storage (`/data`) where the Space has it; then the last two are not needed. Else the
database is copied to the dataset repository every five minutes and when the Space stops, and comes from there when it
starts. The repository is made private if it is new; let only one Space write to it. Without either the Space does not
start.
"""


@dataclass(frozen=True)
class SpaceFolder:
    """Contents of the folder of a Space.

    Attributes:
        title: of the Space, one line.
        videos: folders or JSONL files of candidates, as for `import_tasks`; may be none.
        campaign: name of the campaign that gets them.
        overlap: different annotators a task.
        dimensions: what is judged; `overall` by default.
        requirement: line of `requirements.txt` that installs vidalign.
    """

    title: str = "Rank videos"
    videos: Sequence[str | Path] = ()
    campaign: str = "default"
    overlap: int | None = None
    dimensions: Sequence[str] | None = None
    requirement: str = ""

    def write(self, output_dir: str | Path, overwrite: bool = False, progress: bool = False) -> int:
        """Writes the folder and returns the number of tasks in it.

        Raises:
            InputError: the folder is in use, or a text, a number or a video is not usable. Then nothing is written.
        """
        for name, text in (("title", self.title), ("requirement", self.requirement)):
            check_storable(text, f"The {name} is not UTF-8")
            if len(text.splitlines()) > 1 or (name == "title" and not text.strip()):
                raise InputError(f"The {name} {text[:100]!r} is not one line of text: correct it.")
        check_setup(self.overlap, self.dimensions)
        campaign = campaign_name(self.campaign)
        check_output_dir(output_dir, OUTPUTS, overwrite, self.videos)
        tasks = read_tasks(list(self.videos), progress=progress)[0] if self.videos else []
        folder = open_output_dir(output_dir, OUTPUTS, overwrite)
        write_text(folder / "app.py", APP)
        requirement = self.requirement or _own_requirement()
        write_text(folder / "requirements.txt", REQUIREMENTS.format(requirement=requirement))
        if tasks:
            copied = [
                _copied(task, folder)
                for task in tqdm(tasks, desc="Copying videos", unit="task", disable=not progress)
            ]
            settings = {
                "campaign": campaign,
                "overlap": self.overlap,
                "dimensions": None if self.dimensions is None else list(self.dimensions),
            }
            write_json(folder / SETTINGS, settings)
            write_jsonl(folder / TASKS, copied)
        write_text(folder / "README.md", self._readme())
        return len(tasks)

    def _readme(self) -> str:
        front = {
            "title": self.title,
            "emoji": "🎬",
            "colorFrom": "blue",
            "colorTo": "gray",
            "sdk": "gradio",
            "sdk_version": version("gradio"),
            "python_version": "3.11",
            "app_file": "app.py",
            "hf_oauth": True,
            "pinned": False,
        }
        written = yaml.safe_dump(front, allow_unicode=True, sort_keys=False, width=10_000)
        return f"---\n{written}---\n{ABOUT.format(title=self.title)}"


def _own_requirement() -> str:
    try:
        return f"vidalign[oidc]=={version('vidalign')}"
    except PackageNotFoundError:  # used from its source
        return "vidalign[oidc]"


def _copied(task: NewTask, folder: Path) -> dict[str, Any]:
    """The line of a task whose files are copied into the folder, under names of their contents."""
    row: dict[str, Any] = {
        "prompt": task.prompt,
        "videos": [_copy(video, folder, "videos") for video in task.videos],
    }
    for key, image in (("image", task.image), ("last_image", task.last_image)):
        if image is not None:
            row[key] = _copy(image, folder, "images")
    return row


def _copy(file: VideoFile, folder: Path, part: str) -> str:
    name = f"{part}/{file.sha256}{file.path.suffix.lower()}"
    if not (folder / name).is_file():
        with atomic_path(folder / name) as temporary:
            shutil.copyfile(file.path, temporary)
    return name
