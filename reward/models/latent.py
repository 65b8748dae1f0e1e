"""A reward model on latents: the generator's own first blocks as the trunk, learned-query pooling, one head
a dimension.

The trunk already knows how a video and its prompt belong together, and no video has to be decoded, so scores
are cheap and differentiable in the latents (PAVRM, arXiv 2511.21541). Features are taken at a few small
noise levels, each of which is scored; a score is the mean over them.

Optionally the head also sees the generator's *implicit evidence*: how much better it denoises the video with
the prompt than without, ‖v(x_σ, "") − u‖² − ‖v(x_σ, prompt) − u‖² at a few noise levels, u = ε − x₀
(Diffusion Classifier, arXiv 2303.16203). The same ε is used for all videos, so that its chance effect
cancels in comparisons.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from einops import rearrange, repeat
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from generator.base import Conditions, VideoGenerator, select
from generator.output import InputError, atomic_path, write_json
from reward.models.base import RewardModel, Scores
from reward.models.trunk import fingerprint, latent_space_fingerprint, num_transformer_blocks, trunk_features

CONFIG_NAME = "reward_config.json"
WEIGHTS_NAME = "reward_model.safetensors"
ADAPTER_NAME = "trunk_adapter"
MODEL_TYPE = "latent"


@dataclass
class LatentRewardConfig:
    """What a latent reward model is made of; stored beside its weights.

    Attributes:
        base_model: name of the generator whose blocks are the trunk.
        dimensions: one head each.
        num_blocks: how many transformer blocks; 0 takes the first half, at least one.
        sigmas: noise levels in (0, 1) at which features are taken.
        num_queries: learned queries of the attention pooling.
        hidden_size: width of pooling and head.
        num_heads: attention heads of the pooling.
        dropout: on pooled features while training.
        implicit_evidence: whether the head sees the generator's own evidence for the prompt.
        evidence_sigmas: noise levels of the evidence.
        evidence_draws: noise samples a level; their evidence is averaged.
        lora_rank: rank of a LoRA on the trunk that is trained with the head; 0 freezes the trunk.
        lora_target_modules: layers it adapts; empty takes the generator's own list.
        num_frames, height, width: size of the videos it was trained on, 0 where unknown.
        latent_space: fingerprint of the autoencoder and text encoder that it reads.
        trunk: fingerprint of the trunk's base weights.
        temperature: divides a score difference to give calibrated preference probabilities.
    """

    base_model: str
    dimensions: tuple[str, ...] = ("overall",)
    num_blocks: int = 0
    sigmas: tuple[float, ...] = (0.1, 0.4)
    num_queries: int = 4
    hidden_size: int = 128
    num_heads: int = 4
    dropout: float = 0.1
    implicit_evidence: bool = False
    evidence_sigmas: tuple[float, ...] = (0.6, 0.85)
    evidence_draws: int = 1
    lora_rank: int = 0
    lora_target_modules: tuple[str, ...] = ()
    num_frames: int = 0
    height: int = 0
    width: int = 0
    latent_space: str = ""
    trunk: str = ""
    temperature: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("dimensions", "sigmas", "evidence_sigmas", "lora_target_modules"):
            setattr(self, name, tuple(getattr(self, name)))
        for sigma in (*self.sigmas, *self.evidence_sigmas):
            if not 0 < sigma < 1:
                raise InputError(f"The noise level {sigma} of the reward model must lie between 0 and 1.")
        if not self.sigmas:
            raise InputError("The reward model needs at least one noise level in `sigmas`.")


@dataclass
class Features:
    """What the head sees of a batch of videos; the trunk's part of the work, which can be kept.

    Attributes:
        tokens: `[batch, levels, tokens, dim]` layer-normalised hidden states; an all-zero token is padding.
        is_video: `[batch, tokens]` which tokens are the video's, the others being text and time.
        evidence: `[batch, numbers]` implicit evidence; no columns where it is off.
    """

    tokens: Tensor
    is_video: Tensor
    evidence: Tensor

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: Any) -> Features:
        return Features(self.tokens[index], self.is_video[index], self.evidence[index])

    def to(self, device: torch.device) -> Features:
        return Features(self.tokens.to(device), self.is_video.to(device), self.evidence.to(device))

    @staticmethod
    def concatenate(parts: Sequence[Features]) -> Features:
        """Joins batches; the token dimension is zero-padded to the longest."""
        longest = max(part.tokens.shape[2] for part in parts)

        def pad(value: Tensor, dim: int) -> Tensor:
            shape = list(value.shape)
            shape[dim] = longest - shape[dim]
            return torch.cat([value, value.new_zeros(shape)], dim=dim) if shape[dim] else value

        return Features(
            torch.cat([pad(part.tokens, 2) for part in parts]),
            torch.cat([pad(part.is_video, 1) for part in parts]),
            torch.cat([part.evidence for part in parts]),
        )


class QueryPooling(nn.Module):
    """Learned queries attend over some of the tokens; returns their values, joined `[batch, queries·dim]`.

    This is multi-head attention whose queries do not depend on the input. So keys need no projection of
    their own (it merges with the queries), and values are projected after the weighted mean, not before: a
    tenth of the work.
    """

    def __init__(self, feature_size: int, hidden_size: int, num_queries: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.queries = nn.Linear(feature_size, num_queries * num_heads, bias=False)
        self.values = nn.Parameter(
            torch.randn(num_heads, feature_size, hidden_size // num_heads) * feature_size**-0.5
        )

    def forward(self, tokens: Tensor, attended: Tensor) -> Tensor:
        """`tokens [batch, tokens, dim]`, of which the queries see those where `attended [batch, tokens]` is
        set.

        A query may also attend to nothing (a logit and a value of 0), so that a family without text tokens
        in its stream is no special case.
        """
        logits = self.queries(tokens).masked_fill(~attended[..., None], float("-inf"))
        weights = torch.cat([logits, logits.new_zeros(len(logits), 1, logits.shape[2])], dim=1).softmax(dim=1)
        pooled = torch.einsum("b t k, b t d -> b k d", weights[:, :-1], tokens)
        pooled = rearrange(pooled, "b (q h) d -> b q h d", h=self.num_heads)
        return torch.einsum("b q h d, h d e -> b q h e", pooled, self.values).flatten(1)


def zero_initialised(layer: nn.Linear) -> nn.Linear:
    """The layer with zero weights and bias: an untrained head scores everything 0."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


class RewardHead(nn.Module):
    """Pooled tokens and evidence to one score a dimension.

    Text and video tokens are pooled apart, and the head sees both and their product: whether a video shows
    what its prompt says is an interaction of the two, which a few hundred rankings do not teach a plain
    perceptron.
    """

    evidence_mean: Tensor
    evidence_std: Tensor

    def __init__(self, config: LatentRewardConfig, feature_size: int, evidence_size: int) -> None:
        super().__init__()
        hidden = config.hidden_size
        pooled = config.num_queries * hidden
        self.video_pooling = QueryPooling(feature_size, hidden, config.num_queries, config.num_heads)
        self.text_pooling = QueryPooling(feature_size, hidden, config.num_queries, config.num_heads)
        self.video_norm, self.text_norm = nn.LayerNorm(pooled), nn.LayerNorm(pooled)
        self.mlp = nn.Sequential(
            nn.Dropout(config.dropout),
            nn.Linear(3 * pooled, hidden),
            nn.GELU(),
            nn.Dropout(config.dropout),
            zero_initialised(nn.Linear(hidden, len(config.dimensions))),
        )
        # Evidence has a linear path of its own, which a few hundred rankings are enough to fit.
        self.evidence = (
            zero_initialised(nn.Linear(evidence_size, len(config.dimensions))) if evidence_size else None
        )
        self.register_buffer("evidence_mean", torch.zeros(evidence_size))
        self.register_buffer("evidence_std", torch.ones(evidence_size))

    def forward(self, features: Features) -> Tensor:
        """Raw scores `[batch, levels, dimensions]`."""
        batch, levels = features.tokens.shape[:2]
        tokens = rearrange(features.tokens.float(), "b s t d -> (b s) t d")
        is_video = repeat(features.is_video, "b t -> (b s) t", s=levels)
        present = (tokens != 0).any(dim=-1)
        video = self.video_norm(self.video_pooling(tokens, present & is_video))
        text = self.text_norm(self.text_pooling(tokens, present & ~is_video))
        raw = self.mlp(torch.cat([video, text, video * text], dim=1))
        scores = rearrange(raw, "(b s) k -> b s k", b=batch)
        if self.evidence is not None:
            evidence = (features.evidence - self.evidence_mean) / self.evidence_std
            scores = scores + self.evidence(evidence)[:, None]
        return scores


def _fixed_noise(shape: Sequence[int], count: int, device: torch.device) -> Tensor:
    """`count` noise samples of `shape`, the same in every process and on every device."""
    source = torch.Generator().manual_seed(20240229)
    return torch.randn((count, *shape), generator=source).to(device)


class LatentRewardModel(nn.Module, RewardModel):
    """Scores latents or videos of one generator's latent space; see the module's text.

    Args:
        config: what it is made of; empty fingerprints are filled in.
        generator: the trunk. It belongs to this model from here on: a LoRA is injected into it where the
            config asks for one, and a policy that is trained must be another instance, or the reward would
            change with it.
        trunk_adapter: folder of the adapter that `generator` was loaded with; it is saved with this model.
    """

    scores_latents = True
    score_mean: Tensor
    score_std: Tensor

    def __init__(
        self, config: LatentRewardConfig, generator: VideoGenerator, trunk_adapter: str | Path | None = None
    ) -> None:
        nn.Module.__init__(self)
        self.config = config
        self.generator = generator
        self.trunk_adapter = Path(trunk_adapter) if trunk_adapter else None
        self.name = config.base_model
        self.dimensions = config.dimensions
        if config.num_blocks == 0:
            config.num_blocks = max(1, (num_transformer_blocks(generator) or 2) // 2)
        self._match_fingerprints()
        generator.transformer.requires_grad_(False)
        generator.transformer.eval()
        self.trunk_lora = nn.ParameterDict()
        if config.lora_rank:
            self._inject_lora()
        with torch.no_grad():
            example = self.features(*self._example())
        self.head = RewardHead(config, example.tokens.shape[-1], example.evidence.shape[-1])
        self.head.to(generator.device)
        self.register_buffer("score_mean", torch.zeros(len(config.dimensions), device=generator.device))
        self.register_buffer("score_std", torch.ones(len(config.dimensions), device=generator.device))

    @property
    def device(self) -> torch.device:
        return self.score_mean.device

    def _match_fingerprints(self) -> None:
        space, trunk = latent_space_fingerprint(self.generator), fingerprint(self.generator.transformer)
        for name, stored, found in (
            ("autoencoder or text encoder", self.config.latent_space, space),
            ("transformer", self.config.trunk, trunk),
        ):
            if stored and stored != found:
                raise InputError(
                    f"The {name} of {self.config.base_model!r} is not the one that this reward model was "
                    "trained on "
                    f"(fingerprint {found}, expected {stored}): train the reward model again on this "
                    "generator."
                )
        self.config.latent_space, self.config.trunk = space, trunk

    def _inject_lora(self) -> None:
        from peft import LoraConfig, inject_adapter_in_model

        targets = list(self.config.lora_target_modules or self.generator.lora_target_modules)
        self.config.lora_target_modules = tuple(targets)
        transformer = self.generator.transformer
        before = {name for name, _ in transformer.named_parameters()}
        inject_adapter_in_model(
            LoraConfig(r=self.config.lora_rank, lora_alpha=self.config.lora_rank, target_modules=targets),
            transformer,
            adapter_name="reward",
        )
        own = {
            name: parameter
            for name, parameter in transformer.named_parameters()
            if name not in before and ".reward." in name
        }
        transformer.requires_grad_(False)
        for name in self._reached_by_trunk(own):
            self.trunk_lora[name.replace(".", "/")] = own[name].requires_grad_(True)
        if not self.trunk_lora:
            raise InputError(
                f"No layer of the trunk is called {' or '.join(targets)}: name others for its LoRA."
            )

    def _reached_by_trunk(self, parameters: dict[str, nn.Parameter]) -> list[str]:
        """Names of those parameters that the trunk's features depend on, the others being of later blocks."""
        if not parameters:
            return []
        for parameter in parameters.values():
            parameter.requires_grad_(True)
        with torch.enable_grad():
            tokens, _ = self.trunk_tokens(*self._example())
        gradients = torch.autograd.grad(tokens.sum(), list(parameters.values()), allow_unused=True)
        for parameter in parameters.values():
            parameter.requires_grad_(False)
        return [name for name, gradient in zip(parameters, gradients) if gradient is not None]

    @contextmanager
    def _without_own_lora(self) -> Iterator[None]:
        """Evidence comes from the generator as it was before this model trained a LoRA on its trunk."""
        from peft.tuners.tuners_utils import BaseTunerLayer

        layers = [m for m in self.generator.transformer.modules() if isinstance(m, BaseTunerLayer)]
        before = [list(layer.active_adapters) for layer in layers]
        for layer, names in zip(layers, before):
            layer._active_adapter = [name for name in names if name != "reward"]
        try:
            yield
        finally:
            for layer, names in zip(layers, before):
                layer._active_adapter = names

    def _example(self) -> tuple[Tensor, Conditions]:
        """Latents and conditions of a black video, for looking at shapes."""
        defaults = self.generator.defaults
        shape = self.generator.latent_shape(defaults.num_frames, defaults.height, defaults.width)
        latents = torch.zeros((1, *shape), device=self.generator.device)
        return latents, self.generator.encode_prompts(["a video"])

    def features(self, latents: Tensor, conditions: Conditions) -> Features:
        """The trunk's part of scoring `latents [batch, channels, frames, height, width]`; differentiable in
        them."""
        latents, conditions = self._on_trunk_device(latents, conditions)
        return Features(*self.trunk_tokens(latents, conditions), self._evidence(latents, conditions))

    def _on_trunk_device(self, latents: Tensor, conditions: Conditions) -> tuple[Tensor, Conditions]:
        device = self.generator.device
        moved = {name: value.to(device) for name, value in conditions.items()}
        return latents.to(device=device, dtype=torch.float32), moved

    def trunk_tokens(self, latents: Tensor, conditions: Conditions) -> tuple[Tensor, Tensor]:
        """Hidden states `[batch, levels, tokens, dim]` at each noise level, and the mask of the video
        tokens."""
        latents, conditions = self._on_trunk_device(latents, conditions)
        noise = _fixed_noise(latents.shape[1:], 1, latents.device)[0]
        levels = []
        for level in self.config.sigmas:
            sigma = latents.new_full((len(latents),), level)
            noisy = (1 - level) * latents + level * noise
            tokens, is_video = trunk_features(
                self.generator, noisy, sigma, conditions, self.config.num_blocks
            )
            levels.append(tokens)
        tokens = torch.stack(levels, dim=1)
        # Normalised here, once for a cached video, and without weights, which would merge with those of the
        # pooling.
        return nn.functional.layer_norm(tokens, tokens.shape[-1:]), is_video

    def _evidence(self, latents: Tensor, conditions: Conditions) -> Tensor:
        """`[batch, 2·levels]`: error without prompt minus error with it, and the latter's logarithm, at each
        level."""
        if not self.config.implicit_evidence:
            return latents.new_zeros(len(latents), 0)
        unconditional = self.generator.encode_prompts([""])
        unconditional = select(unconditional, torch.zeros(len(latents), dtype=torch.long))
        draws = _fixed_noise(latents.shape[1:], 1 + self.config.evidence_draws, latents.device)[1:]
        columns = []
        with self._without_own_lora() if self.trunk_lora else nullcontext():
            for level in self.config.evidence_sigmas:
                sigma = latents.new_full((len(latents),), level)
                gains, errors = [], []
                for noise in draws:
                    noisy, target = (1 - level) * latents + level * noise, noise - latents
                    with_prompt = self.generator.velocity(noisy, sigma, conditions)
                    without = self.generator.velocity(noisy, sigma, unconditional)
                    error = (with_prompt - target).square().flatten(1).mean(1)
                    gains.append((without - target).square().flatten(1).mean(1) - error)
                    errors.append(error)
                columns.append(torch.stack(gains).mean(0))
                columns.append(torch.stack(errors).mean(0).clamp(min=1e-8).log())
        return torch.stack(columns, dim=1)

    def fit_evidence_scale(self, evidence: Tensor) -> None:
        """Stores mean and standard deviation of the training videos' evidence `[videos, numbers]`."""
        if evidence.shape[1]:
            self.head.evidence_mean.copy_(evidence.mean(0))
            self.head.evidence_std.copy_(evidence.std(0, correction=0).clamp(min=1e-6))

    def forward(self, features: Features) -> Tensor:
        """Raw scores `[batch, levels, dimensions]`, before normalisation."""
        return self.head(features)

    def normalise(self, raw: Tensor) -> Tensor:
        """Raw scores `[..., dimensions]` to z-scores of the training videos."""
        return (raw - self.score_mean) / self.score_std

    def score_features(self, features: Features) -> Scores:
        """z-normalised scores `[batch]` for each dimension."""
        scores = self.normalise(self(features.to(self.device)).mean(dim=1))
        return dict(zip(self.dimensions, scores.unbind(dim=1)))

    def score_latents(self, latents: Tensor, conditions: Conditions) -> Scores:
        """z-normalised scores `[batch]` of normalised latents; gradients reach `latents` where they ask for
        them."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and latents.requires_grad), self._evaluating():
            return self.score_features(self.features(latents, conditions))

    @torch.no_grad()
    def score(self, videos: Tensor, prompts: Sequence[str], batch_size: int = 16) -> Scores:
        """z-normalised scores `[batch]` (CPU) of videos `[batch, 3, frames, height, width]` in [-1, 1].

        Raises:
            InputError: the size is not one of the generator, or there is not one prompt a video.
        """
        if len(videos) != len(prompts):
            raise InputError(
                f"{len(videos)} videos and {len(prompts)} prompts were given: one prompt a video is needed."
            )
        self.generator.check_size(*videos.shape[2:])
        parts: list[Scores] = []
        for start in range(0, len(videos), batch_size):
            chunk = slice(start, start + batch_size)
            latents = self.generator.encode(videos[chunk].to(self.generator.device))
            parts.append(self.score_latents(latents, self.generator.encode_prompts(list(prompts[chunk]))))
        return {name: torch.cat([part[name].float().cpu() for part in parts]) for name in self.dimensions}

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        training = self.training
        self.eval()
        try:
            yield
        finally:
            self.train(training)

    def check_generator(self, generator: VideoGenerator) -> None:
        """Raises `InputError` unless `generator` has this model's autoencoder and text encoder."""
        found = latent_space_fingerprint(generator)
        if found != self.config.latent_space:
            raise InputError(
                f"The reward model {self.name!r} was trained on latents of {self.config.base_model!r}, but "
                f"{generator.name!r} has another autoencoder or text encoder: train a reward model for it."
            )

    def save_pretrained(self, path: str | Path) -> None:
        """Writes configuration, head, LoRA of the trunk and the adapter of the generator into the folder
        `path`."""
        folder = Path(path)
        folder.mkdir(parents=True, exist_ok=True)
        if self.trunk_adapter is not None and self.trunk_adapter != folder / ADAPTER_NAME:
            with atomic_path(folder / ADAPTER_NAME) as copy:
                shutil.copytree(
                    self.trunk_adapter, copy, ignore=shutil.ignore_patterns("checkpoint-*", "runs")
                )
        with atomic_path(folder / WEIGHTS_NAME) as temporary:
            save_file({k: v.contiguous().cpu() for k, v in self.state_dict().items()}, temporary)
        write_json(folder / CONFIG_NAME, {"model_type": MODEL_TYPE, **asdict(self.config)})

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        device: str | torch.device | None = None,
        generator: VideoGenerator | None = None,
    ) -> LatentRewardModel:
        """Loads a saved model; the generator of its trunk is loaded by its stored name unless one is given.

        Raises:
            InputError: the folder holds no reward model, or the generator's weights are not those it was
            trained on.
        """
        path = Path(path)
        document = read_reward_config(path)
        known = {item.name for item in fields(LatentRewardConfig)}
        config = LatentRewardConfig(**{name: value for name, value in document.items() if name in known})
        adapter = path / ADAPTER_NAME if (path / ADAPTER_NAME).is_dir() else None
        if generator is None:
            from generator import load_generator

            generator = load_generator(config.base_model, adapter=adapter, device=device)
        model = cls(config, generator, trunk_adapter=adapter)
        model.load_state_dict(load_file(path / WEIGHTS_NAME))
        model.name = str(path)
        return model.eval()


def read_reward_config(path: Path) -> dict[str, Any]:
    """The stored configuration of the reward model in the folder `path`.

    Raises:
        InputError: there is none.
    """
    if not (path / CONFIG_NAME).is_file():
        raise InputError(
            f"{path} holds no reward model ({CONFIG_NAME} is missing): "
            "give the output folder of `vidalign reward`, `world`, or module:function."
        )
    return json.loads((path / CONFIG_NAME).read_text(encoding="utf-8"))
