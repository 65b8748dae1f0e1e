"""The SLURM script and the Kubernetes objects of the documentation are ones: read by parsers and, if there, linters."""

from __future__ import annotations

import importlib
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from alignment.cli.command_source import read_command
from alignment.cli.launcher import LaunchArguments
from alignment.cli.parser import CommandParser

PAGE = (Path(__file__).parents[1] / "docs" / "clusters.md").read_text(encoding="utf-8")
SCRIPT = next(block for block in re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL) if "#SBATCH" in block)
OBJECTS: list[dict[str, Any]] = list(yaml.safe_load_all(re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)[0]))
SERVICE, JOB = OBJECTS
POD = JOB["spec"]["template"]["spec"]
COMMANDS = {
    "SLURM": re.findall(r"bash -c '(.*?)'", SCRIPT, re.DOTALL)[0].replace("\\\n", " "),
    "Kubernetes": POD["containers"][0]["args"][0].removeprefix("exec "),
}


@pytest.mark.parametrize("where", COMMANDS)
def test_the_command_is_one_that_the_parser_takes(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("alignment.cli.parser.read_config", lambda path: {})
    monkeypatch.setattr("alignment.cli.parser.find_config", Path)
    values = {"SLURM_NNODES * 8": "16", "SLURM_NNODES": "2", "SLURM_NODEID": "1", "JOB_COMPLETION_INDEX": "1"}
    text = re.sub(r"\$\(\(([^)]*)\)\)", lambda found: values[found[1]], COMMANDS[where])
    text = re.sub(r"\$(\w+)", lambda found: values.get(found[1], "host"), text)
    name, command, *words = shlex.split(text)
    assert (name, command) == ("vidalign", "ppo")
    module: Any = read_command(command)
    found = CommandParser((*module.ARGUMENTS, LaunchArguments), prog="vidalign ppo").check(words)
    assert (found.num_machines, found.num_processes, found.machine_rank) == (2, 16, 1)
    assert (found.rdzv_backend, found.resume_from_checkpoint) == ("c10d", "latest")


def test_the_script_is_one_that_bash_and_shellcheck_read() -> None:
    subprocess.run(["bash", "-n"], input=SCRIPT, text=True, check=True)
    assert all(
        re.fullmatch(r"#SBATCH --[a-z-]+(=\S+)?", line) for line in SCRIPT.split("\n") if "#SBATCH" in line
    )
    if shutil.which("shellcheck"):
        done = subprocess.run(
            ["shellcheck", "--shell=bash", "-"], input=SCRIPT, text=True, capture_output=True, check=False
        )
        assert done.returncode == 0, done.stdout


def test_the_objects_of_kubernetes_name_each_other() -> None:
    assert [each["kind"] for each in OBJECTS] == ["Service", "Job"]
    name, namespace = JOB["metadata"]["name"], SERVICE["metadata"]["name"]
    assert SERVICE["spec"]["selector"] == {"job-name": name}
    assert POD["subdomain"] == namespace
    command = COMMANDS["Kubernetes"]
    assert f"--main_process_ip {name}-0.{namespace} " in command
    assert f"--main_process_port {SERVICE['spec']['ports'][0]['port']} " in command
    assert f"--num_machines {JOB['spec']['completions']} " in command
    assert JOB["spec"]["completions"] == JOB["spec"]["parallelism"]
    mounted = {each["name"] for each in POD["containers"][0]["volumeMounts"]}
    assert mounted == {each["name"] for each in POD["volumes"]}


def test_the_objects_have_the_fields_of_kubernetes() -> None:
    validate = pytest.importorskip("kubernetes_validate")
    for each in OBJECTS:
        validate.validate(each, importlib.import_module("kubernetes_validate").latest_version(), strict=True)
