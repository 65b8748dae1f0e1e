"""`vidalign prove`: passes on every family, and names the row of what is broken."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import WanPipeline

from alignment.cli import main
from alignment.proof import adapters, memory, prove
from alignment.proof.result import CHECKS, Result, table
from alignment.proof.subject import Size, relative_distance, small_size
from generator import flow
from generator.adapters.adapters import LoraAdapter, write_adapter
from generator.families.wan import WanGenerator
from generator.loading import load_generator
from generator.native.building import save_pipeline
from generator.testing import tiny_generator
from generator.testing.pipelines import save_tiny_pipeline

FAMILIES = (
    "wan",
    "wan2.2-a14b",
    "wan-i2v",
    "ltx",
    "ltx2.3",
    "wan-vace",
    "cogvideox",
    "cogvideox1.5-i2v",
    "animatediff",
    "hunyuan_video",
    "native",
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("proofs")
    save_pipeline(tiny_generator().pipeline, root / "native", torch.float32)
    return {
        family: root / family if family == "native" else save_tiny_pipeline(family, root / family)
        for family in FAMILIES
    }


def proof_of(model: Path, output_dir: Path, *flags: str) -> tuple[int, dict[str, Any]]:
    code = main(["prove", "--model", str(model), "--output_dir", str(output_dir), *flags])
    return code, json.loads((output_dir / "prove.json").read_text())


def failed(record: dict[str, Any]) -> set[str]:
    return {each["check"] for each in record["results"] if each["passed"] is False}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_passes(
    family: str, folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, record = proof_of(folders[family], tmp_path / "proof")
    assert (code, record["passed"], failed(record)) == (0, True, set())
    assert [name for name in CHECKS if name in {each["check"] for each in record["results"]}] == list(CHECKS)
    measured = {each["check"] for each in record["results"] if each["passed"]}
    assert measured == set(CHECKS) - {"memory"}  # there is no GPU
    assert {each["note"] for each in record["results"] if each["check"] == "memory"} == {
        "not measured: the model is not on a GPU"
    }
    assert (record["device"], record["dtype"], record["model"]) == ("cpu", "float32", family)
    assert record["versions"]["torch"] == torch.__version__
    assert len(record["hashes"]["transformer"]) == 16
    shown = capsys.readouterr().out
    assert all(each["what"] in shown for each in record["results"])
    assert "Everything that was checked holds." in shown


def test_weights_in_bfloat16_pass_with_their_tolerances(folders: dict[str, Path], tmp_path: Path) -> None:
    code, record = proof_of(folders["wan"], tmp_path / "proof", "--dtype", "bfloat16")
    assert (code, record["dtype"]) == (0, "bfloat16")
    tolerances = {each["check"]: each["tolerance"] for each in record["results"]}
    assert (tolerances["sampler"], tolerances["batch"]) == (0.1, 0.05)


def long_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    step = flow.euler_step
    monkeypatch.setattr(flow, "euler_step", lambda x, v, s, t: step(x, v, s, s + 1.05 * (t - s)))


def wrong_schedule(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        WanGenerator, "sigma_schedule", lambda self, steps, shape=None: flow.sigma_schedule(steps, 5.0)
    )


def wrong_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(flow.SDE_KERNELS, "cps", flow.dance_sde_step)


def members_that_mix(monkeypatch: pytest.MonkeyPatch) -> None:
    velocity = WanGenerator.velocity

    def mixed(self: Any, latents: Any, sigma: Any, conditions: Any, transformer: Any = None) -> Any:
        found = velocity(self, latents, sigma, conditions, transformer)
        return found if transformer is not None else found + 0.05 * latents.mean(dim=0, keepdim=True)

    monkeypatch.setattr(WanGenerator, "velocity", mixed)


def lost_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    def without_scale(folder: Path, adapter: LoraAdapter, training: dict[str, Any]) -> None:
        scale = adapters.ALPHA / adapters.RANK
        pairs = {name: (down, up / scale) for name, (down, up) in adapter.pairs.items()}
        write_adapter(folder, LoraAdapter(pairs), training)

    monkeypatch.setattr(prove, "write_adapter", without_scale)
    monkeypatch.setattr(adapters, "write_adapter", without_scale)


def test_a_lost_scale_shows_in_bfloat16_too(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost_scale(monkeypatch)
    flags = ["--dtype", "bfloat16", "--checks", "adapter"]
    code, record = proof_of(folders["wan"], tmp_path / "proof", *flags)
    assert (code, failed(record)) == (1, {"adapter"})
    assert record["results"][0]["figure"] == pytest.approx(2 / 3, abs=0.15)


def refusing_pipeline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Any, **_: Any) -> Any:
        raise KeyError("no such call")

    monkeypatch.setattr(WanPipeline, "__call__", refuse)


@pytest.mark.parametrize(
    ("damage", "rows"),
    [
        (long_steps, {"oracle", "sampler", "adapter"}),
        (wrong_schedule, {"sampler", "adapter"}),
        (wrong_kernel, {"steps"}),
        (members_that_mix, {"batch", "log_prob", "sampler", "adapter"}),
        (lost_scale, {"adapter", "export"}),
        (refusing_pipeline, {"sampler", "adapter"}),
    ],
)
def test_what_is_broken_fails_in_its_row(
    damage: Callable[[pytest.MonkeyPatch], None],
    rows: set[str],
    folders: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    damage(monkeypatch)
    code, record = proof_of(folders["wan"], tmp_path / "proof")
    assert (code, record["passed"], failed(record)) == (1, False, rows)
    lines = [line for line in capsys.readouterr().out.splitlines() if "FAIL" in line]
    assert {line.split()[0] for line in lines} == rows


def test_an_error_of_the_stock_pipeline_is_told_in_its_row(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusing_pipeline(monkeypatch)
    _, record = proof_of(folders["wan"], tmp_path / "proof", "--checks", "sampler")
    assert [each["note"] for each in record["results"]] == ["KeyError: 'no such call'"]


def test_only_the_checks_that_are_named_run_and_at_the_size_that_is_asked_for(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    size = ["--num_frames", "5", "--height", "32", "--width", "16", "--num_inference_steps", "2"]
    code, record = proof_of(folders["wan"], tmp_path / "proof", "--checks", "oracle", "batch", *size)
    assert (code, {each["check"] for each in record["results"]}) == (0, {"oracle", "batch"})
    assert record["size"] == {"num_frames": 5, "height": 32, "width": 16}
    assert record["num_inference_steps"] == 2


@pytest.mark.parametrize(
    ("family", "flags", "said"),
    [
        ("wan", ["--checks", "orakel"], "There is no check 'orakel': choose some of oracle, steps"),
        ("wan", ["--num_inference_steps", "1"], "ask for 2 or more"),
        ("wan", ["--height", "17"], "The nearest size is"),
        ("cogvideox", ["--num_inference_steps", "7"], "choose 4, 8, 10, 20, 25, 40 or 50"),
    ],
)
def test_impossible_requests_are_refused_in_one_sentence(
    family: str,
    flags: list[str],
    said: str,
    folders: dict[str, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = ["prove", "--model", str(folders[family]), "--output_dir", str(tmp_path / "proof"), *flags]
    assert main(arguments) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "proof").exists()


def test_without_a_size_videos_are_small(folders: dict[str, Path]) -> None:
    generator = load_generator(folders["wan"], device="cpu")
    generator.defaults = dataclasses.replace(generator.defaults, num_frames=81, height=480, width=832)
    assert small_size(generator, Size()) == (17, 240, 416)
    generator.defaults = dataclasses.replace(generator.defaults, num_frames=9, height=32, width=48)
    assert small_size(generator, Size()) == (9, 32, 48)
    assert small_size(generator, Size(num_frames=33)) == (33, 32, 48)


def test_values_that_are_not_finite_never_pass() -> None:
    bad = torch.tensor([1.0, float("nan")])
    assert relative_distance(bad, torch.ones(2)) == float("inf")
    broken = Result("batch", "a batch equals its members", relative_distance(bad, bad), 1.0)
    assert broken.passed is False
    assert json.loads(json.dumps(broken.record(), allow_nan=False))["figure"] == "inf"


def test_an_adapter_that_changes_nothing_proves_nothing() -> None:
    latents = torch.ones(2, 3)
    both = latents, latents
    assert adapters.effect_result(both, both, torch.float32).passed is False


def test_the_error_of_an_adapter_is_a_share_of_its_effect() -> None:
    before, ours = torch.zeros(4) + 2, torch.zeros(4) + 5
    # The stock pipeline's own offset of 0.5 does not count.
    stock = before + 0.5, before + 1.5
    one_third = adapters.effect_result(stock, (before, ours), torch.bfloat16)
    assert one_third.figure == pytest.approx(2 / 3)
    assert one_third.passed is False


def test_the_norm_of_a_product_needs_no_product() -> None:
    up, down = torch.randn(7, 3), torch.randn(3, 11)
    assert adapters.norm_of_product(up, down) == pytest.approx(float((up @ down).norm()), rel=1e-5)


def test_memory_beyond_the_allowance_of_the_forecast_fails() -> None:
    assert memory.memory_result("peak", 105, 100).passed is True
    beyond = memory.memory_result("peak", 12_000_000_000, 10_000_000_000)
    assert (beyond.passed, beyond.note) == (False, "12.00 GB measured, 10.00 GB forecast")


def test_the_table_shows_what_was_not_measured() -> None:
    rows = [
        Result("memory", "peak", note="not measured"),
        Result("batch", "a batch equals its members", 2e-3, 1e-3),
    ]
    assert table(rows).splitlines()[1:] == [
        "memory  peak                        –        –          –     not measured",
        "batch   a batch equals its members  2.0e-03  1.0e-03    FAIL",
    ]
