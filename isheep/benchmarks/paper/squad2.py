"""SQuAD 2.0 (Rajpurkar et al. 2018) as OpenCompass scores it."""

from isheep.benchmarks.support.data_files import DataRow
from isheep.benchmarks.support.opencompass import PaperTask, Prepared, PromptTemplate
from isheep.benchmarks.support.sources import SQUAD2


def prepare(row: DataRow, number: int) -> Prepared:
    """Return the answers as references; for a passage without any, the plausible ones and a refusal to answer."""
    texts = list(row["answers"]["text"])
    references = texts or [*row.get("plausible_answers", ()), "impossible to answer"]
    return Prepared({"context": row["context"], "question": row["question"]}, sorted(set(references)))


TASK = PaperTask(
    name="paper/squad2",
    source=SQUAD2,
    prepare=prepare,
    template=PromptTemplate(
        source="open-compass/opencompass, configs/datasets/squad20/squad20_gen_1710bc.py",
        licence="Apache-2.0",
        score="equals",
        user=(
            "{context}\nAccording to the above passage, "
            "answer the following question. If it is impossible to answer according to the passage, "
            "answer `impossible to answer`:\nQuestion: {question}"
        ),
        assistant="Answer:",
        cut=("answer is",),
        strip=False,
    ),
)
BENCHMARK = TASK.benchmark()
