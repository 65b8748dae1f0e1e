"""A reward model on a vision-language model: special tokens ask for the scores, linear heads read them (VideoReward,
arXiv 2501.13918).

The message is: the video; for each prompt-free dimension a line that ends in its token; then the prompt, and such a
line for each other dimension. Attention is causal, so the quality tokens cannot see the prompt. The score of a
dimension is a linear function of the last hidden state at its token. The model itself is frozen, or carries a LoRA.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from generator.base import VideoGenerator
from generator.one_or_several import as_list
from generator.output import InputError, read_json
from generator.provenance import fingerprint
from reward.models.base import RewardModel, Scores
from reward.models.storage import WEIGHTS_NAME, config_from, read_reward_config, write_reward_model
from reward.models.vlm_loading import VideoBudget, VisionLanguageModel, load_vision_language_model
from reward.tags import tag_dimension

MODEL_TYPE = "vlm"
PROMPT_FREE = ("visual", "motion")
QUESTIONS = {
    "visual": "Rate how good each picture of this video looks: sharpness, detail, light, no malformed things.",
    "motion": "Rate how natural, smooth and steady what moves in this video is.",
    "alignment": "Rate how completely this video shows what the prompt says.",
    "overall": "Rate how good this video is for the prompt, all in all.",
}
TAG_QUESTION = "Rate how free this video is of this fault: {tag}."
LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj")


@dataclass
class VLMRewardConfig:
    """Configuration of a vision-language reward model; stored beside its weights.

    Attributes:
        base_model: folder or hub id of the vision-language model.
        dimensions: one token and head each; a name that is not in `QUESTIONS` is that of a tag (`reward.tags`).
        budget: frame rate and pixel budget; scores hold for these only.
        input_fps: frames a second of videos that are given as tensors.
        lora_rank, lora_alpha, lora_target_modules: LoRA on the language model; rank 0 freezes it.
        trunk: fingerprint of the model's own weights.
        temperature: divides a score difference to give calibrated preference probabilities.
        score_mean, score_std: of the raw scores, known in advance where settings of another project say them.
    """

    base_model: str
    dimensions: tuple[str, ...] = ("overall",)
    budget: VideoBudget = field(default_factory=VideoBudget)
    input_fps: float = 8.0
    lora_rank: int = 0
    lora_alpha: int = 0
    lora_target_modules: tuple[str, ...] = LORA_TARGETS
    trunk: str = ""
    temperature: dict[str, float] = field(default_factory=dict)
    score_mean: tuple[float, ...] = ()
    score_std: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if isinstance(self.budget, dict):
            self.budget = VideoBudget(**self.budget)
        for name in ("dimensions", "lora_target_modules", "score_mean", "score_std"):
            setattr(self, name, tuple(as_list(getattr(self, name))))
        self.lora_alpha = self.lora_alpha or self.lora_rank
        unknown = [name for name in self.dimensions if not name or tag_dimension(name) != name]
        if unknown or not self.dimensions:
            raise InputError(
                f"The dimensions {self.dimensions} are neither some of {', '.join(QUESTIONS)} nor tags in small "
                "letters, digits and underscores: name others."
            )


def token_of(dimension: str) -> str:
    """The special token whose hidden state is scored."""
    return f"<|{dimension}_reward|>"


def question_of(dimension: str) -> str:
    """The words that ask for the score of a dimension, or of a tag by the name of its dimension."""
    return QUESTIONS.get(dimension) or TAG_QUESTION.format(tag=dimension.replace("_", " "))


def message(prompt: str, dimensions: Sequence[str]) -> str:
    """The text after the video; the tokens of the prompt-free dimensions stand before the prompt."""
    dimensions = as_list(dimensions)
    before = [f"{question_of(name)} {token_of(name)}" for name in dimensions if name in PROMPT_FREE]
    after = [f"{question_of(name)} {token_of(name)}" for name in dimensions if name not in PROMPT_FREE]
    return "\n".join([*before, *([f"Prompt: {prompt}", *after] if after else [])])


class VLMRewardModel(nn.Module, RewardModel):
    """Scores videos with a vision-language model; see the module's text.

    Args:
        config: what it is made of; an empty fingerprint is filled in.
        vlm: the model; it belongs to this reward from here on (tokens and a LoRA are added).

    Raises:
        InputError: the model's weights are not those of the configuration.
    """

    names_dimensions = True
    score_mean: Tensor
    score_std: Tensor

    def __init__(self, config: VLMRewardConfig, vlm: VisionLanguageModel) -> None:
        nn.Module.__init__(self)
        self.config = config
        self.name = config.base_model
        self.dimensions = config.dimensions
        self.backbone = vlm.model
        # A plain attribute: the weights belong to `backbone`.
        object.__setattr__(self, "vlm", vlm)
        vlm.budget = config.budget
        found = fingerprint(vlm.model)
        if config.trunk and config.trunk != found:
            raise InputError(
                f"The weights of {config.base_model!r} are not those that this reward model was trained on "
                f"(fingerprint {found}, expected {config.trunk}): train the reward model again."
            )
        config.trunk = found
        self._add_tokens()
        if config.lora_rank:
            self._inject_lora()
        hidden = self.token_embeddings.shape[1]
        self.heads = nn.Linear(hidden, len(self.dimensions))
        nn.init.zeros_(self.heads.weight)
        nn.init.zeros_(self.heads.bias)
        count = len(self.dimensions)
        self.register_buffer("score_mean", torch.tensor(config.score_mean or [0.0] * count))
        self.register_buffer("score_std", torch.tensor(config.score_std or [1.0] * count))
        self.heads.to(vlm.device)
        self.score_mean, self.score_std = self.score_mean.to(vlm.device), self.score_std.to(vlm.device)

    vlm: VisionLanguageModel

    @property
    def device(self) -> torch.device:
        return self.heads.weight.device

    def _add_tokens(self) -> None:
        """Tokens of the dimensions, whose embeddings are learned beside the model's own."""
        tokenizer: Any = self.vlm.tokenizer
        names = [token_of(name) for name in self.dimensions]
        tokenizer.add_special_tokens({"additional_special_tokens": names})
        self.token_ids = tokenizer.convert_tokens_to_ids(names)
        model: Any = self.backbone
        if max(self.token_ids) >= model.get_input_embeddings().num_embeddings:
            model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
            model.requires_grad_(False)
        embedding = model.get_input_embeddings()
        scale = embedding.weight.float().std().item()
        start = torch.randn(len(names), embedding.embedding_dim) * scale
        self.token_embeddings = nn.Parameter(start.to(embedding.weight.device))

        def replace(module: nn.Module, arguments: tuple[Any, ...], output: Tensor) -> Tensor:
            ids = arguments[0]
            for number, token in enumerate(self.token_ids):
                own = self.token_embeddings[number].to(output.dtype)
                output = torch.where((ids == token)[..., None], own, output)
            return output

        embedding.register_forward_hook(replace)

    def _inject_lora(self) -> None:
        from peft import LoraConfig, inject_adapter_in_model

        model: Any = self.backbone
        config = LoraConfig(
            r=self.config.lora_rank,
            lora_alpha=self.config.lora_alpha,
            target_modules=list(self.config.lora_target_modules),
            exclude_modules=r".*(visual|vision).*",
        )
        try:
            inject_adapter_in_model(config, model, adapter_name="reward")
        except ValueError as error:
            raise InputError(
                f"No layer of the language model is called {' or '.join(self.config.lora_target_modules)}: name "
                "others for its LoRA."
            ) from error
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(".reward." in name)
            if ".reward." in name:
                parameter.data = parameter.data.float()

    def trained_state(self) -> dict[str, Tensor]:
        """Weights that training changes: heads, token embeddings, LoRA, and the normalisation of scores."""
        own = {name: value for name, value in self.state_dict().items() if not name.startswith("backbone.")}
        lora = {name: value for name, value in self.state_dict().items() if ".reward." in name}
        return {**own, **lora}

    def gradient_checkpointing_enable(self, **kwargs: Any) -> None:
        """Recomputes the language model's activations in the backward pass; arguments as of transformers' models."""
        model: Any = self.backbone
        model.gradient_checkpointing_enable(**kwargs)
        model.enable_input_require_grads()

    def prepare(
        self, videos: Sequence[Tensor], fps: Sequence[float], prompts: Sequence[str]
    ) -> dict[str, Tensor]:
        """Inputs of `forward` for videos `[3, frames, height, width]` in [-1, 1], of any size each."""
        prompts = as_list(prompts)
        if not len(videos) == len(fps) == len(prompts):
            raise InputError(
                f"{len(videos)} videos and {len(prompts)} prompts were given: one prompt a video is needed."
            )
        texts = [message(prompt, self.dimensions) for prompt in prompts]
        return self.vlm.inputs(videos, fps, texts)

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        """Raw scores `[batch, dimensions]`, float32, before normalisation."""
        hidden = self.vlm.hidden_states(inputs)
        rows = torch.arange(len(hidden), device=hidden.device)
        at_tokens = [hidden[rows, (inputs["input_ids"] == token).int().argmax(1)] for token in self.token_ids]
        states = torch.stack(at_tokens, dim=1).float()
        return (states * self.heads.weight).sum(-1) + self.heads.bias

    def normalise(self, raw: Tensor) -> Tensor:
        """Raw scores `[..., dimensions]` to z-scores of the training videos."""
        return (raw - self.score_mean) / self.score_std

    @torch.no_grad()
    def _score(
        self, videos: Sequence[Tensor], fps: Sequence[float], prompts: Sequence[str], size: int
    ) -> Scores:
        training = self.training
        self.eval()
        parts = []
        for start in range(0, len(videos), size):
            chunk = slice(start, start + size)
            parts.append(self.normalise(self(self.prepare(videos[chunk], fps[chunk], prompts[chunk]))).cpu())
        self.train(training)
        joined = torch.cat(parts) if parts else torch.zeros(0, len(self.dimensions))
        return dict(zip(self.dimensions, joined.unbind(1)))

    def score(self, videos: Tensor, prompts: Sequence[str], batch_size: int = 4) -> Scores:
        """z-normalised scores `[batch]` (CPU) of videos `[batch, 3, frames, height, width]` in [-1, 1] of
        `config.input_fps` frames a second."""
        prompts = as_list(prompts)
        if len(videos) != len(prompts):
            raise InputError(
                f"{len(videos)} videos and {len(prompts)} prompts were given: one prompt a video is needed."
            )
        return self._score(list(videos), [self.config.input_fps] * len(videos), list(prompts), batch_size)

    def score_files(self, paths: Sequence[str | Path], prompts: Sequence[str], batch_size: int = 4) -> Scores:
        """z-normalised scores of video files, decoded at their own frame rates."""
        prompts = as_list(prompts)
        paths = as_list(paths)
        from generator.bounded_reading import read_within

        parts = []
        for start in range(0, len(paths), batch_size):
            chunk = slice(start, start + batch_size)
            videos, fps = zip(*(read_within(path) for path in paths[chunk]))
            parts.append(self._score(videos, fps, prompts[chunk], batch_size))
        return {name: torch.cat([part[name] for part in parts]) for name in self.dimensions}

    def set_frame_rate(self, fps: float) -> None:
        """Takes the frame rate for that of the tensors to come."""
        self.frame_rate = self.config.input_fps = fps

    def check_generator(self, generator: VideoGenerator) -> None:
        """Any generator's decoded videos will do; its frame rate is taken for that of the tensors to come."""
        self.set_frame_rate(generator.defaults.fps)

    def save_pretrained(self, path: str | Path) -> None:
        """Writes configuration and trained weights into the folder `path`; the base model stays where it is."""
        write_reward_model(Path(path), MODEL_TYPE, self.config, self.trained_state())

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        device: str | torch.device | None = None,
        vlm: VisionLanguageModel | None = None,
    ) -> VLMRewardModel:
        """Loads a saved model; its vision-language model is loaded by the stored name unless one is given.

        Raises:
            InputError: the folder holds no such model, or the base model is missing or another.
        """
        path = Path(path)
        config = config_from(read_reward_config(path), VLMRewardConfig)
        model = cls(config, vlm or load_vision_language_model(config.base_model, device))
        weights = load_file(path / WEIGHTS_NAME)
        expected = set(model.trained_state())
        if set(weights) != expected:
            wrong = sorted(set(weights) ^ expected)
            raise InputError(f"{path / WEIGHTS_NAME} does not fit its configuration ({wrong[0]} differs).")
        model.load_state_dict(weights, strict=False)
        model.name = str(path)
        return model.eval()


_VIDEO_REWARD_DIMENSIONS = {"VQ": "visual", "MQ": "motion", "TA": "alignment", "Overall": "overall"}


def video_reward_settings(path: str | Path) -> VLMRewardConfig:
    """The settings of a VideoReward checkpoint (VideoAlign's `model_config.json`): base model, dimensions, frame rate,
    pixel budget, LoRA, and the normalisation of its scores.

    Its weights are of another prompt and token names, so a model with these settings has to be trained.

    Raises:
        InputError: the folder holds no such file.
    """
    path = Path(path)
    file = path / "model_config.json" if path.is_dir() else path
    if not file.is_file():
        raise InputError(
            f"{path} holds no model_config.json, which a checkpoint of VideoReward has: check the path."
        )
    try:
        document = read_json(file)
        data, model = document["data_config"], document["model_config"]
        lora, normalisation = document.get("peft_lora_config") or {}, document.get("inference_config") or {}
        names = [data["eval_dim"]] if isinstance(data["eval_dim"], str) else list(data["eval_dim"])
        dimensions = tuple(_VIDEO_REWARD_DIMENSIONS[name] for name in names)
        budget = VideoBudget(
            frame_rate=float(data.get("fps") or VideoBudget.frame_rate),
            max_frames=int(data.get("num_frames") or VideoBudget.max_frames),
            max_frame_pixels=int(data.get("max_frame_pixels") or VideoBudget.max_frame_pixels),
        )
        base = model["model_name_or_path"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{file} is not VideoReward's model_config.json ({error!r}): check the file."
        ) from error
    rank = int(lora.get("lora_r") or 0) if lora.get("lora_enable") else 0
    known = normalisation and all(f"{name}_mean" in normalisation for name in names)
    return VLMRewardConfig(
        base_model=base,
        dimensions=dimensions,
        budget=budget,
        lora_rank=rank,
        lora_alpha=int(lora.get("lora_alpha") or rank),
        lora_target_modules=tuple(lora.get("lora_target_modules") or LORA_TARGETS),
        score_mean=tuple(float(normalisation[f"{name}_mean"]) for name in names) if known else (),
        score_std=tuple(float(normalisation[f"{name}_std"]) for name in names) if known else (),
    )
