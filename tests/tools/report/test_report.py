"""HTML pages made of result files: their tables, that they need no other file, and what is refused."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import msgspec
import numpy as np
import pytest

from qzd_ext import bundle as bundles
from qzd_ext.detections import Classes
from qzd_ext.errors import DataError
from qzd_tools.cli import main
from qzd_tools.data.images import list_images
from qzd_tools.report import write_report
from qzd_tools.report.results import read_results
from qzd_tools.report.samples import _drawn, sample_images
from support.painted_images import write_painted
from support.tiny_model import write_tiny_bundle

SPEED = {"spread": 0.1, "mean_ms": 6.0, "p50_ms": 5.0, "p90_ms": 8.0, "p99_ms": 9.0, "samples": 50}
COST = {"cold_ms": 90.0, "cached_ms": 30.0, "first_inference_ms": 9.0, "peak_mb": 160.0, "before_mb": 70.0}
MACHINE = {"cpu": "A <fast> one", "cores": 4, "usable": 2, "instruction_sets": ["avx2"], "memory_gb": 8.0,
           "system": "Linux 6", "versions": {"qzd": "0"}}  # fmt: skip

ANOTHER = MACHINE | {"cpu": "A slow one"}


def named(precision: str) -> dict[str, str]:
    return {"name": "belt", "version": "1", "precision": precision, "digest": f"sha256:{precision}",
            "path": f"/nowhere/{precision}"}  # fmt: skip


def validation(precision: str, main_figure: float, **changes: Any) -> dict[str, Any]:
    classes = [
        {"label": "nut|<b>", "category_id": 1, "instances": 9, "metrics": {"ap": main_figure + 0.1}},
        {"label": "costs $5 or $6", "category_id": 2, "instances": 4, "metrics": {"ap": 0.5}},
        {"label": "ghost", "category_id": 3, "instances": 0, "metrics": {"ap": None}},
    ]
    document = {
        "bundle": named(precision), "metrics": {"map": main_figure, "map50": 0.7, "map_small": None},
        "classes": classes, "curve": [1 - i / 100 for i in range(101)], "images": 12, "dataset": "d",
        "device": "CPU", "seconds": 1.0, "note": "",
        "thresholds": {"confidence": 0.001, "iou": 0.65, "nms": "iou", "max_detections": 300},
    }  # fmt: skip
    return document | changes


def benchmark(*rates: tuple[str, float]) -> dict[str, Any]:
    def one(precision: str, rate: float) -> dict[str, Any]:
        speed = SPEED | {"throughput": rate, "histogram": [[5.0, 30], [10.0, 20]]}
        return {
            "bundle": named(precision), "bytes": 4_000_000, "devices": ["CPU"], "threads": 2, "requests": 2,
            "hint": "throughput", "inference": speed, "whole": speed, "footprint": COST,
            "stages_ms": {"preprocess": 1.0, "inference": 4.0, "postprocess": 0.5},
            "app": {"throughput": rate, "median_ms": 5.0},
        }  # fmt: skip

    return {"machine": MACHINE, "frames": "12 images", "benchmarks": [one(*rate) for rate in rates]}


def quantized(precision: str) -> dict[str, Any]:
    made = {key: value for key, value in named(precision).items() if key != "precision"}
    sizes = {"before": 4_000_000, "after": 1_000_000}
    return {
        "bundle": made, "precision": precision, "parent": "sha256:fp32", "bytes": sizes, "seconds": 31.4,
    }  # fmt: skip


def written(directory: Path, *documents: Any) -> list[Path]:
    paths = [directory / f"{i}.json" for i in range(len(documents))]
    for path, document in zip(paths, documents, strict=True):
        path.write_text(document if isinstance(document, str) else json.dumps(document))
    return paths


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """HTML and Markdown of one model, before and after."""
    directory = tmp_path_factory.mktemp("report")
    results = written(
        directory, quantized("int8"), validation("int8", 0.4), validation("fp32", 0.41),
        benchmark(("int8", 200.0), ("fp32", 100.0)),
    )  # fmt: skip
    html, markdown = write_report(results, directory / "report.html")
    return html.read_text(), markdown.read_text()


def test_the_report_says_what_was_won_and_lost(pages: tuple[str, str]) -> None:
    said = "INT8 against FP32: mAP 0.4000 against 0.4100 (-0.0100), 2.00 times the inferences per second"
    assert all(said in page for page in pages)


@pytest.mark.parametrize(
    "row",
    [
        "| FP32 | 0.4100 | 0.7000 | - | 10.00 |",
        "| INT8 | 0.4000 | 0.7000 | -0.0100 | 5.00 |",
        "| Time to quantize, s | - | 31.40 |",
        "| Inference time, ms | 10.00 | 5.00 |",
        "| peak memory, MB | 160 | 160 |",
        "| nut\\|<b> | 9 | 0.5100 | 0.5000 | -0.0100 |",
        "| INT8 | belt | sha256:int8 | /nowhere/int8 |",
        "| map_small | - | - |",
    ],
)
def test_the_tables_have_the_measured_figures(pages: tuple[str, str], row: str) -> None:
    assert row in pages[1].splitlines()


def test_the_page_stands_alone_and_escapes_names(pages: tuple[str, str]) -> None:
    html = pages[0]
    assert re.findall(r'(?:src|href)="(?!data:|#)[^"]*"|@import|url\((?!#)', html) == []
    assert "nut|&lt;b&gt;" in html
    assert "<b>" not in html
    assert "A &lt;fast&gt; one" in html
    assert 'name="viewport"' in html


def test_every_figure_is_drawn_and_is_sound_xml(pages: tuple[str, str]) -> None:
    figures = re.findall(r"<svg.*?</svg>", pages[0], re.DOTALL)
    titles = [ElementTree.fromstring(figure).attrib["aria-label"] for figure in figures]
    assert titles == [
        "Accuracy against latency", "Precision and recall", "Class by class", "Latency of a frame",
        "Where the time goes",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("documents", "there", "absent"),
    [
        ([validation("fp32", 0.4)], ["mAP", "All figures"], ["Speed", "Machine", "takes and gives"]),
        ([benchmark(("fp32", 9.0))], ["Speed", "Machine"], ["All figures", "takes and gives"]),
        ([validation("int8", 0.4, baseline=validation("fp32", 0.5))], ["-0.1000", "by class"], ["Speed"]),
        ([validation("fp32", 0, metrics={"top1": 0.7, "top5": 0.9}, curve=[])], ["top-1", "top-5"], ["mAP"]),
    ],
    ids=["one validation", "one benchmark", "a baseline", "a classifier"],
)
def test_the_report_shows_what_there_is(
    tmp_path: Path, documents: list[Any], there: list[str], absent: list[str]
) -> None:
    _, markdown = write_report(written(tmp_path, *documents), tmp_path / "out" / "report.html")
    text = markdown.read_text()
    assert [word for word in there if word not in text] == []
    assert [word for word in absent if word in text] == []


@pytest.mark.parametrize(
    ("documents", "message"),
    [
        ([validation("fp32", 0.4), validation("int8", 0.4, dataset="other")], "different data sets"),
        ([validation("int8", 0.4), validation("int8", 0.9, dataset="other")], "different data sets"),
        ([validation("fp32", 0.4), validation("int8", 0.4, thresholds={"confidence": 0.3})], "thresholds: "),
        ([benchmark(("fp32", 9.0)), benchmark(("int8", 9.0)) | {"machine": ANOTHER}], "different machines"),
        (['{"bundle": '], "0.json"),
        ([{"images": 3}], "what `validate`, `quantize` or `benchmark` wrote"),
        ([[1, 2]], "what `validate`"),
        ([validation("int3", 0.4)], "int3"),
        ([benchmark(("int3", 100.0))], "int3"),
        ([benchmark()], "$.benchmarks"),
    ],
    ids=[
        "data sets", "data sets of one bundle", "thresholds", "machines", "truncated", "no result", "a list",
        "unknown precision", "unknown speed", "no speed",
    ],
)
def test_the_report_refuses_what_it_cannot_compare_or_read(
    tmp_path: Path, documents: list[Any], message: str
) -> None:
    with pytest.raises(DataError, match=re.escape(message)):
        read_results(written(tmp_path, *documents))


@pytest.mark.parametrize(
    ("output", "html"),
    [("a.html", "a.html"), ("a.md", "a.html"), ("a", "a.html"), ("belt-v1.2", "belt-v1.2.html")],
)
def test_the_report_keeps_its_name(tmp_path: Path, output: str, html: str) -> None:
    assert write_report(written(tmp_path, validation("fp32", 0.4)), tmp_path / output)[0] == tmp_path / html


def test_the_report_is_written_when_names_are_in_another_script(tmp_path: Path) -> None:
    before, after = validation("fp32", 0.4), validation("int8", 0.5)
    for document in (before, after):
        document["classes"][0]["label"] = "\u884c\u4eba"
    html, _ = write_report(written(tmp_path, before, after), tmp_path / "report.html")
    assert "\u884c\u4eba" in html.read_text()


def test_the_report_leaves_nothing_half_written_when_the_disk_is_full(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = str(written(tmp_path, validation("fp32", 0.4))[0])
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".page.html.part").symlink_to("/dev/full")
    assert main(["report", result, "-o", str(tmp_path / "out" / "page.html")]) == 3
    assert "out/page.html: No space left" in capsys.readouterr().err
    assert not list((tmp_path / "out").iterdir())


def test_a_result_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.json: cannot be read"):
        read_results([tmp_path / "gone.json"])
    for content in (b'{"note": "caf\xe9"}', b"[" * 100_000):
        (tmp_path / "x.json").write_bytes(content)
        with pytest.raises(DataError, match=r"x\.json: "):
            read_results([tmp_path / "x.json"])


def test_samples_show_what_both_bundles_find(tiny_bundle: Path, tmp_path: Path) -> None:
    images = list_images(write_painted(tmp_path / "data", count=6).parent / "images")
    tiny = bundles.read(tiny_bundle)
    with bundles.create(tmp_path / "blind") as draft:
        for file in (tiny.model, tiny.model.with_suffix(".bin")):
            shutil.copy(file, draft.directory)
        fewer = msgspec.structs.replace(tiny.manifest.thresholds, max_detections=1)
        draft.manifest = msgspec.structs.replace(tiny.manifest, thresholds=fewer)
    samples = sample_images(tiny, bundles.read(tmp_path / "blind"), images)
    assert [one.differences for one in samples] == [2, 2, 2, 2]
    assert {(one.words_before, one.words_after) for one in samples} == {("3 boxes", "1 box")}
    assert all(one.before != one.after for one in samples)
    same = sample_images(tiny, tiny, images, count=2)
    assert [one.differences for one in same] == [0, 0]
    assert all(one.before == one.after for one in same)


def test_the_command_writes_the_page_with_samples(
    tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny = bundles.read(tiny_bundle)
    other = bundles.read(write_tiny_bundle(tmp_path / "other", version="2"))
    documents = [
        validation(p, 0.4, bundle=named(p) | {"digest": b.digest, "path": str(b.path)})
        for p, b in (("fp32", tiny), ("int8", other))
    ]
    results = [str(path) for path in written(tmp_path, *documents)]
    images = write_painted(tmp_path / "data").parent / "images"
    for path in images.iterdir():  # names of files are any bytes
        path.rename(images / (os.fsdecode(b"caf\xe9-") + path.name))
    words = ["-o", str(tmp_path / "page.html"), "--images", str(images), "--samples", "2"]
    assert main(["report", *results, *words, "--json", str(tmp_path / "r.json")]) == 0
    page = (tmp_path / "page.html").read_text()
    assert page.count("data:image/jpeg") == 4
    assert "caf\\udce9-" in page
    assert "page.md" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("others", "words"),
    [
        ([], "the results are of one bundle"),
        ([{"digest": "sha256:2"}], "no longer there"),
        ([{"digest": "sha256:2", "path": "/nowhere"}], "no longer there"),
    ],
)
def test_the_command_says_why_there_can_be_no_samples(
    tiny_bundle: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    others: list[dict[str, str]],
    words: str,
) -> None:
    here = {"digest": bundles.read(tiny_bundle).digest, "path": str(tiny_bundle)}
    of = [("fp32", here), *(("int8", here | other) for other in others)]
    documents = [validation(precision, 0.4, bundle=named(precision) | one) for precision, one in of]
    results = [str(path) for path in written(tmp_path, *documents)]
    images = write_painted(tmp_path / "data").parent / "images"
    assert main(["report", *results, "-o", str(tmp_path / "page.html"), "--images", str(images)]) == 3
    assert words in capsys.readouterr().err
    assert not (tmp_path / "page.html").exists()


def test_a_picture_that_is_a_line_is_drawn() -> None:
    nothing = Classes(np.zeros(0, np.float32), np.zeros(0, np.int32))
    assert _drawn(np.zeros((1, 4000, 3), np.uint8), nothing, []).shape[0] == 1


def in_bf16(document: dict[str, Any]) -> dict[str, Any]:
    """Return the same result as measured in bf16."""
    if "benchmarks" not in document:
        return document | {"inference_precision": "bf16"}
    measured = [one | {"inference_precision": "bf16"} for one in document["benchmarks"]]
    return document | {"benchmarks": measured}


def test_a_float_model_in_bf16_is_a_row_of_its_own(tmp_path: Path) -> None:
    speeds = benchmark(("fp32", 100.0), ("int8", 150.0))
    speeds["benchmarks"] += in_bf16(benchmark(("fp32", 180.0)))["benchmarks"]
    validations = validation("fp32", 0.41), in_bf16(validation("fp32", 0.408)), validation("int8", 0.409)
    results = written(tmp_path, *validations, speeds)
    _, page = write_report(results, tmp_path / "report.html")
    lines = page.read_text().splitlines()
    assert "| BF16 | 0.4080 | 0.7000 | -0.0020 | 5.56 |" in lines
    assert lines[2].startswith("INT8 against FP32")
    assert lines[4] == (
        "Serve BF16 on this machine: the fastest within 0.01 of FP32's mAP, 1.80 times its inferences "
        'per second. Set precision = "bf16" for the model in qzd.toml.'
    )


@pytest.mark.parametrize(
    ("accuracy", "rate", "served"),
    [(0.405, 200.0, "INT8"), (0.399, 200.0, "FP32"), (0.405, 90.0, "FP32")],
    ids=["faster and as good", "faster and worse", "slower"],
)
def test_the_verdict_is_the_fastest_that_loses_little(
    tmp_path: Path, accuracy: float, rate: float, served: str
) -> None:
    speeds = benchmark(("fp32", 100.0), ("int8", rate))
    results = written(tmp_path, validation("fp32", 0.41), validation("int8", accuracy), speeds)
    _, page = write_report(results, tmp_path / "report.html")
    assert f"Serve {served} on this machine" in page.read_text()


def test_candidates_have_a_table_and_a_picture(tmp_path: Path) -> None:
    candidates = [
        {"name": "all layers in int8", "agreement": 0.93, "error": 0.01, "speed": 2.0, "chosen": False},
        {"name": "last layers in float", "agreement": 0.96, "error": 0.01, "speed": 1.8, "chosen": True},
    ]
    made = quantized("int8") | {"candidates": candidates}
    results = written(tmp_path, made, validation("int8", 0.4), validation("fp32", 0.4))
    page, text = write_report(results, tmp_path / "report.html")
    assert "| last layers in float | 0.9600 | 1.80 | chosen |" in text.read_text().splitlines()
    assert "last layers in float, chosen" in page.read_text()
