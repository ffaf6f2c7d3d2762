"""metrics.Renderer keeps the series of its last page: what it writes must not depend on what it wrote before."""

import math
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from carbon_exporter.metrics import JOB_ENERGY, JOB_GPUS, PUE, Family, Renderer

# -0.0 equals 0.0 and may be written as either.
NUMBERS = st.one_of(st.sampled_from([0.0, 1.0, 2.5, math.inf, -math.inf, math.nan]), st.floats()).map(lambda n: n + 0.0)
NAMES = st.sampled_from(["bert", "resnet50", 'a "b"\n\\'])


def pages():
    energy = st.dictionaries(st.tuples(NAMES, st.sampled_from(["cpu", "gpu"])), NUMBERS)
    gpus = st.dictionaries(st.tuples(NAMES), NUMBERS)
    return st.tuples(energy, gpus, NUMBERS).map(
        lambda page: [
            Family(JOB_ENERGY, list(page[0].items())),
            Family(JOB_GPUS, list(page[1].items())),
            Family(PUE, [((), page[2])]),
        ]
    )


@given(st.lists(pages(), min_size=2, max_size=6))
def test_a_page_is_the_same_from_a_fresh_renderer_and_from_one_that_wrote_others(sequence):
    used = Renderer()
    for page in sequence:
        assert used.render(page) == Renderer().render(page)


def test_a_value_that_changes_is_written_anew_and_a_job_that_left_is_forgotten():
    renderer = Renderer()
    renderer.render([Family(JOB_ENERGY, [(("bert", "cpu"), 1.5), (("gpt", "cpu"), 1.0)])])
    page = renderer.render([Family(JOB_ENERGY, [(("bert", "cpu"), 2.5)])]).decode()
    assert page.splitlines()[2:] == ['carbon_job_energy_joules_total{training_job="bert",component="cpu"} 2.5']
    assert "gpt" not in str(vars(renderer))


def test_labels_that_change_their_names_and_not_their_values_are_other_series():
    renderer = Renderer()
    pages = [renderer.render([Family(replace(PUE, labels=(label,)), [(("x",), 1.0)])]) for label in ("team", "queue")]
    assert b'{team="x"}' in pages[0]
    assert b'{queue="x"}' in pages[1]
