"""`Policy`: the transformer as engines and optimisers see it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.utils.checkpoint import checkpoint

from generator.output import InputError

TRAINED_NAME = "trained.safetensors"
"""File of a checkpoint with the trained weights."""


class Policy(torch.nn.Module):
    """The transformer as the module that engines wrap and optimisers train.

    It stays in evaluation mode unless `dropout` is set: a policy whose dropout is on gives another
    probability to the same step each time.
    """

    accepts_loss_kwargs = False
    transformer: Any

    def __init__(
        self,
        transformer: torch.nn.Module,
        dropout: bool = False,
        checkpointed: Sequence[torch.nn.Module] | None = None,
        blocks: Sequence[torch.nn.Module] = (),
    ) -> None:
        """`checkpointed`: those of the transformer's `blocks` that gradient checkpointing is for; all where None."""
        super().__init__()
        self.transformer = transformer
        self.dropout = dropout
        # FSDP's units: each block, and the transformer with the rest, since samplers call it without this module.
        self._no_split_modules = sorted({type(module).__name__ for module in (transformer, *blocks)})
        # The blocks of U-Nets checkpoint their layers.
        parts = [part for block in checkpointed or () for part in block.modules()]
        self._checkpointed = None if checkpointed is None else {id(part) for part in parts}
        self.gathers_blocks = False

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.transformer(*args, **kwargs)

    def train(self, mode: bool = True) -> Policy:
        super().train(mode and self.dropout)
        return self

    def gradient_checkpointing_enable(self, **_: Any) -> None:
        if self._checkpointed is not None or self.gathers_blocks:
            self.transformer.enable_gradient_checkpointing(self._checkpoint_chosen)
        else:
            self.transformer.enable_gradient_checkpointing()

    def _checkpoint_chosen(self, block: torch.nn.Module, *args: Any) -> Any:
        if self._checkpointed is not None and id(block) not in self._checkpointed:
            return block(*args)
        if not self.gathers_blocks:
            return checkpoint(block, *args, use_reentrant=False)
        # Within the block's hooks, lest the second forward pass gives the gathered weights away before the backward.
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)
        try:
            return block(*args)
        finally:
            del block.forward

    def gradient_checkpointing_disable(self) -> None:
        self.transformer.disable_gradient_checkpointing()

    # transformers renames these; both names are called, depending on its version.
    activation_checkpointing_enable = gradient_checkpointing_enable
    activation_checkpointing_disable = gradient_checkpointing_disable


def evenly_spread(blocks: Sequence[torch.nn.Module], share: float) -> list[torch.nn.Module]:
    """About `share` of the blocks, at equal distances, so that the peak of the backward pass is low throughout."""
    count = round(share * len(blocks))
    return [
        block for i, block in enumerate(blocks) if (i + 1) * count // len(blocks) > i * count // len(blocks)
    ]


def load_trained(policy: Policy, folder: Path, divided: bool) -> None:
    """Puts the trained weights of a checkpoint into the policy, bit for bit.

    Args:
        folder: the checkpoint.
        divided: whether FSDP divides the policy's weights.

    Raises:
        InputError: the folder is no checkpoint, or one of other layers.
    """
    if not (folder / TRAINED_NAME).is_file():
        raise InputError(
            f"{folder} is not a checkpoint of this trainer, as it has no {TRAINED_NAME}: give a checkpoint folder."
        )
    trained: dict[str, Any] = load_file(folder / TRAINED_NAME)
    expected = {name: p.shape for name, p in policy.named_parameters() if p.requires_grad}
    if expected != {name: value.shape for name, value in trained.items()}:
        raise InputError(
            f"The checkpoint {folder} holds other trained layers than this run: resume with the model and LoRA "
            "settings that it was started with."
        )
    if divided:
        options = StateDictOptions(full_state_dict=True, strict=False)
        set_model_state_dict(policy, trained, options=options)
    else:
        policy.load_state_dict(trained, strict=False)
