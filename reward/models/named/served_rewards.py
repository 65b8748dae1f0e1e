"""`videoscore2` and `unifiedreward`: reward models that write their scores, behind an OpenAI-compatible server.

Both are served, not loaded: they generate hundreds of tokens a video. Their prompt texts are found by hash
(`templates`), frames are chosen as their authors choose them, and what they write is read axis by axis.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from generator.one_or_several import as_list
from generator.output import InputError
from reward.models.base import RewardModel, Scores
from reward.models.named.answers import Reply, axis_number, axis_pattern, confident_digit, digit_token
from reward.models.named.chat_server import Ask, ChatServer, pictures
from reward.models.named.entry import RewardRequest
from reward.models.named.places import identify
from reward.models.named.serving import open_server
from reward.models.named.templates import PromptText
from reward.models.named.videoalign import sampled_frames

LOW, HIGH = 1, 5


@dataclass(frozen=True)
class WrittenScores:
    """Prompt and reading of a reward model that writes its scores.

    Attributes:
        text: its prompt text.
        axes: names in its answers, by the dimension that each is.
        frames: `(number of frames, frames a second, option frames) -> indices`.
        max_tokens: of an answer.
        thinking: whether it thinks before it answers.
        frame_pixels: largest area of a frame; larger ones are reduced.
    """

    text: PromptText
    axes: Mapping[str, str]
    frames: Callable[[int, float | None, int | None], list[int]]
    max_tokens: int
    thinking: bool
    frame_pixels: int


def two_a_second(count: int, fps: float | None, frames: int | None) -> list[int]:
    """Frames at 2 a second as qwen-vl-utils takes them, or `frames` of them evenly."""
    if fps is None:
        raise InputError(
            "videoscore2 looks at 2 frames a second, but the frame rate of the videos is not known: give "
            "videoscore2:fps=NUMBER:http://…"
        )
    return sampled_frames(count, fps, 2.0, frames)


def from_the_start(count: int, fps: float | None, frames: int | None) -> list[int]:
    """The first frame of each of `frames` (16) equal parts, each frame once; the last frame is not among them."""
    shown = frames or 16
    return sorted({index * count // shown for index in range(shown)})


VIDEOSCORE2 = WrittenScores(
    PromptText(
        reward="videoscore2",
        sha256="63a228e02ca61abc55d941234ee92285c18e517fa35e667e9ba2336dc193298c",
        parts=("63a228e02ca61abc55d941234ee92285c18e517fa35e667e9ba2336dc193298c",),
        placeholder="$t2v_prompt",
        source="a checkout of github.com/TIGER-AI-Lab/VideoScore2 (vs2_inference.py) or `hf download "
        "TIGER-Lab/VideoScore2 README.md`",
    ),
    {
        "visual": "visual quality",
        "alignment": "text-to-video alignment",
        "physics": "physical/common-sense consistency",
    },
    two_a_second,
    1024,
    True,
    768 * 28 * 28,
)
UNIFIEDREWARD = WrittenScores(
    PromptText(
        reward="unifiedreward",
        sha256="707411fb9175547e74f145ae3efa459d621f11afcca076659a5588848e91e1c7",
        parts=("707411fb9175547e74f145ae3efa459d621f11afcca076659a5588848e91e1c7",),
        placeholder="{prompt}",
        source="inference_qwen/UnifiedReward-2.0-inference/point_score_APS_video_generation.py of "
        "github.com/CodeGoat24/UnifiedReward",
    ),
    {"alignment": "Alignment Score", "physics": "Physics Score", "style": "Style Score"},
    from_the_start,
    4096,
    False,
    16384 * 28 * 28,
)


class WrittenReward(RewardModel):
    """Scores from 1 to 5 that a served model writes; `overall` is their mean.

    Args:
        server: the server.
        form: how the model is asked and read.
        text: its prompt text with the placeholder.
        dimension: the one score that is wanted, then called `overall`.
        soft: `confident_digit` in place of the number, which needs the probabilities of tokens.
        fps: frames a second of the videos; `frame_rate`, which callers set, where None.
        frames: their number, in place of the model's own rule.
        factor: multiplies the scores.
    """

    names_dimensions = True

    def __init__(
        self,
        server: ChatServer,
        form: WrittenScores,
        text: str,
        dimension: str | None = None,
        soft: bool = False,
        fps: float | None = None,
        frames: int | None = None,
        factor: float = 1.0,
    ) -> None:
        self.server, self.form, self.text, self.dimension = server, form, text, dimension
        self.soft, self.fps, self.frames, self.factor = soft, fps, frames, factor
        self.name = form.text.reward
        self.dimensions = ("overall",) if dimension else ("overall", *form.axes)

    def pictures(self, video: Tensor) -> Tensor:
        """The frames `[n, height, width, 3]`, uint8, of a video `[3, frames, height, width]` that the model sees."""
        indices = self.form.frames(video.shape[1], self.fps or self.frame_rate, self.frames)
        return pictures(video[:, indices].transpose(0, 1), self.form.frame_pixels)

    def score(self, videos: Tensor, prompts: Sequence[str]) -> Scores:
        """Scores `[batch]` of videos `[batch, 3, frames, height, width]` in [-1, 1].

        Raises:
            InputError: the server failed, or an answer lacks a score; none is made up.
        """
        prompts = as_list(prompts)
        if len(videos) != len(prompts):
            raise InputError(
                f"{len(videos)} videos and {len(prompts)} prompts were given: one prompt a video is needed."
            )
        form = self.form
        asks = [
            Ask(
                (self.pictures(video), form.text.fill(self.text, prompt)),
                form.max_tokens,
                self.soft,
                form.thinking,
            )
            for video, prompt in zip(videos, prompts)
        ]
        replies = self.server.ask_all(asks)
        scores = {
            dimension: self.factor * torch.tensor([self._axis(reply, axis) for reply in replies])
            for dimension, axis in form.axes.items()
        }
        scores = {"overall": torch.stack(list(scores.values())).mean(0), **scores}
        return {"overall": scores[self.dimension]} if self.dimension else scores

    def _axis(self, reply: Reply, axis: str) -> float:
        number = axis_number(reply, axis, LOW, HIGH)
        if number is None:
            cut = f", cut at {self.form.max_tokens} tokens" if reply.cut else ""
            raise InputError(
                f"The answer of {self.name} has no score from {LOW} to {HIGH} for {axis!r}{cut} (it ends "
                f"{reply.text[-80:]!r}): check that the server has this model."
            )
        if not self.soft:
            return number
        token = digit_token(reply, axis_pattern(axis))
        soft = None if token is None else confident_digit(token, LOW, HIGH)
        if soft is None:
            raise InputError(
                f"The server {self.server.address} gave no probabilities of the scores of {self.name}: serve it with "
                "them, or take the written numbers with form=number."
            )
        return soft


def load(request: RewardRequest) -> RewardModel:
    """VideoScore2 or UnifiedReward at the server of the request.

    Raises:
        InputError: nothing answers there, or the prompt text is not at hand.
    """
    request.refuse("reduce", "batch_size", "dtype")
    options = request.options
    form = {"videoscore2": VIDEOSCORE2, "unifiedreward": UNIFIEDREWARD}[request.entry.name]
    frames = options.get("frames")
    if isinstance(frames, str):
        raise InputError(f"{request.entry.name} takes frames=NUMBER, not frames={frames}.")
    text = form.text.load(options.get("template"))
    server = open_server(request)
    soft = options.get("form", "soft" if form is VIDEOSCORE2 else "number") == "soft"
    model = WrittenReward(
        server,
        form,
        text,
        request.dimension,
        soft,
        options.get("fps"),
        frames,
        float(options.get("scale", 1.0)),
    )
    return identify(
        model,
        request,
        served_model=server.model,
        template_sha256=form.text.sha256,
        form="soft" if soft else "number",
    )
