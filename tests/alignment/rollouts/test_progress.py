"""A rollout shows how far it is, and its reward can be compared with that of another rollout."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from alignment.rollouts import progress as rollout_progress
from alignment.rollouts.probe import Probe, probe_rows
from alignment.trainers.ppo_config import PPOConfig
from alignment.trainers.ppo_trainer import PPOTrainer
from generator.output import InputError

SMALL = {
    "num_rollouts": 3, "num_prompts": 2, "num_generations": 4, "num_inference_steps": 4, "rollout_batch_size": 4,
    "num_mini_batches": 2, "per_device_train_batch_size": 4, "learning_rate": 1e-3, "reward_batch_size": 4,
    "monitor_videos": 2,
}  # fmt: skip


class Recorded:
    """Takes the place of tqdm."""

    made: list[Recorded] = []  # noqa: RUF012

    def __init__(self, **options: Any) -> None:
        self.options, self.count, self.updates, self.closed = options, 0, 0, False
        Recorded.made.append(self)

    def update(self, count: int) -> None:
        self.count += count
        self.updates += 1

    def close(self) -> None:
        self.closed = True


def test_every_part_of_a_rollout_is_counted_to_its_end(
    generator, prompts, bright, quiet, monkeypatch
) -> None:
    monkeypatch.setattr(rollout_progress, "tqdm", Recorded)
    Recorded.made = []
    config = PPOConfig(**quiet | SMALL | {"disable_tqdm": False, "num_rollouts": 1})
    PPOTrainer(generator, config, prompts, bright).train()
    parts = {bar.options["desc"].partition(": ")[2]: bar for bar in Recorded.made}
    assert list(parts) == ["probe", "sampling", "judging", "decoding", "updating"]
    assert [bar.options["total"] for bar in parts.values()] == [
        1,
        8 * 4,
        8,
        2,
        config.max_steps * config.gradient_accumulation_steps,
    ]
    for name in ("sampling", "judging", "decoding", "updating"):
        assert parts[name].count == parts[name].options["total"], name
        assert parts[name].options["desc"] == f"Rollout 1/1: {name}"
    assert parts["sampling"].updates == 2 * 4  # after every step of every batch
    assert all(bar.closed and not bar.options["leave"] for bar in Recorded.made)


def test_nothing_is_shown_where_progress_is_hidden(generator, prompts, bright, quiet, monkeypatch) -> None:
    monkeypatch.setattr(rollout_progress, "tqdm", Recorded)
    Recorded.made = []
    PPOTrainer(generator, PPOConfig(**quiet | SMALL | {"num_rollouts": 1}), prompts, bright).train()
    assert Recorded.made == []


def logged(trainer: PPOTrainer, name: str) -> list[float]:
    return [entry[name] for entry in trainer.state.log_history if name in entry]


def test_the_probe_is_the_same_for_a_policy_that_does_not_change(
    make_generator, prompts, bright, quiet
) -> None:
    config = PPOConfig(**quiet | SMALL | {"learning_rate": 0.0})
    trainer = PPOTrainer(make_generator(), config, prompts, bright)
    trainer.train()
    rewards = logged(trainer, "reward")
    assert len(set(rewards)) > 1  # other prompts, other noise
    probes = logged(trainer, "probe/reward")
    assert len(probes) == 3
    assert max(probes) - min(probes) < 1e-6
    assert max(map(abs, logged(trainer, "probe/reward_change"))) < 1e-6


def test_the_probe_rises_where_the_policy_learns_and_its_change_is_paired(
    make_generator, prompts, bright, quiet
) -> None:
    config = PPOConfig(**quiet | SMALL | {"learning_rate": 3e-2, "num_rollouts": 6, "beta": 0.0})
    trainer = PPOTrainer(make_generator(), config, prompts, bright)
    trainer.train()
    probes, changes = logged(trainer, "probe/reward"), logged(trainer, "probe/reward_change")
    assert changes[0] == 0
    assert changes[-1] > 0.01
    assert [a - probes[0] for a in probes] == pytest.approx(changes, abs=1e-5)


def test_a_resumed_run_compares_with_the_beginning_of_the_whole(
    make_generator, prompts, bright, quiet, tmp_path
) -> None:
    settings = quiet | SMALL | {"learning_rate": 1e-2, "save_strategy": "steps", "save_steps": 2, "beta": 0.0}
    whole = PPOTrainer(make_generator(), PPOConfig(**settings), prompts, bright)
    whole.train()
    again = PPOTrainer(make_generator(), PPOConfig(**settings), prompts, bright)
    again.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-4"))
    assert logged(again, "probe/reward_change")[-1] == logged(whole, "probe/reward_change")[-1] != 0


def test_probes_are_spread_over_the_prompts_and_over_the_processes() -> None:
    assert probe_rows(100, 4, 1, 0).tolist() == [0, 25, 50, 75]
    assert [probe_rows(100, 3, 2, i).tolist() for i in range(2)] == [[0, 25], [50, 75]]
    assert probe_rows(2, 4, 1, 0).tolist() == [0, 0, 1, 1]


def test_a_probe_is_due_every_so_many_rollouts() -> None:
    assert [i for i in range(7) if Probe(3).is_due(i)] == [0, 3, 6]
    assert not Probe(0).is_due(0)
    probe = Probe(1)
    probe.measured(torch.tensor([1.0, 2.0]))
    assert probe.measured(torch.tensor([2.0, 2.0]))["probe/reward_change"].tolist() == [1.0, 0.0]


def test_a_tenth_of_the_rollouts_is_probed_unless_said_otherwise(quiet) -> None:
    settings = quiet | SMALL
    assert PPOConfig(**settings | {"num_rollouts": 100}).probe_interval == 10
    assert PPOConfig(**settings).probe_interval == 1
    with pytest.raises(InputError, match="probe_prompts is -1"):
        PPOConfig(**settings | {"probe_prompts": -1})
