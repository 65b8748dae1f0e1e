"""`--bf16 true` rounds products and nothing else, under every engine, started as the command starts it."""

import json
from functools import cache

import pytest
import torch
from safetensors.torch import load_file

from alignment import cli
from generator.testing.pipelines import save_tiny_pipeline
from generator.video import write_video
from tests.alignment.trainers.launching import (
    ADAPTER,
    check_reward_models,
    launched,
    launched_words,
    reward_command,
    write_rankings,
)

MODULE = "tests.alignment.trainers.engine_run"
REWARD = "tests.alignment.trainers.engine_run:brightness"
ENGINES = ("multi_gpu", "zero2", "zero3", "fsdp")
METHODS = ("sft", "dpo", "ppo")
REWARD_ENGINES = ("multi_gpu", "zero2")
PROMPTS = ("a red circle", "a blue square", "the red square", "a circle")
STEPS, BATCH, GENERATIONS = 2, 4, 4

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A tiny Wan, eight videos, rankings of them, and prompts; and in a folder of its own what a reward learns from."""
    folder = tmp_path_factory.mktemp("data")
    save_tiny_pipeline("wan", folder / "model")
    random = torch.Generator().manual_seed(0)
    rows = [{"file_name": f"{i}.mp4", "prompt": PROMPTS[i % 4]} for i in range(2 * BATCH)]
    for row in rows:
        write_video(folder / row["file_name"], torch.rand(3, 9, 32, 32, generator=random) * 2 - 1, 8)
    names = [row["file_name"] for row in rows]
    pairs = [
        {"prompt": row["prompt"], "videos": [name, names[i - 3]], "ranks": [0, 1]}
        for i, (row, name) in enumerate(zip(rows, names, strict=True))
    ]
    for name, lines in (("metadata", rows), ("rankings", pairs)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "prompts.txt").write_text("\n".join(PROMPTS) + "\n")
    (folder / "for-reward").mkdir()
    write_rankings(folder / "for-reward")
    return folder


def words(method, data, output_dir, processes=1, parts=1, bf16=True):
    """The command with the batch divided among processes and into parts."""
    local = BATCH // processes // parts
    said = f"{method} --model {data}/model --output_dir {output_dir} --bf16 {str(bf16).lower()} --seed 3"
    said += " --num_frames 9 --height 32 --width 32 --logging_steps 1 --report_to none --save_strategy no"
    said += " --disable_tqdm true --learning_rate 1e-2 --adam_epsilon 1e-2 --lr_scheduler_type constant"
    if method == "ppo":
        said += f" --prompts {data}/prompts.txt --reward {REWARD} --num_rollouts {STEPS}"
        said += f" --num_prompts {BATCH} --num_generations {GENERATIONS} --num_inference_steps 3"
        said += f" --num_mini_batches 1 --per_device_train_batch_size {2 * GENERATIONS * local}"
        return said
    # Frozen weights as on a GPU: bfloat16, but for the tables that Wan keeps in float32.
    said += (
        f" --dataset {data} --dtype bfloat16" if method == "sft" else f" --preferences {data}/rankings.jsonl"
    )
    said += (
        f" --max_steps {STEPS} --per_device_train_batch_size {local} --gradient_accumulation_steps {parts}"
    )
    return said


def launch(engine, commands, folder):
    """Two processes as `--accelerate_config` starts them, with one command after the other; what they saw."""
    file, report = folder / "commands.json", folder / "report.json"
    file.write_text(json.dumps(commands))
    launched(engine, MODULE, file, report, folder=folder)
    return json.loads(report.read_text())


def outcome(folder):
    history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    losses = torch.tensor([entry["loss"] for entry in history if "loss" in entry], dtype=torch.float64)
    adapter = load_file(folder / ADAPTER)
    return losses, torch.cat([adapter[name].double().flatten() for name in sorted(adapter)])


@pytest.fixture(scope="module")
def alone(data, tmp_path_factory):
    """One process: with bfloat16 products, with the batch in two parts, and in float32."""
    folder = tmp_path_factory.mktemp("alone")
    found = {}
    for method in METHODS:
        for name, settings in (("whole", {}), ("parts", {"parts": 2}), ("float32", {"bf16": False})):
            out = folder / name / method
            assert cli.main(words(method, data, out, **settings).split()) == 0
            found[method, name] = outcome(out)
    return found


@pytest.fixture(scope="module")
def trained_by(data, tmp_path_factory):
    """Gives what an engine saw in its launch, and where its adapters are."""

    @cache
    def trained(engine):
        if engine.startswith("zero"):
            pytest.importorskip("deepspeed")
        folder = tmp_path_factory.mktemp(engine)
        commands = [
            launched_words(engine, words(method, data, folder / method, processes=2)) for method in METHODS
        ]
        if engine in REWARD_ENGINES:
            command = reward_command(data / "for-reward", folder / "reward", bf16=True)
            commands.insert(0, launched_words(engine, command))
        if engine == "zero2":
            commands.append(launched_words("zero1", words("sft", data, folder / "zero1", processes=2)))
        return launch(engine, commands, folder), folder

    return trained


@pytest.mark.parametrize(
    ("engine", "name"), [("zero2", "zero1"), *((engine, method) for engine in ENGINES for method in METHODS)]
)
def test_what_is_float32_stays_so_inside_a_block(engine, name, trained_by):
    """Noise levels, latents to be noised, Wan's tables and norms, and LoRA; `name` is a method, or ZeRO-1 with SFT."""
    found, folder = trained_by(engine)
    seen, record = found[name], json.loads((folder / name / "training.json").read_text())
    expected = {"multi_gpu": "MULTI_CPU", "fsdp": "FSDP"}.get(engine, "DEEPSPEED")
    assert (record["distributed_type"], record["num_processes"]) == (expected, 2)
    assert record["arguments"]["bf16"] is True
    if name == "zero1":
        assert record["arguments"]["deepspeed"].endswith("zero1.json")
    types = {name: value.removeprefix("torch.") for name, value in seen.items() if isinstance(value, str)}
    print(engine, name, types, seen["timesteps"])
    assert types.pop("product") == "bfloat16"
    # SFT's frozen weights are bfloat16 here, and with them the network's entrance, which is a product.
    base = "bfloat16" if name in ("sft", "zero1") else "float32"
    assert {types.pop(each) for each in ("base", "latents")} == {base}
    batch = set() if name == "ppo" else {"batch latents", "batch weights"}
    assert set(types) == {"timestep", "scale_shift_table", "norm2", "LoRA A", "LoRA B"} | batch
    assert set(types.values()) == {"float32"}
    # bfloat16 has steps of 4 there.
    assert any(value != torch.tensor(value).bfloat16().item() for value in seen["timesteps"])


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("method", METHODS)
def test_losses_and_lora_weights_are_those_of_one_process(method, engine, trained_by, alone):
    """Up to the rounding of products, as measured by one process: twice what is left if it takes the same batch in two
    parts, which rounds other partial sums. DeepSpeed's linear layer under ZeRO-3 rounds a product once more before it
    adds the bias: there it is four times what the rounding of products does in all, against float32."""
    found = outcome(trained_by(engine)[1] / method)
    whole, parts, exact = (alone[method, name] for name in ("whole", "parts", "float32"))
    measure, times = (exact, 4) if engine == "zero3" else (parts, 2)
    for name, one, other, spread in zip(("losses", "weights"), whole, found, measure, strict=True):
        apart, allowed = (other - one).norm(), times * (spread - one).norm()
        print(f"{engine} {method}: {name} differ by {apart:.1e} of {one.norm():.1e}; allowed: {allowed:.1e}")
        assert apart <= allowed + 1e-6
    assert whole[1].norm() > 100 * allowed or method != "sft"  # so that the comparison says something


def test_a_reward_model_on_a_trained_trunk_is_the_same_under_zero_2(trained_by):
    """In bfloat16: its weights are those that training without partitions gives."""
    check_reward_models(*(trained_by(engine)[1] / "reward" for engine in REWARD_ENGINES))
