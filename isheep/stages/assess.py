"""Self-assessment (Algorithm 1, line 6; Section 3.2, Appendix A): pairs -> graded pairs."""

import re
from collections.abc import Iterator, Sequence

from isheep import prompts
from isheep.batching import derive_seed, ordered_map
from isheep.engines import Engine
from isheep.errors import UserError
from isheep.models.chat_template import ChatTemplate
from isheep.recipe.schema import RATING_SCALE, Assessment, score_openings
from isheep.records import AssessedPair, Grade, Pair
from isheep.rundir.folder import Batches

# A number by itself, or out of 10; never part of a word, a date, a range, a percentage or another fraction.
RATING = re.compile(
    r"(?<![\w.,/-])([0-9]+(?:\.[0-9]+)?)(?:\s*(?:/|out\s+of)\s*10)?"
    r"(?![\w%]|[.,]\d|\s*/|\s*out\s+of|\s*[-–—]\s*\d|\s+to\s+\d)",
    re.IGNORECASE | re.ASCII,
)
LABEL = re.compile(r"(?:(?:the|my|your|final|overall)\s+)*(?:score|rating|grade)?\s*(?:is\b)?[\s:=]*", re.IGNORECASE)
LEAST = 0.01  # of the next tokens' probability
MARKS = " \t\r<[(\"'*#_`"


def render_rating_prompt(pair: Pair, criterion: str, settings: Assessment, chat: ChatTemplate) -> str:
    """The rating prompt of one criterion: plain text, or as a chat turn."""
    text = prompts.fill_template(
        prompts.load_prompts(settings.prompt)[criterion], instruction=pair.content, output=pair.output
    )
    return chat.prompt(text) if settings.chat else text


def parse_grade(reply: str) -> float | None:
    """The score in a judge's reply, 1 to 10, or None where it can't be read. The prompt asks for `<score>||<why>`.

    Only the first line that holds anything counts. Where it has a `||`, exactly one number must stand before it, among
    whatever words: "8||", "<8>||", "I give it 8/10 || ...". Where it has none, the number must open the line, after
    marks and a label at most: "8", "8.5 because", "Score: 8", "8 out of 10". A fraction keeps its value (8.5). A number
    outside 1 to 10, of another scale ("80/100"), of a range ("7-8"), or in words, is not read.
    """
    line = next((line for line in reply.splitlines() if line.strip()), "")
    head, bars, _ = line.partition("||")
    if bars:
        found = RATING.search(head)
        alone = found and not re.search(r"\d", head[: found.start()] + head[found.end() :])
    else:
        opening = head.lstrip(MARKS)
        found = RATING.match(LABEL.sub("", opening, count=1).lstrip(MARKS))
        alone = found is not None
    score = float(found[1]) if found and alone else 0.0
    return score if 1 <= score <= 10 else None


def expected_grade(shares: Sequence[float]) -> Grade:
    """The expected score over the probabilities of the scores 1 to 10, as shares of what they have together.

    Rounded to two decimals, so that a judge sure of 8 reaches 8. The probabilities are kept as the reply. Where the
    scores have less than `LEAST` together, the judge would write something else, and the rating is unreadable.
    """
    total = sum(shares)
    mean = (
        sum(score * share for score, share in zip(RATING_SCALE, shares, strict=True)) / total
        if total >= LEAST
        else None
    )
    reply = ", ".join(f"{score}: {share:.4f}" for score, share in zip(RATING_SCALE, shares, strict=True))
    return Grade(score=None if mean is None else round(mean, 2), reply=reply)


def check_expected_scores(settings: Assessment, chat: ChatTemplate) -> None:
    """Raises UserError where `read: expected` can't work: where the tokenizer reads a score behind the prompt in
    another way than alone, or two scores as the same tokens."""
    if settings.read != "expected":
        return

    def ids(text: str) -> list[int]:
        found: list[int] = chat.tokenizer(text, add_special_tokens=False).input_ids
        return found

    asked = render_rating_prompt(
        Pair(id="", instruction="", output="", finish="stop", tokens=0, seed=0), settings.criteria[0], settings, chat
    )
    scores = {tuple(ids(score)) for score in score_openings(settings)}
    joined = all(ids(asked + score) == ids(asked) + ids(score) for score in score_openings(settings))
    if len(scores) < len(RATING_SCALE) or not joined:
        example = score_openings(settings)[0]
        raise UserError(
            f"assessment.read: expected can't read scores such as {example!r} behind the prompt with the "
            "tokenizer of this model: set assessment.opening to what stands before one, or take read: generate"
        )


def rate(
    engine: Engine, pairs: Sequence[Pair], settings: Assessment, chat: ChatTemplate, seeds: dict[str, int]
) -> dict[str, list[Grade]]:
    """By criterion one grade for each pair, read as the settings say; a criterion's replies are drawn from its seed.

    Where nothing is written, all criteria are asked in one call: a pair's prompts begin alike, and the engine reads
    what they share once.
    """
    asked = {
        criterion: [render_rating_prompt(pair, criterion, settings, chat) for pair in pairs] for criterion in seeds
    }
    if settings.read == "generate":
        sampling = settings.sampling.model_copy(update={"stop": (chat.end, *settings.sampling.stop)})
        replies = {criterion: engine.generate(asked[criterion], sampling, seed) for criterion, seed in seeds.items()}
        return {
            criterion: [Grade(score=parse_grade(reply.text), reply=reply.text) for reply in some]
            for criterion, some in replies.items()
        }
    shares = iter(engine.choices([prompt for some in asked.values() for prompt in some], score_openings(settings)))
    return {criterion: [expected_grade(next(shares)) for _ in pairs] for criterion in asked}


def assess(
    engine: Engine, pairs: Sequence[Pair], chat: ChatTemplate, settings: Assessment, iteration: int, seed: int
) -> Batches[AssessedPair]:
    """The graded pairs that are still owed, in batches of `settings.size`, each seeded by its place.

    The judge's raw reply, or what was measured in its place, is kept beside each score; a reply ends at the template's
    end token, as answers do. A pair in which no answer could be read is not rated.
    """

    def made(start: int) -> list[AssessedPair]:
        batch, place = pairs[start : start + settings.batch_size], start // settings.batch_size
        answered = [pair for pair in batch if not pair.unanswered]
        seeds = {one: derive_seed(seed, iteration, "assessment", one, place) for one in settings.criteria}
        found = rate(engine, answered, settings, chat, seeds)
        grades = {pair.id: {one: found[one][n] for one in found} for n, pair in enumerate(answered)}
        return [AssessedPair(**pair.model_dump(), grades=grades.get(pair.id, {})) for pair in batch]

    def batches(done: Sequence[AssessedPair]) -> Iterator[list[AssessedPair]]:
        return ordered_map(made, range(len(done), len(pairs), settings.batch_size), engine.at_once)

    return batches
