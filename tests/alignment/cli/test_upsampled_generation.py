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
from tests.generator.video_ldm.models import tiny_video_generator


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


def test_a_video_is_upsampled_without_a_model_and_prompts(folder, tmp_path, capsys):
    write_video(tmp_path / "clip.mp4", torch.rand(3, 3, 16, 16) * 2 - 1, 4.0)
    shown = f"generate --video {tmp_path / 'clip.mp4'} --upsample_steps 1"
    cascade = f"{shown} --upsample {folder / 'cascade'} --output_dir {tmp_path / 'bare'}"
    assert main(cascade) == 0
    assert main(cascade) == 0  # all is there
    assert "Next:" not in capsys.readouterr().out
    bare, fps = read_video(tmp_path / "bare" / "0000.mp4")
    assert (bare.shape, fps) == ((3, 9, 32, 32), 16)
    row = json.loads((tmp_path / "bare" / "metadata.jsonl").read_text())
    assert (row["prompt"], row["model"]) == ("", str(folder / "base"))
    # The same as with the model and the stages by name; a prompt makes other videos.
    by_name = f"--model {folder / 'base'} --upsample {folder / 'temporal'} {folder / 'spatial'}"
    assert main(f"{shown} {by_name} --output_dir {tmp_path / 'named'}") == 0
    assert torch.equal(read_video(tmp_path / "named" / "0000.mp4")[0], bare)
    prompts = f"--prompts {folder / 'prompts.txt'} --upsample {folder / 'cascade'}"
    assert main(f"{shown} {prompts} --output_dir {tmp_path / 'prompted'}") == 0
    assert not torch.equal(read_video(tmp_path / "prompted" / "0000.mp4")[0], bare)


def test_what_needs_a_model_or_prompts_says_so(folder, tmp_path, capsys):
    write_video(tmp_path / "clip.mp4", torch.zeros(3, 3, 16, 16), 4.0)
    latents = tmp_path / "latents"
    latents.mkdir()
    (latents / "config.json").write_text('{"_class_name": "LTXLatentUpsamplerModel"}')
    (latents / "diffusion_pytorch_model.safetensors").write_bytes(b"")
    clip, stage = f"--video {tmp_path / 'clip.mp4'}", f"--upsample {folder / 'spatial'}"
    required = "The following arguments are required:"
    for words, message in (
        ("", f"{required} --model, --prompts (only --video FILE with --upsample STAGE"),
        (stage, f"{required} --model, --prompts"),
        (f"--model {folder / 'base'}", f"{required} --prompts"),
        (f"{clip} {stage} --extend forward --prompts world:test:1", f"{required} --model ("),
        (f"{clip} {stage} --rewriter world", "--rewriter was given, but no prompts"),
        (f"{clip} --upsample {latents}", "does not say whose latents it takes: name the model with --model"),
        (f"{clip} --upsample {tmp_path / 'gone'}", "is neither temporal nor spatial, nor a cascade"),
        (f"{clip} --upsample {folder / 'base'}", "holds a NativeVideoPipeline"),
        (f"--video {tmp_path / 'gone.mp4'} {stage}", "gone.mp4"),
    ):
        assert main(f"generate {words} --output_dir {tmp_path / 'out'}") == 2, words
        assert message in capsys.readouterr().err
        assert not (tmp_path / "out").exists()


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


def test_long_videos_of_a_stack_pass_the_stages(folder, tmp_path):
    for task in ("generation", "interpolation"):
        tiny_video_generator(task).pipeline.save_pretrained(tmp_path / task)
    words = f"--model {tmp_path / 'generation'} --interpolation_model {tmp_path / 'interpolation'}"
    words += f" --num_frames 17 --height 16 --width 16 --upsample {folder / 'spatial'} --upsample_steps 1"
    assert generate(folder, tmp_path / "long", words) == 0
    made, fps = read_video(tmp_path / "long" / "0001.mp4")
    assert made.shape == (3, 17, 32, 32)
    assert fps == 32
