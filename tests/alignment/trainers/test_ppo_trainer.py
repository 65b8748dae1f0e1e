"""Proximal policy optimisation: groups, ratios, KL, and that it raises the reward."""

import dataclasses

import pytest
import torch

from alignment.lora import adapters_disabled
from alignment.losses import adapted_beta
from alignment.trainers.ppo_config import PPOConfig
from alignment.trainers.ppo_trainer import PPOTrainer
from generator import flow
from generator.output import InputError


def make(generator, prompts, reward, quiet, **arguments):
    settings = {
        "num_rollouts": 2, "num_prompts": 3, "num_generations": 4, "num_inference_steps": 5,
        "num_mini_batches": 2, "per_device_train_batch_size": 8, "learning_rate": 1e-2,
    } | arguments  # fmt: skip
    return PPOTrainer(generator, PPOConfig(**settings, **quiet), prompts, reward)


def history(trainer):
    return [entry for entry in trainer.state.log_history if "reward" in entry]


@pytest.mark.parametrize("kernel", ["flow_sde", "dance_sde", "cps"])
def test_ppo_raises_the_reward(generator, prompts, bright, quiet, kernel):
    trainer = make(
        generator, prompts, bright, quiet, num_rollouts=30, num_prompts=4, num_generations=8,
        sde_kernel=kernel,
        per_device_train_batch_size=64, num_mini_batches=2, beta=0.001,
    )  # fmt: skip
    trainer.train()
    rewards = [entry["reward"] for entry in history(trainer)]
    assert sum(rewards[-3:]) / 3 > sum(rewards[:3]) / 3 + 0.2
    assert history(trainer)[-1]["kl"] > history(trainer)[0]["kl"] == 0


@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
@pytest.mark.parametrize("kernel", ["flow_sde", "dance_sde", "cps"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_ratio_is_one_before_the_first_update_for_every_step_and_dtype(
    generator, prompts, bright, quiet, kernel, dtype, guidance_scale
):
    """The micro-batch of the update is not the batch of the rollout."""
    generator.transformer.to(dtype)
    trainer = make(
        generator, prompts, bright, quiet, sde_kernel=kernel, guidance_scale=guidance_scale,
        rollout_batch_size=5, num_mini_batches=1, num_rollouts=1, per_device_train_batch_size=3,
    )  # fmt: skip
    rollout = trainer.make_rollout(0)
    assert rollout.trajectories.states.dtype == torch.float32
    count = rollout.trajectories.log_probs.numel()
    for start in range(0, count, 7):
        rows = torch.arange(start, min(start + 7, count))
        trainer.ratios.clear()
        trainer.update_loss(trainer.model, rollout, rows, update=1)
        assert (trainer.ratios[0] - 1).abs().mean() <= 1e-6
    trainer.train()
    assert history(trainer)[0]["ratio/deviation"] == 0
    assert history(trainer)[0]["log_prob_error"] <= 1e-6


def test_groups_have_their_exact_size_from_the_first_rollout_on(generator, prompts, bright, quiet):
    seen = []
    trainer = make(generator, prompts, bright, quiet, num_rollouts=4)
    trainer.monitors.append(lambda rollout: seen.append(rollout.prompts) or {"extra": 2.5})
    trainer.train()
    assert len(seen) == 4
    for texts in seen:
        assert len(texts) == 12
        assert all(len(set(texts[start : start + 4])) == 1 for start in (0, 4, 8))
        assert len(set(texts)) == 3
    used = [text for texts in seen for text in texts[::4]]
    assert sorted(used[:6]) == sorted(used[6:]) == sorted(prompts)
    assert history(trainer)[0]["extra"] == 2.5


def test_members_of_a_group_start_from_their_own_noise_and_share_the_window(
    generator, prompts, bright, quiet
):
    trainer = make(
        generator, prompts, bright, quiet, num_inference_steps=8, sde_window_size=2, sde_random_window=True
    )
    firsts = []
    for index in range(12):
        rollout = trainer.make_rollout(index)
        assert len(rollout.trajectories.states.flatten(1).unique(dim=0)) == 12
        assert rollout.trajectories.log_probs.shape == (12, 2)
        firsts.append(rollout.trajectories.settings.first_step)
    assert set(firsts) <= set(range(6))
    assert len(set(firsts)) > 2


def test_kl_equals_the_analytic_one_and_has_a_gradient(generator, prompts, bright, quiet):
    trainer = make(generator, prompts, bright, quiet, beta=1.0, num_mini_batches=1)
    for name, parameter in generator.transformer.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.1)
    rollout = trainer.make_rollout(0)
    trajectories = rollout.trajectories
    place, step = 1, 1
    x, sigma = trajectories.states[:, place], trajectories.sigmas[step].expand(12)
    conditions = generator.encode_prompts(rollout.prompts)
    steps = []
    with torch.no_grad():
        steps.append(generator.velocity(x, sigma, conditions))
        with adapters_disabled(generator.transformer):
            steps.append(generator.velocity(x, sigma, conditions))
    normals = [
        torch.distributions.Normal(
            *flow.flow_sde_step(
                x, v, trajectories.sigmas[step], trajectories.sigmas[step + 1], 0.7, trajectories.sigmas[1]
            )
        )
        for v in steps
    ]
    expected = torch.distributions.kl_divergence(*normals).flatten(1).mean(1)
    assert torch.allclose(trajectories.kl[:, place], expected, rtol=1e-4)
    assert expected.min() > 0

    rollout.advantages.zero_()
    loss = trainer.update_loss(trainer.model, rollout, torch.arange(36), update=0)
    assert loss.item() == pytest.approx(trajectories.kl.flatten()[:36].mean().item(), rel=1e-4)
    loss.backward()
    gradients = [p.grad.abs().max() for n, p in generator.transformer.named_parameters() if "lora_A" in n]
    assert min(gradients) > 0


def test_without_a_kl_term_the_divergence_is_measured_on_some_videos_of_each_group(
    make_generator, prompts, bright, quiet
):
    """It is the divergence of those very videos, and measuring it changes nothing."""
    measured = {}
    for generations in (1, 4):
        trainer = make(
            make_generator(), prompts, bright, quiet, beta=0.0, monitor_kl_generations=generations,
            rollout_batch_size=5,
        )  # fmt: skip
        for name, parameter in trainer.policy.named_parameters():
            if "lora_B" in name:
                parameter.data.normal_(std=0.1, generator=torch.Generator().manual_seed(0))
        measured[generations] = trainer.make_rollout(0).trajectories
    assert measured[1].reference_means is None
    assert measured[1].kl.shape == (3, 4)
    assert torch.allclose(measured[1].kl, measured[4].kl[::4], rtol=1e-4)
    assert torch.equal(measured[1].final, measured[4].final)


def test_the_logged_policy_loss_does_not_contain_the_kl(make_generator, prompts, bright, quiet):
    logged = []
    for beta in (0.0, 100.0):
        trainer = make(
            make_generator(), prompts, bright, quiet, beta=beta, num_rollouts=1, num_mini_batches=1
        )
        trainer.policy.transformer.blocks[0].to_q.lora_B["default"].weight.data.fill_(0.1)
        trainer.train()
        logged.append(history(trainer)[0])
    assert logged[0]["loss/policy"] == pytest.approx(logged[1]["loss/policy"], abs=1e-6)
    assert logged[1]["loss"] == pytest.approx(logged[1]["loss/policy"] + 100 * logged[1]["loss/kl"], rel=1e-3)


def test_several_passes_use_every_row_once_each_and_then_the_ratio_moves(generator, prompts, bright, quiet):
    trainer = make(generator, prompts, bright, quiet, num_rollouts=1, num_iterations=3)
    used = []
    update_loss = trainer.update_loss

    def spy(model, rollout, rows, update, micro_batch):
        used.append((update, rows))
        return update_loss(model, rollout, rows, update, micro_batch)

    trainer.update_loss = spy
    trainer.train()
    for iteration in range(3):
        rows = torch.cat([rows for update, rows in used if update // 2 == iteration])
        assert sorted(rows.tolist()) == list(range(12 * 4))
    assert trainer.state.global_step == 6
    assert history(trainer)[0]["ratio/deviation"] > 0


def test_the_first_step_is_the_same_with_normalised_ratios_or_a_mask(make_generator, prompts, bright, quiet):
    """Before any update the ratio is 1 and the divergence 0 in any case; a normalised ratio's gradient differs by the
    std that the loss is divided by."""
    results = []
    for further in ({}, {"ratio_norm": True}, {"max_divergence": 1e-9}):
        trainer = make(
            make_generator(), prompts, bright, quiet, num_rollouts=1, num_mini_batches=1, optim="sgd",
            learning_rate=1.0, max_grad_norm=0.0, beta=0.0, **further,
        )  # fmt: skip
        trainer.train()
        results.append({n: p.detach() for n, p in trainer.policy.named_parameters() if "lora_B" in n})
    for other in results[1:]:
        assert all(torch.allclose(results[0][name], other[name], atol=1e-6) for name in other)
    assert max(value.abs().max() for value in results[0].values()) > 1e-3


@pytest.mark.parametrize(("most", "low", "high"), [(1e-12, 0.1, 0.5), (1e3, 0.0, 0.0)])
def test_a_second_pass_is_masked_by_its_divergence(make_generator, prompts, bright, quiet, most, low, high):
    trainer = make(
        make_generator(), prompts, bright, quiet, num_rollouts=1, num_mini_batches=1, num_iterations=2,
        max_divergence=most,
    )  # fmt: skip
    trainer.train()
    [logged] = history(trainer)  # of both passes, of which the first is at the sampling policy itself
    assert low <= logged["clip_ratio"] <= high


@pytest.mark.parametrize("rounds", [False, True])
def test_later_steps_with_normalised_ratios_equal_the_formula(
    make_generator, prompts, bright, quiet, monkeypatch, rounds
):
    """The logged ratio must be exp(mean ε · (μ − μ_old)), with μ_old from a copy of the policy before the update."""
    monkeypatch.setattr(PPOTrainer, "rounds", rounds)
    trainer = make(
        make_generator(), prompts, bright, quiet, num_rollouts=1, num_mini_batches=1, num_iterations=2,
        ratio_norm=True, per_device_train_batch_size=48,
    )  # fmt: skip
    expected, seen = {}, []
    policy_loss = trainer.policy_loss

    def spy(model, rollout, rows, on_policy):
        with torch.no_grad():
            mean, std, _ = trainer.step(trainer.policy, rollout, rows)
        if on_policy:
            expected.update({int(index): (mean[i], std[i]) for i, index in enumerate(rows.index)})
        loss = policy_loss(model, rollout, rows, on_policy)
        if not on_policy:
            for i, index in enumerate(rows.index.tolist()):
                old, spread = expected[index]
                noise = (rows.next_latents[i] - old) / spread
                seen.append((trainer.ratios[-1][i].log().item(), (noise * (mean[i] - old)).mean().item()))
        return loss

    trainer.policy_loss = spy
    trainer.train()
    found, formula = torch.tensor(seen).T
    assert len(found) == 48
    assert formula.abs().max() > 1e-4
    assert torch.allclose(found, formula, atol=2e-6)


@pytest.mark.parametrize("num_mini_batches", [1, 2])
def test_later_passes_compare_with_log_probabilities_of_their_own_micro_batches(
    generator, prompts, bright, quiet, monkeypatch, num_mini_batches
):
    """Where the network rounds, those that were noted while sampling are used by no optimiser step."""
    monkeypatch.setattr(PPOTrainer, "rounds", True)
    trainer = make(
        generator, prompts, bright, quiet, num_rollouts=1, num_iterations=2, num_mini_batches=num_mini_batches,
        learning_rate=1e-6,
    )  # fmt: skip
    make_rollout = trainer.make_rollout

    def with_wrong_log_probs(index):
        rollout = make_rollout(index)
        rollout.trajectories.log_probs += 0.5
        return rollout

    trainer.make_rollout = with_wrong_log_probs
    trainer.train()
    assert history(trainer)[0]["log_prob_error"] == pytest.approx(0.5, abs=1e-3)
    assert history(trainer)[0]["ratio/q01"] == pytest.approx(1.0, abs=1e-3)
    assert history(trainer)[0]["ratio/q99"] == pytest.approx(1.0, abs=1e-3)


def test_small_tables_of_prompts_stay_on_the_device_and_large_ones_do_not(
    generator, prompts, bright, quiet, monkeypatch
):
    trainer = make(generator, prompts, bright, quiet)
    table, rows = {"text": torch.arange(12.0).reshape(4, 3)}, torch.tensor([2, 0])
    assert torch.equal(trainer.conditions_of(table, rows)["text"], table["text"][[2, 0]])
    monkeypatch.setattr(type(trainer.args), "device", torch.device("meta"))
    chosen = trainer.conditions_of(table, rows)["text"]
    assert chosen.device.type == "meta"
    assert chosen.shape == (2, 3)
    resident = trainer._resident[id(table)][1]["text"]
    trainer.conditions_of(table, rows)
    assert trainer._resident[id(table)][1]["text"] is resident
    monkeypatch.setattr("alignment.trainers.base_trainer.RESIDENT_BYTES", 47)
    other = {"text": table["text"].clone()}
    assert trainer.conditions_of(other, rows)["text"].device.type == "meta"
    assert id(other) not in trainer._resident


def test_rewards_that_need_pixels_get_decoded_videos(generator, prompts, bright, quiet):
    bright.scores_latents = False
    shapes = []
    score = bright.score
    bright.score = lambda videos, texts: shapes.append((videos.shape, len(texts))) or score(videos, texts)
    make(generator, prompts, bright, quiet, num_rollouts=1, reward_batch_size=8, probe_prompts=0).train()
    assert shapes == [((8, 3, 3, 8, 8), 8), ((4, 3, 3, 8, 8), 4)]


def test_training_stops_at_the_target_kl(generator, prompts, bright, quiet):
    trainer = make(generator, prompts, bright, quiet, num_rollouts=30, target_kl=1e-3)
    trainer.train()
    assert trainer.state.global_step < 60


def test_a_checkpoint_inside_a_rollout_is_refused(generator, prompts, bright, quiet):
    trainer = make(generator, prompts, bright, quiet)
    with pytest.raises(InputError, match="inside rollout 0"):
        trainer.compute_loss(trainer.model, {"slots": list(range(8, 16))})


def test_saving_and_logging_fall_on_the_ends_of_rollouts(quiet):
    config = PPOConfig(
        num_rollouts=5, num_prompts=2, num_generations=2, num_inference_steps=4, num_mini_batches=3,
        num_iterations=2, per_device_train_batch_size=5, **quiet | {"save_steps": 7, "logging_steps": 1},
    )  # fmt: skip
    assert (config.save_interval, config.logging_interval, config.max_steps) == (12, 6, 30)
    assert config.micro_batch_size * config.gradient_accumulation_steps == 2 * 2 * 3 // 3
    # What was set stays.
    assert (config.save_steps, config.logging_steps, config.per_device_train_batch_size) == (7, 1, 5)


def test_checkpoints_lie_at_the_ends_of_rollouts(generator, prompts, bright, quiet, tmp_path):
    quiet |= {"save_strategy": "steps", "save_steps": 3, "save_total_limit": None}
    trainer = make(generator, prompts, bright, quiet, num_rollouts=5)
    trainer.train()
    saved = {path.name for path in (tmp_path / "out").glob("checkpoint-*")}
    assert saved == {"checkpoint-4", "checkpoint-8", "checkpoint-10"}
    assert [entry["step"] for entry in history(trainer)] == [2, 4, 6, 8, 10]


def test_the_log_says_where_micro_batches_are_smaller_than_asked(generator, prompts, bright, quiet, caplog):
    """An optimiser step has 24 denoising steps here: 8 divide them, 7 do not, and more than all is no loss."""
    for asked, used in ((8, 8), (32, 24), (7, 6)):
        caplog.clear()
        trainer = make(generator, prompts, bright, quiet, per_device_train_batch_size=asked)
        assert trainer.args.micro_batch_size == trainer.args.train_batch_size == used
        assert ("micro-batches have 6" in caplog.text) == (asked == 7)
        generator = type(generator)()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_generations": 1}, "num_generations is 1"),
        ({"num_mini_batches": 5}, "num_mini_batches is 5"),
        ({"sde_window_size": 5}, "the last of 5 steps is deterministic"),
        ({"sde_first_step": 9}, "sde_first_step is 9, but must be between 0 and 3"),
        ({"num_inference_steps": 1}, "num_inference_steps is 1, but must be at least 2"),
        ({"num_prompts": 0}, "num_prompts is 0"),
        ({"num_rollouts": 0}, "num_rollouts is 0"),
        ({"rollout_solver": "heun"}, "rollout_solver is heun, but must be one of euler, ab2, dpm"),
        (
            {"rollout_solver": "ab2"},
            "rollout_solver is ab2.*euler where all steps but the last are stochastic",
        ),
        ({"rollout_solver": "dpm", "sde_window_size": 4}, "rollout_solver is dpm.*smaller sde_window_size"),
        ({"num_iterations": 0}, "num_iterations is 0"),
        ({"num_mini_batches": 0}, "num_mini_batches is 0"),
        ({"rollout_batch_size": 0}, "rollout_batch_size is 0"),
        ({"reward_batch_size": 0}, "reward_batch_size is 0"),
        ({"per_device_train_batch_size": 0}, "per_device_train_batch_size is 0"),
        ({"monitor_videos": -1}, "monitor_videos is -1"),
        ({"num_frames": 0}, "num_frames is 0"),
        ({"advantage_clip": -1.0}, r"advantage_clip is -1\.0"),
        ({"target_kl": -1.0}, r"target_kl is -1\.0"),
        (
            {"target_kl": 0.1, "beta": 0.0, "monitor_kl_generations": 0},
            "monitor_kl_generations is 0.*target_kl",
        ),
        ({"noise_level": 0.0}, r"noise_level is 0\.0"),
        ({"noise_level": 1.5, "sde_kernel": "cps"}, r"noise_level is 1\.5.*at most 1 with cps"),
        ({"max_steps": 3}, "max_steps is 3.*follows from num_rollouts"),
        (
            {"gradient_accumulation_steps": 3},
            "gradient_accumulation_steps is 3.*follows from num_mini_batches",
        ),
        ({"seed": -1}, "seed is -1"),
        ({"learning_rate": -1.0}, r"learning_rate is -1\.0"),
        ({"report_to": "paper"}, "report_to is paper.*tensorboard"),
    ],
)
def test_impossible_settings_are_refused(quiet, arguments, message):
    with pytest.raises(InputError, match=message):
        PPOConfig(**quiet | {"num_inference_steps": 5, "num_prompts": 2} | arguments)


def test_a_configuration_is_made_again_from_what_it_became(quiet):
    config = PPOConfig(num_rollouts=3, **quiet)
    assert (again := dataclasses.replace(config)).max_steps == config.max_steps == 6
    assert again.gradient_accumulation_steps == config.gradient_accumulation_steps


def test_an_unknown_reward_dimension_names_the_known_ones(generator, prompts, bright, quiet):
    trainer = make(generator, prompts, bright, quiet, reward_dimension="beauty")
    with pytest.raises(InputError, match=r"no score 'beauty'.*overall"):
        trainer.train()


def test_step_gradients_are_logged_for_each_step(generator, prompts, bright, quiet):
    trainer = make(generator, prompts, bright, quiet, log_step_gradients=True, num_rollouts=1)
    trainer.train()
    norms = [history(trainer)[0][f"step_gradients/{step}"] for step in range(4)]
    assert all(norm > 0 for norm in norms)


def test_beta_follows_the_divergence(generator, prompts, bright, quiet):
    """It falls while the divergence is below its target, and its change is bounded."""
    trainer = make(generator, prompts, bright, quiet, beta=0.5, adaptive_kl_target=10.0, num_rollouts=4)
    trainer.train()
    betas = [entry["beta"] for entry in history(trainer)]
    assert betas == pytest.approx([0.5 * 0.98**rollout for rollout in range(4)])
    assert adapted_beta(0.5, kl=3.0, target=1.0, gain=0.1) == pytest.approx(0.5 * 1.02)
    assert adapted_beta(0.5, kl=1.1, target=1.0, gain=0.1) == pytest.approx(0.5 * 1.01)


def test_quantiles_of_the_ratio_are_logged(generator, prompts, bright, quiet):
    trainer = make(generator, prompts, bright, quiet, num_rollouts=1, num_iterations=2)
    ratios = []
    update_loss = trainer.update_loss

    def spy(*arguments, **keywords):
        loss = update_loss(*arguments, **keywords)
        ratios.append(trainer.ratios[-1])
        return loss

    trainer.update_loss = spy
    trainer.train()
    expected = torch.cat(ratios).quantile(torch.tensor([0.01, 0.5, 0.99])).tolist()
    entry = history(trainer)[0]
    assert [entry[f"ratio/q{level}"] for level in ("01", "50", "99")] == pytest.approx(expected)
    assert entry["ratio/q01"] < 1 < entry["ratio/q99"]


def test_the_ptx_term_is_the_flow_matching_loss_of_demonstrations(
    make_generator, prompts, bright, quiet, latents
):
    """It alone lowers the demonstrations' error, and it adds exactly its share to the loss."""
    logged, bright_latents = [], [0.1 * latent + 2 for latent in latents]
    for weight in (0.0, 3.0):
        trainer = PPOTrainer(
            make_generator(),
            PPOConfig(num_rollouts=12, num_prompts=3, num_generations=2, num_inference_steps=4, beta=0.0,
                      num_mini_batches=1, ptx_coef=weight, learning_rate=1e-2, **quiet),
            prompts, bright, demonstrations=(bright_latents, prompts),
        )  # fmt: skip
        trainer.train()
        logged.append(history(trainer))
    assert "loss/ptx" not in logged[0][0]
    first = logged[1][0]
    assert first["loss"] == pytest.approx(first["loss/policy"] + 3 * first["loss/ptx"], rel=1e-3)
    means = [sum(entry["loss/ptx"] for entry in part) / 4 for part in (logged[1][:4], logged[1][-4:])]
    assert means[1] < 0.97 * means[0]
    with pytest.raises(InputError, match="give ptx_dataset"):
        make(make_generator(), prompts, bright, quiet, ptx_coef=1.0)
