"""Self-assessment (Algorithm 1, line 6; Section 3.2, Appendix A): pairs -> graded pairs."""

import re
import unicodedata
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace

from isheep import prompts
from isheep.errors import UserError
from isheep.models.chat_template import ChatTemplate, plain_prompt
from isheep.models.tokenization import continuation_ids, prompt_ids
from isheep.recipe.schema import RATING_SCALE, Assessment, score_openings
from isheep.records import AssessedPair, Grade, Model, Pair
from isheep.stages.context import StageContext

# What may follow a rating directly: white space, brackets, quotation marks, asterisks, punctuation, dashes, a bar.
MARKS_BEHIND = " \t\u00a0\u3000<>()[]{}\"'`*“”‘’».,;:!?…|–—-。，；：！？、（）】」』》"
# A number in ASCII digits by itself, or out of 10; never part of a word, a date, a range or another fraction.
RATING = re.compile(
    r"(?<![A-Za-z0-9_.,/\x00-\x08\x0e-\x1f\x7f-])([0-9]+(?:\.[0-9]+)?)(?:\s*(?:/|out\s+of)\s*10)?"
    rf"(?=[{re.escape(MARKS_BEHIND)}]|\Z)(?![.,]\d|\s*/|\s*out\s+of|\s*[-–—]\s*\d|\s+to\s+\d)",
    re.IGNORECASE,
)
LABEL = re.compile(
    r"(?:(?:the|my|your|final|overall)\s+)*(?:score|rating|grade|final|overall)?\s*(?:is\b)?[\s:=]*", re.IGNORECASE
)

# The least probability that the scores 1 to 10 must have together as the next tokens.
MIN_SCORE_PROBABILITY = 0.01

# The marks that may stand before a rating.
MARKS = " \t<[(\"'*#_`"

# The ends of a line: no other control character is one. A stop sequence may cut the end of the last line in two.
LINE_END = re.compile(r"\r?\n|\r\Z")
# What makes a number negative: a word, or a minus sign beside the dashes (Unicode's category Pd).
MINUS_WORD = re.compile(r"\b(?:minus|negative)\Z", re.IGNORECASE)
MINUS_SIGNS = "\u2212\u207b\u208b\u2796"


def render_rating_prompt(pair: Pair, criterion: str, settings: Assessment, chat: ChatTemplate) -> str:
    """Return the rating prompt of one criterion, as plain text or as a chat turn."""
    text = prompts.fill_template(
        prompts.load_prompts(settings.prompt)[criterion], instruction=pair.content, output=pair.output
    )
    return chat.prompt(text) if settings.chat else plain_prompt(text, chat)


def parse_grade(reply: str) -> float | None:
    """Return the score in a judge's reply, 1 to 10, or None if it can't be read. The prompt asks for `<score>||<why>`.

    Reads only the first line that is not blank; a line ends at "\\n" or "\\r\\n". If it has a `||`, the score stands
    before it among any words ("8||", "<8>||", "I give it 8/10 || ..."), and what follows is free text that is not read.
    If it has none, the number must open the line, after marks and a label at most: "8", "8.5 because", "Score: 8",
    "Overall: 8", "8 out of 10". A fraction keeps its value (8.5).

    A number is ASCII digits, and only MARKS_BEHIND may follow it directly. A number outside 1 to 10, of another scale
    ("80/100"), of a range ("7-8"), with a minus ("−8", "minus 8"), in words, in other digits, or beside another number
    ("8²", "Score (1-10): 8", "8 or 9", "1. Overall: 8") is not read, and neither is a line with a control character:
    the paper's format has one number, and which of several is the score would be a guess.
    """
    line = next((line for line in LINE_END.split(reply) if line.strip()), "")
    head, separator, _ = line.partition("||")
    if separator:
        number = RATING.search(head)
    else:
        head = LABEL.sub("", head.lstrip(MARKS), count=1).lstrip(MARKS)
        number = RATING.match(head)
    if number is None or any(map(is_control, head)):
        return None
    preceding, following = head[: number.start()], head[number.end() :]
    if any(map(is_numeric, preceding + following)) or ends_with_minus(preceding.rstrip(MARKS)):
        return None
    score = float(number[1])
    return score if 1 <= score <= 10 else None


def ends_with_minus(text: str) -> bool:
    """Return whether a text ends with a minus sign, a dash of any length, or a word for minus."""
    is_sign = unicodedata.category(text[-1]) == "Pd" or text[-1] in MINUS_SIGNS if text else False
    return is_sign or MINUS_WORD.search(text) is not None


def is_control(character: str) -> bool:
    """Return whether a character controls a device, such as a vertical tab; a tab is white space."""
    return character != "\t" and unicodedata.category(character) == "Cc"


def is_numeric(character: str) -> bool:
    """Return whether a character is a digit or another number of any script: 8, ², ½, Ⅷ, ⑧. 八 is a letter."""
    return unicodedata.category(character).startswith("N")


def expected_grade(probabilities: Sequence[float]) -> Grade:
    """Return the expected score under the probabilities of the scores 1 to 10, normalized to sum to 1.

    The score is rounded to two decimals, so that a judge sure of 8 reaches 8. The probabilities are kept as the reply.
    If they sum to less than `MIN_SCORE_PROBABILITY`, the judge would write something else, and the rating is
    unreadable.
    """
    total = sum(probabilities)
    reply = ", ".join(
        f"{score}: {probability:.4f}" for score, probability in zip(RATING_SCALE, probabilities, strict=True)
    )
    if total < MIN_SCORE_PROBABILITY:
        return Grade(score=None, reply=reply)
    weighted = sum(score * probability for score, probability in zip(RATING_SCALE, probabilities, strict=True))
    return Grade(score=round(weighted / total, 2), reply=reply)


def check_expected_scores(settings: Assessment, chat: ChatTemplate) -> None:
    """Raise UserError if `read: expected` can't work with the tokenizer.

    That is the case if the tokenizer splits a score behind the prompt in another way than the score alone, or two
    scores into the same tokens.
    """
    if settings.read != "expected":
        return

    empty_pair = Pair(id="", instruction="", output="", finish="stop", tokens=0, seed=0)
    prompt = render_rating_prompt(empty_pair, settings.criteria[0], settings, chat)
    options = score_openings(settings)
    prompt_row, *rows = prompt_ids(chat.tokenizer, [prompt, *(prompt + option for option in options)])
    option_ids = [continuation_ids(chat.tokenizer, option, prompt_row) for option in options]
    num_distinct = len(set(map(tuple, option_ids)))
    splits_alike = rows == [prompt_row + ids for ids in option_ids]
    if num_distinct < len(RATING_SCALE) or not splits_alike:
        raise UserError(
            f"assessment.read: expected can't read scores such as {options[0]!r} behind the prompt with the "
            "tokenizer of this model: set assessment.opening to what stands before one, or take read: generate"
        )


def assess(context: StageContext, pairs: Sequence[Pair]) -> Sequence[Pair]:
    """Return D_raw^t with its grades S^t (assessed.jsonl), or the pairs as they are if the recipe has no assessment.

    The judge is the model that wrote the pairs, or the base model for `assessment.judge: base`.
    """
    settings = context.recipe.assessment
    if settings is None:
        return pairs
    if settings.judge == "current" or context.iteration == 1:
        return grade_pairs(context, settings, pairs)
    # Frees the memory of the model that wrote the pairs before the base model loads.
    context.engine.close()
    with closing(context.backend.open_engine(context.recipe, Model(context.recipe.model))) as base_engine:
        return grade_pairs(replace(context, engine=base_engine), settings, pairs)


def grade_pairs(
    context: StageContext, settings: Assessment, pairs: Sequence[Pair], name: str = "assessed.jsonl"
) -> Sequence[AssessedPair]:
    """Return the pairs with a grade of each criterion, rated by the context's engine; `name` is the file of the grades.

    A grade keeps the judge's raw reply, or the probabilities of the scores for `read: expected`. A reply ends at the
    chat template's end token, as answers do. A pair in which no answer could be read is not rated: it has no grades.
    """

    def grade_batch(start: int) -> list[AssessedPair]:
        batch, index = pairs[start : start + settings.batch_size], start // settings.batch_size
        answered = [pair for pair in batch if not pair.unanswered]
        seeds = {criterion: context.seed("assessment", criterion, index) for criterion in settings.criteria}
        ratings = rate(context, settings, answered, seeds)
        grades = {
            pair.id: {criterion: ratings[criterion][row] for criterion in ratings} for row, pair in enumerate(answered)
        }
        return [AssessedPair(**pair.model_dump(), grades=grades.get(pair.id, {})) for pair in batch]

    return context.folder.map_batches(
        name,
        AssessedPair,
        grade_batch,
        len(pairs),
        settings.batch_size,
        max_in_flight=context.engine.max_in_flight,
        requests_per_row=len(settings.criteria),
    )


def rate(
    context: StageContext, settings: Assessment, pairs: Sequence[Pair], seeds: dict[str, int]
) -> dict[str, list[Grade]]:
    """Return by criterion one grade for each pair; `seeds` has the random seed of each criterion's replies.

    For `read: expected` nothing is generated, and one call rates all criteria: a pair's prompts share their beginning,
    which the engine then reads once.
    """
    texts = {
        criterion: [render_rating_prompt(pair, criterion, settings, context.chat) for pair in pairs]
        for criterion in seeds
    }
    if settings.read == "generate":
        sampling = context.sampling(settings.sampling)
        replies = {
            criterion: context.engine.generate(texts[criterion], sampling, seed) for criterion, seed in seeds.items()
        }
        return {
            criterion: [Grade(score=parse_grade(reply.text), reply=reply.text) for reply in completions]
            for criterion, completions in replies.items()
        }
    prompts_of_all = [text for criterion_texts in texts.values() for text in criterion_texts]
    shares = iter(context.engine.choices(prompts_of_all, score_openings(settings)))
    return {criterion: [expected_grade(next(shares)) for _ in pairs] for criterion in texts}
