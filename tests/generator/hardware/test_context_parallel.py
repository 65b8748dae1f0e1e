"""Which models, sizes and numbers of processes share out tokens, and what a group compares."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from generator.hardware import context_parallel
from generator.hardware.context_parallel import (
    check_shares_tokens,
    check_tokens,
    checksum,
    same_checksums,
    sum_gradients,
    video_text,
)
from generator.loading import load_generator
from generator.output import InputError
from generator.testing.pipelines import save_tiny_pipeline
from generator.video_model import VideoModel


@pytest.fixture(scope="module")
def wan(tmp_path_factory: pytest.TempPathFactory) -> VideoModel:
    return load_generator(save_tiny_pipeline("wan", tmp_path_factory.mktemp("wan")), device="cpu")


@pytest.mark.parametrize("family", ["ltx", "wan-vace"])
def test_a_family_without_a_plan_is_refused(family: str, tmp_path: Path) -> None:
    generator = load_generator(save_tiny_pipeline(family, tmp_path), device="cpu")
    check_shares_tokens(generator, 1)
    with pytest.raises(
        InputError, match=r"^context_parallel is 2, but .* cannot share out its tokens, as only Wan"
    ):
        check_shares_tokens(generator, 2)


def test_heads_that_cannot_be_divided_are_refused(wan: VideoModel) -> None:
    check_shares_tokens(wan, 2)
    with pytest.raises(InputError, match=r"a divisor of the 2 attention heads of .*: choose 2"):
        check_shares_tokens(wan, 3)


def test_an_older_diffusers_is_refused(wan: VideoModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(context_parallel, "version", lambda _: "0.42.0")
    check_shares_tokens(wan, 1)
    with pytest.raises(InputError, match=r"needs diffusers 0\.42\.1, but 0\.42\.0 is installed"):
        check_shares_tokens(wan, 2)


@pytest.mark.parametrize(
    ("size", "tokens", "fitting"),
    [
        ((81, 480, 832), 21 * 30 * 52, (2, 4, 8)),
        ((81, 720, 1280), 21 * 45 * 80, (2, 4, 8)),
        ((33, 480, 832), 9 * 30 * 52, (2, 4, 8)),
        ((33, 240, 416), 9 * 15 * 26, (2,)),
    ],
)
def test_a_size_is_shared_out_where_its_tokens_divide(
    size: tuple[int, int, int], tokens: int, fitting: tuple[int, ...], wan: VideoModel
) -> None:
    shape = wan.latent_shape(*size)
    for number in (2, 4, 8):
        if number in fitting:
            check_tokens(wan, number, shape, video_text(*size))
        else:
            with pytest.raises(
                InputError, match=f"the {tokens} tokens of {size[0]} frames of {size[1]}x{size[2]}"
            ):
                check_tokens(wan, number, shape, video_text(*size))


def test_checksums_differ_between_noises_and_not_by_rounding() -> None:
    random = torch.Generator().manual_seed(0)
    noises = [torch.randn(2, 4, 3, 5, generator=random) for _ in range(6)]
    sums = [[checksum(noise)] for noise in noises]
    assert all(same_checksums(one, other) == (one is other) for one in sums for other in sums)
    assert all(same_checksums([checksum(noise.bfloat16())], each) for noise, each in zip(noises, sums))
    assert not same_checksums(sums[0], [checksum(noises[0].flip(0))])
    assert not same_checksums(sums[0], [checksum(noises[0].flatten())])
    assert not same_checksums(sums[0], [*sums[0], *sums[1]])
    assert same_checksums([checksum(torch.zeros(3))], [checksum(torch.zeros(3))])


def test_gradients_are_summed_over_a_group_and_the_loss_is_left() -> None:
    class Mean:
        """An engine that averages over four processes with the same gradient, and stands in for an accelerator."""

        def backward(self, loss: torch.Tensor) -> None:
            loss.backward()

    weight = torch.tensor(3.0, requires_grad=True)
    loss, accelerator = weight**2, Mean()
    sum_gradients(accelerator, 1)
    accelerator.backward(weight**2)
    assert weight.grad == 6
    weight.grad = None
    sum_gradients(accelerator, 2)
    accelerator.backward(loss)
    assert (loss.item(), weight.grad) == (9, 12)
