"""What OpenTelemetry and Prometheus collect, made easy to ask for."""

from __future__ import annotations

from typing import Any, TypeAlias, cast

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, Metric, NumberDataPoint
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from anyconnpool.instrumentation.prometheus import PoolCollector

PREFIX = "db.client.connection"
POOL_NAME = f"{PREFIX}.pool.name"

Attributes: TypeAlias = tuple[tuple[str, str], ...]


class Collection:
    """A meter provider, and what it collects."""

    def __init__(self) -> None:
        self._reader = InMemoryMetricReader()
        self.provider = MeterProvider([self._reader])

    def metrics(self) -> dict[str, Metric]:
        data = self._reader.get_metrics_data()
        if data is None:
            return {}
        return {
            metric.name: metric
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }

    def points(self, name: str) -> dict[Attributes, float]:
        """Return the values of one metric by their attributes; of a histogram, the counts."""
        metric = self.metrics().get(name)
        # The SDK's own types don't tell a pool's points from those of another kind.
        points = cast("list[Any]", [] if metric is None else metric.data.data_points)
        return {
            tuple(sorted(point.attributes.items())): (
                point.value if isinstance(point, NumberDataPoint) else point.count
            )
            for point in points
        }

    def values(self, name: str, pool: str = "echo") -> list[float]:
        """Return a pool's values of one metric, those of ``count`` ordered by state."""
        points = sorted(self.points(f"{PREFIX}.{name}").items())
        return [value for attributes, value in points if (POOL_NAME, pool) in attributes]


class Exposition:
    """A registry with one collector, and what Prometheus reads from it."""

    def __init__(self, namespace: str = "anyconnpool", max_pools: float = 1000) -> None:
        self._registry = CollectorRegistry()
        self._namespace = namespace
        self.collector = PoolCollector(self._registry, namespace=namespace, max_pools=max_pools)

    def kinds(self) -> dict[str, str]:
        """Return the kinds of all metrics by name, the times of the counters' making left out."""
        text = generate_latest(self._registry).decode()
        return {
            family.name: family.type
            for family in text_string_to_metric_families(text)
            if not family.name.endswith("_created")
        }

    def pools(self) -> set[str]:
        """Return the names of the pools that are reported."""
        text = generate_latest(self._registry).decode()
        samples = (s for family in text_string_to_metric_families(text) for s in family.samples)
        return {sample.labels["pool"] for sample in samples}

    def value(self, name: str, pool: str = "echo", **labels: str) -> float | None:
        """Return one sample's value, if there is such a sample."""
        text = generate_latest(self._registry).decode()
        wanted = {"pool": pool, **labels}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name == f"{self._namespace}_{name}" and sample.labels == wanted:
                    return sample.value
        return None
