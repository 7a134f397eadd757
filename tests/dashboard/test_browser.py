"""The dashboard as people use it: in the system's Chromium, with nothing but what it shows."""

from __future__ import annotations

import re
import threading
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import Engine, insert, text

from citus_analytics import GITHUB_ROLLUP_1MIN, run_rollup
from citus_analytics.github.models import github_users
from tests.dashboard.conftest import dashboard_of
from tests.dashboard.test_app import add
from tests.rollups import event
from tests.servers import free_ports

# Without them the fixture `browser` skips every test, and says so.
with suppress(ImportError):
    from axe_playwright_python.sync_playwright import Axe
    from playwright.sync_api import expect

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, BrowserContext, Page
    from sqlalchemy import URL

    from tests.dashboard.conftest import Running

# Whoever leaves cancels what is being asked for them, and SQLAlchemy drops that connection.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

KINDS = ("PushEvent", "WatchEvent", "CreateEvent")


@pytest.fixture
def filled(engine: Engine) -> Engine:
    """The database with 300 events of the last 40 minutes, rolled up."""
    now = datetime.now(UTC)
    with engine.begin() as connection:
        users = [{"user_id": i, "login": f"login-{i}"} for i in range(9)]
        connection.execute(insert(github_users), users)
        add(
            connection,
            [
                event(
                    i % 9,
                    event_id=i,
                    at=now - timedelta(seconds=8 * i + 1),
                    event_type=KINDS[i % 3],
                    repo_id=i % 7,
                    repo={"name": f"owner/repo-{i % 7}"},
                    payload={"distinct_size": 2, "ref_type": "repository"},
                )
                for i in range(300)
            ],
        )
        run_rollup(connection, GITHUB_ROLLUP_1MIN)
    return engine


@pytest.fixture
def runner(engine: Engine) -> Iterator[None]:
    """A service that rolls up four times a second."""
    stop = threading.Event()

    def work() -> None:
        while not stop.wait(0.25):
            with engine.begin() as connection:
                run_rollup(connection, GITHUB_ROLLUP_1MIN)

    thread = threading.Thread(target=work)
    thread.start()
    yield
    stop.set()
    thread.join()


def headline(page: Page, panel: str = "events") -> str:
    return page.locator(f"#live-{panel} .big").inner_text()


def expect_headline(page: Page, number: str, panel: str = "events") -> None:
    expect(page.locator(f"#live-{panel} .big")).to_have_text(number)


def assert_accessible(page: Page) -> None:
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_panels_fill_and_everybody_can_read_them(
    page: Page, dashboard: Running, filled: Engine, scheme: str
) -> None:
    page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    page.goto(f"{dashboard.address}/?range=1h")
    expect(page.locator("#status")).to_have_text("Live")
    expect_headline(page, "300")
    expect_headline(page, "200", "commits")
    expect_headline(page, "9", "users")
    expect(page.locator("#live-active li")).to_have_count(8)
    expect(page.locator("#live-trending li").first).to_contain_text("owner/repo-")
    expect(page.locator("#live-creators li")).to_have_count(3)
    expect(page.locator("#live-heat td a")).not_to_have_count(0)
    expect(page.locator("#live-state")).to_contain_text("PostgreSQL")
    expect(page.locator("#live-latest tbody tr")).to_have_count(8)
    expect(page.locator(".skeleton")).to_have_count(0)
    assert_accessible(page)
    page.get_by_role("link", name=re.compile("^Events: compare")).click()
    expect(page.locator("#more-events .good").first).to_have_text("✓ equal")
    page.get_by_role("link", name="Active users: as a table", exact=True).click()
    expect(page.locator("#more-users tbody tr").first).to_be_visible()
    page.locator("#custom summary").click()
    assert_accessible(page)
    page.goto(f"{dashboard.address}/events?range=1h")
    page.locator("td.payload summary").first.click()
    assert_accessible(page)


def test_filters_change_the_address_and_the_data_and_back_goes_back(
    page: Page, dashboard: Running, filled: Engine
) -> None:
    page.goto(f"{dashboard.address}/?range=1h")
    expect_headline(page, "300")
    page.get_by_label("Type", exact=True).select_option("WatchEvent")
    expect_headline(page, "100")
    assert page.url.endswith("/?range=1h&type=WatchEvent")
    page.locator("#live-active").get_by_role("link", name="login-4", exact=True).click()
    expect(page.locator(".chips")).to_contain_text("login-4")
    expect_headline(page, "33")
    assert page.url.endswith("type=WatchEvent&user=4")
    shared = page.url
    page.go_back()
    expect_headline(page, "100")
    page.go_back()
    expect_headline(page, "300")
    expect(page.get_by_label("Type", exact=True)).to_have_value("")
    page.go_forward()
    expect_headline(page, "100")
    page.goto(shared)
    expect_headline(page, "33")
    page.get_by_role("link", name="Remove the filter User: login-4").click()
    expect_headline(page, "100")
    page.get_by_label("Repository", exact=True).fill("owner/repo-5")
    page.keyboard.press("Enter")
    expect(page.locator(".chips")).to_contain_text("owner/repo-5")
    page.get_by_label("Time zone", exact=True).select_option("Asia/Tokyo")
    page.wait_for_url("**/?range=1h&zone=Asia%2FTokyo&type=WatchEvent&repo=5")
    expect(page.get_by_label("Time zone", exact=True)).to_have_value("Asia/Tokyo")
    expect(page.locator("#status")).to_have_text("Live")


def test_committed_events_appear(
    page: Page, dashboard: Running, filled: Engine, runner: None
) -> None:
    page.goto(f"{dashboard.address}/?range=1h&type=PublicEvent")
    expect(page.locator("#status")).to_have_text("Live")
    expect(page.locator("#live-events")).to_contain_text("No events here")
    for number in range(1, 6):
        with filled.begin() as connection:
            add(connection, [event(1, at=datetime.now(UTC), event_type="PublicEvent")])
        expect_headline(page, str(number))
    # Every panel of the page shows it, and one that takes long does not keep the others waiting.
    expect(page.locator("#live-latest tbody tr")).to_have_count(5)


def test_it_can_be_used_with_the_keyboard_alone(
    page: Page, dashboard: Running, filled: Engine
) -> None:
    page.goto(f"{dashboard.address}/?range=1h")
    expect_headline(page, "300")
    page.keyboard.press("Tab")
    expect(page.locator(".skip")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#main")).to_be_focused()
    for _ in range(30):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.dataset.chart") == "events":
            break
    page.keyboard.press("End")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    tip = page.locator("#tip")
    expect(tip).to_be_visible()
    count = re.search(r"All\s*(\d+)$", tip.inner_text().strip())
    assert count is not None, tip.inner_text()
    expect(page.locator("#announce")).to_contain_text("Push")
    page.keyboard.press("Enter")
    expect(page.locator("h1")).to_have_text(f"{count[1]} events")
    assert page.locator("tbody tr").count() == int(count[1])
    page.go_back()
    expect_headline(page, "300")
    page.locator(".chart[data-chart=events]").focus()
    page.keyboard.press("End")
    page.keyboard.press("+")
    page.wait_for_url("**/?since=*")
    expect(page.locator("#live-events .big")).not_to_have_text("300")
    assert 0 < int(headline(page)) < 300


def test_dragging_over_the_chart_zooms_in(page: Page, dashboard: Running, filled: Engine) -> None:
    page.goto(f"{dashboard.address}/?range=1h")
    expect_headline(page, "300")
    box = page.locator(".chart[data-chart=events] .plot").bounding_box()
    assert box is not None
    y = box["y"] + 100
    page.mouse.move(box["x"] + box["width"] * 0.70, y)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.80, y, steps=5)
    page.mouse.up()
    page.wait_for_url("**/?since=*")
    expect(page.locator("#live-events .big")).not_to_have_text("300")
    assert 30 <= int(headline(page)) <= 80
    page.get_by_role("link", name="Zoom out").click()
    expect(page.locator("#custom summary")).to_have_class("chosen")
    page.get_by_role("link", name="All", exact=True).click()
    expect_headline(page, "300")


def test_what_was_opened_stays_open_while_panels_are_patched(
    page: Page, dashboard: Running, filled: Engine, runner: None
) -> None:
    page.goto(f"{dashboard.address}/?range=1h")
    page.get_by_role("link", name=re.compile("^Events: compare")).click()
    link = page.locator("#panel-events [data-open]").last
    expect(link).to_have_attribute("aria-expanded", "true")
    expect(page.locator("#announce")).to_contain_text("Events: three ways, one moment")
    page.locator("#more-events summary").first.click()
    expect(page.locator("#more-events .plan").first).to_be_visible()
    page.get_by_label("User", exact=True).fill("login-")
    with filled.begin() as connection:
        add(connection, [event(1, at=datetime.now(UTC))])
    expect_headline(page, "301")
    expect(page.locator("#more-events .plan").first).to_be_visible()
    expect(page.get_by_label("User", exact=True)).to_have_value("login-")
    page.locator("#more-events").get_by_role("button", name="Close").click()
    expect(page.locator("#more-events .plan")).to_have_count(0)
    expect(link).to_have_attribute("aria-expanded", "false")
    expect(link).to_be_focused()
    # Nothing of what the stream patches is read out.
    assert page.locator(".live [aria-live], .live [role=status], .live[aria-live]").count() == 0


def test_light_and_dark(page: Page, context: BrowserContext, dashboard: Running) -> None:
    page.emulate_media(color_scheme="light")
    page.goto(dashboard.address)
    back = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(back)
    page.get_by_role("button", name="Switch between light and dark").click()
    dark = page.evaluate(back)
    assert light != dark
    page.reload()
    assert page.evaluate(back) == dark
    context.clear_cookies()
    page.emulate_media(color_scheme="dark")
    page.reload()
    assert page.evaluate(back) == dark


def test_an_empty_database_says_what_to_do(page: Page, dashboard: Running, engine: Engine) -> None:
    page.goto(f"{dashboard.address}/?range=all")
    expect(page.locator("#live-events")).to_contain_text("citus-analytics load events FILE")
    expect(page.locator("#live-state")).to_contain_text("Nothing has been rolled up yet")
    assert_accessible(page)
    with engine.begin() as connection:
        add(connection, [event(1, at=datetime.now(UTC), repo={"name": "a/b"})])
    expect_headline(page, "1")
    assert_accessible(page)


def test_on_a_phone_nothing_is_wider_than_it(
    browser: Browser, dashboard: Running, filled: Engine
) -> None:
    context = browser.new_context(
        viewport={"width": 375, "height": 740}, has_touch=True, is_mobile=True
    )
    page = context.new_page()
    for path in ("/?range=1h", "/events?range=1h", "/?range=1h&zone=Australia/Sydney&user=1"):
        page.goto(dashboard.address + path)
        page.wait_for_timeout(300)
        assert page.evaluate("document.documentElement.scrollWidth") == 375, page.evaluate(
            "[...document.querySelectorAll('*')].filter(e => e.getBoundingClientRect().right > 376)"
            ".map(e => e.outerHTML.slice(0, 90))"
        )
        assert_accessible(page)
    context.close()


def test_older_events_come_when_they_are_asked_for(
    page: Page, dashboard: Running, filled: Engine
) -> None:
    page.goto(f"{dashboard.address}/events?range=1h")
    expect(page.locator("h1")).to_have_text("300 events")
    rows = page.locator("td.when")
    expect(rows).to_have_count(50)
    page.get_by_role("link", name="Older events").click()
    expect(rows).to_have_count(100)
    times = rows.all_inner_texts()
    assert times == sorted(times, reverse=True)


def test_a_server_that_goes_and_comes_back(
    context: BrowserContext, database: URL, filled: Engine
) -> None:
    # The browser itself tells the console of a connection that it has lost.
    page = context.new_page()
    (port,) = free_ports(1)
    with dashboard_of(database, port=port) as running:
        page.goto(f"{running.address}/?range=1h")
        expect(page.locator("#status")).to_have_text("Live")
    expect(page.locator("#status")).to_have_text("Server unreachable")
    expect(page.get_by_role("alert")).to_contain_text("the page goes on by itself")
    expect_headline(page, "300")
    with filled.begin() as connection:
        connection.execute(text("DELETE FROM github_events WHERE event_id < 10"))
    with dashboard_of(database, port=port):
        expect(page.locator("#status")).to_have_text("Live")
        expect_headline(page, "290")
        expect(page.get_by_role("alert")).to_have_count(0)
        page.close()


def test_it_works_without_a_script(browser: Browser, dashboard: Running, filled: Engine) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    # What is not answered in time is there when the page is loaded again.
    for _ in range(20):
        page.goto(f"{dashboard.address}/?range=1h")
        if page.locator("#live-events .big").count():
            break
    expect_headline(page, "300")
    page.get_by_label("Type", exact=True).select_option("PushEvent")
    page.get_by_role("button", name="Apply").click()
    page.wait_for_url("**type=PushEvent")
    for _ in range(20):
        if page.locator("#live-events .big").count():
            break
        page.reload()
    expect_headline(page, "100")
    page.locator("#live-events .big").click()
    expect(page.locator("h1")).to_have_text("100 events")
    page.get_by_role("link", name="Older events").click()
    expect(page.locator("td.when")).to_have_count(50)
    context.close()
