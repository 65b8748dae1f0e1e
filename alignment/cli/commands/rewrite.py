"""`vidalign rewrite`: prompts rewritten for a generator, without making videos."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alignment.rewriting.arguments import RewriterArguments, rewritten
from generator.data.prompts import FILE_COLUMNS, PromptRecord, read_prompts, require_prompt_file
from generator.output import InputError, check_output_file, has_rows_with, refuse_unwritable, write_jsonl

HELP = "Rewrite prompts for a generator: a JSONL file with `prompt` and `rewritten_prompt`."
EXAMPLE = (
    "vidalign rewrite --prompts prompts.txt --rewriter http://localhost:8000/v1 --output_file rewritten.jsonl"
)
RESUME = "Answers are kept; to go on:"


@dataclass
class RewriteArguments:
    """Prompts, and the file for the rewritten ones."""

    prompts: str = field(
        metadata={"help": "Text file with one prompt a line, JSONL with `prompt`, or world:SPLIT:N[:SEED]."}
    )
    output_file: str = field(metadata={"help": "JSONL file that is written."})
    model: str | None = field(
        default=None,
        metadata={
            "help": "Generator that the prompts are for, whose family the instruction of a chat model is for. Unset: a "
            "general instruction."
        },
    )
    overwrite: bool = field(
        default=False, metadata={"help": "Replace a file that this command wrote before."}
    )

    def check_inputs(self) -> None:
        """Raises `InputError` where there are no prompts, or the output file is something else."""
        require_prompt_file(self.prompts)
        check_output_file(self.output_file, self.overwrite, _is_own, "a file of rewritten prompts")


def _is_own(path: Path) -> bool:
    """Returns whether this command wrote a file."""
    return has_rows_with(path, "prompt", "rewritten_prompt")


ARGUMENTS = (RewriteArguments, RewriterArguments)


def run(arguments: RewriteArguments, rewriting: RewriterArguments) -> None:
    """Rewrites all prompts, then writes the file; an interrupted run asks for those that are missing."""
    if rewriting.rewriter is None:
        raise InputError("No rewriter was given: pass --rewriter world, a chat model or http://…/v1.")
    arguments.check_inputs()
    refuse_unwritable(Path(arguments.output_file).parent)
    records, facts = rewritten(rewriting, read_prompts(arguments.prompts), arguments.model)
    write_jsonl(arguments.output_file, [{**_row(record), **facts} for record in records])
    print(f"{len(records)} rewritten prompts in {arguments.output_file}")


def _row(record: PromptRecord) -> dict[str, Any]:
    """The line of a prompt; files stand by their absolute paths."""
    row = {"prompt": record.prompt, "rewritten_prompt": record.rewritten_prompt, "id": record.id}
    row["negative_prompt"] = record.negative_prompt or None
    files = {name: getattr(record, name) for name in FILE_COLUMNS}
    row |= {name: str(Path(file).resolve()) for name, file in files.items() if file is not None}
    return {name: value for name, value in row.items() if value is not None}
