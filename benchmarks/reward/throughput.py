"""Videos that reward models judge in a second: from latents, and from decoded pixels, on one device and batch.

    python -m benchmarks.reward.throughput --device cuda --output_file runs/reward_throughput.json

A policy's videos are latents. The latent model judges them as they are. A model of pixels needs them decoded first;
measured are the same trunk behind a decoder and encoder, and a vision transformer of CLIP's ViT-B/32 size that sees
every frame at 224×224 (random weights: they do not change the speed). `decode` is what decoding alone costs.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor

from generator import load_generator
from generator.output import write_json
from generator.world import sample_prompts
from reward.models.latent import LatentRewardConfig, LatentRewardModel


def videos_per_second(judge: Callable[[], Tensor], batch: int, seconds: float, device: str) -> float:
    """Videos that `judge` sees in a second, after two calls that do not count."""

    def wait() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    for _ in range(2):
        judge()
    wait()
    start, calls = time.perf_counter(), 0
    while time.perf_counter() - start < seconds or calls < 3:
        judge()
        wait()
        calls += 1
    return calls * batch / (time.perf_counter() - start)


def vision_transformer(device: str, tiny: bool) -> torch.nn.Module:
    """A vision transformer of ViT-B/32's size with random weights."""
    from transformers import CLIPVisionConfig, CLIPVisionModel

    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = CLIPVisionConfig(image_size=224, patch_size=32, **(small if tiny else {}))
    return CLIPVisionModel(config).eval().to(device)


@torch.no_grad()
def measure(arguments: argparse.Namespace) -> dict[str, object]:
    """Videos a second of each way, and by how much the latent model is faster."""
    torch.manual_seed(0)
    device, batch = arguments.device, arguments.batch_size
    generator = load_generator(arguments.model, device=device)
    size = (arguments.num_frames, arguments.height, arguments.width)
    latents = torch.randn(batch, *generator.latent_shape(*size), device=device)
    prompts = sample_prompts(batch, 0, "test")
    conditions = generator.encode_prompts(prompts)
    viewer = vision_transformer(device, arguments.tiny)

    def pixels() -> Tensor:
        frames = rearrange(generator.decode(latents), "b c f h w -> (b f) c h w")
        frames = torch.nn.functional.interpolate(frames, size=(224, 224), mode="bilinear")
        return viewer(pixel_values=frames).pooler_output

    ways: dict[str, Callable[[], Tensor]] = {
        "decode": lambda: generator.decode(latents),
        "decoded, ViT-B/32": pixels,
    }
    for architecture, sigmas in (("pooled", (0.1, 0.4)), ("matching", (0.1,))):
        config = LatentRewardConfig(arguments.model, architecture=architecture, sigmas=sigmas)
        model = LatentRewardModel(config, generator).eval()

        def from_latents(model: LatentRewardModel = model) -> Tensor:
            return model.score_latents(latents, conditions)["overall"]

        def decoded(model: LatentRewardModel = model) -> Tensor:
            return model.score_latents(generator.encode(generator.decode(latents)), conditions)["overall"]

        ways |= {f"latent, {architecture}": from_latents, f"decoded, {architecture}": decoded}
    found = {name: videos_per_second(way, batch, arguments.seconds, device) for name, way in ways.items()}
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else platform.processor(),
        "batch_size": batch,
        "size": "x".join(map(str, size)),
        "videos_per_second": found,
        "latent_over_decoded": {
            "pooled": found["latent, pooled"] / found["decoded, pooled"],
            "matching": found["latent, matching"] / found["decoded, matching"],
            "matching over ViT-B/32": found["latent, matching"] / found["decoded, ViT-B/32"],
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="nano")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--num_frames", type=int, default=9)
    parser.add_argument("--height", type=int, default=32)
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=2.0, help="Measured time of each way.")
    parser.add_argument("--tiny", action="store_true", help="A small vision transformer; proves nothing.")
    parser.add_argument("--output_file", default="")
    arguments = parser.parse_args()
    found = measure(arguments)
    print(json.dumps(found, indent=2))
    if arguments.output_file:
        Path(arguments.output_file).parent.mkdir(parents=True, exist_ok=True)
        write_json(arguments.output_file, found)


if __name__ == "__main__":
    main()
