"""The constraints of the micro-world: IFEval's instruction types (Zhou et al. 2023) in phrasings of our own."""

from typing import NamedTuple

from isheep.lamb import facts
from isheep.lamb.phrasings import Part, constraint_phrasings


class ConstraintKind(NamedTuple):
    """One of IFEval's instruction types, and the values of {v} in its phrasings."""

    name: str
    ifeval: str
    values: tuple[str, ...] = ("",)

    @property
    def phrasings(self) -> dict[Part, list[str]]:
        return constraint_phrasings(self.name)


CONSTRAINT_KINDS = {
    constraint_kind.name: constraint_kind
    for constraint_kind in (
        ConstraintKind("upper", "change_case:english_capital"),
        ConstraintKind("lower", "change_case:english_lowercase"),
        ConstraintKind("comma", "punctuation:no_comma"),
        ConstraintKind("end", "startend:end_checker", tuple(facts.PHRASES)),
        ConstraintKind("quote", "startend:quotation"),
        ConstraintKind("include", "keywords:existence", tuple(facts.EXTRAS)),
        ConstraintKind("forbid", "keywords:forbidden_words", ("the", "is", "of")),
        ConstraintKind("few", "length_constraints:number_words", ("4", "5")),
        ConstraintKind("many", "length_constraints:number_words", ("4", "5", "6")),
        ConstraintKind("repeat", "combination:repeat_prompt"),
        ConstraintKind("title", "detectable_format:title"),
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
