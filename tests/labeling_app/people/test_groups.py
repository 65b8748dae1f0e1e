"""Groups, and campaigns that only some people work on."""

from __future__ import annotations

from pathlib import Path

import pytest

from generator.output import InputError
from labeling_app.campaigns.demonstrations import ask, demonstrate, open_prompts
from labeling_app.campaigns.lifecycle import delete_campaign
from labeling_app.files.candidates import import_tasks
from labeling_app.people.groups import Group, assign_campaign, assigned, change_group, delete_group, groups
from labeling_app.store.store import Store
from labeling_app.store.tables import User
from labeling_app.tasks.lease import Refused
from labeling_app.tasks.next_task import next_task
from labeling_app.tasks.progress import progress

PASSWORD = "correct horse"


def campaign_of(store: Store, user: User) -> str | None:
    task = next_task(store, user)
    return task.campaign if task else None


def test_a_campaign_is_given_out_to_those_who_are_assigned_alone_or_in_a_group(
    filled: Store, candidates: Path
) -> None:
    ada, bob, cyd = (filled.add_user(name, PASSWORD) for name in ("ada", "bob", "cyd"))
    robot = filled.add_user("simulated-1", simulated=True)
    import_tasks(filled, candidates, campaign="second", overlap=9)
    change_group(filled, "night", add=["bob"])
    assign_campaign(filled, "main", ["ada"], ["night"])
    assert [campaign_of(filled, user) for user in (ada, bob, cyd, robot)] == [
        "main",
        "main",
        "second",
        "main",
    ]
    assert (progress(filled, ada).left, progress(filled, cyd).left) == (24, 12)
    change_group(filled, "night", remove=["bob"])
    assert campaign_of(filled, bob) == "second"
    assign_campaign(filled, "main", [], [])
    assert campaign_of(filled, filled.add_user("dan", PASSWORD)) == "main"


def test_prompts_to_demonstrate_are_those_of_ones_campaigns(filled: Store) -> None:
    ada, bob = (filled.add_user(name, PASSWORD) for name in ("ada", "bob"))
    ask(filled, "main", ["a red circle"])
    assign_campaign(filled, "main", ["ada"], [])
    assert [prompt.prompt for prompt in open_prompts(filled, ada)] == ["a red circle"]
    assert open_prompts(filled, bob) == []
    number = open_prompts(filled, ada)[0].id
    with pytest.raises(Refused, match="no such prompt"):
        demonstrate(filled, bob, number, "x")
    with pytest.raises(Refused, match="neither your upload"):
        demonstrate(filled, ada, number, "x")


def test_groups_are_made_changed_and_deleted_whole_or_not_at_all(filled: Store) -> None:
    for name in ("ada", "bob"):
        filled.add_user(name, PASSWORD)
    assert change_group(filled, " night ", add=["bob", "ada"]) == Group("night", ("ada", "bob"))
    with pytest.raises(InputError, match="no person 'eve'"):
        change_group(filled, "day", add=["ada", "eve"])
    with pytest.raises(InputError, match="no group 'day'"):
        assign_campaign(filled, "main", ["ada"], ["day"])
    assert groups(filled) == [Group("night", ("ada", "bob"))]
    assert assigned(filled)["main"].people == ()
    assign_campaign(filled, "main", [], ["night"])
    with pytest.raises(InputError, match="is assigned to main"):
        delete_group(filled, "night")
    delete_campaign(filled, "main", "main")
    delete_group(filled, "night")
    assert groups(filled) == []
