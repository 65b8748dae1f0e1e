"""`videoalign`: VideoReward of VideoAlign (arXiv 2501.13918), visual quality, motion quality and text alignment.

Weights as published: `model.pth`, the whole model with its LoRA in PEFT's names, or PEFT's adapter beside the other
trained weights. Frames, sizes, positions and normalisation are upstream's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from generator.one_or_several import as_list
from generator.output import InputError, read_json
from generator.weight_files.state_dicts import read_state_dict
from reward.models.base import RewardModel, Scores
from reward.models.named.entry import RewardRequest
from reward.models.named.places import files_of, folder_of, identify
from reward.models.named.qwen_rewards import (
    QwenReader,
    State,
    current_names,
    load_backbone,
    load_tokenizer,
    merge_adapters,
    placement,
    text_config,
)
from reward.models.named.sharing import shared
from reward.models.named.templates import PromptText
from reward.models.vlm_loading import VideoBudget

DIMENSIONS = ("VQ", "MQ", "TA")
CONFIG_NAME = "model_config.json"
BASE_MODEL = "Qwen/Qwen2-VL-2B-Instruct"

TEXT = PromptText(
    reward="videoalign",
    sha256="fdb6309bac618dd0c8b1b589d3a0970a974f7856eecbb355a190b2dce54af700",
    parts=("fdb6309bac618dd0c8b1b589d3a0970a974f7856eecbb355a190b2dce54af700",),
    placeholder="{text_prompt}",
    source="`pip download --no-deps --python-version 3.12 --only-binary=:all: unirl==0.2.0` (its wheel) or from a "
    "checkout of github.com/KwaiVGI/VideoAlign",
)
"""`detailed_special`: the three tokens after their criteria; the prompt stands before the last."""


@dataclass(frozen=True)
class VideoAlignSettings:
    """Facts of `model_config.json` about the scores.

    Attributes:
        frame_rate: frames a second that are looked at.
        num_frames: or this number of frames, whatever the length.
        max_frame_pixels: largest area of a frame.
        mean, std: of the raw scores, in the order of `DIMENSIONS`; None where the file has none, and scores are raw.
        base_model: folder or hub id.
        lora_alpha: of its adapters; 0 where there are none.
        rank_stabilised: whether their scale is α/√r.
    """

    frame_rate: float = 2.0
    num_frames: int | None = None
    max_frame_pixels: int = 256 * 28 * 28
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    base_model: str = BASE_MODEL
    lora_alpha: float = 0.0
    rank_stabilised: bool = False

    @property
    def budget(self) -> VideoBudget:
        """Pixels of a frame; small frames are enlarged, as upstream does."""
        return VideoBudget(self.frame_rate, 768, self.max_frame_pixels, 128 * 28 * 28)


def read_settings(path: Path) -> VideoAlignSettings:
    """Reads VideoReward's `model_config.json`.

    Raises:
        InputError: it is not one, or a variant that is not read; the key is named.
    """
    document = read_json(path)
    try:
        data, model = document["data_config"], document["model_config"]
        lora, norm = document.get("peft_lora_config") or {}, document.get("inference_config") or {}
        expected = {
            "eval_dim": (data["eval_dim"], list(DIMENSIONS)),
            "prompt_template_type": (data["prompt_template_type"], "detailed_special"),
            "sample_type": (data.get("sample_type", "uniform"), "uniform"),
            "output_dim": (model["output_dim"], 1),
            "use_special_tokens": (model["use_special_tokens"], True),
            "reward_token": (model.get("reward_token", "special"), "special"),
        }
        for key, (found, wanted) in expected.items():
            if found != wanted:
                raise InputError(
                    f"{path} has {key} {found!r}, but only {wanted!r} is read here: use the published VideoReward or "
                    "one trained like it."
                )
        known = all(f"{name}_{kind}" in norm for name in DIMENSIONS for kind in ("mean", "std"))
        return VideoAlignSettings(
            frame_rate=float(data.get("fps") or 2.0),
            num_frames=int(data["num_frames"]) if data.get("num_frames") else None,
            max_frame_pixels=int(data.get("max_frame_pixels") or VideoAlignSettings.max_frame_pixels),
            mean=tuple(float(norm[f"{name}_mean"]) for name in DIMENSIONS) if known else None,
            std=tuple(float(norm[f"{name}_std"]) for name in DIMENSIONS) if known else None,
            base_model=str(model.get("model_name_or_path") or BASE_MODEL),
            lora_alpha=float(lora["lora_alpha"]) if lora.get("lora_enable") else 0.0,
            rank_stabilised=bool(lora.get("use_rslora")),
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} is not VideoReward's {CONFIG_NAME} ({error!r}): check the file.") from error


def sampled_frames(
    count: int, fps: float, frame_rate: float = 2.0, num_frames: int | None = None
) -> list[int]:
    """Indices of the frames that VideoReward looks at, evenly from the first to the last.

    Their number is `count / fps · frame_rate`, between 4 and 768 and at most `count`, rounded to an even number; all
    roundings are half to even, as Python's and torch's.

    Args:
        count: frames of the video.
        fps: its frames a second.
        frame_rate: frames a second that are looked at.
        num_frames: this number instead.

    Raises:
        InputError: the video has fewer than 2 frames, or no frame rate.
    """
    if count < 2:
        raise InputError(f"VideoReward judges videos of at least 2 frames, but {count} was given.")
    if not fps > 0 or not math.isfinite(fps):
        raise InputError(f"A video of {fps} frames a second was given: say its real frame rate.")
    wanted = num_frames or min(max(count / fps * frame_rate, 4), min(768, count) // 2 * 2)
    shown = min(max(2, round(wanted / 2) * 2), count // 2 * 2)
    return torch.linspace(0, count - 1, shown).round().long().tolist()


class VideoAlignReward(RewardModel):
    """Scores videos with VideoReward.

    Args:
        reader: the model and its head.
        text: the prompt text with its placeholder, see `TEXT`.
        settings: frames and normalisation.
        dimension: the one score that is wanted, then called `overall`; all four where None.
        fps: frames a second of the videos; `frame_rate`, which callers set, where None.
        batch_size: videos that pass the model together.
        factor: multiplies the scores.
    """

    name = "videoalign"
    names_dimensions = True
    pixel_gradients = True

    def __init__(
        self,
        reader: QwenReader,
        text: str,
        settings: VideoAlignSettings,
        dimension: str | None = None,
        fps: float | None = None,
        batch_size: int = 4,
        factor: float = 1.0,
    ) -> None:
        self.reader, self.text, self.checkpoint_settings = reader, text, settings
        self.dimension, self.fps, self.batch_size, self.factor = dimension, fps, batch_size, factor
        self.dimensions = ("overall",) if dimension else ("overall", *DIMENSIONS)

    def check_prompts(self, prompts: Sequence[str]) -> None:
        self.reader.check_prompts(prompts)

    def frames_of(self, video: Tensor) -> Tensor:
        """The frames `[frames, 3, height, width]` of a video `[3, frames, height, width]` that are looked at."""
        fps = self.fps or self.frame_rate
        if fps is None:
            raise InputError(
                f"{self.name} judges by frame rate, but that of the videos is not known: give {self.name}:fps=NUMBER."
            )
        settings = self.checkpoint_settings
        chosen = sampled_frames(video.shape[1], fps, settings.frame_rate, settings.num_frames)
        return video[:, chosen].transpose(0, 1)

    def raw_scores(self, videos: Tensor, prompts: Sequence[str]) -> Tensor:
        """Scores `[batch, 3]` before normalisation, in the order of `DIMENSIONS`; differentiable in the videos."""
        prompts = as_list(prompts)
        if len(videos) != len(prompts):
            raise InputError(
                f"{len(videos)} videos and {len(prompts)} prompts were given: one prompt a video is needed."
            )
        self.check_prompts(prompts)
        key = (tuple(prompts), self.fps or self.frame_rate, self.text, self.checkpoint_settings)
        return self.reader.last(videos, key, lambda: self._raw_scores(videos, prompts))

    def _raw_scores(self, videos: Tensor, prompts: Sequence[str]) -> Tensor:
        parts = []
        for start in range(0, len(prompts), self.batch_size):
            rows = slice(start, start + self.batch_size)
            # What needs gradients is computed again in the backward pass, a few videos at a time.
            recompute = torch.is_grad_enabled() and videos.requires_grad
            arguments = (videos[rows], prompts[rows])
            parts.append(
                checkpoint(self._chunk, *arguments, use_reentrant=False)
                if recompute
                else self._chunk(*arguments)
            )
        return torch.cat(parts)

    def _chunk(self, videos: Tensor, prompts: Sequence[str]) -> Tensor:
        frames = [self.frames_of(video) for video in videos]
        texts = [TEXT.fill(self.text, prompt) for prompt in prompts]
        return self.reader(self.reader.video_inputs(frames, texts))[..., 0]

    def score_pixels(self, videos: Tensor, prompts: Sequence[str]) -> Scores:
        """Normalised scores `[batch]` of videos `[batch, 3, frames, height, width]` in [-1, 1], with gradients."""
        raw = self.raw_scores(videos, prompts)
        if self.checkpoint_settings.mean is not None and self.checkpoint_settings.std is not None:
            raw = (raw - raw.new_tensor(self.checkpoint_settings.mean)) / raw.new_tensor(
                self.checkpoint_settings.std
            )
        raw = self.factor * raw
        scores = dict(zip(DIMENSIONS, raw.unbind(1)))
        scores = {"overall": raw.sum(1), **scores}
        return {"overall": scores[self.dimension]} if self.dimension else scores

    @torch.no_grad()
    def score(self, videos: Tensor, prompts: Sequence[str]) -> Scores:
        """As `score_pixels`, float32 on the CPU."""
        return {name: value.float().cpu() for name, value in self.score_pixels(videos, prompts).items()}


def find_checkpoint(folder: Path) -> tuple[Path, Path]:
    """Folder of the weights and `model_config.json`, of VideoReward's folder or of its checkpoint folder.

    Of several `checkpoint-N` the highest N is taken.

    Raises:
        InputError: one of them is missing.
    """
    config = next(
        (each / CONFIG_NAME for each in (folder, folder.parent) if (each / CONFIG_NAME).is_file()), None
    )
    if config is None:
        raise InputError(
            f"{folder} holds no {CONFIG_NAME}, which a checkpoint of VideoReward has: give the folder of `hf download "
            "KlingTeam/VideoReward --local-dir FOLDER`."
        )
    numbered = [each for each in folder.glob("checkpoint-*") if each.name.rpartition("-")[2].isdigit()]
    checkpoints = sorted(numbered, key=lambda each: int(each.name.rpartition("-")[2]), reverse=True)
    for place in (*checkpoints, folder):
        if (place / "model.pth").is_file() or (place / "adapter_model.safetensors").is_file():
            return place, config
    raise InputError(
        f"{folder} holds neither model.pth nor adapter_model.safetensors, in itself or in a folder checkpoint-N: fetch "
        "the weights with `hf download KlingTeam/VideoReward --local-dir FOLDER`."
    )


def weight_files(checkpoint: Path) -> list[Path]:
    """The files of a checkpoint that hold weights."""
    names = ("model.pth", "adapter_model.safetensors", "non_lora_state_dict.pth")
    found = [checkpoint / name for name in names if (checkpoint / name).is_file()]
    return found[:1] if found[0].name == "model.pth" else found


def read_weights(checkpoint: Path, settings: VideoAlignSettings, base: str | None = None) -> State:
    """Weights of a checkpoint by their current names, adapters merged.

    Args:
        base: folder or hub id of the base model, whose weights the adapter layout needs.

    Raises:
        InputError: a file is damaged, or the base model is not at hand.
    """
    state: State = {}
    for path in weight_files(checkpoint):
        state |= current_names(read_state_dict(path, "videoalign"))
    if not (checkpoint / "model.pth").is_file():
        state = {**_base_weights(base or settings.base_model), **state}
        rows = _vocabulary(checkpoint)
        name = "language_model.embed_tokens.weight"
        if rows is not None and rows < len(state[name]):
            state[name] = state[name][:rows].clone()
    return merge_adapters(state, settings.lora_alpha, settings.rank_stabilised)


def _base_weights(base: str) -> State:
    from transformers import Qwen2VLModel

    try:
        return dict(Qwen2VLModel.from_pretrained(base).state_dict())
    except (OSError, ValueError) as error:
        raise InputError(
            f"The checkpoint is an adapter of {base}, whose weights are not at hand: download them with `hf download "
            f"{base}` or give their folder, videoalign:base=FOLDER."
        ) from error


def _vocabulary(checkpoint: Path) -> int | None:
    """Number of tokens of the checkpoint's tokenizer; upstream cuts the embeddings to it."""
    return len(checkpoint_tokenizer(checkpoint)) if tokenizer_folder(checkpoint) else None


def tokenizer_folder(checkpoint: Path) -> Path | None:
    """The folder with the tokenizer of a checkpoint."""
    places = (checkpoint / "tokenizer", checkpoint, checkpoint.parent / "tokenizer", checkpoint.parent)
    return next((place for place in places if (place / "tokenizer_config.json").is_file()), None)


def checkpoint_tokenizer(checkpoint: Path) -> Any:
    """The tokenizer of a checkpoint.

    Raises:
        InputError: there is none.
    """
    folder = tokenizer_folder(checkpoint)
    if folder is None:
        raise InputError(
            f"{checkpoint} has no tokenizer, in itself or in tokenizer/: fetch the whole repository."
        )
    return load_tokenizer(folder)


def load_reader(
    checkpoint: Path, settings: VideoAlignSettings, base: str | None, dtype: torch.dtype, device: torch.device
) -> QwenReader:
    """The model of a checkpoint, ready to score.

    Raises:
        InputError: its files do not fit each other.
    """
    weights = read_weights(checkpoint, settings, base)
    weight = weights.pop("rm_head.weight", None)
    if weight is None or weight.shape[0] != 1:
        raise InputError(
            f"{checkpoint} has no head rm_head with one output: give a checkpoint of VideoReward."
        )
    config = text_config(base or settings.base_model, checkpoint)
    backbone = load_backbone(config, weights, dtype, str(checkpoint)).to(device)
    head = nn.Linear(weight.shape[1], 1, bias=False, device=device)
    head.weight.data.copy_(weight)
    tokens = [f"<|{name}_reward|>" for name in DIMENSIONS]
    reader = QwenReader(
        backbone,
        head.requires_grad_(False),
        checkpoint_tokenizer(checkpoint),
        tokens,
        settings.budget,
        "videoalign",
    )
    return reader.eval()


def load(request: RewardRequest) -> RewardModel:
    """VideoReward of the hub or of a folder; dimensions of the same weights share them and their forward pass.

    Raises:
        InputError: weights or the prompt text are not at hand.
    """
    request.refuse("frames", "reduce")
    options = request.options
    text = TEXT.load(options.get("template"))
    folder = request.folder() or folder_of(files_of(request))
    weights, config = find_checkpoint(folder)
    settings = read_settings(config)
    device, dtype = placement(request)
    base = options.get("base")
    reader = shared(
        ("videoalign", weights.resolve(), settings, base, device, dtype),
        lambda: load_reader(weights, settings, base, dtype, device),
    )
    model = VideoAlignReward(
        reader,
        text,
        settings,
        request.dimension,
        options.get("fps"),
        options.get("batch_size", 4),
        float(options.get("scale", 1.0)),
    )
    return identify(model, request, [config, *weight_files(weights)], template_sha256=TEXT.sha256)
