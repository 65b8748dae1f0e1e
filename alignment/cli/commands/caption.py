"""`vidalign caption`: captions of videos, from the pixels."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path

from alignment.cli.next_command import new_folder, show_next
from generator.data.demonstrations import METADATA, require_data_set
from generator.output import InputError, read_text
from reward.captioning.names import check_captioner

logger = logging.getLogger(__name__)

HELP = "Caption videos from their pixels, long and short, into the metadata.jsonl beside them."
EXAMPLE = "vidalign caption --videos runs/clips --captioner http://localhost:8000/v1"
RESUME = "Captions that were written are kept; to go on:"


@dataclass
class CaptionArguments:
    """Videos, and what captions them."""

    videos: str = field(
        metadata={"help": "Folder of videos, with or without metadata.jsonl or a text file beside each."}
    )
    captioner: str = field(
        metadata={
            "help": "Captioner: `world` for clips of the built-in world, vlm:FOLDER with a folder or hub id of an "
            "image-text-to-text model, or the address of an OpenAI-compatible server, http://…/v1."
        }
    )
    instruction: str | None = field(
        default=None, metadata={"help": "Instruction for the long caption, or @FILE. Unset: our own."}
    )
    short_instruction: str | None = field(
        default=None, metadata={"help": "Instruction for the short caption, or @FILE. Unset: our own."}
    )
    frames: int = field(
        default=8,
        metadata={"help": "Frames of each video that a model is shown, from the first to the last."},
    )
    max_tokens: int = field(default=512, metadata={"help": "Tokens of a caption, at most."})
    keep_original: bool = field(
        default=True,
        metadata={"help": "Keep the prompt that a video had as `original_prompt`, which sft can mix in."},
    )
    skip_bad: bool = field(
        default=False,
        metadata={"help": "End with a warning instead of an error where some videos get no caption."},
    )
    overwrite: bool = field(
        default=False, metadata={"help": "Caption videos anew that this captioner has captioned before."}
    )
    seed: int = field(default=0, metadata={"help": "Seed of the wording of `world`."})

    def __post_init__(self) -> None:
        check_captioner(self.captioner)
        for name in ("frames", "max_tokens"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}, but must be at least 1: raise it.")

    def check_inputs(self) -> None:
        """Raises `InputError` where there is no such folder."""
        require_data_set(self.videos)


@dataclass
class CaptionServerArguments:
    """Requests to a server that captions."""

    served_model: str | None = field(
        default=None, metadata={"help": "Name of the model at the server; needed where there are several."}
    )
    api_key_env: str = field(
        default="OPENAI_API_KEY", metadata={"help": "Environment variable that holds the server's key."}
    )
    concurrency: int = field(default=32, metadata={"help": "Requests in flight, at most."})
    attempts: int = field(
        default=8, metadata={"help": "Times that a request is made before its video has failed."}
    )
    timeout: float = field(default=120.0, metadata={"help": "Seconds that one request may take."})

    def __post_init__(self) -> None:
        for name in ("concurrency", "attempts", "timeout"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name} is {getattr(self, name)}, but must be above 0: raise it.")


ARGUMENTS = (CaptionArguments, CaptionServerArguments)


def run(arguments: CaptionArguments, requests: CaptionServerArguments) -> None:
    """Captions the videos of the folder that lack a caption of this captioner."""
    from reward.captioning.captioners import CaptionSettings, ServerSettings, load_captioner
    from reward.captioning.folder import caption_folder

    own = CaptionSettings()
    settings = CaptionSettings(
        _text(arguments.instruction) or own.instruction,
        _text(arguments.short_instruction) or own.short_instruction,
        arguments.frames,
        max_tokens=arguments.max_tokens,
        seed=arguments.seed,
    )
    server = ServerSettings(
        requests.served_model,
        requests.api_key_env,
        requests.concurrency,
        requests.attempts,
        requests.timeout,
    )
    captioner = load_captioner(arguments.captioner, settings, server)
    folder = Path(arguments.videos)
    done = caption_folder(folder, captioner, arguments.keep_original, arguments.overwrite)
    print(f"{done.captioned} videos captioned in {folder / METADATA}, {done.kept} were before.")
    if done.failures and not arguments.skip_bad:
        raise InputError(done.sentence(folder))
    if done.failures:
        logger.warning(done.sentence(folder))
    if done.captioned or done.kept:
        name = new_folder(folder, "sft")
        show_next("sft", "--model", "nano", "--dataset", folder, "--caption_mix", 0.95, "--output_dir", name)


def _text(said: str | None) -> str:
    """An instruction, or that of the file that `@FILE` names; empty where none was given."""
    if said is None:
        return ""
    text = (read_text(Path(said[1:]).expanduser()) if said.startswith("@") else said).strip()
    if not text:
        raise InputError(f"The instruction {said!r} is empty: write one, or leave it out.")
    return text
