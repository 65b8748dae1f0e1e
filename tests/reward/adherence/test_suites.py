"""Prompt suites and VBench's aggregation."""

import json
from collections import Counter

import pytest

from generator.output import InputError
from generator.world import parse
from generator.world.meaning import is_held_out
from reward.adherence.suites import WORLD_CATEGORIES, load_suite, world_category
from reward.adherence.vbench import NORMALISATION, aggregate, read_results, total_score
from reward.question_graphs import load_graphs
from reward.questions import apply_dependencies

# Rows of VBench's leaderboard as Goku's paper and README print them (arXiv 2502.04896, table of VBench): total, quality
# and semantic score, then the dimensions in their order, all in per cent. Lumina-Video (arXiv 2502.06782) prints the
# same row of HunyuanVideo.
PUBLISHED = {
    "HunyuanVideo": (83.24, 85.09, 75.82, 97.37, 97.76, 99.44, 98.99, 70.83, 60.36, 67.56,
                     86.10, 68.55, 94.40, 91.60, 68.68, 53.88, 19.80, 23.89, 26.44),
    "VideoCrafter-2.0": (80.44, 82.20, 73.42, 96.85, 98.22, 98.41, 97.73, 42.50, 63.13, 67.22,
                         92.55, 40.66, 95.00, 92.92, 35.86, 55.29, 25.13, 25.84, 28.23),
    "CogVideoX-5B": (81.61, 82.75, 77.04, 96.23, 96.52, 98.66, 96.92, 70.97, 61.98, 62.90,
                     85.23, 62.11, 99.40, 82.81, 66.35, 53.20, 24.91, 25.38, 27.59),
    "Kling": (81.85, 83.39, 75.68, 98.33, 97.60, 99.30, 99.40, 46.94, 61.21, 65.62,
              87.24, 68.05, 93.40, 89.90, 73.03, 50.86, 19.62, 24.17, 26.42),
    "Luma": (83.61, 83.47, 84.17, 97.33, 97.43, 98.64, 99.35, 44.26, 65.51, 66.55,
             94.95, 82.63, 96.40, 92.33, 83.67, 58.98, 24.66, 26.29, 28.13),
}  # fmt: skip


def published(model: str = "HunyuanVideo") -> dict[str, float]:
    return {name: value / 100 for name, value in zip(NORMALISATION, PUBLISHED[model][3:], strict=True)}


def test_the_built_in_suite_holds_held_out_prompts_of_every_category():
    suite = load_suite("suite:world:6")
    assert len(suite.records) == 36
    assert Counter(name for names in suite.categories.values() for name in names) == dict.fromkeys(
        WORLD_CATEGORIES, 6
    )
    for prompt, (category,) in suite.categories.items():
        meaning = parse(prompt)
        assert is_held_out(meaning)
        assert world_category(meaning) == category
        moves = any(said.motion is not None for said in meaning.objects)
        assert category == "combination" or moves == (category == "motion")
        assert category == "combination" or (meaning.relation is not None) == (category == "relation")
    assert load_suite("suite:world:6").records == suite.records
    assert load_suite("suite:world:6:1").records != suite.records


def test_the_general_suite_has_prompts_by_category_with_questions_of_their_own():
    suite, graphs = load_suite("suite:general"), load_graphs("general")
    assert len(suite.records) == 80
    counts = Counter(category for names in suite.categories.values() for category in names)
    assert set(counts.values()) == {8}
    assert {"count", "colour", "relation", "motion", "camera", "text", "style"} <= set(counts)
    assert all(graphs(record.prompt) is not None for record in suite.records)
    graph = graphs("Two swans cross a calm lake")
    assert apply_dependencies(graph, {"swan": 0.1, "two": 0.9, "lake": 1.0}) == {
        "swan": 0.1,
        "two": 0.0,
        "lake": 1.0,
    }
    assert len(load_suite("suite:general:2").records) == 20
    with pytest.raises(InputError, match="there are 8"):
        load_suite("suite:general:9")
    with pytest.raises(InputError, match="suite:general or suite:general:N"):
        load_suite("suite:general:x")


def test_files_of_vbench_and_of_t2v_compbench_are_read_with_their_categories(tmp_path):
    rows = [
        {"prompt_en": "a person", "dimension": ["subject_consistency", "dynamic_degree"]},
        {"prompt_en": "a red bird", "dimension": ["color"], "auxiliary_info": {"color": {"color": "red"}}},
        {"prompt_en": "a person", "dimension": ["human_action"]},
    ]
    (tmp_path / "VBench_full_info.json").write_text(json.dumps(rows))
    suite = load_suite(f"vbench:{tmp_path / 'VBench_full_info.json'}")
    assert [record.prompt for record in suite.records] == ["a person", "a red bird"]
    assert suite.categories_of("a person") == {"subject_consistency", "dynamic_degree", "human_action"}
    meta = tmp_path / "meta_data"
    meta.mkdir()
    fields = {"object_1": "cat", "d_1": "left", "object_2": "", "d_2": ""}
    (meta / "motion_binding.json").write_text(
        json.dumps([{"prompt": "A cat slinking to the left", **fields}])
    )
    (meta / "generative_numeracy.json").write_text(json.dumps([{"prompt": "two dogs", "objects": "dog"}]))
    suite = load_suite(f"t2v_compbench:{meta}")
    assert suite.categories == {
        "two dogs": {"generative_numeracy"},
        "A cat slinking to the left": {"motion_binding"},
    }
    texts = tmp_path / "prompts"
    texts.mkdir()
    (texts / "1_consistent_attr.txt").write_text("A blue car drives past a white picket fence\n")
    assert load_suite(f"t2v_compbench:{texts}").categories == {
        "A blue car drives past a white picket fence": {"consistent_attr"}
    }


def test_plain_prompt_sources_are_suites_without_categories():
    suite = load_suite("world:test:3")
    assert len(suite.records) == 3
    assert suite.categories_of(suite.records[0].prompt) == set()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("suite:vbench", "There is no suite"),
        ("suite:world:0", "There is no suite"),
        ("vbench:none.json", "does not exist"),
        ("t2v_compbench:none", "does not exist"),
    ],
)
def test_unknown_suites_are_named(source, message):
    with pytest.raises(InputError, match=message):
        load_suite(source)


def test_entries_of_another_layout_are_named_with_file_and_number(tmp_path):
    (tmp_path / "a.json").write_text('[{"prompt_en": "ok", "dimension": []}, {"prompt": "x"}]')
    with pytest.raises(InputError, match=r"a\.json, entry 2"):
        load_suite(f"vbench:{tmp_path / 'a.json'}")
    with pytest.raises(InputError, match=r"a\.json, entry 1"):
        load_suite(f"t2v_compbench:{tmp_path / 'a.json'}")


@pytest.mark.parametrize("model", PUBLISHED)
def test_vbench_is_aggregated_to_the_published_row(model):
    result = aggregate(published(model))
    found = [100 * result[name] for name in ("total", "quality", "semantic")]
    # The dimensions are printed to 0.01, so the sums are known to about that.
    assert found == pytest.approx(PUBLISHED[model][:3], abs=0.02)


def test_the_total_weighs_quality_four_times():
    assert round(total_score(85.62, 72.94), 2) == 83.08


@pytest.mark.parametrize("name", NORMALISATION)
def test_a_missing_dimension_is_an_error_and_not_a_zero(name):
    scores = published()
    del scores[name]
    with pytest.raises(InputError, match=f"{name} is missing"):
        aggregate(scores)


def test_percentages_and_unknown_dimensions_are_refused():
    with pytest.raises(InputError, match="divide percentages"):
        aggregate({**published(), "scene": 53.88})
    with pytest.raises(InputError, match="'beauty' is no dimension"):
        aggregate({**published(), "beauty": 0.5})


def test_results_files_of_vbench_are_joined(tmp_path):
    for name, value in published().items():
        found = {name: [value, [{"video_path": "a-0.mp4", "video_results": value}]]}
        (tmp_path / f"run_{name}_eval_results.json").write_text(json.dumps(found))
    assert read_results([tmp_path]) == pytest.approx(published())
    (tmp_path / "other.json").write_text('{"scene": [0.1, []]}')
    with pytest.raises(InputError, match="keep one of them"):
        read_results([tmp_path, tmp_path / "other.json"])
    with pytest.raises(InputError, match="does not exist"):
        read_results([tmp_path / "none.json"])
