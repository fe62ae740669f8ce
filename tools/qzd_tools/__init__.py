"""The engineer's half of qzd: convert, quantize, validate. Stands on `qzd_ext`, never on `qzd_daemon`.

OpenVINO's converter and NNCF report their use when the package openvino_telemetry can be imported, and
fall back to doing nothing when it cannot. Here it cannot.
"""

import sys

__all__: list[str] = []


def _switch_telemetry_off() -> None:
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # makes its import fail
    for name, module in list(sys.modules.items()):
        if name.startswith("openvino.tools.ovc.") and hasattr(module, "tm"):
            from openvino.tools.ovc import telemetry_stub  # somebody imported openvino before us

            module.tm = telemetry_stub  # type: ignore[attr-defined]


_switch_telemetry_off()
