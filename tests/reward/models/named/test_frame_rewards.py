"""Rewards on single frames: equal to independent computations on tiny random checkpoints in the published layouts."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from generator.output import InputError
from generator.weight_files.state_dicts import read_state_dict
from reward import load_reward
from reward.models.named import registry
from reward.models.named.entry import RewardRequest
from reward.models.named.frame_entries import AESTHETIC_HEAD, AESTHETIC_V2_5_HEAD
from reward.models.named.frames import (
    CLIP_MEAN,
    CLIP_STD,
    chosen_frames,
    clamped,
    crop_to_side,
    pad_to_side,
    reduce_frames,
    squeeze_to_side,
)
from reward.models.named.places import cached, download_command, files_of
from reward.models.named.state_dicts import linear_layers
from tests.reward.models.named import tiny_checkpoints as tiny

PROMPTS = ["a red circle moves", "a blue square"]


def videos(frames: int = 3, height: int = 40, width: int = 52) -> Tensor:
    return torch.rand(2, 3, frames, height, width, generator=torch.Generator().manual_seed(0)) * 2 - 1


def unit(values: Tensor) -> Tensor:
    return values / values.norm(dim=-1, keepdim=True)


def clip_pixels(frames: Tensor, pixels: Tensor | None = None) -> Tensor:
    shown = crop_to_side(frames, tiny.SIDE) if pixels is None else pixels
    mean, std = (torch.tensor(values)[:, None, None] for values in (CLIP_MEAN, CLIP_STD))
    return (shown - mean) / std


def by_hand(model, tokenizer, video: Tensor, prompt: str, pixels: Tensor | None = None) -> Tensor:
    """Cosine of each frame with the prompt by the model's joint forward pass."""
    words = tokenizer([prompt], return_tensors="pt")
    with torch.no_grad():
        found = model(**words, pixel_values=clip_pixels(video.transpose(0, 1), pixels))
    return (unit(found.image_embeds) @ unit(found.text_embeds).T)[:, 0]


@pytest.mark.parametrize("old", [False, True])
def test_pickscore_is_the_scaled_cosine_in_both_file_forms(tmp_path, old):
    from transformers import CLIPTokenizerFast

    model = tiny.write_clip(tmp_path, old)
    reward = load_reward(f"pickscore:{tmp_path}", "cpu")
    tokenizer = CLIPTokenizerFast.from_pretrained(tmp_path)
    cosines = torch.stack([by_hand(model, tokenizer, *pair).mean() for pair in zip(videos(), PROMPTS)])
    scores = reward.score(videos(), PROMPTS)["overall"]
    torch.testing.assert_close(scores, cosines * model.logit_scale.exp().item() / 26, atol=1e-5, rtol=0)
    logit = load_reward(f"PickScore:form=logit:scale=0.5:{tmp_path}", "cpu")
    torch.testing.assert_close(logit.score(videos(), PROMPTS)["overall"], 13 * scores, atol=1e-5, rtol=1e-5)
    backwards = reward.score(videos().flip(2), PROMPTS)["overall"]
    torch.testing.assert_close(backwards, scores, atol=1e-6, rtol=0)
    assert reward.name == "pickscore"
    assert reward.record()["files"].keys() >= {"pytorch_model.bin" if old else "model.safetensors"}
    assert (reward.record()["frames"], reward.record()["reduce"]) == (8, "mean")


def test_a_prompt_of_a_batch_is_scored_as_alone_and_padding_changes_nothing(tmp_path):
    tiny.write_clip(tmp_path)
    reward = load_reward(f"pickscore:batch_size=2:{tmp_path}", "cpu")
    together = reward.score(videos(), PROMPTS)["overall"]
    for row in range(2):
        alone = load_reward(f"pickscore:{tmp_path}", "cpu").score(
            videos()[row : row + 1], PROMPTS[row : row + 1]
        )
        torch.testing.assert_close(alone["overall"], together[row : row + 1], atol=1e-5, rtol=0)


def open_clip_forward(state: dict[str, Tensor], pixels: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """OpenCLIP's two encoders by its own weights' names, with torch's multi-head attention."""

    def blocks(prefix: str, hidden: Tensor, mask: Tensor | None) -> Tensor:
        for number in range(2):
            name = f"{prefix}transformer.resblocks.{number}"

            def norm(values: Tensor, which: str, name: str = name) -> Tensor:
                shape = (values.shape[-1],)
                return functional.layer_norm(
                    values, shape, state[f"{name}.{which}.weight"], state[f"{name}.{which}.bias"]
                )

            inner = norm(hidden, "ln_1").transpose(0, 1)
            attended, _ = functional.multi_head_attention_forward(
                inner, inner, inner, inner.shape[-1], 16, state[f"{name}.attn.in_proj_weight"],
                state[f"{name}.attn.in_proj_bias"], None, None, False, 0.0, state[f"{name}.attn.out_proj.weight"],
                state[f"{name}.attn.out_proj.bias"], training=False, need_weights=False, attn_mask=mask,
            )  # fmt: skip
            hidden = hidden + attended.transpose(0, 1)
            inner = functional.linear(
                norm(hidden, "ln_2"), state[f"{name}.mlp.c_fc.weight"], state[f"{name}.mlp.c_fc.bias"]
            )
            hidden = hidden + functional.linear(
                functional.gelu(inner), state[f"{name}.mlp.c_proj.weight"], state[f"{name}.mlp.c_proj.bias"]
            )
        return hidden

    def outer(values: Tensor, name: str) -> Tensor:
        return functional.layer_norm(
            values, (values.shape[-1],), state[f"{name}.weight"], state[f"{name}.bias"]
        )

    patches = (
        functional.conv2d(pixels, state["visual.conv1.weight"], stride=tiny.PATCH).flatten(2).transpose(1, 2)
    )
    first = state["visual.class_embedding"].expand(len(pixels), 1, -1)
    image = torch.cat([first, patches], 1) + state["visual.positional_embedding"]
    image = blocks("visual.", outer(image, "visual.ln_pre"), None)
    image = outer(image[:, 0], "visual.ln_post") @ state["visual.proj"]
    mask = torch.full((ids.shape[1], ids.shape[1]), -math.inf).triu(1)
    text = state["token_embedding.weight"][ids] + state["positional_embedding"][: ids.shape[1]]
    text = outer(blocks("", text, mask), "ln_final")
    text = text[torch.arange(len(ids)), ids.argmax(1)] @ state["text_projection"]
    return image, text


def test_hpsv2_reads_the_names_of_open_clip_and_equals_its_forward_pass(tmp_path):
    from transformers import CLIPTokenizerFast

    model = tiny.write_hpsv2(tmp_path)
    reward = load_reward(f"hpsv2:{tmp_path}", "cpu")
    tokenizer = CLIPTokenizerFast.from_pretrained(tmp_path)
    for name, value in reward.model.state_dict().items():
        torch.testing.assert_close(value, model.state_dict()[name], atol=0, rtol=0)
    state = torch.load(tmp_path / "HPS_v2.1_compressed.pt")["state_dict"]
    frames = videos()[0].transpose(0, 1)
    ids = torch.zeros(1, 20, dtype=torch.long)  # open_clip pads with 0
    words = tokenizer(PROMPTS[0])["input_ids"]
    ids[0, : len(words)] = torch.tensor(words)
    image, text = open_clip_forward(state, clip_pixels(frames, pad_to_side(frames, tiny.SIDE)), ids)
    expected = (unit(image) @ unit(text).T).mean()
    found = reward.score(videos(), PROMPTS)["overall"]
    torch.testing.assert_close(found[0], expected, atol=1e-5, rtol=0)
    other = load_reward(f"hpsv2:v2.0:{tmp_path}", "cpu")
    assert other.name == "hpsv2:v2.0"
    assert not torch.allclose(other.score(videos(), PROMPTS)["overall"], found, atol=1e-3)


def test_hpsv2_of_converted_files_is_that_of_the_published_one(tmp_path):
    from safetensors.torch import save_file

    model = tiny.write_hpsv2(tmp_path / "published")
    published = load_reward(f"hpsv2:{tmp_path / 'published'}", "cpu").score(videos(), PROMPTS)["overall"]
    tiny.write_clip_tokenizer(tmp_path / "renamed")
    state = {name: value.contiguous() for name, value in tiny.open_clip_state(model).items()}
    save_file(state, tmp_path / "renamed" / "HPS_v2.1_compressed.safetensors")
    tiny.write_clip_tokenizer(tmp_path / "converted")
    model.save_pretrained(tmp_path / "converted")
    for folder in ("renamed", "converted"):
        found = load_reward(f"hpsv2:{tmp_path / folder}", "cpu").score(videos(), PROMPTS)["overall"]
        torch.testing.assert_close(found, published, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("name", "write", "file"),
    [
        ("imagereward", tiny.write_image_reward, "ImageReward.pt"),
        ("aesthetic", tiny.write_aesthetic, "sac+logos+ava1-l14-linearMSE.pth"),
    ],
)
def test_safetensors_take_the_place_of_pickled_weights(tmp_path, name, write, file):
    from safetensors.torch import save_file

    write(tmp_path)
    pickled = load_reward(f"{name}:{tmp_path}", "cpu").score(videos(), PROMPTS)["overall"]
    path = tmp_path / file
    state = {key: value.clone().contiguous() for key, value in torch.load(path).items()}
    save_file(state, path.with_suffix(".safetensors"))
    path.unlink()
    found = load_reward(f"{name}:{tmp_path}", "cpu").score(videos(), PROMPTS)["overall"]
    torch.testing.assert_close(found, pickled, atol=0, rtol=0)


def test_clip_and_siglip_are_cosines_and_their_forms(tmp_path):
    from transformers import AutoTokenizer, CLIPTokenizerFast

    model = tiny.write_clip(tmp_path / "clip")
    reward = load_reward(f"clip:{tmp_path / 'clip'}", "cpu")
    tokenizer = CLIPTokenizerFast.from_pretrained(tmp_path / "clip")
    cosine = torch.stack([by_hand(model, tokenizer, *pair) for pair in zip(videos(), PROMPTS)])
    torch.testing.assert_close(
        reward.score(videos(), PROMPTS)["overall"], 100 * cosine.mean(1), atol=1e-4, rtol=0
    )
    score = load_reward(f"clip:form=clipscore:{tmp_path / 'clip'}", "cpu").score(videos(), PROMPTS)["overall"]
    torch.testing.assert_close(score, (2.5 * cosine.clamp(min=0)).mean(1), atol=1e-5, rtol=0)

    siglip = tiny.write_siglip(tmp_path / "siglip")
    words = AutoTokenizer.from_pretrained(tmp_path / "siglip")(
        PROMPTS, padding="max_length", max_length=16, return_tensors="pt"
    )
    pixels = squeeze_to_side(videos().transpose(1, 2).flatten(0, 1), tiny.SIDE) * 2 - 1
    with torch.no_grad():
        found = siglip(input_ids=words["input_ids"], pixel_values=pixels)
    logits = torch.stack([found.logits_per_image[row * 3 : row * 3 + 3, row] for row in range(2)]).mean(1)
    reward = load_reward(f"siglip:form=logit:{tmp_path / 'siglip'}", "cpu")
    torch.testing.assert_close(reward.score(videos(), PROMPTS)["overall"], logits, atol=1e-5, rtol=0)


def affine(head: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """The head as one matrix and one offset: there is no nonlinearity in it."""
    layers = sorted({name.rpartition(".")[0] for name in head}, key=lambda name: int(name.rpartition(".")[2]))
    matrix, offset = torch.eye(head[f"{layers[0]}.weight"].shape[1]), torch.zeros(1)
    for layer in layers:
        weight, bias = head[f"{layer}.weight"].float(), head[f"{layer}.bias"].float()
        matrix, offset = weight @ matrix, (offset @ weight.T if layer != layers[0] else 0) + bias
    return matrix[0], offset


def test_aesthetic_is_one_affine_map_of_the_image_embedding(tmp_path):
    model, head = tiny.write_aesthetic(tmp_path)
    reward = load_reward(f"aesthetic:reduce=first:{tmp_path}", "cpu")
    pixels = clip_pixels(videos()[:, :, 0], crop_to_side(videos()[:, :, 0], tiny.SIDE, rounded=True))
    with torch.no_grad():
        embedding = unit(model.get_image_features(pixel_values=pixels).pooler_output)
    matrix, offset = affine(head)
    found = reward.score(videos(), PROMPTS)["overall"]
    torch.testing.assert_close(found, embedding @ matrix + offset, atol=1e-5, rtol=0)
    torch.testing.assert_close(found, reward.score(videos(), ["x", "y"])["overall"], atol=0, rtol=0)


def test_aesthetic_v2_5_reads_the_normalised_pooled_output_of_squeezed_frames(tmp_path):
    model, head = tiny.write_aesthetic_v2_5(tmp_path)
    reward = load_reward(f"aesthetic-v2.5:frames=first:{tmp_path}", "cpu")
    pixels = squeeze_to_side(videos()[:, :, 0], tiny.SIDE) * 2 - 1
    with torch.no_grad():
        embedding = unit(model.vision_model(pixel_values=pixels).pooler_output)
    matrix, offset = affine(head)
    found = reward.score(videos(), PROMPTS)["overall"]
    torch.testing.assert_close(found, embedding @ matrix + offset, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("source", "prefix", "values"),
    [
        (AESTHETIC_HEAD, "layers", (4.883285, 4.545052, 5.310305)),
        (AESTHETIC_V2_5_HEAD, "scoring_head", (3.61832, 2.709308, 2.672634)),
    ],
)
def test_the_published_heads_have_the_published_values(source, prefix, values):
    if not cached(source):
        pytest.skip(f"The published head is not here: {download_command(source)}")
    path = files_of(RewardRequest(registry.find("aesthetic")), source)[source.files[0]]
    head = linear_layers(read_state_dict(path, "aesthetic"), prefix, path)
    width = next(head.children()).in_features
    signs = torch.where(torch.arange(width) % 2 == 0, 1.0, -1.0)
    points = torch.stack([torch.ones(width) / width**0.5, torch.eye(width)[0], signs / width**0.5])
    torch.testing.assert_close(head(points)[:, 0], torch.tensor(values), atol=1e-4, rtol=0)


def test_image_reward_equals_blip_and_its_head_on_35_tokens(tmp_path):
    from transformers import BertTokenizerFast

    blip, head = tiny.write_image_reward(tmp_path)
    reward = load_reward(f"ImageReward:{tmp_path}", "cpu")
    words = BertTokenizerFast.from_pretrained(tmp_path)(
        PROMPTS[0], padding="max_length", truncation=True, max_length=35, return_tensors="pt"
    )
    frames = videos()[0].transpose(0, 1)
    with torch.no_grad():
        images = blip.vision_model(clip_pixels(frames)).last_hidden_state
        hidden = blip.text_encoder(
            words["input_ids"].expand(3, -1),
            words["attention_mask"].expand(3, -1),
            encoder_hidden_states=images,
        )[0]
    matrix, offset = affine({f"mlp.{name}": value for name, value in head.items()})
    expected = ((hidden[:, 0] @ matrix + offset) - 0.16717362830052426) / 1.0333394966054072
    torch.testing.assert_close(
        reward.score(videos(), PROMPTS)["overall"][0], expected.mean(), atol=1e-5, rtol=0
    )
    beginning = "a red circle " * 12  # 36 words, of which 33 and the two ends are read
    ends = [reward.frame_scores(frames[:1], [beginning + word]) for word in ("moves", "square")]
    torch.testing.assert_close(*ends, atol=0, rtol=0)


def test_an_image_reward_without_one_of_its_weights_is_refused(tmp_path):
    tiny.write_image_reward(tmp_path)
    state = torch.load(tmp_path / "ImageReward.pt")
    state.pop("blip.visual_encoder.norm.weight")
    torch.save(state, tmp_path / "ImageReward.pt")
    with pytest.raises(InputError, match=r"post_layernorm\.weight is missing"):
        load_reward(f"imagereward:{tmp_path}", "cpu")


@pytest.mark.parametrize(("name", "write"), [
    ("pickscore", tiny.write_clip), ("hpsv2", tiny.write_hpsv2), ("clip", tiny.write_clip),
    ("siglip", tiny.write_siglip), ("aesthetic", tiny.write_aesthetic),
    ("aesthetic-v2.5", tiny.write_aesthetic_v2_5), ("imagereward", tiny.write_image_reward),
])  # fmt: skip
def test_gradients_reach_the_chosen_pixels_and_scores_stay(tmp_path, name, write):
    write(tmp_path)
    reward = load_reward(f"{name}:frames=2:{tmp_path}", "cpu")
    shown = (
        1.3 * videos(5)
    ).requires_grad_()  # some values outside of [-1, 1], as an unclamped decoder gives
    scores = reward.score_pixels(shown, PROMPTS)["overall"]
    torch.testing.assert_close(
        scores.detach(), reward.score(shown.detach().clamp(-1, 1), PROMPTS)["overall"], atol=1e-5, rtol=1e-5
    )
    (gradient,) = torch.autograd.grad(scores.sum(), shown)
    assert torch.isfinite(gradient).all()
    assert (gradient[:, :, [0, 4]].abs().amax((1, 2, 3, 4)) > 0).all()
    assert not gradient[:, :, 1:4].any()
    cut = shown.detach().abs() > 1
    assert gradient[:, :, 0][cut[:, :, 0]].any()  # the clamp is not dead


def test_names_share_their_weights(tmp_path):
    tiny.write_aesthetic(tmp_path)
    folder = tmp_path / "clip-vit-large-patch14"
    first, second = load_reward(f"clip:{folder}", "cpu"), load_reward(f"clip:frames=2:{folder}", "cpu")
    assert first.model is second.model
    head = load_reward(f"aesthetic:{tmp_path}", "cpu")
    assert first.model in [cell.cell_contents for cell in head.embed.__closure__]


def test_prompts_that_are_cut_are_said(tmp_path, caplog):
    tiny.write_clip(tmp_path)
    load_reward(f"pickscore:{tmp_path}", "cpu").check_prompts(["red", "a long prompt of letters", "red"])
    assert "1 of 2 prompts are longer" in caplog.text


def test_wrong_files_are_said_in_one_sentence(tmp_path):
    tiny.write_hpsv2(tmp_path)
    (tmp_path / "HPS_v2.1_compressed.pt").write_bytes(b"broken")
    with pytest.raises(InputError, match=r"\(6 bytes\) cannot be read as weights of hpsv2"):
        load_reward(f"hpsv2:{tmp_path}", "cpu")
    torch.save({"state_dict": {"a": torch.zeros(1)}}, tmp_path / "HPS_v2.1_compressed.pt")
    with pytest.raises(InputError, match="OpenCLIP's names"):
        load_reward(f"hpsv2:{tmp_path}", "cpu")
    with pytest.raises(InputError, match=r"lacks config\.json, model\.safetensors or pytorch_model\.bin"):
        load_reward(f"pickscore:{tmp_path}", "cpu")


# Which frames and which pixels


@pytest.mark.parametrize(
    ("count", "choice", "indices"),
    [
        (81, 8, [0, 11, 23, 34, 46, 57, 69, 80]),
        (81, 5, [0, 20, 40, 60, 80]),
        (5, 8, [0, 1, 2, 3, 4]),
        (4, 2, [0, 3]),
        (4, 1, [0]),
        (6, 3, [0, 2, 5]),
        (9, "middle", [4]),
        (9, "first", [0]),
        (3, "all", [0, 1, 2]),
    ],
)
def test_frames_are_chosen_evenly_from_first_to_last(count, choice, indices):
    assert chosen_frames(count, choice) == indices


def test_scores_of_frames_are_reduced_as_said():
    scores = torch.tensor([[1.0, 4.0, 3.0, 2.0]])
    found = {
        how: reduce_frames(scores, how).item()
        for how in ("mean", "min", "max", "first", "top50", "top30", "top1")
    }
    assert found == {"mean": 2.5, "min": 1, "max": 4, "first": 1, "top50": 3.5, "top30": 4, "top1": 4}


@pytest.mark.parametrize(
    ("height", "width", "inner"),
    [(480, 832, (129, 224)), (720, 1280, (126, 224)), (544, 960, (127, 224)), (480, 720, (149, 224)),
     (512, 512, (224, 224)), (320, 512, (140, 224)), (256, 256, (224, 224)), (64, 64, (224, 224))],
)  # fmt: skip
def test_hpsv2_pads_the_longer_side_with_black(height, width, inner):
    pixels = pad_to_side(torch.ones(1, 3, height, width), 224)[0, 0]
    rows, columns = (pixels > 0.5).any(1).nonzero()[:, 0], (pixels > 0.5).any(0).nonzero()[:, 0]
    assert (len(rows), len(columns)) == inner
    assert (rows[0].item(), columns[0].item()) == ((224 - inner[0]) // 2, (224 - inner[1]) // 2)
    assert pixels[: rows[0]].abs().sum() == 0


def test_a_crop_shows_the_middle_of_a_wide_frame_alone():
    frames = torch.zeros(1, 3, 480, 832)
    frames[..., :170], frames[..., 662:] = (
        1,
        1,
    )  # outside of the middle 480 columns, and the reach of the resizing
    assert crop_to_side(frames, 224).shape == (1, 3, 224, 224)
    torch.testing.assert_close(
        crop_to_side(frames, 224), torch.full((1, 3, 224, 224), 0.5), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize(("height", "width"), [(48, 80), (80, 48), (40, 71), (20, 33)])
def test_pixels_are_those_of_the_image_processors(height, width):
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    down, across = np.mgrid[:height, :width]
    waves = [np.sin(down / 5 + phase) + np.cos(across / 7 + 2 * phase) for phase in range(3)]
    picture = (127 + 60 * np.stack(waves, -1)).astype(np.uint8)
    frames = torch.from_numpy(picture).permute(2, 0, 1)[None] / 127.5 - 1
    processor = CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    expected = processor(Image.fromarray(picture), return_tensors="pt")["pixel_values"]
    # Pillow rounds to 8 bits after each of its two passes.
    assert (clip_pixels(frames) - expected).abs().max() < 1.2 / 255 / min(CLIP_STD)
    squeezed = np.asarray(Image.fromarray(picture).resize((28, 28), Image.Resampling.BICUBIC)) / 255
    assert np.abs(squeeze_to_side(frames, 28)[0].permute(1, 2, 0).numpy() - squeezed).max() < 1.2 / 255


def test_the_clamp_lets_gradients_pass():
    values = torch.tensor([-0.5, 0.5, 1.5], requires_grad=True)
    within = clamped(values)
    assert within.tolist() == [0, 0.5, 1]
    within.sum().backward()
    assert values.grad.tolist() == [1, 1, 1]


def test_a_file_that_the_machine_cannot_open_is_not_called_damaged(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError):
        read_state_dict(tmp_path / "gone.pt", "hpsv2")

    def full(*args, **kwargs):
        raise MemoryError

    monkeypatch.setattr(torch, "load", full)
    with pytest.raises(MemoryError):
        read_state_dict(tmp_path / "large.pt", "hpsv2")
