"""What is taken from a pod's object and what the pod is called: pure, and against hostile objects."""

import pytest
from fake_kubernetes import pod, uid_of
from hypothesis import given
from hypothesis import strategies as st

from carbon_exporter.jobs.kubernetes import NAME_LABELS
from carbon_exporter.jobs.kubernetes.names import GROUP_LABEL, JOB_LABEL, Namer
from carbon_exporter.jobs.kubernetes.pod import Pod, parse_pod, quantity
from carbon_exporter.naming import name_in

NAMER = Namer(NAME_LABELS, {"team": "team", "queue": "kueue.x-k8s.io/queue-name"})


def parsed(*args, **settings):
    return parse_pod(pod(*args, **settings), NAMER.wanted())


def identity(**settings):
    return NAMER.identify(parsed(1, **settings))


def from_field(name, path):
    return {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}


@pytest.mark.parametrize(
    ("labels", "name"),
    [
        ({JOB_LABEL: "own", "jobset.sigs.k8s.io/jobset-name": "set"}, "lab/own"),
        ({"batch.kubernetes.io/job-name": "set-workers-0", "jobset.sigs.k8s.io/jobset-name": "set"}, "lab/set"),
        ({"training.kubeflow.org/job-name": "torch", "volcano.sh/job-name": "v"}, "lab/torch"),
        ({"ray.io/cluster": "myjob-raycluster-x7", "ray.io/originated-from-cr-name": "myjob"}, "lab/myjob"),
        ({"ray.io/cluster": "cluster", "job-name": "j"}, "lab/cluster"),
        ({"volcano.sh/job-name": "v", "batch.kubernetes.io/job-name": "b"}, "lab/v"),
        ({"batch.kubernetes.io/job-name": "b", "job-name": "legacy"}, "lab/b"),
        ({"job-name": "legacy"}, "lab/legacy"),
        ({JOB_LABEL: "  ", "job-name": "legacy"}, "lab/legacy"),
        ({"app": "web"}, ""),
        ({}, ""),
    ],
)
def test_the_first_name_counts_as_label_or_annotation(labels, name):
    assert identity(labels=labels).training_job == name
    assert identity(annotations=labels).training_job == name


def test_a_label_goes_before_an_annotation():
    assert identity(labels={JOB_LABEL: "a"}, annotations={JOB_LABEL: "b"}).training_job == "lab/a"


def test_the_environment_goes_before_the_labels_of_controllers():
    env = [{"name": "CARBON_TRAINING_JOB", "value": "bert"}, from_field("CARBON_POD_NAMESPACE", "metadata.namespace")]
    found = identity(env=env, labels={"job-name": "j"})
    assert (found.training_job, found.failure) == ("lab/bert", "")


@pytest.mark.parametrize(
    "variable",
    [
        {"name": "CARBON_TRAINING_JOB", "value": "bert base"},
        from_field("CARBON_TRAINING_JOB", "metadata.labels['job-name']"),
        from_field("CARBON_TRAINING_JOB", "metadata.annotations['team/run']"),
        from_field("CARBON_TRAINING_JOB", "metadata.name"),
        {"name": "CARBON_TRAINING_JOB", "value": " x" * 300},
        {"name": "CARBON_TRAINING_JOB", "value": "line\nbreak"},
    ],
)
def test_the_process_inside_and_the_agent_outside_agree_on_the_name(variable):
    labels, annotations = {"job-name": "bert-7"}, {"team/run": "Run 7"}
    env = [variable, from_field("CARBON_POD_NAMESPACE", "metadata.namespace")]
    # What the kubelet makes of the downward API.
    values = {"metadata.name": "pod-1", "metadata.namespace": "lab"}
    values |= {f"metadata.labels['{k}']": v for k, v in labels.items()}
    values |= {f"metadata.annotations['{k}']": v for k, v in annotations.items()}
    inside = {v["name"]: v.get("value") or values[v["valueFrom"]["fieldRef"]["fieldPath"]] for v in env}
    found = identity(env=env, labels=labels, annotations=annotations)
    assert found.training_job == name_in(inside) != ""
    assert found.failure == ""


def test_a_label_that_disagrees_with_the_environment_wins_and_is_said():
    env = [{"name": "CARBON_TRAINING_JOB", "value": "b"}, from_field("CARBON_POD_NAMESPACE", "metadata.namespace")]
    found = identity(env=env, labels={JOB_LABEL: "a"})
    assert found.training_job == "lab/a"
    assert found.failure.startswith("pod lab/pod-1 is counted as 'lab/a': ")
    assert "'lab/b'" in found.failure
    assert identity(env=env, labels={JOB_LABEL: "b"}).failure == ""


def test_no_disagreement_is_claimed_where_the_namespace_cannot_be_known():
    env = [{"name": "CARBON_TRAINING_JOB", "value": "b"}, {"name": "CARBON_POD_NAMESPACE", "value": "$(NS)"}]
    assert (identity(env=env).training_job, identity(env=env).failure) == ("lab/b", "")


def test_an_environment_without_namespace_is_said_with_its_cure():
    found = identity(env=[{"name": "CARBON_TRAINING_JOB", "value": "b"}])
    assert found.training_job == "lab/b"
    assert "set CARBON_POD_NAMESPACE from metadata.namespace" in found.failure


@pytest.mark.parametrize(
    "variable",
    [
        {"name": "CARBON_TRAINING_JOB", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
        {"name": "CARBON_TRAINING_JOB", "value": "$(RUN)-x"},
        {"name": "CARBON_TRAINING_JOB", "valueFrom": None},
        from_field("CARBON_TRAINING_JOB", "spec.nodeName"),
    ],
)
def test_a_name_that_cannot_be_known_from_outside_is_said_unless_a_label_gives_it(variable):
    assert "cannot be known" in identity(env=[variable], labels={"job-name": "j"}).failure
    found = identity(env=[variable], labels={JOB_LABEL: "a"})
    assert (found.training_job, found.failure) == ("lab/a", "")


def test_group_and_info():
    found = identity(
        labels={JOB_LABEL: "a", GROUP_LABEL: "resnet", "kueue.x-k8s.io/queue-name": "gpu"},
        annotations={"team": "vision\n" + "x" * 500},
    )
    assert found.group == "resnet"
    assert found.info["pod_namespace"] == "lab"
    assert found.info["queue"] == "gpu"
    assert found.info["team"].startswith("vision_x")
    assert len(found.info["team"]) <= 200
    env = [{"name": "CARBON_TRAINING_GROUP", "value": "g"}]
    assert identity(labels={"job-name": "j"}, env=env).group == "g"
    assert "team" not in identity(labels={JOB_LABEL: "a"}).info


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("500m", 0.5),
        ("2", 2),
        (2, 2),
        (0.5, 0.5),
        ("1e3", 1000),
        ("1E3", 1000),
        ("1E", 1e18),
        ("1Gi", 2**30),
        ("128974848", 128974848),
        ("1G", 1e9),
        ("1500Mi", 1500 * 2**20),
        ("1.5Ki", 1536),
        (".5", 0.5),
        ("100u", 1e-4),
        ("5n", 5e-9),
        ("3k", 3000),
        ("0", 0),
    ],
)
def test_quantities(text, value):
    assert quantity(text) == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize(
    "text", ["", "-1", "abc", "1 Gi", "1gi", "1e999", None, [], {}, "NaN", "inf", "1" * 400, "\u0661"]
)
def test_what_is_no_quantity(text):
    assert quantity(text) is None


def needs(cpu, **more):
    return {"resources": {"requests": {"cpu": cpu, "memory": "1Gi"}}, **more}


def test_requests_are_those_the_scheduler_counts():
    both = parsed(1, containers=[needs("500m"), needs("1")])
    assert (both.cpus, both.memory_bytes) == (1.5, 2 * 2**30)
    big_init = parsed(1, containers=[needs("1")], initContainers=[needs("4"), needs("2")])
    assert big_init.cpus == 4
    sidecars = parsed(1, containers=[needs("1")], initContainers=[needs("2", restartPolicy="Always"), needs("4")])
    assert sidecars.cpus == 6
    late = parsed(1, containers=[needs("3")], initContainers=[needs("4"), needs("2", restartPolicy="Always")])
    assert late.cpus == 5
    assert parsed(1, containers=[needs("1")], overhead={"cpu": "250m"}).cpus == 1.25
    assert parsed(1, containers=[{"resources": {"limits": {"cpu": "3"}}}]).cpus == 3
    assert parsed(1, containers=[{}]).cpus is None


def test_a_request_for_the_whole_pod_counts_for_all_its_containers():
    whole = pod(1)
    whole["spec"]["resources"] = {"requests": {"cpu": "7"}}
    whole["spec"]["containers"][0]["resources"] = {"requests": {"cpu": "1", "memory": "1Mi"}}
    found = parse_pod(whole, ())
    assert (found.cpus, found.memory_bytes) == (7, 2**20)


def test_start_static_uid_and_phase():
    assert parsed(1).start_seconds == 1795248000
    static = parsed(1, annotations={"kubernetes.io/config.hash": "0123456789abcdef0123456789abcdef"})
    assert static.uid == "0123456789abcdef0123456789abcdef"
    assert parsed(1).uid == uid_of(1)
    for phase, active in [("Pending", True), ("Running", True), ("Succeeded", False), ("Failed", False)]:
        assert parsed(1, phase=phase).active is active


def running(started):
    return {"running": {"startedAt": started}}


def test_a_pod_starts_with_the_first_of_its_running_containers():
    done, waiting = {"terminated": {"startedAt": "2026-11-21T08:01:00Z"}}, {"waiting": {"reason": "Pulling"}}
    states = [waiting, running("2026-11-21T08:09:00Z"), running("2026-11-21T08:07:30Z"), done, running("soon"), None]
    assert parsed(1, states=states).start_seconds == 1795248000 + 450
    assert parsed(1, states=[waiting, done, running(None)]).start_seconds == 1795248000


def test_values_too_long_for_a_name_are_not_there():
    longest, endless = "x" * 4096, "x" * 4097
    assert parsed(1, annotations={JOB_LABEL: longest}).labels == {JOB_LABEL: longest}
    found = parsed(1, annotations={JOB_LABEL: endless, "team": "t"}, labels={"team": endless})
    assert found.labels == {"team": "t"}
    name = "CARBON_TRAINING_JOB"
    assert parsed(1, env=[{"name": name, "value": longest}]).environment == {name: longest}
    assert parsed(1, env=[{"name": name, "value": endless}]).environment == {}
    field = [from_field(name, "metadata.annotations['run']")]
    assert parsed(1, env=field, annotations={"run": endless}).environment == {name: ""}


def test_an_ended_pod_keeps_its_name_only():
    ended = parsed(1, phase="Succeeded", labels={JOB_LABEL: "a"})
    assert (ended.labels, ended.environment, ended.cpus) == ({}, {}, None)


def test_nothing_but_what_is_wanted_is_kept():
    secret = [{"name": "PASSWORD", "value": "hunter2"}]
    found = parsed(1, labels={"job-name": "j", "x": "y"}, env=secret)
    assert "hunter2" not in repr(found)
    assert found.labels == {"job-name": "j"}


def test_the_state_of_a_pod_goes_around():
    env = [{"name": "CARBON_TRAINING_JOB", "valueFrom": {}}, {"name": "CARBON_TRAINING_GROUP", "value": "g"}]
    found = parsed(1, labels={"job-name": "j"}, env=env)
    assert Pod.from_json(found.to_json()) == found
    with pytest.raises((KeyError, TypeError, ValueError)):
        Pod.from_json(found.to_json() | {"uid": 3})


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
PLACES = [
    ("metadata", "labels"),
    ("metadata", "annotations"),
    ("metadata", "name"),
    ("spec", "containers"),
    ("spec", "initContainers"),
    ("spec", "overhead"),
    ("spec", "resources"),
    ("status", "startTime"),
    ("status", "phase"),
    ("status", "containerStatuses"),
    ("status",),
    ("spec",),
    ("metadata",),
]


@given(st.sampled_from(PLACES), json_values)
def test_no_object_whatever_its_shape_raises_anything_but_value_error(place, value):
    found = pod(1, labels={"job-name": "j"})
    part = found
    for key in place[:-1]:
        part = part[key]
    part[place[-1]] = value
    try:
        NAMER.identify(parse_pod(found, NAMER.wanted()))
    except ValueError:
        assert place[0] == "metadata"


@given(st.lists(st.fixed_dictionaries({"name": json_values, "env": json_values, "resources": json_values}), max_size=3))
def test_no_container_whatever_its_shape_raises(containers):
    found = pod(1)
    found["spec"]["containers"] = containers
    parse_pod(found, NAMER.wanted())


@given(st.text(), st.text())
def test_hostile_labels_make_fit_names(value, group):
    found = identity(labels={JOB_LABEL: value, GROUP_LABEL: group, "team": value})
    for text in (found.training_job, found.group, *found.info.values()):
        assert len(text) <= 200
        assert text.isprintable() or not any(ord(c) < 32 or c in "\x7f\u2028\u2029" for c in text)
        text.encode()
    assert not found.training_job or found.training_job.startswith("lab/")
