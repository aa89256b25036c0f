"""What single keys of a recipe can't show: settings that are each right by themselves and can't work together."""

from isheep import prompts
from isheep.errors import Conflicts
from isheep.filters.base import RecipeFacts
from isheep.prompts import forms
from isheep.recipe.schema import (
    JUDGED,
    RANKS,
    SECTIONS_PER_ITERATION,
    BenchmarkSettings,
    Recipe,
)


def conflicts(recipe: Recipe, t: int = 1) -> Conflicts:
    """All of them, in what the recipe is in iteration t (Recipe.at).

    Raises UserError where a prompt file that it names can't be read, or is not of the form that is needed.
    """
    yield from _iterations(recipe)
    yield from _synthesis(recipe, t)
    yield from _response(recipe)
    yield from _assessment(recipe)
    yield from _filters(recipe)
    yield from _training(recipe, t)
    yield from _machine(recipe)
    yield from _around(recipe)
    if recipe.machine.engine == "openai":
        yield from _server(recipe)
    if recipe.machine.engine == "vllm":
        yield from _vllm(recipe)


def _iterations(recipe: Recipe) -> Conflicts:
    for t, changes in recipe.iteration.items():
        if t > recipe.iterations:
            yield ("iteration", str(t)), f"this recipe has {recipe.iterations} iterations"
        for key in (key for key in changes if key not in SECTIONS_PER_ITERATION):
            yield (
                ("iteration", str(t), key),
                f"all iterations share it; one may differ in {', '.join(SECTIONS_PER_ITERATION)}",
            )


def _synthesis(recipe: Recipe, t: int) -> Conflicts:
    synthesis = recipe.synthesis
    if synthesis.tasks_of and synthesis.tasks_of >= t:
        yield ("synthesis", "tasks_of"), f"iteration {t} can't have the tasks of iteration {synthesis.tasks_of}"
    if synthesis.topics and synthesis.examples > (kinds := len(forms.load_topic_guide(synthesis.topics.file).kinds)):
        yield ("synthesis", "topics"), f"synthesis.examples is {synthesis.examples}, and the guide has {kinds} kinds"
    if synthesis.generated > synthesis.examples:
        yield ("synthesis", "generated"), f"{synthesis.generated} is more than synthesis.examples, {synthesis.examples}"


def _response(recipe: Recipe) -> Conflicts:
    response = recipe.response
    if response.prompt in forms.BUILTIN_FORMS or prompts.find_prompt_file(response.prompt).is_file():
        forms.load_answer_form(response.prompt)  # for what it raises
    else:
        words = ", ".join(forms.BUILTIN_FORMS)
        wrong = (
            f"{response.prompt!r} is none of {words}, a prompt file of isheep (such as principles) or of yours (.yaml)"
        )
        yield ("response", "prompt"), wrong
    if response.prompt == "instances" and recipe.synthesis.inputs:
        why = "instances writes the inputs, and synthesis does too: set synthesis.inputs: false"
        yield ("response", "prompt"), why
    if response.prompt != "instances" and response.examples:
        yield ("response", "examples"), f"it is for prompt: instances, and prompt is {response.prompt}"


def _assessment(recipe: Recipe) -> Conflicts:
    settings = recipe.assessment
    if not settings:
        return
    known = prompts.load_prompts(settings.prompt)
    for name in settings.criteria:
        if name not in known:
            wrong = f"prompt {settings.prompt!r} has no criterion {name!r}, only {', '.join(known)}"
            yield ("assessment", "criteria"), wrong
        for hole in ("{instruction}", "{output}"):
            if name in known and hole not in known[name]:
                paper = "; {output_data}, as the paper spells it, is not filled" * ("{output_data}" in known[name])
                yield ("assessment", "prompt"), f"{name!r} in {settings.prompt!r} has no {hole}{paper}"
    if twice := _twice(settings.criteria):
        yield ("assessment", "criteria"), f"{twice!r} is listed twice"
    if settings.opening is not None and settings.read == "generate":
        yield ("assessment", "opening"), "it is for read: expected, and this recipe reads what the judge generates"


def _filters(recipe: Recipe) -> Conflicts:
    criteria = recipe.assessment.criteria if recipe.assessment else None
    facts = RecipeFacts(recipe.synthesis.tasks, criteria, bool(recipe.evaluation or recipe.stop))
    for index, settings in enumerate(recipe.filters):
        for path, why in settings.conflicts(facts):
            yield ("filters", index, *path), why


def _training(recipe: Recipe, t: int) -> Conflicts:
    training, tasks = recipe.training, recipe.synthesis.tasks
    if training.rows and training.at_most and training.rows > training.at_most:
        yield ("training", "rows"), f"{training.rows} is more than training.at_most, {training.at_most}"
    kept = min([tasks, *(entry.max_kept for entry in recipe.filters if entry.max_kept is not None)])
    more = t > 1 and (training.data == "all" or recipe.synthesis.tasks_of)  # than this iteration's own tasks
    if not more and kept < (training.rows or 2):
        wrong = f"{training.rows or 'two'} rows are more than iteration {t} can have: {tasks} tasks"
        yield ("training", "rows"), f"{wrong}, of which the filters keep {kept} at most" if kept < tasks else wrong
    if training.keep == "best" and not training.held_out:
        yield ("training", "keep"), "best is found on held-out rows, and training.held_out is 0: set keep to last"


def _machine(recipe: Recipe) -> Conflicts:
    machine, training = recipe.machine, recipe.training
    if machine.rows and training.batch % machine.rows:
        yield ("machine", "rows"), f"{machine.rows} does not divide training.batch {training.batch}"
    elif training.batch // (machine.rows or 1) < machine.processes:
        rows = f"of {training.batch} rows, {machine.rows or 1} at once"
        yield ("machine", "gpus"), f"{machine.processes} processes are more than a training.batch {rows} has work for"
    if machine.trainer == "llamafactory":
        yield from _llamafactory(recipe)
    if machine.processes == 1 and machine.strategy != "ddp":
        yield ("machine", "strategy"), f"{machine.strategy} is for more than one GPU: set machine.gpus, or take ddp"
    if machine.processes > 1 and machine.device and ":" in machine.device:
        yield ("machine", "device"), f"{machine.device} is one GPU, and machine.gpus and nodes make {machine.processes}"
    if (machine.replicas > 1 or machine.ray) and machine.device and ":" in machine.device:
        yield ("machine", "device"), f"{machine.device} is one GPU, and each replica has its own: take cuda"
    if machine.strategy != "ddp" and machine.device == "cpu":
        yield ("machine", "strategy"), f"{machine.strategy} needs GPUs, and machine.device is cpu: take ddp"
    if training.quantize and machine.strategy != "ddp":
        yield ("machine", "strategy"), f"{machine.strategy} can't share out a base in 4 bits: take ddp, or no quantize"


def _llamafactory(recipe: Recipe) -> Conflicts:
    machine, batch = recipe.machine, recipe.training.batch
    for key, ours in (
        ("strategy", machine.strategy != "ddp"),
        ("nodes", machine.nodes > 1),
        ("packing", machine.packing),
    ):
        if ours:
            yield ("machine", key), "it is for trainer: peft, and trainer is llamafactory"
    if batch % ((machine.rows or 1) * machine.gpus):
        wrong = f"{machine.gpus} times machine.rows does not divide training.batch {batch}, as llamafactory needs"
        yield ("machine", "gpus"), wrong


def _around(recipe: Recipe) -> Conflicts:
    for place, benchmark in enumerate(recipe.evaluation):
        if wrong := judge_conflict(benchmark):
            yield ("evaluation", place), wrong
    if recipe.stop and recipe.stop.patience >= recipe.iterations:
        wrong = (
            f"{recipe.stop.patience} iterations without a gain are not over before the last one, {recipe.iterations}"
        )
        yield ("stop", "patience"), wrong
    if twice := _twice([one.name for one in recipe.evaluation]):
        yield ("evaluation",), f"{twice!r} is listed twice"


def _server(recipe: Recipe) -> Conflicts:
    """What no OpenAI-compatible server can do, whichever it is."""
    server, machine = recipe.machine.server, recipe.machine
    if (machine.replicas > 1 or machine.ray) and server.adapters == "server":
        why = "replicas are engines of ours, and machine.engine is openai: raise machine.server.at_once instead"
        yield ("machine", "replicas"), why
    if server.url and "@" in server.url:
        yield ("machine", "server", "url"), "a recipe holds no password: set the address in OPENAI_BASE_URL"
    for place, one in enumerate(recipe.filters):
        if "embeddings" in one.needs:
            why = f"{one.kind} needs hidden states, which machine.engine openai does not have: take engine transformers"
            yield ("filters", place), why
    if server.api == "chat":
        asked = recipe.response.prompt
        plain = {
            ("synthesis", "chat"): not recipe.synthesis.chat,
            ("response", "prompt"): asked == "instances" or not forms.load_answer_form(asked).chat,
            ("assessment", "chat"): recipe.assessment is not None and not recipe.assessment.chat,
        }
        for path in (path for path, wrong in plain.items() if wrong):
            yield path, "these prompts are plain, and machine.server.api: chat sends chat turns alone"
        if recipe.evaluation or recipe.stop:
            yield ("machine", "server", "api"), "benchmarks ask the base plainly: take completions, or no evaluation"


def _vllm(recipe: Recipe) -> Conflicts:
    machine, settings, rank = recipe.machine, recipe.machine.vllm, recipe.training.lora.rank
    if settings.adapters == "lora" and rank > RANKS[-1]:
        wrong = f"vLLM serves ranks up to {RANKS[-1]}, and training.lora.rank is {rank}: set it to merged"
        yield ("machine", "vllm", "adapters"), wrong
    if settings.sleep and settings.adapters == "merged":
        yield ("machine", "vllm", "sleep"), "a merged checkpoint is another model each time: take adapters: lora"
    if settings.sleep and machine.device == "cpu":
        yield ("machine", "vllm", "sleep"), "it is for GPUs, and machine.device is cpu"
    if settings.tensor_parallel > 1 and machine.device:
        wrong = f"{settings.tensor_parallel} GPUs share the weights, and machine.device names one: set it to null"
        yield ("machine", "vllm", "tensor_parallel"), wrong


def judge_conflict(one: BenchmarkSettings) -> str | None:
    """What is wrong with a benchmark's judge and files; None where nothing is."""
    if one.name not in JUDGED:
        return f"{one.name} asks no judge" if one.judge else None
    if not one.data:
        return f"{one.name} reads the original's files, which don't come with isheep: give your copy as data"
    if one.judge and one.judge.local and not one.judge.model:
        return "a local judge is a model of yours: give a run folder or a checkpoint as judge.model"
    if one.judge and one.judge.config and one.name == "mt_bench":
        return "judge.config is for AlpacaEval: MT-Bench has its judge prompts in judge_prompts.jsonl"
    return None


def _twice(names: tuple[str, ...] | list[str]) -> str | None:
    return next((name for name in names if names.count(name) > 1), None)
