"""Small random VideoReward and HPSv3 checkpoints in the layouts in which they are published."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast, Qwen2VLConfig, Qwen2VLForConditionalGeneration

WORDS = [
    "Rate",
    "this",
    "video",
    "image",
    "Prompt",
    "Is",
    "there",
    "a",
    "red",
    "green",
    "blue",
    "white",
    "circle",
    "square",
    "clip",
]
SPECIAL = ["<pad>", "<unk>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>",
           "<|video_pad|>", "<|image_pad|>"]  # fmt: skip
QUALITY = ["<|VQ_reward|>", "<|MQ_reward|>", "<|TA_reward|>"]
CHAT = (
    "{% for message in messages %}<|im_start|> {{ message['role'] }} {{ message['content'] }} <|im_end|> "
    "{% endfor %}{% if add_generation_prompt %}<|im_start|> assistant {% endif %}"
)
TEMPLATE = (
    "\nRate this video: <|VQ_reward|>\nIs there a clip ? <|MQ_reward|>\nPrompt {text_prompt}: <|TA_reward|>\n"
)


def tokenizer_with(tokens: list[str]) -> PreTrainedTokenizerFast:
    """Whole words and marks, the tokens of a reward last, as in the published tokenizers."""
    pieces = [*SPECIAL, *WORDS, *"0123456789.,?:;!-", "user", "assistant"]
    vocabulary = {word: number for number, word in enumerate(pieces)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(r"\s+"), "removed"), pre_tokenizers.Punctuation()]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", eos_token="<|im_end|>",
        additional_special_tokens=[*SPECIAL[2:], *tokens], chat_template=CHAT,
    )  # fmt: skip


def tiny_config(vocabulary: int, tied: bool = True) -> Qwen2VLConfig:
    """Two layers; patches of 14 pixels as in the published models, so that frames have their sizes."""
    ids = {name: number for number, name in enumerate(SPECIAL)}
    text = {
        "vocab_size": vocabulary, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 8192, "pad_token_id": 0,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]},
        "tie_word_embeddings": tied,
    }  # fmt: skip
    vision = {"depth": 1, "embed_dim": 32, "mlp_ratio": 2, "num_heads": 2, "hidden_size": 32}
    return Qwen2VLConfig(
        text_config=text, vision_config=vision, tie_word_embeddings=tied, image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"], vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
    )  # fmt: skip


def old_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names as transformers 4.45 wrote them, which the published files have."""
    renamed = {}
    for name, value in state.items():
        name = re.sub(r"(^|base_model\.model\.)model\.visual\.", r"\1visual.", name)
        name = name.replace("model.language_model.", "model.")
        renamed[name] = value.detach().clone().contiguous()
    return renamed


def random_model(vocabulary: int, tied: bool = True) -> Qwen2VLForConditionalGeneration:
    """A model whose weights are large enough for positions and prompts to matter."""
    torch.manual_seed(0)
    model = Qwen2VLForConditionalGeneration(tiny_config(vocabulary, tied))
    for parameter in model.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.3)
    return model.eval()


def save_video_reward(folder: Path, layout: str = "model.pth", **changes: Any) -> tuple[Path, nn.Module, Any]:
    """VideoReward's folder; also the model with its adapters, and the tokenizer, for comparison.

    Args:
        layout: `model.pth`, or `adapter`: PEFT's adapter beside the other trained weights.
        changes: keys of `model_config.json`'s sections, replaced.
    """
    from peft import LoraConfig, get_peft_model

    tokenizer = tokenizer_with(QUALITY)
    base = folder / "base"
    # The base model has unused rows at its end: the checkpoint shrinks it.
    model = random_model(len(tokenizer) + 5)
    model.save_pretrained(base)
    model.resize_token_embeddings(len(tokenizer))
    model.rm_head = nn.Linear(32, 1, bias=False)
    targets = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and not re.search("visual|lm_head|rm_head", name)
    ]
    peft = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules=targets, task_type="CAUSAL_LM"))
    for name, parameter in peft.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.2)
    checkpoint = folder / "checkpoint-12"
    checkpoint.mkdir(parents=True)
    state = old_names(peft.state_dict())
    if layout == "model.pth":
        torch.save(state, checkpoint / "model.pth")
    else:
        lora = {name.replace(".default.", "."): value for name, value in state.items() if ".lora_" in name}
        save_file(lora, checkpoint / "adapter_model.safetensors")
        others = {name: value for name, value in state.items() if re.search("rm_head|embed_tokens", name)}
        torch.save(others, checkpoint / "non_lora_state_dict.pth")
    tokenizer.save_pretrained(checkpoint / "tokenizer")
    document: dict[str, dict[str, Any]] = {
        "data_config": {
            "max_frame_pixels": 200704, "num_frames": None, "fps": 2.0, "eval_dim": ["VQ", "MQ", "TA"],
            "prompt_template_type": "detailed_special", "sample_type": "uniform", "meta_data": "/nowhere.csv",
        },
        "model_config": {
            "model_name_or_path": str(base), "output_dim": 1, "use_special_tokens": True, "reward_token": "special",
        },
        "peft_lora_config": {"lora_enable": True, "lora_r": 4, "lora_alpha": 8, "use_rslora": False},
        "inference_config": {
            "VQ_mean": 3.6757, "VQ_std": 2.2476, "MQ_mean": 1.1646, "MQ_std": 1.3811, "TA_mean": 2.8105,
            "TA_std": 2.5121,
        },
    }  # fmt: skip
    for section in document.values():
        section.update({key: value for key, value in changes.items() if key in section})
    (folder / "model_config.json").write_text(json.dumps(document))
    return folder, peft.eval(), tokenizer


def save_hpsv3(folder: Path) -> tuple[Path, nn.Module, Any]:
    """HPSv3's file with its base's configuration and tokenizer; also the model, and the tokenizer with the token."""
    folder.mkdir(parents=True, exist_ok=True)
    base = tokenizer_with([])
    base.save_pretrained(folder)
    tokenizer = tokenizer_with(["<|Reward|>"])
    model = random_model(len(tokenizer), tied=False)
    model.config.save_pretrained(folder)
    model.rm_head = nn.Sequential(
        nn.Linear(32, 24), nn.ReLU(), nn.Dropout(0.05), nn.Linear(24, 16), nn.ReLU(), nn.Linear(16, 2)
    )
    save_file(old_names(model.state_dict()), folder / "HPSv3.safetensors")
    return folder, model.eval(), tokenizer


def patches_by_hand(frames: Tensor) -> tuple[Tensor, Tensor]:
    """Patches and grid `[1, 3]` of frames `[n, 3, height, width]` in [0, 1], an even number of them, by transposition
    as Qwen2-VL's image processor does it."""
    import numpy as np

    mean = np.array([0.48145466, 0.4578275, 0.40821073])[:, None, None]
    std = np.array([0.26862954, 0.26130258, 0.27577711])[:, None, None]
    pixels = (frames.double().numpy() - mean) / std
    count, _, height, width = pixels.shape
    grid = (count // 2, height // 14, width // 14)
    split = pixels.reshape(grid[0], 2, 3, grid[1] // 2, 2, 14, grid[2] // 2, 2, 14)
    flat = split.transpose(0, 3, 6, 4, 7, 2, 1, 5, 8).reshape(grid[0] * grid[1] * grid[2], -1)
    return torch.tensor(flat, dtype=torch.float32), torch.tensor([grid])


@torch.no_grad()
def upstream_states(model: Any, tokenizer: Any, pad: str, frames: Tensor, text: str) -> tuple[Tensor, Tensor]:
    """Last hidden states `[tokens, hidden]` and ids as upstream computes them: embeddings put together by hand, the
    language model called on them without any positions."""
    inner = model.model
    inner.rope_deltas = None
    pixels, grid = patches_by_hand(frames)
    count = int(grid.prod()) // 4
    content = f"<|vision_start|>{pad * count}<|vision_end|>{text}"
    message = f"<|im_start|> user {content} <|im_end|> <|im_start|> assistant "
    ids = tokenizer(message, return_tensors="pt", add_special_tokens=False)["input_ids"]
    seen = inner.visual(pixels, grid_thw=grid).pooler_output
    embedded = inner.language_model.embed_tokens(ids)
    where = (ids == tokenizer.convert_tokens_to_ids(pad))[..., None].expand_as(embedded)
    embedded = embedded.masked_scatter(where, seen)
    hidden = inner.language_model(
        inputs_embeds=embedded, attention_mask=torch.ones_like(ids)
    ).last_hidden_state
    return hidden[0], ids[0]
