"""`vidalign label export`: rankings or demonstrations as files."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from alignment.cli.commands.label_campaign import CAMPAIGN_HELP, DB_HELP, command_line_user
from alignment.cli.next_command import new_folder, show_next
from generator.output import InputError
from labeling_app.campaigns.demonstrations import export_demonstrations
from labeling_app.files.foreign_preferences import export_preferences
from labeling_app.files.ranking_tables import TABLES, export_table
from labeling_app.files.rankings import export_rankings
from labeling_app.store.contents import changed_files, task_media
from labeling_app.store.database import existing_database
from labeling_app.store.store import Store
from reward.formats import FORMATS, OWN


@dataclass
class ExportArguments:
    """Rankings to export, and their file."""

    db: str = field(metadata={"help": DB_HELP})
    output_file: str | None = field(
        default=None, metadata={"help": "Rankings file to write, for example rankings.jsonl."}
    )
    campaign: str = field(default="default", metadata={"help": CAMPAIGN_HELP})
    format: str = field(
        default=OWN,
        metadata={
            "help": f"Layout of the file: {', '.join([OWN, *TABLES, *FORMATS])}; those of other projects get the "
            "videos in a folder `videos` beside the file (docs/data-formats.md)."
        },
    )
    raw: bool = field(
        default=False, metadata={"help": "Annotators' own rankings also where a lead has decided."}
    )
    demonstrations: str | None = field(
        default=None,
        metadata={"help": "Instead: folder for the demonstrations, which `vidalign sft --dataset` reads."},
    )
    accepted: bool = field(default=False, metadata={"help": "Only demonstrations that a lead has accepted."})
    skip_bad: bool = field(
        default=False,
        metadata={"help": "Leave out videos whose files have changed or gone since they were judged."},
    )
    overwrite: bool = field(default=False, metadata={"help": "Replace the file or folder if it exists."})


def run_export(arguments: ExportArguments) -> None:
    """Writes the rankings or the demonstrations of a campaign."""
    if (arguments.output_file is None) == (arguments.demonstrations is None):
        raise InputError("Say what to export: either --output_file for rankings or --demonstrations FOLDER.")
    with Store(existing_database(arguments.db)) as store:
        if arguments.demonstrations is not None:
            count = export_demonstrations(
                store,
                arguments.campaign,
                arguments.demonstrations,
                arguments.overwrite,
                arguments.accepted,
                arguments.skip_bad,
            )
            store.record(
                command_line_user(), "export demonstrations", campaign=arguments.campaign, rows=count
            )
            print(f"{count} demonstration(s) in {arguments.demonstrations}")
            folder = new_folder(arguments.demonstrations, "sft")
            show_next("sft", "--model", "nano", "--dataset", arguments.demonstrations, "--output_dir", folder)
            return
        path = Path(arguments.output_file or "")
        how = (arguments.overwrite, arguments.raw, arguments.skip_bad)
        if arguments.format in TABLES:
            count = export_table(store, arguments.campaign, path, arguments.format, *how)
            _record_export(store, arguments, count)
            _print_left_out(store, arguments)
            print(f"{count} ranking(s) in {path}")
            return
        if arguments.format != OWN:
            count, left = export_preferences(store, arguments.campaign, path, arguments.format, *how)
            _record_export(store, arguments, count)
            print(f"{count} row(s) of {arguments.format} in {path}, videos in {path.parent / 'videos'}")
            _print_left_out(store, arguments)
            if left:
                print(
                    f"{left} ranking(s) of other dimensions were left out: {arguments.format} has overall only."
                )
            return
        count = export_rankings(store, arguments.campaign, path, *how)
        _record_export(store, arguments, count)
        _print_left_out(store, arguments)
    print(f"{count} ranking(s) in {path}")
    show_next("reward", "--preferences", path, "--output_dir", new_folder(path.with_suffix(""), "reward"))


def _record_export(store: Store, arguments: ExportArguments, rows: int) -> None:
    store.record(
        command_line_user(), "export", campaign=arguments.campaign, format=arguments.format, rows=rows
    )


def _print_left_out(store: Store, arguments: ExportArguments) -> None:
    if arguments.skip_bad:
        for path in changed_files(task_media(store.tasks(arguments.campaign))):
            print(f"Left out: rankings of {path}, which has changed or gone since it was judged.")
