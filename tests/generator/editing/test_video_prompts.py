"""Images and videos as prompts."""

import pytest
import torch

from generator import load_generator
from generator.editing import flow_edit as editing
from generator.editing import video_prompts
from generator.editing.video_prompts import Sampling
from generator.output import InputError
from generator.testing import tiny_generator
from generator.world import render, verify

FAST = Sampling(num_inference_steps=2)


@pytest.fixture(scope="module")
def tiny():
    return tiny_generator()


@pytest.fixture(scope="module")
def nano():
    return load_generator("nano", device="cpu")


def clip(frames=9, seed=0):
    return torch.rand(1, 3, frames, 32, 32, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_known_latent_frames_come_back_as_they_were(tiny):
    latents = torch.randn(2, *tiny.latent_shape(9, 32, 32))
    known = torch.tensor([True, False, True])
    sampled = video_prompts.sample_unknown_frames(tiny, ["a", "b"], latents, known, FAST)
    assert torch.equal(sampled[:, :, known], latents[:, :, known])
    assert not torch.allclose(sampled[:, :, ~known], latents[:, :, ~known])


def test_without_known_frames_it_is_plain_sampling(tiny):
    latents = torch.zeros(1, *tiny.latent_shape(9, 32, 32))
    sampled = video_prompts.sample_unknown_frames(
        tiny, ["a red circle"], latents, torch.zeros(3, dtype=torch.bool), Sampling(3, seed=5)
    )
    expected = tiny.generate(
        ["a red circle"], num_frames=9, height=32, width=32, num_inference_steps=3, seed=5
    )
    torch.testing.assert_close(tiny.decode(sampled).cpu(), expected, atol=1e-4, rtol=1e-4)


def test_guidance_of_one_and_of_two_differ_and_keep_known_frames(tiny):
    latents = torch.randn(1, *tiny.latent_shape(9, 32, 32))
    known = torch.tensor([True, False, False])
    plain, guided = (
        video_prompts.sample_unknown_frames(tiny, ["a red circle"], latents, known, Sampling(2, scale))
        for scale in (1.0, 2.0)
    )
    assert torch.equal(guided[:, :, 0], latents[:, :, 0])
    assert not torch.allclose(plain, guided)


def test_an_animated_image_is_the_first_frame(tiny):
    image = clip()[:, :, 0]
    video = video_prompts.animate(tiny, image, ["a"], 5, FAST)
    assert video.shape == (1, 3, 5, 32, 32)
    assert torch.equal(video[:, :, 0], image)


@pytest.mark.parametrize(("new", "frames"), [(3, 12), (8, 17), (11, 20)])
def test_extending_adds_the_frames_asked_for_and_keeps_the_given_ones(tiny, new, frames):
    given = clip()
    forward = video_prompts.extend(tiny, given, ["a"], new, "forward", sampling=FAST)
    backward = video_prompts.extend(tiny, given, ["a"], new, "backward", sampling=FAST)
    assert forward.shape[2] == backward.shape[2] == frames
    assert torch.equal(forward[:, :, :9], given)
    assert torch.equal(backward[:, :, -9:], given)


def test_a_loop_and_a_connection_keep_both_ends(tiny):
    first, second = clip(9, 0), clip(7, 1)
    joined = video_prompts.connect(tiny, first, second, ["a"], 8, sampling=FAST)
    assert joined.shape[2] == 9 + 8 + 7
    assert torch.equal(joined[:, :, :9], first)
    assert torch.equal(joined[:, :, -7:], second)
    loop = video_prompts.extend(tiny, first, ["a"], 8, "loop", sampling=FAST)
    assert loop.shape[2] == 17
    assert torch.equal(loop[:, :, :9], first)


@pytest.mark.parametrize("frames", [2, 5, 7])
def test_interpolation_keeps_every_given_frame(tiny, frames):
    given = clip(frames)
    doubled = video_prompts.interpolate(tiny, given, ["a"], 4.0, 2, FAST)
    assert doubled.shape[2] == 2 * frames - 1
    assert torch.equal(doubled[:, :, ::2], given)
    again = video_prompts.interpolate(tiny, given, ["a"], 4.0, 4, FAST)
    assert torch.equal(again[:, :, ::4], given)


def test_images_of_a_video_come_back_from_their_latents_one_by_one(tiny):
    video = clip(5)
    latents = video_prompts.encode_images(tiny, video)
    assert torch.allclose(latents[:, :, 3:4], tiny.encode(video[:, :, 3:4]), atol=1e-5)
    decoded = video_prompts.decode_images(tiny, latents)
    assert torch.allclose(decoded[:, :, 2:3], tiny.decode(latents[:, :, 2:3]), atol=1e-5)


def test_an_edit_from_a_prompt_to_itself_changes_nothing_and_one_to_another_does(tiny):
    given, sampling = clip(), Sampling(4, 1.0)
    base = tiny.decode(tiny.encode(given))
    same = editing.edit(tiny, given, ["a red circle"], 1.0, sampling, ["a red circle"])
    torch.testing.assert_close(same, base.cpu(), atol=1e-4, rtol=0)
    other = editing.edit(tiny, given, ["a blue square"], 1.0, sampling, ["a red circle"])
    assert (other - base).abs().max() > 1e-3


def test_flow_edit_carries_a_point_from_one_distribution_to_the_other():
    """With x ~ N(m, 1) the velocity is exact; the difference of two such flows moves a point by the means' distance."""

    def velocity_of(mean):
        def velocity(x, sigma):
            s = sigma[:, None]
            clean = mean + (1 - s) / ((1 - s) ** 2 + s**2) * (x - (1 - s) * mean)
            return (x - clean) / s

        return velocity

    points = torch.randn(64, 1, generator=torch.Generator().manual_seed(0)).double() + 2
    sigmas = torch.linspace(1, 0, 401, dtype=torch.double)
    moved = editing.flow_edit(velocity_of(2.0), velocity_of(-3.0), points, sigmas, list(range(64)))
    torch.testing.assert_close(moved, points - 5, atol=0.02, rtol=0)


def test_a_weak_edit_changes_less_than_a_strong_one(tiny):
    given = clip()
    base = tiny.decode(tiny.encode(given))
    change = [
        (editing.edit(tiny, given, ["a"], strength, Sampling(8)) - base).abs().mean()
        for strength in (0.05, 0.5, 1.0)
    ]
    assert change[0] < change[1] < change[2]


def test_a_long_video_is_as_long_as_asked(tiny):
    video = video_prompts.generate_long(tiny, ["a"], 7.0, 32, 32, FAST)
    assert video.shape == (1, 3, 4 * 14 + 1, 32, 32)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda g: video_prompts.extend(g, clip(), ["a"], 0), "0 new frames"),
        (lambda g: video_prompts.extend(g, clip(), ["a"], 4, "sideways"), "forward, backward or loop"),
        (lambda g: video_prompts.connect(g, clip(), clip(), ["a"], 6), "multiples of 4"),
        (lambda g: video_prompts.connect(g, clip(), clip()[..., :16], ["a"], 4), "16x32"),
        (lambda g: video_prompts.interpolate(g, clip(), ["a"], 8.0, 3), "power of two"),
        (lambda g: video_prompts.interpolate(g, clip(1), ["a"], 8.0), "one frame"),
        (lambda g: editing.edit(g, clip(), ["a"], 0.0), "strength is 0.0"),
        (lambda g: video_prompts.generate_long(g, ["a"], -1), "-1 seconds"),
    ],
)
def test_impossible_requests_are_input_errors(tiny, call, message):
    with pytest.raises(InputError, match=message):
        call(tiny)


def test_a_family_with_one_noise_level_refuses_frames(tiny, monkeypatch):
    monkeypatch.setattr(type(tiny), "frames", None)
    with pytest.raises(InputError, match="--edit, which works with all"):
        video_prompts.animate(tiny, clip()[:, :, 0], ["a"], 5, FAST)


def test_nano_continues_the_motion_of_the_given_frames(nano):
    prompt = "a red circle moving right slowly"
    given = render(prompt, 9, 32, 32, seed=1)[None]
    longer = video_prompts.extend(nano, given, [prompt], 4, "forward")
    held = torch.cat([given, given[:, :, -1:].expand(-1, -1, 4, -1, -1)], dim=2)
    assert verify(longer[0], prompt).score > 0.9
    centre = [weighted_centre(video[0, :, -1]) for video in (held, longer)]
    assert centre[1] > centre[0] + 1


def weighted_centre(frame):
    """Column of the centre of what is red in `frame [3, height, width]`."""
    red = (frame[0] - frame[1]).clamp(min=0).sum(0)
    return (red * torch.arange(len(red))).sum() / red.sum()
