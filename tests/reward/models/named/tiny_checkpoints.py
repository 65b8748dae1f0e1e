"""Tiny random checkpoints of named rewards in the layouts that are published."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

SIDE, PATCH = 28, 7
WORDS = ("a", "red", "green", "blue", "circle", "square", "moves")


def write_clip_tokenizer(folder: Path) -> None:
    """`vocab.json` and `merges.txt` of a CLIP tokenizer that knows all bytes and one word."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    letters = list(bytes_to_unicode().values())
    words = [*letters, *(letter + "</w>" for letter in letters), "re", "red</w>"]
    words += ["<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = {word: number for number, word in enumerate(words)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\nr e\nre d</w>\n", encoding="utf-8")


def clip_config(heads: int = 2, hidden: int = 32, act: str = "quick_gelu") -> Any:
    from transformers import CLIPConfig

    small = {
        "hidden_size": hidden,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": heads,
    }
    return CLIPConfig(
        text_config={**small, "vocab_size": 516, "max_position_embeddings": 20, "hidden_act": act,
                     "bos_token_id": 514, "eos_token_id": 515, "pad_token_id": 515, "projection_dim": 24},
        vision_config={**small, "image_size": SIDE, "patch_size": PATCH, "hidden_act": act, "projection_dim": 24},
        projection_dim=24,
    )  # fmt: skip


def random_model(model: nn.Module, seed: int = 0) -> Any:
    """Weights large enough that every one of them matters."""
    source = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 or "embedding" in name:
                spread = 0.3 if parameter.ndim < 3 else 0.1
                parameter.copy_(spread * torch.randn(parameter.shape, generator=source))
            elif "bias" in name:
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=source))
    return model.eval()


def write_clip(folder: Path, old: bool = False) -> Any:
    """A CLIP folder with tokenizer, as `openai/clip-vit-large-patch14` and PickScore have; returns the model.

    Args:
        old: `pytorch_model.bin` with the `position_ids` buffers of transformers 4.2x in place of safetensors.
    """
    from transformers import CLIPModel

    model = random_model(CLIPModel(clip_config()))
    folder.mkdir(parents=True, exist_ok=True)
    write_clip_tokenizer(folder)
    if old:
        model.config.save_pretrained(folder)
        state = dict(model.state_dict())
        state["text_model.embeddings.position_ids"] = torch.arange(20)[None]
        state["vision_model.embeddings.position_ids"] = torch.arange(17)[None]
        torch.save(state, folder / "pytorch_model.bin")
    else:
        model.save_pretrained(folder)
    return model


def open_clip_state(model: Any) -> dict[str, Tensor]:
    """The weights of a `CLIPModel` with OpenCLIP's names."""
    source, found = model.state_dict(), {}
    for ours, theirs in {
        "vision_model.embeddings.class_embedding": "visual.class_embedding",
        "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
        "vision_model.embeddings.patch_embedding.weight": "visual.conv1.weight",
        "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
        "text_model.embeddings.position_embedding.weight": "positional_embedding",
        "logit_scale": "logit_scale",
    }.items():
        found[theirs] = source[ours]
    found["visual.proj"] = source["visual_projection.weight"].T
    found["text_projection"] = source["text_projection.weight"].T
    for kind in ("weight", "bias"):
        found[f"visual.ln_pre.{kind}"] = source[f"vision_model.pre_layrnorm.{kind}"]
        found[f"visual.ln_post.{kind}"] = source[f"vision_model.post_layernorm.{kind}"]
        found[f"ln_final.{kind}"] = source[f"text_model.final_layer_norm.{kind}"]
        for side, prefix in (("vision", "visual."), ("text", "")):
            for number in range(2):
                old = f"{side}_model.encoder.layers.{number}"
                new = f"{prefix}transformer.resblocks.{number}"
                found[f"{new}.ln_1.{kind}"] = source[f"{old}.layer_norm1.{kind}"]
                found[f"{new}.ln_2.{kind}"] = source[f"{old}.layer_norm2.{kind}"]
                found[f"{new}.mlp.c_fc.{kind}"] = source[f"{old}.mlp.fc1.{kind}"]
                found[f"{new}.mlp.c_proj.{kind}"] = source[f"{old}.mlp.fc2.{kind}"]
                found[f"{new}.attn.out_proj.{kind}"] = source[f"{old}.self_attn.out_proj.{kind}"]
                found[f"{new}.attn.in_proj_{kind}"] = torch.cat(
                    [source[f"{old}.self_attn.{letter}_proj.{kind}"] for letter in "qkv"]
                )
    return {name: value.clone() for name, value in found.items()}


def write_hpsv2(folder: Path) -> Any:
    """`HPS_v2.1_compressed.pt`, `HPS_v2_compressed.pt` (another model) and a tokenizer; returns the model of v2.1."""
    from transformers import CLIPModel

    write_clip_tokenizer(folder)
    models = []
    for seed, name in enumerate(("HPS_v2.1_compressed.pt", "HPS_v2_compressed.pt")):
        models.append(random_model(CLIPModel(clip_config(heads=16, act="gelu")), seed))
        torch.save({"state_dict": open_clip_state(models[-1]), "optimizer": {"step": 1}}, folder / name)
    return models[0]


def head_state(prefix: str, numbers: list[int], sizes: list[int], seed: int = 0) -> dict[str, Tensor]:
    """Weights of linear layers `PREFIX.N` with these sizes."""
    source = torch.Generator().manual_seed(seed)
    found = {}
    for number, before, after in zip(numbers, sizes, sizes[1:]):
        found[f"{prefix}.{number}.weight"] = torch.randn(after, before, generator=source) / before**0.5
        found[f"{prefix}.{number}.bias"] = torch.randn(after, generator=source)
    return found


def write_aesthetic(folder: Path) -> tuple[Any, dict[str, Tensor]]:
    """The head's file beside a CLIP folder; returns the CLIP model and the head."""
    model = write_clip(folder / "clip-vit-large-patch14")
    head = head_state("layers", [0, 2, 4, 6, 7], [24, 16, 12, 8, 4, 1])
    torch.save(head, folder / "sac+logos+ava1-l14-linearMSE.pth")
    return model, head


def write_siglip(folder: Path) -> Any:
    """A SigLIP folder with a tokenizer; returns the model."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast, SiglipConfig, SiglipModel

    small = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    words = ["<pad>", "</s>", "<unk>", *WORDS]
    config = SiglipConfig(
        text_config={**small, "vocab_size": len(words), "max_position_embeddings": 16, "pad_token_id": 0,
                     "bos_token_id": 1, "eos_token_id": 1, "projection_size": 32},
        vision_config={**small, "image_size": SIDE, "patch_size": PATCH},
    )  # fmt: skip
    model = random_model(SiglipModel(config))
    with torch.no_grad():
        model.logit_scale.fill_(1.5)
        model.logit_bias.fill_(-2.0)
    model.save_pretrained(folder)
    tokenizer = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)
    return model


def write_aesthetic_v2_5(folder: Path) -> tuple[Any, dict[str, Tensor]]:
    """The head's file, bfloat16, beside a full SigLIP folder; returns the SigLIP model and the head."""
    model = write_siglip(folder / "siglip-so400m-patch14-384")
    head = head_state("scoring_head", [0, 2, 4, 6, 8], [32, 16, 12, 8, 4, 1])
    head = {name: value.bfloat16() for name, value in head.items()}
    torch.save(head, folder / "aesthetic_predictor_v2_5.pth")
    return model, head


def blip_state(model: Any) -> dict[str, Tensor]:
    """The weights of `BlipForImageTextRetrieval` with the names of `ImageReward.pt`."""
    parts = {
        "embeddings.class_embedding": "cls_token",
        "embeddings.position_embedding": "pos_embed",
        "embeddings.patch_embedding": "patch_embed.proj",
        "post_layernorm": "norm",
        "encoder.layers": "blocks",
        "layer_norm": "norm",
        "self_attn.qkv": "attn.qkv",
        "self_attn.projection": "attn.proj",
    }
    found = {}
    for name, value in model.state_dict().items():
        if name.startswith("itm_head"):
            continue
        if name.startswith("vision_model."):
            name = name.removeprefix("vision_model.")
            for ours, theirs in parts.items():
                name = name.replace(ours, theirs)
            name = f"visual_encoder.{name}"
        found[f"blip.{name}"] = value.clone()
    found["blip.text_encoder.embeddings.position_ids"] = torch.arange(64)[None]
    return found


def write_image_reward(folder: Path) -> tuple[Any, dict[str, Tensor]]:
    """`ImageReward.pt` and a BERT vocabulary; returns BLIP and the head."""
    from transformers import BlipConfig, BlipForImageTextRetrieval

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    small = {"intermediate_size": 40, "num_hidden_layers": 2}
    model = random_model(BlipForImageTextRetrieval(BlipConfig(
        image_text_hidden_size=8,
        vision_config={**small, "hidden_size": 32, "num_attention_heads": 16, "image_size": SIDE, "patch_size": PATCH,
                       "layer_norm_eps": 1e-6},
        text_config={**small, "hidden_size": 24, "num_attention_heads": 12, "encoder_hidden_size": 32,
                     "vocab_size": len(words) + 2, "max_position_embeddings": 64, "layer_norm_eps": 1e-12},
    )))  # fmt: skip
    head = head_state("layers", [0, 2, 4, 6, 7], [24, 16, 12, 8, 4, 1])
    folder.mkdir(parents=True, exist_ok=True)
    state = {**blip_state(model), **{f"mlp.{name}": value for name, value in head.items()}}
    torch.save(state, folder / "ImageReward.pt")
    (folder / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    return model, head
