"""What filters ask of the model M^(t-1) about its own pairs (Section 4.3): perplexities and representations."""

import math
from base64 import b64encode
from collections.abc import Iterator, Sequence

from isheep.batching import ahead, chunks
from isheep.engines import Engine
from isheep.models.chat_template import Chat
from isheep.prompts.forms import form
from isheep.recipe.schema import Response
from isheep.records import Measure, Pair, TokenLogprobs, Vector
from isheep.rundir.folder import Batches
from isheep.stages.respond import before

SIZE = 64  # pairs in a batch
LARGEST = 700.0  # nats a token; more than that is no float any more


def whole(pair: Pair) -> str:
    """Instruction, input and output as one plain text, without a template: what "the pair" means in this module."""
    return f"{pair.content}\n{pair.output}"


def perplexities(engine: Engine, pairs: Sequence[Pair], chat: Chat, settings: Response) -> Batches[Measure]:
    """The perplexities that are still owed, in batches of `SIZE`: exp of the mean negative log-probability of a token.

    Of the output: its tokens after the prompt that it answered (the chat turn, or the plain prompt and a space; the
    chat turn for an instance too, whose output answered no prompt) and the model's own thoughts, without the token
    that ended it. Of the pair: all tokens of `whole`, the first one after the tokenizer's beginning of sequence, or its
    end of text where it has none. None where there is no token.
    """

    def made(batch: Sequence[Pair]) -> list[Measure]:
        asked = [before(pair, chat, settings) for pair in batch]
        space = "" if form(settings.prompt).chat else " "
        outputs = engine.logprobs(asked, [space + pair.output if pair.output else "" for pair in batch])
        texts = engine.logprobs([""] * len(batch), [whole(pair) for pair in batch])
        return [
            Measure(id=pair.id, output=perplexity(output), pair=perplexity(text))
            for pair, output, text in zip(batch, outputs, texts, strict=True)
        ]

    def batches(done: Sequence[Measure]) -> Iterator[list[Measure]]:
        return ahead(made, chunks(pairs, SIZE, len(done)), engine.at_once)

    return batches


def vectors(engine: Engine, pairs: Sequence[Pair]) -> Batches[Vector]:
    """The representations that are still owed, in batches of `SIZE`: Engine.embed of `whole`."""

    def made(batch: Sequence[Pair]) -> list[Vector]:
        rows = engine.embed([whole(pair) for pair in batch])
        values = (b64encode(row.astype("<f4").tobytes()).decode() for row in rows)
        return [Vector(id=pair.id, values=text) for pair, text in zip(batch, values, strict=True)]

    def batches(done: Sequence[Vector]) -> Iterator[list[Vector]]:
        return ahead(made, chunks(pairs, SIZE, len(done)), engine.at_once)

    return batches


def perplexity(tokens: TokenLogprobs) -> float | None:
    """exp of the mean negative log-probability, None of no tokens."""
    if not tokens.logprobs:
        return None
    return math.exp(min(-sum(tokens.logprobs) / len(tokens.logprobs), LARGEST))
