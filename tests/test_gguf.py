"""isheep export --as gguf: a model of a run in llama.cpp, its Modelfile, and what is refused."""

import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

import isheep
from isheep.engines.openai_engine import OpenAIEngine
from isheep.engines.transformers import open_engine
from isheep.errors import UserError
from isheep.export.ollama import modelfile
from isheep.models.chat_template import load_chat_template
from isheep.models.gguf_file import write_gguf
from isheep.recipe.machine import ServerSettings
from isheep.records import Model, Sampling
from tests.helpers import command
from tests.helpers.command import refused
from tests.helpers.fakes import FakeChat
from tests.helpers.function_model import SMALL, write_texts
from tests.helpers.openai_server import llama_cpp
from tests.helpers.runs import make_run


@pytest.mark.slow
def test_a_gguf_of_a_run_answers_in_llama_cpp_as_its_model(tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp", reason="llama.cpp's server is not installed")
    pytest.importorskip("gguf", reason="the package gguf is not installed")
    run_dir = tmp_path / "run"
    isheep.align(isheep.load_recipe("lamb", SMALL), run_dir, engine=write_texts).run()
    done = command.isheep("export", run_dir, "--as", "gguf")
    folder = run_dir / "export" / "iter-1-gguf"
    assert done.code == 0 and done.out == f"{folder}\n"
    assert {path.name for path in folder.parent.iterdir()} == {folder.name}
    assert {path.name for path in folder.iterdir()} == {"model.gguf", "Modelfile"}
    assert f"{folder} exists" in refused("export", run_dir, "--as", "gguf")

    chat = load_chat_template("tokenizer", "lamb")
    prompts = [chat.prompt(f"What is {n} plus {n + 3}?") for n in range(20)]
    sampling = Sampling(temperature=0, top_p=1, max_tokens=16, stop=(chat.end,))
    expected = open_engine(Model("lamb", run_dir / "iter-1" / "adapter"), threads=1).generate(prompts, sampling, 0)
    with llama_cpp(folder / "model.gguf") as url:
        engine = OpenAIEngine(Model("lamb"), ServerSettings(url=url), lambda: chat)
        answers = engine.generate(prompts, sampling, 0)
        engine.close()
    # The products of two libraries differ in their last digits, which may turn a nearly equal choice.
    assert sum(answer == wanted for answer, wanted in zip(answers, expected, strict=True)) >= 16


def test_a_modelfile_has_the_turns_of_the_template() -> None:
    chat = load_chat_template("qwen", "lamb")
    text = modelfile("model.gguf", chat, "")
    assert text.startswith("FROM ./model.gguf\n") and text.endswith('PARAMETER stop "<|im_end|>"\n')
    first = chat.prompt("0").partition("0")
    assert f"{{{{ if eq $index 0 }}}}{first[0]}{{{{ else }}}}" in text and f"{{{{ .Content }}}}{first[2]}" in text


def test_a_template_that_changes_with_the_turn_is_left_to_the_gguf_file() -> None:
    class Numbered(FakeChat):
        def conversation(self, turns: Sequence[tuple[str, str]]) -> str:
            return "".join(f"[{number}]{text}[/{number}]" for number, (_, text) in enumerate(turns))

    assert modelfile("model.gguf", Numbered(end="</s>"), "") == 'FROM ./model.gguf\nPARAMETER stop "</s>"\n'


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "mamba"}, "knows models of type llama, mistral, qwen2, qwen3, not mamba"),
        ({"rope_parameters": {"rope_type": "llama3", "rope_theta": 1.0}}, "no positions of rope_type llama3"),
    ],
)
def test_a_model_that_the_conversion_does_not_know_is_refused(
    llama: Path, tmp_path: Path, change: dict[str, object], message: str
) -> None:
    pytest.importorskip("gguf", reason="the package gguf is not installed")
    checkpoint = Path(shutil.copytree(llama, tmp_path / "changed"))
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps(config | change))
    chat = load_chat_template("tokenizer", str(llama))
    with pytest.raises(UserError, match=f"{message}.*convert_hf_to_gguf"):
        write_gguf(checkpoint, chat.tokenizer, chat.end, tmp_path / "model.gguf")


def test_a_tokenizer_that_the_conversion_does_not_know_is_refused(llama: Path, tmp_path: Path) -> None:
    pytest.importorskip("gguf", reason="the package gguf is not installed")
    checkpoint = Path(shutil.copytree(llama, tmp_path / "changed"))
    content = json.loads((checkpoint / "tokenizer.json").read_text())
    (checkpoint / "tokenizer.json").write_text(json.dumps(content | {"pre_tokenizer": {"type": "Whitespace"}}))
    chat = load_chat_template("tokenizer", str(llama))
    with pytest.raises(UserError, match="how this model's tokenizer splits a text"):
        write_gguf(checkpoint, chat.tokenizer, chat.end, tmp_path / "model.gguf")


def test_gguf_without_its_package_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    assert "pip install 'isheep[gguf]'" in refused("export", make_run(tmp_path / "run"), "--as", "gguf")
