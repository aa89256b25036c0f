"""The interface to a language model: what the stages ask of it, whichever library runs it."""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from isheep.errors import UserError, excerpt
from isheep.records import Completion, Sampling, TokenLogprobs


@runtime_checkable
class Engine(Protocol):
    """A language model. Every method returns one result per request, in the order of the requests.

    A prompt is text as the model reads it: special tokens in it are read as such, except within user text, which a
    models.prompt_text.Prompt marks as literal. The engine adds what the tokenizer puts before a text, such as the
    beginning of sequence, if the prompt does not start with it. An output or an option is read as a continuation of its
    prompt, and a stop string stops wherever its text appears. Weights load at the first call.
    """

    @property
    def max_in_flight(self) -> int:
        """The number of concurrent calls that keep the engine busy.

        If it is more than 1, the engine may be called from as many threads (isheep.batching.ordered_map).
        """

    def generate(self, prompts: Sequence[str], sampling: Sampling, seed: int) -> list[Completion]:
        """Return a continuation of each prompt.

        `seed` belongs to the call: request i draws its random numbers from (seed, i) alone, so that the other prompts
        of the call never change it. A prompt that leaves no room for an answer gets an empty completion of 0 tokens
        with finish "length".
        """

    def logprobs(self, prompts: Sequence[str], outputs: Sequence[str]) -> list[TokenLogprobs]:
        """Return the log-probabilities of each output's tokens after its prompt, as far as both fit the context."""

    def choices(self, prompts: Sequence[str], options: Sequence[str]) -> list[list[float]]:
        """Return the probability of each option as the beginning of a prompt's continuation: (prompts, options).

        If the tokens of one option are a prefix of another's ("1" and "10" in a tokenizer of single digits), the
        shorter option's probability excludes the longer option's. Nothing is generated. A prompt that leaves no room
        for the options gets probabilities of 0.
        """

    def embed(self, texts: Sequence[str]) -> Any:
        """Return the mean of the last layer's hidden states over each text's tokens: a float32 array (texts, width).

        Tokens beyond the context are left out.
        """

    def close(self) -> None:
        """Free the model's memory. A later call loads it again."""


@runtime_checkable
class SeededEngine(Engine, Protocol):
    """An engine whose requests may have random seeds of their own, so that prompts of any origin can be in one call.

    What such prompts share, the engine reads once.
    """

    def generate_seeded(self, prompts: Sequence[str], sampling: Sampling, seeds: Sequence[int]) -> list[Completion]:
        """Return a continuation of each prompt, as `generate`; request i draws its random numbers from `seeds[i]`."""


@runtime_checkable
class ChoosingEngine(Engine, Protocol):
    """An engine on a server, which may give few probabilities, or none, and choose among options itself."""

    def gives_probabilities(self) -> bool:
        """Return whether `choices` can be called."""

    def choose(self, prompts: Sequence[str], options: Sequence[str], sampling: Sampling, seed: int) -> list[int | None]:
        """Return the index of the option that is drawn as a continuation of each prompt, if only options are allowed.

        None for a prompt that leaves no room, and for all prompts if the server has no structured choice.
        """


ENGINE_MEMBERS = ("max_in_flight", "generate", "logprobs", "choices", "embed", "close")


def check_engine_object(engine: object, name: str) -> None:
    """Raise UserError if an object lacks a member of Engine. `name` says in the message where it comes from."""
    if isinstance(engine, type):
        raise UserError(f"engine {name} is a class: give an object of it, {engine.__name__}(...)")
    missing = [member for member in ENGINE_MEMBERS if not hasattr(engine, member)]
    if len(missing) == len(ENGINE_MEMBERS):
        raise UserError(
            f"engine {name} is {excerpt(engine)}, of type {type(engine).__name__}: give a function from prompts to "
            "texts, or an object with all members of isheep.engines.Engine (docs/extending.md)"
        )
    no_methods = [member for member in ENGINE_MEMBERS[1:] if not callable(getattr(engine, member, len))]
    if no_methods:
        raise UserError(f"engine {name}: {', '.join(no_methods)} must be methods (docs/extending.md)")
    if missing:
        raise UserError(
            f"engine {name} lacks {', '.join(missing)}: give a function from prompts to texts, or an object with all "
            "members of isheep.engines.Engine (docs/extending.md)"
        )
