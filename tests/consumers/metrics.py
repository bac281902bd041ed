"""Prometheus' own parser over what a process answers to a scrape.

    python metrics.py FILE

Prints JSON: the type of each family by its name; and fails where a family has no help, no type, or a sample twice.
"""

import json
import pathlib
import sys

from prometheus_client.parser import text_string_to_metric_families

types = {}
for family in text_string_to_metric_families(pathlib.Path(sys.argv[1]).read_text()):
    assert family.name not in types, f"{family.name} comes twice"
    assert family.documentation and family.type != "unknown", f"{family.name} has no help or no type"
    seen = [(sample.name, tuple(sorted(sample.labels.items()))) for sample in family.samples]
    assert len(seen) == len(set(seen)), f"{family.name} has a sample twice"
    if family.type == "counter":
        assert all(sample.value >= 0 for sample in family.samples), f"{family.name} is below 0"
    types[family.name] = family.type
print(json.dumps(types))
