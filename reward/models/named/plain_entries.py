"""Entries of the rewards without weights to fetch; see `registry`."""

from __future__ import annotations

from reward.models.named.entry import NamedReward, number, one_of, whole_number

_PLAIN = "reward.models.named.plain_rewards"

PLAIN_REWARDS = (
    NamedReward(
        "world",
        f"{_PLAIN}:load_world",
        "verifier of the built-in world, which reads the pixels",
        "video",
        (0.0, 1.0),
        licence="Apache-2.0",
        hacks="none found: it is the gold score",
    ),
    NamedReward(
        "ocr",
        "reward.models.named.ocr:load_ocr",
        "text in the picture against the text that the prompt quotes",
        "frames",
        (0.0, 1.0),
        licence="Apache-2.0",
        options={"match": one_of("contained", "exact"), "threads": whole_number, "targets": str},
        extra="ocr",
        modules=("rapidocr", "onnxruntime"),
        hacks="repeated text, giant letters, a frozen camera",
        paper="2505.05470",
    ),
    NamedReward(
        "motion",
        f"{_PLAIN}:load_motion",
        "nearness of the fastest parts' speed to a target",
        "video",
        (0.0, 1.0),
        licence="Apache-2.0",
        options={"target": number, "form": one_of("near", "floor")},
        hacks="a shaking camera, beside no other reward",
    ),
    NamedReward(
        "flicker",
        f"{_PLAIN}:load_flicker",
        "steadiness: 1 minus what changes from frame to frame",
        "video",
        (0.9, 1.0),
        licence="Apache-2.0",
        gradients=True,
        options={"form": one_of("neighbours", "unexplained")},
        hacks="a still video is best: only with motion",
        paper="2311.17982",
    ),
)
