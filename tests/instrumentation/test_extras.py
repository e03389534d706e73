"""Each extra works when it is installed alone, and nothing of it is imported unasked."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

# The packages of all extras, and what their modules need them for.
OPTIONAL = ("matplotlib", "opentelemetry", "prometheus_client", "rich", "trio", "uvloop")

USES = {
    "opentelemetry": """
        from opentelemetry import metrics
        from anyconnpool.events import ConnectionReleased
        from anyconnpool.instrumentation.opentelemetry import PoolMetrics
        PoolMetrics()(ConnectionReleased("echo", 1.0))
    """,
    "prometheus": """
        from prometheus_client import generate_latest, REGISTRY
        from anyconnpool.events import ConnectionReleased
        from anyconnpool.instrumentation.prometheus import PoolCollector
        PoolCollector(REGISTRY)(ConnectionReleased("echo", 1.0))
        assert b'anyconnpool_use_seconds_count{pool="echo"} 1.0' in generate_latest()
    """,
}
PACKAGES = {"opentelemetry": "opentelemetry", "prometheus": "prometheus_client"}

BLOCK = """
    import sys

    class Absent:
        def find_spec(self, name, path=None, target=None):
            if name.partition(".")[0] in {absent!r}:
                raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

    sys.meta_path.insert(0, Absent())
"""


def run(program: str, *, without: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """Run a program in a Python of its own, in which some packages are not installed."""
    block = textwrap.dedent(BLOCK.format(absent=without))
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", block + textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("extra", USES)
def test_each_extra_works_alone(extra: str) -> None:
    """An extra's module needs no package but its own and AnyIO."""
    others = tuple(package for package in OPTIONAL if package != PACKAGES[extra])
    ended = run(USES[extra], without=others)
    assert not ended.returncode, ended.stderr


@pytest.mark.parametrize("extra", USES)
def test_missing_extra_is_named(extra: str) -> None:
    """Without the package, the error says what to install."""
    ended = run(f"import anyconnpool.instrumentation.{extra}", without=OPTIONAL)
    last = ended.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: ")
    assert last.endswith(f'pip install "anyconnpool[{extra}]"')


def test_nothing_is_imported_unasked() -> None:
    """The package and its events import no optional package, nor what needs one."""
    ended = run(
        """
        import anyconnpool, anyconnpool.events, anyconnpool.instrumentation
        print(*sorted({name.partition(".")[0] for name in sys.modules}))
        print(*sorted(name for name in sys.modules if "instrumentation." in name))
        """
    )
    packages, modules = ended.stdout.splitlines()
    assert not set(packages.split()) & set(OPTIONAL)
    assert not modules


def test_provider_may_be_set_later() -> None:
    """Made before the program chooses its meter provider, the observer reports to that one."""
    ended = run(
        """
        from opentelemetry.metrics import set_meter_provider
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import InMemoryMetricReader
        from anyconnpool import PoolStatistics
        from anyconnpool.events import ConnectionReleased, PoolStarted
        from anyconnpool.instrumentation.opentelemetry import PoolMetrics

        metrics = PoolMetrics()
        metrics(PoolStarted("echo", lambda: PoolStatistics("echo", 10), 0))
        reader = InMemoryMetricReader()
        set_meter_provider(MeterProvider([reader]))
        metrics(ConnectionReleased("echo", 1.0))
        (resource,) = reader.get_metrics_data().resource_metrics
        for metric in resource.scope_metrics[0].metrics:
            print(metric.name)
        """
    )
    names = {name.removeprefix("db.client.connection.") for name in ended.stdout.split()}
    expected = {"count", "idle.min", "idle.max", "max", "pending_requests", "use_time"}
    expected |= {"failing_time", "in_flight", "peak.used", "peak.pending_requests"}
    expected |= {"open_failures", "refused", "replayed"}
    assert names == expected, ended.stderr
