"""The inspection page in a real browser, against the real service: what an inspector sees and does."""

import os
import re
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import uvicorn
from axe_playwright_python.sync_playwright import Axe
from fastapi import FastAPI
from fastapi.testclient import TestClient
from PIL import Image
from playwright.sync_api import (
    Browser,
    ConsoleMessage,
    Dialog,
    Locator,
    Page,
    Playwright,
    Route,
    expect,
    sync_playwright,
)

from infra.local.cluster import free_port
from o2n.calibration import decide
from o2n.features import features_to_compare
from o2n.images import Picture, encode_png, resize
from o2n.onboard import onboard
from o2n.references import References
from o2n.store import CategoryStore
from o2n.tokens import create_token
from o2n.triplet import TripletScorer
from serve import page as pages
from serve.auth import Doorkeeper
from serve.gateway import create_app
from serve.service import Service
from tests.helpers import QUICK, checks, stripes
from tests.serve.conftest import InProcess

pytestmark = pytest.mark.cluster

# A score of a loaded machine of two cores may take seconds; nothing here is about speed.
PATIENCE = 60_000


def damaged(seed: int) -> Picture:
    picture = checks(seed)
    picture[20:36, 24:44] = (200, 30, 30)
    return picture


# ------------------------------------------------------------------------------------------------ the files themselves


def test_the_page_is_static_cached_and_under_a_strict_policy() -> None:
    app = FastAPI()
    app.include_router(pages.router)
    client = TestClient(app)
    html = client.get("/")
    assert html.headers["content-type"] == "text/html; charset=utf-8"
    linked = re.findall(r'(?:src|href)="([^"]+)"', html.text)
    assert {"page/page.js", "page/page.css", "page/icon.svg"} <= set(linked)
    for path in {"", *linked}:
        answer = client.get(f"/{path}")
        assert answer.status_code == 200, path
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert "unsafe" not in answer.headers["content-security-policy"]
        assert answer.headers["cache-control"] == "no-cache"
        again = client.get(f"/{path}", headers={"If-None-Match": answer.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        assert client.head(f"/{path}").status_code == 200


def test_every_file_of_the_folder_is_served_and_nothing_else() -> None:
    app = FastAPI()
    app.include_router(pages.router)
    client = TestClient(app)
    for path in pages.FOLDER.iterdir():
        assert client.get(f"/page/{path.name}").content == path.read_bytes()
    for name in ("..%2Fpage.py", "%2e%2e%2fpage.py", "page.py", ".", "page.js%00", "PAGE.JS"):
        assert client.get(f"/page/{name}").status_code == 404


# --------------------------------------------------------------------------------------------------------- the browser


@pytest.fixture(scope="module")
def playwright() -> Iterator[Playwright]:
    with sync_playwright() as started:
        yield started


@pytest.fixture(scope="module")
def browser(playwright: Playwright) -> Iterator[Browser]:
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        reason = "no Chromium on the PATH: apt-get install chromium"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    # In a container as root Chromium's own sandbox cannot start.
    with playwright.chromium.launch(executable_path=found, args=["--no-sandbox"]) as started:
        yield started


class Watched:
    """What went wrong in a browser tab: uncaught errors, violations of the policy, requests that left the service."""

    def __init__(self, page: Page, url: str) -> None:
        self.complaints: list[str] = []
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", self._hear)
        page.on("dialog", self._answer)
        page.on(
            "request",
            lambda request: self.complaints.append(request.url) if not request.url.startswith((url, "blob:")) else None,
        )

    def _answer(self, dialog: Dialog) -> None:
        if dialog.message.startswith("Let version"):
            dialog.accept()
        else:  # an alert that a hostile name has brought about
            self.complaints.append(dialog.message)
            dialog.dismiss()

    def _hear(self, message: ConsoleMessage) -> None:
        # The browser itself notes every answer that is an error; those that a test provokes are looked at there.
        if message.type in ("error", "warning") and not message.text.startswith("Failed to load resource"):
            self.complaints.append(message.text)


@contextmanager
def opened(browser: Browser, url: str) -> Iterator[Page]:
    with browser.new_context(viewport={"width": 1280, "height": 900}) as context:
        context.set_default_timeout(PATIENCE)
        expect.set_options(timeout=PATIENCE)
        page = context.new_page()
        watched = Watched(page, url)
        page.goto(f"{url}/")
        yield page
        assert watched.complaints == []


@pytest.fixture
def page(browser: Browser, service: str) -> Iterator[Page]:
    """The page of the service on Ray, which asks for no token."""
    with opened(browser, service) as page:
        expect(page.get_by_label("Category", exact=True)).to_be_enabled()
        yield page


@pytest.fixture(scope="module")
def guarded(published: CategoryStore) -> Iterator[str]:
    """The URL of an application that does ask for tokens, in this process."""
    app = create_app(Service(published, InProcess(published)), Doorkeeper(published))
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=free_port(), log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.1)
    yield f"http://127.0.0.1:{server.config.port}"
    server.should_exit = True
    thread.join()


def upload(picture: Picture, name: str) -> dict[str, object]:
    return {"name": name, "mimeType": "image/png", "buffer": encode_png(picture)}


def choose(page: Page, category: str, *files: dict[str, object]) -> None:
    page.get_by_label("Category", exact=True).select_option(category)
    expect(page.get_by_role("heading", name=f"Category {category}")).to_be_visible()
    if files:
        before = rows(page).count()
        page.locator("#files").set_input_files(files)
        expect(page.locator(".scored[role=option], .refused[role=option]")).to_have_count(before + len(files))


def rows(page: Page) -> Locator:
    """Read them by `text_content`: `inner_text` of a row that was just moved is empty until it is drawn
    (`content-visibility`)."""
    return page.get_by_role("option").filter(has=page.locator("bdi"))


def row(page: Page, name: str) -> Locator:
    return rows(page).filter(has_text=name)


def shown_score(located: Locator) -> float:
    return float(located.locator(".value").text_content() or "nan")


def look_at(page: Page, name: str) -> None:
    row(page, name).click()
    expect(page.locator("#name")).to_have_text(name)


# ---------------------------------------------------------------------------------------------------------- the tokens


def test_a_token_is_asked_for_once_and_stays_in_the_tab(
    browser: Browser, guarded: str, published: CategoryStore
) -> None:
    secret = create_token(published, "page-inspector", ["score"])
    with opened(browser, guarded) as page:
        token = page.get_by_label("Token", exact=True)
        token.fill(f"{secret}\u200b")
        page.get_by_role("button", name="Use it").click()
        expect(page.locator("#sign-in-why")).to_contain_text("perhaps unseen ones: paste it again")
        token.fill("o2n_wrong")
        page.get_by_role("button", name="Use it").click()
        expect(page.locator("#sign-in-why")).to_contain_text("unknown or was revoked")
        expect(token).to_be_focused()
        page.keyboard.type(secret)
        page.keyboard.press("Enter")
        expect(page.get_by_label("Category", exact=True)).to_be_enabled()
        page.reload()
        expect(page.get_by_label("Category", exact=True)).to_be_enabled()
        expect(page.get_by_role("dialog")).to_be_hidden()
        assert secret not in page.url
        assert page.evaluate("() => [localStorage.length, document.cookie]") == [0, ""]
        page.get_by_role("button", name="Forget the token").click()
        expect(page.get_by_role("dialog")).to_be_visible()


def test_what_a_token_may_not_do_is_said(browser: Browser, guarded: str, published: CategoryStore) -> None:
    secret = create_token(published, "page-camera", ["score"])
    with opened(browser, guarded) as page:
        page.get_by_label("Token", exact=True).fill(secret)
        page.get_by_role("button", name="Use it").click()
        expect(page.get_by_label("Category", exact=True)).to_be_enabled()
        choose(page, "checks", upload(checks(60), "a.png"))
        page.get_by_role("button", name="It is normal").click()
        expect(page.locator("#problem")).to_contain_text("token page-camera has no scope 'feedback'")


def test_a_service_that_asks_for_no_token_is_left_alone(page: Page) -> None:
    expect(page.get_by_role("dialog")).to_be_hidden()
    expect(page.get_by_role("button", name="Forget the token")).to_be_hidden()


# ------------------------------------------------------------------------------------------------------------ pictures


def test_scores_and_decisions_are_the_librarys(page: Page, published: CategoryStore) -> None:
    pictures = {"good.png": checks(30), "bad.png": damaged(31), "other.png": stripes(32)}
    choose(page, "checks", *(upload(picture, name) for name, picture in pictures.items()))
    ref = published.current("checks")
    expected = TripletScorer(QUICK, published).score(list(pictures.values()), [ref] * len(pictures))
    calibration = published.calibration(ref)
    for name, score in zip(pictures, expected, strict=True):
        assert shown_score(row(page, name)) == pytest.approx(score.score, rel=1e-3)
        look_at(page, name)
        decision = decide(score.score, calibration, 0.05)
        expect(page.locator("#decision")).to_have_text("Anomalous" if decision.is_anomalous else "Normal")
        expect(row(page, name).locator(".badge")).to_have_text("anomalous" if decision.is_anomalous else "normal")
        expect(page.locator("#note")).to_have_text(decision.note or "")
        branches = page.locator("#scores tbody tr td:nth-of-type(2)").all_inner_texts()
        found = [float(text) for text in branches]
        assert found == pytest.approx([score.s_p, score.s_n, score.s_text, score.score], rel=1e-3, abs=1e-4)


def test_the_rate_is_moved_on_the_page_and_decides_as_the_library_does(page: Page, published: CategoryStore) -> None:
    pictures = [damaged(31), *(checks(seed) for seed in range(33, 37))]
    choose(page, "checks", *(upload(picture, f"{index}.png") for index, picture in enumerate(pictures)))
    ref = published.current("checks")
    scores = TripletScorer(QUICK, published).score(pictures, [ref] * len(pictures))
    calibration = published.calibration(ref)
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    slider = page.get_by_label("Good parts called anomalous")
    for place in ("0", "35", "70", "100"):
        slider.fill(place)
        rate = float(page.locator("#rate-value").inner_text().removesuffix("%")) / 100
        decisions = [decide(score.score, calibration, max(rate, 1 / (len(calibration.scores) + 1))) for score in scores]
        badges = rows(page).locator(".badge").all_text_contents()
        assert badges == ["anomalous" if decision.is_anomalous else "normal" for decision in decisions]
        threshold = re.search(r"threshold (\S+)", page.locator("#reason").inner_text())
        assert threshold is not None
        assert float(threshold[1]) == pytest.approx(decisions[0].threshold, rel=1e-3)
    assert requests == []


def test_pictures_can_be_dropped_and_pasted(page: Page) -> None:
    choose(page, "checks")
    make_transfer = """([bytes, name]) => {
        const transfer = new DataTransfer();
        transfer.items.add(new File([new Uint8Array(bytes)], name, { type: "image/png" }));
        return transfer;
    }"""
    transfer = page.evaluate_handle(make_transfer, [list(encode_png(checks(40))), "dropped.png"])
    page.dispatch_event("body", "drop", {"dataTransfer": transfer})
    pasted = page.evaluate_handle(make_transfer, [list(encode_png(checks(41))), "pasted.png"])
    page.evaluate(
        "(data) => document.body.dispatchEvent(new ClipboardEvent('paste', {clipboardData: data, bubbles: true}))",
        pasted,
    )
    expect(rows(page)).to_have_count(2)
    expect(row(page, "dropped.png")).to_have_class(re.compile("scored"))
    expect(row(page, "pasted.png")).to_have_class(re.compile("scored"))


def test_a_bad_picture_has_its_reason_and_sinks_no_other(page: Page) -> None:
    bad = {"name": "bad.png", "mimeType": "image/png", "buffer": b"no picture"}
    choose(page, "checks", upload(checks(42), "first.png"), bad, upload(checks(43), "last.png"))
    expect(page.locator("#progress-text")).to_have_text("2 scored, 1 refused")
    expect(row(page, "bad.png")).to_contain_text("refused")
    look_at(page, "bad.png")
    expect(page.locator("#refusal")).to_contain_text("bad.png: is no picture of a format that is read")
    expect(page.locator("#figures")).to_be_hidden()


def test_a_list_is_sorted_and_cleared(page: Page) -> None:
    uploads = [upload(checks(44), "0.png"), upload(damaged(45), "1.png"), upload(checks(46), "2.png")]
    choose(page, "checks", *uploads)
    names = rows(page).locator(".name")
    assert names.all_text_contents() == ["0.png", "1.png", "2.png"]
    page.get_by_label("Sort").select_option("by score")
    assert names.first.text_content() == "1.png"
    scores = [float(text) for text in rows(page).locator(".value").all_text_contents()]
    assert scores == sorted(scores, reverse=True)
    # Each category has its own list.
    choose(page, "stripes")
    expect(rows(page)).to_have_count(0)
    choose(page, "checks")
    expect(rows(page)).to_have_count(3)
    page.get_by_role("button", name="Take it off the list").click()
    expect(rows(page)).to_have_count(2)
    page.get_by_role("button", name="Clear").click()
    expect(rows(page)).to_have_count(0)
    expect(page.locator("#detail")).to_be_hidden()


def test_a_format_that_browsers_do_not_show_is_shown_by_the_service(page: Page, tmp_path: Path) -> None:
    Image.fromarray(checks(47, 60, 90)).save(tmp_path / "scan.tiff")
    choose(page, "checks")
    page.locator("#files").set_input_files(tmp_path / "scan.tiff")
    expect(row(page, "scan.tiff")).to_have_class(re.compile("scored"))
    assert page.locator("#query").evaluate("image => [image.naturalWidth, image.naturalHeight]") == [90, 60]


# -------------------------------------------------------------------------------------------------------- what is shown

PIXELS = """image => {
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
    const context = canvas.getContext("2d");
    context.drawImage(image, 0, 0);
    return [canvas.height, canvas.width, Array.from(context.getImageData(0, 0, canvas.width, canvas.height).data)];
}"""


def pixels(image: Locator) -> Picture:
    expect(image).to_be_visible()
    image.evaluate("image => image.decode()")
    height, width, values = image.evaluate(PIXELS)
    return np.array(values, np.uint8).reshape(height, width, 4)[..., :3]


def test_counterpart_and_nearest_reference_are_the_librarys(page: Page, published: CategoryStore) -> None:
    query = damaged(1)
    choose(page, "checks", upload(query, "query.png"))
    ref = published.current("checks")
    scorer = TripletScorer(QUICK, published)
    (score,) = scorer.score([query], [ref])
    assert np.abs(pixels(page.locator("#counterpart")).astype(int) - score.counterpart).max() <= 1
    side = QUICK.diffusion.resolution
    features = features_to_compare(scorer.foundation, [resize(query, side)])[0]
    reference = pixels(page.locator("#reference"))
    np.testing.assert_array_equal(reference, References(scorer.foundation, published).nearest(features, ref))
    np.testing.assert_array_equal(reference, resize(checks(1), side))
    np.testing.assert_array_equal(pixels(page.locator("#query")), query)


def test_the_heat_map_is_hot_where_the_library_says_and_fades(page: Page, published: CategoryStore) -> None:
    query = damaged(31)
    choose(page, "checks", upload(query, "query.png"))
    (score,) = TripletScorer(QUICK, published).score([query], [published.current("checks")])
    canvas = page.locator("#heat")
    data = canvas.evaluate("c => Array.from(c.getContext('2d').getImageData(0, 0, c.width, c.height).data)")
    alpha = np.array(data).reshape(256, 256, 4)[..., 3]
    hottest = np.array(np.unravel_index(alpha.argmax(), alpha.shape)) * len(score.anomaly_map) // 256
    values = score.anomaly_map
    assert values[tuple(hottest)] == pytest.approx(float(values.max()), abs=0.05 * float(np.ptp(values)))
    opacity = page.get_by_label("Heat map", exact=True)
    for value in ("0", "100", "30"):
        opacity.fill(value)
        assert canvas.evaluate("c => getComputedStyle(c).opacity") == f"{int(value) / 100:g}"


def test_the_swipe_follows_pointer_and_keys(page: Page) -> None:
    choose(page, "checks", upload(damaged(31), "query.png"))
    swipe = page.get_by_label("How much of the picture covers its counterpart")
    swipe.scroll_into_view_if_needed()

    def handle() -> float:
        """Where the handle is, as a share of the picture's width."""
        return page.evaluate(
            """() => {
                const box = (selector) => document.querySelector(selector).getBoundingClientRect();
                const [frame, handle] = [box(".swipe"), box(".swipe .handle")];
                return (handle.left + handle.width / 2 - frame.left) / frame.width;
            }"""
        )

    box = swipe.bounding_box()
    assert box is not None
    y = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + box["width"] / 2, y)
    page.mouse.down()
    for share in (0.25, 0.8):
        page.mouse.move(box["x"] + share * box["width"], y)
        assert handle() == pytest.approx(share, abs=0.02)
    page.mouse.up()
    swipe.focus()
    page.keyboard.press("Home")
    assert handle() == pytest.approx(0, abs=0.01)
    page.keyboard.press("End")
    page.keyboard.press("ArrowLeft")
    assert handle() == pytest.approx(0.995, abs=0.01)


# ------------------------------------------------------------------------------------------------ feedback and versions


def test_feedback_makes_a_version_and_a_rollback_takes_it_back(page: Page, published: CategoryStore) -> None:
    first = onboard("inspected", [checks(0), checks(1)], QUICK, published).ref
    page.reload()
    choose(page, "inspected", upload(damaged(50), "shadow.png"))
    before = shown_score(row(page, "shadow.png"))
    page.get_by_label("Note").fill("a shadow, <b>no</b> scratch")
    page.get_by_role("button", name="It is normal").click()
    expect(page.locator("#thanks")).to_contain_text("Learned as normal, by anybody")
    second = published.current("inspected")
    assert second != first
    versions = page.locator("#history li")
    expect(versions).to_have_count(2)
    expect(versions.first).to_contain_text(f"{second.version} serves now")
    expect(versions.first).to_contain_text("anybody said is normal")
    expect(versions.first).to_contain_text("a shadow, <b>no</b> scratch")
    expect(page.locator("#outdated")).to_contain_text(first.version)

    page.get_by_role("button", name="Score this picture again").click()
    expect(row(page, "shadow.png")).to_have_class(re.compile("^scored"))
    expect(page.locator("#outdated")).to_be_hidden()
    assert shown_score(row(page, "shadow.png")) < before
    np.testing.assert_array_equal(pixels(page.locator("#reference")), resize(damaged(50), QUICK.diffusion.resolution))

    page.get_by_role("button", name="It is anomalous").click()
    expect(page.locator("#thanks")).to_contain_text("Kept as anomalous, by anybody")
    assert published.current("inspected") == second

    page.get_by_role("button", name="Withdraw").click()
    expect(page.locator("#thanks")).to_contain_text("Withdrawn, by anybody")
    third = published.current("inspected")
    assert published.manifest(third).blobs == published.manifest(first).blobs
    expect(versions.first).to_contain_text(f"{third.version} serves now")
    expect(versions.first).to_contain_text("anybody withdrew")

    page.get_by_role("button", name=f"Let version {first.version} serve").click()
    expect(page.locator("#rolled")).to_contain_text(f"Version {first.version} serves now")
    expect(versions.first).to_contain_text(f"{first.version} serves now")
    assert published.current("inspected") == first


def test_another_category_may_be_chosen_while_a_verdict_is_sent(page: Page, published: CategoryStore) -> None:
    first = onboard("judged", [checks(0), checks(1)], QUICK, published).ref
    page.reload()
    choose(page, "judged", upload(damaged(50), "shadow.png"))
    held: list[Route] = []
    page.route("**/feedback", lambda route: held.append(route))
    page.get_by_role("button", name="It is normal").click()
    expect(page.locator("#thanks")).to_have_text("Sending…")
    choose(page, "stripes")
    held[0].continue_()
    page.wait_for_function("() => !document.getElementById('feedback').disabled", timeout=5_000)
    expect(page.locator("#problem")).to_be_hidden()
    expect(page.get_by_role("heading", name="Category stripes")).to_be_visible()
    assert published.current("judged") != first


def test_a_version_that_cannot_serve_is_told_with_the_reason(page: Page, published: CategoryStore) -> None:
    ref = onboard("declined", [checks(0), checks(1)], QUICK, published).ref
    page.reload()
    choose(page, "declined", upload(checks(2), "part.png"))
    shown_score(row(page, "part.png"))
    expect(page.locator("#refused")).to_be_hidden()
    published.publish(published.manifest(ref).model_copy(update={"foundation": "another model"}))
    time.sleep(2)  # a gateway looks at a pointer once a second
    page.reload()
    choose(page, "declined", upload(checks(2), "part.png"))
    shown_score(row(page, "part.png"))
    expect(page.locator("#refused")).to_contain_text("another model")
    expect(page.locator("#history li")).to_have_count(1)
    published.delete("declined")


# ------------------------------------------------------------------------------------------------------ hostile, usable

HOSTILE = [
    "<img src=x onerror=alert(1)>.png",
    "<script>alert(1)</script>.png",
    "\u202egnp.exe.png",
    '"; DROP TABLE pictures; --\r\nX-Injected: 1.png',
    "{{7*7}}${7*7}" + "x" * 180 + ".png",
]


def test_hostile_names_are_text(page: Page, published: CategoryStore) -> None:
    word = "<b onclick=alert(1)>part</b>"
    onboard("hostile", [checks(0), checks(1)], QUICK, published, object_word=word)
    page.reload()
    choose(page, "hostile", *(upload(checks(51), name) for name in HOSTILE))
    assert rows(page).locator(".name").evaluate_all("all => all.map((name) => name.textContent)") == HOSTILE
    assert [
        re.search("scored", found) is not None
        for found in rows(page).evaluate_all("all => all.map((r) => r.className)")
    ]
    assert page.locator("#list :is(img, script), #facts b, #detail h2 *:not(bdi)").count() == 0
    expect(page.locator("#facts")).to_contain_text(word)
    for name in HOSTILE:
        bad = {"name": name, "mimeType": "image/png", "buffer": b"no picture"}
        page.locator("#files").set_input_files(bad)
    expect(page.locator("#progress-text")).to_have_text(f"{len(HOSTILE)} scored, {len(HOSTILE)} refused")
    rows(page).nth(len(HOSTILE)).click()
    expect(page.locator("#refusal")).to_contain_text("<img src=x onerror=alert(1)>.png: is no picture")
    assert page.locator("#refusal *").count() == 0
    page.goto(page.url.partition("#")[0] + "#%3Cimg%20src%3Dx%20onerror%3Dalert(1)%3E")
    expect(page.get_by_label("Category", exact=True)).to_be_enabled()


def test_everything_can_be_done_with_the_keyboard(page: Page, tmp_path: Path) -> None:
    keys = page.keyboard
    focused = page.locator(":focus")

    def tab_to(wanted: Locator, limit: int = 30) -> None:
        for _ in range(limit):
            if wanted.evaluate("element => element === document.activeElement"):
                parts = "e => [e, e.nextElementSibling, e.parentElement].filter(Boolean)"
                outlines = wanted.evaluate(f"e => ({parts})(e).map((x) => getComputedStyle(x).outlineStyle)")
                assert set(outlines) != {"none"}, "what has the focus does not show it"
                return
            keys.press("Tab")
        pytest.fail(f"{wanted} is not reached")

    files = [tmp_path / "0.png", tmp_path / "1.png"]
    for index, file in enumerate(files):
        file.write_bytes(encode_png(checks(52 + index)))
    # From the start: the browser takes over its own dialog some time after it is asked to, and a key does not wait.
    page.on("filechooser", lambda chooser: chooser.set_files(files))
    tab_to(page.get_by_label("Category", exact=True))
    keys.type("checks")
    expect(page.get_by_role("heading", name="Category checks")).to_be_visible()
    tab_to(page.locator("#files"))
    keys.press("Enter")
    expect(page.locator("#progress-text")).to_have_text("2 scored")
    tab_to(page.get_by_label("Good parts called anomalous"))
    before = page.locator("#rate-value").inner_text()
    keys.press("End")
    assert page.locator("#rate-value").inner_text() != before
    tab_to(rows(page).first)
    keys.press("ArrowDown")
    expect(page.locator("#name")).to_have_text("1.png")
    expect(rows(page).nth(1)).to_be_focused()
    tab_to(page.get_by_label("Heat map", exact=True))
    keys.press("Home")
    assert page.locator("#heat").evaluate("c => getComputedStyle(c).opacity") == "0"
    tab_to(page.get_by_label("How much of the picture covers its counterpart"))
    keys.press("End")
    tab_to(page.get_by_label("Note"))
    keys.type("by keyboard")
    tab_to(page.get_by_role("button", name="It is anomalous"))
    keys.press("Enter")
    expect(page.locator("#thanks")).to_contain_text("Kept as anomalous")
    expect(focused).to_have_count(1)
    tab_to(page.get_by_role("button", name="Take it off the list"))
    keys.press("Enter")
    expect(rows(page)).to_have_count(1)


# Of a select, whose text is cut off without a trace: how much wider a copy is that takes what it needs, pixels.
MISSING_WIDTH = """select => {
  const copy = select.cloneNode(true);
  copy.style.cssText = "flex: none; width: max-content; min-width: 0";
  select.after(copy);
  const missing = copy.offsetWidth - select.offsetWidth;
  copy.remove();
  return missing;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("width", "height"), [(1440, 900), (820, 1180), (390, 844)])
def test_nothing_is_cut_off_and_nothing_is_hard_to_read(page: Page, scheme: str, width: int, height: int) -> None:
    page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
    page.set_viewport_size({"width": width, "height": height})
    choose(page, "checks", upload(damaged(54), "bad.png"), upload(checks(55, 40, 160), "wide.png"))
    for name in ("wide.png", "bad.png"):
        look_at(page, name)
        outside = "all => all.filter((e) => e.getBoundingClientRect().right > innerWidth).map((e) => e.outerHTML)"
        assert page.locator("body *:visible").evaluate_all(outside) == []
    assert page.get_by_label("Sort").evaluate(MISSING_WIDTH) <= 0
    # Contrast, names, roles: axe-core's rules for WCAG 2.2 AA.
    found = Axe().run(page, options={"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]})
    assert found.response["violations"] == [], found.generate_report()
