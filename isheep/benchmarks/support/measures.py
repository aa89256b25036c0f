"""What the scores of benchmarks measure and what they do not, in words: isheep/benchmarks/measures.yaml."""

from functools import cache
from pathlib import Path

from pydantic import Field

from isheep.files.yaml_files import read_yaml
from isheep.recipe.benchmark_names import packaged_names
from isheep.records import Record

MEASURES_FILE = Path(__file__).parents[1] / "measures.yaml"
MAX_BYTES = 2**20


class Measures(Record):
    """What a benchmark measures, what it does not, and what single scores add.

    `published` is the year since which the items are public; None if they have not been in texts that models learn.
    """

    published: int | None
    measures: str
    does_not: str = Field(alias="not")
    scores: dict[str, str] = {}


def load_measures(benchmark: str) -> Measures | None:
    """Return the text on a benchmark by its name; None if there is none, as for a benchmark of the user's."""
    if benchmark not in packaged_names():
        return None
    texts = _read_measures()
    return texts.get(benchmark) or texts.get(benchmark.rpartition("/")[2])


@cache
def _read_measures() -> dict[str, Measures]:
    return {name: Measures.model_validate(entry) for name, entry in read_yaml(MEASURES_FILE, MAX_BYTES).items()}
