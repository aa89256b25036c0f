"""Break runs in many ways and count what is lost and what is done again: the table of docs/reliability.md.

    python -m benchmarks.chaos [--kills 40] [--model CHECKPOINT] [--fault NAME ...] [--into docs/reliability.md]

Two faults are tried at a time, each in a process of its own. The moments of a fault follow from `--seed` and its name.
Every fault strikes a run of the real command line, which is then started again until it ends. Its files are compared
with those of a run that nothing disturbed. "Lost" counts runs that ended with other bytes, or not at all. What "done
again" counts is said in each row. `--model` adds kills of a run on a real checkpoint. `--into FILE` replaces the text
between the two markers of that file. The exit code is 1 if anything was lost.
"""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

from benchmarks.common import ISHEEP, make_parser, run_script
from isheep.errors import UserError, one_line
from isheep.models.checkpoint import find_checkpoint
from tests.helpers.damage import Matrix, table, use_fake_models
from tests.helpers.hashes import hash_files
from tests.helpers.kills import count_moments, run_until_killed
from tests.helpers.openai_server import Fake, Refusal, serving

BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"
# A run is killed at most so many times in a row, so that it also comes to its later stages.
MOST_KILLS_OF_A_RUN = 4
FUNCTION_RECIPES = ("isheep", "stop", "dromedary", "self-instruct")
LAMB = (
    *("lamb", "synthesis.tasks=20", "synthesis.batch_size=8", "response.batch_size=8", "assessment.batch_size=8"),
    *("iterations=2", "training.eval_every=1", "training.batch_size=4", "filters=[{kind: score, at_least: 2}]"),
    *("evaluation=[]", "machine.threads=1", "machine.report=false"),
)
REAL_MODEL = (
    *("small", "synthesis.tasks=8", "synthesis.batch_size=4", "response.batch_size=4", "assessment.batch_size=4"),
    *("synthesis.sampling.max_tokens=96", "response.sampling.max_tokens=48", "training.eval_every=1"),
    *("training.batch_size=2", "iterations=2", "evaluation=[]", "machine.threads=1", "machine.report=false"),
)
SERVED = (*LAMB, "iterations=1", "machine.engine=openai", "machine.server.max_in_flight=4")
TWO_TRAINERS = (*LAMB, "iterations=1", "machine.device=cpu", "machine.gpus=2")
EVALUATED = (*LAMB, "iterations=1", "synthesis.tasks=8", "evaluation=[lamb]")
# Kilobytes of a disk on which the run of a function becomes full at different moments.
DISK_SIZES = (40, 60, 80, 100, 120, 140, 160, 200, 240)


class Options(NamedTuple):
    """How often runs are killed, a checkpoint whose runs are killed too, how often these, and the seed."""

    kills: int
    model: str | None
    model_kills: int
    seed: int


class Row(NamedTuple):
    """A row of the table: how often a fault struck, what was lost, what was done again, and how the runs ended."""

    fault: str
    times: int
    lost: int
    again: str
    outcome: str


def start_run(words: Sequence[str], out: Path) -> "subprocess.Popen[bytes]":
    """Start `isheep run` as a process of its own."""
    return subprocess.Popen(
        [*ISHEEP, "run", *words, "--out", str(out)],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def finish_run(words: Sequence[str], out: Path) -> float:
    """Let a run end and return its seconds. Raises UserError with what it printed if it fails."""
    start = time.monotonic()
    process = start_run(words, out)
    printed, _ = process.communicate()
    if process.returncode:
        raise UserError(f"{' '.join(words)}: exit code {process.returncode}\n{printed.decode(errors='replace')}")
    return time.monotonic() - start


def kill_at_random(
    words: Sequence[str], out: Path, seconds: float, kills: int, rng: random.Random
) -> tuple[int, float]:
    """Kill a run up to `kills` times at random moments; return how often it was killed, and the seconds it ran."""
    spent, num_killed = 0.0, 0
    for _ in range(kills):
        start, process = time.monotonic(), start_run(words, out)
        try:
            process.wait(timeout=rng.uniform(0.2, 1.0) * seconds)
            return num_killed, spent + time.monotonic() - start
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.communicate()
            num_killed += 1
            spent += time.monotonic() - start
    return num_killed, spent


# --- faults: each returns its row


def kill_real_runs(name: str, words: Sequence[str], kills: int, folder: Path, rng: random.Random) -> Row:
    """Kill runs on a real model at random moments until `kills` have struck."""
    undisturbed = folder / "undisturbed"
    seconds = finish_run(words, undisturbed)
    # What a start costs, which no run can save: a finished run is started again.
    start_seconds = finish_run(words, undisturbed)
    expected, num_killed, lost, again, num_runs = hash_files(undisturbed), 0, 0, 0.0, 0
    while num_killed < kills:
        out = folder / f"run-{num_killed}"
        struck, spent = kill_at_random(words, out, seconds, min(MOST_KILLS_OF_A_RUN, kills - num_killed), rng)
        spent += finish_run(words, out)
        num_killed += struck
        num_runs += 1
        again += max(0.0, spent - seconds - struck * start_seconds)
        lost += hash_files(out) != expected
        shutil.rmtree(out)
    share = again / (num_runs * seconds)
    done_again = f"{again:.0f} s of {num_runs * seconds:.0f} s ({share:.0%}), starts not counted"
    return Row(f"SIGKILL at a random moment: {name}", num_killed, lost, done_again, "resumed to the same bytes")


def kill_lamb(options: Options, folder: Path, rng: random.Random) -> Row:
    """Kill runs of lamb."""
    return kill_real_runs("lamb, two iterations", LAMB, options.kills, folder, rng)


def kill_evaluation(options: Options, folder: Path, rng: random.Random) -> Row:
    """Kill runs of lamb that spend most of their time in the evaluation."""
    return kill_real_runs("lamb, mostly in evaluation", EVALUATED, options.kills // 4, folder, rng)


def kill_two_trainers(options: Options, folder: Path, rng: random.Random) -> Row:
    """Kill runs of lamb that train in two processes."""
    return kill_real_runs("lamb, trained in two processes", TWO_TRAINERS, options.kills // 4, folder, rng)


def kill_model(options: Options, folder: Path, rng: random.Random) -> Row:
    """Kill runs of the real model that the user names."""
    if not options.model:
        raise UserError("--fault model kills runs of a real model: name one with --model")
    words = (*REAL_MODEL, "--model", options.model)
    return kill_real_runs(f"{Path(options.model).name}, a real model", words, options.model_kills, folder, rng)


def kill_at_moments(options: Options, folder: Path, rng: random.Random) -> Row:
    """Kill runs on a function at an engine call, training step, fsync or rename."""
    num_killed, lost, again, num_calls = 0, 0, 0, 0
    for recipe in FUNCTION_RECIPES:
        undisturbed = folder / f"{recipe}-undisturbed"
        run_until_killed(undisturbed, 0, recipe)
        expected, calls = hash_files(undisturbed), count_calls(undisturbed)
        moments = range(1, count_moments(undisturbed) + 1)
        for moment in sorted(rng.sample(moments, min(options.kills // len(FUNCTION_RECIPES), len(moments)))):
            out = folder / f"{recipe}-{moment}"
            run_until_killed(out, moment, recipe)
            run_until_killed(out, 0, recipe)
            num_killed += 1
            lost += hash_files(out) != expected
            again += count_calls(out) - calls
            num_calls += calls
    done_again = f"{again} of {num_calls} texts ({again / num_calls:.0%})"
    fault = "SIGKILL before an engine call, training step, fsync or rename: four pipelines on a function"
    return Row(fault, num_killed, lost, done_again, "resumed to the same bytes")


def count_calls(out: Path) -> int:
    """Return the number of texts that the function of killed_run.py wrote in all processes of a run."""
    return out.with_suffix(".texts").stat().st_size


def fill_disks(options: Options, folder: Path, rng: random.Random) -> Row:
    """Let runs on a function end on a full disk, and let them go on when the disk is larger."""
    undisturbed = folder / "undisturbed"
    run_until_killed(undisturbed, 0)
    expected, lost, num_full = hash_files(undisturbed), 0, 0
    for kilobytes in DISK_SIZES:
        disk = folder / f"disk-{kilobytes}"
        disk.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "none", str(disk)]
        if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
            return Row("full disk", 0, 0, "-", "not tried: this user may not mount a file system")
        try:
            num_full += run_until_killed(disk / "run", 0) != 0
            subprocess.run(["mount", "-o", "remount,size=8m", str(disk)], check=True)
            ended = run_until_killed(disk / "run", 0) == 0
            lost += not ended or hash_files(disk / "run") != expected
        finally:
            subprocess.run(["umount", str(disk)], check=True)
    return Row("full disk", num_full, lost, "-", "one line, exit code 2; resumed to the same bytes with more room")


def refuse_calls(options: Options, folder: Path, rng: random.Random) -> Row:
    """Kill runs on a server that refuses three calls in ten, and count the answers that were paid for twice."""
    chances = random.Random(0)

    def fault(number: int) -> Refusal | None:
        return Refusal(503) if chances.random() < 0.3 else None

    fake = Fake(find_checkpoint("lamb"))
    with serving(fake) as served:
        words = (*SERVED, f"machine.server.url={served.url}")
        undisturbed = folder / "undisturbed"
        seconds = finish_run(words, undisturbed)
        # The address of the server is another one, so the recipe's bytes differ.
        expected = hash_files(undisturbed, ("recipe.yaml",))
    lost, num_runs, num_killed, num_refused, again, num_answers = 0, 0, 0, 0, 0, 0
    while num_killed < options.kills // 4:
        # Not after the kills, because a run may end before the first one strikes.
        num_runs += 1
        out = folder / f"run-{num_runs}"
        with serving(fake._replace(fault=fault)) as served:
            patience = ("machine.server.attempts=10", "machine.server.retry_wait=0")
            faulty = (*SERVED, f"machine.server.url={served.url}", *patience)
            most_kills = min(MOST_KILLS_OF_A_RUN, options.kills // 4 - num_killed)
            struck, spent = kill_at_random(faulty, out, seconds, most_kills, rng)
            num_killed += struck
            if not struck:
                # It ended before its kill: the machine is less busy than when the first run was timed.
                seconds = spent
            finish_run(faulty, out)
            lost += hash_files(out, ("recipe.yaml",)) != expected
            # The first numbers are the seeds of the small requests that find out what a server can do.
            counts = [count for key, count in served.answered.items() if (json.loads(key)[1] or 0) > 9]
            again += sum(counts) - len(counts)
            num_answers += len(counts)
            num_refused += len(served.bodies) - sum(served.answered.values())
    done_again = f"{again} of {num_answers} answers paid for twice, each under way at a kill (4 at a time)"
    fault_name = f"a server that refuses {num_refused} calls, and SIGKILL at a random moment"
    return Row(fault_name, num_killed, lost, done_again, "resumed to the same bytes")


def damage_files(folder: Path) -> tuple[list[Row], str]:
    """Damage every file of a run in every way, and return a row for each way, and the table of all files."""
    tries = list(Matrix(folder, use_fake_models()).walk())
    rows = []
    for damage in dict.fromkeys(tried.damage for tried in tries):
        selected = [tried for tried in tries if tried.damage == damage]
        outcomes = Counter(tried.outcome for tried in selected)
        text = ", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items()))
        num_wrong = sum(tried.is_wrong for tried in selected)
        rows.append(Row(f"a file of a run is damaged: {damage}", len(selected), num_wrong, "-", text))
    return rows, table(tries)


# --- the script

Fault = Callable[[Options, Path, random.Random], Row]
FAULTS: dict[str, Fault] = {
    "moments": kill_at_moments,
    "lamb": kill_lamb,
    "evaluation": kill_evaluation,
    "two": kill_two_trainers,
    "server": refuse_calls,
    "disk": fill_disks,
    "model": kill_model,
}
DAMAGE = "damage"


def try_fault(name: str, options: Options) -> tuple[list[Row], str]:
    """Return the rows of a fault, and the table of all files if the fault is damage to files.

    A run that does not end is a row, too: the other faults go on.
    """
    with tempfile.TemporaryDirectory() as folder:
        if name == DAMAGE:
            return damage_files(Path(folder))
        try:
            return [FAULTS[name](options, Path(folder), random.Random(f"{options.seed} {name}"))], ""
        except UserError as error:
            return [Row(name, 1, 1, "-", f"a run did not end: {one_line(str(error)[-200:])}")], ""


def try_faults(names: Sequence[str], options: Options) -> tuple[list[Row], str]:
    """Try faults, two at a time, and return all rows in the order of the names, and the table of all files."""
    with ProcessPoolExecutor(2, get_context("spawn")) as pool:
        # The matrix of damaged files takes longest, so it begins first.
        futures = {name: pool.submit(try_fault, name, options) for name in sorted(names, key=DAMAGE.__ne__)}
        for future in as_completed(futures.values()):
            print(format_rows(future.result()[0]), file=sys.stderr, flush=True)
        results = [futures[name].result() for name in names]
    return [row for rows, _ in results for row in rows], "".join(damage_table for _, damage_table in results)


def format_rows(rows: Sequence[Row]) -> str:
    """Return the table in Markdown."""
    lines = ["| fault | times | lost | done again | outcome |", "|---|---:|---:|---|---|"]
    lines += [f"| {row.fault} | {row.times} | {row.lost} | {row.again} | {row.outcome} |" for row in rows]
    return "\n".join(lines) + "\n"


def write_into(path: Path, text: str) -> None:
    """Replace the text between the markers of a file. Raises UserError if it has no markers."""
    content = path.read_text(encoding="utf-8")
    pattern = re.compile(f"{re.escape(BEGIN)}.*{re.escape(END)}", re.DOTALL)
    if not pattern.search(content):
        raise UserError(f"{path} has no {BEGIN} and {END}")
    path.write_text(pattern.sub(lambda match: f"{BEGIN}\n{text}{END}", content), encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    """Try every fault and print the table."""
    start = time.monotonic()
    parser = make_parser(__doc__)
    parser.add_argument("--kills", type=int, default=40, help="Set how often each kind of run is killed.")
    parser.add_argument("--model", help="Name a checkpoint whose runs are killed, too.")
    parser.add_argument("--model-kills", type=int, default=20, help="Set how often runs on --model are killed.")
    parser.add_argument("--fault", nargs="+", help="Try only these faults, such as moments or damage.")
    parser.add_argument("--seed", type=int, default=1, help="Set the seed of the moments.")
    parser.add_argument("--into", type=Path, help="Write the table into this file, between its markers.")
    args = parser.parse_args(arguments)
    options = Options(args.kills, args.model, args.model_kills, args.seed)
    names = args.fault or [name for name in (*FAULTS, DAMAGE) if name != "model" or args.model]
    for name in names:
        if name not in (*FAULTS, DAMAGE):
            raise UserError(f"--fault {name!r}: give some of {', '.join([*FAULTS, DAMAGE])}")
    rows, damage_table = try_faults(names, options)
    text = f"{format_rows(rows)}\nTried in {(time.monotonic() - start) / 60:.0f} minutes, two faults at a time.\n"
    if damage_table:
        text += f"\nHow many commands did what with each damaged file:\n\n{damage_table}"
    print(text)
    if args.into:
        write_into(args.into, text)
    sys.exit(bool(sum(row.lost for row in rows)))


if __name__ == "__main__":
    run_script(main)
