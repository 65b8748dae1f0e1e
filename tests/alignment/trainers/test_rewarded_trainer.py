"""Measuring a policy on held-out prompts while it is trained, the best model, and when to stop by it."""

import itertools
import json
import logging
import signal
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from alignment.rollouts.held_out import HeldOutPrompts
from alignment.rollouts.reward_mixture import RewardMixture
from alignment.rollouts.sampling_plan import SamplingPlan
from alignment.trainers.backprop_config import BackpropConfig
from alignment.trainers.backprop_trainer import BackpropTrainer
from alignment.trainers.guidance import guidance_warning
from alignment.trainers.nft_config import NFTConfig
from alignment.trainers.nft_trainer import NFTTrainer
from alignment.trainers.online_dpo_config import OnlineDPOConfig
from alignment.trainers.online_dpo_trainer import OnlineDPOTrainer
from alignment.trainers.ppo_config import PPOConfig
from alignment.trainers.ppo_trainer import PPOTrainer
from alignment.trainers.rwr_config import RWRConfig
from alignment.trainers.rwr_trainer import RWRTrainer
from generator.output import InputError
from generator.sampling import sample_latents, seeded_noise
from generator.seeds import Stream, example_seeds
from generator.testing import tiny_generator
from generator.training.interruption import Interrupted
from reward.models.base import RewardModel, WorldReward
from tests.alignment.bright_reward import PROMPTS, BrightReward
from tests.alignment.trainers.policy_checks import rollout_settings

HELD_OUT = ["a dog", "a red cat", "three dots"]
METHODS = {
    "ppo": (PPOTrainer, PPOConfig),
    "online_dpo": (OnlineDPOTrainer, OnlineDPOConfig),
    "rwr": (RWRTrainer, RWRConfig),
    "nft": (NFTTrainer, NFTConfig),
    "backprop": (BackpropTrainer, BackpropConfig),
}


class Scripted(BrightReward):
    """A bright reward that held-out prompts ("…dog") do not get, but the next of a list."""

    def __init__(self, values=()):
        self.values = list(values)

    names_dimensions = True

    def score(self, videos, prompts):
        if "dog" in prompts[0]:
            return {"overall": torch.full((len(prompts),), self.values.pop(0))}
        return super().score(videos, prompts)

    scores_latents = False


def settings_of(method, quiet, **arguments):
    """A configuration of 6 rollouts of 2 steps, or of 12 steps."""
    own = rollout_settings(probe_prompts=0, monitor_videos=0)
    if method == "backprop":
        own = {"max_steps": 12, "num_inference_steps": 4, "per_device_train_batch_size": 4}
    return METHODS[method][1](**own | quiet | {"learning_rate": 1e-2} | arguments)


def make(method, quiet, generator, reward=None, held_out=None, **arguments):
    return METHODS[method][0](
        generator,
        settings_of(method, quiet, **arguments),
        list(PROMPTS),
        reward or BrightReward(),
        eval_prompts=held_out,
    )


def weights(trainer):
    return {name: p.detach().clone() for name, p in trainer.policy.named_parameters() if p.requires_grad}


def same(first, second):
    return all(torch.equal(value, second[name]) for name, value in first.items())


def curve(trainer, name="eval_reward"):
    return {entry["step"]: entry[name] for entry in trainer.evaluations()}


@pytest.mark.parametrize("method", METHODS)
def test_evaluations_leave_a_training_as_it_is_bit_for_bit(method, make_generator, quiet):
    alone, watched = make(method, quiet, make_generator()), make(
        method, quiet, make_generator(), held_out=HELD_OUT, eval_steps=4, num_eval_videos=2
    )  # fmt: skip
    alone.train()
    watched.train()
    assert same(weights(alone), weights(watched))
    assert list(curve(watched)) == [0, 4, 8, 12]
    assert curve(watched)[12] > curve(watched)[0], "the reward of prompts that are not trained on rises too"
    assert curve(watched) == curve(watched, "eval_reward/overall")
    assert not any("eval_reward" in entry for entry in alone.state.log_history)


def test_the_logged_reward_is_that_of_the_policys_own_videos_from_noise_of_each(make_generator, quiet):
    trainer = make(
        "ppo",
        quiet,
        make_generator(),
        held_out=HELD_OUT,
        eval_steps=12,
        num_eval_videos=2,
        per_device_eval_batch_size=4,
    )
    assert trainer.held_out.plan.batch_size == 4
    trainer.train()
    generator, total = trainer.generator, 0.0
    sigmas = generator.sigma_schedule(4)
    for video in range(6):
        latents = seeded_noise(example_seeds(0, Stream.EVALUATION, video), trainer.plan.latent_shape)
        conditions = generator.encode_prompts([HELD_OUT[video // 2]])
        for sigma, following in itertools.pairwise(sigmas):
            velocity = generator.velocity(latents, sigma[None], conditions)
            latents = latents + (following - sigma) * velocity
        total += latents.mean().item() / 6
    assert curve(trainer)[12] == pytest.approx(total, abs=1e-5)


@pytest.mark.parametrize("method", ["ppo", "online_dpo", "rwr", "nft"])
@pytest.mark.parametrize("solver", ["ab2", "dpm"])
def test_rollouts_and_held_out_videos_take_the_steps_of_the_solver(method, solver, make_generator, quiet):
    def of(name):
        return make(
            method, quiet, make_generator(), held_out=HELD_OUT, rollout_solver=name, num_inference_steps=6,
            num_rollouts=1, **({"sde_window_size": 2} if method == "ppo" else {}),
        )  # fmt: skip

    trainer, euler = of(solver), of("euler")
    rollout, other = (each.make_rollout(0) for each in (trainer, euler))
    plan, trajectories = trainer.plan, rollout.trajectories
    if method == "ppo":  # the window is first
        assert torch.equal(trajectories.states, other.trajectories.states)
        start, begin = trajectories.states[:, -1], trajectories.settings.num_steps
        assert trajectories.settings.first_step == 0
    else:
        noise = seeded_noise(trainer.seeds_of(0, len(trajectories.final)), plan.latent_shape)
        start, begin = noise, 0
    with torch.no_grad():
        velocity = plan.velocity(rollout.prompt_indices, trainer.policy)
        final = sample_latents(velocity, start, plan.sigmas[begin:], solver)
    torch.testing.assert_close(trajectories.final, final)
    assert (trajectories.final - other.trajectories.final).abs().max() > 1e-4
    trainer.train()
    euler.train()
    assert curve(trainer)[0] != curve(euler)[0]
    assert trainer.describe_data()["sampling"] == f"6 steps of {solver}, guidance 1"


def test_runs_of_other_seeds_are_measured_on_the_same_videos(make_generator, quiet):
    trainers = [
        make("ppo", quiet | {"seed": seed}, make_generator(), held_out=HELD_OUT, num_rollouts=1)
        for seed in (1, 2)
    ]
    for trainer in trainers:
        trainer.train()
    assert curve(trainers[0])[0] == curve(trainers[1])[0]


@pytest.mark.parametrize("processes", [1, 2, 4, 5])
def test_shares_of_processes_are_equally_large_and_cover_every_video_once(generator, processes):
    plan = SamplingPlan.for_prompts(generator, HELD_OUT, batch_size=2)
    held_out = HeldOutPrompts(plan, RewardMixture([BrightReward()]), 2, 4)
    shares = [held_out.share(processes, rank) for rank in range(processes)]
    assert len({len(share) for share in shares}) == 1
    assert torch.cat(shares)[:6].tolist() == [0, 1, 2, 3, 4, 5]
    rows = {}  # of what each process would hand to the others

    def collect(rank):
        def gather(values):
            rows[rank] = values
            return values

        held_out.measure(generator.transformer, processes, rank, gather)

    for rank in range(processes):
        collect(rank)
    together = held_out.measure(
        generator.transformer, processes, 0, lambda _: torch.cat([rows[rank] for rank in range(processes)])
    )
    alone = held_out.measure(generator.transformer)
    assert together == pytest.approx(alone, abs=1e-6)


def test_gold_is_measured_where_the_prompts_are_of_the_world_and_no_reward_learns_from_it(quiet):
    class Pale(RewardModel):
        name = "pale"

        def score(self, videos, prompts):
            return {"overall": videos.mean((1, 2, 3, 4))}

    prompts = ["a red circle", "a blue square"]
    generator = tiny_generator()
    arguments = rollout_settings(num_rollouts=1, num_frames=5, height=16, width=16, num_prompts=2)
    for reward in (Pale(), WorldReward()):
        trainer = PPOTrainer(
            generator, PPOConfig(**arguments | {"probe_prompts": 0}, **quiet), prompts, reward, eval_prompts=prompts
        )  # fmt: skip
        plan = trainer.held_out.plan
        found = trainer.evaluate()
        videos = generator.generate(
            prompts, 5, 16, 16, 4, seed=[example_seeds(0, Stream.EVALUATION, i)[0] for i in (0, 1)]
        )
        gold = WorldReward().score(videos, prompts)["overall"].mean().item()
        assert plan.guidance_scale == generator.defaults.guidance_scale
        assert found["eval_gold"] == pytest.approx(gold)
        generator = tiny_generator()
    assert found["eval_gold"] == found["eval_reward"]


def test_the_best_model_is_kept_taken_as_result_and_recorded(make_generator, quiet, tmp_path, caplog):
    reward = Scripted([0.5, 0.1, 0.9, 0.2, 0.3, 0.2, 0.1])
    arguments = {"eval_steps": 2, "load_best_model_at_end": True, "ema_decay": 0.5, "save_total_limit": 1}
    trainer = make("ppo", quiet, make_generator(), reward, ["a dog"], **arguments)
    trainer.train()
    best = tmp_path / "out" / "checkpoint-4"
    assert trainer.state.best_model_checkpoint == str(best)
    assert same(load_file(best / "trained.safetensors"), weights(trainer))
    assert same(load_file(best / "ema.safetensors"), trainer.ema.average)
    trainer.save_model()
    name = "pytorch_lora_weights.safetensors"
    assert same(load_file(tmp_path / "out" / name), load_file(best / name))
    record = json.loads((tmp_path / "out" / "training.json").read_text())["evaluation"]
    assert (record["best_step"], record["is_best"]) == (4, True)
    assert record["best"]["eval_reward"] == pytest.approx(0.9)
    assert "No evaluation was better" not in caplog.text


def test_a_folder_checkpoint_keeps_a_users_file_where_only_the_best_is_to_stay(
    make_generator, quiet, tmp_path
):
    reward = Scripted([0.5, 0.1, 0.9, 0.2])
    arguments = {"eval_steps": 2, "num_rollouts": 3, "load_best_model_at_end": True, "save_total_limit": 1}
    trainer = make("ppo", quiet, make_generator(), reward, ["a dog"], **arguments)
    (tmp_path / "out" / "checkpoint-2").mkdir(parents=True)
    note = tmp_path / "out" / "checkpoint-2" / "note.txt"
    note.write_text("mine")
    trainer.train()
    assert note.read_text() == "mine"
    assert (tmp_path / "out" / "checkpoint-4" / "trained.safetensors").is_file()


def test_the_log_says_where_no_evaluation_was_better_than_the_first(make_generator, quiet, caplog):
    reward = Scripted([0.9, 0.1, 0.2, 0.3])
    make("ppo", quiet, make_generator(), reward, ["a dog"], eval_steps=2, num_rollouts=3).train()
    assert "eval_reward was 0.9 before the first step and at best 0.3, at step 6" in caplog.text


def test_training_stops_when_patience_has_run_out(make_generator, quiet):
    reward = Scripted([0.5, 0.1, 0.9, 0.2, 0.3, 0.2, 0.1])
    trainer = make("ppo", quiet, make_generator(), reward, ["a dog"], eval_steps=2, early_stopping_patience=2)
    trainer.train()
    assert list(curve(trainer)) == [0, 2, 4, 6, 8]
    assert trainer.state.global_step == 8


@pytest.mark.parametrize("method", ["ppo", "backprop"])
def test_a_resumed_run_remembers_the_best_model_and_how_long_it_has_waited(
    method, make_generator, quiet, tmp_path
):
    values = [0.5, 0.1, 0.9, 0.2, 0.3, 0.2, 0.1]
    arguments = {
        "eval_steps": 2, "load_best_model_at_end": True, "early_stopping_patience": 3, "save_strategy": "steps",
        "save_steps": 2, "save_total_limit": None,
    }  # fmt: skip

    def run(folder, script, **more):
        generator = make_generator()
        reward = Scripted(script)
        if method == "backprop":
            reward.scores_latents = True
            reward.score_latents = lambda latents, conditions: (
                BrightReward.score_latents(reward, latents, conditions)
                if torch.is_grad_enabled()
                else {"overall": torch.full((len(latents),), reward.values.pop(0))}
            )
        asked = quiet | {"output_dir": str(tmp_path / folder)}
        trainer = make(method, asked, generator, reward, ["a dog"], **arguments)
        trainer.train(**more)
        return trainer

    whole = run("whole", list(values))
    (tmp_path / "whole").rename(tmp_path / "moved")
    resumed = run("moved", values[4:], resume_from_checkpoint=str(tmp_path / "moved" / "checkpoint-6"))
    assert curve(whole) == curve(resumed)
    assert list(curve(whole)) == [0, 2, 4, 6, 8, 10]
    assert resumed.state.best_model_checkpoint == str(tmp_path / "moved" / "checkpoint-4")
    assert same(weights(whole), weights(resumed))


@pytest.mark.parametrize("patience", [0, 5])
def test_an_evaluation_that_an_interruption_left_out_is_made_up(make_generator, quiet, tmp_path, patience):
    arguments = {"eval_steps": 4, "load_best_model_at_end": True, "early_stopping_patience": patience}
    whole = make("ppo", quiet, make_generator(), held_out=HELD_OUT, **arguments)
    whole.train()
    asked = quiet | {"output_dir": str(tmp_path / "stopped")}
    stopped = make("ppo", asked, make_generator(), held_out=HELD_OUT, **arguments)
    make_rollout = stopped.make_rollout

    def stop_in_the_second(index):
        if index == 1:
            signal.raise_signal(signal.SIGTERM)
        return make_rollout(index)

    stopped.make_rollout = stop_in_the_second
    with pytest.raises(Interrupted) as error:
        stopped.train()
    assert list(curve(stopped)) == ([0, 4] if patience else [0])
    resumed = make("ppo", asked, make_generator(), held_out=HELD_OUT, **arguments)
    resumed.train(resume_from_checkpoint=str(error.value.saved))
    assert curve(resumed) == curve(whole)
    assert same(weights(whole), weights(resumed))


def test_a_stop_asked_for_during_an_evaluation_comes_before_the_next_step(make_generator, quiet, tmp_path):
    class Stopping(Scripted):
        def score(self, videos, prompts):
            if "dog" in prompts[0] and len(self.values) == 1:
                signal.raise_signal(signal.SIGTERM)
            return super().score(videos, prompts)

    trainer = make("ppo", quiet, make_generator(), Stopping([0.5, 0.1]), ["a dog"], eval_steps=2)
    with pytest.raises(Interrupted) as error:
        trainer.train()
    assert error.value.saved == tmp_path / "out" / "checkpoint-2"
    assert curve(trainer) == pytest.approx({0: 0.5, 2: 0.1})


@pytest.mark.parametrize(
    ("held_out", "arguments", "message"),
    [
        (None, {"load_best_model_at_end": True}, "load_best_model_at_end is set, but there are no held-out prompts"),
        (None, {"early_stopping_patience": 2}, "early_stopping_patience is set"),
        (HELD_OUT, {"eval_strategy": "no"}, "eval_strategy is no"),
        (HELD_OUT, {"metric_for_best_model": "eval_gold"}, "eval_gold, which needs eval_prompts of the built-in world"),
        (HELD_OUT, {"metric_for_best_model": "loss"}, "metric_for_best_model is loss, but must be one of eval_reward"),
        (HELD_OUT, {"eval_steps": 0}, "eval_steps is 0"),
        (HELD_OUT, {"num_eval_videos": 0}, "num_eval_videos is 0"),
        (HELD_OUT, {"early_stopping_patience": -1}, "early_stopping_patience is -1"),
    ],
)  # fmt: skip
def test_what_cannot_be_measured_is_refused_before_training(
    make_generator, quiet, held_out, arguments, message
):
    with pytest.raises(InputError, match=message):
        make("ppo", quiet, make_generator(), Scripted(), held_out, **arguments)


def test_evaluations_fall_on_the_ends_of_rollouts(quiet):
    assert PPOConfig(**rollout_settings(), **quiet).eval_interval == 2, (
        "a tenth of 12 steps, in whole rollouts"
    )
    assert PPOConfig(**rollout_settings(), **quiet, eval_steps=3).eval_interval == 4


@pytest.mark.parametrize(("own", "trained", "found"), [(1.0, 3.0, 3.0), (3.0, None, None), (4.0, 1.0, 1.0)])
def test_a_training_at_another_guidance_says_so_and_its_adapter_asks_for_it(
    make_generator, quiet, caplog, own, trained, found
):
    generator = make_generator()
    generator.defaults = replace(generator.defaults, guidance_scale=own)
    with caplog.at_level(logging.WARNING):
        trainer = make(
            "ppo", quiet, generator, held_out=HELD_OUT, guidance_scale=trained, eval_guidance_scale=2.0
        )
    assert (f"is sampled with {own:g} by default" in caplog.text) == (found is not None)
    assert trainer.training_record()["generation_defaults"].get("guidance_scale") == found
    assert trainer.held_out.plan.guidance_scale == 2.0


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("trained", "warned"), [(1.0, True), (3.0, False)])
def test_every_method_warns_where_it_trains_at_another_guidance(
    make_generator, quiet, caplog, method, trained, warned
):
    generator = make_generator()
    generator.defaults = replace(generator.defaults, guidance_scale=3.0)
    with caplog.at_level(logging.WARNING):
        trainer = make(method, quiet, generator, guidance_scale=trained)
    assert trainer.plan.scales == (trained, trained)
    learns_without = trainer.fits_unguided_velocity(trainer.args)
    assert ("is sampled with 3 by default" in caplog.text) == warned
    assert ("acts twice" in caplog.text) == (learns_without and not warned)


class Dark(BrightReward):
    """The opposite of a bright reward."""

    name = "dark"

    def score(self, videos, prompts):
        return {name: -value for name, value in super().score(videos, prompts).items()}

    def score_latents(self, latents, conditions):
        return {name: -value for name, value in super().score_latents(latents, conditions).items()}


@pytest.mark.parametrize("method", ["ppo", "backprop"])
def test_a_reward_of_weight_zero_judges_and_teaches_nothing(make_generator, quiet, method):
    alone = make(method, quiet, make_generator(), held_out=HELD_OUT)
    alone.train()
    chosen = {"reward_weights": [1.0, 0.0], "metric_for_best_model": "eval_reward/dark/overall"}
    watched = make(method, quiet, make_generator(), [BrightReward(), Dark()], HELD_OUT, **chosen)
    watched.train()
    assert same(weights(watched), weights(alone))
    dark = curve(watched, "eval_reward/dark/overall")
    assert dark == pytest.approx({step: -value for step, value in curve(alone).items()}, rel=1e-5)
    assert len(set(dark.values())) > 1


@pytest.mark.parametrize(
    ("loss_type", "beta", "warned"), [("nft", 1e-4, True), ("nft", 1e-3, False), ("awm", 1e-3, True)]
)
def test_nft_learns_from_guided_videos_where_it_is_held_to_the_reference(
    make_generator, quiet, caplog, loss_type, beta, warned
):
    generator = make_generator()
    generator.defaults = replace(generator.defaults, guidance_scale=3.0)
    with caplog.at_level(logging.WARNING):
        make("nft", quiet, generator, guidance_scale=3.0, beta=beta, loss_type=loss_type)
    assert ("acts twice" in caplog.text) == warned


def test_methods_that_fit_unguided_velocities_say_that_guidance_gets_into_the_weights():
    said = guidance_warning("RWR", "wan", (5.0, 5.0), (5.0, 5.0), True, learns_without=True)
    assert "acts twice" in said
    assert "--guidance_scale 1" in said
    assert guidance_warning("PPO", "wan", (5.0, 5.0), (5.0, 5.0), True, learns_without=False) is None
    full = guidance_warning("Backprop", "wan", (1.0, 1.0), (5.0, 5.0), False, learns_without=False)
    assert "sample the result with --guidance_scale 1" in full
    assert NFTConfig(output_dir="x", use_cpu=True).guidance_scale == 1
    second = guidance_warning("PPO", "a14b", (4.0, 2.0), (4.0, 3.0), True, learns_without=False)
    assert "trains with guidance 4 and 2, but a14b is sampled with 4 and 3 by default" in second
    assert "pass --guidance_scale 4 --guidance_scale_2 3 to train for it" in second
