"""VideoReward's and HPSv3's classes under the transformers that they pin, against ours under the current one."""

import pytest
import torch
from torch import nn
from transformers import Qwen2VLConfig, Qwen2VLModel

from reward.models.named import qwen_rewards
from reward.models.named.hpsv3 import build_head
from tests.reward.models.named import upstream_scores as upstream
from tests.reward.models.named.upstream_scores import GRID, IDS, IMAGE, SCORES, TEXT, TOKENS, VIDEO, VISION

HEADS = {
    "videoalign": {"weight": (1, 32)},
    "hpsv3": {
        "0.weight": (1024, 32), "0.bias": (1024,), "3.weight": (16, 1024), "3.bias": (16,), "5.weight": (2, 16),
        "5.bias": (2,),
    },
}  # fmt: skip


def model_and_head(name):
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}
    config = Qwen2VLConfig(text_config={**TEXT, "rope_parameters": rope}, vision_config=VISION, **IDS)
    shapes = {
        key.replace("language_model.", "model."): tuple(value.shape)
        for key, value in Qwen2VLModel(config).state_dict().items()
    }
    shapes |= {f"rm_head.{key}": shape for key, shape in HEADS[name].items()}
    state = qwen_rewards.current_names(upstream.weights({**shapes, "lm_head.weight": (40, 32)}))
    head = {key.removeprefix("rm_head."): state.pop(key) for key in list(state) if key.startswith("rm_head.")}
    if name == "hpsv3":
        return qwen_rewards.load_backbone(config, state, torch.float32, name), build_head(head, name)
    linear = nn.Linear(32, 1, bias=False)
    linear.load_state_dict(head)
    return qwen_rewards.load_backbone(config, state, torch.float32, name), linear


@pytest.mark.parametrize("name", ["videoalign", "hpsv3"])
@torch.no_grad()
def test_scores_are_those_of_upstreams_class_under_transformers_4_45(name):
    backbone, head = model_and_head(name)
    kind = VIDEO if name == "videoalign" else IMAGE
    ids, mask = upstream.messages(kind)
    grid = torch.tensor([GRID, GRID])
    shown = (
        {"pixel_values_videos": upstream.patches(), "video_grid_thw": grid}
        if name == "videoalign"
        else {"pixel_values": upstream.patches(), "image_grid_thw": grid}
    )
    inputs = {
        "input_ids": ids,
        "attention_mask": mask,
        "mm_token_type_ids": (ids == IMAGE).int() + 2 * (ids == VIDEO).int(),
        "position_ids": qwen_rewards.sequential_positions(ids.shape),
        **shown,
    }
    expected = torch.tensor(SCORES[name])
    found = qwen_rewards.read_tokens(backbone, head, TOKENS, inputs).flatten(1)
    assert (found - expected).abs().max() < 1e-5
    del inputs["position_ids"]
    assert (qwen_rewards.read_tokens(backbone, head, TOKENS, inputs).flatten(1) - expected).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("name", "vocabulary", "adapters", "published_bytes"),
    [
        # 196 LoRA pairs of rank 64, the head, and the output layer that the file holds though it is tied.
        ("Qwen/Qwen2-VL-2B-Instruct", 151660, 64, 5_030_744_064),
        ("Qwen/Qwen2-VL-7B-Instruct", 151658, 0, None),
    ],
)
def test_the_built_in_dimensions_are_those_of_the_published_files(
    name, vocabulary, adapters, published_bytes
):
    config = qwen_rewards.text_config(name)
    config.text_config.vocab_size = vocabulary
    with torch.device("meta"):
        state = Qwen2VLModel(config).state_dict()
    text = config.text_config
    numbers = sum(value.numel() for value in state.values()) + vocabulary * text.hidden_size
    assert len(state) == 729
    if published_bytes is None:
        assert round(2 * numbers / 1e9, 1) == 16.6
        return
    linear = [value for key, value in state.items() if "language_model.layers" in key and value.ndim == 2]
    assert len(linear) == 196
    lora = adapters * sum(sum(value.shape) for value in linear)
    assert 2 * (numbers + lora + text.hidden_size) == published_bytes
