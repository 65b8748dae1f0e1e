"""Groups of clips that differ in a few claims."""

import json

import numpy as np
import pytest

from generator.world import Meaning, ObjectMeaning, parse, render_scenes, verify_batch
from generator.world.meaning import is_held_out
from generator.world.near_misses import differing_claims, main, near_misses


def test_claims_are_counted_one_by_one():
    star = ObjectMeaning("star", "red", motion="left")
    first = Meaning((star, ObjectMeaning("ring")), "above", "dark")
    assert differing_claims(first, first) == 0
    assert (
        differing_claims(
            first, Meaning((ObjectMeaning("star", "blue", motion="left"), first.objects[1]), "above", "dark")
        )
        == 1
    )
    assert differing_claims(first, Meaning(first.objects, "below", None)) == 2
    assert (
        differing_claims(first, Meaning((star,), None, "dark"))
        == differing_claims(Meaning((star,), None, "dark"), first)
        == 3
    )


def test_every_clip_shows_its_own_caption_and_the_worse_another_the_more_claims_differ():
    drawn = near_misses(8, 3, seed=5)
    assert len(drawn.prompts) == 8
    assert len(drawn.scenes) == 24
    clips = render_scenes(drawn.scenes, 9, 32, 32)
    gold: dict[int, list[float]] = {}
    for group, (prompts, ranks) in enumerate(zip(drawn.prompts, drawn.ranks)):
        shown = clips[3 * group : 3 * group + 3]
        assert [ranks[i][i] for i in range(3)] == [0, 0, 0]
        assert ranks == np.transpose(ranks).tolist()
        for prompt, row in zip(prompts, ranks):
            assert not is_held_out(parse(prompt))
            for judged, rank in zip(verify_batch(shown, [prompt] * 3), row):
                gold.setdefault(min(rank, 2), []).append(judged.score)
    assert min(gold[0]) == 1.0
    assert 1 > np.mean(gold[1]) > np.mean(gold[2])


def test_the_same_seed_gives_the_same_groups():
    assert near_misses(2, 2, seed=3).prompts == near_misses(2, 2, seed=3).prompts
    assert near_misses(2, 2, seed=3).prompts != near_misses(2, 2, seed=4).prompts


def test_groups_of_a_theme_begin_with_its_meanings():
    drawn = near_misses(6, 3, seed=4, holds=lambda meaning: meaning.objects[0].count > 1)
    assert all(parse(group[0]).objects[0].count > 1 for group in drawn.prompts)
    assert any(parse(group[0]).objects[0].count == 1 for group in near_misses(6, 3, seed=4).prompts)


def test_the_command_writes_a_rankings_file_that_the_reward_reads(tmp_path, capsys):
    main(["--output_dir", str(tmp_path / "made"), "--groups", "2", "--videos", "3"])
    rows = [json.loads(line) for line in (tmp_path / "made" / "rankings.jsonl").read_text().splitlines()]
    assert len(rows) == 6
    assert all(sorted(row["ranks"])[0] == 0 for row in rows)
    assert all((tmp_path / "made" / name).is_file() for row in rows for name in row["videos"])
    with pytest.raises(SystemExit):
        main(["--output_dir", str(tmp_path / "other"), "--videos", "1"])
