"""What filters ask of the model M^(t-1) about its own pairs (Section 4.3): perplexities and representations."""

import math
from base64 import b64encode
from collections.abc import Iterator, Sequence

from isheep.batching import chunks, ordered_map
from isheep.engines import Engine
from isheep.models.chat_template import ChatTemplate
from isheep.prompts.forms import load_answer_form
from isheep.recipe.schema import Response
from isheep.records import Pair, PairEmbedding, PairPerplexity, TokenLogprobs
from isheep.rundir.folder import Batches
from isheep.stages.respond import text_before_output

SIZE = 64  # pairs in a batch
LARGEST = 700.0  # nats a token; more than that is no float any more


def pair_text(pair: Pair) -> str:
    """Instruction, input and output as one plain text, without a template: what "the pair" means in this module."""
    return f"{pair.content}\n{pair.output}"


def measure_perplexities(
    engine: Engine, pairs: Sequence[Pair], chat: ChatTemplate, settings: Response
) -> Batches[PairPerplexity]:
    """The perplexities that are still owed, in batches of `SIZE`: exp of the mean negative log-probability of a token.

    Of the output: its tokens after the prompt that it answered (the chat turn, or the plain prompt and a space; the
    chat turn for an instance too, whose output answered no prompt) and the model's own thoughts, without the token
    that ended it. Of the pair: all tokens of `whole`, the first one after the tokenizer's beginning of sequence, or its
    end of text where it has none. None where there is no token.
    """

    def made(batch: Sequence[Pair]) -> list[PairPerplexity]:
        asked = [text_before_output(pair, chat, settings) for pair in batch]
        space = "" if load_answer_form(settings.prompt).chat else " "
        outputs = engine.logprobs(asked, [space + pair.output if pair.output else "" for pair in batch])
        texts = engine.logprobs([""] * len(batch), [pair_text(pair) for pair in batch])
        return [
            PairPerplexity(id=pair.id, output=perplexity(output), pair=perplexity(text))
            for pair, output, text in zip(batch, outputs, texts, strict=True)
        ]

    def batches(done: Sequence[PairPerplexity]) -> Iterator[list[PairPerplexity]]:
        return ordered_map(made, chunks(pairs, SIZE, len(done)), engine.at_once)

    return batches


def embed_pairs(engine: Engine, pairs: Sequence[Pair]) -> Batches[PairEmbedding]:
    """The representations that are still owed, in batches of `SIZE`: Engine.embed of `whole`."""

    def made(batch: Sequence[Pair]) -> list[PairEmbedding]:
        rows = engine.embed([pair_text(pair) for pair in batch])
        values = (b64encode(row.astype("<f4").tobytes()).decode() for row in rows)
        return [PairEmbedding(id=pair.id, values=text) for pair, text in zip(batch, values, strict=True)]

    def batches(done: Sequence[PairEmbedding]) -> Iterator[list[PairEmbedding]]:
        return ordered_map(made, chunks(pairs, SIZE, len(done)), engine.at_once)

    return batches


def perplexity(tokens: TokenLogprobs) -> float | None:
    """exp of the mean negative log-probability, None of no tokens."""
    if not tokens.logprobs:
        return None
    return math.exp(min(-sum(tokens.logprobs) / len(tokens.logprobs), LARGEST))
