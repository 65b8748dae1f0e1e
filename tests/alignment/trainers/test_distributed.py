"""Two processes on the CPU: the same weights on both, and those of one process with the whole batch.

All that an engine trains here is trained in one launch, as most of a launch's time goes to its imports.
"""

import json
from functools import cache

import pytest
import torch
from safetensors.torch import load_file

from generator import load_generator
from generator.output import InputError
from generator.provenance import fingerprint
from generator.testing import tiny_generator
from generator.testing.pipelines import save_tiny_pipeline
from generator.video import read_video, write_video
from reward.models.latent import LatentRewardConfig, LatentRewardModel
from tests.alignment.trainers.distributed_run import VARIANTS, train
from tests.alignment.trainers.launching import (
    ADAPTER,
    check_reward_models,
    command_line,
    launched,
    launched_words,
    reward_command,
    run_alone,
    write_rankings,
)

MODULE = "tests.alignment.trainers.distributed_run"
REWARD = "tests.alignment.trainers.engine_run:brightness"
KINDS = ("sft", "dpo", "ppo", "rwr", "nft", "online_dpo", "backprop")
DIVIDED_KINDS = tuple(kind for kind in KINDS if kind != "nft")  # which holds a second policy
FAMILIES = {
    "wan2.2-a14b": {"multi_gpu": "", "zero2": "", "zero3": " --gradient_checkpointing true"},
    "ltx": {"multi_gpu": "", "zero3": ""},
}
RESUMED = ("zero2", "fsdp")
ANY_NUMBER = ("multi_gpu", "fsdp")
"""Engines whose checkpoints go on with any number of processes."""
TWO_CALLS = ("multi_gpu", "zero2")
SAMPLED = ("sft_checkpoints", "ppo_conditional")
REWARD_ENGINES = ("multi_gpu", "zero3")
PRINTED = "printed.txt"
"""What the processes of a launch have printed."""

pytestmark = pytest.mark.slow


def difference(first, second):
    one, other = load_file(first), load_file(second)
    assert one.keys() == other.keys()
    assert any(value.abs().max() > 1e-3 for name, value in one.items() if "lora_B" in name)
    return max((one[name] - other[name]).abs().max().item() for name in one)


def evaluations(folder, rank):
    """Measured rewards by step, as one process logged them."""
    return json.loads((folder / f"evaluations{rank}.json").read_text())


def losses(folder):
    """Losses of all steps, as the first process logged them."""
    return list(json.loads((folder / "losses0.json").read_text()).values())


def reduced(folder):
    """Calls of each kind of reduction while training, as the first process made them."""
    return json.loads((folder / "traffic0.json").read_text())


def check_evaluations(one, two):
    """Both processes must have logged the very same rewards, and those of the other run."""
    if not (two / "evaluations0.json").exists():
        return
    assert evaluations(two, 0) == evaluations(two, 1)
    assert evaluations(two, 0) == pytest.approx(evaluations(one, 0), abs=1e-4)


def family_command(family, data, output_dir):
    return (
        f"sft --model {data / family} --dataset {data / 'videos'} --num_frames 9 --height 32 --width 32"
        " --max_steps 2 --seed 5 --per_device_train_batch_size 4 --learning_rate 1e-2 --adam_epsilon 1e-3"
        f" --report_to none --save_strategy no --output_dir {output_dir}"
    )


def two_calls_command(data, output_dir):
    """PPO whose loss calls one expert for the denoising steps and perhaps the other for demonstrations."""
    return (
        f"ppo --model {data / 'wan2.2-a14b'} --ptx_dataset {data / 'videos'} --ptx_coef 1 --ptx_batch_size 1"
        f" --prompts world:train:2 --reward {REWARD} --num_frames 9 --height 32 --width 32 --num_rollouts 4"
        " --num_prompts 2 --num_generations 2 --num_inference_steps 3 --sde_window_size 1 --num_mini_batches 1"
        " --seed 5 --learning_rate 1e-2 --adam_epsilon 1e-3 --report_to none --save_strategy no"
        f" --output_dir {output_dir}"
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Tiny models of `FAMILIES`, videos for them, and rankings."""
    folder = tmp_path_factory.mktemp("data")
    for family in FAMILIES:
        save_tiny_pipeline(family, folder / family)
    (folder / "videos").mkdir()
    random = torch.Generator().manual_seed(0)
    rows = []
    for number in range(16):
        name = f"{number}.mp4"
        write_video(folder / "videos" / name, torch.rand(3, 9, 32, 32, generator=random) * 2 - 1, 8)
        rows.append({"file_name": name, "prompt": "a red circle"})
    (folder / "videos" / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_rankings(folder)
    return folder


def shared_commands(data, folder):
    """Commands whose processes share videos: each kind with a batch that is not full, and words of its own."""
    made = (
        f"--model {data / 'model'} --num_frames 5 --height 16 --width 16 --num_inference_steps 2 --batch_size 2"
        " --num_videos_per_prompt 2"
    )
    rankings = f"--preferences {data / 'rankings.jsonl'} --calibration_fraction 0 --batch_size 3"
    return [
        f"generate {made} --prompts world:test:3 --output_dir {folder / 'videos'}",
        f"evaluate {made} --prompts world:test:3 --measures {REWARD} --output_dir {folder / 'evaluation'}",
        f"reward evaluate --reward {REWARD} {rankings} --output_dir {folder / 'agreement'}",
        f"label select --db {folder / 'labels.db'} --videos {folder / 'videos'} --reward {REWARD} --count 2"
        f" --output_file {folder / 'pairs.jsonl'}",
    ]


def rewriter_commands(folder, processes):
    """Training of a small language model on pairs and on rewards, with the same pairs a step for any number of
    processes."""
    same = f" --max_steps 2 --per_device_train_batch_size {8 // processes} --report_to none --save_minutes 0"
    rewards = (
        f"--generator {folder.parent / 'tiny'} --num_frames 5 --height 16 --width 16 --num_inference_steps 2"
    )
    return [
        f"rewriter --pairs world:16 --learning_rate 1e-2 --output_dir {folder / 'pairs'}{same}",
        f"rewriter --method grpo --model {folder / 'pairs'} --prompts world:vague:8 {rewards} --reward {REWARD}"
        f" --num_generations 4 --max_completion_length 8 --output_dir {folder / 'rewards'}{same}",
    ]


def contents(folder):
    """All files of a folder, with another name in place of its own; without databases and pages, which hold times, as
    does `made` in the twins of pages."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    files = [path for path in files if ".db" not in path.name and path.suffix != ".html"]
    found = {
        str(path.relative_to(folder)): path.read_bytes().replace(str(folder).encode(), b"FOLDER")
        for path in files
    }
    twins = [name for name in found if name.endswith("report.json")]
    return found | {
        name: {**json.loads(found[name]), "made": None} for name in twins if b'"made"' in found[name]
    }


def jobs_of(engine, data, folder, alone):
    """Trainings and commands of one launch, each with the folder that it writes; `alone` has a checkpoint of one
    process."""
    kinds = KINDS if engine in ("multi_gpu", "zero2") else DIVIDED_KINDS
    jobs = []
    if engine == "multi_gpu":
        jobs += [words.split() for words in shared_commands(data, folder / "shared")]
        tiny_generator().pipeline.save_pretrained(folder / "tiny")
        jobs += [launched_words(engine, words) for words in rewriter_commands(folder / "rewriters", 2)]
    jobs += [{"kind": kind, "folder": str(folder / kind)} for kind in (*kinds, *VARIANTS)]
    if engine in RESUMED:
        checkpoint = str(folder / "sft" / "checkpoint-2")
        jobs.append({"kind": "sft", "folder": str(folder / "resumed"), "resumed_from": checkpoint})
    if engine in ANY_NUMBER:
        checkpoint = str(alone / "sft" / "checkpoint-2")
        jobs.append({"kind": "sft", "folder": str(folder / "of-one"), "resumed_from": checkpoint})
    if engine == "zero2":
        jobs.append({"kind": "sft", "folder": str(folder / "bfloat16"), "bfloat16": True})
    for family, engines in FAMILIES.items():
        if engine in engines:
            command = family_command(family, data, folder / family) + engines[engine]
            jobs.append(launched_words(engine, command))
    if engine in TWO_CALLS:
        jobs.append(launched_words(engine, two_calls_command(data, folder / "two-calls")))
    if engine in REWARD_ENGINES:
        command = reward_command(data, folder / "reward", bf16=False)
        jobs.append(launched_words(engine, command))
    return jobs


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Each kind trained by one process with the whole batch."""
    folder = tmp_path_factory.mktemp("alone")
    for kind in KINDS:
        train(kind, "single", folder / kind)
    return folder


@pytest.fixture(scope="module")
def trained_by(data, alone, tmp_path_factory):
    """Gives the folder of what two processes of an engine have trained."""

    @cache
    def launch(engine):
        if engine.startswith("zero"):
            pytest.importorskip("deepspeed")
        folder = tmp_path_factory.mktemp(engine)
        jobs = folder / "jobs.json"
        jobs.write_text(json.dumps(jobs_of(engine, data, folder, alone)))
        (folder / PRINTED).write_text(launched(engine, MODULE, engine, jobs, folder=folder))
        return folder

    return launch


@pytest.mark.parametrize("engine", ["multi_gpu", "zero2", "zero3", "fsdp"])
def test_two_processes_equal_one_with_the_whole_batch(engine, trained_by, alone):
    folder = trained_by(engine)
    for kind in KINDS if engine in ("multi_gpu", "zero2") else DIVIDED_KINDS:
        two = folder / kind
        if engine in ("multi_gpu", "zero2"):  # else the parts are gathered on the first process alone
            assert difference(two / "rank0.safetensors", two / "rank1.safetensors") == 0
        assert difference(alone / kind / ADAPTER, two / ADAPTER) < 2e-5, kind
        check_evaluations(alone / kind, two)


@pytest.mark.parametrize("engine", ["multi_gpu", "zero2", "zero3", "fsdp"])
def test_gradients_are_added_up_once_an_optimiser_step(engine, trained_by, alone):
    """There are as many reductions with two micro-batches a step as with one, and the steps are the same."""
    whole, divided = (trained_by(engine) / kind for kind in ("sft", "sft_accumulates"))
    assert reduced(divided) == reduced(whole)
    assert sum(reduced(whole).values()) >= 4
    assert difference(alone / "sft" / ADAPTER, divided / ADAPTER) < 1e-5
    for folder in (whole, divided):
        assert losses(folder) == pytest.approx(losses(alone / "sft"), abs=1e-5)


@pytest.mark.parametrize("engine", ["zero2", "zero3", "fsdp"])
def test_every_setting_trains_the_same_under_every_engine(engine, trained_by):
    for kind in VARIANTS:
        ours, other = trained_by("multi_gpu") / kind / ADAPTER, trained_by(engine) / kind / ADAPTER
        assert difference(ours, other) < 2e-5, kind
        check_evaluations(ours.parent, other.parent)
    for kind in SAMPLED:
        whole, divided = (trained_by(name) / kind for name in ("multi_gpu", engine))
        samples = sorted(path.relative_to(whole) for path in whole.glob("samples/step-*/*.mp4"))
        assert len(samples) == 3 * 3
        for name in samples:
            assert (read_video(whole / name)[0] - read_video(divided / name)[0]).abs().max() < 0.05
    assert list(evaluations(trained_by(engine) / "rwr_stops", 0)) == ["0", "2", "4"]


@pytest.mark.parametrize("engine", ["multi_gpu", "zero2", "zero3", "fsdp"])
def test_samples_change_no_weight_under_any_engine(engine, trained_by):
    sampled, plain = (
        load_file(trained_by(engine) / kind / ADAPTER) for kind in ("sft_checkpoints", "sft_unsampled")
    )
    assert all(torch.equal(sampled[name], plain[name]) for name in plain)


@pytest.mark.parametrize("engine", RESUMED)
def test_engines_resume_as_if_uninterrupted(engine, trained_by):
    whole, resumed = (load_file(trained_by(engine) / name / ADAPTER) for name in ("sft", "resumed"))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


@pytest.fixture(scope="module")
def commands_alone(data, tmp_path_factory):
    """Folder of what one process writes for the commands of the launch."""
    folder = tmp_path_factory.mktemp("commands")
    run_alone(
        [*shared_commands(data, folder / "shared"), *rewriter_commands(folder / "rewriters", 1)[:1]],
    )
    return folder


def test_processes_that_share_videos_write_the_files_of_one(trained_by, commands_alone):
    shared = contents(trained_by("multi_gpu") / "shared")
    assert contents(commands_alone / "shared") == shared
    assert len([name for name in shared if name.endswith(".mp4") and "labels" not in name]) == 2 * 3 * 2


def test_a_rewriter_of_two_processes_is_that_of_one(trained_by, commands_alone):
    folder = trained_by("multi_gpu") / "rewriters"
    one, two = (
        load_file(each / "pairs" / "model.safetensors") for each in (commands_alone / "rewriters", folder)
    )
    assert one.keys() == two.keys()
    assert max((one[name].float() - two[name].float()).abs().max().item() for name in one) < 1e-3
    assert json.loads((folder / "rewards" / "rewriter.json").read_text())["trainer"] == "GRPOTrainer"


@pytest.mark.parametrize("kind", ["sft", "ppo"])
@pytest.mark.parametrize("engine", ANY_NUMBER)
def test_a_checkpoint_of_two_processes_resumes_in_one(engine, kind, trained_by, tmp_path):
    """Without the engine, as `--accelerate_config single` starts it."""
    folder = trained_by(engine) / kind
    train(kind, "single", tmp_path / kind, resumed_from=str(folder / "checkpoint-2"))
    assert difference(folder / ADAPTER, tmp_path / kind / ADAPTER) < 1e-5


@pytest.mark.parametrize("engine", ANY_NUMBER)
def test_a_checkpoint_of_one_process_resumes_in_two(engine, trained_by, alone):
    assert difference(alone / "sft" / ADAPTER, trained_by(engine) / "of-one" / ADAPTER) < 1e-5
    assert list(json.loads((trained_by(engine) / "of-one" / "losses0.json").read_text())) == [
        "1",
        "2",
        "3",
        "4",
    ]


def test_a_checkpoint_of_deepspeed_is_refused_without_it(trained_by, tmp_path):
    """Its optimiser would start afresh."""
    checkpoint = trained_by("zero2") / "sft" / "checkpoint-2"
    with pytest.raises(InputError, match="divided among the 2 processes of DeepSpeed"):
        train("sft", "single", tmp_path / "sft", resumed_from=str(checkpoint))


def test_lora_masters_stay_float32_on_a_bfloat16_base_under_zero_2(trained_by):
    folder = trained_by("zero2") / "bfloat16"
    one, other = (load_file(folder / f"rank{rank}.safetensors") for rank in (0, 1))
    assert all(value.dtype == torch.float32 for value in one.values())
    assert all(torch.equal(one[name], other[name]) for name in one)
    learnt = [value for name, value in one.items() if "lora_B" in name]
    assert all(value.abs().max() > 1e-3 for value in learnt)
    assert any((value != value.bfloat16().float()).any() for value in learnt)


def test_a_reward_model_on_a_trained_trunk_is_the_same_under_zero_3(trained_by):
    """Its weights are whole in the file, and those that training without partitions gives."""
    whole, divided = (trained_by(engine) for engine in REWARD_ENGINES)
    printed = (divided / PRINTED).read_text()
    assert printed.count("The reward model learns from\n  rankings  4 of 4 prompts") == 1
    check_reward_models(whole / "reward", divided / "reward")


@pytest.mark.parametrize(
    ("family", "engine"),
    [(family, engine) for family, engines in FAMILIES.items() for engine in engines if engine != "multi_gpu"],
)
def test_engines_equal_data_parallel_training_of_a_family(family, engine, trained_by):
    """ZeRO-3 gathers whole blocks, whose inputs LTX names; the processes need different ones of Wan 2.2's experts."""
    whole, divided = (trained_by(name) / family for name in ("multi_gpu", engine))
    adapters = sorted(path.name for path in whole.glob("*.safetensors"))
    assert len(adapters) == (2 if family == "wan2.2-a14b" else 1)
    for name in adapters:
        assert difference(whole / name, divided / name) < 2e-5


def test_a_loss_that_calls_both_experts_one_after_the_other_trains_them_under_ddp(trained_by):
    """By itself DDP would take the weights of the first call for unused, and stop when their gradients come."""
    whole, divided = (trained_by(name) / "two-calls" for name in TWO_CALLS)
    adapters = sorted(path.name for path in whole.glob("*.safetensors"))
    assert len(adapters) == 2
    for name in adapters:
        assert difference(whole / name, divided / name) < 2e-5


def test_zero_3_from_the_command_line_with_a_latent_reward_in_the_process(tmp_path):
    """Text encoder and reward model are loaded from disk while a ZeRO-3 configuration is alive."""
    pytest.importorskip("deepspeed")
    model, reward, prompts = tmp_path / "model", tmp_path / "reward", tmp_path / "prompts.txt"
    tiny_generator().pipeline.save_pretrained(model)
    config = LatentRewardConfig(base_model=str(model), implicit_evidence=True)
    LatentRewardModel(config, load_generator(str(model))).save_pretrained(reward)
    prompts.write_text("a ball\na cube\n")
    command_line(
        f"ppo --model {model} --reward {reward} --prompts {prompts} --output_dir {tmp_path / 'out'}"
        " --num_rollouts 2 --num_prompts 2 --num_generations 2 --num_inference_steps 3 --num_mini_batches 1"
        " --num_frames 5 --height 16 --width 16 --report_to none --accelerate_config zero3 --num_processes 2"
    )
    assert (tmp_path / "out" / ADAPTER).is_file()
    record = json.loads((tmp_path / "out" / "training.json").read_text())
    assert (record["distributed_type"], record["num_processes"]) == ("DEEPSPEED", 2)
    whole = fingerprint(load_generator(model).transformer)
    assert record["base_weights_fingerprint"] == whole  # taken before the weights are divided
