"""The verb of `vidalign label` that writes a Hugging Face Space."""

from __future__ import annotations

from dataclasses import dataclass, field

from alignment.cli import Verb
from labeling_app.files.space_folder import SpaceFolder


@dataclass
class SpaceArguments:
    """A Hugging Face Space that serves the labeling app to people who sign in with their account there."""

    output_dir: str = field(metadata={"help": "Folder to write, which is then pushed to the Space."})
    videos: list[str] | None = field(
        default=None,
        metadata={
            "help": "Folders or JSONL files with candidates, as for `label import`; their videos are copied."
        },
    )
    campaign: str = field(default="default", metadata={"help": "Name of the campaign that gets them."})
    overlap: int | None = field(
        default=None, metadata={"help": "Different annotators a task (1 if not given)."}
    )
    dimensions: list[str] | None = field(
        default=None,
        metadata={
            "help": "Dimensions that are judged: overall, visual, motion, alignment (overall if not given)."
        },
    )
    title: str = field(default="Rank videos", metadata={"help": "Title of the Space."})
    requirement: str = field(
        default="",
        metadata={
            "help": "Line of requirements.txt that installs vidalign, for example vidalign[oidc] @ git+https://HOST/ME/"
            "vidalign; this version from the package index if not given."
        },
    )
    overwrite: bool = field(default=False, metadata={"help": "Replace what this command wrote there before."})


def run_space(arguments: SpaceArguments) -> None:
    """Writes the folder of a Space."""
    space = SpaceFolder(
        arguments.title,
        arguments.videos or (),
        arguments.campaign,
        arguments.overlap,
        arguments.dimensions,
        arguments.requirement,
    )
    count = space.write(arguments.output_dir, arguments.overwrite, progress=True)
    print(f"Space in {arguments.output_dir} with {count} task(s); its README.md says what to set at the hub.")
    print(f"Push it: hf upload ME/NAME {arguments.output_dir} . --repo-type space")


SPACE_VERBS = {
    "space": Verb("Write a Hugging Face Space that serves the labeling app.", (SpaceArguments,), run_space)
}
