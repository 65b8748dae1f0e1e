"""The verifier, on clips whose truth is known."""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from generator.output import InputError
from generator.world import (
    Meaning,
    SceneBatch,
    parse,
    render,
    render_scenes,
    sample_prompts,
    training_batch,
    verify,
    verify_batch,
)
from generator.world import degrade as damages
from generator.world.calibrate import (
    Rates,
    false_accepts,
    main,
    part_kind,
    reconstruction_agreement,
    sample_clips,
)
from generator.world.meaning import DIRECTIONS, MOTIONS
from generator.world.perceive import perceive
from generator.world.shapes import SHAPES

CLIPS = [(1, 32, 32, 200), (9, 32, 32, 200), (17, 64, 64, 24), (13, 40, 72, 40), (13, 72, 40, 40)]


@functools.cache
def clips(n: int = 200, seed: int = 9) -> tuple[list[str], Tensor]:
    return sample_clips(n, seed, (9, 32, 32))


def mean_score(videos: Tensor, prompts: list[str]) -> float:
    return Rates.of(verify_batch(videos, prompts)).mean_score


@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("split", ["train", "test"])
def test_at_least_99_percent_of_the_parts_of_rendered_clips_are_judged_right(
    clip: tuple[int, int, int, int], split: str
) -> None:
    *size, n = clip
    prompts, videos = sample_clips(n, 4, (size[0], size[1], size[2]), split)
    rates = Rates.of(verify_batch(videos, prompts))
    assert rates.share() >= 0.99
    assert rates.mean_score >= 0.99


def test_the_clip_of_another_prompt_gets_full_marks_in_less_than_one_percent() -> None:
    prompts, videos = clips()
    assert false_accepts(videos, prompts) < 0.01


@pytest.mark.parametrize("motion", MOTIONS)
def test_each_motion_is_told_from_every_other(motion: str) -> None:
    verb = {"growing": "grows", "shrinking": "shrinks", "spinning": "spins", "circling": "orbits",
            "bouncing": "bounces", "still": "stays still"}  # fmt: skip

    def prompt(name: str) -> str:
        way = name if name in ("left", "right", "up", "down") else f"to the {name}"
        return f"a square {verb[name]}" if name in verb else f"a square moves {way}"

    videos = torch.stack([render(prompt(motion), seed=seed) for seed in range(5)])
    for other in MOTIONS:
        parts = [adherence.parts for adherence in verify_batch(videos, [prompt(other)] * 5)]
        answers = [value for part in parts for name, value in part.items() if part_kind(name) == "motion"]
        assert answers == [other == motion] * 5, other


@pytest.mark.parametrize(
    "damage",
    [
        lambda videos: damages.noise(videos, 0.05),
        lambda videos: damages.blur(videos, 0.7),
        damages.soft_and_noisy,
        damages.h264,
    ],
    ids=["noise", "blur", "soft and noisy", "h264"],
)  # fmt: skip
def test_slight_damage_changes_few_answers(damage) -> None:  # type: ignore[no-untyped-def]
    agreement = reconstruction_agreement(damage, n=80, seed=2)
    assert agreement["all"] >= 0.97
    assert agreement["shape"] >= 0.95


@pytest.mark.parametrize(
    ("damage", "strengths"),
    [
        (damages.noise, (0.0, 0.1, 0.2, 0.3)),
        (damages.blur, (0.0, 1.5, 2.5, 4.0)),
        (damages.desaturate, (0.0, 0.3, 0.45, 0.6)),
        (damages.rotate_hue, (0.0, 15.0, 20.0, 30.0)),
    ],
)
def test_the_score_falls_with_growing_damage(damage, strengths) -> None:  # type: ignore[no-untyped-def]
    prompts, videos = (part[:80] for part in clips())
    scores = [mean_score(damage(videos, strength), prompts) for strength in strengths]
    assert scores == sorted(scores, reverse=True)
    assert scores[-1] < scores[0] - 0.2


def test_reversed_frozen_and_shuffled_clips_fail_their_directions() -> None:
    prompts, videos = (part[:80] for part in clips())
    for damage in (damages.reverse, damages.freeze, lambda clip: damages.shuffle_frames(clip, 1.0)):
        for adherence in verify_batch(damage(videos), prompts):
            for name, answer in adherence.parts.items():
                if part_kind(name) == "camera" or any(name.endswith(f"moves {way}") for way in DIRECTIONS):
                    assert not answer, name


def test_mirroring_turns_directions_and_relations_around() -> None:
    for prompt, mirrored in (
        ("a red circle moves left", "a red circle moves right"),
        ("a star drifts to the upper right quickly", "a star drifts to the upper left quickly"),
        ("a blue ring left of a green square", "a blue ring right of a green square"),
        ("a pink cross, the camera pans left", "a pink cross, the camera pans right"),
    ):
        video = damages.mirror(render(prompt, seed=2)[None])[0]
        assert verify(video, mirrored).score == pytest.approx(1, abs=0.02)
        assert not all(verify(video, prompt).parts.values())


def paint(
    video: Tensor, box: tuple[slice, slice], colour: tuple[float, float, float], frames: slice
) -> Tensor:
    painted = video.clone()
    painted[:, frames, box[0], box[1]] = torch.tensor(colour)[:, None, None, None]
    return painted


def test_what_no_one_asked_for_lowers_the_score_but_no_part() -> None:
    prompt = "a large red circle stays still on a dark background"
    video = render(prompt, seed=1)
    clean = verify(video, prompt)
    assert clean.score == pytest.approx(1, abs=0.01)
    corner = (slice(0, 5), slice(0, 5))
    while (video[0, 0, corner[0], corner[1]] > 0).any():
        corner = (slice(27, 32), slice(27, 32))
    every, second = slice(None), slice(None, None, 2)
    tinted = video.clone()
    tinted[2] = (tinted[2] + 0.45).clamp(-1, 1)
    flicker = video.clone()
    flicker[:, 1::2] = (flicker[:, 1::2] + 0.25).clamp(-1, 1)
    changed = {
        "extra object": paint(video, corner, (-0.9, 0.9, -0.9), every),
        "flashing object": paint(video, corner, (-0.9, 0.9, -0.9), second),
        "colour off the palette": damages.rotate_hue(video[None], 22)[0],
        "tinted background": tinted,
        "flicker": flicker,
    }
    for name, other in changed.items():
        assert verify(other, prompt).score < 0.97, name


def test_nothing_gets_nothing() -> None:
    blank = torch.full((3, 9, 32, 32), -0.8)
    found = verify(blank, "a red circle moves left on a light background")
    assert found.score == 0
    assert not any(found.parts.values())
    noise = torch.rand(3, 9, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert verify(noise, "a red circle moves left").score < 0.2


def test_parts_about_an_absent_object_fail_and_the_others_stay() -> None:
    video = render("a red circle on a dark background", seed=3)
    parts = verify(video, "a red circle left of a blue square on a dark background").parts
    assert parts["object 1 is red"]
    assert parts["object 1 is a circle"]
    assert parts["the background is dark"]
    assert not parts["object 2 is there"]
    assert not parts["object 2 is blue"]
    assert not parts["object 1 is left of object 2"]


def test_a_still_image_shows_no_motion() -> None:
    image = render("a red circle", num_frames=1, seed=1)
    parts = verify(image, "a red circle stays still, the camera pans left").parts
    assert parts["object 1 is red"]
    assert not parts["object 1 is still"]
    assert not parts["the camera pans left"]


def test_another_frame_rate_is_taken_into_account() -> None:
    video = render("a red circle moves left slowly", num_frames=17, fps=16, seed=1)
    assert verify(video, "a red circle moves left slowly", fps=16).score == pytest.approx(1, abs=0.02)
    assert not verify(video, "a red circle moves left quickly", fps=16).parts["object 1 moves quickly"]


def test_a_batch_is_judged_as_its_clips_are() -> None:
    prompts, videos = clips()
    assert verify_batch(videos[:6], prompts[:6]) == [
        verify(video, prompt) for video, prompt in zip(videos[:6], prompts[:6], strict=True)
    ]


def test_wrong_shapes_and_numbers_are_refused() -> None:
    video = render("a star")
    with pytest.raises(InputError, match="colours second"):
        verify_batch(video, ["a star"])
    with pytest.raises(InputError, match="one prompt a video"):
        verify_batch(video[None], ["a star", "a ring"])
    with pytest.raises(InputError, match="elephant"):
        verify(video, "an elephant")


def test_every_part_has_a_kind() -> None:
    prompts = sample_prompts(300, 1) + sample_prompts(100, 1, "test")
    blank = torch.zeros(len(prompts), 3, 2, 16, 16)
    kinds = {part_kind(name) for found in verify_batch(blank, prompts) for name in found.parts}
    assert kinds == {"object", "shape", "colour", "size", "motion", "speed", "count", "relation", "background",
                     "camera"}  # fmt: skip
    assert part_kind("object 1 is left of object 2") == "relation"
    assert part_kind("object 2 moves left") == "motion"
    assert part_kind("objects moves slowly") == "speed"


def moments_shape(mask: np.ndarray) -> str:
    """A second opinion without templates: Hu's first moment, the hole, and the ratio to the convex reach."""
    rows, columns = np.nonzero(mask)
    area = mask.sum()
    spread = (rows.var() + columns.var() + 1 / 6) / area
    if ndimage.label(~np.pad(mask, 1))[1] > 1:
        return "ring"
    return "compact" if spread < 0.18 else "pointed"


def test_connected_components_and_moments_agree_with_perception() -> None:
    meanings = 60
    prompts, scenes, _ = training_batch(meanings, 12, "train", 3, 64, 64)
    videos = render_scenes(scenes, 3, 64, 64)
    seen = perceive(videos)
    expected = {"circle": "compact", "square": "compact", "triangle": "pointed", "star": "pointed",
                "cross": "pointed", "ring": "ring"}  # fmt: skip
    for row in range(meanings):
        image = (videos[row, :, 1].numpy() + 1) / 2
        mask = image.max(0) - image.min(0) > 0.4
        labels, count = ndimage.label(mask, np.ones((3, 3)))
        present = seen.present[row, :, 1]
        assert count == int(present.sum()) == int(scenes.on[row].sum())
        for track in present.nonzero()[:, 0].tolist():
            x, y = (float(value[row, track, 1]) * 64 + 32 for value in (seen.x, seen.y))
            centres = ndimage.center_of_mass(mask, labels, range(1, count + 1))
            gaps = [math.hypot(cx + 0.5 - x, cy + 0.5 - y) for cy, cx in centres]
            label = int(np.argmin(gaps)) + 1
            assert min(gaps) < 0.6
            area = (labels == label).sum()
            assert math.pi * (float(seen.radius[row, track, 1]) * 64) ** 2 == pytest.approx(area, rel=0.15)
            shape = SHAPES[int(seen.likeness[row, track].argmax())]
            assert moments_shape(labels == label) == expected[shape], prompts[row]


def test_perception_measures_place_size_and_camera() -> None:
    _, scenes, _ = training_batch(200, 8)
    seen = perceive(render_scenes(scenes, 9, 32, 32))
    moving = (scenes.pan != 0) | (scenes.zoom != 0)
    assert (seen.pan_x - scenes.pan)[moving].abs().max() < 0.03
    assert (seen.zoom - scenes.zoom)[moving].abs().max() < 0.08
    simple = (scenes.on.sum(1) == 1) & (scenes.orbit_radius[:, 0] == 0) & (scenes.bounce_height[:, 0] == 0)
    assert (seen.x[:, 0, 4] - scenes.x[:, 0])[simple].abs().max() < 0.005
    ratio = seen.radius[:, 0, 4] / scenes.radius[:, 0]
    assert (ratio[simple] - 1).abs().max() < 0.03


def test_the_calibration_command_prints_its_tables(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("generator.world.calibrate.SIZES_OF_CLIPS", ((9, 32, 32),))
    main(["--n", "6"])
    printed = capsys.readouterr().out
    assert "| 9x32x32 | 6 | 1.0000 | 1.0000 |" in printed
    assert "reversed" in printed
    with pytest.raises(SystemExit, match="2"):
        main(["--n", "0"])


def test_types_of_the_public_interface() -> None:
    prompts, scenes, wrong = training_batch(2, 1)
    assert isinstance(scenes, SceneBatch)
    assert isinstance(parse(prompts[0]), Meaning)
    assert wrong.dtype == torch.bool
