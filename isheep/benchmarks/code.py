"""What HumanEval and MBPP have in common: code read out of answers, and run with its tests in the sandbox."""

import re
import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence
from hashlib import sha256
from typing import NamedTuple

from isheep import sandbox
from isheep.benchmarks.support.base import Result, Score
from isheep.benchmarks.support.context import EvalContext
from isheep.benchmarks.support.fingerprints import check_unchanged, item_fingerprints
from isheep.records import Answer, Record
from isheep.rundir.folder import RunFolder

SIZE = 64  # programs in a batch
FENCE = re.compile(r"^([ \t]*)```[^\n`]*\n(.*?)(?:^[ \t]*```|\Z)", re.DOTALL | re.MULTILINE)
BEGINS = re.compile(r"(?:async )?def \w+\s*\(|class \w+\s*[(:]|import \w|from [\w.]+ import\b|@\w")
GOES_ON = re.compile(
    r"\s|[#)\]}@\"']|(?:async |def |class |import |from |if |elif |else\b|for |while |with |try\b|except\b|finally\b)"
    r"|(?:return|assert|raise|del|global|pass|print)\b|[\w.]+\(|[\w.,\[\]\"' *]+[-+*/|&]?=|\w+: *[\w.\[\], ]+="
)


class Verdict(Record):
    """How the program of an item ended, as in sandbox.Outcome."""

    id: str
    why: str
    of: str = ""  # a mark of the program (benchmarks.marks)


class Problem(NamedTuple):
    """An item: what is asked, and the program that a solution becomes."""

    id: str
    name: str  # of the function
    before: str  # code that stands before a solution
    solution: str  # the canonical one
    tests: str  # code that stands after it

    def program(self, solution: str) -> str:
        return f"{self.before}{solution}\n{self.tests}\n"


def extract(answer: str, name: str) -> str:
    """The code in an answer, its indentation kept.

    1. With fences (```), the first block that defines `name`, or the first block. The last fence may be open.
    2. Without, the lines from the first that begins a definition, an import or a decorator at the margin, up to the
       first at the margin that can't go on with a program (prose).
    3. Without such a line, all of it: the body of the function.
    """
    if blocks := [re.sub(f"^{indent}", "", text, flags=re.MULTILINE) for indent, text in FENCE.findall(answer)]:
        return next((block for block in blocks if defines(block, name)), blocks[0])
    lines = answer.split("\n")
    start = next((n for n, line in enumerate(lines) if BEGINS.match(line)), None)
    if start is None:
        return answer
    end = next((n for n in range(start, len(lines)) if lines[n] and not GOES_ON.match(lines[n])), len(lines))
    return "\n".join(lines[start:end])


def defines(code: str, name: str) -> bool:
    return bool(re.search(rf"^(?:async )?def {re.escape(name)}\b", code, re.MULTILINE))


def body(code: str) -> str:
    """Code as a function's body: a line in the first column, if that is where it begins, goes one step in."""
    first = next((line for line in code.split("\n") if line.strip()), "")
    return code if first[:1].isspace() else textwrap.indent(code, "    ")


def score_programs(
    context: EvalContext, name: str, problems: Sequence[Problem], answers: Sequence[Answer], code: Sequence[str]
) -> Result:
    """Run the code of each answer with the problem's tests: pass@1 of one answer to each problem.

    The canonical solutions are run first, once for all models of a run (in control/ of the run folder).
    """
    wall = sandbox.find_wall(context.unsafe_code)
    ids = [problem.id for problem in problems]
    canonical = [problem.program(problem.solution) for problem in problems]
    controls = RunFolder(context.folder.root, context.folder.root) / "control"
    control = run(controls, f"{name}-{sha256(repr(canonical).encode()).hexdigest()[:12]}.jsonl", ids, canonical, wall)
    failed = {verdict.id: verdict.why for verdict in control if verdict.why != "passed"}
    programs = [problem.program(text) for problem, text in zip(problems, code, strict=True)]
    verdicts = run(context.folder, "verdicts.jsonl", ids, programs, wall)
    notes = []
    if failed:
        notes.append(f"control: {len(failed)} of {len(ids)} canonical solutions do not pass here")
    if wall == "none":
        notes.append("model-written code ran without a wall around files")
    for note in notes:
        context.folder.say(f"{name}: {note}")
    return Result(
        template=context.template,
        notes=tuple(notes),
        scores={"pass@1": Score(items=[verdict.why == "passed" for verdict in verdicts])},
        details={
            "sandbox": wall,
            "control": {"passed": len(ids) - len(failed), "of": len(ids), "failed": failed},
            "outcomes": dict(Counter(verdict.why for verdict in verdicts).most_common()),
            "cut_off": sum(answer.finish == "length" for answer in answers),
        },
    )


def run(folder: RunFolder, name: str, ids: Sequence[str], programs: Sequence[str], wall: str) -> list[Verdict]:
    """A verdict on each program, kept as rows like any other. Raises UserError where those kept are on other ones."""
    about = item_fingerprints(programs)

    def owed(done: Sequence[Verdict]) -> Iterator[list[Verdict]]:
        check_unchanged(folder.path / name, done, about)
        for start in range(len(done), len(programs), SIZE):
            some = slice(start, start + SIZE)
            found = zip(ids[some], sandbox.run_all(programs[some], wall), about[some], strict=True)
            yield [Verdict(id=id, why=one.why, of=mark) for id, one, mark in found]

    verdicts = list(folder.records(name, Verdict, owed, SIZE, len(programs)))
    check_unchanged(folder.path / name, verdicts, about)
    return verdicts
