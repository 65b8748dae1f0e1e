"""Every example counts the same in an epoch, whatever it is batched with."""

import math
import random
from collections import Counter

import pytest
import torch
from accelerate.data_loader import BatchSamplerShard

from alignment.data.example_weights import Filler, example_share
from alignment.data.latent_dataset import BucketBatchSampler, collate
from alignment.data.packed_rows import RowBatchSampler
from alignment.trainers.dpo_config import DPOConfig
from alignment.trainers.dpo_trainer import DPOTrainer
from alignment.trainers.noise_levels import NoiseLevels
from alignment.trainers.sft_config import SFTConfig
from alignment.trainers.sft_trainer import EVALUATION_STEP, SFTTrainer, demonstration_error
from generator.seeds import example_seeds
from generator.testing import tiny_generator

SHAPES = [(4, 2, 2, 2)] * 5 + [(4, 1, 4, 4)] + [(4, 3, 2, 2)] * 2
"""Eight clips, the sixth alone in its bucket."""

PROMPTS = ["a red ball", "a blue cube", "a star", "two rings", "a green cross", "a cat", "a dog", "a kite"]


def clips(shapes=SHAPES):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(shape, generator=generator) for shape in shapes]


@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("accumulation", [1, 4])
@pytest.mark.parametrize("packed", [False, True])
def test_the_coefficients_of_an_epoch_are_equal_with_any_buckets_processes_and_accumulation(
    processes, accumulation, packed
):
    """As accelerate divides batches and `Trainer` averages micro-batches; each step's gradient is a mean, too."""
    for seed in range(10):
        draw = random.Random(seed)
        shapes = [(draw.randint(1, 4),) for _ in range(draw.randint(1, 40))]
        size = draw.choice([1, 2, 8])
        if packed:
            lengths = [50 * shape[0] for shape in shapes]
            sampler = RowBatchSampler(lengths, 400, size, seed, processes)
        else:
            sampler = BucketBatchSampler(shapes, size, seed, processes)
        share = example_share(len(shapes), len(sampler), processes, accumulation)
        counts: Counter[int] = Counter()
        rounds = []
        for process in range(processes):
            own = list(BatchSamplerShard(sampler, processes, process))
            rounds.append(len(own))
            for batch in own:
                indices = [i for row in batch for i in row] if packed else batch
                counts.update(int(i) for i in indices if not isinstance(i, Filler))
        assert set(rounds) == {len(sampler) // processes}
        assert counts == Counter(range(len(shapes)))
        steps = math.ceil(rounds[0] / accumulation)
        assert share / processes / accumulation / steps == pytest.approx(1 / len(shapes))


def gradient(trainer):
    """Gradient of the LoRA's B matrices, from what a single SGD step with rate 1 did to them."""
    return torch.cat([-p.detach().flatten() for n, p in trainer.policy.named_parameters() if "lora_B" in n])


SGD = {
    "optim": "sgd", "learning_rate": 1.0, "lr_scheduler_type": "constant", "weight_decay": 0.0,
    "max_grad_norm": 1e9, "num_train_epochs": 1,
}  # fmt: skip


@pytest.mark.parametrize(("size", "batches"), [(4, 4), (8, 3), (2, 5), (1, 8)])
def test_a_lone_clip_has_the_gradient_of_one_clip(make_generator, quiet, size, batches):
    config = SFTConfig(
        per_device_train_batch_size=size, gradient_accumulation_steps=batches, caption_dropout=0.0, **SGD, **quiet
    )  # fmt: skip
    trainer = SFTTrainer(make_generator(), config, clips(), PROMPTS)
    trainer.train()
    assert trainer.state.global_step == 1

    alone = SFTTrainer(make_generator(), config, clips(), PROMPTS)  # not trained: the same initial weights
    weights = [p for n, p in alone.policy.named_parameters() if "lora_B" in n]
    total = torch.zeros(sum(p.numel() for p in weights))
    losses = []
    for index, (clip, prompt) in enumerate(zip(clips(), PROMPTS, strict=True)):
        seeds = example_seeds(config.seed, 0, rows=torch.tensor([[index, 0]]))
        conditions = alone.generator.encode_prompts([prompt])
        levels = NoiseLevels.configured(config, alone.generator)
        error = demonstration_error(alone.generator, alone.policy, clip[None], conditions, seeds, levels)[0]
        parts = torch.autograd.grad(error, weights)
        total += torch.cat([part.flatten() for part in parts]) / len(PROMPTS)
        losses.append(error.item())
    torch.testing.assert_close(gradient(trainer), total, rtol=1e-4, atol=1e-6)
    assert trainer.state.log_history[0]["loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-4)


def test_a_last_step_of_fewer_micro_batches_does_not_weigh_more(make_generator, quiet):
    """Three batches, two a step: the gradients of both steps, at the same weights, add up to twice the mean."""
    config = SFTConfig(
        per_device_train_batch_size=8, gradient_accumulation_steps=2, caption_dropout=0.0,
        **SGD | {"learning_rate": 1e-6}, **quiet,
    )  # fmt: skip
    trainer = SFTTrainer(make_generator(), config, clips(), PROMPTS)
    coefficients: Counter[int] = Counter()
    loss_of = trainer.loss_of

    def watched(losses, weights):
        found = loss_of(losses, weights)
        parts = torch.autograd.grad(found, losses, retain_graph=True)[0]
        parts = parts / trainer.current_gradient_accumulation_steps  # as `Trainer` divides
        coefficients.update(dict(zip(keys[-1], parts.tolist(), strict=True)))
        return found

    keys = []
    compute = trainer.compute_loss

    def noted(model, inputs, *args, **kwargs):
        real = inputs["weights"].tolist()
        names = inputs["keys"][:, 0].tolist()
        keys.append([n if w else f"filler {len(keys)} {i}" for i, (n, w) in enumerate(zip(names, real))])
        return compute(model, inputs, *args, **kwargs)

    trainer.loss_of, trainer.compute_loss = watched, noted
    trainer.train()
    assert trainer.state.global_step == 2
    assert [coefficients[i] for i in range(8)] == pytest.approx([2 / 8] * 8)
    assert all(value == 0 for name, value in coefficients.items() if isinstance(name, str))


def test_a_lone_ranking_has_the_gradient_of_one_ranking(make_generator, quiet):
    """Rankings of two, three and, once, of four videos."""
    videos = [
        [clip, clip + 0.5, -clip, 0.3 * clip][: 2 + (i > 3) + (i == 7)] for i, clip in enumerate(clips())
    ]
    ranks = [[1, 0, 2, 3][: len(group)] for group in videos]
    settings = {"beta": 10.0, "sft_weight": 0.5, **SGD, **quiet}
    config = DPOConfig(per_device_train_batch_size=4, gradient_accumulation_steps=5, **settings)
    trainer = DPOTrainer(make_generator(), config, videos, ranks, PROMPTS)
    trainer.train()
    assert trainer.state.global_step == 1
    alone = DPOTrainer(make_generator(), config, videos, ranks, PROMPTS)
    for index in range(len(videos)):
        batch = alone._prepare_inputs(collate([alone.train_dataset[index]]))
        (alone.compute_loss(alone.policy, batch) / len(videos)).backward()
    total = torch.cat([p.grad.flatten() for n, p in alone.policy.named_parameters() if "lora_B" in n])
    torch.testing.assert_close(gradient(trainer), total, rtol=1e-4, atol=1e-6)


def test_the_held_out_loss_is_the_mean_over_clips(make_generator, quiet):
    config = SFTConfig(per_device_eval_batch_size=4, max_steps=1, **quiet)
    trainer = SFTTrainer(make_generator(), config, clips(), PROMPTS, clips(), PROMPTS)
    found = trainer.evaluate()["eval_loss"]
    errors = []
    for index, (clip, prompt) in enumerate(zip(clips(), PROMPTS, strict=True)):
        seeds = example_seeds(config.seed, EVALUATION_STEP, rows=torch.tensor([[index, 0]]))
        conditions = trainer.generator.encode_prompts([prompt])
        levels = NoiseLevels.configured(config, trainer.generator)
        with torch.no_grad():
            errors.append(
                demonstration_error(trainer.generator, trainer.policy, clip[None], conditions, seeds, levels)
            )
    assert found == pytest.approx(torch.cat(errors).mean().item(), rel=1e-5)


def test_clips_of_sparse_and_of_full_packed_rows_have_equal_gradients(quiet):
    shapes = [(4, 1, 8, 8)] * 6 + [(4, 5, 16, 16), (4, 3, 8, 8)]
    config = SFTConfig(
        pack=True, per_device_train_batch_size=2, gradient_accumulation_steps=100, caption_dropout=0.0,
        **SGD | {"learning_rate": 0.1}, **quiet,
    )  # fmt: skip
    trainer = SFTTrainer(tiny_generator(), config, clips(shapes), PROMPTS)
    trainer.train()
    assert trainer.state.global_step == 1
    alone = SFTTrainer(tiny_generator(), config, clips(shapes), PROMPTS)
    for index in range(len(shapes)):
        batch = alone._prepare_inputs(collate([alone.train_dataset[index]]))
        (alone.compute_loss(alone.policy, batch) / len(shapes)).backward()
    total = torch.cat([p.grad.flatten() for n, p in alone.policy.named_parameters() if "lora_B" in n])
    torch.testing.assert_close(gradient(trainer) / 0.1, total, rtol=1e-3, atol=1e-5)
