"""Two processes on the CPU: the same weights on both, and those of one process with the whole batch."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from generator import load_generator
from generator.testing import tiny_generator
from generator.testing.pipelines import save_tiny_pipeline
from generator.video import read_video, write_video
from reward.models.latent import LatentRewardConfig, LatentRewardModel
from tests.alignment.trainers.distributed_run import VARIANTS, train
from tests.alignment.trainers.launching import ADAPTER, command_line, launched

SCRIPT = Path(__file__).with_name("distributed_run.py")

pytestmark = pytest.mark.slow


def launch(kinds, engine, folder, *arguments):
    """Two processes that train one kind after the other."""
    launched(engine, SCRIPT, kinds, engine, folder, *arguments)


def difference(first, second):
    one, other = load_file(first), load_file(second)
    assert one.keys() == other.keys()
    assert any(value.abs().max() > 1e-3 for name, value in one.items() if "lora_B" in name)
    return max((one[name] - other[name]).abs().max().item() for name in one)


@pytest.mark.parametrize(
    ("kinds", "engine"),
    [
        ("sft,dpo,ppo,rwr,nft,online_dpo,backprop", "multi_gpu"),
        ("sft,dpo,ppo,rwr,nft,online_dpo,backprop", "zero2"),
        ("sft,dpo,ppo,rwr,online_dpo,backprop", "zero3"),
        ("sft,dpo,ppo,rwr,online_dpo,backprop", "fsdp"),
    ],
)
def test_two_processes_equal_one_with_the_whole_batch(kinds, engine, tmp_path):
    if engine.startswith("zero"):
        pytest.importorskip("deepspeed")
    launch(kinds, engine, tmp_path / "two")
    for kind in kinds.split(","):
        train(kind, "single", tmp_path / "one" / kind)
        two = tmp_path / "two" / kind
        if engine in ("multi_gpu", "zero2"):  # else the parts are gathered on the first process alone
            assert difference(two / "rank0.safetensors", two / "rank1.safetensors") == 0
        assert difference(tmp_path / "one" / kind / ADAPTER, two / ADAPTER) < 2e-5


@pytest.fixture(scope="module")
def variants(tmp_path_factory):
    """Each variant trained by two processes without an engine."""
    folder = tmp_path_factory.mktemp("variants")
    launch(",".join(VARIANTS), "multi_gpu", folder)
    return folder


@pytest.mark.parametrize("engine", ["zero2", "zero3", "fsdp"])
def test_every_setting_trains_the_same_under_every_engine(engine, variants, tmp_path):
    if engine.startswith("zero"):
        pytest.importorskip("deepspeed")
    launch(",".join(VARIANTS), engine, tmp_path)
    for kind in VARIANTS:
        assert difference(variants / kind / ADAPTER, tmp_path / kind / ADAPTER) < 2e-5, kind
    for kind in ("sft_checkpoints", "ppo_conditional"):
        samples = sorted(
            path.relative_to(variants) for path in (variants / kind).glob("samples/step-*/*.mp4")
        )
        assert len(samples) == 3 * 3
        for name in samples:
            assert (read_video(variants / name)[0] - read_video(tmp_path / name)[0]).abs().max() < 0.05


@pytest.mark.parametrize("engine", ["zero2", "fsdp"])
def test_engines_resume_as_if_uninterrupted(engine, tmp_path):
    if engine == "zero2":
        pytest.importorskip("deepspeed")
    launch("sft", engine, tmp_path, "resume")
    whole, resumed = (load_file(tmp_path / "sft" / name) for name in ("whole.safetensors", ADAPTER))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_lora_masters_stay_float32_on_a_bfloat16_base_under_zero_2(tmp_path):
    pytest.importorskip("deepspeed")
    launch("sft", "zero2", tmp_path, "bfloat16")
    one, other = (load_file(tmp_path / "sft" / f"rank{rank}.safetensors") for rank in (0, 1))
    assert all(value.dtype == torch.float32 for value in one.values())
    assert all(torch.equal(one[name], other[name]) for name in one)
    learnt = [value for name, value in one.items() if "lora_B" in name]
    assert all(value.abs().max() > 1e-3 for value in learnt)
    assert any((value != value.bfloat16().float()).any() for value in learnt)


def test_zero_3_from_the_command_line_with_a_latent_reward_in_the_process(tmp_path):
    """Text encoder and reward model are loaded from disk while a ZeRO-3 configuration is alive."""
    pytest.importorskip("deepspeed")
    model, reward, prompts = tmp_path / "model", tmp_path / "reward", tmp_path / "prompts.txt"
    tiny_generator().pipeline.save_pretrained(model)
    config = LatentRewardConfig(base_model=str(model), implicit_evidence=True)
    LatentRewardModel(config, load_generator(str(model))).save_pretrained(reward)
    prompts.write_text("a ball\na cube\n")
    words = f"ppo --model {model} --reward {reward} --prompts {prompts} --output_dir {tmp_path / 'out'}"
    words += (
        " --num_rollouts 2 --num_prompts 2 --num_generations 2 --num_inference_steps 3 --num_mini_batches 1"
    )
    words += (
        " --num_frames 5 --height 16 --width 16 --report_to none --accelerate_config zero3 --num_processes 2"
    )
    command_line(words)
    assert (tmp_path / "out" / ADAPTER).is_file()
    record = json.loads((tmp_path / "out" / "training.json").read_text())
    assert (record["distributed_type"], record["num_processes"]) == ("DEEPSPEED", 2)


@pytest.mark.parametrize(("zero", "bf16"), [("zero3", "false"), ("zero2", "true")])
def test_a_reward_model_on_a_trained_trunk_is_the_same_with_an_engine(zero, bf16, tmp_path):
    """Its weights are whole in the file, and those that training without an engine gives, in bfloat16 too."""
    pytest.importorskip("deepspeed")
    model, rankings = tmp_path / "model", tmp_path / "rankings.jsonl"
    tiny_generator().pipeline.save_pretrained(model)
    rows = []
    for number, colour in enumerate(("red", "blue", "green", "yellow")):
        names = [f"{number}-{other}.mp4" for other in ("right", "wrong")]
        for name in names:
            write_video(tmp_path / name, torch.rand(3, 5, 16, 16) * 2 - 1, 8)
        rows.append({"prompt": f"{colour} clip", "videos": names, "ranks": [0, 1]})
    rankings.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = (
        f"reward --model {model} --preferences {rankings} --num_frames 5 --height 16 --width 16 --lora_rank 2"
    )
    words += " --max_steps 4 --per_device_train_batch_size 2 --held_out_fraction 0 --validation_fraction 0 --dropout 0"
    words += " --learning_rate 1e-2 --report_to none --save_strategy no --num_processes 2 --noise_conditioned false"
    found = {}
    for engine in ("multi_gpu", zero):
        printed = command_line(
            f"{words} --bf16 {bf16} --accelerate_config {engine} --output_dir {tmp_path / engine}"
        )
        assert printed.count("The reward model learns from\n  rankings  4 of 4 prompts") == 1
        found[engine] = load_file(tmp_path / engine / "reward_model.safetensors")
    assert found[zero].keys() == found["multi_gpu"].keys()
    assert any("lora_B" in name and value.abs().max() > 1e-3 for name, value in found[zero].items())
    for name, value in found[zero].items():
        torch.testing.assert_close(value, found["multi_gpu"][name], atol=2e-5, rtol=0)


@pytest.mark.parametrize(
    ("family", "engines"),
    [("wan2.2-a14b", ("zero2", "zero3 --gradient_checkpointing true")), ("ltx", ("zero3",))],
)
def test_engines_equal_data_parallel_training_of_a_family(family, engines, tmp_path):
    """ZeRO-3 gathers whole blocks, whose inputs LTX names; the processes need different ones of Wan 2.2's experts."""
    pytest.importorskip("deepspeed")
    model = save_tiny_pipeline(family, tmp_path / "model")
    data = tmp_path / "data"
    data.mkdir()
    random = torch.Generator().manual_seed(0)
    rows = []
    for number in range(16):
        name = f"{number}.mp4"
        write_video(data / name, torch.rand(3, 9, 32, 32, generator=random) * 2 - 1, 8)
        rows.append({"file_name": name, "prompt": "a red circle"})
    (data / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = (
        f"sft --model {model} --dataset {data} --num_frames 9 --height 32 --width 32 --max_steps 2 --seed 5"
    )
    words += " --per_device_train_batch_size 4 --learning_rate 1e-2 --adam_epsilon 1e-3 --report_to none"
    words += " --save_strategy no --num_processes 2"
    for number, engine in enumerate(("multi_gpu", *engines)):
        command_line(f"{words} --accelerate_config {engine} --output_dir {tmp_path / str(number)}")
    adapters = sorted(path.name for path in (tmp_path / "0").glob("*.safetensors"))
    assert len(adapters) == (2 if family == "wan2.2-a14b" else 1)
    for number in range(1, len(engines) + 1):
        for name in adapters:
            assert difference(tmp_path / "0" / name, tmp_path / str(number) / name) < 2e-5
