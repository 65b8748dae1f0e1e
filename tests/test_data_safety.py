"""No command loses what it did not write, nor what was checkpointed, when it overwrites, is interrupted or resumes."""

import errno
import os
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerControl

import generator
from alignment.cli import main
from alignment.stages.outputs import command_of
from alignment.stages.stage import checkpoint_to_resume
from alignment.trainers.backprop_config import BackpropConfig
from alignment.trainers.base_trainer import AlignmentTrainer
from alignment.trainers.dpo_config import DPOConfig
from alignment.trainers.nft_config import NFTConfig
from alignment.trainers.online_dpo_config import OnlineDPOConfig
from alignment.trainers.ppo_config import PPOConfig
from alignment.trainers.rwr_config import RWRConfig
from alignment.trainers.sft_config import SFTConfig
from generator.data.demonstrations import write_demonstrations
from generator.data.latent_cache import encode_files, encode_prompts_cached
from generator.files.output_folder import MARK, check_output_dir
from generator.output import InputError, write_json, write_text
from generator.testing import tiny_generator
from generator.training.checkpoints import CheckpointSchedule, newest_checkpoint
from generator.training.interruption import StopRequest
from generator.training.invocation import begin, command_that_goes_on
from labeling_app.campaigns.demonstrations import DEMONSTRATION_OUTPUTS
from labeling_app.store.store import Store
from reward.preferences import Ranking, write_rankings
from reward.training.reward_config import RewardConfig
from reward.training.reward_trainer import RewardTrainer

TRAINERS = [SFTConfig, DPOConfig, PPOConfig, RWRConfig, NFTConfig, BackpropConfig, OnlineDPOConfig]
ADAPTER = "pytorch_lora_weights.safetensors"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Demonstrations, rankings and a folder for the model, as every test begins with them."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "tiny").mkdir()
    (folder / "tiny" / "model_index.json").write_text("{}")
    random = torch.Generator().manual_seed(0)
    videos = [torch.rand(3, 5, 16, 16, generator=random) * 2 - 1 for _ in range(8)]
    prompts = [f"clip {number}" for number in range(8)]
    paths = write_demonstrations(folder / "data", videos, prompts, fps=8)
    rankings = [
        Ranking(prompts[k], [paths[k], paths[k + 1]], [1, 2], "overall", "ada") for k in range(0, 8, 2)
    ]
    write_rankings(folder / "rankings.jsonl", rankings)
    return folder


@pytest.fixture
def data(made, tmp_path, monkeypatch):
    """Demonstrations, rankings and a model, in the working directory."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VIDALIGN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(generator, "load_generator", lambda *_, **__: tiny_generator())
    return tmp_path


SFT = shlex.split(
    "sft --model tiny --dataset data --output_dir out --max_steps 4 --num_frames 5 --height 16 --width 16 "
    "--per_device_train_batch_size 2 --report_to none --use_cpu true --disable_tqdm true"
)
REWARD = shlex.split(
    "reward --model tiny --preferences rankings.jsonl --output_dir out --num_train_epochs 3 --num_frames 5 --height 16 "
    "--width 16 --per_device_train_batch_size 2 --report_to none --use_cpu true --disable_tqdm true "
    "--held_out_fraction 0.25 --validation_fraction 0.25 --warmup_steps 0"
)


@contextmanager
def at_step(number, act, trainer=AlignmentTrainer):
    """Calls `act` in the midst of a training step, counted from 1."""
    before, count = trainer.training_step, []

    def step(self, *args, **kwargs):
        count.append(1)
        if len(count) == number:
            act()
        return before(self, *args, **kwargs)

    trainer.training_step = step
    try:
        yield
    finally:
        trainer.training_step = before


def signalled(*numbers, pause=0.15):
    """Sends signals to this process, as a terminal or a cluster does."""

    def send():
        for number in numbers:
            os.kill(os.getpid(), number)
            time.sleep(pause)

    return send


def advised(text):
    """The command that the interrupted user is told to give."""
    line = next(line for line in text.splitlines() if line.startswith("    vidalign "))
    return shlex.split(line)[1:]


def tree(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


# Interruption


def test_an_interrupted_training_saves_a_checkpoint_and_names_the_command_that_goes_on(data, capfd):
    whole = [*SFT[:5], "--output_dir", "whole", *SFT[7:]]
    assert main(whole) == 0
    with at_step(2, signalled(signal.SIGINT)):
        assert main([*SFT, "--overwrite"]) == 130
    assert [path.name for path in (data / "out").glob("checkpoint-*")] == ["checkpoint-2"]
    shown = capfd.readouterr().err
    assert "a checkpoint is saved at the end of this step or rollout" in shown
    assert "The checkpoint is out/checkpoint-2. To go on:" in shown
    assert "Traceback" not in shown
    again = advised(shown)
    assert again == [*SFT, "--resume_from_checkpoint", "latest"]

    before = tree(data / "out")
    assert main(SFT) == 2
    assert advised(capfd.readouterr().err) == again
    assert main([*SFT, "--overwrite"]) == 2
    refusal = capfd.readouterr().err
    assert "checkpoint-2 of an unfinished training, which --overwrite alone does not delete" in refusal
    assert advised(refusal) == again
    assert tree(data / "out") == before

    assert main(again) == 0
    resumed, straight = (load_file(data / folder / ADAPTER) for folder in ("out", "whole"))
    assert all(torch.equal(resumed[name], straight[name]) for name in straight)
    assert main([*SFT, "--overwrite"]) == 0  # finished: its own outputs are replaced


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_termination_and_hanging_up_save_the_same_checkpoint(data, capfd, number, code):
    with at_step(2, signalled(number)):
        assert main(SFT) == code
    assert [path.name for path in (data / "out").glob("checkpoint-*")] == ["checkpoint-2"]
    shown = capfd.readouterr().err
    assert "a checkpoint is saved at the end of this step or rollout" in shown
    assert "Traceback" not in shown
    assert advised(shown) == [*SFT, "--resume_from_checkpoint", "latest"]
    found = torch.load(data / "out" / "checkpoint-2" / "optimizer.pt", weights_only=True)
    assert {int(state["step"]) for state in found["state"].values()} == {2}


def test_a_second_interruption_stops_at_once(data, capsys):
    with at_step(3, signalled(signal.SIGINT, signal.SIGINT)):
        assert main([*SFT, "--save_steps", "1"]) == 130
    assert newest_checkpoint(data / "out") == str(data / "out" / "checkpoint-2")
    again = advised(capsys.readouterr().err)
    assert again[-2:] == ["--resume_from_checkpoint", "latest"]
    assert main(again) == 0


def test_termination_twice_still_saves(data):
    with at_step(2, signalled(signal.SIGTERM, signal.SIGTERM)):
        assert main(SFT) == 143
    assert newest_checkpoint(data / "out") == str(data / "out" / "checkpoint-2")


def test_checkpoints_come_by_time(data, capsys):
    assert (SFTConfig.save_minutes, RewardConfig.save_minutes) == (10, 10)
    assert main([*SFT, "--save_steps", "1000", "--save_minutes", "0.000001"]) == 0
    steps = sorted(path.name for path in (data / "out").glob("checkpoint-*"))
    assert steps == ["checkpoint-3", "checkpoint-4"]  # of four, two are kept
    assert main([*SFT, "--overwrite", "--save_minutes", "-1"]) == 2
    assert "save_minutes is -1.0, but must be at least 0" in capsys.readouterr().err


def test_rollouts_are_saved_at_their_ends_alone():
    args, control = SimpleNamespace(updates_per_rollout=4, world_size=1), TrainerControl()
    schedule = CheckpointSchedule(minutes=1e-9)
    schedule.request = StopRequest("")
    schedule.request.receive(signal.SIGTERM)
    for step in range(1, 5):
        schedule.on_step_end(args, SimpleNamespace(global_step=step), control)
        assert (control.should_save, control.should_training_stop) == (step == 4, step == 4)


def test_an_interrupted_reward_training_goes_on_and_ends_as_if_it_had_not_been(data, capsys):
    whole = [*REWARD[:5], "--output_dir", "whole", *REWARD[7:]]
    assert main(whole) == 0
    with at_step(2, signalled(signal.SIGINT), RewardTrainer):
        assert main(REWARD) == 130
    again = advised(capsys.readouterr().err)
    assert again == [*REWARD, "--resume_from_checkpoint", "latest"]
    assert main([*REWARD, "--overwrite"]) == 2
    assert main(again) == 0
    resumed, straight = (load_file(data / folder / "reward_model.safetensors") for folder in ("out", "whole"))
    assert all(torch.allclose(resumed[name], straight[name], atol=1e-6) for name in straight)
    assert main([*REWARD, "--overwrite"]) == 0


def test_interrupted_before_anything_is_written_the_same_command_is_advised(data, capsys, monkeypatch):
    def interrupted(*_, **__):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(1)

    monkeypatch.setattr(generator, "load_generator", interrupted)
    for command in (SFT, REWARD):
        assert main([*command, "--overwrite"]) == 143
        assert advised(capsys.readouterr().err) == [*command, "--overwrite"]
        assert not (data / "out").exists()


def test_the_command_that_goes_on_is_the_users_own():
    begin(
        [
            "ppo",
            "--config",
            "my run.yaml",
            "--overwrite",
            "true",
            "--seed=3",
            "--resume_from_checkpoint",
            "x/checkpoint-2",
        ]
    )
    assert command_that_goes_on(resume=True) == (
        "vidalign ppo --config 'my run.yaml' --seed=3 --resume_from_checkpoint latest"
    )
    begin(["generate", "--overwrite", "--model", "m"])
    assert command_that_goes_on(resume=False) == "vidalign generate --model m"
    begin([])


@pytest.mark.slow
def test_two_launched_processes_save_and_stop_together(data):
    tiny_generator().pipeline.save_pretrained("tiny-model")
    words = [word if word != "tiny" else "tiny-model" for word in SFT] + ["--accelerate_config", "multi_gpu"]
    words += ["--num_processes", "2"]
    words[words.index("--max_steps") + 1] = "100000"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [
        sys.executable,
        "-m",
        "alignment.cli",
        *words,
        "--save_steps",
        "100000",
        "--logging_steps",
        "1",
    ]
    command[command.index("--report_to") + 1] = "tensorboard"
    process = subprocess.Popen(
        command, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    deadline = time.monotonic() + 120
    while not list(data.glob("out/runs/*/*")) and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.5)
    time.sleep(2)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130, said
    assert "Traceback" not in said
    assert len(list(data.glob("out/checkpoint-*/rng_state_1.pth"))) == 1
    assert advised(said) == [*command[3:], "--resume_from_checkpoint", "latest"]


# Overwriting


def test_a_users_file_beside_the_outputs_survives_every_training(data, capsys):
    for command in (SFT, REWARD):
        assert main(command) == 0
        for name in ("notes.txt", "checkpoint-4/notes.txt", "runs/mine/data.csv"):
            write_text(data / "out" / name, "dear")
            before = tree(data / "out")
            assert main([*command, "--overwrite"]) == 2
            assert f"it holds {name}, which vidalign {command[0]} did not write" in capsys.readouterr().err
            assert tree(data / "out") == before
            (data / "out" / name).unlink()
            if name.startswith("runs/"):
                (data / "out" / "runs" / "mine").rmdir()
        assert main([*command, "--overwrite"]) == 0
        (data / "out").rename(data / f"{command[0]}-out")


def test_a_linked_output_folder_is_followed(data):
    (data / "big-disk").mkdir()
    (data / "out").symlink_to(data / "big-disk")
    for _ in range(2):
        assert main([*SFT, "--overwrite"]) == 0
        assert (data / "out").is_symlink()
        assert (data / "big-disk" / ADAPTER).is_file()


def test_folders_of_the_older_trainer_of_rankings_are_those_of_dpo() -> None:
    assert command_of("RankingDPOTrainer") == command_of("DPOTrainer") == command_of("DPOConfig") == "dpo"


@pytest.mark.parametrize("config", TRAINERS)
def test_every_training_refuses_what_is_not_its_own(tmp_path, config, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def check(**more):
        return checkpoint_to_resume(config(output_dir="out", report_to="none", use_cpu=True, **more))

    command = command_of(config.__name__)
    assert check() is None
    assert not (tmp_path / "out").exists()
    write_text(tmp_path / "out" / ADAPTER, "from the hub")
    for more in ({}, {"overwrite": True}, {"resume_from_checkpoint": "latest"}):
        with pytest.raises(InputError, match=f"vidalign {command}"):
            check(**more)
    record = {"trainer": f"{config.__name__.removesuffix('Config')}Trainer"}
    write_json(tmp_path / "out" / "training.json", record)  # as versions before the mark left it
    assert check(overwrite=True) is None
    with pytest.raises(InputError, match="finished training without checkpoints"):
        check(resume_from_checkpoint="latest")
    write_json(tmp_path / "elsewhere" / "checkpoint-3" / "trainer_state.json", {})
    with pytest.raises(InputError, match="not empty"):
        check(resume_from_checkpoint="elsewhere/checkpoint-3")
    write_json(tmp_path / "out" / MARK, {"command": "demo"})
    with pytest.raises(InputError, match="the output of vidalign demo"):
        check(overwrite=True)


def test_commands_that_write_one_file_replace_only_their_own(data, capsys):
    with Store("labels.db") as store:
        store.add_user("ada", "long enough password")
    write_text(data / "notes.txt", "dear")
    (data / "other.db").write_bytes((data / "labels.db").read_bytes())
    with Store("in-use.db") as store:
        store.add_user("bob", "long enough password")
        for name in ("notes.txt", "in-use.db"):
            before = (data / name).read_bytes()
            assert main(["label", "backup", "--db", "labels.db", "--output_file", name, "--overwrite"]) == 2
            assert f"{name} is not a backup of the labeling app" in capsys.readouterr().err
            assert (data / name).read_bytes() == before
    for _ in range(2):
        assert (
            main(["label", "backup", "--db", "labels.db", "--output_file", "backup.db", "--overwrite"]) == 0
        )
    assert main(["doctor", "--json", "notes.txt"]) == 2
    for _ in range(2):
        assert main(["doctor", "--json", "machine.json"]) == 0
    assert (data / "notes.txt").read_text() == "dear"


def test_exported_demonstrations_replace_only_an_export(data):
    write_text(data / "thesis" / "chapter.tex", "dear")
    write_text(data / "thesis" / "metadata.jsonl", '{"file_name": "a.mp4", "prompt": "a"}\n')
    with pytest.raises(InputError, match=r"it holds chapter\.tex and was not made by vidalign label export"):
        check_output_dir("thesis", DEMONSTRATION_OUTPUTS, True)


# Refused commands leave nothing


@pytest.mark.parametrize(
    "words",
    [
        "ppo --model tiny --prompts prompts.txt --reward nowhere --output_dir out",
        "sft --model tiny --dataset nowhere --output_dir a/out",
        "sft --model tiny --dataset data --output_dir out --ema_decay 2",
        "dpo --model tiny --preferences nowhere.jsonl --output_dir out",
        "reward --model tiny --preferences rankings.jsonl --output_dir out --dimensions motion",
        "reward evaluate --reward nowhere --preferences rankings.jsonl --output_dir out",
        "evaluate --model tiny --prompts nowhere.txt --output_dir out",
        "evaluate compare --runs a b --output_dir out",
        "generate --model tiny --prompts prompts.txt --output_dir out --height 17",
        "label import --db new.db --videos nowhere",
        "label import --db new.db --preferences nowhere.jsonl",
        "label import --db new.db --compare nowhere data",
        "evaluate human --db new.db --output_dir out",
        "label campaign --db new.db --gold_share 7",
        "label export --db new.db --output_file a/b.jsonl",
        "label restore --db new.db --backup rankings.jsonl",
        "label serve --db new.db --port 99999999",
        "pretrain --output_dir out --hidden_size 100",
    ],
)
def test_a_refused_command_leaves_nothing(data, capsys, words):
    write_text(data / "prompts.txt", "a\n")
    before = sorted(path.name for path in data.iterdir() if path.name != "cache")
    assert main(shlex.split(words)) == 2
    assert "Traceback" not in capsys.readouterr().err
    assert sorted(path.name for path in data.iterdir() if path.name != "cache") == before


def test_a_reward_that_fails_in_the_first_rollout_leaves_no_folder(data, capsys):
    write_text(data / "prompts.txt", "a\n")
    write_text(data / "no_judge.py", "def judge(videos, prompts):\n    return 'good'\n")
    words = "ppo --model tiny --prompts prompts.txt --reward no_judge:judge --output_dir out --use_cpu true"
    assert main([*shlex.split(words), "--max_steps", "1"]) == 2
    assert not (data / "out").exists()


# Disks and caches


@contextmanager
def largest_file(size):
    """No file may become larger, as on a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_on_a_full_disk_the_last_checkpoint_stays_and_is_gone_on_from(data, capsys):
    limit = largest_file(20_000)
    with at_step(4, limit.__enter__):
        try:
            assert main([*SFT, "--save_steps", "1"]) == 2
        finally:
            limit.__exit__(None, None, None)
    shown = capsys.readouterr().err
    assert "the disk is full" in shown
    assert "Traceback" not in shown
    assert sorted(path.name for path in (data / "out").glob("checkpoint-*")) == [
        "checkpoint-2",
        "checkpoint-3",
    ]
    assert main([*SFT, "--resume_from_checkpoint", "latest"]) == 0


def test_a_checkpoint_that_cannot_be_finished_is_taken_away(data, capsys, monkeypatch):
    def fail(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device", "optimizer.pt")

    monkeypatch.setattr(AlignmentTrainer, "_save_optimizer_and_scheduler", fail)
    assert main([*SFT, "--save_steps", "2"]) == 2
    assert "the disk is full while writing optimizer.pt" in capsys.readouterr().err
    assert not list(data.glob("out/checkpoint-*"))


def test_a_damaged_cache_is_made_again_and_named(data, caplog):
    tiny = tiny_generator()
    path = data / "data" / "0000.mp4"
    cache = data / "own-cache"
    first = encode_files(tiny, [path], 5, 16, 16, cache_dir=cache, progress=False)
    (file,) = cache.glob("*.safetensors")
    for content in (b"", file.read_bytes()[:-7], b"\xff" * 40):
        file.write_bytes(content)
        again = encode_files(tiny, [path], 5, 16, 16, cache_dir=cache, progress=False)
        assert torch.equal(first[0], again[0])
        assert [str(file) in record.message for record in caplog.records] == [True]
        caplog.clear()
    encode_files(tiny, [path], 5, 16, 16, cache_dir=cache, progress=False)
    assert not caplog.records


def test_damaged_embeddings_of_a_prompt_are_made_again(data, caplog, monkeypatch):
    monkeypatch.setattr("generator.data.latent_cache.CACHED_ENCODER_SIZE", 0)
    tiny, cache = tiny_generator(), data / "own-cache"
    first = encode_prompts_cached(tiny, ["a", "b"], cache)
    file = sorted(cache.glob("*.safetensors"))[0]
    file.write_bytes(b"")
    again = encode_prompts_cached(tiny, ["a", "b"], cache)
    # Encoded alone and not as one of two, which other kernels may round otherwise.
    assert all(torch.allclose(first[name], again[name], atol=1e-5) for name in first)
    damaged = [record.message for record in caplog.records if "damaged" in record.message]
    assert [str(file) in message for message in damaged] == [True]


def test_a_cache_that_cannot_be_written_is_done_without(data, caplog):
    write_text(data / "own-cache", "a file where the folder should be")
    path = data / "data" / "0000.mp4"
    encode_files(tiny_generator(), [path], 5, 16, 16, cache_dir=data / "own-cache", progress=False)
    assert "own-cache cannot be written" in caplog.text


# Modes


def test_all_that_trainings_write_has_the_mode_that_the_umask_allows(data):
    before = os.umask(0o002)
    try:
        assert main([*SFT, "--save_steps", "2"]) == 0
        assert main([*SFT[:5], "--output_dir", "all", *SFT[7:], "--use_peft", "false"]) == 0
        assert (
            main([*REWARD[:5], "--output_dir", "reward-out", *REWARD[7:], "--save_minutes", "0.000001"]) == 0
        )
        Store("labels.db").close()
        found = {
            path.relative_to(data).as_posix(): path.stat().st_mode & 0o777
            for folder in ("out", "all", "reward-out", "cache", "labels.db")
            for path in [data / folder, *(data / folder).rglob("*")]
        }
    finally:
        os.umask(before)
    assert len(found) > 30
    wrong = {name: oct(mode) for name, mode in found.items() if mode not in (0o664, 0o775)}
    assert not wrong
