"""Activations that wait in the host's memory: what is moved there, and that trainings are the same."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from trl.models import activation_offloading as of_trl

from alignment.trainers.activation_offloading import SMALLEST, activation_offloading
from alignment.trainers.dpo_config import DPOConfig
from alignment.trainers.dpo_trainer import DPOTrainer
from alignment.trainers.sft_config import SFTConfig
from alignment.trainers.sft_trainer import SFTTrainer


class Moves(saved_tensors_hooks):
    """Copies what is kept for the backward pass, as `OffloadActivations` does on a GPU, and counts it."""

    def __init__(self) -> None:
        self.there: list[torch.Size] = []
        self.back = self.steps = 0
        super().__init__(self.pack, self.unpack)

    def __enter__(self) -> Any:
        self.steps += 1
        return super().__enter__()

    def pack(self, tensor: Tensor) -> Tensor:
        self.there.append(tensor.shape)
        return tensor.clone()

    def unpack(self, kept: Tensor) -> Tensor:
        self.back += 1
        return kept.clone()


def trained(trainer: Any) -> dict[str, Tensor]:
    trainer.train()
    return {name: p.detach().clone() for name, p in trainer.policy.named_parameters() if p.requires_grad}


def test_the_inputs_of_checkpointed_blocks_are_moved_and_the_weights_stay_the_same(
    make_generator: Any, latents: Any, prompts: list[str], quiet: dict[str, Any]
) -> None:
    config = {"max_steps": 2, "per_device_train_batch_size": 3, "gradient_checkpointing": True, **quiet}
    plain = trained(SFTTrainer(make_generator(), SFTConfig(**config), latents, prompts))
    generator = make_generator()
    trainer = SFTTrainer(generator, SFTConfig(activation_offloading=True, **config), latents, prompts)
    assert isinstance(trainer.offloads_activations, nullcontext)  # on a CPU there is nowhere to go
    trainer.offloads_activations = moves = Moves()
    offloaded = trained(trainer)
    assert moves.steps == 2
    blocks = len(generator.blocks())
    rows = [shape for shape in moves.there if len(shape) == 3 and shape[0] == 3]
    largest = max(rows, key=lambda shape: shape.numel())
    assert moves.there.count(largest) == 2 * blocks
    assert moves.back == len(moves.there)
    assert plain.keys() == offloaded.keys()
    assert all(torch.equal(value, offloaded[name]) for name, value in plain.items())


def test_dpo_moves_the_activations_of_the_policy_and_none_of_the_reference(
    make_generator: Any, latents: Any, prompts: list[str], quiet: dict[str, Any]
) -> None:
    generator = make_generator()
    config = DPOConfig(
        max_steps=1, per_device_train_batch_size=1, gradient_checkpointing=True, beta=10.0, **quiet
    )
    ranked = [[latents[0], latents[1]]]
    trainer = DPOTrainer(generator, config, ranked, [[1, 2]], prompts[:1])
    trainer.offloads_activations = moves = Moves()
    trainer.train()
    three = [shape for shape in moves.there if len(shape) == 3]
    largest = max(three, key=lambda shape: shape.numel())
    assert largest[0] == 2  # both videos of the pair
    assert moves.there.count(largest) == len(generator.blocks())


def test_on_a_gpu_it_is_trls_context_for_all_but_small_tensors_and_weights(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: dict[str, Any] = {}

    class Context:
        def __init__(self, **given: Any) -> None:
            made.update(given)

        def update_model_params(self, model: Any) -> None:
            made["model"] = model

    monkeypatch.setattr(of_trl, "OffloadActivations", Context)
    model = torch.nn.Linear(1, 1)

    def context(offloading: bool, device: str) -> Any:
        args: Any = SimpleNamespace(activation_offloading=offloading, device=torch.device(device))
        return activation_offloading(model, args)

    assert isinstance(context(True, "cuda"), Context)
    assert made == {"min_offload_size": SMALLEST, "model": model}
    assert isinstance(context(False, "cuda"), nullcontext)
    assert isinstance(context(True, "cpu"), nullcontext)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_a_checkpointed_network_needs_less_memory_and_has_the_same_gradients() -> None:
    from torch.utils.checkpoint import checkpoint

    torch.manual_seed(0)
    blocks = [torch.nn.Linear(1024, 1024).cuda() for _ in range(24)]
    args: Any = SimpleNamespace(activation_offloading=True, device=torch.device("cuda"))
    x = torch.randn(8192, 1024, device="cuda", requires_grad=True)
    found = []
    for context in (nullcontext(), activation_offloading(torch.nn.ModuleList(blocks), args)):
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        with context:
            h = x
            for block in blocks:
                h = checkpoint(lambda y, b=block: y + b(y).relu(), h, use_reentrant=False)
            [gradient] = torch.autograd.grad(h.square().mean(), [x])
        found.append((gradient, torch.cuda.max_memory_allocated() - before))
    assert torch.equal(found[0][0], found[1][0])
    assert found[1][1] < 0.6 * found[0][1]
