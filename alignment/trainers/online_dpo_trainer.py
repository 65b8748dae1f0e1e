"""Online direct preference optimisation: sample groups, order them by reward, DPO, and again."""

from __future__ import annotations

import torch
from torch import Tensor

from alignment.losses import best_and_worst, implicit_rewards, preference_loss, preference_statistics
from alignment.rollouts.rollout import Rollout
from alignment.trainers.noised_videos import NoisedVideos, Noising
from alignment.trainers.online_dpo_config import OnlineDPOConfig
from alignment.trainers.rollout_trainer import RolloutTrainer

SPREAD = 1e-4
"""Rewards that differ by less are a tie, as rounding alone can make such a difference."""


def ranks_of_rewards(rewards: Tensor, spread: float = SPREAD) -> Tensor:
    """Ranks `[groups, K]` of rewards: 0 is the best; a reward within `spread` of the next better one ties with
    it."""
    ordered, order = rewards.sort(dim=1, descending=True)
    steps = (ordered[:, :-1] - ordered[:, 1:] > spread).long().cumsum(1)
    levels = torch.cat([steps.new_zeros(len(steps), 1), steps], dim=1)
    return torch.empty_like(levels).scatter_(1, order, levels)


class OnlineDPOTrainer(RolloutTrainer):
    """DPO whose pairs (or whole rankings) are made anew by the current policy and ordered by reward models.

    All videos of a group get the same noise and noise level. Groups whose rewards are all equal teach nothing.
    The arguments are `RolloutTrainer`'s.
    """

    args: OnlineDPOConfig

    def update_loss(
        self, model: torch.nn.Module, rollout: Rollout, rows: Tensor, update: int, micro_batch: int = 0
    ) -> Tensor:
        """The preference loss of the groups and noise draws `rows`."""
        args = self.args
        groups = rows // args.num_draws
        noised, ranks = self.compared_videos(rollout, groups, rows % args.num_draws)
        reference = noised.reference_velocity(self.policy)
        velocity = noised.velocity(model)
        errors = noised.errors(velocity).view(ranks.shape)
        reference_errors = noised.errors(reference).view(ranks.shape)
        rewards = implicit_rewards(errors, reference_errors, args.beta)
        loss = preference_loss(rewards, ranks, args.loss_type, args.beta, args.label_smoothing)
        best, worst = best_and_worst(ranks)
        differs = (ranks.amax(1) > ranks.amin(1)).to(loss)
        chosen = errors.gather(1, best)[:, 0]
        kl = 0.5 * ((velocity.detach() - reference) ** 2).mean()
        self.observe(
            {
                **preference_statistics(rewards.detach(), ranks),
                "loss/chosen": chosen,
                "loss/rejected": errors.gather(1, worst),
            }
        )
        self.observe_kl(kl)
        return (differs * (loss + args.sft_weight * chosen)).mean()

    def compared_videos(self, rollout: Rollout, groups: Tensor, draws: Tensor) -> tuple[NoisedVideos, Tensor]:
        """Noised videos of `groups` `[rows]` that are compared, and their ranks `[rows, K]`.

        All videos of a row have the noise of the draw that `draws` `[rows]` says.
        """
        count = self.args.num_generations
        ranks = ranks_of_rewards(rollout.rewards.reshape(-1, count)[groups])
        within = torch.arange(count, device=ranks.device).expand_as(ranks)
        if self.args.loss_type != "plackett_luce":
            best, worst = best_and_worst(ranks)
            # In a group without spread both are the first video: it is compared with the last one, as a tie.
            worst = torch.where(best == worst, torch.full_like(worst, count - 1), worst)
            within = torch.cat([best, worst], dim=1)
            ranks = ranks.gather(1, within)
        firsts = groups * count
        videos = within + firsts[:, None].to(within.device)
        size = videos.shape[1]
        noised = Noising.configured(self.args, self.plan).videos(
            rollout, videos.flatten(), draws.repeat_interleave(size), firsts.repeat_interleave(size)
        )
        return noised, ranks
