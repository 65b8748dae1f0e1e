"""Clips with a blemish that their caption does not speak of."""

import json

import pytest
import torch

from generator.world import verify_batch
from generator.world.constancy import keep_shapes
from generator.world.spoiled import BLEMISHES, RANKS, SpoiledScenes, main, spoiled_near_misses

SIZE = {"height": 64, "width": 64}


def test_spoiled_clips_are_worse_than_the_same_clip_without_the_blemish_and_ranks_follow_gold():
    prompts, scenes = spoiled_near_misses(12, seed=3, **SIZE)
    clips = scenes.render(**SIZE)
    assert scenes.blemish.view(12, 4)[:, [0, 2]].eq(-1).all()
    captions = [caption for group in prompts for caption in group]
    gold = torch.tensor([one.score for one in verify_batch(clips, captions)]).view(-1, 2)
    assert gold[:, 0].min() == 1
    assert (gold[:, 1] < 1).float().mean() > 0.9
    found = {name: scenes.blemish == number for number, name in enumerate(BLEMISHES)}
    assert min(rows.sum() for rows in found.values()) >= 3
    kept = keep_shapes(clips)
    assert kept[scenes.blemish == -1].all()
    assert kept[found["swapped"]].float().mean() < 0.1
    assert kept[found["melted"]].float().mean() < 0.2
    right = wrong = 0
    for asked in (0, 2):
        names = [group[asked] for group in prompts for _ in group]
        scores = torch.tensor([one.score for one in verify_batch(clips, names)]).view(-1, 4)
        for ranks in (ranks for place, ranks in RANKS if place == asked):
            order = scores[:, [ranks.index(rank) for rank in range(max(ranks) + 1)]].diff()
            right += (order < 0).sum()
            wrong += (order > 0).sum()
    assert right > 15 * wrong


def test_packed_scenes_come_back_and_the_same_seed_gives_the_same_clips():
    _, scenes = spoiled_near_misses(3, seed=1)
    again = SpoiledScenes.unpack(scenes.pack(), 9)
    assert torch.equal(again.render(), scenes.render())
    assert torch.equal(again.blemish, scenes.blemish)
    assert torch.equal(spoiled_near_misses(3, seed=1)[1].pack(), scenes.pack())
    assert not torch.equal(spoiled_near_misses(3, seed=2)[1].pack(), scenes.pack())


def test_the_command_writes_only_what_is_ranked(tmp_path, capsys):
    main(["--output_dir", str(tmp_path / "made"), "--groups", "2"])
    rows = [json.loads(line) for line in (tmp_path / "made" / "rankings.jsonl").read_text().splitlines()]
    assert [row["ranks"] for row in rows] == 2 * [[0, 1], [0, 1, 2], [0, 1], [1, 2, 0]]
    assert rows[1]["videos"] == ["00000-0.mp4", "00000-2.mp4", "00000-3.mp4"]
    assert len(list((tmp_path / "made").glob("*.mp4"))) == 8
    with pytest.raises(SystemExit):
        main(["--output_dir", str(tmp_path / "made"), "--groups", "2"])
    assert "--overwrite" in capsys.readouterr().err
