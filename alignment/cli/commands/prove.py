"""`vidalign prove`: shows on the user's own weights that vidalign computes what the model's own pipeline computes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from alignment.proof.result import CHECKS, table
from generator.files.output_folder import Outputs, check_output_dir, open_output_dir
from generator.one_or_several import as_list
from generator.output import InputError, refuse_unwritable, write_json

HELP = "Prove on your own weights that sampling, adapters and log-probabilities are right."
EXAMPLE = "vidalign prove --model Wan-AI/Wan2.1-T2V-1.3B-Diffusers --output_dir runs/proof"

REPORT = "prove.json"


@dataclass
class ProveArguments:
    """Model, and size of the videos of the checks."""

    model: str = field(metadata={"help": "Generator: nano, a folder of a diffusers pipeline, or a hub id."})
    output_dir: str = field(metadata={"help": "Folder for prove.json."})
    num_frames: int | None = field(
        default=None, metadata={"help": "Frames; at most 17, and as many as the model makes, by default."}
    )
    height: int | None = field(
        default=None,
        metadata={
            "help": "Pixels; by default the model's own shape at the area of 240x416, or its own size."
        },
    )
    width: int | None = field(default=None, metadata={"help": "Pixels; as for the height."})
    num_inference_steps: int = field(default=4, metadata={"help": "Steps of the sampler, at least 2."})
    dtype: str | None = field(
        default=None,
        metadata={
            "help": "Data type of the weights; float32 has the strictest tolerances. Unset: bfloat16 on a GPU, float32 "
            "on the CPU.",
            "choices": ["float32", "bfloat16", "float16"],
        },
    )
    checks: list[str] | None = field(
        default=None,
        metadata={
            "help": "Some of oracle, steps, batch, log_prob, sampler, adapter, export, memory. Unset: all."
        },
    )
    overwrite: bool = field(
        default=False,
        metadata={
            "help": "Delete what this command wrote into the output folder before; other files are never deleted."
        },
    )

    def __post_init__(self) -> None:
        self.checks = list(CHECKS) if self.checks is None else as_list(self.checks)
        unknown = [name for name in self.checks if name not in CHECKS]
        if unknown:
            raise InputError(f"There is no check {unknown[0]!r}: choose some of {', '.join(CHECKS)}.")
        if not self.checks:
            raise InputError(
                f"No check was named: choose some of {', '.join(CHECKS)}, or leave --checks out."
            )
        if self.num_inference_steps < 2:
            raise InputError(
                f"--num_inference_steps is {self.num_inference_steps}, but a stochastic step needs another one after "
                "it: ask for 2 or more."
            )


ARGUMENTS = (ProveArguments,)
OUTPUTS = Outputs("prove", (REPORT,))


def run(arguments: ProveArguments) -> int:
    """Prints a table of the checks and writes prove.json; returns 1 where a check failed."""
    import torch

    from alignment.proof.prove import prove
    from alignment.proof.subject import Size

    check_output_dir(arguments.output_dir, OUTPUTS, arguments.overwrite, [arguments.model])
    refuse_unwritable(Path(arguments.output_dir))
    proof = prove(
        arguments.model,
        Size(arguments.num_frames, arguments.height, arguments.width, arguments.num_inference_steps),
        getattr(torch, arguments.dtype) if arguments.dtype else None,
        arguments.checks or CHECKS,
    )
    folder = open_output_dir(arguments.output_dir, OUTPUTS, arguments.overwrite)
    write_json(folder / REPORT, proof.record())
    facts = proof.facts
    size = "{num_frames} frames of {height}x{width}".format(**facts["size"])
    print(f"{facts['pipeline']} on {facts['device']} in {facts['dtype']}, {size}, {facts['seconds']} s\n")
    print(table(proof.results))
    failed = [each.what for each in proof.results if each.passed is False]
    print(f"\n{len(failed)} failed." if failed else "\nEverything that was checked holds.")
    print(f"The report is {folder / REPORT}.")
    return 1 if failed else 0
