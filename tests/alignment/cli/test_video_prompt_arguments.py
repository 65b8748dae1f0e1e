"""`vidalign generate` with images and videos as prompts."""

import json

import pytest
import torch

from alignment.cli.commands.generate import GenerateArguments, run
from alignment.cli.video_prompt_arguments import VideoPromptArguments
from generator.output import InputError
from generator.testing import tiny_generator
from generator.video import read_video, write_video


@pytest.fixture
def setting(tmp_path, monkeypatch):
    monkeypatch.setattr("generator.load_generator", lambda *a, **k: tiny_generator())
    (tmp_path / "prompts.txt").write_text("a red circle\na blue star\n")
    video = torch.rand(3, 9, 48, 40, generator=torch.Generator().manual_seed(0)) * 2 - 1
    write_video(tmp_path / "clip.mp4", video, 8.0)
    return tmp_path


def generate(folder, **prompt):
    arguments = GenerateArguments(
        model="tiny",
        prompts=str(folder / "prompts.txt"),
        output_dir=str(folder / "out"),
        height=32,
        width=32,
        num_inference_steps=2,
    )
    run(arguments, VideoPromptArguments(**prompt))
    rows = [json.loads(line) for line in (folder / "out" / "metadata.jsonl").open()]
    return [read_video(folder / "out" / row["file_name"]) for row in rows]


@pytest.mark.parametrize(
    ("prompt", "frames", "fps"),
    [
        ({"image": "clip.mp4"}, 9, 8),
        ({"video": "clip.mp4", "extend": "forward", "new_frames": 4}, 13, 8),
        ({"video": "clip.mp4", "extend": "backward", "new_frames": 3}, 12, 8),
        ({"video": "clip.mp4", "extend": "loop"}, 17, 8),
        ({"connect": ["clip.mp4", "clip.mp4"]}, 26, 8),
        ({"video": "clip.mp4", "interpolate": 2}, 17, 16),
        ({"edit": "clip.mp4", "strength": 0.5}, 9, 8),
        ({"edit": "clip.mp4", "strength": 1.0, "source_prompt": "a green square"}, 9, 8),
        ({"long": 2.0}, 17, 8),
    ],
)
def test_every_task_writes_one_video_a_prompt(setting, prompt, frames, fps):
    def located(value):
        if isinstance(value, list):
            return [located(one) for one in value]
        return str(setting / value) if value == "clip.mp4" else value

    videos = generate(setting, **{name: located(value) for name, value in prompt.items()})
    assert len(videos) == 2
    for video, rate in videos:
        assert video.shape == (3, frames, 32, 32)
        assert rate == pytest.approx(fps)


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ({"image": "a.png", "long": 2.0}, "one thing at a time"),
        ({"extend": "forward"}, "--extend needs a video"),
        ({"video": "a.mp4"}, "--video was given alone"),
        ({"connect": ["a.mp4"]}, "--connect got 1"),
        ({"source_prompt": "a red circle", "long": 2.0}, "only --edit takes one"),
        ({"image": "missing.png"}, "missing.png does not exist"),
        ({"strength": 0.3}, r"--strength is 0\.3, but only --edit takes one"),
        ({"new_frames": 4, "long": 2.0}, "--new_frames is 4, but only --extend and --connect"),
    ],
)
def test_contradictions_and_missing_files_are_input_errors(setting, prompt, message):
    with pytest.raises(InputError, match=message):
        generate(setting, **prompt)
    assert not (setting / "out").exists()


def test_a_negative_prompt_is_refused_before_anything_is_made(setting):
    (setting / "prompts.txt").rename(setting / "prompts.jsonl")
    (setting / "prompts.jsonl").write_text('{"prompt": "a"}\n{"prompt": "b", "negative_prompt": "c"}\n')
    arguments = GenerateArguments(str(setting / "out"), "tiny", str(setting / "prompts.jsonl"))
    with pytest.raises(InputError, match="A negative prompt was given"):
        run(arguments, VideoPromptArguments(image=str(setting / "clip.mp4")))
    assert not (setting / "out").exists()


def test_another_task_does_not_go_on_in_the_same_folder(setting):
    generate(setting, image=str(setting / "clip.mp4"))
    with pytest.raises(InputError, match="other arguments"):
        generate(setting, long=1.0)
