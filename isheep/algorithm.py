"""Algorithm 1 of Liang et al. 2024: a base model aligns itself in iterations."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from functools import partial

from isheep.backends import DEFAULT_BACKEND, Backend
from isheep.diagnostics import degenerate
from isheep.diagnostics.diversity import record_diversity
from isheep.filters.custom import PairFunction, as_filter
from isheep.recipe.schema import Recipe
from isheep.records import Model
from isheep.rundir.findings import report_findings
from isheep.rundir.folder import RunFolder
from isheep.seeds import SeedTask
from isheep.stages.assess import assess
from isheep.stages.context import StageContext
from isheep.stages.measure import measure
from isheep.stages.respond import respond
from isheep.stages.select import select_training_rows
from isheep.stages.synthesize import synthesize
from isheep.trainers.adapter_dir import check_training_file


def align(
    recipe: Recipe,
    run: RunFolder,
    *,
    backend: Backend = DEFAULT_BACKEND,
    filters: Sequence[PairFunction] = (),
) -> Iterator[Model]:
    """Yield M^0 (the base model), M^1, ..., M^T, each when it is ready, so that a caller can evaluate it, or stop.

    The data that M^(t-1) generates, the selected part of it and the adapter of M^t are files in iter-t. Existing files
    are not made again, and no weights are loaded for them. `backend` opens and trains the models. `filters` are
    functions from a pair to the reason to drop it, or None; they are applied after the recipe's filters. Raises
    UserError if an iteration keeps too few pairs to train on, if its training file has changed since its model was
    trained, or at a sign of degenerate learning that the recipe's `stop.on` names.
    """
    chat = backend.load_chat_template(*recipe.chat_arguments)
    seeds = run.read("seeds.jsonl", SeedTask)
    extra_filters = [as_filter(function) for function in filters]
    # Not in the paper: says what is degenerate, and ends the run where the recipe asks for it.
    report = partial(report_findings, run, recipe)
    # line 1: M^0 <- M^base
    base = model = Model(recipe.model)
    yield model
    # line 2: for t = 1 to T
    for t in range(1, recipe.iterations + 1):
        settings = recipe.at(t)
        with closing(backend.open_engine(settings, model)) as engine:
            context = StageContext(settings, engine, chat, run, t, seeds, backend, extra_filters)
            # line 3: P^t <- generate(M^(t-1), P^seed, p^meta)
            tasks = synthesize(context, seeds)
            report(degenerate.same_instructions(t, tasks))
            # lines 4 and 5: R^t <- generate(M^(t-1), P^t); D_raw^t <- {P^t, R^t}
            pairs = respond(context, tasks)
            report(degenerate.same_answers(t, pairs))
            # Not in the paper: warns if the tasks or answers narrow.
            record_diversity(run, t, pairs, recipe.language)
            # For line 7: the perplexities, embeddings and further answers that filters need from M^(t-1).
            measures = measure(context, pairs)
            # line 6: S^t <- evaluate(M^(t-1), D_raw^t)
            graded = assess(context, pairs)
            report(degenerate.same_ratings(t, graded))
        # line 7: D^t <- filter(D_raw^t, S^t, C)
        training_file = select_training_rows(context, graded, measures)
        report(degenerate.few_rows(context, training_file))
        # line 8: M^t <- SFT(M^base, D^t)
        start = model if settings.training.start == "last" else base
        with degenerate.watch_losses(context):
            adapter = context.folder.artifact(
                "adapter",
                partial(backend.train, settings, chat, start, training_file, context.seed()),
                partial(check_training_file, training_file=training_file),
            )
        check_training_file(adapter, training_file)
        report(*degenerate.training_findings(context, adapter))
        model = Model(recipe.model, adapter)
        # line 10, after the last iteration: return M^T, D^T
        yield model
