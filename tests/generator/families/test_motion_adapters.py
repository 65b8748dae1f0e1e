"""Motion adapters as folders and files on image pipelines: the same videos as of pipelines joined by diffusers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    AnimateDiffPipeline,
    AnimateDiffSDXLPipeline,
    MotionAdapter,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from safetensors.torch import save_file

from generator.adapters.loaded_from import WEIGHT_FILES, loaded_from
from generator.families.motion_adapters import animation_scheduler, read_motion_adapter
from generator.loading import load_generator
from generator.output import InputError
from generator.provenance import file_hash
from generator.testing.pipelines import build_tiny_pipeline
from generator.testing.stock import ours, stock_call


def image_unet(pipeline: Any) -> UNet2DConditionModel:
    """A U-Net of images of the size of a tiny AnimateDiff pipeline's."""
    config = pipeline.unet.config
    more = {}
    if config.addition_embed_type:
        more = {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": config.addition_time_embed_dim,
            "projection_class_embeddings_input_dim": config.projection_class_embeddings_input_dim,
        }
    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=2, block_out_channels=(8, 16), layers_per_block=1, attention_head_dim=2, norm_num_groups=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=config.cross_attention_dim, **more,
    )  # fmt: skip


def save_image_pipeline(name: str, folder: Path) -> tuple[Any, UNet2DConditionModel]:
    """Saves a tiny Stable Diffusion pipeline; returns its U-Net and the AnimateDiff pipeline with its other parts."""
    pipeline = build_tiny_pipeline(name)
    parts = {
        part: value
        for part, value in pipeline.components.items()
        if part not in ("unet", "motion_adapter", "image_encoder", "feature_extractor")
    }
    unet = image_unet(pipeline)
    if name == "animatediff":
        image = StableDiffusionPipeline(
            unet=unet, safety_checker=None, feature_extractor=None, requires_safety_checker=False, **parts
        )
    else:
        image = StableDiffusionXLPipeline(unet=unet, **parts)
    image.save_pretrained(folder)
    return pipeline, unet


@pytest.mark.parametrize("family", ["animatediff", "animatediff_xl"])
def test_an_image_pipeline_with_a_motion_adapter_is_the_pipeline_that_diffusers_joins(
    family: str, tmp_path: Path
) -> None:
    pipeline, unet = save_image_pipeline(family, tmp_path / "image")
    pipeline.motion_adapter.save_pretrained(tmp_path / "motion")
    generator: Any = load_generator(tmp_path / "image", device="cpu", motion_adapter=tmp_path / "motion")
    kind = AnimateDiffPipeline if family == "animatediff" else AnimateDiffSDXLPipeline
    stock = kind.from_pretrained(tmp_path / "image", motion_adapter=pipeline.motion_adapter)
    stock.scheduler = animation_scheduler(stock.scheduler)
    if family == "animatediff_xl":  # diffusers does not copy this one, which stays random
        stock.unet.add_embedding.load_state_dict(unet.add_embedding.state_dict())
    stock.set_progress_bar_config(disable=True)
    assert stock.scheduler.config.beta_schedule == "linear"
    torch.testing.assert_close(
        ours(generator, 3.0), stock_call(family, stock, generator, 3.0), atol=2e-4, rtol=2e-4
    )
    digest = file_hash(tmp_path / "motion" / "diffusion_pytorch_model.safetensors")
    assert loaded_from(generator)[WEIGHT_FILES]["motion_adapter"]["sha256"] == digest
    with pytest.raises(InputError, match="--motion_adapter FOLDER"):
        load_generator(tmp_path / "image", device="cpu")


def test_the_motion_modules_of_an_animated_pipeline_are_replaced(folder: Path, tmp_path: Path) -> None:
    other = build_tiny_pipeline("animatediff", seed=1)
    other.motion_adapter.save_pretrained(tmp_path / "motion")
    before: Any = load_generator(folder, device="cpu")
    after: Any = load_generator(folder, device="cpu", motion_adapter=tmp_path / "motion")
    theirs = other.unet.state_dict()
    for name, value in after.transformer.state_dict().items():
        expected = theirs if ".motion_modules." in name else before.transformer.state_dict()
        assert torch.equal(value, expected[name]), name


@pytest.fixture
def family() -> str:
    return "animatediff"


def authors_names(adapter: MotionAdapter) -> dict[str, torch.Tensor]:
    """Weights of motion modules as their authors' files name them."""
    found = {}
    for name, value in adapter.state_dict().items():
        stem, dot, rest = name.partition(".transformer_blocks.")
        if dot:
            for ours_, theirs in (("attn1", "attention_blocks.0"), ("attn2", "attention_blocks.1"),
                                  ("norm1", "norms.0"), ("norm2", "norms.1"), ("norm3", "ff_norm")):  # fmt: skip
                rest = rest.replace(ours_, theirs)
            name = f"{stem}.temporal_transformer.transformer_blocks.{rest}"
        else:
            parts = stem.split(".")
            place = parts.index("motion_modules") + 2
            name = ".".join([*parts[:place], "temporal_transformer", *parts[place:]])
        found[f"module.{name}"] = value
    found["module.down_blocks.0.motion_modules.0.temporal_transformer.pos_encoder.pe"] = torch.zeros(
        1, 32, 32
    )
    return found


def test_files_of_motion_modules_are_read_by_their_authors_names_and_by_those_of_diffusers(
    tmp_path: Path,
) -> None:
    torch.manual_seed(0)
    adapter = MotionAdapter(block_out_channels=(32, 64), motion_layers_per_block=1)
    save_file(adapter.state_dict(), tmp_path / "motion.safetensors")
    torch.save({"state_dict": authors_names(adapter)}, tmp_path / "mm.ckpt")
    for name in ("motion.safetensors", "mm.ckpt"):
        found = read_motion_adapter(tmp_path / name, torch.float32)
        assert found.state_dict().keys() == adapter.state_dict().keys()
        assert all(torch.equal(value, adapter.state_dict()[key]) for key, value in found.state_dict().items())


def test_what_is_no_motion_adapter_is_refused_in_a_sentence(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="was not found"):
        load_generator(folder, device="cpu", motion_adapter=tmp_path / "nowhere")
    save_file({"blocks.0.weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(InputError, match="it has no layers of motion modules"):
        load_generator(folder, device="cpu", motion_adapter=tmp_path / "other.safetensors")
    (tmp_path / "damaged.ckpt").write_bytes(b"x")
    with pytest.raises(InputError, match="cannot be read"):
        load_generator(folder, device="cpu", motion_adapter=tmp_path / "damaged.ckpt")
    MotionAdapter(block_out_channels=(32, 64), motion_layers_per_block=1).save_pretrained(tmp_path / "wide")
    with pytest.raises(InputError, match="does not fit"):
        load_generator(folder, device="cpu", motion_adapter=tmp_path / "wide")
    with pytest.raises(InputError, match="NativeVideoPipeline, but motion adapters are for"):
        load_generator("nano", device="cpu", motion_adapter=tmp_path / "wide")
