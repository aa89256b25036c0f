"""The constraints of the micro-world: IFEval's instruction types (Zhou et al. 2023) in phrasings of our own."""

from typing import NamedTuple

from isheep.lamb import facts
from isheep.lamb.phrasings import Part, constraint_phrasings


class Constraint(NamedTuple):
    """One of IFEval's instruction types, and the values of {v} in its phrasings."""

    kind: str
    ifeval: str
    values: tuple[str, ...] = ("",)

    @property
    def phrasings(self) -> dict[Part, list[str]]:
        return constraint_phrasings(self.kind)


CONSTRAINTS = {
    constraint.kind: constraint
    for constraint in (
        Constraint("upper", "change_case:english_capital"),
        Constraint("lower", "change_case:english_lowercase"),
        Constraint("comma", "punctuation:no_comma"),
        Constraint("end", "startend:end_checker", tuple(facts.PHRASES)),
        Constraint("quote", "startend:quotation"),
        Constraint("include", "keywords:existence", tuple(facts.EXTRAS)),
        Constraint("forbid", "keywords:forbidden_words", ("the", "is", "of")),
        Constraint("few", "length_constraints:number_words", ("4", "5")),
        Constraint("many", "length_constraints:number_words", ("4", "5", "6")),
        Constraint("repeat", "combination:repeat_prompt"),
        Constraint("title", "detectable_format:title"),
    )
}

# Pairs that exclude each other, or that IFEval's checkers would contradict.
CONFLICTS = {
    frozenset(pair.split())
    for pair in (
        "upper lower",
        "few include",
        "few repeat",
        "few end",
        "few title",
        "few many",
        "forbid many",
        "forbid repeat",
        "forbid include",
        "forbid end",
        "repeat quote",
        "comma repeat",
    )
}
