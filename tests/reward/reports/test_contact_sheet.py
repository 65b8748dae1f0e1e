"""The contact sheet shows the videos that it was given, at their places and at their speed."""

import numpy as np
import torch
from PIL import Image

from reward.adherence.evaluate import Sample
from reward.reports.contact_sheet import SIDE, _place, write_contact_sheet


def test_each_video_stands_in_the_column_of_its_prompt_and_the_row_of_its_model(tmp_path):
    groups = [{model: Sample(model, f"prompt {p}", 0, 0.5) for model in ("base", "ppo")} for p in range(3)]

    def load(sample: Sample):
        shade = (int(sample.prompt[-1]) + 3 * (sample.model == "ppo")) / 5
        return torch.full((3, 6, 16, 16), 2 * shade - 1), 10.0

    path = write_contact_sheet(tmp_path / "samples.gif", groups, ["base", "ppo"], load)
    image = Image.open(path)
    assert image.info["duration"] == 600  # frames that are alike are joined
    pixels = np.asarray(image.convert("L"))
    for row in range(2):
        for column in range(3):
            left, top = _place(column, row)
            middle = pixels[top + SIDE // 2, left + SIDE // 2]
            assert abs(int(middle) - 51 * (column + 3 * row)) <= 4
