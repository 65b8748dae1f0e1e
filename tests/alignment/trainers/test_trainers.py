"""What holds for SFT, DPO and PPO alike: resuming, saving, EMA, only LoRA is trained."""

import pytest
import torch
from safetensors.torch import load_file

from alignment.lora import LoraArguments, adapters_disabled
from alignment.stages.stage import checkpoint_to_resume
from alignment.trainers.dpo_config import DPOConfig
from alignment.trainers.dpo_trainer import DPOTrainer
from alignment.trainers.policy import Policy
from alignment.trainers.ppo_config import PPOConfig
from alignment.trainers.ppo_trainer import PPOTrainer
from alignment.trainers.sft_config import SFTConfig
from alignment.trainers.sft_trainer import SFTTrainer
from alignment.trainers.weight_average import WeightAverage
from generator.adapters.adapters import load_adapters
from generator.files.output_folder import MARK
from generator.output import InputError, write_json


def make_trainer(kind, generator, latents, prompts, reward, lora=None, **arguments):
    """A run of 8 optimiser steps with accumulation, warm-up and several epochs."""
    if kind == "ppo":
        config = PPOConfig(
            num_rollouts=4, num_prompts=2, num_generations=4, num_inference_steps=4, num_mini_batches=2,
            per_device_train_batch_size=6, learning_rate=1e-2, **arguments,
        )  # fmt: skip
        return PPOTrainer(generator, config, prompts, reward, lora=lora)
    common = {
        "max_steps": 8, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2,
        "learning_rate": 1e-2, "lr_scheduler_type": "linear", "warmup_steps": 2,
    } | arguments  # fmt: skip
    if kind == "sft":
        lora = lora or LoraArguments(lora_dropout=0.2)
        return SFTTrainer(generator, SFTConfig(**common), latents, prompts, lora=lora)
    return DPOTrainer.from_pairs(generator, DPOConfig(**common), latents, latents[::-1], prompts, lora=lora)


def weights(trainer):
    return {n: p.detach().clone() for n, p in trainer.policy.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("kind", ["sft", "dpo", "ppo"])
def test_resuming_equals_the_uninterrupted_run_bit_for_bit(
    kind, make_generator, latents, prompts, bright, quiet, tmp_path
):
    """From the middle of an epoch; PPO from the end of a rollout, to which its checkpoints are rounded up."""
    quiet |= {"save_strategy": "steps", "save_steps": 3, "save_total_limit": None, "ema_decay": 0.9}
    whole = make_trainer(kind, make_generator(), latents, prompts, bright, **quiet)
    whole.train()
    whole.save_model()

    torch.manual_seed(99)
    quiet["output_dir"] = str(tmp_path / "resumed")
    resumed = make_trainer(kind, make_generator(), latents, prompts, bright, **quiet)
    checkpoint = tmp_path / "out" / ("checkpoint-4" if kind == "ppo" else "checkpoint-3")
    resumed.train(resume_from_checkpoint=str(checkpoint))
    resumed.save_model()

    assert whole.state.global_step == resumed.state.global_step == 8
    expected, found = weights(whole), weights(resumed)
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert any((value != 0).any() for name, value in found.items() if "lora_B" in name)
    assert whole.lr_scheduler.state_dict() == resumed.lr_scheduler.state_dict()
    moments = [trainer.optimizer.state_dict()["state"] for trainer in (whole, resumed)]
    assert all(
        torch.equal(moments[0][key][name], moments[1][key][name])
        for key in moments[0]
        for name in ("exp_avg", "exp_avg_sq")
    )
    files = [load_file(tmp_path / name / "pytorch_lora_weights.safetensors") for name in ("out", "resumed")]
    assert all(torch.equal(files[0][name], files[1][name]) for name in files[0])
    losses = [[entry["loss"] for entry in t.state.log_history if "loss" in entry] for t in (whole, resumed)]
    assert losses[0] == losses[1]


@pytest.mark.parametrize("kind", ["sft", "dpo", "ppo"])
def test_only_lora_is_trained_and_the_saved_adapter_gives_the_trained_output(
    kind, make_generator, latents, prompts, bright, quiet, tmp_path
):
    generator, untouched = make_generator(), make_generator()
    trainer = make_trainer(kind, generator, latents, prompts, bright, **quiet)
    trainer.train()
    trainer.save_model()
    x, sigma = torch.stack(latents), torch.full((6,), 0.5)
    conditions = generator.encode_prompts(prompts)
    with torch.no_grad(), adapters_disabled(generator.transformer):
        assert torch.equal(generator.velocity(x, sigma, conditions), untouched.velocity(x, sigma, conditions))
    with torch.no_grad():
        trained = generator.velocity(x, sigma, conditions)
        before = untouched.velocity(x, sigma, conditions)
        load_adapters(untouched, tmp_path / "out")
        after = untouched.velocity(x, sigma, conditions)
    assert not torch.allclose(trained, before, atol=1e-3)
    assert torch.allclose(trained, after, atol=1e-5)


def test_ema_swap_restores_the_live_weights_and_shares_no_memory(generator):
    policy = Policy(generator.transformer)
    ema = WeightAverage(policy)
    live = {name: p.detach().clone() for name, p in policy.named_parameters()}
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(1)
    with ema.swapped():
        assert all(torch.equal(p, live[name]) for name, p in policy.named_parameters())
    assert all(torch.equal(p, live[name] + 1) for name, p in policy.named_parameters())
    assert all(torch.equal(ema.average[name], live[name]) for name in live)


def test_ema_is_the_weighted_mean_of_past_weights_and_is_what_is_saved(
    generator, latents, prompts, bright, quiet, make_generator, tmp_path
):
    trainer = make_trainer("sft", generator, latents, prompts, bright, ema_decay=0.5, **quiet)
    history = [weights(trainer)]
    update = trainer.ema.update

    def spy(decay):
        history.append(weights(trainer))
        update(decay)

    trainer.ema.update = spy
    trainer.train()
    expected = history[0]
    for step, values in enumerate(history[1:], start=1):
        decay = min(0.5, (1 + step) / (10 + step))
        expected = {name: decay * expected[name] + (1 - decay) * values[name] for name in expected}
    assert all(torch.allclose(trainer.ema.average[name], expected[name], atol=1e-6) for name in expected)

    trainer.save_model()
    loaded = make_generator()
    load_adapters(loaded, tmp_path / "out")
    arguments = torch.stack(latents), torch.full((6,), 0.5), generator.encode_prompts(prompts)
    with torch.no_grad(), trainer.ema.swapped():
        assert torch.allclose(loaded.velocity(*arguments), generator.velocity(*arguments), atol=1e-5)


def test_gradient_checkpointing_gives_the_same_weights(make_generator, latents, prompts, bright, quiet):
    results = []
    for enabled in (False, True):
        trainer = make_trainer(
            "dpo", make_generator(), latents, prompts, bright, gradient_checkpointing=enabled, **quiet
        )
        trainer.train()
        results.append(weights(trainer))
    assert all(torch.allclose(results[0][name], results[1][name], atol=1e-6) for name in results[0])


def test_full_fine_tuning_trains_every_weight(generator, latents, prompts, quiet):
    config = SFTConfig(max_steps=2, per_device_train_batch_size=2, learning_rate=1e-2, **quiet)
    before = {name: p.detach().clone() for name, p in generator.transformer.named_parameters()}
    trainer = SFTTrainer(generator, config, latents, prompts, lora=LoraArguments(use_peft=False))
    trainer.train()
    after = dict(generator.transformer.named_parameters())
    assert all(not torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("folder", ["checkpoint-3", "result"])
def test_weights_that_are_not_finite_are_never_saved(
    folder, generator, latents, prompts, bright, quiet, tmp_path
):
    trainer = make_trainer("sft", generator, latents, prompts, bright, **quiet)
    next(p for p in trainer.policy.parameters() if p.requires_grad).data[0, 0] = float("nan")
    with pytest.raises(InputError, match=r"has diverged.*learning_rate, which is 0\.01"):
        trainer.save_model(str(tmp_path / folder))
    assert not (tmp_path / folder / "training.json").exists()


@pytest.mark.parametrize("kind", ["dpo", "ppo"])
def test_a_reference_needs_lora(kind, generator, latents, prompts, bright, quiet):
    with pytest.raises(InputError, match="its reference needs LoRA"):
        make_trainer(kind, generator, latents, prompts, bright, lora=LoraArguments(use_peft=False), **quiet)


def test_a_checkpoint_of_other_layers_is_refused(make_generator, latents, prompts, bright, quiet, tmp_path):
    quiet |= {"save_strategy": "steps", "save_steps": 4}
    make_trainer("sft", make_generator(), latents, prompts, bright, **quiet).train()
    other = make_trainer(
        "sft", make_generator(), latents, prompts, bright, lora=LoraArguments(lora_r=3), **quiet
    )
    with pytest.raises(InputError, match="holds other trained layers"):
        other.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-8"))


def test_an_output_folder_in_use_is_refused_and_latest_finds_the_newest_whole_checkpoint(quiet, tmp_path):
    for name, state in (
        ("checkpoint-4", "{}"),
        ("checkpoint-12", '{"epoch": 1.5, "lo'),
        ("checkpoint-20", None),
    ):
        (tmp_path / "out" / name).mkdir(parents=True)
        if state is not None:
            (tmp_path / "out" / name / "trainer_state.json").write_text(state)
    write_json(tmp_path / "out" / MARK, {"command": "sft"})
    with pytest.raises(
        InputError, match=r"(?s)go on from its checkpoint-4 with.*--resume_from_checkpoint latest"
    ):
        checkpoint_to_resume(SFTConfig(**quiet))
    latest = checkpoint_to_resume(SFTConfig(resume_from_checkpoint="latest", **quiet))
    assert latest == str(tmp_path / "out" / "checkpoint-4")
    with pytest.raises(InputError, match="does not exist"):
        checkpoint_to_resume(SFTConfig(resume_from_checkpoint="nowhere", **quiet))
    with pytest.raises(InputError, match="checkpoint-4 of an unfinished training"):
        checkpoint_to_resume(SFTConfig(overwrite=True, **quiet))
    assert checkpoint_to_resume(SFTConfig(overwrite=True, discard_checkpoints=True, **quiet)) is None
    with pytest.raises(InputError, match="output of vidalign sft"):
        checkpoint_to_resume(PPOConfig(resume_from_checkpoint="latest", **quiet))


def test_the_state_of_a_checkpoint_waits_for_the_files_of_all_processes(
    make_generator, latents, prompts, bright, quiet, tmp_path
):
    """A checkpoint with its state counts as whole, so that a run that is killed must not leave one without the rest."""
    quiet |= {"save_strategy": "steps", "save_steps": 4, "save_total_limit": None}
    trainer = make_trainer("sft", make_generator(), latents, prompts, bright, **quiet)
    waited, wait = [], trainer.accelerator.wait_for_everyone

    def note():
        newest = max((tmp_path / "out").glob("checkpoint-*"), default=None)
        waited.append(set() if newest is None else {path.name for path in newest.iterdir()})
        wait()

    trainer.accelerator.wait_for_everyone = note
    trainer.train()
    assert any("rng_state.pth" in files and "trainer_state.json" not in files for files in waited)


@pytest.mark.parametrize(
    ("kind", "boundary", "settings", "lora", "searches"),
    [
        ("sft", None, {}, LoraArguments(), False),
        ("dpo", None, {}, LoraArguments(), False),
        ("ppo", None, {}, LoraArguments(), False),
        ("sft", None, {"ddp_find_unused_parameters": True}, LoraArguments(), True),
        ("sft", None, {}, LoraArguments(lora_target_modules=["to_q"]), True),
        ("sft", None, {}, LoraArguments(use_peft=False), True),
        ("sft", 0.875, {}, LoraArguments(), True),
    ],
)
def test_ddp_searches_graphs_only_where_a_step_may_leave_weights_out(
    kind, boundary, settings, lora, searches, make_generator, latents, prompts, bright, quiet
):
    """Layers that a user names may be unused, and a noise level may need only one expert."""

    class Experts(make_generator):
        pass

    Experts.boundary = boundary
    trainer = make_trainer(kind, Experts(), latents, prompts, bright, lora, **quiet, **settings)
    assert trainer.accelerator.ddp_handler.find_unused_parameters == searches
