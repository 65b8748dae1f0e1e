"""Benchmarks of seconds and memory on GPUs: what they configure, how settings run, and what their tables say."""

from __future__ import annotations

import dataclasses
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from alignment.cli.command_line import load_command
from alignment.cli.parser import CommandParser
from alignment.memory.work import Work
from benchmarks.alignment import memory_forecast, ppo_iteration, ppo_scaling, step_cost
from benchmarks.alignment.engine_modes import MODES, add_to, run_mode
from benchmarks.alignment.gpu_profile import (
    Kernel,
    Part,
    Recorder,
    busy_seconds,
    kind_of,
    profile_text,
    wall_seconds,
)
from benchmarks.alignment.random_wan import ARCHITECTURES, build_generator

CPU = torch.device("cpu")


def test_the_benchmark_of_ppo_configures_what_the_command_configures(monkeypatch, tmp_path: Path) -> None:
    """`fast` is `vidalign ppo --config wan/ppo` without the KL term and what is only watched; `defaults` has both."""
    words = [
        "--config",
        "wan/ppo",
        "--prompts",
        "world:test:2",
        "--reward",
        "world",
        "--output_dir",
        str(tmp_path),
    ]
    unwatched = ["--beta", "0", "--monitor_kl", "false", "--monitor_videos", "0"]
    places = {
        "num_rollouts",
        "max_steps",
        "report_to",
        "save_strategy",
        "disable_tqdm",
        "use_cpu",
        "deepspeed",
    }
    places |= {"probe_prompts", "sample_groups", "monitor_kl"}
    monkeypatch.setattr(sys, "argv", ["ppo_iteration"])
    arguments = ppo_iteration.parse_arguments()
    for variant, flags in (("fast", unwatched), ("defaults", [])):
        parser = CommandParser(load_command("ppo").ARGUMENTS, prog="vidalign ppo")
        *_, lora, command = parser.build([*words, *flags])
        chosen = ppo_iteration.with_variant(arguments, variant)
        ours = ppo_iteration.configuration(chosen, str(tmp_path), bf16=True)
        differing = {
            field.name
            for field in dataclasses.fields(command)
            if getattr(command, field.name) != getattr(ours, field.name)
        }
        assert differing <= places
        assert lora.lora_r == chosen.lora_r


@pytest.mark.parametrize("architecture", ["tiny", "tiny-A14B"])
def test_random_weights_have_the_types_of_loaded_ones(architecture: str) -> None:
    generator = build_generator(architecture, CPU, torch.bfloat16)
    kept = generator.pipeline.transformer._keep_in_fp32_modules
    for name, parameter in generator.transformer.named_parameters():
        assert parameter.dtype == (torch.float32 if any(part in name for part in kept) else torch.bfloat16)
        assert not parameter.requires_grad
    assert torch.get_default_dtype() == torch.float32
    assert (generator.boundary is not None) == architecture.endswith("A14B")
    assert build_generator("14B", torch.device("meta"), torch.bfloat16).transformer.config.num_layers == 40


def test_a_mode_gives_its_figures_or_the_reason_why_there_are_none(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\n"
        "if '--fails' in sys.argv: raise MemoryError('torch.OutOfMemoryError: CUDA out of memory')\n"
        "if '--refused' in sys.argv: raise type('InputError', (Exception,), {})('there is no room: leave it out')\n"
        "if '--sleeps' in sys.argv: import time; time.sleep(60)\n"
        "open(sys.argv[-1], 'w').write('[1]')\n"
    )
    found = {
        flag: run_mode(str(script), "offloaded", 2, [flag], tmp_path / f"{flag}.json", seconds=25.0)
        for flag in ("--works", "--fails", "--refused")
    }
    assert found["--works"]["results"] == [1]
    assert "failed" not in found["--works"]
    assert found["--works"]["processes"] == found["--works"]["groups"] == 1
    assert found["--fails"]["failed"] == "out of memory"
    assert found["--refused"]["failed"] == "there is no room: leave it out"
    late = run_mode(str(script), "single", 2, ["--sleeps"], tmp_path / "late.json", seconds=0.5)
    assert (late["failed"], "results" in late) == ("stopped after 0 s", False)
    add_to(tmp_path / "all.jsonl", found["--works"])
    add_to(tmp_path / "all.jsonl", late)
    assert [json.loads(line)["mode"] for line in (tmp_path / "all.jsonl").read_text().splitlines()] == [
        "offloaded",
        "single",
    ]


def test_an_interrupted_benchmark_leaves_no_process_behind(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("import os, time; print(os.getpid(), flush=True); time.sleep(300)")
    call = f"run_mode({str(script)!r}, 'single', 1, [], Path({str(tmp_path / 'report.json')!r}))"
    program = f"from pathlib import Path; from benchmarks.alignment.engine_modes import run_mode; {call}"
    benchmark = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE, text=True)
    log, ends = tmp_path / "report.log", time.monotonic() + 60
    while not (log.is_file() and log.read_text().endswith("\n")) and time.monotonic() < ends:
        time.sleep(0.1)
    benchmark.send_signal(signal.SIGINT)
    assert "KeyboardInterrupt" in benchmark.communicate(timeout=60)[1]
    assert not Path(f"/proc/{int(log.read_text())}").exists()


def test_groups_that_share_tokens_are_one_for_batches_and_the_speed_up() -> None:
    assert {name: mode.groups(4) for name, mode in MODES.items()} == {
        "single": 1, "offloaded": 1, "activations_offloaded": 1, "both_offloaded": 1, "8bit": 1, "multi_gpu": 4,
        "multi_gpu_8bit": 4, "zero2": 4, "fsdp": 4, "zero3": 4, "ulysses": 1, "ulysses_fsdp": 1,
    }  # fmt: skip
    assert MODES["ulysses"].words(4) == ["--context_parallel", "4"]
    seconds = {"total": 10.0, "sampling": 4.0, "decode and reward": 1.0, "update": 5.0}
    result = [{"seconds": seconds, "peak_gib": {"update": 10 / 1.073741824}}]
    found = {"mode": "fsdp", "processes": 2, "groups": 2, "results": result, "forecast": None}
    assert ppo_scaling.row(found, 8.0) == "| fsdp | 2 | 10.00 | 4.00 | 1.00 | 5.00 | 10.0 | – | 1.60 |"
    shared = {**found, "mode": "ulysses", "groups": 1, "forecast": 9.0}
    assert ppo_scaling.row(shared, 15.0) == "| ulysses | 2 | 10.00 | 4.00 | 1.00 | 5.00 | 10.0 | 9.0 | 1.50 |"
    assert step_cost.in_mode(Work("sft", 5, 16, 32), "ulysses", 2).context_parallel == 2
    assert step_cost.in_mode(Work("sft", 5, 16, 32), "offloaded", 2).offload_weights
    assert step_cost.in_mode(Work("sft", 5, 16, 32), "both_offloaded", 2).activation_offloading
    assert step_cost.in_mode(Work("sft", 5, 16, 32), "8bit", 2).quantization == "8bit"


def test_forecasts_are_compared_in_sixteen_settings_and_more() -> None:
    settings = [
        *memory_forecast.chosen_settings(None, False, 1),
        *memory_forecast.chosen_settings(None, False, 2),
    ]
    assert len({each.name for each in settings}) == len(settings) >= 16
    assert {"1.3B", "14B"} == {each.architecture for each in settings} <= set(ARCHITECTURES)
    assert sum(each.work.context_parallel == 2 for each in settings) == 3
    assert {each.name for each in memory_forecast.chosen_settings("14B", False, 2)} == {
        "14B sft, 81 x 480 x 832, batch 1, 100% checkpointed, shared by 2",
        "14B dpo, 81 x 480 x 832, batch 1, 100% checkpointed, shared by 2",
    }
    found = memory_forecast.result(memory_forecast.chosen_settings("ppo", True, 1)[0], measures=True)
    assert found["seconds"] > 0 < found["forecast"]
    assert memory_forecast.row({**found, "forecast": 1.1, "peak": 1.0, "seconds": 2.0}).endswith(
        "| 1.10 | 1.00 | +10% | 2.00 |"
    )


def test_a_profile_counts_each_kernel_in_the_innermost_part_and_the_time_in_which_none_runs() -> None:
    kernels = [
        Kernel("void flash_fwd_kernel", 0.0, 1.0),
        Kernel("nvjet_hsh_128", 0.5, 1.0),
        Kernel("triton_poi_fused_add", 4.0, 0.5),
        Kernel("sm90_xmma_fprop_implicit_gemm", 2.0, 1.0),
        Kernel("ncclDevKernel_AllReduce", 20.0, 1.0),
    ]
    assert [kind_of(each.name) for each in kernels] == [
        "attention", "matrix product", "compiled elementwise", "convolution", "communication",
    ]  # fmt: skip
    assert busy_seconds(kernels[:2]) == 1.5
    parts = [
        Part("update", 0.0, 10.0),
        Part("sampling", 0.0, 4.0),
        Part("decode", 2.0, 4.0),
        Part("decode", 2.0, 3.5),
    ]
    assert wall_seconds(parts) == {"update": 6.0, "sampling": 2.0, "decode": 2.0}
    lines = profile_text(kernels, parts).splitlines()
    rows = {line.split(" | ")[0].lstrip("| "): line.split(" | ")[1:5] for line in lines[2:5]}
    assert rows["sampling"] == ["2.00", "25%", "2", "1000000.0"]
    assert rows["decode"] == ["2.00", "50%", "1", "1000000.0"]
    assert rows["update"] == ["6.00", "92%", "1", "500000.0"]
    assert lines[-1] == "1 of 5 kernels lie outside of the parts."


def test_a_recorder_sees_what_runs_within_its_parts() -> None:
    import time

    recorder = Recorder(CPU)
    recorder.begin()
    since = time.time_ns()
    torch.ones(100, 100) @ torch.ones(100, 100)
    recorder.note("product", since, time.time_ns())
    recorder.end()
    assert "aten::mm" in profile_text(recorder.kernels(), recorder.parts)
    assert "lie outside" not in profile_text(recorder.kernels(), recorder.parts)
