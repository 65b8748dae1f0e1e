"""Solvers of the probability-flow ODE."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from generator import flow
from generator.output import InputError

SOLVERS = ("euler", "heun", "ab2", "dpm")
"""Euler; Heun, with two velocities a step; two-step Adams–Bashforth and DPM-Solver++(2M), with one a step."""
ONE_CALL_SOLVERS = ("euler", "ab2", "dpm")
"""Solvers that ask for one velocity a step."""


class OdeSolver:
    """Steps along the ODE, each of which knows what the one before has found.

    All solvers but `euler` are of second order; `ab2` and `dpm` start with an Euler step, `heun` ends in one.

    Args:
        name: one of `SOLVERS`.
        velocity: `generator.sampling.Velocity`, which `heun` asks for a second one in each step but the last.

    Raises:
        InputError: there is no such solver.
    """

    def __init__(self, name: str, velocity: Callable[[Tensor, Tensor], Tensor]) -> None:
        if name not in SOLVERS:
            raise InputError(f"The solver is {name!r}: choose one of {', '.join(SOLVERS)}.")
        self.name = name
        self.velocity = velocity
        self._before: tuple[Tensor, Tensor, Tensor] | None = None

    def forget(self) -> None:
        """Begins anew, as what the last step found does not lie on the path from here."""
        self._before = None

    def step(
        self, latents: Tensor, predicted: Tensor, sigma: Tensor, sigma_next: Tensor, last: bool
    ) -> Tensor:
        """Latents `[batch, ...]` at the noise level `sigma_next`, from those at `sigma` and their velocity.

        Args:
            last: whether it is the last step of the path.
        """
        clean = flow.denoised(latents, predicted, sigma)
        before, self._before = self._before, (predicted, clean, sigma)
        if self.name == "heun" and not last:
            end = flow.euler_step(latents, predicted, sigma, sigma_next)
            at_end = self.velocity(end, sigma_next.expand(latents.shape[0]))
            return flow.heun_step(latents, predicted, at_end, sigma, sigma_next)
        if self.name == "ab2" and before is not None:
            return flow.adams_bashforth_step(latents, predicted, before[0], before[2], sigma, sigma_next)
        if self.name == "dpm" and before is not None:
            return flow.dpm_solver_step(latents, clean, before[1], before[2], sigma, sigma_next)
        return flow.euler_step(latents, predicted, sigma, sigma_next)
