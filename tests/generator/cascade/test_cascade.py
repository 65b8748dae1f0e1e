"""A cascade as a generator: sizes, adapters of its base, and the stages behind it."""

import json

import pytest
import torch

from generator import load_generator
from generator.adapters.adapters import LoraAdapter, model_fingerprint, write_adapter
from generator.cascade.cascade import CascadeGenerator, through_stages
from generator.editing.video_prompts import Sampling, decode_images, sample_unknown_frames
from generator.output import InputError
from generator.testing.cascades import save_tiny_cascade

PROMPTS = ["a red circle", "two small blue squares move left"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny_cascade(tmp_path_factory.mktemp("cascade"))


@pytest.fixture(scope="module")
def cascade(folder):
    return load_generator(folder, device="cpu")


def test_a_folder_that_names_base_and_stages_is_one_generator(folder, cascade):
    assert isinstance(cascade, CascadeGenerator)
    index = json.loads((folder / "model_index.json").read_text())
    assert (index["base"], index["stages"]) == ("../base", ["temporal", "spatial"])
    made = cascade.generate(PROMPTS, seed=5, num_inference_steps=2)
    assert made.shape == (2, 3, 9, 32, 32)
    assert cascade.defaults.fps == 16
    alone = cascade.generate(PROMPTS[1:], seed=6, num_inference_steps=2)
    torch.testing.assert_close(alone[0], made[1], atol=1e-3, rtol=1e-3)


def test_of_a_base_with_twice_the_rate_every_second_frame_is_kept(cascade):
    assert (cascade.base.defaults.fps, cascade.base_fps, cascade.every) == (8, 4, 2)
    coarse = cascade.generate_base(PROMPTS, seed=5, num_inference_steps=2)
    assert coarse.shape == (2, 3, 3, 16, 16)
    own = cascade.base.generate(PROMPTS, 5, 16, 16, 2, seed=5)
    torch.testing.assert_close(coarse, own[:, :, ::2], atol=1e-4, rtol=1e-4)
    finer, fps = through_stages(cascade.stages, coarse, 4.0, PROMPTS, [5, 6])
    assert fps == 16
    made = cascade.generate(PROMPTS, seed=5, num_inference_steps=2)
    torch.testing.assert_close(made, finer, atol=1e-4, rtol=1e-4)
    still = torch.rand(1, 3, 1, 16, 16).expand(-1, -1, 3, -1, -1) * 2 - 1
    again = cascade.base.encode(still[:, :, :1].expand(-1, -1, 5, -1, -1))
    torch.testing.assert_close(cascade.encode(still), again)


def test_a_base_of_a_rate_that_is_no_multiple_makes_key_frames(cascade):
    base = cascade.base
    other = CascadeGenerator(base, cascade.stages, "keys", base_fps=3.0, base_size=(3, 16, 16))
    assert (other.key_frames, other.every, other.defaults.fps) == (True, 1, 12)
    coarse = other.generate_base(PROMPTS, seed=5, num_inference_steps=2)
    blank = torch.zeros(2, *base.latent_shape(1, 16, 16)).expand(-1, -1, 3, -1, -1)
    known = torch.zeros(3, dtype=torch.bool)
    latents = sample_unknown_frames(base, PROMPTS, blank, known, Sampling(2, 1.0, 5), 1 / 3, True)
    torch.testing.assert_close(coarse, decode_images(base, latents), atol=1e-4, rtol=1e-4)


def test_an_adapter_of_the_base_loads_into_the_cascade_unchanged(folder, cascade, tmp_path):
    generator = torch.Generator().manual_seed(0)
    name = "blocks.0.attn.to_q"
    pair = (torch.randn(2, 48, generator=generator), torch.randn(48, 2, generator=generator))
    fingerprint = model_fingerprint(cascade.base.transformer)
    write_adapter(tmp_path, LoraAdapter({name: pair}), {"model_fingerprint": fingerprint})
    changed = load_generator(folder, adapter=tmp_path, device="cpu")
    base = load_generator(folder.parent / "base", adapter=tmp_path, device="cpu")
    weights = [
        dict(each.transformer.named_parameters())[f"{name}.weight"] for each in (changed, base, cascade)
    ]
    assert torch.equal(weights[0], weights[1])
    torch.testing.assert_close(weights[0], weights[2] + pair[1] @ pair[0])
    before = cascade.generate(PROMPTS, num_inference_steps=2)
    assert (changed.generate(PROMPTS, num_inference_steps=2) - before).abs().max() > 1e-3
    for mine, other in zip(changed.stages, cascade.stages, strict=True):
        assert torch.equal(mine.transformer.patch_embed.weight, other.transformer.patch_embed.weight)


def test_sizes_follow_from_the_base_and_the_nearest_is_named(cascade):
    assert cascade.size_multiples() == (16, 8)
    cascade.check_size(17, 48, 16)
    assert cascade.generate(PROMPTS[:1], 9, 16, 32, num_inference_steps=1).shape == (1, 3, 9, 16, 32)
    for size, nearest in (((10, 32, 32), (9, 32, 32)), ((1, 40, 20), (9, 32, 16))):
        with pytest.raises(InputError, match="--num_frames {} --height {} --width {}".format(*nearest)):
            cascade.check_size(*size)


def test_a_base_of_the_cascades_own_rate_makes_clips_and_no_key_frames(cascade):
    other = CascadeGenerator(cascade.base, cascade.stages, "fast", base_fps=8.0, base_size=(5, 16, 16))
    assert other.defaults.num_frames == 17
    assert other.defaults.fps == 32
    assert other.size_multiples() == (16, 16)
    direct = cascade.base.generate(PROMPTS, 5, 16, 16, 2, seed=5)
    coarse = other.generate_base(PROMPTS, seed=5, num_inference_steps=2)
    torch.testing.assert_close(coarse, direct, atol=1e-4, rtol=1e-4)


def test_the_built_in_name_says_how_to_train_it_where_it_is_not_installed(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("generator.files.model_folders.PRETRAINED", tmp_path)
    with pytest.raises(InputError, match=r"pretrain --stage temporal .* --join_stages"):
        load_generator("nano-cascade")


def test_a_damaged_index_is_named(folder, tmp_path):
    (tmp_path / "model_index.json").write_text('{"_class_name": "VideoCascade", "stages": []}')
    with pytest.raises(InputError, match="names no base and stages"):
        load_generator(tmp_path)
