"""Items of the standard benchmarks: from the user's files or the Hub, always in the Hub's columns.

Files may have the form of the authors' release or of the Hub (JSON, CSV or Parquet). `data` names the file itself, or a
folder that has it under the authors' name.
"""

import ast
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from isheep.benchmarks.support.context import data_path
from isheep.benchmarks.support.data_files import DataRow, check_columns, check_rows, read_rows, require_file
from isheep.benchmarks.support.item_parts import select_items
from isheep.benchmarks.support.question_rows import AliasesRow, AnswersRow, PassageRow
from isheep.errors import UserError, one_line
from isheep.files.json_files import ForeignRow
from isheep.files.reading import read_text
from isheep.recipe.evaluation import BenchmarkSettings

Convert = Callable[[list[DataRow], Path], list[DataRow]]


def keep_rows(rows: list[DataRow], path: Path) -> list[DataRow]:
    """Return rows whose form is the Hub's already."""
    return rows


@dataclass(frozen=True)
class DataSource:
    """Where a benchmark's items are, and what an item has."""

    hub: tuple[str, str | None, str]
    """A data set on the Hub, its configuration and split."""

    files: tuple[str, ...]
    """The names in the authors' release, as patterns; the first that is there counts."""

    columns: tuple[str, ...]
    """The Hub's columns that are used."""

    question_columns: tuple[str, ...]
    """Those of them that a model reads as the question."""

    convert: Convert = keep_rows
    """Return rows of the authors' form, or of the Hub's, in the Hub's form. May raise the errors of `_converted`."""

    csv_header: tuple[str, ...] = ()
    """The columns of the authors' CSV files, which have no header line."""

    response_key: str = ""
    """The column by which a file of answers names an item, "question" or "id"; "" if answers are not written texts."""

    row_type: type[ForeignRow] | None = None
    """The types of the fields of a row in the Hub's form; None if the benchmark itself checks the values."""

    checked: bool = False
    """Whether tests read the authors' own file."""

    @property
    def notes(self) -> tuple[str, ...]:
        """The notes on the items for a reader of the scores."""
        return () if self.checked else ("not checked against the original file",)


def load_items(source: DataSource, settings: BenchmarkSettings) -> list[DataRow]:
    """Return the items of a benchmark in the Hub's columns.

    Raises UserError if they can't be read or downloaded, or have another form.
    """
    return [row for _, row in load_numbered_items(source, settings)]


def load_numbered_items(source: DataSource, settings: BenchmarkSettings) -> list[tuple[int, DataRow]]:
    """Return the items with their numbers among all items of the source, from 1.

    Of a half, questions about the same passage stay together: the first column that is read decides.
    """
    data = data_path(settings)
    rows = _read_local(settings.name, source, data) if data else _download(settings.name, source)
    return select_items(list(enumerate(rows, 1)), lambda item: item[1][source.question_columns[0]], settings)


def load_examples(source: DataSource, settings: BenchmarkSettings) -> list[DataRow]:
    """Return the items that few-shot examples are taken from: a file beside `data` or below it, or the Hub's."""
    data = data_path(settings)
    if data is None:
        return _download(settings.name, source)
    folder = data if data.is_dir() else data.parent
    nearby = folder if any(folder.rglob(source.files[0])) else folder.parent
    return _read_local(settings.name, source, nearby)


def question_texts(source: DataSource, settings: BenchmarkSettings) -> list[str]:
    """Return what each item asks, without a prompt around it."""
    return ["\n".join(str(row[column]) for column in source.question_columns) for row in load_items(source, settings)]


def _read_local(name: str, source: DataSource, data: Path) -> list[DataRow]:
    paths = _find_files(name, source, require_file(name, data, source.files[0]))
    rows = [row for path in paths for row in _read(source, path)]
    check_columns(data, rows, source.columns)
    return rows


def _find_files(name: str, source: DataSource, path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    for pattern in source.files:
        if paths := sorted(path.rglob(pattern)):
            return paths if "*" in pattern else paths[:1]
    raise UserError(f"benchmark {name}: {path} has no {' or '.join(source.files)}; name the file itself as data")


def _read(source: DataSource, path: Path) -> list[DataRow]:
    # DPR's tables of question and list, which OpenCompass reads, are tab-separated and have no header line.
    is_table = ".qa.csv" in path.name
    header: Sequence[str] = ()
    if is_table:
        header = ("question", "answer")
    elif ".csv" in path.name:
        header = source.csv_header
    return _converted(source, read_rows(path, header=header, tab_separated=is_table), path)


def _converted(source: DataSource, rows: list[DataRow], path: Path) -> list[DataRow]:
    """Return rows in the Hub's columns. Raises UserError if they have neither form."""
    try:
        converted = source.convert(rows, path)
    except (KeyError, TypeError, ValueError, AttributeError, SyntaxError) as error:
        problem = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else one_line(error)
        raise UserError(f"{path}: not in the form of {source.files[0]} or of {source.hub[0]}: {problem}") from None
    if source.row_type:
        check_columns(path, converted, source.columns)
        check_rows(path, converted, source.row_type)
    return converted


def _download(name: str, source: DataSource) -> list[DataRow]:
    from datasets import load_dataset

    path, configuration, split = source.hub
    try:
        rows: list[DataRow] = load_dataset(path, configuration, split=split).to_list()
    except Exception as error:
        # The network, a gated data set and a refused script have no common class.
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise UserError(
            f"benchmark {name}: {path} can't be had from the Hub ({reason});"
            f" give your own copy as data: {source.files[0]}"
        ) from None
    rows = _converted(source, rows, Path(path))
    check_columns(Path(path), rows, source.columns)
    return rows


# --- the authors' forms


def flatten_question(rows: list[DataRow], path: Path) -> list[DataRow]:
    """ARC, OpenBookQA, CommonsenseQA: the authors nest {stem, choices: [{label, text}]} in "question"."""
    return [_flat(row) if isinstance(row.get("question"), dict) else row for row in rows]


def _flat(row: DataRow) -> DataRow:
    nested, choices = row["question"], row["question"]["choices"]
    parts = {name: [choice[name] for choice in choices] for name in ("label", "text")}
    return {**row, "question": nested["stem"], "question_stem": nested["stem"], "choices": parts}


def convert_boolq(rows: list[DataRow], path: Path) -> list[DataRow]:
    """BoolQ: the authors have a truth value as "answer" and the title apart; SuperGLUE has both in the passage."""
    return [_boolq_row(row) for row in rows]


def _boolq_row(row: DataRow) -> DataRow:
    label = row["label"] if row.get("label") is not None else row["answer"]
    if label not in (0, 1):
        raise ValueError(f"label {label!r} is not true or false")
    title = f"{row['title']} -- " if row.get("title") else ""
    return {"passage": f"{title}{row['passage']}", "question": row["question"], "label": int(label)}


def add_labels(rows: list[DataRow], path: Path) -> list[DataRow]:
    """PIQA, SIQA: dev.jsonl has its labels beside it, in dev-labels.lst."""
    label_file = path.with_name(f"{path.name.partition('.')[0]}-labels.lst")
    if "label" in rows[0] or not label_file.exists():
        return rows
    labels = read_text(label_file).split()
    if len(labels) != len(rows):
        raise ValueError(f"{label_file.name} has {len(labels)} labels for {len(rows)} rows")
    return [{**row, "label": int(label)} for row, label in zip(rows, labels, strict=True)]


def convert_mmlu(rows: list[DataRow], path: Path) -> list[DataRow]:
    """MMLU: the authors have a CSV for each subject: question, four choices, the letter of the right one."""
    if "choices" in rows[0]:
        return rows
    subject = re.sub(r"_(test|dev|val)$", "", path.name.partition(".")[0])
    return [
        {
            "question": row["question"],
            "choices": [row[letter] for letter in "ABCD"],
            "subject": subject,
            "answer": "ABCD".index(row["answer"]),
        }
        for row in rows
    ]


def parse_answers(rows: list[DataRow], path: Path) -> list[DataRow]:
    """NQ and TriviaQA: the authors' forms, and tables of question and list (DPR's, which OpenCompass reads)."""
    if len(rows) == 1 and isinstance(rows[0].get("Data"), list):
        # TriviaQA's JSON
        rows = [
            {"question": entry["Question"], "answer": {"aliases": entry["Answer"]["Aliases"]}}
            for entry in rows[0]["Data"]
        ]
    return [{**row, "answer": _parse_list(row["answer"])} for row in rows]


def _parse_list(answer: object) -> object:
    return ast.literal_eval(answer) if isinstance(answer, str) and answer.startswith("[") else answer


def parse_aliases(rows: list[DataRow], path: Path) -> list[DataRow]:
    """TriviaQA's answers as on the Hub: {aliases: [...]}."""
    parsed = parse_answers(rows, path)
    return [{**row, "answer": {"aliases": a} if isinstance(a := row["answer"], list) else a} for row in parsed]


def convert_squad(rows: list[DataRow], path: Path) -> list[DataRow]:
    """SQuAD 2.0: the authors' articles, paragraphs and questions, one row for each question."""
    if not (len(rows) == 1 and isinstance(rows[0].get("data"), list)):
        return rows
    return list(_squad_questions(rows[0]["data"]))


def _squad_questions(articles: list[DataRow]) -> Iterator[DataRow]:
    for article in articles:
        for paragraph in article["paragraphs"]:
            for question in paragraph["qas"]:
                yield {
                    "title": article["title"],
                    "context": paragraph["context"],
                    "question": question["question"],
                    "id": question["id"],
                    "answers": {"text": [answer["text"] for answer in question["answers"]]},
                    "plausible_answers": [answer["text"] for answer in question.get("plausible_answers", ())],
                }


# --- sources of benchmarks that exist under both protocols

BOOLQ = DataSource(
    hub=("aps/super_glue", "boolq", "validation"),
    files=("dev.jsonl", "val.jsonl"),
    columns=("passage", "question", "label"),
    question_columns=("passage", "question"),
    convert=convert_boolq,
)
PIQA = DataSource(
    hub=("baber/piqa", None, "validation"),
    files=("valid.jsonl", "dev.jsonl"),
    columns=("goal", "sol1", "sol2", "label"),
    question_columns=("goal",),
    convert=add_labels,
    checked=True,
)
SIQA = DataSource(
    hub=("lighteval/siqa", None, "validation"),
    files=("dev.jsonl",),
    columns=("context", "question", "answerA", "answerB", "answerC", "label"),
    question_columns=("context", "question"),
    convert=add_labels,
)
GPQA_DIAMOND = DataSource(
    hub=("Idavidrein/gpqa", "gpqa_diamond", "train"),
    files=("gpqa_diamond.csv",),
    columns=("Question", "Correct Answer", *(f"Incorrect Answer {n}" for n in (1, 2, 3))),
    question_columns=("Question",),
)
HELLASWAG = DataSource(
    hub=("Rowan/hellaswag", None, "validation"),
    files=("hellaswag_val.jsonl",),
    columns=("activity_label", "ctx_a", "ctx_b", "endings", "label"),
    question_columns=("ctx_a", "ctx_b"),
)
WINOGRANDE = DataSource(
    hub=("allenai/winogrande", "winogrande_xl", "validation"),
    files=("dev.jsonl",),
    columns=("sentence", "option1", "option2", "answer"),
    question_columns=("sentence",),
)
ARC_EASY = DataSource(
    hub=("allenai/ai2_arc", "ARC-Easy", "test"),
    files=("ARC-Easy-Test.jsonl",),
    columns=("question", "choices", "answerKey"),
    question_columns=("question",),
    convert=flatten_question,
)
ARC_CHALLENGE = replace(ARC_EASY, hub=("allenai/ai2_arc", "ARC-Challenge", "test"), files=("ARC-Challenge-Test.jsonl",))
OPENBOOKQA_FACT = DataSource(
    hub=("allenai/openbookqa", "additional", "test"),
    files=("test_complete.jsonl",),
    columns=("question_stem", "fact1", "choices", "answerKey"),
    question_columns=("question_stem",),
    convert=flatten_question,
)
COMMONSENSE_QA = DataSource(
    hub=("tau/commonsense_qa", None, "validation"),
    files=("dev_rand_split.jsonl",),
    columns=("question", "choices", "answerKey"),
    question_columns=("question",),
    convert=flatten_question,
    checked=True,
)
MMLU = DataSource(
    hub=("cais/mmlu", "all", "test"),
    files=("*_test.csv",),
    columns=("question", "choices", "answer", "subject"),
    question_columns=("question",),
    convert=convert_mmlu,
    csv_header=("question", "A", "B", "C", "D", "answer"),
)
NQ = DataSource(
    hub=("google-research-datasets/nq_open", None, "validation"),
    files=("NQ-open.dev.jsonl", "nq-test.qa.csv"),
    columns=("question", "answer"),
    question_columns=("question",),
    convert=parse_answers,
    row_type=AnswersRow,
    response_key="question",
    checked=True,
)
TRIVIAQA = DataSource(
    hub=("mandarjoshi/trivia_qa", "rc.nocontext", "validation"),
    files=("wikipedia-dev.json", "unfiltered-web-dev.json", "trivia-dev.qa.csv"),
    columns=("question", "answer"),
    question_columns=("question",),
    convert=parse_aliases,
    row_type=AliasesRow,
    response_key="question",
)
SQUAD2 = DataSource(
    hub=("lighteval/squad_v2", None, "validation"),
    files=("dev-v2.0.json",),
    columns=("context", "question", "answers"),
    question_columns=("context", "question"),
    convert=convert_squad,
    row_type=PassageRow,
    response_key="id",
    checked=True,
)
