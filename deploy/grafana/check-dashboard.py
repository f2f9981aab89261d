#!/usr/bin/env python3
"""Checks the dashboard without Grafana.

    check-dashboard.py [--metrics URL|FILE] [--prometheus URL [--may-be-empty TITLE]...] [--rules FILE] [DASHBOARD]

Always checks that the file parses, ids are unique, panels do not overlap, each panel has a
description, a query and a unit, and all variables exist.
--metrics:     checks that every metric and label value that the panels and the alerts select exists in
               this output of /metrics.
--prometheus:  runs every query with the variables filled in. Each must return data, with the labels
               that its legend names. Before, let the bridge run for a minute or two with events, a few
               of them refused. A panel named with --may-be-empty only needs a valid query.
--rules:       writes all queries to a rules file for `promtool check rules`.

Exit status: 0 no problem found, 1 problems found, 2 bad usage. Needs only Python 3.9.
"""

import argparse
import json
import math
import pathlib
import re
import sys
import time
import urllib.error
import urllib.parse
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent
ALERTS = HERE.parent / "prometheus" / "alerts.yml"
# Stands for $__rate_interval, which in Grafana is at least four times the scrape interval (5 s here).
RATE_INTERVAL = "1m"
METRIC = re.compile(r"\b(?:butlr_bridge|process)_[a-z0-9_]+\b(?!:)")
SELECTOR = re.compile(r"\b((?:butlr_bridge|process)_[a-z0-9_]+)\{([^}]*)\}")
MATCHER = re.compile(r'([a-z_]+)\s*(=~|!=|!~|=)\s*"([^"]*)"')

problems = []


def problem(where, what):
    problems.append(f"{where}: {what}")


def fetch(url):
    try:
        with urllib.request.urlopen(url, timeout=30) as answer:
            return answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.read().decode()


def panels_of(dashboard):
    for panel in dashboard["panels"]:
        yield panel
        yield from panel.get("panels", [])


def check_structure(dashboard):
    variables = {variable["name"] for variable in dashboard["templating"]["list"]}
    ids = set()
    cells = {}
    for panel in panels_of(dashboard):
        title = panel.get("title") or f"panel {panel.get('id')}"
        if panel["id"] in ids:
            problem(title, f"id {panel['id']} is used twice")
        ids.add(panel["id"])
        place = panel["gridPos"]
        if place["x"] + place["w"] > 24:
            problem(title, "exceeds the 24 columns")
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                if cells.setdefault((x, y), title) != title:
                    problem(title, f"overlaps {cells[(x, y)]!r}")
                    break
            else:
                continue
            break
        if panel["type"] == "row":
            continue
        if not panel.get("description"):
            problem(title, "has no description")
        if not panel.get("targets"):
            problem(title, "has no query")
        if panel["type"] != "table" and not panel["fieldConfig"]["defaults"].get("unit"):
            problem(title, "has no unit")
        for used in re.findall(r"\$\{?([A-Za-z_]+)", json.dumps(panel)):
            if used not in variables and not used.startswith("__"):
                problem(title, f"uses the variable ${used}, which does not exist")


def queries(dashboard, instance):
    """Yields (title, expression with variables filled in, legend, data_wanted) for panels and annotations."""

    def fill(expression):
        return expression.replace("$__rate_interval", RATE_INTERVAL).replace("$instance", instance)

    for panel in panels_of(dashboard):
        for target in panel.get("targets", []):
            yield panel["title"], fill(target["expr"]), target.get("legendFormat", ""), True
    for annotation in dashboard.get("annotations", {}).get("list", []):
        if "expr" in annotation:
            yield f"annotation {annotation['name']}", fill(annotation["expr"]), "", False


def check_names(dashboard, dump):
    """Checks names and label values against the output of /metrics."""
    series = {}
    for line in dump.splitlines():
        if line and not line.startswith("#"):
            name, _, rest = line.partition("{")
            name = name.split()[0]
            labels = dict(re.findall(r'([a-zA-Z_]+)="((?:[^"\\]|\\.)*)"', rest))
            series.setdefault(name, []).append(labels)
    if not series:
        problem("metrics", "the output of /metrics is empty")
        return
    expressions = [(where, expression) for where, expression, _, _ in queries(dashboard, ".*")]
    expressions += [
        (f"variable {variable['name']}", variable["definition"])
        for variable in dashboard["templating"]["list"]
        if "definition" in variable
    ]
    # Comments in the alerts can name things that are not metrics.
    alerts = "\n".join(line for line in ALERTS.read_text().splitlines() if not line.strip().startswith("#"))
    alerts = re.sub(r"(?m)^\s*- (?:record|alert):.*$", "", alerts)
    expressions.append((ALERTS.name, alerts))
    for where, expression in expressions:
        for name in sorted(set(METRIC.findall(re.sub(r"butlr_bridge:[a-z_]+", "", expression)))):
            if name not in series:
                problem(where, f"the metric {name} does not exist")
        for name, matchers in SELECTOR.findall(expression):
            for label, operator, value in MATCHER.findall(matchers):
                # Prometheus itself adds these two labels.
                if label in ("instance", "job") or name not in series:
                    continue
                values = {labels.get(label) for labels in series[name]}
                if values == {None}:
                    problem(where, f"{name} has no label {label}")
                elif operator == "=" and value not in values:
                    problem(where, f"{name} has no series with {label}={value!r}")


def check_live(dashboard, prometheus, may_be_empty):
    def query(path, **parameters):
        return json.loads(fetch(f"{prometheus.rstrip('/')}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"))

    found = query("label/instance/values", **{"match[]": "butlr_bridge_build_info"})
    if not found.get("data"):
        problem(prometheus, "has no butlr_bridge_build_info, so it does not scrape a bridge")
        return
    now = time.time()
    count = 0
    for where, expression, legend, data_wanted in queries(dashboard, "|".join(re.escape(i) for i in found["data"]).replace("\\", "\\\\")):
        count += 1
        answer = query("query_range", query=expression, start=now - 120, end=now, step=5)
        if answer.get("status") != "success":
            problem(where, f"{answer.get('error')}: {expression}")
            continue
        series = answer["data"]["result"]
        numbers = [value for one in series for _, value in one["values"] if math.isfinite(float(value))]
        if not numbers and data_wanted and where not in may_be_empty:
            problem(where, f"no data: {expression}")
        for label in re.findall(r"\{\{\s*([a-z_]+)\s*\}\}", legend):
            if any(label not in one["metric"] for one in series):
                problem(where, f"the legend uses the label {label}, which its series do not have: {expression}")
    print(f"{count} queries run against {prometheus}")


def write_rules(dashboard, path):
    lines = ["groups:", "  - name: dashboard", "    rules:"]
    for number, (where, expression, _, _) in enumerate(queries(dashboard, ".*")):
        lines += [f"      # {where}", f"      - record: dashboard:query_{number}", f"        expr: {json.dumps(expression)}"]
    pathlib.Path(path).write_text("\n".join(lines) + "\n")


def main():
    parser = argparse.ArgumentParser(description="Checks the dashboard without Grafana.")
    parser.add_argument("--metrics", metavar="URL|FILE")
    parser.add_argument("--prometheus", metavar="URL")
    parser.add_argument("--may-be-empty", metavar="TITLE", action="append", default=[])
    parser.add_argument("--rules", metavar="FILE")
    parser.add_argument("dashboard", nargs="?", default=HERE / "dashboards" / "butlr-bridge.json", type=pathlib.Path)
    arguments = parser.parse_args()

    dashboard = json.loads(arguments.dashboard.read_text())
    check_structure(dashboard)
    if arguments.rules:
        write_rules(dashboard, arguments.rules)
    if arguments.metrics:
        remote = arguments.metrics.startswith(("http://", "https://"))
        check_names(dashboard, fetch(arguments.metrics) if remote else pathlib.Path(arguments.metrics).read_text())
    if arguments.prometheus:
        check_live(dashboard, arguments.prometheus, set(arguments.may_be_empty))
    for line in problems:
        print(f"{arguments.dashboard.name}: {line}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
