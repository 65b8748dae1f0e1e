"""`vidalign generate --upsample`: stages behind a model or a video, and cascades in the commands."""

import json

import pytest
import torch

from alignment.cli import main
from alignment.stages.arguments import GeneratorArguments
from alignment.stages.stage import load_generator_to_train
from alignment.trainers.sft_config import SFTConfig
from generator.output import InputError
from generator.testing.cascades import save_tiny_cascade
from generator.video import read_video, write_video


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = save_tiny_cascade(tmp_path_factory.mktemp("cascade")).parent
    (folder / "prompts.txt").write_text("a red circle\na blue square\n")
    return folder


def generate(folder, output, *words):
    words = [f"--prompts {folder / 'prompts.txt'} --output_dir {output} --num_inference_steps 1", *words]
    return main("generate " + " ".join(words))


def test_stages_by_hand_make_the_videos_of_the_cascade(folder, tmp_path):
    assert generate(folder, tmp_path / "cascade", f"--model {folder / 'cascade'}") == 0
    assert generate(folder, tmp_path / "again", f"--model {folder / 'cascade'} --seed 1") == 0
    made, fps = read_video(tmp_path / "cascade" / "0001.mp4")
    assert made.shape == (3, 9, 32, 32)
    assert fps == 16
    same, _ = read_video(tmp_path / "again" / "0000.mp4")
    assert same.shape == made.shape
    stages = f"--upsample {folder / 'temporal'} {folder / 'spatial'}"
    size = "--num_frames 3 --height 16 --width 16"
    assert generate(folder, tmp_path / "hand", f"--model {folder / 'base'} {size} {stages}") == 0
    by_hand, fps = read_video(tmp_path / "hand" / "0001.mp4")
    assert fps == 16
    torch.testing.assert_close(by_hand, made, atol=0.02, rtol=0)  # both were written to mp4
    recorded = json.loads((tmp_path / "hand" / "generation.json").read_text())
    assert recorded["upsample"] == [str(folder / "temporal"), str(folder / "spatial")]
    words = f"--model {folder / 'base'} {size} {stages}"
    assert generate(folder, tmp_path / "hand", words) == 0  # all is there
    other = "--num_frames 5 --height 16 --width 16"
    assert generate(folder, tmp_path / "hand", f"--model {folder / 'base'} {other}") == 2


def test_any_video_can_be_upsampled(folder, tmp_path):
    video = torch.rand(3, 6, 24, 20) * 2 - 1
    write_video(tmp_path / "clip.mp4", video, 12.0)
    words = f"--model {folder / 'base'} --video {tmp_path / 'clip.mp4'} --upsample {folder / 'spatial'}"
    assert generate(folder, tmp_path / "out", words, "--upsample_steps 1 --upsample_guidance 2") == 0
    made, fps = read_video(tmp_path / "out" / "0000.mp4")
    assert made.shape == (3, 6, 48, 40)
    assert fps == 12


def test_mistakes_are_one_sentence_and_leave_nothing(folder, tmp_path, capsys):
    for words, message in (
        ("--upsample_steps 2", "pass --upsample STAGE too"),
        (f"--upsample {tmp_path / 'gone'}", "is neither temporal nor spatial"),
        (f"--upsample {folder / 'spatial'} --upsample_augmentation 1", "at least 0 and below 1"),
        (f"--video {tmp_path / 'gone.mp4'}", "--extend, --interpolate or --upsample"),
    ):
        assert generate(folder, tmp_path / "out", f"--model {folder / 'base'}", words) == 2
        assert message in capsys.readouterr().err
        assert not (tmp_path / "out").exists()


def test_a_cascade_is_trained_by_training_its_base(folder, tmp_path, capsys):
    config = SFTConfig(output_dir=str(tmp_path / "sft"), use_cpu=True, report_to="none")
    with pytest.raises(InputError, match="is a cascade: name its base"):
        load_generator_to_train(GeneratorArguments(str(folder / "cascade")), config)
    write_video(tmp_path / "clips" / "0.mp4", torch.zeros(3, 9, 32, 32), 16.0)
    (tmp_path / "clips" / "metadata.jsonl").write_text('{"file_name": "0.mp4", "prompt": "a red circle"}')
    words = f"sft --model {folder / 'cascade'} --dataset {tmp_path / 'clips'} --output_dir {tmp_path / 'sft'}"
    assert main(words) == 2
    assert "name its base" in capsys.readouterr().err
    assert not (tmp_path / "sft").exists()
    words = f"--model {folder / 'cascade'} --reward world --best_of 2"
    assert generate(folder, tmp_path / "out", words) == 2
    assert "name its base" in capsys.readouterr().err
