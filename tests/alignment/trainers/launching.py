"""Two processes on the CPU, started as the command starts them."""

import argparse
import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from alignment.cli.config_files import CONFIGS
from alignment.cli.launcher import LaunchArguments, environment_without_gpu, launch_command

ADAPTER = "pytorch_lora_weights.safetensors"
ROOT = Path(__file__).parents[3]

ENVIRONMENT = {
    "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu",
    "CUDA_VISIBLE_DEVICES": "",
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


def launcher_words(engine, command=()):
    """Words with which the command starts two processes on a CPU."""
    config = dividing_all() if engine == "zero3" else engine
    asked = argparse.Namespace(**vars(LaunchArguments(accelerate_config=config, num_processes=2)))
    return launch_command(asked, list(command), 0)


def launched(engine, script, *arguments):
    """Two processes of a script, as `--accelerate_config` starts those of the command."""
    words = launcher_words(engine)
    result = subprocess.run(
        [*words[: words.index("--module")], str(script), *map(str, arguments)],
        env=os.environ | ENVIRONMENT | environment_without_gpu(words) | {"VIDALIGN_LAUNCHED": "1"},
        capture_output=True, text=True, timeout=500, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-6000:]


def command_line(words):
    """A `vidalign` command that starts its processes itself."""
    result = subprocess.run(
        [sys.executable, "-m", "alignment.cli", *words.split()],
        env=os.environ | ENVIRONMENT, capture_output=True, text=True, timeout=500, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-6000:]
    return result.stdout
