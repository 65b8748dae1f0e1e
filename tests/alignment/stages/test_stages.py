"""`vidalign sft`, `dpo` and `ppo` from files to an adapter, on the tiny native generator."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
import transformers
from trl import TrlParser

from alignment.cli import main
from alignment.cli.commands import backprop, dpo, nft, online_dpo, ppo, rwr, sft
from alignment.lora import LoraArguments
from alignment.rollouts.sampling_plan import SamplingPlan
from alignment.stages.arguments import GeneratorArguments
from alignment.stages.on_rewards import PromptsAndRewards, train_ppo
from alignment.trainers.backprop_config import BackpropConfig
from alignment.trainers.dpo_config import DPOConfig
from alignment.trainers.nft_config import NFTConfig
from alignment.trainers.online_dpo_config import OnlineDPOConfig
from alignment.trainers.ppo_config import PPOConfig
from alignment.trainers.rwr_config import RWRConfig
from alignment.trainers.sft_config import SFTConfig
from generator.adapters.adapters import load_adapters
from generator.data.demonstrations import write_demonstrations
from generator.output import InputError
from generator.testing import tiny_generator
from generator.video import write_video
from generator.world.elaborate import elaborate
from reward.preferences import Ranking, write_rankings
from reward.training.reward_config import RewardConfig

MODEL = GeneratorArguments(model="tiny")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VIDALIGN_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def videos():
    random = torch.Generator().manual_seed(0)
    return [torch.rand(3, 5, 16, 16, generator=random) * 2 - 1 for _ in range(4)]


@pytest.fixture
def small(quiet):
    return quiet | {"max_steps": 2, "per_device_train_batch_size": 2, "learning_rate": 1e-3}


def check_adapter(folder, trainer):
    training = json.loads((folder / "training.json").read_text())
    assert training["base_model"] == "tiny"
    assert len(training["data_sha256"]) == 64
    assert training["trainer"] == type(trainer).__name__
    assert (folder / "trainer_state.json").is_file()
    loaded = tiny_generator()
    before = loaded.generate(["a"], 5, 16, 16, num_inference_steps=2)
    load_adapters(loaded, folder)
    after = loaded.generate(["a"], 5, 16, 16, num_inference_steps=2)
    trained = trainer.generator.generate(["a"], 5, 16, 16, num_inference_steps=2)
    assert not torch.equal(before, after)
    assert torch.allclose(after, trained, atol=1e-4)


def test_sft_from_a_folder_of_videos_and_its_latents_are_cached(tmp_path, videos, small, monkeypatch):
    write_demonstrations(tmp_path / "data", videos, [f"video {i}" for i in range(4)], fps=8)
    data = sft.SFTArguments(dataset=str(tmp_path / "data"), num_frames=5, height=16, width=16)
    trainer = sft.run(MODEL, data, LoraArguments(), SFTConfig(**small), generator=tiny_generator())
    check_adapter(tmp_path / "out", trainer)
    first = [sides[0] for sides in trainer.train_dataset.latents]

    again = tiny_generator()
    monkeypatch.setattr(again, "encode", lambda videos: pytest.fail("the latents were encoded again"))
    config = SFTConfig(**small | {"overwrite": True})
    trainer = sft.run(MODEL, data, LoraArguments(), config, generator=again)
    assert all(torch.equal(a, sides[0]) for a, sides in zip(first, trainer.train_dataset.latents))

    other = tiny_generator(seed=1)
    trainer = sft.run(MODEL, data, LoraArguments(), config, generator=other)
    assert not torch.equal(first[0], trainer.train_dataset.latents[0][0])


def test_overwrite_deletes_when_training_starts_and_never_what_is_read(tmp_path, videos, small):
    out = tmp_path / "out"
    write_demonstrations(tmp_path / "data", videos, [f"video {i}" for i in range(4)], fps=8)
    config = SFTConfig(**small | {"overwrite": True})

    def run(data, model=MODEL, **generator):
        arguments = sft.SFTArguments(dataset=str(tmp_path / data), num_frames=5, height=16, width=16)
        sft.run(model, arguments, LoraArguments(), config, **generator)

    run("data", generator=tiny_generator())
    old = out / "pytorch_lora_weights_2.safetensors"
    old.write_text("of an earlier run")
    with pytest.raises(InputError, match="'nowhere' is unknown"):
        run("data", GeneratorArguments(model="nowhere"))
    with pytest.raises(InputError, match=r"out is read, but lies in the output folder .*out"):
        run("data", GeneratorArguments(model="nano", adapter=[str(out)]), generator=tiny_generator())
    write_demonstrations(out / "data", videos, [f"video {i}" for i in range(4)], fps=8)
    with pytest.raises(InputError, match=r"data is read, but lies in the output folder .*out"):
        run("out/data", generator=tiny_generator())
    with pytest.raises(InputError, match=r"data/0000\.mp4.* sft did not write"):
        run("data", generator=tiny_generator())
    assert old.is_file()
    shutil.rmtree(out / "data")
    run("data", generator=tiny_generator())
    assert not old.exists()
    assert (out / "training.json").is_file()


def test_sft_keeps_the_size_and_duration_of_each_video(tmp_path, small):
    sizes = [(9, 32, 48), (5, 18, 16), (9, 32, 48)]
    videos = [torch.rand(3, *size) * 2 - 1 for size in sizes]
    write_demonstrations(tmp_path / "data", videos, ["a", "b", "c"], fps=8)
    data = sft.SFTArguments(dataset=str(tmp_path / "data"), native_size=True)
    generator = tiny_generator()
    trainer = sft.run(MODEL, data, LoraArguments(), SFTConfig(**small), generator=generator)
    shapes = trainer.train_dataset.shapes
    assert shapes == [generator.latent_shape(*size) for size in [(9, 32, 48), (5, 16, 16), (9, 32, 48)]]


def test_a_run_ends_with_where_the_result_is(tmp_path, videos, small, capsys):
    write_demonstrations(tmp_path / "data", videos, ["a", "b", "c", "d"], fps=8)
    data = sft.SFTArguments(dataset=str(tmp_path / "data"), num_frames=5, height=16, width=16)
    for use_peft, sentence in ((True, "The adapter is in"), (False, "The trained weights are in")):
        config = SFTConfig(**small | {"disable_tqdm": False, "overwrite": True})
        sft.run(MODEL, data, LoraArguments(use_peft=use_peft), config, generator=tiny_generator())
        assert f"{sentence} {tmp_path / 'out'}.\nNext:\n  vidalign generate" in capsys.readouterr().out


def test_progress_is_shown_where_the_libraries_are_silent(tmp_path):
    before = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    try:
        for config in (SFTConfig, PPOConfig, RewardConfig):
            assert config(output_dir=str(tmp_path), use_cpu=True).disable_tqdm is False
    finally:
        transformers.logging.set_verbosity(before)


def write_rankings_file(folder, videos, ranks=(1, 2, 2, 3)):
    folder.mkdir(exist_ok=True)
    rankings = []
    for prompt in ("left", "right"):
        paths = [folder / f"{prompt}{i}.mp4" for i in range(4)]
        for path, video in zip(paths, videos):
            write_video(path, video, 8)
        rankings.append(Ranking(prompt, paths, list(ranks)))
    write_rankings(folder / "rankings.jsonl", rankings)
    return folder / "rankings.jsonl"


def test_dpo_from_rankings_drops_ties_and_splits_by_prompt(tmp_path, videos, small, capsys):
    file = write_rankings_file(tmp_path / "data", videos)
    data = dpo.DPOArguments(preferences=str(file), eval_fraction=0.5, num_frames=5, height=16, width=16)
    trainer = dpo.run(MODEL, data, LoraArguments(), DPOConfig(**small), generator=tiny_generator())
    assert capsys.readouterr().err.count("Warning: 2 prompts are few, below 30") == 1
    first = next(entry for entry in trainer.state.log_history if "rewards/accuracies" in entry)
    assert (
        first["rewards/accuracies"] == 0.5
    )  # an adapter that has learned nothing knows neither better nor worse
    assert len(trainer.train_dataset) == len(trainer.eval_dataset) == 5
    assert not set(trainer.train_dataset.rows) & set(trainer.eval_dataset.rows)
    check_adapter(tmp_path / "out", trainer)


@pytest.mark.parametrize(
    ("loss_type", "count", "size"), [("plackett_luce", 1, 4), ("rao_kupper", 2, 4), ("ipo", 5, 2)]
)
def test_dpo_learns_from_whole_rankings_or_their_pairs(tmp_path, videos, small, loss_type, count, size):
    file = write_rankings_file(tmp_path / "data", videos)
    rows = file.read_text().splitlines()
    tied = json.loads(rows[1]) | {"ranks": [1, 1, 1, 1]}
    file.write_text(f"{rows[0]}\n{json.dumps(tied)}\n")
    data = dpo.DPOArguments(preferences=str(file), num_frames=5, height=16, width=16)
    config = DPOConfig(**small, loss_type=loss_type)
    trainer = dpo.run(MODEL, data, LoraArguments(), config, generator=tiny_generator())
    assert len(trainer.train_dataset) == count
    assert trainer.train_dataset[0]["latents"].shape[0] == size
    check_adapter(tmp_path / "out", trainer)


def test_ppo_from_prompts_and_a_reward(tmp_path, bright, quiet, capsys):
    bright.scores_latents = False
    (tmp_path / "prompts.txt").write_text("a circle\na square\n")
    config = PPOConfig(
        num_rollouts=2, num_prompts=2, num_generations=2, num_inference_steps=3, num_mini_batches=1,
        num_frames=5, height=16, width=16, **quiet,
    )  # fmt: skip
    data = ppo.PPOArguments(prompts=str(tmp_path / "prompts.txt"))
    trainer = ppo.run(MODEL, data, LoraArguments(), config, generator=tiny_generator(), reward=bright)
    assert capsys.readouterr().err.count("Warning: 2 prompts are few, below 30") == 1
    check_adapter(tmp_path / "out", trainer)
    assert [entry["reward"] for entry in trainer.state.log_history if "reward" in entry]


def test_ppo_starts_from_an_adapter_and_saves_one_that_contains_it(tmp_path, videos, small, bright, quiet):
    write_demonstrations(tmp_path / "data", videos, ["a"] * 4, fps=8)
    data = sft.SFTArguments(dataset=str(tmp_path / "data"), num_frames=5, height=16, width=16)
    config = SFTConfig(**small | {"output_dir": str(tmp_path / "sft")})
    sft.run(MODEL, data, LoraArguments(), config, generator=tiny_generator())
    generator = tiny_generator()
    load_adapters(generator, tmp_path / "sft")
    bright.scores_latents = False
    (tmp_path / "prompts.txt").write_text("a circle\na square\n")
    config = PPOConfig(
        num_rollouts=2, num_prompts=2, num_generations=2, num_inference_steps=3, num_mini_batches=1,
        num_frames=5, height=16, width=16, **quiet,
    )  # fmt: skip
    arguments = ppo.PPOArguments(prompts=str(tmp_path / "prompts.txt"))
    trainer = ppo.run(MODEL, arguments, LoraArguments(), config, generator=generator, reward=bright)
    check_adapter(tmp_path / "out", trainer)  # the saved adapter alone gives the videos of both
    from_base = ppo.run(
        MODEL,
        arguments,
        LoraArguments(),
        replace(config, output_dir=str(tmp_path / "from_base")),
        generator=tiny_generator(),
        reward=bright,
    )
    both, alone = (
        one.generator.generate(["a"], 5, 16, 16, num_inference_steps=2) for one in (trainer, from_base)
    )
    assert not torch.allclose(both, alone, atol=1e-4)


def test_mistakes_are_one_clear_sentence(tmp_path, videos, small, quiet):
    with pytest.raises(InputError, match="--dataset"):
        sft.run(MODEL, sft.SFTArguments(), LoraArguments(), SFTConfig(**small))
    with pytest.raises(InputError, match="--preferences"):
        dpo.run(MODEL, dpo.DPOArguments(), LoraArguments(), DPOConfig(**small))
    with pytest.raises(InputError, match="--reward"):
        ppo.run(MODEL, ppo.PPOArguments(prompts="p"), LoraArguments(), PPOConfig(**quiet))
    file = write_rankings_file(tmp_path / "data", videos)
    data = dpo.DPOArguments(preferences=str(file), dimension="motion")
    with pytest.raises(InputError, match="no pair of videos"):
        dpo.run(MODEL, data, LoraArguments(), DPOConfig(**small))
    write_demonstrations(tmp_path / "demonstrations", videos, ["a"] * 4, fps=8)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "kept").touch()
    data = sft.SFTArguments(dataset=str(tmp_path / "demonstrations"))
    with pytest.raises(InputError, match="--overwrite"):
        sft.run(MODEL, data, LoraArguments(), SFTConfig(**small), generator=tiny_generator())
    assert (tmp_path / "out" / "kept").exists()


@pytest.mark.parametrize(
    ("command", "config"),
    [(rwr, RWRConfig), (nft, NFTConfig), (online_dpo, OnlineDPOConfig), (backprop, BackpropConfig)],
)
def test_further_policies_from_prompts_and_a_reward(tmp_path, quiet, bright, command, config):
    (tmp_path / "prompts.txt").write_text("a circle\na square\n")
    sizes = {"num_frames": 5, "height": 16, "width": 16, "num_inference_steps": 3, "learning_rate": 1e-2}
    if command is backprop:
        settings = config(max_steps=2, per_device_train_batch_size=2, **sizes, **quiet)
    else:
        settings = config(
            num_rollouts=2, num_prompts=2, num_generations=2, num_mini_batches=1, **sizes, **quiet
        )
    data = PromptsAndRewards(prompts=str(tmp_path / "prompts.txt"))
    trainer = command.run(
        MODEL, data, LoraArguments(), settings, generator=tiny_generator(), reward=[bright, bright]
    )
    check_adapter(tmp_path / "out", trainer)
    assert [entry["reward"] for entry in trainer.state.log_history if "reward" in entry]
    with pytest.raises(InputError, match="--reward"):
        command.run(MODEL, data, LoraArguments(), settings)


def test_ppo_takes_demonstrations_and_a_reward_by_name(tmp_path, videos, quiet, monkeypatch):
    (tmp_path / "paleness.py").write_text("def judge(videos, prompts): return videos.mean((1, 2, 3, 4))\n")
    monkeypatch.syspath_prepend(tmp_path)
    write_demonstrations(tmp_path / "data", videos, ["a"] * 4, fps=8)
    config = PPOConfig(
        num_rollouts=1, num_prompts=2, num_generations=2, num_inference_steps=3, num_mini_batches=1,
        num_frames=5, height=16, width=16, ptx_coef=0.5, reward_weights=[1.0, 2.0], **quiet,
    )  # fmt: skip
    data = ppo.PPOArguments(
        prompts="world:train:3:0", reward=["world", "paleness:judge"], ptx_dataset=str(tmp_path / "data")
    )
    trainer = ppo.run(MODEL, data, LoraArguments(), config, generator=tiny_generator())
    entry = next(e for e in trainer.state.log_history if "reward" in e)
    assert {"loss/ptx", "rewards/world/overall/mean"} <= set(entry)
    record = json.loads((tmp_path / "out" / "training.json").read_text())
    assert record["reward"][0] == "world"
    assert record["lora"]["lora_alpha"] == 32, "2 r stands for an unset one"
    assert record["arguments"]["guidance_scale"] == trainer.generator.defaults.guidance_scale
    assert ppo.PPOArguments(reward="one").reward == ["one"]


def write_reward_metrics(folder, mean):
    """The figures of a reward model whose accuracy is `mean` within 0.1, where the first video has 0.59."""
    folder.mkdir()
    accuracy = {"mean": mean, "low": mean - 0.1, "high": mean + 0.1, "n": 80, "clusters": 20}
    figures = {"accuracy": accuracy, "position_baseline": 0.59}
    (folder / "metrics.json").write_text(json.dumps({"overall": {"train": None, "held_out": figures}}))


@pytest.mark.parametrize(("command", "config"), [(ppo, PPOConfig), (backprop, BackpropConfig)])
def test_held_out_prompts_and_uncertain_rewards_are_in_the_log_and_the_record(
    tmp_path, quiet, bright, caplog, command, config
):
    sizes = {"num_frames": 5, "height": 16, "width": 16, "num_inference_steps": 3, "learning_rate": 1e-2}
    if command is ppo:
        sizes |= {"num_rollouts": 2, "num_prompts": 2, "num_generations": 2, "num_mini_batches": 1}
    else:
        sizes |= {"max_steps": 2, "per_device_train_batch_size": 2}
    settings = config(**sizes, **quiet, load_best_model_at_end=True, metric_for_best_model="gold")
    for name, mean in (("chance", 0.62), ("good", 0.8)):
        write_reward_metrics(tmp_path / name, mean)
    bright.name = str(tmp_path / "chance")
    (tmp_path / "prompts.txt").write_text("a red circle\na blue square\n")
    data = ppo.PPOArguments if command is ppo else PromptsAndRewards
    data = data(prompts=str(tmp_path / "prompts.txt"), eval_prompts="world:test:2")
    trainer = command.run(MODEL, data, LoraArguments(), settings, generator=tiny_generator(), reward=bright)
    check_adapter(tmp_path / "out", trainer)
    record = json.loads((tmp_path / "out" / "training.json").read_text())
    assert caplog.text.count("may be no better than chance: its held-out accuracy in overall is 0.620") == 1
    assert record["uncertain_rewards"][0].startswith(f"The reward {tmp_path / 'chance'} may be")
    assert record["eval_prompts"]["data"] == "world:test:2"
    assert record["evaluation"]["is_best"]
    assert [entry["step"] for entry in trainer.state.log_history if "eval_gold" in entry] == [0, 1, 2]
    bright.name = str(tmp_path / "good")
    refusing = replace(settings, output_dir=str(tmp_path / "again"), refuse_uncertain_reward=True)
    command.run(MODEL, data, LoraArguments(), refusing, generator=tiny_generator(), reward=bright)
    record = json.loads((tmp_path / "again" / "training.json").read_text())
    assert "uncertain_rewards" not in record
    refusing = replace(refusing, output_dir=str(tmp_path / "refused"))
    with pytest.raises(InputError, match="no better than chance"):
        command.run(MODEL, data, LoraArguments(), refusing, reward=[str(tmp_path / "chance")])
    assert not (tmp_path / "refused").exists()


def test_held_out_prompts_that_are_trained_on_too_are_named(tmp_path, quiet, bright, caplog):
    (tmp_path / "prompts.txt").write_text("a circle\na square\n")
    (tmp_path / "held_out.txt").write_text("a circle\na ring\n")
    config = PPOConfig(
        num_rollouts=1, num_prompts=2, num_generations=2, num_inference_steps=3, num_mini_batches=1,
        num_frames=5, height=16, width=16, **quiet,
    )  # fmt: skip
    sources = {"eval_prompts": tmp_path / "held_out.txt", "generator": tiny_generator()}
    train_ppo(MODEL, tmp_path / "prompts.txt", bright, args=config, **sources)
    assert f"--eval_prompts {tmp_path / 'held_out.txt'}, 1 are trained on too" in caplog.text


def test_an_adapter_is_sampled_with_the_guidance_that_it_was_trained_with(tmp_path, quiet, bright):
    (tmp_path / "prompts.txt").write_text("a circle\na square\n")
    config = PPOConfig(
        num_rollouts=1, num_prompts=2, num_generations=2, num_inference_steps=3, num_mini_batches=1,
        num_frames=5, height=16, width=16, guidance_scale=2.5, **quiet,
    )  # fmt: skip
    train_ppo(MODEL, tmp_path / "prompts.txt", bright, args=config, generator=tiny_generator())
    loaded = tiny_generator()
    assert loaded.defaults.guidance_scale != 2.5
    load_adapters(loaded, tmp_path / "out")
    assert loaded.defaults.guidance_scale == 2.5
    size = {"num_frames": 5, "height": 16, "width": 16, "num_inference_steps": 2}
    assert torch.equal(loaded.generate(["a"], **size), loaded.generate(["a"], **size, guidance_scale=2.5))


def test_rewards_judge_the_prompt_as_it_was_and_the_policy_is_given_the_rewritten_one(
    tmp_path, quiet, bright
):
    (tmp_path / "prompts.txt").write_text("a disc\ntwo squares\n")
    judged, score = [], bright.score_latents
    bright.score_latents = lambda latents, conditions: (
        judged.append(conditions),
        score(latents, conditions),
    )[1]
    config = PPOConfig(
        num_rollouts=1, num_prompts=2, num_generations=2, num_inference_steps=3, num_mini_batches=1,
        num_frames=5, height=16, width=16, **quiet,
    )  # fmt: skip
    data = PromptsAndRewards(prompts=str(tmp_path / "prompts.txt"), rewriter="world")
    trainer = train_ppo(MODEL, data, bright, args=config, generator=tiny_generator())
    plan, rows = trainer.plan, torch.tensor([0, 1])
    assert plan.prompts == ["a disc", "two squares"]
    own = {row.sum().item() for row in texts_of(plan.text_conditions_of(rows))}
    given = {row.sum().item() for row in texts_of(plan.conditions_of(rows))}
    assert own.isdisjoint(given)
    assert {row.sum().item() for each in judged for row in texts_of(each)} == own
    expected = SamplingPlan.for_prompts(trainer.generator, [elaborate(prompt) for prompt in plan.prompts])
    assert torch.allclose(
        texts_of(plan.conditions_of(rows)).sum(1), texts_of(expected.conditions_of(rows)).sum(1), atol=1e-5
    )
    assert json.loads((tmp_path / "out" / "training.json").read_text())["rewriter"] == "world"


def texts_of(conditions):
    """Encoded words of conditions, those that fill up zero."""
    return conditions["encoder_hidden_states"] * conditions["encoder_attention_mask"][..., None]


def test_the_help_of_ppo_says_that_prompts_of_the_world_work(capsys):
    assert main(["ppo", "--help"]) == 0
    assert "world:SPLIT:N" in capsys.readouterr().out


@pytest.mark.parametrize("command", [sft, dpo, ppo, online_dpo, rwr, nft, backprop])
def test_every_argument_is_documented_and_parsed(command, tmp_path):
    parser = TrlParser(command.ARGUMENTS)
    undocumented = [action.dest for action in parser._actions if not action.help]
    assert undocumented == []
    parsed = parser.parse_args_and_config(
        ["--output_dir", str(tmp_path), "--adapter", "a", "b", "--lora_r", "4", "--report_to", "none"]
    )
    assert parsed[0].adapter == ["a", "b"]
    assert parsed[2].lora_r == 4
    assert command.EXAMPLE.startswith("vidalign ")
