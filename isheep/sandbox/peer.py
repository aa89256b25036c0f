"""What a sandboxed process does once it is isolated: it serves a program, or it runs tests on a program elsewhere.

The program that a model wrote runs in one process, its tests in another one, and both exchange plain values as lines of
JSON (values.py). The process of the program knows no expected value, and has no channel on which a verdict could be
written.
"""

import builtins
import json
import os
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from isheep.sandbox.values import Opaque, decode, encode, name_of, to_line

# Bytes of one line that another process writes.
MAX_LINE = 2**26


class Lines:
    """Lines that are read from a descriptor as they arrive."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor, self.parts = descriptor, list[bytes]()

    def read(self) -> bytes | None:
        """Return the next line without its end; None at the end. Raises ValueError if a line is too long."""
        size = 0
        while True:
            if self.parts:
                line, end, after = self.parts[-1].partition(b"\n")
                if end:
                    line = b"".join([*self.parts[:-1], line])
                    self.parts = [after]
                    return line
            chunk = os.read(self.descriptor, 2**16)
            if not chunk:
                return None
            self.parts.append(chunk)
            size += len(chunk)
            if size > MAX_LINE:
                raise ValueError("a line is too long")


def write_all(descriptor: int, data: bytes) -> None:
    """Write to a pipe, which may take less than it is given."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


# --- the process of the program


def run(program: str) -> tuple[ModuleType | None, dict[str, Any]]:
    """Run a program as the module "program". Return the module, or None and a message with the exception's name and
    text."""
    # Dataclasses look up the module of their class.
    module = sys.modules["program"] = ModuleType("program")
    try:
        exec(compile(program, "program", "exec"), module.__dict__)
    except BaseException as error:
        return None, error_message(error)
    return module, {}


def error_message(error: BaseException) -> dict[str, Any]:
    """Return the message that an exception was raised: its name and text."""
    try:
        text = str(error)[:1000]
    except BaseException:
        text = ""
    return {"error": [name_of(type(error)), text]}


def answer_calls(program: str, name: str, requests: int, out: int) -> None:
    """Call the program's function `name` with each list of arguments that arrives, and write each value.

    A first line says that the program is loaded. The parent measures how long the calls compute, and gives the next
    arguments only after the reply, so that no call's work can be done in another one's time. The first exception ends
    the calls.
    """
    write, to_text, stop, read_json, lines = write_all, to_line, BaseException, json.loads, Lines(requests)
    module, failure = run(program)
    if module is None:
        return write(out, to_text(failure))
    if name not in module.__dict__:
        return write(out, to_text(error_message(NameError(f"name {name!r} is not defined"))))
    function = module.__dict__[name]
    write(out, to_text({"loaded": True}))
    while (request := lines.read()) is not None:
        try:
            line = to_text({}, function(*read_json(request)))
        except stop as error:
            return write(out, to_text(error_message(error)))
        write(out, line)


class Server:
    """Answers requests about the values of a program. Values that are not plain stay here, under their number."""

    def __init__(self) -> None:
        self.values: list[Any] = []

    def keep(self, value: Any) -> dict[str, Any]:
        """Return the tag of a value that stays here."""
        self.values.append(value)
        return {"remote": len(self.values) - 1}

    def answer(self, request: dict[str, Any]) -> Any:
        """Return the value that a request asks for."""
        match request:
            case {"run": program}:
                module, failure = run(program)
                if module is None:
                    raise Failed(failure)
                self.values.append(module)
                return None
            case {"name": name}:
                if name not in self.values[0].__dict__:
                    raise NameError(f"name {name!r} is not defined")
                return self.values[0].__dict__[name]
            case {"call": index, "arguments": arguments, "keywords": keywords}:
                return self.values[index](*self.decode(arguments), **self.decode(keywords))
            case {"get": index, "attribute": name}:
                return getattr(self.values[index], name)
            case {"set": index, "attribute": name, "to": value}:
                return setattr(self.values[index], name, self.decode(value))
            case {"iterate": index}:
                return list(self.values[index])
        raise ValueError("no such request")

    def decode(self, data: Any) -> Any:
        return decode(data, self.values.__getitem__)


class Failed(Exception):
    """A program ended with an exception, of which `message` tells."""

    def __init__(self, message: dict[str, Any]) -> None:
        self.message = message


def serve(requests: int, replies: int) -> None:
    """Answer the requests that arrive on one descriptor, on the other one, until they end."""
    lines, server, write, to_text, read_json = Lines(requests), Server(), write_all, to_line, json.loads
    stop, failed, describe = BaseException, Failed, error_message
    while (line := lines.read()) is not None:
        try:
            reply = to_text({}, server.answer(read_json(line)), server.keep)
        except failed as failure:
            reply = to_text(failure.message)
        except stop as error:
            reply = to_text(describe(error))
        write(replies, reply)


# --- the process of the tests


# Exceptions of a program that the tests never see as what they are: two end a loop, two take more than a text.
NEVER_RAISED = (StopIteration, StopAsyncIteration, UnicodeError, ExceptionGroup)


class ProgramError(Exception):
    """The program raised an exception that is not a built-in one; `name` is that of its type."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(text)
        self.name = name


class Client:
    """Asks the process of the program. `lost` says that it ended, or that it answered with what is no reply."""

    def __init__(self, requests: int, replies: int) -> None:
        self.requests, self.lines, self.lost = requests, Lines(replies), False

    def ask(self, request: dict[str, Any]) -> Any:
        """Return the value of the reply. Raises the program's exception, and EOFError if there is no reply."""
        try:
            write_all(self.requests, json.dumps(request).encode() + b"\n")
            line = self.lines.read()
            reply = json.loads(line or b"")
            if "error" not in reply:
                return decode(reply["value"], lambda index: Remote(self, int(index)))
            name, text = map(str, reply["error"])
        except Exception:
            self.lost = True
            raise EOFError("the program gave no answer") from None
        raise self._exception(name, text)

    @staticmethod
    def _exception(name: str, text: str) -> Exception:
        """Return the program's exception. Those that end a loop without an error are never raised here."""
        kind = getattr(builtins, name, None)
        if not isinstance(kind, type) or not issubclass(kind, Exception) or issubclass(kind, NEVER_RAISED):
            return ProgramError(name, text)
        return kind(text)


class Remote(Opaque):
    """Stands for a value that stays in the process of the program: it can be called, iterated, and has attributes."""

    def __init__(self, client: Client, index: int) -> None:
        self.__dict__.update(_client=client, _index=index)

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        request = {"call": self._index, "arguments": encode(list(arguments), _keep_remote)}
        return self._client.ask({**request, "keywords": encode(keywords, _keep_remote)})

    def __getattr__(self, name: str) -> Any:
        return self._client.ask({"get": self._index, "attribute": name})

    def __setattr__(self, name: str, value: Any) -> None:
        self._client.ask({"set": self._index, "attribute": name, "to": encode(value, _keep_remote)})

    def __iter__(self) -> Iterator[Any]:
        return iter(self._client.ask({"iterate": self._index}))


def _keep_remote(value: Any) -> dict[str, Any]:
    if type(value) is not Remote:
        raise TypeError(f"a test gives a {type(value).__name__} to the program, and only plain values can be given")
    return {"remote": value.__dict__["_index"]}


def test(program: str, setup: str, names: list[str], tests: str, requests: int, replies: int) -> dict[str, Any]:
    """Run tests on a program that runs in another process. Return {"passed": True}, or why it does not pass.

    `setup` is code that the tests need, which runs before them here. `names` are those that the program defines.
    """
    client = Client(requests, replies)
    module = sys.modules["tests"] = ModuleType("tests")
    try:
        client.ask({"run": program})
        exec(compile(setup, "setup", "exec"), module.__dict__)
        module.__dict__.update({name: client.ask({"name": name}) for name in names})
        exec(compile(tests, "tests", "exec"), module.__dict__)
    except ProgramError as error:
        return {"error": [error.name, str(error)]}
    except BaseException as error:
        return {"lost": True} if client.lost else error_message(error)
    return {"lost": True} if client.lost else {"passed": True}
