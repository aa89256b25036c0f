"""PIQA (Bisk et al. 2019) as OpenCompass scores it."""

from isheep.benchmarks.support.data_files import DataRow
from isheep.benchmarks.support.opencompass import PaperTask, Prepared, load_template, lower_first, upper_first
from isheep.benchmarks.support.sources import PIQA


def prepare(row: DataRow, number: int) -> Prepared:
    """Begin a solution with a capital if the goal is a whole sentence, else with a small letter."""
    goal = upper_first(row["goal"])
    set_case = upper_first if goal.endswith(("?", ".")) else lower_first
    return Prepared({"goal": goal}, [set_case(row["sol1"]), set_case(row["sol2"])], int(row["label"]))


TASK = PaperTask(
    name="paper/piqa",
    source=PIQA,
    prepare=prepare,
    template=load_template("piqa"),
)
BENCHMARK = TASK.benchmark()
