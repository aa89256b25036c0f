"""Options at an OpenAI-compatible server: their probabilities, and the one that structured choice draws."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from isheep.batching import derive_seed
from isheep.engines import server, tokens
from isheep.models.tokenization import decode_continuation
from isheep.openai_client import SEED_LIMIT
from isheep.records import Sampling

if TYPE_CHECKING:
    from isheep.engines.openai_engine import OpenAIEngine


def option_probabilities(engine: "OpenAIEngine", prompts: Sequence[str], options: Sequence[str]) -> list[list[float]]:
    """Return the probability of each option as the beginning of each prompt's continuation: (prompts, options).

    Sends a request for each beginning that options share: one if all are single tokens, two if " 10" is two
    tokens. The server gives only the 20 or 5 most probable tokens at a position; others have probability 0.
    """
    rows = engine.prompt_ids(prompts)
    option_ids = [tuple(engine.token_ids(option, rows[0])) for option in options] if rows else []
    beginnings = sorted({option[:length] for option in option_ids for length in range(len(option))})
    longest = max(map(len, option_ids), default=1)
    if engine.settings.api == "chat" and longest > 1:
        raise engine.connection.error(
            "its chat API gives no probabilities of options of several tokens: take machine.server.api: completions"
        )
    fitting = tokens.fitting_indices(rows, engine.context, engine.too_long, longest)
    parameters = {
        "max_tokens": 1,
        "temperature": 0,
        **server.logprob_parameters(engine.connection, engine.num_top_logprobs),
    }
    bodies = []
    for index in fitting:
        for tokens_before in beginnings:
            text = prompts[index] + decode_continuation(engine.tokenizer, tokens_before, rows[index])
            bodies.append({**engine.prompt_parameters(text, [*rows[index], *tokens_before]), **parameters})
    replies = iter(engine.replies(bodies))
    results = [[0.0] * len(options) for _ in rows]
    for index in fitting:
        logprobs = {beginning: server.first_logprobs(next(replies).choice or {}) for beginning in beginnings}
        probabilities = [_option_probability(engine.tokenizer, option, logprobs) for option in option_ids]
        results[index] = tokens.exclusive_probabilities(option_ids, probabilities)
    return results


def _option_probability(
    tokenizer: Any, option: tuple[int, ...], logprobs: dict[tuple[int, ...], dict[int | str, float]]
) -> float:
    """Return an option's probability from `logprobs`, the most probable tokens after each beginning of options."""
    total = 0.0
    for step, token in enumerate(option):
        candidates = logprobs[option[:step]]
        total += candidates.get(token, candidates.get(decode_continuation(tokenizer, [token]), -math.inf))
    return math.exp(total)


def choose_options(
    engine: "OpenAIEngine", prompts: Sequence[str], options: Sequence[str], sampling: Sampling, seed: int
) -> list[int | None]:
    """Return the index of the option that the server draws after each prompt by structured choice.

    None for a prompt that leaves no room, and for all prompts if the server has no structured choice.
    """
    form = engine.choice_form
    results: list[int | None] = [None] * len(prompts)
    if form is None:
        return results
    rows = engine.prompt_ids(prompts)
    # A server may write an option with other tokens, one for each character at most.
    max_tokens = max(map(len, options)) + 1
    fitting = [index for index, row in enumerate(rows) if len(row) + max_tokens <= engine.context]
    bodies = [
        {
            **engine.prompt_parameters(prompts[index], rows[index]),
            **sampling.model_dump(include={"temperature", "top_p"}),
            **form(options),
            "max_tokens": max_tokens,
            "seed": derive_seed(seed, index) % SEED_LIMIT,
        }
        for index in fitting
    ]
    # Servers differ in whether they return the white space that a text begins with.
    stripped = [option.strip() for option in options]
    for index, reply in zip(fitting, engine.replies(bodies), strict=True):
        text = (server.completion_text(reply.choice or {}) or "").strip()
        results[index] = stripped.index(text) if text in stripped else None
    return results
