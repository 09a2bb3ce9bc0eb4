"""The explorables in the built book, used as a reader uses them."""

import pytest

from mambaviz.widgets import MemoryDecay
from tests.browser.visiting import PHONE, settle, visit
from tests.browsing import page_with

pytestmark = pytest.mark.browser

CHAPTER = "chapters/zero-order-hold.html"


@pytest.fixture
def chapter(browser, book):
    with visit(browser, book.as_uri() + "/", CHAPTER) as seen:
        yield seen.page


def state(page, box, name):
    return page.evaluate(
        f"document.querySelector('#{box}').model.get('{name}')"
    )


def image(page, box):
    settle(page)
    return page.locator(f"#{box} svg.mv-picture").inner_html()


def sliders(page):
    return page.locator("[data-explorable] input[type=range]")


def test_every_slider_moves_by_keyboard_and_redraws(chapter):
    count = sliders(chapter).count()
    assert count >= 7
    for k in range(count):
        slider = sliders(chapter).nth(k)
        box = slider.evaluate("e => e.closest('[data-explorable]').id")
        name = slider.get_attribute("data-trait")
        slider.focus()
        before = state(chapter, box, name), image(chapter, box)
        value = float(slider.input_value())
        low = float(slider.get_attribute("min"))
        key = "ArrowLeft" if value > low else "ArrowRight"
        slider.press(key)
        slider.press(key)
        after = state(chapter, box, name), image(chapter, box)
        assert before[0] != after[0], (box, name)
        assert before[1] != after[1], (box, name)
        assert slider.get_attribute("aria-valuetext")


def test_every_slider_moves_by_mouse(chapter):
    for k in range(sliders(chapter).count()):
        slider = sliders(chapter).nth(k)
        box = slider.evaluate("e => e.closest('[data-explorable]').id")
        name = slider.get_attribute("data-trait")
        before = state(chapter, box, name)
        slider.scroll_into_view_if_needed()
        at = slider.bounding_box()
        middle = at["y"] + at["height"] / 2
        for share in (0.3, 0.8):
            chapter.mouse.click(at["x"] + share * at["width"], middle)
        assert state(chapter, box, name) != before, (box, name)


def test_a_slider_moves_by_touch(browser, book):
    options = {"viewport": PHONE, "has_touch": True, "is_mobile": True}
    root = book.as_uri() + "/"
    with visit(browser, root, "index.html", **options) as seen:
        page = seen.page
        slider = sliders(page).first
        slider.scroll_into_view_if_needed()
        at = slider.bounding_box()
        assert at["height"] >= 40
        assert at["width"] >= 120
        before = state(page, "memory-decay", "delta")
        middle = at["y"] + at["height"] / 2
        page.touchscreen.tap(at["x"] + 0.9 * at["width"], middle)
        assert state(page, "memory-decay", "delta") > before


def test_reset_brings_the_first_picture_back(chapter):
    for box in ("memory-decay", "hold-it", "five-rules"):
        before = image(chapter, box)
        for slider in chapter.locator(f"#{box} input[type=range]").all():
            slider.focus()
            slider.press("ArrowLeft")
            slider.press("PageUp")
        assert image(chapter, box) != before
        chapter.locator(f"#{box}").get_by_role("button", name="Reset").click()
        assert image(chapter, box) == before


@pytest.mark.parametrize("typed", ["NaN", "-1", "1e9", "", "lots"])
def test_a_senseless_number_is_refused_with_a_message(chapter, typed):
    field = chapter.locator("#memory-decay input[data-field=delta]")
    error = chapter.locator("#memory-decay .mv-error")
    assert not error.is_visible()
    field.fill(typed)
    field.press("Enter")
    field.blur()
    assert error.is_visible()
    assert "Δ must be a number from 0.001 to 1" in error.inner_text()
    assert state(chapter, "memory-decay", "delta") == 0.1
    assert field.input_value() == "0.1"
    field.fill("0,25")
    field.press("Enter")
    assert state(chapter, "memory-decay", "delta") == 0.25
    assert not error.is_visible()


def test_a_shared_link_opens_the_same_picture(browser, book, chapter):
    root = book.as_uri() + "/"
    field = chapter.locator("#memory-decay input[data-field=delta]")
    field.fill("0.37")
    field.press("Enter")
    chapter.locator("#memory-decay").get_by_role("button", name="Copy").click()
    fragment = chapter.evaluate("location.hash")
    before = image(chapter, "memory-decay")
    with visit(browser, root, CHAPTER + fragment) as seen:
        assert state(seen.page, "memory-decay", "delta") == 0.37
        assert image(seen.page, "memory-decay") == before
        assert seen.page.evaluate("scrollY") > 0
        seen.page.locator("#memory-decay").get_by_role(
            "button", name="Reset"
        ).click()
        assert state(seen.page, "memory-decay", "delta") == 0.1


def test_a_senseless_link_is_answered_not_obeyed(browser, book):
    root = book.as_uri() + "/"
    fragment = "#memory-decay?delta=-3&A=NaN&states=99&colour=red"
    with visit(browser, root, CHAPTER + fragment) as seen:
        error = seen.page.locator("#memory-decay .mv-error").inner_text()
        for part in ("Δ must be", "A must be", "States must be", "colour"):
            assert part in error
        assert state(seen.page, "memory-decay", "delta") == 0.1
        assert seen.complaints == []


def test_each_explorable_on_a_page_has_a_state_of_its_own(chapter):
    boxes = chapter.locator("[data-explorable]")
    ids = boxes.evaluate_all("all => all.map((box) => box.id)")
    assert len(set(ids)) == len(ids) >= 3
    before = state(chapter, "five-rules", "delta")
    field = chapter.locator("#memory-decay input[data-field=delta]")
    field.fill("0.9")
    field.press("Enter")
    assert state(chapter, "memory-decay", "delta") == 0.9
    assert state(chapter, "five-rules", "delta") == before


def test_two_of_a_kind_on_a_page_do_not_disturb_each_other(browser):
    page = browser.new_page()
    try:
        page.set_content(page_with(MemoryDecay(), MemoryDecay(delta=0.2)))
        first, second = page.locator("[data-explorable]").all()
        delta = "box => box.model.get('delta')"
        assert [b.evaluate(delta) for b in (first, second)] == [0.1, 0.2]
        before = second.locator("svg.mv-picture").inner_html()
        first.locator("input[data-field=delta]").fill("0.5")
        first.locator("input[data-field=delta]").press("Enter")
        settle(page)
        assert [b.evaluate(delta) for b in (first, second)] == [0.5, 0.2]
        assert second.locator("svg.mv-picture").inner_html() == before
        second.get_by_role("button", name="Reset").click()
        assert [b.evaluate(delta) for b in (first, second)] == [0.5, 0.2]
    finally:
        page.close()


def test_screen_readers_hear_names_values_and_what_is_seen(chapter):
    for box in ("memory-decay", "hold-it", "five-rules"):
        picture = chapter.locator(f"#{box} svg.mv-picture")
        assert len(picture.get_attribute("aria-label")) > 40
        label = chapter.locator(f"#{box} section").get_attribute(
            "aria-labelledby"
        )
        assert chapter.locator(f"#{label}").inner_text().endswith("?")
        for control in chapter.locator(f"#{box} input").all():
            named = control.evaluate(
                """e => e.getAttribute('aria-label')
                  || e.closest('label')?.textContent"""
            )
            assert named
    slider = chapter.locator("#memory-decay input[data-trait=delta]")
    slider.focus()
    slider.press("ArrowRight")
    spoken = chapter.locator("#memory-decay .mv-spoken")
    chapter.wait_for_function(
        "e => e.textContent.includes('half of its weight')",
        arg=spoken.element_handle(),
    )
