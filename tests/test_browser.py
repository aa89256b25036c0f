"""The annotation page in a real browser: keys, narrow and dark screens, and text of a model that contains markup.

Needs Chromium with its driver, and selenium (pip install isheep[browser]); skips without them.
"""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from isheep import annotation
from isheep.annotation import Choice, Rating, read_annotations
from isheep.annotation.server import AnnotationServer
from isheep.annotation.session import AnnotationSession, Question, rating_session
from isheep.recipe.schema import Recipe
from isheep.records import Pair
from isheep.rundir.run import open_run_for_writing
from tests.helpers.rows import make_pair

ATTACK = "</div><script>document.title = 'taken'</script><img src=x onerror=\"document.title='taken'\"><a href=x>go</a>"


@pytest.fixture
def serve() -> Iterator[Callable[[AnnotationSession], str]]:
    servers: list[AnnotationServer] = []

    def start(session: AnnotationSession) -> str:
        servers.append(AnnotationServer(session, 0))
        threading.Thread(target=servers[-1].serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return servers[-1].address

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def session(tmp_path: Path) -> AnnotationSession:
    rows = [make_pair(n, f"Do {n} {ATTACK}", f"Did {n} {ATTACK} {'x' * 300}\n\n  two lines") for n in range(3)]
    with open_run_for_writing(tmp_path / "run", Recipe.model_validate({"model": "fake"})) as root:
        (root / "iter-1").write("pairs.jsonl", Pair, rows)
    return rating_session(tmp_path / "run", "me", 1, 3)


def keys(browser: Any, *typed: str) -> None:
    """Type, and wait for the page that a sent form leads to."""
    from selenium.common.exceptions import WebDriverException
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.support.expected_conditions import staleness_of
    from selenium.webdriver.support.wait import WebDriverWait

    page = browser.find_element("tag name", "html")
    ActionChains(browser).send_keys(*typed).perform()
    # Where the page goes while it is asked about, the driver may fail in a way of its own.
    WebDriverWait(browser, 60, ignored_exceptions=[WebDriverException]).until(staleness_of(page))


def ratings(session: AnnotationSession) -> list[tuple[str, Any]]:
    return [(row.row, row.scores) for row in read_annotations(session.file, Rating)[0]]


def script(browser: Any, text: str) -> Any:
    return browser.execute_script(f"return {text}")


def test_rating_by_keys_alone(
    browser: Any, serve: Callable[[AnnotationSession], str], session: AnnotationSession
) -> None:
    browser.get(serve(session))
    first, second, third = (question.task.id for question in session.questions)
    # Quality 7, following 10, Enter.
    keys(browser, "7", "0", "\ue007")
    assert ratings(session) == [(first, {"quality": 7, "following": 10})] and browser.title.startswith("1 of 3")
    keys(browser, "s")
    # From the third question back to the second.
    keys(browser, "p")
    assert script(browser, "document.querySelector('[name=at]').value") == "1"
    # The third digit starts again at quality.
    keys(browser, "2", "3", "4", "\ue007")
    keys(browser, "5", "5", "\ue007")
    assert ratings(session)[1:] == [
        (second, None),
        (second, {"quality": 4, "following": 3}),
        (third, dict.fromkeys(session.criteria, 5)),
    ]
    assert browser.find_element("tag name", "h1").text == "All done, thank you."
    assert browser.get_log("browser") == []


def test_enter_without_scores_sends_nothing_and_clicking_works(
    browser: Any, serve: Any, session: AnnotationSession
) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.support.wait import WebDriverWait

    browser.get(serve(session))
    # The score for following is missing.
    ActionChains(browser).send_keys("8", "\ue007").perform()
    assert ratings(session) == [] and script(browser, "document.querySelector(':checked').value") == "8"
    browser.execute_script("document.activeElement.blur()")
    for name, score in (("quality", 6), ("following", 9)):
        browser.find_element("css selector", f"[name={name}][value='{score}']").click()
    browser.find_element("css selector", "button.main").click()
    # The click may return before the next page is there.
    WebDriverWait(browser, 60).until(lambda page: "1 of 3" in page.find_element("tag name", "header").text)
    assert ratings(session) == [(session.questions[0].task.id, {"quality": 6, "following": 9})]


def test_model_text_stays_text(
    browser: Any, serve: Callable[[AnnotationSession], str], session: AnnotationSession
) -> None:
    browser.get(serve(session))
    texts = [element.get_property("textContent") for element in browser.find_elements("class name", "text")]
    assert texts == [session.questions[0].task.instruction, session.questions[0].answers[0]]
    assert (
        "taken" not in browser.title
        and script(browser, "document.querySelectorAll('main a, img, main script').length") == 0
    )
    assert script(browser, "getComputedStyle(document.querySelector('.answers .text')).whiteSpace") in (
        "pre-wrap",
        "preserve",
    )
    inline = "(() => { const s = document.createElement('script'); s.textContent = 'document.title = \"ran\"'; "
    # The content security policy blocks the inline script.
    assert script(browser, inline + "document.body.append(s); return document.title; })()") != "ran"
    assert [entry for entry in browser.get_log("browser") if "Content Security Policy" in entry["message"]]


@pytest.mark.parametrize("width", [400, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_narrow_screen_and_follows_the_scheme(
    browser: Any, serve: Any, session: AnnotationSession, width: int, scheme: str
) -> None:
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    browser.get(serve(session))
    assert script(browser, "document.documentElement.scrollWidth <= innerWidth")
    boxes = script(
        browser, "[...document.querySelectorAll('.scale label')].map(e => e.getBoundingClientRect().toJSON())"
    )
    assert len(boxes) == 20 and min(box["height"] for box in boxes) >= 40 and min(box["width"] for box in boxes) >= 40
    colours = script(browser, "['color', 'backgroundColor'].map(n => getComputedStyle(document.body)[n])")
    ink, back = (sum(map(int, colour[4:-1].split(","))) for colour in colours)
    assert (ink > back) == (scheme == "dark") and abs(ink - back) > 400


def test_choosing_by_keys(browser: Any, serve: Any, session: AnnotationSession) -> None:
    questions = [Question(question.task, (question.answers[0], "Short."), (1, 0)) for question in session.questions]
    choosing = AnnotationSession(session.file.with_name("choices.jsonl"), "me", questions, {}, "x")
    browser.get(serve(choosing))
    for key in "abt":
        keys(browser, key)
    rows, _ = read_annotations(choosing.file, Choice)
    assert [(row.left, row.right, row.chosen) for row in rows] == [(1, 0, "left"), (1, 0, "right"), (1, 0, "tie")]
    assert annotation.points_of_later(rows) == {(0, 1): [1.0, 0.0, 0.5]}
