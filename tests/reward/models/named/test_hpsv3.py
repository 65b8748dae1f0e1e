"""HPSv3: its file, sizes, positions and reduction, against upstream's computation."""

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from generator.output import InputError
from reward import load_reward
from reward.models.named import hpsv3
from reward.models.named.qwen_rewards import pillow_resize
from reward.models.named.templates import digest
from reward.models.vlm_loading import fit_size
from tests.reward.models.named.published_qwen import save_hpsv3, upstream_states

PARTS = ("\nRate this image :\nPrompt - {text_prompt}\n\n", "\nIs there a clip : <|Reward|>\n\nEND\n")
PROMPTS = ["a red circle", "Is there a green square ?"]


@pytest.fixture(autouse=True)
def own_text(monkeypatch, tmp_path):
    """A text of our own in two constants, as upstream's file has its."""
    text = dataclasses.replace(
        hpsv3.TEXT, sha256=digest("".join(PARTS)), parts=tuple(digest(part) for part in PARTS)
    )
    monkeypatch.setattr(hpsv3, "TEXT", text)
    monkeypatch.setenv("VIDALIGN_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "collator.py"
    path.write_text(f"FIRST = {PARTS[0]!r}\n\ndef ask():\n    return FIRST + {PARTS[1]!r}\n")
    return path


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    return save_hpsv3(tmp_path_factory.mktemp("HPSv3"))


def load(folder, text, options=""):
    return load_reward(f"hpsv3:template={text}{options}:{folder}", device="cpu")


def videos_of(size=(448, 448), frames=2, count=2):
    random = torch.Generator().manual_seed(5)
    return torch.randint(0, 256, (count, 3, frames, *size), generator=random).float() / 127.5 - 1


def test_scores_are_the_mean_output_of_upstreams_computation_at_sequential_positions(published, own_text):
    folder, upstream, tokenizer = published
    model = load(folder, own_text)
    videos = videos_of()
    found = model.score(videos, PROMPTS)["overall"]
    for row, prompt in enumerate(PROMPTS):
        scores = []
        for frame in videos[row].transpose(0, 1):
            text = "".join(PARTS).replace("{text_prompt}", prompt)
            still = ((frame + 1) / 2)[None].expand(2, -1, -1, -1)
            hidden, ids = upstream_states(upstream, tokenizer, "<|image_pad|>", still, text)
            place = int((ids == tokenizer.convert_tokens_to_ids("<|Reward|>")).nonzero())
            mean, spread = upstream.rm_head(hidden[place]).tolist()
            assert abs(mean - spread) > 1e-3
            scores.append(mean)
        assert found[row].item() == pytest.approx(sum(scores) / 2, abs=1e-5)
    inputs = model.reader.image_inputs(videos[:, :, 0], ["".join(PARTS)] * 2)
    sequential = model.reader(inputs)
    del inputs["position_ids"]
    assert (model.reader(inputs) - sequential)[..., 0].abs().max() > 1e-3
    assert model.record()["frames"] == 5


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((480, 832), (336, 588)),
        ((720, 1280), (336, 588)),
        ((544, 960), (336, 588)),
        ((480, 720), (364, 532)),
        ((512, 512), (448, 448)),
        ((320, 512), (364, 588)),
        ((256, 256), (448, 448)),
        ((64, 64), (448, 448)),
    ],
)
def test_every_frame_is_brought_to_one_area(size, expected):
    assert fit_size(*size, 28, hpsv3.BUDGET) == expected


@pytest.mark.parametrize("size", [(308, 392), (20, 28)])
def test_resized_pixels_are_within_one_step_of_pillows(size):
    image = (np.random.default_rng(0).random((48, 64, 3)) * 255).astype(np.uint8)
    expected = np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.BICUBIC)).astype(int)
    frame = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 127.5 - 1
    found = (pillow_resize(frame, *size)[0].permute(1, 2, 0) * 255).round().int().numpy()
    assert np.abs(found - expected).max() <= 1


def test_frames_and_their_reduction_are_chosen_by_name(published, own_text):
    folder, _, _ = published
    videos = videos_of((64, 64), frames=3, count=1)
    each = [
        load(folder, own_text).score(videos[:, :, [frame]], PROMPTS[:1])["overall"].item()
        for frame in range(3)
    ]
    expected = {"": sum(each) / 3, ":frames=2": (each[0] + each[2]) / 2, ":reduce=top34": max(each)}
    for options, value in expected.items():
        found = load(folder, own_text, options).score(videos, PROMPTS[:1])["overall"].item()
        assert found == pytest.approx(value, abs=1e-4)


def test_gradients_reach_the_pixels_of_the_chosen_frames(published, own_text):
    model = load(published[0], own_text, ":frames=2")
    videos = videos_of((64, 64), frames=3, count=1).requires_grad_()
    model.score_pixels(videos, PROMPTS[:1])["overall"].sum().backward()
    assert videos.grad.isfinite().all()
    assert (videos.grad.abs().sum((0, 1, 3, 4)) > 0).tolist() == [True, False, True]


def test_the_head_is_in_float32_whatever_the_precision_and_another_head_is_refused(
    published, own_text, tmp_path
):
    model = load(published[0], own_text, ":dtype=bfloat16")
    assert {weight.dtype for weight in model.reader.head.parameters()} == {torch.float32}
    assert {weight.dtype for weight in model.reader.backbone.parameters()} == {torch.bfloat16}
    state = load_file(published[0] / "HPSv3.safetensors")
    state["rm_head.5.weight"] = state["rm_head.5.weight"][:1].clone()
    (tmp_path / "other").mkdir()
    save_file(state, tmp_path / "other" / "HPSv3.safetensors")
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "other" / name).write_bytes((published[0] / name).read_bytes())
    with pytest.raises(InputError, match="has the head weights"):
        load(tmp_path / "other", own_text)
