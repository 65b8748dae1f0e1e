"""`load_generator`, and the generator that ships with the project."""

import json
import shutil

import pytest
import torch

from generator import load_generator
from generator.files import model_folders
from generator.files.built_in import PRETRAINED
from generator.files.model_folders import find_pipeline
from generator.output import InputError
from generator.testing import tiny_generator

SIZE = {"num_frames": 5, "height": 16, "width": 16, "num_inference_steps": 2}


@pytest.fixture(scope="module")
def nano():
    return load_generator("nano", device="cpu")


def test_nano_is_small(nano):
    assert sum(p.numel() for p in nano.transformer.parameters()) <= 12_500_000
    files = [path for path in (PRETRAINED / "nano").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 40_000_000
    assert max(path.stat().st_size for path in files) < 15_000_000


def test_nano_says_nothing_of_where_it_was_made():
    for path in (PRETRAINED / "nano").rglob("*.json"):
        name = json.loads(path.read_text()).get("_name_or_path", "")
        assert name == "", path


def test_nano_is_ready_for_use(nano):
    assert nano.name == "nano"
    assert nano.dtype == torch.float32
    for component in (nano.pipeline.transformer, nano.pipeline.vae, nano.pipeline.text_encoder):
        assert not component.training
        assert not any(p.requires_grad for p in component.parameters())
    assert nano.defaults.fps == 8
    video = nano.generate(["a red circle moves to the right"], num_frames=1, height=32, width=32)
    assert video.shape == (1, 3, 1, 32, 32)
    assert video.isfinite().all()
    assert video.std() > 0.01


def test_nano_latents_have_about_unit_variance_and_decode_to_their_video(nano):
    from generator.world import render, sample_prompts

    prompts = sample_prompts(8, 0, "train")
    clips = torch.stack(
        [render(p, num_frames=9, height=32, width=32, fps=8, seed=i) for i, p in enumerate(prompts)]
    )
    latents = nano.encode(clips)
    assert latents.mean().abs() < 0.5
    assert 0.5 < latents.std() < 2
    error = (nano.decode(latents) - clips).pow(2).mean()
    assert 10 * torch.log10(4 / error) > 25


def test_a_saved_generator_loads_and_generates_the_same(tmp_path):
    tiny = tiny_generator()
    tiny.pipeline.save_pretrained(tmp_path / "model")
    loaded = load_generator(tmp_path / "model", device="cpu")
    assert loaded.name == str(tmp_path / "model")
    prompts = ["a red circle", "two squares"]
    assert torch.equal(loaded.generate(prompts, **SIZE), tiny.generate(prompts, **SIZE))


def test_the_dtype_asked_for_is_used(tmp_path):
    tiny_generator().pipeline.save_pretrained(tmp_path)
    loaded = load_generator(tmp_path, device="cpu", dtype=torch.bfloat16)
    assert loaded.dtype == torch.bfloat16
    conditions = loaded.encode_prompts(["a red circle"])
    latents = torch.randn(1, *loaded.latent_shape(5, 16, 16))
    assert loaded.velocity(latents, torch.tensor([0.5]), conditions).dtype == torch.float32


def test_a_name_that_nothing_has_is_an_error_that_lists_the_built_in_models():
    with pytest.raises(InputError, match=r"'nanoo' is unknown.*built-in model \(.*nano.*\)"):
        load_generator("nanoo")


def test_a_hub_id_that_cannot_be_fetched_is_an_input_error(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(
        InputError, match="is not on this machine, and the hub is not asked, as HF_HUB_OFFLINE is set"
    ):
        load_generator("nobody/no-such-model")


def test_a_folder_without_an_index_is_an_error(tmp_path):
    with pytest.raises(InputError, match=r"holds no model_index\.json"):
        load_generator(tmp_path)


def test_a_pipeline_of_another_kind_is_an_error_that_lists_the_supported_ones(tmp_path):
    (tmp_path / "model_index.json").write_text('{"_class_name": "StableDiffusion3Pipeline"}')
    with pytest.raises(InputError, match=r"is a StableDiffusion3Pipeline.*NativeVideoPipeline"):
        load_generator(tmp_path)


def test_a_folder_is_found_when_no_built_in_models_are_installed(tmp_path, monkeypatch):
    monkeypatch.setattr(model_folders, "PRETRAINED", tmp_path / "absent")
    tiny_generator().pipeline.save_pretrained(tmp_path / "model")
    assert find_pipeline(tmp_path / "model") == tmp_path / "model"
    with pytest.raises(InputError, match="'nano' is unknown"):
        find_pipeline("nano")


@pytest.mark.parametrize("index", ["{", "[]"])
def test_a_damaged_index_is_an_input_error(tmp_path, index):
    (tmp_path / "model_index.json").write_text(index)
    with pytest.raises(InputError, match=r"model_index\.json"):
        load_generator(tmp_path)


def test_a_pipeline_without_weights_is_an_input_error(tmp_path):
    tiny_generator().pipeline.save_pretrained(tmp_path)
    shutil.rmtree(tmp_path / "transformer")
    with pytest.raises(InputError, match=r"cannot be read .*config\.json"):
        load_generator(tmp_path)
