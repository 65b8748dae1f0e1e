"""A reward model and the likelihood of rankings together: what the optimiser of `RewardTrainer` sees."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from generator.one_or_several import as_list
from reward.losses import LOSSES, informative, masked_dimensions, scaled_by_annotator
from reward.models.heads import Features
from reward.models.latent import LatentRewardModel

_REACH = 10.0
"""Parameters of the likelihood move this much faster than those of the head, which see far more gradients."""


class RankingLikelihood(nn.Module):
    """A loss of `reward.losses` with its tie parameter and the annotators' reliabilities, which are learned.

    Args:
        loss_type: a name of `LOSSES`.
        annotators: whose reliability is learned; none by default.
        prior: strength of the pull of all reliabilities to one another, a share of a ranking's loss: a Gaussian
            prior of variance 1 / (prior · number of rankings) on their logarithms.

    Attributes:
        learned, pull: tie parameter and penalty of the last forward pass, which alone sees weights whole that ZeRO-3
            divides.
    """

    def __init__(self, loss_type: str, annotators: Sequence[str] = (), prior: float = 0.0) -> None:
        annotators = as_list(annotators)
        super().__init__()
        self.loss_type = loss_type
        self.learned: dict[str, Tensor] = {}
        self.pull: Tensor | float = 0.0
        self.annotators = list(annotators)
        self.prior = prior
        # softplus(0.54) = 1, so theta starts at 2 and nu at 1: both say that ties are neither rare nor the
        # rule.
        start = torch.tensor([0.5413 / _REACH])  # DeepSpeed sends no parameters without a dimension
        self.tie = nn.Parameter(start) if loss_type in ("rao_kupper", "davidson") else None
        self.reliability = nn.Parameter(torch.zeros(len(annotators))) if annotators else None

    def parameters_of_loss(self) -> dict[str, Tensor]:
        """The learned tie parameter under the name that the loss has for it."""
        if self.tie is None:
            return {}
        strength = F.softplus(_REACH * self.tie[0])
        return {"theta": 1 + strength} if self.loss_type == "rao_kupper" else {"nu": strength}

    def log_reliability(self) -> Tensor:
        """`[annotators + 1]`; the last one, for whoever is unknown, is the mean of the others."""
        assert self.reliability is not None
        known = _REACH * self.reliability
        return torch.cat([known, known.mean()[None]])

    def reliabilities(self) -> dict[str, float]:
        """The reliability of each annotator; their geometric mean is 1, and at random is 0."""
        if self.reliability is None:
            return {}
        values = self.log_reliability().detach()
        return dict(zip(self.annotators, (values - values.mean())[:-1].exp().tolist()))

    def forward(
        self,
        scores: Tensor,
        ranks: Tensor,
        votes: Tensor | None = None,
        annotator: Tensor | None = None,
        log_variance: Tensor | None = None,
        weights: Tensor | None = None,
    ) -> Tensor:
        """The loss `[batch]` of each ranking; `scores`, `ranks`, `votes` and `log_variance` are `[batch, K]`, `weights`
        of the pairs `[batch, K, K]`."""
        parameters: dict[str, Any] = dict(self.parameters_of_loss())
        self.learned = {name: value.detach() for name, value in parameters.items()}
        if weights is not None:
            parameters["weights"] = weights
        if self.loss_type == "soft_bradley_terry":
            parameters["votes"] = votes
        if self.loss_type == "gaussian_bradley_terry" and log_variance is not None:
            parameters["log_variance"] = log_variance
        if self.reliability is not None and annotator is not None:
            scores = scaled_by_annotator(scores, self.log_reliability(), annotator)
        self.pull = self.penalty()
        return LOSSES[self.loss_type](scores, ranks, **parameters)

    def penalty(self) -> Tensor | float:
        """The negative log-prior of the reliabilities, a ranking."""
        if self.reliability is None:
            return 0.0
        values = self.log_reliability()[:-1]
        return self.prior * (values - values.mean()).square().sum() / 2


class RankingModel(nn.Module):
    """Reward model and likelihood together.

    Args:
        dimension_weights: `[dimensions]` weight of the loss of each dimension; 1 by default.
    """

    def __init__(
        self,
        reward_model: LatentRewardModel,
        likelihood: RankingLikelihood,
        dimension_weights: Sequence[float] = (),
    ) -> None:
        super().__init__()
        self.reward_model = reward_model
        self.likelihood = likelihood
        weights = list(dimension_weights) or [1.0] * len(reward_model.dimensions)
        self.dimension_weights = torch.tensor(weights)

    def forward(
        self,
        videos: Tensor,
        ranks: Tensor,
        votes: Tensor,
        dimension: Tensor,
        annotator: Tensor,
        features: dict[str, Tensor],
        latents: Tensor | None = None,
        conditions: dict[str, Tensor] | None = None,
        weights: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Loss and scores `[batch, K]`; arguments as `RankingCollator` makes them."""
        model = self.reward_model
        known = Features(**features)
        if latents is not None and conditions is not None:
            known = with_trunk_tokens(model, known, latents, conditions)
        raw, log_variance = model.predict(known)
        chosen = dimension[:, None, None, None]
        raw = raw[videos].take_along_dim(chosen, dim=3).squeeze(3)
        if log_variance is not None:
            log_variance = log_variance[videos].take_along_dim(chosen, dim=3).squeeze(3)
        # Each noise level is scored on its own, which augments the data; the score in use is the mean of some.
        levels = [
            self.likelihood(
                raw[:, :, level],
                ranks,
                votes,
                annotator,
                None if log_variance is None else log_variance[:, :, level],
                weights,
            )
            for level in range(raw.shape[2])
        ]
        own = dimension[:, None] == torch.arange(len(model.dimensions), device=dimension.device)
        mask = own & informative(ranks, self.likelihood.loss_type)[:, None]
        losses = torch.stack(levels).mean(0)[:, None].expand(mask.shape)
        loss = masked_dimensions(losses, mask, self.dimension_weights.to(losses))
        return loss + self.likelihood.pull, raw[:, :, : len(model.config.sigmas)].mean(dim=2)


def with_trunk_tokens(
    model: LatentRewardModel, known: Features, latents: Tensor, conditions: dict[str, Tensor]
) -> Features:
    """The features with tokens of the trunk as it is now, for a trunk that is trained."""
    train = known.sigma.shape[1] > len(model.config.sigmas)
    now = model.features(latents, conditions, train=train, evidence=False, frames=False)
    return Features(
        now.tokens, now.is_video, known.evidence, known.text, now.quality, now.sigma, known.pixels
    )
