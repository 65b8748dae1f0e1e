"""Whether objects keep their shape, on clips whose shapes are known."""

import torch

from generator.world import SceneBatch, render_scenes, training_batch
from generator.world.constancy import keep_shapes
from generator.world.shapes import SHAPES

SIZE = (9, 64, 64)


def test_rendered_clips_keep_their_shapes_and_those_with_other_shapes_in_some_frames_do_not():
    _, scenes, _ = training_batch(24, 5, "test", *SIZE)
    others = SceneBatch.unpack(scenes.pack())
    others.shape = (others.shape + 1) % len(SHAPES)
    clips, swapped = render_scenes(scenes, *SIZE), render_scenes(others, *SIZE)
    assert keep_shapes(clips).all()
    assert keep_shapes(swapped).all()
    half = torch.cat([clips[:, :, :5], swapped[:, :, 5:]], dim=2)
    assert not keep_shapes(half).any()
    two_frames = torch.cat([clips[:, :, :3], swapped[:, :, 3:5], clips[:, :, 5:]], dim=2)
    assert not keep_shapes(two_frames).any()


def test_objects_that_are_gone_in_a_frame_or_never_there_keep_nothing():
    _, scenes, _ = training_batch(4, 6, "train", *SIZE)
    clips = render_scenes(scenes, *SIZE)
    clips[:, :, 4] = 0.0
    assert not keep_shapes(clips).any()
    assert not keep_shapes(torch.zeros(2, 3, *SIZE)).any()
