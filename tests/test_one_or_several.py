"""One text where several are taken is one text, not its letters."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from alignment.cli import main
from alignment.cli.commands.evaluate import EvaluateArguments, name_adapters
from alignment.cli.commands.ppo import PPOArguments
from alignment.cli.evaluate_verbs import CompareArguments
from alignment.cli.video_prompt_arguments import VideoPromptArguments
from alignment.data.latent_dataset import PromptTable
from alignment.guided_sampling import sample_aligned
from alignment.lora import LoraArguments
from alignment.rollouts.reward_mixture import RewardMixture
from alignment.rollouts.sampling_plan import SamplingPlan
from alignment.stages.arguments import GeneratorArguments
from alignment.stages.on_rewards import PromptsAndRewards
from alignment.trainers.ppo_config import PPOConfig
from alignment.trainers.ppo_trainer import PPOTrainer
from generator.data.demonstrations import read_demonstrations, write_demonstrations
from generator.data.latent_cache import encode_files
from generator.editing.flow_edit import edit
from generator.editing.video_prompts import animate
from generator.output import InputError
from generator.sampling import encode_unique_prompts, generate_latents
from generator.testing import tiny_generator
from generator.video import write_video
from generator.world import verify_batch
from labeling_app.campaigns.demonstrations import ask
from labeling_app.store.store import Store
from reward import load_reward
from reward.adherence.evaluate import evaluate_videos, summarise
from reward.reports.runs import name_runs
from reward.training.reward_config import RewardConfig

SIZE = {"num_frames": 5, "height": 16, "width": 16, "num_inference_steps": 2}
PROMPT = "a red circle"


@pytest.fixture(scope="module")
def generator():
    return tiny_generator()


def test_a_string_is_one_prompt_of_every_function_that_makes_videos(generator) -> None:
    expected = generator.generate([PROMPT], **SIZE)
    assert expected.shape == (1, 3, 5, 16, 16)
    assert torch.equal(generator.generate(PROMPT, **SIZE), expected)
    assert torch.equal(
        generate_latents(generator, PROMPT, **SIZE), generate_latents(generator, [PROMPT], **SIZE)
    )
    rewards = RewardMixture([load_reward("world")])
    assert len(sample_aligned(SamplingPlan.for_prompts(generator, PROMPT, **SIZE), rewards, [0]).latents) == 1
    assert len(edit(generator, expected, PROMPT, 0.5)) == 1
    assert len(animate(generator, expected[:, :, 0], PROMPT, 5)) == 1


def test_a_string_is_one_prompt_of_every_function_that_encodes_prompts(generator) -> None:
    for name, value in generator.encode_prompts([PROMPT]).items():
        assert torch.equal(generator.encode_prompts(PROMPT)[name], value)
    assert encode_unique_prompts(generator, PROMPT)[1].tolist() == [0]
    assert len(PromptTable.encode(generator, PROMPT).rows) == 1


def test_negative_prompts_are_one_for_all_or_one_for_each(generator) -> None:
    prompts, guided = ["a red circle", "a blue square"], {**SIZE, "guidance_scale": 3.0}
    one = generator.generate(prompts, negative_prompt="a star", **guided)
    assert torch.equal(generator.generate(prompts, negative_prompt=["a star"], **guided), one)
    two = generator.generate(prompts, negative_prompt=["a star", "a cross"], **guided)
    assert torch.allclose(two[0], one[0], atol=1e-5)
    assert not torch.allclose(two[1], one[1], atol=1e-5)
    with pytest.raises(InputError, match="3 negative prompts were given for 2 prompts"):
        generator.generate(prompts, negative_prompt=["a", "b", "c"], **guided)


def test_a_string_is_one_prompt_of_whatever_judges_videos(generator) -> None:
    videos = generator.generate([PROMPT], **SIZE)
    assert len(verify_batch(videos, PROMPT)) == 1
    assert load_reward("world").score(videos, PROMPT)["overall"].shape == (1,)
    assert load_reward(["world", "world"]).score(videos, PROMPT)["overall"].shape == (1,)
    samples = evaluate_videos({"base": videos, "other": videos}, PROMPT, [0])
    assert [sample.prompt for sample in samples] == [PROMPT, PROMPT]
    assert list(summarise(samples, "other")["category_differences"]) == ["other"]


def test_a_string_is_one_prompt_of_the_trainers(generator, tmp_path: Path) -> None:
    config = PPOConfig(
        output_dir=str(tmp_path), report_to="none", use_cpu=True, num_prompts=1, num_generations=2,
        num_mini_batches=1, num_inference_steps=3, num_rollouts=1, monitor_videos=0,
        num_frames=5, height=16, width=16, sde_window_size=1, sde_first_step=0, guidance_scale=2.0,
    )  # fmt: skip
    trainer = PPOTrainer(tiny_generator(), config, PROMPT, load_reward("world"), negative_prompts="a star")
    assert trainer.plan.prompts == [PROMPT]
    assert trainer.plan.negative_rows is not None
    assert len(trainer.plan.negative_rows) == 1


def test_a_string_is_one_adapter_reward_model_or_layer_in_the_arguments() -> None:
    assert GeneratorArguments(adapter="sft").adapter == ["sft"]
    assert LoraArguments(lora_target_modules="to_q").lora_target_modules == ["to_q"]
    assert PPOArguments(reward="world").reward == ["world"]
    assert PromptsAndRewards(reward="world").reward == ["world"]
    assert EvaluateArguments("out", adapter="sft", reference="base").adapter == ["sft"]
    assert CompareArguments("run", "out").runs == ["run"]
    assert RewardConfig("out", dimensions="motion", report_to="none").dimensions == ["motion"]
    with pytest.raises(InputError, match="--connect got 1 videos"):
        assert VideoPromptArguments(connect="ab").task


def test_a_path_is_one_folder_or_file(generator, tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", torch.zeros(3, 5, 16, 16), 8)
    assert len(encode_files(generator, tmp_path / "a.mp4", cache_dir=tmp_path, progress=False)) == 1
    assert name_adapters(str(tmp_path)) == {tmp_path.name: str(tmp_path)}
    (tmp_path / "report.json").write_text("{}")
    (tmp_path / "metadata.jsonl").write_text("")
    with pytest.raises(InputError, match="One run cannot be compared"):
        name_runs(str(tmp_path))


def test_a_string_is_one_prompt_of_demonstrations(tmp_path: Path) -> None:
    write_demonstrations(tmp_path / "data", torch.zeros(1, 3, 5, 16, 16), PROMPT, 8)
    assert [demonstration.prompt for demonstration in read_demonstrations(tmp_path / "data")] == [PROMPT]
    with Store(tmp_path / "labels.db") as store:
        from labeling_app.campaigns.campaigns import add_campaign

        add_campaign(store, "first", dimensions="overall")
        assert ask(store, "first", PROMPT) == 1


def test_a_string_is_one_command_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main("--version") == 0
    assert capsys.readouterr().out.startswith("vidalign ")
    output = tmp_path / "two words"
    arguments = f"--num_frames 5 --height 16 --width 16 --num_inference_steps 1 --output_dir '{output}'"
    assert main(f"generate --model nano --prompts world:test:1 {arguments}") == 0
    assert len((output / "metadata.jsonl").read_text().splitlines()) == 1
    assert json.loads((output / "metadata.jsonl").read_text())["model"] == "nano"
