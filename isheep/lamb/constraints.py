"""The constraints on top of a task: IFEval's own instruction types (Zhou et al. 2023), phrased for the micro-world."""

from typing import NamedTuple

from isheep.lamb import facts
from isheep.lamb.families import lines


class Constraint(NamedTuple):
    """One of IFEval's instruction types. `check` has IFEval's semantics; {v} is its value in the phrasing."""

    kind: str
    ifeval: str
    phrasings: tuple[str, ...]
    held: tuple[str, ...]
    values: tuple[str, ...] = ("",)


CONSTRAINTS = {
    c.kind: c
    for c in (
        Constraint(
            "upper",
            "change_case:english_capital",
            lines("""Answer in capital letters only.
            Use only capital letters.
            Write everything in capital letters.
            Your whole answer must be in capital letters."""),
            lines("""Only use capital letters in your answer.
            Write your answer in capital letters only."""),
        ),
        Constraint(
            "lower",
            "change_case:english_lowercase",
            lines("""Answer in lower case only.
            Use only lower case letters.
            Write everything in lower case.
            No capital letters are allowed."""),
            lines("""Only use lower case letters in your answer.
            Write your answer in lower case only."""),
        ),
        Constraint(
            "comma",
            "punctuation:no_comma",
            lines("""Do not use any commas.
            Answer without commas.
            No commas are allowed.
            Use no commas in your answer."""),
            lines("""Your answer must have no commas.
            Write your answer without commas."""),
        ),
        Constraint(
            "end",
            "startend:end_checker",
            lines("""End your answer with the words {v}.
            Finish with the words {v}.
            The last words must be {v}.
            Close your answer with {v}."""),
            lines("""Your answer must end with the words {v}.
            Finish your answer with the words {v}."""),
            tuple(facts.PHRASES),
        ),
        Constraint(
            "quote",
            "startend:quotation",
            lines("""Put your answer in double quotes.
            Wrap the whole answer in double quotes.
            Use double quotes around your answer.
            Your answer must stand in double quotes."""),
            lines("""Write your whole answer in double quotes.
            Put the whole answer in double quotes."""),
        ),
        Constraint(
            "include",
            "keywords:existence",
            lines("""Include the word {v} in your answer.
            Your answer must contain the word {v}.
            Use the word {v} too.
            Mention the word {v}."""),
            lines("""The word {v} must be in your answer.
            Your answer must include the word {v}."""),
            tuple(facts.EXTRAS),
        ),
        Constraint(
            "forbid",
            "keywords:forbidden_words",
            lines("""Do not use the word {v}.
            Avoid the word {v}.
            Answer without the word {v}.
            The word {v} is not allowed."""),
            lines("""Your answer must not contain the word {v}.
            Please avoid the word {v}."""),
            ("the", "is", "of"),
        ),
        Constraint(
            "few",
            "length_constraints:number_words",
            lines("""Answer with less than {v} words.
            Use less than {v} words.
            Keep it to less than {v} words."""),
            lines("""Your answer must have less than {v} words.
            Keep your answer to less than {v} words."""),
            ("4", "5"),
        ),
        Constraint(
            "many",
            "length_constraints:number_words",
            lines("""Answer with at least {v} words.
            Use at least {v} words.
            Write at least {v} words."""),
            lines("""Your answer must have at least {v} words.
            Answer in at least {v} words."""),
            ("4", "5", "6"),
        ),
        Constraint(
            "repeat",
            "combination:repeat_prompt",
            lines("""First repeat the request, then answer.
            Repeat the request before you answer.
            Start with the request itself, then answer.
            Say the request again first, then answer it."""),
            lines("""First say the request again, then answer.
            First repeat the request again, then answer it."""),
        ),
        Constraint(
            "title",
            "detectable_format:title",
            lines("""Add a title in double angular brackets.
            Start with a title in double angular brackets.
            Give your answer a title in double angular brackets.
            Put a title in double angular brackets first."""),
            lines("""Your answer must have a title in double angular brackets.
            Start your answer with a title in double angular brackets."""),
        ),
    )
}

# Pairs that can't hold together, or that IFEval's checkers would contradict.
CONFLICTS = {
    frozenset(pair.split())
    for pair in lines(
        """upper lower
        few include
        few repeat
        few end
        few title
        few many
        forbid many
        forbid repeat
        forbid include
        forbid end
        repeat quote
        comma repeat"""
    )
}
