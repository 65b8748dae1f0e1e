"""The pure parts of the benchmarks."""

from importlib import import_module

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from generator.native.transformer import NativeVideoTransformer3DModel


def test_operations_of_the_blocks_are_those_that_pytorch_counts():
    model = NativeVideoTransformer3DModel(
        in_channels=4, hidden_size=64, num_layers=3, num_attention_heads=1, text_dim=12, conditioning="adaln"
    )
    arguments = (torch.randn(2, 4, 3, 8, 8), torch.tensor([500.0, 300.0]), torch.randn(2, 5, 12))
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model.features(*arguments, None, num_blocks=3)
    outside = sum(
        2 * layer.weight.numel() * count
        for layer, count in (
            (model.patch_embed, 2 * 48),
            (model.position_embed, 48),
            (model.text_embed, 2 * 5),
            (model.time_modulation, 2),
            (model.time_embed[0], 2),
            (model.time_embed[2], 2),
        )
    )
    found = import_module("benchmarks.generator.training_efficiency").forward_operations(
        model.blocks, [53, 53]
    )
    assert found == counter.get_total_flops() - outside


def test_an_object_is_whole_in_the_frame_if_it_never_touches_the_edge():
    framing = import_module("benchmarks.generator.framing")
    videos = torch.zeros(4, 3, 5, 16, 24)
    videos[0, 0, :, 4:9, 4:9] = 1.0  # whole
    videos[1, 0, :, 4:9, 4:9] = 1.0  # leaves in the last frame
    videos[1, 0, 4, 4:9, 4:9] = 0.0
    videos[1, 0, 4, 0:5, 4:9] = 1.0
    videos[2, 0, 1:, 4:9, 4:9] = 1.0  # is not there in the first frame
    videos[3] = 1.0  # white: no object
    assert framing.whole_in_frame(videos).tolist() == [True, False, False, False]
    square = framing.centre_square(videos)
    assert square.shape == (4, 3, 5, 16, 16)
    assert torch.equal(square, videos[..., 4:20])


def test_wilsons_interval_is_the_textbooks():
    low, high = import_module("benchmarks.generator.framing").wilson(8, 10)
    assert (low, high) == pytest.approx((0.4902, 0.9433), abs=1e-4)


def test_next_fit_opens_a_row_where_a_clip_does_not_fit():
    assert import_module("benchmarks.generator.packing").next_fit([6, 5, 4, 3], 10) == pytest.approx(18 / 30)


def test_recipes_of_further_pretraining_are_settings_that_go_together(tmp_path):
    better = import_module("benchmarks.generator.better_base")
    for changes in better.RECIPES.values():
        config = better.configuration(tmp_path, True, **changes)
        config.check()
        assert config.wrong_share == 0.4
    assert better.chosen(tmp_path) == {}
    (tmp_path / "choice.json").write_text('{"recipe": "muon", "settings": {"optimizer": "muon"}}')
    assert better.chosen(tmp_path) == better.RECIPES["muon"]
