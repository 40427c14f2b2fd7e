"""The bundle is whole or not there, and notices every changed byte."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from edgec.core import bundle as bundles
from edgec.core.bundle import Bundle, InputsOutputs
from edgec.core.errors import IntegrityError, JobError, RequestError
from edgec.core.graph import TensorSpec
from edgec.core.numerics import Expected
from edgec.core.ties import Ranking, Ties

IO = InputsOutputs(
    (TensorSpec("pixels", (1, 3, "height", 4), "float32", "image"),),
    (TensorSpec("logits", (1, 10), "float32"),),
    {"pixels": {"mean": [0.5], "std": [0.25]}},
    ("zero", "one"),
)


def make(folder: Path) -> Bundle:
    with bundles.writing(folder) as scratch:
        (scratch / bundles.ENGINE).mkdir()
        (scratch / bundles.ENGINE / "model.bin").write_bytes(bytes(range(256)))
        feeds = [{"pixels": np.full((1, 2), index, np.float32)} for index in range(2)]
        bundles.write_samples(scratch, feeds, Expected([{"logits": feed["pixels"] * 2} for feed in feeds]))
        bundles.write_json(scratch / bundles.IO, IO.to_json())
        bundles.seal(scratch, {"target": "x86", "samples": 2})
    return Bundle.open(folder)


def test_rounding_and_ties_come_back(tmp_path: Path) -> None:
    feeds = [{"pixels": np.zeros((1, 2), np.float32)}]
    reference = {"logits": np.array([[0.25, 3.0]], np.float32), "label": np.array([1])}
    exact = {"logits": reference["logits"] - np.array([[1e-9, -2e-7]]), "label": np.array([1])}
    ranking = Ranking({"logits": 1}, np.array([[2.0, 1.0]]), np.array([0.5]))
    ties = Ties({"label": np.array([0.5], np.float32)}, (ranking,))
    with bundles.writing(tmp_path / "t.edgec") as scratch:
        bundles.write_samples(scratch, feeds, Expected([reference], [exact], [ties]))
        bundles.write_json(scratch / bundles.IO, IO.to_json())
        bundles.seal(scratch, {"target": "x86", "samples": 1})
    expected = Bundle.open(tmp_path / "t.edgec").samples()[1]
    np.testing.assert_allclose(expected.exact[0]["logits"], exact["logits"], rtol=0, atol=1e-14)
    np.testing.assert_array_equal(expected.ties[0].margins["label"], ties.margins["label"])
    assert expected.ties[0].rankings[0].axes == {"logits": 1}
    np.testing.assert_array_equal(expected.ties[0].rankings[0].scores, [[2.0, 1.0]])


def test_a_bundle_comes_back_as_it_was_written(tmp_path: Path) -> None:
    bundle = make(tmp_path / "m.x86.edgec")
    assert bundle.io == IO
    feeds, expected = bundle.samples()
    assert [float(feed["pixels"][0, 0]) for feed in feeds] == [0.0, 1.0]
    np.testing.assert_array_equal(expected.references[1]["logits"], feeds[1]["pixels"] * 2)


def test_the_same_content_gives_the_same_bytes(tmp_path: Path) -> None:
    first, second = make(tmp_path / "a.edgec"), make(tmp_path / "b.edgec")
    assert first.manifest["sha256"] == second.manifest["sha256"]


@pytest.mark.parametrize("name", ["engine/model.bin", "io.json", "samples/1.outputs.npz", "manifest.json"])
def test_every_changed_byte_is_noticed(tmp_path: Path, name: str) -> None:
    bundle = make(tmp_path / "m.edgec")
    path = bundle.path / name
    content = bytearray(path.read_bytes())
    # A digit in the manifest, so that it stays JSON; the middle byte elsewhere.
    place = content.index(b"2") if name == "manifest.json" else len(content) // 2
    content[place] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(IntegrityError, match=path.name):
        Bundle.open(bundle.path)


def test_a_missing_and_an_added_file_are_noticed(tmp_path: Path) -> None:
    bundle = make(tmp_path / "m.edgec")
    (bundle.path / "stray.txt").write_text("x")
    with pytest.raises(IntegrityError, match=r"stray\.txt"):
        Bundle.open(bundle.path)
    (bundle.path / "stray.txt").unlink()
    (bundle.path / "engine" / "model.bin").unlink()
    with pytest.raises(IntegrityError, match=r"model\.bin"):
        Bundle.open(bundle.path)


def test_a_failure_leaves_nothing_and_keeps_the_old_bundle(tmp_path: Path) -> None:
    old = make(tmp_path / "m.edgec").manifest

    def interrupted() -> None:
        with bundles.writing(tmp_path / "m.edgec") as scratch:
            (scratch / "half").write_text("x")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.edgec"]
    assert Bundle.open(tmp_path / "m.edgec").manifest == old


def test_a_full_disk_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="disk is full"), bundles.writing(tmp_path / "m.edgec"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert not list(tmp_path.iterdir())


def test_something_else_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").write_text("x")
    with pytest.raises(RequestError, match="not a bundle"), bundles.writing(tmp_path / "precious"):
        pass
    assert (tmp_path / "precious" / "file").read_text() == "x"


def test_a_packed_bundle_opens(tmp_path: Path) -> None:
    bundle = make(tmp_path / "m.edgec")
    archive = bundles.pack(bundle.path)
    first = archive.read_bytes()
    assert bundles.pack(bundle.path).read_bytes() == first
    opened = Bundle.open(archive)
    assert opened.manifest == bundle.manifest
    assert opened.samples()[0][1]["pixels"][0, 0] == 1.0


def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    bundle = make(tmp_path / "m.edgec")
    fields = {**bundle.manifest, "schema": bundles.SCHEMA + 1}
    bundles.write_json(bundle.path / bundles.MANIFEST, fields)
    with pytest.raises(RequestError, match="update edgec"):
        Bundle.open(bundle.path)


@settings(max_examples=40)
@given(
    st.dictionaries(
        st.text("abcfilexyz_./", min_size=1, max_size=8).filter(lambda name: ".." not in name),
        arrays.arrays(
            st.sampled_from(["float32", "int64", "bool"]), arrays.array_shapes(min_dims=0, max_side=4)
        ),
        max_size=3,
    )
)
def test_arrays_come_back_whatever_they_are_called(
    tmp_path_factory: pytest.TempPathFactory, given_arrays
) -> None:
    path = tmp_path_factory.mktemp("npz") / "a.npz"
    bundles.write_arrays(path, given_arrays)
    found = bundles.read_arrays(path)
    assert set(found) == set(given_arrays)
    for name, array in given_arrays.items():
        np.testing.assert_array_equal(found[name], array)


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04broken"])
def test_a_file_that_is_no_npz_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.npz"
    path.write_bytes(content)
    with pytest.raises(RequestError, match="npz"):
        bundles.read_arrays(path)


def test_a_pickle_is_never_loaded(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([{"x": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(RequestError):
        bundles.read_arrays(tmp_path / "a.npy")
