"""PPO against the reward `ocr`: a tiny generator is fine-tuned on pictures of words, then learns to write them better.

    python -m benchmarks.reward.ocr_ppo --output_dir runs/ocr_ppo

The generator is a perceptron on small grey pictures, which are enlarged eightfold; training on them stops while half of
its letters are misread. It prints the reward on fixed seeds before and after PPO, and keeps both as pictures.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.loaders import PeftAdapterMixin
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn
from torch.nn import functional

from alignment.lora import LoraArguments
from alignment.trainers.ppo_config import PPOConfig
from alignment.trainers.ppo_trainer import PPOTrainer
from generator.base import VideoGenerator
from generator.conditions import Conditions
from generator.output import InputError
from generator.video_model import GenerationDefaults
from reward import load_reward
from reward.models.base import RewardModel
from reward.models.named.written_text import quoted_texts

HEIGHT, WIDTH, ENLARGED = 16, 48, 8
MOST_STEPS = 1000
WORDS = ("OPEN", "EXIT", "MILK", "TAXI", "BOOK", "FISH")


class WordTransformer(ModelMixin, ConfigMixin, PeftAdapterMixin):
    """Velocity (x − x₀) / σ of a grey picture x, whose clean picture x₀ two residual blocks predict for a word."""

    @register_to_config
    def __init__(self, size: int = 512) -> None:
        super().__init__()
        self.into = nn.Linear(HEIGHT * WIDTH + 32 + 16, size)
        self.fc1 = nn.ModuleList([nn.Linear(size + 32, size) for _ in range(2)])
        self.fc2 = nn.ModuleList([nn.Linear(size, size) for _ in range(2)])
        self.out = nn.Linear(size, HEIGHT * WIDTH)

    def forward(self, hidden_states: Tensor, timestep: Tensor, encoder_hidden_states: Tensor) -> Tensor:
        phases = timestep[:, None].float() * 2 ** torch.arange(8, device=timestep.device)
        time = torch.cat([phases.sin(), phases.cos()], 1).to(hidden_states)
        words = encoder_hidden_states.to(hidden_states)
        x = functional.silu(self.into(torch.cat([hidden_states.flatten(1), words, time], 1)))
        for first, second in zip(self.fc1, self.fc2):
            x = x + second(functional.silu(first(torch.cat([x, words], 1))))
        clean = self.out(x).view_as(hidden_states)
        return (hidden_states - clean) / timestep.clamp(min=0.1)[:, None, None, None, None]


class WordGenerator(VideoGenerator):
    """Pictures of words as videos of one frame; latents are the grey picture itself."""

    def __init__(self) -> None:
        self.name = "words"
        self.pipeline = SimpleNamespace()
        self.defaults = GenerationDefaults(1, HEIGHT * ENLARGED, WIDTH * ENLARGED, 8.0, 8, 1.0, 1.0)
        self.lora_target_modules = ["fc1.0", "fc1.1", "fc2.0", "fc2.1", "into", "out"]
        self._transformer = WordTransformer()

    @property
    def transformer(self) -> nn.Module:
        return self._transformer

    def check_size(self, num_frames: int, height: int, width: int) -> None:
        if (num_frames, height, width) != (1, HEIGHT * ENLARGED, WIDTH * ENLARGED):
            raise InputError("This generator makes single frames of one size.")

    def size_multiples(self) -> tuple[int, int]:
        return ENLARGED, 1

    def latent_shape(self, num_frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        return 1, num_frames, HEIGHT, WIDTH

    def features(self, latents: Tensor, sigma: Tensor, conditions: Conditions, num_blocks: int) -> Any:
        raise NotImplementedError("No reward looks inside of this generator.")

    def encode(self, videos: Tensor) -> Tensor:
        return functional.avg_pool3d(videos, (1, ENLARGED, ENLARGED)).mean(1, keepdim=True)

    def decode(self, latents: Tensor) -> Tensor:
        size = (HEIGHT * ENLARGED, WIDTH * ENLARGED)
        picture = functional.interpolate(latents[:, :, 0], size, mode="bicubic")
        return picture.clamp(-1, 1)[:, :, None].expand(-1, 3, -1, -1, -1)

    def encode_prompts(self, prompts: Sequence[str]) -> Conditions:
        rows = []
        for prompt in prompts:
            seed = sum(ord(sign) * 31**place for place, sign in enumerate("".join(quoted_texts(prompt))))
            rows.append(torch.randn(32, generator=torch.Generator().manual_seed(seed % 2**31)))
        return {"text": torch.stack(rows)}

    def velocity(
        self,
        latents: Tensor,
        sigma: Tensor,
        conditions: Conditions,
        transformer: nn.Module | None = None,
    ) -> Tensor:
        network = transformer or self.transformer
        return network(
            hidden_states=latents, timestep=sigma, encoder_hidden_states=conditions["text"]
        ).float()


def prompt_of(word: str) -> str:
    return f'A sign that says "{word}"'


def written(word: str, random: np.random.Generator) -> Tensor:
    """A grey picture `[1, 1, height, width]` in [-1, 1] of a word that is not always in the same place."""
    import matplotlib

    font = ImageFont.truetype(f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans-Bold.ttf", 13)
    picture = Image.new("L", (WIDTH, HEIGHT), 0)
    place = (WIDTH / 2 + random.uniform(-1, 1), HEIGHT / 2 + random.uniform(-0.5, 0.5))
    ImageDraw.Draw(picture).text(place, word, 255, font, anchor="mm")
    return torch.from_numpy(np.asarray(picture).astype(np.float32))[None, None] / 127.5 - 1


def fine_tune(generator: WordGenerator, reward: RewardModel, enough: float, seed: int) -> int:
    """Flow matching on rendered words until the reward is `enough`; returns the steps."""
    random = np.random.default_rng(seed)
    torch.manual_seed(seed)
    conditions = generator.encode_prompts([prompt_of(word) for word in WORDS])["text"]
    pictures = torch.stack([torch.stack([written(word, random) for _ in range(64)]) for word in WORDS])
    optimiser = torch.optim.AdamW(generator.transformer.parameters(), lr=3e-4)
    steps = 0
    while steps < MOST_STEPS and (steps % 5 or measured(generator, reward, 4)[0] < enough):
        words, copies = torch.randint(len(WORDS), (64,)), torch.randint(64, (64,))
        clean, noise, sigma = pictures[words, copies], torch.randn(64, 1, 1, HEIGHT, WIDTH), torch.rand(64)
        level = sigma[:, None, None, None, None]
        velocity = generator.velocity((1 - level) * clean + level * noise, sigma, {"text": conditions[words]})
        loss = (velocity - (noise - clean)).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        steps += 1
    return steps


def measured(generator: WordGenerator, reward: RewardModel, count: int) -> tuple[float, Tensor]:
    """Mean reward of `count` videos of each word on seeds that training does not use, and the first of each."""
    prompts = [prompt_of(word) for word in WORDS for _ in range(count)]
    videos = generator.generate(prompts, seed=[10**6 + number for number in range(len(prompts))])
    return float(reward.score(videos, prompts)["overall"].mean()), videos[::count]


def run(
    output_dir: str, enough: float, rollouts: int, count: int, learning_rate: float = 5e-4, seed: int = 0
) -> dict[str, float]:
    """Fine-tunes, measures, trains with PPO and measures again."""
    generator = WordGenerator()
    reward = load_reward("ocr:frames=1")
    steps = fine_tune(generator, reward, enough, seed)
    before, shown = measured(generator, reward, count)
    pictures = [shown]
    config = PPOConfig(
        output_dir=output_dir, num_rollouts=rollouts, num_prompts=len(WORDS), num_generations=8, num_inference_steps=8,
        num_mini_batches=2, per_device_train_batch_size=512, learning_rate=learning_rate, beta=0.0, epsilon=1e-3,
        seed=seed, probe_prompts=0, monitor_videos=0, monitor_kl=False, report_to="none", save_strategy="no",
        use_cpu=True, overwrite=True, disable_tqdm=True, logging_steps=1e9,
    )  # fmt: skip
    trainer = PPOTrainer(
        generator, config, [prompt_of(word) for word in WORDS], reward, lora=LoraArguments(lora_r=32)
    )
    trainer.train()
    after, shown = measured(generator, reward, count)
    pictures.append(shown)
    rows = [((each[:, :, 0] + 1) * 127.5).byte().permute(0, 2, 3, 1).flatten(0, 1) for each in pictures]
    Path(output_dir).mkdir(parents=True, exist_ok=True)
    Image.fromarray(torch.cat(rows, 1).numpy()).save(Path(output_dir) / "before_and_after.png")
    return {"steps": steps, "before": before, "after": after}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output_dir", default="runs/ocr_ppo")
    parser.add_argument("--enough", type=float, default=0.4, help="Reward at which fine-tuning stops.")
    parser.add_argument("--rollouts", type=int, default=12, help="Rollouts of 48 pictures.")
    parser.add_argument("--count", type=int, default=8, help="Pictures of each word that are measured.")
    parser.add_argument("--learning_rate", type=float, default=5e-4, help="Of PPO.")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    found = run(
        arguments.output_dir, arguments.enough, arguments.rollouts, arguments.count, arguments.learning_rate,
        arguments.seed,
    )  # fmt: skip
    print(json.dumps(found))


if __name__ == "__main__":
    main()
