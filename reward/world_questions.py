"""The question graph of a prompt of the built-in world, with the names that the world's verifier gives its questions.

So the same questions can be put to the verifier, to a vision-language model, and to people.
"""

from __future__ import annotations

from generator.world.grammar import categories, parse
from generator.world.meaning import DIRECTIONS, Meaning, ObjectMeaning
from reward.questions import Question, QuestionGraph

_NUMBERS = {2: "two", 3: "three"}


def world_graph(prompt: str) -> QuestionGraph:
    """The questions of `prompt`; questions about an object hang on its being there, a relation on both objects.

    Raises:
        InputError: the prompt is not one of the world's grammar.
    """
    meaning = parse(prompt)
    if len(meaning.objects) == 2:
        questions = [
            *_object_questions(meaning.objects[0], "object 1", "Is there an object?"),
            *_object_questions(meaning.objects[1], "object 2", "Are there two objects?"),
        ]
        if meaning.relation is not None:
            first, second = (_noun(said) for said in meaning.objects)
            place = (
                meaning.relation if meaning.relation in ("above", "below") else f"to the {meaning.relation}"
            )
            questions.append(
                Question(
                    f"object 1 is {meaning.relation} object 2",
                    f"Is the {first} {place} the {second}?",
                    "relation",
                    ("object 1 is there", "object 2 is there"),
                )
            )
    else:
        said = meaning.objects[0]
        name = "object 1" if said.count == 1 else "objects"
        questions = _object_questions(said, name, "Is there an object?")
        if said.count > 1:
            number = _NUMBERS[said.count]
            questions.append(
                Question(
                    f"there are {number}",
                    f"Are there exactly {number} objects?",
                    "count",
                    (f"{name} is there",),
                )
            )
    return QuestionGraph((*questions, *_scene_questions(meaning)))


def world_categories(prompt: str) -> set[str]:
    """Categories of the claims that the prompt makes."""
    return set(categories(prompt))


def _noun(said: ObjectMeaning) -> str:
    words = [said.colour or "", said.shape or "object"]
    return " ".join(word for word in words if word) + ("s" if said.count > 1 else "")


def _object_questions(said: ObjectMeaning, name: str, existence: str) -> list[Question]:
    there = f"{name} is there"
    questions = [Question(there, existence, "object")]
    noun = _noun(said)
    be, do = ("Are", "Do") if said.count > 1 else ("Is", "Does")

    def ask(claim: str, text: str, category: str) -> None:
        questions.append(Question(f"{name} {claim}", text, category, (there,)))

    if said.shape is not None:
        counted = f"Are there {said.shape}s?" if said.count > 1 else f"Is there a {said.shape}?"
        ask(f"is a {said.shape}", counted, "object")
    if said.colour is not None:
        shape = (said.shape or "object") + ("s" if said.count > 1 else "")
        ask(f"is {said.colour}", f"{be} the {shape} {said.colour}?", "attribute")
    if said.size is not None:
        ask(f"is {said.size}", f"{be} the {noun} {said.size}?", "attribute")
    if said.motion in DIRECTIONS:
        ask(
            f"moves {said.motion}",
            f"{do} the {noun} move to the {said.motion}?".replace("to the up?", "up?").replace(
                "to the down?", "down?"
            ),
            "motion",
        )
    elif said.motion is not None:
        ask(f"is {said.motion}", f"{be} the {noun} {said.motion}?", "motion")
    if said.speed is not None:
        ask(f"moves {said.speed}", f"{do} the {noun} move {said.speed}?", "motion")
    return questions


def _scene_questions(meaning: Meaning) -> list[Question]:
    questions = []
    if meaning.background is not None:
        name = f"the background is {meaning.background}"
        questions.append(Question(name, f"Is the background {meaning.background}?", "background"))
    if meaning.camera is not None:
        kind, way = meaning.camera.split()
        verb = "pan to the" if kind == "pan" else "zoom"
        questions.append(Question(f"the camera {kind}s {way}", f"Does the camera {verb} {way}?", "camera"))
    return questions
