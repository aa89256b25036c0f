"""Not a test: servers on loopback. llama.cpp's with a GGUF of lamb, and one of our own that does what vLLM's does.

python openai_server.py GGUF: llama.cpp's server in a process of its own; it prints its address and ends with its input.
"""

import contextlib
import json
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

from isheep.engines.transformers import TransformersEngine, open_engine
from isheep.records import Completion, Model, Sampling


@contextlib.contextmanager
def llama_cpp(gguf: Path) -> Iterator[str]:
    """The address of llama.cpp's server on that file."""
    process = subprocess.Popen(
        [sys.executable, __file__, str(gguf)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    assert process.stdout and process.stdin
    try:
        address = next((line for line in process.stdout if line.startswith("http")), "")
        assert address, "llama.cpp's server did not start"
        yield f"{address.strip()}/v1"
    finally:
        process.stdin.close()
        process.wait(60)


def serve_gguf(gguf: str) -> None:
    import xllamacpp

    settings = xllamacpp.CommonParams()
    settings.model.path, settings.model_alias = gguf, "lamb"
    settings.n_parallel, settings.n_ctx, settings.n_threads_http = 4, 4 * 1024, 6
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = 1
    settings.port = 0  # any that is free
    server = xllamacpp.Server(settings)
    print(server.listening_address, flush=True)
    sys.stdin.read()


class Refusal(Exception):
    """A status and a body instead of an answer; status 0: the connection is closed without a word."""

    def __init__(
        self, status: int, body: bytes = b'{"error": {"message": "no"}}', content_type: str = "application/json"
    ) -> None:
        self.status, self.body, self.content_type = status, body, content_type


class Fake(NamedTuple):
    """What our own server is like; each answer may be spoiled by `fault(n-th request for completions)`."""

    base: str
    strict: bool = False  # text prompts and OpenAI's own parameters only
    logprobs: bool = True
    draws: bool = True
    seeded: bool = True
    loras: bool = True
    structured: bool = False  # vLLM's structured_outputs
    answers_as: str = ""  # the model's name in answers, if another than was asked for
    models: Refusal | None = None  # the answer to a request for the list of models
    fault: Callable[[int], Refusal | None] = lambda n: None


KNOWN = {
    "model", "prompt", "max_tokens", "temperature", "top_p", "seed", "stop", "logprobs", "echo", "presence_penalty",
    "messages", "top_logprobs",
}  # fmt: skip


class Served:
    """A model behind OpenAI's interface, one request at a time."""

    def __init__(self, fake: Fake) -> None:
        self.fake, self.lock, self.url = fake, threading.Lock(), ""
        self.loaded: dict[str, TransformersEngine] = {"base": open_engine(Model(fake.base), threads=1, device="cpu")}
        self.bodies: list[dict[str, Any]] = []
        self.headers: set[str | None] = set()
        self.answered = Counter[str]()  # prompt and seed, of what was answered
        self.unloaded: list[str] = []
        self.chance = 0

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        if path.endswith("lora_adapter"):
            return self.lora(path, body)
        self.bodies.append(body)
        if spoiled := self.fake.fault(len(self.bodies)):
            raise spoiled
        if body["model"] not in self.loaded:
            raise Refusal(404, b'{"error": {"message": "no such model"}}')
        engine = self.loaded[body["model"]]
        if path.endswith("chat/completions"):
            return self.chat(engine, body)
        prompt = body["prompt"]
        if self.fake.strict and (body.keys() - KNOWN or not isinstance(prompt, str)):
            raise Refusal(422, b'{"detail": "unexpected"}')
        tokenizer = engine.loaded.tokenizer
        ids = engine._prompt_ids([prompt])[0] if isinstance(prompt, str) else prompt
        choice: dict[str, Any] = {"index": 0, "logprobs": None}
        written = self.write(engine, tokenizer.decode(ids), body)
        if self.fake.logprobs and body.get("logprobs") is not None:
            choice["logprobs"] = self.legacy(engine, ids, body)
        self.answered[json.dumps([prompt, body.get("seed")])] += 1
        choice |= {"text": written.text, "finish_reason": written.finish}
        return {
            "model": self.fake.answers_as or body["model"],
            "choices": [choice],
            "usage": {"prompt_tokens": len(ids), "completion_tokens": written.tokens},
        }

    def write(self, engine: TransformersEngine, text: str, body: dict[str, Any]) -> Any:
        self.chance += 1
        if self.fake.structured and "structured_outputs" in body:
            allowed = body["structured_outputs"]["choice"]
            return Completion(allowed[body.get("seed", 0) % len(allowed)], 2, "stop")
        sampling = Sampling(
            temperature=body["temperature"] if self.fake.draws else 0,
            top_p=body.get("top_p", 1.0),
            max_tokens=body["max_tokens"],
            stop=tuple(body.get("stop", ())),
        )
        return engine.generate([text], sampling, body.get("seed", 0) if self.fake.seeded else self.chance)[0]

    def first(self, engine: TransformersEngine, ids: list[int], count: int) -> list[tuple[int, float]]:
        import torch

        with torch.inference_mode():
            row = engine.loaded.model(torch.tensor([ids])).logits[0, -1].float().log_softmax(-1).topk(count)
        return list(zip(row.indices.tolist(), row.values.tolist(), strict=True))

    def read(self, engine: TransformersEngine, ids: list[int]) -> list[float]:
        """The log-probability of each token after the first one, given those before it."""
        import torch

        with torch.inference_mode():
            rows = engine.loaded.model(torch.tensor([ids])).logits[0].float().log_softmax(-1)
        return [float(row[token]) for row, token in zip(rows[:-1], ids[1:], strict=True)]

    def legacy(self, engine: TransformersEngine, ids: list[int], body: dict[str, Any]) -> dict[str, Any]:
        """{tokens, token_logprobs, top_logprobs}; with echo the prompt's tokens first, the first one unknown."""
        decode = engine.loaded.tokenizer.decode
        best = self.first(engine, ids, body["logprobs"])
        tokens, values = [decode([best[0][0]])], [best[0][1]]
        tops: list[Any] = [{decode([token]): value for token, value in best}]
        if body.get("echo"):
            tokens = [decode([token]) for token in ids] + tokens
            values = [None, *self.read(engine, ids), *values]  # type: ignore[list-item]
            tops = [None] * len(ids) + tops
        return {"tokens": tokens, "token_logprobs": values, "top_logprobs": tops}

    def chat(self, engine: TransformersEngine, body: dict[str, Any]) -> dict[str, Any]:
        text = engine.loaded.tokenizer.apply_chat_template(body["messages"], tokenize=False, add_generation_prompt=True)
        written = self.write(engine, text, body)
        choice: dict[str, Any] = {"index": 0, "finish_reason": written.finish}
        choice["message"] = {"role": "assistant", "content": written.text}
        if self.fake.logprobs and body.get("logprobs"):
            best = self.first(engine, engine._prompt_ids([text])[0], body["top_logprobs"])
            entries = [{"token": engine.loaded.tokenizer.decode([token]), "logprob": value} for token, value in best]
            choice["logprobs"] = {"content": [{**entries[0], "top_logprobs": entries}]}
        return {"choices": [choice]}

    def lora(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        if not self.fake.loras:
            raise Refusal(404, b'{"detail": "Not Found"}')
        if not body.get("lora_name"):
            raise Refusal(400, b'{"error": {"message": "lora_name must be given"}}')
        if "unload" in path:
            self.unloaded.append(body["lora_name"])
            del self.loaded[body["lora_name"]]
        else:
            model = Model(self.fake.base, Path(body["lora_path"]))
            self.loaded[body["lora_name"]] = open_engine(model, threads=1, device="cpu")
        return {}


@contextlib.contextmanager
def serving(fake: Fake) -> Iterator[Served]:
    served = Served(fake)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            if spoiled := fake.models:
                self.send(spoiled.status, spoiled.body, spoiled.content_type)
            else:
                self.send(200, json.dumps({"data": [{"id": name} for name in served.loaded]}).encode())

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            try:
                with served.lock:
                    served.headers.add(self.headers["authorization"])
                    answer = served.post(self.path, body)
                self.send(200, json.dumps(answer).encode())
            except Refusal as refusal:
                if refusal.status:
                    self.send(refusal.status, refusal.body, refusal.content_type)
                else:
                    self.close_connection = True

        def send(self, status: int, content: bytes, content_type: str = "application/json") -> None:
            with contextlib.suppress(OSError):  # who asked may be gone
                self.send_response(status)
                self.send_header("content-type", content_type)
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

        def log_message(self, *words: Any) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    served.url = f"http://127.0.0.1:{http.server_port}/v1"
    thread = threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield served
    finally:
        http.shutdown()
        http.server_close()
        thread.join()


if __name__ == "__main__":
    serve_gguf(sys.argv[1])
