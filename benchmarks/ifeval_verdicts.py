"""Compare the IFEval verdicts of an evaluation with those of lm-eval's own function on the same answers.

    python -m benchmarks.ifeval_verdicts RUN/base/eval/ifeval --data input_data.jsonl

The folder is the one in which an evaluation left `eval_results_strict.jsonl` and `eval_results_loose.jsonl`. The table
has the four accuracies by both, and the keys of the prompts on which they differ. lm-eval draws the letter of two
prompts (1122 and 1129) at random, so these may differ.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.common import make_parser, run_script

READINGS = ("strict", "loose")


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the objects of a JSON Lines file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def mean(values: Sequence[bool]) -> str:
    """Return the share of true values, in percent."""
    return f"{100 * sum(values) / len(values):.1f}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = make_parser(__doc__)
    parser.add_argument("results", type=Path, help="Name the folder of the evaluation's results.")
    parser.add_argument("--data", type=Path, required=True, help="Name IFEval's input_data.jsonl.")
    args = parser.parse_args(arguments)
    from lm_eval.tasks.ifeval.utils import process_results

    items = {item["prompt"].strip(): item for item in read_lines(args.data)}
    sides = "isheep, prompt | lm-eval, prompt | isheep, instruction | lm-eval, instruction"
    print(f"| reading | prompts | {sides} | prompts that differ |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for reading in READINGS:
        results = read_lines(args.results / f"eval_results_{reading}.jsonl")
        own_verdicts = [result["follow_instruction_list"] for result in results]
        reference = [
            process_results(items[result["prompt"].strip()], [result["response"]])[f"inst_level_{reading}_acc"]
            for result in results
        ]
        columns = [mean([all(verdicts) for verdicts in side]) for side in (own_verdicts, reference)]
        columns += [mean([verdict for verdicts in side for verdict in verdicts]) for side in (own_verdicts, reference)]
        rows = zip(results, own_verdicts, reference, strict=True)
        keys = [str(items[result["prompt"].strip()]["key"]) for result, *verdicts in rows if verdicts[0] != verdicts[1]]
        print(f"| {reading} | {len(results)} | {' | '.join(columns)} | {', '.join(keys) or 'none'} |")


if __name__ == "__main__":
    run_script(main)
