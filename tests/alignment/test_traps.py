"""The traps of aligning flow models that other code bases fell into, named as in docs/alignment.md.

`TRAPS` names the tests of each, here or, where they need a whole trainer or two processes, beside those."""

import re
from pathlib import Path

import pytest
import torch

from alignment.cli.commands import dpo, ppo, sft
from alignment.cli.parser import CommandParser
from alignment.data.latent_dataset import split_prompts
from alignment.lora import LoraArguments, add_lora
from alignment.rollouts.advantages import group_relative_advantages
from alignment.trainers.policy import Policy
from alignment.trainers.ppo_config import PPOConfig
from alignment.trainers.ppo_trainer import PPOTrainer
from alignment.trainers.weight_average import WeightAverage
from generator import flow
from generator.output import InputError
from generator.testing import tiny_generator
from reward.preferences import Ranking, split_by_prompt

TRAPS = {
    "ratio": [
        "alignment/test_traps.py::test_the_ratio_is_one_at_every_step_when_the_native_model_sees_other_batches",
        "alignment/trainers/test_ppo_trainer.py::test_the_ratio_is_one_before_the_first_update_for_every_step_and_dtype",
    ],
    "first step": [
        "alignment/test_traps.py::test_the_first_stochastic_step_does_not_blow_up_the_latents",
        "generator/test_flow.py::test_the_first_step_std_is_bounded",
    ],
    "gradient of the KL": [
        "alignment/test_traps.py::test_the_kl_has_the_gradient_of_the_analytic_one",
        "alignment/trainers/test_ppo_trainer.py::test_the_logged_policy_loss_does_not_contain_the_kl",
    ],
    "resuming": [
        "alignment/trainers/test_trainers.py::test_resuming_equals_the_uninterrupted_run_bit_for_bit"
    ],
    "groups": [
        "alignment/test_traps.py::test_all_members_of_a_group_are_judged_by_one_process",
        "alignment/trainers/test_ppo_trainer.py::test_groups_have_their_exact_size_from_the_first_rollout_on",
    ],
    "processes": [
        "alignment/trainers/test_distributed.py::test_two_processes_equal_one_with_the_whole_batch"
    ],
    "LoRA layers": [
        "alignment/test_traps.py::test_every_trainer_writes_down_which_layers_lora_is_on",
        "alignment/test_lora.py::test_lora_that_matches_no_layer_is_an_error_that_names_layers",
    ],
    "misspelt keys": ["alignment/test_traps.py::test_an_unknown_key_is_an_error_that_names_the_nearest"],
    "EMA": [
        "alignment/test_traps.py::test_training_after_an_ema_swap_goes_on_from_the_live_weights",
        "alignment/trainers/test_trainers.py::test_ema_swap_restores_the_live_weights_and_shares_no_memory",
    ],
    "time shift": [
        "generator/test_flow.py::test_shift_goes_towards_noise_and_shift_three_has_median_three_quarters"
    ],
    "timesteps in bfloat16": ["alignment/test_traps.py::test_a_bfloat16_model_gets_its_timesteps_in_float32"],
    "reward noise": [
        "alignment/test_traps.py::test_reward_noise_of_1e_5_does_not_become_full_size_advantages"
    ],
    "splits": ["alignment/test_traps.py::test_no_prompt_stands_on_both_sides_of_a_split"],
}


@pytest.mark.parametrize("trap", TRAPS)
def test_a_trap_has_its_tests(trap):
    for test in TRAPS[trap]:
        file, name = test.split("::")
        assert f"def {name}(" in (Path(__file__).parents[1] / file).read_text()


def test_the_documentation_lists_these_traps():
    text = (Path(__file__).parents[2] / "docs" / "alignment.md").read_text()
    table = text.partition("\n## Traps")[2].partition("\n## ")[0]
    assert re.findall(r"^\| (?!trap )([^|-]+) \|", table, flags=re.MULTILINE) == list(TRAPS)


def tiny_trainer(quiet, reward, dtype, **arguments):
    generator = tiny_generator()
    generator.transformer.to(dtype)
    settings = {
        "num_rollouts": 1, "num_prompts": 2, "num_generations": 4, "num_inference_steps": 5, "num_frames": 5,
        "height": 16, "width": 16, "num_mini_batches": 1, "per_device_train_batch_size": 4,
    } | arguments  # fmt: skip
    # Of different lengths: padding that is cut off differs between a rollout and its micro-batches.
    prompts = ["a ball", "a large blue cube rolls slowly to the left and stops there"]
    return PPOTrainer(generator, PPOConfig(**settings, **quiet), prompts, reward)


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_ratio_is_one_at_every_step_when_the_native_model_sees_other_batches(
    quiet, bright, dtype, trained
):
    """Also in later optimiser steps of a pass, as long as nothing was learnt: here the learning rate is 0."""
    trainer = tiny_trainer(
        quiet, bright, dtype, num_mini_batches=2, learning_rate=0.0, per_device_train_batch_size=3
    )
    if trained:
        random = torch.Generator().manual_seed(0)
        for name, parameter in trainer.policy.named_parameters():
            if "lora_B" in name:
                parameter.data.normal_(std=0.05, generator=random)
    deviations = []
    update_loss = trainer.update_loss

    def spy(*arguments, **keywords):
        loss = update_loss(*arguments, **keywords)
        deviations.append((trainer.ratios[-1] - 1).abs().max().item())
        return loss

    trainer.update_loss = spy
    trainer.train()
    assert len(deviations) == 2 * 16 // 2
    assert max(deviations) <= 1e-6


@pytest.mark.parametrize("kernel", flow.SDE_KERNELS)
def test_the_first_stochastic_step_does_not_blow_up_the_latents(quiet, bright, kernel):
    """σ comes from the schedule, exactly 1 at the start, and not from a rounded integer timestep."""
    trainer = tiny_trainer(quiet, bright, torch.float32, sde_kernel=kernel)
    assert trainer.plan.sigmas[0] == 1
    states = trainer.make_rollout(0).trajectories.states
    assert states[:, 1].std() < 2 * states[:, 0].std()


def test_the_kl_has_the_gradient_of_the_analytic_one():
    mean, reference = torch.randn(2, 3, 5, dtype=torch.float64), torch.randn(2, 3, 5, dtype=torch.float64)
    std = torch.tensor(0.2, dtype=torch.float64)
    mean.requires_grad_()
    ours = torch.autograd.grad(flow.gaussian_kl(mean, reference, std).sum(), mean)[0]
    normal = torch.distributions.kl_divergence(
        torch.distributions.Normal(mean, std), torch.distributions.Normal(reference, std)
    )
    assert torch.allclose(ours, torch.autograd.grad(normal.flatten(1).mean(1).sum(), mean)[0])
    assert ours.abs().min() > 0


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_all_members_of_a_group_are_judged_by_one_process(
    generator, prompts, bright, quiet, processes, monkeypatch
):
    """A group that is spread over processes, or cut by a loader that reads ahead, has another mean."""
    monkeypatch.setattr(PPOConfig, "world_size", property(lambda self: processes))
    config = PPOConfig(num_rollouts=3, num_prompts=4, num_generations=3, num_inference_steps=4,
                       num_mini_batches=1, **quiet)  # fmt: skip
    trainer = PPOTrainer(generator, config, prompts, bright)
    seen = []
    for index in range(3):
        for process in range(processes):
            monkeypatch.setattr(PPOConfig, "process_index", property(lambda self, p=process: p))
            seen += trainer.prompts_of(index).tolist()
    assert len(seen) == 12
    assert sorted(seen) == sorted([*range(6), *range(6)])


def test_every_trainer_writes_down_which_layers_lora_is_on(generator, prompts, bright, quiet):
    config = PPOConfig(num_rollouts=1, num_prompts=2, num_generations=2, num_inference_steps=3,
                       num_mini_batches=1, **quiet)  # fmt: skip
    trainer = PPOTrainer(generator, config, prompts, bright)
    assert trainer.training_record()["lora_layers"] == trainer.lora_layers
    assert len(trainer.lora_layers) == 8
    with pytest.raises(InputError, match="match no layer"):
        add_lora(tiny_generator(), LoraArguments(lora_target_modules=["attention.query"]), 0)


@pytest.mark.parametrize("command", [sft, dpo, ppo])
def test_an_unknown_key_is_an_error_that_names_the_nearest(command, tmp_path):
    parser = CommandParser(command.ARGUMENTS, prog="vidalign x")
    config = tmp_path / "config.yaml"
    config.write_text("lora_alfa: 4\n")
    with pytest.raises(InputError, match=r"lora_alfa.*lora_alpha"):
        parser.build(["--config", str(config), "--output_dir", str(tmp_path)])
    with pytest.raises(InputError, match=r"--learning_rat.*--learning_rate"):
        parser.build(["--learning_rat", "1", "--output_dir", str(tmp_path)])


def test_training_after_an_ema_swap_goes_on_from_the_live_weights(generator):
    policy = Policy(generator.transformer)
    ema = WeightAverage(policy)
    with ema.swapped():
        pass
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.fill_(3.0)
    assert not any((value == 3).all() for value in ema.average.values())
    with ema.swapped():
        assert not any((parameter == 3).all() for parameter in policy.parameters())
    assert all((parameter == 3).all() for parameter in policy.parameters())


def test_a_bfloat16_model_gets_its_timesteps_in_float32():
    """In bfloat16 999 and 1000 are one number, and so are all levels between 0.998 and 1."""
    generator = tiny_generator()
    generator.transformer.to(torch.bfloat16)
    latents = torch.randn(2, *generator.latent_shape(5, 16, 16))
    conditions = generator.encode_prompts(["a", "a"])
    seen, embedded = {}, []
    hooks = [
        generator.transformer.register_forward_pre_hook(
            lambda module, args, kwargs: seen.update(kwargs), with_kwargs=True
        ),
        generator.transformer.time_embed.register_forward_hook(
            lambda module, args, output: embedded.append(args[0])
        ),
    ]
    generator.velocity(latents, torch.tensor([0.999, 1.0]), conditions)
    for hook in hooks:
        hook.remove()
    assert seen["timestep"].dtype == torch.float32
    assert torch.allclose(seen["timestep"], torch.tensor([999.0, 1000.0]))
    assert torch.tensor(999.0).bfloat16() == torch.tensor(1000.0).bfloat16()
    assert not torch.equal(embedded[0][0], embedded[0][1])


@pytest.mark.parametrize("scale", ["group", "global"])
def test_reward_noise_of_1e_5_does_not_become_full_size_advantages(scale):
    rewards = 0.3 + 1e-5 * torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    assert group_relative_advantages(rewards, scale).abs().max() < 0.4


def test_no_prompt_stands_on_both_sides_of_a_split(tmp_path):
    rankings = [
        Ranking(f"prompt {i % 7}", [tmp_path / f"{i}a.mp4", tmp_path / f"{i}b.mp4"], [1, 2])
        for i in range(40)
    ]
    train, held_out = split_by_prompt(rankings, 0.3, 0)
    assert held_out
    assert not {ranking.prompt for ranking in train} & {ranking.prompt for ranking in held_out}
    prompts = [ranking.prompt for ranking in rankings]
    left, right = split_prompts(prompts, 0.3, 0)
    assert right
    assert not {prompts[i] for i in left} & {prompts[i] for i in right}
    assert sorted(left + right) == list(range(40))
