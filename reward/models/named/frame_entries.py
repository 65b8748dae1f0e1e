"""Entries of the rewards that look at single frames; see `registry`."""

from __future__ import annotations

from reward.models.named.entry import HubFiles, NamedReward, one_of

_CLIP = "reward.models.named.clip_rewards"

WEIGHTS = "model.safetensors|pytorch_model.bin"
TOKENIZER = ("tokenizer_config.json", "special_tokens_map.json", "vocab.json", "merges.txt")
PREPROCESSOR = "preprocessor_config.json"

CLIP_L = HubFiles(
    "openai/clip-vit-large-patch14",
    ("config.json", WEIGHTS, "tokenizer.json|vocab.json"),
    1.71,
    (*TOKENIZER, PREPROCESSOR),
)
CLIP_H_TOKENIZER = HubFiles(
    "laion/CLIP-ViT-H-14-laion2B-s32B-b79K", ("tokenizer.json|vocab.json",), 0.004, TOKENIZER
)
CLIP_L_VISION = HubFiles(CLIP_L.repository, CLIP_L.files[:2], 1.71)
SIGLIP = HubFiles(
    "google/siglip-so400m-patch14-384",
    ("config.json", WEIGHTS, "tokenizer.json|spiece.model"),
    3.51,
    ("tokenizer_config.json", "special_tokens_map.json", PREPROCESSOR),
)
SIGLIP_VISION = HubFiles(SIGLIP.repository, SIGLIP.files[:2], 3.51)
_CLIP_FOLDER = "model.safetensors|pytorch_model.bin"
HPSV2 = HubFiles(
    "xswu/HPSv2",
    (f"HPS_v2.1_compressed.pt|HPS_v2.1_compressed.safetensors|{_CLIP_FOLDER}",),
    1.97,
    ("config.json",),
)
HPSV2_0 = HubFiles(
    "xswu/HPSv2",
    (f"HPS_v2_compressed.pt|HPS_v2_compressed.safetensors|{_CLIP_FOLDER}",),
    1.97,
    ("config.json",),
)
AESTHETIC_HEAD = HubFiles(
    "improved-aesthetic-predictor",
    ("sac+logos+ava1-l14-linearMSE.pth|sac+logos+ava1-l14-linearMSE.safetensors",),
    0.0037,
    address="https://github.com/christophschuhmann/improved-aesthetic-predictor/raw/main/"
    "sac%2Blogos%2Bava1-l14-linearMSE.pth",
    md5="b1047fd767a00134b8fd6529bf19521a",
)
AESTHETIC_V2_5_HEAD = HubFiles(
    "aesthetic-predictor-v2-5",
    ("aesthetic_predictor_v2_5.pth",),
    0.0026,
    address="https://github.com/discus0434/aesthetic-predictor-v2-5/raw/main/models/aesthetic_predictor_v2_5.pth",
    md5="c46eb8c29f714c9231dc630b8226842a",
)
BERT_TOKENIZER = HubFiles(
    "google-bert/bert-base-uncased", ("tokenizer.json|vocab.txt",), 0.0005, ("tokenizer_config.json",)
)

FRAME_REWARDS = (
    NamedReward(
        "pickscore",
        f"{_CLIP}:load_pickscore",
        "preference of people between images of a prompt, CLIP-H",
        "frames",
        (0.65, 0.9),
        weights=(
            HubFiles(
                "yuvalkirstain/PickScore_v1",
                ("config.json", WEIGHTS),
                3.94,
                ("tokenizer.json", *TOKENIZER, PREPROCESSOR),
            ),
        ),
        licence="MIT",
        gradients=True,
        options={"form": one_of("scaled", "logit", "cosine")},
        hacks="cinematic gloss, darker contrast, larger subject, less motion",
        paper="2305.01569",
    ),
    NamedReward(
        "hpsv2",
        f"{_CLIP}:load_hpsv2",
        "preference of people between images of a prompt, CLIP-H",
        "frames",
        (0.2, 0.35),
        versions=("v2.1", "v2.0"),
        weights=(HPSV2, CLIP_H_TOKENIZER),
        licence="Apache-2.0",
        gradients=True,
        hacks="oversaturation, adversarial patches, lost motion",
        paper="2306.09341",
    ),
    NamedReward(
        "clip",
        f"{_CLIP}:load_clip",
        "100 times the cosine of frame and prompt",
        "frames",
        (15.0, 35.0),
        weights=(CLIP_L,),
        licence="MIT",
        gradients=True,
        options={"form": one_of("percent", "clipscore")},
        hacks="text and symbols of the prompt, less motion",
        paper="2103.00020",
    ),
    NamedReward(
        "siglip",
        f"{_CLIP}:load_siglip",
        "100 times the cosine of frame and prompt",
        "frames",
        (0.0, 20.0),
        weights=(SIGLIP,),
        licence="Apache-2.0",
        gradients=True,
        options={"form": one_of("percent", "logit")},
        hacks="as clip",
        paper="2303.15343",
    ),
    NamedReward(
        "aesthetic",
        f"{_CLIP}:load_aesthetic",
        "rating of a picture from 1 to 10, the prompt unread",
        "frames",
        (4.0, 7.0),
        weights=(AESTHETIC_HEAD, CLIP_L_VISION),
        licence="Apache-2.0, CLIP MIT",
        gradients=True,
        hacks="painterly stills, the prompt forgotten; never alone",
        paper="https://github.com/christophschuhmann/improved-aesthetic-predictor",
    ),
    NamedReward(
        "aesthetic-v2.5",
        f"{_CLIP}:load_aesthetic_v2_5",
        "rating of a picture from 1 to 10, the prompt unread",
        "frames",
        (3.0, 7.0),
        weights=(AESTHETIC_V2_5_HEAD, SIGLIP_VISION),
        licence="AGPL-3.0 (head), SigLIP Apache-2.0",
        gradients=True,
        hacks="as aesthetic",
        paper="https://github.com/discus0434/aesthetic-predictor-v2-5",
    ),
    NamedReward(
        "imagereward",
        "reward.models.named.image_reward:load_image_reward",
        "preference of people between images of a prompt, BLIP",
        "frames",
        (-2.0, 2.0),
        weights=(
            HubFiles(
                "THUDM/ImageReward",
                ("ImageReward.pt|ImageReward.safetensors",),
                1.79,
                ("med_config.json",),
                aliases=("zai-org/ImageReward",),
            ),
            BERT_TOKENIZER,
        ),
        licence="Apache-2.0",
        gradients=True,
        hacks="the first 35 tokens of the prompt alone, less motion",
        paper="2304.05977",
    ),
)
