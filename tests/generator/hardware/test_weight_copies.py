"""Offloaded weights are on the GPU when they are needed, whatever the order in which its streams work."""

from __future__ import annotations

import gc
import random
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from generator.hardware import offloading
from generator.hardware.offloading import offload_linear_layers
from generator.hardware.weight_copies import BUFFERS, CudaDevice, WeightCopies


class Event:
    def __init__(self) -> None:
        self.over = False


class Stream:
    """Work that is queued, and done later."""

    def __init__(self) -> None:
        self.queue: list[tuple[Event | None, Callable[[], None]]] = []

    def wait_event(self, event: Event) -> None:
        self.queue.append((event, lambda: None))

    def record_event(self) -> Event:
        event = Event()
        self.queue.append((None, lambda: setattr(event, "over", True)))
        return event

    def step(self) -> bool:
        """Does what is first in the queue, unless it waits."""
        if not self.queue or (self.queue[0][0] is not None and not self.queue[0][0].over):
            return False
        self.queue.pop(0)[1]()
        return True


class Device:
    """A GPU that begins to work when everything has been queued."""

    def __init__(self) -> None:
        self.copying, self.stream = Stream(), Stream()
        self.copies = 0

    def computing(self) -> Any:
        return self.stream

    def make(self, size: int) -> Tensor:
        self.run(random.Random(0))  # as `synchronize` does
        return torch.zeros(size, dtype=torch.uint8)

    def copy(self, memory: Tensor, weight: Tensor) -> Tensor:
        there = memory[: weight.nbytes].view(weight.dtype).view(weight.shape)
        self.copying.queue.append((None, lambda: _copy(there, weight)))
        self.copies += 1
        return there

    def run(self, chance: random.Random) -> None:
        """Works off both queues, one step at a time of either."""
        streams = [self.copying, self.stream]
        while any(stream.queue for stream in streams):
            chance.shuffle(streams)
            assert streams[0].step() or streams[1].step(), "both wait for each other"


def _copy(there: Tensor, weight: Tensor) -> None:
    there.copy_(weight)


def weights(count: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2 + n % 3, 3, generator=generator) for n in range(count)]


def compute(device: Device, copies: WeightCopies, visits: list[tuple[Tensor, bool]]) -> list[bool]:
    """Queues a computation with each weight; whether it will have found the right values."""
    right: list[bool] = []
    for weight, backward in visits:
        with copies.visit(weight, backward) as there:
            device.stream.queue.append(
                (None, lambda w=weight, t=there: right.append(torch.equal(w, t)))  # type: ignore[misc]
            )
    return right


@pytest.mark.parametrize("seed", range(20))
def test_every_computation_finds_its_weight_whichever_stream_is_faster(seed: int) -> None:
    chance = random.Random(seed)
    device, layers = Device(), weights(6)
    copies = WeightCopies(device, layers[0].nbytes)  # grows to that of later ones
    forward = [(weight, False) for weight in layers]
    visits = [*forward, *[(weight, True) for weight in reversed(layers)], *forward]
    visits += [(chance.choice(layers), chance.random() < 0.5) for _ in range(40)]
    right = compute(device, copies, visits)
    device.run(chance)
    assert len(right) == len(visits)
    assert all(right)


def test_the_second_pass_expects_every_weight_and_copies_each_once() -> None:
    device, layers = Device(), weights(6)
    copies = WeightCopies(device, max(weight.nbytes for weight in layers))
    one = [*[(weight, False) for weight in layers], *[(weight, True) for weight in reversed(layers)]]
    compute(device, copies, one * 2)
    expected, copied = copies.expected, device.copies
    compute(device, copies, one * 3)
    assert copies.expected - expected == 3 * len(one)
    assert (
        copies.unexpected == len(one) - 2
    )  # of the first pass, whose way back begins with two that are there
    assert device.copies - copied == 3 * (len(one) - 4)  # two are there still at each end


def test_a_copy_is_queued_before_the_computation_that_it_hides_behind() -> None:
    device, layers = Device(), weights(4)
    copies = WeightCopies(device, max(weight.nbytes for weight in layers))
    compute(device, copies, [(weight, False) for weight in layers] * 2)
    device.run(random.Random(0))
    with copies.visit(layers[0], backward=False):
        waits = [event for event, _ in device.copying.queue if event is not None]
        assert len(device.copying.queue) == 3  # wait for the other place, copy the next, say that it is done
        assert all(event.over for event in waits)


def test_a_weight_that_was_changed_in_place_is_copied_again() -> None:
    device, layers = Device(), weights(2)
    copies = WeightCopies(device, max(weight.nbytes for weight in layers))
    visits = [(weight, False) for weight in layers]
    assert all(compute(device, copies, visits * 2))
    device.run(random.Random(0))
    layers[0].add_(1)  # as an adapter is merged
    right = compute(device, copies, visits)
    device.run(random.Random(0))
    assert right == [True, True]


def test_weights_of_a_model_that_is_gone_are_not_kept() -> None:
    device, layers = Device(), weights(3)
    copies = WeightCopies(device, max(weight.nbytes for weight in layers))
    compute(device, copies, [(weight, False) for weight in layers] * 2)
    device.run(random.Random(0))
    left = [weakref.ref(weight) for weight in layers]
    del layers
    gc.collect()
    assert [each() for each in left] == [None] * 3
    other = weights(3)
    right = compute(device, copies, [(weight, False) for weight in other] * 2)
    device.run(random.Random(0))
    assert all(right)
    assert len(right) == 6


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_offloaded_layers_compute_what_resident_ones_do() -> None:
    torch.manual_seed(0)
    sizes = [(64, 128), (128, 256), (256, 64), (64, 64)] * 4
    plain = nn.Sequential(*(nn.Linear(*size) for size in sizes)).cuda().bfloat16()
    host = nn.Sequential(*(nn.Linear(*size) for size in sizes)).bfloat16()
    host.load_state_dict(plain.state_dict())
    offload_linear_layers([host])
    host.cuda()
    for _ in range(20):
        x = torch.randn(4096, 64, device="cuda", dtype=torch.bfloat16)
        gradients: list[Tensor] = []
        for model in (plain, host):
            given = x.clone().requires_grad_()
            model(given).square().mean().backward()
            assert given.grad is not None
            gradients.append(given.grad)
        assert torch.equal(*gradients)
    copies = offloading._COPIES[torch.device("cuda", 0)]
    assert isinstance(copies.device, CudaDevice)
    assert copies.expected > 0.9 * (copies.expected + copies.unexpected)
    assert len(copies._memory) == BUFFERS
