import pytest
from pass_graphs import build

from edgec.core.errors import JobError, RequestError
from edgec.passes import infra
from edgec.passes.infra import Pass, register
from edgec.passes.manager import Pipeline
from edgec.passes.pipeline import load_passes


@pytest.fixture
def passes(monkeypatch):
    monkeypatch.setattr(infra, "_REGISTRY", {})

    def make(name, after=(), before=(), apply=None):
        body = {"name": name, "after": after, "before": before}
        body["apply"] = apply or (lambda self, model, log: None)
        return register(type("Made", (Pass,), body))

    make("a.first")
    make("a.second", after=("a.first",))
    make("a.third", after=("a.second",))
    make("a.early", before=("a.second",))
    return make


def test_order_is_checked(passes):
    assert Pipeline.named(["a.first", "a.second", "a.third"]).names == ("a.first", "a.second", "a.third")
    with pytest.raises(RequestError, match=r"a\.second must come after a\.first"):
        Pipeline.named(["a.second", "a.first"])
    with pytest.raises(RequestError, match=r"a\.early must come before a\.second"):
        Pipeline.named(["a.first", "a.second", "a.early"])


def test_a_constraint_on_an_absent_pass_holds(passes):
    assert Pipeline.named(["a.third", "a.first"]).names == ("a.third", "a.first")


def test_a_name_appears_once(passes):
    with pytest.raises(RequestError, match=r"a\.first .* twice"):
        Pipeline.named(["a.first", "a.first"])


def test_edits(passes):
    pipeline = Pipeline.named(["a.first", "a.second", "a.third"])
    assert pipeline.edited(["-a.second"]).names == ("a.first", "a.third")
    assert pipeline.edited(["-a.second", "+a.second"]).names == pipeline.names
    assert pipeline.edited(["+a.early"]).names == ("a.first", "a.early", "a.second", "a.third")
    assert pipeline.edited(["+a.first"]).names == pipeline.names


@pytest.mark.parametrize(
    ("edit", "message"),
    [("a.first", "no sign; write "), ("", "no sign"), ("+", "no sign"), ("-a.frist", "did you mean a.first")],
)
def test_wrong_edits_say_what_to_write(passes, edit, message):
    with pytest.raises(RequestError, match=message):
        Pipeline.named(["a.first"]).edited([edit])


def test_a_pass_without_a_place(passes):
    passes("a.stuck", after=("a.second",), before=("a.first",))
    with pytest.raises(RequestError, match=r"a\.stuck has no place"):
        Pipeline.named(["a.first", "a.second"]).edited(["+a.stuck"])


def test_two_passes_of_one_name(passes):
    with pytest.raises(ValueError, match="two passes"):
        passes("a.first")


def test_reports_count_and_say_why(passes):
    def apply(self, model, log):
        node = model.graph.node(0)
        log.matched(node)
        for _ in range(2):
            log.missed(node, "something stood in the way")

    passes("a.counting", apply=apply)
    model = build("(float[2] x) => (float[2] y) { y = Neg(x) }")
    seen = []
    (report,) = Pipeline.named(["a.counting"]).run(
        model, on_pass=seen.append, after_pass=lambda name, left: seen.append((name, left is model))
    )
    assert seen == ["a.counting", ("a.counting", True)]
    assert (report.matched, report.sites) == (1, ("layer.n0_Neg",))
    assert (report.nodes_before, report.nodes_after) == (1, 1)
    (miss,) = report.missed
    assert (miss.node, miss.source, miss.reason) == ("n0_Neg", "layer.n0_Neg", "something stood in the way")


def test_a_pass_that_breaks_is_named(passes):
    def apply(self, model, log):
        raise IndexError("out of range")

    passes("a.broken", apply=apply)
    model = build("(float[2] x) => (float[2] y) { y = Neg(x) }")
    with pytest.raises(JobError, match=r"a\.broken.*out of range.*--passes -a\.broken"):
        Pipeline.named(["a.broken"]).run(model)


def test_a_users_mistake_goes_through(passes):
    def apply(self, model, log):
        raise RequestError("the model is wrong")

    passes("a.refusing", apply=apply)
    with pytest.raises(RequestError, match="the model is wrong"):
        Pipeline.named(["a.refusing"]).run(build("(float[2] x) => (float[2] y) { y = Neg(x) }"))


@pytest.mark.parametrize("name", ["tokens.merge", "tokens.prune"])
def test_what_takes_tokens_away_is_no_pass_to_put_in(name):
    load_passes()
    with pytest.raises(RequestError, match=rf"{name}: taking tokens away .* an option of its own"):
        Pipeline([]).edited([f"+{name}"])
