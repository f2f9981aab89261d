#!/usr/bin/env python3
"""What duplicate detection costs: four bridges on one broker, each under load in turn.

    bench/duplicates.py                    twelve rounds of 3 s for each bridge; about 4 minutes
    bench/duplicates.py --quick            two rounds of 1 s, to see that all works; no figures to quote
    bench/duplicates.py --write            also puts the tables into bench/README.md
    bench/duplicates.py --kafka HOST:PORT  on a broker that runs already (it gets new topics, which are deleted afterwards)

The bridges: with duplicates off, and with them on (the default) while 0, 10 and 50 % of the requests are copies.
Exit status: 0 done, 1 a count did not add up, the share of copies was another, or a program failed, 2 bad usage.
What the figures mean and what they don't: bench/README.md.
"""

import argparse
import contextlib
import datetime
import json
import os
import shutil
import signal
import statistics
import sys
import time

sys.dont_write_bytecode = True  # of run.py, which is a program as well

import run as bench
from run import Bench, Failed, Others, Paths, number, say

OFF = '[dedup]\nredelivery = "off"\nrepeat = "off"\n'
# name: what it is called, its configuration, of 100 requests how many are copies.
BRIDGES = {
    "off": ("off", OFF, 0),
    "on": ("on, no copies", "", 0),
    "copies-10": ("on, 10 % copies", "", 10),
    "copies-50": ("on, 50 % copies", "", 50),
}
# on over off: name, figure, is more better, bound.
GOALS = [
    ("events/s", "events_per_s", True, 0.95),
    ("CPU per event", "cpu_s_per_1000", False, 1.05),
]
BEGIN, END = "<!-- duplicates: written by bench/duplicates.py --write -->", "<!-- end of duplicates -->"


class Loaded:
    """A bridge with what it was sent."""

    def __init__(self, name, bridge, options):
        self.name, self.bridge, self.options = name, bridge, options
        self.copies = BRIDGES[name][2]
        self.loads, self.copies_made, self.errors, self.before = 0, 0, 0, ()
        self.counts = self.peak_bytes = None

    def load(self, seconds):
        wrk = bench.load(self.bridge.port, self.options.connections, seconds, 1, self.options, self.copies, self.before)
        # Unless each thread sent all its rooms, with some to spare.
        self.before = wrk["run"] if wrk["requests"] > 3000 else ()
        self.loads += 1
        self.copies_made += wrk["copies"]
        self.errors += sum(wrk["errors"].values())
        return wrk

    def slice(self, broker_pids):
        os.sync()
        server = self.bridge.server
        others = Others(server.process.pid, *broker_pids)
        cpu = server.cpu_seconds()
        wrk = self.load(self.options.seconds)
        cpu = server.cpu_seconds() - cpu
        if wrk["requests"] == 0:
            raise Failed("not one request was answered")
        return {
            "bridge": self.name,
            "events_per_s": wrk["requests"] / (wrk["duration_us"] / 1e6),
            "p50_ms": wrk["p50_us"] / 1e3,
            "p99_ms": wrk["p99_us"] / 1e3,
            "cpu_s_per_1000": cpu / wrk["requests"] * 1000,
            "others": others.share() if broker_pids else None,
        }

    def end(self):
        """Before it is stopped."""
        self.bridge.server.wait_until(self.bridge.settled, "at rest")
        self.counts = self.bridge.counts()
        self.peak_bytes = self.bridge.server.peak_bytes()

    def count(self, name):
        return int(self.counts.get(name, 0))

    def share(self):
        """Of the events received those that the bridge found to be copies."""
        return self.count("duplicates_total.redelivery") / self.count("received_total")

    def wrong(self):
        received, found = self.count("received_total"), self.count("duplicates_total.redelivery")
        published, duplicate = self.count("events_total.published"), self.count("events_total.duplicate")
        # Made last and not sent; or of an event that was made last and not sent.
        unsent = self.loads * (self.options.connections + 1)
        if self.errors:
            yield f"{self.errors:,} errors"
        if published + duplicate != received:
            yield f"{received:,} received, but {published:,} published and {duplicate:,} duplicates"
        if self.bridge.stored != published:
            yield f"{published:,} published, but {self.bridge.stored:,} stored"
        if found != duplicate or not self.copies_made - unsent <= found <= self.copies_made:
            yield f"{self.copies_made:,} copies sent, but {duplicate:,} duplicates, {found:,} of them redeliveries"
        if abs(self.share() - self.copies / 100) > 0.1 * self.copies / 100:
            yield f"{self.share():.1%} copies instead of {self.copies} %"
        # Else other work than meant was measured.
        for name in ["revisions_total", "stale_total", "id_conflicts_total", "dedup_unchecked_total", "dedup_evictions_total"]:
            if self.count(name):
                yield f"{name} is {self.count(name):,}"
        if self.count("out_of_order_total") > received / 100:
            yield f"{self.count('out_of_order_total'):,} of {received:,} events out of order"


@contextlib.contextmanager
def four(options, parts):
    with contextlib.ExitStack() as stack:
        loaded = []
        for name, (_, more, _) in BRIDGES.items():
            serving = parts.serving(f"duplicates-{name}", f"{parts.run_name}-{name}", more=more)
            loaded.append(Loaded(name, stack.enter_context(serving), options))
        yield loaded
        for one in loaded:
            one.end()


def measure(options, parts):
    """All slices, and the bridges with their counts."""
    results = []
    with four(options, parts) as loaded:
        say(f"warming up for {options.warm_up * len(loaded)} s …")
        for _ in range(2):
            for one in loaded:
                one.load(max(1, options.warm_up // 2))
        for number_of in range(options.rounds):
            # Off and on next to each other, in turns first.
            for one in loaded if number_of % 2 == 0 else reversed(loaded):
                figures = one.slice(parts.broker_pids)
                results.append({"round": number_of, **figures})
                say(
                    f"round {number_of + 1}/{options.rounds}  {BRIDGES[one.name][0]:<16} {figures['events_per_s']:>9,.0f} events/s  "
                    f"p99 {figures['p99_ms']:>7.2f} ms  {figures['cpu_s_per_1000']:.4f} CPU s/1,000"
                    + (f"  others {figures['others']:.0%}" if figures["others"] is not None else "")
                )
                time.sleep(options.settle)
    return results, loaded


def of(results, name, figure):
    return [one[figure] for one in results if one["bridge"] == name]


def ratios(results, name, figure):
    """Of the bridge `name` over the one with duplicates off, round by round."""
    by_round = {one["round"]: one[figure] for one in results if one["bridge"] == "off"}
    return [one[figure] / by_round[one["round"]] for one in results if one["bridge"] == name and by_round[one["round"]] > 0]


def ratio_cell(results, name, figure):
    found = sorted(ratios(results, name, figure))
    if not found:
        return "–"
    low, _, high = statistics.quantiles(found, n=4, method="inclusive") if len(found) > 1 else found * 3
    return f"{statistics.median(found):.3f} ({low:.2f} to {high:.2f})"


def tables(options, place, date, results, loaded):
    lines = [
        f"{date}, {bench.described(place)}. {options.type}, {options.connections} connections, {options.rounds} rounds of "
        f"{options.seconds} s: medians.{bench.disturbed(results)}",
        "",
        "| duplicates | events/s | p50 ms | p99 ms | CPU s per 1,000 events | peak MiB | copies found | published = stored |",
        "|---|---:|---:|---:|---:|---:|---:|---|",
    ]
    for one in loaded:
        middle = {figure: statistics.median(of(results, one.name, figure))
                  for figure in ["events_per_s", "p50_ms", "p99_ms", "cpu_s_per_1000"]}
        stored = f"{one.bridge.stored:,}" if one.bridge.stored == one.bridge.accepted else "**no**"
        lines.append(
            f"| {BRIDGES[one.name][0]} | {number(middle['events_per_s'])} | {number(middle['p50_ms'])} | {number(middle['p99_ms'])} | "
            f"{middle['cpu_s_per_1000']:.4f} | {number(one.peak_bytes / 2**20)} | {one.share():.1%} | {stored} |"
        )
    heads = [f"{name}, goal {'≥' if more else '≤'} {bound}" for name, _, more, bound in GOALS]
    lines += ["", f"| ÷ off: median of the rounds (quartiles) | {' | '.join(heads)} |", f"|---|{'---|' * len(GOALS)}"]
    for name, (title, _, copies) in BRIDGES.items():
        if name == "off":
            continue
        cells = []
        for _, figure, more, bound in GOALS:
            cell = ratio_cell(results, name, figure)
            if copies == 0 and cell != "–":
                is_met = bench.met(statistics.median(ratios(results, name, figure)), more, bound)
                cell += " met" if is_met else " **missed**"
            cells.append(cell)
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def parse(arguments):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two rounds of 1 s")
    parser.add_argument("--write", action="store_true", help="put the tables into bench/README.md")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--rounds", type=int, help="default: 12")
    parser.add_argument("--seconds", type=int, help="of load for each bridge in a round (default: 3)")
    parser.add_argument("--warm-up", type=int, help="seconds of load for each bridge before, not measured (default: 8, quick: 2)")
    parser.add_argument("--settle", type=float, default=0.2, help="seconds between two loads (default: 0.2)")
    parser.add_argument("--type", default="DETECTIONS", help="the events' type (default: DETECTIONS, which most are)")
    parser.add_argument("--wrk-threads", type=int, default=2)
    parser.add_argument("--kafka", metavar="HOST:PORT", help="use this broker instead of starting one")
    parser.add_argument("--no-build", action="store_true", help="measure what is built already")
    parser.add_argument("--target-dir", help="where Cargo's output is (default: what `cargo metadata` says)")
    options = parser.parse_args(arguments)
    options.rounds = options.rounds or (2 if options.quick else 12)
    options.seconds = options.seconds or (1 if options.quick else 3)
    options.warm_up = options.warm_up or (2 if options.quick else 8)
    if not 1 <= options.connections <= 250 * options.wrk_threads or not 1 <= options.wrk_threads <= 10:
        # A copy is of what its thread sent some 500 requests before, which has to be answered by then.
        parser.error("1 to 10 threads of wrk, and 1 to 250 connections for each")
    return options


def main(arguments):
    options = parse(arguments)
    if not shutil.which("wrk"):
        raise Failed("wrk not found: apt-get install wrk")
    bench.raise_open_files([options.connections])
    bench.build(options)
    paths = Paths(options)
    paths.check([])
    options.events = bench.simulated_events(paths, options.type)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))

    date = datetime.datetime.now(datetime.timezone.utc)
    place = bench.machine(options, paths)
    with bench.kafka(options, paths) as (broker, broker_pids):
        results, loaded = measure(options, Bench(options, paths, broker, broker_pids))
    text = tables(options, place, f"{date:%Y-%m-%d}", results, loaded)
    print(text)
    file = paths.work / f"duplicates-{date:%Y%m%dT%H%M%SZ}.json"
    file.write_text(json.dumps({
        "date": date.isoformat(timespec="seconds"),
        "machine": place,
        "options": {**vars(options), "events": str(options.events)},
        "results": results,
        "counts": {one.name: one.counts for one in loaded},
        "over_off": {name: {figure: ratios(results, name, figure) for _, figure, _, _ in GOALS} for name in BRIDGES},
    }, indent=2))
    say(f"all figures: {file}")
    problems = [f"{BRIDGES[one.name][0]}: {problem}" for one in loaded for problem in one.wrong()]
    for problem in problems:
        say(f"WRONG: {problem}")
    if problems:
        return 1
    if options.write:
        bench.write_readme(text, BEGIN, END)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except Failed as problem:
        say(f"bench/duplicates.py: {problem}")
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
