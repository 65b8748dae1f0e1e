"""PPO against the reward for text makes a small generator of words write them better."""

from __future__ import annotations

import pytest


@pytest.mark.slow
def test_ppo_on_ocr_raises_the_share_of_letters_that_are_read(tmp_path):
    pytest.importorskip("rapidocr", reason="the extra ocr is not installed: pip install 'vidalign[ocr]'")
    from benchmarks.reward.ocr_ppo import run

    found = run(str(tmp_path / "words"), enough=0.4, rollouts=12, count=4)
    assert found["after"] > found["before"] + 0.05, found
    assert (tmp_path / "words" / "before_and_after.png").is_file()
