"""The page in a real browser: a picture in, classes, attention, and a class that is designed."""

from __future__ import annotations

import base64
import dataclasses
import re
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dedn_jax.inference.classes_file import read_classes
from dedn_jax.serve.studio import Studio
from tests.helpers.picture_runs import PictureRuns
from tests.serve.conftest import Served

pytestmark = pytest.mark.gradio
HOSTILE = """<img src=x onerror="window.owned=1">'`${window.owned=1}{{x}}</script>"""


@pytest.fixture
def page(browser: Any) -> Any:
    context = browser.new_context(viewport={"width": 1200, "height": 900})
    found = context.new_page()
    found.set_default_timeout(20_000)
    yield found
    context.close()


def rows_of(page: Any) -> dict[str, tuple[int, str, float]]:
    """Rank, kind and score of the classes in the table."""
    found = {}
    for row in page.locator("#ranking tbody tr").all():
        rank, name, score = (c.inner_text() for c in row.locator("> *").all()[:3])
        kind = row.locator(".tag").inner_text()
        found[name.removesuffix(kind).strip()] = int(rank), kind, float(score)
    return found


def wait_for_score(page: Any, name: str, score: object) -> None:
    """The table may be drawn for an earlier change first; what it shows in the end counts."""
    end = time.monotonic() + 20
    while (shown := rows_of(page)[name][2]) != score:
        assert time.monotonic() < end, (shown, score)
        page.wait_for_timeout(50)


def choose(page: Any, list_: str, option: str) -> None:
    page.locator(f"{list_} input").click()
    page.locator(f"{list_} [role=option]", has_text=re.compile(re.escape(option) + "$")).click()


def rename(page: Any, before: str, name: str) -> None:
    """Gives the new class a name, once the one before is in the field: it would be written over."""
    field = page.locator("#name input, #name textarea")
    page.wait_for_function(
        "before => document.querySelector('#name input, #name textarea')?.value === before",
        arg=before,
    )
    field.fill(name)


def test_from_a_picture_to_a_designed_class(
    page: Any, served: Served, picture_runs: PictureRuns, tmp_path: Path
) -> None:
    run, picture = picture_runs.small, picture_runs.folder / "class 3" / "5.jpg"
    candidates = run.candidates
    addresses: list[str] = []
    page.on("request", lambda request: addresses.append(request.url))
    page.goto(served.url)
    page.set_input_files("#drop input", picture)
    page.wait_for_selector("#ranking table")
    found = run.predict(picture, top=6)
    shown = rows_of(page)
    assert list(shown) == [found.class_names[k] for k in found.classes[0]]
    for rank, (name, (place, kind, score)) in enumerate(shown.items()):
        k = candidates.names.index(name)
        assert (place, kind) == (rank + 1, "seen" if candidates.seen[k] else "unseen")
        assert score == pytest.approx(found.scores[0, rank], abs=1e-3)

    choose(page, "#attribute", "attribute 4")
    page.wait_for_selector("#attention figcaption:has-text('attribute 4')")
    assert page.locator("#attention img").count() == 2  # of both experts
    choose(page, "#explained", "class 6")
    page.wait_for_selector("#why :text('class 6')")
    total = run.explain(picture, explained="class 6").score.total
    assert f"{total:.3f}" in page.inner_text("#why")

    choose(page, "#base", "class 2")
    page.wait_for_selector("#verdict :text('new class 2')")
    page.wait_for_selector("#ranking :text('new class 2')")
    row = candidates.embeddings[2].copy()
    assert rows_of(page)["new class 2"][1:] == ("designed", design_score(run, picture, row))

    labels = page.locator("#sliders label:visible").all_inner_texts()
    number = page.locator("#sliders input[type=number]:visible").first
    attribute = int(re.search(r"attribute (\d)", labels[0])[1])  # type: ignore[index]
    before = page.inner_text("#verdict")
    row[attribute] = 0.5
    number.fill("0.5")
    wait_for_score(page, "new class 2", design_score(run, picture, row))
    changed = "before => (document.querySelector('#verdict')?.innerText ?? before) !== before"
    page.wait_for_function(changed, arg=before)

    page.locator("#name input, #name textarea").fill(HOSTILE)
    page.wait_for_selector("#verdict :text('onerror')")
    page.click("#keep")
    link = page.wait_for_selector("#kept a").get_attribute("href")
    table = tmp_path / "classes.csv"
    table.write_bytes(base64.b64decode(link.partition("base64,")[2]))
    kept = read_classes(table, candidates.attribute_names)
    assert list(kept) == [HOSTILE]
    np.testing.assert_array_equal(kept[HOSTILE], row)
    assert not page.evaluate("window.owned") and not page.locator("img[src=x]").count()

    assert all(a.startswith((served.url, "data:", "blob:")) for a in addresses)
    assert not [path for path in served.temporary.rglob("*") if not path.is_dir()]
    assert set(served.network.read_text().split("\n")) == {"socket.getaddrinfo 127.0.0.1", ""}


def design_score(run: Any, picture: Path, row: np.ndarray) -> Any:
    found = run.predict(picture, classes={"new": row}, top=9)
    (rank,) = np.flatnonzero(found.classes[0] == 8)
    return pytest.approx(float(found.scores[0, rank]), abs=1e-3)


def test_an_example_and_what_cannot_be_done(page: Any, served: Served, tmp_path: Path) -> None:
    page.goto(served.url)
    page.locator("#drop .drop").wait_for()
    (tmp_path / "text.png").write_text("no picture")
    page.set_input_files("#drop input", tmp_path / "text.png")
    page.wait_for_selector("#drop .alert:has-text('supported format')")
    noise = np.random.default_rng(0).integers(0, 255, (400, 400, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "large.png")
    page.set_input_files("#drop input", tmp_path / "large.png")
    page.wait_for_selector("#drop .alert:has-text('expected at most 0.2 MB')")
    assert not page.locator("#ranking table").count()

    page.locator("[data-example='0']").click()
    page.wait_for_selector("#ranking table")
    choose(page, "#base", "the mean of all classes")
    page.wait_for_selector("#verdict :text('new class')")
    rename(page, "new class", "class 5")
    page.wait_for_selector('.alert:has-text("is one of the run\'s classes")')
    rename(page, "class 5", "mine")
    page.wait_for_selector("#verdict :text('mine')")
    assert not page.locator(".alert:visible").count()
    page.click("#remove")
    page.wait_for_selector("#sliders input[type=range]", state="hidden")
    page.wait_for_selector("#ranking :text('mine')", state="detached")
    assert "mine" not in rows_of(page)


@pytest.mark.parametrize("width", [1200, 390])
def test_nothing_is_wider_than_the_window(browser: Any, served: Served, width: int) -> None:
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme="dark")
    page.goto(served.url)
    page.locator("[data-example='1']").click()
    page.wait_for_selector("#ranking table")
    choose(page, "#base", "class 1")
    page.wait_for_selector("#verdict .verdict")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert not page.evaluate("document.body.classList.contains('dark')")
    page.close()


def test_names_of_classes_and_attributes_are_text(
    page: Any, picture_runs: PictureRuns, tmp_path: Path
) -> None:
    import uvicorn

    from dedn_jax.serve.server import application

    studio = Studio(picture_runs.small)
    studio.candidates = dataclasses.replace(
        studio.candidates,
        names=tuple(f"{HOSTILE}{k}" for k in range(8)),
        attribute_names=tuple(f"{HOSTILE}{a}" for a in range(6)),
    )
    app = application(studio, max_bytes=100_000, loopback=True)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="critical", ws="none"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
        port = server.servers[0].sockets[0].getsockname()[1]
        page.goto(f"http://127.0.0.1:{port}/")
        page.locator("[data-example='0']").click()
        page.wait_for_selector("#ranking table")
        page.locator("#base input").click()
        page.locator("#base [role=option]").nth(2).click()
        page.wait_for_selector("#verdict .verdict")
        assert HOSTILE in page.inner_text("#verdict")
        assert HOSTILE in page.inner_text("#ranking") and HOSTILE in page.inner_text("#why")
        assert HOSTILE in page.inner_text("#sliders")
        assert not page.evaluate("window.owned") and not page.locator("img[src=x]").count()
    finally:
        server.should_exit = server.force_exit = True
        thread.join(60)
