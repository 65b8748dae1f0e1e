"""The configurations of whole stages that ship with vidalign are valid, and their sizes possible."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import yaml

from alignment.cli.commands import dpo, nft, ppo, sft
from alignment.cli.config_files import find_config
from alignment.cli.parser import CommandParser
from alignment.memory.plan import plan
from benchmarks.alignment.forecasts import write_configurations

COMMANDS = {"sft": sft, "dpo": dpo, "ppo": ppo, "ppo_few_steps": ppo}
REWARDED = ("ppo_videoalign", "ppo_hpsv3", "ppo_ocr", "ppo_judge")
COMMANDS |= dict.fromkeys(REWARDED, ppo)
LARGE = {"sft_14b": sft, "dpo_14b": dpo, "ppo_14b": ppo}
COMMANDS |= LARGE
SHIPPED = [f"wan/{name}" for name in COMMANDS] + [f"nano/{name}" for name in ("sft", "dpo", "ppo", "nft")]
COMMANDS |= {"nft": nft}
MODELS = {"wan": "Wan-AI/Wan2.1-T2V-1.3B-Diffusers", "nano": "nano"}
LARGE_MODEL = "Wan-AI/Wan2.1-T2V-14B-Diffusers"


@pytest.mark.parametrize("config", SHIPPED)
def test_the_configurations_are_read_without_an_unknown_key(config: str, tmp_path: Path) -> None:
    model, name = config.split("/")
    command = COMMANDS[name]
    path = find_config(config)
    parser = CommandParser(command.ARGUMENTS, prog=name, summary=command.HELP, example=command.EXAMPLE)
    arguments = ["--config", str(path), "--output_dir", str(tmp_path), "--use_cpu", "true", "--bf16", "false"]
    parsed = parser.build(arguments)
    assert parsed[0].model == (LARGE_MODEL if name in LARGE else MODELS[model])
    values = yaml.safe_load(path.read_text())
    assert parsed[-1].compile_blocks == values["compile_blocks"]
    assert (values["num_frames"] - 1) % 4 == 0
    assert values["height"] % 16 == values["width"] % 16 == 0


@pytest.mark.parametrize("name", REWARDED)
def test_each_of_their_rewards_has_a_weight(name: str) -> None:
    values = yaml.safe_load(find_config(f"wan/{name}").read_text())
    assert len(values["reward"]) == len(values["reward_weights"])
    plain = yaml.safe_load(find_config("wan/ppo").read_text())
    assert plain.items() <= values.items()


@pytest.fixture(scope="module")
def advised(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The last way that `doctor` tries for each method of 14B at its full size on 80 GB."""
    folder = write_configurations("14B", tmp_path_factory.mktemp("14b"))
    # What decoding needs takes long to find and is far below what an update needs: 4.3 GB.
    with mock.patch("alignment.memory.forecast._decoding_peak", return_value=5 * 10**9):
        methods = plan(str(folder), (81, 480, 832), 64, 80)["methods"]
    return {method: options[-1] for method, options in methods.items()}


@pytest.mark.parametrize("name", LARGE)
def test_those_of_14b_have_the_flags_with_which_doctor_fits_a_gpu_of_80_gb(
    name: str, advised: dict[str, Any]
) -> None:
    values = yaml.safe_load(find_config(f"wan/{name}").read_text())
    assert [values[side] for side in ("num_frames", "height", "width", "lora_r")] == [81, 480, 832, 64]
    option = advised[name.removesuffix("_14b")]
    assert option["fits"]
    words = option["flags"].split()
    flags = {key.removeprefix("--"): yaml.safe_load(value) for key, value in zip(words[::2], words[1::2])}
    assert flags.items() <= values.items()
    assert not (values.get("offload_weights") and values["compile_blocks"])
