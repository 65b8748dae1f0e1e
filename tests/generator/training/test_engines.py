"""What `bf16` means under engines, and what DeepSpeed configurations may say."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from alignment import cli
from alignment.trainers.sft_config import SFTConfig
from generator.output import InputError
from generator.training.engines import (
    EngineArguments,
    in_bfloat16,
    products_in_bfloat16,
    send_scalars,
    with_autocast,
)
from reward.training.reward_config import RewardConfig

OWN = {"zero_optimization": {"stage": 2}, "train_micro_batch_size_per_gpu": "auto"}
BLOCK = {"enabled": True, "dtype": "bfloat16", "lower_precision_safe_modules": []}


@pytest.mark.parametrize(
    ("blocks", "wanted", "autocast"),
    [
        ({}, "no", None),
        ({}, "bf16", BLOCK),
        ({"bf16": {"enabled": "auto"}, "fp16": {"enabled": "auto"}}, "no", None),
        ({"bf16": {"enabled": "auto"}}, "bf16", BLOCK),
        ({"bf16": {"enabled": True}}, "no", BLOCK),
        ({"bf16": {"enabled": False}}, "bf16", BLOCK),
        ({"torch_autocast": {"enabled": True}}, "no", BLOCK),
        ({"torch_autocast": {"enabled": False}}, "no", None),
        (
            {"torch_autocast": {"enabled": True, "lower_precision_safe_modules": ["torch.nn.Linear"]}},
            "no",
            {**BLOCK, "lower_precision_safe_modules": ["torch.nn.Linear"]},
        ),
    ],
)
def test_a_deepspeed_configuration_keeps_all_weights_as_they_are(
    blocks: dict[str, Any], wanted: str, autocast: dict[str, Any] | None
) -> None:
    products = products_in_bfloat16({**OWN, **blocks}, wanted)
    expected = OWN if autocast is None else {**OWN, "torch_autocast": autocast}
    assert with_autocast({**OWN, **blocks}, products) == expected
    assert products == (autocast is not None)


@pytest.mark.parametrize("config_class", [SFTConfig, RewardConfig])
def test_bf16_with_deepspeed_is_autocast_and_is_recorded_as_asked_for(
    config_class: Any, tmp_path: Path
) -> None:
    pytest.importorskip("deepspeed")
    file = tmp_path / "own.json"
    file.write_text(json.dumps({**OWN, "bf16": {"enabled": True}}))
    config = config_class(output_dir=str(tmp_path), deepspeed=str(file), use_cpu=True, report_to="none")
    made = config.hf_deepspeed_config.config
    assert made["torch_autocast"] == BLOCK
    assert not made.get("bf16", {}).get("enabled")
    assert config.bfloat16_products
    assert (config.to_dict()["bf16"], config.deepspeed) == (True, str(file))


def test_deepspeed_compiles_no_kernel_for_trainings_on_a_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("deepspeed")
    from deepspeed.comm.torch import build_shm_op
    from deepspeed.ops.op_builder.cpu import ShareMemCommBuilder

    monkeypatch.setattr(ShareMemCommBuilder, "load", lambda *_: pytest.fail("DeepSpeed compiles a kernel"))
    SFTConfig(output_dir=str(tmp_path), deepspeed=OWN, use_cpu=True, report_to="none")
    assert build_shm_op() is None


def test_deepspeed_sends_weights_without_a_dimension(monkeypatch: pytest.MonkeyPatch) -> None:
    """As bytes, which a scalar has no view of; alpha gates of video models are such weights."""
    engines = pytest.importorskip("deepspeed.runtime.engine")
    send_scalars()
    module = nn.ParameterDict(
        {"gate": nn.Parameter(torch.tensor(0.5)), "matrix": nn.Parameter(torch.ones(2, 3))}
    )
    received = torch.tensor(0.25)

    def broadcast(sent: torch.Tensor, *_: Any, **__: Any) -> None:
        if sent.numel() == 4:
            sent.copy_(received[None].view(torch.uint8))

    monkeypatch.setattr(engines.dist, "broadcast", broadcast)
    monkeypatch.setattr(engines.groups, "_get_broadcast_src_rank", lambda: 0)
    engine = SimpleNamespace(dist_backend="gloo", module=module, seq_data_parallel_group=None)
    engines.DeepSpeedEngine._broadcast_model(engine)
    assert module["gate"].shape == ()
    assert module["gate"].item() == 0.25
    assert module["matrix"].shape == (2, 3)


def test_the_launchers_deepspeed_configuration_is_translated_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On GPUs the plugin reads the file that `accelerate launch` names, and the `Trainer` looks at it once more."""
    pytest.importorskip("deepspeed")
    from transformers.integrations.deepspeed import HfTrainerDeepSpeedConfig, unset_hf_deepspeed_config

    file = tmp_path / "own.json"
    file.write_text(json.dumps({**OWN, "bf16": {"enabled": "auto"}}))
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_CONFIG_FILE", str(file))
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    config = SFTConfig(output_dir=str(tmp_path), report_to="none")
    plugin: Any = config.deepspeed_plugin
    plugin.set_mixed_precision(config.mixed_precision)  # as accelerate's state does
    seen = HfTrainerDeepSpeedConfig(plugin.hf_ds_config.config)
    seen.trainer_config_process(config)
    unset_hf_deepspeed_config()
    assert (config.bfloat16_products, config.bf16, seen.mismatches, seen.dtype()) == (
        True,
        False,
        [],
        torch.float32,
    )
    assert seen.config["torch_autocast"] == BLOCK
    assert not seen.config["bf16"]["enabled"]


@pytest.mark.parametrize(
    ("words", "block", "said"),
    [
        ("--fp16 true", {}, "fp16 is asked for with DeepSpeed"),
        ("", {"fp16": {"enabled": True}}, "fp16 is asked for with DeepSpeed"),
        ("", {"torch_autocast": {"enabled": True, "dtype": "float16"}}, "fp16 is asked for with DeepSpeed"),
        ("--bf16_full_eval true", {}, "bf16_full_eval is set"),
    ],
)
def test_types_that_would_round_trained_weights_are_refused(
    words: str, block: dict[str, Any], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = tmp_path / "own.json", tmp_path / "out"
    file.write_text(json.dumps({**OWN, **block}))
    command = f"sft --model nano --dataset {tmp_path} --output_dir {out} --deepspeed {file} {words}"
    assert cli.main(command.split()) == 2
    assert said in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize("content", ["{", "[]", None])
def test_a_deepspeed_configuration_that_cannot_be_read_is_named(
    content: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "own.json"
    if content is not None:
        file.write_text(content)
    command = f"sft --model nano --dataset {tmp_path} --output_dir {tmp_path / 'out'} --deepspeed {file}"
    assert cli.main(command.split()) == 2
    assert f"{file} is not a DeepSpeed configuration" in capsys.readouterr().err


def test_fp16_with_fsdp_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(InputError, match="fp16 is set with FSDP"):
        EngineArguments(output_dir=str(tmp_path), fp16=True)


def test_products_are_rounded_and_what_is_called_is_not() -> None:
    layer = nn.Linear(4, 4)
    rounded = in_bfloat16(layer.forward, "cpu")
    seen = []
    layer.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].dtype))
    x = torch.full((2, 4), 798.63)
    assert rounded(x).dtype == torch.bfloat16
    torch.testing.assert_close(rounded(x).float(), layer(x.bfloat16().float()), rtol=1e-2, atol=1e-2 * 798.63)
    assert not torch.is_autocast_enabled("cpu")
    assert seen == [torch.float32]
