"""The door to a language model: what the stages ask of it, whichever library answers."""

from collections.abc import Sequence
from typing import Any, Protocol

from isheep.records import Completion, Sampling, TokenLogprobs


class Engine(Protocol):
    """One result per request, in the order of the requests.

    A prompt is text as the model reads it, special tokens included; the engine adds the tokenizer's beginning of
    sequence where there is one and the prompt does not start with it. A prompt that leaves no room for an answer gets
    an empty one of 0 tokens, cut off. `seed` belongs to the call: request i draws its noise from (seed, i) alone, so
    neighbours in the batch never change it.

    `at_once` calls keep it busy. Where that is more than 1, it may be called from as many threads (batching.ahead).
    """

    @property
    def at_once(self) -> int: ...

    def generate(self, prompts: Sequence[str], sampling: Sampling, seed: int) -> list[Completion]: ...

    def logprobs(self, prompts: Sequence[str], outputs: Sequence[str]) -> list[TokenLogprobs]:
        """Of each output's tokens after its prompt, as far as the two fit the context."""

    def choices(self, prompts: Sequence[str], options: Sequence[str]) -> list[list[float]]:
        """How probable each option is as the beginning of a prompt's continuation: (prompts, options), in [0, 1].

        An option is what its tokens are. Where they begin a longer option's ("1" and "10" in a tokenizer of single
        digits), the longer one's share is not the shorter one's: the options exclude each other. Nothing is generated.
        After a prompt that leaves no room for them all are 0.
        """

    def embed(self, texts: Sequence[str]) -> Any:
        """Last layer's hidden state, mean over the text's tokens that fit: a float32 array (texts, width)."""

    def close(self) -> None: ...
