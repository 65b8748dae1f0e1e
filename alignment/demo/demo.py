"""The whole loop on the built-in model: demonstrations, SFT, rankings, reward model, DPO, PPO, evaluation.

Every stage reads from files and the database what the stages before it wrote, through the same stages as the
commands, and leaves what it found out in `stages.json`. A run that was interrupted skips finished stages, and
goes on inside an unfinished one where that stage can.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from alignment.demo.gold import FPS, GoldMonitor, gold_scores
from alignment.demo.outputs import DEMONSTRATIONS, OUTPUTS, STAGES_FILE
from alignment.demo.plan import describe_demo
from alignment.demo.report import write_demo_report
from alignment.demo.scales import GUIDANCE_SCALES, STAGES, DemoConfig, demo_scale
from alignment.demo.settings import (
    distilled_guidance,
    dpo_settings,
    ppo_settings,
    reward_settings,
    reward_start,
    sft_settings,
    video_size,
)
from alignment.demo.stage_bar import StageBar
from alignment.demo.themes import theme_demonstrations, theme_prompts
from alignment.lora import LoraArguments
from alignment.rewriting.arguments import RewriterArguments, rewritten, rewritten_text
from alignment.stages.arguments import GeneratorArguments
from alignment.stages.dpo import DPOArguments, train_dpo
from alignment.stages.on_rewards import train_ppo
from alignment.stages.sft import SFTArguments, train_sft
from alignment.trainers.dpo_config import DPOConfig
from alignment.trainers.ppo_config import PPOConfig
from alignment.trainers.sft_config import SFTConfig
from generator import load_generator
from generator.base import VideoGenerator
from generator.data.demonstrations import write_demonstrations
from generator.data.prompts import PromptRecord
from generator.files.model_folders import find_pipeline
from generator.files.output_folder import check_output_dir, empty_own, open_output_dir, require_own
from generator.generation import GenerationSettings, generate_videos_to, missing_videos, plan_videos
from generator.output import InputError, read_json, read_jsonl, write_json, write_jsonl
from generator.training.checkpoints import newest_checkpoint
from generator.video import read_video
from labeling_app.files.candidates import import_tasks
from labeling_app.files.rankings import export_rankings
from labeling_app.quality.agreement import agreement
from labeling_app.simulate import SimulatedAnnotator, precomputed_scores, simulate
from labeling_app.store.store import Store
from reward.preferences import read_rankings
from reward.reports.comparison import compare_models
from reward.training.outputs import OUTPUTS as REWARD_OUTPUTS
from reward.training.reward_config import RewardConfig
from reward.training.train import train_reward_model

CAMPAIGN = "demo"


def sample_annotators(count: int) -> list[SimulatedAnnotator]:
    """Annotators who differ in noise, in how fine they grade, and in their bias to the left and to motion."""
    return [
        SimulatedAnnotator(
            name=f"simulated-{number + 1}",
            noise=(0.08, 0.14, 0.2)[number % 3],
            tie_threshold=(0.08, 0.12, 0.16)[number % 3],
            position_bias=(0.0, 0.03, 0.0)[number % 3],
            motion_bias=(0.0, 0.0, 0.03)[number % 3],
        )
        for number in range(count)
    ]


class Fraction(TrainerCallback):
    """Tells the progress bar how far a training is."""

    def __init__(self, advance: Callable[[float], None]) -> None:
        self.advance = advance

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.advance(state.global_step / max(state.max_steps, 1))


class Demo:
    """One run of the loop in one folder."""

    def __init__(self, config: DemoConfig) -> None:
        self.config = config
        self.scale = demo_scale(config.scale, torch.cuda.is_available())
        self.reward_start = reward_start(config, self.scale)
        self.folder = Path(config.output_dir)
        self.stages_file = self.folder / STAGES_FILE
        self.stages: dict[str, Any] = {}
        self.advance: Callable[[float], None] = lambda share: None

    # Running

    def run(self) -> Path:
        """Runs what is left and returns the path of the report.

        Raises:
            InputError: the folder holds something else than an unfinished demo with the same settings.
        """
        find_pipeline(self.config.model)
        self._open()
        remaining = [stage for stage in STAGES if stage not in self.stages]
        print(describe_demo(self.config, self.scale, len(STAGES) - len(remaining)), flush=True)
        bar = StageBar(self.scale.seconds, remaining)
        self.advance = bar.advance
        with bar.ticking():
            for stage in remaining:
                bar.begin(stage)
                started = time.monotonic()
                with self._quietly(stage):
                    found = getattr(self, stage)()
                self.stages[stage] = {"seconds": round(time.monotonic() - started, 1), **found}
                write_json(self.stages_file, {"settings": self._settings(), "stages": self.stages})
                bar.end()
        return self.folder / "report.html"

    def _settings(self) -> dict[str, Any]:
        return {
            "model": self.config.model,
            "adapter": self.config.adapter,
            "reward": self.reward_start,
            "theme": self.config.theme,
            **({"rewriter": self.config.rewriter} if self.config.rewriter else {}),
            "seed": self.config.seed,
            **json.loads(json.dumps(asdict(self.scale))),
        }

    def _open(self) -> None:
        if not self.config.overwrite and self.stages_file.is_file():
            require_own(self.folder, OUTPUTS)
            stored = self._stored()
            if stored["settings"] != self._settings():
                raise InputError(
                    f"{self.folder} holds a demo with other settings: name another folder, or pass --overwrite."
                )
            self.stages = stored["stages"]
            open_output_dir(self.folder, OUTPUTS, go_on=True)
            return
        check_output_dir(self.folder, OUTPUTS, self.config.overwrite)
        self._load_start()  # a name that is wrong is found before anything is deleted
        self._records(["a red circle"])
        open_output_dir(self.folder, OUTPUTS, self.config.overwrite)
        write_json(self.stages_file, {"settings": self._settings(), "stages": {}})

    def _stored(self) -> dict[str, Any]:
        try:
            stored = read_json(self.stages_file)
            return {"settings": stored["settings"], "stages": dict(stored["stages"])}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{self.stages_file} is damaged, so the demo cannot go on: pass --overwrite or name another folder."
            ) from error

    @contextlib.contextmanager
    def _quietly(self, stage: str) -> Iterator[None]:
        """Sends a stage's output to `logs/`, so that one progress bar tells the whole story."""
        log = self.folder / "logs" / f"{stage}.txt"
        log.parent.mkdir(exist_ok=True)
        with log.open("a", encoding="utf-8") as file, contextlib.redirect_stdout(file):
            yield

    def _size(self) -> dict[str, Any]:
        return video_size(self.scale)

    def _training(self, stage: str, steps: int) -> dict[str, Any]:
        """Arguments that SFT, DPO and PPO share here."""
        return {
            "output_dir": str(self.folder / stage),
            "seed": self.config.seed,
            "data_seed": self.config.seed,
            "disable_tqdm": True,
            "resume_from_checkpoint": "latest",
            "save_total_limit": 1,
            "report_to": ["tensorboard"],
            "save_steps": max(steps // 3, 1),
        }

    def _prompts(self, count: int, first_seed: int, split: str = "train") -> list[str]:
        """Prompts of the theme; stages differ in `first_seed`."""
        return theme_prompts(self.config.theme, count, first_seed + self.config.seed, split)

    def _records(self, prompts: Sequence[str]) -> list[PromptRecord]:
        """The prompts with their rewritten texts, where a rewriter is asked for."""
        asked = RewriterArguments(rewriter=self.config.rewriter)
        return rewritten(
            asked, [PromptRecord(prompt) for prompt in prompts], self.config.model, progress=False
        )[0]

    def _adapter(self) -> str:
        return str(self.folder / "sft")

    def _load_start(self) -> VideoGenerator:
        """The generator that the loop begins with."""
        return load_generator(self.config.model, adapter=self.config.adapter or None)

    # The stages, in the order in which they happen

    def demonstrations(self) -> dict[str, Any]:
        """Rendered clips with prompts of the training split, written as mp4 and metadata.jsonl."""
        prompts, clips = theme_demonstrations(
            self.config.theme, self.scale.num_demonstrations, 1000 + self.config.seed, **self._size(), fps=FPS
        )
        folder = self.folder / "demonstrations"
        empty_own(folder, DEMONSTRATIONS)
        write_demonstrations(folder, clips, prompts, FPS)
        gold = gold_scores(clips, prompts)
        return {"videos": len(prompts), "gold": sum(gold) / len(gold)}

    def sft(self) -> dict[str, Any]:
        """Supervised fine-tuning of a LoRA adapter on the demonstrations."""
        base = [self.config.adapter] if self.config.adapter else None
        trainer = train_sft(
            GeneratorArguments(model=self.config.model, adapter=base),
            SFTArguments(dataset=str(self.folder / "demonstrations"), **self._size()),
            lora=LoraArguments(lora_r=16),
            args=SFTConfig(
                **self._training("sft", self.scale.sft_steps),
                **sft_settings(self.scale, distilled_guidance(self.config.adapter)),
            ),
            callbacks=[Fraction(self.advance)],
        )
        return {"curve": _curve(trainer, ["loss"])}

    def candidates(self) -> dict[str, Any]:
        """Several videos of each prompt by the SFT model, written as mp4 and metadata.jsonl."""
        scale, folder = self.scale, self.folder / "candidates"
        records = self._records(self._prompts(scale.num_ranked_prompts, 2000))
        generator = load_generator(self.config.model, adapter=self._adapter())
        plan = plan_videos(records, scale.num_candidates, 10_000, lambda _, index: f"{index:04d}.mp4")
        missing = missing_videos(folder, plan)
        made = 0
        for batch, _ in generate_videos_to(folder, missing, generator.generate, self._sampling(), FPS):
            made += len(batch)
            self.advance(made / len(missing))
        rows = [
            {
                "file_name": each.file_name,
                "prompt": each.record.prompt,
                **rewritten_text(each.record),
                "seed": each.seed,
            }
            for each in plan
        ]
        write_jsonl(folder / "metadata.jsonl", rows)
        return {"videos": len(rows), "prompts": len(records)}

    def _sampling(self) -> GenerationSettings:
        """Size and sampling of candidates and of the evaluation's videos."""
        return GenerationSettings(
            **self._size(),
            num_inference_steps=self.scale.num_inference_steps,
            batch_size=self.scale.inference_batch_size,
        )

    def annotators(self) -> dict[str, Any]:
        """Simulated annotators rank the candidates through the store; their rankings are exported."""
        rows = [row for _, row in read_jsonl(self.folder / "candidates" / "metadata.jsonl")]
        paths = [self.folder / "candidates" / row["file_name"] for row in rows]
        videos = torch.stack([read_video(path)[0] for path in paths])
        gold = gold_scores(videos, [row["prompt"] for row in rows])
        people = sample_annotators(self.scale.num_annotators)
        with Store(self.folder / "labels.db") as store:
            import_tasks(
                store, self.folder / "candidates", campaign=CAMPAIGN, overlap=len(people), copy=False
            )
            scores = precomputed_scores(dict(zip(paths, gold, strict=True)))
            done = simulate(store, CAMPAIGN, scores, annotators=people, seed=self.config.seed)
            count = export_rankings(store, CAMPAIGN, self.folder / "rankings.jsonl", overwrite=True)
            agreed = asdict(agreement(store, CAMPAIGN))
            agreed.pop("annotators", None)
        return {
            "rankings": count,
            "simulated": True,
            "annotators": [asdict(person) for person in people],
            "agreement": agreed,
            "best_possible_accuracy": done.best_possible_pair_accuracy(),
            "gold": sum(gold) / len(gold),
        }

    def reward(self) -> dict[str, Any]:
        """The reward model, trained on the rankings."""
        output_dir = self.folder / "reward"
        open_output_dir(output_dir, REWARD_OUTPUTS, go_on=True)
        source = self.folder / "rankings.jsonl"
        start = self.reward_start or None
        adapter = None if start else self._adapter()
        _, metrics = train_reward_model(
            load_generator(self.config.model, adapter=adapter),
            read_rankings(source),
            RewardConfig(
                output_dir=str(output_dir),
                resume_from_checkpoint=newest_checkpoint(output_dir),
                seed=self.config.seed,
                disable_tqdm=True,
                **reward_settings(self.scale, start is not None),
            ),
            trunk_adapter=adapter,
            source=source,
            weights_from=start,
            callbacks=[Fraction(self.advance)],
        )
        return {"metrics": metrics}

    def dpo(self) -> dict[str, Any]:
        """Direct preference optimisation on the annotators' merged rankings, from the SFT adapter."""
        trainer = train_dpo(
            GeneratorArguments(model=self.config.model, adapter=[self._adapter()]),
            DPOArguments(
                preferences=str(self.folder / "rankings.jsonl"), merge_annotators=True, **self._size()
            ),
            lora=LoraArguments(lora_r=16),
            args=DPOConfig(**self._training("dpo", self.scale.dpo_steps), **dpo_settings(self.scale)),
            callbacks=[Fraction(self.advance)],
        )
        return {"curve": _curve(trainer, ["loss", "rewards/margins", "rewards/accuracies"])}

    def ppo(self) -> dict[str, Any]:
        """Proximal policy optimisation against the reward model, from the DPO adapter."""
        scale = self.scale
        prompts, held_out = self.folder / "ppo-prompts.jsonl", self.folder / "ppo-eval-prompts.jsonl"
        drawn = self._prompts(scale.num_ppo_prompts + scale.num_guidance_prompts, 3000)
        rows = [{"prompt": each.prompt, **rewritten_text(each)} for each in self._records(drawn)]
        write_jsonl(prompts, rows[: scale.num_ppo_prompts])
        write_jsonl(held_out, rows[scale.num_ppo_prompts :])
        monitor = GoldMonitor(load_generator(self.config.model))
        trainer = train_ppo(
            GeneratorArguments(model=self.config.model, adapter=[str(self.folder / "dpo")]),
            prompts,
            self.folder / "reward",
            lora=LoraArguments(lora_r=16),
            args=PPOConfig(
                **self._training("ppo", scale.num_rollouts * 2),
                **ppo_settings(scale, bool(self.reward_start)),
            ),
            eval_prompts=held_out,
            monitors=[monitor],
            callbacks=[Fraction(self.advance)],
        )
        return {
            "curve": _curve(trainer, ["reward", "gold", "kl", "clip_ratio"]),
            "best_step": trainer.state.best_global_step,
        }

    def _models(self) -> dict[str, Callable[[], VideoGenerator]]:
        """Functions that load what is compared, by name: `base` without the adapter that the loop begins with, which is
        `start`."""
        start = {"start": self._load_start} if self.config.adapter else {}
        trained = {name: self._loader(name) for name in ("sft", "dpo", "ppo")}
        return {"base": lambda: load_generator(self.config.model), **start, **trained}

    def guidance(self) -> dict[str, Any]:
        """Mean gold score of each model at several guidance scales, on prompts that the evaluation does not use."""
        scale, settings = self.scale, self._sampling()
        prompts = self._prompts(scale.num_guidance_prompts, 5000, "test")
        texts = [record.model_prompt for record in self._records(prompts)]
        seeds = list(range(60_000, 60_000 + len(prompts)))
        models = self._models()
        total, done = len(models) * len(GUIDANCE_SCALES) * len(prompts), 0
        found: dict[str, dict[str, float]] = {}
        for name, load in models.items():
            generator, means = load(), {}
            for guidance in GUIDANCE_SCALES:
                scores: list[float] = []
                for start in range(0, len(prompts), settings.batch_size):
                    part = slice(start, start + settings.batch_size)
                    videos = generator.generate(
                        texts[part],
                        **self._size(),
                        num_inference_steps=scale.num_inference_steps,
                        guidance_scale=guidance,
                        seed=seeds[part],
                        batch_size=settings.batch_size,
                    )
                    scores += gold_scores(videos, prompts[part])
                    done += len(videos)
                    self.advance(done / total)
                means[f"{guidance:g}"] = sum(scores) / len(scores)
            found[name] = means
        best = {
            name: float(max(means, key=lambda guidance: means[guidance])) for name, means in found.items()
        }
        return {"gold": found, "best": best, "prompts": len(prompts)}

    def evaluation(self) -> dict[str, Any]:
        """All models on held-out prompts with the same seeds, each at the guidance that was best for it in
        the sweep, judged from the pixels."""
        scale = self.scale
        folder = self.folder / "evaluation"
        prompts = self._prompts(scale.num_test_prompts, 4000, "test")
        best = self.stages["guidance"]["best"]
        summary = compare_models(
            {name: partial(_with_guidance, load, best[name]) for name, load in self._models().items()},
            self._records(prompts),
            folder,
            num_videos_per_prompt=scale.num_videos_per_prompt,
            seed=50_000,
            generation=self._sampling(),
            references=["base", "sft"],
            settings={"guidance": {name: best[name] for name in self._models()}},
            overwrite=(folder / "report.json").is_file(),
            progress=False,
            on_progress=self.advance,
        )
        return {"summary": summary}

    def _loader(self, stage: str) -> Callable[[], VideoGenerator]:
        return lambda: load_generator(self.config.model, adapter=str(self.folder / stage))

    def report(self) -> dict[str, Any]:
        """One page that tells what happened, and its JSON twin."""
        write_demo_report(self.folder, self._settings(), self.stages)
        return {}


def _with_guidance(load: Callable[[], VideoGenerator], guidance_scale: float) -> VideoGenerator:
    """Loads a generator whose default guidance is `guidance_scale`."""
    generator = load()
    generator.defaults = replace(generator.defaults, guidance_scale=guidance_scale)
    return generator


def _curve(trainer: Any, names: list[str]) -> dict[str, list[list[float]]]:
    """`{metric: [[step, value], …]}` of what the trainer logged."""
    history = trainer.state.log_history
    return {
        name: [[row["step"], row[name]] for row in history if name in row]
        for name in names
        if any(name in row for row in history)
    }
