"""Code benchmarks: read the code in answers, and run it with its tests in the sandbox."""

import re
import textwrap
from collections import Counter
from collections.abc import Sequence
from hashlib import sha256
from typing import NamedTuple

from isheep import sandbox
from isheep.benchmarks.support.base import Result, Score
from isheep.benchmarks.support.context import EvalContext
from isheep.benchmarks.support.fingerprints import check_unchanged, item_fingerprints
from isheep.benchmarks.support.responses import ResponseContext
from isheep.records import Answer, Record
from isheep.rundir.folder import RunFolder

# Programs that are run before their verdicts are stored.
BATCH_SIZE = 64
FENCE = re.compile(r"^([ \t]*)```[^\n`]*\n(.*?)(?:^[ \t]*```|\Z)", re.DOTALL | re.MULTILINE)
PROGRAM_BEGINS = re.compile(r"(?:async )?def \w+\s*\(|class \w+\s*[(:]|import \w|from [\w.]+ import\b|@\w")
PROGRAM_CONTINUES = re.compile(
    r"\s|[#)\]}@\"']|(?:async |def |class |import |from |if |elif |else\b|for |while |with |try\b|except\b|finally\b)"
    r"|(?:return|assert|raise|del|global|pass|print)\b|[\w.]+\(|[\w.,\[\]\"' *]+[-+*/|&]?=|\w+: *[\w.\[\], ]+="
)


class Verdict(Record):
    """How the program of an item ended, as in sandbox.Outcome. `of` is the program's fingerprint."""

    id: str
    why: str
    of: str = ""


class Problem(NamedTuple):
    """An item, as the program that a solution becomes.

    `name` is the function's, `solution` the canonical one; `prefix` and `tests` are the code around a solution.
    """

    id: str
    name: str
    prefix: str
    solution: str
    tests: str

    def program(self, solution: str) -> str:
        """Return the program that runs the tests on a solution."""
        return f"{self.prefix}{solution}\n{self.tests}\n"


def extract(answer: str, name: str) -> str:
    """Return the code in an answer, with its indentation.

    1. If there are fences (```), the first block that defines `name`, or the first block. The last fence may be open.
    2. Otherwise the lines from the first that begins a definition, an import or a decorator at the margin, up to the
       first at the margin that can't continue a program (prose).
    3. If there is no such line, the whole answer, as the body of the function.
    """
    if blocks := [re.sub(f"^{indent}", "", text, flags=re.MULTILINE) for indent, text in FENCE.findall(answer)]:
        return next((block for block in blocks if defines(block, name)), blocks[0])
    lines = answer.split("\n")
    start = next((n for n, line in enumerate(lines) if PROGRAM_BEGINS.match(line)), None)
    if start is None:
        return answer
    end = next((n for n in range(start, len(lines)) if lines[n] and not PROGRAM_CONTINUES.match(lines[n])), len(lines))
    return "\n".join(lines[start:end])


def defines(code: str, name: str) -> bool:
    """Return whether code defines a function of this name at the margin."""
    return bool(re.search(rf"^(?:async )?def {re.escape(name)}\b", code, re.MULTILINE))


def body(code: str) -> str:
    """Return code as the body of a function: indented by one step if it begins in the first column."""
    first = next((line for line in code.split("\n") if line.strip()), "")
    return code if first[:1].isspace() else textwrap.indent(code, "    ")


def score_programs(
    context: EvalContext | ResponseContext,
    name: str,
    problems: Sequence[Problem],
    answers: Sequence[Answer],
    code: Sequence[str],
) -> Result:
    """Run the code of each answer with the problem's tests: pass@1 of one answer to each problem.

    The canonical solutions are run first, once for all models of a run (in control/ of the run folder).
    """
    isolation = sandbox.find_isolation(context.unsafe_code)
    ids = [problem.id for problem in problems]
    canonical = [problem.program(problem.solution) for problem in problems]
    controls = RunFolder(context.folder.root, context.folder.root) / "control"
    control = run_programs(
        controls, f"{name}-{sha256(repr(canonical).encode()).hexdigest()[:12]}.jsonl", ids, canonical, isolation
    )
    failed = {verdict.id: verdict.why for verdict in control if verdict.why != "passed"}
    programs = [problem.program(text) for problem, text in zip(problems, code, strict=True)]
    verdicts = run_programs(context.folder, "verdicts.jsonl", ids, programs, isolation)
    notes = []
    if failed:
        notes.append(f"control: {len(failed)} of {len(ids)} canonical solutions do not pass here")
    if isolation == "none":
        notes.append("model-written code ran without isolation of files")
    for note in notes:
        context.folder.notify(f"{name}: {note}")
    return Result(
        template=context.template,
        notes=tuple(notes),
        scores={"pass@1": Score(items=[verdict.why == "passed" for verdict in verdicts])},
        details={
            "sandbox": isolation,
            "control": {"passed": len(ids) - len(failed), "of": len(ids), "failed": failed},
            "outcomes": dict(Counter(verdict.why for verdict in verdicts).most_common()),
            "cut_off": sum(answer.finish == "length" for answer in answers),
        },
    )


def run_programs(
    folder: RunFolder, name: str, ids: Sequence[str], programs: Sequence[str], isolation: str
) -> Sequence[Verdict]:
    """Return a verdict on each program, stored in the file `name`.

    Raises UserError if the stored verdicts are about other programs.
    """
    fingerprints = item_fingerprints(programs)

    def make_batch(start: int) -> list[Verdict]:
        batch = slice(start, start + BATCH_SIZE)
        outcomes = zip(ids[batch], sandbox.run_all(programs[batch], isolation), fingerprints[batch], strict=True)
        return [Verdict(id=id, why=outcome.why, of=program) for id, outcome, program in outcomes]

    def check(rows: Sequence[Verdict]) -> None:
        check_unchanged(folder.path / name, rows, fingerprints)

    return folder.map_batches(name, Verdict, make_batch, len(programs), BATCH_SIZE, check=check)
