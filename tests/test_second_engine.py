"""VictoriaMetrics instead of Prometheus: from the very same samples come the same forecasts."""

import time

import pytest
import yaml
from test_forecast_service import EPOCH_SECONDS, HOSTILE, PLANNED, Node, joules_since, serving, values_of

from carbon_exporter import metrics
from carbon_exporter.demo.servers import Server, free_port, prometheus, pushgateway, running
from carbon_exporter.forecast.readings import read
from carbon_exporter.forecast.service import build
from carbon_exporter.forecast.settings import Settings
from carbon_exporter.push.gateway import from_environment
from carbon_exporter.push.training import Training

_SETTLED_SECONDS = 8
"""By then what Prometheus has scraped is in the second engine too."""


class GpuNode(Node):
    """A node agent that says its zone, its PUE and the GPUs of each job."""

    def answer(self, path):
        families = [
            metrics.Family(metrics.JOB_GPUS, [((job,), 4.0) for job in self.joules_by_job]),
            metrics.Family(metrics.NODE_GRID_ZONE, [(("DE",), 1.0)]),
            metrics.Family(metrics.PUE, [((), 1.2)]),
            metrics.Family(metrics.INTENSITY, [(("DE", "static", "average", "lifecycle"), 300.0)]),
        ]
        return super().answer(path) + metrics.Renderer().render(families)


def victoria_metrics(directory):
    """One that shows samples at once; of itself it keeps the newest 30 s back."""
    url = f"http://127.0.0.1:{free_port()}"
    command = [
        "victoria-metrics",
        f"-storageDataPath={directory / 'victoria-metrics'}",
        f"-httpListenAddr={url.split('//')[1]}",
        "-search.latencyOffset=1ms",
        "-memory.allowedBytes=128MiB",
    ]
    return Server(command, url, directory / "victoria-metrics.log", ready_path="/health")


def writing_to(server, directory, url):
    """`server`, a Prometheus, sending all it scrapes to `url` too."""
    path = directory / "prometheus.yml"
    configuration = yaml.safe_load(path.read_text())
    queue = {"batch_send_deadline": "200ms"}
    configuration["remote_write"] = [{"url": f"{url}/api/v1/write", "queue_config": queue}]
    path.write_text(yaml.safe_dump(configuration))
    return server


@pytest.mark.real
@pytest.mark.slow
def test_the_same_forecasts_from_victoria_metrics(need, tmp_path):
    need("prometheus"), need("prometheus-pushgateway"), need("victoria-metrics")
    gateway_server, other = pushgateway(tmp_path), victoria_metrics(tmp_path)
    joules = {}
    with (
        running(gateway_server, other),
        serving(GpuNode(joules, 0.25).answer) as node_1,
        serving(GpuNode(joules, 0.75).answer) as node_2,
    ):
        targets = {"node-1": node_1, "node-2": node_2, "pushgateway": gateway_server.url}
        gateway = from_environment({}, gateway_server.url)
        with writing_to(prometheus(tmp_path, targets), tmp_path, other.url) as engine:
            start = time.time() + 3
            joules.update({name: joules_since(start) for name in HOSTILE})
            urls = (engine.url, other.url)
            services = [build(Settings(prometheus_url=url, history_file=None), {}) for url in urls]
            while (now := time.time()) < start + 5 * EPOCH_SECONDS + _SETTLED_SECONDS:
                done = max(0, min(PLANNED, int((now - start) / EPOCH_SECONDS)))
                for name in HOSTILE:
                    end = start + done * EPOCH_SECONDS
                    gateway.push(Training(name, "g", float(done), float(PLANNED), end, start))
                pages = [service.poll(now - _SETTLED_SECONDS) for service in services]
                time.sleep(0.3)
            late = time.time() - _SETTLED_SECONDS
            newcomers = [build(Settings(prometheus_url=url, history_file=None), {}) for url in urls]
            late_pages = [service.poll(late) for service in newcomers]
            drawn = [read(service._client, late).zones for service in services]
            for service in (*services, *newcomers):
                service._learning.close()
                service._client._session.close()
    assert drawn == [{name: {"DE": pytest.approx(1.2)} for name in HOSTILE}] * 2
    assert len(values_of(late_pages[0], metrics.FORECAST_ENERGY, quantile="0.5")) == len(HOSTILE)
    assert set(values_of(pages[0], metrics.FORECAST_ENERGY, quantile="0.5")) == {(name,) for name in HOSTILE}
    for metric in (
        metrics.FORECAST_ENERGY,
        metrics.FORECAST_EMISSIONS,
        metrics.FORECAST_END,
        metrics.FORECAST_EPOCHS,
        metrics.FORECAST_INFO,
        metrics.FORECAST_JOBS,
        metrics.FORECAST_QUERY_ERRORS,
    ):
        ours, theirs = (values_of(page, metric) for page in pages)
        assert ours == {key: pytest.approx(value, rel=1e-6) for key, value in theirs.items()}, metric.name
    # A range query of VictoriaMetrics begins at a whole step, here of 1 s: a third of an epoch, in these short ones.
    for metric, tolerance in (
        (metrics.FORECAST_JOBS, 0.0),
        (metrics.FORECAST_ENERGY, 0.25),
        (metrics.FORECAST_END, 1e-8),
    ):
        fixed = {} if metric is metrics.FORECAST_JOBS else {"quantile": "0.5"}
        ours, theirs = (values_of(page, metric, **fixed) for page in late_pages)
        assert ours == {key: pytest.approx(value, rel=tolerance) for key, value in theirs.items()}, metric.name
