"""HellaSwag (Zellers et al. 2019) as OpenCompass scores it."""

import re

from isheep.benchmarks.support.data_files import DataRow
from isheep.benchmarks.support.opencompass import PaperTask, Prepared, load_template
from isheep.benchmarks.support.sources import HELLASWAG


def prepare(row: DataRow, number: int) -> Prepared:
    """Return the query as in OpenCompass's file: the activity and the context, without WikiHow's brackets."""
    query = f"{row['activity_label']}: {row['ctx_a']} {row['ctx_b'].capitalize()}"
    endings = [remove_brackets(ending) for ending in row["endings"]]
    return Prepared({"query": remove_brackets(query)}, endings, int(row["label"]))


def remove_brackets(text: str) -> str:
    """Clean a text as lm-eval cleans HellaSwag."""
    return re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". ")).replace("  ", " ")


TASK = PaperTask(
    name="paper/hellaswag",
    source=HELLASWAG,
    prepare=prepare,
    template=load_template("hellaswag"),
)
BENCHMARK = TASK.benchmark()
