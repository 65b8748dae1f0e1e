"""Pretraining of the built-in generator, resumable, in wall-clock budgets.

The learning rate is constant after a short warm-up and falls linearly to zero in the last part of the time, so that a
run of any length ends annealed. Weights are averaged (EMA); what is saved is the average.
"""

from __future__ import annotations

import copy
import itertools
import json
import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from generator.families.native import NativeGenerator
from generator.flow import interpolate, sample_sigma, velocity_target
from generator.native.autoencoder import NativeVideoAutoencoder
from generator.native.building import MAX_SHARD_SIZE, build_pipeline, save_pipeline
from generator.native.model_card import write_model_card
from generator.native.pipeline import NativeVideoPipeline
from generator.native.pretrain_config import PretrainConfig
from generator.native.pretrain_data import CaptionedScenes, SceneStream
from generator.output import InputError, atomic_path, write_json

STATE = "pretraining-state.pt"
HISTORY = "history.json"
HEAD_DIM = 64


def trapezoid(progress: float, step: int, warmup_steps: int, cooldown_share: float) -> float:
    """Learning-rate factor: linear warm-up by steps, constant, linear to zero over the last `cooldown_share`."""
    return min((step + 1) / warmup_steps, 1.0, max(1.0 - progress, 0.0) / max(cooldown_share, 1e-9))


class Average:
    """Exponential moving average of parameters with decay `min(decay, (1 + step) / (10 + step))`."""

    def __init__(self, modules: Iterable[nn.Module], decay: float) -> None:
        self.live = [p for module in modules for p in module.parameters()]
        self.average = [p.detach().clone().float() for p in self.live]
        self.decay = decay
        self.steps = 0

    @torch.no_grad()
    def update(self) -> None:
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        torch._foreach_lerp_(self.average, [p.detach().float() for p in self.live], 1 - decay)

    @torch.no_grad()
    def copy_to_live(self) -> None:
        """Replaces the live weights by the average, at the end of training."""
        for live, average in zip(self.live, self.average, strict=True):
            live.copy_(average)


def optimizer_groups(modules: Iterable[nn.Module], weight_decay: float) -> list[dict[str, Any]]:
    """Matrices decay; biases, norms and embeddings of rank one do not."""
    parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


class Phase:
    """One training phase with a wall-clock budget: loop, learning rate, average, resumable state, progress bar."""

    def __init__(
        self,
        name: str,
        modules: dict[str, nn.Module],
        config: PretrainConfig,
        seconds: float,
        learning_rate: float,
        state_path: Path,
    ) -> None:
        self.name = name
        self.modules = modules
        self.config = config
        self.seconds = seconds
        self.learning_rate = learning_rate
        self.state_path = state_path
        self.average = Average(modules.values(), config.ema_decay)
        self.optimizer = torch.optim.AdamW(
            optimizer_groups(modules.values(), config.weight_decay),
            lr=learning_rate,
            betas=(0.9, 0.95),
            fused=next(iter(modules.values())).parameters().__next__().is_cuda,
        )
        self.step = 0
        self.clips = 0
        self.elapsed = 0.0
        self.history: list[dict[str, float]] = []

    def save(self) -> None:
        """Writes everything that `resume` needs, in one step."""
        with atomic_path(self.state_path) as path:
            torch.save(
                {
                    "phase": self.name,
                    "step": self.step,
                    "clips": self.clips,
                    "elapsed": self.elapsed,
                    "history": self.history,
                    "average": self.average.average,
                    "average_steps": self.average.steps,
                    "optimizer": self.optimizer.state_dict(),
                    "modules": {name: module.state_dict() for name, module in self.modules.items()},
                    "config": asdict(self.config),
                },
                path,
            )

    def resume(self) -> bool:
        """Takes up the state of an interrupted run of this phase, if there is one."""
        if not self.state_path.is_file():
            return False
        state = torch.load(self.state_path, map_location="cpu", weights_only=True)
        if state["phase"] != self.name:
            return False
        for name in ("num_layers", "hidden_size"):
            if state["config"][name] != getattr(self.config, name):
                raise InputError(
                    f"{self.state_path} is an interrupted run with {name} {state['config'][name]}, but "
                    f"{getattr(self.config, name)} was asked for: give the same value or another --output_dir."
                )
        for name, module in self.modules.items():
            module.load_state_dict(state["modules"][name])
        self.optimizer.load_state_dict(state["optimizer"])
        self.average.average = [
            a.to(p.device) for a, p in zip(state["average"], self.average.live, strict=True)
        ]
        self.average.steps = state["average_steps"]
        self.step, self.clips, self.elapsed = state["step"], state["clips"], state["elapsed"]
        self.history = state["history"]
        return True

    def run(
        self,
        batches: Iterable[CaptionedScenes],
        loss: Callable[[CaptionedScenes, torch.Generator], tuple[Tensor, dict[str, Tensor]]],
        device: torch.device,
    ) -> None:
        """Trains until the budget is used, then puts the average into the modules."""
        parameters = [p for module in self.modules.values() for p in module.parameters()]
        started = saved = 0.0
        bar = tqdm(total=round(self.seconds), initial=round(self.elapsed), desc=self.name, unit="s")
        asked = waited = 0.0
        for batch in batches:
            if not started:  # the first batch waits for the worker processes, which is not training time
                started, saved = time.monotonic() - self.elapsed, time.monotonic()
            else:
                waited += time.monotonic() - asked
            if self.elapsed >= self.seconds:
                break
            factor = trapezoid(self.elapsed / self.seconds, self.step, 100, self.config.cooldown_share)
            for group in self.optimizer.param_groups:
                group["lr"] = self.learning_rate * factor
            generator = torch.Generator(device).manual_seed(self.config.seed + self.step)
            value, metrics = loss(batch, generator)
            value.backward()
            norm = nn.utils.clip_grad_norm_(parameters, 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            self.average.update()
            self.step += 1
            self.clips += len(batch.input_ids)
            if self.step % 50 == 0:
                self.record({**metrics, "loss": value.detach(), "gradient_norm": norm}, factor, waited)
                bar.set_postfix({k: f"{v:.4g}" for k, v in self.history[-1].items() if k in ("loss", "psnr")})
            self.elapsed = time.monotonic() - started
            bar.update(round(self.elapsed) - bar.n)
            if time.monotonic() - saved > self.config.save_seconds:
                self.save()
                saved = time.monotonic()
            asked = time.monotonic()
        bar.close()
        self.average.copy_to_live()

    def record(self, metrics: dict[str, Tensor], factor: float, waited: float) -> None:
        """Adds one row to the history; `waited` is the time in seconds spent waiting for batches so far."""
        row = {name: float(value) for name, value in metrics.items()}
        row |= {"step": self.step, "clips": self.clips, "seconds": self.elapsed, "lr_factor": factor}
        row["waited_seconds"] = waited
        self.history.append(row)


def autoencoder_loss(
    vae: NativeVideoAutoencoder, kl_weight: float, device: torch.device
) -> Callable[..., Any]:
    """MSE + 0.1 L1 + KL of clips rendered on the fly."""

    def loss(batch: CaptionedScenes, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        clips = batch.render(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            posterior = vae.encode(clips).latent_dist
            reconstruction = vae.decode(posterior.sample(generator)).sample.float()
        error = reconstruction - clips
        mse = error.pow(2).mean()
        mean, log_variance = posterior.mean.float(), posterior.logvar.float()
        kl = 0.5 * (mean.pow(2) + log_variance.exp() - 1 - log_variance).mean()
        value = mse + 0.1 * error.abs().mean() + kl_weight * kl
        return value, {"psnr": 10 * torch.log10(4 / mse.detach()), "kl": kl.detach()}

    return loss


def call_in_dtype(module: nn.Module, dtype: torch.dtype, *args: Any, **kwargs: Any) -> Any:
    """Calls `module` with its weights cast to `dtype`; gradients reach the float32 masters through the cast."""
    weights = {name: value.to(dtype) for name, value in module.named_parameters()}
    return torch.func.functional_call(module, weights, args, kwargs)


def channel_weights(vae: NativeVideoAutoencoder, power: float) -> Tensor:
    """Weights `[channels]` of mean 1 that grow with the latent channels' standard deviation to the `power`.

    Normalised latents give every channel the same variance, but in the pixels an error of a channel counts about
    as the square of that channel's own standard deviation: the faintest ones hold detail that nobody sees.
    """
    weights = torch.tensor(vae.config.latents_std).pow(power)
    return weights / weights.mean()


def flow_matching_loss(
    pipeline: NativeVideoPipeline, shift: float, device: torch.device, channel_power: float = 0.0
) -> Callable[[CaptionedScenes, torch.Generator], tuple[Tensor, dict[str, Tensor]]]:
    """Rectified-flow loss on clips rendered and encoded on the fly; text encoder and transformer get gradients.

    The loss is weighted by `channel_weights`; the metric "mse" is the one without weights.
    """
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    vae = copy.deepcopy(pipeline.vae).to(dtype=dtype).eval()
    transformer, text_encoder = pipeline.transformer, pipeline.text_encoder
    weights = channel_weights(pipeline.vae, channel_power).to(device)

    def loss(batch: CaptionedScenes, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        with torch.no_grad():
            posterior = vae.encode(batch.render(device).to(dtype)).latent_dist
        latents = vae.normalise(posterior.mean.float())
        noise = torch.randn(latents.shape, generator=generator, device=device)
        on_cpu = torch.Generator().manual_seed(generator.initial_seed())
        sigma = sample_sigma(len(latents), shift, on_cpu, uniform_share=0.15).to(device)
        ids, mask = batch.input_ids.to(device), batch.attention_mask.to(device)
        text = call_in_dtype(text_encoder, dtype, input_ids=ids, attention_mask=mask).last_hidden_state
        velocity = call_in_dtype(
            transformer,
            dtype,
            interpolate(latents, noise, sigma).to(dtype),
            sigma * 1000,
            text,
            mask,
            seconds_per_frame=pipeline.seconds_per_latent_frame,
            return_dict=False,
        )[0].float()
        error = F.mse_loss(velocity, velocity_target(latents, noise), reduction="none").mean(dim=(0, 2, 3, 4))
        return (weights * error).mean(), {"mse": error.detach().mean()}

    return loss


@torch.no_grad()
def measure_latents(
    vae: NativeVideoAutoencoder, batches: Iterable[CaptionedScenes], device: torch.device
) -> None:
    """Stores mean and standard deviation of each latent channel in the autoencoder's configuration."""
    latents = [
        vae.encode(batch.render(device)).latent_dist.mean.float().transpose(0, 1).flatten(1)
        for batch in batches
    ]
    joined = torch.cat(latents, dim=1)
    vae.register_to_config(
        latents_mean=[round(v, 5) for v in joined.mean(dim=1).tolist()],
        latents_std=[round(v, 5) for v in joined.std(dim=1).tolist()],
    )


def train_autoencoder(
    pipeline: NativeVideoPipeline, config: PretrainConfig, device: torch.device
) -> list[dict[str, float]]:
    """Trains the autoencoder of `pipeline` in place and stores its latent statistics; returns the history."""
    vae = pipeline.vae.train()
    phase = Phase(
        "autoencoder",
        {"vae": vae},
        config,
        config.autoencoder_seconds,
        config.autoencoder_learning_rate,
        Path(config.output_dir) / STATE,
    )
    phase.resume()
    stream = SceneStream(
        pipeline.tokenizer,
        config.autoencoder_pixels,
        (1, 1),
        0,
        0.0,
        0.0,
        config.seed + 1,
        phase.step,
        config.scene_reuse,
    )
    phase.run(stream.loader(config.num_workers), autoencoder_loss(vae, config.kl_weight, device), device)
    vae.eval()
    measure_latents(vae, itertools.islice(stream.loader(0), 16), device)
    phase.save()
    return phase.history


def train_transformer(
    pipeline: NativeVideoPipeline, config: PretrainConfig, device: torch.device
) -> list[dict[str, float]]:
    """Trains transformer and text encoder of `pipeline` in place; returns the history."""
    modules = {"transformer": pipeline.transformer.train(), "text_encoder": pipeline.text_encoder.train()}
    phase = Phase(
        "transformer",
        modules,
        config,
        config.transformer_seconds,
        config.learning_rate,
        Path(config.output_dir) / STATE,
    )
    phase.resume()
    if config.compile:
        for block in pipeline.transformer.blocks:
            block.compile(dynamic=True)
    stream = SceneStream(
        pipeline.tokenizer,
        config.transformer_tokens,
        (4, 8),
        24,
        config.wrong_share,
        config.caption_dropout,
        config.seed,
        start=phase.step,
        reuse=config.scene_reuse,
    )
    loss = flow_matching_loss(pipeline, config.shift, device, config.channel_weight_power)
    phase.run(stream.loader(config.num_workers), loss, device)
    for module in modules.values():
        module.eval()
    phase.save()
    return phase.history


def forget_finished_run(output_dir: Path, keep_autoencoder: bool) -> None:
    """Removes what would make a new run in `output_dir` go on from the finished one instead of starting."""
    (output_dir / "model_index.json").unlink()
    (output_dir / STATE).unlink(missing_ok=True)
    if not keep_autoencoder:
        shutil.rmtree(output_dir / "autoencoder", ignore_errors=True)


def pretrain(config: PretrainConfig, device: torch.device) -> Path:
    """Runs what is left of pretraining and writes the pipeline, its model card and `metrics.json`.

    An interrupted run goes on from its last state when called again with the same configuration.

    Raises:
        InputError: `output_dir` holds a finished pipeline and `overwrite` is not set, an interrupted run there is of
            another architecture, or `hidden_size` does not divide into heads.
    """
    output_dir = Path(config.output_dir)
    if config.hidden_size % HEAD_DIM or config.hidden_size < HEAD_DIM:
        raise InputError(
            f"hidden_size is {config.hidden_size}, but must be a multiple of {HEAD_DIM}, the width of a head: "
            f"give --hidden_size {max(round(config.hidden_size / HEAD_DIM), 1) * HEAD_DIM}."
        )
    if (output_dir / "model_index.json").is_file():
        if not config.overwrite:
            raise InputError(
                f"{output_dir} holds a finished pipeline: name another folder or pass --overwrite."
            )
        forget_finished_run(output_dir, keep_autoencoder=config.autoencoder_from is not None)
    output_dir.mkdir(parents=True, exist_ok=True)
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = True
    pipeline = build_pipeline(
        transformer={
            "num_layers": config.num_layers,
            "hidden_size": config.hidden_size,
            "num_attention_heads": config.hidden_size // HEAD_DIM,
            "conditioning": "adaln",
            "initialization": "xavier",
        },
        shift=config.shift,
        seed=config.seed,
    )
    history: dict[str, list[dict[str, float]]] = {}
    pipeline.to(device)
    autoencoder = output_dir / "autoencoder"
    source = config.autoencoder_from or (autoencoder if (autoencoder / "vae").is_dir() else None)
    if source is not None:
        pipeline.vae = NativeVideoAutoencoder.from_pretrained(source, subfolder="vae").to(device).eval()
        if source == autoencoder:
            history["autoencoder"] = json.loads((autoencoder / HISTORY).read_text(encoding="utf-8"))
    else:
        history["autoencoder"] = train_autoencoder(pipeline, config, device)
        with atomic_path(autoencoder) as temporary:
            half = copy.deepcopy(pipeline.vae).half()
            half.save_pretrained(temporary / "vae", max_shard_size=MAX_SHARD_SIZE)
            write_json(temporary / HISTORY, history["autoencoder"])
    pipeline.vae.requires_grad_(False)
    if config.transformer_seconds > 0:
        history["transformer"] = train_transformer(pipeline, config, device)
    save_pipeline(pipeline, output_dir)
    for module in (pipeline.text_encoder, pipeline.vae, pipeline.transformer):
        nn.Module.to(module, dtype=torch.float32)
    generator = NativeGenerator(pipeline, str(output_dir))
    write_model_card(generator, config, history, output_dir)
    return output_dir
