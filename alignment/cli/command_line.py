"""The `vidalign` command line.

A command `foo` is the module `alignment.cli.commands.foo`, imported only when it is called. It defines `HELP` (one
line), `EXAMPLE` (a command line), and either `ARGUMENTS` (dataclasses whose fields carry
`metadata={"help": ...}`) with `run(*parsed)`, or `VERBS`, a dictionary of `Verb`, for commands such as
`label serve`, or both: then words that are no verb's name go to `run`. `RESUME`, if there, is what the user reads after
an interruption before the command that goes on; commands in `TRAINS` go on from a checkpoint.

Exit codes: 0 done, 1 failed (also a check of `prove`), 2 a mistake in what the user gave or a full or forbidden disk,
130 interrupted (143 by SIGTERM, 129 by SIGHUP).
"""

from __future__ import annotations

import difflib
import errno
import gc
import importlib
import io
import logging
import os
import shlex
import sys
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from alignment.sibling_packages import PACKAGES
from generator.files.output_folder import forget_opened, no_empty_folder, results_begun, withdraw_unused
from generator.output import is_storable
from generator.passwords import without_passwords
from generator.training.interruption import BEGUN, LAUNCH_FOLDER, ended_by_signals
from generator.training.invocation import begin, command_that_goes_on, same_command

COMMANDS = {
    "demo": "The whole loop on the built-in model, with a report.",
    "generate": "Videos from prompts, with metadata.jsonl.",
    "rewrite": "Prompts rewritten for a generator.",
    "rewriter": "Train a language model to rewrite prompts.",
    "prepare": "Long camera videos to training clips.",
    "caption": "Captions of videos, from their pixels.",
    "sft": "Fine-tune on demonstrations (videos with prompts).",
    "label": "The labeling app: serve, import, export.",
    "reward": "Train a reward model on rankings.",
    "dpo": "Direct preference optimisation on rankings.",
    "ppo": "Proximal policy optimisation against a reward model.",
    "online_dpo": "DPO on the model's own videos, ordered by reward models.",
    "rwr": "Reward-weighted regression on the model's own videos.",
    "nft": "DiffusionNFT: rewards on the forward process.",
    "backprop": "Gradients of a latent reward through the last steps.",
    "evaluate": "Prompt adherence of models side by side, with intervals.",
    "export_lora": "An adapter as a LoRA file for ComfyUI, kohya's trainers or diffusers.",
    "pretrain": "Train the built-in model from scratch.",
    "doctor": "Machine, packages and memory, and what will run.",
    "prove": "Checks of a model's weights against its own pipeline.",
}
TRAINS = frozenset({"rewriter", "sft", "reward", "dpo", "ppo", "online_dpo", "rwr", "nft", "backprop"})
"""Commands that go on with `--resume_from_checkpoint latest`."""
SHARES = frozenset({"generate", "evaluate", "label select", "reward evaluate"})
"""Commands and verbs whose processes share out videos, each with the whole model."""
WHOLE = SHARES | {"pretrain"}
"""Commands and verbs whose processes have each the whole model, and hence take one GPU each and no other engine."""
LAUNCHED = TRAINS | WHOLE
"""Commands and verbs that take `--accelerate_config`."""

DEFAULT_RESUME = "To go on:"
_DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM}
_FULL = (
    "No space left on device",
    "disk is full",
    "File too large",
    "Disk quota exceeded",
    "PytorchStreamWriter failed",
)


class Verb(NamedTuple):
    """One verb of a nested command, such as `serve` of `vidalign label serve`."""

    help: str
    arguments: tuple[type, ...]
    run: Callable[..., Any]
    """Its result, where it is a number, is the exit code."""
    example: str = ""
    positional: str = ""
    """The argument that takes words standing before the first flag, such as `compare A B`."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `vidalign` with these arguments, or with one command line in a string, and returns its exit code.

    Without any, the arguments are the process's.
    """
    if isinstance(argv, str):
        argv = shlex.split(argv)
    _write_what_the_terminal_can()
    if argv is None and "VIDALIGN_LAUNCHED" in os.environ:
        from alignment.cli.launcher import launched_arguments

        argv = launched_arguments()
    arguments = list(sys.argv[1:] if argv is None else argv)
    verbose = "--verbose" in arguments
    arguments = [argument for argument in arguments if argument != "--verbose"]
    if not arguments or arguments[0] in {"-h", "--help", "help"}:
        print(_overview())
        return 0 if arguments else 2
    if arguments[0] == "--version":
        from importlib.metadata import version

        print(f"vidalign {version('vidalign')}")
        return 0
    name, *rest = arguments
    unusable = next((argument for argument in arguments if not is_storable(argument)), None)
    if unusable is not None:
        return _complain(
            f"the argument {unusable!r} is not UTF-8 text: rename the file or folder that it names."
        )
    name = name if name in COMMANDS else name.replace("-", "_")
    if name not in COMMANDS:
        return _complain(f"there is no command {name}; {_nearest(name, COMMANDS)}see vidalign --help.")
    _set_logging(verbose)
    begin(sys.argv[1:] if argv is None else argv)
    forget_opened()
    if "VIDALIGN_LAUNCHED" in os.environ:
        from alignment.cli.launcher import leave_safe_path

        leave_safe_path()
    try:
        with ended_by_signals():
            return _run_command(name, rest)
    except KeyboardInterrupt as interruption:
        withdraw_unused()
        return _interrupted(name, rest, interruption)
    except BrokenPipeError:
        # The reader of our output, such as `head`, has left; nothing more can be said to it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:  # a fault of the program is raised again; the rest is explained
        sentence = explanation(error)
        if sentence is None:
            raise
        withdraw_unused()
        logging.getLogger("alignment").info("The error came from here:", exc_info=error)
        return _complain(sentence)


def _write_what_the_terminal_can() -> None:
    """Makes a terminal or file that is not UTF-8 show `\\u2026` for a character that it lacks, and not stop us."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")


def end_process(call: Callable[[], int]) -> None:
    """Ends the process with the exit code that `call` returns, or with 1 after the traceback of what it raises.

    One of several processes ends at once: the threads of torch.distributed now and then abort the interpreter's own
    end, and a process that has failed would be taken for one that a signal has ended.
    """
    if "RANK" not in os.environ:
        sys.exit(call())
    code = 1
    try:
        code = call()
    except BaseException as error:  # whatever it is, the process ends here
        if isinstance(error, SystemExit) and isinstance(error.code, int | None):
            code = error.code or 0
        else:
            traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):  # closed, or its reader has left
                stream.flush()
        os._exit(code)


def explanation(error: BaseException) -> str | None:
    """One sentence for an error that the user can mend; None for a fault of the program."""
    from generator.output import InputError

    if isinstance(error, InputError):
        return str(error)
    if any(said in str(error) for said in _FULL):
        where = f" while writing {error.filename}" if isinstance(error, OSError) and error.filename else ""
        return f"the disk is full{where}: free some space and run the same command again."
    if isinstance(error, OSError) and error.errno in _DISK_ERRORS:
        where = error.filename or "the output"
        return f"{where} cannot be used ({error.strerror}): check its permissions or name another path."
    if type(error).__name__ == "OutOfMemoryError":
        return "the GPU's memory is full: choose a smaller batch, fewer frames or a smaller size."
    if isinstance(error, MemoryError) or "DefaultCPUAllocator" in str(error):
        return "the machine's memory is full: choose a smaller batch, fewer frames or a smaller size."
    return None


def _run_command(name: str, arguments: list[str]) -> int:
    """Answers `--help` and mistakes in the arguments from the sources alone; imports the command only to run it."""
    from alignment.cli.command_source import read_command
    from alignment.cli.launcher import is_launched

    if not is_launched() and f"alignment.cli.commands.{name}" not in sys.modules:
        described = read_command(name)
        code = None if described is None else _answer(described, name, arguments, run=False)
        if code is not None:
            return code
    return _answer(load_command(name), name, arguments, run=True) or 0


def _answer(module: Any, name: str, arguments: list[str], run: bool) -> int | None:
    """The exit code after help, a mistake, a launch or, with `run`, the command itself; None where it is still to be
    run."""
    prefix = f"vidalign {name}"
    verbs: dict[str, Verb] | None = getattr(module, "VERBS", None)
    if verbs is None or (hasattr(module, "run") and (not arguments or arguments[0].startswith("-"))):
        verb = Verb(module.HELP, module.ARGUMENTS, module.run, module.EXAMPLE)
        if verbs and {"-h", "--help"} & set(arguments):
            print(_verb_overview(prefix, module, verbs) + "\n")
    elif not arguments or arguments[0] in {"-h", "--help"}:
        print(_verb_overview(prefix, module, verbs))
        return 0 if arguments else 2
    elif arguments[0] not in verbs:
        nearest = _nearest(arguments[0], verbs)
        return _complain(f"{prefix} has no {arguments[0]}; {nearest}see {prefix} --help.")
    else:
        verb, prefix, arguments = verbs[arguments[0]], f"{prefix} {arguments[0]}", arguments[1:]
        if verb.positional and arguments and not arguments[0].startswith("-"):
            arguments = [f"--{verb.positional}", *arguments]
    return _run_verb(verb, prefix, arguments, run)


def _run_verb(verb: Verb, prefix: str, arguments: list[str], run: bool) -> int | None:
    from alignment.cli.early_checks import check_early, check_training_folder
    from alignment.cli.launcher import LaunchArguments, is_launched, launch, take_own_gpu
    from alignment.cli.parser import CommandParser
    from generator.training.checks import check_context_groups

    name = prefix.partition(" ")[2]
    launched = name in LAUNCHED
    types = (*verb.arguments, LaunchArguments) if launched else verb.arguments
    parser = CommandParser(types, prog=prefix, summary=verb.help, example=verb.example)
    if "-h" in arguments or "--help" in arguments:
        print(parser.format_help())
        return 0
    if not run or (launched and not is_launched()):
        # Only checked here: building the arguments would take hold of the GPUs that the processes need.
        namespace = parser.check(arguments)
        if not run:
            check_early(verb.arguments, namespace)
            check_training_folder(verb.arguments, namespace)
        if launched and namespace.accelerate_config is not None:
            return launch(namespace, [*name.split(), *arguments], trains=name in TRAINS)
        if name in TRAINS:
            processes = int(os.environ.get("WORLD_SIZE", "1"))
            check_context_groups(getattr(namespace, "context_parallel", 1), processes)
    if not run:
        return None
    if name in WHOLE:
        take_own_gpu()
    parsed = parser.build(arguments)
    output_dir = next((given.output_dir for given in parsed if hasattr(given, "output_dir")), None)
    with no_empty_folder(output_dir):
        code = verb.run(*(parsed[:-1] if launched else parsed))
    return code if isinstance(code, int) else 0


def _nearest(name: str, known: Iterable[str]) -> str:
    """The known name that this may be a slip of, if one is near."""
    found = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"the nearest is {found[0]}: " if found else ""


def load_command(name: str) -> ModuleType:
    from generator.output import InputError

    module = f"alignment.cli.commands.{name}"
    try:
        with _collected_later():
            return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        raise InputError(f"This installation has no command {name}: install vidalign again.") from error


@contextmanager
def _collected_later() -> Iterator[None]:
    """Looks for no garbage while torch is imported for the first time, which makes none, and never among what was
    imported: a fifth of the time of the imports, and half a second at the start of a training."""
    if "torch" in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _overview() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {text}" for name, text in COMMANDS.items()]
    return "\n".join(
        [
            "usage: vidalign COMMAND [--config FILE.yaml] [--ARGUMENT VALUE …] [--verbose]",
            "",
            "Aligns text-to-video generators with human feedback.",
            "",
            *lines,
            "",
            "vidalign COMMAND --help explains a command with an example; vidalign --version says the version.",
        ]
    )


def _verb_overview(prefix: str, module: Any, verbs: dict[str, Verb]) -> str:
    width = max(map(len, verbs))
    lines = [f"  {name:{width}}  {verb.help}" for name, verb in verbs.items()]
    names = f"{{{','.join(verbs)}}}"
    names = f"[{names}]" if hasattr(module, "run") else names
    head = [f"usage: {prefix} {names} [--ARGUMENT VALUE …]", "", module.HELP, ""]
    return "\n".join([*head, *lines, "", "example:", f"  {module.EXAMPLE}"])


def _interrupted(name: str, arguments: list[str], interruption: KeyboardInterrupt) -> int:
    """Says how to go on, and returns the exit code of an interrupted command."""
    code = getattr(interruption, "code", 130)
    if LAUNCH_FOLDER in os.environ:
        if results_begun():
            (Path(os.environ[LAUNCH_FOLDER]) / BEGUN).touch()
        # The launching process tells the user; a worker that saved has done what it was asked for.
        return 0 if getattr(interruption, "saved", None) is not None else code
    saved = getattr(interruption, "saved", None)
    is_verb = bool(arguments) and arguments[0] in getattr(_loaded(name), "VERBS", {})
    trains = name in TRAINS and not is_verb
    begun = results_begun() or getattr(interruption, "begun", False)
    if trains and begun:
        where = f"The checkpoint is {saved}. " if saved else ""
        said, command = f"{where}To go on:", command_that_goes_on(resume=True)
    else:
        said = DEFAULT_RESUME if is_verb else getattr(_loaded(name), "RESUME", DEFAULT_RESUME)
        command = command_that_goes_on(resume=False) if begun else same_command()
    _print_beside_bars(f"\nvidalign: interrupted. {said}\n    {command}")
    return code


def _loaded(name: str) -> ModuleType | None:
    return sys.modules.get(f"alignment.cli.commands.{name}")


def _complain(sentence: str) -> int:
    """Prints a mistake of the user, or tells it to the process that launched this one, and returns exit code 2."""
    sentence = without_passwords(sentence)
    report = os.environ.get("VIDALIGN_ERROR_FILE")
    if report is None:
        _print_beside_bars(f"vidalign: error: {sentence}")
        return 2
    whole = Path(f"{report}.{os.getpid()}")
    whole.write_text(sentence, encoding="utf-8", errors="backslashreplace")
    whole.replace(report)
    return 2


def _print_beside_bars(text: str) -> None:
    """Prints to standard error; a progress bar that is shown moves below the text, which would begin behind it."""
    if "tqdm" in sys.modules:
        from tqdm import tqdm

        tqdm.write(text, file=sys.stderr)
    else:
        print(text, file=sys.stderr)


class _Handler(logging.Handler):
    """Prints log records."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            _print_beside_bars(self.format(record))
        except Exception:
            self.handleError(record)


class _Formatter(logging.Formatter):
    """Shows log records, and the errors in them, without passwords."""

    def format(self, record: logging.LogRecord) -> str:
        return without_passwords(super().format(record))


def _set_logging(verbose: bool) -> None:
    """Our own warnings are shown; the libraries speak only where `--verbose` asks them to."""
    handler = _Handler()
    handler.setFormatter(_Formatter("vidalign: %(levelname)s: %(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    first = os.environ.get("RANK", "0") == "0"  # of several processes, which alone speaks
    for package in PACKAGES:
        logging.getLogger(package).setLevel(
            logging.INFO if verbose else logging.WARNING if first else logging.ERROR
        )
    level = "info" if verbose else "error"
    for library in ("TRANSFORMERS", "DIFFUSERS", "DATASETS", "HF_HUB"):
        os.environ.setdefault(f"{library}_VERBOSITY", level)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if not verbose:
        os.environ.setdefault("DIFFUSERS_NO_ADVISORY_WARNINGS", "1")
        os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
        os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
        for category in (FutureWarning, DeprecationWarning, UserWarning):
            warnings.simplefilter("ignore", category)
        for library in ("httpx", "httpcore", "torch", "accelerate", "deepspeed", "absl"):
            logging.getLogger(library).setLevel(logging.ERROR)
        # DeepSpeed sets its own level when it is imported.
        logging.getLogger("DeepSpeed").addFilter(lambda record: record.levelno >= logging.ERROR)
