"""Vision-language models: inputs, yes-or-no questions, the reward model and its training, on small random models."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from alignment.cli import main
from generator.output import InputError
from generator.testing.stand_ins import COLOURS, coloured_video
from generator.video import write_video
from reward import load_reward
from reward.adherence.verifiers import load_verifier
from reward.losses import plackett_luce
from reward.models.vlm import (
    VLMRewardConfig,
    VLMRewardModel,
    message,
    token_of,
    video_reward_settings,
)
from reward.models.vlm_loading import VideoBudget, fit_size, load_vision_language_model, sample_frames
from reward.preferences import read_rankings
from reward.tags import weighted_by_tags
from reward.training.vlm_trainer import VideoRankingCollator, _RankedVideos
from tests.reward.models.tiny_vlm import save_tiny_llava, save_tiny_qwen

BUDGET = VideoBudget(frame_rate=4, max_frames=8, max_frame_pixels=32 * 32, min_frame_pixels=32 * 32)


@pytest.fixture(scope="module")
def qwen(tmp_path_factory):
    return save_tiny_qwen(tmp_path_factory.mktemp("qwen"))


@pytest.fixture(scope="module", params=["qwen2_5_vl", "qwen3_vl", "llava"])
def folder(request, tmp_path_factory):
    path = tmp_path_factory.mktemp(request.param)
    return save_tiny_llava(path) if request.param == "llava" else save_tiny_qwen(path, request.param)


def random_video(frames=9, height=32, width=32, seed=0):
    return torch.rand(3, frames, height, width, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_frames_are_taken_at_the_budgets_rate_and_long_videos_evenly():
    video = torch.arange(24.0)[None, :, None, None].expand(3, 24, 2, 2)
    assert sample_frames(video, 8, VideoBudget(2, 32))[:, 0, 0, 0].tolist() == [0, 4, 8, 12, 16, 20]
    assert sample_frames(video, 24, VideoBudget(3, 32), multiple=2)[:, 0, 0, 0].tolist() == [0, 8, 16, 23]
    assert sample_frames(video, 8, VideoBudget(8, 4))[:, 0, 0, 0].tolist() == [0, 8, 15, 23]
    assert sample_frames(video[:, :1], 8, VideoBudget(2, 32), multiple=2).shape[0] == 2


def test_sizes_are_those_of_transformers():
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

    budget = VideoBudget(max_frame_pixels=200 * 200, min_frame_pixels=64 * 64)
    for size in [(480, 832), (32, 32), (720, 1280), (100, 300), (64, 64), (57, 61)]:
        expected = smart_resize(*size, factor=28, min_pixels=64 * 64, max_pixels=200 * 200)
        assert fit_size(*size, 28, budget) == tuple(expected)


def test_patches_are_those_of_transformers(qwen):
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    vlm = load_vision_language_model(qwen, "cpu", budget=BUDGET)
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3)).astype(np.uint8)
    frame = torch.from_numpy(image).permute(2, 0, 1).float() / 127.5 - 1
    processor = Qwen2VLImageProcessorPil(
        patch_size=8, merge_size=2, temporal_patch_size=2, size={"shortest_edge": 1024, "longest_edge": 1024}
    )
    expected = torch.tensor(np.array(processor(Image.fromarray(image))["pixel_values"]))
    found, grid = vlm.preparation.patches(torch.stack([frame, frame]), BUDGET)
    assert grid == (1, 4, 4)
    assert (found - expected).abs().max() < 1e-5


def test_any_image_text_model_answers_questions_and_padding_changes_nothing(folder):
    vlm = load_vision_language_model(folder, "cpu", budget=BUDGET)
    videos = [random_video(), random_video(17, 48, 40, seed=1)]
    questions = ["Is there a red circle?", "Is there a blue square or a red circle?"]
    together = vlm.probability_of_yes(videos, questions)
    alone = [vlm.probability_of_yes([v], [q]).item() for v, q in zip(videos, questions)]
    assert together.tolist() == pytest.approx(alone, abs=1e-5)
    assert together.min() > 0
    assert together.max() < 1
    assert vlm.probability_of_yes(videos[::-1], questions)[0] != pytest.approx(together[0].item(), abs=1e-7)


def test_the_probability_of_yes_is_that_of_the_next_word(qwen):
    vlm = load_vision_language_model(qwen, "cpu", budget=BUDGET)
    inputs = vlm.inputs([random_video()], [8], ["Is there a circle? Answer yes or no."])
    with torch.no_grad():
        words = vlm.model(**inputs).logits[0, -1].softmax(-1)
    ids = {word: vlm.tokenizer.convert_tokens_to_ids(word) for word in ("Yes", "yes", "No", "no")}
    yes, no = (sum(words[ids[word]] for word in pair) for pair in (("Yes", "yes"), ("No", "no")))
    found = vlm.probability_of_yes([random_video()], ["Is there a circle?"])
    assert found.item() == pytest.approx((yes / (yes + no)).item(), abs=1e-6)


def test_a_language_model_is_a_verifier(qwen):
    verify, categories = load_verifier(f"vlm:{qwen}", "world")
    judgement = verify(random_video()[None], ["a red circle"], fps=8)[0]
    assert set(judgement.answers) == {"object 1 is there", "object 1 is a circle", "object 1 is red"}
    assert categories("two circles") == {"object", "count"}
    with pytest.raises(InputError, match="cannot be loaded as a vision-language model"):
        load_verifier("vlm:/nowhere")


def test_scores_of_a_batch_are_those_of_each_video_and_quality_does_not_see_the_prompt(folder):
    vlm = load_vision_language_model(folder, "cpu")
    dimensions = ("visual", "motion", "alignment", "overall")
    model = VLMRewardModel(VLMRewardConfig(str(folder), dimensions, BUDGET), vlm)
    torch.nn.init.normal_(model.heads.weight, generator=torch.Generator().manual_seed(0))
    videos = torch.stack([random_video(), random_video(seed=1)])
    prompts = ["a red clip", "a blue square or a circle, take 5"]
    scores = model.score(videos, prompts)
    for number in range(2):
        alone = model.score(videos[number : number + 1], prompts[number : number + 1])
        for name in dimensions:
            assert scores[name][number].item() == pytest.approx(alone[name].item(), abs=1e-4)
    other = model.score(videos, ["a green circle", "white"])
    for name in dimensions:
        same = torch.allclose(scores[name], other[name], atol=1e-4)
        assert same == (name in ("visual", "motion"))
    swapped = model.score(videos.flip(0), prompts)
    assert not torch.allclose(scores["visual"], swapped["visual"], atol=1e-5)


def test_each_dimension_has_its_token_once_and_quality_comes_before_the_prompt():
    text = message("a cat", ("overall", "visual", "motion", "alignment"))
    places = [text.index(token_of(name)) for name in ("visual", "motion")]
    later = [text.index(token_of(name)) for name in ("overall", "alignment")]
    assert max(places) < text.index("a cat") < min(later)
    assert "a cat" not in message("a cat", ("visual",))


@pytest.fixture(scope="module")
def rankings(tmp_path_factory):
    """16 prompts that ask for a colour; the right one wins, the wrong one loses; mp4 files of two rates."""
    root = tmp_path_factory.mktemp("vlm-rankings")
    rows = []
    for number in range(16):
        asked, wrong = COLOURS[number % 4], COLOURS[(number + 1 + number // 4 % 3) % 4]
        names = []
        for k, colour in enumerate((asked, wrong)):
            video = torch.nn.functional.interpolate(
                coloured_video(colour, 2 * number + k)[None], (4, 32, 32)
            )[0]
            names.append(f"{number}-{k}.mp4")
            write_video(root / names[-1], video, fps=8 if k else 4)
        rows.append({"prompt": f"a {asked} clip", "videos": names, "ranks": [1, 2], "dimension": "alignment"})
        rows.append({"prompt": f"a {asked} clip", "videos": names, "ranks": [1, 1], "dimension": "visual"})
    (root / "rankings.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    return root / "rankings.jsonl"


def train(qwen, rankings, out, *more):
    words = ["reward", "--model_type", "vlm", "--vlm", str(qwen), "--preferences", str(rankings)]
    words += ["--output_dir", str(out), "--use_cpu", "true", "--report_to", "none", "--disable_tqdm", "true"]
    words += ["--frame_rate", "4", "--max_frames", "4", "--max_frame_pixels", "3136"]
    return main([*words, *map(str, more)])


def test_a_reward_model_is_trained_on_mp4_files_to_fit_a_small_set(qwen, rankings, tmp_path):
    out = tmp_path / "out"
    more = ["--dimensions", "alignment", "--num_train_epochs", 20, "--per_device_train_batch_size", 8]
    more += ["--lora_rank", 8, "--lora_learning_rate", 1e-2, "--learning_rate", 1e-2, "--weight_decay", 0]
    assert train(qwen, rankings, out, *more, "--held_out_fraction", 0, "--validation_fraction", 0) == 0
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["alignment"]["train"]["accuracy"]["mean"] >= 0.9
    stored = json.loads((out / "reward_config.json").read_text())
    assert stored["budget"]["frame_rate"] == 4
    assert stored["budget"]["max_frame_pixels"] == 3136
    model = load_reward(out, device="cpu")
    rows = [json.loads(line) for line in rankings.read_text().splitlines()][::2]
    paths = [rankings.parent / name for row in rows for name in row["videos"]]
    prompts = [row["prompt"] for row in rows for _ in row["videos"]]
    scores = model.score_files(paths, prompts)["alignment"]
    assert scores.mean().item() == pytest.approx(0, abs=0.05)
    assert (scores[::2] > scores[1::2]).float().mean() >= 0.9
    other = save_tiny_qwen(tmp_path / "other", "qwen3_vl")
    with pytest.raises(InputError, match="are not those that this reward model was trained on"):
        VLMRewardModel.from_pretrained(out, vlm=load_vision_language_model(other, "cpu"))


def test_the_best_epoch_is_kept_and_activations_may_be_recomputed(qwen, rankings, tmp_path):
    out = tmp_path / "out"
    more = [
        "--num_train_epochs",
        "3",
        "--held_out_fraction",
        "0",
        "--validation_fraction",
        "0.25",
        "--lora_rank",
        "2",
    ]
    assert train(qwen, rankings, out, *more, "--gradient_checkpointing", "true", "--learning_rate", 0.3) == 0
    metrics = json.loads((out / "metrics.json").read_text())
    assert set(metrics) == {"alignment", "visual", "best_epoch"}
    assert metrics["best_epoch"] in (1, 2, 3)
    assert metrics["alignment"]["calibrated_on"] == "validation"
    assert metrics["visual"]["train"]["tie_rate"] == 1


def test_tags_are_learned_as_dimensions_and_weigh_pairs(qwen, rankings, tmp_path, capsys):
    rows = [json.loads(line) for line in rankings.read_text().splitlines()[:8:2]]
    for number, row in enumerate(rows):
        row["tags"] = [{"video": row["videos"][1], "tag": "wrong colour"}] if number else []
    tagged = rankings.parent / "tagged.jsonl"
    tagged.write_text("\n".join(json.dumps(row) for row in rows))
    more = ["--tag_dimension", "wrong_colour", "--num_train_epochs", 1]
    more += ["--held_out_fraction", 0, "--validation_fraction", 0]
    assert train(qwen, tagged, tmp_path / "out", *more, "--tag_weights", "wrong colour=3") == 0
    stored = json.loads((tmp_path / "out" / "reward_config.json").read_text())
    assert stored["dimensions"] == ["alignment", "wrong_colour"]
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["wrong_colour"]["train"]["pairs"] == 4
    assert load_reward(tmp_path / "out", device="cpu").dimensions == ("alignment", "wrong_colour")
    assert "fault: wrong colour. <|wrong_colour_reward|>" in message("a cat", ("wrong_colour",))
    assert train(qwen, tagged, tmp_path / "other", *more, "--tag_weights", "wrong_count=3") == 2
    assert "(there is: wrong colour)" in capsys.readouterr().err
    # The loss of a batch is the mean of the weighted losses of its rankings.
    read = weighted_by_tags(read_rankings(tagged), {"wrong_colour": 3.0})[:2]
    assert [each.weights[0][1] for each in read] == pytest.approx([1 / 2.5, 3 / 2.5])
    model = VLMRewardModel(
        VLMRewardConfig(str(qwen), ("alignment",), BUDGET), load_vision_language_model(qwen, "cpu")
    )
    torch.nn.init.normal_(model.heads.weight, generator=torch.Generator().manual_seed(0))
    loss, scores = _RankedVideos(model, "plackett_luce")(**VideoRankingCollator(model)(read))
    expected = [w * plackett_luce(s[None], torch.tensor([[1, 2]])) for w, s in zip((0.4, 1.2), scores)]
    torch.testing.assert_close(loss, sum(expected)[0] / 2)


def test_votes_and_weights_of_dimensions_count_as_they_do_for_latent_models(qwen, rankings):
    read = read_rankings(rankings)[:4]  # of two prompts, for alignment and for visual
    assert [each.dimension for each in read] == ["alignment", "visual"] * 2
    read = [replace(each, votes=[3.0, 1.0]) if number == 0 else each for number, each in enumerate(read[:3])]
    model = VLMRewardModel(
        VLMRewardConfig(str(qwen), ("alignment", "visual"), BUDGET),
        load_vision_language_model(qwen, "cpu"),
    )
    torch.nn.init.normal_(model.heads.weight, generator=torch.Generator().manual_seed(0))
    ranked = _RankedVideos(model, "soft_bradley_terry", (2.0, 0.5))
    loss, scores = ranked(**VideoRankingCollator(model)(read))
    up, down = (torch.nn.functional.softplus(sign * (scores[:, 0] - scores[:, 1])) for sign in (-1, 1))
    shares = torch.tensor([0.75, 0.5, 1.0])  # votes, a tie, an order
    each = shares * up + (1 - shares) * down
    torch.testing.assert_close(loss, (2.0 * (each[0] + each[2]) / 2 + 0.5 * each[1]) / 2.5)


def test_a_frozen_model_trains_heads_and_tokens_only(qwen):
    model = VLMRewardModel(
        VLMRewardConfig(str(qwen), ("overall",), BUDGET), load_vision_language_model(qwen, "cpu")
    )
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == {"heads.weight", "heads.bias", "token_embeddings"}
    torch.nn.init.normal_(model.heads.weight)
    model(model.prepare([random_video()], [8], ["a clip"])).sum().backward()
    assert model.token_embeddings.grad.abs().sum() > 0


def test_mistakes_are_named_before_anything_is_written(qwen, rankings, tmp_path, capsys):
    out = tmp_path / "out"
    assert train("", rankings, out) == 2
    assert "needs a vision-language model" in capsys.readouterr().err
    assert train(qwen, rankings, out, "--dimensions", "motion") == 2
    assert "no dimension 'motion'" in capsys.readouterr().err
    assert train(qwen, rankings, out, "--ensemble", 2) == 2
    assert "--ensemble is for --model_type latent: leave it off with vlm" in capsys.readouterr().err
    assert train(qwen, rankings, out, "--base_adapter", "style.safetensors") == 2
    assert "--base_adapter names weights of a generator" in capsys.readouterr().err
    assert not out.exists()


def test_settings_of_a_videoreward_checkpoint_are_taken_over(tmp_path):
    document = {
        "data_config": {"meta_data": "", "data_dir": "", "eval_dim": ["VQ", "MQ", "TA"], "fps": 2.0, "num_frames": None,
                        "max_frame_pixels": 200704, "sample_type": "uniform"},
        "model_config": {"model_name_or_path": "Qwen/Qwen2-VL-2B-Instruct", "output_dim": 1},
        "peft_lora_config": {"lora_enable": True, "lora_r": 64, "lora_alpha": 128},
        "inference_config": {"VQ_mean": 3.6757, "VQ_std": 2.2476, "MQ_mean": 1.1646, "MQ_std": 1.3811,
                             "TA_mean": 2.8105, "TA_std": 2.5121},
    }  # fmt: skip
    (tmp_path / "model_config.json").write_text(json.dumps(document))
    config = video_reward_settings(tmp_path)
    assert config.base_model == "Qwen/Qwen2-VL-2B-Instruct"
    assert config.dimensions == ("visual", "motion", "alignment")
    assert (config.budget.frame_rate, config.budget.max_frame_pixels) == (2.0, 200704)
    assert (config.lora_rank, config.lora_alpha) == (64, 128)
    assert config.score_mean == (3.6757, 1.1646, 2.8105)
    with pytest.raises(InputError, match=r"no model_config\.json"):
        video_reward_settings(tmp_path / "none")
    (tmp_path / "model_config.json").write_text("{}")
    with pytest.raises(InputError, match=r"is not VideoReward's"):
        video_reward_settings(tmp_path)
