"""A reward model on latents: the generator's own first blocks as the trunk, learned-query pooling, one head
a dimension.

The trunk already knows how a video and its prompt belong together, and no video has to be decoded, so scores
are cheap and differentiable in the latents (PAVRM, arXiv 2511.21541). Features are taken at a few small
noise levels, each of which is scored; a score is the mean over them.

Optionally the head also sees the generator's *implicit evidence*: how much better it denoises the video with
the prompt than without, ‖v(x_σ, "") − u‖² − ‖v(x_σ, prompt) − u‖² at a few noise levels, u = ε − x₀
(Diffusion Classifier, arXiv 2303.16203). The same ε is used for all videos, so that its chance effect
cancels in comparisons.

The `matching` architecture runs the trunk without the prompt and lets the prompt's words look for their evidence
in its tokens (`reward.models.matching`), which can be learned from demonstrations before any ranking.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from generator.adapters.adapters import copy_adapter
from generator.base import VideoGenerator
from generator.inputs.conditions import Conditions, select
from generator.one_or_several import as_list
from generator.output import InputError, files_into
from generator.provenance import latent_space_fingerprint
from reward.models.base import RewardModel, Scores, join_scores
from reward.models.evidence import fixed_noise, implicit_evidence
from reward.models.frames import decoded_frames
from reward.models.heads import Features, MatchingHead, NoiseScale, RewardHead
from reward.models.latent_config import LatentRewardConfig
from reward.models.storage import WEIGHTS_NAME, config_from, read_reward_config, write_reward_model
from reward.models.trunk import (
    match_fingerprints,
    num_transformer_blocks,
    split_conditions,
    text_tokens,
    trunk_features,
)
from reward.models.trunk_files import ADAPTER_NAME, keep_sources, stored_sources
from reward.models.trunk_lora import inject_lora, trained_weights, without_lora

MODEL_TYPE = "latent"


class LatentRewardModel(nn.Module, RewardModel):
    """Scores latents or videos of one generator's latent space; see the module's text.

    Args:
        config: what it is made of; empty fingerprints are filled in.
        generator: the trunk. It belongs to this model from here on: a LoRA is injected into it where the
            config asks for one, and a policy that is trained must be another instance, or the reward would
            change with it.
        trunk_adapter: folder of the adapter that `generator` was loaded with; it is saved with this model.
    """

    names_dimensions = True
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
        self._empty_prompt: Conditions | None = None
        self.name = config.base_model
        self.dimensions = config.dimensions
        if config.num_blocks == 0:
            share = 3 if config.architecture == "matching" else 2
            config.num_blocks = max(1, (num_transformer_blocks(generator) or share) // share)
        match_fingerprints(config, generator)
        generator.transformer.requires_grad_(False)
        generator.transformer.eval()
        self.trunk_lora = nn.ParameterDict()
        self.trunk_weights = nn.ParameterDict()
        if config.lora_rank:
            self._add_lora()
        elif config.full_trunk:
            self.trunk_weights = trained_weights(
                dict(generator.transformer.named_parameters()), lambda: self.trunk_tokens(*self._example())[0]
            )
        with torch.no_grad():
            example = self.features(*self._example())
        sizes = (example.tokens.shape[-1], example.text.shape[-1], example.evidence.shape[-1])
        self.head: RewardHead | MatchingHead = (
            MatchingHead(config, *sizes)
            if config.architecture == "matching"
            else RewardHead(config, sizes[0], sizes[2])
        )
        numbers = len(config.dimensions) * (2 if config.gaussian else 1)
        self.noise_scale = NoiseScale(numbers) if config.noise_levels else None
        self.to_trunk_device()
        self.register_buffer("score_mean", torch.zeros(len(config.dimensions), device=generator.device))
        self.register_buffer("score_std", torch.ones(len(config.dimensions), device=generator.device))

    def to_trunk_device(self) -> None:
        """Moves what this model adds to its trunk to the trunk's device."""
        for part in (self.head, self.noise_scale):
            if part is not None:
                part.to(self.generator.device)

    @property
    def device(self) -> torch.device:
        return self.score_mean.device

    @property
    def scores_noisy_latents(self) -> bool:  # type: ignore[override]
        """True where the model was trained on noisy latents, and `score_noisy_latents` means something."""
        return bool(self.config.noise_levels)

    def _add_lora(self) -> None:
        targets = list(self.config.lora_target_modules or self.generator.lora_target_modules)
        self.config.lora_target_modules = tuple(targets)
        own = inject_lora(self.generator.transformer, self.config.lora_rank, targets)
        self.trunk_lora = trained_weights(own, lambda: self.trunk_tokens(*self._example())[0])
        if not self.trunk_lora:
            raise InputError(
                f"No layer of the trunk is called {' or '.join(targets)}: name others for its LoRA."
            )

    def trunk_parameters(self) -> list[nn.Parameter]:
        """Trained part of the trunk: its own weights, a LoRA on them, or nothing."""
        return [*self.trunk_lora.parameters(), *self.trunk_weights.parameters()]

    def _example(self) -> tuple[Tensor, Conditions]:
        """Latents and conditions of a black video, for looking at shapes."""
        defaults = self.generator.defaults
        shape = self.generator.latent_shape(defaults.num_frames, defaults.height, defaults.width)
        latents = torch.zeros((1, *shape), device=self.generator.device)
        return latents, self.generator.encode_prompts(["a video"])

    def features(
        self,
        latents: Tensor,
        conditions: Conditions,
        train: bool = False,
        evidence: bool = True,
        frames: bool = True,
    ) -> Features:
        """The trunk's part of scoring `latents [batch, channels, frames, height, width]`; differentiable in them.

        Args:
            conditions: of the prompts, and for a trunk that needs an image perhaps of that; else the first frame of the
                latents is shown.
            train: whether the noise levels that only training uses are added, with fresh noise for each video.
            evidence: whether the implicit evidence is computed, where the model has it.
            frames: whether the video is decoded, where the head looks at it.
        """
        latents, conditions = self._on_trunk_device(latents, conditions)
        conditions, shown = split_conditions(self.generator, latents, conditions)
        noisy, sigma = self._noisy(latents)
        if train and self.config.noise_levels:
            more = latents.new_tensor(self.config.noise_levels).expand(len(latents), -1)
            each = more[:, :, None, None, None, None]
            fresh = torch.randn(latents.shape[:1] + more.shape[1:] + latents.shape[1:]).to(latents)
            noisy = torch.cat([noisy, (1 - each) * latents[:, None] + each * fresh], dim=1)
            sigma = torch.cat([sigma, more], dim=1)
        tokens, is_video, quality = self._all_tokens(noisy, sigma, conditions, shown)
        found = self._evidence(latents, conditions, shown) if evidence else latents.new_zeros(len(latents), 0)
        pixels = decoded_frames(self.generator, latents, frames and self.config.decoded_frames)
        return Features(tokens, is_video, found, self.text_of(conditions), quality, sigma, pixels)

    def text_of(self, conditions: Conditions) -> Tensor:
        """Embeddings `[batch, words, text_size]` of the prompts where the head reads them, else no words."""
        if self.config.architecture == "matching":
            return text_tokens(conditions)
        return next(iter(conditions.values())).new_zeros(len(next(iter(conditions.values()))), 0, 1).float()

    def _without_prompt(self, count: int) -> Conditions:
        """Conditions of the empty prompt for `count` videos; it is encoded once."""
        if self._empty_prompt is None:
            self._empty_prompt = self.generator.encode_prompts([""])
        return select(self._empty_prompt, torch.zeros(count, dtype=torch.long))

    def _on_trunk_device(self, latents: Tensor, conditions: Conditions) -> tuple[Tensor, Conditions]:
        device = self.generator.device
        moved = {name: value.to(device) for name, value in conditions.items()}
        return latents.to(device=device, dtype=torch.float32), moved

    def _noisy(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Latents `[batch, levels, …]` with the fixed noise at the levels of use, and the levels
        `[batch, levels]`."""
        noise = fixed_noise(latents.shape[1:], 1, latents.device)[0]
        sigma = latents.new_tensor(self.config.sigmas).expand(len(latents), -1)
        level = sigma[:, :, None, None, None, None]
        return (1 - level) * latents[:, None] + level * noise, sigma

    def trunk_tokens(self, latents: Tensor, conditions: Conditions) -> tuple[Tensor, Tensor]:
        """Hidden states `[batch, levels, tokens, dim]` at each noise level of use, and the mask of the video
        tokens; where no head sees the prompt in the trunk, the prompt plays no part in them."""
        latents, conditions = self._on_trunk_device(latents, conditions)
        conditions, shown = split_conditions(self.generator, latents, conditions)
        return self._tokens(*self._noisy(latents), None if self._trunk_is_blind else conditions, shown)

    @property
    def _trunk_is_blind(self) -> bool:
        """True where the tokens that all heads read come from the video alone."""
        return self.config.architecture == "matching" or not self.config.judged_with_prompt

    def _all_tokens(
        self, noisy: Tensor, sigma: Tensor, conditions: Conditions, shown: Conditions
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens, mask of the video tokens, and tokens for the prompt-free dimensions, of `noisy [batch, levels,
        …]`."""
        if self._trunk_is_blind:
            tokens, is_video = self._tokens(noisy, sigma, None, shown)
            return tokens, is_video, tokens[:, :, :0]
        tokens, is_video = self._tokens(noisy, sigma, conditions, shown)
        if not self.config.prompt_free:
            return tokens, is_video, tokens[:, :, :0]
        return tokens, is_video, self._tokens(noisy, sigma, None, shown)[0]

    def _tokens(
        self, noisy: Tensor, sigma: Tensor, conditions: Conditions | None, shown: Conditions
    ) -> tuple[Tensor, Tensor]:
        """Hidden states `[batch, levels, tokens, dim]` of `noisy [batch, levels, …]` and the mask `[batch, tokens]`
        of the video tokens, to which they are cut where no prompt is given; `shown` is of images."""
        blind = conditions is None
        given = self._without_prompt(len(noisy)) if conditions is None else conditions
        given = {**given, **shown}
        levels = []
        for latents, level in zip(noisy.unbind(1), sigma.unbind(1)):
            tokens, is_video = trunk_features(self.generator, latents, level, given, self.config.num_blocks)
            levels.append(tokens[:, is_video[0]] if blind else tokens)
        tokens = torch.stack(levels, dim=1)
        if blind:
            is_video = is_video.new_ones(len(tokens), tokens.shape[2])
        # Normalised here, once for a cached video, and without weights, which would merge with those of the
        # pooling.
        return nn.functional.layer_norm(tokens, tokens.shape[-1:]), is_video

    def _evidence(self, latents: Tensor, conditions: Conditions, shown: Conditions) -> Tensor:
        """`[batch, 2·levels]`: error without prompt minus error with it, and the latter's logarithm, at each
        level."""
        if not self.config.implicit_evidence:
            return latents.new_zeros(len(latents), 0)
        draws = fixed_noise(latents.shape[1:], 1 + self.config.evidence_draws, latents.device)[1:]
        # Evidence comes from the generator as it was before this model trained a LoRA on its trunk.
        with without_lora(self.generator.transformer) if self.trunk_lora else nullcontext():
            return implicit_evidence(
                self.generator,
                latents,
                {**conditions, **shown},
                {**self._without_prompt(len(latents)), **shown},
                self.config.evidence_sigmas,
                draws,
            )

    def fit_evidence_scale(self, evidence: Tensor) -> None:
        """Stores mean and standard deviation of the training videos' evidence `[videos, numbers]`."""
        if evidence.shape[1] and self.head.evidence is not None:
            self.head.evidence.fit(evidence)

    def predict(self, features: Features) -> tuple[Tensor, Tensor | None]:
        """Raw scores `[batch, levels, dimensions]`, before normalisation, and their log variances of the same
        shape where the scores are Gaussian."""
        raw = self.head(features)
        if raw.dtype in (torch.bfloat16, torch.float16):
            raw = raw.float()
        if self.noise_scale is not None:
            raw = self.noise_scale(raw, features.sigma)
        if not self.config.gaussian:
            return raw, None
        scores, log_variance = raw.chunk(2, dim=-1)
        return scores, log_variance.clamp(-10, 10)

    def forward(self, features: Features) -> Tensor:
        """Raw scores `[batch, levels, dimensions]`, before normalisation."""
        return self.predict(features)[0]

    def normalise(self, raw: Tensor) -> Tensor:
        """Raw scores `[..., dimensions]` to z-scores of the training videos."""
        return (raw - self.score_mean) / self.score_std

    def score_features(self, features: Features) -> Scores:
        """z-normalised scores `[batch]` for each dimension: the mean over the noise levels of use."""
        levels = len(self.config.sigmas)
        scores = self.normalise(self(features.to(self.device))[:, :levels].mean(dim=1))
        return dict(zip(self.dimensions, scores.unbind(dim=1)))

    def last_layer(self, features: Features, dimension: str) -> Tensor:
        """`[batch, numbers]`, in which the raw score of a dimension is linear, up to a constant of the prompt (of
        Gaussian scores the mean): the inputs of the head's last layer, mean over the noise levels of use."""
        found = self.head.last_layer(features.to(self.device), dimension)
        return found[:, : len(self.config.sigmas)].mean(dim=1)

    def uncertainty_of_features(self, features: Features) -> Scores:
        """Standard deviations `[batch]` of Gaussian scores, on the scale of the scores; nothing for others."""
        _, log_variance = self.predict(features.to(self.device))
        if log_variance is None:
            return {}
        levels = len(self.config.sigmas)
        deviation = (log_variance[:, :levels].mean(dim=1) / 2).exp() / self.score_std
        return dict(zip(self.dimensions, deviation.unbind(dim=1)))

    def video_size(self) -> dict[str, float] | None:
        """The size and frame rate that the model was trained on; the generator's where that is unknown."""
        config, defaults = self.config, self.generator.defaults
        known = config if config.num_frames and config.height and config.width else defaults
        return {
            "num_frames": known.num_frames,
            "height": known.height,
            "width": known.width,
            "fps": defaults.fps,
        }

    def score_latents(self, latents: Tensor, conditions: Conditions) -> Scores:
        """z-normalised scores `[batch]` of normalised latents; gradients reach `latents` where they ask for
        them."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and latents.requires_grad), self._evaluating():
            return self.score_features(self.features(latents, conditions))

    def score_noisy_latents(self, latents: Tensor, sigma: Tensor, conditions: Conditions) -> Scores:
        """z-normalised scores `[batch]` of latents that already hold the noise `sigma [batch]`, differentiable in
        them: what the video that becomes of them is expected to score.

        Raises:
            InputError: the model was trained on clean latents only.
        """
        if not self.scores_noisy_latents:
            raise InputError(
                f"The reward model {self.name!r} judges clean latents only: train one with --noise_conditioned true."
            )
        with torch.set_grad_enabled(torch.is_grad_enabled() and latents.requires_grad), self._evaluating():
            latents, conditions = self._on_trunk_device(latents, conditions)
            conditions, shown = split_conditions(self.generator, latents, conditions)
            level = sigma.to(latents)[:, None]
            tokens, is_video, quality = self._all_tokens(latents[:, None], level, conditions, shown)
            evidence = self._evidence(latents, conditions, shown)
            pixels = decoded_frames(self.generator, latents, False)
            features = Features(tokens, is_video, evidence, self.text_of(conditions), quality, level, pixels)
            scores = self.normalise(self(features)[:, 0])
        return dict(zip(self.dimensions, scores.unbind(dim=1)))

    @torch.no_grad()
    def uncertainty_of_latents(self, latents: Tensor, conditions: Conditions) -> Scores:
        """Standard deviations `[batch]` of Gaussian scores of latents; nothing for other models."""
        if not self.config.gaussian:
            return {}
        with self._evaluating():
            return self.uncertainty_of_features(self.features(latents, conditions))

    def batches(
        self, videos: Tensor, prompts: Sequence[str], batch_size: int
    ) -> Iterator[tuple[Tensor, Conditions]]:
        """Latents and conditions of the videos, `batch_size` at a time."""
        if len(videos) != len(prompts):
            raise InputError(
                f"{len(videos)} videos and {len(prompts)} prompts were given: one prompt a video is needed."
            )
        self.generator.check_size(*videos.shape[2:])
        for start in range(0, len(videos), batch_size):
            chunk = slice(start, start + batch_size)
            latents = self.generator.encode(videos[chunk].to(self.generator.device))
            yield latents, self.generator.encode_prompts(list(prompts[chunk]))

    @torch.no_grad()
    def score(self, videos: Tensor, prompts: Sequence[str], batch_size: int = 16) -> Scores:
        """z-normalised scores `[batch]` (CPU) of videos `[batch, 3, frames, height, width]` in [-1, 1].

        Raises:
            InputError: the size is not one of the generator, or there is not one prompt a video.
        """
        prompts = as_list(prompts)
        return join_scores([self.score_latents(*part) for part in self.batches(videos, prompts, batch_size)])

    @torch.no_grad()
    def uncertainty(self, videos: Tensor, prompts: Sequence[str], batch_size: int = 16) -> Scores:
        """Standard deviations `[batch]` (CPU) of Gaussian scores; nothing for other models."""
        prompts = as_list(prompts)
        if not self.config.gaussian:
            return {}
        batches = self.batches(videos, prompts, batch_size)
        return join_scores([self.uncertainty_of_latents(*part) for part in batches])

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        training = self.training
        self.eval()
        try:
            yield
        finally:
            self.train(training)

    def reads_latents_of(self, generator: VideoGenerator) -> bool:
        """Returns whether `generator` has this model's autoencoder and text encoder."""
        return latent_space_fingerprint(generator) == self.config.latent_space

    def check_generator(self, generator: VideoGenerator) -> None:
        """Raises `InputError` unless `generator` has this model's autoencoder and text encoder."""
        if not self.reads_latents_of(generator):
            raise InputError(
                f"The reward model {self.name!r} was trained on latents of {self.config.base_model!r}, but "
                f"{generator.name!r} has another autoencoder or text encoder: train a reward model for it."
            )

    def save_pretrained(self, path: str | Path) -> None:
        """Writes configuration, head, LoRA of the trunk and the generator's adapters into the folder `path`."""
        folder = Path(path)
        folder.mkdir(parents=True, exist_ok=True)
        if self.trunk_adapter is not None and self.trunk_adapter != folder / ADAPTER_NAME:
            with files_into(folder / ADAPTER_NAME) as copy:
                copy_adapter(self.trunk_adapter, copy)
        keep_sources(self.config, self.generator, folder)
        write_reward_model(folder, MODEL_TYPE, self.config, self.state_dict())

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
        stored = read_reward_config(path)
        config = config_from(stored, LatentRewardConfig)
        adapter = path / ADAPTER_NAME if (path / ADAPTER_NAME).is_dir() else None
        if generator is None:
            from generator import load_generator

            sources = stored_sources(path, stored).options()
            generator = load_generator(config.base_model, adapter=adapter, device=device, **sources)
        model = cls(config, generator, trunk_adapter=adapter)
        try:
            model.load_state_dict(load_file(path / WEIGHTS_NAME))
        except RuntimeError as error:
            raise InputError(
                f"The weights in {path} are not those of this version's reward model: train it again with "
                "`vidalign reward`."
            ) from error
        model.name = str(path)
        return model.eval()
