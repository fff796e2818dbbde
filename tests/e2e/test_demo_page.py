"""The demo in a real Chromium: its answers against evaluate's and predict's, by key, pointer, drop, paste, chooser."""

import base64
import contextlib
import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from classifier.runner import files
from tests.project import Project, kill_group, one_line
from tests.support import own
from tests.support.browser import Browser, cannot_run, contrast, find_program
from tests.support.linear import write_linear_model

import numpy as np
import onnxruntime
import pytest
from PIL import Image, ImageOps
from selenium.common import TimeoutException
from selenium.webdriver import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement

EXACT = 2e-5  # predict rounds to six decimals; WebAssembly adds in another order
BUILD = (sys.executable, "-m", "demo.build")
PHONE, HEIGHT = 360, 740  # CSS pixels


class Page:
    """The page as a person meets it."""

    def __init__(self, browser: Browser, address: str):
        self.browser, self.driver = browser, browser.driver
        self.driver.get(address)
        self.browser.wait_until(lambda: self.text("source"))  # it opens with the answer to the first sample

    def part(self, name: str) -> WebElement:
        return self.driver.find_element(By.ID, name)

    def parts(self, selector: str) -> list[WebElement]:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def text(self, name: str) -> str:
        return self.part(name).text

    def must_show(self, name: str, start: str) -> None:
        """Wait until a part of the page starts with these words."""
        self.browser.wait_until(lambda: self.text(name).startswith(start))

    def samples(self) -> list[str]:
        """Names of the sample images, in the order of the page."""
        model = self.driver.execute_async_script("fetch('model.json').then((r) => r.json()).then(arguments[0])")
        return [sample["name"] for sample in model["samples"]]

    def choose(self, number: int) -> None:
        self.parts("#samples label")[number].click()

    def probabilities(self) -> dict[str, float]:
        """As the meters say them, by class name."""
        meters = "[...document.querySelectorAll('[role=meter]')]"
        said = self.driver.execute_script(f"return {meters}.map((m) => [m.ariaLabel, m.ariaValueNow])")
        return {name: float(value) for name, value in said}

    def must_say(self, source: str, expected: dict[str, float]) -> None:
        """Wait for the answer to a picture, and compare everything that shows it."""
        close = pytest.approx(expected, abs=EXACT)
        with contextlib.suppress(TimeoutException):  # what is compared next says more
            self.browser.wait_until(lambda: self.text("source").startswith(source) and self.probabilities() == close)
        assert self.text("source").startswith(source)
        assert self.probabilities() == close
        best = max(expected, key=lambda name: expected[name])
        assert self.text("prediction") == f"{best}, {expected[best]:.1%}"
        rows = self.parts("#bars li")
        assert [row.text.splitlines()[0] for row in rows] == list(expected)
        assert [row.get_attribute("class") for row in rows].index("likeliest") == list(expected).index(best)
        for row, probability in zip(rows, expected.values(), strict=True):
            assert float(row.text.splitlines()[1].rstrip("%")) == pytest.approx(100 * probability, abs=0.051)


@pytest.fixture(scope="session")
def demo(finished_template: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project whose page is built."""
    find_program(("npm",), "npm")
    project = finished_template.copy(tmp_path_factory.mktemp("demo") / "project")
    try:
        project.run(*BUILD, "--build-only")
    except AssertionError as error:
        if "npm could not fetch" in str(error):
            cannot_run(str(error))
        raise
    return project


@contextlib.contextmanager
def served(project: Project) -> Iterator[str]:
    """The address of the page, served by the command that a person types."""
    process = project.start(*BUILD, "--port", "0")
    assert process.stdout
    yield next(line for line in process.stdout if "http://" in line or process.poll() is not None).split()[2]
    kill_group(process, signal.SIGINT)
    assert process.returncode == 0, process.stderr


@pytest.fixture(scope="session")
def address(demo: Project) -> Iterator[str]:
    with served(demo) as address:
        yield address


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Page]:
    """The open page; after every test its console must be empty and no other host asked for anything."""
    yield Page(browser, address)
    assert browser.console() == []
    assert browser.hosts() == {urlsplit(address).netloc}


def predict(project: Project, path: Path, *words: str) -> dict[str, float]:
    (answer,) = json.loads(project.tool("predict", "--json", str(path), *words).stdout)
    return dict(answer["probabilities"])


@pytest.fixture(scope="session")
def photo(demo: Project, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture of another size, shape and mode than the model's: a test image in colors, dark on light."""
    image = ImageOps.invert(Image.open(demo.test_images() / "test/00000.png"))
    image = image.resize((301, 217), Image.Resampling.BICUBIC)
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    ImageOps.colorize(image, "#200000", "#f0fff0").save(path)
    return path


def test_of_many_classes_the_likeliest_come_first(demo: Project, browser: Browser, address: str) -> None:
    path = demo.root / "scratch/demo/site/model.json"
    whole = path.read_text()
    model = json.loads(whole)
    names = model["class_names"]
    path.write_text(json.dumps({**model, "class_names": [*names, *(f"other {n}" for n in range(20))]}))
    try:
        page = Page(browser, address)
    finally:
        path.write_text(whole)
    shown = page.probabilities()
    assert sorted(shown) == sorted(names), "ten are known to the model, so no other can be likelier"
    assert sorted(shown.values(), reverse=True) == [*shown.values()]
    assert page.text("prediction").startswith(next(iter(shown)))


def test_page_equals_evaluate_on_every_sample(demo: Project, page: Page) -> None:
    rows = demo.table("metrics/predictions.csv").set_index("image")
    samples = page.samples()
    page.browser.devtools("Network.enable")
    page.browser.devtools(  # the open page needs nobody, not even its own server
        "Network.emulateNetworkConditions", offline=True, latency=0, downloadThroughput=-1, uploadThroughput=-1
    )
    assert len(samples) == 40
    assert rows.loc[samples, "label"].value_counts().eq(4).all()
    answers = json.loads(demo.tool("predict", "--json", "scratch/demo/site/samples").stdout)
    for number, name in [*enumerate(samples)][::-1]:  # the first is chosen already
        page.choose(number)
        page.must_say(f"{name}, labeled {rows['label'][name]}", answers[number]["probabilities"])
        assert page.text("prediction").startswith(f"{rows['predicted'][name]}, ")


def test_dropped_pictures_equal_predict_and_a_bad_file_is_one_line(
    demo: Project, page: Page, photo: Path, tmp_path: Path
) -> None:
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "broken.png").write_bytes(photo.read_bytes()[:200])
    usual = page.text("hint")
    for name, says in [("notes.txt", "That is not a picture."), ("broken.png", "broken.png: this browser cannot read")]:
        page.browser.drop(tmp_path / name)
        page.must_show("problem", says)
    page.browser.drop(photo)
    page.must_say("photo.png", predict(demo, photo))
    assert page.text("problem") == ""
    assert page.text("hint") == "The model knows dark backgrounds, and this one is light: try “Invert”."
    page.part("invert").click()
    page.must_say("photo.png", predict(demo, photo, "--invert"))
    assert page.text("hint") == usual
    assert not page.parts("#samples :checked")
    page.choose(3)  # what came from the data set is never inverted
    page.must_show("source", page.samples()[3])
    assert not page.part("invert").is_selected()


def test_transparent_and_rotated_pictures_equal_predict(demo: Project, page: Page, photo: Path, tmp_path: Path) -> None:
    with Image.open(photo) as image:
        clear = image.point(lambda value: value // 5 * 5).convert("RGBA")  # a fifth of it is a whole number
        gray = image.convert("L")
        clear.putalpha(gray.point(lambda value: 255 if value < 90 else 51 if value < 180 else 0))
        clear.save(tmp_path / "clear.png")
        exif = Image.Exif()
        exif[0x0112] = 6  # taken with the camera on its side
        image.save(tmp_path / "turned.png", exif=exif)
    assert predict(demo, tmp_path / "turned.png") != predict(demo, photo)
    for name in ("clear.png", "turned.png"):
        page.part("file").send_keys(str(tmp_path / name))
        page.must_say(name, predict(demo, tmp_path / name))


def test_pasted_picture_equals_predict(demo: Project, page: Page, photo: Path) -> None:
    page.browser.devtools("Browser.grantPermissions", permissions=["clipboardReadWrite", "clipboardSanitizedWrite"])
    failed = page.driver.execute_async_script(
        "const bytes = Uint8Array.from(atob(arguments[0]), (c) => c.charCodeAt(0));"
        "const item = new ClipboardItem({'image/png': new Blob([bytes], {type: 'image/png'})});"
        "navigator.clipboard.write([item]).then(() => arguments[1](''), (error) => arguments[1](String(error)))",
        base64.b64encode(photo.read_bytes()).decode(),
    )
    assert not failed
    ActionChains(page.driver).key_down(Keys.CONTROL).send_keys("v").key_up(Keys.CONTROL).perform()
    page.must_say("image.png", predict(demo, photo))


def test_drawing_equals_predict(demo: Project, page: Page, tmp_path: Path) -> None:
    field = page.part("field")

    def draw(*steps: tuple[int, int]) -> None:
        hand = ActionChains(page.driver, duration=20).move_to_element_with_offset(field, -80, -80).click_and_hold()
        for step in steps:
            hand.move_by_offset(*step)
        hand.release().perform()

    def drawn() -> np.ndarray:
        """The gray levels of the field, after a look at the answer unless it is empty."""
        address = page.driver.execute_script("return arguments[0].toDataURL()", field)
        path = tmp_path / "drawing.png"
        path.write_bytes(base64.b64decode(address.partition(",")[2]))
        pixels = np.asarray(Image.open(path).convert("L"))
        if pixels.any():
            page.must_say("your drawing", predict(demo, path))
        return pixels

    draw((60, 10), (0, 60))
    once = drawn()
    assert 0.02 < (once > 200).mean() < 0.4
    assert (once == 0).mean() > 0.6, "a line on black, and nothing left of the sample"
    draw((0, 120))
    assert (drawn() > 200).mean() > (once > 200).mean(), "lines add up"
    page.part("clear").click()
    assert page.text("prediction") == "Show it something"
    assert not drawn().any()
    assert set(page.probabilities().values()) == {0}


def test_page_works_with_keys_alone(demo: Project, page: Page, tmp_path: Path) -> None:
    samples = page.samples()

    def press(key: str) -> str:
        ActionChains(page.driver).send_keys(key).perform()
        return str(page.driver.execute_script("return document.activeElement.id || document.activeElement.type"))

    assert press(Keys.TAB) == "radio"  # one stop for all samples; arrows go through them
    for name in samples[1:3]:
        press(Keys.ARROW_RIGHT)
        page.must_show("source", name)
    ring = "return getComputedStyle(document.querySelector(':checked + img')).outlineColor"
    focused = page.driver.execute_script(ring)
    assert [press(Keys.TAB) for _ in range(3)] == ["choose", "clear", "invert"]
    assert page.driver.execute_script(ring) != focused, "the focus is seen"
    before = page.probabilities()
    press(Keys.SPACE)
    page.browser.wait_until(lambda: page.probabilities() != before)
    with Image.open(demo.root / "scratch/demo/site/samples/02.png") as image:
        ImageOps.invert(image).save(tmp_path / "inverted.png")
    page.must_say(samples[2], predict(demo, tmp_path / "inverted.png"))


def test_answer_is_announced(page: Page) -> None:
    tree = page.browser.devtools("Accessibility.getFullAXTree")["nodes"]

    def said(role: str) -> list[dict]:
        return [node for node in tree if node.get("role", {}).get("value") == role]

    (status,) = said("status")
    assert {"name": "live", "value": {"type": "token", "value": "polite"}} in status["properties"]
    classes = list(page.probabilities())
    assert [meter["name"]["value"] for meter in said("meter")] == classes
    assert said("image")
    assert {radio["name"]["value"] for radio in said("radio")} == {*classes}
    assert all(button["name"]["value"] for button in said("button"))


def test_phone_needs_no_sideways_scrolling(page: Page) -> None:
    page.browser.resize(PHONE, HEIGHT, mobile=True)
    page.driver.refresh()
    page.browser.wait_until(lambda: page.text("source"))
    width, inner = page.driver.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
    assert inner == PHONE
    assert width <= PHONE
    smallest, narrowest = page.driver.execute_script(
        "const all = (selector) => [...document.querySelectorAll(selector)];"
        "const seen = all('body *').filter((e) => e.checkVisibility() && e.textContent.trim());"
        "const targets = all('button, #samples label').map((e) => e.getBoundingClientRect());"
        "return [Math.min(...seen.map((e) => parseFloat(getComputedStyle(e).fontSize))),"
        "        Math.min(...targets.flatMap((box) => [box.width, box.height]))]"
    )
    assert smallest >= 14
    assert narrowest >= 40  # a fingertip
    page.choose(39)  # the strip of samples scrolls by itself
    page.must_show("source", page.samples()[39])
    box = page.part("answer").rect
    top = box["y"] - page.driver.execute_script("return scrollY")
    assert 0 <= top <= top + box["height"] <= HEIGHT, "the answer can be read without going to look for it"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_contrast_in_light_and_dark(page: Page, scheme: str) -> None:
    page.browser.use_colors(scheme)
    panel = page.driver.find_element(By.TAG_NAME, "section").value_of_css_property("background-color")
    for element in page.parts("h2, #prediction, .quiet, #bars span, #problem"):
        ratio = contrast(element.value_of_css_property("color"), panel)
        assert (ratio if scheme == "light" else 1 / ratio) >= 4.5, element.get_attribute("outerHTML")


def test_page_may_not_ask_another_host(page: Page, address: str) -> None:
    other = address.replace("127.0.0.1", "localhost")  # the same server, which would answer
    ask = "fetch(arguments[0], {mode: 'no-cors'}).then(() => arguments[1]('answered'), () => arguments[1]('refused'))"
    assert page.driver.execute_async_script(ask, other) == "refused"
    assert "Content Security Policy" in page.browser.console()[0]


@pytest.mark.browser
def test_second_build_fetches_nothing_and_a_release_has_the_page(demo: Project) -> None:
    assert demo.run(*BUILD, "--build-only").stdout == "demo: built scratch/demo/site\n"
    assert demo.run("git", "status", "--porcelain").stdout == ""
    demo.tool("release", "build", "v1.0.0")
    folder, site = demo.root / "scratch/release/v1.0.0", demo.root / "scratch/demo/site"
    assert {path.name for path in (folder / "demo").iterdir()} == {path.name for path in site.iterdir()}
    assert "demo/index.html" in json.loads((folder / "manifest.json").read_text())["files"]
    assert "all " in demo.tool("release", "check", str(folder)).stdout


def test_missing_program_or_file_is_one_line(finished: Project) -> None:
    def failure(*words: str) -> str:
        return one_line(finished.run(*BUILD, *words, status=1)).removeprefix("demo: error: ")

    whole, finished.environment["PATH"] = finished.environment["PATH"], str(finished.root)
    assert failure("--build-only").startswith("npm, which fetches onnxruntime-web, is missing; install Node.js")
    finished.environment["PATH"] = whole
    finished.write("models/classifier.onnx", b"no model")
    assert failure().startswith("models/classifier.onnx: not a model that `export` wrote")
    (finished.root / "models/classifier.onnx").unlink()
    assert failure() == "models/classifier.onnx is missing; `make repro` makes it, `dvc pull` fetches it\n"


@pytest.mark.browser
def test_taken_port_and_failing_npm_are_one_line(demo: Project, address: str, finished: Project) -> None:
    port = str(urlsplit(address).port)
    taken = one_line(demo.run(*BUILD, "--port", port, status=1))
    assert taken.startswith(f"demo: error: port {port}: Address already in use")
    finished.environment |= {"npm_config_registry": "http://127.0.0.1:9/", "npm_config_fetch_retries": "0"}
    finished.environment["npm_config_cache"] = str(finished.root / "scratch/no cache")
    for _ in range(2):
        error = one_line(finished.run(*BUILD, "--build-only", status=1))
        assert error.startswith("demo: error: npm could not fetch onnxruntime-web: ECONNREFUSED")


def test_own_color_images_of_another_size_work(demo: Project, browser: Browser, tmp_path: Path) -> None:
    """Three classes, 24 x 20 RGB, as JPEG, with a model that is no network of this project."""
    project = demo.copy(tmp_path / "project")
    random, names = np.random.default_rng(0), ["<b>red", "green", "blue"]
    for path in ("models/classifier.onnx", "data/test_images"):
        files.remove(project.root / path)
    write_linear_model(project.root / "models/classifier.onnx", names, (3, 20, 24), random)
    pictures = [Image.fromarray(random.integers(0, 256, (20, 24, 3)).astype(np.uint8)) for _ in range(9)]
    folder = project.root / "data/test_images"  # of files, without shards
    folder.mkdir()
    for number, picture in enumerate(pictures):
        (folder / f"{number}.jpg").write_bytes(own.encode(picture, "JPEG"))
    rows = [f"{number}.jpg,{number % 3},{names[number % 3]},test\n" for number in range(9)]
    project.write("data/annotations.csv", "image,label,class_name,split\n" + "".join(rows))
    session = onnxruntime.InferenceSession(project.root / "models/classifier.onnx")
    with served(project) as address:
        page = Page(browser, address)
        assert page.text("about").startswith("3 classes · 24 × 20 RGB pixels")
        for number in range(9):
            pixels = np.asarray(Image.open(folder / f"{number}.jpg")).transpose(2, 0, 1)
            (probabilities,) = session.run(["probabilities"], {"images": pixels[None]})
            page.choose(page.samples().index(f"{number}.jpg"))
            page.must_say(f"{number}.jpg", dict(zip(names, probabilities[0], strict=True)))
        Image.fromarray(random.integers(0, 256, (50, 33, 3)).astype(np.uint8)).save(tmp_path / "large.png")
        browser.drop(tmp_path / "large.png")
        page.must_say("large.png", predict(project, tmp_path / "large.png"))
        assert browser.console() == []
