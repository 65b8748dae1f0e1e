"""Which flags `doctor` advises, and in which order."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from alignment.memory import plan as memory_plan
from alignment.memory.forecast import Forecast, Work
from generator.hardware import compute
from generator.loading import load_generator
from generator.testing.pipelines import save_tiny_pipeline

SIZE = (9, 16, 16)


@pytest.fixture(scope="module")
def wan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_pipeline("wan", tmp_path_factory.mktemp("pipelines") / "wan")


def of_two_parts(folder: Path, work: Work) -> Forecast:
    """28 GB of weights, and an update of 52 GB, of which activations that wait in the host's memory leave 40 GB, and
    then an untrained unconditional branch 26 GB."""
    update = 40 if work.activation_offloading else 52
    update = work.batch * (update if work.unconditional_gradient else 26) * 10**9
    return Forecast({"transformer": 28 * 10**9}, {"update": update}, 14 * 10**9, 10**8)


def advised(folder: Path, memory: float, method: str) -> tuple[bool, str]:
    option = memory_plan.plan(str(folder), SIZE, 16, memory)["methods"][method][-1]
    return option["fits"], option["flags"].removesuffix(f" {memory_plan.ONE_AT_A_TIME.get(method)}")


def test_copies_cost_their_seconds_over_those_of_the_multiplications(wan: Path) -> None:
    generator = load_generator(wan)
    channels, tokens = 24, 3  # two heads of 12; three latent frames of one patch
    blocks = generator.transformer.blocks
    weights = sum(p.numel() for p in blocks.parameters()) / len(blocks)
    computing = 2 * (tokens * weights + 2 * tokens**2 * channels) / 5e14
    found = compute.copying_share(generator, generator.latent_shape(*SIZE))
    assert found == pytest.approx((2 * weights / 55e9) / computing, rel=1e-6)
    assert compute.copying_share(generator, generator.latent_shape(9, 32, 32)) < found / 3.9


def test_copies_at_the_full_size_of_14b_cost_a_seventh_of_the_computing() -> None:
    from benchmarks.alignment.random_wan import build_generator

    generator = build_generator("14B", torch.device("meta"), torch.bfloat16)
    share = {size: compute.copying_share(generator, (16, *size)) for size in ((21, 60, 104), (9, 30, 52))}
    assert share[21, 60, 104] == pytest.approx(0.14, abs=0.01)
    assert share[9, 30, 52] == pytest.approx(2.3, abs=0.1)


@pytest.mark.parametrize(
    ("copying", "at_80"), [(1.2, "--offload_weights true"), (1.3, "--quantization 8bit")]
)
def test_exact_weights_in_the_host_come_before_rounded_ones_where_copies_are_cheap(
    wan: Path, monkeypatch: pytest.MonkeyPatch, copying: float, at_80: str
) -> None:
    monkeypatch.setattr(memory_plan, "forecast", of_two_parts)
    monkeypatch.setattr(memory_plan, "copying_share", lambda *_: copying)
    assert advised(wan, 80, "sft") == (True, f"--gradient_checkpointing true {at_80}")
    lines = memory_plan.plan(str(wan), SIZE, 16, 60)["lines"]
    [sft] = [line for line in lines if " sft " in line]
    assert sft.endswith(
        f"--offload_weights true  (copies take about {copying:.0%} of the time of the computing beside it)"
    )


def test_each_of_several_gpus_copies_all_weights_for_its_part_of_the_tokens(
    wan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_plan, "forecast", of_two_parts)
    monkeypatch.setattr(memory_plan, "copying_share", lambda *_: 0.8)

    def of(method: str, gpus: int) -> list[str]:
        options = memory_plan.plan(str(wan), SIZE, 16, None, context_parallel=gpus)["methods"][method]
        return [f"{option['copying']:.1f}" for option in options if "copying" in option]

    assert (of("sft", 1), of("sft", 2)) == (["0.8"] * 2, ["1.6"] * 2)
    assert of("generate", 2) == ["0.8"]
    one, two = (
        [
            option["flags"]
            for option in memory_plan.plan(str(wan), SIZE, 16, None, context_parallel=n)["methods"]["sft"]
        ]
        for n in (1, 2)
    )
    rounded, exact = (
        f"--gradient_checkpointing true {flag}" for flag in ("--quantization 8bit", "--offload_weights true")
    )
    assert one.index(exact) < one.index(rounded)
    assert two.index(rounded) < two.index(exact)


def test_an_untrained_unconditional_branch_is_the_last_resort_of_ppo(
    wan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_plan, "forecast", of_two_parts)
    flags = "--gradient_checkpointing true --offload_weights true"
    assert advised(wan, 60, "ppo") == (True, flags)
    waiting = f"{flags} --activation_offloading true"
    assert advised(wan, 50, "ppo") == (True, waiting)
    assert advised(wan, 30, "ppo") == (True, f"{waiting} --unconditional_gradient false")
    assert not advised(wan, 28, "ppo")[0]
    assert advised(wan, 50, "dpo") == (True, waiting)
    assert advised(wan, 30, "dpo")[0] is False


def test_tiling_is_advised_where_decoding_needs_the_most(wan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, bool, int]] = []

    def decoding(folder: Path, work: Work) -> Forecast:
        asked.append((work.method, work.tiling, work.num_frames))
        sizes = {"update": 10, "sampling": 5, "decoding": work.num_frames // (2 if work.tiling else 1)}
        if work.method in ("sft", "dpo"):
            del sizes["sampling"], sizes["decoding"]
        return Forecast({"transformer": 20 * 10**9}, {k: v * 10**9 for k, v in sizes.items()}, 10**10, 10**8)

    monkeypatch.setattr(memory_plan, "forecast", decoding)

    def options(frames: int) -> dict[str, list[str]]:
        methods = memory_plan.plan(str(wan), (frames, *SIZE[1:]), 16, None)["methods"]
        return {method: [option["flags"] for option in found] for method, found in methods.items()}

    few, many = options(9), options(13)
    assert [flags for flags in few["ppo"] if "tiling" in flags] == []
    assert {tiling for _, tiling, frames in asked if frames == 9} == {False}
    assert {tiling for method, tiling, frames in asked if frames == 13 and method == "ppo"} == {False, True}
    assert len(few["ppo"]) == len(set(few["ppo"])) == len(many["ppo"]) - 1
    assert [flags for flags in many["ppo"] if "tiling" in flags] == many["ppo"][2:]
    assert {option for options in (few, many) for option in options["dpo"] if "tiling" in option} == set()


def test_without_guidance_there_is_no_unconditional_branch_to_leave_out() -> None:
    texts = [[flags for flags, _ in memory_plan.options_of("ppo", guided=guided)] for guided in (True, False)]
    assert texts[0] == [*texts[1], f"{texts[1][-1]} --unconditional_gradient false"]


def test_the_smallest_way_is_shown_where_none_fits(wan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_plan, "forecast", of_two_parts)
    monkeypatch.setattr(memory_plan, "copying_share", lambda *_: 0.1)
    lines = memory_plan.plan(str(wan), SIZE, 16, 24)["lines"]
    [dpo] = [line for line in lines if " dpo " in line]
    flags = "--gradient_checkpointing true --offload_weights true --activation_offloading true"
    assert dpo.startswith(f"--  dpo        40.4 GB  {flags}")
