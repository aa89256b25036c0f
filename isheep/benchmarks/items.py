"""Items of the standard benchmarks, from the user's files or the Hub, in the Hub's columns, whoever's form they had.

Files are taken in the form of the authors' release or of the Hub (JSON, CSV or Parquet). `data` names the file itself,
or a folder that has it under the authors' name.
"""

import ast
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from isheep.benchmarks.originals import DataRow, given, need, rows
from isheep.errors import UserError

Convert = Callable[[list[DataRow], Path], list[DataRow]]


class DataSource(NamedTuple):
    """Where a benchmark's items are, and what an item has."""

    hub: tuple[str, str | None, str]  # a data set on the Hub, its configuration and split
    files: tuple[str, ...]  # as the authors' release names them
    columns: tuple[str, ...]  # the Hub's, as far as they are used
    asked: tuple[str, ...]  # those of them that a model reads as the question
    convert: Convert = lambda found, path: found
    checked: bool = False  # whether tests read the authors' own file


def flat(found: list[DataRow], path: Path) -> list[DataRow]:
    """ARC, OpenBookQA, CommonsenseQA: the authors nest {stem, choices: [{label, text}]} in "question"."""
    return [_flat(row) if isinstance(row.get("question"), dict) else row for row in found]


def _flat(row: DataRow) -> DataRow:
    nested, choices = row["question"], row["question"]["choices"]
    parts = {name: [choice[name] for choice in choices] for name in ("label", "text")}
    return {**row, "question": nested["stem"], "question_stem": nested["stem"], "choices": parts}


def boolq(found: list[DataRow], path: Path) -> list[DataRow]:
    """The authors have a truth value as "answer" and the title apart; SuperGLUE has both in the passage."""

    def one(row: DataRow) -> DataRow:
        label = row["label"] if row.get("label") is not None else row["answer"]
        if label not in (0, 1):
            raise ValueError(f"label {label!r} is not true or false")
        title = f"{row['title']} -- " if row.get("title") else ""
        return {"passage": f"{title}{row['passage']}", "question": row["question"], "label": int(label)}

    return [one(row) for row in found]


def labelled(found: list[DataRow], path: Path) -> list[DataRow]:
    """PIQA, SIQA: dev.jsonl has its labels beside it, in dev-labels.lst."""
    beside = path.with_name(f"{path.name.partition('.')[0]}-labels.lst")
    if "label" in found[0] or not beside.exists():
        return found
    labels = beside.read_text(encoding="utf-8").split()
    if len(labels) != len(found):
        raise ValueError(f"{beside.name} has {len(labels)} labels for {len(found)} rows")
    return [{**row, "label": int(label)} for row, label in zip(found, labels, strict=True)]


def mmlu(found: list[DataRow], path: Path) -> list[DataRow]:
    """The authors have a CSV without a header for each subject: question, four choices, the right one's letter."""
    if "choices" in found[0]:
        return found
    subject = re.sub(r"_(test|dev|val)$", "", path.name.partition(".")[0])
    return [
        {
            "question": row["question"], "choices": [row[letter] for letter in "ABCD"], "subject": subject,
            "answer": "ABCD".index(row["answer"]),
        }
        for row in found
    ]  # fmt: skip


def answers(found: list[DataRow], path: Path) -> list[DataRow]:
    """NQ and TriviaQA: the authors' forms, and tables of question and list (DPR's, which OpenCompass reads)."""
    if len(found) == 1 and isinstance(found[0].get("Data"), list):  # TriviaQA's JSON
        found = [
            {"question": one["Question"], "answer": {"aliases": one["Answer"]["Aliases"]}} for one in found[0]["Data"]
        ]
    return [{**row, "answer": _listed(row["answer"])} for row in found]


def _listed(answer: object) -> object:
    return ast.literal_eval(answer) if isinstance(answer, str) and answer.startswith("[") else answer


def aliases(found: list[DataRow], path: Path) -> list[DataRow]:
    """TriviaQA's answers as on the Hub, {aliases: [...]}."""
    listed = answers(found, path)
    return [{**row, "answer": {"aliases": a} if isinstance(a := row["answer"], list) else a} for row in listed]


def squad(found: list[DataRow], path: Path) -> list[DataRow]:
    """SQuAD 2.0: the authors' articles, paragraphs and questions, one row for each question."""
    if not (len(found) == 1 and isinstance(found[0].get("data"), list)):
        return found

    def questions() -> Iterator[DataRow]:
        for article in found[0]["data"]:
            for paragraph in article["paragraphs"]:
                for one in paragraph["qas"]:
                    texts = [answer["text"] for answer in one["answers"]]
                    row = {"title": article["title"], "context": paragraph["context"], "question": one["question"]}
                    plausible = [answer["text"] for answer in one.get("plausible_answers", ())]
                    yield {**row, "id": one["id"], "answers": {"text": texts}, "plausible_answers": plausible}

    return list(questions())


CHOICES = ("choices", "answerKey")
SOURCES = {
    "boolq": DataSource(
        ("aps/super_glue", "boolq", "validation"), ("dev.jsonl", "val.jsonl"), ("passage", "question", "label"),
        ("passage", "question"), boolq,
    ),
    "piqa": DataSource(
        ("baber/piqa", None, "validation"), ("valid.jsonl", "dev.jsonl"), ("goal", "sol1", "sol2", "label"), ("goal",),
        labelled, checked=True,
    ),
    "siqa": DataSource(
        ("lighteval/siqa", None, "validation"), ("dev.jsonl",),
        ("context", "question", "answerA", "answerB", "answerC", "label"), ("context", "question"), labelled,
    ),
    "gpqa_diamond": DataSource(
        ("Idavidrein/gpqa", "gpqa_diamond", "train"), ("gpqa_diamond.csv",),
        ("Question", "Correct Answer", *(f"Incorrect Answer {n}" for n in (1, 2, 3))), ("Question",),
    ),
    "hellaswag": DataSource(
        ("Rowan/hellaswag", None, "validation"), ("hellaswag_val.jsonl",),
        ("activity_label", "ctx_a", "ctx_b", "endings", "label"), ("ctx_a", "ctx_b"),
    ),
    "winogrande": DataSource(
        ("allenai/winogrande", "winogrande_xl", "validation"), ("dev.jsonl",),
        ("sentence", "option1", "option2", "answer"), ("sentence",),
    ),
    "arc_easy": DataSource(
        ("allenai/ai2_arc", "ARC-Easy", "test"), ("ARC-Easy-Test.jsonl",), ("question", *CHOICES), ("question",), flat,
    ),
    "arc_challenge": DataSource(
        ("allenai/ai2_arc", "ARC-Challenge", "test"), ("ARC-Challenge-Test.jsonl",), ("question", *CHOICES),
        ("question",), flat,
    ),
    "openbookqa_fact": DataSource(
        ("allenai/openbookqa", "additional", "test"), ("test_complete.jsonl",), ("question_stem", "fact1", *CHOICES),
        ("question_stem",), flat,
    ),
    "commonsense_qa": DataSource(
        ("tau/commonsense_qa", None, "validation"), ("dev_rand_split.jsonl",), ("question", *CHOICES), ("question",),
        flat, checked=True,
    ),
    "mmlu": DataSource(
        ("cais/mmlu", "all", "test"), ("*_test.csv",), ("question", "choices", "answer", "subject"), ("question",),
        mmlu,
    ),
    "nq": DataSource(
        ("google-research-datasets/nq_open", None, "validation"), ("NQ-open.dev.jsonl", "nq-test.qa.csv"),
        ("question", "answer"), ("question",), answers, checked=True,
    ),
    "triviaqa": DataSource(
        ("mandarjoshi/trivia_qa", "rc.nocontext", "validation"),
        ("wikipedia-dev.json", "unfiltered-web-dev.json", "trivia-dev.qa.csv"), ("question", "answer"), ("question",),
        aliases,
    ),
    "squad2": DataSource(
        ("lighteval/squad_v2", None, "validation"), ("dev-v2.0.json",), ("context", "question", "answers"),
        ("context", "question"), squad, checked=True,
    ),
}  # fmt: skip
EXAMPLES = {  # what stands before an item in the paper's protocol
    "commonsense_qa": SOURCES["commonsense_qa"]._replace(
        hub=("tau/commonsense_qa", None, "train"), files=("train_rand_split.jsonl",)
    ),
    "mmlu": SOURCES["mmlu"]._replace(hub=("cais/mmlu", "all", "dev"), files=("*_dev.csv",)),
}


def load(name: str, data: Path | None) -> list[DataRow]:
    """The items of a benchmark in the Hub's columns. Raises UserError where they can't be had or have another form."""
    return _local(name, SOURCES[name], data) if data else _hub(name, SOURCES[name])


def examples(name: str, data: Path | None) -> list[DataRow]:
    """The items that examples are taken from: with `data`, a file of the authors' name beside it or below."""
    if data is None:
        return _hub(name, EXAMPLES[name])
    folder = data if data.is_dir() else data.parent
    nearby = folder if any(folder.rglob(EXAMPLES[name].files[0])) else folder.parent
    return _local(name, EXAMPLES[name], nearby)


def questions(name: str, data: Path | None) -> list[str]:
    """What each item asks, for the search for contamination."""
    return ["\n".join(str(row[column]) for column in SOURCES[name].asked) for row in load(name, data)]


def notes(name: str) -> tuple[str, ...]:
    """Return the notes on a benchmark's items for a reader of its scores."""
    return () if SOURCES[name].checked else ("not checked against the original file",)


def _local(name: str, source: DataSource, data: Path) -> list[DataRow]:
    found = [row for path in _files(name, source, given(name, data, source.files[0])) for row in _read(source, path)]
    need(data, found, source.columns)
    return found


def _files(name: str, source: DataSource, path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    for pattern in source.files:
        if found := sorted(path.rglob(pattern)):
            return found if "*" in pattern else found[:1]
    raise UserError(f"benchmark {name}: {path} has no {' or '.join(source.files)}; name the file itself as data")


def _read(source: DataSource, path: Path) -> list[DataRow]:
    header: Sequence[str] = ()
    if source.convert is mmlu and ".csv" in path.name:
        header = ("question", "A", "B", "C", "D", "answer")
    if ".qa.csv" in path.name:
        header = ("question", "answer")
    return _converted(source, rows(path, header=header, tabs=".qa.csv" in path.name), path)


def _converted(source: DataSource, found: list[DataRow], path: Path) -> list[DataRow]:
    """Rows in the Hub's columns. Raises UserError where they have neither form."""
    try:
        return source.convert(found, path)
    except (KeyError, TypeError, ValueError, AttributeError, SyntaxError) as error:
        what = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else " ".join(str(error).split())
        raise UserError(f"{path}: not in the form of {source.files[0]} or of {source.hub[0]}: {what}") from None


def _hub(name: str, source: DataSource) -> list[DataRow]:
    from datasets import load_dataset

    path, configuration, split = source.hub
    try:
        found: list[DataRow] = load_dataset(path, configuration, split=split).to_list()
    except Exception as error:  # the network, a gate, a script that is refused: they have no common class
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise UserError(
            f"benchmark {name}: {path} can't be had from the Hub ({reason});"
            f" give your own copy as data: {source.files[0]}"
        ) from None
    found = _converted(source, found, Path(path))
    need(Path(path), found, source.columns)
    return found
