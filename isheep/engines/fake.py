"""A function as an engine: for tests and for trying a recipe out without a model."""

from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import Any

from isheep.batching import derive_seed
from isheep.records import Completion, Sampling, TokenLogprobs

WIDTH = 16


class FakeEngine:
    """`answer(prompt, seed)` writes each completion; the seed is the request's own, from the call's seed and its place.

    A word counts as a token. A word's log-probability is -1, and a text's embedding hashes the text. The longest option
    that an answer (of seed 0) starts with has all of the probability, or none has any.
    """

    at_once = 1

    def __init__(self, answer: Callable[[str, int], str]) -> None:
        self.answer = answer

    def generate(self, prompts: Sequence[str], sampling: Sampling, seed: int) -> list[Completion]:
        return [_cut(self.answer(prompt, derive_seed(seed, i)), sampling) for i, prompt in enumerate(prompts)]

    def logprobs(self, prompts: Sequence[str], outputs: Sequence[str]) -> list[TokenLogprobs]:
        words = [output.split() for _, output in zip(prompts, outputs, strict=True)]
        return [TokenLogprobs(list(range(len(row))), [-1.0] * len(row)) for row in words]

    def choices(self, prompts: Sequence[str], options: Sequence[str]) -> list[list[float]]:
        answers = [self.answer(prompt, 0) for prompt in prompts]
        chosen = [max((o for o in options if answer.startswith(o)), key=len, default=None) for answer in answers]
        return [[float(option == best) for option in options] for best in chosen]

    def embed(self, texts: Sequence[str]) -> Any:
        import numpy as np

        rows = [np.frombuffer(sha256(text.encode()).digest()[:WIDTH], np.uint8) for text in texts]
        return np.array(rows, np.float32).reshape(len(rows), WIDTH) / 255

    def close(self) -> None:
        pass


def _cut(text: str, sampling: Sampling) -> Completion:
    text = text[: min((text.index(stop) for stop in sampling.stop if stop in text), default=len(text))]
    words = text.split()
    if len(words) > sampling.max_tokens:
        return Completion(" ".join(words[: sampling.max_tokens]), sampling.max_tokens, "length")
    return Completion(text, len(words), "stop")
