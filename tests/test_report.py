"""The page of a run: that it says what is true of the run, shows its figures, and reads well in a browser."""

import base64
import csv
import io
import re
import shlex
import shutil
from collections.abc import Callable, Iterator
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from PIL import Image

from vae_lab import runs
from vae_lab.cli.compose import compose, literal
from vae_lab.commands import report as pages
from vae_lab.errors import ConfigError, DataError
from vae_lab.figures import Curves, Samples
from vae_lab.generate import generate
from vae_lab.report import report
from vae_lab.runs import Run
from vae_lab.train import train

SMALL = ["data=digits", "latent_dim=2", "encoder.hidden=[16]", "decoder.hidden=[16]"]
CHROMIUM = shutil.which("chromium")


class Reader(HTMLParser):
    """The words of a page, the rows of its tables, and its images."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.words: list[str] = []
        self.rows: list[list[str]] = []
        self.images: list[dict[str, str]] = []
        self.tags: set[str] = set()
        self.cell = False
        self.feed(file.read_text())

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self.cell = True
        if tag == "img":
            self.images.append({name: value or "" for name, value in attributes})

    def handle_endtag(self, tag: str) -> None:
        self.cell = self.cell and tag not in ("td", "th")

    def handle_data(self, words: str) -> None:
        self.words.append(words)
        if self.cell:
            self.rows[-1][-1] = f"{self.rows[-1][-1]} {words.strip()}".strip()

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run with the default figures, those of some after each of seven epochs."""
    path = tmp_path_factory.mktemp("report") / "run"
    every = ["callbacks.samples.every_n_epochs=1", "trainer.max_epochs=7", "seed=3"]
    return train([*SMALL, *every, f"hydra.run.dir={path}"])


def test_a_training_makes_the_page_and_says_which_file_to_open(finished: Run) -> None:
    page = finished.path / "report.html"
    assert page.stat().st_size < 5_000_000
    assert (finished.path / "train.log").read_text().splitlines()[-1].endswith(f"open {page}")


def test_the_page_says_what_was_trained_and_what_came_of_it(finished: Run) -> None:
    page = Reader(finished.path / "report.html")
    assert "Bernoulli MLP VAE, z = 2, Digits" in page.text
    assert ["latent_dim", "2", "20"] in page.rows
    assert ["encoder.hidden", "[16]", "[500, 500]"] in page.rows
    assert [row for row in page.rows if row[0] == "data" and row[1].startswith("Digits ") and row[2] == "MNIST"]
    assert "data=digits latent_dim=2" in page.text
    best = finished.module.epoch
    assert f"The metrics are from best.ckpt, epoch {best};" in page.text
    assert ["seed", "3", "0"] in page.rows
    keys = {row[0] for row in page.rows}
    assert not {"prior.latent_dim", "callbacks.samples.every_n_epochs", "data.root", "decoder"} & keys
    for name in ("elbo", "log_likelihood", "kl", "mse"):
        (row,) = [row for row in page.rows if row[0].split()[:1] == [name]]
        assert [float(value) for value in row[1:]] == pytest.approx(
            [finished.metrics[f"{stage}/{name}"] for stage in ("val", "test")], rel=1e-5
        )
    (revision,) = [row[1] for row in page.rows if row[0] == "revision"]
    assert revision.startswith(finished.metrics["git/revision"] or "unknown (not a git checkout)")
    assert ("with uncommitted changes" in revision) == revision.split(" ")[0].endswith("-dirty")
    assert ["torch", finished.metrics["version/torch"]] in page.rows


def test_the_table_of_classes_is_that_of_the_file(finished: Run) -> None:
    page = Reader(finished.path / "report.html")
    with (finished.path / "class_mse.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 10
    for row in rows:
        assert [row["name"], row["images"], f"{float(row['mse']):.4g}", ""] in page.rows


def test_every_figure_is_on_the_page_as_it_was_drawn_with_what_to_look_for(finished: Run) -> None:
    page = Reader(finished.path / "report.html")
    shown = {image["alt"]: image for image in page.images}
    drawn = {folder.name: sorted(folder.glob("*.png")) for folder in (finished.path / "figures").iterdir()}
    assert len(drawn) == 10
    for name, files in drawn.items():
        last = shown[f"{name}, epoch {int(files[-1].stem[-4:])}"]
        kind, data = re.fullmatch(r"data:image/(png|webp);base64,(.*)", last["src"]).groups()  # type: ignore[union-attr]
        written = base64.b64decode(data)
        assert (kind == "png") == (files[-1].stat().st_size <= pages.LOSSLESS)
        assert kind == "webp" or written == files[-1].read_bytes()
        with Image.open(files[-1]) as image, Image.open(io.BytesIO(written)) as shown_image:
            assert (int(last["width"]), int(last["height"])) == image.size == shown_image.size
            difference = np.asarray(image.convert("RGB"), float) - np.asarray(shown_image.convert("RGB"), float)
            assert np.abs(difference).mean() < 3
        drawing = runs.build.class_of(finished.config.callbacks[name])
        assert drawing is not None
        assert drawing.look_for
        assert drawing.look_for in page.text
    assert [alt for alt in shown if alt.startswith("samples")] == [f"samples, epoch {n}" for n in (7, 1, 3, 4, 6)]
    assert "4 of 6 earlier images" in page.text


def test_figures_stand_in_the_order_of_the_configuration(finished: Run) -> None:
    names = [image["alt"].partition(",")[0] for image in Reader(finished.path / "report.html").images]
    order = list(finished.config.callbacks)
    assert list(dict.fromkeys(names)) == sorted(set(names), key=order.index)


def test_the_page_needs_nothing_else(finished: Run) -> None:
    page = Reader(finished.path / "report.html")
    text = (finished.path / "report.html").read_text()
    assert all(re.match(r"data:image/(png|webp);base64,", image["src"]) for image in page.images)
    assert "script" not in page.tags
    assert not re.search(r"https?://|url\(|@import|<link(?![^>]*href=\"data:)", text)


def again(file: Path) -> list[str]:
    """The arguments of the command that a page gives."""
    (line,) = re.findall(r'<pre class="command" id="command"[^>]*>(.*?)</pre>', file.read_text(), re.DOTALL)
    python, dash, module, *arguments = shlex.split(unescape(line))
    assert (python, dash, module) == ("python", "-m", "vae_lab.train")
    return arguments


def test_the_command_makes_the_same_training_again(finished: Run) -> None:
    arguments = again(finished.path / "report.html")
    assert not [each for each in arguments if each.startswith("hydra.")]  # it gets a directory of its own
    assert runs.changes.changes(compose("train", arguments)[0], finished.config) == {}


def test_the_command_of_a_run_that_went_on_has_its_last_settings(tmp_path: Path) -> None:
    run = train([*SMALL, "trainer.max_epochs=1", "callbacks=none", f"hydra.run.dir={tmp_path / 'run'}"])
    run = train([f"resume={run.path}", "trainer.max_epochs=2"])
    arguments = again(run.path / "report.html")
    assert "trainer.max_epochs=2" in arguments
    assert "trainer.max_epochs=1" not in arguments
    assert runs.changes.changes(compose("train", arguments)[0], run.config) == {}


def test_what_was_added_stays_added(tmp_path: Path) -> None:
    added = ["+trainer.inference_mode=true", "trainer.max_epochs=1", "callbacks=none"]
    run = train([*SMALL, *added, f"hydra.run.dir={tmp_path / 'run'}"])
    run = train([f"resume={run.path}", "+trainer.inference_mode=false", "trainer.max_epochs=2"])
    arguments = again(run.path / "report.html")
    assert "+trainer.inference_mode=false" in arguments
    assert runs.changes.changes(compose("train", arguments)[0], run.config) == {}


def test_what_was_taken_away_is_a_difference(tmp_path: Path) -> None:
    options = ["~optimizer.weight_decay", "trainer.max_epochs=1", "callbacks=none"]
    page = Reader(train([*SMALL, *options, f"hydra.run.dir={tmp_path / 'run'}"]).path / "report.html")
    assert ["optimizer.weight_decay", "not set", "0.0"] in page.rows


def test_a_part_of_the_users_own_is_found_again(command: Callable[..., CompletedProcess[str]], tmp_path: Path) -> None:
    (tmp_path / "mine" / "model").mkdir(parents=True)
    (tmp_path / "mine" / "model" / "tiny.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /encoder: mlp_512\n  - override /decoder: mlp_512\n"
    )
    place = f"hydra.searchpath=[file://{tmp_path / 'mine'}]"
    done = command(place, "model=tiny", "data=digits", "trainer.max_epochs=1", "callbacks=none", "latent_dim=2")
    assert done.returncode == 0, done.stderr
    (page,) = tmp_path.glob("outputs/vae/*/report.html")
    assert done.stdout.splitlines()[-1].endswith(f"open {page.relative_to(tmp_path)}")
    assert place in again(page)
    config = compose("train", again(page))[0]
    assert runs.changes.changes(config, runs.directory.stored_config(page.parent)) == {}


def test_what_was_generated_since_comes_onto_the_page(digits_run: Run, tmp_path: Path) -> None:
    path = Path(shutil.copytree(digits_run.path, tmp_path / "run"))
    generate([f"run={path}", "figure=samples", "n=4"])
    file = report([f"run={path}", f"out={tmp_path / 'pages' / 'page.html'}"])
    page = Reader(file)
    assert [image["alt"] for image in page.images] == ["curves, epoch 2", "samples.png, completed run"]
    assert Curves.look_for in page.text
    assert Samples.look_for in page.text
    assert not (path / "figures" / "samples").exists()


def test_a_training_that_has_not_ended_has_a_page_that_says_so(digits_run: Run, tmp_path: Path) -> None:
    path = Path(shutil.copytree(digits_run.path, tmp_path / "run"))
    (path / "metrics.json").unlink()
    page = Reader(pages.write(path))
    assert "This run has not completed." in page.text
    assert "After epoch 2." in page.text
    assert ["metric", "train", "val"] in page.rows
    assert ["torch", digits_run.metrics["version/torch"]] in page.rows
    assert f"python -m vae_lab.train resume={path}" in page.text
    shutil.rmtree(path / "checkpoints")
    assert "resume=" not in Reader(pages.write(path)).text
    assert not [row for row in page.rows if row[:1] == ["class"]]  # that table is of a test
    for left in ("figures", "metrics.csv"):
        shutil.rmtree(path / left) if left == "figures" else (path / left).unlink()
    assert "no epoch has been recorded" in Reader(pages.write(path)).text


def test_names_are_text_and_no_markup(digits_run: Run, tmp_path: Path) -> None:
    path = Path(shutil.copytree(digits_run.path, tmp_path / "run"))
    name = "<img src=x onerror=alert(1)>"
    (path / "class_mse.csv").write_text(f"class,name,images,mse\n0,{name},3,0.5\n1,b,0,\n")
    page = Reader(pages.write(path))
    assert [name, "3", "0.5", ""] in page.rows
    assert ["b", "0", "n/a", ""] in page.rows
    assert not [image for image in page.images if image["src"] == "x"]


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("metrics.json", b"{"),
        ("metrics.json", b"[1]"),
        ("metrics.csv", b"epoch\nabc\n"),
        ("class_mse.csv", b"class,name,images,mse\n0,a,many,0.5\n"),
        ("figures/curves/epoch-0002.png", b"no picture"),
        ("figures/curves/epoch-0002.png", b"\x89PNG\r\n\x1a\n broken"),
        ("class_mse.csv", b"class,name,images,mse\n0,\xff,1,0.5\n"),
        (".hydra/overrides.yaml", b"[a"),
        (".hydra/overrides.yaml", b"3"),
        (".hydra/overrides.yaml", b"a: 1"),
        (".hydra/config.yaml", b"[a"),
        ("config.yaml", b"[a"),
        ("config.yaml", b"\xff\xfe\xff"),
    ],
)
def test_what_is_damaged_is_named(digits_run: Run, tmp_path: Path, file: str, content: bytes) -> None:
    path = Path(shutil.copytree(digits_run.path, tmp_path / "run"))
    if file == "metrics.csv":
        (path / "metrics.json").unlink()
    (path / file).write_bytes(content)
    with pytest.raises(DataError, match=re.escape(str(path / file))):
        report([f"run={path}"])
    assert not list(path.glob("*.tmp"))


def test_what_cannot_be_written_or_is_no_run_is_refused(digits_run: Run, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected a run directory"):
        report([f"run={tmp_path}"])
    with pytest.raises(ConfigError, match=r"^run: missing"):
        report([])
    with pytest.raises(ConfigError, match="nonsense"):
        report([f"run={digits_run.path}", "nonsense=1"])
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="cannot be written"):
        report([f"run={digits_run.path}", f"out={tmp_path / 'file' / 'page.html'}"])


def test_a_page_that_fails_does_not_fail_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> Path:
        raise RuntimeError("no\nroom")

    monkeypatch.setattr(pages, "write", fails)
    run = train([*SMALL, "trainer.max_epochs=1", "callbacks=none", f"hydra.run.dir={tmp_path / 'run'}"])
    said = (run.path / "train.log").read_text()
    assert "cannot write report.html: RuntimeError: no room" in said
    assert f"results: {run.path}\n" in said


@pytest.mark.parametrize(
    "value",
    [
        *(
            "a\\",
            "a\\'b",
            "\\\\",
            "\\n",
            "plain",
            "a b",
            "x,y",
            "ü=1",
            "it's",
            "(1)",
            "a#b",
            "{k}",
            "123",
            "null",
            "True",
        ),
        *(1e-4, None, True, [1, "ELU"], {"_target_": "a.B", "n": [1, None]}),
    ],
)
def test_a_value_is_written_as_hydra_reads_it(value: object) -> None:
    (override,) = OverridesParser.create().parse_overrides([f"key={literal(value)}"])
    assert override.value() == value


def test_a_run_whose_class_is_not_here_any_more_has_a_page(digits_run: Run, tmp_path: Path) -> None:
    path = Path(shutil.copytree(digits_run.path, tmp_path / "moved"))
    for file in (path / "config.yaml", path / ".hydra" / "config.yaml"):
        text = (
            file.read_text()
            .replace("vae_lab.posteriors.Normal", "gone.Odd")
            .replace("vae_lab.data.Digits", "gone.Data")
        )
        file.write_text(text)
    page = Reader(pages.write(path))
    assert "Bernoulli MLP VAE, z = 3, Data" in page.text
    assert again(path / "report.html") == again(pages.write(digits_run.path, tmp_path / "page.html"))


def test_the_page_of_before_goes_when_a_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = train([*SMALL, "trainer.max_epochs=1", "callbacks=class_mse", f"hydra.run.dir={tmp_path / 'run'}"])
    monkeypatch.setattr("vae_lab.runs.directory.write_json", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train([f"resume={run.path}", "trainer.max_epochs=2"])
    assert not (run.path / "report.html").exists()
    assert "This run has not completed." in Reader(pages.write(run.path)).text


def test_a_run_that_has_ended_without_a_page_gets_one(tmp_path: Path) -> None:
    options = [*SMALL, "trainer.max_epochs=1", "callbacks=none", f"hydra.run.dir={tmp_path / 'run'}"]
    page = train(options).path / "report.html"
    page.unlink()
    train(options)
    assert page.exists()


def test_numbers_that_no_density_is_behind_say_so(tmp_path: Path) -> None:
    grey = ["likelihood=cross_entropy", "trainer.max_epochs=1", "callbacks=none", f"hydra.run.dir={tmp_path / 'run'}"]
    page = Reader(train([*SMALL, *grey]).path / "report.html")
    assert [row for row in page.rows if row[0].startswith("elbo_unnormalised replaces the ELBO")]
    assert "test/elbo_unnormalised" in page.text
    assert not [row for row in page.rows if row[0].split(" ")[0] == "elbo"]


def test_large_pictures_are_made_smaller_and_what_does_not_fit_is_named(
    digits_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path(shutil.copytree(digits_run.path, tmp_path / "run"))
    noise = np.random.default_rng(0).integers(0, 256, (500, 700, 3), dtype=np.uint8)
    (path / "figures" / "noise").mkdir()
    (path / "generated").mkdir()
    for file in ("figures/noise/epoch-0001.png", "figures/noise/epoch-0002.png", "generated/noise.png"):
        Image.fromarray(noise).save(path / file)
    page = Reader(pages.write(path))
    assert len(page.images) == 4
    assert all(image["src"].startswith("data:image/webp") for image in page.images if "noise" in image["alt"])
    monkeypatch.setattr(pages, "MOST_BYTES", sum(len(image["src"]) for image in page.images[:2]))
    page = Reader(pages.write(path))
    assert [image["alt"] for image in page.images] == ["curves, epoch 2", "noise, epoch 2"]
    assert "noise.png Omitted to limit the size of the report." in page.text
    assert "Earlier images (1) are omitted to limit the size of the report." in page.text
    Image.new("RGB", (60, 60)).save(path / "generated" / "plain.png")  # which comes behind, and fits
    monkeypatch.setattr(pages, "MOST_BYTES", pages.MOST_BYTES + 500)
    names = [image["alt"] for image in Reader(pages.write(path)).images]
    assert names == ["curves, epoch 2", "noise, epoch 2", "plain.png, completed run"]


def test_every_place_on_the_page_has_a_name_of_its_own(digits_run: Run, tmp_path: Path) -> None:
    path = Path(shutil.copytree(digits_run.path, tmp_path / "run"))
    (path / "generated").mkdir()
    for name in ("curves.png", "a b.png", "curves.gif"):
        Image.new("RGB", (20, 20)).save(path / "generated" / name)
    names = re.findall(r' id="([^"]*)"', pages.write(path).read_text())
    assert len(names) == len(set(names))
    assert not [name for name in names if " " in name]
    links = re.findall(r' href="#([^"]*)"', (path / "report.html").read_text())
    assert set(links) <= set(names)


def test_settings_of_an_autoencoder(tmp_path: Path) -> None:
    small = ["data=digits", "latent_dim=2", "model=ae_conv", "encoder.linear.hidden=[16]", "trainer.max_epochs=1"]
    run = train([*small, "callbacks=curves", f"hydra.run.dir={tmp_path / 'run'}"])
    page = Reader(run.path / "report.html")
    (encoder,) = [row for row in page.rows if row[0] == "encoder"]
    assert encoder[1].startswith("ConvEncoder linear.hidden=[16] ")
    assert " kernel=4 " in encoder[1]
    assert encoder[2] == "MLP"
    assert not [row for row in page.rows if row[0].startswith("encoder.")]
    assert ["posterior", "Point", "Normal"] in page.rows
    assert not {"elbo", "kl"} & {row[0].split(" ")[0] for row in page.rows}
    assert [words for words in page.words if words == "test/mse"]


@pytest.fixture(scope="module")
def browser() -> Iterator:
    if CHROMIUM is None:
        pytest.skip("chromium is not installed: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.mark.parametrize("width", [1280, 390])
def test_a_browser_shows_it(browser, finished: Run, width: int) -> None:
    page, wrong = browser.new_page(viewport={"width": width, "height": 900}), []
    page.on("console", lambda message: wrong.append(message.text))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("requestfailed", lambda request: wrong.append(request.url))
    page.on(
        "request", lambda request: None if request.url.startswith(("file:", "data:")) else wrong.append(request.url)
    )
    page.goto(f"file://{finished.path / 'report.html'}")
    sizes = page.evaluate(
        "[...document.images].map(image => [image.complete, image.naturalWidth, image.naturalHeight])"
    )
    assert len(sizes) == 10 + 4
    assert all(complete and width > 100 and height > 100 for complete, width, height in sizes)
    assert page.evaluate("document.documentElement.scrollWidth") == width  # nothing stands out to the right
    edges = page.evaluate(
        "[...document.querySelectorAll('figure img')].filter(image => image.checkVisibility())"
        ".map(image => image.getBoundingClientRect().right)"
    )
    assert len(edges) == 10
    assert max(edges) <= width
    wide = page.locator("img[alt^=traversals]").first
    before = wide.bounding_box()["width"]
    wide.click()
    natural = page.evaluate("document.querySelector('img[alt^=traversals]').naturalWidth")
    assert wide.bounding_box()["width"] == pytest.approx(natural + 2, abs=1)  # with its frame
    assert before == pytest.approx(min(natural + 2, width - 32), abs=1)  # 16 pixels stay free at each side
    assert page.evaluate("document.documentElement.scrollWidth") == width
    with Image.open(io.BytesIO(page.screenshot(full_page=True))) as screen:
        assert screen.width == width
    page.close()
    assert wrong == []
