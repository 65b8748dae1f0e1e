"""Images that the videos of a task begin and end with: into the store, out of it, and refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from generator.data.demonstrations import read_demonstrations
from generator.output import InputError
from generator.provenance import file_hash
from labeling_app.campaigns.campaigns import make_gold
from labeling_app.campaigns.demonstrations import (
    add_library,
    ask,
    demonstrate,
    export_demonstrations,
    library,
)
from labeling_app.campaigns.lifecycle import delete_campaign
from labeling_app.files.candidates import import_tasks
from labeling_app.files.foreign_preferences import import_preferences
from labeling_app.files.rankings import export_rankings
from labeling_app.store import task_images
from labeling_app.store.backup import backup, restore
from labeling_app.store.store import Store
from labeling_app.store.task_images import inspect_image, shown_image
from labeling_app.tasks.answers import submit
from labeling_app.tasks.next_task import next_task, shown_id, visible_media
from reward.preferences import read_rankings

PASSWORD = "correct horse"


@pytest.fixture
def animated(candidates: Path, tmp_path: Path) -> Path:
    """Two prompts of two videos each, which begin with an image; the second ends with one too."""
    folder = tmp_path / "animated"
    folder.mkdir()
    rows = []
    for task in range(2):
        Image.new("RGB", (80, 60), (200, 40 * task, 10)).save(folder / f"first-{task}.png")
        for index in range(2):
            name = f"secret-model-{task:03d}-{index}.mp4"
            shutil.copy(candidates / name, folder / name)
            rows.append({"file_name": name, "prompt": "it moves", "image": f"first-{task}.png"})
    Image.new("RGB", (80, 60), (0, 250, 10)).save(folder / "last.png")
    rows[2]["last_image"] = rows[3]["last_image"] = "last.png"
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


@pytest.fixture
def labels(tmp_path: Path) -> Any:
    with Store(tmp_path / "labels.db") as store:
        yield store


def rank_all(store: Store, campaign: str = "main") -> None:
    user = store.user("ada") or store.add_user("ada", PASSWORD)
    while (task := next_task(store, user, campaign, order=lambda task: range(len(task.videos)))) is not None:
        submit(store, user, task.assignment, {"overall": list(range(1, len(task.videos) + 1))}, 1.0)


def test_tasks_have_the_images_that_metadata_name_and_exports_carry_them(
    labels: Store, animated: Path, tmp_path: Path
) -> None:
    assert import_tasks(labels, animated, campaign="main").added == 2  # one prompt, but two images
    assert import_tasks(labels, animated, campaign="main").added == 0
    first, second = labels.tasks("main")
    assert [Path(each.path).name for each in first.images] == ["first-0.png"]
    assert [Path(each.path).name for each in second.images] == ["first-1.png", "last.png"]
    rank_all(labels)
    out = tmp_path / "elsewhere" / "rankings.jsonl"
    out.parent.mkdir()
    assert export_rankings(labels, "main", out) == 2
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["image_sha256"] for row in rows] == [file_hash(animated / f"first-{i}.png") for i in range(2)]
    read = read_rankings(out)
    assert [Path(each.images[0]).resolve() for each in read if each.images] == [
        animated / "first-0.png", animated / "first-1.png"
    ]  # fmt: skip
    assert read[0].images is not None
    assert read[0].images[1] is None
    assert read[1].images is not None
    assert Path(str(read[1].images[1])).resolve() == animated / "last.png"

    # Back into other campaigns: as tasks, and with the judgements.
    assert import_tasks(labels, out, campaign="again").added == 2
    import_preferences(labels, out, "external", "elsewhere")
    for campaign in ("again", "external"):
        assert [task.fingerprint for task in labels.tasks(campaign)] == [
            first.fingerprint,
            second.fingerprint,
        ]

    # What an annotator has judged by must not change unseen.
    Image.new("RGB", (80, 60), (1, 2, 3)).save(animated / "first-0.png")
    with pytest.raises(InputError, match=r"first-0\.png"):
        export_rankings(labels, "main", out, overwrite=True)
    assert export_rankings(labels, "main", out, overwrite=True, skip_bad=True) == 1


def test_folders_of_two_models_meet_where_their_images_hold_the_same(labels: Store, animated: Path) -> None:
    other = animated.parent / "other"
    shutil.copytree(animated, other)
    for index, name in enumerate(sorted(each.name for each in other.glob("*.mp4"))):
        shutil.copy(animated / sorted(each.name for each in animated.glob("*.mp4"))[3 - index], other / name)
    import_tasks(labels, [animated, other], campaign="models")
    assert [len(task.videos) for task in labels.tasks("models")] == [4, 4]


def test_copies_of_a_task_and_backups_have_its_image(labels: Store, animated: Path, tmp_path: Path) -> None:
    import_tasks(labels, animated, campaign="main")
    gold = make_gold(labels, labels.tasks("main")[1].id, {"overall": [1, 2]})
    (copy,) = labels.tasks("main", kind="gold")
    assert copy.id == gold
    assert len(copy.images) == 2
    assert [each.id for each in copy.images] == [each.id for each in labels.tasks("main")[1].images]
    backup(tmp_path / "labels.db", tmp_path / "backup.db")
    restore(tmp_path / "backup.db", tmp_path / "restored.db")
    with Store(tmp_path / "restored.db") as restored:
        assert [[each.sha256 for each in task.images] for task in restored.tasks("main")] == [
            [each.sha256 for each in task.images] for task in labels.tasks("main")
        ]
    delete_campaign(labels, "main", "main")
    Image.new("RGB", (80, 60), (1, 2, 3)).save(animated / "first-0.png")
    import_tasks(labels, animated, campaign="anew")  # the changed file is no longer known by its old content


def test_only_who_was_given_a_task_sees_its_image_as_pixels_alone(labels: Store, animated: Path) -> None:
    picture = Image.new("RGB", (3000, 1500), (200, 0, 10))
    exif = picture.getexif()
    exif[0x010E] = "made by a secret model"
    picture.save(animated / "first-0.jpg", exif=exif)
    text = (animated / "metadata.jsonl").read_text().replace("first-0.png", "first-0.jpg")
    (animated / "metadata.jsonl").write_text(text)
    import_tasks(labels, animated, campaign="main")
    ada, bob = (labels.add_user(name, PASSWORD) for name in ("ada", "bob"))
    task = next_task(labels, ada, "main")
    assert task is not None
    assert (task.image, task.last_image) == (True, False)
    shown = shown_id(task.assignment, "image")
    media = visible_media(labels, ada, shown)
    assert media is not None
    assert visible_media(labels, bob, shown) is None
    assert visible_media(labels, ada, media.id) is None
    assert visible_media(labels, ada, shown_id(task.assignment, "last")) is None
    copy = shown_image(labels.uploads, media, labels.remote)
    with Image.open(copy) as image:
        assert (image.format, image.size, dict(image.getexif())) == ("PNG", (1280, 640), {})
    assert b"secret" not in copy.read_bytes()


def test_demonstrations_are_asked_for_with_an_image_and_exported_with_it(
    labels: Store, animated: Path, candidates: Path, tmp_path: Path
) -> None:
    import_tasks(labels, animated, campaign="main")
    image = animated / "first-0.png"
    assert ask(labels, "main", ["it moves", "it rests"], images=[(str(image), None), None]) == 2
    assert ask(labels, "main", ["it moves"]) == 1  # the same words without an image are another prompt
    videos = tmp_path / "library"
    videos.mkdir()
    shutil.copy(candidates / "secret-model-005-0.mp4", videos / "a.mp4")
    add_library(labels, "main", videos)
    user = labels.add_user("ada", PASSWORD)
    campaign = labels.campaign("main").id
    demonstrate(labels, user, 1, library(labels, campaign)[0].id)
    export_demonstrations(labels, "main", tmp_path / "sft")
    (demonstration,) = read_demonstrations(tmp_path / "sft")
    assert demonstration.images is not None
    assert file_hash(demonstration.images[0]) == file_hash(image)


@pytest.mark.parametrize("skip_bad", [False, True])
@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.png", None, "does not exist"),
        ("../../none.png", None, "does not exist"),
        ("text.png", b"<script>alert(1)</script>", "is not an image"),
        ("torn.png", "first-0.png", "is broken"),
        ("page.svg", b"<svg onload='alert(1)'/>", "page.svg"),
        ("metadata.jsonl", None, "metadata.jsonl"),
        ("wide.png", (9000, 2), "more than 8192 a side"),
        ("heavy.bmp", (1500, 1500), "MB, more than"),
        ("a\0b.png", None, "UTF-8"),
        (["first-0.png"], None, "must be the name of one file"),
    ],
)
def test_images_that_cannot_be_used_are_refused_and_nothing_is_imported(
    name: Any, content: Any, message: str, skip_bad: bool, labels: Store, animated: Path, monkeypatch
) -> None:
    monkeypatch.setattr(task_images, "MAXIMUM_BYTES", 5_000_000)
    if isinstance(content, tuple):
        Image.new("RGB", content).save(animated / name)
    elif isinstance(content, str):
        (animated / name).write_bytes((animated / content).read_bytes()[:-40])
    elif content is not None:
        (animated / name).write_bytes(content)
    rows = [json.loads(line) for line in (animated / "metadata.jsonl").read_text().splitlines()]
    for row in rows[:2]:
        row["image"] = name
    (animated / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    structural = message in ("UTF-8", "must be the name of one file")
    if not skip_bad or structural:
        with pytest.raises(InputError, match=message):
            import_tasks(labels, animated, campaign="main", skip_bad=skip_bad)
        assert labels.campaigns() == []
        return
    summary = import_tasks(labels, animated, campaign="main", skip_bad=True)
    assert summary.added == 1
    assert message in summary.problems[0]


def test_the_first_frame_of_a_video_may_be_the_image(labels: Store, candidates: Path) -> None:
    found = inspect_image(candidates / "secret-model-000-0.mp4")
    assert (found.content_type, found.num_frames, found.width) == ("image/png", 1, 64)
