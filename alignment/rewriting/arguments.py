"""Arguments of commands that make videos: the rewriter of their prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from generator.output import InputError

if TYPE_CHECKING:
    from alignment.rewriting.rewriters import Rewriter
    from generator.data.prompts import PromptRecord
    from generator.training.shared_work import SharedWork


@dataclass
class RewriterArguments:
    """Rewriting of prompts before videos are made; videos are judged by the prompts as they were."""

    rewriter: str | None = field(
        default=None,
        metadata={
            "help": "Rewriter of prompts: world (the grammar of the built-in world), a folder or hub id of a chat "
            "model, a folder that `vidalign rewriter` wrote, or http://…/v1 of an OpenAI-compatible server (key: "
            "OPENAI_API_KEY)."
        },
    )
    rewriter_model: str | None = field(
        default=None, metadata={"help": "Name of the model at a server that has several."}
    )
    rewriter_instruction: str | None = field(
        default=None,
        metadata={
            "help": "Text file with the instruction for a chat model. Unset: one for the family of the generator."
        },
    )
    rewriter_failures: str = field(
        default="stop",
        metadata={
            "help": "Answer to a prompt that could not be rewritten: stop, or keep it as it is.",
            "choices": ["stop", "keep"],
        },
    )

    def __post_init__(self) -> None:
        for name in ("rewriter_model", "rewriter_instruction"):
            if getattr(self, name) is not None and self.rewriter in (None, "world"):
                raise InputError(
                    f"--{name} was given, but there is no chat model to rewrite prompts: pass --rewriter MODEL."
                )
        if self.rewriter_model is not None and not str(self.rewriter).startswith(("http://", "https://")):
            raise InputError(
                f"--rewriter_model was given, but {self.rewriter} is no server: leave it out, or pass --rewriter http://…/v1."
            )

    def load(self, model: str | None = None) -> Rewriter:
        """The rewriter that is asked for.

        Args:
            model: generator that the prompts are for, whose family the instruction is taken from.

        Raises:
            InputError: it cannot be found, or no server answers.
        """
        from alignment.rewriting.instructions import GENERAL, RULES, instruction_for, read_instruction
        from alignment.rewriting.rewriters import load_rewriter

        assert self.rewriter is not None
        if self.rewriter_instruction is not None:
            instruction = read_instruction(self.rewriter_instruction)
        elif model is None or self.rewriter == "world":
            instruction = GENERAL + RULES
        else:
            instruction = instruction_for(_class_of(model))
        return load_rewriter(self.rewriter, instruction, self.rewriter_model, self.rewriter_failures)


def _class_of(model: str) -> str:
    """The pipeline class of a generator."""
    from generator.files.model_folders import find_pipeline
    from generator.loading import read_class_name

    return read_class_name(find_pipeline(model, only=["model_index.json"]) / "model_index.json")


def rewritten(
    arguments: RewriterArguments | None,
    records: Sequence[PromptRecord],
    model: str | None,
    work: SharedWork | None = None,
    progress: bool = True,
) -> tuple[list[PromptRecord], dict[str, Any]]:
    """Prompts with their rewritten texts, and facts for records; as they were read where no rewriter is asked for.

    Args:
        model: generator that the prompts are for.
        work: whose first process asks the rewriter for all.
        progress: whether to show a bar.

    Raises:
        InputError: a prompt cannot be rewritten.
    """
    if arguments is None or arguments.rewriter is None:
        return list(records), {}
    from tqdm import tqdm

    from generator.training.shared_work import SharedWork

    prompts = [record.prompt for record in records]

    def ask() -> tuple[list[str], dict[str, Any]]:
        rewriter = arguments.load(model)
        with tqdm(total=len(prompts), desc="Rewriting", unit="prompt", disable=not progress) as bar:
            return rewriter.rewrite(prompts, told=bar.update), rewriter.record

    texts, facts = (SharedWork() if work is None else work).first(ask)
    return [
        replace(record, rewritten_prompt=text) for record, text in zip(records, texts, strict=True)
    ], facts


def rewritten_text(record: PromptRecord) -> dict[str, str]:
    """Field of a row of `metadata.jsonl`, where the prompt was rewritten."""
    return {} if record.rewritten_prompt is None else {"rewritten_prompt": record.rewritten_prompt}
