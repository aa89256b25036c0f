"""Model families: how their tokenizers split texts, what their chat templates write, and what must agree."""

import json
import pickle
from dataclasses import replace
from datetime import date, datetime
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from isheep.engines.tokens import make_completion, split_stops
from isheep.engines.transformers import open_engine
from isheep.errors import UserError
from isheep.models.adapter_files import check_tokenizer_files, load_training_tokenizer, save_tokenizer
from isheep.models.chat_template import ChatTemplate, load_chat_template, plain_prompt
from isheep.models.merge import merge_adapter, merged_end_ids
from isheep.models.prompt_text import Prompt, literal_text, mark_tokens, unmark, without_literal
from isheep.models.tokenization import continuation_ids, decode_continuation, encode, prompt_ids
from isheep.recipe.schema import Recipe, Training
from isheep.records import Model, Sampling
from isheep.rundir.run import open_run, open_run_for_writing
from isheep.rundir.training_file import TrainingRow
from isheep.stages.follow_ups import open_user_turn, user_turn_end
from isheep.sweep import check_recipe_ready, with_run_date
from isheep.trainers.rows import IGNORED, tokenize_row
from tests.helpers import families
from tests.helpers.families import FAMILIES, Family, write_config, write_model, write_tokenizer
from tests.helpers.published import NAMES, published_family
from tests.helpers.rows import make_pair

GREEDY = Sampling(temperature=0.0, top_p=1.0, max_tokens=24)
QUESTION, ANSWER = "Name a city.\n  Then another.", "Paris is one.\n    return 8\n\n\nAnd: Ünder 日本"


PUBLISHED = [pytest.param(f"published {name}", marks=pytest.mark.slow) for name in NAMES]


@pytest.fixture(scope="session", params=[*sorted(FAMILIES), *PUBLISHED])
def family_chat(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Family, ChatTemplate]:
    """Each family with its chat template; chat.tokenizer.name_or_path is the folder of its files."""
    is_published, _, name = request.param.rpartition(" ")
    family = published_family(name) if is_published else FAMILIES[name]
    return family, load_family(tmp_path_factory.mktemp("families") / name, family)


def load_family(folder: Path, family: Family, template: str | None = None) -> ChatTemplate:
    return load_chat_template("tokenizer", str(write_tokenizer(folder, family, template)))


def base_of(chat: ChatTemplate) -> str:
    path: str = chat.tokenizer.name_or_path
    return path


def make_folder(path: Path) -> Path:
    path.mkdir(parents=True)
    return path


def row_of(chat: ChatTemplate, question: str = QUESTION, answer: str = ANSWER) -> tuple[list[int], list[int]]:
    """Return the tokens of a training row: those of the prompt, and those with a loss."""
    row = tokenize_row(TrainingRow(instruction=question, output=answer), chat, chat.tokenizer, 4000)
    assert row is not None
    answer_ids = [label for label in row.labels if label != IGNORED]
    return row.input_ids[: -len(answer_ids)], answer_ids


# --- every family


def test_a_users_turn_ends_where_the_template_ends_it(family_chat: tuple[Family, ChatTemplate]) -> None:
    _, chat = family_chat
    pair = make_pair(0, QUESTION, ANSWER)
    opening, end = open_user_turn(pair, chat), user_turn_end(chat)
    dialogue = chat.conversation([("user", QUESTION), ("assistant", ANSWER), ("user", "And a river?")])
    assert dialogue.startswith(opening)
    assert end and dialogue[len(opening) :].lstrip().removeprefix("And a river?").lstrip().startswith(end)
    # The model begins the turn with a token of its own, as in a whole dialogue.
    ids = prompt_ids(chat.tokenizer, [opening])[0]
    written = continuation_ids(chat.tokenizer, dialogue[len(opening) :], ids)
    assert [*ids, *written] == prompt_ids(chat.tokenizer, [dialogue])[0]


def test_a_prompt_begins_as_the_tokenizer_says_and_only_once(family_chat: tuple[Family, ChatTemplate]) -> None:
    family, chat = family_chat
    start = [chat.tokenizer.convert_tokens_to_ids(token) for token in family.start]
    for text in (chat.prompt(QUESTION), plain_prompt(QUESTION, chat), chat.conversation([("user", "a")])):
        row = prompt_ids(chat.tokenizer, [text])[0]
        # DeepSeek's template writes its start, which its tokenizer does not.
        if text != QUESTION or chat.tokenizer("a").input_ids[: len(start)] == start:
            assert row[: len(start)] == start and all(row.count(token) == 1 for token in start)


def test_training_shows_the_text_that_generation_reads(family_chat: tuple[Family, ChatTemplate]) -> None:
    family, chat = family_chat
    prompt, answer = row_of(chat)
    assert prompt == prompt_ids(chat.tokenizer, [chat.prompt(QUESTION)])[0]
    assert answer[-1] == chat.tokenizer.convert_tokens_to_ids(family.end)
    assert decode_continuation(chat.tokenizer, answer[:-1], prompt).strip() == ANSWER
    closed = prompt_ids(chat.tokenizer, [chat.conversation([("user", QUESTION), ("assistant", "Paris.")], False)])[0]
    joined = [*prompt, *row_of(chat, answer="Paris.")[1]]
    assert closed[: len(joined)] == joined


def test_a_continuation_is_read_as_it_was_written(family_chat: tuple[Family, ChatTemplate]) -> None:
    tokenizer = family_chat[1].tokenizer
    before = prompt_ids(tokenizer, ["def f(x):\n"])[0]
    for text in ("    return 1", " return 1", "return", "  x", "\n\n\nx", " 8", "8", "日本"):
        ids = continuation_ids(tokenizer, text, before)
        assert decode_continuation(tokenizer, ids, before) == text
        assert make_completion(tokenizer, before, ids, False, set(), []).text == text


def test_spelled_control_tokens_are_plain_text(family_chat: tuple[Family, ChatTemplate]) -> None:
    family, chat = family_chat
    tokenizer = chat.tokenizer
    spelled = f"What does `{family.end}text` do, and {''.join(family.start)}x{family.end}?"
    usual = prompt_ids(tokenizer, [chat.prompt("Name a city.")])[0]
    row = prompt_ids(tokenizer, [chat.prompt(spelled)])[0]
    control = {tokenizer.convert_tokens_to_ids(token) for token in chat.special}
    assert [token for token in row if token in control] == [token for token in usual if token in control]
    assert chat.prompt(spelled) == chat.prompt("Name a city.").replace("Name a city.", spelled)
    answer = row_of(chat, answer=spelled)[1]
    assert [token for token in answer if token in control] == answer[-1:]
    assert decode_continuation(tokenizer, answer[:-1], row_of(chat)[0]).strip() == spelled
    plain = encode(tokenizer, plain_prompt(spelled, chat))
    assert not control & set(plain)
    if family.end != "<|user|>" and "｜" not in spelled:
        assert plain == tokenizer(spelled, add_special_tokens=False, split_special_tokens=True).input_ids


@pytest.mark.parametrize("name", ["llama2", "qwen2.5"])
@pytest.mark.parametrize("mark", ["\ufdd0", "\ufdd1", "\ufdd2", "\ufdd3"])
def test_a_mark_inside_a_spelled_control_token_makes_no_control_token(name: str, mark: str, tmp_path: Path) -> None:
    """The marks of this package are removed before control tokens are searched for, whatever stands around them."""
    chat = load_family(tmp_path, FAMILIES[name])
    control = {chat.tokenizer.convert_tokens_to_ids(token) for token in chat.special}

    def control_ids(*texts: str) -> list[int]:
        return [token for row in prompt_ids(chat.tokenizer, texts) for token in row if token in control]

    end = chat.end
    broken = f"{end[:1]}{mark}{end[1:]}"
    for text in (f"a {broken} b", f"{end} {broken}", f"{mark}{end}{mark} {mark}{mark}{end}"):
        assert control_ids(chat.prompt(text)) == control_ids(chat.prompt("a b"))
        turns = [("user", "a b"), ("assistant", text), ("user", text)]
        harmless = [(role, "a b") for role, _ in turns]
        assert control_ids(chat.conversation(turns)) == control_ids(chat.conversation(harmless))
        assert control_ids(plain_prompt(text, chat)) == control_ids(plain_prompt("a b", chat))
        assert not control & set(encode(chat.tokenizer, chat.answer(text)))
        # A text that is joined to a prompt is not searched again.
        joined = plain_prompt(end, chat) + broken
        assert control_ids(joined) == control_ids(plain_prompt("a b", chat))


def test_what_stands_around_a_literal_place_is_not_joined() -> None:
    text = literal_text("</</s>s>", ["</s>"])
    assert "</s>" not in without_literal(text)


def test_an_adapters_tokenizer_reads_and_stops_as_training(
    family_chat: tuple[Family, ChatTemplate], tmp_path: Path
) -> None:
    family, chat = family_chat
    tokenizer = load_training_tokenizer(Model(base_of(chat)), chat)
    save_tokenizer(tokenizer, chat, base_of(chat), tmp_path)
    saved = AutoTokenizer.from_pretrained(tmp_path)
    for question in (QUESTION, "Sort 10, 8 and 9", "日本?"):
        turns = [{"role": "user", "content": question}]
        ids = saved.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)
        assert ids == prompt_ids(chat.tokenizer, [chat.prompt(question)])[0]
    assert saved.eos_token == family.end and saved.pad_token is not None
    assert (tmp_path / "tokenizer.json").read_bytes() == (Path(base_of(chat)) / "tokenizer.json").read_bytes()


@pytest.mark.numeric
def test_generation_stops_at_the_end_that_was_trained(family_chat: tuple[Family, ChatTemplate], tmp_path: Path) -> None:
    family, chat = family_chat
    write_tokenizer(tmp_path, family)
    prompt, answer = row_of(chat, "Name a city.", "Paris  is\none.")
    write_model(tmp_path, prompt, answer)
    engine = open_engine(Model(str(tmp_path)), threads=1, device="cpu")
    sampling = GREEDY.model_copy(update={"stop": (chat.end,)})
    completion = engine.generate([chat.prompt("Name a city.")], sampling, 0)[0]
    assert (completion.text.strip(), completion.finish, completion.tokens) == ("Paris  is\none.", "stop", len(answer))
    merge_adapter(Model(str(tmp_path)), chat, make_folder(tmp_path / "merged"))
    merged, merged_chat = Model(str(tmp_path / "merged")), load_chat_template("tokenizer", str(tmp_path / "merged"))
    assert prompt_ids(merged_chat.tokenizer, [merged_chat.prompt("Name a city.")])[0] == prompt
    # Without a stop string: the checkpoint itself says where an answer ends.
    engine = open_engine(merged, threads=1, device="cpu")
    assert engine.generate([merged_chat.prompt("Name a city.")], GREEDY, 0)[0] == completion


@pytest.mark.slow
def test_the_published_tokenizer_of_llama2_is_llama2s(tmp_path: Path) -> None:
    """Known ids: those of Mistral 7B, whose vocabulary has the same size, are other ones."""
    tokenizer = load_family(tmp_path, published_family("llama2")).tokenizer
    assert len(tokenizer) == 32_000
    ids = [tokenizer(text).input_ids for text in ("Hello world", "grabbed", "ax\n####\nboo", "镇")]
    assert ids[:2] == [[1, 15043, 3186], [1, 2646, 1327, 287]]
    assert ids[2:] == [[1, 4853, 13, 4136, 13, 833, 29877], [1, 29871, 30411]]


# --- texts and tokens


@pytest.mark.numeric
@pytest.mark.parametrize("name", ["llama2", "gemma", "qwen2.5"])
def test_an_indented_line_keeps_its_spaces(name: str, tmp_path: Path) -> None:
    chat = load_family(tmp_path, FAMILIES[name])
    prompt = "def f(x):\n"
    before = prompt_ids(chat.tokenizer, [prompt])[0]
    written = continuation_ids(chat.tokenizer, "    return 1\n", before)
    write_model(tmp_path, before, written)
    engine = open_engine(Model(str(tmp_path)), threads=1, device="cpu")
    sampling = GREEDY.model_copy(update={"max_tokens": len(written)})
    assert engine.generate([prompt], sampling, 0)[0].text == "    return 1\n"
    assert engine.logprobs([prompt], ["    return 1\n"])[0].tokens == written
    shares = engine.choices([prompt, prompt], ["    return", " return"])[0]
    assert shares[0] > 0.5 > shares[1]


@pytest.mark.numeric
def test_a_stop_string_stops_in_whatever_token_it_appears(tmp_path: Path) -> None:
    chat = load_family(tmp_path, FAMILIES["gemma"])
    tokenizer = chat.tokenizer
    before = prompt_ids(tokenizer, ["List"])[0]
    ids = [*continuation_ids(tokenizer, " red", before), tokenizer.convert_tokens_to_ids("\n\n\n")]
    more = continuation_ids(tokenizer, "And green", before)
    write_model(tmp_path, before, [*ids, *more])
    engine = open_engine(Model(str(tmp_path)), threads=1, device="cpu")
    for stop in ("\n\n", "\n", "\n\n\n"):
        completion = engine.generate(["List"], GREEDY.model_copy(update={"stop": (stop,)}), 0)[0]
        assert (completion.text, completion.finish, completion.tokens) == (" red", "stop", len(ids))


def test_only_special_tokens_stop_as_ids_and_every_text_as_a_text(tmp_path: Path) -> None:
    tokenizer = load_family(tmp_path, FAMILIES["gemma"]).tokenizer
    end = tokenizer.convert_tokens_to_ids("<end_of_turn>")
    assert split_stops(tokenizer, ["\n\n", "<end_of_turn>", ""]) == ({end}, ["\n\n", "<end_of_turn>"])
    spelled = encode(tokenizer, literal_text("a<end_of_turn>b", ["<end_of_turn>"]))
    assert end not in spelled
    assert make_completion(tokenizer, [2], spelled, True, {end}, ["<end_of_turn>"]).text == "a"


def test_a_prompt_keeps_its_literal_places_when_it_is_joined_and_pickled() -> None:
    prompt = "x: " + literal_text("a</s>", ["</s>"]) + "</s>" + literal_text("</s>", ["</s>"])
    assert isinstance(prompt, Prompt) and prompt == "x: a</s></s></s>"
    assert prompt.literal == ((4, 8), (12, 16))
    assert pickle.loads(pickle.dumps(prompt)).literal == prompt.literal
    assert prompt.removeprefix("x: ").literal == ((1, 5), (9, 13))
    assert unmark(mark_tokens("a</s>", ["</s>"]) + "</s>") == "a</s></s>"
    assert type(literal_text("no token", ["</s>"])) is str


def test_line_ends_of_a_turn_are_the_tokens_of_the_family(tmp_path: Path) -> None:
    chat = load_family(tmp_path, FAMILIES["gemma"])
    assert "\n" not in chat.special
    row = prompt_ids(chat.tokenizer, [chat.prompt("a\n\nb <eos>")])[0]
    assert chat.tokenizer.convert_tokens_to_ids("\n\n") in row


# --- templates


def test_a_template_without_a_generation_prompt_keeps_its_header(tmp_path: Path) -> None:
    chat = load_family(tmp_path, FAMILIES["qwen2.5"], families.CHATML)
    assert chat.prompt("a") == "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n"
    assert chat.conversation([("user", "a"), ("assistant", "b")], False).endswith("assistant\nb<|im_end|>\n")
    check_tokenizer_files(str(tmp_path), chat)


def test_a_template_that_opens_thoughts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"opens an answer with '<think>\\n' and shows '' before") as raised:
        load_family(tmp_path, FAMILIES["qwen3"], families.THINKING)
    assert "\n" not in str(raised.value) and "generation and training would read different texts" in str(raised.value)


def test_a_template_with_a_switch_for_thoughts_is_used_without_them(tmp_path: Path) -> None:
    chat = load_family(tmp_path, FAMILIES["qwen3"])
    assert chat.prompt("a").endswith("assistant\n<think>\n\n</think>\n\n")
    assert {"<think>", "</think>"} <= chat.special


def test_a_template_that_wants_parts_gets_them(tmp_path: Path) -> None:
    chat = load_family(tmp_path, FAMILIES["qwen2.5"], families.PARTS)
    assert chat.prompt("Name a city.") == "<|im_start|>user\nName a city.<|im_end|>\n<|im_start|>assistant\n"
    check_tokenizer_files(str(tmp_path), chat)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (
            families.PROMPTED_CHATML.replace("message['content']", "message.get('text', '')"),
            "drops the text of a user's turn",
        ),
        (
            "{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}{% endif %}<|im_end|>{% endfor %}",
            "drops the text of an answer",
        ),
        (
            families.PROMPTED_CHATML.replace("message['content']", "message['content'].split('\\n')[0]"),
            "changes the line ends, spaces or signs in a user's turn",
        ),
        (
            families.PROMPTED_CHATML.replace("message['content']", "message['content'] | replace('<', '&lt;')"),
            "changes the line ends, spaces or signs in a user's turn",
        ),
    ],
)
def test_a_template_that_drops_a_turn_is_refused(template: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        load_family(tmp_path, FAMILIES["qwen2.5"], template)


# --- what a checkpoint's files say


def test_a_padding_token_without_an_embedding_is_replaced(tmp_path: Path) -> None:
    from tokenizers import Tokenizer

    chat = load_family(tmp_path, FAMILIES["llama2"])
    size = chat.tokenizer.vocab_size
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    tokenizer.add_special_tokens(["[PAD]"])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config | {"pad_token": "[PAD]"}))
    chat = load_chat_template("tokenizer", str(tmp_path))
    assert chat.tokenizer.pad_token_id == size
    assert load_training_tokenizer(Model(str(tmp_path)), chat).pad_token == "</s>"
    check_tokenizer_files(str(tmp_path), chat)


@pytest.mark.parametrize(
    ("end_ids", "merged"), [([1, 106], [1, 106]), ([1], [1, 106]), ([106], 106), ([], 106), ([1, 7], [1, 7, 106])]
)
@pytest.mark.parametrize("settings", [None, {"do_sample": True}, {"eos_token_id": None}])
def test_a_merged_checkpoint_keeps_all_end_ids(
    settings: dict[str, Any] | None, end_ids: list[int], merged: Any, tmp_path: Path
) -> None:
    """Those of config.json count also beside a generation_config.json that names none."""
    write_config(tmp_path, 200, end_ids)
    if settings is not None:
        (tmp_path / "generation_config.json").write_text(json.dumps(settings))
    assert merged_end_ids(str(tmp_path), 106) == merged


def test_a_cutoff_that_the_template_fills_is_refused_before_anything_is_generated(qwen2: Path, tmp_path: Path) -> None:
    recipe = Recipe(model=str(qwen2), training=Training(cutoff=12))
    with pytest.raises(UserError, match=r"training\.cutoff is 12, and the chat template 'tokenizer' alone has"):
        check_recipe_ready(recipe, tmp_path / "run")


def test_the_environment_is_not_in_a_saved_tokenizer(qwen2: Path, tmp_path: Path) -> None:
    chat, folders = load_chat_template("tokenizer", str(qwen2)), [tmp_path / "online", tmp_path / "offline"]
    for folder, offline in zip(folders, (False, True), strict=True):
        folder.mkdir()
        tokenizer = AutoTokenizer.from_pretrained(qwen2, local_files_only=offline)
        save_tokenizer(tokenizer, replace(chat, tokenizer=tokenizer), str(qwen2), folder)
    files = [{path.name: path.read_bytes() for path in folder.iterdir()} for folder in folders]
    assert files[0] == files[1] and b"local_files_only" not in files[0]["tokenizer_config.json"]


# --- the clock


class NextDay(datetime):
    """A clock that is years ahead."""

    @classmethod
    def now(cls, tz: Any = None) -> "NextDay":
        return cls(2031, 2, 3, tzinfo=tz)


def test_a_run_keeps_the_date_on_which_it_began(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, out = write_tokenizer(tmp_path / "base", FAMILIES["qwen2.5"], families.CLOCK), tmp_path / "run"
    recipe = Recipe(model=str(base))
    dated = with_run_date(recipe, out)
    assert dated.date is not None
    with open_run_for_writing(out, dated):
        pass
    monkeypatch.setattr("isheep.sweep.datetime", NextDay)
    assert with_run_date(recipe, out) == dated == open_run(out)[0]
    assert with_run_date(recipe, tmp_path / "other").date == date(2031, 2, 3)
    chat = load_chat_template(*dated.chat_arguments)
    assert chat.prompt("a").startswith(f"{dated.date:%d %B %Y}\n")


def test_a_saved_template_has_the_date_of_the_run(tmp_path: Path) -> None:
    base = write_tokenizer(tmp_path / "base", FAMILIES["qwen2.5"], families.CLOCK)
    chat = load_chat_template("tokenizer", str(base), date(2025, 3, 9))
    (tmp_path / "adapter").mkdir()
    save_tokenizer(load_training_tokenizer(Model(str(base)), chat), chat, str(base), tmp_path / "adapter")
    saved = AutoTokenizer.from_pretrained(tmp_path / "adapter")
    text = saved.apply_chat_template([{"role": "user", "content": "a"}], tokenize=False, add_generation_prompt=True)
    assert text == chat.prompt("a") and text.startswith("09 March 2025\n<|im_start|>user")


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        ("{% set form = '%A, %-d %b' %}{{ strftime_now(form) }}", "Sunday, 9 Mar"),
        ("{{ strftime_now(format='%d/%m/%Y') }}", "09/03/2025"),
        ("{{ strftime_now ( '%d ' ~ '%B' ) }}", "09 March"),
        ("{% set now = strftime_now %}{{ now('%Y') | int - 1 }}", "2024"),
        ("{{ strftime_now('%Y-%m-%d %H:%M') }}", "2025-03-09 00:00"),
        ("{{ strftime_now('%H:%M:%S') }}", "00:00:00"),
        ("{% if messages[0].content | length > 40 %}{{ strftime_now('%Y') }}{% endif %}", "2025"),
    ],
)
def test_no_template_reads_the_clock_itself(call: str, expected: str, tmp_path: Path) -> None:
    """Whatever the format and however the function is called, also in dialogues of another form than the probes."""
    base = write_tokenizer(tmp_path / "base", FAMILIES["qwen2.5"], f"{call}\n{families.PROMPTED_CHATML}")
    chat = load_chat_template("tokenizer", str(base), date(2025, 3, 9))
    assert chat.prompt("a" * 50).startswith(expected)
    check_tokenizer_files(str(base), chat)


def test_a_recipe_without_a_clock_has_no_date(qwen2: Path, tmp_path: Path) -> None:
    recipe = Recipe(model=str(qwen2))
    assert with_run_date(recipe, tmp_path / "run").date is None
    with open_run_for_writing(tmp_path / "run", recipe):
        pass
    assert "date" not in (tmp_path / "run/recipe.yaml").read_text()
