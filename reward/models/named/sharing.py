"""Weights that several rewards of one process use, and the forward pass that several of its dimensions use."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

Weights = TypeVar("Weights")

_held: weakref.WeakValueDictionary[Hashable, Any] = weakref.WeakValueDictionary()
_lock = threading.RLock()


def shared(key: Hashable, load: Callable[[], Weights]) -> Weights:
    """What `load` returns, or what it returned for the same key as long as something still uses it.

    Args:
        key: everything that the weights depend on: files, data type, device.
        load: makes an object that can be referred to weakly, such as a module.
    """
    with _lock:
        found = _held.get(key)
        if found is None:
            _held[key] = found = load()
        return found


class LastForward:
    """Remembers the result for the last tensor, so that the dimensions of one model cost one forward pass.

    A mixture gives each reward the very same tensor of videos; another tensor, or one that was changed in place since,
    is computed anew. Nothing is kept where gradients are recorded.
    """

    def __init__(self) -> None:
        self._tensor: weakref.ref[Any] | None = None
        self._key: Hashable = None
        self._result: Any = None

    def __call__(self, tensor: Any, key: Hashable, compute: Callable[[], Any]) -> Any:
        """The result of `compute()` for this tensor and `key` (prompts, frame rate)."""
        import torch

        if torch.is_grad_enabled() and tensor.requires_grad:
            return compute()
        key = (tensor._version, key)
        if self._tensor is None or self._tensor() is not tensor or self._key != key:
            self._result = compute()
            self._tensor, self._key = weakref.ref(tensor), key
        return self._result
