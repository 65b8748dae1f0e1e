"""VideoReward: both layouts of its files, its frames and its positions, against upstream's computation."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from generator.output import InputError
from reward import load_reward
from reward.models.named import videoalign
from reward.models.named.templates import digest
from reward.models.named.videoalign import VideoAlignSettings, read_settings, sampled_frames
from reward.models.vlm_loading import fit_size
from tests.reward.models.named.published_qwen import (
    QUALITY,
    TEMPLATE,
    save_video_reward,
    upstream_states,
)

PROMPTS = ["a red circle", "Is there a green square { braces } ?"]
NORMS = {"VQ": (3.6757, 2.2476), "MQ": (1.1646, 1.3811), "TA": (2.8105, 2.5121)}


@pytest.fixture(autouse=True)
def own_text(monkeypatch, tmp_path):
    """A text of our own in the place of upstream's, which is not shipped."""
    text = dataclasses.replace(videoalign.TEXT, sha256=digest(TEMPLATE), parts=(digest(TEMPLATE),))
    monkeypatch.setattr(videoalign, "TEXT", text)
    monkeypatch.setenv("VIDALIGN_CACHE", str(tmp_path / "cache"))
    (tmp_path / "text.txt").write_text(TEMPLATE)
    return tmp_path / "text.txt"


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    return save_video_reward(tmp_path_factory.mktemp("VideoReward"))


def videos_of(size=(336, 588), frames=5, count=2):
    """Videos whose pixels are steps of 8 bits, as a file's are."""
    random = torch.Generator().manual_seed(3)
    return torch.randint(0, 256, (count, 3, frames, *size), generator=random).float() / 127.5 - 1


def load(folder, text, name="videoalign", fps=16.0):
    model = load_reward(f"{name}:template={text}:{folder}", device="cpu")
    model.set_frame_rate(fps)
    return model


def test_scores_are_those_of_upstreams_computation_and_not_those_of_the_default_positions(
    published, own_text
):
    folder, peft, tokenizer = published
    model = load(folder, own_text)
    assert model.dimensions == ("overall", "VQ", "MQ", "TA")
    videos = videos_of()
    scores = model.score(videos, PROMPTS)
    upstream = peft.base_model.model
    total = torch.zeros(2)
    for name, token in zip(("VQ", "MQ", "TA"), QUALITY):
        for row, prompt in enumerate(PROMPTS):
            frames = (videos[row][:, [0, 1, 3, 4]].transpose(0, 1) + 1) / 2
            text = TEMPLATE.replace("{text_prompt}", prompt)
            hidden, ids = upstream_states(upstream, tokenizer, "<|video_pad|>", frames, text)
            place = int((ids == tokenizer.convert_tokens_to_ids(token)).nonzero())
            mean, std = NORMS[name]
            expected = (upstream.rm_head(hidden[place]).item() - mean) / std
            assert scores[name][row].item() == pytest.approx(expected, abs=1e-5)
            total[row] += expected
    assert scores["overall"].tolist() == pytest.approx(total.tolist(), abs=1e-5)

    inputs = model.reader.video_inputs([model.frames_of(video) for video in videos], [TEMPLATE] * 2)
    del inputs["position_ids"]
    default = model.reader(inputs)[..., 0]
    inputs["position_ids"] = torch.arange(inputs["input_ids"].shape[1]).expand(3, 2, -1)
    assert (default - model.reader(inputs)[..., 0]).abs().max() > 1e-2


def test_both_layouts_and_a_checkpoint_folder_give_the_same_scores(published, own_text, tmp_path):
    folder, _, _ = published
    split, _, _ = save_video_reward(tmp_path / "split", "adapter")
    videos = videos_of((64, 64))
    expected = load(folder, own_text).score(videos, PROMPTS)
    for other in (split, folder / "checkpoint-12", folder / "checkpoint-12" / "model.pth"):
        found = load(other, own_text).score(videos, PROMPTS)
        for name, values in expected.items():
            assert found[name].tolist() == pytest.approx(values.tolist(), abs=1e-5)


def test_a_dimension_is_one_score_and_shares_weights_and_the_forward_pass(published, own_text):
    folder, _, _ = published
    whole = load(folder, own_text)
    motion, alignment = (load(folder, own_text, f"VideoAlign:{name}") for name in ("mq", "TA"))
    assert motion.reader is alignment.reader is whole.reader
    assert (motion.name, motion.dimensions) == ("videoalign:MQ", ("overall",))
    passes = []
    motion.reader.backbone.register_forward_hook(lambda *_: passes.append(1))
    videos = videos_of((64, 64))
    one, other = motion.score(videos, PROMPTS), alignment.score(videos, PROMPTS)
    assert len(passes) == 1
    scores = whole.score(videos.clone(), PROMPTS)
    assert len(passes) == 2
    assert one["overall"].tolist() == pytest.approx(scores["MQ"].tolist(), abs=1e-6)
    assert other["overall"].tolist() == pytest.approx(scores["TA"].tolist(), abs=1e-6)
    record = alignment.record()
    assert record["template_sha256"] == digest(TEMPLATE)
    assert record["files"]["model.pth"].startswith("sha256:")


def test_quality_does_not_see_the_prompt_and_a_batch_of_two_lengths_is_each_alone(published, own_text):
    model = load(published[0], own_text)
    videos = videos_of((64, 64))
    both = model.score(videos, PROMPTS)
    for row in range(2):
        alone = model.score(videos[row : row + 1], PROMPTS[row : row + 1])
        for name, values in alone.items():
            assert both[name][row].item() == pytest.approx(values.item(), abs=1e-5)
    other = model.score(videos, PROMPTS[::-1])
    for name in ("VQ", "MQ"):
        assert other[name].tolist() == pytest.approx(both[name].tolist(), abs=1e-5)
    assert (other["TA"] - both["TA"]).abs().min() > 1e-4


@pytest.mark.parametrize(
    ("count", "fps", "indices"),
    [
        (81, 16, [0, 9, 18, 27, 36, 44, 53, 62, 71, 80]),
        (81, 24, [0, 16, 32, 48, 64, 80]),
        (49, 8, [0, 4, 9, 13, 17, 22, 26, 31, 35, 39, 44, 48]),
        (121, 24, [0, 13, 27, 40, 53, 67, 80, 93, 107, 120]),
        (129, 24, [0, 14, 28, 43, 57, 71, 85, 100, 114, 128]),
        (33, 16, [0, 11, 21, 32]),
        (16, 8, [0, 5, 10, 15]),
        (17, 8, [0, 5, 11, 16]),
        (5, 16, [0, 1, 3, 4]),
        (3, 16, [0, 2]),
    ],
)
def test_the_frames_are_upstreams(count, fps, indices):
    assert sampled_frames(count, fps) == indices


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((480, 832), (336, 588)),
        ((720, 1280), (336, 588)),
        ((544, 960), (336, 588)),
        ((480, 720), (364, 532)),
        ((512, 512), (448, 448)),
        ((320, 512), (308, 504)),
        ((256, 256), (336, 336)),
        ((64, 64), (336, 336)),
    ],
)
def test_frames_are_brought_into_upstreams_pixel_budget(size, expected):
    assert fit_size(*size, 28, VideoAlignSettings().budget) == expected


def test_the_frame_rate_of_the_videos_or_of_the_option_is_the_one_that_counts(published, own_text):
    videos = videos_of((64, 64), frames=24, count=1)
    slow, fast = load(published[0], own_text, fps=4.0), load(published[0], own_text, fps=24.0)
    assert len(slow.frames_of(videos[0])) == 12
    assert len(fast.frames_of(videos[0])) == 4
    forced = load(published[0], own_text, "videoalign:fps=4", fps=24.0)
    assert forced.score(videos, PROMPTS[:1])["TA"].item() == pytest.approx(
        slow.score(videos, PROMPTS[:1])["TA"].item(), abs=1e-6
    )
    unknown = load_reward(f"videoalign:{published[0]}", device="cpu")
    with pytest.raises(InputError, match="judges by frame rate, but"):
        unknown.score(videos, PROMPTS[:1])


def test_gradients_reach_the_pixels_and_show_the_way_up(published, own_text):
    model = load(published[0], own_text, "videoalign:TA:scale=2")
    videos = videos_of((64, 64), count=1).requires_grad_()
    score = model.score_pixels(videos, PROMPTS[:1])["overall"]
    score.sum().backward()
    assert videos.grad.isfinite().all()
    shown = videos.grad.abs().sum((0, 1, 3, 4)) > 0
    assert shown.tolist() == [True, True, False, True, True]
    higher = model.score_pixels(videos.detach() + 0.05 * videos.grad.sign(), PROMPTS[:1])["overall"]
    assert higher.item() > score.item()
    plain = load(published[0], own_text, "videoalign:TA").score(videos.detach(), PROMPTS[:1])["overall"]
    assert score.item() == pytest.approx(2 * plain.item(), abs=1e-5)


def test_what_is_not_read_is_refused_by_name(published, own_text, tmp_path):
    document = json.loads((published[0] / "model_config.json").read_text())
    for section, key, value in [
        ("model_config", "output_dim", 3),
        ("model_config", "reward_token", "last"),
        ("data_config", "prompt_template_type", "simple"),
        ("data_config", "eval_dim", ["VQ"]),
    ]:
        changed = json.loads(json.dumps(document))
        changed[section][key] = value
        (tmp_path / "model_config.json").write_text(json.dumps(changed))
        with pytest.raises(InputError, match=f"has {key}"):
            read_settings(tmp_path / "model_config.json")
    with pytest.raises(InputError, match="holds neither"):
        load(tmp_path, own_text)
    with pytest.raises(InputError, match=r"holds no model_config\.json"):
        load(Path(__file__).parent, own_text)
    model = load(published[0], own_text)
    with pytest.raises(InputError, match=r"holds <\|MQ_reward\|>"):
        model.check_prompts(["a cat <|MQ_reward|>"])
    with pytest.raises(InputError, match="at least 2 frames"):
        model.score(videos_of((64, 64), frames=1), PROMPTS)


def test_a_damaged_or_incomplete_checkpoint_is_refused_in_a_sentence(published, own_text, tmp_path):
    import shutil

    folder = tmp_path / "copy"
    shutil.copytree(published[0], folder)
    weights = folder / "checkpoint-12" / "model.pth"
    state = torch.load(weights, weights_only=True)
    del state["base_model.model.model.norm.weight"]
    torch.save(state, weights)
    with pytest.raises(
        InputError, match=r"1 weights differ, first language_model\.norm\.weight \(nothing found"
    ):
        load(folder, own_text)
    weights.write_bytes(weights.read_bytes()[:2000])
    with pytest.raises(
        InputError, match=r"model\.pth \(2000 bytes\) cannot be read as weights of videoalign"
    ):
        load(folder, own_text)
    with pytest.raises(InputError, match=r"hf download KlingTeam/VideoReward model_config\.json"):
        load_reward(f"videoalign:template={own_text}")
