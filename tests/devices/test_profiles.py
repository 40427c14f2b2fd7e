"""Device profiles: the ones that ship are whole and sourced; a wrong one is refused with its field."""

from __future__ import annotations

import contextlib
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgec.core.errors import RequestError
from edgec.devices import profiles as module
from edgec.devices.profiles import COMPUTE_FIGURES, MEMORY_FIGURES, profile, profiles, read_profile

GOOD = """
name = "board"
title = "A board"
vendor = "Somebody"
kind = "jetson"
chip = "C1"
notes = ["A note."]

[sources]
sheet = { title = "Data sheet 1", url = "https://example.org/sheet.pdf" }

[compute]
cuda_cores = { value = 512, source = "sheet" }

[memory]
bandwidth_gbps = { value = 34.1, source = "sheet", note = "at full clock" }

[[power_modes]]
name = "MAXN"
source = "sheet"

[[software]]
release = "JetPack 6.2"
tensorrt = "10.3"
source = "sheet"
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "board.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_promised_devices_have_profiles() -> None:
    names = {entry.name for entry in profiles()}
    jetsons = ["orin-nano-4gb", "orin-nano-8gb", "orin-nano-8gb-super", "orin-nx-8gb", "orin-nx-16gb"]
    jetsons += [
        "agx-orin-32gb",
        "agx-orin-64gb",
        "thor-t5000",
        "thor-t4000",
        "xavier-nx-8gb",
        "xavier-nx-16gb",
    ]
    phones = [f"iphone-{generation}{kind}" for generation in range(13, 18) for kind in ("", "-pro")]
    tablets = ["ipad-pro-m1", "ipad-pro-m2", "ipad-pro-m4"]
    assert names >= {f"jetson-{name}" for name in jetsons} | {"iphone-12", *phones, *tablets}


@pytest.mark.parametrize("entry", profiles(), ids=lambda entry: entry.name)
def test_every_figure_has_a_vendor_document(entry: module.DeviceProfile) -> None:
    sourced = [*entry.compute.values(), *entry.memory.values(), *entry.power_modes, *entry.software]
    assert entry.compute
    assert entry.software
    for item in sourced:
        assert item.source.title
        assert item.source.url.startswith("https://")
    assert set(entry.compute) <= set(COMPUTE_FIGURES)
    assert set(entry.memory) <= set(MEMORY_FIGURES)


@pytest.mark.parametrize("entry", [e for e in profiles() if e.kind == "jetson"], ids=lambda e: e.name)
def test_jetson_figures_agree_with_each_other(entry: module.DeviceProfile) -> None:
    figures = {name: figure.value for name, figure in entry.compute.items()}
    releases = [software for software in entry.software if software.release.startswith("JetPack")]
    assert entry.memory["capacity_gb"].value in (4, 8, 16, 32, 64, 128)
    assert figures["sm"] in (72, 87, 110)
    assert figures["cuda_cores"] % 64 == 0
    assert len(releases) == len(entry.software)
    assert all(software.tensorrt and software.cuda for software in releases)
    if "int8_sparse_tops" in figures:
        # Vendors round the dense figure: 67 and 33, 117 and 58.
        assert figures["int8_dense_tops"] == pytest.approx(figures["int8_sparse_tops"] / 2, abs=0.5)


def test_super_mode_is_faster_than_the_module_without() -> None:
    for name in ("orin-nano-4gb", "orin-nano-8gb", "orin-nx-8gb", "orin-nx-16gb"):
        plain, faster = profile(f"jetson-{name}"), profile(f"jetson-{name}-super")
        assert faster.compute["int8_dense_tops"].value > plain.compute["int8_dense_tops"].value
        assert faster.compute["cuda_cores"] == plain.compute["cuda_cores"]


def test_a_users_own_profile_is_read(tmp_path: Path) -> None:
    entry = profile(str(written(tmp_path, GOOD)))
    assert entry.memory["bandwidth_gbps"].value == 34.1
    assert entry.memory["bandwidth_gbps"].note == "at full clock"
    assert entry.power_modes[0].watts is None
    assert entry.to_dict()["compute"] == {
        "cuda_cores": {
            "value": 512,
            "source": {"title": "Data sheet 1", "url": "https://example.org/sheet.pdf"},
            "note": "",
        }
    }


@pytest.mark.parametrize(
    ("old", "new", "field"),
    [
        ('name = "board"', "", "name is missing"),
        ('kind = "jetson"', 'kind = "toaster"', "kind is 'toaster'"),
        ('chip = "C1"', "chip = 7", "chip is 7, not text"),
        ('chip = "C1"', 'chp = "C1"', "did you mean chip"),
        ('notes = ["A note."]', 'notes = "A note."', "notes is not a list"),
        ('{ value = 512, source = "sheet" }', "512", "compute.cuda_cores has no source"),
        ('{ value = 512, source = "sheet" }', "{ value = 512 }", "compute.cuda_cores.source is missing"),
        ("value = 512", "value = -3", "compute.cuda_cores.value is -3"),
        ("value = 512", "value = true", "compute.cuda_cores.value is True"),
        ("value = 512", "value = nan", "compute.cuda_cores.value is nan"),
        ('value = 512, source = "sheet"', 'value = 512, source = "shet"', "names 'shet', not in [sources]"),
        ("cuda_cores", "cuda_core", "did you mean cuda_cores"),
        ('url = "https://example.org/sheet.pdf"', 'url = "sheet.pdf"', "sources.sheet.url is 'sheet.pdf'"),
        ('tensorrt = "10.3"', "tensorrt = 10.3", "software[0].tensorrt is 10.3, not text"),
        ("[memory]", "[memory", "is not valid TOML"),
    ],
)
def test_a_wrong_profile_is_refused_with_its_field(tmp_path: Path, old: str, new: str, field: str) -> None:
    assert old in GOOD
    path = written(tmp_path, GOOD.replace(old, new))
    with pytest.raises(RequestError) as raised:
        read_profile(path)
    assert field in str(raised.value)
    assert str(path) in str(raised.value)


def test_a_source_that_nothing_uses_is_refused(tmp_path: Path) -> None:
    extra = 'other = { title = "T", url = "https://example.org" }\n\n[compute]'
    with pytest.raises(RequestError, match=r"sources\.other is used by no figure"):
        read_profile(written(tmp_path, GOOD.replace("[compute]", extra)))


def test_a_missing_file_is_named() -> None:
    with pytest.raises(RequestError, match=r"nowhere\.toml: cannot be read"):
        profile("nowhere.toml")


def test_an_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(RequestError, match="did you mean jetson-orin-nano-8gb"):
        profile("jetson-orin-nano8gb")
    with pytest.raises(RequestError, match="known are ipad"):
        profile("???")


def test_names_do_not_mind_their_case() -> None:
    assert profile("iPhone-15-Pro").chip == "A17 Pro"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=4,
)


@given(field=st.sampled_from(sorted(tomllib.loads(GOOD))), value=JSON)
def test_no_value_of_a_field_escapes_the_checks(field: str, value: object) -> None:
    fields = {**tomllib.loads(GOOD), field: value}
    # Anything but a RequestError, an AttributeError say, fails the test.
    with contextlib.suppress(RequestError):
        module._Reader(fields, "drawn").profile()
