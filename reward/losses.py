"""Negative log-likelihoods of rankings given scores, as pure functions of one signature.

Every loss is `loss(scores, ranks, **parameters) -> [batch]` with `scores: [batch, K]` (higher is better) and
`ranks: [batch, K]` (lower is better, equal = tie, -1 = missing). `plackett_luce` is the likelihood of the
whole ranking. The pairwise losses are the mean over the ranking's pairs that carry a label, so K = 2 gives
the loss of one pair. A ranking without anything to learn from has the loss 0 and no gradient. All are
computed in the dtype of `scores` and are stable for any size of the scores.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Loss = Callable[..., Tensor]


def _pairs(scores: Tensor, ranks: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Differences `r_i - r_j` `[batch, pairs]` for i < j, the sign of the label (1: i won, 0: tie, -1) and
    its mask."""
    i, j = torch.triu_indices(scores.shape[1], scores.shape[1], offset=1, device=scores.device)
    labelled = (ranks[:, i] >= 0) & (ranks[:, j] >= 0)
    return scores[:, i] - scores[:, j], torch.sign(ranks[:, j] - ranks[:, i]), labelled


def _masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over dimension 1 where `mask` is set; 0 where nothing is."""
    values = torch.where(mask, values, torch.zeros_like(values))
    return values.sum(dim=1) / mask.sum(dim=1).clamp(min=1).to(values.dtype)


def bradley_terry(scores: Tensor, ranks: Tensor, ties: Literal["ignore", "half"] = "ignore") -> Tensor:
    """Bradley–Terry (1952): `-log sigmoid(r_chosen - r_rejected)`, mean over the pairs of a ranking.

    Args:
        ties: `ignore` leaves tied pairs out; `half` counts them as half a win for each side.
    """
    difference, sign, labelled = _pairs(scores, ranks)
    loss = -F.logsigmoid(sign * difference)
    if ties == "ignore":
        return _masked_mean(loss, labelled & (sign != 0))
    half = -0.5 * (F.logsigmoid(difference) + F.logsigmoid(-difference))
    return _masked_mean(torch.where(sign == 0, half, loss), labelled)


def rao_kupper(scores: Tensor, ranks: Tensor, theta: Tensor | float = 5.0) -> Tensor:
    """Rao–Kupper (1967), Bradley–Terry with ties: mean over the pairs of a ranking.

    With d = r_i - r_j: P(i wins) = sigmoid(d - log theta) and
    P(tie) = (theta² - 1) · sigmoid(d - log theta) · sigmoid(-d - log theta).

    Args:
        theta: above 1; the larger, the likelier a tie. VideoAlign (arXiv 2501.13918) fixes it at 5; a tensor
            is learned.
    """
    theta = torch.as_tensor(theta, dtype=scores.dtype, device=scores.device)
    log_theta = theta.log()
    difference, sign, labelled = _pairs(scores, ranks)
    win = -F.logsigmoid(sign * difference - log_theta)
    tie = (
        -F.logsigmoid(difference - log_theta)
        - F.logsigmoid(-difference - log_theta)
        - torch.log(theta - 1)
        - torch.log1p(theta)
    )
    return _masked_mean(torch.where(sign == 0, tie, win), labelled)


def davidson(scores: Tensor, ranks: Tensor, nu: Tensor | float = 1.0) -> Tensor:
    """Davidson (1970), Bradley–Terry with ties: mean over the pairs of a ranking.

    P(i wins) ∝ e^{r_i}, P(tie) ∝ nu · e^{(r_i + r_j)/2}.

    Args:
        nu: above 0; two equal videos tie with the probability nu / (2 + nu). A tensor is learned.
    """
    nu = torch.as_tensor(nu, dtype=scores.dtype, device=scores.device)
    difference, sign, labelled = _pairs(scores, ranks)
    half = difference / 2
    log_tie = nu.log().expand_as(half)
    normaliser = torch.logsumexp(torch.stack([half, -half, log_tie]), dim=0)
    return _masked_mean(normaliser - torch.where(sign == 0, log_tie, sign * half), labelled)


def plackett_luce(scores: Tensor, ranks: Tensor, ties: Literal["efron", "breslow"] = "efron") -> Tensor:
    """Plackett–Luce (1975) with tied groups as buckets: the negative log-likelihood of the whole ranking.

    The best video is drawn from all with the probability softmax(r), the next from the rest, and so on. For
    a tied group G within the remaining set R the sum over its unknown orders is approximated as in Cox
    regression: `breslow` uses |G| times log Σ_R e^r; `efron` subtracts the share l/|G| of the group at its
    l-th draw (Efron 1977), which is exact where the scores of the group are equal. K = 2 without a tie is
    Bradley–Terry.
    """
    judged = ranks >= 0
    size = scores.shape[1]
    row, column = ranks[:, :, None], ranks[:, None, :]
    both = judged[:, :, None] & judged[:, None, :]
    group = (row == column) & both
    remaining = (column >= row) & both
    weights = remaining.to(scores.dtype)
    if ties == "efron":
        earlier = torch.ones(size, size, dtype=torch.bool, device=scores.device).tril(diagonal=-1)
        draws_before = (group & earlier).sum(dim=2, keepdim=True).to(scores.dtype)
        group_size = group.sum(dim=2, keepdim=True).clamp(min=1).to(scores.dtype)
        weights = weights - group.to(scores.dtype) * draws_before / group_size
    elif ties != "breslow":
        raise ValueError(f"ties is {ties!r}, but must be 'efron' or 'breslow'.")
    # A missing video keeps itself as its remaining set: its row is finite and contributes nothing.
    weights = torch.where(
        judged[:, :, None], weights, torch.eye(size, dtype=scores.dtype, device=scores.device)
    )
    terms = torch.logsumexp(scores[:, None, :] + weights.log(), dim=2) - scores
    return torch.where(judged, terms, torch.zeros_like(terms)).sum(dim=1)


LOSSES: dict[str, Loss] = {
    "plackett_luce": plackett_luce,
    "bradley_terry": bradley_terry,
    "rao_kupper": rao_kupper,
    "davidson": davidson,
}
