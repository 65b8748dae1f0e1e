"""Question graphs and who answers them."""

import json
import random

import pytest
import torch

from generator.output import InputError
from generator.world import render, sample_prompts, verify_batch
from reward.adherence.verifiers import judge_answers, load_verifier, vlm_verifier
from reward.question_graphs import load_graphs
from reward.questions import (
    Question,
    QuestionGraph,
    apply_dependencies,
    graph_score,
    read_question_graphs,
)
from reward.world_questions import world_graph

CHAIN = QuestionGraph(
    (
        Question("red", "Is the cat red?", "attribute", ("cat",)),
        Question("cat", "Is there a cat?", "object"),
        Question("deep", "Is its redness deep?", "attribute", ("red",)),
        Question("dog", "Is there a dog?", "object"),
        Question("beside", "Is the cat beside the dog?", "relation", ("cat", "dog")),
    )
)


def failed_by_enumeration(graph: QuestionGraph, answers: dict[str, bool]) -> dict[str, float]:
    """A question holds if it and all of its ancestors were answered yes; ancestors found by following parents."""

    def ancestors(name: str) -> set[str]:
        parents = set(graph[name].parents)
        return parents.union(*(ancestors(parent) for parent in parents)) if parents else set()

    return {
        q.name: float(all(answers[name] for name in {q.name, *ancestors(q.name)})) for q in graph.questions
    }


def test_a_child_fails_with_its_parent_in_every_combination_of_answers():
    names = [question.name for question in CHAIN.questions]
    for bits in range(2 ** len(names)):
        answers = {name: bool(bits >> number & 1) for number, name in enumerate(names)}
        kept = apply_dependencies(CHAIN, answers)
        assert kept == failed_by_enumeration(CHAIN, answers)
        assert graph_score(kept) == sum(kept.values()) / 5


def test_probabilities_are_kept_and_fall_to_zero_below_a_failed_parent():
    answers = {"cat": 0.4, "red": 0.9, "deep": 0.8, "dog": 0.7, "beside": 0.9}
    judgement = judge_answers(CHAIN, answers)
    assert judgement.score == pytest.approx((0.4 + 0.7) / 5)
    assert judgement.parts == {"red": False, "cat": False, "deep": False, "dog": True, "beside": False}
    assert judgement.answers == {name: pytest.approx(value) for name, value in answers.items()}


@pytest.mark.parametrize(
    ("questions", "message"),
    [
        ([Question("a", "?", parents=("b",))], "unknown parent 'b'"),
        ([Question("a", "?"), Question("a", "?")], "stands twice"),
        ([Question("a", "?", parents=("b",)), Question("b", "?", parents=("a",))], "wait for each other"),
    ],
)
def test_graphs_that_make_no_sense_are_refused(questions, message):
    with pytest.raises(InputError, match=message):
        QuestionGraph(tuple(questions))


def test_missing_answers_and_answers_that_are_no_probabilities_are_refused():
    graph = QuestionGraph((Question("a", "?"),))
    with pytest.raises(InputError, match="'a' was not answered"):
        apply_dependencies(graph, {})
    with pytest.raises(InputError, match="not a probability"):
        apply_dependencies(graph, {"a": 1.5})


def test_the_worlds_verifier_answers_the_worlds_graph_under_its_rules():
    prompts = sample_prompts(60, seed=3, split="test") + sample_prompts(60, seed=4)
    others = random.Random(0).sample(prompts, len(prompts))
    failed = 0
    for shown in (prompts, others):
        videos = torch.stack(
            [render(p, num_frames=9, height=48, width=48, seed=i) for i, p in enumerate(shown)]
        )
        for prompt, adherence in zip(prompts, verify_batch(videos, prompts)):
            graph = world_graph(prompt)
            assert {question.name for question in graph.questions} == set(adherence.parts)
            kept = apply_dependencies(graph, adherence.parts)
            assert kept == {name: float(answer) for name, answer in adherence.parts.items()}
            failed += sum(not answer for answer in adherence.parts.values())
    assert failed > 100


def test_questions_are_read_from_jsonl_and_from_dsgs_csv(tmp_path):
    rows = [
        {"name": q.name, "text": q.text, "category": q.category, "parents": q.parents}
        for q in CHAIN.questions
    ]
    (tmp_path / "q.jsonl").write_text(json.dumps({"prompt": "a red cat", "questions": rows}) + "\n")
    assert read_question_graphs(tmp_path / "q.jsonl")["a red cat"] == CHAIN
    (tmp_path / "dsg.csv").write_text(
        "item_id,text,keywords,proposition_id,dependency,category_broad,category_detailed,tuple,"
        "question_natural_language\n"
        '1,"a red cat, asleep",,1,0,entity,whole,entity - whole (cat),Is there a cat?\n'
        '1,"a red cat, asleep",,2,1,attribute,color,"attribute - color (cat, red)",Is the cat red?\n'
        '1,"a red cat, asleep",,3,"1,2",action,,,Does the red cat sleep?\n'
    )
    graph = read_question_graphs(tmp_path / "dsg.csv")["a red cat, asleep"]
    assert [question.text for question in graph.questions][1:] == [
        "Is the cat red?",
        "Does the red cat sleep?",
    ]
    assert graph.questions[2].parents == (graph.questions[0].name, graph.questions[1].name)
    assert graph.categories == {"entity", "attribute", "action"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no question"),
        ("{}\n", "line 1: expected"),
        ('{"prompt": "p", "questions": []}', "no question"),
        ('{"prompt": "p", "questions": [{"text": "a?", "parents": ["z"]}]}', "line 1: .*unknown parent 'z'"),
    ],
)
def test_wrong_question_files_are_named_with_their_line(tmp_path, text, message):
    (tmp_path / "q.jsonl").write_text(text)
    with pytest.raises(InputError, match=message):
        load_graphs(str(tmp_path / "q.jsonl"))
    with pytest.raises(InputError, match="does not exist"):
        load_graphs(str(tmp_path / "none.jsonl"))


class Oracle:
    """Says yes with 0.9 to questions that hold the word it knows."""

    def probability_of_yes(self, videos, texts, fps):
        assert len(videos) == len(texts)
        return torch.tensor([0.9 if "circle" in text else 0.1 for text in texts])


def test_a_language_model_is_asked_every_question_or_the_one_of_vqascore():
    verify = vlm_verifier(Oracle(), world_graph)
    judgement = verify(torch.zeros(1, 3, 2, 16, 16), ["a red circle"])[0]
    assert judgement.answers == {
        "object 1 is there": pytest.approx(0.1),
        "object 1 is a circle": pytest.approx(0.9),
        "object 1 is red": pytest.approx(0.9),
    }
    assert judgement.score == pytest.approx(0.1 / 3)
    plain = vlm_verifier(Oracle(), lambda prompt: None)(torch.zeros(1, 3, 2, 16, 16), ["a circle"])[0]
    assert plain.score == pytest.approx(0.9)


def test_a_users_function_answers_the_questions_that_it_is_given(tmp_path, monkeypatch):
    (tmp_path / "answers_for_test.py").write_text(
        "def answer(videos, prompts, questions):\n"
        "    return [{'parts': {name: 'object' in text for name, text in asked.items()}} for asked in questions]\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    verify, categories = load_verifier("answers_for_test:answer", "world")
    judgement = verify(torch.zeros(1, 3, 2, 16, 16), ["a red circle"])[0]
    assert judgement.parts == {
        "object 1 is there": True,
        "object 1 is a circle": False,
        "object 1 is red": False,
    }
    assert categories("a red circle moves left") == {"object", "attribute", "motion"}
    (tmp_path / "q.jsonl").write_text('{"prompt": "p", "questions": [{"text": "a?"}]}')
    with pytest.raises(InputError, match="asks its own questions"):
        load_verifier("world", str(tmp_path / "q.jsonl"))


@pytest.mark.parametrize("name", ["questions.jsonl", "questions.csv"])
def test_a_question_file_that_is_not_utf_8_is_refused(tmp_path, name):
    (tmp_path / name).write_bytes("café".encode("latin-1"))
    with pytest.raises(InputError, match="UTF-8"):
        read_question_graphs(tmp_path / name)
