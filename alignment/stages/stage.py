"""Parts of every stage around its trainer: output folder, generator, resuming, saving."""

from __future__ import annotations

import hashlib
import itertools
import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignment.data.clips import ClipChooser, ClipsWanted
from alignment.data.example_images import ExampleImages, TrainingClip, check_all_or_none, training_images
from alignment.memory.forecast import configured_generator, find_configurations
from alignment.memory.training_memory import memory_check
from alignment.stages.arguments import GeneratorArguments
from alignment.stages.outputs import command_of, training_outputs
from alignment.trainers.base_config import AlignmentConfig
from alignment.trainers.base_trainer import AlignmentTrainer
from alignment.trainers.rollout_config import RewardedSamplingConfig
from alignment.trainers.table import closing_figures, show_before_training
from generator.adapters.adapters import TRAINING_NAME
from generator.base import VideoGenerator
from generator.data.latent_cache import Clip, Size, encode_clips, encode_files
from generator.data.prompts import PromptRecord, read_prompts, require_prompt_file
from generator.editing.image_cache import ImageSource, size_of_latents
from generator.files.output_folder import Outputs, open_output_dir
from generator.first_frames import ImageFiles
from generator.hardware.context_parallel import (
    check_accelerator,
    check_shares_tokens,
    check_tokens,
    video_text,
)
from generator.hardware.zero3 import outside_engine
from generator.one_or_several import as_list
from generator.output import InputError
from generator.provenance import file_hash
from generator.sampling import video_size
from generator.training.checks import check_context_groups
from generator.training.output_dir import check_training_dir, goes_on_inside
from generator.video_model import require_one_model

if TYPE_CHECKING:
    from torch import Tensor

    from reward.models.base import RewardModel

logger = logging.getLogger(__name__)


def generator_inputs(arguments: GeneratorArguments) -> list[str]:
    """The files and folders that `load_generator_to_train` reads."""
    return [arguments.model, *(arguments.adapter or []), *arguments.files()]


def load_generator_to_train(
    arguments: GeneratorArguments,
    config: AlignmentConfig,
    size: tuple[int | None, int | None, int | None] | None = None,
) -> VideoGenerator:
    """The generator with the adapters to start from merged into its weights, on the training device.

    Args:
        size: frames, height and width of all videos that are trained on, the model's own where None; where it is None
            itself they are not known yet.
    """
    from generator import load_generator

    config.check_inputs()
    if config.context_parallel > 1:
        _check_context_groups(arguments.model, config, size)
    with outside_engine():
        generator = load_generator(
            arguments.model, adapter=arguments.adapter, device=config.device, **arguments.options()
        )
    require_one_model(generator, "One model is trained")
    return generator


def size_of_all(wanted: ClipsWanted) -> tuple[int | None, int | None, int | None] | None:
    """Frames, height and width of all clips that are trained on, where the arguments give them."""
    size = wanted.num_frames, wanted.height, wanted.width
    return None if None in size or wanted.area or wanted.frame_buckets else size


def _check_context_groups(
    model: str, config: AlignmentConfig, size: tuple[int | None, int | None, int | None] | None
) -> None:
    """Raises `InputError` where the model's configurations tell, before its weights are there, that a group of
    processes cannot share out its tokens."""
    check_context_groups(config.context_parallel, config.world_size)
    described = configured_generator(find_configurations(model))
    described.name = model
    check_shares_tokens(described, config.context_parallel)
    if size is not None:
        whole = video_size(described, *size)
        check_tokens(described, config.context_parallel, described.latent_shape(*whole), video_text(*whole))
    check_accelerator(config.context_parallel)


def read_training_prompts(
    source: str, config: RewardedSamplingConfig
) -> tuple[list[PromptRecord], list[str], list[ImageFiles] | None]:
    """Prompts to sample for, a negative prompt each, `config.negative_prompt` where a row has none, and images."""
    from reward.preferences import warn_of_few_prompts

    require_prompts(source)
    records = read_prompts(source)
    if config.process_index == 0:
        warn_of_few_prompts(
            (record.prompt for record in records),
            "the policy learns what the reward model likes of these alone",
        )
    return (
        records,
        [record.negative_prompt or config.negative_prompt for record in records],
        _images_of(source, records),
    )


def _images_of(source: str, records: Sequence[PromptRecord]) -> list[ImageFiles] | None:
    """First and last image of each prompt; None where none has any.

    Raises:
        InputError: some have, some have not.
    """
    images: list[ImageFiles] = [record.images for record in records if record.images is not None]
    if images and len(images) < len(records):
        raise InputError(
            f"Of the {len(records)} prompts in {source}, {len(images)} name an image: give one to all or to none."
        )
    return images or None


def require_prompts(source: str) -> None:
    """Raises `InputError` where there is nothing to sample for."""
    if not source:
        raise InputError("No prompts were given: pass --prompts FILE.")
    require_prompt_file(source)


def read_eval_prompts(
    source: str, trained: Sequence[str], config: RewardedSamplingConfig
) -> tuple[list[PromptRecord], list[str], list[ImageFiles] | None]:
    """Held-out prompts, a negative prompt each, and their images; empty where `source` is.

    Warns of those that are trained on too.
    """
    from generator.data.prompts import read_prompts

    records = read_prompts(source) if source else []
    shared = len({record.prompt for record in records} & set(trained))
    if shared and config.process_index == 0:
        logger.warning(
            f"Of the prompts in --eval_prompts {source}, {shared} are trained on too, so that eval_reward says less of "
            "new ones: hold them out."
        )
    return (
        records,
        [record.negative_prompt or config.negative_prompt for record in records],
        _images_of(source, records),
    )


def judge_reward_accuracy(rewards: Sequence[str | RewardModel], config: RewardedSamplingConfig) -> list[str]:
    """Warnings, one a trained reward model, of accuracies that may be chance; see `reward.certainty`.

    Raises:
        InputError: there is one, and `config.refuse_uncertain_reward`.
    """
    from reward.certainty import uncertain_accuracy

    names = [each if isinstance(each, str) else each.name for each in rewards]
    folders = dict.fromkeys(part.strip() for name in names for part in name.split(",") if part.strip())
    found = [uncertain_accuracy(folder, config.reward_dimension) for folder in folders]
    warnings = [each for each in found if each is not None]
    if warnings and config.refuse_uncertain_reward:
        raise InputError(warnings[0])
    if config.process_index == 0:
        for warning in warnings:
            logger.warning(warning)
    return warnings


def check_demonstration_term(ptx_coef: float, ptx_dataset: str) -> None:
    """Raises `InputError` where the weight of demonstrations and their folder are not given together."""
    if ptx_coef > 0 and not ptx_dataset:
        raise InputError("ptx_coef is above 0, but there are no demonstrations: give ptx_dataset.")
    if ptx_dataset and ptx_coef <= 0:
        raise InputError(
            f"--ptx_dataset is {ptx_dataset}, but ptx_coef is 0, so nothing would be learnt from it: set --ptx_coef, "
            "or leave --ptx_dataset out."
        )


def require_reward(rewards: Sequence[str | RewardModel]) -> None:
    """Raises `InputError` where there is nothing that judges videos."""
    if not rewards:
        raise InputError("No reward model was given: pass --reward FOLDER.")


def load_rewards(rewards: Sequence[str | RewardModel], config: AlignmentConfig) -> list[RewardModel]:
    """The reward models, those given by name loaded onto the training device."""
    from reward import load_reward

    with outside_engine():
        return [
            load_reward(each, device=config.device) if isinstance(each, str) else each for each in rewards
        ]


def encode_training_clips(
    generator: VideoGenerator,
    config: AlignmentConfig,
    groups: Sequence[Sequence[Path]],
    size: ClipsWanted,
    tiling: bool = False,
) -> list[list[TrainingClip]]:
    """Clips that are trained on of each group of video files, refused before the first is encoded where they are too
    large for this machine; none of a group that is left out.

    Args:
        groups: videos that are compared, or one each.
        size: sizes and lengths; see `alignment.data.clips.ClipChooser`.
    """
    packs = bool(getattr(config, "pack", False))
    native = packs if size.native_size is None else size.native_size
    videos = config.per_device_train_batch_size * max(map(len, groups)) * (2 if packs else 1)
    check, progress = _clip_check(generator, config, videos, tiling), not config.disable_tqdm
    chooser = ClipChooser(generator, size, native)
    if not chooser.is_asked_for:
        paths = [path for group in groups for path in group]
        asked = (size.num_frames, size.height, size.width)
        latents = encode_files(generator, paths, *asked, progress=progress, native_size=native, check=check)
        clips = [
            Clip(path, size_of_latents(generator, found.shape))
            for path, found in zip(paths, latents, strict=True)
        ]
        counts = [len(group) for group in groups]
    else:
        chosen = chooser.choose(groups)
        if speaks(config):
            print(*chosen.remarks(), sep="\n", end="\n" if chosen.remarks() else "")
        clips = [clip for each in chosen.clips for clip in each]
        latents = encode_clips(generator, clips, progress=progress, check=check)
        counts = [len(each) for each in chosen.clips]
    remaining = iter(map(TrainingClip, clips, latents))
    return [list(itertools.islice(remaining, count)) for count in counts]


def _clip_check(
    generator: VideoGenerator, config: AlignmentConfig, videos: int, tiling: bool
) -> Callable[[Path, Size, bool], None] | None:
    """`memory_check`, and the check that the tokens of each clip can be shared out, where they are."""
    fits = memory_check(generator, config, videos, tiling)
    if config.context_parallel == 1:
        return fits

    def check(path: Path, size: Size, is_encoded: bool) -> None:
        shape = generator.latent_shape(*size)
        check_tokens(generator, config.context_parallel, shape, f"{path} at {video_text(*size)}")
        if fits is not None:
            fits(path, size, is_encoded)

    return check


def prepare_images(
    generator: VideoGenerator,
    config: AlignmentConfig,
    source: str,
    files: Sequence[ImageFiles | None],
    clips: Sequence[Sequence[TrainingClip]],
) -> list[list[ImageSource]] | None:
    """Images of each group of clips, encoded and on disk; see `alignment.data.example_images.training_images`."""
    images = training_images(generator, source, files, clips)
    if images is not None:
        with config.main_process_first():
            latents = [[each.latents for each in group] for group in clips]
            ExampleImages(generator, images).prepare(latents, progress=not config.disable_tqdm)
    return images


def image_paths(files: Iterable[ImageFiles | None]) -> list[Path]:
    """The distinct files of images, in order."""
    return list(dict.fromkeys(Path(each) for given in files if given for each in given if each is not None))


def images_record(shown: Sequence[Any] | None, files: Sequence[Path]) -> dict[str, str]:
    """Fact for `training.json`: what a model was shown of images, if it was."""
    if shown is None:
        return {}
    return {"images": "named in the data" if files else "the first frame of each clip"}


def encode_demonstrations(
    generator: VideoGenerator,
    config: AlignmentConfig,
    folder: str,
    num_frames: int | None,
    height: int | None,
    width: int | None,
) -> tuple[list[Tensor], list[str], list[ImageSource] | None]:
    """Latents `[C, F, H, W]` and prompts of a folder of demonstrations, and their images where the model is shown any;
    see `encode_files`."""
    from generator.data.demonstrations import read_demonstrations

    demonstrations = read_demonstrations(folder)
    paths = [Path(demonstration.video) for demonstration in demonstrations]
    files = [demonstration.images for demonstration in demonstrations]
    check_all_or_none(folder, files, "demonstrations", False)
    latents = encode_files(generator, paths, num_frames, height, width, progress=not config.disable_tqdm)
    clips = [
        [TrainingClip(Clip(path, size_of_latents(generator, found.shape)), found)]
        for path, found in zip(paths, latents, strict=True)
    ]
    images = prepare_images(generator, config, folder, files, clips)
    prompts = [demonstration.prompt for demonstration in demonstrations]
    return latents, prompts, None if images is None else [each for (each,) in images]


def checkpoint_to_resume(config: AlignmentConfig, inputs: Iterable[str | Path] = ()) -> str | None:
    """Checks the output folder; returns the checkpoint to go on from, or None for a fresh start.

    See `check_training_dir`. What `overwrite` deletes goes when training starts, so that a mistake in the other
    arguments costs nothing.

    Args:
        inputs: files and folders that the command reads.

    Raises:
        InputError: the output folder may not be used, or the checkpoint does not exist.
    """
    prompts = [config.sample_prompts] if config.sample_prompts else []
    inputs = [*inputs, *prompts]
    return check_training_dir(config, _outputs(config), TRAINING_NAME, config.overwrite, inputs)


def _outputs(config: AlignmentConfig) -> Outputs:
    return training_outputs(command_of(type(config).__name__))


def speaks(config: AlignmentConfig) -> bool:
    """Returns whether this process says what is done: one of all, unless progress is hidden."""
    return config.process_index == 0 and not config.disable_tqdm


def train_and_save(trainer: AlignmentTrainer, checkpoint: str | None) -> None:
    """Trains, then writes the result and `trainer_state.json` (all logged metrics) into the output folder."""
    args = trainer.args
    trainer.accelerator.wait_for_everyone()  # all have looked at the folder before one writes into it
    if args.process_index == 0:
        go_on = goes_on_inside(args, checkpoint)
        open_output_dir(str(args.output_dir), _outputs(args), args.overwrite, go_on)
    show_before_training(trainer)
    trainer.train(resume_from_checkpoint=checkpoint)
    if trainer.eval_dataset is not None and trainer.evaluates_after_training:
        trainer.evaluate()
    trainer.save_model()
    trainer.save_state()
    if speaks(trainer.args):
        print(closing_figures(trainer.state.log_history))
        what = "adapter is" if trainer.lora.use_peft else "trained weights are"
        print(f"The {what} in {Path(str(trainer.args.output_dir))}.")


def data_record(source: str | Path, files: Iterable[Path], texts: Iterable[str]) -> dict[str, Any]:
    """Source of data and a SHA-256 of all its files and texts."""
    texts = as_list(texts)
    digest = hashlib.sha256()
    for path in dict.fromkeys(files):
        digest.update(file_hash(path).encode())
    for text in texts:
        digest.update(text.encode() + b"\0")
    return {"data": str(source), "data_sha256": digest.hexdigest()}
