"""Memory is forecast from configurations alone, and equals what the real computation allocates."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from alignment.cli import main
from alignment.lora import LoraArguments, add_lora
from alignment.memory import plan as memory_plan
from alignment.memory.forecast import DEPTH, DEPTH_FIELDS, Forecast, Probe, Work, _depth, forecast
from generator.hardware.memory_tracker import StorageTracker, fused_attention, norms_in_float32
from generator.loading import load_generator
from generator.output import InputError
from generator.testing.pipelines import save_tiny_pipeline
from generator.testing.text_pipelines import TINY_PIPELINES
from tests.generator.families.representatives import REPRESENTATIVES


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("pipelines")
    return {family: save_tiny_pipeline(family, root / family) for family in REPRESENTATIVES}


def deepen(folder: Path, target: Path, layers: int) -> Path:
    """The configurations of the pipeline in `folder` with `layers` blocks, without weights."""
    for file in folder.rglob("*.json"):
        copy = target / file.relative_to(folder)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(file.read_text())
    config = target / "transformer" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "num_layers": layers}))
    return target


def test_the_tracker_counts_what_lives_at_the_same_time() -> None:
    values = torch.zeros(1000)
    with StorageTracker() as tracker:
        first = values + 1
        second = first * 2
        del first
        third = second.view(10, 100)[0]
    assert tracker.peak == 2 * 4000
    assert tracker.current == 4000
    del second, third
    assert tracker.current == 0


def test_the_tracker_counts_activations_kept_for_the_backward_pass() -> None:
    weight = torch.ones(256, requires_grad=True)
    with StorageTracker() as tracker:
        x = weight
        for _ in range(10):
            x = x.sin()
        x.sum().backward()
    # Ten outputs and ten saved inputs are the same tensors but for the first, which is the weight.
    assert 10 * 1024 <= tracker.peak <= 13 * 1024


def network_folder(model: Path) -> Path:
    """Folder of the component that predicts."""
    return next(model / name for name in ("transformer", "unet") if (model / name).is_dir())


@pytest.mark.parametrize("family", REPRESENTATIVES)
def test_fake_tensors_need_what_real_tensors_allocate(family: str, folders: dict[str, Path]) -> None:
    size = TINY_PIPELINES[family][1]
    config = json.loads((network_folder(folders[family]) / "config.json").read_text())
    depths = {blocks: _depth(config[name]) for blocks, name in DEPTH_FIELDS.items() if name in config}
    expected = Probe(folders[family], Work("sft", *size, batch=2, lora_r=4), depths).kept_peak()
    generator = load_generator(folders[family], device="cpu", dtype=torch.bfloat16)
    add_lora(generator, LoraArguments(lora_r=4), seed=0)
    latents = torch.randn(2, *generator.latent_shape(*size))
    conditions = {
        name: torch.ones(2, *shape, dtype=dtype)
        for name, (shape, dtype) in {
            **generator.condition_shapes(), **generator.control_shapes(latents.shape[1:])
        }.items()
    }  # fmt: skip
    autocast = torch.autocast("cpu", dtype=torch.bfloat16)
    with fused_attention(), norms_in_float32(), StorageTracker() as tracker, autocast:
        generator.velocity(latents, torch.full((2,), 0.5), conditions).square().mean().backward()
    assert tracker.peak == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_deep_model_is_forecast_from_shallow_ones(
    folders: dict[str, Path], tmp_path: Path, share: float
) -> None:
    deep = deepen(folders["wan"], tmp_path / "deep", 7)
    work = Work("sft", 9, 32, 32, batch=2, lora_r=4, checkpointed_share=share)
    whole = Probe(deep, work, {"blocks": 7})
    found = forecast(deep, work)
    assert found.resident["transformer"] == whole.weight_bytes()
    assert found.resident["adapters and AdamW"] == 3 * whole.trained_bytes()
    direct = whole.checkpointed_peak() if share else whole.kept_peak()
    assert found.transient["update"] == pytest.approx(direct, rel=0.02)
    assert whole.blocks_in_full == {"blocks": 7}
    assert DEPTH < 7


def test_checkpointing_a_share_lies_between_none_and_all(folders: dict[str, Path], tmp_path: Path) -> None:
    deep = deepen(folders["wan"], tmp_path / "deep", 12)
    peaks = [
        forecast(deep, Work("sft", 9, 32, 32, batch=4, checkpointed_share=share)).transient["update"]
        for share in (1.0, 0.5, 0.0)
    ]
    assert peaks == sorted(peaks)


@pytest.mark.parametrize("family", REPRESENTATIVES)
def test_every_family_can_be_forecast(family: str, folders: dict[str, Path]) -> None:
    size = TINY_PIPELINES[family][1]
    found = forecast(folders[family], Work("ppo", *size, rollout_batch=2, decode_batch=1))
    assert set(found.transient) == {"update", "sampling", "decoding"}
    network = network_folder(folders[family])
    files = sum(p.stat().st_size for p in network.glob("*.safetensors"))
    experts = 2 if family == "wan2.2-a14b" else 1
    # Stored in float32 with one block or two, counted in bfloat16: within the parts that stay in float32.
    layers = json.loads((network / "config.json").read_text()).get("num_layers")
    assert layers in (1, 2) or family == "animatediff"
    assert 0.4 * files * experts < found.resident["transformer"] < 1.05 * files * experts
    assert found.peak > sum(found.resident.values())


def test_relatives_with_further_parts_can_be_forecast(tmp_path: Path) -> None:
    """The text encoder of AnimateDiff-SDXL that gives one vector is not there; an image encoder stays on the GPU."""
    xl = save_tiny_pipeline("animatediff_xl", tmp_path / "xl")
    found = forecast(xl, Work("ppo", *TINY_PIPELINES["animatediff_xl"][1], decode_batch=1))
    assert set(found.transient) == {"update", "sampling", "decoding"}
    assert "image encoder" not in found.resident
    wan = save_tiny_pipeline("wan-i2v", tmp_path / "i2v")
    found = forecast(wan, Work("sft", 9, 32, 32))
    encoder = load_generator(wan, device="cpu").pipeline.image_encoder
    assert found.resident["image encoder"] == 2 * sum(value.numel() for value in encoder.parameters())


@pytest.mark.parametrize(("share", "most"), [(0.0, 0.6), (1.0, 0.8)])
def test_two_gpus_that_share_tokens_need_half_of_the_activations_each(
    share: float, most: float, folders: dict[str, Path], tmp_path: Path
) -> None:
    deep = deepen(folders["wan"], tmp_path / "deep", 40)
    work = Work("sft", 33, 256, 256, lora_r=4, checkpointed_share=share)
    alone, shared = (forecast(deep, changed) for changed in (work, replace(work, context_parallel=2)))
    assert shared.resident == alone.resident
    # Beside half of the tokens in the blocks there are whole latents, and all tokens before the first block.
    assert 0.5 * alone.transient["update"] < shared.transient["update"] < most * alone.transient["update"]


def test_tokens_that_cannot_be_shared_out_are_no_forecast(folders: dict[str, Path]) -> None:
    with pytest.raises(InputError, match="a divisor of the 3 tokens of 9 frames of 16x16"):
        forecast(folders["wan"], Work("sft", 9, 16, 16, context_parallel=2))
    with pytest.raises(InputError, match="cannot share out its tokens"):
        forecast(folders["ltx"], Work("sft", *TINY_PIPELINES["ltx"][1], context_parallel=2))


def test_doctor_plans_for_gpus_that_share_tokens(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: set[tuple[str, int]] = set()

    def pretend(folder: Path, work: Work) -> Forecast:
        asked.add((work.method, work.context_parallel))
        return Forecast({"transformer": 14 * 10**9}, {"update": 10**9}, 6 * 10**9, 10**8)

    monkeypatch.setattr(memory_plan, "forecast", pretend)
    size = "--num_frames 9 --height 32 --width 32 --gpu_memory 24"
    assert main(f"doctor --model {folders['wan']} {size} --context_parallel 2") == 0
    assert asked == {("generate", 1), ("sft", 2), ("dpo", 2), ("ppo", 2)}
    assert "--per_device_train_batch_size 1 --context_parallel 2, each GPU" in capsys.readouterr().out


def test_quantised_weights_are_smaller(folders: dict[str, Path]) -> None:
    plain = forecast(folders["wan"], Work("generate", 9, 16, 16, decode_batch=0))
    sizes = [f.resident["transformer"] for f in (plain, plain.quantised("8bit"), plain.quantised("4bit"))]
    assert sizes[0] - sizes[1] == plain.linear_weights
    assert sizes[1] > sizes[2]


def test_offloaded_weights_are_gone_but_for_two_layers(folders: dict[str, Path]) -> None:
    work = Work("sft", 9, 16, 16)
    plain, offloaded = (forecast(folders["wan"], replace(work, offload_weights=o)) for o in (False, True))
    saved = plain.resident["transformer"] - offloaded.resident["transformer"]
    assert saved == 2 * plain.linear_weights
    assert offloaded.transient["update"] - plain.transient["update"] == 2 * 2 * plain.largest_linear > 0


def test_with_activation_offloading_the_inputs_of_two_blocks_are_on_the_gpu(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    work = Work("sft", 9, 16, 16, checkpointed_share=1.0)
    sizes = {layers: deepen(folders["wan"], tmp_path / str(layers), layers) for layers in (2, 3, 14)}
    updates = {
        (layers, offloading): forecast(folder, replace(work, activation_offloading=offloading)).transient[
            "update"
        ]
        for layers, folder in sizes.items()
        for offloading in (False, True)
    }
    assert updates[14, True] == updates[3, True] == updates[2, True] == updates[2, False]
    assert updates[2, False] < updates[3, False] < updates[14, False]


def test_decoding_in_tiles_needs_less(folders: dict[str, Path]) -> None:
    work = Work("generate", 5, 32, 512, decode_batch=2)
    whole, tiled = (
        forecast(folders["wan"], replace(work, tiling=t)).transient["decoding"] for t in (False, True)
    )
    assert tiled < 0.75 * whole


def test_a_family_that_cannot_be_forecast_says_so(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    with pytest.raises(InputError, match="measure it"):
        forecast(tmp_path, Work("sft", 9, 16, 16))


def test_doctor_says_what_fits_and_with_which_flags(
    folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["doctor", "--model", str(folders["wan"]), "--json", str(tmp_path / "found.json")]
    assert main([*arguments, "--gpu_memory", "24"]) == 0
    shown = capsys.readouterr().out
    assert "ok  sft" in shown
    methods = json.loads((tmp_path / "found.json").read_text())["model"]["methods"]
    assert set(methods) == {"generate", "sft", "dpo", "ppo"}
    assert all(options[-1]["fits"] for options in methods.values())


def test_the_fastest_flags_that_fit_are_advised(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def pretend(folder: Path, work: Work) -> Forecast:
        update = work.batch * (30 * 10**9 if work.checkpointed_share == 0 else 4 * 10**9)
        return Forecast({"transformer": 14 * 10**9}, {"update": update}, 6 * 10**9, 10**8)

    monkeypatch.setattr(memory_plan, "forecast", pretend)
    advised = {}
    for memory in (60, 24, 16, 12, 8, 6):
        options = memory_plan.plan(str(folders["wan"]), (9, 16, 16), 16, memory)["methods"]["sft"]
        advised[memory] = options[-1]["flags"] if options[-1]["fits"] else None
    checkpointing = "--gradient_checkpointing true"
    assert advised == {
        60: "",
        24: checkpointing,
        16: f"{checkpointing} --quantization 8bit",
        12: f"{checkpointing} --quantization 4bit",
        8: f"{checkpointing} --offload_weights true",
        6: None,
    }
    lines = memory_plan.plan(str(folders["wan"]), (9, 16, 16), 16, 6)["lines"]
    assert any("several GPUs" in line for line in lines)


def test_tiling_is_advised_where_decoding_is_what_does_not_fit(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def pretend(folder: Path, work: Work) -> Forecast:
        decoding = 0 if work.method in ("sft", "dpo") else 2 * 10**9 if work.tiling else 40 * 10**9
        return Forecast(
            {"transformer": 4 * 10**9}, {"update": 10**9, "decoding": decoding}, 15 * 10**8, 10**8
        )

    monkeypatch.setattr(memory_plan, "forecast", pretend)
    methods = memory_plan.plan(str(folders["wan"]), (9, 16, 16), 16, 8)["methods"]
    advised = {name: options[-1]["flags"] for name, options in methods.items() if options[-1]["fits"]}
    assert advised == {
        "generate": "--tiling true --batch_size 1",
        "sft": "",
        "dpo": "",
        "ppo": "--gradient_checkpointing true --tiling true --rollout_batch_size 1 --reward_batch_size 1 "
        "--monitor_videos 1",
    }
    offloaded = memory_plan.plan(str(folders["wan"]), (9, 16, 16), 16, 4)["methods"]["generate"][-1]
    assert offloaded["fits"]
    assert offloaded["flags"] == "--tiling true --offload_weights true --batch_size 1"


def test_the_largest_micro_batch_that_fits_is_named_and_fits(folders: dict[str, Path]) -> None:
    size = (9, 16, 16)
    base = forecast(folders["wan"], Work("sft", *size, lora_r=16))
    many = forecast(folders["wan"], Work("sft", *size, lora_r=16, batch=16))
    # A GPU of which 90 % are a little more than a batch of 16 needs.
    memory = (many.peak + 1000) / 0.9 / 1e9
    found = memory_plan.plan(str(folders["wan"]), size, 16, memory)
    option = found["methods"]["sft"][-1]
    assert option["flags"] == ""
    assert option["peak"] == base.peak
    assert option["largest_batch"] in (16, 17)
    named = f"up to --per_device_train_batch_size {option['largest_batch']})"
    assert any(named in line for line in found["lines"])


def test_doctor_names_an_impossible_size(
    folders: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", "--model", str(folders["wan"]), "--height", "17"]) == 2
    assert "nearest size" in capsys.readouterr().err
