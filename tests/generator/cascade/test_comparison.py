"""A stage beside interpolation."""

import math

import pytest
import torch

from generator.cascade.comparison import CEILING, REAL, STAGE, compare, held_out_clips, judge, mean_figures
from generator.cascade.figures import high_frequency_share, psnr
from generator.cascade.resampling import blend_frames, enlarge, reduce
from generator.loading import load_generator
from generator.testing import tiny_generator
from generator.testing.cascades import tiny_stage

CPU = torch.device("cpu")


def test_the_ways_to_a_finer_video_are_judged_on_the_same_clips():
    stage = tiny_stage("spatial", tiny_generator())
    clips = held_out_clips(3, (5, 32, 32), 8.0, 2)
    found = compare(stage, clips, slice(0, 2))
    assert list(found) == [REAL, CEILING, STAGE, "bicubic", "trilinear"]
    truth = clips.render(slice(0, 2), CPU)
    made = enlarge(reduce(truth, 2), 2)
    assert [row.psnr for row in found["bicubic"]] == pytest.approx(psnr(made, truth).tolist(), abs=1e-4)
    sharp = high_frequency_share(made).tolist()
    assert [row.sharpness for row in found["bicubic"]] == pytest.approx(sharp, abs=1e-6)
    assert found[REAL][0].gold > 0.9
    assert found[STAGE][0].seconds > 0
    assert found["bicubic"][0].psnr > found[STAGE][0].psnr  # its weights are random


def test_given_frames_do_not_count_in_the_psnr_of_a_temporal_stage():
    clips = held_out_clips(2, (5, 32, 32), 8.0, 2)
    truth = clips.render(slice(0, 2), CPU)
    made = blend_frames(truth[:, :, ::4], 4)
    counted = judge(made, clips.prompts, 8.0, truth, given=4)
    assert [row.psnr for row in counted] == pytest.approx(
        psnr(made[:, :, 1:4], truth[:, :, 1:4]).tolist(), abs=1e-4
    )


def test_a_mean_is_over_the_videos_that_have_the_figure():
    clips = held_out_clips(1, (5, 32, 32), 8.0, 2)
    row = judge(clips.render(slice(0, 1), CPU), clips.prompts, 8.0, clips.render(slice(0, 1), CPU))[0]
    rows = [row._replace(motion=1.0, gold=0.0), row._replace(motion=math.nan, gold=1.0)]
    assert mean_figures(rows)["motion"] == 1.0
    assert mean_figures(rows)["gold"] == 0.5
    assert math.isnan(mean_figures(rows[1:])["motion"])


def test_the_shipped_stages_are_sharper_than_interpolation_and_keep_the_motion():
    cascade = load_generator("nano-cascade", device="cpu")
    size = cascade.defaults
    assert (size.num_frames, size.height, size.width, size.fps) == (33, 128, 128, 16)
    assert cascade.every == 2  # of nano, which makes 8 frames a second
    temporal, spatial = cascade.stages[:2]
    found = compare(spatial, held_out_clips(2, (5, 64, 64), 16.0, 0), slice(0, 2))
    means = {name: mean_figures(rows) for name, rows in found.items()}
    assert means[STAGE]["psnr"] > means["bicubic"]["psnr"] + 2
    assert means[STAGE]["sharpness"] > 3 * means["bicubic"]["sharpness"]
    found = compare(temporal, held_out_clips(3, (17, 32, 32), 16.0, 1), slice(0, 3))
    means = {name: mean_figures(rows) for name, rows in found.items()}
    assert means[STAGE]["gold"] > means["frame doubling"]["gold"] + 0.02
