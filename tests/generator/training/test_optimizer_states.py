"""States of optimisers with names and with numbers of the weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_optimizer_state_dict

from generator.output import InputError
from generator.training.checkpoints import require_engine
from generator.training.optimizer_states import (
    COUNTED,
    NAMED,
    load_optimizer,
    names_by_group,
    with_names,
    with_numbers,
)


def trained(seed: int) -> tuple[nn.Module, torch.optim.Optimizer]:
    """Two layers, weights and biases in groups of their own, after three steps of AdamW."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))
    weights = [p for n, p in model.named_parameters() if n.endswith("weight")]
    biases = [p for n, p in model.named_parameters() if n.endswith("bias")]
    optimizer = torch.optim.AdamW([{"params": biases, "weight_decay": 0.0}, {"params": weights}], lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.randn(4, 3)).square().mean().backward()
        optimizer.step()
    return model, optimizer


def moments(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    return [value for state in optimizer.state.values() for value in state.values()]


def by_torch(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The named state that FSDP's checkpoints hold."""
    return get_optimizer_state_dict(model, optimizer, options=StateDictOptions(full_state_dict=True))


def test_names_are_those_of_torch_and_numbers_those_of_the_optimiser() -> None:
    model, optimizer = trained(0)
    names = names_by_group(model, optimizer)
    assert names == [["0.bias", "1.bias"], ["0.weight", "1.weight"]]
    counted, named = optimizer.state_dict(), by_torch(model, optimizer)
    found = with_names(counted, names)
    assert found["state"].keys() == named["state"].keys()
    for name, state in named["state"].items():
        assert all(torch.equal(found["state"][name][key], value) for key, value in state.items())
    assert [group["params"] for group in named["param_groups"]] == names
    back = with_numbers(named, names)
    assert [group["params"] for group in back["param_groups"]] == [[0, 1], [2, 3]]
    assert all(torch.equal(back["state"][n]["exp_avg"], counted["state"][n]["exp_avg"]) for n in range(4))


@pytest.mark.parametrize("divided", [False, True])
@pytest.mark.parametrize("file", [COUNTED, NAMED])
def test_either_file_is_loaded_bit_for_bit(file: str, divided: bool, tmp_path: Path) -> None:
    model, optimizer = trained(0)
    torch.save(optimizer.state_dict() if file == COUNTED else by_torch(model, optimizer), tmp_path / file)
    other, fresh = trained(1)
    load_optimizer(tmp_path, other, fresh, divided)
    assert len(moments(fresh)) == 4 * 3
    assert all(torch.equal(one, two) for one, two in zip(moments(optimizer), moments(fresh), strict=True))


def test_the_state_of_other_weights_is_refused(tmp_path: Path) -> None:
    torch.save(trained(0)[1].state_dict(), tmp_path / COUNTED)
    model = nn.Linear(3, 2)
    with pytest.raises(InputError, match="has 4 weights, but this run trains 2"):
        load_optimizer(tmp_path, model, torch.optim.AdamW(model.parameters()), divided=False)


@pytest.mark.parametrize(
    ("files", "deepspeed", "processes", "said"),
    [
        (["global_step2/zero_pp_rank_0_mp_rank_00_optim_states.pt"], False, 1, "is without DeepSpeed"),
        ([COUNTED], True, 2, "written without DeepSpeed"),
        ([NAMED], True, 2, "written without DeepSpeed"),
        (["global_step2/zero_pp_rank_0_mp_rank_00_optim_states.pt"], True, 2, "pass --num_processes 1"),
    ],
)
def test_a_checkpoint_that_the_engine_cannot_read_is_refused(
    files: list[str], deepspeed: bool, processes: int, said: str, tmp_path: Path
) -> None:
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(InputError, match=said):
        require_engine(tmp_path, deepspeed, processes)
    require_engine(tmp_path / "none", deepspeed, processes)
