"""Peak memory of a computation without computing it: the operations run on fake tensors, and storages are counted.

A fake tensor has a shape, a dtype and a lifetime but no values, so a model of billions of parameters is followed
through forward and backward pass in seconds on any machine. Counted is what PyTorch's allocator is asked for in eager
mode: `torch.compile` needs less, the allocator's fragments and the kernels' own workspaces come on top.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary


class StorageTracker(TorchDispatchMode):
    """Counts the bytes of all storages that are made inside, while they live.

    Attributes:
        current: bytes alive now.
        peak: most bytes alive at any time.
    """

    def __init__(self) -> None:
        super().__init__()
        self.current = 0
        self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        existing = {_key(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and _key(leaf) not in existing and _key(leaf) not in self._known:
                self._count(leaf)
        self.peak = max(self.peak, self.current)
        return result

    def _count(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        self._known.add(key)
        self.current += size
        weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.current -= size


def _key(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


class _FusedAttention(torch.autograd.Function):
    """Attention as fused kernels keep it: queries, keys, values, output and one number a query."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        output = torch.empty_like(query)
        log_sum_exp = query.new_empty(query.shape[:-1], dtype=torch.float32)
        ctx.save_for_backward(query, key, value, output, log_sum_exp)
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value, _, _ = ctx.saved_tensors
        return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)


def _fused_attention(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> Tensor:
    return _FusedAttention.apply(query, key, value)


class WholeMasks(TorchDispatchMode):
    """Answers what fake tensors cannot: a mask selects everything and its negation nothing, and a question about
    values is answered with yes.

    HunyuanVideo 1.5 asks whether its image is all zeros, and moves the words of a prompt before its padding.
    """

    def __init__(self) -> None:
        super().__init__()
        self._negations = WeakIdKeyDictionary()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default and args[0].dtype == torch.bool:
            return True
        if func is torch.ops.aten.index.Tensor and args[1][-1].dtype == torch.bool:
            values, (*before, mask) = (
                args  # before a mask of a later dimension stands None for each earlier one
            )
            at = len(before)
            chosen = 0 if mask in self._negations else values.shape[at]
            return values.new_empty(*values.shape[:at], chosen, *values.shape[at + 1 :])
        result = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.bitwise_not.default:
            self._negations[result] = True
        return result


@contextmanager
def fused_attention() -> Iterator[None]:
    """Inside, PyTorch's attention takes the memory of a GPU's fused kernels and computes nothing."""
    with mock.patch("torch.nn.functional.scaled_dot_product_attention", _fused_attention):
        yield


def _in_float32(normalise: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A function of `torch.nn.functional` that takes its tensors in float32 while autocast is on."""

    @functools.wraps(normalise)
    def cast(*args: Any, **kwargs: Any) -> Tensor:
        if torch.is_autocast_enabled("cpu"):
            args = tuple(each.float() if isinstance(each, Tensor) else each for each in args)
            kwargs = {
                name: each.float() if isinstance(each, Tensor) else each for name, each in kwargs.items()
            }
        return normalise(*args, **kwargs)

    return cast


@contextmanager
def norms_in_float32() -> Iterator[None]:
    """Inside, autocast on a CPU computes group and layer norms in float32, as on a GPU, where they keep as much more.

    Both are on the list of operations that autocast to float32 of CUDA, and on no list of the CPU's
    (https://docs.pytorch.org/docs/stable/amp.html#autocast-op-reference).
    """
    names = ("group_norm", "layer_norm")
    with ExitStack() as stack:
        for name in names:
            own = _in_float32(getattr(torch.nn.functional, name))
            stack.enter_context(mock.patch.object(torch.nn.functional, name, own))
        yield
