"""Rewards on CLIP and SigLIP: PickScore, HPSv2, the cosines themselves, and two heads on image embeddings alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from generator.one_or_several import as_list
from generator.output import InputError, read_json
from generator.weight_files.state_dicts import read_state_dict
from reward.models.named import frame_entries as entries
from reward.models.named.entry import RewardRequest
from reward.models.named.frames import (
    CLIP_MEAN,
    CLIP_STD,
    HALF,
    FrameReward,
    crop_to_side,
    normalised,
    pad_to_side,
    squeeze_to_side,
    torch_device,
    torch_dtype,
    warn_of_cut_prompts,
)
from reward.models.named.open_clip import clip_of_open_clip
from reward.models.named.places import files_of, folder_of, identify
from reward.models.named.sharing import shared
from reward.models.named.state_dicts import linear_layers

KEPT_PROMPTS = 4096
"""Prompts whose embeddings are kept; a group shares its prompt, and so do the rollouts of a training."""

Prepare = Callable[[Tensor], Tensor]
Formula = Callable[[Tensor, Any], Tensor]


class CosineReward(FrameReward):
    """A function of the cosine of a frame's and the prompt's embeddings.

    Args:
        model: a CLIP or SigLIP model of transformers, frozen.
        tokenizer: of its text encoder.
        prepare: frames `[n, 3, height, width]` in [-1, 1] to its normalised pixels.
        formula: `(cosines [n], model) -> scores [n]`.
        limit: tokens of a prompt that are read.
    """

    def __init__(
        self,
        request: RewardRequest,
        model: Any,
        tokenizer: Any,
        prepare: Prepare,
        formula: Formula,
        limit: int,
    ) -> None:
        super().__init__(request, torch_device(request))
        self.model, self.tokenizer = model, tokenizer
        self.prepare, self.formula, self.limit = prepare, formula, limit
        self._known: dict[str, Tensor] = {}

    def check_prompts(self, prompts: Sequence[str]) -> None:
        """Warns where prompts are longer than what the text encoder reads."""
        distinct = list(dict.fromkeys(as_list(prompts)))
        ids = self.tokenizer(distinct, truncation=False, verbose=False)["input_ids"]
        warn_of_cut_prompts(self.name, [len(each) for each in ids], self.limit)

    def frame_scores(self, frames: Tensor, prompts: Sequence[str]) -> Tensor:
        texts = self.texts(prompts)
        pixels = self.prepare(frames).to(self.model.dtype)
        images = unit(self.model.get_image_features(pixel_values=pixels).pooler_output)
        return self.formula((images * texts).sum(-1), self.model)

    def texts(self, prompts: Sequence[str]) -> Tensor:
        """Embeddings of unit length `[n, dimensions]`, float32; each distinct prompt is encoded once."""
        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._known]
        if new:
            if len(self._known) + len(new) > KEPT_PROMPTS:
                self._known.clear()
                new = list(dict.fromkeys(prompts))
            with torch.no_grad():
                words = self.tokenizer(
                    new, padding="max_length", truncation=True, max_length=self.limit, return_tensors="pt"
                )
                accepted = {"input_ids": words["input_ids"].to(self.device)}
                if self.model.config.model_type == "clip":
                    accepted["attention_mask"] = words["attention_mask"].to(self.device)
                embeddings = unit(self.model.get_text_features(**accepted).pooler_output)
            self._known.update(zip(new, embeddings))
        return torch.stack([self._known[prompt] for prompt in prompts])


class EmbeddingReward(FrameReward):
    """Linear layers on a frame's embedding of unit length; the prompt is not read.

    Args:
        embed: pixels to embeddings `[n, dimensions]`.
        prepare: as in `CosineReward`.
        head: the layers, float32.
        dtype: of the pixels that `embed` takes.
    """

    def __init__(
        self,
        request: RewardRequest,
        embed: Callable[[Tensor], Tensor],
        prepare: Prepare,
        head: nn.Module,
        dtype: torch.dtype,
    ) -> None:
        super().__init__(request, torch_device(request))
        self.embed, self.prepare, self.dtype = embed, prepare, dtype
        self.head = head.to(self.device)

    def frame_scores(self, frames: Tensor, prompts: Sequence[str]) -> Tensor:
        embeddings = unit(self.embed(self.prepare(frames).to(self.dtype)))
        return self.head(embeddings)[:, 0]


def unit(embeddings: Tensor) -> Tensor:
    """Embeddings of length 1, float32."""
    return functional.normalize(embeddings.float(), dim=-1)


def load_pickscore(request: RewardRequest) -> FrameReward:
    """PickScore: exp(logit scale)·cos/26 by default, which peers train with (arXiv 2305.01569, section 4)."""
    files = files_of(request)
    model = _pretrained(request, "CLIPModel", folder_of(files))
    if any("tokenizer.json" in name or "vocab.json" in name for name in files):
        tokenizer = _clip_tokenizer(folder_of(files))
    else:
        tokenizer = _clip_tokenizer(folder_of(files_of(request, entries.CLIP_H_TOKENIZER)))
    form = request.options.get("form", "scaled")
    prepare = _crop(model, folder_of(files))
    reward = CosineReward(
        request, model, tokenizer, prepare, partial(pickscore_formula, form=form), _context(model)
    )
    return _identified(reward, request, files, form=form)


def load_hpsv2(request: RewardRequest) -> FrameReward:
    """HPSv2.1, or HPSv2.0 by `hpsv2:v2.0`: the cosine (arXiv 2306.09341, section 4).

    Weights have OpenCLIP's names, as published, or are a folder of transformers' `CLIPModel`, as others convert them.
    """
    source = entries.HPSV2_0 if request.dimension == "v2.0" else entries.HPSV2
    files = files_of(request, source)
    path = next(iter(files.values()))
    device, dtype = torch_device(request), torch_dtype(request)

    def load() -> nn.Module:
        state = read_state_dict(path, request.entry.name, inside="state_dict")
        return clip_of_open_clip(state, path).to(device, dtype)

    model: Any
    if path.name.startswith("HPS") or not (path.parent / "config.json").is_file():
        model = shared(("CLIPModel", path.resolve(), str(device), dtype), load)
    else:
        model = _pretrained(request, "CLIPModel", path.parent)
    tokenizer = _clip_tokenizer(folder_of(files_of(request, entries.CLIP_H_TOKENIZER)))
    side = model.config.vision_config.image_size
    prepare = partial(_prepared, shape=partial(pad_to_side, side=side), mean=CLIP_MEAN, std=CLIP_STD)
    reward = CosineReward(request, model, tokenizer, prepare, lambda cosines, _: cosines, _context(model))
    return _identified(reward, request, files)


def load_clip(request: RewardRequest) -> FrameReward:
    """100 times CLIP's cosine, or CLIPScore 2.5·max(cos, 0) (arXiv 2104.08718, section 3)."""
    files = files_of(request)
    folder = folder_of(files)
    model = _pretrained(request, "CLIPModel", folder)
    form = request.options.get("form", "percent")
    formula = partial(clip_formula, form=form)
    reward = CosineReward(
        request, model, _auto_tokenizer(folder), _crop(model, folder), formula, _context(model)
    )
    return _identified(reward, request, files, form=form)


def load_siglip(request: RewardRequest) -> FrameReward:
    """100 times SigLIP's cosine, or its logit scale·cos + bias; the sigmoid of that is near 0 everywhere."""
    files = files_of(request)
    folder = folder_of(files)
    model = _pretrained(request, "SiglipModel", folder)
    form = request.options.get("form", "percent")
    side = model.config.vision_config.image_size
    prepare = partial(_prepared, shape=partial(squeeze_to_side, side=side), mean=HALF, std=HALF)
    formula = partial(siglip_formula, form=form)
    reward = CosineReward(request, model, _auto_tokenizer(folder), prepare, formula, _context(model))
    return _identified(reward, request, files, form=form)


def load_aesthetic(request: RewardRequest) -> FrameReward:
    """LAION's aesthetic predictor v2: linear layers on CLIP-L's image embedding."""
    head_files, clip_files = (files_of(request, source) for source in request.entry.weights)
    folder = folder_of(clip_files)
    model = _pretrained(request, "CLIPModel", folder)
    side, dtype = model.config.vision_config.image_size, model.dtype
    prepare = partial(
        _prepared, shape=partial(crop_to_side, side=side, rounded=True), mean=CLIP_MEAN, std=CLIP_STD
    )
    head = _head(request, head_files, "layers", model.config.projection_dim)
    reward = EmbeddingReward(
        request,
        lambda pixels: model.get_image_features(pixel_values=pixels).pooler_output,
        prepare,
        head,
        dtype,
    )
    return _identified(reward, request, {**head_files, **clip_files})


def load_aesthetic_v2_5(request: RewardRequest) -> FrameReward:
    """Aesthetic predictor v2.5: linear layers on the pooled output of SigLIP's vision encoder."""
    head_files, files = (files_of(request, source) for source in request.entry.weights)
    model = _pretrained(request, "SiglipVisionModel", folder_of(files))
    side = model.config.image_size
    prepare = partial(_prepared, shape=partial(squeeze_to_side, side=side), mean=HALF, std=HALF)
    head = _head(request, head_files, "scoring_head", model.config.hidden_size)
    reward = EmbeddingReward(
        request, lambda pixels: model(pixel_values=pixels).pooler_output, prepare, head, model.dtype
    )
    return _identified(reward, request, {**head_files, **files})


def pickscore_formula(cosines: Tensor, model: Any, form: str) -> Tensor:
    """exp(logit scale)·cos/26 (`scaled`), the same undivided (`logit`), or the cosine."""
    if form == "cosine":
        return cosines
    logits = model.logit_scale.float().exp() * cosines
    return logits / 26 if form == "scaled" else logits


def clip_formula(cosines: Tensor, model: Any, form: str) -> Tensor:
    """100·cos (`percent`) or 2.5·max(cos, 0) (`clipscore`)."""
    return 100 * cosines if form == "percent" else 2.5 * cosines.clamp(min=0)


def siglip_formula(cosines: Tensor, model: Any, form: str) -> Tensor:
    """100·cos (`percent`) or exp(scale)·cos + bias (`logit`)."""
    if form == "percent":
        return 100 * cosines
    return model.logit_scale.float().exp() * cosines + model.logit_bias.float()


def _prepared(frames: Tensor, shape: Prepare, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    return normalised(shape(frames), mean, std)


def _crop(model: Any, folder: Path) -> Prepare:
    """Preparation by resizing and cropping; mean and deviation from the folder, else CLIP's."""
    stored = folder / entries.PREPROCESSOR
    settings = read_json(stored) if stored.is_file() else {}
    mean, std = settings.get("image_mean", CLIP_MEAN), settings.get("image_std", CLIP_STD)
    side = model.config.vision_config.image_size
    return partial(_prepared, shape=partial(crop_to_side, side=side), mean=mean, std=std)


def _context(model: Any) -> int:
    return int(model.config.text_config.max_position_embeddings)


def _pretrained(request: RewardRequest, kind: str, folder: Path) -> Any:
    """A frozen model of transformers, shared with other rewards on the same folder."""
    import transformers

    device, dtype = torch_device(request), torch_dtype(request)

    def load() -> nn.Module:
        try:
            model = getattr(transformers, kind).from_pretrained(folder, dtype=dtype)
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise InputError(
                f"{folder} cannot be loaded as the {kind} of {request.entry.name} ({reason}): fetch its files again."
            ) from error
        return model.to(device).eval().requires_grad_(False)

    return shared((kind, folder.resolve(), str(device), dtype), load)


def _clip_tokenizer(folder: Path) -> Any:
    from transformers import CLIPTokenizer

    return CLIPTokenizer.from_pretrained(folder)


def _auto_tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


def _head(request: RewardRequest, files: dict[str, Path], prefix: str, width: int) -> nn.Module:
    path = next(iter(files.values()))
    head = linear_layers(read_state_dict(path, request.entry.name), prefix, path)
    first: Any = next(head.children())
    if first.in_features != width:
        raise InputError(
            f"The head {path} reads embeddings of {first.in_features} numbers, but the image encoder of "
            f"{request.entry.name} has {width}: give files that belong together."
        )
    return head


def _identified(
    reward: FrameReward, request: RewardRequest, files: dict[str, Path], **more: Any
) -> FrameReward:
    weights = [path for name, path in files.items() if not name.endswith(".json") and ".txt" not in name]
    shown = {
        "frames": reward.frames,
        "reduce": reward.reduce,
        "dtype": str(torch_dtype(request)).split(".")[1],
    }
    return identify(reward, request, weights, **shown, **more)
