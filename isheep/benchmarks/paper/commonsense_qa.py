"""CommonsenseQA (Talmor et al. 2019) as OpenCompass scores it, after eight examples."""

from dataclasses import replace

from isheep.benchmarks.support.data_files import DataRow
from isheep.benchmarks.support.opencompass import PaperTask, Prepared, load_template
from isheep.benchmarks.support.sources import COMMONSENSE_QA


def prepare(row: DataRow, number: int) -> Prepared:
    right = row["choices"]["label"].index(row["answerKey"])
    return Prepared({"question": row["question"]}, list(row["choices"]["text"]), right)


TASK = PaperTask(
    name="paper/commonsense_qa",
    source=COMMONSENSE_QA,
    prepare=prepare,
    examples=replace(COMMONSENSE_QA, hub=("tau/commonsense_qa", None, "train"), files=("train_rand_split.jsonl",)),
    template=load_template("commonsense_qa"),
)
BENCHMARK = TASK.benchmark()
