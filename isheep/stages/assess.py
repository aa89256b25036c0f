"""Self-assessment (Algorithm 1, line 6; Section 3.2, Appendix A): pairs -> graded pairs."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial

from isheep import prompts
from isheep.batching import derive_seed, ordered_map
from isheep.engines import ChoosingEngine, SeededEngine
from isheep.errors import UserError, excerpt
from isheep.judges.rating_engine import EndpointEngine
from isheep.models.chat_template import ChatTemplate, plain_prompt
from isheep.models.tokenization import continuation_ids, prompt_ids
from isheep.recipe.schema import RATING_SCALE, Assessment, score_openings
from isheep.records import AssessedPair, Grade, Pair
from isheep.stages.context import StageContext
from isheep.stages.grades import SEPARATOR, constrained_grade, draw_score, expected_grade, parse_grade
from isheep.stages.rating_advice import are_constrained, constraining_advice, unreadable_advice
from isheep.stages.rating_judge import open_judge

# The unreadable replies that a message shows.
NUM_EXAMPLES = 3
# What assessment.on_unreadable does, in words.
ACTIONS = {
    "continue": "the run goes on",
    "constrain": "these and all following pairs are rated with read: constrained",
    "stop": "the run stops",
}


def render_rating_prompt(pair: Pair, criterion: str, settings: Assessment, chat: ChatTemplate) -> str:
    """Return the rating prompt of one criterion, as plain text or as a chat turn."""
    text = prompts.fill_template(
        prompts.load_prompts(settings.prompt)[criterion], instruction=pair.content, output=pair.output
    )
    return chat.prompt(text) if settings.chat else plain_prompt(text, chat)


def check_score_tokens(settings: Assessment, chat: ChatTemplate) -> None:
    """Raise UserError if `read: expected` or `constrained` can't work with the tokenizer.

    That is the case if the tokenizer splits a score behind the prompt in another way than the score alone, or two
    scores into the same tokens.
    """
    if not settings.reads_options:
        return

    empty_pair = Pair(id="", instruction="", output="", finish="stop", tokens=0, seed=0)
    prompt = render_rating_prompt(empty_pair, settings.criteria[0], settings, chat)
    options = score_openings(settings)
    prompt_row, *rows = prompt_ids(chat.tokenizer, [prompt, *(prompt + option for option in options)])
    option_ids = [continuation_ids(chat.tokenizer, option, prompt_row) for option in options]
    num_distinct = len(set(map(tuple, option_ids)))
    splits_alike = rows == [prompt_row + ids for ids in option_ids]
    if num_distinct < len(RATING_SCALE) or not splits_alike:
        reading = "on_unreadable: constrain" if settings.read == "generate" else f"read: {settings.read}"
        raise UserError(
            f"assessment.{reading} can't read scores such as {options[0]!r} behind the prompt with the "
            "tokenizer of this model: set assessment.opening to what stands before one, or take read: generate "
            "(and on_unreadable: continue or stop)"
        )


def assess(context: StageContext, pairs: Sequence[Pair]) -> Sequence[Pair]:
    """Return D_raw^t with its grades S^t (assessed.jsonl), or the pairs as they are if the recipe has no assessment.

    `assessment.judge` is the judge: the model that wrote the pairs, the base model, or another one.
    """
    settings = context.recipe.assessment
    if settings is None:
        return pairs
    with open_judge(context, settings) as judging:
        if isinstance(judging.engine, EndpointEngine) and not context.folder.has("assessed.jsonl"):
            texts = [
                render_rating_prompt(pair, criterion, settings, judging.chat)
                for pair in pairs
                if not pair.unanswered
                for criterion in settings.criteria
            ]
            judging.engine.announce(texts, settings.sampling)
        return grade_pairs(judging, settings, pairs)


def grade_pairs(
    context: StageContext,
    settings: Assessment,
    pairs: Sequence[Pair],
    name: str = "assessed.jsonl",
    acts_on_unreadable: bool = True,
) -> Sequence[AssessedPair]:
    """Return the pairs with a grade of each criterion, rated by the context's engine; `name` is the file of the grades.

    A grade keeps the judge's raw reply, or the probabilities of the scores for `read: expected`. With
    `read: constrained` the reply begins with the drawn score. A reply ends at the chat template's end token, as answers
    do. A pair in which no answer could be read is not rated: it has no grades. If `acts_on_unreadable` is true, the
    first batch decides how all pairs are rated (settings_after).
    """

    def grade_batch(reading: Assessment, start: int) -> list[AssessedPair]:
        batch, index = pairs[start : start + reading.batch_size], start // reading.batch_size
        answered = [pair for pair in batch if not pair.unanswered]
        seeds = {criterion: context.seed("assessment", criterion, index) for criterion in reading.criteria}
        ratings = rate(context, reading, answered, seeds)
        grades = {
            pair.id: {criterion: ratings[criterion][row] for criterion in ratings} for row, pair in enumerate(answered)
        }
        return [AssessedPair(**pair.model_dump(), grades=grades.get(pair.id, {})) for pair in batch]

    def missing_batches(existing: Sequence[AssessedPair]) -> Iterator[Sequence[AssessedPair]]:
        reading, num_graded = settings, len(existing)
        if acts_on_unreadable and pairs:
            first = existing[: settings.batch_size] or grade_batch(settings, 0)
            reading, error = settings_after(context, settings, first)
            if not existing:
                # Stored before the run stops, so that the next call stops at once.
                yield first if reading.read == settings.read else grade_batch(reading, 0)
                num_graded = len(first)
            if error:
                raise error
        starts = range(num_graded, len(pairs), settings.batch_size)
        yield from ordered_map(partial(grade_batch, reading), starts, context.engine.max_in_flight)

    num_requests = len(settings.criteria)
    return context.folder.records(
        name, AssessedPair, missing_batches, settings.batch_size, len(pairs), requests_per_row=num_requests
    )


def settings_after(
    context: StageContext, settings: Assessment, first_batch: Sequence[AssessedPair]
) -> tuple[Assessment, UserError | None]:
    """Return how to rate all pairs of an iteration, and the error that ends the run, given its first graded batch.

    If more than half of the batch's ratings can't be read, the user is told so, and `assessment.on_unreadable` decides.
    It depends on the settings and the batch alone, so that a resumed run, which finds the batch stored, goes on alike.
    """
    constrained = settings.model_copy(update={"read": "constrained"})
    grades = [grade for pair in first_batch for grade in pair.grades.values()]
    if settings.read != "constrained" and are_constrained(first_batch):
        return constrained, None
    replies = [grade.reply for grade in grades if grade.score is None]
    if 2 * len(replies) <= len(grades):
        return settings, None
    action, examples = settings.on_unreadable, ", ".join(map(excerpt, list(dict.fromkeys(replies))[:NUM_EXAMPLES]))
    if settings.read == "constrained" and action == "constrain":
        action = "continue"
    if action == "constrain":
        advice = constraining_advice(context.engine)
    else:
        advice = unreadable_advice(settings, context.engine, settings.read == "constrained")
    problem = (
        f"iteration {context.iteration}: {len(replies)} of the first {len(grades)} ratings can't be read, such as "
        f"{examples}; {advice} (assessment.on_unreadable: {action}: {ACTIONS[action]})"
    )
    if action == "stop":
        return settings, UserError(problem)
    context.folder.notify(problem)
    return (constrained if action == "constrain" else settings), None


def rate(
    context: StageContext, settings: Assessment, pairs: Sequence[Pair], seeds: dict[str, int]
) -> dict[str, list[Grade]]:
    """Return by criterion one grade for each pair; `seeds` has the random seed of each criterion's replies."""
    texts = {
        criterion: [render_rating_prompt(pair, criterion, settings, context.chat) for pair in pairs]
        for criterion in seeds
    }
    if settings.read == "generate":
        replies = write_replies(context, settings, texts, seeds)
        return {
            criterion: [Grade(score=parse_grade(reply), reply=reply) for reply in replies[criterion]]
            for criterion in seeds
        }
    # One call rates all criteria: a pair's prompts share their beginning, which the engine then reads once.
    prompts_of_all = [text for criterion_texts in texts.values() for text in criterion_texts]
    rows = iter(score_probabilities(context, settings, prompts_of_all))
    probabilities = {criterion: [next(rows) for _ in pairs] for criterion in texts}
    if settings.read == "expected":
        return {criterion: list(map(expected_grade, probabilities[criterion])) for criterion in texts}
    return constrained_grades(context, settings, texts, probabilities, seeds)


def score_probabilities(context: StageContext, settings: Assessment, texts: Sequence[str]) -> Sequence[Sequence[float]]:
    """Return the probabilities of the scores after each prompt; all 0 if a server gives none and chooses by itself."""
    engine, openings = context.engine, score_openings(settings)
    if settings.read == "constrained" and isinstance(engine, ChoosingEngine) and not engine.gives_probabilities():
        return [[0.0] * len(openings) for _ in texts]
    return engine.choices(texts, openings)


def write_replies(
    context: StageContext, settings: Assessment, texts: Mapping[str, Sequence[str]], seeds: Mapping[str, int]
) -> dict[str, list[str]]:
    """Return by criterion what the judge writes after each text.

    If the engine can, one call writes all of them, because a pair's texts share their beginning. The random draws are
    those of a call for each criterion.
    """
    engine, sampling = context.engine, context.sampling(settings.sampling)
    if not isinstance(engine, SeededEngine):
        replies_of: dict[str, list[str]] = {}
        for criterion, rows in texts.items():
            completions = engine.generate(rows, sampling, seeds[criterion]) if rows else []
            replies_of[criterion] = [reply.text for reply in completions]
        return replies_of
    all_texts = [text for criterion_texts in texts.values() for text in criterion_texts]
    all_seeds = [derive_seed(seeds[criterion], row) for criterion in texts for row in range(len(texts[criterion]))]
    replies = iter(engine.generate_seeded(all_texts, sampling, all_seeds) if all_texts else [])
    return {criterion: [next(replies).text for _ in texts[criterion]] for criterion in texts}


def constrained_grades(
    context: StageContext,
    settings: Assessment,
    texts: Mapping[str, Sequence[str]],
    probabilities: Mapping[str, Sequence[Sequence[float]]],
    seeds: Mapping[str, int],
) -> dict[str, list[Grade]]:
    """Return grades by criterion: scores drawn by their probabilities, then explanations as the judge writes them.

    A prompt without a score gets no explanation.
    """
    openings = score_openings(settings)
    scores = {
        criterion: draw_scores(context, settings, texts[criterion], probabilities[criterion], seed)
        for criterion, seed in seeds.items()
    }
    explanations: dict[str, dict[int, str]] = {criterion: {} for criterion in scores}
    if settings.explain:
        begun = {
            criterion: {
                row: texts[criterion][row] + openings[RATING_SCALE.index(score)] + SEPARATOR
                for row, score in enumerate(scores[criterion])
                if score is not None
            }
            for criterion in scores
        }
        replies = write_replies(context, settings, {name: list(rows.values()) for name, rows in begun.items()}, seeds)
        explanations = {name: dict(zip(begun[name], replies[name], strict=True)) for name in replies}
    return {
        criterion: [
            constrained_grade(row, score, explanations.get(criterion, {}).get(index))
            for index, (row, score) in enumerate(zip(probabilities[criterion], scores[criterion], strict=True))
        ]
        for criterion in scores
    }


def draw_scores(
    context: StageContext,
    settings: Assessment,
    texts: Sequence[str],
    probabilities: Sequence[Sequence[float]],
    seed: int,
) -> list[int | None]:
    """Return a score for each prompt of a criterion; None if there are no probabilities and no server that chooses."""
    scores = [
        draw_score(row, settings.sampling, derive_seed(seed, "score", index)) for index, row in enumerate(probabilities)
    ]
    without_score = [index for index, score in enumerate(scores) if score is None]
    if without_score and isinstance(context.engine, ChoosingEngine):
        remaining = [texts[index] for index in without_score]
        draws = context.engine.choose(
            remaining, score_openings(settings), settings.sampling, derive_seed(seed, "choice")
        )
        for index, draw in zip(without_score, draws, strict=True):
            scores[index] = None if draw is None else RATING_SCALE[draw]
    return scores
