"""The report of a run: its content, its figures, and how a browser displays it."""

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
    """Parse the text of a report, the rows of its tables and its images."""

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
def completed_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of seven epochs with the default figures, and samples after each epoch."""
    path = tmp_path_factory.mktemp("report") / "run"
    every = ["callbacks.samples.every_n_epochs=1", "trainer.max_epochs=7", "seed=3"]
    return train([*SMALL, *every, f"hydra.run.dir={path}"])


def test_training_writes_report_and_logs_its_path(completed_run: Run) -> None:
    page = completed_run.path / "report.html"
    assert page.stat().st_size < 5_000_000
    assert (completed_run.path / "train.log").read_text().splitlines()[-1].endswith(f"open {page}")


def test_report_contains_configuration_and_metrics(completed_run: Run) -> None:
    page = Reader(completed_run.path / "report.html")
    assert "Bernoulli MLP VAE, z = 2, Digits" in page.text
    assert ["latent_dim", "2", "20"] in page.rows
    assert ["encoder.hidden", "[16]", "[500, 500]"] in page.rows
    assert [row for row in page.rows if row[0] == "data" and row[1].startswith("Digits ") and row[2] == "MNIST"]
    assert "data=digits latent_dim=2" in page.text
    best = completed_run.module.epoch
    assert f"The metrics are from best.ckpt, epoch {best};" in page.text
    assert ["seed", "3", "0"] in page.rows
    keys = {row[0] for row in page.rows}
    assert not {"prior.latent_dim", "callbacks.samples.every_n_epochs", "data.root", "decoder"} & keys
    for name in ("elbo", "log_likelihood", "kl", "mse"):
        (row,) = [row for row in page.rows if row[0].split()[:1] == [name]]
        assert [float(value) for value in row[1:]] == pytest.approx(
            [completed_run.metrics[f"{stage}/{name}"] for stage in ("val", "test")], rel=1e-5
        )
    (revision,) = [row[1] for row in page.rows if row[0] == "revision"]
    assert revision.startswith(completed_run.metrics["git/revision"] or "unknown (not a git checkout)")
    assert ("with uncommitted changes" in revision) == revision.split(" ")[0].endswith("-dirty")
    assert ["torch", completed_run.metrics["version/torch"]] in page.rows


def test_class_table_equals_class_mse_csv(completed_run: Run) -> None:
    page = Reader(completed_run.path / "report.html")
    with (completed_run.path / "class_mse.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 10
    for row in rows:
        assert [row["name"], row["images"], f"{float(row['mse']):.4g}", ""] in page.rows


def test_report_shows_every_figure_with_explanation(completed_run: Run) -> None:
    page = Reader(completed_run.path / "report.html")
    shown = {image["alt"]: image for image in page.images}
    drawn = {folder.name: sorted(folder.glob("*.png")) for folder in (completed_run.path / "figures").iterdir()}
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
        figure = runs.build.class_of(completed_run.config.callbacks[name])
        assert figure is not None
        assert figure.look_for
        assert figure.look_for in page.text
    assert [alt for alt in shown if alt.startswith("samples")] == [f"samples, epoch {n}" for n in (7, 1, 3, 4, 6)]
    assert "4 of 6 earlier images" in page.text


def test_figures_have_order_of_configuration(completed_run: Run) -> None:
    names = [image["alt"].partition(",")[0] for image in Reader(completed_run.path / "report.html").images]
    order = list(completed_run.config.callbacks)
    assert list(dict.fromkeys(names)) == sorted(set(names), key=order.index)


def test_report_is_self_contained(completed_run: Run) -> None:
    page = Reader(completed_run.path / "report.html")
    text = (completed_run.path / "report.html").read_text()
    assert all(re.match(r"data:image/(png|webp);base64,", image["src"]) for image in page.images)
    assert "script" not in page.tags
    assert not re.search(r"https?://|url\(|@import|<link(?![^>]*href=\"data:)", text)


def command_arguments(file: Path) -> list[str]:
    """Return the arguments of the command in a report."""
    (line,) = re.findall(r'<pre class="command" id="command"[^>]*>(.*?)</pre>', file.read_text(), re.DOTALL)
    python, dash, module, *arguments = shlex.split(unescape(line))
    assert (python, dash, module) == ("python", "-m", "vae_lab.train")
    return arguments


def test_command_reproduces_configuration(completed_run: Run) -> None:
    arguments = command_arguments(completed_run.path / "report.html")
    assert not [each for each in arguments if each.startswith("hydra.")]  # the new run has its own run directory
    assert runs.changes.changes(compose("train", arguments)[0], completed_run.config) == {}


def test_command_of_resumed_run_has_its_last_options(tmp_path: Path) -> None:
    run = train([*SMALL, "trainer.max_epochs=1", "callbacks=none", f"hydra.run.dir={tmp_path / 'run'}"])
    run = train([f"resume={run.path}", "trainer.max_epochs=2"])
    arguments = command_arguments(run.path / "report.html")
    assert "trainer.max_epochs=2" in arguments
    assert "trainer.max_epochs=1" not in arguments
    assert runs.changes.changes(compose("train", arguments)[0], run.config) == {}


def test_command_keeps_added_options(tmp_path: Path) -> None:
    added = ["+trainer.inference_mode=true", "trainer.max_epochs=1", "callbacks=none"]
    run = train([*SMALL, *added, f"hydra.run.dir={tmp_path / 'run'}"])
    run = train([f"resume={run.path}", "+trainer.inference_mode=false", "trainer.max_epochs=2"])
    arguments = command_arguments(run.path / "report.html")
    assert "+trainer.inference_mode=false" in arguments
    assert runs.changes.changes(compose("train", arguments)[0], run.config) == {}


def test_deleted_option_is_listed_as_difference(tmp_path: Path) -> None:
    options = ["~optimizer.weight_decay", "trainer.max_epochs=1", "callbacks=none"]
    page = Reader(train([*SMALL, *options, f"hydra.run.dir={tmp_path / 'run'}"]).path / "report.html")
    assert ["optimizer.weight_decay", "not set", "0.0"] in page.rows


def test_command_keeps_search_path_of_user_defined_preset(
    command: Callable[..., CompletedProcess[str]], tmp_path: Path
) -> None:
    (tmp_path / "mine" / "model").mkdir(parents=True)
    (tmp_path / "mine" / "model" / "tiny.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /encoder: mlp_512\n  - override /decoder: mlp_512\n"
    )
    searchpath = f"hydra.searchpath=[file://{tmp_path / 'mine'}]"
    done = command(searchpath, "model=tiny", "data=digits", "trainer.max_epochs=1", "callbacks=none", "latent_dim=2")
    assert done.returncode == 0, done.stderr
    (page,) = tmp_path.glob("outputs/vae/*/report.html")
    assert done.stdout.splitlines()[-1].endswith(f"open {page.relative_to(tmp_path)}")
    assert searchpath in command_arguments(page)
    config = compose("train", command_arguments(page))[0]
    assert runs.changes.changes(config, runs.directory.stored_config(page.parent)) == {}


def test_report_includes_generated_figures(digits_run: Run, tmp_path: Path) -> None:
    path = Path(shutil.copytree(digits_run.path, tmp_path / "run"))
    generate([f"run={path}", "figure=samples", "n=4"])
    file = report([f"run={path}", f"out={tmp_path / 'pages' / 'page.html'}"])
    page = Reader(file)
    assert [image["alt"] for image in page.images] == ["curves, epoch 2", "samples.png, drawn by generate"]
    assert Curves.look_for in page.text
    assert Samples.look_for in page.text
    assert not (path / "figures" / "samples").exists()


def test_report_of_interrupted_run_says_so(digits_run: Run, tmp_path: Path) -> None:
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
    assert not [row for row in page.rows if row[:1] == ["class"]]  # this table shows the test split
    for name in ("figures", "metrics.csv"):
        shutil.rmtree(path / name) if name == "figures" else (path / name).unlink()
    assert "no epoch has been recorded" in Reader(pages.write(path)).text


def test_class_names_are_escaped(digits_run: Run, tmp_path: Path) -> None:
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
def test_corrupt_file_is_named(digits_run: Run, tmp_path: Path, file: str, content: bytes) -> None:
    path = Path(shutil.copytree(digits_run.path, tmp_path / "run"))
    if file == "metrics.csv":
        (path / "metrics.json").unlink()
    (path / file).write_bytes(content)
    with pytest.raises(DataError, match=re.escape(str(path / file))):
        report([f"run={path}"])
    assert not list(path.glob("*.tmp"))


def test_invalid_run_key_or_output_is_rejected(digits_run: Run, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected a run directory"):
        report([f"run={tmp_path}"])
    with pytest.raises(ConfigError, match=r"^run: missing"):
        report([])
    with pytest.raises(ConfigError, match="nonsense"):
        report([f"run={digits_run.path}", "nonsense=1"])
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="cannot be written"):
        report([f"run={digits_run.path}", f"out={tmp_path / 'file' / 'page.html'}"])


def test_failed_report_does_not_fail_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> Path:
        raise RuntimeError("no\nroom")

    monkeypatch.setattr(pages, "write", fails)
    run = train([*SMALL, "trainer.max_epochs=1", "callbacks=none", f"hydra.run.dir={tmp_path / 'run'}"])
    log = (run.path / "train.log").read_text()
    assert "cannot write report.html: RuntimeError: no room" in log
    assert f"results: {run.path}\n" in log


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
def test_literal_is_read_by_hydra_as_same_value(value: object) -> None:
    (override,) = OverridesParser.create().parse_overrides([f"key={literal(value)}"])
    assert override.value() == value


def test_report_is_written_if_classes_no_longer_exist(digits_run: Run, tmp_path: Path) -> None:
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
    assert command_arguments(path / "report.html") == command_arguments(
        pages.write(digits_run.path, tmp_path / "page.html")
    )


def test_resume_deletes_old_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = train([*SMALL, "trainer.max_epochs=1", "callbacks=class_mse", f"hydra.run.dir={tmp_path / 'run'}"])
    monkeypatch.setattr("vae_lab.runs.directory.write_json", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train([f"resume={run.path}", "trainer.max_epochs=2"])
    assert not (run.path / "report.html").exists()
    assert "This run has not completed." in Reader(pages.write(run.path)).text


def test_missing_report_of_completed_run_is_written(tmp_path: Path) -> None:
    options = [*SMALL, "trainer.max_epochs=1", "callbacks=none", f"hydra.run.dir={tmp_path / 'run'}"]
    page = train(options).path / "report.html"
    page.unlink()
    train(options)
    assert page.exists()


def test_unnormalised_metrics_are_explained(tmp_path: Path) -> None:
    grey = ["likelihood=cross_entropy", "trainer.max_epochs=1", "callbacks=none", f"hydra.run.dir={tmp_path / 'run'}"]
    page = Reader(train([*SMALL, *grey]).path / "report.html")
    assert [row for row in page.rows if row[0].startswith("elbo_unnormalised replaces the ELBO")]
    assert "test/elbo_unnormalised" in page.text
    assert not [row for row in page.rows if row[0].split(" ")[0] == "elbo"]


def test_large_figures_are_compressed_or_omitted(
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
    Image.new("RGB", (60, 60)).save(path / "generated" / "plain.png")  # comes last, but is small enough
    monkeypatch.setattr(pages, "MOST_BYTES", pages.MOST_BYTES + 500)
    names = [image["alt"] for image in Reader(pages.write(path)).images]
    assert names == ["curves, epoch 2", "noise, epoch 2", "plain.png, drawn by generate"]


def test_ids_are_unique_and_link_targets_exist(digits_run: Run, tmp_path: Path) -> None:
    path = Path(shutil.copytree(digits_run.path, tmp_path / "run"))
    (path / "generated").mkdir()
    for name in ("curves.png", "a b.png", "curves.gif"):
        Image.new("RGB", (20, 20)).save(path / "generated" / name)
    names = re.findall(r' id="([^"]*)"', pages.write(path).read_text())
    assert len(names) == len(set(names))
    assert not [name for name in names if " " in name]
    links = re.findall(r' href="#([^"]*)"', (path / "report.html").read_text())
    assert set(links) <= set(names)


def test_report_of_autoencoder_lists_its_options(tmp_path: Path) -> None:
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
def test_browser_displays_report(browser, completed_run: Run, width: int) -> None:
    page, problems = browser.new_page(viewport={"width": width, "height": 900}), []
    page.on("console", lambda message: problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("requestfailed", lambda request: problems.append(request.url))
    page.on(
        "request", lambda request: None if request.url.startswith(("file:", "data:")) else problems.append(request.url)
    )
    page.goto(f"file://{completed_run.path / 'report.html'}")
    sizes = page.evaluate(
        "[...document.images].map(image => [image.complete, image.naturalWidth, image.naturalHeight])"
    )
    assert len(sizes) == 10 + 4
    assert all(complete and width > 100 and height > 100 for complete, width, height in sizes)
    assert page.evaluate("document.documentElement.scrollWidth") == width  # no horizontal overflow
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
    assert wide.bounding_box()["width"] == pytest.approx(natural + 2, abs=1)  # including its border
    assert before == pytest.approx(min(natural + 2, width - 32), abs=1)  # a margin of 16 pixels on each side
    assert page.evaluate("document.documentElement.scrollWidth") == width
    with Image.open(io.BytesIO(page.screenshot(full_page=True))) as screen:
        assert screen.width == width
    page.close()
    assert problems == []


def test_report_omits_directory_without_figures(tmp_path: Path) -> None:
    (tmp_path / "figures" / "samples").mkdir(parents=True)
    (tmp_path / "figures" / "samples" / "epoch-last.png").touch()
    assert list(pages.drawn(tmp_path, {})) == []


@pytest.mark.parametrize("checkout", [True, False])
def test_source_without_commit_has_no_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checkout: bool) -> None:
    source = tmp_path / "src" / "vae_lab" / "runs" / "directory.py"
    source.parent.mkdir(parents=True)
    if checkout:
        (tmp_path / ".git").mkdir()  # not a repository that git knows
    monkeypatch.setattr(runs.directory, "__file__", str(source))
    assert runs.directory.revision() is None
