"""The same graph is the same file, whatever the process did before."""

from __future__ import annotations

from pathlib import Path

import openvino as ov
from openvino import opset13 as ops

from qzd_tools.graph.save import save_ir
from support.tiny_model import build_model


def test_save_ir_gives_the_same_file_when_other_graphs_were_built_before(tmp_path: Path) -> None:
    save_ir(build_model(), tmp_path / "a.xml")
    for _ in range(100):
        ops.constant(1.0)
    save_ir(build_model(), tmp_path / "b.xml")
    for suffix in (".xml", ".bin"):
        assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()


def test_save_ir_keeps_the_names_that_were_given(tmp_path: Path) -> None:
    model = build_model()
    named = [node for node in model.get_ordered_ops() if node.get_type_name() == "AvgPool"]
    named[0].set_friendly_name("means")
    save_ir(model, tmp_path / "a.xml")
    names = [node.get_friendly_name() for node in ov.Core().read_model(tmp_path / "a.xml").get_ordered_ops()]
    assert {"means", "frame"} <= set(names)
    assert len(names) == len(set(names))
