"""The command line: fast, lazy, and one clear sentence for every mistake of the user."""

from __future__ import annotations

import argparse
import errno
import itertools
import logging
import os
import re
import subprocess
import sys
import types
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from tqdm import tqdm
from transformers import TrainingArguments

from alignment import cli
from alignment.cli import command_line
from alignment.cli.config_files import find_config, shipped_configs
from alignment.cli.launcher import LaunchArguments, launch_command
from generator.output import InputError

ROOT = Path(__file__).resolve().parents[3]


@dataclass
class Arguments:
    """What the test command takes."""

    model: str = field(metadata={"help": "A model, 100 % real."})
    num_frames: int = field(default=9, metadata={"help": "Frames."})
    scale: float = field(default=1.5, metadata={"help": "A factor."})
    names: list[str] = field(default_factory=list, metadata={"help": "Some names."})
    kind: Literal["yes", "no"] = field(default="yes", metadata={"help": "A choice."})
    size: int | None = field(default=None, metadata={"help": "Perhaps a size."})
    overwrite: bool = field(default=False, metadata={"help": "Delete first."})
    smooth: bool = field(default=True, metadata={"help": "Smoothly."})


@dataclass
class Training(TrainingArguments):
    """How to train."""

    beta: float = field(default=0.1, metadata={"help": "Weight of the KL term."})


Install = Callable[..., list[Any]]


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Install:
    """Makes a module the command `generate` (or another name) and collects what its `run` gets."""

    def install_command(
        arguments: tuple[type, ...] = (Arguments,),
        name: str = "generate",
        error: BaseException | None = None,
        **more: Any,
    ) -> list[Any]:
        seen: list[Any] = []

        def run(*parsed: Any) -> None:
            seen.append(parsed)
            if error is not None:
                raise error

        module: Any = types.ModuleType(f"alignment.cli.commands.{name}")
        module.HELP, module.EXAMPLE, module.ARGUMENTS, module.run = (
            "Does it.",
            f"vidalign {name}",
            arguments,
            run,
        )
        vars(module).update(more)
        monkeypatch.setitem(sys.modules, module.__name__, module)
        return seen

    return install_command


def test_help_is_fast_and_imports_no_torch() -> None:
    program = (
        "import sys, time; start = time.perf_counter(); from alignment.cli import main; code = main(['--help']); "
        "assert code == 0; assert 'torch' not in sys.modules; assert time.perf_counter() - start < 1"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr
    assert all(name in done.stdout for name in cli.COMMANDS)


def test_every_command_module_keeps_the_contract(capsys: pytest.CaptureFixture[str]) -> None:
    modules = {path.stem for path in (ROOT / "alignment" / "cli" / "commands").glob("[a-z]*.py")}
    modules = {name for name in modules if not name.startswith("label_")}  # groups of the verbs of `label`
    assert modules == set(cli.COMMANDS)
    for name in sorted(modules):
        module = command_line.load_command(name)
        assert "\n" not in module.HELP
        assert module.EXAMPLE.startswith(f"vidalign {name}")
        verbs = getattr(module, "VERBS", None)
        calls = [[name, verb] for verb in verbs or ()]
        for words in [[name], *calls] if hasattr(module, "run") else calls:
            assert cli.main([*words, "--help"]) == 0
            shown = capsys.readouterr().out
            assert "usage: vidalign" in shown
            arguments = module.ARGUMENTS if len(words) == 1 else verbs[words[1]].arguments
            for dtype in arguments:
                for name_, field_ in dtype.__dataclass_fields__.items():
                    assert not field_.init or field_.metadata.get("help"), (
                        f"{dtype.__name__}.{name_} has no help"
                    )


def test_every_example_writes_to_runs() -> None:
    """A folder `reward/` or `sft/` beside the packages of a clone would be taken for source code, or hide it."""
    paths = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), ROOT / "benchmarks" / "README.md"]
    paths += [*(ROOT / "alignment").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")]
    written = {
        f"{path.name}: {folder}"
        for path in paths
        for folder in re.findall(r"--output_dir[ =]([\w./-]+)", path.read_text(encoding="utf-8"))
        if not folder.startswith("runs/") and not re.fullmatch(r"[A-Z](\W.*)?|FOLDER|are", folder)
    }
    assert not written


def test_a_terminal_without_unicode_is_written_to(tmp_path: Path) -> None:
    program = "import sys; from alignment.cli import main; sys.exit(main(sys.argv[1:]))"
    for encoding, words in itertools.product(("ascii", "latin-1"), (["--help"], ["sft", "--help"])):
        done = subprocess.run(
            [sys.executable, "-c", program, *words],
            capture_output=True,
            env={**os.environ, "PYTHONIOENCODING": encoding, "PYTHONPATH": str(ROOT)},
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert b"\\u2026" in done.stdout


def test_flags_reach_the_command(install: Install) -> None:
    seen = install()
    words = "--model m --num_frames 5 --names a b --kind no --size 3 --overwrite --no_smooth"
    assert cli.main(["generate", *words.split()]) == 0
    assert seen == [(Arguments("m", 5, 1.5, ["a", "b"], "no", 3, True, False),)]


def test_yaml_gives_defaults_and_flags_win(install: Install, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(
        "model: 7\nnum_frames: 3\nscale: 1e-4\nnames: x\nkind: no\noverwrite: true\nsize: null\nsmooth: no\n"
    )
    seen = install()
    assert cli.main(["generate", "--config", str(config), "--num_frames=8"]) == 0
    assert cli.main(["generate", f"--config={config}"]) == 0
    assert seen[0] == (Arguments("7", 8, 1e-4, ["x"], "no", None, True, False),)
    assert seen[1] == (Arguments("7", 3, 1e-4, ["x"], "no", None, True, False),)


@pytest.mark.parametrize(
    ("yaml_text", "message"),
    [
        ("model: m\nnum_frame: 3", "unknown key `num_frame`; the nearest is num_frames"),
        ("model: m\nnum_frames: many", "`num_frames` in .* is 'many', expected int"),
        ("model: m\nnum_frames: 1.5", "`num_frames` in .* is 1.5, expected int"),
        ("model: m\noverwrite: perhaps", "`overwrite` in .* expected true or false"),
        ("model: m\nkind: maybe", "expected one of yes, no"),
        ("model: m\nscale: .nan", "`scale` in .* is nan, expected float"),
        ("- model", "must map argument names to values"),
        ("model: [", "is not YAML"),
        ("num_frames: 3", "required: --model"),
    ],
)
def test_a_mistake_in_yaml_is_one_sentence(
    install: Install, tmp_path: Path, capsys: pytest.CaptureFixture[str], yaml_text: str, message: str
) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(yaml_text)
    seen = install()
    assert cli.main(["generate", "--config", str(config)]) == 2
    _assert_one_sentence(capsys, message)
    assert not seen


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--modle m", "no argument --modle; the nearest is --model"),
        (
            "--model m --accelerate_config zero2",
            r"accelerate_config is zero2 \(DEEPSPEED\), which divides what is trained, .*: use multi_gpu",
        ),
        ("--model m --frobnicate 3", "no argument --frobnicate; see vidalign generate --help"),
        ("--model m --num-frame 3", "no argument --num-frame; the nearest is --num_frames"),
        ("--model m --num_frames three", "--num_frames: invalid int value: 'three'"),
        ("--model m --kind maybe", "--kind: invalid choice"),
        ("--model m --scale nan", "--scale: invalid float value: 'nan'"),
        ("--model m stray", "'stray' is not expected"),
        ("--num_frames 3", "required: --model"),
        ("--model m --config", "--config needs the path"),
        ("--model m --config nowhere.yaml", "no configuration file nowhere.yaml"),
    ],
)
def test_a_mistake_in_flags_is_one_sentence(
    install: Install, capsys: pytest.CaptureFixture[str], words: str, message: str
) -> None:
    seen = install()
    assert cli.main(["generate", *words.split()]) == 2
    _assert_one_sentence(capsys, message)
    assert not seen


def test_an_unknown_command_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["evalute"]) == 2
    _assert_one_sentence(capsys, "no command evalute; the nearest is evaluate")
    assert cli.main([]) == 2


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (InputError("The file x is missing: give one."), 2, "The file x is missing"),
        (
            OSError(errno.ENOSPC, "No space left on device", "out.mp4"),
            2,
            "disk is full while writing out.mp4",
        ),
        (RuntimeError("PytorchStreamWriter: No space left on device"), 2, "disk is full"),
        (PermissionError(errno.EACCES, "Permission denied", "/root/x"), 2, "/root/x cannot be used"),
        (KeyboardInterrupt(), 130, "interrupted. To go on:\n    vidalign generate --model m"),
    ],
)
def test_expected_errors_are_one_sentence(
    install: Install, capsys: pytest.CaptureFixture[str], error: BaseException, code: int, message: str
) -> None:
    install(error=error)
    assert cli.main(["generate", "--model", "m"]) == code
    shown = capsys.readouterr().err
    assert message in shown
    assert "Traceback" not in shown


def test_a_fault_of_the_program_keeps_its_traceback(install: Install) -> None:
    install(error=ZeroDivisionError("a bug"))
    with pytest.raises(ZeroDivisionError):
        cli.main(["generate", "--model", "m"])


def test_a_command_says_itself_how_to_resume(install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    install(error=KeyboardInterrupt(), RESUME="Pass --resume.")
    assert cli.main(["generate", "--model", "m"]) == 130
    assert "Pass --resume." in capsys.readouterr().err


def test_help_describes_own_arguments_and_lists_inherited_ones(
    install: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    install((Arguments, Training), name="sft")
    assert cli.main(["sft", "--help"]) == 0
    shown = capsys.readouterr().out
    for text in (
        "What the test command takes:",
        "A model, 100 % real. (required)",
        "Frames. (default: 9)",
        "How to train:",
        "Training:",
        "Peak learning rate. (default: 5e-05)",
        "Advanced:",
        "Weight of the KL term. (default: 0.1)",
        "--accelerate_config",
        "vidalign sft",
    ):
        assert text in shown
    own, inherited = shown.split("The others of transformers.TrainingArguments")
    assert "  --per_device_train_batch_size" in own
    assert "adam_beta1" not in own
    assert "adam_beta1" in inherited
    assert " beta," not in inherited


def test_trainer_arguments_come_from_yaml_and_bad_ones_are_sentences(
    install: Install, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = install((Arguments, Training), name="sft")
    config = tmp_path / "config.yaml"
    config.write_text(
        f"model: m\noutput_dir: {tmp_path}\nlearning_rate: 1e-3\nsave_strategy: no\nreport_to: none\nuse_cpu: true\n"
        "lr_scheduler_kwargs:\n  num_cycles: 2\n"
    )
    assert cli.main(["sft", "--config", str(config)]) == 0
    training = seen[0][1]
    assert len(seen[0]) == 2
    assert (training.learning_rate, training.save_strategy.value, training.lr_scheduler_kwargs) == (
        1e-3,
        "no",
        {"num_cycles": 2},
    )
    config.write_text(config.read_text().replace("learning_rate", "learning_rat"))
    assert cli.main(["sft", "--config", str(config)]) == 2
    _assert_one_sentence(capsys, "unknown key `learning_rat`; the nearest is learning_rate")
    assert cli.main(["sft", "--model", "m", "--load_best_model_at_end", "--save_strategy", "steps"]) == 2
    _assert_one_sentence(capsys, "load_best_model_at_end")


def test_nested_commands(install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    served: list[Any] = []
    verbs = {
        "serve": cli.Verb("Serves.", (Arguments,), served.append),
        "export": cli.Verb("Exports.", (), served.append),
    }
    install(name="label", VERBS=verbs)
    assert cli.main(["label", "serve", "--model", "m"]) == 0
    assert served == [Arguments("m")]
    assert cli.main(["label", "--help"]) == 0
    assert "Exports." in capsys.readouterr().out
    assert cli.main(["label", "serv"]) == 2
    _assert_one_sentence(capsys, "no serv; the nearest is serve")
    assert cli.main(["label"]) == 2


def test_a_command_may_have_verbs_beside_its_own_arguments(
    install: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    served: list[Any] = []
    plain = install(
        name="label", VERBS={"join": cli.Verb("Joins.", (Arguments,), served.append, "", "names")}
    )
    assert cli.main(["label", "--model", "m"]) == 0
    assert plain == [(Arguments("m"),)]
    assert cli.main(["label", "join", "a", "b", "--model", "m"]) == 0
    assert served[0].names == ["a", "b"]
    assert cli.main(["label", "joi"]) == 2
    _assert_one_sentence(capsys, "no joi; the nearest is join")
    assert cli.main(["label", "--help"]) == 0
    shown = capsys.readouterr().out
    assert "[{join}]" in shown
    assert "--num_frames" in shown


@pytest.mark.parametrize("command", ["doctor", "reward serve", "label export"])
def test_a_command_that_is_not_launched_says_so(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*command.split(), "--accelerate_config", "multi_gpu"]) == 2
    _assert_one_sentence(capsys, f"no argument --accelerate_config; vidalign {command} runs in one process")


def test_every_shipped_accelerate_configuration_is_understood() -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    names = ["zero1", "zero2", "zero3", "single", "multi_gpu", "fsdp"]
    for name in names:
        config = load_config_from_file(str(find_config(name, "accelerate")))
        assert str(config.distributed_type.value) in {"DEEPSPEED", "NO", "MULTI_GPU", "FSDP"}
    assert [f"accelerate/{name}.yaml" in shipped_configs() for name in names] == [True] * 6


def test_deepspeed_files_state_their_stage_and_leave_the_rest_to_the_trainer() -> None:
    for stage in (1, 2, 3):
        accelerate_file = find_config(f"zero{stage}", "accelerate")
        stated = yaml.safe_load(accelerate_file.read_text())["deepspeed_config"]["deepspeed_config_file"]
        settings = yaml.safe_load((accelerate_file.parent / stated).read_text())
        assert settings["zero_optimization"]["stage"] == stage
        assert settings["train_micro_batch_size_per_gpu"] == "auto"


def test_the_launcher_runs_the_same_command_under_accelerate() -> None:
    arguments = argparse.Namespace(**vars(LaunchArguments(accelerate_config="zero2")))
    words = launch_command(arguments, ["ppo", "--model", "m"], num_gpus=4)
    assert words[:3] == [sys.executable, "-m", "alignment.cli.process_launcher"]
    assert words[-5:] == ["--module", "alignment.cli", "ppo", "--model", "m"]
    options = dict(zip(words[3:-5:2], words[4:-5:2], strict=True))
    assert options["--num_processes"] == "4"
    assert Path(options["--deepspeed_config_file"]).is_absolute()
    assert Path(options["--deepspeed_config_file"]).name == "zero2.json"
    arguments.num_machines = 2
    with pytest.raises(InputError, match="--main_process_ip"):
        launch_command(arguments, ["ppo"], num_gpus=4)
    arguments.main_process_ip, arguments.machine_rank = "10.0.0.1", 1
    words = launch_command(arguments, ["ppo"], num_gpus=4)
    assert words[words.index("--num_processes") + 1] == "8"
    assert words[words.index("--machine_rank") + 1] == "1"
    arguments.num_processes = 0
    with pytest.raises(InputError, match="num_processes is 0, but must be at least 1"):
        launch_command(arguments, ["ppo"], num_gpus=4)


def test_an_unknown_accelerate_configuration_lists_the_known_ones(
    install: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    install(name="sft")
    assert cli.main(["sft", "--model", "m", "--accelerate_config", "zero9"]) == 2
    _assert_one_sentence(capsys, "fsdp, multi_gpu, single, zero1, zero2, zero3")


@pytest.mark.slow
def test_two_processes_run_the_command_and_report_its_mistake(tmp_path: Path) -> None:
    """The real `accelerate launch` on the CPU, with a command that stands in for a stage."""
    (tmp_path / "sitecustomize.py").write_text(
        "import sys, types\n"
        "from dataclasses import dataclass\n"
        "module = types.ModuleType('alignment.cli.commands.sft')\n"
        "@dataclass\n"
        "class Arguments:\n"
        "    folder: str\n"
        "    fail: bool = False\n"
        "Arguments.__module__ = __name__\n"
        "def run(arguments):\n"
        "    import os, pathlib\n"
        "    from generator.output import InputError\n"
        "    if arguments.fail:\n"
        "        raise InputError('The data set is missing: give one.')\n"
        "    pathlib.Path(arguments.folder, 'rank' + os.environ['RANK']).write_text(os.environ['WORLD_SIZE'])\n"
        "module.HELP, module.EXAMPLE, module.ARGUMENTS, module.run = 'x', 'x', (Arguments,), run\n"
        "sys.modules['alignment.cli.commands.sft'] = module\n"
    )

    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "alignment.cli", "sft", "--folder", str(tmp_path)]
    command += ["--accelerate_config", "multi_gpu", "--num_processes", "2"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert [(tmp_path / f"rank{rank}").read_text() for rank in range(2)] == ["2", "2"]
    done = subprocess.run([*command, "--fail"], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 2
    assert done.stderr.strip().splitlines() == ["vidalign: error: The data set is missing: give one."]


@pytest.mark.slow
def test_what_lies_in_the_working_directory_does_not_replace_ours_in_launched_processes(
    tmp_path: Path,
) -> None:
    hook, work = tmp_path / "hook", tmp_path / "work"
    for folder in (hook, work / "reward", work / "alignment"):
        folder.mkdir(parents=True)
    for name in ("generator", "labeling_app", "queue"):
        (work / f"{name}.py").write_text(
            "raise RuntimeError('the file of the working directory was imported')\n"
        )
    (work / "mine.py").write_text(
        "import os\ndef score(videos, prompts):\n    return [len(os.environ['HOME'])]\n"
    )
    (hook / "sitecustomize.py").write_text(
        "import sys, types\n"
        "from dataclasses import dataclass\n"
        "module = types.ModuleType('alignment.cli.commands.sft')\n"
        "@dataclass\n"
        "class Arguments:\n"
        "    reward: str\n"
        "Arguments.__module__ = __name__\n"
        "def run(arguments):\n"
        "    import generator, labeling_app, os, queue, reward\n"
        "    reward.load_reward(arguments.reward)\n"
        "    files = [module.__file__ for module in (generator, labeling_app, reward)]\n"
        "    with open('found', 'w') as file:\n"
        "        print(*files, os.environ.get('PYTHONSAFEPATH'), sep='\\n', file=file)\n"
        "module.HELP, module.EXAMPLE, module.ARGUMENTS, module.run = 'x', 'x', (Arguments,), run\n"
        "sys.modules['alignment.cli.commands.sft'] = module\n"
    )
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(hook), str(ROOT)]),
        "CUDA_VISIBLE_DEVICES": "",
    }
    environment.pop("PYTHONSAFEPATH", None)
    program = "import sys; from alignment.cli import main; sys.exit(main())"
    words = ["sft", "--reward", "mine:score", "--accelerate_config", "single"]
    done = subprocess.run(
        [sys.executable, "-P", "-c", program, *words],
        capture_output=True,
        text=True,
        env=environment,
        cwd=work,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    *files, safe_path = (work / "found").read_text().splitlines()
    assert all(Path(file).is_relative_to(ROOT) for file in files), files
    assert safe_path == "None", "programs that a reward starts would not find their neighbours"


def test_a_module_on_the_python_path_does_not_replace_ours(tmp_path: Path) -> None:
    for name in ("generator", "reward"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('the file of the user was imported')\n")
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    words = [sys.executable, "-m", "alignment.cli"]
    for folder in (tmp_path, ROOT):  # `python -m` looks in the working directory first
        done = subprocess.run(
            [*words, "labels"], capture_output=True, text=True, env=environment, cwd=folder, check=False
        )
        assert "no command labels; the nearest is label" in done.stderr, done.stderr
        program = "import alignment.cli, reward, generator.output; print(reward.load_reward.__module__)"
        done = subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True,
            text=True,
            env=environment,
            cwd=folder,
            check=False,
        )
        assert done.stdout == "reward\n", done.stderr


def _assert_one_sentence(capsys: pytest.CaptureFixture[str], message: str) -> None:
    shown = capsys.readouterr().err.strip()
    assert shown.startswith("vidalign: error: ")
    assert "\n" not in shown

    assert re.search(message, shown), shown


def test_a_warning_does_not_begin_behind_a_progress_bar(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    command_line._set_logging(verbose=False)
    with tqdm(total=3, mininterval=0) as bar:
        bar.update()
        logging.getLogger("alignment").warning("of guidance")
        assert command_line._complain("Found a dog.") == 2
        bar.update()
    lines = re.split(r"[\r\n]+", capsys.readouterr().err)
    assert "vidalign: WARNING: of guidance" in lines
    assert "vidalign: error: Found a dog." in lines
    assert lines[-2].startswith(" 67%")
