"""Recipes: read from YAML and the command line, wrong ones refused in one line that says where and what instead."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from isheep import api, prompts
from isheep.cli import main, recipe_choice
from isheep.errors import UserError
from isheep.models.checkpoint import num_parameters
from isheep.recipe import loading
from isheep.recipe.schema import Recipe
from isheep.records import Sampling
from tests.helpers.recipe_files import write


@pytest.mark.parametrize("name", loading.recipe_names())
def test_every_packaged_recipe_loads_and_survives_a_round(name: str, tmp_path: Path) -> None:
    path = loading.find_recipe(name)
    recipes = api.load_sweep(path).values() if loading.is_sweep(path) else [api.load_recipe(path)]
    for recipe in recipes:
        assert api.load_recipe(write(tmp_path, loading.dump_recipe(recipe))) == recipe
    assert loading.recipe_title(path)


def test_the_paper_is_what_the_defaults_say() -> None:
    """Appendix E, by the recipe that spells it out."""
    paper = api.load_recipe(loading.find_recipe("paper/qwen1.5-72b"))
    plain = Recipe(model=paper.model)
    assert paper.training == plain.training
    assert (paper.assessment, paper.filters, paper.response) == (plain.assessment, plain.filters, plain.response)


@pytest.mark.parametrize("text", ["5e-5", "5E-5", "5.0e-5", "0.5e-4", "0.00005", ".5e-4", "+5e-5"])
def test_yaml_numbers(text: str, tmp_path: Path) -> None:
    path = write(tmp_path, f"model: lamb\ntraining: {{learning_rate: {text}}}\n")
    assert api.load_recipe(path).training.learning_rate == 5e-5
    assert api.load_recipe(path, [f"training.learning_rate={text}"]).training.learning_rate == 5e-5


WRONG = {
    "model: lamb\nchat: qwen": "line 2: unknown key 'chat': did you mean 'chat_template'?",
    "model: lamb\nresponse: {size: 4}": "line 2: unknown key 'size' in response: did you mean 'batch_size'?",
    "model: lamb\ntraining: {rows: 4}": "line 2: unknown key 'rows' in training: did you mean 'num_rows'?",
    "model: lamb\ntraining: {at_most: 4}": "line 2: unknown key 'at_most' in training: did you mean 'max_rows'?",
    "model: lamb\nmachine: {batch: 4}": "unknown key 'batch' in machine: did you mean 'engine_batch_size'?",
    "model: lamb\nmachine: {judging: {wait: 4}}": "key 'wait' in machine.judging: did you mean 'retry_wait'?",
    "model: lamb\ntraning: {epochs: 2}": "mine.yaml line 2: unknown key 'traning': did you mean 'training'?",
    "model: lamb\ntraining:\n  epoch: 2": "mine.yaml line 3: unknown key 'epoch' in training: did you mean 'epochs'?",
    "model: lamb\nzzz: 2": "mine.yaml line 2: unknown key 'zzz': it has model, chat_template",
    "modle: lamb": "mine.yaml line 1: unknown key 'modle': did you mean 'model'?",
    "seed: 3": "mine.yaml: key 'model' is missing",
    "model: lamb\nsynthesis: {sampling: {top_k: 2}}": "line 2: unknown key 'top_k' in synthesis.sampling: did you mean",
    "model: lamb\ntraining: {epochs: two}": "line 2: training.epochs: input should be a valid integer; found 'two'",
    "model: lamb\ntraining: {epochs: true}": "line 2: training.epochs: input should be a valid integer; found True",
    "model: lamb\ntraining: {epochs: 0}": "training.epochs: input should be greater than or equal to 1; found 0",
    "model: lamb\ntraining: {learning_rate: .inf}": "line 2: training.learning_rate: input should be a finite number",
    "model: lamb\ntraining: 3": "line 2: training must be a mapping of start, data, lora",
    "model: lamb\nchat_template: qwen2": (
        "line 2: chat_template: take one of qwen, llama3, tokenizer, a .jinja file, or the Jinja text"
    ),
    "model: lamb\nfilters: [{kind: scor, at_least: 8}]": "filters.0.kind: filter 'scor' is not known:",
    "model: lamb\nfilters:\n- kind: score": "line 3: filters.0: give exactly one of at_least, above and best",
    "model: lamb\nfilters:\n- {kind: score, at_least: 8, above: 7}": "line 3: filters.0: give exactly one of",
    "model: lamb\nfilters: [{kind: contamination}]": "a contamination filter, which compares pairs with",
    "model: lamb\nfilters:\n- {kind: score, at_least: 80}": "line 3: filters.0.at_least: no score reaches 80",
    "model: lamb\nfilters: [{kind: random, as_many_as: {above: 10}}]": "as_many_as.above: no score is above 10",
    "model: lamb\nassessment: {criteria: [quality, quality]}": "line 2: assessment.criteria: 'quality' is listed twice",
    "model: lamb\nevaluation: [lamb, {name: lamb, data: x}]": "mine.yaml line 2: evaluation: 'lamb' is listed twice",
    "model: lamb\nstop: {benchmark: lamb, patience: 3}": (
        "line 2: stop.patience: 3 iterations without a gain are not over before the last one, 3"
    ),
    "model: lamb\ntraining: {held_out: 0}": "line 2: training.keep: best is found on held-out rows, and training.held_",
    "model: lamb\ntraining: {num_rows: 4000}": "line 2: training.num_rows: 4000 is more than training.max_rows, 3000",
    "model: lamb\nsynthesis: {tasks: 50}\ntraining: {num_rows: 60}": (
        "line 3: training.num_rows: 60 rows are more than iteration 1 can have: 50 tasks"
    ),
    "model: lamb\nfilters: [{kind: density, clusters: 1}]": (
        "training.num_rows: two rows are more than iteration 1 can have: 10000 tasks, of which the filters keep 1"
    ),
    "model: lamb\nsynthesis: {tasks: 1}": "training.num_rows: two rows are more than iteration 1 can have: 1 tasks",
    "model: lamb\ntraining: {batch_size: 16}\nmachine: {rows_per_process: 3}": (
        "line 3: machine.rows_per_process: 3 does not divide training.batch_size"
    ),
    "model: lamb\nmachine: {replicas: 2, device: 'cuda:1'}": (
        "line 2: machine.device: cuda:1 is one GPU, and each replica has its own: take cuda"
    ),
    "model: lamb\nmachine:\n  engine: openai\n  replicas: 2": (
        "line 4: machine.replicas: replicas can't run engine openai: raise machine.server.max_in_flight instead"
    ),
    "model: lamb\nassessment: null": "filters.0: a score filter needs an assessment, and this recipe has none",
    "model: lamb\nassessment:\n  prompt: icl": "criteria: prompt 'icl' has no criterion 'quality', only overall",
    "model: lamb\nassessment: {prompt: simpel}": "prompt file 'simpel' not found: give one of combined, dromedary/",
    "model: lamb\nfilters:\n- kind: score\n  above: 8\n  criteria: [tone]": (
        "mine.yaml line 5: filters.0.criteria: 'tone' is not rated, only quality, following"
    ),
    "model: lamb\nsynthesis: {examples: 3,\n  generated: 4}": (
        "mine.yaml line 3: synthesis.generated: 4 is more than synthesis.examples, 3"
    ),
    "model: lamb\nresponse: {prompt: instances}": (
        "line 2: response.prompt: instances writes the inputs, and synthesis does too: set synthesis.inputs: false"
    ),
    "model: lamb\nresponse: {examples: 4}": "response.examples: it is for prompt: instances",
    "model: lamb\nresponse: {prompt: instance}": (
        "mine.yaml line 2: response.prompt: 'instance' is none of chat, plain, instances, a packaged prompt (such as"
    ),
    "model: lamb\nresponse: {prompt: instances}\niteration: {1: {synthesis: {inputs: false}}}": (
        "line 2: response.prompt: instances writes the inputs, and synthesis does too"
    ),
    "model: lamb\nsynthesis: {tasks: 50}\niteration:\n  3: {training: {num_rows: 60}}": (
        "line 4: training.num_rows: 60 rows are more than iteration 3 can have: 50 tasks"
    ),
    "model: lamb\nsynthesis: {sampling: {presence_penalty: 3}}": "presence_penalty: input should be less than or equal",
    "model: lamb\nassessment:\n  opening: ' <'": "line 3: assessment.opening: it is for read: expected or constrained",
    "model: lamb\nfilters: [{kind: perplexity, at_most: 1}]": "filters.0.at_most: input should be greater than 1",
    "model: lamb\nfilters: [{kind: perplexity, of: []}]": "line 2: filters.0.of: ",
    "model: lamb\nfilters:\n- {kind: perplexity, of: [input]}": "line 3: filters.0.of.0: input should be 'output' or",
    "model: lamb\nsynthesis: {tasks: 300}\nfilters: [{kind: density, clusters: 100, keep: 3}]": (
        "mine.yaml line 3: filters.0: it keeps up to 300 pairs, and synthesis.tasks is 300: nothing is left to drop"
    ),
    "model: lamb\nfilters: [{kind: random, keep: 10000}]": "it keeps up to 10000 pairs, and synthesis.tasks is 10000",
    "model: lamb\nfilters: [{kind: density, of: pair}]": "of is for choose: lowest_perplexity, and choose is random",
    "model: lamb\nfilters: [{kind: density, choose: best}]": "choose: input should be 'random' or 'lowest_perplexity'",
    "model: lamb\nfilters: [{kind: random}]": "filters.0: give exactly one of keep and as_many_as",
    "model: lamb\nfilters: [{kind: random, as_many_as: {at_least: 8, above: 8}}]": "filters.0.as_many_as: give exactly",
    "model: lamb\nassessment: null\nfilters:\n- kind: random\n  as_many_as: {above: 7}": (
        "line 5: filters.0.as_many_as: a score filter needs an assessment, and this recipe has none"
    ),
    "model: lamb\nfilters: [{kind: random, as_many_as: {above: 7, criteria: [tone]}}]": (
        "filters.0.as_many_as.criteria: 'tone' is not rated, only quality, following"
    ),
    "model: lamb\nresponse: {prompt: simple}": "simple.yaml asks for no answer: it needs chat with {instruction}",
    "model: lamb\nsynthesis:\n  topics: {file: simple}": "simple.yaml is no guide to topics: ask_topics: ",
    "model: lamb\nsynthesis:\n  examples: 21\n  topics: {}": (
        "mine.yaml line 4: synthesis.topics: synthesis.examples is 21, and the guide has 20 kinds"
    ),
    "model: lamb\nsynthesis: {topics: {share: 0}}": "synthesis.topics.share: input should be greater than 0; found 0",
    "model: lamb\nsynthesis: {tasks_of: 1}": "line 2: synthesis.tasks_of: iteration 1 can't have the tasks of",
    "model: lamb\niteration:\n  2:\n    synthesis: {tasks_of: 2}": (
        "mine.yaml line 4: synthesis.tasks_of: iteration 2 can't have the tasks of iteration 2"
    ),
    "model: lamb\niteration:\n  2:\n    respnse: {batch_size: 8}": (
        "mine.yaml line 4: unknown key 'respnse': did you mean 'response'?"
    ),
    "model: lamb\niteration:\n  2:\n    training:\n      epochs: two": (
        "mine.yaml line 5: training.epochs: input should be a valid integer; found 'two'"
    ),
    "model: lamb\niteration:\n  2:\n    assessment: null": (
        "mine.yaml: filters.0: a score filter needs an assessment, and this recipe has none"
    ),
    "model: lamb\niteration:\n  3: {}\n  4: {}": "mine.yaml line 4: iteration.4: this recipe has 3 iterations",
    "model: lamb\niteration:\n  2: {seed: 3}": (
        "mine.yaml line 3: iteration.2.seed: all iterations share it; one may differ in synthesis, response,"
    ),
    "model: lamb\niteration: {2: {iteration: {2: {}}}}": "line 2: iteration.2.iteration: all iterations share it",
    "model: lamb\niteration: {two: {}}": "line 2: iteration.two.[key]: input should be a valid integer",
    "model: lamb\niteration: {0: {}}": "line 2: iteration.0.[key]: input should be greater than or equal to 1",
    "model: lamb\niteration: {2: 3}": "line 2: iteration.2: input should be an object; found 3",
    "model: lamb\nmodel: other": "mine.yaml line 2: key 'model' is given twice",
    "model: [": "mine.yaml line 1: not YAML",
    "model: {a: b\n": "not YAML",
    "- model": "mine.yaml: a recipe is a mapping of keys to values",
    "": "mine.yaml: a recipe is a mapping of keys to values",
    "model: lamb\nsynthesis: &a {sampling: *a}": "mine.yaml line 2: an alias that contains itself",
    "like: nowhere.yaml": "mine.yaml line 1: recipe 'nowhere.yaml' not found: give a file, or a name",
    "like: mine.yaml": "mine.yaml line 1: like leads round in a circle: name a recipe that is not like this one",
}


@pytest.mark.parametrize("text", WRONG)
def test_wrong_recipes(text: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        api.load_recipe(write(tmp_path, text))
    assert WRONG[text] in str(error.value)
    assert "\n" not in str(error.value)


@settings(max_examples=60, deadline=None)
@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=4), lambda inner: (
    st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from([*Recipe.model_fields, "sampling", "kind", "x", "lora"]), inner, max_size=4)
), max_leaves=8))  # fmt: skip
def test_any_yaml_is_a_recipe_or_one_line(tmp_path_factory: pytest.TempPathFactory, data: Any) -> None:

    path = write(tmp_path_factory.mktemp("recipes"), yaml.safe_dump(data, allow_unicode=True))
    try:
        api.load_recipe(path)
    except UserError as error:
        assert str(error).strip()


def test_like_takes_what_it_does_not_say(tmp_path: Path) -> None:
    write(tmp_path, "model: lamb\nseed: 5\ntraining: {epochs: 3, batch_size: 4}\n", "base.yaml")
    recipe = api.load_recipe(write(tmp_path, "like: base.yaml\ntraining: {epochs: 1}\nfilters: []\nassessment: null\n"))
    assert (recipe.seed, recipe.training.epochs, recipe.training.batch_size, recipe.filters) == (5, 1, 4, ())


def test_one_iteration_may_do_something_otherwise(tmp_path: Path) -> None:
    write(
        tmp_path, "model: lamb\nresponse: {batch_size: 4}\niteration: {2: {response: {prompt: plain}}}\n", "base.yaml"
    )
    path = write(tmp_path, "like: base.yaml\niteration: {2: {training: {start: last}}, 3: {filters: []}}\n")
    recipe = api.load_recipe(path, ["iteration.2.training.epochs=7"])
    assert (recipe.response.prompt, recipe.training.start, recipe.training.epochs) == ("chat", "base", 2)
    second, third = recipe.at(2), recipe.at(3)
    assert second.response == recipe.response.model_copy(update={"prompt": "plain"})
    assert (second.training.start, second.training.epochs, second.filters) == ("last", 7, recipe.filters)
    assert third == recipe.model_copy(update={"filters": (), "iteration": {}}) and recipe.at(1) is recipe
    assert api.load_recipe(write(tmp_path, loading.dump_recipe(recipe), "saved.yaml")) == recipe
    assert loading.differences(api.load_recipe(path), recipe) == ["iteration.2.training.epochs: null -> 7"]


def test_words_for_one_iteration_are_named_where_they_are_wrong(tmp_path: Path) -> None:
    path = write(tmp_path, "model: lamb\niteration: {2: {training: {start: last}}}\n")
    with pytest.raises(UserError, match=r"'iteration\.2\.training\.epoch=7' in the overrides: unknown key 'epoch'"):
        api.load_recipe(path, ["iteration.2.training.epoch=7"])
    with pytest.raises(
        UserError, match=r"'iteration\.2\.synthesis\.tasks_of=2' in the overrides: synthesis\.tasks_of: iteration 2"
    ):
        api.load_recipe(path, ["iteration.2.synthesis.tasks_of=2"])


def test_like_what_is_like_another(tmp_path: Path) -> None:
    write(tmp_path, "model: lamb\nseed: 5\niterations: 5\n", "base.yaml")
    (tmp_path / "folder").mkdir()
    write(tmp_path / "folder", "like: ../base.yaml\niterations: 4\nlanguage: any\n", "small.yaml")
    recipe = api.load_recipe(write(tmp_path / "folder", "like: small.yaml\nlanguage: en\n"))
    assert (recipe.seed, recipe.iterations, recipe.language) == (5, 4, "en")
    write(tmp_path, "like: folder/small.yaml\n", "base.yaml")
    with pytest.raises(UserError, match=r"base\.yaml line 1: like leads round in a circle"):
        api.load_recipe(tmp_path / "folder" / "mine.yaml")


def test_a_mistake_in_the_file_below_is_named_there(tmp_path: Path) -> None:
    write(tmp_path, "model: lamb\n\nsed: 5\n", "base.yaml")
    with pytest.raises(UserError, match=r"base\.yaml line 3: unknown key 'sed': did you mean 'seed'"):
        api.load_recipe(write(tmp_path, "like: base.yaml\n"))


def test_words_of_the_command_line(tmp_path: Path) -> None:
    path = write(tmp_path, "model: lamb\nfilters: [{kind: score, at_least: 8}]\n")
    words = ["training.lora.rank=4", "filters.0.at_least=7", "synthesis.novelty=null", "assessment.criteria=[quality]"]
    recipe = api.load_recipe(path, words)
    assert recipe.training.lora.rank == 4 and recipe.filters[0].at_least == 7
    assert recipe.synthesis.novelty is None and recipe.assessment and recipe.assessment.criteria == ("quality",)


@pytest.mark.parametrize("text", ["no", "on", "0200", "1:30", "2024-01-01", "1_0"])
def test_a_text_that_another_yaml_reads_as_a_value_stays_a_text(text: str, tmp_path: Path) -> None:
    """In a file, as a word of the command line, and in the recipe that a run folder keeps."""
    stop = ["response.sampling.stop", f"[{text}]"]
    written = api.load_recipe(write(tmp_path, f"model: {text}\nresponse: {{sampling: {{stop: [{text}]}}}}\n"))
    by_words = api.load_recipe(write(tmp_path, "model: lamb\n"), [f"model={text}", "=".join(stop)])
    (tmp_path / "saved.yaml").write_text(loading.dump_recipe(written))
    assert written == by_words == api.load_recipe(tmp_path / "saved.yaml")
    assert written.model == text and written.response.sampling.stop == (text,)


@pytest.mark.parametrize(
    ("word", "wrong"),
    [
        ("training.epoch=1", "'training.epoch=1' in the overrides: unknown key 'epoch' in training"),
        ("training.epochs=x", "'training.epochs=x' in the overrides: training.epochs: input should be"),
        ("filters.3.at_least=7", "there is nothing at 3 in this recipe"),
        ("model.sub=7", "there is nothing at 'sub' in this recipe"),
        ("training", "write key=value, such as training.epochs=1"),
        ("seed=[", "not YAML"),
        ("seed=1:30", "seed: input should be a valid integer; found '1:30': write a number in plain digits"),
        ("seed=0200", "found '0200': write a number in plain digits, such as 90"),
        ("training.max_rows=1_0", "found '1_0': write a number in plain digits"),
        ("machine.report=no", "machine.report: input should be a valid boolean; found 'no': write true or false"),
    ],
)
def test_wrong_words(word: str, wrong: str, tmp_path: Path) -> None:
    path = write(tmp_path, "model: lamb\nfilters: [{kind: score, at_least: 8}]\n")
    with pytest.raises(UserError) as error:
        api.load_recipe(path, [word])
    assert wrong in str(error.value)


@pytest.mark.parametrize(
    ("content", "wrong"),
    [
        (b"quality: 'Rate {instruction}'\n", "assessment.prompt: 'quality' in prompt '{path}' has no {output}"),
        (b"quality: 'Rate {output}'\n", "'quality' in prompt '{path}' has no {instruction}"),
        (
            b"quality: '{instruction} {output_data}'\n",
            "no {output}; {output_data}, as the paper spells it, is not filled",
        ),
        (b"quality: '\xff'\n", "prompt file {path}: can't be read: not UTF-8 text at byte 10"),
        (b"quality: !!int x\n", "prompt file {path}: not YAML"),
        (b"[" * 5000, "prompt file {path} line 1: nested too deeply"),
    ],
)
def test_wrong_prompt_files(content: bytes, wrong: str, tmp_path: Path) -> None:
    # The end of a path is what tells it apart, so a path may be longer than other values.
    folder = tmp_path / ("long" * 15)
    folder.mkdir()
    prompt = folder / "rating.yaml"
    prompt.write_bytes(content)
    with pytest.raises(UserError) as error:
        api.load_recipe(write(tmp_path, f"model: lamb\nassessment: {{prompt: {prompt}, criteria: [quality]}}\n"), [])
    assert wrong.replace("{path}", str(prompt)) in str(error.value) and "\n" not in str(error.value)


def test_a_prompt_file_that_can_not_be_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "rating.yaml").write_text("quality: fine")

    def refuse(*_: Any, **__: Any) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(UserError, match=r"rating\.yaml: can't be read: Permission denied"):
        prompts.load_prompts(str(tmp_path / "rating.yaml"))


# --- the recipe of a command line that names none


def test_the_size_of_a_model_decides_on_its_recipe(qwen2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def recipe_of(model: str | None) -> str:
        return recipe_choice.choose_recipe(None, ["iterations=1"], model).path.stem

    assert (recipe_of(None), recipe_of("lamb"), recipe_of(str(qwen2))) == ("lamb", "lamb", "small")
    assert (recipe_of("Qwen/Qwen1.5-0.5B"), recipe_of("Qwen/Qwen1.5-72B")) == ("small", "qwen2.5-0.5b")
    # Nothing is known of a model that is neither here nor in the table of sizes.
    assert recipe_of("somebody/something") == "qwen2.5-0.5b"
    size = num_parameters(str(qwen2))
    monkeypatch.setattr(recipe_choice, "SMALL_MODEL", size)
    assert recipe_of(str(qwen2)) == "qwen2.5-0.5b"


# --- who is to blame

NAMED = "model: lamb\n\nfilters:\n- {kind: score, at_least: 8}\n"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("filters=[{kind: mine}]", "'filters=[{kind: mine}]' in the overrides: filters.0.kind: filter 'mine' is not"),
        ("filters=[{kind: scor}]", "filters.0.kind: filter 'scor' is not known: did you mean 'score'?"),
        ("filters=[score]", "filters.0 must be a mapping; found 'score': write {kind: score}"),
        ("filters=[3]", "filters.0 must be a mapping with a kind, one of score, contamination"),
        ("filters=[{at_least: 8}]", "key 'filters.0.kind' is missing: take one of score, contamination"),
        ("filters=[{kind: perplexity, maximum: 3}]", "unknown key 'maximum' in filters.0: it has kind, at_most, of"),
        ("filters=[{kind: custom, func: x}]", "unknown key 'func' in filters.0: did you mean 'function'?"),
        ("filters=[", "'filters=[' in the overrides: not YAML: "),
        ("machine={gpus: 1, gpus: 2}", "' in the overrides: key 'gpus' is given twice"),
        ("assessment=null", "'assessment=null' in the overrides: filters.0: a score filter needs an assessment"),
        (
            "filters.0.above=7",
            "'filters.0.above=7' in the overrides: filters.0: give exactly one of at_least, above and",
        ),
        ("filters=[{kind: score, at_least: 80}]", "in the overrides: filters.0.at_least: no score reaches 80"),
        ("machine.engine=vlm", "in the overrides: machine.engine: engine 'vlm' is not known: did you mean 'vllm'?"),
        (
            "machine.trainer=pft",
            "in the overrides: machine.trainer: trainer 'pft' is not known: did you mean",
        ),
    ],
)
def test_an_error_in_an_override_names_the_command_line(override: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        api.load_recipe(write(tmp_path, NAMED), [override])
    assert message in str(error.value) and "mine.yaml" not in str(error.value)


def test_an_error_of_the_file_is_not_blamed_on_an_override(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^[^']*mine\.yaml line 2: filters\.0\.at_least: no score reaches 80"):
        api.load_recipe(write(tmp_path, "model: lamb\nfilters: [{kind: score, at_least: 80}]\n"), ["seed=3"])


def test_only_the_override_that_causes_a_conflict_is_named() -> None:
    overrides = {"training.epochs": 1, "evaluation": [], "synthesis.tasks": 100}
    for variant in (overrides, ["training.epochs=1", "evaluation=[]", "synthesis.tasks=100"]):
        with pytest.raises(UserError, match="contamination filter, which compares pairs with the prompts") as error:
            api.load_recipe("lamb", variant)
        message = str(error.value)
        assert "evaluation" in message.partition(": filters.0: ")[0] and "training.epochs" not in message
        assert "leave the filter out by writing 'filters=[{kind: score, at_least: 8.0}]'" in message


def test_an_error_in_an_override_from_python_names_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"override 'training\.epoch': unknown key 'epoch' in training"):
        api.load_recipe("lamb", {"training.epoch": 1})
    with pytest.raises(UserError, match=r"overrides 'assessment': filters\.1: a score filter needs an assessment"):
        api.load_recipe("lamb", {"assessment": None})


def test_a_recipe_from_python() -> None:
    recipe = api.load_recipe("lamb", {"synthesis.tasks": 100, "synthesis.sampling": Sampling(temperature=0.5)})
    assert (recipe.synthesis.tasks, recipe.synthesis.sampling.temperature) == (100, 0.5)
    assert api.load_recipe(recipe, ["synthesis.tasks=90"]).synthesis.tasks == 90
    assert api.load_recipe({"model": "lamb", "seed": 3}) == Recipe(model="lamb", seed=3)


@pytest.mark.parametrize("name", ["qwen2.5-0.5b", "qwen2.5-0.5b.yaml", "paper/one-last", "../base", "../base.yaml"])
def test_like_accepts_every_name_that_run_accepts(name: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    write(tmp_path, "model: lamb\n", "base.yaml")
    recipe = api.load_recipe(write(tmp_path / "folder", f"like: {name}\nseed: 7\n"))
    assert recipe.seed == 7 and (recipe.model == "lamb") == ("base" in name)


def test_a_recipe_may_have_the_name_of_the_packaged_one_that_it_is_like(tmp_path: Path) -> None:
    assert api.load_recipe(write(tmp_path, "like: lamb\nseed: 7\n", "lamb.yaml")).seed == 7


# --- at the command line: one line, exit code 2, nothing written


@pytest.mark.parametrize(
    ("words", "wrong"),
    [
        (["run", "lamb", "trainin.epochs=2"], "isheep: 'trainin.epochs=2' on the command line: unknown key 'trainin'"),
        (["run", "nowhere.yaml"], "isheep: recipe 'nowhere.yaml' not found"),
        (["run", "runs/lam"], "isheep: 'runs/lam' is neither a recipe nor a run folder: give a file, or a name"),
        (
            ["run", "lamb", "seeds=mine.jsonl"],
            "isheep: 'seeds=mine.jsonl' on the command line: unknown key 'seeds': did you mean 'seed_tasks'?",
        ),
        (
            ["run", "--model", "./lambb"],
            "isheep: model './lambb' not found: lambb does not exist; give a checkpoint's folder or a Hub name; did "
            "you mean 'lamb'?",
        ),
        (["run", "--model", "./nowhere"], "isheep: model './nowhere' not found"),
    ],
)
def test_errors_are_one_line(
    words: list[str], wrong: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        main(words)
    message = capsys.readouterr().err
    assert end.value.code == 2 and message.startswith(wrong) and message.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_run_folder_with_a_similar_name_is_proposed(tmp_path: Path) -> None:
    (tmp_path / "lamb").mkdir()
    write(tmp_path / "lamb", "model: lamb\n", "recipe.yaml")
    with pytest.raises(UserError, match=r"lam' is neither a recipe nor a run folder: did you mean '.*/lamb'\?"):
        loading.find_recipe(str(tmp_path / "lam"))


@pytest.mark.parametrize("name", loading.recipe_names())
def test_the_command_on_a_recipes_first_line_runs_it(name: str) -> None:
    path = loading.find_recipe(name)
    command = re.search(r"isheep (run|sweep)(?: (\S+))?$", path.read_text(encoding="utf-8").partition("\n")[0])
    verb = "sweep" if loading.is_sweep(path) else "run"
    assert command is None or command.groups() in ((verb, name), (verb, None if name == "lamb" else name))
