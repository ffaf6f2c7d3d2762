"""The name of a job, as the job itself finds it."""

import pytest

from carbon_exporter.naming import group_in, name_in, pod_job_name


@pytest.mark.parametrize(
    ("environment", "name"),
    [
        ({}, ""),
        ({"CARBON_TRAINING_JOB": " bert "}, "bert"),
        ({"CARBON_TRAINING_JOB": "bert", "CARBON_POD_NAMESPACE": "nlp"}, "nlp/bert"),
        ({"CARBON_TRAINING_JOB": "", "CARBON_POD_NAMESPACE": "nlp"}, ""),
        ({"CARBON_TRAINING_JOB": "bert", "SLURM_JOB_ID": "12"}, "bert"),
        ({"SLURM_JOB_ID": "12"}, "slurm-12"),
        ({"SLURM_JOB_ID": "12; rm"}, ""),
        ({"SLURM_JOB_ID": "١٢"}, ""),
    ],
)
def test_the_name_in_an_environment(environment, name):
    assert name_in(environment) == name


def test_a_pod_job_of_any_name_fits_a_label():
    assert pod_job_name("nlp", "a\nb") == "nlp/a_b"
    assert pod_job_name("nlp", "  ") == ""
    assert len(pod_job_name("n" * 63, "x" * 500)) < 200


def test_the_group_in_an_environment():
    assert group_in({"CARBON_TRAINING_GROUP": " g\t1 "}) == "g_1"
    assert group_in({}) == ""
