"""Engines that wrap a plain function, to test a pipeline, or to bring a model that isheep has no engine for."""

from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import Any

from isheep.batching import derive_seed
from isheep.errors import UserError, excerpt
from isheep.extensions import name_of, user_code
from isheep.records import Completion, Sampling, TokenLogprobs
from isheep.rundir import progress

EMBEDDING_WIDTH = 16


class FunctionEngine:
    """An engine whose completions come from `function(prompts) -> texts`, one text per prompt, in the same order.

    The engine cuts each text at the first stop string and after `max_tokens` words, since it counts a word as a token.
    The function gets neither the temperature nor the seed; `SeededFunctionEngine` wraps a function that takes a seed.
    The other methods give plausible values without a model: the log-probability of a word is -1, an embedding is a hash
    of the text, and `choices` gives probability 1 to the longest option that the function's text starts with, white
    space before either aside, and 0 to the others. So a function's ratings can't be constrained: one that starts with
    no score stays unreadable.
    """

    max_in_flight = 1

    def __init__(self, function: Callable[[list[str]], Sequence[str]]) -> None:
        self.function = function
        # In messages. An engine that a recipe names is named as in the recipe.
        self.name = f"function {name_of(function)}"

    def texts(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[str]:
        """Call the function. Raises UserError if it does not return one string per prompt."""
        name = f"engine {self.name}"
        with user_code(name, self.function, f"on {len(prompts)} prompts"):
            texts = self.function(list(prompts))
        is_list = isinstance(texts, Sequence) and not isinstance(texts, str)
        if not is_list or not all(isinstance(text, str) for text in texts):
            needed = f"one text per prompt, {len(prompts)} here"
            raise UserError(f"{name} must return {needed}; it returned {excerpt(texts)}")
        if len(texts) != len(prompts):
            raise UserError(f"{name} returned {len(texts)} texts for {len(prompts)} prompts: return one for each")
        # A lone surrogate is no text that a file could hold.
        return [text.encode(errors="replace").decode() for text in texts]

    def generate(self, prompts: Sequence[str], sampling: Sampling, seed: int) -> list[Completion]:
        texts = self.texts(prompts, [derive_seed(seed, index) for index in range(len(prompts))])
        completions = [_cut(text, sampling) for text in texts]
        progress.report(tokens=sum(completion.tokens for completion in completions), rows=len(completions))
        return completions

    def logprobs(self, prompts: Sequence[str], outputs: Sequence[str]) -> list[TokenLogprobs]:
        words = [output.split() for _, output in zip(prompts, outputs, strict=True)]
        return [TokenLogprobs(list(range(len(row))), [-1.0] * len(row)) for row in words]

    def choices(self, prompts: Sequence[str], options: Sequence[str]) -> list[list[float]]:
        texts = self.texts(prompts, [0] * len(prompts))
        best_options = [
            max((o for o in options if text.lstrip().startswith(o.lstrip())), key=len, default=None) for text in texts
        ]
        return [[float(option == best) for option in options] for best in best_options]

    def embed(self, texts: Sequence[str]) -> Any:
        import numpy as np

        rows = [np.frombuffer(sha256(text.encode()).digest()[:EMBEDDING_WIDTH], np.uint8) for text in texts]
        return np.array(rows, np.float32).reshape(len(rows), EMBEDDING_WIDTH) / 255

    def close(self) -> None:
        """Do nothing: a function holds no memory of a model."""


class SeededFunctionEngine(FunctionEngine):
    """An engine whose completions come from `answer(prompt, seed) -> text`, called once per prompt.

    The seed of a prompt is derived from the call's seed and the prompt's index in the call; `choices` passes seed 0.
    """

    def __init__(self, answer: Callable[[str, int], str]) -> None:
        self.answer = answer

    def texts(self, prompts: Sequence[str], seeds: Sequence[int]) -> list[str]:
        return [self.answer(prompt, seed) for prompt, seed in zip(prompts, seeds, strict=True)]


def _cut(text: str, sampling: Sampling) -> Completion:
    """Return the text up to the first stop string, and at most `max_tokens` words of it."""
    text = text[: min((text.index(stop) for stop in sampling.stop if stop in text), default=len(text))]
    words = text.split()
    if len(words) > sampling.max_tokens:
        return Completion(" ".join(words[: sampling.max_tokens]), sampling.max_tokens, "length")
    return Completion(text, len(words), "stop")
