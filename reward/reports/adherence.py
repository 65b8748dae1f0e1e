"""The report of an evaluation: one self-contained HTML page and its JSON twin with everything to repeat it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from generator.one_or_several import as_list
from generator.output import write_json, write_text
from reward.adherence.evaluate import Sample
from reward.adherence.training_rewards import known_measures
from reward.reports import html, tables
from reward.reports.changes import changes
from reward.reports.clips import bytes_a_clip
from reward.reports.contact_sheet import write_contact_sheet
from reward.reports.evaluation_folder import SHEET_NAME
from reward.reports.examples import LoadVideo, choose, quartiles, rows
from reward.reports.made import made_now
from reward.reports.page import Examples, Front, dot_chart, page, sides_of
from reward.reports.sentences import (
    Subject,
    guidance_text,
    lead,
    measure_of,
    others_sentence,
    result_sentence,
)

HELD_OUT = ("world:test", "suite:world")
EXAMPLES_OF_A_RULE = 3
SAMPLES_SHOWN = 5
"""Prompts of the contact sheet."""
JUDGES = {"world": "the built-in world's verifier, from the pixels"}


@dataclass(frozen=True)
class Additions:
    """Parts of a report beside the comparison itself.

    Attributes:
        notes: sentences of the first screen.
        details: folded sections, before those that say how to repeat the evaluation.
        folder: between the page and the file names of the samples, with `/` at its end.
        held_out: whether the prompts are held out from all training.
    """

    notes: Sequence[str] = ()
    details: Sequence[html.Section] = ()
    folder: str = ""
    held_out: bool = False


NOTHING = Additions()


def comparison_page(
    samples: Sequence[Sample],
    summary: Mapping[str, Any],
    settings: Mapping[str, Any],
    load_video: LoadVideo,
    references: Sequence[str],
    title: str,
    made: Mapping[str, Any],
    more: Additions = NOTHING,
) -> str:
    """The whole page.

    Args:
        samples: all judged videos.
        summary: from `reward.adherence.evaluate.summarise`.
        settings: of the evaluation; those of the sampler in effect.
        load_video: gives the videos that are shown.
        references: models that the others are compared with; the first screen is about the first one.
        made: command, commit, device and date (`reward.reports.made.made_now`).
        more: of the calling command.
    """
    references = as_list(references)
    reference = references[0]
    model = lead(summary, reference)
    rule, typical = quartiles(samples, model, reference)
    choices = choose(samples, model, reference, EXAMPLES_OF_A_RULE)
    shown = sum(len(group) for group in [*typical, *(g for choice in choices for g in choice.groups)])
    most = bytes_a_clip(shown)
    subject = subject_of(summary, settings, more.held_out)
    sides, between = sides_of(changes(summary, model, reference))
    several = len(summary["adherence"]) > 1
    trained_on = known_measures(
        settings.get("trained_on", {}), str(settings.get("verifier", "")), settings.get("measures", ())
    )
    notes = [others_sentence(summary, reference), *more.notes, *trained_on, str(settings.get("subtitle", ""))]
    front = Front(
        sentence=result_sentence(summary, reference, subject),
        facts=_line(summary, settings, subject),
        clips=rows(typical, load_video, most, more.folder, ticks=False),
        rule=rule,
        chart=dot_chart(summary["adherence"], f"Mean {subject.measure} with 95 % intervals over prompts"),
        sides=sides if several else (),
        between=between,
        notes=[note for note in notes if note],
    )
    examples = [
        Examples(choice.title, choice.rule, rows(choice.groups, load_video, most, more.folder))
        for choice in choices
    ]
    details = _details(summary, references, more, settings, made)
    return page(title, front, examples, details)


def _details(
    summary: Mapping[str, Any],
    references: Sequence[str],
    more: Additions,
    settings: Mapping[str, Any],
    made: Mapping[str, Any],
) -> list[html.Section]:
    several = len(summary["adherence"]) > 1
    power = tables.power_text(summary)
    sections = [
        html.Section(
            "All models: means, differences, win rates",
            tables.overview(summary, references if several else [])
            + (html.paragraph(power) if power else ""),
        ),
        html.Section(
            "Gains and losses of every model", tables.change_table(summary, references[0]) if several else ""
        ),
        html.Section("Categories of prompts", tables.category_tables(summary, references[0])),
        html.Section("Questions", tables.question_table(summary)),
        html.Section(
            "Motion, flicker, consistency, diversity", tables.measure_table(summary), _diversity(summary)
        ),
        *more.details,
        html.Section(
            "Everything to repeat this",
            (html.code(made["command"]) if made.get("command") else "")
            + html.facts({name: value for name, value in made.items() if name != "command"})
            + tables.settings_table(settings),
        ),
    ]
    return [section for section in sections if section.body]


def _diversity(summary: Mapping[str, Any]) -> str:
    if "diversity_within_prompts" not in summary:
        return ""
    of = "one prompt" if summary["diversity_within_prompts"] else "different prompts"
    return f"Diversity is the mean distance between small pictures of a model's videos of {of} (reward/diversity.py)."


def subject_of(summary: Mapping[str, Any], settings: Mapping[str, Any], held_out: bool = False) -> Subject:
    """The subject of an evaluation in words; of joined runs only what they share."""
    runs = list(settings.get("settings_of_runs", {}).values()) or [settings]

    def shared(name: str) -> Any:
        values = [run.get(name) for run in runs]
        return values[0] if all(value == values[0] for value in values) else None

    prompts = next(iter(summary["adherence"].values()))["clusters"]
    held_out = held_out or str(shared("prompt_file") or "").startswith(HELD_OUT)
    count = f"{prompts} {'held-out ' if held_out else ''}prompt{'' if prompts == 1 else 's'}"
    model = str(shared("model") or "")
    return Subject(
        model=Path(model).name if "/" in model and Path(model).is_absolute() else model,
        guidance=guidance_text(shared("guidance") or shared("guidance_scale"), shared("guidance_scale_2")),
        prompts=count,
        measure=measure_of(str(shared("verifier") or "")),
    )


def _line(summary: Mapping[str, Any], settings: Mapping[str, Any], subject: Subject) -> dict[str, str]:
    """Facts below the sentence."""
    own = next(iter(summary["adherence"].values()))
    size = [settings.get(name) for name in ("num_frames", "height", "width")]
    steps, solver = settings.get("num_inference_steps"), settings.get("solver")
    found = {
        "model": subject.model,
        "sampling": ", ".join(
            part
            for part in (
                f"{steps} steps" if steps else "",
                str(solver or "") if steps else "",
                subject.guidance,
            )
            if part
        ),
        "videos": f"{own['n']} of {own['clusters']} prompts a model, same noise",
        "size": " × ".join(map(str, size)) if all(size) else "",
        "judged by": JUDGES.get(str(settings.get("verifier", "")), str(settings.get("verifier", ""))),
    }
    return {name: value for name, value in found.items() if value}


def write_report(
    output_dir: str | Path,
    samples: Sequence[Sample],
    summary: Mapping[str, Any],
    settings: Mapping[str, Any],
    load_video: LoadVideo,
    references: Sequence[str],
    title: str = "Prompt adherence",
    more: Additions = NOTHING,
) -> Path:
    """Writes `report.html`, `report.json` and `samples.gif` to `output_dir`; returns the path of the page.

    Args:
        samples: all judged videos; they stand in the JSON one by one.
        summary: from `reward.adherence.evaluate.summarise`.
        settings: everything to repeat the evaluation: models, prompts, seeds, sizes, versions.
        load_video: gives the videos that are shown.
        references: models that the others are compared with.
        more: what the calling command adds to the page.
    """
    output_dir, made = Path(output_dir), made_now()
    text = comparison_page(samples, summary, settings, load_video, references, title, made, more)
    twin = {
        **summary,
        "settings": dict(settings),
        "made": made,
        "samples": [sample.as_row() for sample in samples],
    }
    write_samples(output_dir, samples, summary, as_list(references)[0], load_video)
    write_json(output_dir / "report.json", twin)
    write_text(output_dir / "report.html", text)
    return output_dir / "report.html"


def write_samples(
    folder: Path, samples: Sequence[Sample], summary: Mapping[str, Any], reference: str, load_video: LoadVideo
) -> None:
    """Writes `samples.gif`: prompts drawn at random, the reference above the model of the first screen."""
    model = lead(summary, reference)
    drawn = choose(samples, model, reference, SAMPLES_SHOWN)[-1].groups
    if drawn:
        models = list(dict.fromkeys([reference, model]))
        write_contact_sheet(folder / SHEET_NAME, drawn, models, load_video)
