"""Rankings as training data: every video is read and encoded once, its trunk features are kept, batches are
padded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from generator.data.latent_cache import encode_files, encode_prompts_cached
from generator.editing.image_cache import ImageCache
from generator.first_frames import ImageFiles, check_takes_images
from generator.inputs.conditions import Conditions, select
from generator.one_or_several import as_list
from generator.output import InputError
from reward.models.latent import Features, LatentRewardModel
from reward.preferences import MISSING, Ranking

VideoKey = tuple[str, Path]


def read_latents(
    model: LatentRewardModel,
    paths: Sequence[Path],
    batch_size: int = 16,
    known: dict[Path, Tensor] | None = None,
    progress: bool = True,
) -> Tensor:
    """Latents `[paths, channels, frames, height, width]` (float32, CPU) of video files in the model's size; what was
    encoded before is read from the disk (`generator.data.latent_cache`).

    Args:
        known: latents of some files, which are not read.

    Raises:
        InputError: a file is missing or is not a video; it is named.
    """
    paths = as_list(paths)
    latents = dict(known or {})
    missing = [path for path in dict.fromkeys(paths) if path not in latents]
    size = (model.config.num_frames, model.config.height, model.config.width)
    if missing:
        encoded = encode_files(model.generator, missing, *size, batch_size=batch_size, progress=progress)
        latents |= dict(zip(missing, encoded, strict=True))
    return torch.stack([latents[path].cpu() for path in paths])


def read_conditions(model: LatentRewardModel, prompts: Sequence[str], batch_size: int = 64) -> Conditions:
    """Conditions of distinct prompts, one row each, on the model's device; see `encode_prompts_cached`."""
    conditions = encode_prompts_cached(model.generator, prompts, batch_size=batch_size)
    return {name: value.to(model.generator.device) for name, value in conditions.items()}


@dataclass
class EncodedVideos:
    """Encodings of every video of the rankings, in the order of `index`.

    Attributes:
        index: row of each (prompt, path).
        latents: `[videos, channels, frames, height, width]`.
        conditions: one row a video.
        features: of the frozen trunk, on its device where they fit there; where the trunk is trained, without
            tokens.
        images: of the rows, where the trunk animates images and rankings name them.
    """

    index: dict[VideoKey, int]
    latents: Tensor
    conditions: Conditions
    features: Features
    images: RankedImages | None = None

    def conditions_of(self, rows: Tensor) -> Conditions:
        """Conditions of the prompts, and of their images, of some rows."""
        text = select(self.conditions, rows)
        return text if self.images is None else {**text, **self.images.of(rows.tolist())}


class RankedImages:
    """Conditions of the images that rankings name, read from the disk for the videos at hand.

    Args:
        model: whose trunk animates images.
        files: of each video.
    """

    def __init__(self, model: LatentRewardModel, files: Sequence[ImageFiles]) -> None:
        self.files = files
        size = model.video_size() or {}
        self.size = int(size["num_frames"]), int(size["height"]), int(size["width"])
        self.cache = ImageCache(model.generator)

    @classmethod
    def named_by(
        cls, model: LatentRewardModel, rankings: Sequence[Ranking], keys: Sequence[VideoKey]
    ) -> RankedImages | None:
        """Images of the videos `keys`; None where the trunk needs none, or no ranking names one.

        Raises:
            InputError: some rankings name one and some do not, or the trunk takes no such images.
        """
        named = [ranking.images for ranking in rankings]
        if model.generator.image is None or not any(named):
            return None
        if not all(named):
            raise InputError(
                f"Of the {len(named)} rankings, {sum(map(bool, named))} name an image: give one to all or to none."
            )
        check_takes_images(model.generator, named, len(named))
        by_key = {(each.prompt, video): each.images for each in rankings for video in each.videos}
        return cls(model, [files for key in keys if (files := by_key[key]) is not None])

    def of(self, rows: Sequence[int]) -> Conditions:
        """Conditions of the videos `rows`, one row each, on the CPU."""
        return self.cache.rows([self.files[row] for row in rows], self.size)


def _place_of_features(first: Features, share: float, device: torch.device) -> torch.device:
    """The trunk's device if all features, of which `first` is the given share, take at most 40 % of its free
    memory; else the CPU."""
    if device.type != "cuda":
        return torch.device("cpu")
    needed = sum(value.numel() * value.element_size() for value in first.tensors().values()) / share
    free, _ = torch.cuda.mem_get_info(device)
    return device if needed < 0.4 * free else torch.device("cpu")


@torch.no_grad()
def encode_videos(
    model: LatentRewardModel,
    rankings: Sequence[Ranking],
    batch_size: int = 16,
    latents: dict[Path, Tensor] | None = None,
    progress: bool = True,
) -> EncodedVideos:
    """Encodes each video of the rankings once, and takes the features of a frozen trunk.

    Args:
        latents: already known latents `[channels, frames, height, width]` of some files, which are not read.
        progress: whether a bar is shown.
    """
    keys = list(dict.fromkeys((ranking.prompt, video) for ranking in rankings for video in ranking.videos))
    if not keys:
        raise InputError("There are no rankings to encode: give a rankings file with at least one ranking.")
    generator, config = model.generator, model.config
    encoded_latents = read_latents(model, [path for _, path in keys], batch_size, latents, progress)
    prompts = list(dict.fromkeys(prompt for prompt, _ in keys))
    encoded = read_conditions(model, prompts)
    row_of_prompt = {prompt: row for row, prompt in enumerate(prompts)}
    conditions = select(encoded, [row_of_prompt[prompt] for prompt, _ in keys])
    images = RankedImages.named_by(model, rankings, keys)
    features: list[Features] = []
    place = torch.device("cpu")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        starts = range(0, len(keys), batch_size)
        for start in tqdm(starts, desc="Features of ranked videos", unit="batch", disable=not progress):
            chunk = encoded_latents[start : start + batch_size].to(generator.device)
            given = select(conditions, slice(start, start + len(chunk)))
            if images is not None:
                given |= images.of(range(start, start + len(chunk)))
            part = model.features(chunk, given, train=True)
            if config.trains_trunk:
                part.tokens, part.is_video = part.tokens[:, :, :0], part.is_video[:, :0]
                part.quality = part.quality[:, :, :0]
            if not features:
                place = _place_of_features(part, len(chunk) / len(keys), generator.device)
            features.append(part.to(place))
    return EncodedVideos(
        index={key: row for row, key in enumerate(keys)},
        latents=encoded_latents,
        conditions={name: value.cpu() for name, value in conditions.items()},
        features=Features.concatenate(features),
        images=images,
    )


class RankingDataset(Dataset[dict[str, Tensor]]):
    """One ranking an item: `videos [K]` rows of `EncodedVideos`, `ranks [K]`, `votes [K]` (NaN where there are
    none), the numbers of its `dimension` and `annotator` (-1 where unknown), and where it has any, the `weights [K, K]`
    of its pairs.

    Args:
        annotators: the names of the annotators whose reliability is learned, in the order of their numbers.
    """

    def __init__(
        self,
        rankings: Sequence[Ranking],
        encoded: EncodedVideos,
        dimensions: Sequence[str],
        annotators: Sequence[str] = (),
    ) -> None:
        dimensions = as_list(dimensions)
        annotators = as_list(annotators)
        self.rankings = [ranking for ranking in rankings if ranking.dimension in dimensions]
        numbers = {name: number for number, name in enumerate(annotators)}
        self.items = [
            {
                "videos": torch.tensor([encoded.index[ranking.prompt, video] for video in ranking.videos]),
                "ranks": torch.tensor(ranking.ranks),
                "votes": torch.tensor(ranking.votes or [float("nan")] * len(ranking.ranks)),
                "dimension": torch.tensor(list(dimensions).index(ranking.dimension)),
                "annotator": torch.tensor(numbers.get(ranking.annotator, -1)),
                **({} if ranking.weights is None else {"weights": torch.tensor(ranking.weights)}),
            }
            for ranking in self.rankings
        ]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return self.items[index]


def padded_weights(weights: Sequence[Tensor | None], longest: int) -> Tensor:
    """Weights `[K, K]` of the pairs of several rankings as `[rankings, longest, longest]`; 1 where there are none."""
    padded = torch.ones(len(weights), longest, longest)
    for row, own in zip(padded, weights, strict=True):
        if own is not None:
            row[: len(own), : len(own)] = own
    return padded


@dataclass
class RankingCollator:
    """Pads rankings to the longest (rank -1) and looks up each distinct video of the batch once."""

    encoded: EncodedVideos
    trains_trunk: bool = False

    def __call__(self, items: Sequence[dict[str, Tensor]]) -> dict[str, Any]:
        longest = max(len(item["ranks"]) for item in items)
        rows, slots = torch.unique(torch.cat([item["videos"] for item in items]), return_inverse=True)
        ranks = torch.full((len(items), longest), MISSING)
        votes = torch.full((len(items), longest), float("nan"))
        videos = torch.zeros((len(items), longest), dtype=torch.long)
        start = 0
        for number, item in enumerate(items):
            size = len(item["ranks"])
            ranks[number, :size], votes[number, :size] = item["ranks"], item["votes"]
            videos[number, :size] = slots[start : start + size]
            start += size
        features = self.encoded.features
        batch: dict[str, Any] = {
            "videos": videos,
            "ranks": ranks,
            "votes": votes,
            "dimension": torch.stack([item["dimension"] for item in items]),
            "annotator": torch.stack([item["annotator"] for item in items]),
            "features": features[rows.to(features.tokens.device)].tensors(),
        }
        if any("weights" in item for item in items):
            batch["weights"] = padded_weights([item.get("weights") for item in items], longest)
        if self.trains_trunk:
            batch["latents"] = self.encoded.latents[rows]
            batch["conditions"] = self.encoded.conditions_of(rows)
        return batch
