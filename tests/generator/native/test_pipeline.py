"""The native pipeline: saving, sampling, LoRA."""

import json

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model_state_dict

from generator.native.building import build_pipeline, save_pipeline
from generator.native.pipeline import NativeVideoPipeline, nearest_valid_size
from generator.output import InputError
from generator.sampling import seeded_noise
from generator.testing import tiny_generator

PROMPTS = ["a red circle", "a large blue square moves slowly to the left"]
SIZE = {"num_frames": 5, "height": 16, "width": 24}


@pytest.fixture(scope="module")
def generator():
    return tiny_generator()


@pytest.fixture
def noise(generator):
    return seeded_noise([5, 6], generator.latent_shape(*SIZE.values()))


def sample(pipeline, noise, **changes):
    arguments = {"num_inference_steps": 3, "output_type": "latent", **SIZE, **changes}
    return pipeline(PROMPTS, latents=noise, **arguments).frames


@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
@pytest.mark.parametrize("num_inference_steps", [1, 4])
def test_the_pipeline_and_the_generator_make_the_same_videos_of_the_same_noise(
    generator, noise, guidance_scale, num_inference_steps
):
    settings = {"num_inference_steps": num_inference_steps, "guidance_scale": guidance_scale, **SIZE}
    frames = generator.pipeline(PROMPTS, latents=noise, negative_prompt="a ring", **settings).frames
    videos = generator.generate(PROMPTS, seed=5, negative_prompt="a ring", **settings)
    assert videos.shape == (2, 3, 5, 16, 24)
    torch.testing.assert_close(frames.permute(0, 2, 1, 3, 4) * 2 - 1, videos, atol=1e-4, rtol=0)


def test_a_saved_pipeline_makes_the_same_videos(generator, noise, tmp_path):
    generator.pipeline.save_pretrained(tmp_path)
    loaded = NativeVideoPipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    assert torch.equal(sample(loaded, noise), sample(generator.pipeline, noise))
    assert loaded.config.fps == generator.pipeline.config.fps
    assert loaded.scheduler.config.shift == generator.pipeline.scheduler.config.shift


def test_save_pipeline_halves_the_weights_and_names_no_place(tmp_path):
    pipeline = tiny_generator().pipeline
    pipeline.transformer.register_to_config(_name_or_path="/home/someone/models")
    expected = pipeline.transformer.proj_out.weight.detach().half()
    save_pipeline(pipeline, tmp_path)
    loaded = NativeVideoPipeline.from_pretrained(tmp_path, dtype=torch.float16)
    assert torch.equal(loaded.transformer.proj_out.weight, expected)
    assert not any("/home" in path.read_text() for path in tmp_path.rglob("*.json"))


def test_the_same_seed_builds_the_same_weights_and_leaves_the_global_generator_alone():
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    small = {"transformer": {"num_layers": 1}, "autoencoder": {"channels": (8, 16), "num_blocks": 1}}
    first, second, other = (build_pipeline(**small, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(torch.rand(1), expected)
    weights = [p.transformer.patch_embed.weight for p in (first, second, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_output_types_agree(generator, noise):
    settings = {"latents": noise, "num_inference_steps": 2, **SIZE}
    pixels = generator.pipeline(PROMPTS, **settings).frames
    assert pixels.shape == (2, 5, 3, 16, 24)
    assert pixels.min() >= 0
    assert pixels.max() <= 1
    array = generator.pipeline(PROMPTS, output_type="np", **settings).frames
    assert isinstance(array, np.ndarray)
    assert np.array_equal(array, pixels.numpy())
    latents = generator.pipeline(PROMPTS, output_type="latent", return_dict=False, **settings)[0]
    torch.testing.assert_close(generator.decode(latents).permute(0, 2, 1, 3, 4) / 2 + 0.5, pixels)


def test_one_prompt_is_a_batch_of_one_and_generators_seed_it(generator):
    def frames(seed):
        return generator.pipeline(
            PROMPTS[0], generator=torch.Generator().manual_seed(seed), num_inference_steps=1, **SIZE
        ).frames

    assert frames(0).shape == (1, 5, 3, 16, 24)
    assert torch.equal(frames(0), frames(0))
    assert not torch.equal(frames(0), frames(1))


def test_lora_weights_are_saved_and_loaded_through_the_pipeline(noise, tmp_path):
    trained = tiny_generator()
    before = sample(trained.pipeline, noise)
    torch.manual_seed(0)
    lora = LoraConfig(r=2, lora_alpha=6, target_modules=trained.lora_target_modules, init_lora_weights=False)
    trained.transformer.add_adapter(lora)
    adapted = sample(trained.pipeline, noise)
    assert (adapted - before).abs().max() > 1e-3
    NativeVideoPipeline.save_lora_weights(
        tmp_path,
        transformer_lora_layers=get_peft_model_state_dict(trained.transformer),
        transformer_lora_adapter_metadata=lora.to_dict(),
    )
    fresh = tiny_generator().pipeline
    fresh.load_lora_weights(tmp_path)
    torch.testing.assert_close(sample(fresh, noise), adapted)
    fresh.unload_lora_weights()
    torch.testing.assert_close(sample(fresh, noise), before)


@pytest.mark.parametrize(
    ("size", "nearest"),
    [
        ((8, 33, 32), (9, 32, 32)),
        ((10, 43, 45), (9, 40, 48)),
        ((0, 1, 3), (1, 8, 8)),
        ((16, 64, 60), (17, 64, 64)),
    ],
)
def test_a_size_that_cannot_be_made_is_an_error_that_names_the_nearest(generator, size, nearest):
    frames, height, width = nearest
    with pytest.raises(InputError, match=f"--num_frames {frames} --height {height} --width {width}"):
        generator.check_size(*size)
    generator.check_size(*nearest)
    with pytest.raises(InputError, match="nearest"):
        generator.pipeline(PROMPTS, num_frames=size[0], height=size[1], width=size[2])


def test_the_nearest_valid_size_is_the_nearest():
    """Against a search through all valid sizes."""
    for frames in range(1, 20):
        valid, _, _ = nearest_valid_size(frames, 8, 8, 8, 4)
        assert abs(valid - frames) == min(abs(4 * k + 1 - frames) for k in range(10))
    for side in range(1, 40):
        _, valid, other = nearest_valid_size(1, side, 40 - side, 8, 4)
        assert abs(valid - side) == min(abs(8 * k - side) for k in range(1, 10))
        assert other % 8 == 0


def test_saved_classes_are_named_by_the_modules_of_the_checkpoint_format(generator, tmp_path):
    generator.pipeline.save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index["_class_name"] == "NativeVideoPipeline"
    assert index["transformer"] == ["generator.native.transformer", "NativeVideoTransformer3DModel"]
    assert index["vae"] == ["generator.native.autoencoder", "NativeVideoAutoencoder"]
