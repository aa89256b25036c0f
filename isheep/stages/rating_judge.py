"""The model that rates the pairs: M^(t-1), the base, another checkpoint, or a model at an endpoint."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace

from isheep import backends
from isheep.engines import Engine
from isheep.judges.endpoint import EndpointJudge
from isheep.judges.rating_engine import EndpointEngine
from isheep.models.chat_template import ChatTemplate
from isheep.recipe.evaluation import RatingJudge
from isheep.recipe.schema import Assessment, Recipe
from isheep.records import Model
from isheep.rundir.folder import RunFolder
from isheep.stages.context import StageContext


@contextmanager
def open_judge(context: StageContext, settings: Assessment) -> Iterator[StageContext]:
    """Yield the context with the engine and the chat template of the model that rates (`assessment.judge`)."""
    judge = settings.judge
    if judge == "current" or (judge == "base" and context.iteration == 1):
        yield context
        return
    # Frees the memory of the model that wrote the pairs before another one loads.
    context.engine.close()
    chat = context.chat
    if isinstance(judge, str):
        engine = context.backend.open_engine(context.recipe, Model(context.recipe.model))
    else:
        engine, chat = open_other_judge(context.recipe, judge, context.folder, chat)
    with closing(engine):
        yield replace(context, engine=engine, chat=chat)


def open_other_judge(
    recipe: Recipe, judge: RatingJudge, folder: RunFolder, chat: ChatTemplate
) -> tuple[Engine, ChatTemplate]:
    """Return an engine on a judge that is no model of the run, and its chat template; `chat` is that of the run.

    An endpoint has its own chat template, and gets plain prompts.
    """
    if judge.local:
        return backends.open_local(recipe, judge.model)
    return EndpointEngine(_endpoint(recipe, judge), folder), chat


def check_judge(recipe: Recipe, settings: Assessment) -> None:
    """Raise UserError if a judge at an endpoint can't be asked. Costs nothing."""
    if isinstance(settings.judge, RatingJudge) and not settings.judge.local:
        _endpoint(recipe, settings.judge).check()


def judge_chat(recipe: Recipe, settings: Assessment, chat: ChatTemplate) -> ChatTemplate:
    """Return the chat template of the judge, given that of the run. Raises UserError if there is no local judge."""
    if not isinstance(settings.judge, RatingJudge) or not settings.judge.local:
        return chat
    engine, own_chat = backends.open_local(recipe, settings.judge.model)
    engine.close()
    return own_chat


def _endpoint(recipe: Recipe, judge: RatingJudge) -> EndpointJudge:
    return EndpointJudge(judge.model, recipe.machine.judging, judge.parameters)
