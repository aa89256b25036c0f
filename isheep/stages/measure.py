"""What filters need of the model M^(t-1): perplexities and embeddings of its pairs (Section 4.3), further answers."""

import math
from base64 import b64encode
from collections.abc import Sequence

from isheep.batching import chunks
from isheep.benchmarks import evaluation_prompts, validation_prompts
from isheep.filters import count_samples, needs
from isheep.filters.base import FilterContext
from isheep.prompts.forms import AnswerForm, load_answer_form
from isheep.records import Completion, Pair, PairEmbedding, PairPerplexity, PairSamples, TokenLogprobs
from isheep.stages.context import StageContext
from isheep.stages.respond import read_answer, render_response_prompt, text_before_output

# The number of pairs in a batch.
BATCH_SIZE = 64

# The largest mean negative log-probability whose exp is still a finite float, rounded down.
MAX_NATS = 700.0


def measure(context: StageContext, pairs: Sequence[Pair]) -> FilterContext:
    """Return the perplexities, embeddings, further answers and benchmark prompts that the recipe's filters need.

    Computes nothing if filtering is already done (dropped.jsonl exists).
    """
    recipe = context.recipe
    if context.folder.has("dropped.jsonl"):
        return FilterContext()
    perplexities: Sequence[PairPerplexity] = []
    embeddings: Sequence[PairEmbedding] = []
    if needs(recipe.filters, "perplexities"):
        perplexities = measure_perplexities(context, pairs)
    if needs(recipe.filters, "embeddings"):
        embeddings = embed_pairs(context, pairs)
    num_samples = count_samples(recipe.filters)
    samples = draw_samples(context, pairs, num_samples) if num_samples else ()
    prompts = [*evaluation_prompts(recipe.evaluation), *validation_prompts(recipe)]
    return FilterContext(prompts, perplexities, embeddings, samples)


def measure_perplexities(context: StageContext, pairs: Sequence[Pair]) -> Sequence[PairPerplexity]:
    """Return two perplexities for each pair: exp of the mean negative log-probability of a token.

    "output" is over the output's tokens after the prompt that it answers (the chat turn, or the plain prompt and a
    space; for an instance the chat turn too, since its output answers no prompt) and after the model's own thoughts,
    without the token that ended it. "pair" is over all tokens of `pair_text`; the first token follows the tokenizer's
    beginning of sequence, or its end of text if it has none. A perplexity is None if there is no token.
    """
    engine, settings = context.engine, context.recipe.response
    space = "" if load_answer_form(settings.prompt).chat else " "

    def measure_batch(start: int) -> list[PairPerplexity]:
        batch = pairs[start : start + BATCH_SIZE]
        texts_before = [text_before_output(pair, context.chat, settings) for pair in batch]
        answers = [space + pair.output if pair.output else "" for pair in batch]
        outputs = engine.logprobs(texts_before, [context.prompt(answer, in_chat=False) for answer in answers])
        pair_texts = [context.prompt(pair_text(pair), in_chat=False) for pair in batch]
        texts = engine.logprobs([""] * len(batch), pair_texts)
        return [
            PairPerplexity(id=pair.id, output=perplexity(output), pair=perplexity(text))
            for pair, output, text in zip(batch, outputs, texts, strict=True)
        ]

    return context.folder.map_batches(
        "perplexity.jsonl",
        PairPerplexity,
        measure_batch,
        len(pairs),
        BATCH_SIZE,
        max_in_flight=engine.max_in_flight,
        requests_per_row=2,
    )


def embed_pairs(context: StageContext, pairs: Sequence[Pair]) -> Sequence[PairEmbedding]:
    """Return the embedding (Engine.embed) of each pair's `pair_text`."""

    def embed_batch(start: int) -> list[PairEmbedding]:
        batch = pairs[start : start + BATCH_SIZE]
        vectors = context.engine.embed([context.prompt(pair_text(pair), in_chat=False) for pair in batch])
        texts = (b64encode(vector.astype("<f4").tobytes()).decode() for vector in vectors)
        return [PairEmbedding(id=pair.id, values=text) for pair, text in zip(batch, texts, strict=True)]

    return context.folder.map_batches(
        "embeddings.jsonl",
        PairEmbedding,
        embed_batch,
        len(pairs),
        BATCH_SIZE,
        max_in_flight=context.engine.max_in_flight,
    )


def draw_samples(context: StageContext, pairs: Sequence[Pair], num_samples: int) -> Sequence[PairSamples]:
    """Return further answers to each pair's task, asked for and drawn as the first one was."""
    settings = context.recipe.response
    form = load_answer_form(settings.prompt)
    sampling = context.sampling(settings.sampling, *form.stop)
    batch_size = max(1, settings.batch_size // num_samples)

    def draw_batch(start: int) -> list[PairSamples]:
        batch = pairs[start : start + batch_size]
        prompts = [render_response_prompt(pair, context.chat, settings) for pair in batch for _ in range(num_samples)]
        completions = context.engine.generate(prompts, sampling, context.seed("samples", start // batch_size))
        groups = chunks(completions, num_samples)
        return [_pair_samples(pair, group, form) for pair, group in zip(batch, groups, strict=True)]

    return context.folder.map_batches(
        "samples.jsonl",
        PairSamples,
        draw_batch,
        len(pairs),
        batch_size,
        max_in_flight=context.engine.max_in_flight,
        requests_per_row=num_samples,
    )


def _pair_samples(pair: Pair, completions: Sequence[Completion], form: AnswerForm) -> PairSamples:
    outputs = tuple(read_answer(completion, form)[1] for completion in completions)
    return PairSamples(id=pair.id, outputs=outputs, tokens=sum(completion.tokens for completion in completions))


def pair_text(pair: Pair) -> str:
    """Return instruction, input and output as one plain text, without a chat template."""
    return f"{pair.content}\n{pair.output}"


def perplexity(tokens: TokenLogprobs) -> float | None:
    """Return exp of the mean negative log-probability of the tokens, or None if there is no token."""
    if not tokens.logprobs:
        return None
    return math.exp(min(-sum(tokens.logprobs) / len(tokens.logprobs), MAX_NATS))
