"""Pretraining in two processes: the gradient of both, one clock, and files of the first."""

import os
import socket
from functools import partial

import pytest
import torch

from generator import load_generator
from generator.native.building import build_pipeline
from generator.output import InputError
from generator.pretraining import model_card, pretrain
from generator.pretraining.config import PretrainConfig
from generator.pretraining.phase import RANK_SEED, WARMUP_STEPS, Phase
from generator.pretraining.processes import Processes, check_alone

CPU = torch.device("cpu")
STEPS = 3


class Batch:
    input_ids = torch.zeros(4, 1)


class ToyLoss:
    """Mean squared error of a layer that is to give what it was given."""

    def __init__(self, phase):
        self.phase = phase

    def prepare(self, batch, generator):
        return "toy", {"x": torch.randn(4, 8, generator=generator)}

    def compute(self, key, inputs):
        (linear,) = self.phase.modules["blocks"]
        return (linear(inputs["x"]) - inputs["x"]).pow(2).mean(), {}


def toy_phase(path):
    torch.manual_seed(0)
    config = PretrainConfig(output_dir="", num_layers=1, hidden_size=64)
    return Phase("toy", {"blocks": torch.nn.ModuleList([torch.nn.Linear(8, 8)])}, config, 1e6, 1e-2, path)


def small():
    """Two sizes to train on, one to evaluate on, a tiny autoencoder; all else is the command's."""
    sizes = ((1, 32, 32, 1.0), (5, 32, 32, 1.0))
    import generator.pretraining.data

    generator.pretraining.data.SIZES = sizes
    model_card.SIZES, model_card.EVALUATION_SIZES = sizes, ((5, 32, 32),)
    pretrain.build_pipeline = partial(
        build_pipeline,
        autoencoder={"channels": (8, 16), "num_blocks": 1},
        text_encoder={"hidden_size": 32, "num_layers": 1, "num_heads": 2},
    )


def work(rank, port, folder):
    os.environ |= {
        "RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)
    }  # fmt: skip
    torch.set_num_threads(1)
    phase = toy_phase(folder / "state.pt")
    batches = [Batch()] * STEPS
    phase.run(batches, ToyLoss(phase), CPU)
    clock = phase.processes.agree(10.0 + rank, rank == 1)
    torch.save([phase.weights.masters, phase.step, phase.clips, clock], folder / f"toy-{rank}.pt")
    small()
    config = PretrainConfig(
        output_dir=str(folder / "model"), autoencoder_seconds=0.5, transformer_seconds=0.5,
        autoencoder_pixels=20_000, transformer_tokens=400, num_layers=3, hidden_size=64, num_workers=0,
        evaluation_prompts=2, scene_reuse=2, pool_gigabytes=0.01, tensorboard=rank == 0,
    )  # fmt: skip
    seen = []
    finish = pretrain.finish
    pretrain.finish = lambda *given: (seen.append(1), finish(*given))
    train = pretrain.train_transformer

    def trained(pipeline, *given):
        history = train(pipeline, *given)
        torch.save(
            [pipeline.transformer.state_dict(), dict(pipeline.vae.config), seen], folder / f"model-{rank}.pt"
        )
        return history

    pretrain.train_transformer = trained
    assert pretrain.pretrain(config, CPU) == folder / "model"
    assert len(seen) == (rank == 0)
    assert not torch.distributed.is_initialized()


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(work, (port, folder), nprocs=2)
    return folder


def test_a_step_takes_the_mean_gradient_of_both_processes(done):
    (first, steps, clips, clock), (second, *_, other_clock) = (
        torch.load(done / f"toy-{rank}.pt", weights_only=False) for rank in range(2)
    )
    assert (steps, clips) == (STEPS, STEPS * 4 * 2)
    assert clock == other_clock == (10.0, True)
    torch.manual_seed(0)
    linear = torch.nn.Linear(8, 8)
    optimizer = torch.optim.AdamW(
        [{"params": [linear.weight], "weight_decay": 0.01}, {"params": [linear.bias], "weight_decay": 0.0}],
        betas=(0.9, 0.95),
    )
    for step in range(STEPS):
        x = torch.stack(
            [
                torch.randn(4, 8, generator=torch.Generator().manual_seed(step + rank * RANK_SEED))
                for rank in (0, 1)
            ]
        )
        optimizer.zero_grad()
        (linear(x) - x).pow(2).mean().backward()
        torch.nn.utils.clip_grad_norm_(linear.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 * (step + 1) / WARMUP_STEPS
        optimizer.step()
    for mine, theirs, expected in zip(first, second, (linear.weight, linear.bias), strict=True):
        assert torch.equal(mine, theirs)
        torch.testing.assert_close(mine, expected.flatten(), atol=1e-6, rtol=1e-5)


def test_both_processes_have_one_model_and_the_first_writes_it(done):
    (first, config, _), (second, other_config, _) = (
        torch.load(done / f"model-{rank}.pt", weights_only=False) for rank in range(2)
    )
    for name in ("latents_mean", "latents_std"):
        assert config[name] == other_config[name]
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    kept = load_generator(str(done / "model"), device="cpu").pipeline.transformer.state_dict()
    for name, value in kept.items():
        torch.testing.assert_close(value.float(), first[name].float(), atol=1e-2, rtol=1e-2)
    assert (done / "model" / "README.md").is_file()


@pytest.mark.parametrize(("visible", "chosen"), [(2, 1), (1, 0)], ids=["all GPUs", "its own alone"])
def test_each_process_computes_on_a_gpu_of_its_own(monkeypatch, visible, chosen):
    current = [0]

    def set_device(number):
        if number >= visible:
            raise RuntimeError("invalid device ordinal")
        current[0] = number

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "set_device", set_device)
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda *_, **__: None)
    for name, value in (("RANK", "1"), ("LOCAL_RANK", "1"), ("WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    assert not Processes().is_first
    assert current == [chosen]


def test_a_training_that_takes_one_process_refuses_several(monkeypatch):
    check_alone("--stage")
    assert Processes().size == 1
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match=r"^2 processes were launched, but --stage is for one: leave out"):
        check_alone("--stage")
