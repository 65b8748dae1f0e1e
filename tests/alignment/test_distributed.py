"""Two processes on the CPU: the same weights on both, and those of one process with the whole batch."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).parent))
from distributed_run import train

SCRIPT = Path(__file__).with_name("distributed_run.py")
ADAPTER = "pytorch_lora_weights.safetensors"

pytestmark = pytest.mark.slow


def launch(kinds, stage, folder, *arguments):
    """Two processes that train one kind after the other."""
    root = Path(__file__).parents[2]
    environment = os.environ | {
        "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu",
        "ACCELERATE_USE_CPU": "1", "CUDA_VISIBLE_DEVICES": "",
        "PYTHONPATH": os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")]),
    }  # fmt: skip
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    result = subprocess.run(
        [*command, str(SCRIPT), kinds, str(stage), str(folder), *arguments],
        env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-6000:]


def difference(first, second):
    one, other = load_file(first), load_file(second)
    assert one.keys() == other.keys()
    assert any(value.abs().max() > 1e-3 for name, value in one.items() if "lora_B" in name)
    return max((one[name] - other[name]).abs().max().item() for name in one)


@pytest.mark.parametrize(("kinds", "stage"), [("sft,dpo,ppo", 0), ("sft,ppo", 2), ("sft,ppo", 3)])
def test_two_processes_equal_one_with_the_whole_batch(kinds, stage, tmp_path):
    if stage:
        pytest.importorskip("deepspeed")
    launch(kinds, stage, tmp_path / "two")
    for kind in kinds.split(","):
        train(kind, 0, tmp_path / "one" / kind)
        two = tmp_path / "two" / kind
        assert difference(two / "rank0.safetensors", two / "rank1.safetensors") == 0
        assert difference(tmp_path / "one" / kind / ADAPTER, two / ADAPTER) < 2e-5


def test_deepspeed_resumes_as_if_uninterrupted(tmp_path):
    pytest.importorskip("deepspeed")
    launch("sft", 2, tmp_path, "resume")
    whole, resumed = (load_file(tmp_path / "sft" / name) for name in ("whole.safetensors", ADAPTER))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
