"""Samples of code that another program wrote, from a file: their tests are run in the sandbox."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace

from isheep.benchmarks.support.base import Result, Score
from isheep.benchmarks.support.responses import ResponseContext, match_responses
from isheep.errors import UserError
from isheep.files.json_files import ForeignRow, OptionalText, RowId, read_rows
from isheep.records import Answer

FORMS = ("completion", "solution", "response")
# The hash of the file whose verdicts are in the output folder.
DIGEST_FILE = "responses.sha256"


class CodeSample(ForeignRow):
    """A sample of HumanEval's form: `completion` continues the prompt. EvalPlus writes whole programs as `solution`.

    `response` is an answer in words from which the code is extracted.
    """

    form = '{"task_id": "HumanEval/0", "completion": "..."} (or "solution", or "response")'
    task_id: RowId
    completion: OptionalText = None
    solution: OptionalText = None
    response: OptionalText = None


ReadCode = Callable[[str, CodeSample], str]
"""Returns the code that a sample of the task with this key adds to the problem's prefix."""

ScoreCode = Callable[[ResponseContext, Sequence[str], Sequence[Answer], Sequence[str]], Result]
"""Scores one answer to each of some tasks, given their keys, the answers and the code in each."""


def score_samples(
    context: ResponseContext,
    keys: Sequence[str],
    score_code: ScoreCode,
    read_code: ReadCode,
    task_key: Callable[[int | str], str] = str,
) -> Result:
    """Run the samples in a file with the tasks' tests: the mean over tasks of the share that passes.

    `keys` are those of all tasks; `task_key` returns the key of a task_id. Tasks without a sample are left out. Raises
    UserError if a row is malformed, or if no row is about one of the tasks.
    """
    rows = read_rows(context.file, CodeSample)
    samples = [(task_key(row.task_id), _checked(location, row)) for location, row in rows]
    # Several samples of a task are no repeated answers.
    sampled_tasks = [(key, "") for key in dict.fromkeys(key for key, _ in samples)]
    matched = match_responses(context.file, keys, sampled_tasks, "task")
    by_task: dict[str, list[str]] = defaultdict(list)
    known_keys = set(keys)
    for key, sample in samples:
        if key in known_keys:
            by_task[key].append(read_code(key, sample))
    keys = [key for key in keys if key in by_task]
    _forget_other_verdicts(context)
    num_rounds = max(map(len, by_task.values()))
    results = []
    for number in range(num_rounds):
        sampled = [key for key in keys if number < len(by_task[key])]
        code = [by_task[key][number] for key in sampled]
        folder = context.folder if num_rounds == 1 else context.folder / f"sample-{number + 1}"
        results.append(_score_round(replace(context, folder=folder), score_code, sampled, code))
    result = results[0] if num_rounds == 1 else _merge_rounds(results, [len(by_task[key]) for key in keys])
    num_fenced = sum("```" in (sample.completion or sample.solution or "") for _, sample in samples)
    notes = [*result.notes, *matched.notes]
    if num_fenced:
        notes.append(f'{num_fenced} samples have ```, which is not Python: give answers in words as "response"')
    return result.model_copy(update={"notes": tuple(notes)})


def _checked(location: str, sample: CodeSample) -> CodeSample:
    """Return a sample. Raises UserError unless it has exactly one of the forms of code."""
    forms = [name for name in FORMS if getattr(sample, name) is not None]
    if len(forms) != 1:
        problem = f"{' and '.join(forms)} are both there" if forms else f"{', '.join(FORMS)} are all missing"
        raise UserError(f"{location}: {problem}; rows such as {CodeSample.form} are needed")
    return sample


def _score_round(context: ResponseContext, score_code: ScoreCode, keys: Sequence[str], code: Sequence[str]) -> Result:
    answers = [Answer(output=text, finish="stop", tokens=0) for text in code]
    result = score_code(context, keys, answers, code)
    # How the answers ended is not known.
    details = {name: value for name, value in result.details.items() if name != "cut_off"}
    return result.model_copy(update={"details": details})


def _merge_rounds(results: Sequence[Result], num_samples: Sequence[int]) -> Result:
    """Return one result of several samples for each task: each item is the share of a task's samples that pass.

    The n-th result is of the n-th samples of the tasks that have so many.
    """
    scores = {}
    for name in results[0].scores:
        shares: list[list[float]] = [[] for _ in num_samples]
        for number, result in enumerate(results):
            sampled = [index for index, size in enumerate(num_samples) if number < size]
            for index, value in zip(sampled, result.scores[name].items, strict=True):
                shares[index].append(float(value or 0))
        scores[name] = Score(items=[sum(values) / len(values) for values in shares], unit="share")
    outcomes: Counter[str] = Counter()
    for result in results:
        outcomes.update(result.details.get("outcomes", {}))
    details = {**results[0].details, "outcomes": dict(outcomes.most_common())}
    notes = dict.fromkeys(note for result in results for note in result.notes)
    least, largest = min(num_samples), max(num_samples)
    sizes = f"{least}" if least == largest else f"{least} to {largest}"
    note = f"{sizes} samples of each task: a score is the mean over tasks of the share of samples that pass"
    return results[0].model_copy(update={"scores": scores, "details": details, "notes": (*notes, note)})


def _forget_other_verdicts(context: ResponseContext) -> None:
    """Delete verdicts in the output folder that are about another file of samples; those about this file are kept."""
    path = context.folder.path / DIGEST_FILE
    with context.file.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if not path.exists() or path.read_text(encoding="utf-8") != digest:
        for folder in (context.folder.path, *context.folder.path.glob("sample-*")):
            for name in ("verdicts.jsonl", "verdicts.jsonl.part"):
                (folder / name).unlink(missing_ok=True)
        context.folder.write_text(DIGEST_FILE, digest)
