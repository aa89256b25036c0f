"""The constraints of the micro-world: IFEval's instruction types (Zhou et al. 2023) in phrasings of our own."""

from typing import NamedTuple

from isheep.lamb import facts
from isheep.lamb.phrasings import Part, constraint_phrasings


class ConstraintType(NamedTuple):
    """One of IFEval's instruction types, and the values of {v} in its phrasings."""

    kind: str
    ifeval: str
    values: tuple[str, ...] = ("",)

    @property
    def phrasings(self) -> dict[Part, list[str]]:
        return constraint_phrasings(self.kind)


CONSTRAINT_TYPES = {
    constraint_type.kind: constraint_type
    for constraint_type in (
        ConstraintType("upper", "change_case:english_capital"),
        ConstraintType("lower", "change_case:english_lowercase"),
        ConstraintType("comma", "punctuation:no_comma"),
        ConstraintType("end", "startend:end_checker", tuple(facts.PHRASES)),
        ConstraintType("quote", "startend:quotation"),
        ConstraintType("include", "keywords:existence", tuple(facts.EXTRAS)),
        ConstraintType("forbid", "keywords:forbidden_words", ("the", "is", "of")),
        ConstraintType("few", "length_constraints:number_words", ("4", "5")),
        ConstraintType("many", "length_constraints:number_words", ("4", "5", "6")),
        ConstraintType("repeat", "combination:repeat_prompt"),
        ConstraintType("title", "detectable_format:title"),
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
