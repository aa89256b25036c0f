"""The report of a run in a real browser, from the disk and without a network: nothing that a model wrote runs.

Needs Chromium with its driver, and selenium (pip install isheep[browser]); skips without them.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from isheep.report import write_report
from tests.helpers.report_runs import ATTACKS, TAKEN, attacking_run, page_data

NUM_PAIRS, NUM_REJECTED = 2 * len(ATTACKS), 2 * len(ATTACKS)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(attacking_run(tmp_path_factory.mktemp("attacked")))


@pytest.fixture
def opened(browser: Any, page: Path) -> Iterator[Any]:
    """The browser with the page, on a wide and light screen."""
    browser.execute_cdp_cmd("Network.enable", {})
    offline = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
    browser.execute_cdp_cmd("Network.emulateNetworkConditions", offline)
    show(browser, page)
    yield browser


def show(browser: Any, page: Path, width: int = 1280, scheme: str = "light") -> None:
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    browser.get(page.as_uri())
    wait(browser, "window.isheepReport?.isReady && window.isheepReport.isDrawn")


def wait(browser: Any, condition: str) -> None:
    from selenium.webdriver.support.wait import WebDriverWait

    WebDriverWait(browser, 60).until(lambda driver: driver.execute_script(f"return {condition}"))


def script(browser: Any, text: str) -> Any:
    return browser.execute_script(f"return {text}")


def choose(browser: Any, kind: str, label: str, value: str) -> str:
    """Set a filter by its label; return what the table says about its number of rows."""
    browser.execute_script(
        """const [kind, label, value] = arguments;
        const of = [...document.querySelectorAll(`form[data-kind=${kind}] label`)];
        const input = of.find((node) => node.firstChild.textContent === label).querySelector("input, select");
        input.value = value;
        input.dispatchEvent(new Event(input.matches("select") ? "change" : "input"));""",
        kind, label, value,
    )  # fmt: skip
    return info(browser, kind)


def info(browser: Any, kind: str) -> str:
    text: str = script(browser, f"document.querySelector('#panel-{kind} .dt-info').textContent")
    return text


def test_every_figure_is_drawn_and_nothing_runs(opened: Any, page: Path) -> None:
    names = [figure["name"] for figure in page_data(page.read_text(encoding="utf-8"))["figures"]]
    drawn = script(
        opened,
        "[...document.querySelectorAll('figure')].filter(f => f.querySelector('svg.marks path')).map(f => f.id)",
    )
    assert drawn == names and len(names) >= 5
    show_every_row(opened)
    assert opened.get_log("browser") == []
    assert "taken" not in opened.title
    assert script(opened, "document.querySelectorAll('#examples img, #examples script, #examples svg, #examples b')"
                          ".length") == 0  # fmt: skip


# For each figure: the room in its card, the width of its picture, and whether a text lies outside the picture.
SIZES = """[...document.querySelectorAll(".chart")].map((chart) => {
  const svg = chart.querySelector("svg.marks").getBoundingClientRect();
  const texts = [...chart.querySelectorAll("svg.marks text")].map((text) => text.getBoundingClientRect());
  return [chart.clientWidth, svg.width, texts.some((box) => box.left < svg.left - 1 || box.right > svg.right + 1)];
})"""


@pytest.mark.parametrize("width", [390, 800, 1280])
def test_figures_are_as_wide_as_their_cards(opened: Any, page: Path, width: int) -> None:
    show(opened, page, width)
    for room, drawn, is_cut in script(opened, SIZES):
        assert 0.95 * room < drawn <= room and not is_cut


def test_figures_are_drawn_again_for_another_width(opened: Any) -> None:
    opened.execute_script("isheepReport.isDrawn = false")
    size = {"width": 600, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    opened.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    wait(opened, "window.isheepReport.isDrawn")
    assert all(0.95 * room < drawn <= room for room, drawn, _ in script(opened, SIZES))


def show_every_row(browser: Any) -> None:
    """Open the details of every row of both tables."""
    for kind in ("generated", "items"):
        browser.execute_script(
            f"""document.getElementById("tab-{kind}").click();
            const length = document.querySelector("#panel-{kind} .dt-length select");
            length.value = "100";
            length.dispatchEvent(new Event("change"));
            for (const row of document.querySelectorAll("#table-{kind} tbody tr")) row.click();"""
        )


def test_texts_are_shown_as_they_are_with_control_characters_as_escapes(opened: Any) -> None:
    texts = []
    for row in range(len(ATTACKS)):
        opened.execute_script(f"document.querySelectorAll('#table-generated tbody tr')[{row}].click()")
        texts.append(
            script(opened, "[...document.querySelectorAll('#detail-generated .text')].map(n => n.textContent)")
        )
    for number, (attack, fields) in enumerate(zip(ATTACKS, texts, strict=True)):
        escaped = attack
        for sign in "\u202e\u202c\u200f\x00\x07\x1b":
            escaped = escaped.replace(sign, f"\\u{ord(sign):04x}")
        assert fields[0] == f"Do {number}: {escaped}"
        assert f"Did in 1: {escaped}" in fields
    # The judge's own words.
    assert any(text.startswith("9||</script>") for text in texts[0])


def test_a_planted_script_does_not_run(opened: Any) -> None:
    planted = f"""(() => {{
        const script = document.createElement("script");
        script.textContent = "{TAKEN}";
        document.body.append(script);
        document.body.insertAdjacentHTML("beforeend", `<img src="data:," onerror="{TAKEN}">`);
        return document.title;
    }})()"""
    assert script(opened, planted) != "taken"
    assert [entry for entry in opened.get_log("browser") if "Content Security Policy" in entry["message"]]


def test_search_and_filters(opened: Any) -> None:
    total = NUM_PAIRS + NUM_REJECTED
    assert info(opened, "generated") == f"1 to 25 of {total}"
    assert choose(opened, "generated", "search", "SCRIPT t2-").startswith("1 to 6 of 6 ")
    assert choose(opened, "generated", "search", "no such word").startswith("no row")
    assert choose(opened, "generated", "search", "").startswith("1 to 25 of")
    assert choose(opened, "generated", "iteration", "2").startswith(f"1 to {total // 2} of {total // 2}")
    assert choose(opened, "generated", "quadrant", "quality high, following low").startswith("1 to 2 of 2")
    assert choose(opened, "generated", "iteration", "").startswith("1 to 4 of 4")
    assert choose(opened, "generated", "quadrant", "").startswith("1 to 25 of")
    assert choose(opened, "generated", "outcome", "rejected by novelty").startswith(f"1 to {NUM_REJECTED} of")
    assert choose(opened, "generated", "outcome", "").startswith("1 to 25 of")
    # The first five of nine pairs of an iteration have five scores, which are repeated: 9, 9, 3, 1, unreadable.
    assert choose(opened, "generated", "quality", "4").startswith("1 to 8 of 8")
    opened.execute_script("document.querySelector('form[data-kind=generated] button').click()")
    assert info(opened, "generated") == f"1 to 25 of {total}"


def test_the_numbers_of_a_filter_follow_the_other_filters(opened: Any) -> None:
    total = NUM_PAIRS + NUM_REJECTED
    assert {f"all ({total})", f"1 ({total // 2})", f"2 ({total // 2})"} == {*options(opened, "iteration")}
    choose(opened, "generated", "outcome", "rejected by novelty")
    # A filter's own choice does not count for its own numbers.
    assert {f"1 ({NUM_REJECTED // 2})", f"2 ({NUM_REJECTED // 2})"} < {*options(opened, "iteration")}
    assert f"all ({total})" in options(opened, "outcome")
    choose(opened, "generated", "iteration", "2")
    assert f"rejected by novelty ({NUM_REJECTED // 2})" in options(opened, "outcome")
    choose(opened, "generated", "search", "no such word")
    assert all(text.endswith(" (0)") for text in options(opened, "outcome"))


def options(browser: Any, label: str) -> list[str]:
    """Return the texts of a filter's options."""
    texts: list[str] = browser.execute_script(
        """const labels = [...document.querySelectorAll("form[data-kind=generated] label")];
        const label = labels.find((node) => node.firstChild.textContent === arguments[0]);
        return [...label.querySelectorAll("option")].map((node) => node.textContent);""",
        label,
    )
    return texts


def test_a_detail_closes_with_its_row(opened: Any) -> None:
    opened.execute_script("document.querySelector('#table-generated tbody tr').click()")
    choose(opened, "generated", "iteration", "1")
    assert "t1-0" in script(opened, "document.getElementById('detail-generated').textContent")
    assert script(opened, "document.querySelectorAll('#table-generated tr[aria-selected=true]').length") == 1
    choose(opened, "generated", "iteration", "2")
    assert script(opened, "document.getElementById('detail-generated').textContent").strip().startswith("Choose a row")


def test_the_table_of_items_is_made_when_it_is_opened(opened: Any) -> None:
    assert script(opened, "document.querySelector('#table-items tbody')") is None
    opened.execute_script("document.getElementById('tab-items').click()")
    assert info(opened, "items").startswith("1 to 25 of 40")


def test_items_right_and_wrong(opened: Any) -> None:
    opened.execute_script("document.getElementById('tab-items').click()")
    assert choose(opened, "items", "base", "right").startswith("1 to 10 of 10 ")
    assert choose(opened, "items", "base", "").startswith("1 to 25 of 40")
    assert choose(opened, "items", "base to last", "became right").startswith("1 to 25 of 30")
    opened.execute_script("document.querySelector('#table-items tbody tr').click()")
    answers = script(opened, "[...document.querySelectorAll('#detail-items .version')].map(n => n.textContent)")
    assert [answer.split()[0] for answer in answers] == ["base", "iteration", "iteration"]
    assert "wrong" in answers[0] and "right" in answers[2] and "iter-2 <img" in answers[2]


def test_the_same_instruction_in_another_iteration_is_beside_it(opened: Any) -> None:
    opened.execute_script("document.querySelector('#table-generated tbody tr').click()")
    [version] = script(opened, "[...document.querySelectorAll('#detail-generated .version')].map(n => n.textContent)")
    assert version.startswith("iteration 2 kept") and "Did in 2: </script>" in version and "quality 9" in version


def test_the_keyboard_alone(opened: Any) -> None:
    from selenium.webdriver.common.action_chains import ActionChains

    opened.execute_script("document.querySelector('#table-generated tbody tr').focus()")
    ActionChains(opened).send_keys("\ue015", "\ue015", "\ue013", "\ue007").perform()
    assert script(opened, "document.querySelector('#detail-generated .note').textContent").startswith("t1-1")
    assert script(opened, "document.querySelectorAll('tr[aria-selected=true]').length") == 1


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_narrow_screen_and_follows_the_scheme(opened: Any, page: Path, width: int, scheme: str) -> None:
    show(opened, page, width, scheme)
    show_every_row(opened)
    assert script(opened, "document.documentElement.scrollWidth <= innerWidth")
    colours = script(opened, "['color', 'backgroundColor'].map(n => getComputedStyle(document.body)[n])")
    ink, back = (sum(map(int, colour[4:-1].split(","))) for colour in colours)
    assert (ink > back) == (scheme == "dark") and abs(ink - back) > 400
    assert script(opened, "document.querySelector('.chart').dataset.drawn") == scheme
    opened.execute_script("document.getElementById('scheme').click()")
    wait(opened, f"[...document.querySelectorAll('.chart')].every(n => n.dataset.drawn !== '{scheme}')")
    opened.execute_script("localStorage.clear()")
    assert opened.get_log("browser") == []


def test_a_page_under_way_reads_itself_again_and_keeps_filters(opened: Any, page: Path) -> None:
    under_way = write_report(page.parent, page.with_name("going.html"), is_under_way=True)
    show(opened, under_way)
    assert "under way" in script(opened, "document.getElementById('state').textContent")
    choose(opened, "generated", "search", "did in 2")
    choose(opened, "generated", "quadrant", "quality high, following low")
    opened.execute_script("window.wasHere = true; scrollTo(0, 700); isheepReport.reload()")
    wait(opened, "!window.wasHere && window.isheepReport?.isReady")
    assert info(opened, "generated").startswith("1 to 2 of 2 ")
    assert script(opened, "scrollY") == 700
    assert script(opened, "document.querySelector('form[data-kind=generated] [type=search]').value") == "did in 2"
