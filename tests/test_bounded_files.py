"""Files that a stranger may hand over and that ask for too much: each is refused in one line, in little memory."""

import gzip
import io
import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from isheep.benchmarks.support.alpaca_evaluators import load_evaluator
from isheep.errors import UserError
from isheep.files.json_files import parse_json, read_values
from isheep.files.reading import MAX_BYTES, read_bytes, read_small_text
from isheep.files.yaml_files import dump_yaml, parse_yaml
from isheep.models.adapter_check import check_adapter
from isheep.models.checkpoint import load_tokenizer
from isheep.models.declared_sizes import check_model_size
from isheep.models.template_limits import find_excess
from isheep.models.tokenization import encode, prompt_ids
from isheep.prompts.jinja_syntax import find_syntax_error
from isheep.recipe.packaged import PACKAGED_MODELS
from tests.helpers.command import ROOT, refused
from tests.helpers.copies import copy_writable

LETTERS = "abcdefghi"
BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n" for before, name in zip(LETTERS, LETTERS[1:], strict=False)
)
MERGE_BOMB = "a: &a {k: v}\n" + "".join(
    f"{name}: &{name} {{<<: [{', '.join([f'*{before}'] * 10)}]}}\n"
    for before, name in zip(LETTERS, LETTERS[1:], strict=False)
)
# Bytes of address space beyond what the command line has when it begins, and seconds of computing.
ROOM, SECONDS = 2**29, 120

LIMITED = f"""
import json, resource, sys
import psutil
from tests.helpers.command import isheep as run_command
from isheep.evaluation import judgment_files
size = psutil.Process().memory_info().vms + {ROOM}
resource.setrlimit(resource.RLIMIT_AS, (size, size))
resource.setrlimit(resource.RLIMIT_CPU, ({SECONDS}, {SECONDS}))
for words in json.load(sys.stdin):
    done = run_command(*words)
    print(json.dumps([done.code, done.err]))
"""


def refused_in_little_memory(commands: list[list[str]]) -> list[str]:
    """Return the one line that each command prints in a process with little room."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    process = subprocess.run(
        [sys.executable, "-c", LIMITED], input=json.dumps(commands), capture_output=True, text=True, env=environment
    )
    assert process.returncode == 0, process.stderr[-2000:]
    outcomes = [json.loads(line) for line in process.stdout.splitlines()]
    assert len(outcomes) == len(commands)
    for code, err in outcomes:
        assert code == 2 and err.count("\n") == 1 and err.startswith("isheep: "), err
    return [err for _, err in outcomes]


def gzipped(piece: bytes, repeats: int) -> bytes:
    """Return `piece`, repeated, as a gzipped file, without the whole content in memory."""
    buffer = io.BytesIO()
    with gzip.GzipFile(fileobj=buffer, mode="wb", mtime=0) as file:
        for _ in range(repeats):
            file.write(piece)
    return buffer.getvalue()


def test_bombs_are_refused_in_little_memory(tmp_path: Path) -> None:
    contents: dict[str, bytes] = {
        "recipe.yaml": BOMB.encode(),
        "merge.yaml": MERGE_BOMB.encode(),
        "prompts.yaml": BOMB.encode(),
        "rows.jsonl": gzipped(b"[" * 2**20, 300),
        "seeds.jsonl": gzipped(b'{"instruction": "a"}\n' * 10**5, 300),
        "deep.json": b'{"a":' * 10**5,
        "large.jinja": b"x" * 2**22,
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    paths = {name: str(tmp_path / name) for name in contents}
    flow_bomb = f"[&a [x, x, x, x, x, x, x, x, x, x], {BOMB.partition(chr(10))[2].replace(chr(10), ', ')}]"
    commands = {
        f"{paths['recipe.yaml']} line": ["run", paths["recipe.yaml"]],
        f"{paths['merge.yaml']} line": ["run", paths["merge.yaml"]],
        f"{paths['prompts.yaml']} line": ["run", "lamb", f"assessment.prompt={paths['prompts.yaml']}"],
        "more than 50000 values": ["run", "lamb", "evaluation=[{name: mt_bench, judge: *a}]".replace("*a", flow_bomb)],
        "MiB unpacked": ["scores", paths["rows.jsonl"]],
        f"{paths['seeds.jsonl']}: has more than": ["run", "lamb", f"seed_tasks={paths['seeds.jsonl']}"],
        "not JSON that can be read": ["scores", paths["deep.json"]],
        "has more than 1 MiB": ["run", "lamb", f"chat_template={paths['large.jinja']}"],
    }
    lines = refused_in_little_memory([[*words] for words in commands.values()])
    assert [part for part, line in zip(commands, lines, strict=True) if part not in line] == [], lines


# --- YAML


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (BOMB, "line 5: more than 50000 values, with those that aliases stand for"),
        (MERGE_BOMB, "more than 50000 values"),
        ("[" * 5000, "line 1: nested too deeply"),
        ("- " * 5000, "line 1: nested too deeply"),
        ("- &a0 [1]\n" + "".join(f"- &a{n + 1} [*a{n}]\n" for n in range(100)), "nested too deeply"),
        ("a: &a {b: *a}", "line 1: an alias that contains itself"),
        ("[" + "1, " * 60_000 + "]", "more than 50000 values"),
        ("a: &a " + "x" * 300_000 + "\nb: [" + "*a, " * 99 + "]", "characters, with those that aliases stand for"),
        ("a: " + "9" * 5000, "line 1: a number of 5000 characters"),
        ("a: !!timestamp 2024-99-99", "not YAML: month must be in 1..12"),
        ("? [a]\n: b", "line 1: not YAML: found unhashable key"),
    ],
    ids=lambda value: value[:12],
)
def test_yaml_beyond_a_limit_is_refused(text: str, problem: str) -> None:
    with pytest.raises(UserError) as error:
        parse_yaml(text, "mine.yaml")
    assert str(error.value).startswith("mine.yaml") and problem in str(error.value)


def test_yaml_with_a_few_aliases_is_read_as_ever() -> None:
    text = "base: &base {a: 1, b: [x, y]}\nother: {<<: *base, b: *base}\nwide: [*base, *base]\n"
    assert parse_yaml(text, "mine.yaml") == yaml.safe_load(text)


def test_plain_values_are_those_of_yaml_1_2() -> None:
    texts = [
        "1:30",
        "0200",
        "1_0",
        "0b1",
        "0o7",
        "no",
        "on",
        "Yes",
        "OFF",
        "2024-01-01",
        "1:30.5",
        "_1",
        "1e",
        "=",
        "+",
    ]
    assert parse_yaml(f"[{', '.join(texts)}]", "mine.yaml") == texts
    values = [1, -7, 0, 255, 5e-5, 1.5e5, 0.5, 10.0, math.inf, True, False, None]
    assert parse_yaml("[1, -7, 0, 0xff, 5e-5, 1.5e5, .5, 10., .inf, True, false, ~]", "mine.yaml") == values
    # What is written is read as the same values, here and by PyYAML.
    for value in (*texts, *values, "5e-5", "1.5e5", "true", "~", "", "<<", "12"):
        text = dump_yaml({"a": value, "b": [value]})
        assert parse_yaml(text, "mine.yaml") == yaml.safe_load(text) == {"a": value, "b": [value]}


def test_every_yaml_text_is_read_within_the_limits() -> None:
    """No other module calls a reader of PyYAML."""
    readers = ("yaml.load", "yaml.safe_load", "yaml.compose", "yaml.parse(", "yaml.scan", "yaml.SafeLoader")
    files = {path for path in (ROOT / "isheep").rglob("*.py") if any(word in path.read_text() for word in readers)}
    assert files == {ROOT / "isheep" / "files" / "yaml_files.py"}


def test_the_configuration_of_a_judge_is_bounded(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "configs.yaml").write_text(BOMB)
    with pytest.raises(UserError, match=r"configs\.yaml line 5: more than 50000 values"):
        load_evaluator(tmp_path, "mine")


# --- JSON and bytes


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[" * 101 + "]" * 101, "more than 100 lists and objects inside one another"),
        ('{"a":' * 101 + "1" + "}" * 101, "more than 100 lists and objects inside one another"),
        ("9" * 1001, "a number of 1001 digits"),
        ('{"a": 1, "a": 2}', "occurs twice"),
    ],
    ids=["lists", "objects", "digits", "keys"],
)
def test_json_beyond_a_limit_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_json(text)
    (tmp_path / "rows.jsonl").write_text(f"{{}}\n{text}\n")
    with pytest.raises(UserError, match=rf"rows\.jsonl line 2: not JSON that can be read: .*{reason}"):
        read_values(tmp_path / "rows.jsonl")


def test_json_at_the_limits_is_read() -> None:
    assert parse_json("9" * 1000) == int("9" * 1000)
    assert parse_json("[" * 100 + "]" * 100) is not None


def test_a_device_without_an_end_and_a_large_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="/dev/zero: has more than 2 MiB; give a smaller file"):
        read_bytes(Path("/dev/zero"), 2**21)
    with (tmp_path / "large.jsonl").open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    assert "large.jsonl: has more than 256 MiB" in refused("scores", tmp_path / "large.jsonl")


@pytest.mark.parametrize("read", [read_bytes, read_small_text])
def test_a_path_that_can_not_be_opened_is_refused(tmp_path: Path, read: Any) -> None:
    for path in (tmp_path, tmp_path / "nowhere", Path("a\0b"), tmp_path / ("a" * 5000)):
        with pytest.raises(UserError, match="can't be read"):
            read(path)


def test_a_parquet_file_that_stands_for_more_is_refused(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    from isheep.benchmarks.support.data_files import read_rows

    wide = pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * 400, pyarrow.int32()), ["x" * 2**20])
    parquet.write_table(pyarrow.table({"question": wide}), tmp_path / "wide.parquet")
    nulls = pyarrow.table({"question": pyarrow.nulls(2_000_001)})
    parquet.write_table(nulls, tmp_path / "many.parquet")
    assert (tmp_path / "wide.parquet").stat().st_size < 2**22
    with pytest.raises(UserError, match=r"wide\.parquet: has more than 256 MiB unpacked"):
        read_rows(tmp_path / "wide.parquet")
    with pytest.raises(UserError, match=r"many\.parquet: has 2000001 rows; at most 2000000 are read"):
        read_rows(tmp_path / "many.parquet")
    parquet.write_table(pyarrow.table({"question": ["a", "b"]}), tmp_path / "small.parquet")
    assert read_rows(tmp_path / "small.parquet") == [{"question": "a"}, {"question": "b"}]


# --- templates


TEMPLATES = {
    "{{ 'x' * 10**10 }}": "needs more than 1 GiB of memory",
    "{{ '{:3000000000}'.format(1) }}": "needs more than 1 GiB of memory",
    "{{ 'x' * 10**7 }}": "writes more than 1048576 characters",
    "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}": "for more than 10 seconds",
}


@pytest.mark.parametrize("template", list(TEMPLATES)[:3])
def test_a_template_that_takes_too_much_memory_is_refused(template: str) -> None:
    assert TEMPLATES[template] in str(find_excess(template, {"bos_token": "<s>"}))


@pytest.mark.slow
def test_a_template_without_an_end_is_refused() -> None:
    assert TEMPLATES[list(TEMPLATES)[3]] in str(find_excess(list(TEMPLATES)[3], {}))


def test_a_recipe_with_such_a_template_is_refused(tmp_path: Path) -> None:
    template = tmp_path / "mine.jinja"
    template.write_text("{{ 'x' * 10**10 }}{{ messages }}")
    line = refused("run", "lamb", f"chat_template={template}", "--out", tmp_path / "out")
    assert "needs more than 1 GiB of memory for a short dialogue" in line


def test_usual_templates_are_within_the_limits() -> None:
    plain = "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}{% endfor %}"
    refusing = "{{ raise_exception('no') }}"
    block = "{% generation %}{{ messages[0].content }}{% endgeneration %}{{ strftime_now('%Y') }}{{ 1 | tojson }}"
    assert [find_excess(text, {"bos_token": "<s>"}) for text in (plain, refusing, block)] == [None, None, None]


@pytest.mark.parametrize("expression", ["(" * 5000 + "1" + ")" * 5000, "9" * 5000])
def test_a_template_that_can_not_be_compiled_is_refused(expression: str) -> None:
    assert find_syntax_error(f"{{{{ {expression} }}}}")


# --- what small files declare


@pytest.fixture
def adapter(tmp_path: Path) -> Iterator[Path]:
    """The folder of an adapter with rank 4."""
    import numpy as np
    from safetensors.numpy import save_file

    save_file({"q.lora_A.weight": np.zeros((4, 16), np.float32)}, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4, "lora_alpha": 8}))
    yield tmp_path


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ({"r": 10**9}, "r is 1000000000, and adapter_model.safetensors has no matrix of that rank"),
        ({"r": 4, "rank_pattern": {"q": 10**9}}, "q is 1000000000"),
        ({"r": 4, "rank_pattern": 7}, "rank_pattern is '7'"),
        ({"r": 0}, "r is 0"),
        ({"r": "4"}, "r is '4'"),
        ([], r"an object is needed, found \[\]"),
    ],
)
def test_a_rank_that_the_weights_do_not_have_is_refused(adapter: Path, config: Any, problem: str) -> None:
    check_adapter(adapter)
    content = {"lora_alpha": 8, **config} if isinstance(config, dict) else config
    (adapter / "adapter_config.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=problem):
        check_adapter(adapter)


def test_shapes_beyond_a_file_of_weights_are_refused(adapter: Path) -> None:
    header = json.dumps({"a": {"dtype": "F32", "shape": [2**20, 2**20], "data_offsets": [0, 2**42]}}).encode()
    (adapter / "adapter_model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(UserError, match=r"adapter_model\.safetensors: can't be read as safetensors: .*; give"):
        check_adapter(adapter)


@pytest.mark.parametrize("key", ["num_hidden_layers", "hidden_size", "vocab_size"])
def test_a_model_that_declares_more_than_its_weights_is_refused(tmp_path: Path, key: str) -> None:
    from transformers import AutoConfig

    base = tmp_path / "base"
    copy_writable(PACKAGED_MODELS["lamb"], base)
    check_model_size(AutoConfig.from_pretrained(base), "base", base)
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, key: 10**8}))
    with pytest.raises(UserError, match=rf"model 'base': config\.json says {key} 100000000, and its weights are"):
        check_model_size(AutoConfig.from_pretrained(base), "base", base)


def test_a_tokenizer_whose_expression_takes_too_many_steps_gives_up_in_one_line(tmp_path: Path) -> None:
    base = tmp_path / "base"
    copy_writable(PACKAGED_MODELS["lamb"], base)
    content = json.loads((base / "tokenizer.json").read_text())
    expression = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}
    (base / "tokenizer.json").write_text(json.dumps({**content, "pre_tokenizer": expression}))
    tokenizer = load_tokenizer(str(base))
    for read in (lambda text: encode(tokenizer, text), lambda text: prompt_ids(tokenizer, [text])):
        with pytest.raises(UserError, match="the tokenizer gives up on a text: .*retry-limit"):
            read("a" * 40 + "!")


def test_a_recipe_without_an_end_is_refused() -> None:
    """A plan has a line for each iteration."""
    assert "iterations: input should be less than or equal to 1000" in refused("plan", "lamb", "iterations=1000000000")
