"""Algorithm 1 of Liang et al. 2024, and nothing else: a base model aligns itself."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from functools import partial

from isheep.assess import assess
from isheep.batching import seed_of
from isheep.benchmarks import prompts, validation_prompts
from isheep.chat import Chat, load_chat
from isheep.collapse import watch
from isheep.doors import open_engine, train
from isheep.engines import Engine
from isheep.errors import UserError
from isheep.filters import Known, drops, kept, unreadable
from isheep.instances import instances, kinds, read_instances
from isheep.measure import SIZE, needs_perplexity, needs_vectors, perplexities, vectors
from isheep.recipe import Recipe
from isheep.records import AssessedPair, Drop, Instance, Kind, Measure, Model, Pair, Rejected, Reply, Task, Vector
from isheep.respond import respond
from isheep.run import Folder
from isheep.seeds import Seed
from isheep.synthesize import read_tasks, replies

ALPACA = {"instruction", "input", "output"}


def align(recipe: Recipe, run: Folder) -> Iterator[Model]:
    """M^0 (the base), M^1, ..., M^T: each as soon as it is there, so that a caller can evaluate it, or stop.

    What M^(t-1) writes, what is kept of it and the adapter of M^t lie in iter-t. What is there already is not made
    again, and no weights are loaded for it. Raises UserError where an iteration leaves too little to train on.
    """
    chat = load_chat(recipe.chat, recipe.model)
    seeds = run.read("seeds.jsonl", Seed)
    # line 1: M^0 <- M^base
    base = model = Model(recipe.model)
    data: list[Pair] = []
    yield model
    # line 2: for t = 1 to T
    for t in range(1, recipe.iterations + 1):
        folder = run / f"iter-{t}"
        with closing(open_engine(recipe, model)) as engine:
            # line 3: P^t <- generate(M^(t-1), P^seed, p^meta)
            tasks = write_tasks(recipe, folder, engine, chat, seeds, t)
            # lines 4 and 5: R^t <- generate(M^(t-1), P^t); D_raw^t <- {P^t, R^t}
            pairs = write_answers(recipe, folder, engine, chat, seeds, tasks, t)
            # beside the paper: do they narrow?
            watch(run, t, pairs, recipe.language)
            # what line 7 asks M^(t-1) about its pairs
            known = measure(recipe, folder, engine, chat, pairs)
            # line 6: S^t <- evaluate(M^(t-1), D_raw^t)
            graded = write_grades(recipe, folder, engine, chat, pairs, t)
        # line 7: D^t <- filter(D_raw^t, S^t, C)
        data = choose(recipe, folder, chat, graded, known, data if recipe.training.data == "all" else [], t)
        # line 8: M^t <- SFT(M^base, D^t)
        start = model if recipe.training.start == "last" else base
        adapter = folder.artifact("adapter", partial(train, recipe, chat, start, data, seed_of(recipe.seed, t)))
        model = Model(recipe.model, adapter)
        # line 10, after the last one: return M^T, D^T
        yield model


def write_tasks(
    recipe: Recipe, folder: Folder, engine: Engine, chat: Chat, seeds: Sequence[Seed], t: int
) -> list[Task]:
    """P^t: raw replies first, then the tasks that are read out of them."""
    settings = recipe.synthesis
    owed = replies(engine, seeds, chat, settings, recipe.language, t, recipe.seed)
    written = folder.records("replies.jsonl", Reply, owed, settings.size)
    if folder.has("tasks.jsonl") and folder.has("rejected.jsonl"):
        return folder.read("tasks.jsonl", Task)
    tasks, rejected = read_tasks(written, seeds, settings, recipe.language, t)
    if len(tasks) < settings.tasks:
        asked = f"all {len(written)} prompts of synthesis.budget are used"
        folder.say(f"iteration {t}: {asked}, going on with {len(tasks)} of {settings.tasks} tasks")
    folder.write("rejected.jsonl", Rejected, rejected)
    return folder.write("tasks.jsonl", Task, tasks)


def write_answers(
    recipe: Recipe, folder: Folder, engine: Engine, chat: Chat, seeds: Sequence[Seed], tasks: Sequence[Task], t: int
) -> list[Pair]:
    """D_raw^t."""
    if recipe.response.prompt == "instances":
        return write_instances(recipe, folder, engine, chat, seeds, tasks, t)
    owed = respond(engine, tasks, chat, recipe.response, t, recipe.seed)
    return folder.records("pairs.jsonl", Pair, owed, recipe.response.size, len(tasks))


def write_instances(
    recipe: Recipe, folder: Folder, engine: Engine, chat: Chat, seeds: Sequence[Seed], tasks: Sequence[Task], t: int
) -> list[Pair]:
    """D_raw^t in Self-Instruct's own way: kinds, then instances, then those that are pairs."""
    settings, seed = recipe.response, recipe.seed
    owed = kinds(engine, seeds, tasks, chat, settings, t, seed)
    known = list(zip(tasks, folder.records("kinds.jsonl", Kind, owed, settings.size, len(tasks)), strict=True))
    asked = instances(engine, seeds, known, chat, settings, t, seed)
    written = folder.records("instances.jsonl", Instance, asked, settings.size, len(tasks))
    pairs, lost = read_instances(known, written, settings, t, seed)
    folder.write("unanswered.jsonl", Rejected, lost)
    return folder.write("pairs.jsonl", Pair, pairs)


def measure(recipe: Recipe, folder: Folder, engine: Engine, chat: Chat, pairs: Sequence[Pair]) -> Known:
    """What filters look at beside pairs and grades, where they are still to be asked and do look at it."""
    if folder.has("dropped.jsonl"):
        return Known()
    measures: list[Measure] = []
    points: list[Vector] = []
    if needs_perplexity(recipe.filters):
        owed = perplexities(engine, pairs, chat, recipe.response)
        measures = folder.records("perplexity.jsonl", Measure, owed, SIZE, len(pairs))
    if needs_vectors(recipe.filters):
        points = folder.records("vectors.jsonl", Vector, vectors(engine, pairs), SIZE, len(pairs))
    return Known([*prompts(recipe.evaluation), *validation_prompts(recipe.stop)], measures, points)


def write_grades(
    recipe: Recipe, folder: Folder, engine: Engine, chat: Chat, pairs: list[Pair], t: int
) -> Sequence[Pair]:
    """D_raw^t with S^t, rated by the model that wrote it or by the base; D_raw^t where nobody rates."""
    settings = recipe.assessment
    if settings is None:
        return pairs
    if settings.judge == "base" and t > 1:
        engine.close()  # its memory back first
        engine = open_engine(recipe, Model(recipe.model))
    with closing(engine):
        owed = assess(engine, pairs, chat, settings, t, recipe.seed)
        return folder.records("assessed.jsonl", AssessedPair, owed, settings.size, len(pairs))


def choose(
    recipe: Recipe, folder: Folder, chat: Chat, pairs: Sequence[Pair], known: Known, before: Sequence[Pair], t: int
) -> list[Pair]:
    """What M^t learns from, written as train.json in the Alpaca form: `before` (nothing, or D^1 to D^(t-1)) and D^t.

    Raises UserError where fewer than two pairs of D^t are left.
    """
    if folder.has("dropped.jsonl"):
        left_out = folder.read("dropped.jsonl", Drop)
    else:
        place = seed_of(recipe.seed, t)
        found = drops(pairs, recipe.filters, recipe.synthesis.rules, chat.special, known, place)
        left_out = folder.write("dropped.jsonl", Drop, found)
    data = kept(pairs, left_out)
    if len(data) < 2:
        silent = sum(isinstance(pair, AssessedPair) and unreadable(pair) for pair in pairs)
        raise UserError(
            f"iteration {t}: {len(data)} of {len(pairs)} pairs left to train on ({silent} have an unreadable rating; "
            f"see {folder.path / 'dropped.jsonl'}); with a new --out,"
            " lower the threshold in filters or ask for more synthesis.tasks"
        )
    data = [*before, *data]
    folder.json("train.json", lambda: [pair.model_dump(include=ALPACA) for pair in data])
    return data
