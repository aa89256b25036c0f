"""The transformers engine: a causal language model in safetensors, with or without a LoRA adapter, on CPU or CUDA."""

from collections.abc import Callable, Sequence
from functools import cache, cached_property, partial
from typing import TYPE_CHECKING, Any, NamedTuple

from isheep.engines import Engine, prefixes, ray, tokens
from isheep.engines.memory import compute_within_memory, free_memory
from isheep.errors import Conflicts, TooLong
from isheep.models.checkpoint import (
    check_device,
    choose_dtype,
    end_token_ids,
    find_checkpoint,
    load_model,
    load_tokenizer,
)
from isheep.models.tokenization import continuation_ids, decode_continuation, prompt_ids
from isheep.recipe.schema import Recipe
from isheep.records import Completion, Model, Sampling, TokenLogprobs
from isheep.rundir import progress

if TYPE_CHECKING:
    from torch import Tensor

# The largest number of logits that a forward pass may return: 0.5 GB in float32.
MAX_LOGITS = 2**27

PACKAGE = None
ONLY_RECIPE_MODEL = False


def open_from_recipe(recipe: Recipe, model: Model) -> Engine:
    """Return an engine on a model, or replicas of it. Weights load at first use."""
    return ray.open_from_recipe(open_single, recipe, model)


def open_single(recipe: Recipe, model: Model) -> Engine:
    """Return a single engine on a model, with the settings of the recipe's machine."""
    machine = recipe.machine
    return open_engine(
        model, threads=machine.threads, device=machine.device, dtype=machine.dtype, batch=machine.engine_batch_size
    )


def check(recipe: Recipe, benchmarks_need_logprobs: bool) -> list[str]:
    """Raise UserError if the recipe asks for replicas and there is no Ray. Returns no notes."""
    ray.check(recipe)
    return []


def conflicts(recipe: Recipe) -> Conflicts:
    """Yield the settings that replicas exclude; a single engine serves every recipe."""
    yield from ray.conflicts(recipe)


def open_engine(
    model: Model, threads: int | None = None, device: str | None = None, dtype: str | None = None, batch: int = 128
) -> "TransformersEngine":
    """Return an engine on `model`. Its weights load at first use, onto `device` ("cpu", "cuda"; None: CUDA if any).

    With `dtype` None it computes in bfloat16 on CUDA, and on CPU in what `models.checkpoint.choose_dtype` says. At most
    `batch` prompts are processed at a time. `threads` applies to the whole process. The same calls with the same number
    of threads return the same bytes. Raises UserError if `model` is a path without a checkpoint, or if there is no such
    device.
    """
    find_checkpoint(model.base)
    check_device(device)
    return TransformersEngine(model, threads, device, dtype, batch)


class LoadedModel(NamedTuple):
    """The model, its tokenizer, and what the engine reads from their configuration."""

    model: Any
    tokenizer: Any
    end_ids: frozenset[int]
    """The tokens that end an answer."""
    context: int
    """The length in tokens of the longest sequence that the model reads."""


class TransformersEngine:
    """An `isheep.engines.Engine` on the transformers library. Open it with `open_engine`."""

    max_in_flight = 1

    def __init__(self, model: Model, threads: int | None, device: str | None, dtype: str | None, batch: int) -> None:
        self.source, self.threads, self.device, self.dtype, self.batch = model, threads, device, dtype, batch

    @cached_property
    def loaded(self) -> LoadedModel:
        import torch

        from isheep.engines.attention import use_shared_attention
        from isheep.engines.head import compute_logits_in_blocks

        if self.threads:
            torch.set_num_threads(self.threads)
        tokenizer = load_tokenizer(self.source.base)
        device = self.device or ("cuda" if torch.cuda.is_available() else "cpu")
        dtype = self.dtype or choose_dtype(self.source.base, device)
        model = load_model(self.source, dtype).to(device).eval()
        use_shared_attention(model)
        compute_logits_in_blocks(model)
        end_ids = end_token_ids(self.source.base, tokenizer)
        context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        return LoadedModel(model, tokenizer, end_ids, context or 2**30)

    def generate(self, prompts: Sequence[str], sampling: Sampling, seed: int) -> list[Completion]:
        """Return one continuation per prompt, in order. A prompt's random draws do not depend on the other prompts.

        A stop string is a single special token or plain text. The token that ended a completion is counted too. A
        prompt that leaves no room in the context gets an empty completion; raises UserError if no prompt leaves any.
        """
        return self.generate_seeded(prompts, sampling, tokens.request_seeds(seed, len(prompts)))

    def generate_seeded(self, prompts: Sequence[str], sampling: Sampling, seeds: Sequence[int]) -> list[Completion]:
        """Return one continuation per prompt as `generate`, each drawn with its own seed."""
        from isheep.engines import decode

        rows = self._prompt_ids(prompts)
        fitting = tokens.fitting_indices(rows, self.loaded.context, self._too_long)
        completions = [Completion("", 0, "length") for _ in rows]
        if fitting:
            uniforms = decode.seeded_uniforms([seeds[index] for index in fitting], sampling.max_tokens)
            continued = self._continue([rows[index] for index in fitting], sampling, uniforms)
            for index, completion in zip(fitting, continued, strict=True):
                completions[index] = completion
        return completions

    def _continue(self, rows: list[list[int]], sampling: Sampling, uniforms: "Tensor") -> list[Completion]:
        import torch

        from isheep.engines import decode

        progress.expect(sampling.max_tokens)
        model, tokenizer, end_ids, context = self.loaded
        stop_ids, stop_texts = tokens.split_stops(tokenizer, sampling.stop)
        stop_ids |= end_ids
        limits = [min(sampling.max_tokens, context - len(row)) for row in rows]
        finished: dict[int, tuple[list[int], bool]] = {}
        remaining: list[int] = []

        def decode_unfinished(num_rows: int) -> None:
            nonlocal remaining
            remaining = [index for index in range(len(rows)) if index not in finished]
            policy = decode.Policy(
                pick=partial(_pick_tokens, sampling, uniforms[remaining]),
                has_ended=self._end_test(stop_ids, stop_texts),
                limits=[limits[index] for index in remaining],
                batch_size=num_rows,
                finish=lambda row, output, ended: finished.update({remaining[row]: (output, ended)}),
            )
            with torch.inference_mode():
                decode.decode(model, [rows[index] for index in remaining], policy)

        compute_within_memory(decode_unfinished, self.batch, lambda: len(remaining), self._set_batch)
        return [
            tokens.make_completion(tokenizer, row, *finished[index], stop_ids, stop_texts)
            for index, row in enumerate(rows)
        ]

    def _end_test(self, stop_ids: set[int], stop_texts: Sequence[str]) -> Callable[[list[int]], bool]:
        """Return the test whether an output has ended: its last token is one of `stop_ids`, or it holds a stop text."""
        tokenizer = self.loaded.tokenizer
        decode_token = cache(partial(tokenizer.decode, clean_up_tokenization_spaces=False))
        # A stop string is complete only after a token with its last character, or after half of a character.
        last_characters = {text[-1] for text in stop_texts} | {"\ufffd"}
        # The text of a single token may lack the space that it starts or ends with.
        decode_always = " " in last_characters

        def has_ended(output: list[int]) -> bool:
            if output[-1] in stop_ids:
                if progress.wants_example():
                    progress.show_example(example=decode_continuation(tokenizer, output[:-1]))
                return True
            if not stop_texts or not (decode_always or last_characters & set(decode_token(output[-1]))):
                return False
            text = decode_continuation(tokenizer, output)
            return any(stop in text for stop in stop_texts)

        return has_ended

    def logprobs(self, prompts: Sequence[str], outputs: Sequence[str]) -> list[TokenLogprobs]:
        """Return the log-probability of each output's tokens after its prompt, in nats.

        Prompt and output are tokenized separately and their ids joined, so that the prompt's tokens are those that
        `generate` reads. Tokens beyond the context are left out: the end of an output, or all of it.
        """
        import torch

        from isheep.engines import batch

        model, *_, context = self.loaded
        rows = tokens.rows_with_outputs(self.loaded.tokenizer, self._prompt_ids(prompts), outputs, context)
        nonempty = [index for index, (_, output) in enumerate(rows) if output]
        longest = max((len(output) for _, output in rows), default=0) + 1
        results = [TokenLogprobs([], []) for _ in rows]
        num_own = [len(rows[index][1]) + 1 for index in nonempty]
        joined = [[*rows[index][0], *rows[index][1]] for index in nonempty]

        def read(num_rows: int) -> None:
            with torch.inference_mode():
                prefix, tails = batch.read_shared_prefix(model, joined, num_own)
                for group, logits in batch.read_rows(model, prefix, tails, num_own, num_rows):
                    for i, row_logits in zip(group, logits, strict=True):
                        output = rows[nonempty[i]][1]
                        results[nonempty[i]] = TokenLogprobs(output, _output_logprobs(row_logits, output))
                    progress.report(rows=len(group))

        if nonempty:
            compute_within_memory(read, self._batch_size(longest), lambda: len(nonempty), self._set_batch)
        return results

    def choices(self, prompts: Sequence[str], options: Sequence[str]) -> list[list[float]]:
        """Return the probability of each option as the beginning of each prompt's continuation: (prompts, options).

        Each prompt is read once, with the first tokens that the options have in common. Options that begin differently
        need another pass. A prefix that all prompts or some of them share is read once. A prompt that leaves no room in
        the context gets probabilities of 0. Raises UserError if no prompt leaves any.
        """
        import torch

        context = self.loaded.context
        rows = self._prompt_ids(prompts)
        option_ids = [tuple(self._token_ids(option, rows[0])) for option in options] if rows else []
        longest = max(map(len, option_ids), default=1)
        fitting = tokens.fitting_indices(rows, context, self._too_long, longest)
        results = [[0.0] * len(options) for _ in rows]
        if fitting and options:
            fitting_rows = [rows[index] for index in fitting]

            def read(num_rows: int) -> list[list[float]]:
                with torch.inference_mode():
                    values: list[list[float]] = self._option_probabilities(fitting_rows, option_ids, num_rows).tolist()
                    return values

            paths = prefixes.option_paths(option_ids)
            num_rows = self._batch_size(max(map(len, paths)) + 1)
            num_pairs = len(fitting) * len(paths)
            probabilities = compute_within_memory(read, num_rows, lambda: num_pairs, self._set_batch)
            for index, row in zip(fitting, probabilities, strict=True):
                results[index] = tokens.exclusive_probabilities(option_ids, row)
        return results

    def _option_probabilities(
        self, rows: Sequence[list[int]], options: Sequence[tuple[int, ...]], num_rows: int
    ) -> "Tensor":
        """Return the probability that a row's continuation begins with an option's tokens: float64 (rows, options).

        At most `num_rows` are read at a time.
        """
        import torch

        from isheep.engines import batch

        model, paths = self.loaded.model, prefixes.option_paths(options)
        num_own = max(map(len, paths)) + 1
        pairs = [(row, path) for row in range(len(rows)) for path in range(len(paths))]
        all_own = [num_own] * len(pairs)
        prefix, tails = batch.read_shared_prefix(model, [[*rows[row], *paths[path]] for row, path in pairs], all_own)
        result = torch.ones(len(rows), len(options), dtype=torch.float64, device=model.device)
        for indices, logits in batch.read_rows(model, prefix, tails, all_own, num_rows):
            for number, path in enumerate(paths):
                positions = [position for position, index in enumerate(indices) if pairs[index][1] == number]
                # (rows, positions along the path, vocabulary)
                probabilities = logits[positions, -len(path) - 1 :].float().softmax(-1)
                path_rows = [pairs[indices[position]][0] for position in positions]
                for option, ids in enumerate(options):
                    for step, token in enumerate(ids):
                        if next(longer for longer in paths if prefixes.is_prefix(ids[:step], longer)) == path:
                            result[path_rows, option] *= probabilities[:, step, token]
            progress.report(rows=sum(pairs[index][1] == 0 for index in indices))
        return result

    def embed(self, texts: Sequence[str]) -> Any:
        """Return the mean of the last layer's hidden states over each text's tokens: float32 (texts, width).

        Tokens beyond the context are left out.
        """
        import numpy as np
        import torch

        model = self.loaded.model
        rows = [row[: self.loaded.context] for row in self._prompt_ids(texts)]
        means = np.zeros((len(rows), model.config.get_text_config().hidden_size), np.float32)

        def read(num_rows: int) -> None:
            for group in prefixes.group_by_length([len(row) for row in rows], num_rows):
                padded = [rows[i] + [0] * (len(rows[group[0]]) - len(rows[i])) for i in group]
                ids = torch.tensor(padded, device=model.device)
                lengths = torch.tensor([len(rows[i]) for i in group], device=model.device)
                mask = (torch.arange(ids.shape[1], device=model.device) < lengths[:, None]).long()
                with torch.inference_mode():
                    states = model.base_model(ids, attention_mask=mask, use_cache=False).last_hidden_state.float()
                    means[group] = ((states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)).cpu().numpy()
                progress.report(rows=len(group))

        if rows:
            compute_within_memory(read, self.batch, lambda: len(rows), self._set_batch)
        return means

    def close(self) -> None:
        """Free the model's memory. A later call loads the weights again."""
        if self.__dict__.pop("loaded", None) is not None:
            free_memory()

    def _set_batch(self, num_rows: int) -> None:
        self.batch = num_rows

    def _batch_size(self, num_positions: int) -> int:
        """Return the number of rows to read at a time if the logits of `num_positions` of each are needed."""
        vocabulary: int = self.loaded.model.config.get_text_config().vocab_size
        return max(1, min(self.batch, MAX_LOGITS // (num_positions * vocabulary)))

    def _token_ids(self, text: str, prompt: Sequence[int]) -> list[int]:
        return continuation_ids(self.loaded.tokenizer, text, prompt)

    def _prompt_ids(self, prompts: Sequence[str]) -> list[list[int]]:
        return prompt_ids(self.loaded.tokenizer, prompts)

    def _too_long(self, text: str) -> TooLong:
        return TooLong(
            f"{text} does not fit {self.source.base!r}, which reads {self.loaded.context} tokens, the answer included:"
            " shorten it (fewer or shorter examples) or take a model with a longer context"
        )


def _pick_tokens(
    sampling: Sampling, uniforms: "Tensor", logits: "Tensor", indices: list[int], outputs: list[list[int]]
) -> "Tensor":
    """Draw the next token of each row of `logits`, after the presence penalty on tokens that its output has."""
    from isheep.engines import decode

    # A row that has ended may stay in the batch for some steps beyond its limit.
    steps = [min(len(outputs[index]), sampling.max_tokens - 1) for index in indices]
    if sampling.presence_penalty:
        row = [i for i, index in enumerate(indices) for _ in outputs[index]]
        column = [token for index in indices for token in outputs[index]]
        logits = logits.float()
        # An assignment, so that a token that occurs several times is penalized once.
        logits[row, column] = logits[row, column] - sampling.presence_penalty
    return decode.draw_tokens(logits, uniforms[indices, steps].to(logits.device), sampling.temperature, sampling.top_p)


def _output_logprobs(logits: "Tensor", output: list[int]) -> list[float]:
    """Return the log-probabilities of an output's tokens from the logits (positions, vocabulary) that end with them."""
    import torch

    ids = torch.tensor(output, dtype=torch.long, device=logits.device)
    logprobs = logits[-len(output) - 1 : -1].float().log_softmax(-1)
    values: list[float] = logprobs.gather(1, ids[:, None])[:, 0].tolist()
    return values
