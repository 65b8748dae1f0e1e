"""One warning where videos come to a stand while their reward rises."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest

from alignment.rollouts.motion_watch import MotionWatch
from alignment.trainers.ppo_config import PPOConfig
from alignment.trainers.ppo_trainer import PPOTrainer
from generator.testing.stand_ins import StandInGenerator
from tests.alignment.bright_reward import PROMPTS, BrightReward


@pytest.mark.parametrize(
    ("motion", "reward", "warns"),
    [
        ([1, 1, 1, 0.4, 0.4, 0.4], [0, 0, 0, 1, 1, 1], True),
        ([1, 1, 1, 0.6, 0.6, 0.6], [0, 0, 0, 1, 1, 1], False),  # not below half
        ([1, 1, 1, 0.4, 0.4, 0.4], [1, 1, 1, 0, 0, 0], False),  # the reward falls as well
        ([1, 1, 1, 0.4, 0.4], [0, 0, 0, 1, 1], False),  # too few
        ([1, 1, 1, 0.1, 0.1, 2], [0, 0, 0, 1, 1, 1], False),  # a mean, not single rollouts
    ],
)
def test_motion_below_half_with_a_higher_reward_is_warned_of(motion, reward, warns) -> None:
    watch = MotionWatch()
    said = [watch.look(*pair) for pair in zip(motion, reward, strict=True)]
    assert any(said) == warns
    if warns:
        assert "from 1 to 0.4 while the reward rose from 0 to 1" in str(said[-1])


def test_the_warning_comes_once_also_when_training_goes_on_from_a_checkpoint() -> None:
    watch, resumed = MotionWatch(), MotionWatch()
    pairs = [(1.0, 0.0)] * 3 + [(0.2, 1.0)] * 4
    whole = [watch.look(*pair) for pair in pairs]
    assert sum(map(bool, whole)) == 1
    for number, pair in enumerate(pairs):
        assert bool(resumed.look(*pair)) == bool(whole[number])
        state = resumed.state()
        resumed = MotionWatch()
        resumed.load_state(state)


def test_a_trainer_warns_when_its_videos_stop_moving(tmp_path, caplog) -> None:
    config = PPOConfig(
        output_dir=str(tmp_path), report_to="none", disable_tqdm=True, use_cpu=True, num_rollouts=1, num_prompts=2,
        num_generations=2, num_inference_steps=3, monitor_videos=2,
    )  # fmt: skip
    trainer = PPOTrainer(StandInGenerator(), config, PROMPTS, BrightReward())
    rollout = trainer.make_rollout(0)
    final = rollout.trajectories.final
    still = final[:, :, :1].expand_as(final).contiguous()
    stopped = replace(
        rollout, trajectories=replace(rollout.trajectories, final=still), rewards=rollout.rewards + 1
    )
    with caplog.at_level(logging.WARNING):
        for each in (rollout, rollout, stopped, stopped, stopped, stopped):
            trainer.watch(each)
    warnings = [record.message for record in caplog.records if "stand still" in record.message]
    assert len(warnings) == 1
    assert warnings[0].startswith("videos/motion fell from ")
