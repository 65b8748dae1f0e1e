"""Videos that begin with an image: our sampler without noise against the call of diffusers' own pipelines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from diffusers import LTX2ImageToVideoPipeline, LTXImageToVideoPipeline, WanImageToVideoPipeline
from diffusers.guiders import ClassifierFreeGuidance
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from PIL import Image
from torch import Tensor

from alignment.cli import main
from alignment.lora import LoraArguments, add_lora
from alignment.memory.forecast import Work, forecast
from alignment.trainers.ppo_config import PPOConfig
from alignment.trainers.ppo_trainer import PPOTrainer
from generator import stock_pipelines
from generator.base import VideoGenerator
from generator.editing import video_prompts
from generator.editing.first_frames import with_first_frame
from generator.editing.video_prompts import Sampling
from generator.loading import load_generator
from generator.output import InputError
from generator.sampling import seeded_noise
from generator.stock_pipelines import StockVideos
from generator.testing.image_pipelines import TINY_IMAGE_PIPELINES
from generator.testing.pipelines import save_tiny_pipeline
from generator.testing.stock import STEPS, EulerWithExplicitSigmas
from generator.video import read_video, write_video
from reward.models.base import FunctionReward

PROMPT = "a red circle moves left"
WITH_KNOWN_FRAMES = ("wan2.2-ti2v", "ltx", "ltx2.3")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("image-families")
    return {
        name: save_tiny_pipeline(name, root / name) for name in (*TINY_IMAGE_PIPELINES, *WITH_KNOWN_FRAMES)
    }


@pytest.fixture(params=[*TINY_IMAGE_PIPELINES, *WITH_KNOWN_FRAMES])
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def generator(family: str, folders: dict[str, Path]) -> Any:
    return load_generator(folders[family], device="cpu")


def picture(generator: VideoGenerator, seed: int = 0) -> Image.Image:
    size = (generator.defaults.height, generator.defaults.width, 3)
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8))


def pixels(image: Image.Image) -> Tensor:
    """`[1, 3, height, width]` in [-1, 1]."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 127.5 - 1


def stock_latents(family: str, folder: Path, generator: Any, image: Image.Image, scale: float) -> Tensor:
    """Latents `[1, C, F, H, W]` of diffusers' image-to-video pipeline from the noise of seed 0."""
    size = generator.defaults
    kind = type(generator).pipeline_class
    if family == "ltx":
        kind = LTXImageToVideoPipeline
    elif family == "ltx2.3":
        kind = LTX2ImageToVideoPipeline
    elif family == "wan2.2-ti2v":
        kind = WanImageToVideoPipeline
    components = type(generator).pipeline_class.from_pretrained(folder).components
    options = {"boundary_ratio": generator.pipeline.config.get("boundary_ratio")} if "wan" in family else {}
    if family == "wan2.2-ti2v":
        components |= {"image_encoder": None, "image_processor": None}
        options["expand_timesteps"] = True
    pipeline = kind(**components, **options)
    pipeline.set_progress_bar_config(disable=True)
    noise = seeded_noise([0], generator.latent_shape(size.num_frames, size.height, size.width))
    sizes = size.num_frames, size.height, size.width
    arguments: dict[str, Any] = {
        "prompt": PROMPT, "negative_prompt": "", "height": size.height, "width": size.width,
        "num_frames": size.num_frames, "num_inference_steps": STEPS, "output_type": "latent",
        "guidance_scale": scale, "image": image,
    }  # fmt: skip
    if family.startswith(("wan", "skyreels")):
        pipeline.scheduler = EulerWithExplicitSigmas(shift=size.shift)
        return pipeline(**arguments, latents=noise).frames
    if family.startswith("hunyuan"):
        pipeline.guider = ClassifierFreeGuidance(guidance_scale=scale)
        for name in ("height", "width", "guidance_scale"):  # it takes the size of the image
            del arguments[name]
        return pipeline(**arguments, latents=noise).frames
    with mock.patch.object(DiagonalGaussianDistribution, "sample", lambda self, generator=None: self.mode()):
        if family == "ltx":
            # With `latents` its pipeline leaves the image out, so the noise comes in at the door of its random numbers.
            where = "diffusers.pipelines.ltx.pipeline_ltx_image2video.randn_tensor"
            with mock.patch(where, return_value=noise):
                latents = pipeline(**arguments, frame_rate=25).frames
            return latents.unflatten(1, noise.shape[2:]).permute(0, 4, 1, 2, 3)
        if family == "ltx2.3":
            # By default its pipeline compresses the image first, as in a video of low quality.
            where = "diffusers.pipelines.ltx2.pipeline_ltx2_image2video.randn_tensor"

            def noise_of(shape: tuple[int, ...], **_: Any) -> Tensor:
                return noise if tuple(shape) == noise.shape else torch.randn(shape)

            with mock.patch(where, noise_of):
                videos = StockVideos([PROMPT], noise, *sizes, STEPS, scale, 1.0, 24.0, image)
                return stock_pipelines.stock_latents(pipeline, videos, image_crf=0, latents=None)
        arguments["max_sequence_length"] = pipeline.transformer.config.max_text_seq_length
        return pipeline(**arguments, latents=noise.transpose(1, 2)).frames.transpose(1, 2)


@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_an_animated_image_equals_the_call_of_the_stock_pipeline(
    family: str, folders: dict[str, Path], generator: Any, scale: float
) -> None:
    image = picture(generator)
    expected = stock_latents(family, folders[family], generator, image, scale)
    with mock.patch.object(generator, "decode", wraps=generator.decode) as decode:
        video = video_prompts.animate(generator, pixels(image), [PROMPT], sampling=Sampling(STEPS, scale, 0))
    size = generator.defaults
    assert video.shape == (1, 3, size.num_frames, size.height, size.width)
    torch.testing.assert_close(decode.call_args.args[0], expected.float(), atol=2e-4, rtol=2e-4)


def test_the_image_changes_the_video_and_a_batch_equals_its_members(generator: Any) -> None:
    images = torch.cat([pixels(picture(generator, seed)) for seed in (0, 1)])
    fast = Sampling(2, 3.0, 0)
    together = video_prompts.animate(generator, images, [PROMPT, "the blue square"], sampling=fast)
    first = video_prompts.animate(generator, images[:1], [PROMPT], sampling=fast)
    torch.testing.assert_close(together[:1], first, atol=1e-4, rtol=1e-4)
    other = video_prompts.animate(generator, images[1:], [PROMPT], sampling=fast)
    assert (other - first)[:, :, 1:].abs().max() > 1e-4


def test_generate_takes_an_image_and_edits_a_video(
    family: str, folders: dict[str, Path], generator: Any, tmp_path: Path
) -> None:
    picture(generator).save(tmp_path / "first.png")
    (tmp_path / "prompts.txt").write_text(PROMPT)
    common = ["--model", str(folders[family]), "--prompts", str(tmp_path / "prompts.txt"),
              "--num_inference_steps", "2", "--guidance_scale", "2"]  # fmt: skip
    made, edited = tmp_path / "made", tmp_path / "edited"
    assert main(["generate", *common, "--image", str(tmp_path / "first.png"), "--output_dir", str(made)]) in (
        0,
        None,
    )
    video = made / "0000.mp4"
    assert (
        json.loads((made / "metadata.jsonl").read_text())["image"] == "../first.png"
    )  # for label, sft and dpo
    assert read_video(video)[0].shape[1] == generator.defaults.num_frames
    assert main(["generate", *common, "--edit", str(video), "--output_dir", str(edited)]) in (0, None)
    assert (edited / "0000.mp4").is_file()


@pytest.mark.parametrize("family", WITH_KNOWN_FRAMES, indirect=True)
def test_models_with_a_noise_level_for_each_token_extend_and_connect_videos(generator: Any) -> None:
    time = generator.size_multiples()[1]
    size = (2 * time + 1, generator.defaults.height, generator.defaults.width)
    clips = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(1)) * 2 - 1
    fast = Sampling(1, 1.0)
    longer = video_prompts.extend(generator, clips[:1], [PROMPT], time, sampling=fast)
    assert longer.shape[2] == size[0] + time
    assert torch.equal(longer[:, :, : size[0]], clips[:1])
    joined = video_prompts.connect(generator, clips[:1], clips[1:], [PROMPT], time, sampling=fast)
    assert joined.shape[2] == 2 * size[0] + time
    with pytest.raises(InputError, match="built-in model"):
        video_prompts.interpolate(generator, clips[:1], [PROMPT], 8.0, sampling=fast)


@pytest.mark.parametrize("family", WITH_KNOWN_FRAMES, indirect=True)
def test_one_noise_level_for_all_frames_is_the_plain_velocity(generator: Any) -> None:
    size = generator.defaults
    latents = seeded_noise([0, 1], generator.latent_shape(size.num_frames, size.height, size.width))
    conditions, sigma = generator.encode_prompts([PROMPT, "the blue square"]), torch.tensor([0.9, 0.4])
    levels = sigma[:, None].expand(-1, latents.shape[2])
    torch.testing.assert_close(
        generator.frames(latents, levels, conditions),
        generator.velocity(latents, sigma, conditions),
        atol=1e-5,
        rtol=1e-5,
    )


@pytest.mark.parametrize("family", ["wan-i2v", "cogvideox-i2v"], indirect=True)
def test_a_model_that_needs_an_image_says_so(generator: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--image"):
        generator.generate([PROMPT])
    size = generator.defaults
    latents = seeded_noise([0], generator.latent_shape(size.num_frames, size.height, size.width))
    with pytest.raises(InputError, match="without one"):
        generator.features(latents, torch.tensor([0.1]), generator.encode_prompts([PROMPT]), 1)
    config = PPOConfig(output_dir=str(tmp_path), use_cpu=True, report_to="none")
    with pytest.raises(InputError, match="animates images, and none was given"):
        PPOTrainer(generator, config, [PROMPT], FunctionReward(lambda videos, prompts: [0.0], "none"))


@pytest.mark.parametrize("family", list(TINY_IMAGE_PIPELINES), indirect=True)
def test_the_first_frame_of_clean_latents_is_the_image_that_is_shown(generator: Any) -> None:
    size = generator.defaults
    videos = torch.rand(2, 3, size.num_frames, size.height, size.width) * 2 - 1
    latents = generator.encode(videos)
    shown = with_first_frame(generator, generator.encode_prompts([PROMPT, PROMPT]), latents)
    first = generator.latent_shape(1, size.height, size.width)[1]
    image = generator.decode(latents[:, :, :first])[:, :, 0]
    for name, expected in generator.image(image, size.num_frames).items():
        torch.testing.assert_close(shown[name], expected)


@pytest.mark.parametrize("family", ["wan-i2v", "cogvideox1.5-i2v"], indirect=True)
def test_sft_and_dpo_train_models_that_need_an_image(
    family: str, folders: dict[str, Path], generator: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VIDALIGN_CACHE", str(tmp_path / "cache"))
    size = generator.defaults
    (tmp_path / "videos").mkdir()
    for name in ("a.mp4", "b.mp4"):
        video = torch.rand(3, size.num_frames, size.height, size.width) * 2 - 1
        write_video(tmp_path / "videos" / name, video, fps=size.fps)
    metadata = [json.dumps({"file_name": name, "prompt": PROMPT}) for name in ("a.mp4", "b.mp4")]
    (tmp_path / "videos" / "metadata.jsonl").write_text("\n".join(metadata))
    ranking = {"prompt": PROMPT, "videos": ["videos/a.mp4", "videos/b.mp4"], "ranks": [1, 2]}
    (tmp_path / "rankings.jsonl").write_text(json.dumps(ranking))
    common = ["--model", folders[family], "--max_steps", 1, "--lora_r", 2, "--learning_rate", 1e-2,
              "--num_frames", size.num_frames, "--height", size.height, "--width", size.width,
              "--per_device_train_batch_size", 1, "--report_to", "none", "--use_cpu", "true"]  # fmt: skip
    data = {"sft": ["--dataset", tmp_path / "videos"], "dpo": ["--preferences", tmp_path / "rankings.jsonl"]}
    for command, source in data.items():
        words = [command, *common, *source, "--output_dir", tmp_path / command]
        assert main([str(word) for word in words]) in (0, None)
        image = pixels(picture(generator))
        fast = Sampling(2, 1.0)
        base, changed = (
            video_prompts.animate(
                load_generator(folders[family], adapter=adapter, device="cpu"), image, [PROMPT], sampling=fast
            )
            for adapter in (None, tmp_path / command)
        )
        assert not torch.equal(base, changed)


@pytest.mark.parametrize("family", ["wan2.2-i2v-a14b"], indirect=True)
def test_a_batch_of_mixed_noise_levels_goes_to_both_experts_with_the_image(generator: Any) -> None:
    add_lora(generator, LoraArguments(lora_r=2), seed=0)
    size = generator.defaults
    latents = seeded_noise([0, 1], generator.latent_shape(size.num_frames, size.height, size.width))
    images = torch.cat([pixels(picture(generator, seed)) for seed in (0, 1)])
    conditions = {
        **generator.encode_prompts([PROMPT, PROMPT]), **generator.image(images, size.num_frames)
    }  # fmt: skip
    levels = torch.tensor([0.95, 0.2])
    together = generator.velocity(latents, levels, conditions)
    assert together.shape == latents.shape
    for row in range(2):
        alone = {name: value[row : row + 1] for name, value in conditions.items()}
        one = generator.velocity(latents[row : row + 1], levels[row : row + 1], alone)
        torch.testing.assert_close(together[row : row + 1], one, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", ["wan-i2v", "cogvideox-i2v", "hunyuan_video1.5-i2v"], indirect=True)
def test_the_memory_of_animating_is_forecast(family: str, folders: dict[str, Path]) -> None:
    found = forecast(folders[family], Work("generate", 9, 16, 16, guided=True))
    assert found.transient["sampling"] > 0
