"""Two processes on the CPU, started as the command starts them."""

import argparse
import json
import os
import shutil
import subprocess
import sys
import warnings
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from safetensors.torch import load_file

from alignment.cli.config_files import CONFIGS
from alignment.cli.launcher import LaunchArguments, environment_without_gpu, launch_command
from generator.testing import tiny_generator
from generator.video import write_video

ADAPTER = "pytorch_lora_weights.safetensors"
ROOT = Path(__file__).parents[3]
PROCESS = Path(__file__).with_name("launched_process.py")

ENVIRONMENT = {
    "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu",
    "CUDA_VISIBLE_DEVICES": "", "PYTHONFAULTHANDLER": "1",
    "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
}  # fmt: skip

OWN = TemporaryDirectory(prefix="vidalign-test-")


@cache
def dividing_all():
    """The shipped ZeRO-3 configuration with nothing too small to be divided."""
    config = json.loads((CONFIGS / "deepspeed" / "zero3.json").read_text())
    config["zero_optimization"]["stage3_param_persistence_threshold"] = 0
    Path(OWN.name, "zero3.json").write_text(json.dumps(config))
    file = Path(OWN.name, "zero3.yaml")
    file.write_text((CONFIGS / "accelerate" / "zero3.yaml").read_text().replace("../deepspeed/", ""))
    return str(file)


def launcher_words(engine, command=(), processes=2):
    """Words with which the command starts processes on a CPU; under ZeRO-3 all is divided."""
    config = dividing_all() if engine == "zero3" else engine
    asked = argparse.Namespace(**vars(LaunchArguments(accelerate_config=config, num_processes=processes)))
    return launch_command(asked, list(command), 0)


REASONS = (
    "Traceback",
    "Error",
    "terminate called",
    "what():",
    "Fatal Python error",
    "Current thread",
    "SIG",
    "frame #",
)
"""Words of the lines that say why a process has ended."""


PYTHON_FRAMES = "<omitting python frames>"
"""Stands in PyTorch's native stacks of a thread that runs Python."""


def said(result, kept=12000, around=25):
    """Output of a process that has failed: each line once, and of what is too long the lines about the reasons and
    the end."""
    lines = list(dict.fromkeys(f"{result.stdout}\n{result.stderr}".splitlines()))
    if sum(map(len, lines)) > kept:
        found = [i for i, line in enumerate(lines) if any(word in line for word in REASONS)]
        near = {j for i in found for j in range(i - 2, i + around)} | set(
            range(len(lines) - around, len(lines))
        )
        lines = [line for i, line in enumerate(lines) if i in near]
    return "\n".join(lines)


def crashed_outside_python(printed):
    """Whether a process ended by SIGSEGV in a thread that runs no Python, as gloo's own do, by the native stacks that
    it has printed."""
    stacks = printed.split("SIGSEGV(11), PID: ")[1:]
    crashed = [
        stack.split("\n\n")[0] for stack in stacks if "FatalSignalHandler::fatalSignalHandler" in stack
    ]
    return any(PYTHON_FRAMES not in stack for stack in crashed)


def launched(engine, module, *arguments, folder, processes=2):
    """Processes that run `main` of a module, as `--accelerate_config` starts those of the command; what they print.

    One of gloo's own threads has crashed once (PyTorch 2.13, while FSDP2 gathered an optimiser's state). So processes
    that crash outside Python start once more, from `folder` as it was, and a warning has the native stacks. A crash
    in a thread that runs Python, as ours do, fails at once.
    """
    words = launcher_words(engine, processes=processes)
    with TemporaryDirectory(prefix="vidalign-test-") as kept:
        shutil.copytree(folder, kept, dirs_exist_ok=True)
        for attempt in (1, 2):
            result = subprocess.run(
                [*words[: words.index("--module")], str(PROCESS), module, *map(str, arguments)],
                env=os.environ | ENVIRONMENT | environment_without_gpu(words) | {"VIDALIGN_LAUNCHED": "1"},
                capture_output=True, text=True, timeout=500, check=False,
            )  # fmt: skip
            if attempt == 2 or not crashed_outside_python(result.stderr):
                break
            warnings.warn(f"Started once more, as a process crashed:\n{said(result)}", stacklevel=2)
            shutil.rmtree(folder)
            shutil.copytree(kept, folder)
    assert result.returncode == 0, said(result)
    return result.stdout


def launched_words(engine, words):
    """Words of a command in the processes that the launcher starts for it."""
    line = launcher_words(engine, words.split())
    return line[line.index("alignment.cli") + 1 :]


def command_line(words):
    """A `vidalign` command that starts its processes itself."""
    result = subprocess.run(
        [sys.executable, "-m", "alignment.cli", *words.split()],
        env=os.environ | ENVIRONMENT, capture_output=True, text=True, timeout=500, check=False,
    )  # fmt: skip
    assert result.returncode == 0, said(result)
    return result.stdout


def run_alone(commands):
    """Commands one after the other in a process of its own, with the threads that launched ones have."""
    program = (
        "import sys; from alignment.cli import main; assert not any(main(w.split()) for w in sys.argv[1:])"
    )
    subprocess.run([sys.executable, "-c", program, *commands], env=os.environ | ENVIRONMENT, check=True)


def write_rankings(folder):
    """A tiny native model, videos, and a ranking of two for each of four prompts."""
    tiny_generator().pipeline.save_pretrained(folder / "model")
    random = torch.Generator().manual_seed(0)
    rows = []
    for number, colour in enumerate(("red", "blue", "green", "yellow")):
        names = [f"{number}-{other}.mp4" for other in ("right", "wrong")]
        for name in names:
            write_video(folder / name, torch.rand(3, 5, 16, 16, generator=random) * 2 - 1, 8)
        rows.append({"prompt": f"{colour} clip", "videos": names, "ranks": [0, 1]})
    (folder / "rankings.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def reward_command(data, output_dir, bf16):
    """Trains a reward model on a trunk with LoRA, on the data of `write_rankings`.

    The loss knows differences of scores alone, so that the gradient of the last bias is nothing but rounding; Adam with
    its own epsilon would make steps of the learning rate of it.
    """
    return (
        f"reward --model {data / 'model'} --preferences {data / 'rankings.jsonl'} --num_frames 5 --height 16"
        " --width 16 --lora_rank 2 --max_steps 4 --per_device_train_batch_size 2 --held_out_fraction 0"
        " --validation_fraction 0 --dropout 0 --learning_rate 1e-2 --adam_epsilon 1e-5 --report_to none"
        " --save_strategy no --loss_type rao_kupper --noise_conditioned false"
        f" --bf16 {str(bf16).lower()} --output_dir {output_dir}"
    )


def check_reward_models(first, second):
    """Compares two models that `reward_command` has trained; both must have learnt."""
    one, other = (load_file(folder / "reward_model.safetensors") for folder in (first, second))
    assert one.keys() == other.keys()
    assert any("lora_B" in name and value.abs().max() > 1e-3 for name, value in one.items())
    for name, value in one.items():
        torch.testing.assert_close(other[name], value, atol=2e-5, rtol=0)
