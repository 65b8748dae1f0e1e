"""Names of what diffusers writes for a whole pipeline; see `generator.files.output_folder.Outputs.files`."""

from __future__ import annotations

COMPONENTS = (
    *("transformer", "transformer_2", "vae", "scheduler", "text_encoder", "text_encoder_2", "text_encoder_3"),
    *("tokenizer", "tokenizer_2", "tokenizer_3", "image_encoder", "image_processor", "feature_extractor"),
    *("processor", "connectors", "audio_vae", "vocoder", "duration_head", "latent_upsampler", "guider"),
    *("unet", "motion_adapter"),
)
COMPONENT_FILES = (
    *("config.json", "generation_config.json", "scheduler_config.json", "preprocessor_config.json"),
    *("processor_config.json", "video_preprocessor_config.json", "image_processor_config.json"),
    *("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model-#-of-#.safetensors"),
    *("model.safetensors", "model-#-of-#.safetensors"),
    *("diffusion_pytorch_model.safetensors.index.json", "model.safetensors.index.json"),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "vocab.txt", "merges.txt", "spiece.model", "tokenizer.model", "chat_template.jinja"),
)
PIPELINE_FILES = (
    "model_index.json",
    *(f"{component}/{name}" for component in COMPONENTS for name in COMPONENT_FILES),
)
