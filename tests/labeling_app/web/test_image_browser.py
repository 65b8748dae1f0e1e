"""Image-to-video candidates ranked beside their image in a real browser, and trained on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image

from alignment.cli import main
from generator.provenance import file_hash
from generator.testing.pipelines import save_tiny_pipeline
from labeling_app.files.candidates import import_tasks
from labeling_app.files.rankings import export_rankings
from labeling_app.store.store import Store
from reward import load_reward

if TYPE_CHECKING:
    from playwright.sync_api import Page

PASSWORD = "correct horse"
PROMPTS = ("the boat leaves the harbour", "the bird lands")


@pytest.fixture
def store(sqlite_file: Path) -> Iterator[Store]:
    with Store(sqlite_file) as opened:
        yield opened


@pytest.fixture
def animated(candidates: Path, tmp_path: Path) -> Path:
    """Two prompts with an image and four videos each, as `vidalign generate` writes them."""
    folder = tmp_path / "animated"
    (folder / "images").mkdir(parents=True)
    rows: list[dict[str, Any]] = []
    for number, prompt in enumerate(PROMPTS):
        Image.new("RGB", (96, 64), (200, 90 * number, 30)).save(folder / "images" / f"secret-{number}.png")
        for index in range(4):
            name = f"secret-model-{number:03d}-{index}.mp4"
            shutil.copy(candidates / name, folder / name)
            rows.append({"file_name": name, "prompt": prompt, "image": f"images/secret-{number}.png"})
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def rank(page: Page) -> None:
    page.wait_for_function("document.querySelector('.given-image img')?.complete")
    for key in "1234":
        page.keyboard.press(key)
    page.wait_for_function(
        "document.querySelectorAll('.card').length && !document.querySelector('.card:not(.seen)')"
    )
    page.get_by_role("button", name="Submit").click()


def test_four_videos_are_ranked_beside_their_image_and_the_export_trains(
    page: Page,
    store: Store,
    animated: Path,
    serve: Callable[[Store], Any],
    serious_findings: Callable[[Any], list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import_tasks(store, animated, campaign="main")
    store.add_user("ada", PASSWORD)
    server = serve(store)
    addresses: list[str] = []
    page.on("request", lambda request: addresses.append(request.url))
    page.goto(server.url)
    page.get_by_label("Name").fill("ada")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Log in").click()
    for width, height, number in ((1280, 900, 0), (390, 844, 1)):
        page.set_viewport_size({"width": width, "height": height})
        page.wait_for_function(f"document.querySelector('.prompt-text')?.textContent === '{PROMPTS[number]}'")
        page.wait_for_function("document.querySelector('.given-image img')?.naturalWidth")
        seen = page.evaluate(
            """async () => {
                const image = document.querySelector('.given-image img');
                await image.decode();
                const canvas = document.createElement('canvas');
                canvas.getContext('2d').drawImage(image, 0, 0);
                const [red, green, blue] = canvas.getContext('2d').getImageData(5, 5, 1, 1).data;
                const box = image.getBoundingClientRect();
                return { size: [image.naturalWidth, image.naturalHeight], colour: [red, green, blue], alt: image.alt,
                         left: box.left, right: box.right, top: box.top, height: box.height };
            }"""
        )
        assert seen["size"] == [96, 64]
        assert seen["colour"] == [200, 90 * number, 30]
        assert seen["alt"] == "First image"
        assert 0 <= seen["left"] < seen["right"] <= width
        assert seen["height"] > 30
        assert seen["top"] < page.locator(".card").first.bounding_box()["y"]  # type: ignore[index]
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert serious_findings(page) == []
        rank(page)
    page.wait_for_selector(".the-end")
    assert [address for address in addresses if "secret" in address] == []
    assert "secret-" not in page.content()

    out = tmp_path / "rankings.jsonl"
    assert export_rankings(store, "main", out) == 2
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["image"] for row in rows] == [f"animated/images/secret-{i}.png" for i in range(2)]
    assert [row["image_sha256"] for row in rows] == [file_hash(tmp_path / row["image"]) for row in rows]

    monkeypatch.setenv("VIDALIGN_CACHE", str(tmp_path / "cache"))
    model = save_tiny_pipeline("wan-i2v", tmp_path / "wan-i2v")
    common = ["--model", model, "--preferences", out, "--num_frames", 5, "--height", 16, "--width", 16, "--report_to",
              "none", "--use_cpu", "true", "--max_steps", 1]  # fmt: skip
    more = {"dpo": ["--lora_r", 2, "--per_device_train_batch_size", 1], "reward": ["--held_out_fraction", 0]}
    for command, words in more.items():
        line = [command, *common, *words, "--output_dir", tmp_path / command]
        assert main([str(word) for word in line]) in (0, None)
    assert len(list((tmp_path / "cache" / "images").iterdir())) == 2
    assert json.loads((tmp_path / "dpo" / "training.json").read_text())["images"] == "named in the data"
    reward = load_reward(str(tmp_path / "reward"), device="cpu")
    video = reward.read_video(animated / "secret-model-000-0.mp4")
    assert reward.score(video[None], [PROMPTS[0]])["overall"].isfinite().all()


def test_a_prompt_to_demonstrate_is_shown_with_its_image(
    page: Page, store: Store, animated: Path, serve: Callable[[Store], Any], tmp_path: Path
) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text(json.dumps({"prompt": PROMPTS[0], "image": "animated/images/secret-0.png"}))
    words = [
        "label",
        "demonstrations",
        "--db",
        tmp_path / "labels.db",
        "--campaign",
        "demos",
        "--prompts",
        prompts,
    ]
    assert main([str(word) for word in words]) in (0, None)
    store.add_user("ada", PASSWORD)
    page.goto(f"{serve(store).url}/demonstrate/")
    page.get_by_label("Name").fill("ada")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Log in").click()
    page.wait_for_selector(".progress-text")
    page.goto(page.url.replace("/rank/", "/demonstrate/"))
    page.wait_for_function("document.querySelector('.given-image img')?.naturalWidth === 96")
