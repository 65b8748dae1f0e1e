"""LTX-2 and LTX-2.3 (arXiv 2601.03233): the video branch of a model of video and sound.

The transformer always takes sound too. With `isolate_modalities` no video token sees any of it, so one token of silence
stands there: the velocity of the video is that of the model without sound.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import LTX2Pipeline
from diffusers.pipelines.ltx2.utils import DISTILLED_SIGMA_VALUES
from torch import Tensor

from generator.families.ltx import LTXGenerator
from generator.inputs.conditions import Conditions, concatenate
from generator.video_model import GenerationDefaults


class LTX2Generator(LTXGenerator):
    """Adapter of `LTX2Pipeline` and `LTX2ImageToVideoPipeline`, for videos without sound.

    The pipelines' own guidance adds spatio-temporal guidance, guidance away from isolated modalities and a rescaling;
    here it is classifier-free guidance alone.
    """

    pipeline_class = LTX2Pipeline
    text_encoders = ("text_encoder", "connectors")
    idle_components = ("audio_vae", "vocoder", "prompt_enhancer", "duration_head")
    idle_layers = ".*(audio|av_cross_attn|a2v_cross_attn).*"
    max_sequence_length = 1024

    def _pipeline_defaults(self) -> GenerationDefaults:
        size = (121, 512, 768)
        return GenerationDefaults(*size, 24.0, 30, 3.0, self._training_shift(size))

    def sigma_schedule(self, num_inference_steps: int, latent_shape: Sequence[int] | None = None) -> Tensor:
        # The distilled models come with a scheduler that shifts nothing and were trained on these levels.
        dynamic = self.pipeline.scheduler.config.get("use_dynamic_shifting", False)
        if not dynamic and num_inference_steps == len(DISTILLED_SIGMA_VALUES):
            return torch.tensor([*DISTILLED_SIGMA_VALUES, 0.0])
        return super().sigma_schedule(num_inference_steps, latent_shape)

    def _encode_prompts(self, prompts: list[str]) -> Conditions:
        # One by one: the hidden states of all layers of the text encoder take 0.4 GB a prompt.
        return concatenate([self._encode_prompt(prompt) for prompt in prompts])

    def _encode_prompt(self, prompt: str) -> Conditions:
        connectors = self.pipeline.connectors
        text, mask, _, _ = self.pipeline.encode_prompt(
            [prompt],
            do_classifier_free_guidance=False,
            max_sequence_length=self.max_sequence_length,
            device=self.text_device,
        )
        side = self.pipeline.tokenizer.padding_side
        # Learnt tokens stand in the place of padding, so that the third result, a mask, hides nothing.
        video, _, _ = connectors(text.to(connectors.dtype), mask, padding_side=side)
        return {"encoder_hidden_states": video}

    def _text_width(self, branch: str = "") -> int:
        """Channels of a prompt's tokens: LTX-2 projects them in the transformer, 2.3 in the connectors."""
        config = self.pipeline.transformer.config
        if config.use_prompt_embeddings:
            return config.caption_channels
        return config[f"{branch}cross_attention_dim"]

    def condition_shapes(self) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        return {"encoder_hidden_states": ((self.max_sequence_length, self._text_width()), self.dtype)}

    def _transformer_arguments(
        self, latents: Tensor, sigma: Tensor, conditions: Conditions
    ) -> dict[str, Any]:
        frames, height, width = latents.shape[2:]
        text = conditions["encoder_hidden_states"].to(self.dtype)
        silence = text.new_zeros(len(text), 1, self.pipeline.transformer.config.audio_in_channels)
        level = sigma.float() * 1000
        return {
            "hidden_states": self._pack(latents).to(self.dtype),
            "audio_hidden_states": silence,
            "encoder_hidden_states": text,
            "audio_encoder_hidden_states": text.new_zeros(len(text), 1, self._text_width("audio_")),
            "timestep": level,
            "audio_timestep": level,
            "sigma": level,  # of the whole video, also where known frames have a timestep of 0
            "num_frames": frames,
            "height": height,
            "width": width,
            "fps": self.defaults.fps,
            "audio_num_frames": 1,
            "isolate_modalities": True,
            "use_cross_timestep": True,  # of use to the cut connection alone, and cheaper: one level a video
        }
