"""Files that `vidalign demo` writes into its output folder."""

from __future__ import annotations

import json
from pathlib import Path

from alignment.demo.scales import STAGES
from alignment.stages.outputs import training_outputs
from generator.files.output_folder import Outputs
from reward.reports.evaluation_folder import OUTPUTS as EVALUATION
from reward.reports.evaluation_folder import SHEET_NAME
from reward.training.outputs import OUTPUTS as REWARD

STAGES_FILE = "stages.json"
DEMONSTRATIONS = Outputs("demo", ("#.mp4", "metadata.jsonl"))


def _is_demo(folder: Path) -> bool:
    try:
        return {"settings", "stages"} <= json.loads((folder / STAGES_FILE).read_text(encoding="utf-8")).keys()
    except (OSError, ValueError, AttributeError):
        return False


OUTPUTS = Outputs(
    "demo",
    (
        *(STAGES_FILE, "report.json", "report.html", SHEET_NAME, "rankings.jsonl"),
        *("ppo-prompts.jsonl", "ppo-eval-prompts.jsonl"),
        *(f"labels.db{end}" for end in ("", "-wal", "-shm", "-journal")),
        *(f"logs/{stage}.txt" for stage in STAGES),
        *DEMONSTRATIONS.within("demonstrations"),
        *DEMONSTRATIONS.within("candidates"),
        *REWARD.within("reward"),
        *EVALUATION.within("evaluation"),
        *(f"evaluation/videos/{model}/#-#.mp4" for model in ("base", "start", "sft", "dpo", "ppo")),
        *(name for stage in ("sft", "dpo", "ppo") for name in training_outputs(stage).within(stage)),
    ),
    early=(STAGES_FILE, *(f"logs/{stage}.txt" for stage in STAGES)),
    is_record=_is_demo,
)
