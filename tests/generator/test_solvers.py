"""Solvers of the ODE against the exact solution for Gaussian data."""

import pytest
import torch

from alignment.cli import main
from generator import flow
from generator.output import InputError
from generator.sampling import SdeSettings, sample_latents, sample_trajectories
from generator.solvers import ONE_CALL_SOLVERS, SOLVERS
from generator.testing import tiny_generator

STD = 0.5


def exact_velocity(x, sigma):
    """Of data N(0, STD²): v = E[ε − x₀ | x], linear in x."""
    sigma = flow.expand(sigma, x)
    return (sigma - (1 - sigma) * STD**2) / ((1 - sigma) ** 2 * STD**2 + sigma**2) * x


def error(solver, steps):
    """Distance from the exact end of the path, at which x is STD times the noise."""
    noise = torch.linspace(-2, 2, 5, dtype=torch.float64)[:, None]
    sigmas = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    found = sample_latents(lambda x, s: exact_velocity(x, s.float()), noise, sigmas, solver)
    return float((found - STD * noise).abs().max())


@pytest.mark.parametrize("solver", SOLVERS)
def test_every_solver_follows_the_path_to_its_end(solver):
    assert error(solver, 160) < 1e-2


@pytest.mark.parametrize("solver", ["heun", "ab2", "dpm"])
def test_solvers_of_second_order_win_more_from_twice_the_steps_than_euler(solver):
    assert error("euler", 40) / error("euler", 80) == pytest.approx(2, rel=0.1)
    assert error(solver, 40) / error(solver, 80) > 2.8
    assert error(solver, 40) < 0.5 * error("euler", 40)


def test_one_step_of_every_solver_is_eulers_and_heun_asks_twice():
    calls = []

    def velocity(x, sigma):
        calls.append(float(sigma[0]))
        return exact_velocity(x, sigma)

    noise = torch.randn(3, 2, generator=torch.Generator().manual_seed(0))
    one = [sample_latents(velocity, noise, torch.tensor([1.0, 0.0]), solver) for solver in SOLVERS]
    assert all(torch.equal(found, one[0]) for found in one)
    calls.clear()
    sample_latents(velocity, noise, torch.tensor([1.0, 0.6, 0.0]), "heun")
    assert calls == pytest.approx([1.0, 0.6, 0.6])


@pytest.mark.parametrize("solver", ONE_CALL_SOLVERS)
@pytest.mark.parametrize(("first", "count"), [(0, 2), (2, 3), (6, 1)])
def test_beside_stochastic_steps_a_solver_makes_the_steps_of_each_part_of_the_path(solver, first, count):
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(2, 1 + count, 3, generator=generator)
    sigmas = torch.linspace(1, 0, 9)
    settings = SdeSettings("flow_sde", 0.7, first, count)
    found = sample_trajectories(exact_velocity, noise, sigmas, settings, solver=solver)
    before = sample_latents(exact_velocity, noise[:, 0], sigmas[: first + 1], solver)
    assert torch.equal(found.states[:, 0], before)
    after = sample_latents(exact_velocity, found.states[:, -1], sigmas[first + count :], solver)
    assert torch.equal(found.final, after)
    euler = sample_trajectories(exact_velocity, noise, sigmas, settings).final
    assert torch.equal(found.final, euler) == (solver == "euler")


def test_behind_stochastic_steps_the_second_order_comes_nearer_to_the_end_of_the_path():
    noise = torch.randn(64, 3, 2, generator=torch.Generator().manual_seed(0))

    def end(solver, steps):
        """Where the path from the same state leads: the window is as long for every number of steps."""
        sigmas = torch.cat([torch.tensor([1.0, 0.85]), torch.linspace(0.7, 0, steps + 1)])
        return sample_trajectories(
            exact_velocity, noise, sigmas, SdeSettings("flow_sde", 0.7, 0, 2), solver=solver
        ).final

    exact = end("ab2", 400)
    error = {(s, n): float((end(s, n) - exact).abs().mean()) for s in ONE_CALL_SOLVERS for n in (5, 7, 10)}
    assert max(error["ab2", 5], error["dpm", 5]) < error["euler", 10]
    assert max(error["ab2", 7], error["dpm", 7]) < 0.7 * error["euler", 10]


def test_adams_bashforth_is_exact_where_the_velocity_is_a_line_in_sigma():
    x = torch.zeros(1, 1, dtype=torch.float64)
    velocity = {s: torch.full((1, 1), 2 + 3 * s, dtype=torch.float64) for s in (0.9, 0.7)}
    found = flow.adams_bashforth_step(x, velocity[0.7], velocity[0.9], 0.9, 0.7, 0.2)
    exact = -(2 * 0.5 + 1.5 * (0.7**2 - 0.2**2))
    assert found.item() == pytest.approx(exact, rel=1e-6)


def test_generate_takes_a_solver_and_names_a_wrong_one(tmp_path, capsys):
    generator = tiny_generator()
    videos = {s: generator.generate(["a star"], num_inference_steps=4, solver=s) for s in SOLVERS}
    assert all(video.isfinite().all() for video in videos.values())
    assert not torch.equal(videos["euler"], videos["ab2"])
    with pytest.raises(InputError, match="choose one of euler, heun, ab2, dpm"):
        generator.generate(["a star"], solver="rk4")
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a star")
    arguments = [
        "generate",
        "--model",
        "nano",
        "--prompts",
        str(prompts),
        "--output_dir",
        str(tmp_path / "o"),
    ]
    assert main([*arguments, "--solver", "dpm", "--long", "2"]) == 2
    assert "--solver dpm" in capsys.readouterr().err
