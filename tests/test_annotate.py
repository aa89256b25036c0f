"""The annotation page over HTTP: what it shows and hides, which requests it accepts, and how answers are stored."""

import fcntl
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode, urlsplit

import pytest

from isheep import annotation
from isheep.annotation import Choice, Rating, append_annotation, mean_ratings, points_of_later, read_annotations
from isheep.annotation.server import AnnotationServer
from isheep.annotation.session import AnnotationSession, Question, answer_tasks_with, comparison_session, rating_session
from isheep.backends import Backend
from isheep.engines.function import SeededFunctionEngine
from isheep.errors import UserError
from isheep.recipe.schema import Recipe
from isheep.records import Exchange, Model, Pair, Task
from isheep.rundir.run import open_run, open_run_for_writing
from tests.helpers.command import ROOT, refused
from tests.helpers.fakes import FakeChat
from tests.helpers.rows import make_pair

ATTACK = "</div><script>document.title = 'taken'</script><img src=x onerror=alert(1)> & \"q\" {{ 7 * 7 }} \u202e مرحبا"


def attacking_pair(t: int, n: int) -> Pair:
    """Return a pair of iteration t whose texts try to break out of the page; every second one has an input."""
    text_input = "x < y" if n % 2 else ""
    return make_pair(n, f"Do {t} {n} {ATTACK}", f"Did {t} {n} {ATTACK}", input=text_input, id=f"t{t}-{n:05d}")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    with open_run_for_writing(tmp_path / "run", Recipe.model_validate({"model": "fake", "iterations": 2})) as root:
        for t in (1, 2):
            (root / f"iter-{t}").write("pairs.jsonl", Pair, [attacking_pair(t, n) for n in range(6)])
            (root / f"iter-{t}").artifact("adapter", lambda into: None)
    return tmp_path / "run"


class Reply(NamedTuple):
    status: int
    headers: dict[str, str]
    text: str


class Page:
    """A session behind its server."""

    def __init__(self, session: AnnotationSession) -> None:
        self.session, self.server = session, AnnotationServer(session, 0)
        self.host = f"127.0.0.1:{self.server.server_port}"
        self.path = urlsplit(self.server.address).path
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def ask(self, method: str, path: str | None = None, body: str | None = None, **headers: str | None) -> Reply:
        connection = http.client.HTTPConnection(self.host, timeout=30)
        sent = {name.replace("_", "-"): value for name, value in headers.items() if value is not None}
        connection.request(method, self.path if path is None else path, body, sent)
        reply = connection.getresponse()
        return Reply(reply.status, dict(reply.getheaders()), reply.read().decode())

    def look(self, query: str = "") -> Reply:
        return self.ask("GET", f"{self.path}{query}")

    def write(self, origin: str | None = "same", **fields: Any) -> Reply:
        origin = f"http://{self.host}" if origin == "same" else origin
        form = {"Content_Type": "application/x-www-form-urlencoded", "Origin": origin}
        return self.ask("POST", None, urlencode(fields), **form)


@pytest.fixture
def open_page() -> Iterator[Any]:
    opened: list[Page] = []

    def opener(session: AnnotationSession) -> Page:
        opened.append(Page(session))
        return opened[-1]

    yield opener
    for page in opened:
        page.server.shutdown()
        page.server.server_close()


def texts(reply: Reply) -> list[str]:
    """Return the texts of a page: instruction, input, answers."""
    return [unescape(text) for text in re.findall(r'<div class="text" dir="auto">(.*?)</div>', reply.text, re.DOTALL)]


# --- rating


def test_a_page_shows_the_dialogue_before_a_second_turn(tmp_path: Path, open_page: Any) -> None:
    pair = make_pair(0, "And Italy?", "Rome", history=(Exchange(f"Capital of France? {ATTACK}", "Paris"),))
    session = AnnotationSession(tmp_path / "ratings.jsonl", "me", [Question(pair, ("Rome",))], {"quality": "Good?"})
    reply = open_page(session).look()
    assert texts(reply) == [f"Capital of France? {ATTACK}", "Paris", "And Italy?", "Rome"]


def test_a_page_shows_a_pair_but_not_its_source(run: Path, open_page: Any) -> None:
    session = rating_session(run, "me", None, 12)
    page = open_page(session)
    reply = page.look()
    task = session.questions[0].task
    assert reply.status == 200 and texts(reply) == [
        t for t in (task.instruction, task.input, *session.questions[0].answers) if t
    ]
    assert "<script>document" not in reply.text and "<img" not in reply.text and "49" not in reply.text
    assert not re.search(r"t\d-\d{5}|iter|M\^", reply.text) and "0 of 12" in reply.text
    assert {question.task.id[:2] for question in session.questions[:6]} == {"t1", "t2"}
    policy = reply.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "frame-ancestors 'none'" in policy
    assert reply.headers["X-Content-Type-Options"] == "nosniff" and reply.headers["Cache-Control"] == "no-store"
    for name, kind in (("page.css", "text/css"), ("page.js", "text/javascript")):
        file = page.look(name)
        assert file.status == 200 and file.headers["Content-Type"].startswith(kind)
    assert page.look("page.html").status == page.look("../session.py").status == 404


def test_people_rate_the_criteria_of_the_iteration(tmp_path: Path) -> None:
    own = {2: {"assessment": {"criteria": ["following"]}}}
    recipe = {"model": "fake", "iterations": 2, "assessment": {"criteria": ["quality"]}, "iteration": own}
    with open_run_for_writing(tmp_path / "run", Recipe.model_validate(recipe)) as root:
        for t in (1, 2):
            (root / f"iter-{t}").write("pairs.jsonl", Pair, [attacking_pair(t, n) for n in range(6)])
    criteria = {t: [*rating_session(tmp_path / "run", "me", t, 4).criteria] for t in (1, 2, None)}
    assert criteria == {1: ["quality"], 2: ["following"], None: ["quality", "following"]}


def test_answers_are_on_disk_before_the_next_page(run: Path, open_page: Any) -> None:
    session = rating_session(run, "me", 1, 4)
    page, first, second = open_page(session), *(question.task.id for question in session.questions[:2])
    done = page.write(at=0, quality=7, following=10)
    assert done.status == 303 and done.headers["Location"] == page.path
    row = {"row": first, "by": "me", "scores": {"quality": 7, "following": 10}}
    assert [json.loads(line) for line in (run / annotation.RATINGS).read_text().splitlines()] == [row]
    assert "1 of 4" in page.look().text and texts(page.look())[0] == session.questions[1].task.instruction
    assert 'value="10" required\n          checked' in page.look("?at=0").text
    page.write(at=1, skip=1)
    page.write(at=0, quality=3, following=2)
    rows, _ = read_annotations(run / annotation.RATINGS, Rating)
    assert [(row.row, row.scores) for row in rows][1:] == [(second, None), (first, {"quality": 3, "following": 2})]
    assert mean_ratings(rows) == {first: {"quality": 3, "following": 2}}
    resumed = open_page(rating_session(run, "me", 1, 6))
    assert resumed.session.num_answered == 2 and texts(resumed.look())[0] == session.questions[2].task.instruction
    assert rating_session(run, "you", 1, 6).num_answered == 0
    for at in range(2, 6):
        resumed.write(at=at, quality=1, following=1)
    assert "All done" in resumed.look().text and "6 of 6" in resumed.look().text


WRONG: list[dict[str, Any]] = [
    {"at": 0}, {"at": 0, "quality": 7}, {"at": 0, "quality": "x", "following": 1}, {"at": 0, "chosen": "left"},
    {"at": 0, "quality": 0, "following": 1}, {"at": 0, "quality": 11, "following": 1},
    *({"at": 0, "quality": score, "following": 1} for score in ("٧", "７", "1_0", " 7", "+7", "7.0", "²")),
    {"at": 0, "quality": "9" * 5000, "following": 1}, {"at": 0, **{f"f{n}": 1 for n in range(60)}},
]  # fmt: skip


@pytest.mark.parametrize("fields", WRONG, ids=range(len(WRONG)))
def test_invalid_answers_are_not_written(run: Path, open_page: Any, fields: dict[str, Any]) -> None:
    page = open_page(rating_session(run, "me", 1, 4))
    assert page.write(**fields).status == 400
    assert not (run / "annotations").exists() and page.session.num_answered == 0


@pytest.mark.parametrize("at", ["4", "-1", "", "x", "²", "1e3", "9" * 5000])
def test_questions_that_do_not_exist(run: Path, open_page: Any, at: str) -> None:
    page = open_page(rating_session(run, "me", 1, 4))
    assert page.look(f"?{urlencode({'at': at})}").status == (200 if at == "" else 404)
    assert page.write(at=at, skip=1).status == 404 and not (run / "annotations").exists()


def test_requests_from_other_sites_and_users_are_refused(run: Path, open_page: Any) -> None:
    page = open_page(rating_session(run, "me", 1, 4))
    for origin in (None, "null", "http://evil.example", f"https://{page.host}", "http://127.0.0.1:1"):
        assert page.write(origin, at=0, skip=1).status == 403
    for path in ("*", "/", "/page.css", "/wrong/", f"/{page.server.key[:-1]}/", "/%C3%A9/"):
        assert page.ask("GET", path).status == page.ask("POST", path, "at=0&skip=1").status == 403
    for host in ("[::1", "evil.example", f"evil.example:{page.server.server_port}", "127.0.0.1.evil.example", ""):
        assert page.ask("GET", None, None, Host=host).status == 403
        own = {"Origin": f"http://{host}", "Content_Type": "application/x-www-form-urlencoded"}
        assert page.ask("POST", None, "at=0&skip=1", Host=host, **own).status == 403
    assert page.ask("GET", None, None, Host="localhost:9000").status == 200
    assert page.ask("PUT", None, "x").status == 501
    huge = page.ask("POST", None, "x" * 20_000, Origin=f"http://{page.host}")
    assert huge.status == 400 and not (run / "annotations").exists()
    assert page.server.server_address[0] == "127.0.0.1"


def test_requests_beyond_the_limits_are_refused_without_a_traceback(
    run: Path, open_page: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    page = open_page(rating_session(run, "me", 1, 4))
    origin = f"http://{page.host}"
    assert page.look("?" + "&".join(f"f{n}=1" for n in range(60))).status == 400
    for length in ("9" * 5000, "-1", "1e3", "", "²"):
        headers = {"Origin": origin, "Content_Length": length.encode().decode("latin-1")}
        assert page.ask("POST", None, None, **headers).status == 400
    for body in ("at=0&quality=%ff&following=1", "at=%00&skip=1", "&" * 9000, "at=0&skip=%ED%A0%80&at=9"):
        assert page.ask("POST", None, body, Origin=origin).status in (400, 404)
    for path in (f"{page.path}%7f", f"{page.path}%00", page.path + "a" * 60_000, f"{page.path}?at=%00"):
        assert page.ask("GET", path).status in (400, 404, 414)
    assert capfd.readouterr().err == "" and not (run / "annotations").exists()


def test_an_answer_that_can_not_be_written_is_said_on_the_page(run: Path, open_page: Any) -> None:
    page = open_page(rating_session(run, "me", 1, 4))
    (run / "annotations").write_text("in the way")
    refusal = page.write(at=0, quality=7, following=7)
    assert refusal.status == 507 and "could not be written" in refusal.text and page.session.num_answered == 0


def test_each_start_has_another_key(run: Path, open_page: Any) -> None:
    first, second = (open_page(rating_session(run, "me", 1, 4)) for _ in range(2))
    refusal = second.ask("POST", first.path, "at=0&skip=1")
    assert refusal.status == 403 and "the whole address" in refusal.text


def test_many_answers_at_once_are_whole_lines(run: Path, open_page: Any) -> None:
    page = open_page(rating_session(run, "me", None, 12))
    threads = [threading.Thread(target=lambda n=n: page.write(at=n, quality=5, following=5)) for n in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rows, num_unreadable = read_annotations(run / annotation.RATINGS, Rating)
    assert len(rows) == len({row.row for row in rows}) == 12 and num_unreadable == 0


def test_a_line_cut_off_is_skipped_and_the_next_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "annotations" / "ratings.jsonl"
    rows = [Rating(row=f"t1-{n}", by="me", scores={"quality": n + 1}) for n in range(3)]
    append_annotation(path, rows[0])
    append_annotation(path, rows[1])
    cut_off = path.read_bytes()[:-9]
    path.write_bytes(cut_off)
    append_annotation(path, rows[2])
    assert path.read_bytes().startswith(cut_off + b"\n")
    assert read_annotations(path, Rating) == ([rows[0], rows[2]], 1)


def test_ratings_are_averaged_over_the_people_who_could_say() -> None:
    answers = [("me", 4), ("you", 8), ("me", 6), ("she", None)]
    rows = [Rating(row="t1-1", by=by, scores=None if score is None else {"quality": score}) for by, score in answers]
    assert mean_ratings(rows) == {"t1-1": {"quality": 7}}


# --- choosing between two models


class Models:
    """A backend whose models name themselves in their answers, except for every third task, and are listed."""

    def __init__(self) -> None:
        self.opened: list[Model] = []
        self.backend = Backend(self.open_engine, load_chat_template=lambda name, model: CHAT)  # type: ignore[arg-type, return-value]

    def open_engine(self, recipe: Recipe, model: Model) -> SeededFunctionEngine:
        self.opened.append(model)
        source = model.adapter.parent.name if model.adapter else "base"
        return SeededFunctionEngine(
            lambda prompt, seed: "Yes." if int(prompt.split()[1]) % 3 == 0 else f"As {source} says."
        )


@pytest.fixture
def models() -> Models:
    return Models()


def compare(
    run: Path, models: Models, person: str = "me", iterations: tuple[int, int] = (0, 2), tasks: Any = None
) -> AnnotationSession:
    return comparison_session(run, person, iterations, tasks or TASKS, 30, backend=models.backend)


CHAT = FakeChat(user="", assistant="")
TASKS = [Task(id=f"seed-{n}", instruction=f"Task {n}") for n in range(30)]


def test_two_answers_in_random_order_with_their_source_hidden(run: Path, open_page: Any, models: Models) -> None:
    session = compare(run, models)
    assert [model.adapter and model.adapter.parent.name for model in models.opened] == [None, "iter-2"]
    assert len(session.questions) == 20 and {question.iterations for question in session.questions} == {(0, 2), (2, 0)}
    for question in session.questions:
        assert question.answers == tuple(f"As {'iter-2' if side else 'base'} says." for side in question.iterations)
    page = open_page(session)
    reply = page.look()
    assert texts(reply)[1:] == list(session.questions[0].answers) and "Answer A" in reply.text
    assert "seed-" not in reply.text and "quality" not in reply.text
    for at, question in enumerate(session.questions):
        # The later model is always better.
        chosen = "tie" if at == 0 else ("left", "right")[question.iterations.index(2)]
        assert page.write(at=at, chosen=chosen).status == 303
    assert page.write(at=0, chosen="both").status == page.write(at=0).status == 400
    rows, _ = read_annotations(run / annotation.CHOICES, Choice)
    # The ten tasks with the same text are ties.
    assert sorted(points_of_later(rows)[0, 2]) == [0.5] * 11 + [1.0] * 19
    assert {row.by for row in rows} == {"me", annotation.NOBODY}


def test_a_comparison_resumes_and_others_are_separate(run: Path, models: Models) -> None:
    session = compare(run, models)
    session.answer(0, {"chosen": "left"})
    before = (run / annotation.CHOICES).read_bytes()
    again = compare(run, models)
    assert compare(run, models, iterations=(2, 0)).questions == session.questions
    assert again.num_answered == 1 and again.questions == session.questions and len(models.opened) == 2
    assert (run / annotation.CHOICES).read_bytes() == before
    for iterations, tasks in (((1, 2), TASKS), ((0, 2), TASKS[:20])):
        assert compare(run, models, iterations=iterations, tasks=tasks).num_answered == 0
    assert compare(run, models, "you").num_answered == 0


def test_the_last_choice_counts_whichever_side_it_was_on() -> None:
    rows = [("left", 0, 2), ("right", 2, 0), ("left", 2, 0)]
    choices = [Choice(task="s", of="x", by="me", left=a, right=b, chosen=c) for c, a, b in rows]  # type: ignore[arg-type]
    assert points_of_later(choices[:1]) == points_of_later(choices[:2]) == {(0, 2): [0.0]}
    assert points_of_later(choices) == {(0, 2): [1.0]}


def test_errors_are_one_line(run: Path, open_page: Any) -> None:
    assert "give two different models" in refused("annotate", run, "--compare", "1", "1")
    assert "has no model of iteration 3" in refused(
        "annotate", run, "--compare", "0", "3", "--tasks", ROOT / "isheep/seeds/seed_tasks.jsonl"
    )
    same_ids = run.parent / "same-ids.jsonl"
    same_ids.write_text('{"id": "a", "instruction": "Name a colour."}\n{"id": "a", "instruction": "Name a fruit."}\n')
    line = refused("annotate", run, "--compare", "0", "1", "--tasks", same_ids)
    assert f"{same_ids}: several tasks have the same id" in line
    assert "has no pairs of iteration 7 yet" in refused("annotate", run, "--iteration", "7")
    assert "--iteration is for rating pairs" in refused("annotate", run, "--compare", "0", "1", "--iteration", "1")
    port = open_page(rating_session(run, "me", 1, 4)).server.server_port
    assert f"port {port} can't be used" in refused("annotate", run, "--port", str(port))
    recipe, folder = open_run(run)
    with (run / "lock").open("a+") as lock, pytest.raises(UserError, match="in use by another process"):
        fcntl.flock(lock, fcntl.LOCK_EX)
        answer_tasks_with(recipe, folder, 0, TASKS, "new", Models().backend)


# --- the command in a process of its own


def listen() -> None:
    """Undo that a shell lets background processes, and their children, ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def start(run: Path, *words: str) -> tuple[subprocess.Popen[str], str]:
    """Start `isheep annotate` as a process; return it and the address that it prints."""
    command = [sys.executable, "-c", "from isheep.cli import main; main()", "annotate", str(run), *words]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, preexec_fn=listen)
    assert process.stdout
    for line in process.stdout:
        if line.startswith("open "):
            return process, line.split()[1]
    raise AssertionError("the command printed no address")


def send(address: str, **fields: Any) -> int:
    url = urlsplit(address)
    connection = http.client.HTTPConnection(url.netloc, timeout=30)
    connection.request("POST", url.path, urlencode(fields), {"Origin": f"http://{url.netloc}"})
    return connection.getresponse().status


def test_a_killed_server_loses_nothing_and_ctrl_c_ends_it(run: Path) -> None:
    process, address = start(run, "--pairs", "3")
    assert send(address, at=0, quality=9, following=8) == 303
    process.kill()
    process.wait()
    assert len(read_annotations(run / annotation.RATINGS, Rating)[0]) == 1
    process, address = start(run, "--pairs", "3")
    assert send(address, at=1, skip=1) == 303
    os.kill(process.pid, signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0 and "2 of 3 answered" in out and "ratings.jsonl" in out
