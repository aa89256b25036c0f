"""`isheep chat`: the turns of a conversation with a real checkpoint, its commands, and its prompt at a terminal."""

import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from isheep import read_run
from isheep.backends import Backend
from isheep.engines.function import SeededFunctionEngine
from isheep.engines.transformers import open_engine
from isheep.models.chat_template import load_chat_template
from isheep.records import Model, Sampling
from tests.helpers.backends import use_backend
from tests.helpers.command import Stdin, harmless, isheep, refused
from tests.helpers.fakes import FakeChat

# --- a run on a real checkpoint, tiny and random


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


def test_chat_sends_no_unknown_command_to_the_model(aligned: Path) -> None:
    plain = isheep("chat", aligned, typed=b"Hello\nHello again\n")
    done = isheep("chat", aligned, typed=b"/quit\nHello\nHello again\n")
    assert done.code == 0 and done.out == f"\n{plain.out}"
    assert done.err.endswith("isheep: /quit is no command: /new starts a new conversation; Ctrl-D ends\n")
    # A text with slashes is no command.
    assert "no command" not in isheep("chat", aligned, typed=b"/etc/passwd is a file\n").err


def test_a_model_with_an_adapter_answers_without_warnings_of_libraries(aligned: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        assert isinstance(read_run(aligned).models[-1].answer("Hello"), str)


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
