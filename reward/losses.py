"""Negative log-likelihoods of rankings given scores, as pure functions of one signature.

Every loss is `loss(scores, ranks, **parameters) -> [batch]` with `scores: [batch, K]` (higher is better) and
`ranks: [batch, K]` (lower is better, equal = tie, -1 = missing). `plackett_luce` is the likelihood of the
whole ranking. The pairwise losses are the mean over the ranking's pairs that carry a label, so K = 2 gives
the loss of one pair. A ranking without anything to learn from has the loss 0 and no gradient. All are
computed in the dtype of `scores` and are stable for any size of the scores.

All take `weights: [batch, K, K]`, symmetric, 0 or more: the weight of each pair of videos, 1 by default. A pairwise
loss is then the sum of the weighted losses of the pairs over the number of pairs, so the loss of K = 2 is multiplied by
its weight.

Three helpers put them to work: `informative` says which rankings a loss learns from, `masked_dimensions` joins the
losses of several dimensions, and `scaled_by_annotator` lets each annotator have a reliability of their own.
"""

from __future__ import annotations

import math
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


def _masked_mean(values: Tensor, mask: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean over dimension 1 where `mask` is set; 0 where nothing is.

    Args:
        weights: `[batch, K, K]`, of the pairs i < j that `values` are of; they multiply the values, not their number.
    """
    if weights is not None:
        i, j = torch.triu_indices(*weights.shape[1:], offset=1, device=weights.device)
        values = values * weights[:, i, j].to(values.dtype)
    values = torch.where(mask, values, torch.zeros_like(values))
    return values.sum(dim=1) / mask.sum(dim=1).clamp(min=1).to(values.dtype)


def bradley_terry(
    scores: Tensor,
    ranks: Tensor,
    ties: Literal["ignore", "half"] = "ignore",
    weights: Tensor | None = None,
) -> Tensor:
    """Bradley–Terry (1952): `-log sigmoid(r_chosen - r_rejected)`, mean over the pairs of a ranking.

    Args:
        ties: `ignore` leaves tied pairs out; `half` counts them as half a win for each side.
    """
    difference, sign, labelled = _pairs(scores, ranks)
    loss = -F.logsigmoid(sign * difference)
    if ties == "ignore":
        return _masked_mean(loss, labelled & (sign != 0), weights)
    half = -0.5 * (F.logsigmoid(difference) + F.logsigmoid(-difference))
    return _masked_mean(torch.where(sign == 0, half, loss), labelled, weights)


def rao_kupper(
    scores: Tensor, ranks: Tensor, theta: Tensor | float = 5.0, weights: Tensor | None = None
) -> Tensor:
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
    return _masked_mean(torch.where(sign == 0, tie, win), labelled, weights)


def davidson(
    scores: Tensor, ranks: Tensor, nu: Tensor | float = 1.0, weights: Tensor | None = None
) -> Tensor:
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
    return _masked_mean(normaliser - torch.where(sign == 0, log_tie, sign * half), labelled, weights)


def gaussian_bradley_terry(
    scores: Tensor, ranks: Tensor, log_variance: Tensor | float = 0.0, weights: Tensor | None = None
) -> Tensor:
    """Bradley–Terry with scores that are Gaussian: mean over the untied pairs of a ranking.

    With r_i ~ N(μ_i, s_i²) the probability that i wins, E sigmoid(r_i − r_j), is within 0.01 of MacKay's
    sigmoid((μ_i − μ_j) / √(1 + π(s_i² + s_j²) / 8)) (MacKay 1992, eq. 10; HPSv3, arXiv 2508.03789, section 3.2,
    has such scores). An uncertain score loses less by a wrong order and wins less by a right one.

    Args:
        log_variance: log s² of each score, `[batch, K]` or a number for all.
    """
    variance = torch.as_tensor(log_variance, dtype=scores.dtype, device=scores.device).exp().expand_as(scores)
    i, j = torch.triu_indices(scores.shape[1], scores.shape[1], offset=1, device=scores.device)
    difference, sign, labelled = _pairs(scores, ranks)
    scale = torch.sqrt(1 + math.pi / 8 * (variance[:, i] + variance[:, j]))
    return _masked_mean(-F.logsigmoid(sign * difference / scale), labelled & (sign != 0), weights)


def soft_bradley_terry(
    scores: Tensor, ranks: Tensor, votes: Tensor | None = None, weights: Tensor | None = None
) -> Tensor:
    """Bradley–Terry with soft labels: cross-entropy with the share of votes for each side, mean over the pairs.

    The share of i against j is v_i / (v_i + v_j), Luce's choice among two. A ranking without votes has the shares
    1, 0, and ½ for a tie; the minimum is then not 0 but the entropy of the labels.

    Args:
        votes: `[batch, K]` shares or numbers of votes, 0 or more; NaN where nobody voted and the ranks count.
    """
    i, j = torch.triu_indices(scores.shape[1], scores.shape[1], offset=1, device=scores.device)
    difference, sign, labelled = _pairs(scores, ranks)
    share = (1 + sign.to(scores.dtype)) / 2
    if votes is not None:
        votes = votes.to(scores)
        total = votes[:, i] + votes[:, j]
        voted = torch.isfinite(total) & (total > 0)
        share = torch.where(voted, votes[:, i] / torch.where(voted, total, torch.ones_like(total)), share)
    loss = -share * F.logsigmoid(difference) - (1 - share) * F.logsigmoid(-difference)
    return _masked_mean(loss, labelled, weights)


def plackett_luce(
    scores: Tensor,
    ranks: Tensor,
    ties: Literal["efron", "breslow"] = "efron",
    weights: Tensor | None = None,
) -> Tensor:
    """Plackett–Luce (1975) with tied groups as buckets: the negative log-likelihood of the whole ranking.

    The best video is drawn from all with the probability softmax(r), the next from the rest, and so on. For
    a tied group G within the remaining set R the sum over its unknown orders is approximated as in Cox
    regression: `breslow` uses |G| times log Σ_R e^r; `efron` subtracts the share l/|G| of the group at its
    l-th draw (Efron 1977), which is exact where the scores of the group are equal. K = 2 without a tie is
    Bradley–Terry.

    Args:
        weights: of the pairs. A draw counts by the mean weight of the pairs of its video with the others of R; where a
            weight is 0, the other one is not in R either, as if these two had not met.
    """
    judged = ranks >= 0
    size = scores.shape[1]
    row, column = ranks[:, :, None], ranks[:, None, :]
    both = judged[:, :, None] & judged[:, None, :]
    draw_weights = None
    if weights is not None:
        draw_weights, both = _draw_weights(weights.to(scores), (column >= row) & both, both)
    group = (row == column) & both
    remaining = (column >= row) & both
    shares = remaining.to(scores.dtype)
    if ties == "efron":
        earlier = torch.ones(size, size, dtype=torch.bool, device=scores.device).tril(diagonal=-1)
        draws_before = (group & earlier).sum(dim=2, keepdim=True).to(scores.dtype)
        group_size = group.sum(dim=2, keepdim=True).clamp(min=1).to(scores.dtype)
        shares = shares - group.to(scores.dtype) * draws_before / group_size
    elif ties != "breslow":
        raise ValueError(f"ties is {ties!r}, but must be 'efron' or 'breslow'.")
    # A missing video keeps itself as its remaining set: its row is finite and contributes nothing.
    shares = torch.where(
        judged[:, :, None], shares, torch.eye(size, dtype=scores.dtype, device=scores.device)
    )
    terms = torch.logsumexp(scores[:, None, :] + shares.log(), dim=2) - scores
    if draw_weights is not None:
        terms = terms * draw_weights
    return torch.where(judged, terms, torch.zeros_like(terms)).sum(dim=1)


def _draw_weights(weights: Tensor, remaining: Tensor, both: Tensor) -> tuple[Tensor, Tensor]:
    """Mean weight `[batch, K]` of the pairs of each video with the others that remain when it is drawn, and `both`
    `[batch, K, K]` without the pairs of weight 0; a last video's weight, which meets nobody, is 0, as is its term."""
    itself = torch.eye(weights.shape[1], dtype=torch.bool, device=weights.device)
    others = remaining & ~itself
    total = torch.where(others, weights, torch.zeros_like(weights)).sum(dim=2)
    return total / others.sum(dim=2).clamp(min=1), both & ((weights > 0) | itself)


LOSSES: dict[str, Loss] = {
    "plackett_luce": plackett_luce,
    "bradley_terry": bradley_terry,
    "rao_kupper": rao_kupper,
    "davidson": davidson,
    "gaussian_bradley_terry": gaussian_bradley_terry,
    "soft_bradley_terry": soft_bradley_terry,
}

ORDER_ONLY = ("bradley_terry", "gaussian_bradley_terry")
"""Losses that learn nothing from a ranking in which everything is tied."""


def informative(ranks: Tensor, loss_type: str) -> Tensor:
    """Marks the rankings `[…]` of `ranks [..., K]` the loss can learn from: at least two judged videos, and an order
    where ties say nothing to it."""
    judged = ranks >= 0
    found = judged.sum(-1) > 1
    if loss_type in ORDER_ONLY:
        highest = torch.where(judged, ranks, ranks.new_full((), -1)).amax(-1)
        lowest = torch.where(judged, ranks, ranks.new_full((), torch.iinfo(ranks.dtype).max)).amin(-1)
        found = found & (highest > lowest)
    return found


def masked_dimensions(losses: Tensor, mask: Tensor, weights: Tensor | None = None) -> Tensor:
    """The weighted mean over dimensions of their mean losses; a scalar.

    Each dimension is divided by the number of its own labels, so one with few labels counts as much as one with
    many; a dimension without any label does not count.

    Args:
        losses: `[batch, dimensions]`.
        mask: `[batch, dimensions]`, True where the ranking has labels in the dimension.
        weights: `[dimensions]`, 1 by default.
    """
    count = mask.sum(0)
    means = torch.where(mask, losses, torch.zeros_like(losses)).sum(0) / count.clamp(min=1)
    weights = torch.ones_like(means) if weights is None else weights.to(means)
    weights = weights * (count > 0)
    return (means * weights).sum() / weights.sum().clamp(min=torch.finfo(means.dtype).tiny)


def scaled_by_annotator(scores: Tensor, log_reliability: Tensor, annotator: Tensor) -> Tensor:
    """Scores `[batch, K]` as the annotator of each ranking perceives them, for any loss.

    Annotator a sees the scores times β_a = exp(ρ_a − mean ρ): all losses here are likelihoods of a random utility
    r + noise, and a noise of 1/β is a score times β. Near 0, the annotator answers at random and is not listened to.
    The geometric mean of all β is 1, which fixes the scale of the scores.

    Args:
        log_reliability: ρ `[annotators]`.
        annotator: `[batch]` number of the annotator of each ranking.
    """
    reliability = (log_reliability - log_reliability.mean()).exp()
    return scores * reliability[annotator][:, None].to(scores)
