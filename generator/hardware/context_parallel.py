"""Ulysses context parallelism (Jacobs et al. 2023, arXiv 2309.14509): the processes of a group see the same batches,
and share out the tokens of every video in the blocks of the transformer.

Each process calls the transformer with whole latents and gets the whole velocity; in between it has a part of the
tokens, and in self-attention a part of the heads with all tokens (`diffusers.ContextParallelConfig`). Its gradient of a
weight, and of an input, is then the part of its own tokens: the gradient is the sum over the group.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any, TypeVar

import torch
import torch.distributed
from packaging.version import Version
from torch import Tensor, nn

from generator.hardware.compute import count_tokens
from generator.output import InputError
from generator.video_model import VideoModel

T = TypeVar("T")

OLDEST_DIFFUSERS = "0.42.1"
"""The first release that this is tested with; gradients of its ring attention were wrong before."""
TOLERANCE = 0.01
"""Relative difference of two checksums that rounding can explain; that of unequal noise is about 1."""


class ContextGroup:
    """The group of consecutive processes that this one shares tokens with; all processes must make theirs.

    Attributes:
        size: processes of the group.
        place: number of this process in it, from 0.

    Args:
        size: a divisor of the number of processes.
        device: that the transformer is on.
    """

    def __init__(self, size: int, device: torch.device) -> None:
        from torch.distributed.device_mesh import init_device_mesh

        self.size = size
        groups = torch.distributed.get_world_size() // size
        names = ("data", "ring", "ulysses")
        self._mesh = init_device_mesh(device.type, (groups, 1, size), mesh_dim_names=names)
        self._group = self._mesh["ulysses"].get_group()
        self.place = torch.distributed.get_rank(self._group)

    def share_tokens(self, generator: VideoModel) -> None:
        """Makes the transformer of a generator share out its tokens, from now on in every call.

        To be called once LoRA layers are added and the attention kernel is chosen, before anything is compiled or
        wrapped by an engine. The inputs of the first call, and of the first one with gradients, are compared within the
        group.

        Raises:
            InputError: the attention kernel cannot share out tokens.
        """
        from diffusers import ContextParallelConfig

        keep_autocast_in_backward(generator.device.type)
        for module in transformers_of(generator):
            config = ContextParallelConfig(ulysses_degree=self.size, mesh=self._mesh)
            try:
                module.enable_parallelism(config=config)
            except ValueError as error:
                raise InputError(
                    f"context_parallel is {self.size}, but the attention kernel that attention_backend names cannot "
                    "share out tokens: leave it unset, or choose _native_cudnn, _native_flash or flash."
                ) from error
        compared: set[bool] = set()

        def prepare(
            _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
        ) -> tuple[tuple[Any, ...], dict[str, Any]]:
            if torch.is_grad_enabled() not in compared:
                compared.add(torch.is_grad_enabled())
                self.compare([each for each in (*args, *kwargs.values()) if isinstance(each, Tensor)])
            return tuple(map(self._summed, args)), {k: self._summed(each) for k, each in kwargs.items()}

        generator.transformer.register_forward_pre_hook(prepare, with_kwargs=True)

    def gather(self, value: T) -> list[T]:
        """The values of the processes of the group, in their order."""
        found: list[Any] = [None] * self.size
        torch.distributed.all_gather_object(found, value, group=self._group)
        return found

    def compare(self, inputs: Sequence[Tensor]) -> None:
        """Compares what the processes of the group are to compute with.

        Raises:
            InputError: it is not the same, so that the parts of the tokens would be those of different videos.
        """
        sums = self.gather([checksum(each) for each in inputs])
        first = torch.distributed.get_rank() - self.place
        for place, other in enumerate(sums):
            if not same_checksums(sums[0], other):
                raise InputError(
                    f"Processes {first} and {first + place}, which share tokens (context_parallel {self.size}), were "
                    f"given different batches (checksums {sums[0]} and {other}): give all machines the same data and "
                    "the same VIDALIGN_CACHE."
                )

    def _summed(self, value: Any) -> Any:
        """`value`, whose gradient is the sum of those of the group where it has one."""
        if isinstance(value, Tensor) and value.requires_grad:
            return _SummedGradient.apply(value, self._group)
        return value


class _SummedGradient(torch.autograd.Function):
    """The identity, whose gradient is summed over a group of processes."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, group: Any) -> Tensor:
        ctx.group = group
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        gradient = gradient.contiguous().clone()
        torch.distributed.all_reduce(gradient, group=ctx.group)
        return gradient, None


def keep_autocast_in_backward(device_type: str) -> None:
    """Lets diffusers' Ulysses attention compute its forward pass again, as its backward pass does, in the types of the
    first time: under autocast queries and keys are float32 and values are not, which attention alone refuses."""
    from diffusers.models.attention_dispatch import TemplatedUlyssesAttention as Attention

    if not hasattr(Attention, "_keeps_autocast"):
        forward, backward = Attention.forward, Attention.backward
        Attention.forward = staticmethod(torch.amp.custom_fwd(forward, device_type=device_type))
        Attention.backward = staticmethod(torch.amp.custom_bwd(backward, device_type=device_type))
        Attention._keeps_autocast = True


def sum_gradients(accelerator: Any, size: int) -> None:
    """Lets an accelerator sum gradients within groups of `size` processes where its engine takes the mean over all; the
    losses that are logged stay as they are."""
    if size == 1:
        return
    backward: Callable[..., None] = accelerator.backward
    accelerator.backward = lambda loss, **kwargs: backward(size * loss, **kwargs)


def checksum(values: Tensor) -> tuple[tuple[int, ...], float, float]:
    """Shape of a tensor, its norm, and its projection on cos(i) for element i as a share of the norm."""
    flat = values.detach().double().flatten()
    norm = flat.norm().item()
    waves = torch.arange(len(flat), device=flat.device, dtype=flat.dtype).cos()
    return tuple(values.shape), norm, (flat @ waves).item() / max(norm, 1e-30)


def same_checksums(
    one: Sequence[tuple[tuple[int, ...], float, float]], other: Sequence[tuple[tuple[int, ...], float, float]]
) -> bool:
    """Returns whether lists of `checksum` are equal but for rounding; values that are not finite pass."""
    if [shape for shape, *_ in one] != [shape for shape, *_ in other]:
        return False
    return not any(
        abs(a - b) > TOLERANCE * max(1.0, abs(a))
        for (_, *first), (_, *second) in zip(one, other, strict=True)
        for a, b in zip(first, second, strict=True)
    )


def transformers_of(generator: VideoModel) -> list[Any]:
    """The transformers of a generator that know how to share out tokens: one, or two experts."""
    modules: list[Any] = list(generator.transformer.modules())
    return [module for module in modules if hasattr(module, "enable_parallelism")]


def keep_one_part(transformer: Any, size: int) -> None:
    """Makes a transformer of Wan compute with the first of `size` equal parts of its tokens and give back as many as
    all, as one of `size` processes does; for forecasts of memory."""

    def part(values: Tensor) -> Tensor:
        return values.narrow(1, 0, values.shape[1] // size)

    transformer.rope.register_forward_hook(lambda _, __, output: tuple(map(part, output)))
    transformer.blocks[0].register_forward_pre_hook(lambda _, args: (part(args[0]), *args[1:]))
    transformer.proj_out.register_forward_hook(lambda _, __, output: torch.cat([output] * size, dim=1))


def check_accelerator(size: int) -> None:
    """Raises `InputError` where tokens are to be shared out without a GPU, on which diffusers relies."""
    if size > 1 and not torch.accelerator.device_count():
        raise InputError(f"context_parallel is {size}, but there is no GPU here: leave it out.")


def check_shares_tokens(generator: VideoModel, size: int) -> None:
    """Raises `InputError` where a model cannot share out its tokens among `size` processes, whatever the video."""
    if size == 1:
        return
    if Version(version("diffusers")) < Version(OLDEST_DIFFUSERS):
        raise InputError(
            f"context_parallel is {size}, which needs diffusers {OLDEST_DIFFUSERS}, but {version('diffusers')} is "
            "installed: upgrade it."
        )
    if not generator.shares_tokens:
        raise InputError(
            f"context_parallel is {size}, but {generator.name} cannot share out its tokens, as only Wan 2.1 and 2.2 "
            "can: leave it out."
        )
    for module in transformers_of(generator):
        heads = module.config.num_attention_heads
        if heads % size:
            raise InputError(
                f"context_parallel is {size}, but must be a divisor of the {heads} attention heads of "
                f"{generator.name}: choose {_one_of(divisors(heads))}."
            )


def check_tokens(generator: VideoModel, size: int, latent_shape: Sequence[int], video: str) -> None:
    """Raises `InputError` where the tokens of latents `(channels, frames, height, width)` are not to be shared out
    evenly among `size` processes.

    Args:
        video: words for what has these latents, see `video_text`.
    """
    tokens = count_tokens(generator, latent_shape)
    if tokens % size:
        heads = transformers_of(generator)[0].config.num_attention_heads
        fitting = divisors(math.gcd(tokens, heads))
        others = f"choose {_one_of(fitting)}, or another size" if fitting else "choose another size"
        raise InputError(
            f"context_parallel is {size}, but must be a divisor of the {tokens} tokens of {video}: {others}."
        )


def video_text(num_frames: int, height: int, width: int) -> str:
    """Size of a video in words."""
    return f"{num_frames} frames of {height}x{width}"


def divisors(number: int) -> list[int]:
    """Divisors of a number above 1 that are no more than 8, as a group is of one machine's GPUs."""
    return [size for size in range(2, 9) if number % size == 0]


def _one_of(numbers: Sequence[int]) -> str:
    return " or ".join(map(str, numbers)) if numbers else "another model"
