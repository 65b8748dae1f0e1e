"""The verbs of `vidalign label` for a lead: campaign rules, gold items, demonstrations, active selection."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from alignment.cli import Verb
from alignment.cli.commands.label_campaign import (
    CAMPAIGN_HELP,
    DB_HELP,
    CampaignArguments,
    command_line_user,
    run_campaign,
)
from generator.data.prompts import read_prompts
from generator.output import InputError, check_output_file, has_rows_with, write_jsonl
from generator.training.progress import SharedBar
from generator.training.shared_work import SharedWork, kept_results
from generator.video_files.remote_files import RemoteFiles
from labeling_app.campaigns.campaigns import add_campaign, import_gold
from labeling_app.campaigns.demonstrations import add_library, ask
from labeling_app.files.candidates import Candidates, inspect_video, read_candidates
from labeling_app.files.remote_candidates import as_source, inspected_images, kept_name, with_url
from labeling_app.selection.disagreement import SelectedPair, Selection, select_pairs
from labeling_app.selection.last_layer import read_last_layer, select_by_last_layer
from labeling_app.simulate import Score
from labeling_app.store.database import existing_database
from labeling_app.store.names import composed
from labeling_app.store.new_tasks import NewTask
from labeling_app.store.store import Store
from reward import load_reward
from reward.ranked_files import kept_files
from reward.scoring import folder_of_unfinished, score_videos

if TYPE_CHECKING:
    from reward.models.base import RewardModel
    from reward.models.latent import LatentRewardModel


@dataclass
class GoldArguments:
    """Hidden items whose answers are known."""

    db: str = field(metadata={"help": DB_HELP})
    rankings: str = field(metadata={"help": "Rankings file (JSONL) whose ranks are the known answers."})
    campaign: str = field(default="default", metadata={"help": CAMPAIGN_HELP})


@dataclass
class DemonstrationArguments:
    """Prompts that annotators are asked to answer by videos."""

    db: str = field(metadata={"help": DB_HELP})
    prompts: str | None = field(
        default=None, metadata={"help": "Prompts to demonstrate, one a line or JSONL."}
    )
    campaign: str = field(default="default", metadata={"help": "Name of the campaign; made if it is new."})
    wanted: int = field(default=1, metadata={"help": "Demonstrations a prompt, each by another person."})
    library: str | None = field(
        default=None, metadata={"help": "Folder of videos that annotators may choose."}
    )


@dataclass
class SelectArguments:
    """Choice of the pairs of candidates that annotators compare next."""

    db: str = field(metadata={"help": DB_HELP})
    videos: list[str] = field(
        metadata={
            "help": "Folders or JSONL files with candidates, or their URLs (s3://…), as for `label import`."
        }
    )
    reward: list[str] = field(
        metadata={
            "help": "Current reward model: of a latent one the doubt of its last layer counts; of others give two or "
            "more (other seeds), whose disagreement tells doubt from noise."
        }
    )
    count: int = field(metadata={"help": "Pairs to pick."})
    campaign: str = field(
        default="default", metadata={"help": "Name of the campaign that gets them; made if it is new."}
    )
    overlap: int | None = field(
        default=None, metadata={"help": "Different annotators a pair, for a new campaign."}
    )
    dimension: str = field(
        default="overall", metadata={"help": "Dimension of the reward and of the campaign."}
    )
    random_share: float = field(
        default=0.2, metadata={"help": "Share picked at random, for evaluating reward models without bias."}
    )
    temperature: float = field(
        default=1.0,
        metadata={"help": "Scale of score differences; below 1 for annotators surer than the rewards."},
    )
    seed: int = field(default=0, metadata={"help": "Seed of the random share."})
    output_file: str | None = field(
        default=None,
        metadata={"help": "Also write the pairs as JSONL, with their bits and which are random."},
    )
    overwrite: bool = field(default=False, metadata={"help": "Replace the output file if it exists."})


def run_gold(arguments: GoldArguments) -> None:
    """Adds gold items."""
    with Store(existing_database(arguments.db)) as store:
        added = import_gold(store, arguments.rankings, arguments.campaign)
        store.record(command_line_user(), "add gold items", campaign=arguments.campaign, items=added)
        share = store.campaign(arguments.campaign).gold_share
    advice = "" if share else " Set their share: vidalign label campaign --gold_share 0.1."
    print(f"{added} new gold item(s) in campaign {arguments.campaign}.{advice}")


def run_demonstrations(arguments: DemonstrationArguments) -> None:
    """Asks for demonstrations and offers videos to choose from."""
    if arguments.prompts is None and arguments.library is None:
        raise InputError("There is nothing to add: give --prompts, --library or both.")
    prompts = read_prompts(arguments.prompts) if arguments.prompts else []
    with Store(arguments.db) as store:
        if composed(arguments.campaign) not in {row.name for row in store.campaigns()}:
            add_campaign(store, arguments.campaign)
            store.record(command_line_user(), "add campaign", campaign=arguments.campaign)
        if prompts:
            texts = [each.prompt for each in prompts]
            images = [None if each.image is None else (each.image, each.last_image) for each in prompts]
            added = ask(store, arguments.campaign, texts, arguments.wanted, images)
            store.record(
                command_line_user(), "ask for demonstrations", campaign=arguments.campaign, prompts=added
            )
            print(f"{added} new prompt(s) wait for {arguments.wanted} video(s) each.")
        if arguments.library is not None:
            added = add_library(store, arguments.campaign, arguments.library)
            store.record(command_line_user(), "add library", campaign=arguments.campaign, videos=added)
            print(f"{added} new video(s) to choose from.")


def run_select(arguments: SelectArguments) -> None:
    """Picks pairs, adds them to the campaign and says what they are expected to bring."""
    _check_selection(arguments)
    remote = kept_files()
    candidates = read_candidates([as_source(source) for source in arguments.videos], remote)
    work = SharedWork()
    paths = [path for item in candidates for path in item.videos]
    work.first(lambda: remote.fetch_all(paths))
    remote.fetch_all(paths, progress=False)  # by processes of other machines
    models = [load_reward(name) for name in arguments.reward]
    judged = _judged(arguments, candidates, models, work)
    if not work.is_first:
        return
    with Store(arguments.db) as store:
        taken = frozenset(_labelled(store, candidates, remote))
        picked = _pick(arguments, judged, models, taken)
        new = store.add_tasks(
            arguments.campaign,
            [_task(candidates, pair, remote) for pair in picked.pairs],
            overlap=arguments.overlap,
            dimensions=[arguments.dimension],
        )
        store.record(command_line_user(), "select pairs", campaign=arguments.campaign, tasks=new)
    if arguments.output_file:
        write_jsonl(arguments.output_file, [_row(candidates, pair, remote) for pair in picked.pairs])
    at_random = sum(pair.random for pair in picked.pairs)
    print(f"{new} pair(s) in campaign {arguments.campaign}, {at_random} of them picked at random.")
    print(
        f"Expected information: {picked.expected_bits:.2f} bits, as much as "
        f"{picked.worth_in_random_pairs:.0f} random pairs."
    )
    if len(models) == 1 and not _has_last_layer(models[0]):
        print(
            "With one such reward model this counts the noise of annotators too: give two or more for less."
        )


def _check_selection(arguments: SelectArguments) -> None:
    if not 0 < arguments.temperature < math.inf:
        raise InputError(f"temperature is {arguments.temperature}: give a number above 0.")
    if arguments.seed < 0:
        raise InputError(f"seed is {arguments.seed}: give 0 or more.")
    path = Path(arguments.output_file) if arguments.output_file else None
    if path is not None:
        check_output_file(path, arguments.overwrite, _is_pairs_file, "a file of selected pairs")


def _is_pairs_file(path: Path) -> bool:
    return has_rows_with(path, "prompt", "videos", "bits", "random")


def _judged(
    arguments: SelectArguments,
    candidates: Sequence[Candidates],
    models: Sequence[RewardModel],
    work: SharedWork,
) -> list[tuple[np.ndarray, np.ndarray | None]]:
    """For each prompt the scores `[rewards, candidates]`, and `[candidates, width]` what the last layer of a single
    latent reward model reads."""
    keys = [(item.prompt, path) for item in candidates for path in item.videos]
    dimension = arguments.dimension
    if len(models) == 1 and _has_last_layer(models[0]):
        latent = cast("LatentRewardModel", models[0])
        _check_dimension(arguments.reward[0], latent, dimension)

        def read(item: Candidates) -> list[list[Any]]:
            return [each.tolist() for each in read_last_layer(latent, item.videos, item.prompt, dimension)]

        folder = folder_of_unfinished("last layer", arguments.reward[0], [dimension, *keys])
        with SharedBar(len(candidates), "Scoring candidates", "prompt", work) as bar:
            found = kept_results(work, candidates, read, folder, bar.show, lambda _: bar.add())
        return [(np.array([scores]), np.array(inputs)) for scores, inputs in found]
    tables = []
    for model, name in zip(models, arguments.reward, strict=True):
        scores = score_videos(model, keys, batch_size=1, work=work, source=name)
        some = next(iter(scores.values()))
        if dimension not in some:
            raise InputError(_lacks(name, dimension, some))
        tables.append({key: each[dimension] for key, each in scores.items()})
    return [
        (np.array([[table[item.prompt, path] for path in item.videos] for table in tables]), None)
        for item in candidates
    ]


def _pick(
    arguments: SelectArguments,
    judged: Sequence[tuple[np.ndarray, np.ndarray | None]],
    models: Sequence[RewardModel],
    taken: frozenset[tuple[int, int, int]],
) -> Selection:
    """By the last layer of one latent reward model, else by what the reward models disagree about."""
    asked = (arguments.count, arguments.random_share)
    inputs = [each for _, each in judged if each is not None]
    if not inputs:
        scores = [each for each, _ in judged]
        return select_pairs(scores, *asked, arguments.temperature, arguments.seed, taken)
    model = cast("LatentRewardModel", models[0])
    temperature = arguments.temperature * model.config.temperature.get(arguments.dimension, 1.0)
    first = [each[0] for each, _ in judged]
    return select_by_last_layer(first, inputs, *asked, temperature, arguments.seed, taken)


def _has_last_layer(model: RewardModel) -> bool:
    from reward.models.latent import LatentRewardModel

    return isinstance(model, LatentRewardModel)


def _check_dimension(name: str, model: RewardModel, dimension: str) -> None:
    if dimension not in model.dimensions:
        raise InputError(_lacks(name, dimension, model.dimensions))


def _lacks(name: str, dimension: str, known: Iterable[str]) -> str:
    return f"The reward {name!r} has no dimension {dimension!r} (it has: {', '.join(known)}): use another."


def _labelled(
    store: Store, candidates: Sequence[Candidates], remote: RemoteFiles
) -> set[tuple[int, int, int]]:
    """Pairs (prompt, first, second) that meet in a task of any campaign."""
    met = {
        (task.prompt, frozenset(pair))
        for campaign in store.campaigns()
        for task in store.tasks(campaign.name)
        for pair in combinations([video.media.path for video in task.videos], 2)
    }
    return {
        (number, first, second)
        for number, item in enumerate(candidates)
        for first, second in combinations(range(len(item.videos)), 2)
        if (item.prompt, frozenset(kept_name(item.videos[i], remote) for i in (first, second))) in met
    }


def _task(candidates: Sequence[Candidates], pair: SelectedPair, remote: RemoteFiles) -> NewTask:
    item = candidates[pair.prompt]
    paths = [item.videos[i] for i in (pair.first, pair.second)]
    videos = tuple(with_url(inspect_video(path), path, remote) for path in paths)
    return NewTask(item.prompt, videos, *inspected_images(item.images, remote))


def _row(candidates: Sequence[Candidates], pair: SelectedPair, remote: RemoteFiles) -> dict[str, object]:
    item = candidates[pair.prompt]
    videos = [kept_name(item.videos[i], remote) for i in (pair.first, pair.second)]
    return {"prompt": item.prompt, "videos": videos, "bits": round(pair.bits, 6), "random": pair.random}


def reward_score(name: str, dimension: str) -> Score:
    """A reward model as a function of a video file and its prompt.

    Raises:
        InputError: there is no such reward, or (when called) it lacks the dimension.
    """
    return score_of(load_reward(name), name, dimension)


def score_of(model: RewardModel, name: str, dimension: str) -> Score:
    """As `reward_score`, of a loaded model."""

    def score(video: Path, prompt: str) -> float:
        frames, fps = model.read_video_and_rate(video)
        model.set_frame_rate(fps)
        scores = model.score(frames[None], [prompt])
        if dimension not in scores:
            raise InputError(_lacks(name, dimension, scores))
        return float(scores[dimension][0])

    return score


LEAD_VERBS = {
    "campaign": Verb(
        "List, make, change, pause, close or delete campaigns.", (CampaignArguments,), run_campaign
    ),
    "gold": Verb("Add hidden items with known answers.", (GoldArguments,), run_gold),
    "demonstrations": Verb(
        "Ask for videos that answer prompts.", (DemonstrationArguments,), run_demonstrations
    ),
    "select": Verb("Pick the pairs that teach the reward model most.", (SelectArguments,), run_select),
}
