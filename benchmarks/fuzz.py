"""Feed changed texts to every parser of model text, and of files that a stranger may hand over.

    python -m benchmarks.fuzz [--inputs 10000] [--seed 0] [--only NAME] [--ifeval input_data.jsonl] [--coverage]

The texts begin as right ones and are changed at random by --seed; with --coverage by atheris (pip install atheris),
which keeps changes that reach new code. A parser may raise UserError. Any other exception is a finding, as is a text
that takes 20 seconds, or that takes more than 40 times as long when it is repeated to ten times its length. The table
has a row for each parser; findings are printed below it, and the exit code is 1 if there are any.
"""

import gc
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FunctionType
from typing import Any

from benchmarks.common import make_parser, run_script
from benchmarks.fuzz_parsers import Parser, load_parsers
from isheep.errors import UserError, describe_exception, unknown_name

MOST_GROWTH, FLOOR, LONGEST = 40, 0.01, 20
# The number of characters of a changed text, and those of the shorter of the two texts that are compared.
MOST_CHARACTERS, COMPARED_CHARACTERS = 2000, 4000
# The texts of each parser that took longest, which are repeated at the end.
SLOWEST = 3
TOKENS = (
    "||", "[[", "]]", "/10", "<|im_end|>", "###", "\n1. Instruction:", "Input:", "```", "def add(", "{", "}", '"', "'",
    "null", "NaN", "1e400", "9" * 400, "9" * 5000, "-", "\0", "\x0b", "\x85", "\u2028", "\u202e", "\u200d", "\ufdd0",
    "\uffff", "\ud800", "\r", "\r\n", "\ufeff", "İ", "ß", "²", "٣", "日本", "e\u0301", "&a ", "*a", "<<: ", "!!", "- ",
    "{{", "{% for x in range(9) %}", "{%", "[" * 200, "{\"a\":" * 200, "\t", ":", "|", ">", "%", "(", ")", "\\", "true",
)  # fmt: skip


class Failure(Exception):
    """An exception that a parser may not raise."""


class Feeder:
    """Feeds texts to one parser and keeps what came of it: the number, the seconds, the slowest texts, the failures."""

    def __init__(self, name: str, parser: Parser, folder: Path) -> None:
        self.name, self.parser, self.path = name, parser, folder / "input"
        self.num_inputs, self.seconds, self.growth = 0, 0.0, 0.0
        self.slowest: list[tuple[float, str]] = []
        self.failures: dict[str, str] = {}

    def feed(self, text: str) -> None:
        """Give the parser a text, and keep the time that it takes."""
        seconds = self.time(text)
        self.num_inputs, self.seconds = self.num_inputs + 1, self.seconds + seconds
        self.slowest = sorted([*self.slowest, (seconds, text)], key=lambda entry: -entry[0])[:SLOWEST]

    def time(self, text: str) -> float:
        """Return the CPU seconds that the parser takes for a text; a failure is kept by its exception and place."""
        start = time.process_time()
        try:
            with _time_limit(LONGEST):
                self._parse(text)
        except UserError:
            pass
        # Whatever else a parser raises is a finding.
        except (Exception, RecursionError, MemoryError) as error:
            self.failures.setdefault(f"{describe_exception(error)[:100]} {_location(error)}", text)
        return time.process_time() - start

    def _parse(self, text: str) -> None:
        if not self.parser.of_file:
            # A model's text is decoded with replacement characters, so no half of a surrogate pair is in it.
            self.parser.parse(text.encode("utf-8", "replace").decode())
            return
        self.path.write_bytes(text.encode("utf-8", "surrogatepass"))
        self.parser.parse(self.path)

    def check_growth(self) -> None:
        """Compare the time of the slowest texts, repeated to one length and to ten times that length."""
        for _, text in self.slowest:
            if text:
                shorter = text * (COMPARED_CHARACTERS // len(text) + 1)
                before, after = (max(min(self.time(part), self.time(part)), FLOOR) for part in (shorter, shorter * 10))
                self.growth = max(self.growth, after / before)
                if after / before > MOST_GROWTH:
                    self.failures.setdefault(f"ten times the length takes {after / before:.0f} times as long", text)


@contextmanager
def _time_limit(seconds: int) -> Iterator[None]:
    """Raise Failure if the block takes longer."""

    def stop(*_: Any) -> None:
        raise Failure(f"no end after {seconds} seconds")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _location(error: BaseException) -> str:
    """Return the file and line of this project that an exception comes from."""
    location, trace = "", error.__traceback__
    while trace:
        path = trace.tb_frame.f_code.co_filename
        if "isheep" in path:
            location = f"{path.rpartition('isheep')[2].lstrip(os.sep)} line {trace.tb_lineno}"
        trace = trace.tb_next
    return f"({location})"


# --- changes


def mutate(rng: random.Random, text: str, other_text: str) -> str:
    """Return a text with one to five changes."""
    for _ in range(rng.randint(1, 5)):
        start, end = sorted(rng.randint(0, len(text)) for _ in range(2))
        token = rng.choice(TOKENS)
        inner = rng.choice(
            (
                "",
                text[start:end] * rng.randint(2, 9),
                token,
                token + text[start:end],
                token * rng.randint(1, 300),
                chr(rng.choice((rng.randrange(128), rng.randrange(0xD800), rng.randrange(0xE000, 0x110000)))),
                other_text[rng.randint(0, len(other_text)) :],
                text[start:end][::-1],
            )
        )
        text = (text[:start] + inner + text[end:])[:MOST_CHARACTERS]
    return text


def feed_at_random(feeders: Sequence[Feeder], num_inputs: int, seed: int) -> None:
    """Feed each parser its share of the inputs. Half of the texts come from earlier changed ones."""
    for number, feeder in enumerate(feeders):
        rng = random.Random(f"{seed} {feeder.name}")
        pool = list(feeder.parser.examples)
        share = num_inputs // len(feeders) + (number < num_inputs % len(feeders))
        for _ in range(share):
            text = mutate(rng, rng.choice(pool), rng.choice(pool))
            feeder.feed(text)
            if rng.random() < 0.5:
                kept = rng.randrange(len(feeder.parser.examples), 200)
                pool[kept : kept + 1] = [text]


def feed_by_coverage(feeders: Sequence[Feeder], num_inputs: int, seed: int, finish: Callable[[], int]) -> None:
    """Let atheris choose the texts; the first byte of its data chooses the parser. Ends the process."""
    import atheris

    def feed(data: bytes) -> None:
        if data:
            feeders[data[0] % len(feeders)].feed(data[1:].decode("utf-8", "replace"))
        if sum(feeder.num_inputs for feeder in feeders) >= num_inputs:
            code = finish()
            sys.stdout.flush()
            # libFuzzer has no way to return.
            os._exit(code)

    with tempfile.TemporaryDirectory() as corpus:
        for number, feeder in enumerate(feeders):
            for index, text in enumerate(feeder.parser.examples):
                content = bytes([number]) + text.encode("utf-8", "surrogatepass")
                (Path(corpus) / f"{number}-{index}").write_bytes(content)
        for function in _functions_of_isheep():
            atheris.instrument_func(function)
        atheris.Setup(["fuzz", corpus, f"-seed={seed + 1}", f"-max_len={MOST_CHARACTERS}", "-verbosity=0"], feed)
        atheris.Fuzz()


def _functions_of_isheep() -> list[FunctionType]:
    """Return all functions and methods of isheep that are loaded."""
    functions = (value for value in gc.get_objects() if isinstance(value, FunctionType))
    return [function for function in functions if str(function.__module__).startswith("isheep.")]


# --- results


def report(feeders: Sequence[Feeder]) -> int:
    """Print the table and the findings. Returns the exit code."""
    for feeder in feeders:
        feeder.check_growth()
    print(
        "| parser | inputs | inputs per CPU second | slowest input, ms | growth for ten times the length | findings |"
    )
    print("|---|---|---|---|---|---|")
    for feeder in feeders:
        slowest = max((seconds for seconds, _ in feeder.slowest), default=0.0)
        rate = feeder.num_inputs / max(feeder.seconds, 1e-9)
        cells = (feeder.name, feeder.num_inputs, f"{rate:,.0f}", f"{1000 * slowest:.0f}", f"{feeder.growth:.1f}")
        print(f"| {' | '.join(map(str, cells))} | {len(feeder.failures) or 'none'} |")
    print(f"\n{sum(feeder.num_inputs for feeder in feeders)} inputs")
    for feeder in feeders:
        for failure, text in feeder.failures.items():
            print(f"{feeder.name}: {failure}\n  {text[:2000]!r}")
    return int(any(feeder.failures for feeder in feeders))


def main(argv: Sequence[str] | None = None) -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--inputs", type=int, default=10_000, help="of all parsers together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help="the name of one parser")
    parser.add_argument("--ifeval", type=Path, help="IFEval's input_data.jsonl, for its 25 checks")
    parser.add_argument("--coverage", action="store_true", help="let atheris choose the texts")
    args = parser.parse_args(argv)
    parsers = load_parsers(args.ifeval)
    if args.only is not None and args.only not in parsers:
        raise UserError(unknown_name("parser", args.only, parsers))
    names = [args.only] if args.only else list(parsers)
    with tempfile.TemporaryDirectory() as folder:
        feeders = [Feeder(name, parsers[name], Path(folder)) for name in names]
        if args.coverage:
            feed_by_coverage(feeders, args.inputs, args.seed, lambda: report(feeders))
        feed_at_random(feeders, args.inputs, args.seed)
        sys.exit(report(feeders))


if __name__ == "__main__":
    run_script(main)
