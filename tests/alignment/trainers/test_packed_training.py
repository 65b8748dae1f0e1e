"""SFT and DPO on packed rows: the same losses as without, for clips of any size."""

import pytest
import torch
from accelerate.data_loader import BatchSamplerShard

from alignment.data.latent_dataset import collate
from alignment.data.packed_rows import RowBatchSampler, collate_rows
from alignment.trainers.dpo_config import DPOConfig
from alignment.trainers.dpo_trainer import DPOTrainer
from alignment.trainers.sft_config import SFTConfig
from alignment.trainers.sft_trainer import SFTTrainer
from generator.output import InputError
from generator.testing import tiny_generator

SHAPES = [(4, 3, 8, 8), (4, 1, 8, 8), (4, 3, 8, 12), (4, 5, 8, 8), (4, 1, 16, 16), (4, 3, 8, 8)]
PROMPTS = ["a red circle", "two small blue squares", "a star", "a large red circle moves to the left"] * 2


def clips(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for shape in SHAPES]


def sft(quiet, generator=None, latents=None, **arguments):
    config = SFTConfig(
        **{"max_steps": 2, "per_device_train_batch_size": 1, "pack": True} | arguments, **quiet
    )
    latents = clips() if latents is None else latents
    return SFTTrainer(generator or tiny_generator(), config, latents, PROMPTS[: len(latents)])


def dpo(quiet, **arguments):
    config = DPOConfig(
        **{"max_steps": 2, "per_device_train_batch_size": 1, "pack": True} | arguments, **quiet
    )
    videos = [[latent, latent + 0.5, -latent][: 2 + i % 2] for i, latent in enumerate(clips())]
    ranks = [[0, 1, 1][: len(group)] for group in videos]
    return DPOTrainer(tiny_generator(), config, videos, ranks, PROMPTS[: len(videos)])


def one_batch(trainer, index):
    """The example `index` alone, without packing."""
    return trainer._prepare_inputs(collate([trainer.train_dataset[index]]))


def whole(trainer):
    """All examples in one packed batch."""
    dataset = trainer.train_dataset
    return trainer._prepare_inputs(
        collate_rows([[dataset[i] for i in range(3)], [dataset[i] for i in range(3, 6)]])
    )


@pytest.mark.parametrize("make", [sft, dpo])
def test_a_packed_batch_has_the_mean_loss_and_gradient_of_its_examples(make, quiet):
    trainer = make(quiet)
    for (
        parameter
    ) in trainer.policy.parameters():  # the LoRA layers start with no effect, which would hide errors
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.1)

    def loss_and_gradient(batches):
        trainer.policy.zero_grad()
        loss = sum(trainer.compute_loss(trainer.model, batch) for batch in batches) / len(batches)
        loss.backward()
        return loss.detach(), [p.grad.clone() for p in trainer.policy.parameters() if p.grad is not None]

    expected, gradients = loss_and_gradient([one_batch(trainer, i) for i in range(len(SHAPES))])
    packed, packed_gradients = loss_and_gradient([whole(trainer)])
    torch.testing.assert_close(packed, expected, atol=1e-5, rtol=1e-5)
    assert len(gradients) == len(packed_gradients) > 0
    for one, other in zip(gradients, packed_gradients, strict=True):
        torch.testing.assert_close(other, one, atol=1e-5, rtol=1e-4)


def test_sft_with_token_dropping_trains_on_what_is_kept(quiet):
    clean = [0 * latent for latent in clips()]
    trainer = sft(
        quiet, latents=clean, max_steps=40, learning_rate=1e-2, token_dropping=0.5, pack_tokens=1024
    )
    before = trainer.compute_loss(trainer.model, whole(trainer)).item()
    trainer.train()
    assert trainer.state.global_step == 40
    after = trainer.compute_loss(trainer.model, whole(trainer)).item()
    assert after < 0.9 * before


def test_dpo_trains_on_packed_rankings_of_different_sizes(quiet):
    trainer = dpo(quiet, max_steps=30, learning_rate=1e-2, beta=50.0, loss_type="plackett_luce")
    trainer.train()
    history = [entry["rewards/margins"] for entry in trainer.state.log_history if "rewards/margins" in entry]
    assert history[0] == pytest.approx(0, abs=1e-4)
    assert sum(history[-5:]) / 5 > 0.2


def test_dpo_on_packed_rows_takes_references_from_before_training(quiet):
    trainer = dpo(quiet, precompute_ref_log_probs=True, num_noise_draws=2)
    trainer.train()
    history = [entry for entry in trainer.state.log_history if "rewards/margins" in entry]
    assert history[0]["rewards/margins"] == pytest.approx(0, abs=1e-3)


def test_every_example_comes_once_an_epoch_and_epochs_differ_in_order():
    lengths = [100, 60, 300, 40, 90, 200, 500, 80, 30]
    sampler = RowBatchSampler(lengths, 512, batch_size=2, seed=0)
    first, again = list(sampler), list(sampler)
    assert first == again
    assert len(first) == len(sampler)
    assert {len(batch) for batch in first} == {2}
    seen = {row for batch in first for row in batch}
    assert sorted(i for row in seen for i in row) == list(range(len(lengths)))
    assert all(sum(lengths[i] for i in row) <= 512 for row in seen)
    orders = set()
    for epoch in range(8):
        sampler.set_epoch(epoch)
        orders.add(str(list(sampler)))
    assert len(orders) > 1


def test_mistakes_are_named(quiet, generator, latents, prompts):
    with pytest.raises(InputError, match="pack_tokens is 16, but the longest example takes"):
        sft(quiet, pack_tokens=16)
    with pytest.raises(InputError, match="takes clips of one size at a time"):
        SFTTrainer(generator, SFTConfig(pack=True, **quiet), latents, prompts)
    with pytest.raises(InputError, match="needs packed rows: pass --pack"):
        SFTConfig(token_dropping=0.3, **quiet)
    with pytest.raises(InputError, match=r"token_dropping is 1\.5"):
        SFTConfig(token_dropping=1.5, pack=True, **quiet)


def test_two_processes_share_the_rows_evenly():
    lengths = [100, 60, 300, 40, 90, 200, 500, 80, 30]
    sampler = RowBatchSampler(lengths, 512, batch_size=1, seed=0)
    shares = [list(BatchSamplerShard(sampler, 2, process)) for process in range(2)]
    assert len(shares[0]) == len(shares[1])
    seen = {row for share in shares for batch in share for row in batch}
    assert sorted(i for row in seen for i in row) == list(range(len(lengths)))
