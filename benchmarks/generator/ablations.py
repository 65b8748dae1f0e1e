"""Effects of the switches of the built-in generator.

    python -m benchmarks.generator.ablations --device cuda --seconds 45

Every variant is a new transformer, trained for `--seconds` on the same clips with clean captions by the recipe of
`vidalign pretrain`; known frames and key frames are left out, as spacetime patches cannot have them. Gold adherence is
the verifier's score of videos of held-out prompts; the held-out loss can be compared among variants of equal latents
and patches. `vae`, `ae` and `pca` are autoencoders of equal latent size: the
first two are trained for `--autoencoder_seconds` each, principal components are computed.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from benchmarks.generator.pca import PCAVideoAutoencoder
from benchmarks.generator.short_training import (
    Clips,
    collect,
    encode,
    gold,
    held_out,
    held_out_loss,
    mean_and_error,
    new_pipeline,
    train,
)
from generator import load_generator
from generator.native.building import build_pipeline
from generator.pretraining.config import PretrainConfig
from generator.pretraining.data import CaptionedScenes, ClipKind
from generator.pretraining.latent_pool import LatentPool
from generator.pretraining.phase import Phase
from generator.pretraining.pretrain import AutoencoderLoss, measure_latents
from generator.world import sample_prompts

VARIANTS: dict[str, dict[str, Any]] = {
    "base": {},
    "tokens": {"conditioning": "tokens"},
    "no_skips": {"long_skips": False},
    "separable": {"attention": "separable"},
    "spacetime": {"patch_size": [2, 2, 2]},
    "packed": {"pack": True},
}
AUTOENCODERS = {"vae": 1e-5, "ae": 0.0, "pca": None}
SIZES = {
    ClipKind(9, 32, 32): 0.6,
    ClipKind(17, 32, 32): 0.2,
    ClipKind(9, 32, 48): 0.1,
    ClipKind(9, 48, 32): 0.1,
}
EVALUATED = (9, 32, 32)


def trained_autoencoder(
    clips: Clips, config: PretrainConfig, kl_weight: float | None, seconds: float, device: torch.device
) -> torch.nn.Module:
    """An autoencoder of nano's latent size: principal components where `kl_weight` is None."""
    first = next(scenes for scenes in clips.scenes if scenes.kind.size == EVALUATED)
    if kl_weight is None:
        pca = PCAVideoAutoencoder(latent_channels=8).to(device)
        pca.fit([first.render(device)])
        return pca
    vae = build_pipeline(seed=config.seed).vae.to(device).train()

    def batches() -> Iterator[CaptionedScenes]:
        while True:
            yield from clips.scenes

    with TemporaryDirectory() as folder:
        path = Path(folder) / "state.pt"
        phase = Phase("autoencoder", {"vae": vae}, config, seconds, config.autoencoder_learning_rate, path)
        phase.run(batches(), AutoencoderLoss(vae, kl_weight, device), device)
    vae.eval().requires_grad_(False)
    measure_latents(vae, clips.scenes[:8], device)
    return vae


@torch.no_grad()
def reconstruction_psnr(vae: torch.nn.Module, scenes: CaptionedScenes, device: torch.device) -> float:
    """PSNR in dB of reconstructed clips."""
    clips = scenes.render(device).to(vae.dtype)
    error = (vae.decode(vae.encode(clips).latent_dist.mode()).sample.clamp(-1, 1) - clips).square().mean()
    return float(10 * torch.log10(4 / error))


def measure(
    name: str,
    vae: torch.nn.Module,
    config: PretrainConfig,
    clips: Clips,
    pool: LatentPool,
    device: torch.device,
    arguments: Any,
) -> list[dict[str, Any]]:
    """Figures of a variant, one a seed, trained on the clips as `vae` encodes them in `pool`."""
    prompts = sample_prompts(arguments.prompts, 1, "test")
    unseen = held_out(clips, 12)
    rows = []
    for seed in range(arguments.seeds):
        seeded = replace(config, seed=seed)
        pipeline = new_pipeline(seeded, vae, device)
        run = train(pipeline, seeded, pool, clips.stream, device, arguments.seconds)
        mean, error = mean_and_error(gold(pipeline, prompts, EVALUATED))
        rows.append(
            {
                "variant": name,
                "seed": seed,
                "gold": mean,
                "error": error,
                "loss": held_out_loss(pipeline, unseen, config, device),
                "tokens_per_second": run.tokens_per_second,
                "clips_per_second": run.clips / run.phase.elapsed,
                "steps": run.phase.step,
                "parameters": sum(p.numel() for p in pipeline.transformer.parameters()),
                "psnr": reconstruction_psnr(vae, clips.scenes[0], device),
            }
        )
        print(
            "| {variant} | {seed} | {gold:.3f} ± {error:.3f} | {loss:.4f} | {tokens_per_second:,.0f} | "
            "{clips_per_second:,.0f} | {steps} | {parameters:,} | {psnr:.1f} |".format(**rows[-1]),
            flush=True,
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--variants", nargs="*", default=[*VARIANTS, *AUTOENCODERS])
    parser.add_argument(
        "--seconds", type=float, default=45.0, help="Seconds of training each variant and seed."
    )
    parser.add_argument("--autoencoder_seconds", type=float, default=60.0)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--prompts", type=int, default=512, help="Held-out prompts that are generated.")
    parser.add_argument("--tokens", type=int, default=25_000)
    parser.add_argument("--hidden_size", type=int, default=256)
    parser.add_argument("--num_layers", type=int, default=13)
    parser.add_argument("--collect_seconds", type=float, default=40.0, help="Seconds of sampling scenes.")
    parser.add_argument("--batches", type=int, default=500, help="Batches of scenes, at most.")
    parser.add_argument("--num_workers", type=int, default=12)
    parser.add_argument("--output", type=Path, default=None)
    arguments = parser.parse_args()
    if unknown := set(arguments.variants) - {*VARIANTS, *AUTOENCODERS}:
        parser.error(f"no variant {', '.join(unknown)}: choose among {', '.join([*VARIANTS, *AUTOENCODERS])}")
    arguments.variants.sort(
        key=lambda name: name in AUTOENCODERS
    )  # those with nano's autoencoder share its latents
    device = torch.device(arguments.device)
    config = PretrainConfig(
        output_dir="",
        transformer_tokens=arguments.tokens,
        hidden_size=arguments.hidden_size,
        num_layers=arguments.num_layers,
        num_workers=arguments.num_workers,
        wrong_share=0.0,
        known_frames_share=0.0,
        key_frame_share=0.0,
        tensorboard=False,
    )
    nano = load_generator("nano", device=device).pipeline
    clips = collect(nano.tokenizer, config, arguments.collect_seconds, 4, arguments.batches, SIZES)
    while not any(scenes.kind.size == EVALUATED for scenes in clips.scenes):
        clips.scenes.append(clips.stream.batch(10_000_000 + len(clips.scenes)))
    print(
        "| variant | seed | gold | held-out loss | tokens a second | clips a second | steps | parameters | PSNR (dB) |"
    )
    print("|---|---|---|---|---|---|---|---|---|", flush=True)
    rows = []
    pool = None
    for name in arguments.variants:
        vae = nano.vae
        if name in AUTOENCODERS:
            vae = trained_autoencoder(
                clips, config, AUTOENCODERS[name], arguments.autoencoder_seconds, device
            )
        if pool is None or name in AUTOENCODERS:
            pool = encode(clips, new_pipeline(config, vae, device), config, device)
        changed = replace(config, **VARIANTS.get(name, {}))
        rows += measure(name, vae, changed, clips, pool, device, arguments)
        if arguments.output:
            arguments.output.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
