"""`MotionWatch`: a warning where videos come to a stand while their reward rises."""

from __future__ import annotations

from typing import Any

WINDOW = 3
"""Rollouts whose mean is the start, and whose mean is the present."""


class MotionWatch:
    """Compares motion and reward of the latest rollouts with those of the first ones, and warns once.

    Rewards that compare a video with its prompt or its image like stills: most of an unmoved video looks as good as its
    first frame.
    """

    def __init__(self) -> None:
        self.first: list[list[float]] = []
        self.latest: list[list[float]] = []
        self.warned = False

    def look(self, motion: float, reward: float) -> str | None:
        """Takes the mean motion and reward of the next rollout; returns a warning where it is due.

        It is due when the mean motion of the last three rollouts is below half of that of the first three, and their
        mean reward is higher.
        """
        if len(self.first) < WINDOW:
            self.first.append([motion, reward])
            return None
        self.latest = [*self.latest, [motion, reward]][-WINDOW:]
        if self.warned or len(self.latest) < WINDOW:
            return None
        (old_motion, old_reward), (new_motion, new_reward) = (
            [sum(column) / WINDOW for column in zip(*rows, strict=True)] for rows in (self.first, self.latest)
        )
        if not (new_motion < old_motion / 2 and new_reward > old_reward):
            return None
        self.warned = True
        return (
            f"videos/motion fell from {old_motion:.3g} to {new_motion:.3g} while the reward rose from {old_reward:.3g} "
            f"to {new_reward:.3g}: the policy may be learning to stand still. Look at its videos; a reward of motion "
            "beside the others, or a larger beta, keeps them moving."
        )

    def state(self) -> dict[str, Any]:
        """Returns the state for a checkpoint."""
        return {"motion": [self.first, self.latest, self.warned]}

    def load_state(self, state: dict[str, Any]) -> None:
        """Goes on from a checkpoint; from one that has no such state, anew."""
        self.first, self.latest, self.warned = state.get("motion", [[], [], False])
