"""VBench's aggregation: sixteen dimensions to quality, semantic and total score.

Constants of the leaderboard (Vchitect/VBench, `scripts/constant.py`; arXiv 2311.17982): each dimension is normalised
between an empirical minimum and maximum, dynamic degree counts half, and total = (4 · quality + semantic) / 5. Unlike
the original script, which counts a missing dimension as 0, a missing dimension is an error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from generator.files.folders import visible_files
from generator.one_or_several import as_list
from generator.output import InputError, read_json

NORMALISATION: dict[str, tuple[float, float]] = {
    "subject_consistency": (0.1462, 1.0),
    "background_consistency": (0.2615, 1.0),
    "temporal_flickering": (0.6293, 1.0),
    "motion_smoothness": (0.706, 0.9975),
    "dynamic_degree": (0.0, 1.0),
    "aesthetic_quality": (0.0, 1.0),
    "imaging_quality": (0.0, 1.0),
    "object_class": (0.0, 1.0),
    "multiple_objects": (0.0, 1.0),
    "human_action": (0.0, 1.0),
    "color": (0.0, 1.0),
    "spatial_relationship": (0.0, 1.0),
    "scene": (0.0, 0.8222),
    "appearance_style": (0.0009, 0.2855),
    "temporal_style": (0.0, 0.364),
    "overall_consistency": (0.0, 0.364),
}
"""Minimum and maximum of each dimension."""

QUALITY = tuple(NORMALISATION)[:7]
SEMANTIC = tuple(NORMALISATION)[7:]
WEIGHTS = {name: 0.5 if name == "dynamic_degree" else 1.0 for name in NORMALISATION}
QUALITY_WEIGHT, SEMANTIC_WEIGHT = 4.0, 1.0


def total_score(quality: float, semantic: float) -> float:
    """(4 · quality + semantic) / 5."""
    return (QUALITY_WEIGHT * quality + SEMANTIC_WEIGHT * semantic) / (QUALITY_WEIGHT + SEMANTIC_WEIGHT)


def aggregate(scores: Mapping[str, float]) -> dict[str, Any]:
    """Quality, semantic and total score.

    Args:
        scores: `{dimension: score in [0, 1]}` of all sixteen dimensions; spaces count as underscores.

    Returns:
        `{"quality", "semantic", "total", "normalised": {dimension: value}}`.

    Raises:
        InputError: a dimension is missing or unknown, or a score is outside [0, 1] (a percentage, for example).
    """
    named = {name.strip().lower().replace(" ", "_"): float(value) for name, value in scores.items()}
    missing = [name for name in NORMALISATION if name not in named]
    if missing:
        raise InputError(
            f"VBench's total needs all {len(NORMALISATION)} dimensions, but {', '.join(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} missing: evaluate the rest first."
        )
    unknown = [name for name in named if name not in NORMALISATION]
    if unknown:
        raise InputError(f"{unknown[0]!r} is no dimension of VBench: use {', '.join(NORMALISATION)}.")
    for name, value in named.items():
        if not 0 <= value <= 1:
            raise InputError(
                f"VBench's {name} is {value}, but scores lie in [0, 1]: divide percentages by 100."
            )
    normalised = {name: (named[name] - low) / (high - low) for name, (low, high) in NORMALISATION.items()}

    def mean(names: Sequence[str]) -> float:
        return sum(WEIGHTS[n] * normalised[n] for n in names) / sum(WEIGHTS[n] for n in names)

    quality, semantic = mean(QUALITY), mean(SEMANTIC)
    return {
        "quality": quality,
        "semantic": semantic,
        "total": total_score(quality, semantic),
        "normalised": normalised,
    }


def read_results(paths: Sequence[str | Path]) -> dict[str, float]:
    """Scores of the dimensions from VBench's `*_eval_results.json` files or from folders of them.

    Each file maps a dimension to `[score, [{"video_path", "video_results"}, …]]`, or to the score alone.

    Raises:
        InputError: a file is missing or of another layout, or two files differ in a dimension.
    """
    paths = as_list(paths)
    files: list[Path] = []
    for path in map(Path, paths):
        found = visible_files(path, [".json"]) if path.is_dir() else [path]
        files += [file for file in found if file.name.endswith("eval_results.json")] or found
    scores: dict[str, float] = {}
    for file in files:
        if not file.is_file():
            raise InputError(
                f"The results file {file} does not exist: name VBench's *_eval_results.json files."
            )
        document = read_json(file)
        try:
            values = {
                str(name): float(value[0] if isinstance(value, list) else value)
                for name, value in document.items()
            }
        except (ValueError, TypeError, AttributeError, IndexError) as error:
            raise InputError(
                f"{file} is not a results file of VBench: expected {{dimension: [score, […]]}} ({error})."
            ) from error
        for name, value in values.items():
            if scores.setdefault(name, value) != value:
                raise InputError(
                    f"{file} says {value} of {name}, another file {scores[name]}: keep one of them."
                )
    if not scores:
        raise InputError(
            "No results of VBench were found: name its *_eval_results.json files or their folder."
        )
    return scores
