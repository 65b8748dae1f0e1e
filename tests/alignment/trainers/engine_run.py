"""The command line, several times in the processes of one launch; started by test_engine_precision.py.

Arguments: a file of commands, a JSON list of lists of words; and where the first process writes what it sees inside a
block of Wan during the first training pass of each, by the name of the command's output folder.
"""

import json
import os
import sys
from pathlib import Path

import torch
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel, WanTransformerBlock

from alignment import cli
from alignment.trainers.base_trainer import AlignmentTrainer

FIRST = os.environ.get("RANK", "0") == "0"


def brightness(videos, prompts):
    """A reward that needs no model."""
    return videos.float().mean(dim=(1, 2, 3, 4))


def watch(seen):
    """Notes types, as they are inside the network, in the first pass that has gradients after `seen` was emptied."""
    enter, block = WanTransformer3DModel.forward, WanTransformerBlock.forward
    prepare = AlignmentTrainer._prepare_inputs

    def prepared(self, inputs):
        ready = prepare(self, inputs)
        for name, value in ready.items():
            if torch.is_tensor(value) and value.is_floating_point():
                seen.setdefault(f"batch {name}", str(value.dtype))
        return ready

    def entered(self, hidden_states, timestep, *args, **kwargs):
        if torch.is_grad_enabled():
            seen.setdefault("latents", str(hidden_states.dtype))
            seen.setdefault("timestep", str(timestep.dtype))
            seen.setdefault("timesteps", timestep.flatten().tolist())
        return enter(self, hidden_states, timestep, *args, **kwargs)

    def inside(self, *args, **kwargs):
        if torch.is_grad_enabled():
            layer = self.attn1.to_q
            if "product" not in seen:
                seen["product"] = ""
                layer.register_forward_hook(lambda m, i, out: seen.update(product=str(out.dtype)))
            weights = {
                "scale_shift_table": self.scale_shift_table, "norm2": self.norm2.weight,
                "LoRA A": layer.lora_A["default"].weight, "LoRA B": layer.lora_B["default"].weight,
                "base": layer.base_layer.weight,
            }  # fmt: skip
            for name, weight in weights.items():
                seen.setdefault(name, str(weight.dtype))
        return block(self, *args, **kwargs)

    AlignmentTrainer._prepare_inputs = prepared
    WanTransformer3DModel.forward, WanTransformerBlock.forward = entered, inside


def main() -> int:
    commands, report = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
    seen, found = {}, {}
    watch(seen)
    for words in commands:
        seen.clear()
        code = cli.main(words)
        if code != 0:
            return code
        found[Path(words[words.index("--output_dir") + 1]).name] = dict(seen)
    if FIRST:
        report.write_text(json.dumps(found))
    return 0
