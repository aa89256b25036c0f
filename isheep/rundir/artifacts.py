"""The files of an iteration in one table: the stage that makes each file, its sources, and how many rows it has.

`isheep status`, sharing between runs, `isheep redo`, `isheep plan` and docs/run-folder.md read this table.
"""

from pathlib import Path
from typing import Literal, NamedTuple

from isheep.errors import shell_word


class Artifact(NamedTuple):
    """A file or folder of an iteration's folder (or of base/, for evaluation).

    `sources` are the files of the same iteration that it is made from, `recipe_keys` the recipe's keys that it depends
    on beside the model, the seed tasks, the random seed and `machine`. `rows_of` names the file that has as many rows.
    `model` says which model it depends on: "previous" is M^(t-1), which generates; "current" is M^t, which is
    evaluated; "start" is the one that training starts from. If `shared` is true, one run may copy it from another: it
    takes a model's time to make.
    """

    name: str
    stage: str
    description: str
    sources: tuple[str, ...] = ()
    recipe_keys: tuple[str, ...] = ()
    rows_of: str | None = None
    model: Literal["previous", "current", "start"] = "previous"
    shared: bool = False


ARTIFACTS = (
    Artifact("topics.jsonl", "instructions", "replies with new topics for topic-guided prompts", (), ("synthesis",),
             shared=True),
    Artifact("replies.jsonl", "instructions", "raw replies of the model to synthesis prompts", (),
             ("language", "synthesis"), shared=True),
    Artifact("tasks.jsonl", "instructions", "the tasks read from the replies", ("replies.jsonl",), ("synthesis",)),
    Artifact("rejected.jsonl", "instructions", "rejected candidates for tasks, with the reason", ("replies.jsonl",),
             ("synthesis",)),
    Artifact("task_kinds.jsonl", "answers", "whether the model takes each task for classification", ("tasks.jsonl",),
             ("response",), "tasks.jsonl", shared=True),
    Artifact("instances.jsonl", "answers", "an input and an output for each task", ("tasks.jsonl", "task_kinds.jsonl"),
             ("response",), "tasks.jsonl", shared=True),
    Artifact("first_turns.jsonl", "answers", "the tasks with their answers, the first turns of dialogues",
             ("tasks.jsonl",), ("response",), "tasks.jsonl", shared=True),
    Artifact("follow_ups.jsonl", "answers", "what the model writes as the user after its answers",
             ("first_turns.jsonl",), ("response",), shared=True),
    Artifact("unanswered.jsonl", "answers", "instances and follow-ups that make no pair, with the reason",
             ("instances.jsonl", "follow_ups.jsonl"), ("response",)),
    Artifact("second_turns.jsonl", "answers", "the follow-ups with their answers", ("follow_ups.jsonl",),
             ("response",), shared=True),
    Artifact("pairs.jsonl", "answers", "the tasks with their answers", ("tasks.jsonl",), ("response",), "tasks.jsonl",
             shared=True),
    Artifact("perplexity.jsonl", "measures for filters", "the perplexity of each pair", ("pairs.jsonl",),
             ("response",), "pairs.jsonl", shared=True),
    Artifact("embeddings.jsonl", "measures for filters", "the embedding of each pair", ("pairs.jsonl",), (),
             "pairs.jsonl", shared=True),
    Artifact("samples.jsonl", "measures for filters", "further answers to each pair's task", ("pairs.jsonl",),
             ("response", "filters"), "pairs.jsonl", shared=True),
    Artifact("assessed.jsonl", "ratings", "the pairs with their ratings", ("pairs.jsonl",), ("assessment",),
             "pairs.jsonl", shared=True),
    Artifact("dropped.jsonl", "filtering", "pairs that are not trained on, with the reason",
             ("pairs.jsonl", "assessed.jsonl", "perplexity.jsonl", "embeddings.jsonl", "samples.jsonl"), ("filters",)),
    Artifact("train.json", "filtering", "the training file: rows in the Alpaca form, with finish",
             ("dropped.jsonl",), ("filters", "training")),
    Artifact("adapter", "training", "the LoRA adapter of the next model", ("train.json",),
             ("training",), model="start", shared=True),
    Artifact("eval", "evaluation", "scores of the iteration's model", ("adapter",), ("evaluation",),
             model="current", shared=True),
    Artifact("validation", "evaluation", "the scores that a stopping rule reads", ("adapter",), ("stop",),
             model="current", shared=True),
    Artifact("diversity.json", "diversity", "how varied the instructions and answers are", ("pairs.jsonl",)),
    Artifact("judge_calibration", "judge calibration", "new ratings of a sample of the pairs", ("pairs.jsonl",),
             ("assessment",)),
    Artifact("judge_calibration.json", "judge calibration", "figures on whether the ratings can be trusted",
             ("assessed.jsonl",), ("assessment",)),
)  # fmt: skip

COMMON_KEYS = ("model", "chat_template", "date", "seed", "machine")
"""The keys of a recipe that every shared file depends on."""

OTHER_STAGE = "the rest"
# What a run says while it makes an artifact of a stage.
STAGE_WORDS = {
    "instructions": "Writing instructions",
    "answers": "Writing answers",
    "measures for filters": "Measuring for the filters",
    "ratings": "Rating",
    "filtering": "Filtering",
    "training": "Training",
    "evaluation": "Evaluating",
    "diversity": "Measuring diversity",
    "judge calibration": "Rating again, to calibrate the judge",
}
STAGES = tuple(dict.fromkeys(artifact.stage for artifact in ARTIFACTS))

JUDGE_CALIBRATION = "judge calibration"
"""The stage that no run makes: `isheep judge-calibration` makes its files."""
SEEDS_FILE, SEEDS_STAGE = "seeds.jsonl", "seeds"
"""The seed tasks of a run, and the name under which `isheep redo` makes all iterations again."""
BASE_DIR = "base"


def artifact_of(name: str) -> Artifact | None:
    """Return the artifact that a path inside an iteration's folder belongs to, such as eval/lamb.json, or None."""
    first = name.partition("/")[0]
    for artifact in ARTIFACTS:
        if artifact.name == first:
            return artifact
    return None


def stage_of(name: str) -> str:
    """Return the stage that makes a file of an iteration's folder."""
    artifact = artifact_of(name)
    return artifact.stage if artifact else OTHER_STAGE


def dependent_stages(stage: str) -> set[str]:
    """Return a stage and those that read its files, directly or not."""
    stages = {stage}
    # The table lists every file after its sources.
    for artifact in ARTIFACTS:
        if any(stage_of(source) in stages for source in artifact.sources):
            stages.add(artifact.stage)
    return stages


def iteration_name(iteration: int) -> str:
    """Return the name of an iteration's folder; iteration 0 is the base model."""
    return f"iter-{iteration}" if iteration else BASE_DIR


def existing_iterations(root: Path) -> list[int]:
    """Return the iterations that have a folder in a run folder, the base model's 0 included, in their order."""
    numbers = (split_file(f"{path.name}/")[0] for path in root.glob("*") if path.is_dir())
    return sorted(number for number in numbers if number is not None)


def production_order(file: str) -> tuple[int, int, str]:
    """Return a key that sorts the files of a run so that each comes after those that it is made from."""
    iteration, name = split_file(file)
    artifact = artifact_of(name) if iteration is not None else None
    index = ARTIFACTS.index(artifact) if artifact else -1
    return -1 if iteration is None else iteration, index, file


def redo_command(root: Path, file: str) -> str:
    """Return the command that makes a file of a run again, and all that follows."""
    folder = shell_word(root)
    if file == SEEDS_FILE:
        return f"isheep redo {folder} --from {SEEDS_STAGE}"
    iteration, name = split_file(file)
    stage = stage_of(name).removesuffix(" for filters")
    return f"isheep redo {folder} --from {stage} --iteration {iteration}"


def split_file(file: str) -> tuple[int | None, str]:
    """Return the iteration of a file of a run, None if it belongs to none, and its name in the iteration's folder.

    "iter-2/pairs.jsonl" -> (2, "pairs.jsonl"), "base/eval/lamb.json" -> (0, "eval/lamb.json").
    """
    folder, _, name = file.partition("/")
    number = folder.removeprefix("iter-")
    if folder == BASE_DIR:
        return 0, name
    return (int(number), name) if folder != number and number.isdecimal() else (None, name)


def stage_words(file: str) -> tuple[int | None, str]:
    """Return the iteration of a file of a run, None if it belongs to none, and what a run does while it makes it.

    "iter-2/pairs.jsonl" -> (2, "Writing answers"), "base/eval/standard/nq.json" -> (0, "Evaluating standard/nq").
    """
    iteration, name = split_file(file)
    words = STAGE_WORDS.get(stage_of(name), f"Making {file}")
    if words == STAGE_WORDS["evaluation"]:
        words = f"{words} {name.partition('/')[2].removesuffix('.json')}"
    return iteration, words


def markdown_table() -> str:
    """Return the table of docs/run-folder.md: a row for each artifact."""
    lines = ["| file | content | stage | made from | recipe keys |", "|---|---|---|---|---|"]
    for artifact in ARTIFACTS:
        sources, keys = (", ".join(f"`{name}`" for name in names) for names in (artifact.sources, artifact.recipe_keys))
        lines.append(f"| `{artifact.name}` | {artifact.description} | {artifact.stage} | {sources} | {keys} |")
    return "\n".join(lines) + "\n"
