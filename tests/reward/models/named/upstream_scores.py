"""Scores of upstream's own class on weights and inputs that a formula gives, for the comparison with ours.

The class is that of the wheel hpsv3 1.0.0, which VideoAlign has too, under the transformers that both pin. To print the
scores again, in folders of their own:

    pip install --no-deps --target UPSTREAM transformers==4.45.2 tokenizers==0.20.3 huggingface_hub==0.36.0
    pip download --no-deps hpsv3==1.0.0 && unzip hpsv3-1.0.0-py3-none-any.whl -d WHEEL
    PYTHONPATH=UPSTREAM python tests/reward/models/named/upstream_scores.py WHEEL
"""

from __future__ import annotations

import ast
import json
import math
import sys
import zlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

VOCABULARY = 40
IMAGE, VIDEO, START, END = 30, 31, 32, 33
TOKENS = (35, 36, 37)
PAD = 39
GRID = (2, 6, 4)
TEXT = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512, "rms_norm_eps": 1e-6,
    "pad_token_id": PAD,
}  # fmt: skip
VISION = {"depth": 2, "embed_dim": 32, "mlp_ratio": 2, "num_heads": 2, "hidden_size": 32}
IDS = {
    "image_token_id": IMAGE,
    "video_token_id": VIDEO,
    "vision_start_token_id": START,
    "vision_end_token_id": END,
}

SCORES = {
    "videoalign": [[-0.4474202, -0.1023559, 0.2171592], [-0.2894497, -0.0989881, 0.0115998]],
    "hpsv3": [
        [0.4887115, 0.1248998, 0.4938981, 0.1786158, 0.5008553, 0.1225513],
        [0.4753579, 0.1217432, 0.4462385, 0.1118626, 0.4768864, 0.1478565],
    ],
}
"""What the script prints."""


def wave(name: str, shape: tuple[int, ...], scale: float) -> Tensor:
    """Values between `-scale` and `scale` that depend on a name, the same on every machine."""
    frequency = 1 + zlib.crc32(name.encode()) % 9973 / 3000
    steps = torch.arange(1, math.prod(shape) + 1, dtype=torch.float64)
    return (scale * torch.sin(frequency * steps)).float().reshape(shape)


def weights(shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Weights by the names of transformers 4.45; norms are near 1."""
    return {
        name: 1 + wave(name, shape, 0.2)
        if "norm" in name and name.endswith("weight")
        else wave(name, shape, 0.35)
        for name, shape in shapes.items()
    }


def messages(kind: int) -> tuple[Tensor, Tensor]:
    """Two messages of different lengths with 12 visual tokens, three reward tokens and padding on the right."""
    visual = [START, *[kind] * (GRID[0] * GRID[1] * GRID[2] // 4), END]
    first = [1, 2, *visual, 3, 4, TOKENS[0], 5, TOKENS[1], 6, 7, 8, TOKENS[2], 9]
    second = [1, 2, *visual, 10, TOKENS[0], 11, 12, TOKENS[1], 13, TOKENS[2]]
    rows = [row + [PAD] * (len(first) - len(row)) for row in (first, second)]
    ids = torch.tensor(rows)
    return ids, (ids != PAD).long()


def patches() -> Tensor:
    """Patches of both messages."""
    return wave("patches", (2 * math.prod(GRID), 3 * 2 * 14 * 14), 1.5)


def upstream_class(wheel: Path) -> Any:
    """The class alone, of the wheel's module with its many imports."""
    from transformers import Qwen2VLForConditionalGeneration

    source = (wheel / "hpsv3/model/qwen2vl_trainer.py").read_text()
    names = {"torch": torch, "nn": nn, "Qwen2VLForConditionalGeneration": Qwen2VLForConditionalGeneration}
    tree = ast.parse(source)
    wanted = [node for node in tree.body if getattr(node, "name", "") == "Qwen2VLRewardModelBT"]
    exec("from typing import *\n" + ast.unparse(ast.Module(wanted, [])), names)
    return names["Qwen2VLRewardModelBT"]


@torch.no_grad()
def main(wheel: Path) -> None:
    """Prints `SCORES`."""
    from transformers import Qwen2VLConfig

    config = Qwen2VLConfig(
        **TEXT, **IDS, rope_theta=1e4, rope_scaling={"type": "mrope", "mrope_section": [2, 1, 1]},
        vision_config=VISION, attn_implementation="eager",
    )  # fmt: skip
    upstream = upstream_class(wheel)
    found = {}
    for name, head, outputs in (("videoalign", "default", 1), ("hpsv3", "ranknet", 2)):
        model = upstream(config, output_dim=outputs, special_token_ids=list(TOKENS), rm_head_type=head).eval()
        model.load_state_dict(weights({key: tuple(value.shape) for key, value in model.state_dict().items()}))
        ids, mask = messages(VIDEO if name == "videoalign" else IMAGE)
        grid = torch.tensor([GRID, GRID])
        kind = "_videos" if name == "videoalign" else ""
        shown = {f"pixel_values{kind}": patches(), f"{'video' if kind else 'image'}_grid_thw": grid}
        logits = model(input_ids=ids, attention_mask=mask, return_dict=True, **shown)["logits"]
        found[name] = [[round(value, 7) for value in row] for row in logits.tolist()]
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
