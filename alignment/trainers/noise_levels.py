"""`NoiseLevels`: the distribution that the noise levels of training examples are drawn from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from generator import flow
from generator.seeds import ExampleStream, example_seeds

if TYPE_CHECKING:
    from alignment.trainers.base_config import NoiseLevelConfig
    from generator.base import VideoGenerator


@dataclass(frozen=True)
class NoiseLevels:
    """Shifted logit-normal noise levels, some of them uniform; see `flow.sample_sigma`.

    Attributes:
        shift: time shift towards noise; 1 is none.
        mean, std: of the logit-normal levels before the shift.
        uniform_share: share of levels that are drawn uniformly.
        sigma_max: level that those above are lowered to.
    """

    shift: float
    mean: float = 0.0
    std: float = 1.0
    uniform_share: float = 0.1
    sigma_max: float = 1.0

    @classmethod
    def configured(cls, args: NoiseLevelConfig, generator: VideoGenerator) -> NoiseLevels:
        """Noise levels of a configuration, with the generator's own shift where none is set."""
        shift = generator.defaults.shift if args.shift is None else args.shift
        return cls(shift, args.logit_mean, args.logit_std, args.uniform_share, generator.sigma_max)

    def draw(self, seeds: list[int]) -> Tensor:
        """Noise levels `[batch]`, each from the example's own seed."""
        levels = []
        for seed in seeds:
            random = torch.Generator().manual_seed(example_seeds(seed, ExampleStream.LEVEL)[0])
            levels.append(flow.sample_sigma(1, self.shift, random, self.mean, self.std, self.uniform_share))
        return torch.cat(levels).clamp(max=self.sigma_max)
