"""Algorithm 1 of Liang et al. 2024, and nothing else: a base model aligns itself."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from functools import partial

from isheep.backends import open_engine, train
from isheep.batching import seed_of
from isheep.benchmarks import prompts, validation_prompts
from isheep.diagnostics.diversity import watch
from isheep.engines import Engine
from isheep.errors import UserError
from isheep.models.chat_template import Chat, load_chat
from isheep.prompts import forms
from isheep.recipe.schema import Recipe, needs_perplexity, needs_vectors
from isheep.records import AssessedPair, Drop, Instance, Kind, Measure, Model, Pair, Rejected, Reply, Task, Vector
from isheep.rundir.folder import Folder
from isheep.seeds import Seed
from isheep.stages.assess import assess
from isheep.stages.filters import Known, drops, kept, unreadable
from isheep.stages.instances import instances, kinds, read_instances
from isheep.stages.measure import SIZE, perplexities, vectors
from isheep.stages.respond import respond
from isheep.stages.synthesize import read_tasks, replies
from isheep.stages.topics import Topics, ask, read_topics

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
    data: Sequence[Pair] = []
    yield model
    # line 2: for t = 1 to T
    for t in range(1, recipe.iterations + 1):
        folder, now = run / f"iter-{t}", recipe.at(t)
        with closing(open_engine(now, model)) as engine:
            # line 3: P^t <- generate(M^(t-1), P^seed, p^meta)
            tasks = write_tasks(now, run, engine, chat, seeds, t)
            # lines 4 and 5: R^t <- generate(M^(t-1), P^t); D_raw^t <- {P^t, R^t}
            pairs = write_answers(now, folder, engine, chat, seeds, tasks, t)
            # beside the paper: do they narrow?
            watch(run, t, pairs, recipe.language)
            # what line 7 asks M^(t-1) about its pairs
            known = measure(now, folder, engine, chat, pairs)
            # line 6: S^t <- evaluate(M^(t-1), D_raw^t)
            graded = write_grades(now, folder, engine, chat, pairs, t)
        # line 7: D^t <- filter(D_raw^t, S^t, C)
        data = choose(now, folder, chat, graded, known, data if now.training.data == "all" else [], t)
        # line 8: M^t <- SFT(M^base, D^t)
        start = model if now.training.start == "last" else base
        adapter = folder.artifact("adapter", partial(train, now, chat, start, data, seed_of(recipe.seed, t)))
        model = Model(recipe.model, adapter)
        # line 10, after the last one: return M^T, D^T
        yield model


def write_tasks(
    recipe: Recipe, run: Folder, engine: Engine, chat: Chat, seeds: Sequence[Seed], t: int
) -> Sequence[Task]:
    """P^t: raw replies first, then the tasks that are read out of them; or an earlier iteration's again."""
    folder, settings = run / f"iter-{t}", recipe.synthesis
    if settings.tasks_of:
        return folder.write("tasks.jsonl", Task, (run / f"iter-{settings.tasks_of}").read("tasks.jsonl", Task))
    topics = write_topics(recipe, folder, engine, chat, t)
    owed = replies(engine, seeds, chat, settings, recipe.language, t, recipe.seed, topics)
    written = folder.records("replies.jsonl", Reply, owed, settings.size)
    if folder.has("tasks.jsonl") and folder.has("rejected.jsonl"):
        return folder.read("tasks.jsonl", Task)
    known = [*seeds, *(topics.guide.tasks if topics else ())]
    tasks, rejected = read_tasks(written, known, settings, recipe.language, t)
    if len(tasks) < settings.tasks:
        asked = f"all {len(written)} prompts of synthesis.budget are used"
        folder.say(f"iteration {t}: {asked}, going on with {len(tasks)} of {settings.tasks} tasks")
    folder.write("rejected.jsonl", Rejected, rejected)
    return folder.write("tasks.jsonl", Task, tasks)


def write_topics(recipe: Recipe, folder: Folder, engine: Engine, chat: Chat, t: int) -> Topics | None:
    """What topic-guided prompts are about, where the recipe asks for such."""
    settings = recipe.synthesis.topics
    if settings is None:
        return None
    guide = forms.guide(settings.file)
    owed = ask(engine, guide, chat, recipe.synthesis, settings.rounds, t, recipe.seed)
    total = settings.rounds * len(guide.kinds)
    written = folder.records("topics.jsonl", Reply, owed, len(guide.kinds), total)
    topics, refused = read_topics(written, guide)
    if not folder.has("tasks.jsonl"):
        new = sum(map(len, topics)) - sum(len(kind.topics) for kind in guide.kinds)
        folder.say(f"iteration {t}: {new} new topics in {total} replies, {refused} refused")
    return Topics(guide, topics, settings.share, recipe.synthesis.examples)


def write_answers(
    recipe: Recipe, folder: Folder, engine: Engine, chat: Chat, seeds: Sequence[Seed], tasks: Sequence[Task], t: int
) -> Sequence[Pair]:
    """D_raw^t."""
    if recipe.response.prompt == "instances":
        return write_instances(recipe, folder, engine, chat, seeds, tasks, t)
    owed = respond(engine, tasks, chat, recipe.response, t, recipe.seed)
    return folder.records("pairs.jsonl", Pair, owed, recipe.response.size, len(tasks))


def write_instances(
    recipe: Recipe, folder: Folder, engine: Engine, chat: Chat, seeds: Sequence[Seed], tasks: Sequence[Task], t: int
) -> Sequence[Pair]:
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
    measures: Sequence[Measure] = []
    points: Sequence[Vector] = []
    if needs_perplexity(recipe.filters):
        owed = perplexities(engine, pairs, chat, recipe.response)
        measures = folder.records("perplexity.jsonl", Measure, owed, SIZE, len(pairs))
    if needs_vectors(recipe.filters):
        points = folder.records("vectors.jsonl", Vector, vectors(engine, pairs), SIZE, len(pairs))
    return Known([*prompts(recipe.evaluation), *validation_prompts(recipe.stop)], measures, points)


def write_grades(
    recipe: Recipe, folder: Folder, engine: Engine, chat: Chat, pairs: Sequence[Pair], t: int
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
) -> Sequence[Pair]:
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
        unanswered = sum(pair.unanswered for pair in pairs)
        raise UserError(
            f"iteration {t}: {len(data)} of {len(pairs)} pairs left to train on ({silent} have an unreadable rating, "
            f"{unanswered} no readable answer; see {folder.path / 'dropped.jsonl'}); with a new --out,"
            " lower the threshold in filters or ask for more synthesis.tasks"
        )
    data = [*before, *data] if before else data
    folder.listed("train.json", (pair.model_dump(include=ALPACA) for pair in data))
    return data
