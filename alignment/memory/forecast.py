"""GPU memory that a method needs on a model, computed without the GPU and without reading the weights.

A transformer of two blocks, and one of three, run one step of the method on fake tensors
(`generator.hardware.memory_tracker`); everything is linear in the number of blocks, so the whole model follows. A
U-Net, whose blocks are all different, runs whole.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import diffusers
import torch
import transformers
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode, unset_fake_temporarily
from torch.utils.checkpoint import checkpoint

from alignment.lora import LoraArguments, add_lora
from alignment.memory.native_forecast import native_forecast
from alignment.memory.work import Forecast, Work
from generator.base import VideoGenerator
from generator.families.pipeline_generator import PipelineGenerator
from generator.files.folders import visible_files
from generator.files.model_folders import find_pipeline, hub_folder
from generator.hardware.context_parallel import check_shares_tokens, check_tokens, keep_one_part, video_text
from generator.hardware.memory_tracker import StorageTracker, WholeMasks, fused_attention, norms_in_float32
from generator.inputs.conditions import Conditions
from generator.loading import DEFAULTS_NAME, FAMILIES, load_generator, read_class_name, read_defaults
from generator.output import InputError, read_json
from generator.video_model import GenerationDefaults
from generator.weight_files.headers import weight_bytes

CONFIGURATIONS = ["*.json"]
DEPTH = 2
STASHED = 2
"""Blocks whose inputs are on the GPU with activation offloading: the one at work, and the one whose gradients are done.
Those that wait to be copied in the forward pass, when less is needed, are gone by then."""
DEPTH_FIELDS = {
    "blocks": "num_layers", "transformer_blocks": "num_layers", "single_transformer_blocks": "num_single_layers",
    "vace_blocks": "vace_layers",
}  # fmt: skip


def forecast(folder: Path, work: Work) -> Forecast:
    """Memory of `work` on the pipeline in `folder`, of which only the configurations are read.

    Raises:
        InputError: the pipeline is not of a family whose memory can be forecast, or the size is impossible.
    """
    if is_native(folder):
        check_shares_tokens(configured_generator(folder), work.context_parallel)
        return native_forecast(folder, work)
    probe = Probe(folder, work, {})
    size = work.num_frames, work.height, work.width
    probe.generator.check_size(*size)
    check_tokens(
        probe.generator, work.context_parallel, probe.generator.latent_shape(*size), video_text(*size)
    )
    deeper = {blocks: Probe(folder, work, {blocks: DEPTH + 1}) for blocks in probe.blocks_in_full}

    def whole(measure: Callable[[Probe], float], share: float = 1.0, most: float = float("inf")) -> float:
        """Memory that `share` of all blocks, or `most` of them, add to what a model without these would need."""
        base = measure(probe)
        slopes = {blocks: measure(other) - base for blocks, other in deeper.items()}
        return base + sum(
            slope * (min(most, share * probe.blocks_in_full[blocks]) - DEPTH)
            for blocks, slope in slopes.items()
        )

    found = Forecast()
    copies = 2 if probe.experts else 1
    found.resident["transformer"] = round(copies * whole(Probe.weight_bytes))
    found.resident["autoencoder"] = probe.autoencoder_bytes()
    if image_encoder := image_encoder_bytes(folder, probe.family):
        found.resident["image encoder"] = image_encoder
    if work.keep_text_encoder:
        found.resident["text encoder"] = sum(text_encoder_bytes(folder).values())
    if work.method != "generate":
        # The weights, and AdamW's two averages of their gradients.
        found.resident["adapters and AdamW"] = round(3 * copies * whole(Probe.trained_bytes))
        found.transient["update"] = round(_update(whole, work.checkpointed_share, work.activation_offloading))
    found.resident |= work.reward_weights
    if work.method == "backprop":
        # The steps' activations are held while the decoder's blocks, and the reward, are computed again.
        pixels = probe.pixel_gradient_peak() if work.judges_pixels else 0
        found.transient["update"] += pixels + work.judging_gradient_bytes
    if work.method in ("ppo", "backprop", "generate"):
        found.transient["sampling"] = probe.sampling_peak()
        if work.decode_batch and work.method != "backprop":
            found.transient["decoding"] = _decoding_peak(
                folder, work.num_frames, work.height, work.width, work.decode_batch, work.tiling
            )
    found.transient |= work.judging
    found.linear_weights = round(copies * whole(Probe.linear_weights))
    found.largest_linear = max(module.weight.numel() for module in probe.linear)
    if work.offload_weights:
        return found.offloaded()
    return found if work.quantization is None else found.quantised(work.quantization)


def image_encoder_bytes(folder: Path, family: type[PipelineGenerator]) -> int:
    """Size in bfloat16 of what a family that animates images looks at them with, by its configuration; it stays on the
    GPU."""
    name = "image_encoder"
    if name in family.idle_components or not (folder / name / "config.json").is_file():
        return 0
    kind: Any = getattr(transformers, read_json(folder / "model_index.json")[name][1])
    with torch.device("meta"):
        model = kind(kind.config_class.from_pretrained(folder, subfolder=name))
    return sum(2 * parameter.numel() for parameter in model.parameters())


@cache
def _decoding_peak(
    folder: Path, num_frames: int, height: int, width: int, decode_batch: int, tiling: bool
) -> int:
    """The same for every method."""
    work = Work("generate", num_frames, height, width, decode_batch=decode_batch, tiling=tiling)
    return Probe(folder, work, {}).decoding_peak()


def _update(whole: Callable[..., float], share: float, offloading: bool) -> float:
    """The update's peak where `share` of the blocks is computed again and the rest kept, on the GPU or `offloading` in
    the host's memory."""
    if share == 0:
        return whole(Probe.kept_peak)
    if share == 1:
        return whole(Probe.checkpointed_peak, most=STASHED if offloading else float("inf"))
    # Both measures hold the same part that does not grow with the number of blocks.
    fixed = whole(Probe.kept_peak, 0.0)
    return whole(Probe.checkpointed_peak, share) + whole(Probe.kept_peak, 1 - share) - fixed


def text_encoder_bytes(folder: Path, precision: torch.dtype | None = None) -> dict[str, int]:
    """Size of each text encoder's weights in `folder`, as stored or as loaded in `precision`; empty where they are not
    on this machine. A file of weights that is not here counts as stored, by its index."""
    found = {}
    for part in sorted([*folder.glob("text_encoder*"), *folder.glob("connectors*")]):
        size = sum(weight_bytes(file, precision) for file in visible_files(part, [".safetensors"]))
        for index in visible_files(part, [".json"]):
            if not size and index.name.endswith(".safetensors.index.json"):
                size = read_json(index)["metadata"]["total_size"]
        if size:
            found[part.name] = size
    return found


def find_configurations(model: str) -> Path:
    """The folder of `model` with its configurations; of a hub id nothing else is fetched.

    Raises:
        InputError: nothing of that name can be found.
    """
    if model.count("/") == 1 and not Path(model).exists():
        subject = f"The configurations of {model!r} are"
        return hub_folder(model, subject, "a folder with model_index.json", only=CONFIGURATIONS)
    return find_pipeline(model)


def model_defaults(folder: Path) -> GenerationDefaults:
    """Sizes and sampling settings of the pipeline in `folder`.

    Raises:
        InputError: it is not of a family whose memory can be forecast.
    """
    return configured_generator(folder).defaults


def configured_generator(folder: Path) -> VideoGenerator:
    """The pipeline in `folder` as its configurations describe it, with few blocks and no weights; the built-in model,
    which is small, is loaded.

    Raises:
        InputError: it is not of a family whose memory can be forecast.
    """
    if is_native(folder):
        return load_generator(folder, device="cpu")
    return Probe(folder, Work("generate", 0, 0, 0), {}).generator


def is_native(folder: Path) -> bool:
    """Returns whether the pipeline in `folder` is of the built-in family."""
    return read_class_name(folder / "model_index.json") in ("NativeVideoPipeline", "VideoLDMPipeline")


class Probe:
    """The pipeline in `folder` with a transformer of few blocks, on fake tensors in bfloat16.

    Args:
        depths: number of blocks in each list of blocks; `DEPTH` where not given.
    """

    def __init__(self, folder: Path, work: Work, depths: dict[str, int]) -> None:
        self.work = work
        self.mode = FakeTensorMode(allow_non_fake_inputs=True)
        name = read_class_name(folder / "model_index.json")
        if name not in FAMILIES:
            raise InputError(
                f"The memory of a {name} cannot be forecast: measure it with a run of two steps."
            )
        module, adapter = FAMILIES[name].split(":")
        self.family: type[PipelineGenerator] = getattr(importlib.import_module(module), adapter)
        family = self.family
        self.experts = (folder / "transformer_2" / "config.json").is_file()
        with self.mode:
            self.generator = _fake_generator(folder, family, depths)
            self.linear = [m for m in self.generator.transformer.modules() if isinstance(m, nn.Linear)]
            self.base = dict(self.generator.transformer.named_parameters())
            if work.method != "generate":
                # Everything is where it belongs already, and a fake parameter cannot be moved.
                with mock.patch.object(nn.Module, "to", lambda module, *_, **__: module):
                    add_lora(self.generator, LoraArguments(lora_r=work.lora_r), seed=0)
        check_shares_tokens(self.generator, work.context_parallel)
        if work.context_parallel > 1:
            keep_one_part(self._one_transformer(), work.context_parallel)
        config = read_json(folder / family.component / "config.json")
        self.blocks_in_full: dict[str, int] = {
            blocks: _depth(config[DEPTH_FIELDS[blocks]])
            for blocks in (*family.block_lists, *family.side_lists)
        }
        if (folder / DEFAULTS_NAME).is_file():
            self.generator.defaults = read_defaults(folder, self.generator.defaults)

    def weight_bytes(self) -> float:
        return sum(parameter.nbytes for parameter in self.base.values())

    def linear_weights(self) -> float:
        return sum(module.weight.numel() for module in self.linear)

    def autoencoder_bytes(self) -> int:
        return sum(parameter.nbytes for parameter in self.generator.pipeline.vae.parameters())

    def trained_bytes(self) -> float:
        return sum(p.nbytes for p in self.generator.transformer.parameters() if p.requires_grad)

    def inputs(self, batch: int) -> tuple[Tensor, Tensor, Conditions]:
        """Latents, noise levels and the longest conditions of `batch` videos of the work's size, without values."""
        work = self.work
        shape = self.generator.latent_shape(work.num_frames, work.height, work.width)
        image = self.generator.image
        shapes = self.generator.condition_shapes() | self.generator.control_shapes(shape)
        shapes |= {} if image is None else image.shapes(shape)
        conditions = {name: torch.empty(batch, *size, dtype=dtype) for name, (size, dtype) in shapes.items()}
        return torch.empty(batch, *shape), torch.empty(batch), conditions

    def measure(self, run: Callable[[], Any]) -> int:
        """Most bytes that `run` makes on fake tensors.

        Raises:
            InputError: it looks at values.
        """
        try:
            with self.mode, fused_attention(), StorageTracker() as tracker, WholeMasks():
                run()
        except DataDependentOutputException as error:
            raise InputError(
                f"The memory of {type(self.generator.pipeline).__name__} cannot be forecast, as its transformer "
                "looks at values: measure it with a run of two steps."
            ) from error
        return tracker.peak

    def kept_peak(self) -> int:
        """The update with all activations kept."""
        return self._update_peak(checkpointing=False)

    def checkpointed_peak(self) -> int:
        """The update with the blocks' activations computed again."""
        return self._update_peak(checkpointing=True)

    def _update_peak(self, checkpointing: bool) -> int:
        work, transformer = self.work, self._one_transformer()
        branches = 2 if work.method == "dpo" else 1
        if work.method in ("ppo", "backprop") and work.guided and work.unconditional_gradient:
            branches = 2
        if checkpointing:
            transformer.enable_gradient_checkpointing(_checkpoint)
        else:
            transformer.disable_gradient_checkpointing()

        def step() -> None:
            with torch.autocast("cpu", dtype=torch.bfloat16), norms_in_float32():
                velocity = self.generator.velocity(*self.inputs(work.batch * branches), transformer)
                loss = velocity.square().mean()
            loss.backward()

        peak = self.measure(step)
        transformer.zero_grad()
        return peak

    def sampling_peak(self) -> int:
        """One step of the sampler for all videos that are sampled together."""
        work = self.work
        videos = (
            work.rollout_batch if work.method == "ppo" else work.batch
        )  # `backprop` trains on what it samples

        @torch.no_grad()
        def step() -> None:
            inputs = self.inputs(videos * (2 if work.guided else 1))
            self.generator.velocity(*inputs, self._one_transformer())

        return self.measure(step)

    def decoding_peak(self) -> int:
        """Latents to videos; convolution kernels take workspace beside, which is not known here."""
        shape = self.generator.latent_shape(self.work.num_frames, self.work.height, self.work.width)
        if self.work.tiling:
            self.generator.save_decoding_memory()
        return self.measure(lambda: self.generator.decode(torch.empty(self.work.decode_batch, *shape)))

    def pixel_gradient_peak(self) -> int:
        """Latents to videos and back by the gradient, without what a reward on pixels needs
        (`Work.judging_gradient_bytes`)."""
        work = self.work
        frames = work.num_frames
        if work.reward_num_frames is not None:
            time = self.generator.size_multiples()[1]
            frames = min(frames, -(-(work.reward_num_frames - 1) // time) * time + 1)
        shape = self.generator.latent_shape(frames, work.height, work.width)
        if work.tiling:
            self.generator.save_decoding_memory()

        def step() -> None:
            latents = torch.empty(work.batch, *shape, requires_grad=True)
            self.generator.decode_with_gradients(latents).square().mean().backward()

        return self.measure(step)

    def _one_transformer(self) -> Any:
        """Of two experts one runs at a time."""
        return getattr(self.generator.pipeline, self.family.component)


def _depth(value: int | list[int]) -> int:
    """Number of blocks by a transformer's configuration, which has it or the place of each."""
    return value if isinstance(value, int) else len(value)


def _checkpoint(block: nn.Module, *args: Any) -> Any:
    return checkpoint(block, *args, use_reentrant=False, preserve_rng_state=False)


def _fake_generator(
    folder: Path, family: type[PipelineGenerator], depths: dict[str, int]
) -> PipelineGenerator:
    """Inside a fake mode: the family's adapter of a pipeline without text encoders, made from configurations."""
    index = read_json(folder / "model_index.json")
    parts: dict[str, Any] = {}
    for name, value in index.items():
        if name.startswith("_"):
            continue
        if not isinstance(value, list):
            parts[name] = value
        elif name == family.component:
            config = read_json(folder / name / "config.json")
            for blocks in family.block_lists:
                config[DEPTH_FIELDS[blocks]] = depths.get(blocks, DEPTH)
            if "vace_layers" in config:  # places of the side blocks, which may share one
                count = depths.get("vace_blocks", DEPTH)
                config["vace_layers"] = [min(index, config["num_layers"] - 1) for index in range(count)]
            parts[name] = _half(getattr(diffusers, value[1]).from_config(config))
        elif name == "vae":
            config = read_json(folder / name / "config.json")
            parts[name] = _half(getattr(diffusers, value[1]).from_config(config))
        elif name in ("scheduler", "guider") and value[0]:
            kind = getattr(diffusers, value[1], None) or getattr(importlib.import_module(value[0]), value[1])
            with unset_fake_temporarily():  # schedulers read the values of their tables
                parts[name] = kind.from_pretrained(folder, subfolder=name)
        else:
            parts[name] = None
    generator = family(family.pipeline_class(**parts), str(folder))
    generator.transformer.requires_grad_(False).eval()
    return generator


def _half(model: Any) -> Any:
    """In bfloat16, without the parts that stay in float32; buffers that are in no file stay as they are."""
    in_float32, stored = model._keep_in_fp32_modules or [], model.state_dict().keys()
    for name, value in [*model.named_parameters(), *model.named_buffers()]:
        if name in stored and value.is_floating_point() and not any(part in name for part in in_float32):
            value.data = value.data.to(torch.bfloat16)
    return model
