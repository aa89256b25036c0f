"""What helps if ratings can't be read: it depends on how they are read, and on what the engine of the judge can do."""

from collections.abc import Iterable

from isheep.engines import ChoosingEngine, Engine
from isheep.engines.function import FunctionEngine
from isheep.engines.user_engine import UserEngine
from isheep.recipe.schema import Assessment
from isheep.records import AssessedPair

FUNCTION_ADVICE = (
    "let the texts of the function that is the engine begin with a score, which can't be constrained there"
)
SERVER_ADVICE = (
    "take a server that gives log-probabilities or has structured choice (vLLM, llama.cpp, SGLang), or "
    "machine.engine: transformers"
)
OWN_ENGINE_ADVICE = (
    "let the method choices of your engine give the scores probabilities above 0, or take assessment.read: generate"
)
NO_ROOM_ADVICE = (
    "lower response.sampling.max_tokens or shorten assessment.prompt, because a prompt that leaves no room in the "
    "judge's context gets no score"
)


def unreadable_advice(settings: Assessment, engine: Engine | None, constrained: bool) -> str:
    """Return what helps if most ratings can't be read. `engine` is the judge's; None: one that gives probabilities.

    `constrained` says that the scores were drawn among the allowed ones, or are from now on.
    """
    if settings.is_at_endpoint:
        return "take another assessment.prompt or another judge"
    if _is_function(engine):
        return FUNCTION_ADVICE
    if constrained:
        if isinstance(engine, ChoosingEngine):
            return SERVER_ADVICE
        return OWN_ENGINE_ADVICE if isinstance(engine, UserEngine) else NO_ROOM_ADVICE
    if settings.read == "expected":
        return "take assessment.read: constrained, because the judge would write something else than a score"
    ways = "constrained" if isinstance(engine, ChoosingEngine) else "constrained or expected"
    return f"take assessment.read: {ways}, or another assessment.sampling, such as a lower temperature"


def constraining_advice(engine: Engine) -> str:
    """Return what helps if the run itself constrains the following ratings (`on_unreadable: constrain`)."""
    if _is_function(engine):
        return FUNCTION_ADVICE
    if isinstance(engine, UserEngine):
        return "the method choices of your engine must give the scores probabilities above 0"
    return "assessment.read: constrained rates so from the first pair on"


def _is_function(engine: Engine | None) -> bool:
    return isinstance(engine.engine if isinstance(engine, UserEngine) else engine, FunctionEngine)


def are_constrained(pairs: Iterable[AssessedPair]) -> bool:
    """Return whether the scores of graded pairs were drawn among the allowed ones."""
    return any(grade.expected is not None for pair in pairs for grade in pair.grades.values())


def were_constrained(settings: Assessment, pairs: Iterable[AssessedPair]) -> bool:
    """Return whether the ratings of an iteration were constrained, also if not a single score could be drawn.

    A rating without a drawn score has an empty reply.
    """
    grades = [grade for pair in pairs for grade in pair.grades.values()]
    if settings.read == "constrained":
        return True
    return settings.on_unreadable == "constrain" and all(
        grade.expected is not None if grade.score is not None else not grade.reply for grade in grades
    )
