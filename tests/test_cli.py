"""The command line: every command, on run folders that a real run or a test made."""

import errno
import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from isheep import __version__
from isheep.backends import Backend
from isheep.cli import COMMANDS, machine_report
from isheep.cli.recipe_choice import choose_recipe
from isheep.engines.function import SeededFunctionEngine
from isheep.engines.transformers import open_engine
from isheep.lamb.pretrain import PretrainSettings
from isheep.models.chat_template import load_chat_template
from isheep.recipe import loading
from isheep.recipe.schema import Recipe
from isheep.records import AssessedPair, Drop, Grade, Model, Pair, Rejected, Reply, Sampling, Task
from isheep.rundir.run import open_run_for_writing
from isheep.stages.filters import find_drops
from tests.helpers.backends import use_backend
from tests.helpers.checkpoints import make_checkpoint
from tests.helpers.command import ROOT, Done, Stdin, isheep, refused
from tests.helpers.fakes import FakeChat
from tests.helpers.hashes import hash_files

RECIPE = """
model: {model}
iterations: 1
synthesis:  {{tasks: 4, examples: 1, rules: false, novelty: null, batch_size: 4,
             sampling: {{max_tokens: 64, stop: [e]}}}}
response:   {{batch_size: 2, sampling: {{max_tokens: 8}}}}
assessment: {{batch_size: 2, sampling: {{max_tokens: 4}}}}
filters:    []
training:   {{epochs: 1, batch_size: 2, cutoff: 128, warmup_steps: 0, learning_rate: 0.05}}
machine:    {{threads: 1, device: cpu}}
"""


# --- a run on a real checkpoint, tiny and random


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its context holds the synthesis prompt."""
    folder = tmp_path_factory.mktemp("base") / "qwen2"
    return make_checkpoint(folder, "Qwen2", max_position_embeddings=1024)


@pytest.fixture(scope="module")
def recipe(base: Path) -> Path:
    path = base.with_name("tiny.yaml")
    path.write_text(RECIPE.format(model=base))
    return path


@pytest.fixture(scope="module")
def aligned(recipe: Path) -> Path:
    """A finished run folder; tests that change it copy it."""
    run = recipe.with_name("run")
    done = isheep("run", recipe, "--out", run)
    assert done.code == 0 and f"adapter  {run}/iter-1/adapter" in done.out
    return run


@pytest.fixture
def copied(aligned: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(aligned, tmp_path / "run"))


def test_status_of_a_finished_run(aligned: Path) -> None:
    done = isheep("status", aligned, "--full")
    assert done.code == 0 and "1 of 1 iterations are trained" in done.out
    assert "4 (100%)" in done.out and "instructions" in done.out and "training" in done.out
    assert "in progress" not in done.out and "to continue" not in done.out


@pytest.mark.numeric
@pytest.mark.parametrize("words", [(), ("--iteration", "1"), ("--iteration", "0")])
def test_chat_answers_the_turns_of_a_conversation(aligned: Path, base: Path, words: tuple[str, ...]) -> None:
    lines = ["What is 12 plus 30?", "A dog says"]
    done = isheep("chat", aligned, *words, typed=f"{lines[0]}\n\n  {lines[1]}\n/new\n{lines[1]}".encode())
    chat = load_chat_template("tokenizer", str(base))
    model = Model(str(base), None if "0" in words else aligned / "iter-1" / "adapter")
    engine = open_engine(model, threads=1, device="cpu")
    sampling = Sampling(temperature=0, max_tokens=8, stop=(chat.end,))
    [first] = engine.generate([chat.prompt(lines[0])], sampling, 0)
    turns = [("user", lines[0]), ("assistant", first.text.strip()), ("user", lines[1])]
    expected = [first, *engine.generate([chat.conversation(turns), chat.prompt(lines[1])], sampling, 0)]
    assert done.code == 0 and done.out == "".join(f"{harmless(answer.text.strip())}\n" for answer in expected)


def harmless(text: str) -> str:
    """A second way to say it, for what byte-level tokens can decode to."""
    assert all(char.isprintable() or ord(char) < 0xA0 for char in text)
    return "".join(char if char.isprintable() or char in "\n\t" else f"\\x{ord(char):02x}" for char in text)


@pytest.mark.numeric
def test_chat_draws_the_same_noise_again(aligned: Path) -> None:
    words = ("chat", aligned, "--temperature", "1.0")
    first, again, greedy = (isheep(*arguments, typed=b"Say something\n") for arguments in (words, words, words[:2]))
    assert first == again and first.out != greedy.out


def test_chat_survives_bytes_that_are_no_text(aligned: Path) -> None:
    assert isheep("chat", aligned, typed=b"Capital of \xff\xfe France\n").code == 0


def test_chat_says_when_the_context_is_full(aligned: Path) -> None:
    """The context has 1024 tokens: the second line leaves too few of them, the third is in a new conversation."""
    line = "Say it again. " * 200
    done = isheep("chat", aligned, typed=f"Hello\n{line}\n/new\nHello\n".encode())
    first, second, third = done.out.split("\n")[:3]
    assert done.code == 0 and first == third and second == ""
    assert done.err.endswith("isheep: the conversation fills the model's context: /new starts a new one\n")
    assert "does not fit" in refused("chat", aligned, typed=line.encode())


def test_chat_wants_a_model_that_is_there(aligned: Path) -> None:
    for t in ("2", "-1"):
        assert f"has no model of iteration {t}: give 0 (the base) to 1" in refused("chat", aligned, "--iteration", t)


# --- chat at a prompt, on a fake engine


@pytest.fixture
def at_a_prompt(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What a person types, line by line; "^C" interrupts, the end is Ctrl-D."""
    typed: list[str] = []

    def ask(prompt: str = "") -> str:
        line = typed.pop(0) if typed else "^D"
        if line in ("^C", "^D"):
            raise KeyboardInterrupt if line == "^C" else EOFError
        return line

    monkeypatch.setattr("builtins.input", ask)
    engine, chat = SeededFunctionEngine(lambda p, seed: f"{p}? [red]\x1b[2J"), FakeChat(user="", assistant="")
    backend = Backend(lambda recipe, model: engine, load_chat_template=lambda name, model: chat)  # type: ignore[arg-type, return-value]
    use_backend(monkeypatch, backend)
    monkeypatch.setattr(Stdin, "terminal", True)
    yield typed


@pytest.mark.parametrize("end", ["^C", "^D"])
def test_chat_at_a_prompt_ends_cleanly(at_a_prompt: list[str], graded: Path, end: str) -> None:
    at_a_prompt += ["hello", " ", "/new", "well", "and", end]
    done = isheep("chat", graded)
    assert done.code == 0 and done.err == ""
    heading, *answers = done.out.splitlines()
    assert "base" in heading and "/new" in heading
    # The fake engine repeats the prompt, and stops at the first end token.
    assert answers == [f"{text}? [red]\\x1b[2J" for text in ("hello", "well")] + ["wellwell? [red]\\x1b[2J"]


# --- a run folder made by hand: pairs in every quadrant, one with text that attacks a terminal

ATTACK = "[bold red]x[/bold red] [/nope] \x1b[2J\x1b]0;title\x07 \u202egnorw\r \ud83d\udc11 :smile: end".encode(
    "utf-16", "surrogatepass"
).decode("utf-16")
SCORES: dict[str, tuple[float | None, float | None]] = {
    "t1-00000": (9, 9), "t1-00001": (3, 8.5), "t1-00002": (8, 2), "t1-00003": (1, 1), "t1-00004": (None, 9),
}  # fmt: skip


def assessed(name: str) -> AssessedPair:
    quality, following = SCORES[name]
    grades = {
        "quality": Grade(score=quality, reply=f"{quality}||{ATTACK}"),
        "following": Grade(score=following, reply=f"{following}||fine"),
    }
    return AssessedPair(
        id=name, instruction=f"Do {name}", output=ATTACK, finish="length", tokens=3, seed=1, grades=grades
    )


@pytest.fixture
def graded(tmp_path: Path) -> Path:
    """One iteration up to its filter, two more pairs than tasks in the second, and training that has saved step 3."""
    recipe = Recipe.model_validate({"model": "fake", "iterations": 2})
    run = tmp_path / "graded"
    with open_run_for_writing(run, recipe) as root:
        rows = [assessed(name) for name in SCORES]
        first, second = root / "iter-1", root / "iter-2"
        first.write("tasks.jsonl", Task, [Task(id=row.id, instruction=row.instruction) for row in rows])
        first.write("rejected.jsonl", Rejected, [Rejected(id="t1-b0001-00.2", text=ATTACK, by="parse", why="cut off")])
        first.write("pairs.jsonl", Pair, [Pair(**row.model_dump(exclude={"grades"})) for row in rows])
        first.write("assessed.jsonl", AssessedPair, rows)
        first.write("dropped.jsonl", Drop, find_drops(rows, recipe.filters, True, ["<|end|>"]))
        root.notify("iteration 1: all 5 prompts of synthesis.budget are used")
        (first.path / "adapter.part" / "checkpoint-3").mkdir(parents=True)
        second.write("tasks.jsonl", Task, [Task(id="t2-00000", instruction="Go on")])
        (second.path / "pairs.jsonl.part").write_bytes(b'{"whole": 1}\n{"to')
    return run


def ids(done: Done) -> list[str]:
    assert done.code == 0, done.err
    return [line.split()[0] for line in done.out.splitlines() if line.startswith("t1-")]


def test_status_of_a_run_that_is_not_done(graded: Path) -> None:
    output = isheep("status", graded).out
    assert "1 (20%)" in output and "unreadable ratings" in output
    assert "in progress: iter-1/adapter, saved at step 3, last written" in output
    assert "in progress: iter-2/pairs.jsonl, 1 of 1 rows, last written" in output
    assert output.count("all 5 prompts of synthesis.budget are used") == 1
    assert f"0 of 2 iterations are trained; to continue: isheep run {graded}" in output


def test_status_says_where_time_is_of_the_last_try(graded: Path) -> None:
    with (graded / "run.jsonl").open("a") as log:
        for file, num_made in (
            ("iter-1/pairs.jsonl", 2),
            ("iter-1/eval/lamb.json", None),
            ("base/eval/lamb.json", None),
        ):
            counts = {"rows": 5, "made": num_made} if num_made else {}
            log.write(json.dumps({"file": file, "seconds": 12.34, **counts}) + "\n")
        log.write('3\nnull\n{"file": "torn')
    assert "12.3" not in isheep("status", graded).out
    output = isheep("status", graded, "--full").out
    assert "> 12.3" in output and "only its last try is counted" in output and "evaluation" in output


def test_status_counts_the_seconds_of_an_evaluation_once(graded: Path) -> None:
    """A benchmark's result takes as long as all that it is made of; what an earlier try made comes on top."""
    with (graded / "run.jsonl").open("a") as log:
        for time, file, seconds in (
            (100, "base/eval/mt_bench/turn-1.jsonl", 40), (300, "base/eval/mt_bench/turn-2.jsonl", 20),
            (310, "base/eval/mt_bench.json", 30), (400, "base/eval/paper/piqa/losses.jsonl", 3),
            (401, "base/eval/paper/piqa.json", 4), (500, "base/eval/ifeval/answers.jsonl", 1),
        ):  # fmt: skip
            log.write(json.dumps({"time": time, "file": file, "seconds": seconds}) + "\n")
    # 40 of a try that was stopped; 30; 4; and 1 of one in progress.
    assert "75.0" in isheep("status", graded, "--full").out


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("", "01234"),
        ("--quality low --following high", "1"),
        ("--quality high --following low", "2"),
        ("--quality high --following high", "0"),
        ("--quality low --following low", "3"),
        ("--quality unreadable", "4"),
        ("--following high", "014"),
        ("--following high --at 8.6", "04"),
        ("--quality low --at 1", ""),
        ("--dropped --quality low", "13"),
        ("--rows 2", "01"),
        ("--rows 2 --page 3", "4"),
    ],
)
def test_show_finds_the_quadrants(graded: Path, words: str, expected: str) -> None:
    assert ids(isheep("show", graded, "1", *words.split())) == [f"t1-0000{n}" for n in expected]


def test_show_dropped_says_who_and_why(graded: Path) -> None:
    done = isheep("show", graded, "1", "--dropped")
    assert ids(done) == [*list(SCORES)[1:], "t1-b0001-00.2"]
    assert done.out.startswith("5 rows, page 1 of 1; dropped by score: 4; rejected by parse: 1\n")
    assert "t1-00001  dropped by score: quality 3 < 8\n" in done.out
    assert "t1-00004  dropped by score: quality unreadable\n" in done.out
    assert "t1-b0001-00.2  rejected by parse: cut off\n" in done.out


def test_show_dropped_says_so_if_every_pair_was_kept(graded: Path) -> None:
    (graded / "iter-1" / "dropped.jsonl").write_text("")
    done = isheep("show", graded, "1", "--dropped")
    assert done.out.startswith("no pair was dropped\n1 row, page 1 of 1; rejected by parse: 1\n")


def test_show_as_json(graded: Path) -> None:
    page = json.loads(isheep("show", graded, "1", "--dropped", "--rows", "2", "--page", "3", "--json").out)
    assert (page["num_rows"], page["page"], page["num_pages"]) == (5, 3, 3)
    [row] = page["rows"]
    assert row["id"] == "t1-b0001-00.2" and row["outcome"] == "rejected" and row["why"] == "cut off"
    rows = json.loads(isheep("show", graded, "1", "--json").out)["rows"]
    assert [row["outcome"] for row in rows] == ["kept", *["dropped"] * 4] and rows[1]["why"] == "quality 3 < 8"
    assert rows[0]["output"] == ATTACK and rows[4]["grades"]["quality"]["score"] is None
    assert "there is no page 2" in refused("show", graded, "1", "--json", "--page", "2")


def test_show_dropped_shows_the_replies_of_a_synthesis_that_failed(graded: Path) -> None:
    """None of the replies held a task: the file is not complete, and the last line of it is torn."""
    replies = [
        Reply(id="t2-b0000-00", text=" I can't\x1b[2J", finish="stop", tokens=3),
        Reply(id="t2-b0000-01", text="", finish="stop", tokens=1),
        Reply(
            id="t2-b0000-02",
            text=" Draw a large house for me\nInput: <noinput>\n###\n7. Instr",
            finish="length",
            tokens=9,
        ),
    ]
    for name in ("tasks.jsonl", "pairs.jsonl.part"):
        (graded / "iter-2" / name).unlink()
    content = "".join(f"{reply.model_dump_json()}\n" for reply in replies)
    (graded / "iter-2" / "replies.jsonl.part").write_text(f"{content}{{")
    done = isheep("show", graded, "2", "--dropped")
    assert "I can't\\x1b[2J" in done.out and "t2-b0000-01  rejected by parse: empty\n" in done.out
    assert "Draw a large house" in done.out and "rejected by rules: 2; rejected by parse: 2" in done.out
    assert "has no answers of iteration 2 yet" in refused("show", graded, "2")


def test_long_output_goes_through_a_pager_on_a_terminal(graded: Path, tmp_path: Path) -> None:
    pager = tmp_path / "pager"
    pager.write_text(f"#!/bin/sh\ncat > {tmp_path}/seen\n")
    pager.chmod(0o755)
    code = "import pty, sys; sys.exit(pty.spawn(sys.argv[1:]) >> 8)"
    command = [
        sys.executable,
        "-c",
        code,
        sys.executable,
        "-c",
        "from isheep.cli import main; main()",
        "show",
        graded,
        "1",
    ]
    environment = {**os.environ, "PAGER": str(pager), "LINES": "10", "TERM": "xterm", "PYTHONPATH": str(ROOT)}

    def show(*words: str) -> str:
        done = subprocess.run([*command, *words], env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0
        return done.stdout

    assert "t1-00000" not in show() and "t1-00000" in (tmp_path / "seen").read_text()
    (tmp_path / "seen").unlink()
    # A short page, and --no-pager.
    assert "t1-00000" in show("--rows", "1") and "t1-00003" in show("--no-pager")
    assert not (tmp_path / "seen").exists()


def test_model_text_cannot_touch_the_terminal(graded: Path) -> None:
    for words in ((), ("--dropped",)):
        output = isheep("show", graded, "1", *words).out
        assert r"[bold red]x[/bold red] [/nope] \x1b[2J\x1b]0;title\x07 \u202egnorw\r 🐑 :smile: end" in output
        assert all(char.isprintable() or char in "\n" for char in output)


def test_show_says_what_was_cut_off_and_kept(graded: Path) -> None:
    output = isheep("show", graded, "1", "--quality", "high", "--following", "high").out
    assert "t1-00000  kept\n  instruction: Do t1-00000\n  output (cut off): [bold" in output
    assert "  following 9: fine\n" in output


@pytest.mark.parametrize(
    ("words", "wrong"),
    [
        (("show", "2"), "has no answers of iteration 2 yet: see isheep status"),
        (("show", "0"), "has no answers of iteration 0 yet"),
        (("show", "1", "--page", "4"), "there is no page 4: 5 rows make 1 page"),
        (("chat", "--iteration", "1"), "has no model of iteration 1: give 0 (the base)"),
    ],
)
def test_what_is_not_there_is_said(graded: Path, words: tuple[str, ...], wrong: str) -> None:
    assert wrong in refused(words[0], graded, *words[1:])


def test_show_without_ratings_or_threshold(tmp_path: Path) -> None:
    fields = {"id": "t1-00000", "instruction": "Do it", "output": "", "finish": "stop", "tokens": 1, "seed": 1}
    for name, more in (("unrated", {"assessment": None, "filters": []}), ("unfiltered", {"filters": []})):
        with open_run_for_writing(tmp_path / name, Recipe.model_validate({"model": "fake", **more})) as run:
            (run / "iter-1").write("pairs.jsonl", Pair, [Pair.model_validate(fields)])
    assert "t1-00000  not filtered yet\n" in isheep("show", tmp_path / "unrated", "1").out
    words = ("1", "--quality", "low")
    assert "quality is not rated in this run: its criteria are none" in refused("show", tmp_path / "unrated", *words)
    assert "no filter of this run has a threshold for quality" in refused("show", tmp_path / "unfiltered", *words)


def test_a_closed_pipe_is_no_error(graded: Path) -> None:
    command = f"{sys.executable} -c 'from isheep.cli import main; main()' show {graded} 1 | true"
    done = subprocess.run(["sh", "-c", command], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert "Traceback" not in done.stderr


# --- bad input: one line, exit code 2, and what was made stays as it is


@pytest.mark.parametrize("command", [("status",), ("show", "1"), ("chat",), ("export", "--as", "alpaca")])
def test_a_folder_that_is_no_run(tmp_path: Path, command: tuple[str, ...]) -> None:
    assert "is not a run folder: it has no recipe.yaml" in refused(command[0], tmp_path, *command[1:])
    assert not hash_files(tmp_path)


@pytest.mark.parametrize(
    ("words", "wrong"),
    [
        (["training.epoch=1"], "unknown key 'epoch' in training: did you mean 'epochs'?"),
        (["training.epochs=two"], "training.epochs: input should be a valid integer; found 'two'"),
        (["seed_tasks=nowhere.jsonl"], "seed tasks nowhere.jsonl: no such file"),
        (["seed_tasks=bad.jsonl"], "seed tasks bad.jsonl, line 2: the instruction is missing or empty"),
        (["seed_tasks=torn.jsonl"], "seed tasks torn.jsonl, line 2: not JSON"),
        (["model=./empty"], "model './empty' is no checkpoint"),
        (["model=./nowhere"], "model './nowhere' not found"),
        (["machine.device=gpu"], "machine.device 'gpu' is not on this machine: take cpu"),
        (["machine.device=cuda:99"], "machine.device 'cuda:99' is not on this machine: take cpu"),
        (["machine.rows_per_process=3"], "machine.rows_per_process: 3 does not divide training.batch_size 2"),
        (["model=./untold"], "the tokenizer of './untold' has no chat template: set chat to qwen or llama3"),
    ],
)
def test_a_run_that_cannot_be(
    base: Path, recipe: Path, words: list[str], wrong: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.jsonl").write_text('{"instruction": "Do it"}\n{"instruction": ""}\n')
    (tmp_path / "torn.jsonl").write_text('{"instruction": "Do it"}\n{"instr\n')
    (tmp_path / "empty").mkdir()
    (shutil.copytree(base, tmp_path / "untold") / "chat_template.jinja").unlink()
    contents = hash_files(tmp_path)
    assert wrong in refused("run", recipe, *words, "--out", "out")
    assert hash_files(tmp_path) == contents


def test_a_device_without_memory_is_one_line(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    def full(*arguments: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3 GiB.\nAnd much more.")

    use_backend(monkeypatch, Backend(train=full))
    done = isheep("run", recipe, "--out", tmp_path / "out")
    line = done.err.splitlines()[-1]
    assert done.code == 2 and line.startswith("isheep: out of memory on the device")
    assert (
        "Tried to allocate 3 GiB" in line
        and "lower machine.engine_batch_size" in line
        and "machine.rows_per_process" in line
    )


def test_a_run_folder_of_another_recipe(recipe: Path, aligned: Path) -> None:
    contents = hash_files(aligned)
    assert "training.epochs: 1 -> 3" in refused("run", recipe, "training.epochs=3", "--out", aligned)
    assert hash_files(aligned) == contents


def test_a_locked_run_folder(recipe: Path, aligned: Path) -> None:
    contents = hash_files(aligned)
    with (aligned / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "is in use by another process" in refused("run", recipe, "--out", aligned)
        assert isheep("status", aligned).code == 0
    assert hash_files(aligned) == contents


def test_a_run_folder_is_continued_with_its_own_recipe(recipe: Path, copied: Path, aligned: Path) -> None:
    for words in ((copied,), ("--out", copied), (copied, "--out", copied, "machine.threads=1")):
        (copied / "iter-1" / "assessed.jsonl").unlink()
        assert isheep("run", *words).code == 0
        assert hash_files(copied) == hash_files(aligned)


def test_a_complete_run_says_that_there_is_nothing_to_do(copied: Path) -> None:
    assert isheep("run", copied).err.splitlines() == ["this run is complete: nothing to do"]
    (copied / "iter-1" / "assessed.jsonl").unlink()
    assert "nothing to do" not in isheep("run", copied).err


def test_iterations_of_a_run_folder_may_grow(copied: Path) -> None:
    assert isheep("run", copied, "iterations=2").code == 0
    assert (copied / "iter-2" / "adapter").is_dir()
    assert "2 of 2 iterations are trained" in isheep("status", copied).out


@pytest.mark.parametrize(
    ("words", "wrong"),
    [
        (("RUN", "training.epochs=3"), "training.epochs: 1 -> 3"),
        (("--out", "RUN", "training.epochs=3"), "training.epochs: 1 -> 3"),
        (("RUN", "--out", "other"), "is a run folder, which continues in place"),
        (("RUN", "--model", "lamb"), "is a run folder, which continues in place"),
        (("RUN", "--seeds", "2"), "is a single run folder: give another --out"),
        (("RUN/iter-1",), "is not a run folder: it has no recipe.yaml; name a recipe, or a run folder"),
    ],
)
def test_a_run_folder_that_cannot_be_continued_so(aligned: Path, words: tuple[str, ...], wrong: str) -> None:
    contents = hash_files(aligned)
    assert wrong in refused("run", *(word.replace("RUN", str(aligned)) for word in words))
    assert hash_files(aligned) == contents


def test_a_folder_with_the_name_of_a_recipe_does_not_hide_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lamb").mkdir()
    monkeypatch.chdir(tmp_path)
    assert choose_recipe("lamb", None, None).path == loading.find_recipe("lamb")


@pytest.mark.parametrize("command", ["run", "status", "show"])
def test_a_corrupt_line_in_a_finished_file(recipe: Path, copied: Path, command: str) -> None:
    file = copied / "iter-1" / "pairs.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join([lines[0], lines[1][:20] + b"\n", *lines[2:]]))
    (copied / "iter-1" / "assessed.jsonl").unlink()
    contents = hash_files(copied)
    words = {"run": (recipe, "--out", copied), "status": (copied,), "show": (copied, "1")}[command]
    assert f"{file} line 2: not a Pair row" in refused(command, *words)
    assert hash_files(copied) == contents


def test_a_recipe_of_a_run_that_was_damaged(copied: Path) -> None:
    (copied / "recipe.yaml").write_text("model: [")
    assert "recipe.yaml line 1: not YAML" in refused("status", copied)


@pytest.mark.parametrize("call", [1, 3])
def test_a_full_disk_keeps_what_was_made(
    recipe: Path, copied: Path, aligned: Path, call: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full at the n-th time that data have to reach it, while answers and ratings are written again."""
    for name in ("pairs.jsonl", "assessed.jsonl"):
        (copied / "iter-1" / name).unlink()
    contents, fsync, calls = hash_files(copied), os.fsync, iter(range(1, 100))

    def full(handle: int) -> None:
        if next(calls) == call:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(handle)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        done = isheep("run", recipe, "--out", copied)
    assert done.code == 2 and done.err.splitlines()[-1].startswith("isheep: no space left on the device")
    new_contents = hash_files(copied)
    assert {name: new_contents[name] for name in contents} == contents
    assert isheep("run", copied / "recipe.yaml", "--out", copied).code == 0  # the way on that status names
    assert hash_files(copied) == hash_files(aligned)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 300 KB, where this user may mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=300k", "none", str(disk)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_disk_that_is_really_full(recipe: Path, aligned: Path, small_disk: Path) -> None:
    """It is full in the middle of a checkpoint of the training, which torch says in words of its own."""
    run = Path(shutil.copytree(aligned, small_disk / "run", ignore=shutil.ignore_patterns("adapter")))
    contents = hash_files(run)
    done = isheep("run", recipe, "--out", run)
    assert done.code == 2 and "no space left on the device" in done.err.splitlines()[-1]
    new_contents = hash_files(run)
    assert {name: new_contents[name] for name in contents} == contents
    subprocess.run(["mount", "-o", "remount,size=2m", str(small_disk)], check=True)
    assert isheep("run", recipe, "--out", run).code == 0
    assert hash_files(run) == hash_files(aligned)


# --- the machine, and lamb


def test_doctor_says_what_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    done = isheep("doctor")
    lines = {line.split()[0]: line for line in done.out.splitlines()}
    assert done.code == 0 and {"python", "torch", "device", "cores", "memory", "disk", "[eval]", "[dev]"} <= set(lines)
    assert "GiB free of" in lines["memory"] and "pytest" in lines["[dev]"]


def test_doctor_names_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_report, "PACKAGES", ("isheep", "no-such-package"))
    monkeypatch.setattr(machine_report, "extras", lambda: {"eval": ("no-such-extra", "IFEval")})
    done = isheep("doctor")
    assert done.code == 2 and "no-such-package missing" in done.out
    assert "IFEval: not installed (pip install 'isheep[eval]')" in done.out
    assert "isheep: a required package is missing" in done.err


def test_doctor_reads_the_limits_of_a_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    (tmp_path / "memory.max").write_text(f"{2**31}\n")
    monkeypatch.setattr(machine_report, "CGROUP", tmp_path)
    assert "limited to the time of 1.5" in machine_report.describe_cores()
    assert "limited to 2.0 GiB" in machine_report.describe_memory()


def test_lamb_commands_reach_their_functions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, base: Path) -> None:
    calls: list[object] = []
    monkeypatch.setattr("isheep.lamb.pretrain.pretrain", lambda *arguments: calls.append(arguments))
    monkeypatch.setattr("isheep.lamb.probe.probe", lambda path: {"greedy": {"right": 0.5}, "auroc": {"off": 0.25}})
    assert isheep("lamb", "pretrain", "--out", tmp_path, "--tokens", "40e6").code == 0
    assert calls == [(tmp_path, PretrainSettings(40_000_000, workers=2))]
    output = isheep("lamb", "probe", base).out.splitlines()
    assert [line.split() for line in output] == [["greedy", "right", "0.500"], ["auroc", "off", "0.250"]]
    assert "model './nowhere' not found" in refused("lamb", "probe", "./nowhere")


COMMAND_LINES = [*((name,) for name in COMMANDS), ("lamb", "pretrain"), ("lamb", "probe"), ()]


@pytest.mark.parametrize("words", COMMAND_LINES, ids=" ".join)
def test_help_says_everything_on_a_narrow_screen(words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    done = isheep(*words, "--help")
    assert done == isheep(*words, "-h") and done.code == 0
    lines = done.out.splitlines()
    assert max(map(len, lines)) <= 80
    assert not [line for line in lines if line.endswith("...") and not line.startswith("Usage:")]


def test_help_lists_every_command_in_a_sentence() -> None:
    commands = isheep("--help").out.partition("Commands:\n")[2].splitlines()
    assert [line.split()[0] for line in commands] == list(COMMANDS)
    assert all(line.endswith(".") for line in commands)


def test_the_version() -> None:
    assert isheep("--version") == Done(0, f"isheep {__version__}\n", "")


def test_shell_completion_offers_recipes() -> None:
    command = [sys.executable, "-c", "from isheep.cli import main; main()"]
    variables = {"_ISHEEP_COMPLETE": "complete_bash", "COMP_WORDS": "isheep run paper/qwen1.5-7", "COMP_CWORD": "2"}
    done = subprocess.run(
        [*command[:2], "import sys; sys.argv = ['isheep']; from isheep.cli import main; main()"],
        env={**os.environ, **variables}, cwd=ROOT, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.stdout.split() == ["paper/qwen1.5-72b", "paper/qwen1.5-72b-above-8", "paper/qwen1.5-7b"]


@pytest.mark.parametrize(("words", "code"), [(["run"], 2), (["run", "--help"], 0), (["--version"], 0), (["--help"], 0)])
def test_other_operating_systems_get_one_line(words: list[str], code: int) -> None:
    """Also where the modules fcntl and resource do not exist, as on Windows."""
    script = "import sys, typer; from pydantic import Field; sys.platform = 'darwin'\n"
    script += "sys.modules['fcntl'] = sys.modules['resource'] = None\n"
    script += f"from isheep.cli import main; main({words})"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == code, done.stderr
    assert code == 0 or "isheep runs on Linux, and this is darwin: use WSL 2" in done.stderr
    assert done.stderr.count("\n") == (1 if code else 0)


# --- recipes


def test_recipes_fit_on_a_screen() -> None:
    done = isheep("recipes")
    lines = done.out.splitlines()
    assert done.code == 0 and len(lines) <= 30 and max(map(len, lines)) <= 80
    listed = set(done.out.replace(",", " ").split())
    for name in loading.recipe_names():
        assert {name, name.partition("/")[2]} & listed, name


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("density", ["lamb/density", "lamb/density-perplexity", "paper/density", "paper/density-perplexity"]),
        ("FIGURE 2A", ["lamb/thresholds", "paper/thresholds"]),
    ],
)
def test_recipes_by_a_word_of_name_or_title(word: str, expected: list[str]) -> None:
    values = json.loads(isheep("recipes", word, "--json").out)
    assert sorted(value["name"] for value in values) == expected
    output = isheep("recipes", word).out
    assert all(name in output for name in expected)


def test_no_recipe_has_the_word() -> None:
    assert "no recipe has 'densities' in its name or title" in refused("recipes", "densities")


def test_recipes_as_json_name_their_commands() -> None:
    values = {value["name"]: value for value in json.loads(isheep("recipes", "--json").out)}
    assert sorted(values) == loading.recipe_names()
    assert values["paper/table2"]["command"] == "isheep sweep paper/table2"
    assert values["lamb/stop"]["command"] == "isheep run lamb/stop" and values["lamb/stop"]["group"] == "lamb"
    assert values["paper/size-matched"]["group"] == "controls"


# --- export


@pytest.mark.parametrize("form", ["alpaca", "sharegpt", "messages", "paper"])
def test_export_writes_what_was_kept(graded: Path, form: str) -> None:
    done = isheep("export", graded, "--as", form)
    file = graded / "export" / f"iter-1.{form}.json"
    assert done == Done(0, f"{file}: 1 kept pairs (not trained on yet)\n", "")
    [row] = json.loads(file.read_text())
    assert "Do t1-00000" in json.dumps(row) and row.get("quality_score") == (9 if form == "paper" else None)


def test_export_to_a_file(aligned: Path, tmp_path: Path) -> None:
    assert isheep("export", aligned, "--as", "alpaca", "--iteration", "1", "--out", tmp_path / "d.json").code == 0
    rows = json.loads((tmp_path / "d.json").read_text())
    training_rows = json.loads((aligned / "iter-1" / "train.json").read_text())
    assert [{key: row[key] for key in rows[0]} for row in training_rows] == rows


def test_export_of_the_rows_that_were_trained_on(copied: Path) -> None:
    done = isheep("export", copied, "--as", "alpaca")
    assert done.out.endswith("iter-1.alpaca.json: 4 kept pairs (3 of them were trained on, 1 held out)\n")
    done = isheep("export", copied, "--as", "paper", "--rows", "trained")
    assert done.out.endswith("iter-1.trained.paper.json: 3 rows that were trained on, of 4 kept pairs\n")
    rows = json.loads((copied / "export" / "iter-1.trained.paper.json").read_text())
    kept = [row["instruction"] for row in json.loads((copied / "iter-1" / "train.json").read_text())]
    indices = [kept.index(row["instruction"]) for row in rows]
    assert len(indices) == 3 and indices == sorted(set(indices)) and "quality_score" in rows[0]
    assert "leave out --rows trained" in refused("export", copied, "--as", "llamafactory", "--rows", "trained")
    (copied / "iter-1" / "train.json").write_text("[]")
    assert "train.json" in refused("export", copied, "--as", "alpaca", "--rows", "trained")


def test_export_merged_is_a_checkpoint_of_its_own(aligned: Path, tmp_path: Path) -> None:
    out = tmp_path / "merged"
    assert isheep("export", aligned, "--merged", "--out", out) == Done(0, f"{out}\n", "")
    chat, sampling = load_chat_template("tokenizer", str(out)), Sampling(temperature=0, max_tokens=8)
    answer = open_engine(Model(str(out)), threads=1, device="cpu").generate([chat.prompt("A dog says")], sampling, 0)
    assert f"{harmless(answer[0].text.strip())}\n" == isheep("chat", aligned, typed=b"A dog says").out
    assert f"{out} exists" in refused("export", aligned, "--merged", "--out", out)


@pytest.mark.parametrize(
    ("words", "wrong"),
    [
        ((), "give one of --as alpaca|sharegpt|messages|paper|llamafactory|gguf, --adapter and --merged"),
        (("--as", "paper", "--merged"), "give one of --as"),
        (("--as", "paper", "--iteration", "2"), "has no data of iteration 2 yet"),
        (("--as", "paper", "--iteration", "0"), "has no data of iteration 0 yet"),
        (("--merged",), "the base has no adapter to export"),
        (("--merged", "--rows", "kept"), "--rows is for data"),
        (("--as", "alpaca", "--rows", "trained"), "iteration 1 is not trained yet"),
        (("--as", "alpaca", "--out", "taken/data.json"), "taken: File exists"),
    ],
)
def test_export_of_what_is_not_there(
    graded: Path, words: tuple[str, ...], wrong: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").write_text("a file")
    contents = hash_files(tmp_path)
    assert wrong in refused("export", graded, *words)
    assert hash_files(tmp_path) == contents
