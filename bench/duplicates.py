#!/usr/bin/env python3
"""Measures the cost of duplicate detection: four bridges on one broker, loaded in turns.

    bench/duplicates.py            twelve rounds of 3 s for each bridge; about 4 minutes
    bench/duplicates.py --quick    two rounds of 1 s, to see that everything works; no figures to quote
    bench/duplicates.py --write    also puts the table into bench/README.md

One bridge has duplicate detection off. Three have it on (the default), while 0, 10 and 50 % of the
requests are copies of earlier events.

Exit status: 0 done; 1 a count or the share of copies is wrong, a program failed, or (with
--check-goals) a goal was missed; 2 bad usage. bench/README.md explains method and figures.
"""

import contextlib
import sys

sys.dont_write_bytecode = True

import harness
from harness import Goal, Harness, Report, WrkSlices, format_number, median

OFF = '[dedup]\nredelivery = "off"\nrepeat = "off"\n'
# name: (title, configuration, percentage of copies)
BRIDGES = {
    "off": ("off", OFF, 0),
    "on": ("on, no copies", "", 0),
    "copies-10": ("on, 10 % copies", "", 10),
    "copies-50": ("on, 50 % copies", "", 50),
}
TITLES = {name: title for name, (title, _, _) in BRIDGES.items()}
# They hold without copies: on ÷ off.
GOALS = [
    Goal("events/s", "events_per_s", 0.95, at_least=True),
    Goal("CPU per event", "cpu_us", 1.05),
]
# Anything of these means that other work than intended was measured.
UNEXPECTED = [
    "revisions_total", "stale_total", "id_conflicts_total", "dedup_unchecked_total", "dedup_evictions_total",
]
MARKS = "duplicates"


def share_of_copies(one):
    """Share of received events that the bridge found to be copies."""
    return one.count("duplicates_total.redelivery") / one.count("received_total")


def find_problems(one):
    received, found = one.count("received_total"), one.count("duplicates_total.redelivery")
    published, duplicate = one.count("events_total.published"), one.count("events_total.duplicate")
    # At the end of each load a connection may leave a copy unsent, or the event that it copies.
    unsent = one.loads * (one.options.connections + 1)
    if one.errors:
        yield f"{one.errors:,} errors"
    if published + duplicate != received:
        yield f"{received:,} received, but {published:,} published and {duplicate:,} duplicates"
    if one.server.stored != published:
        yield f"{published:,} published, but {one.server.stored:,} stored"
    if found != duplicate or not one.copies_sent - unsent <= found <= one.copies_sent:
        yield f"{one.copies_sent:,} copies sent, but {duplicate:,} duplicates, {found:,} of them redeliveries"
    if abs(share_of_copies(one) - one.copies / 100) > 0.1 * one.copies / 100:
        yield f"{share_of_copies(one):.1%} copies instead of {one.copies} %"
    for name in UNEXPECTED:
        if one.count(name):
            yield f"{name} is {one.count(name):,}"
    if one.count("out_of_order_total") > received / 100:
        yield f"{one.count('out_of_order_total'):,} of {received:,} events out of order"


def measure(options, bench):
    with contextlib.ExitStack() as stack:
        slices = []
        for name, (_, config, copies) in BRIDGES.items():
            server = stack.enter_context(bench.bridge(f"duplicates-{name}", config=config))
            slices.append(WrkSlices(bench, name, server, options, copies))
        results = harness.measure_slices(options, slices, TITLES, "duplicates")
    return results, slices


def ratios(results, name):
    goals = GOALS if name == "on" else [None] * len(GOALS)
    return [
        harness.ratio_of_rounds(results, name, "off", figure.figure, f"duplicates {TITLES[name]} ÷ off", goal)
        for figure, goal in zip(GOALS, goals)
    ]


def table(options, results, slices):
    lines = [
        f"{options.type}, {options.connections} connections, {options.rounds} rounds of "
        f"{options.seconds} s: medians.{harness.disturbance(results)}",
        "",
        "| duplicates | events/s | p50 ms | p99 ms | CPU µs per event | peak MiB | copies found | published = stored |",
        "|---|---:|---:|---:|---:|---:|---:|---|",
    ]
    for one in slices:
        rounds = [result for result in results if result["program"] == one.name]
        figures = [
            format_number(median(rounds, figure)) for figure in ["events_per_s", "p50_ms", "p99_ms", "cpu_us"]
        ]
        stored = f"{one.server.stored:,}" if one.server.stored == one.server.accepted else "**no**"
        lines.append(
            f"| {TITLES[one.name]} | {' | '.join(figures)} | {format_number(one.peak_bytes / 2**20)} | "
            f"{share_of_copies(one):.1%} | {stored} |"
        )
    heads = " | ".join(f"{goal.name}, goal {goal}" for goal in GOALS)
    lines += ["", f"| ÷ off: median of the rounds (quartiles) | {heads} |", "|---|---|---|"]
    for name in list(BRIDGES)[1:]:
        cells = [one.cell() for one in ratios(results, name)]
        lines.append(f"| {TITLES[name]} | {' | '.join(cells)} |")
    return lines


def parse(arguments):
    parser = harness.argument_parser(__doc__)
    parser.add_argument("--connections", type=int, default=64, help="(default: 64)")
    parser.add_argument("--rounds", type=int, help="(default: 12, quick: 2)")
    parser.add_argument("--seconds", type=int, help="of each load (default: 3, quick: 1)")
    parser.add_argument("--type", default="DETECTIONS", help="of the events (default: DETECTIONS)")
    parser.add_argument("--kafka", metavar="HOST:PORT", help="use this broker instead of starting one")
    options = harness.parse_options(parser, arguments, {
        "rounds": (12, 2), "seconds": (3, 1), "warm_up": (8, 2),
    })
    # A copy is of what its thread sent some 500 requests before, which must be answered by then.
    if not 1 <= options.connections <= 250 * harness.WRK_THREADS:
        parser.error(f"1 to {250 * harness.WRK_THREADS} connections")
    return options


def main(arguments):
    options = parse(arguments)
    programs = harness.prepare(options, options.connections, [MARKS])
    report = Report("duplicates", options, programs)
    with harness.open_broker(options, programs) as broker:
        events_file = harness.write_simulated_events(programs, options.type)
        results, slices = measure(options, Harness(programs, broker, events_file))
    report.add_section(MARKS, table(options, results, slices))
    report.figures = {"results": results, "counts": {one.name: one.counts for one in slices}}
    report.goals = ratios(results, "on")
    for one in slices:
        report.problems += [f"duplicates {TITLES[one.name]}: {problem}" for problem in find_problems(one)]
    return report.finish()


if __name__ == "__main__":
    harness.run_main("duplicates", main)
