"""ViCLIP: its layout, the order of its tokens, its frames and pixels, against a computation by hand."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from transformers import CLIPTokenizer

from generator.output import InputError
from reward import load_reward
from reward.models.named.viclip import middle_frames, prepared

WIDTH, TEXT, DIM, SIDE, FRAMES, LETTERS = 64, 64, 24, 28, 8, "abcdefghijklmnopqrstuvwxyz"
PROMPTS = ["a red cat", "dogs"]


def save_tokenizer(folder):
    """A tokenizer of CLIP's kind: letters, and letters that end a word."""
    import json

    pieces = [*LETTERS, *(f"{letter}</w>" for letter in LETTERS), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({piece: number for number, piece in enumerate(pieces)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    CLIPTokenizer(
        vocab=str(folder / "vocab.json"), merges=str(folder / "merges.txt"), model_max_length=77
    ).save_pretrained(folder)
    return len(pieces)


def blocks(prefix, width, count=2):
    state = {}
    for number in range(count):
        for part, shape in {
            "attn.in_proj_weight": (3 * width, width), "attn.in_proj_bias": (3 * width,),
            "attn.out_proj.weight": (width, width), "attn.out_proj.bias": (width,), "ln_1.weight": (width,),
            "ln_1.bias": (width,), "ln_2.weight": (width,), "ln_2.bias": (width,),
            "mlp.c_fc.weight": (4 * width, width), "mlp.c_fc.bias": (4 * width,),
            "mlp.c_proj.weight": (width, 4 * width), "mlp.c_proj.bias": (width,),
        }.items():  # fmt: skip
            state[f"{prefix}.transformer.resblocks.{number}.{part}"] = torch.randn(shape) * 0.1
    return state


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    folder = tmp_path_factory.mktemp("viclip")
    vocabulary = save_tokenizer(folder)
    torch.manual_seed(1)
    state = {
        "vision_encoder.conv1.weight": torch.randn(WIDTH, 3, 1, 14, 14) * 0.1,
        "vision_encoder.class_embedding": torch.randn(WIDTH),
        "vision_encoder.positional_embedding": torch.randn((SIDE // 14) ** 2 + 1, WIDTH),
        "vision_encoder.temporal_positional_embedding": torch.randn(1, FRAMES, WIDTH),
        "vision_encoder.proj": torch.randn(WIDTH, DIM) * 0.1,
        "text_encoder.token_embedding.weight": torch.randn(vocabulary, TEXT),
        "text_encoder.positional_embedding": torch.randn(32, TEXT),
        "text_encoder.text_projection": torch.randn(TEXT, DIM) * 0.1,
        "temp": torch.tensor(0.01),
        **blocks("vision_encoder", WIDTH),
        **blocks("text_encoder", TEXT),
    }
    norms = {"vision_encoder.ln_pre": WIDTH, "vision_encoder.ln_post": WIDTH, "text_encoder.ln_final": TEXT}
    for name, width in norms.items():
        state[f"{name}.weight"], state[f"{name}.bias"] = torch.rand(width) + 0.5, torch.randn(width) * 0.1
    torch.save({"model": state}, folder / "ViClip-InternVid-10M-FLT.pth")
    return folder, state


def encode(state, prefix, hidden, mask=None):
    """The blocks of one encoder `[tokens, width]`, by torch's own attention."""
    width = hidden.shape[1]
    for number in range(2):
        part = {
            name.removeprefix(f"{prefix}.transformer.resblocks.{number}."): value
            for name, value in state.items()
            if name.startswith(f"{prefix}.transformer.resblocks.{number}.")
        }
        attention = nn.MultiheadAttention(width, width // 64)
        attention.load_state_dict(
            {k.removeprefix("attn."): v for k, v in part.items() if k.startswith("attn.")}
        )
        seen = functional.layer_norm(hidden, (width,), part["ln_1.weight"], part["ln_1.bias"])
        hidden = hidden + attention(seen, seen, seen, need_weights=False, attn_mask=mask)[0]
        seen = functional.layer_norm(hidden, (width,), part["ln_2.weight"], part["ln_2.bias"])
        wide = seen @ part["mlp.c_fc.weight"].T + part["mlp.c_fc.bias"]
        hidden = (
            hidden
            + (wide * torch.sigmoid(1.702 * wide)) @ part["mlp.c_proj.weight"].T
            + part["mlp.c_proj.bias"]
        )
    return hidden


@torch.no_grad()
def by_hand(state, video, ids):
    """The cosine of 8 normalised frames `[8, 3, side, side]` and token ids."""
    norm = lambda name, value: functional.layer_norm(  # noqa: E731
        value, (value.shape[-1],), state[f"{name}.weight"], state[f"{name}.bias"]
    )
    positions = state["vision_encoder.positional_embedding"]
    tokens = [state["vision_encoder.class_embedding"] + positions[0]]
    for place in range((SIDE // 14) ** 2):
        row, column = divmod(place, SIDE // 14)
        for frame in range(FRAMES):
            patch = video[frame, :, row * 14 : row * 14 + 14, column * 14 : column * 14 + 14]
            embedded = (state["vision_encoder.conv1.weight"][:, :, 0] * patch).sum((1, 2, 3))
            time = state["vision_encoder.temporal_positional_embedding"][0, frame]
            tokens.append(embedded + positions[place + 1] + time)
    hidden = encode(state, "vision_encoder", norm("vision_encoder.ln_pre", torch.stack(tokens)))
    seen = norm("vision_encoder.ln_post", hidden[0]) @ state["vision_encoder.proj"]
    words = (
        state["text_encoder.token_embedding.weight"][ids]
        + state["text_encoder.positional_embedding"][: len(ids)]
    )
    mask = torch.full((len(ids), len(ids)), -torch.inf).triu(1)
    hidden = norm("text_encoder.ln_final", encode(state, "text_encoder", words, mask))
    read = hidden[len(ids) - 1] @ state["text_encoder.text_projection"]
    return functional.cosine_similarity(seen, read, dim=0).item()


def test_scores_are_the_cosines_of_a_computation_by_hand(published):
    folder, state = published
    random = torch.Generator().manual_seed(2)
    videos = torch.randint(0, 256, (2, 3, 17, 28, 28), generator=random).float() / 127.5 - 1
    model = load_reward(f"viclip:{folder}", device="cpu")
    found = model.score(videos, PROMPTS)["overall"]
    for row, prompt in enumerate(PROMPTS):
        frames = prepared(videos[row][:, middle_frames(17, 8)].transpose(0, 1), 28)
        ids = torch.tensor(model.tokenizer(prompt)["input_ids"])
        assert found[row].item() == pytest.approx(by_hand(state, frames, ids), abs=1e-5)


@pytest.mark.parametrize(
    ("count", "indices"),
    [
        (81, [4, 14, 24, 34, 44, 54, 64, 75]),
        (16, [0, 2, 4, 6, 8, 10, 12, 14]),
        (49, [2, 8, 14, 20, 26, 32, 38, 45]),
        (8, [0, 1, 2, 3, 4, 5, 6, 7]),
        (3, [0, 1, 2, 2, 2, 2, 2, 2]),
    ],
)
def test_the_frames_are_the_middles_of_eight_parts(count, indices):
    parts = min(8, count)
    edges = np.linspace(0, count, parts + 1).astype(int)
    expected = [(first + last - 1) // 2 for first, last in pairwise(edges)]
    assert middle_frames(count, 8) == indices == expected + [expected[-1]] * (8 - parts)


def test_pixels_are_resized_without_smoothing_rounded_and_cut_out_in_the_middle():
    image = torch.randint(0, 256, (1, 3, 60, 90), generator=torch.Generator().manual_seed(0))
    resized = (
        functional.interpolate(image.float(), (28, 42), mode="bicubic", antialias=False).round().clamp(0, 255)
    )
    found = prepared(image / 127.5 - 1, 28)
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073])[:, None, None]
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711])[:, None, None]
    assert (found * std + mean - resized[..., 7:35] / 255).abs().max() < 1e-5


def test_long_prompts_are_cut_to_32_tokens_and_a_batch_is_each_alone(published, caplog):
    model = load_reward(f"viclip:batch_size=1:{published[0]}", device="cpu")
    videos = torch.rand(2, 3, 9, 28, 28, generator=torch.Generator().manual_seed(4)) * 2 - 1
    long = "abcde " * 12
    model.check_prompts([long, "cat"])
    assert "reads 32 tokens of a prompt: 1 of 2 prompts" in caplog.text
    both = model.score(videos, [long, "cat"])["overall"]
    alone = model.score(videos[1:], ["cat"])["overall"]
    assert both[1].item() == pytest.approx(alone.item(), abs=1e-6)
    assert model.score(videos[:1], [long[:60]])["overall"].item() == pytest.approx(both[0].item(), abs=1e-6)


def test_gradients_reach_the_frames_that_are_looked_at(published):
    model = load_reward(f"viclip:{published[0]}", device="cpu")
    videos = (torch.rand(1, 3, 17, 28, 28) * 2 - 1).requires_grad_()
    model.score_pixels(videos, ["cat"])["overall"].sum().backward()
    seen = (videos.grad.abs().sum((0, 1, 3, 4)) > 0).nonzero().flatten().tolist()
    assert seen == middle_frames(17, 8)
    assert videos.grad.isfinite().all()


def test_another_layout_is_refused(published, tmp_path):
    folder, state = published
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    file = tmp_path / "ViClip-InternVid-10M-FLT.pth"
    for lost in (
        "vision_encoder.temporal_positional_embedding",
        "vision_encoder.ln_pre.bias",
        "vision_encoder.proj",
    ):
        torch.save({"model": {name: value for name, value in state.items() if name != lost}}, file)
        with pytest.raises(InputError, match="layout"):
            load_reward(f"viclip:{tmp_path}", device="cpu")
