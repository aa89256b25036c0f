"""Algorithm 1 of Liang et al. 2024, and nothing else: a base model aligns itself."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from functools import partial

from isheep.backends import open_engine, train
from isheep.batching import derive_seed
from isheep.benchmarks import evaluation_prompts, validation_prompts
from isheep.diagnostics.diversity import record_diversity
from isheep.engines import Engine
from isheep.errors import UserError
from isheep.filters import needs
from isheep.filters.base import FilterContext
from isheep.models.chat_template import ChatTemplate, load_chat_template
from isheep.prompts import forms
from isheep.recipe.schema import Recipe
from isheep.records import (
    AssessedPair,
    Drop,
    Instance,
    Model,
    Pair,
    PairEmbedding,
    PairPerplexity,
    Rejected,
    Reply,
    Task,
    TaskKind,
)
from isheep.rundir.folder import RunFolder
from isheep.rundir.training_file import training_row, write_training_file
from isheep.seeds import SeedTask
from isheep.stages.assess import assess
from isheep.stages.filters import find_drops, has_unreadable_rating, kept_pairs
from isheep.stages.instances import classify_tasks, generate_instances, pairs_of_instances
from isheep.stages.measure import SIZE, embed_pairs, measure_perplexities
from isheep.stages.respond import respond
from isheep.stages.synthesize import generate_replies, read_tasks
from isheep.stages.topics import TopicPrompts, generate_topics, parse_topics


def align(recipe: Recipe, run: RunFolder) -> Iterator[Model]:
    """M^0 (the base), M^1, ..., M^T: each as soon as it is there, so that a caller can evaluate it, or stop.

    What M^(t-1) writes, what is kept of it and the adapter of M^t lie in iter-t. What is there already is not made
    again, and no weights are loaded for it. Raises UserError where an iteration leaves too little to train on.
    """
    chat = load_chat_template(recipe.chat_template, recipe.model)
    seeds = run.read("seeds.jsonl", SeedTask)
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
            record_diversity(run, t, pairs, recipe.language)
            # what line 7 asks M^(t-1) about its pairs
            known = measure(now, folder, engine, chat, pairs)
            # line 6: S^t <- evaluate(M^(t-1), D_raw^t)
            graded = write_grades(now, folder, engine, chat, pairs, t)
        # line 7: D^t <- filter(D_raw^t, S^t, C)
        data = choose(now, folder, chat, graded, known, data if now.training.data == "all" else [], t)
        # line 8: M^t <- SFT(M^base, D^t)
        start = model if now.training.start == "last" else base
        adapter = folder.artifact("adapter", partial(train, now, chat, start, data, derive_seed(recipe.seed, t)))
        model = Model(recipe.model, adapter)
        # line 10, after the last one: return M^T, D^T
        yield model


def write_tasks(
    recipe: Recipe, run: RunFolder, engine: Engine, chat: ChatTemplate, seeds: Sequence[SeedTask], t: int
) -> Sequence[Task]:
    """P^t: raw replies first, then the tasks that are read out of them; or an earlier iteration's again."""
    folder, settings = run / f"iter-{t}", recipe.synthesis
    if settings.tasks_of:
        return folder.write("tasks.jsonl", Task, (run / f"iter-{settings.tasks_of}").read("tasks.jsonl", Task))
    topics = write_topics(recipe, folder, engine, chat, t)
    owed = generate_replies(engine, seeds, chat, settings, recipe.language, t, recipe.seed, topics)
    written = folder.records("replies.jsonl", Reply, owed, settings.batch_size)
    if folder.has("tasks.jsonl") and folder.has("rejected.jsonl"):
        return folder.read("tasks.jsonl", Task)
    known = [*seeds, *(topics.guide.tasks if topics else ())]
    tasks, rejected = read_tasks(written, known, settings, recipe.language, t)
    if len(tasks) < settings.tasks:
        asked = f"all {len(written)} prompts of synthesis.budget are used"
        folder.say(f"iteration {t}: {asked}, going on with {len(tasks)} of {settings.tasks} tasks")
    folder.write("rejected.jsonl", Rejected, rejected)
    return folder.write("tasks.jsonl", Task, tasks)


def write_topics(recipe: Recipe, folder: RunFolder, engine: Engine, chat: ChatTemplate, t: int) -> TopicPrompts | None:
    """What topic-guided prompts are about, where the recipe asks for such."""
    settings = recipe.synthesis.topics
    if settings is None:
        return None
    guide = forms.load_topic_guide(settings.file)
    owed = generate_topics(engine, guide, chat, recipe.synthesis, settings.rounds, t, recipe.seed)
    total = settings.rounds * len(guide.kinds)
    written = folder.records("topics.jsonl", Reply, owed, len(guide.kinds), total)
    topics, refused = parse_topics(written, guide)
    if not folder.has("tasks.jsonl"):
        new = sum(map(len, topics)) - sum(len(kind.topics) for kind in guide.kinds)
        folder.say(f"iteration {t}: {new} new topics in {total} replies, {refused} refused")
    return TopicPrompts(guide, topics, settings.share, recipe.synthesis.examples)


def write_answers(
    recipe: Recipe,
    folder: RunFolder,
    engine: Engine,
    chat: ChatTemplate,
    seeds: Sequence[SeedTask],
    tasks: Sequence[Task],
    t: int,
) -> Sequence[Pair]:
    """D_raw^t."""
    if recipe.response.prompt == "instances":
        return write_instances(recipe, folder, engine, chat, seeds, tasks, t)
    owed = respond(engine, tasks, chat, recipe.response, t, recipe.seed)
    return folder.records("pairs.jsonl", Pair, owed, recipe.response.batch_size, len(tasks))


def write_instances(
    recipe: Recipe,
    folder: RunFolder,
    engine: Engine,
    chat: ChatTemplate,
    seeds: Sequence[SeedTask],
    tasks: Sequence[Task],
    t: int,
) -> Sequence[Pair]:
    """D_raw^t in Self-Instruct's own way: kinds, then instances, then those that are pairs."""
    settings, seed = recipe.response, recipe.seed
    owed = classify_tasks(engine, seeds, tasks, chat, settings, t, seed)
    known = list(
        zip(tasks, folder.records("kinds.jsonl", TaskKind, owed, settings.batch_size, len(tasks)), strict=True)
    )
    asked = generate_instances(engine, seeds, known, chat, settings, t, seed)
    written = folder.records("instances.jsonl", Instance, asked, settings.batch_size, len(tasks))
    pairs, lost = pairs_of_instances(known, written, settings, t, seed)
    folder.write("unanswered.jsonl", Rejected, lost)
    return folder.write("pairs.jsonl", Pair, pairs)


def measure(
    recipe: Recipe, folder: RunFolder, engine: Engine, chat: ChatTemplate, pairs: Sequence[Pair]
) -> FilterContext:
    """What filters look at beside pairs and grades, where they are still to be asked and do look at it."""
    if folder.has("dropped.jsonl"):
        return FilterContext()
    measures: Sequence[PairPerplexity] = []
    points: Sequence[PairEmbedding] = []
    if needs(recipe.filters, "perplexities"):
        owed = measure_perplexities(engine, pairs, chat, recipe.response)
        measures = folder.records("perplexity.jsonl", PairPerplexity, owed, SIZE, len(pairs))
    if needs(recipe.filters, "embeddings"):
        points = folder.records("vectors.jsonl", PairEmbedding, embed_pairs(engine, pairs), SIZE, len(pairs))
    return FilterContext([*evaluation_prompts(recipe.evaluation), *validation_prompts(recipe.stop)], measures, points)


def write_grades(
    recipe: Recipe, folder: RunFolder, engine: Engine, chat: ChatTemplate, pairs: Sequence[Pair], t: int
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
        return folder.records("assessed.jsonl", AssessedPair, owed, settings.batch_size, len(pairs))


def choose(
    recipe: Recipe,
    folder: RunFolder,
    chat: ChatTemplate,
    pairs: Sequence[Pair],
    known: FilterContext,
    before: Sequence[Pair],
    t: int,
) -> Sequence[Pair]:
    """What M^t learns from, written as train.json in the Alpaca form: `before` (nothing, or D^1 to D^(t-1)) and D^t.

    Raises UserError where fewer than two pairs of D^t are left.
    """
    if folder.has("dropped.jsonl"):
        left_out = folder.read("dropped.jsonl", Drop)
    else:
        place = derive_seed(recipe.seed, t)
        found = find_drops(pairs, recipe.filters, recipe.synthesis.rules, chat.special, known._replace(seed=place))
        left_out = folder.write("dropped.jsonl", Drop, found)
    data = kept_pairs(pairs, left_out)
    if len(data) < 2:
        silent = sum(isinstance(pair, AssessedPair) and has_unreadable_rating(pair) for pair in pairs)
        unanswered = sum(pair.unanswered for pair in pairs)
        raise UserError(
            f"iteration {t}: {len(data)} of {len(pairs)} pairs left to train on ({silent} have an unreadable rating, "
            f"{unanswered} no readable answer; see {folder.path / 'dropped.jsonl'}); with a new --out,"
            " lower the threshold in filters or ask for more synthesis.tasks"
        )
    data = [*before, *data] if before else data
    write_training_file(folder, map(training_row, data))
    return data
