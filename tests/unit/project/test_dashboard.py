"""The Grafana dashboard, taken by Grafana's own model of one. Its queries are asked in tests/integration."""

import json
from typing import Any

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

from support.pipeline import ROOT

# What the editor of variables shows; dashboards that Grafana exports have it.
_BESIDE_THE_MODEL = {"/templating/list/1/definition", "/templating/list/2/definition"}


def lost(given: Any, taken: Any, path: str = "") -> set[str]:
    """Where something that is given is not, or differs; what is added, such as defaults, does not count."""
    if isinstance(given, dict) and isinstance(taken, dict):
        return set().union(*(lost(given[key], taken.get(key), f"{path}/{key}") for key in given))
    if isinstance(given, list) and isinstance(taken, list) and len(given) == len(taken):
        return set().union(
            *(lost(*pair, f"{path}/{number}") for number, pair in enumerate(zip(given, taken, strict=True)))
        )
    return set() if given == taken else {path}


def test_grafana_s_model_takes_the_dashboard_whole() -> None:
    """No panel, option or query has a name or a form that Grafana would pass over."""
    dashboard = json.loads((ROOT / "deploy" / "grafana" / "stowgate.json").read_text())
    model = json.loads(JSONEncoder().encode(Dashboard.from_json(dashboard)))
    assert lost(dashboard, model) - _BESIDE_THE_MODEL == set()
    assert len(model["panels"]) == len(dashboard["panels"]) > 20
    misspelt = json.loads(json.dumps(dashboard).replace('"fieldConfig"', '"fieldConfiguration"', 1))
    assert lost(misspelt, json.loads(JSONEncoder().encode(Dashboard.from_json(misspelt)))) - _BESIDE_THE_MODEL
