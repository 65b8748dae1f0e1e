"""Clips with a blemish that their caption does not speak of."""

import itertools

import torch

from generator.world import verify_batch
from generator.world.constancy import keep_shapes
from generator.world.spoiled import BLEMISHES, RANKS, SpoiledScenes, spoiled_near_misses

SIZE = {"height": 64, "width": 64}


def test_spoiled_clips_are_worse_than_the_same_clip_without_the_blemish_and_ranks_follow_gold():
    prompts, scenes = spoiled_near_misses(24, seed=3, **SIZE)
    clips = scenes.render(**SIZE)
    assert scenes.blemish.view(24, 4)[:, [0, 2]].eq(-1).all()
    captions = [caption for group in prompts for caption in group]
    gold = torch.tensor([one.score for one in verify_batch(clips, captions)]).view(-1, 2)
    assert gold[:, 0].min() == 1
    assert (gold[:, 1] < 1).float().mean() > 0.9
    found = {name: scenes.blemish == number for number, name in enumerate(BLEMISHES)}
    assert min(rows.sum() for rows in found.values()) >= 8
    kept = keep_shapes(clips)
    assert kept[scenes.blemish == -1].all()
    assert not kept[found["swapped"]].any()
    assert kept[found["melted"]].float().mean() < 0.2
    right = wrong = 0
    for asked, ranks in RANKS:
        for group, names in enumerate(prompts):
            shown = clips[4 * group : 4 * group + 4]
            scores = [one.score for one in verify_batch(shown, [names[asked]] * 4)]
            order = [
                scores[place] for _, place in sorted((rank, k) for k, rank in enumerate(ranks) if rank >= 0)
            ]
            right += sum(a > b for a, b in itertools.pairwise(order))
            wrong += sum(a < b for a, b in itertools.pairwise(order))
    assert right > 15 * wrong


def test_packed_scenes_come_back_and_the_same_seed_gives_the_same_clips():
    _, scenes = spoiled_near_misses(3, seed=1)
    again = SpoiledScenes.unpack(scenes.pack(), 9)
    assert torch.equal(again.render(), scenes.render())
    assert torch.equal(again.blemish, scenes.blemish)
    assert torch.equal(spoiled_near_misses(3, seed=1)[1].pack(), scenes.pack())
    assert not torch.equal(spoiled_near_misses(3, seed=2)[1].pack(), scenes.pack())
