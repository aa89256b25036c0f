"""Code benchmarks: read the code in answers, and run it with its tests in the sandbox."""

import ast
import re
import textwrap
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from hashlib import sha256
from typing import Any, NamedTuple, TypeVar

from isheep import sandbox
from isheep.benchmarks.support.base import Result, Score
from isheep.benchmarks.support.context import EvalContext
from isheep.benchmarks.support.fingerprints import check_unchanged, item_fingerprints
from isheep.benchmarks.support.responses import ResponseContext
from isheep.records import Answer, Record
from isheep.rundir.folder import RunFolder
from isheep.sandbox.process import PASSED

P = TypeVar("P")

# Programs that are run before their verdicts are stored.
BATCH_SIZE = 64
FENCE = re.compile(r"^([ \t]*)```[^\n`]*\n(.*?)(?:^[ \t]*```|\Z)", re.DOTALL | re.MULTILINE)
PROGRAM_BEGINS = re.compile(r"(?:async )?def \w+\s*\(|class \w+\s*[(:]|import \w|from [\w.]+ import\b|@\w")
PROGRAM_CONTINUES = re.compile(
    r"\s|[#)\]}@\"']|(?:async |def |class |import |from |if |elif |else\b|for |while |with |try\b|except\b|finally\b)"
    r"|(?:return|assert|raise|del|global|pass|print)\b|[\w.]+\(|[\w.,\[\]\"' *]+[-+*/|&]?=|\w+:[\w.\[\], ]+="
)


class Verdict(Record):
    """How the program of an item ended, as in sandbox.Outcome. `of` is the program's fingerprint."""

    id: str
    why: str
    of: str = ""


class Problem(NamedTuple):
    """An item: `name` is the function's, `solution` the canonical one.

    `prefix` is the code before a solution. The tests see it too, but no other code of a solution than the functions and
    classes that they use: those that the canonical solution defines.
    """

    id: str
    name: str
    prefix: str
    solution: str
    tests: str

    def program(self, solution: str) -> sandbox.Program:
        """Return the program that runs the tests on a solution."""
        names, imports = tested_names(self)
        # A prefix that needs a body gets the canonical one.
        before = self.prefix if _is_code(self.prefix) else self.prefix + self.solution
        return sandbox.Program(f"{self.prefix}{solution}\n\n", f"{before}\n{imports}", names, self.tests)


def _is_code(text: str) -> bool:
    try:
        compile(text, "prefix", "exec")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def tested_names(problem: Problem) -> tuple[tuple[str, ...], str]:
    """Return the names of a solution that the tests use, and the import lines of the canonical one that they use.

    A name that the code before a solution or the tests themselves bind is never taken from a solution, nor is a name
    of Python's own, unless it is the problem's function or the canonical solution defines it.
    """
    try:
        used = names_used(ast.parse(problem.tests))
        before = top_level(ast.parse(problem.prefix)) if _is_code(problem.prefix) else {}
        solution = top_level(ast.parse(problem.prefix + problem.solution))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return (problem.name,), ""
    new = {name: node for name, node in solution.items() if name in used and name not in before}
    imports = {ast.unparse(node): None for node in new.values() if isinstance(node, ast.Import | ast.ImportFrom)}
    names = [name for name, node in new.items() if not isinstance(node, ast.Import | ast.ImportFrom)]
    names = list(dict.fromkeys([problem.name, *names])) if problem.name else names
    return tuple(names), "\n".join(imports)


def names_used(tree: ast.AST) -> set[str]:
    """Return the names that code reads and does not bind."""
    names = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
    bound = {node.id for node in names if not isinstance(node.ctx, ast.Load)} | set(top_level(tree))
    return {node.id for node in names} - bound


def top_level(tree: ast.AST) -> dict[str, ast.stmt]:
    """Return the names that code binds at the margin, each with the last statement that does."""
    names: dict[str, ast.stmt] = {}
    for statement in getattr(tree, "body", ()):
        match statement:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                names[name] = statement
            case ast.Import(names=modules) | ast.ImportFrom(names=modules):
                names |= {(module.asname or module.name).partition(".")[0]: statement for module in modules}
            case ast.Assign() | ast.AnnAssign():
                stored = [node for node in ast.walk(statement) if isinstance(node, ast.Name)]
                names |= {node.id: statement for node in stored if isinstance(node.ctx, ast.Store)}
    return names


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
    run = partial(sandbox.run_all, isolation=isolation)
    control = run_programs(*control_file(context, name, canonical), ids, canonical, run)
    programs = [problem.program(text) for problem, text in zip(problems, code, strict=True)]
    verdicts = run_programs(context.folder, "verdicts.jsonl", ids, programs, run)
    scores = {"pass@1": Score(items=[verdict.why == PASSED for verdict in verdicts])}
    ends = {verdict.id: verdict.why for verdict in control}
    return code_result(context, scores, ends, [verdict.why for verdict in verdicts], answers, isolation)


def why_wrong(folder: RunFolder, answers: Sequence[Answer]) -> list[str]:
    """Return how the program of each answer ended, if it did not pass the tests."""
    verdicts = folder.read("verdicts.jsonl", Verdict)
    ends = [verdict.why for _, verdict in zip(answers, verdicts, strict=True)]
    return ["" if why == PASSED else f"the tests ended with: {why}" for why in ends]


def control_file(context: EvalContext | ResponseContext, name: str, canonical: Sequence[Any]) -> tuple[RunFolder, str]:
    """Return where the verdicts on the canonical solutions lie, once for all models of a run."""
    folder = RunFolder(context.folder.root, context.folder.root) / "control"
    return folder, f"{name}-{sha256(repr(canonical).encode()).hexdigest()[:12]}.jsonl"


def code_result(
    context: EvalContext | ResponseContext,
    scores: dict[str, Score],
    control: Mapping[str, str],
    ends: Sequence[str],
    answers: Sequence[Answer],
    isolation: str,
) -> Result:
    """Return the result of a code benchmark, from how the canonical solutions (by item) and the answers' code ended.

    Says so if a canonical solution does not pass, or if the code was not isolated.
    """
    failed = {id: why for id, why in control.items() if why != PASSED}
    notes = []
    if failed:
        notes.append(f"control: {len(failed)} of {len(control)} canonical solutions do not pass here")
    if isolation == "none":
        notes.append("model-written code ran without isolation of files")
    for note in notes:
        context.folder.notify(f"{context.settings.name}: {note}")
    return Result(
        template=context.template,
        notes=tuple(notes),
        scores=scores,
        details={
            "sandbox": isolation,
            "control": {"passed": len(control) - len(failed), "of": len(control), "failed": failed},
            "outcomes": dict(Counter(ends).most_common()),
            "cut_off": sum(answer.finish == "length" for answer in answers),
        },
    )


def run_programs(
    folder: RunFolder,
    name: str,
    ids: Sequence[str],
    programs: Sequence[P],
    run: Callable[[Sequence[P]], Sequence[sandbox.Outcome]],
) -> Sequence[Verdict]:
    """Return a verdict on each program, stored in the file `name`; `run` returns the outcomes of some programs.

    Raises UserError if the stored verdicts are about other programs.
    """
    fingerprints = item_fingerprints(programs)

    def make_batch(start: int) -> list[Verdict]:
        batch = slice(start, start + BATCH_SIZE)
        outcomes = zip(ids[batch], run(programs[batch]), fingerprints[batch], strict=True)
        return [Verdict(id=id, why=outcome.why, of=program) for id, outcome, program in outcomes]

    def check(rows: Sequence[Verdict]) -> None:
        check_unchanged(folder.path / name, rows, fingerprints)

    return folder.map_batches(name, Verdict, make_batch, len(programs), BATCH_SIZE, check=check)
