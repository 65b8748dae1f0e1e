"""`vidalign doctor`: what this machine has and what will run on it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from packaging.requirements import Requirement

from generator.one_or_several import as_list
from generator.output import check_output_file, write_json
from generator.training.checks import check

HELP = (
    "Report what this machine has (processors, memory, GPUs, packages, codecs, disk) and what will run on it."
)
EXAMPLE = "vidalign doctor --model Wan-AI/Wan2.1-T2V-1.3B-Diffusers --num_frames 33 --height 240 --width 416"

GIB = 2**30


@dataclass
class DoctorArguments:
    """Subjects of the examination."""

    output_dir: str = field(default=".", metadata={"help": "Folder whose disk is looked at."})
    json: str | None = field(default=None, metadata={"help": "Also write what was found to this file."})
    model: str | None = field(
        default=None,
        metadata={
            "help": "Also say how much GPU memory each method needs on this model (a folder or a hub id, of "
            "which only configurations are read), and with which flags it fits."
        },
    )
    num_frames: int | None = field(
        default=None, metadata={"help": "Frames; the model's own number if unset."}
    )
    height: int | None = field(default=None, metadata={"help": "Pixels; the model's own height if unset."})
    width: int | None = field(default=None, metadata={"help": "Pixels; the model's own width if unset."})
    lora_r: int = field(default=16, metadata={"help": "Rank of the adapters."})
    reward: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Also look at these rewards, as `--reward` of `ppo` names them: folder, weights, server. With "
            "--model, their memory is in the forecast."
        },
    )
    reward_num_frames: int | None = field(
        default=None,
        metadata={
            "help": "Frames that `backprop` decodes for rewards on pixels, for the forecast; all if unset."
        },
    )
    context_parallel: int = field(
        default=1,
        metadata={"help": "GPUs that share out the tokens of each video in training, for the forecast."},
    )
    gpu_memory: float | None = field(
        default=None,
        metadata={"help": "Memory of the GPU in GB to plan for; that of the smallest GPU here if unset."},
    )

    def __post_init__(self) -> None:
        self.reward = as_list(self.reward) if self.reward else []
        check(self.context_parallel >= 1, "context_parallel", self.context_parallel, "at least 1")


ARGUMENTS = (DoctorArguments,)


def run(arguments: DoctorArguments) -> None:
    """Prints what was found; a missing part is a line of the report and not an error."""
    if arguments.json is not None:
        check_output_file(arguments.json, True, _is_report, "a report of vidalign doctor")
    found: dict[str, Any] = {
        "machine": machine(Path(arguments.output_dir)),
        "gpus": gpus(),
        "packages": packages(),
        "video": video_codecs(),
        "rewards": rewards(arguments.reward),
    }
    for title, lines in (
        ("Machine", machine_lines(found["machine"])),
        ("GPUs", gpu_lines(found["gpus"])),
        ("Packages", [line(package["fits"], package["says"]) for package in found["packages"]]),
        ("Video files", [line(works, name) for name, works in found["video"].items()]),
        (
            "Rewards by name",
            [
                *(line(each["ready"], reward_line(each)) for each in found["rewards"]),
                *mixture_lines(arguments.reward),
            ],
        ),
        ("What will run", advice(found)),
    ):
        print("\n".join([title, *(f"  {text}" for text in lines)]) + "\n")
    if arguments.model is not None:
        found["model"] = model_plan(arguments, found["gpus"])
        print(
            "\n".join([f"Memory of {arguments.model}", *(f"  {text}" for text in found["model"]["lines"])])
            + "\n"
        )
    if arguments.json is not None:
        write_json(arguments.json, found)


def _is_report(path: Path) -> bool:
    try:
        return {"machine", "packages"} <= json.loads(path.read_text(encoding="utf-8")).keys()
    except (OSError, ValueError, AttributeError):
        return False


def model_plan(arguments: DoctorArguments, found_gpus: list[dict[str, Any]]) -> dict[str, Any]:
    """Forecast and advice for `arguments.model`, with the lines to print; see `alignment.memory.plan`."""
    from alignment.memory.asked_rewards import asked_rewards
    from alignment.memory.plan import plan

    memory = arguments.gpu_memory
    if memory is None and found_gpus:
        memory = min(gpu["memory"] for gpu in found_gpus) / 1e9
    size = (arguments.num_frames, arguments.height, arguments.width)
    asked = asked_rewards(arguments.reward, arguments.reward_num_frames)
    return plan(str(arguments.model), size, arguments.lora_r, memory, asked, arguments.context_parallel)


def machine(folder: Path) -> dict[str, Any]:
    """Processors, memory and disk, in bytes; None where the system does not say."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    existing = next(path for path in (folder.resolve(), *folder.resolve().parents) if path.exists())
    return {
        "system": platform.platform(),
        "python": platform.python_version(),
        "cores": cores,
        "memory": _memory(),
        "disk_free": shutil.disk_usage(existing).free,
        "disk_of": str(existing),
        "writable": os.access(existing, os.W_OK),
    }


def gpus() -> list[dict[str, Any]]:
    """Name, memory in bytes and bfloat16 support of every GPU that torch sees."""
    found = []
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        bfloat16 = properties.major >= 8
        found.append({"name": properties.name, "memory": properties.total_memory, "bfloat16": bfloat16})
    return found


def packages() -> list[dict[str, Any]]:
    """Every requirement of vidalign with the version that is installed."""
    try:
        lines = importlib.metadata.requires("vidalign") or []
    except importlib.metadata.PackageNotFoundError:
        lines = []
    found = []
    for text in lines:
        requirement = Requirement(text)
        marker = str(requirement.marker or "")
        optional = "extra ==" in marker
        if optional and "deepspeed" not in marker:
            continue
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            version = None
        fits = version is not None and requirement.specifier.contains(version, prereleases=True)
        says = f"{requirement.name} {version or 'missing'}"
        if not fits:
            says += f" (needs {requirement.specifier}{', optional' if optional else ''})"
        found.append({"name": requirement.name, "version": version, "fits": fits, "says": says})
    return found


def video_codecs() -> dict[str, bool]:
    """Abilities of the FFmpeg libraries inside PyAV."""
    try:
        import av
    except ImportError:
        return {"read and write videos (PyAV is missing)": False}
    wanted = {"write H.264 (libx264)": ("libx264", "w"), "read H.264": ("h264", "r")}
    wanted |= {"read VP9 (webm)": ("vp9", "r"), "read AV1": ("libdav1d", "r"), "read GIF": ("gif", "r")}
    works = {}
    for name, (codec, mode) in wanted.items():
        try:
            av.codec.Codec(codec, mode)  # type: ignore[arg-type]
            works[name] = True
        except av.codec.codec.UnknownCodecError:
            works[name] = False
    return works


def rewards(asked: list[str]) -> list[dict[str, Any]]:
    """State of the rewards that were asked for, or of all names where none was."""
    from alignment.memory.asked_rewards import reward_members
    from reward.models.named import registry
    from reward.models.named.status import all_statuses, status_of

    if not asked:
        return all_statuses()
    members = [name for each in asked for name in reward_members(each)]
    return [
        _own_reward(name) if registry.find(name) is None else status_of(registry.parse(name))
        for name in members
    ]


def _own_reward(name: str) -> dict[str, Any]:
    """State of a reward that is no name of the registry: a folder, a function or a service."""
    from alignment.memory.asked_rewards import is_trained

    ready = is_trained(name)
    says = "a trained reward model" if ready else "not a folder of a trained reward model: check it"
    if not Path(name).exists() and ("://" in name or ":" in name):
        ready, says = True, "a service or a function, which is not asked here; not in the forecast of memory"
    return {"name": name, "ready": ready, "says": says, "gigabytes": 0.0, "licence": ""}


def mixture_lines(asked: list[str]) -> list[str]:
    """A line where the usual ranges of the rewards that were asked for are far apart."""
    from alignment.rollouts.reward_mixture import unequal_ranges
    from reward.models.named import registry

    requests = [registry.parse(name) for name in asked if registry.find(name) is not None]
    spreads = {
        each.name: abs(each.options.get("scale", 1.0)) * (each.entry.scale[1] - each.entry.scale[0])
        for each in requests
    }
    unequal = unequal_ranges(spreads)
    if unequal is None:
        return []
    large, small, times = unequal
    text = f"{large} has {times:.0f} times the range of {small}: add them with --reward_normalisation group or weights"
    return [line(False, text)]


def reward_line(found: dict[str, Any]) -> str:
    """A reward of `rewards` as text; a licence that obliges its user is said."""
    licence = f" ({found['licence']})" if "AGPL" in found["licence"] else ""
    return f"{found['name']:16s} {found['says']}{licence}"


def machine_lines(found: dict[str, Any]) -> list[str]:
    """The facts of `machine` as text."""
    memory = f"{found['memory'] / GIB:.1f} GiB of memory" if found["memory"] else "memory unknown"
    disk = f"{found['disk_free'] / GIB:.1f} GiB free in {found['disk_of']}"
    return [
        f"{found['system']}, Python {found['python']}",
        line(found["memory"] is None or found["memory"] >= 4 * GIB, f"{found['cores']} cores, {memory}"),
        line(
            found["writable"] and found["disk_free"] >= 2 * GIB,
            disk + ("" if found["writable"] else ", read-only"),
        ),
    ]


def gpu_lines(found: list[dict[str, Any]]) -> list[str]:
    """The facts of `gpus` as text."""
    if not found:
        return [f"none that torch {torch.__version__} sees; everything runs on the CPU"]
    return [
        line(True, f"{gpu['name']}, {gpu['memory'] / GIB:.0f} GiB{', bfloat16' if gpu['bfloat16'] else ''}")
        for gpu in found
    ]


def advice(found: dict[str, Any]) -> list[str]:
    """Parts of vidalign, and whether they work here."""
    cores, number = found["machine"]["cores"], len(found["gpus"])
    complete = all(package["fits"] for package in found["packages"] if package["name"] != "deepspeed")
    video = all(found["video"].get(name) for name in ("write H.264 (libx264)", "read H.264"))
    nano = "on the GPU" if number else f"on {cores} CPU cores"
    deepspeed = importlib.util.find_spec("deepspeed") is not None
    smallest = min((gpu["memory"] for gpu in found["gpus"]), default=0)
    zero = f"{number} GPUs" if number > 1 else "one GPU" if number else "no GPU"
    return [
        line(complete and video, f"vidalign demo and all stages with the built-in model (nano), {nano}"),
        line(
            smallest >= 20 * GIB,
            "pretrained models of 1 to 2 billion parameters with LoRA (from about 20 GiB a GPU)",
        ),
        line(
            deepspeed and number > 0,
            f"--accelerate_config zero1, zero2, zero3: DeepSpeed {'found' if deepspeed else 'missing'}, {zero}",
        ),
    ]


def line(good: bool, text: str) -> str:
    """A line of the report: `ok` or `--`, and what it is about."""
    return f"{'ok' if good else '--'}  {text}"


def _memory() -> int | None:
    """Memory in bytes; what a container may use where that is less."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.is_file() and (text := limit.read_text().strip()).isdigit():
        total = min(total, int(text))
    return total
