"""Collects the rankings of people: campaigns, tasks, a store and a web app."""

from __future__ import annotations

from typing import TYPE_CHECKING

from generator.lazy_names import lazy_names

if TYPE_CHECKING:
    from labeling_app.files.candidates import import_tasks
    from labeling_app.files.rankings import export_rankings
    from labeling_app.store import Store
    from labeling_app.web.launching import LabelingApp
    from labeling_app.web.server import create_app
    from labeling_app.web.video_ranking import VideoRanking

__all__ = [
    "LabelingApp",
    "Store",
    "VideoRanking",
    "create_app",
    "export_rankings",
    "import_tasks",
]

_HOMES = {
    "LabelingApp": "labeling_app.web.launching",
    "Store": "labeling_app.store",
    "VideoRanking": "labeling_app.web.video_ranking",
    "create_app": "labeling_app.web.server",
    "export_rankings": "labeling_app.files.rankings",
    "import_tasks": "labeling_app.files.candidates",
}

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
