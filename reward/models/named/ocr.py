"""`ocr`: how well the text in a video's frames is the one between quotation marks in its prompt, read by RapidOCR."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from generator.one_or_several import as_list
from generator.output import InputError, read_jsonl
from reward.models.base import RewardModel, Scores
from reward.models.named.entry import RewardRequest
from reward.models.named.frames import chosen_frames, reduce_frames
from reward.models.named.places import identify
from reward.models.named.written_text import letters, quoted_texts, text_score

LONGEST_SIDE = 640
"""To which a frame's longer side is reduced before text is looked for: text of 12 pixels at 832x480 is still found, and
large text better than at RapidOCR's own setting, in less than half of the time."""

MOST_THREADS = 32
"""Beyond these, threads wait for one another: a tenth of a frame's time is Python."""


class OCRReward(RewardModel):
    """Mean score of the texts that the prompt quotes over the chosen frames.

    The mean over all frames, and not over those with text as in Flow-GRPO, keeps a policy from writing on one of them.

    Args:
        frames, reduce: see `chosen_frames` and `reduce_frames`.
        exact: count surplus text too; see `text_score`.
        factor: multiplies the scores.
        threads: frames read at the same time, each on one core; unset, as many as this process has cores.
        targets: texts that videos of a prompt are to show, by prompt; of other prompts, those that they quote.
    """

    sees_frames = True

    def __init__(
        self,
        frames: int | str = 4,
        reduce: str = "mean",
        exact: bool = False,
        factor: float = 1.0,
        threads: int | None = None,
        targets: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self.frames, self.reduce, self.exact, self.factor = frames, reduce, exact, factor
        self.threads = threads or own_cores()
        self.targets = dict(targets or {})
        self._idle: deque[Any] = deque()

    def check_prompts(self, prompts: Sequence[str]) -> None:
        """Raises `InputError` where a prompt quotes no text and has no target."""
        for prompt in as_list(prompts):
            if not self.texts_of(prompt):
                raise InputError(
                    f"The reward ocr looks for the text between quotation marks, but the prompt {prompt[:100]!r} has "
                    'none: write it as in: A sign that says "OPEN"; or name it in a file, ocr:targets=FILE.'
                )

    def texts_of(self, prompt: str) -> list[str]:
        """The texts that videos of a prompt are to show."""
        return list(self.targets.get(prompt) or quoted_texts(prompt))

    @torch.no_grad()
    def score(self, videos: Tensor, prompts: Sequence[str]) -> Scores:
        prompts = as_list(prompts)
        self.check_prompts(prompts)
        indices = chosen_frames(videos.shape[2], self.frames)
        shown = ((videos[:, :, indices].float() + 1) * 127.5).round().clamp(0, 255).byte()
        pictures = shown.permute(0, 2, 3, 4, 1).flatten(0, 1).cpu().numpy()
        with ThreadPoolExecutor(self.threads, thread_name_prefix="ocr") as pool:
            texts = list(pool.map(self._read, pictures))
        rows = []
        for number, prompt in enumerate(prompts):
            targets = self.texts_of(prompt)
            read = texts[number * len(indices) : (number + 1) * len(indices)]
            rows.append(
                [sum(text_score(text, t, self.exact) for t in targets) / len(targets) for text in read]
            )
        scores = torch.tensor(rows).reshape(len(prompts), len(indices))
        return {"overall": self.factor * reduce_frames(scores, self.reduce)}

    def _read(self, picture: Any) -> str:
        """All text of a frame `[height, width, 3]`, 8 bits, from top to bottom."""
        import numpy as np

        try:
            engine = self._idle.pop()
        except IndexError:
            engine = _engine()
        found = engine(np.ascontiguousarray(picture[..., ::-1]), use_cls=False)
        self._idle.append(engine)
        return " ".join(found.txts or ())


def own_cores() -> int:
    """Cores that this process may use, shared with the other processes of one training on this machine."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(MOST_THREADS, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))


def _engine() -> Any:
    """A reader for one thread at a time, with the weights that its package brings along; ready in about a second."""
    from rapidocr import RapidOCR

    return RapidOCR(
        params={
            "Global.log_level": "error",
            "EngineConfig.onnxruntime.intra_op_num_threads": 1,
            "EngineConfig.onnxruntime.inter_op_num_threads": 1,
            "Det.limit_type": "max",
            "Det.limit_side_len": LONGEST_SIDE,
        }
    )


def read_targets(path: Path) -> dict[str, list[str]]:
    """Texts by prompt from the column `target`, a text or a list of them, of a `.jsonl` file of prompts.

    Raises:
        InputError: a line has no prompt or another kind of target, two lines of a prompt differ, or no line has one.
    """
    found: dict[str, list[str]] = {}
    for place, row in read_jsonl(path):
        prompt, target = row.get("prompt"), row.get("target")
        texts: Any = [target] if isinstance(target, str) else target
        if target is None and isinstance(prompt, str):
            continue
        valid = isinstance(texts, list) and texts and all(isinstance(t, str) and letters(t) for t in texts)
        if not isinstance(prompt, str) or not valid:
            raise InputError(
                f"{place}: expected a text `prompt` and a `target` with letters or digits, a text or a list of them, "
                f"found {target!r}."
            )
        if found.setdefault(prompt, texts) != texts:
            raise InputError(f"{place}: the prompt {prompt[:80]!r} has another target above: give one.")
    if not found:
        raise InputError(f"{path} has no column `target`: add it, or leave targets= out.")
    return found


def load_ocr(request: RewardRequest) -> RewardModel:
    """The reward with the options of the request."""
    import importlib.metadata

    request.refuse("batch_size", "dtype")
    options = request.options
    file = Path(options["targets"]).expanduser() if "targets" in options else None
    model = OCRReward(
        options.get("frames", 4),
        options.get("reduce", "mean"),
        options.get("match", "contained") == "exact",
        options.get("scale", 1.0),
        options.get("threads"),
        None if file is None else read_targets(file),
    )
    versions = {name: importlib.metadata.version(name) for name in ("rapidocr", "onnxruntime")}
    files = [] if file is None else [file]
    return identify(model, request, files, frames=model.frames, reduce=model.reduce, packages=versions)
