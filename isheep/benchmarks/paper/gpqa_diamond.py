"""GPQA diamond (Rein et al. 2023) as OpenCompass asks it; opencompass.read_letter reads the letter."""

from isheep.benchmarks.support.data_files import DataRow
from isheep.benchmarks.support.opencompass import PaperTask, Prepared, load_template
from isheep.benchmarks.support.sources import GPQA_DIAMOND


def prepare(row: DataRow, number: int) -> Prepared:
    """Rotate the options by the item's number, counted from 1, so that the right answer moves through the places."""
    options = [row["Correct Answer"], *(row[f"Incorrect Answer {n}"] for n in (1, 2, 3))]
    rotated = [options[(index + number) % 4] for index in range(4)]
    fields = {"question": row["Question"], **dict(zip("ABCD", rotated, strict=True))}
    return Prepared(fields, list("ABCD"), -number % 4)


TASK = PaperTask(
    name="paper/gpqa_diamond",
    source=GPQA_DIAMOND,
    prepare=prepare,
    template=load_template("gpqa_diamond"),
)
BENCHMARK = TASK.benchmark()
