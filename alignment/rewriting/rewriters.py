"""Rewriters: what says a prompt anew for a generator. The video is still judged by the prompt that the user wrote."""

from __future__ import annotations

import hashlib
import logging
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from alignment.rewriting.instructions import message_of
from generator.output import InputError, read_record
from generator.provenance import file_hash
from reward.models.named.answers import Reply
from reward.models.named.chat_cache import ReplyCache, key_of
from reward.models.named.chat_server import Ask, ChatServer

logger = logging.getLogger(__name__)

WORLD = "world"
RECORD = "rewriter.json"
"""In the folder of a rewriter that `vidalign rewriter` trained: the instruction it was trained with."""
FAILURES = ("stop", "keep")
MAX_TOKENS = 512
BATCH_SIZE = 16
IN_A_ROW = 3
"""Failures one after the other, after which an endpoint is asked no more."""

Told = Callable[[int], Any]
"""Is told the number of prompts that have just been rewritten."""


def _nobody(count: int) -> None:
    """Stands for who is told where nobody is."""


class Rewriter(Protocol):
    """Says prompts anew."""

    @property
    def record(self) -> dict[str, Any]:
        """Facts for records: what rewrites, and its instruction."""

    def rewrite(self, prompts: Sequence[str], told: Told = _nobody) -> list[str]:
        """One rewritten prompt for each, in their order; equal prompts are asked for once.

        Raises:
            InputError: a prompt could not be rewritten.
        """


class WorldRewriter:
    """Rewrites prompts of the built-in world by its grammar (`generator.world.elaborate`)."""

    @property
    def record(self) -> dict[str, Any]:
        return {"rewriter": WORLD}

    def rewrite(self, prompts: Sequence[str], told: Told = _nobody) -> list[str]:
        from generator.world.elaborate import elaborate
        from generator.world.grammar import check_prompts

        check_prompts(prompts)
        told(len(prompts))
        return [elaborate(prompt) for prompt in prompts]


class _CachedRewriter(ABC):
    """A language model whose replies are kept on disk by prompt, rewriter and instruction as soon as they are there.

    Args:
        name: what the user called it.
        identity: of the model; other weights of the same name are another one.
        instruction: what it is to do with a prompt.
        failures: `stop` refuses a prompt that could not be rewritten, `keep` leaves it as it is.
        cache: keeps replies.
    """

    def __init__(
        self, name: str, identity: str, instruction: str, failures: str, cache: ReplyCache | None
    ) -> None:
        self.name, self.identity, self.instruction, self.failures = name, identity, instruction, failures
        self.cache = cache or default_cache()

    @property
    def record(self) -> dict[str, Any]:
        digest = hashlib.sha256(self.instruction.encode()).hexdigest()
        return {"rewriter": self.name, "rewriter_model": self.identity, "instruction_sha256": digest}

    def rewrite(self, prompts: Sequence[str], told: Told = _nobody) -> list[str]:
        found: dict[str, str] = {}
        for prompt in dict.fromkeys(prompts):
            reply = self.cache.get(self._key(prompt))
            if reply is not None:
                found[prompt] = reply.text
        told(sum(prompt in found for prompt in prompts))
        missing = [prompt for prompt in dict.fromkeys(prompts) if prompt not in found]
        times = {prompt: list(prompts).count(prompt) for prompt in missing}

        def take(prompt: str, text: str) -> None:
            self.cache.put(self._key(prompt), Reply(text, (), False))
            found[prompt] = text
            told(times[prompt])

        if missing:
            self._ask(missing, take)
        kept = [prompt for prompt in missing if prompt not in found]
        if kept:
            logger.warning("%d prompts could not be rewritten and stay as they are.", len(kept))
        return [found.get(prompt, prompt) for prompt in prompts]

    @abstractmethod
    def _ask(self, prompts: Sequence[str], take: Callable[[str, str], None]) -> None:
        """Lets `take` have each prompt and its rewritten text; those that `keep` allows to fail are left out."""

    def _key(self, prompt: str) -> str:
        return key_of((), prompt, {"rewriter": self.identity, "instruction": self.instruction})

    def _checked(self, prompt: str, text: str, cut: bool) -> str | None:
        """The one line of a reply; None where it is not usable and prompts that fail are kept."""
        line = one_line(text)
        if line and not cut:
            return line
        if self.failures == "keep":
            return None
        found = "was cut off" if line else "is empty"
        raise InputError(
            f"The answer of the rewriter {self.name} to the prompt {prompt!r} {found}: change the instruction "
            "or the model, or pass --rewriter_failures keep."
        )


class ServedRewriter(_CachedRewriter):
    """A chat model behind an OpenAI-compatible server; the arguments are those of `load_rewriter`."""

    def __init__(
        self, server: ChatServer, instruction: str, failures: str = "stop", cache: ReplyCache | None = None
    ) -> None:
        identity = f"{server.model} at {server.address}"
        super().__init__(server.address, identity, instruction, failures, cache)
        self.server = server

    def _ask(self, prompts: Sequence[str], take: Callable[[str, str], None]) -> None:
        size, failed = self.server.concurrency, 0
        for start in range(0, len(prompts), size):
            batch = prompts[start : start + size]
            try:
                self._answered(batch, take)
                continue
            except InputError as error:
                if self.failures == "stop":
                    raise InputError(f"{error} Prompts that were rewritten before are kept.") from error
                logger.warning("%s", error)
            for prompt in batch:
                try:
                    self._answered([prompt], take)
                    failed = 0
                except InputError:
                    failed += 1
                if failed == IN_A_ROW:
                    return

    def _answered(self, prompts: Sequence[str], take: Callable[[str, str], None]) -> None:
        asks = {prompt: Ask((message_of(self.instruction, prompt),), MAX_TOKENS) for prompt in prompts}
        try:
            replies = dict(zip(prompts, self.server.ask_all(list(asks.values())), strict=True))
        except InputError:
            answered = {prompt: self.server.answered(ask) for prompt, ask in asks.items()}
            self._take_all({prompt: reply for prompt, reply in answered.items() if reply}, take)
            raise
        self._take_all(replies, take)

    def _take_all(self, replies: dict[str, Reply], take: Callable[[str, str], None]) -> None:
        """Takes all usable replies before one that is not is refused."""
        usable = {prompt: one_line(reply.text) and not reply.cut for prompt, reply in replies.items()}
        for prompt in sorted(replies, key=lambda prompt: not usable[prompt]):
            text = self._checked(prompt, replies[prompt].text, replies[prompt].cut)
            if text is not None:
                take(prompt, text)


class ChatRewriter(_CachedRewriter):
    """A causal language model of `transformers` with a chat template; loaded when the first prompt is asked for.

    Args:
        folder: of the model and its tokenizer, or of an adapter of one.
        device: on which it runs; the GPU where there is one, by default.
    """

    def __init__(
        self,
        folder: str | Path,
        instruction: str,
        failures: str = "stop",
        cache: ReplyCache | None = None,
        name: str | None = None,
        device: Any = None,
        batch_size: int = BATCH_SIZE,
    ) -> None:
        self.folder, self.device, self.batch_size = Path(folder), device, batch_size
        own = read_record(self.folder / RECORD).get("instruction")
        instruction = instruction if own is None else str(own)
        super().__init__(name or str(folder), _weights_of(self.folder), instruction, failures, cache)
        self._loaded: tuple[Any, Any] | None = None

    def _ask(self, prompts: Sequence[str], take: Callable[[str, str], None]) -> None:
        model, tokenizer = self._load()
        for start in range(0, len(prompts), self.batch_size):
            batch = prompts[start : start + self.batch_size]
            for prompt, (text, cut) in zip(batch, self._replies(model, tokenizer, batch), strict=True):
                checked = self._checked(prompt, text, cut)
                if checked is not None:
                    take(prompt, checked)

    def _replies(self, model: Any, tokenizer: Any, prompts: Sequence[str]) -> list[tuple[str, bool]]:
        """The most probable answer to each prompt, and whether it was cut off."""
        import torch

        chats = [[{"role": "user", "content": message_of(self.instruction, prompt)}] for prompt in prompts]
        texts = [
            tokenizer.apply_chat_template(
                chat, tokenize=False, add_generation_prompt=True, enable_thinking=False
            )
            for chat in chats
        ]
        inputs = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
        inputs = {each: inputs[each].to(model.device) for each in ("input_ids", "attention_mask")}
        with torch.inference_mode():
            made = model.generate(
                **inputs, max_new_tokens=MAX_TOKENS, do_sample=False, pad_token_id=tokenizer.pad_token_id
            )
        made = made[:, inputs["input_ids"].shape[1] :]
        ends = model.generation_config.eos_token_id
        ends = set(ends if isinstance(ends, list) else [ends])
        cut = [not ends & set(row.tolist()) for row in made]
        return list(zip(tokenizer.batch_decode(made, skip_special_tokens=True), cut, strict=True))

    def _load(self) -> tuple[Any, Any]:
        if self._loaded is None:
            self._loaded = load_chat_model(self.folder, self.device)
        return self._loaded


def load_chat_model(folder: str | Path, device: Any = None, dtype: Any = None) -> tuple[Any, Any]:
    """A causal language model and its tokenizer, which pads on the left.

    Args:
        device: the GPU where there is one, by default.
        dtype: of the weights; on a GPU that of the file and float32 on a CPU, by default.

    Raises:
        InputError: they cannot be loaded, or there is no chat template.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), padding_side="left")
        dtype = dtype or ("auto" if device.type == "cuda" else torch.float32)
        model = AutoModelForCausalLM.from_pretrained(str(folder), dtype=dtype)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"The rewriter {folder} cannot be loaded ({' '.join(str(error).split())[:200]}): name a folder of a causal "
            "language model with its tokenizer."
        ) from error
    if not tokenizer.chat_template:
        raise InputError(
            f"The tokenizer of the rewriter {folder} has no chat template: name a model that follows instructions."
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return model.to(device).eval(), tokenizer


def load_rewriter(
    name: str,
    instruction: str = "",
    model: str | None = None,
    failures: str = "stop",
    cache: ReplyCache | None = None,
) -> Rewriter:
    """The rewriter of a name.

    Args:
        name: `world`; the address of an OpenAI-compatible server (`http://host:8000/v1`), whose key is in the
            environment variable `OPENAI_API_KEY`; or a folder, shipped name or hub id of a chat model.
        instruction: what a chat model is to do with a prompt; one that `vidalign rewriter` trained has its own.
        model: name of the model at a server that has several.
        failures: `stop` or `keep`.
        cache: keeps the replies; on disk in the user's cache folder by default.

    Raises:
        InputError: nothing of that name can be found, or no server answers.
    """
    if name == WORLD:
        return WorldRewriter()
    if is_address(name):
        return ServedRewriter(ChatServer(name, model, role="rewriter"), instruction, failures, cache)
    return ChatRewriter(find_chat_model(name), instruction, failures, cache, name)


def is_address(name: str) -> bool:
    """Returns whether the name of a rewriter is the address of a server."""
    return name.startswith(("http://", "https://"))


def find_chat_model(name: str) -> Path:
    """The folder of a chat model.

    Raises:
        InputError: there is none of that name.
    """
    from generator.files.built_in import PRETRAINED
    from generator.files.model_folders import hub_folder

    for folder in (PRETRAINED / name, Path(name)):
        if (folder / "config.json").is_file() or (folder / "adapter_config.json").is_file():
            return folder
    kinds = "world, http://… of a server, or a folder or hub id of a chat model"
    if Path(name).exists() or name.count("/") != 1:
        raise InputError(f"The rewriter {name!r} is no folder of a language model: name {kinds}.")
    return hub_folder(name, f"The rewriter {name!r} is", kinds)


def default_cache() -> ReplyCache:
    """The cache of all rewriters in the user's cache folder."""
    from generator.data.latent_cache import default_cache_dir

    return ReplyCache(Path(default_cache_dir()) / "rewriter")


def one_line(text: str) -> str:
    """A reply without what a model thought first, without quotation marks around it, and on one line."""
    text = " ".join(re.sub(r"<think>.*?</think>", " ", text, flags=re.DOTALL).split())
    for opening, closing in ('""', "“”", "''"):
        if len(text) > 1 and text[0] == opening and text[-1] == closing:
            text = text[1:-1].strip()
    return text


def _weights_of(folder: Path) -> str:
    """SHA-256 of the files of a language model that its answers depend on."""
    files = sorted(
        each for each in folder.iterdir() if each.suffix in (".json", ".safetensors", ".jinja", ".model")
    )
    return hashlib.sha256("\n".join(f"{each.name} {file_hash(each)}" for each in files).encode()).hexdigest()
