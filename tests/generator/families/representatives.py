"""Families that the tests of all families run on: one of each adapter's code."""

from __future__ import annotations

from generator.testing.text_pipelines import TINY_PIPELINES

SAME_CODE = ("ltx2", "skyreels_v2", "wan-vace", "animatediff_xl")
"""Families that run the code of LTX-2.3, Wan or AnimateDiff; samplers, adapters and what differs are tested on them
too."""
REPRESENTATIVES = [name for name in TINY_PIPELINES if name not in SAME_CODE]
