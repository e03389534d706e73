"""The dashboard for Grafana asks for what there is."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from anyconnpool.events import HookEnded

from .collection import Exposition
from .fired import FiredPool

DASHBOARD: dict[str, Any] = json.loads(
    (Path(__file__).parents[2] / "examples" / "grafana_dashboard.json").read_text("utf-8")
)
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]
QUERIES: list[str] = [target["expr"] for panel in PANELS for target in panel["targets"]]


def test_each_query_asks_for_a_metric_by_labels_that_it_has() -> None:
    """No metric is forgotten, except how many are in a hook, which belong to ``connecting``."""
    exposition = Exposition()
    FiredPool(exposition.collector).start()
    exposition.collector(HookEnded("echo", "check", 0.1, None))
    families = exposition.kinds()
    asked: set[str] = set()
    for query in QUERIES:
        for name in re.findall(r"anyconnpool_\w+", query):
            family = re.sub(r"_(total|bucket)$", "", name)
            assert family in families, query
            assert name.endswith("_total") == (families[family] == "counter"), query
            assert name.endswith("_bucket") == (families[family] == "histogram"), query
            asked.add(family)
    assert set(families) - asked == {"anyconnpool_in_hook"}


def test_each_query_is_limited_to_the_chosen_pools() -> None:
    """A counter is read as a rate, over the interval that Grafana knows to be long enough."""
    for query in QUERIES:
        names = re.findall(r"anyconnpool_\w+", query)
        assert query.count('{pool=~"$pool"') == len(names), query
        rates = [name for name in names if name.endswith(("_total", "_bucket"))]
        assert query.count("[$__rate_interval]") == query.count("rate(") == len(rates), query


def test_each_panel_says_what_it_shows_and_lies_beside_the_others() -> None:
    """Title, description and unit; no two in one place, each with a number of its own."""
    places: set[tuple[int, int]] = set()
    for panel in PANELS:
        assert panel["title"], panel
        assert panel["description"].endswith("."), panel
        assert panel["fieldConfig"]["defaults"]["unit"]
        at = panel["gridPos"]
        taken = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not taken & places
        assert max(x for x, _ in taken) < 24
        places |= taken
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)


def test_the_source_is_chosen_by_the_reader() -> None:
    """No panel names a data source of its own."""
    names = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    assert names == {"datasource", "pool"}
    for panel in PANELS:
        for part in (panel, *panel["targets"]):
            assert part["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
