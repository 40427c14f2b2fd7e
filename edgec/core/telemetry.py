"""Nothing phones home: what the libraries under edgec would send is off unless it is asked for."""

from __future__ import annotations

import os
import sys

_VARIABLES = ("ORT_DISABLE_TELEMETRY", "HF_HUB_DISABLE_TELEMETRY")
"""ONNX Runtime (core/platform/telemetry_1ds.cc) and huggingface_hub (docs, environment variables)."""

_MODULE = "openvino_telemetry"
"""OpenVINO and NNCF send by this package where it can be imported, and are silent where it cannot."""


def turn_off() -> None:
    """Turn it off in this process and its children; a variable that the user has set stays as it is.

    It has to come before the libraries are imported. `EDGEC_TELEMETRY=1` leaves all of it as the libraries
    have it.
    """
    if os.environ.get("EDGEC_TELEMETRY") == "1":
        return
    for variable in _VARIABLES:
        os.environ.setdefault(variable, "1")
    # None makes the import fail: both have a stand-in for that.
    sys.modules.setdefault(_MODULE, None)  # type: ignore[arg-type]
