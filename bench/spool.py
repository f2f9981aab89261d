#!/usr/bin/env python3
"""What the spool costs while Kafka is healthy, what it takes while Kafka is away, and how it empties afterwards.

    bench/spool.py                    16 rounds healthy, three outages, on a broker of its own; about 10 minutes
    bench/spool.py --quick            one short round of each, to see that all works; no figures to quote
    bench/spool.py --ten-minutes      instead: ten minutes at 2,000 events/s, Kafka stopped from minute 2 to minute 7; all proved
    bench/spool.py --ten-minutes --scale 0.1    the same in a tenth of the time
    bench/spool.py --write            also puts the tables into bench/README.md; each of the two runs has its own

The broker is paused (SIGSTOP), and in the ten minutes stopped, so it is always one that this run started itself.
Exit status: 0 done, 1 a count did not add up, an answer was another than meant, the drain stalled or a program failed, 2 bad usage.
What the figures mean and what they don't: bench/README.md.
"""

import argparse
import contextlib
import datetime
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.dont_write_bytecode = True  # of run.py and duplicates.py, which are programs as well

import duplicates
import run as bench
from run import Bench, Failed, Others, Paths, Server, number, say

TITLES = {"off": "none", "on": "`spool.dir` set"}
HEALTHY_GOAL, DRAIN_GOAL = 0.97, 0.5
CONNECTIONS = [64, 256]
BATCH = 50
# Of the live events while it drains: another topic than that of wrk's, whose events are DETECTIONS.
LIVE_TYPE, LIVE_RATE = "ROOM_OCCUPANCY", 50
# Of the ten minutes, s.
RATE, DURATION, AWAY, BACK = 2000, 600, 120, 420
# So that even in the first second of an outage, when each answer takes one, none waits in the client for a connection.
SIMULATED_CONNECTIONS = 2500
# "Small again": two files of `spool.segment_bytes`.
SMALL = 64 << 20
# Nothing drained for so long, s: it stalls.
STALL = 60
MARKS = "<!-- spool: written by bench/spool.py --write -->", "<!-- end of spool -->"
TEN_MARKS = "<!-- ten minutes: written by bench/spool.py --ten-minutes --write -->", "<!-- end of ten minutes -->"


# ---------------------------------------------------------------------------------------------- the parts of a run


class Broker:
    """Kafka, by tests/kafka/broker.sh."""

    def __init__(self, paths, port):
        self.script, self.dir, self.port = bench.ROOT / "tests" / "kafka" / "broker.sh", paths.work / "kafka-spool", port
        self.address = None

    def __enter__(self):
        # What an earlier run may have left, which was ended by force.
        self.control("stop", "--remove")
        try:
            self.start()
        except BaseException:
            self.control("stop", "--remove")
            raise
        return self

    def __exit__(self, *_):
        self.control("stop", "--remove")

    def control(self, *command):
        try:
            return bench.run([self.script, command[0], "--dir", self.dir, *command[1:]], timeout=120)
        except subprocess.TimeoutExpired:
            raise Failed(f"broker.sh {command[0]} did not end within 120 s") from None

    def start(self):
        exports = self.control("start", *(["--port", self.port] if self.port else []))
        self.address = re.search(r"^export BUTLR_BRIDGE_TEST_KAFKA=(\S+)$", exports, re.M)[1]

    def stop(self):
        self.control("stop")

    def pids(self):
        return [int((self.dir / "pid").read_text())]

    @contextlib.contextmanager
    def paused(self):
        """It keeps its connections and answers nothing, as a machine does that hangs."""
        [pid] = self.pids()
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)


class Spool:
    """The folder of one bridge's spool."""

    def __init__(self, folder):
        self.folder = folder

    def config(self):
        return f'[spool]\ndir = "{self.folder}"\n'

    def files(self):
        """All that changes with a file's being written, or replaced."""
        found = {}
        for path in self.folder.rglob("*"):
            # One that goes meanwhile is none.
            with contextlib.suppress(FileNotFoundError):
                stat = path.stat()
                found[str(path.relative_to(self.folder))] = (stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_blocks)
        return found

    def bytes(self):
        """On disk, as `du` counts."""
        return 512 * sum(blocks for *_, blocks in self.files().values())

    def at_rest(self, seconds=30):
        """Waits until its files don't change for 3 s; returns them."""
        deadline = time.monotonic() + seconds
        before, since = self.files(), time.monotonic()
        while time.monotonic() - since < 3:
            if time.monotonic() > deadline:
                raise Failed(f"{self.folder} still changes after {seconds} s without anything to do")
            time.sleep(0.2)
            now = self.files()
            if now != before:
                before, since = now, time.monotonic()
        return before


def fsync_ms(folder):
    """What the disk takes for an appended block of 4 KiB, so that the commits can be judged by it: median."""
    took = []
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        for _ in range(200):
            file.write(bytes(4096))
            began = time.monotonic()
            os.fsync(file.fileno())
            took.append(time.monotonic() - began)
    return statistics.median(took) * 1e3


def of(counts, name):
    return int(counts.get(name, 0))


def since(before, after, name):
    return after.get(name, 0) - before.get(name, 0)


def status(bridge):
    return bench.get(f"http://127.0.0.1:{bridge.admin_port}/status") or "/status does not answer"


def delivered(counts):
    """Entries that are in Kafka by now."""
    return sum(of(counts, f"spool_{name}_total") for name in ["drained", "confirmed_late", "already_stored"])


def emptied(bridge, most=900):
    """Waits until the spool is empty: (when, entries in Kafka, entries left), a sample every 50 ms."""
    samples, began = [], time.monotonic()
    moved = began
    while True:
        counts = bridge.counts()
        now = time.monotonic()
        samples.append((now, delivered(counts), of(counts, "spool_events")))
        if samples[-1][2] == 0:
            return samples
        if len(samples) > 1 and samples[-1][1:] != samples[-2][1:]:
            moved = now
        if now - moved > STALL or now - began > most:
            raise Failed(f"the drain stalls: {samples[-1][2]:,} entries left {now - began:.0f} s after it could begin, nothing "
                         f"moved for {now - moved:.0f} s; /status: {status(bridge)}; the log is {bridge.server.log}")
        time.sleep(0.05)


def pace(samples):
    """Entries in Kafka, seconds from the last sample before the first of them to the end, seconds until the first was seen."""
    first = next((n for n, one in enumerate(samples) if one[1] > samples[0][1]), None)
    if first is None:
        raise Failed("nothing was drained")
    (start, before, _), (end, after, _) = samples[max(0, first - 1)], samples[-1]
    return after - before, end - start, samples[first][0] - samples[0][0]


def unbalanced(name, bridge, counts):
    """The ledgers, and what the topics hold."""
    received = of(counts, "received_total")
    ends = {end: of(counts, f"events_total.{end}") for end in ["published", "duplicate", "spooled", "quarantined", "refused"]}
    if received != sum(ends.values()):
        yield f"{name}: {received:,} received, but {ends}"
    spooled, left = of(counts, "spool_spooled_total"), of(counts, "spool_events")
    gone = delivered(counts) + of(counts, "spool_set_aside_total")
    if of(counts, "spool_recovered_total") + spooled != gone + left:
        yield f"{name}: {spooled:,} entries spooled, but {gone:,} gone and {left:,} left"
    if left or of(counts, "spool_set_aside_total"):
        yield f"{name}: at the end {left:,} entries left, {of(counts, 'spool_set_aside_total'):,} set aside"
    for wrong in ["refused", "quarantined"]:
        if ends[wrong]:
            codes = {key: int(value) for key, value in counts.items() if key.startswith("rejections_total.") and value}
            yield f"{name}: {ends[wrong]:,} events {wrong}: {codes}"
    # More can be there: of what was handed over when Kafka went, some may be there twice.
    promised = ends["published"] + delivered(counts)
    if bridge.stored is not None and bridge.stored < promised:
        yield f"{name}: {promised:,} published or drained, but only {bridge.stored:,} stored"


def copies(bridge, counts):
    return bridge.stored - of(counts, "events_total.published") - delivered(counts)


def wrk(bridge, connections, seconds, batch, options, problems, name):
    told = bench.load(bridge.port, connections, seconds, batch, options)
    if told["requests"] == 0:
        raise Failed(f"{name}: not one request was answered; /status: {status(bridge)}; the log is {bridge.server.log}")
    if errors := sum(told["errors"].values()):
        problems.append(f"{name}: {errors:,} errors {told['errors']}")
    return told


# ---------------------------------------------------------------------------------------------- healthy


class Side(duplicates.Loaded):
    """A bridge of the comparison, and what its spool's files were before."""

    def __init__(self, name, bridge, options, spool):
        super().__init__(name, bridge, options)
        self.spool, self.before = spool, ()
        self.files = self.spooled = self.changed = None

    def warm(self):
        """It may have spooled while the broker was cold: then that is over when this returns."""
        if self.spool:
            emptied(self.bridge)
            self.files = self.spool.at_rest()
        self.spooled = of(self.bridge.counts(), "events_total.spooled")

    def end(self):
        super().end()
        if self.spool:
            now = self.spool.files()
            self.changed = sorted(name for name in {*self.files, *now} if self.files.get(name) != now.get(name))

    def wrong(self):
        name = f"healthy, spool {TITLES[self.name]}"
        if self.errors:
            yield f"{name}: {self.errors:,} errors"
        if self.changed:
            yield f"{name}: the spool's files changed: {', '.join(self.changed)}"
        if since({"n": self.spooled}, {"n": self.count("events_total.spooled")}, "n"):
            yield f"{name}: {self.count('events_total.spooled') - self.spooled:,} events were spooled, so the disk was measured"
        yield from unbalanced(name, self.bridge, self.counts)
        if self.bridge.stored != self.count("events_total.published") + delivered(self.counts):
            yield f"{name}: {copies(self.bridge, self.counts):,} records more than published"


def healthy(options, parts, spool):
    """Slices of both bridges in turn, and the bridges."""
    results = []
    with contextlib.ExitStack() as stack:
        sides = []
        for name, more in [("off", ""), ("on", spool.config())]:
            serving = parts.serving(f"spool-{name}", f"{parts.run_name}-{name}", more=more)
            sides.append(Side(name, stack.enter_context(serving), options, spool if name == "on" else None))
        say(f"healthy: warming up for {options.warm_up * len(sides)} s …")
        for _ in range(2):
            for side in sides:
                side.load(max(1, options.warm_up // 2))
        for side in sides:
            side.warm()
        for number_of in range(options.rounds):
            for side in sides if number_of % 2 == 0 else reversed(sides):
                figures = side.slice(parts.broker_pids)
                results.append({"round": number_of, **figures})
                say(
                    f"healthy, round {number_of + 1}/{options.rounds}  spool {TITLES[side.name]:<16} "
                    f"{figures['events_per_s']:>9,.0f} events/s  p99 {figures['p99_ms']:>7.2f} ms  "
                    f"{figures['cpu_s_per_1000']:.4f} CPU s/1,000  others {figures['others']:.0%}"
                )
                time.sleep(options.settle)
        for side in sides:
            side.end()
    return results, sides


def healthy_tables(options, results, sides):
    lines = [
        f"Kafka healthy, {options.connections} connections, {options.rounds} rounds of {options.seconds} s: medians.{bench.disturbed(results)}",
        "",
        "| spool | events/s | p50 ms | p99 ms | CPU s per 1,000 events | peak MiB | spool's files | published = stored |",
        "|---|---:|---:|---:|---:|---:|---|---:|",
    ]
    for side in sides:
        middle = {figure: statistics.median(duplicates.of(results, side.name, figure))
                  for figure in ["events_per_s", "p50_ms", "p99_ms", "cpu_s_per_1000"]}
        files = "–" if side.changed is None else "**changed**" if side.changed else "untouched"
        lines.append(
            f"| {TITLES[side.name]} | {number(middle['events_per_s'])} | {number(middle['p50_ms'])} | {number(middle['p99_ms'])} | "
            f"{middle['cpu_s_per_1000']:.4f} | {number(side.peak_bytes / 2**20)} | {files} | {side.bridge.stored:,} |"
        )
    over = statistics.median(duplicates.ratios(results, "on", "events_per_s"))
    verdict = "met" if over >= HEALTHY_GOAL else "**missed**"
    lines += [
        "",
        f"| with ÷ without: median of the rounds (quartiles) | events/s, goal ≥ {HEALTHY_GOAL} | CPU per event |",
        "|---|---|---|",
        f"| `spool.dir` set | {duplicates.ratio_cell(results, 'on', 'events_per_s')} {verdict} | "
        f"{duplicates.ratio_cell(results, 'on', 'cpu_s_per_1000')} |",
    ]
    return lines


# ---------------------------------------------------------------------------------------------- an outage


class Outages:
    """One bridge with a spool, and Kafka paused again and again."""

    def __init__(self, options, parts, broker, spool):
        self.options, self.parts, self.broker, self.spool = options, parts, broker, spool
        self.bridge = self.counts = self.peak_bytes = None
        self.problems = []

    def measure(self):
        rounds = []
        with self.parts.serving("spool-outage", f"{self.parts.run_name}-outage", more=self.spool.config()) as self.bridge:
            say(f"outages: warming up for {self.options.warm_up} s …")
            self.wrk(64, self.options.warm_up, 1, "warming up")
            emptied(self.bridge)
            for number_of in range(self.options.outages):
                self.name = f"outage {number_of + 1}/{self.options.outages}"
                rounds.append({"round": number_of, **self.one()})
            self.counts, self.peak_bytes = self.bridge.counts(), self.bridge.server.peak_bytes()
        self.problems += unbalanced("outages", self.bridge, self.counts)
        return rounds

    def one(self):
        direct = {batch: self.direct(batch) for batch in [1, BATCH]}
        empty_bytes = self.at_rest()
        with self.broker.paused():
            # Each of these waits for Kafka for kafka.confirm_within; from then on none does.
            beginning = self.wrk(64, 2, 1, "the first 2 s")
            spooled = {connections: self.spooled(connections) for connections in CONNECTIONS}
            before = self.bridge.counts()
        drain = self.drain((time.monotonic(), delivered(before), of(before, "spool_events")))
        after_bytes = self.at_rest()
        alone = self.live(lambda: time.sleep(self.options.live_seconds))
        with self.broker.paused():
            entries = self.fill(drain["entries_per_s"] * self.options.live_seconds)
        draining = self.live_while_draining()
        return {
            "direct": direct, "beginning_max_ms": beginning["max_us"] / 1e3, "spooled": spooled, "drain": drain,
            "empty_bytes": empty_bytes, "after_bytes": [after_bytes, self.at_rest()],
            "live_alone": alone, "live_entries": entries, "live_draining": draining,
        }

    def say(self, text):
        say(f"{self.name}  {text}")

    def wrk(self, connections, seconds, batch, name):
        return wrk(self.bridge, connections, seconds, batch, self.options, self.problems, name)

    def at_rest(self):
        self.spool.at_rest()
        return self.spool.bytes()

    def direct(self, batch):
        """Events/s into a healthy Kafka."""
        os.sync()
        bench.load(self.bridge.port, 64, 1, batch, self.options)
        before, others = self.bridge.counts(), Others(self.bridge.server.process.pid, *self.broker.pids())
        told = self.wrk(64, self.options.spooled_seconds, batch, f"{self.name}, direct")
        figures = {"events_per_s": told["requests"] * batch / (told["duration_us"] / 1e6), "p99_ms": told["p99_us"] / 1e3,
                   "others": others.share()}
        # What still came after it ended is published, too.
        self.bridge.server.wait_until(self.bridge.settled, "at rest")
        slow = since(before, self.bridge.counts(), "events_total.spooled")
        if slow:
            # A hiccup of the broker's, longer than kafka.confirm_within: no mistake, but the figure is not of publishing alone.
            self.say(f"{slow:,.0f} events were spooled although Kafka ran")
            emptied(self.bridge)
        self.say(f"direct, {'one by one' if batch == 1 else f'arrays of {batch}'}  {figures['events_per_s']:>9,.0f} events/s")
        return {**figures, "spooled": slow}

    def spooled(self, connections):
        """Events/s while Kafka is away, all of them answered 202."""
        os.sync()
        name = f"{self.name}, Kafka paused, {connections} connections"
        server = self.bridge.server
        before, bytes_before, cpu = self.bridge.counts(), self.spool.bytes(), server.cpu_seconds()
        others = Others(server.process.pid, *self.broker.pids())
        told = self.wrk(connections, self.options.spooled_seconds, 1, name)
        cpu, share = server.cpu_seconds() - cpu, others.share()
        time.sleep(0.5)
        after, bytes_after = self.bridge.counts(), self.spool.bytes()
        entries, commits = since(before, after, "events_total.spooled"), since(before, after, "spool_commit_duration_seconds_count")
        if entries < told["requests"] or since(before, after, "events_total.published") or not commits:
            self.problems.append(f"{name}: {told['requests']:,} answers, but {entries:,.0f} events spooled in {commits:,.0f} commits, "
                                 f"{since(before, after, 'events_total.published'):,.0f} published")
        seconds = told["duration_us"] / 1e6
        figures = {
            "events_per_s": told["requests"] / seconds, "p50_ms": told["p50_us"] / 1e3, "p99_ms": told["p99_us"] / 1e3,
            "max_ms": told["max_us"] / 1e3, "commits_per_s": commits / seconds, "events_per_commit": entries / max(1, commits),
            "commit_ms": since(before, after, "spool_commit_duration_seconds_sum") / max(1, commits) * 1e3,
            "bytes_per_event": (bytes_after - bytes_before) / max(1, entries), "cpu_s_per_1000": cpu / told["requests"] * 1000,
            "others": share,
        }
        self.say(
            f"paused, {connections:>3} connections  {figures['events_per_s']:>9,.0f} events/s  p50 {figures['p50_ms']:.2f} ms  "
            f"p99 {figures['p99_ms']:.2f} ms  {figures['commits_per_s']:,.0f} commits/s  {figures['bytes_per_event']:,.0f} bytes an event"
        )
        return figures

    def drain(self, paused):
        """From Kafka's return on, without any load; `paused` is the sample before."""
        server = self.bridge.server
        others = Others(server.process.pid, *self.broker.pids())
        cpu = server.cpu_seconds()
        samples = [paused, *emptied(self.bridge)]
        cpu = server.cpu_seconds() - cpu
        entries, seconds, until_first = pace(samples)
        figures = {"entries": entries, "seconds": seconds, "until_first_s": until_first, "entries_per_s": entries / seconds,
                   "cpu_s_per_1000": cpu / entries * 1000, "others": others.share()}
        self.say(f"drained {entries:,} entries in {seconds:.1f} s: {figures['entries_per_s']:,.0f}/s, the first after {until_first:.2f} s")
        return figures

    def fill(self, entries):
        """At least so many entries, as quickly as possible, within a minute."""
        began, loads = time.monotonic(), 0
        while True:
            found = of(self.bridge.counts(), "spool_events")
            if found >= entries or time.monotonic() - began > 60:
                self.say(f"{found:,} entries spooled")
                return found
            # The first waits for Kafka's confirmation, one by one.
            bench.load(self.bridge.port, 64, 2, BATCH if loads else 1, self.options)
            loads += 1

    def live(self, during):
        """The latency of a few live events on another topic."""
        ledger = self.parts.paths.work / "spool-live.json"
        command = [
            self.parts.paths.bridge, "simulate", "--url", f"http://127.0.0.1:{self.bridge.port}/v1/events", "--plain",
            "--types", LIVE_TYPE, "--spaces", 1000, "--rate", LIVE_RATE, "--duration", "30m", "--output", ledger,
        ]
        ledger.unlink(missing_ok=True)
        before = self.bridge.counts()
        with Server(command, self.parts.log("spool-live")) as client:
            client.wait_until(lambda: since(before, self.bridge.counts(), "received_total") > 0, "sending")
            during()
            client.terminate()
        told = json.loads(ledger.read_text())
        if told["ends"]["accepted"] != told["events"]:
            self.problems.append(f"{self.name}, live events: {told['ends']}, answers {told['answers']}")
        latency = told["latency_ms"]
        figures = {"events": told["events"], "p50_ms": latency["p50"], "p99_ms": latency["p99"], "max_ms": latency["max"],
                   "spooled": told["words"].get("spooled", 0)}
        self.say(f"{figures['events']:,} live events  p50 {latency['p50']:.2f} ms  p99 {latency['p99']:.2f} ms  max {latency['max']:.1f} ms")
        return figures

    def live_while_draining(self):
        """Kafka is back: begins with the first entry drained, ends with the last."""
        before = delivered(self.bridge.counts())
        self.bridge.server.wait_until(lambda: delivered(self.bridge.counts()) > before, "draining", STALL)
        samples = []
        figures = self.live(lambda: samples.extend(emptied(self.bridge)))
        # Without what was drained before the live events came.
        entries, seconds = samples[-1][1] - samples[0][1], samples[-1][0] - samples[0][0]
        if seconds < 2:
            self.problems.append(f"{self.name}: drained within {seconds:.1f} s, too quickly for measuring what else comes")
        return {**figures, "entries_per_s": entries / max(seconds, 0.05), "seconds": seconds}


def middle(rounds, *path):
    def dig(one):
        for key in path:
            one = one[key]
        return one
    return statistics.median(map(dig, rounds))


def outage_tables(options, rounds, outages, place):
    shares = [{"others": one["others"]} for each in rounds for one in [*each["spooled"].values(), *each["direct"].values(), each["drain"]]]
    times = "once" if options.outages == 1 else f"{options.outages} times"
    lines = [
        "",
        f"Kafka paused, {times}, {options.spooled_seconds} s a cell: medians; peak memory of the bridge {number(outages.peak_bytes / 2**20)} MiB. "
        f"An fsync of 4 KiB takes {number(place['fsync_ms'])} ms here ({place['filesystem']}).{bench.disturbed(shares)}",
        "",
        "| connections | events/s answered 202 | p50 ms | p99 ms | longest ms | commits/s | events a commit | ms a commit | bytes on disk an event | "
        "CPU s per 1,000 events |",
        "|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for connections in CONNECTIONS:
        cell = {figure: middle(rounds, "spooled", connections, figure) for figure in rounds[0]["spooled"][connections]}
        cell["max_ms"] = max(one["spooled"][connections]["max_ms"] for one in rounds)
        figures = ["events_per_s", "p50_ms", "p99_ms", "max_ms", "commits_per_s", "events_per_commit", "commit_ms", "bytes_per_event"]
        lines.append(f"| {connections} | {' | '.join(number(cell[figure]) for figure in figures)} | {cell['cpu_s_per_1000']:.4f} |")
    lines += [
        "",
        f"In the first two seconds, at 64 connections, the longest answer took {number(max(one['beginning_max_ms'] for one in rounds))} ms.",
        "",
        f"| into Kafka | per s | drain ÷ it (of each outage), goal ≥ {DRAIN_GOAL} |",
        "|---|---:|---|",
    ]
    for batch, name in [(1, "directly, 64 connections"), (BATCH, f"directly, 64 connections, arrays of {BATCH}")]:
        over = [one["drain"]["entries_per_s"] / one["direct"][batch]["events_per_s"] for one in rounds]
        verdict = "met" if statistics.median(over) >= DRAIN_GOAL else "**missed**"
        lines.append(f"| {name} | {number(middle(rounds, 'direct', batch, 'events_per_s'))} | "
                     f"{statistics.median(over):.2f} ({min(over):.2f} to {max(over):.2f}) {verdict} |")
    lines += [
        f"| drained, no load | {number(middle(rounds, 'drain', 'entries_per_s'))} | – |",
        f"| drained, {LIVE_RATE} live events/s on another topic | {number(middle(rounds, 'live_draining', 'entries_per_s'))} | – |",
        "",
        f"| {LIVE_RATE} events/s on another topic | events | p50 ms | p99 ms | longest ms | answered 202 |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for key, name in [("live_alone", "with nothing else"), ("live_draining", "while the spool drains")]:
        events, spooled = (sum(one[key][figure] for one in rounds) for figure in ["events", "spooled"])
        lines.append(f"| {name} | {events:,} | {number(middle(rounds, key, 'p50_ms'))} | {number(middle(rounds, key, 'p99_ms'))} | "
                     f"{number(max(one[key]['max_ms'] for one in rounds))} | {spooled:,} |")
    slow = sum(one["direct"][batch]["spooled"] for one in rounds for batch in [1, BATCH])
    if slow:
        lines += ["", f"{slow:,.0f} events were spooled while publishing directly was measured: Kafka took more than a second for them."]
    small = max(size for one in rounds for size in one["after_bytes"])
    entries = middle(rounds, "drain", "entries")
    lines += [
        "",
        f"After an outage of {number(entries)} entries the first was in Kafka within {number(middle(rounds, 'drain', 'until_first_s'))} s; "
        f"draining took {middle(rounds, 'drain', 'cpu_s_per_1000'):.4f} CPU s per 1,000. Empty again, the folder had {number(small / 2**20)} MiB at most. "
        f"Of {of(outages.counts, 'spool_spooled_total'):,} entries all are in Kafka, and {copies(outages.bridge, outages.counts):,} records twice.",
    ]
    return lines


def outage_problems(rounds):
    for one in rounds:
        large = max(one["after_bytes"])
        if large > SMALL:
            yield f"outage {one['round'] + 1}: the emptied spool still has {large:,} bytes on disk"


# ---------------------------------------------------------------------------------------------- ten minutes


class Watch(threading.Thread):
    """What the bridge counts, twice a second, whatever else is done."""

    def __init__(self, bridge, spool):
        super().__init__(daemon=True)
        self.bridge, self.spool = bridge, spool
        self.samples, self.problem, self.over = [], None, threading.Event()

    def run(self):
        while not self.over.wait(0.5):
            try:
                counts = self.bridge.counts()
                self.samples.append({
                    "at": time.monotonic(), "received": of(counts, "received_total"), "entries": of(counts, "spool_events"),
                    "delivered": delivered(counts), "disk": self.spool.bytes(), "peak": self.bridge.server.peak_bytes(),
                })
            except (Failed, OSError) as problem:
                self.problem = self.problem or problem

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.join(30)


def longest_answer_s(bridge):
    """The bound of the bucket in which its slowest answer is."""
    text = bench.get(f"http://127.0.0.1:{bridge.admin_port}/metrics") or ""
    by_bound, total = {}, 0
    for bound, count in re.findall(r'^butlr_bridge_request_duration_seconds_bucket\{[^}]*le="([^"]+)"[^}]*\} (\d+)$', text, re.M):
        bound = float(bound.replace("+Inf", "inf"))
        by_bound[bound] = by_bound.get(bound, 0) + int(count)
    total = by_bound.get(float("inf"), 0)
    return min((bound for bound, count in by_bound.items() if count == total), default=float("nan"))


def ten_minutes(options, parts, broker, spool, journal):
    """Returns the figures and what is wrong with them."""
    scale, prefix = options.scale, f"{parts.run_name}-ten"
    ledger, log = parts.paths.work / "spool-ten.json", parts.log("spool-ten")
    ledger.unlink(missing_ok=True)
    with parts.serving("spool-ten-bridge", prefix, more=spool.config()) as bridge:
        command = [
            parts.paths.bridge, "simulate", "--url", f"http://127.0.0.1:{bridge.port}/v1/events", "--spaces", 1000,
            "--connections", options.simulated_connections, "--rate", options.rate, "--duration", f"{DURATION * scale:.0f}s",
            "--duplicates", "expected", "--verify", broker.address, "--topics", f"{prefix}.{{type}}.v1", "--journal", journal / "ten-journal",
            "--output", ledger,
        ]
        with Watch(bridge, spool) as watch, Server(command, log) as client:
            client.wait_until(lambda: of(bridge.counts(), "received_total") > 0, "sending")
            began = time.monotonic()

            def until(seconds):
                while time.monotonic() < began + seconds:
                    if client.process.poll() is not None:
                        client.fail(f"ended with status {client.process.returncode} after {time.monotonic() - began:.0f} s: "
                                    f"{client.process.stdout.read().decode()[-3000:]}")
                    bridge.server.wait_until(lambda: True, "alive")
                    time.sleep(0.2)

            say(f"{DURATION * scale:.0f} s at {options.rate:,} events/s; Kafka is stopped after {AWAY * scale:.0f} s …")
            until(AWAY * scale)
            before_bytes = bridge.server.peak_bytes()
            stopping = time.monotonic() - began
            broker.stop()
            away = time.monotonic() - began
            say(f"Kafka is away; back after {BACK * scale:.0f} s …")
            until(BACK * scale)
            waiting = of(bridge.counts(), "spool_events")
            say(f"{waiting:,} entries; starting Kafka …")
            broker.start()
            back = time.monotonic() - began
            # Not to its last moment: the client's clock began a little before.
            until(DURATION * scale - 1)
            say("the load is over; waiting for its proof …")
            # It waits up to five minutes for what waits on disk, and reads everything.
            try:
                output, _ = client.process.communicate(timeout=600 + DURATION * scale)
            except subprocess.TimeoutExpired:
                client.fail(f"did not end; /status of the bridge: {status(bridge)}")
            output = output.decode()
            emptied(bridge)
            bridge.server.wait_until(bridge.settled, "at rest")
            spool.at_rest()
            counts, longest, peak, small = bridge.counts(), longest_answer_s(bridge), bridge.server.peak_bytes(), spool.bytes()
    print(output)
    if not ledger.exists():
        raise Failed(f"simulate ended with status {client.process.returncode} and wrote no ledger; its log is {log}")
    told = json.loads(ledger.read_text())
    at = [{**one, "at": one["at"] - began} for one in watch.samples]
    empty = next((one["at"] for one in at if one["at"] > back and one["entries"] == 0), None)
    figures = {
        "events": told["events"], "accepted": told["ends"]["accepted"], "answers": told["answers"], "words": told["words"],
        "tries": told["tries"], "latency_ms": told["latency_ms"], "behind_s": told["behind_s"], "caught_up": told["caught_up"],
        "longest_answer_s": longest, "stopping_s": stopping, "away_s": away, "back_s": back, "empty_s": empty,
        "most_entries": max(one["entries"] for one in at), "most_disk": max(one["disk"] for one in at),
        "disk_at_end": small, "peak_bytes": peak, "peak_before_bytes": before_bytes,
        "holds": (told.get("proof") or {}).get("holds"), "records": (told.get("proof") or {}).get("records"),
        "copies": (told.get("proof") or {}).get("copies"), "counts": counts, "samples": at,
    }
    problems = list(unbalanced("ten minutes", bridge, counts))
    others = {code: count for code, count in told["answers"].items() if code not in ["200", "202"]}
    if figures["accepted"] != figures["events"] or others or len(figures["tries"]) > 1:
        problems.append(f"{figures['events']:,} events, {figures['accepted']:,} accepted; answers {told['answers']}, tries {told['tries']}")
    if told["connections_failed"] or told["connections_broken"] or told["timed_out"]:
        problems.append(f"connections failed {told['connections_failed']}, broken {told['connections_broken']}, timed out {told['timed_out']}")
    if client.process.returncode or not figures["holds"]:
        problems.append(f"the proof does not hold (simulate ended with status {client.process.returncode}): {json.dumps(told.get('proof'))[:4000]}")
    if told["caught_up"] or told["behind_s"] > 1 or figures["events"] < 0.98 * options.rate * DURATION * scale:
        problems.append(f"the pace was not kept: {figures['events']:,} events, {told['behind_s']} s behind, caught up: {told['caught_up']}")
    if small > SMALL:
        problems.append(f"the emptied spool still has {small:,} bytes on disk")
    if empty is None:
        problems.append("the spool was not seen empty after Kafka's return")
    if watch.problem:
        problems.append(f"while it ran: {watch.problem}")
    return figures, problems


def ten_table(options, figures):
    seconds = lambda value: "–" if value is None else f"{number(value)} s"
    mib = lambda value: f"{number(value / 2**20)} MiB"
    # simulate's own count of everything that was answered.
    refused = sum(count for code, count in figures["answers"].items() if code not in ["200", "202"])
    rows = [
        ("events, accepted", f"{figures['events']:,}, {figures['accepted']:,}"),
        ("answers 200, 202, others", f"{figures['answers'].get('200', 0):,}, {figures['answers'].get('202', 0):,}, {refused:,}"),
        ("tries that were needed", "one each" if len(figures["tries"]) == 1 else f"**{figures['tries']}**"),
        ("proof by `simulate --verify`", f"{'holds' if figures['holds'] else '**does not hold**'}, {figures['records'] or 0:,} records, "
         f"{(figures['copies'] or {}).get('all', 0):,} of them copies"),
        ("most entries waiting", f"{figures['most_entries']:,}"),
        ("most bytes on disk", mib(figures["most_disk"])),
        ("spool empty after Kafka's return", seconds(None if figures["empty_s"] is None else figures["empty_s"] - figures["back_s"])),
        ("the empty spool on disk", mib(figures["disk_at_end"])),
        ("peak memory of the bridge before the outage, in all", f"{mib(figures['peak_before_bytes'])}, {mib(figures['peak_bytes'])}"),
        ("from due to accepted: p50, p99, longest",
         ", ".join(f"{number(figures['latency_ms'][name])} ms" for name in ["p50", "p99", "max"])),
        ("the bridge's longest answer, at most", seconds(figures["longest_answer_s"])),
    ]
    return [
        f"{options.rate:,} events/s of all types for {DURATION * options.scale:.0f} s over up to {options.simulated_connections:,} connections; "
        f"Kafka told to stop after {figures['stopping_s']:.0f} s, gone at {figures['away_s']:.0f} s and back at {figures['back_s']:.0f} s.",
        "",
        "| | |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in rows),
    ]


# ---------------------------------------------------------------------------------------------- command line


def parse(arguments):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one short round of each")
    parser.add_argument("--write", action="store_true", help="put the tables into bench/README.md")
    parser.add_argument("--only", choices=["healthy", "outages"], help="leave the other out")
    parser.add_argument("--ten-minutes", action="store_true", help="measure a long outage instead")
    parser.add_argument("--scale", type=float, default=1.0, help="of the ten minutes, 0.05 to 1 (default: 1)")
    parser.add_argument("--rate", type=int, default=RATE, help=f"events/s in the ten minutes (default: {RATE})")
    parser.add_argument("--simulated-connections", type=int, default=SIMULATED_CONNECTIONS,
                        help=f"most connections in the ten minutes (default: {SIMULATED_CONNECTIONS})")
    parser.add_argument("--connections", type=int, default=64, help="while Kafka is healthy (default: 64)")
    parser.add_argument("--rounds", type=int, help="while Kafka is healthy (default: 16, quick: 2)")
    parser.add_argument("--seconds", type=int, help="of load for each of both in a round (default: 3, quick: 1)")
    parser.add_argument("--outages", type=int, help="how often Kafka is paused for all measurements (default: 3, quick: 1)")
    parser.add_argument("--spooled-seconds", type=int, help="of each load while Kafka is paused, and before (default: 8, quick: 2)")
    parser.add_argument("--live-seconds", type=int, help="about how long live events are sent during a drain (default: 20, quick: 3)")
    parser.add_argument("--warm-up", type=int, help="seconds of load for each bridge before, not measured (default: 20, quick: 2)")
    parser.add_argument("--settle", type=float, default=0.2, help="seconds between two loads while Kafka is healthy (default: 0.2)")
    parser.add_argument("--wrk-threads", type=int, default=2)
    parser.add_argument("--kafka-port", type=int, help="of the broker; it takes this and the next four (default: free ones)")
    parser.add_argument("--binary", type=Path, help="measure this butlr-bridge, to try things; not with --write")
    parser.add_argument("--no-build", action="store_true", help="measure what is built already")
    parser.add_argument("--target-dir", help="where Cargo's output is (default: what `cargo metadata` says)")
    options = parser.parse_args(arguments)
    for name, usual, quick in [("rounds", 16, 2), ("seconds", 3, 1), ("outages", 3, 1), ("spooled_seconds", 8, 2), ("live_seconds", 20, 3),
                               ("warm_up", 20, 2)]:
        if getattr(options, name) is None:
            setattr(options, name, quick if options.quick else usual)
        if getattr(options, name) < 1:
            parser.error("at least one round, and one second")
    if not 1 <= options.wrk_threads <= 10 or not 1 <= options.connections <= 1000:
        parser.error("1 to 10 threads of wrk, 1 to 1,000 connections")
    if not 0.05 <= options.scale <= 1 or options.rate < 1 or not 1 <= options.simulated_connections <= 9000:
        parser.error("--scale 0.05 to 1, --rate at least 1, --simulated-connections 1 to 9,000")
    if options.write and (options.binary or options.only or options.scale != 1 or options.rate != RATE):
        parser.error("--write only for the whole measurement, of the release that is built here")
    # That is what the other benchmarks' helpers ask: a broker of the run's own.
    options.kafka = None
    return options


def find_programs(options):
    if options.binary:
        options.no_build = True
    bench.build(options)
    paths = Paths(options)
    if options.binary:
        paths.bridge = options.binary.resolve()
        beside = paths.bridge.parent / "examples" / paths.rdkafka.name
        paths.rdkafka = beside if beside.exists() else paths.rdkafka
    paths.check([])
    return paths


def measured(options, paths, folder, place):
    """The tables, all figures, and what is wrong."""
    with Broker(paths, options.kafka_port) as broker:
        parts = Bench(options, paths, broker.address, broker.pids())
        if options.ten_minutes:
            figures, problems = ten_minutes(options, parts, broker, Spool(folder / "ten"), folder)
            return ten_table(options, figures), {"ten_minutes": figures}, problems
        lines, all_figures, problems = [], {}, []
        if options.only != "outages":
            results, sides = healthy(options, parts, Spool(folder / "healthy"))
            lines += healthy_tables(options, results, sides)
            problems += [problem for side in sides for problem in side.wrong()]
            over = {figure: duplicates.ratios(results, "on", figure) for figure in ["events_per_s", "cpu_s_per_1000"]}
            all_figures["healthy"] = {"results": results, "over_off": over, "counts": {side.name: side.counts for side in sides}}
        if options.only != "healthy":
            outages = Outages(options, parts, broker, Spool(folder / "outages"))
            rounds = outages.measure()
            lines += outage_tables(options, rounds, outages, place)
            problems += [*outages.problems, *outage_problems(rounds)]
            all_figures["outages"] = {"rounds": rounds, "counts": outages.counts, "peak_bytes": outages.peak_bytes}
        return lines, all_figures, problems


def main(arguments):
    options = parse(arguments)
    if not shutil.which("wrk"):
        raise Failed("wrk not found: apt-get install wrk")
    # The simulator takes some for late answers, too.
    bench.raise_open_files([options.connections, 3 * options.simulated_connections if options.ten_minutes else max(CONNECTIONS)])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    paths = find_programs(options)
    options.events = bench.simulated_events(paths)

    date = datetime.datetime.now(datetime.timezone.utc)
    with tempfile.TemporaryDirectory(prefix="spool-", dir=paths.work) as folder:
        place = {
            **bench.machine(options, paths), "fsync_ms": fsync_ms(folder),
            "filesystem": bench.run(["stat", "-f", "-c", "%T", folder]).strip(),
        }
        if place["filesystem"] in ["tmpfs", "ramfs"]:
            raise Failed(f"{folder} lies in memory: no disk can be measured there; --target-dir says where else")
        lines, figures, problems = measured(options, paths, Path(folder), place)
    text = "\n".join([f"{date:%Y-%m-%d}, {bench.described(place)}.", "", *lines])
    print(text)
    name = "ten-minutes" if options.ten_minutes else "spool"
    file = paths.work / f"{name}-{date:%Y%m%dT%H%M%SZ}.json"
    file.write_text(json.dumps({
        "date": date.isoformat(timespec="seconds"), "machine": place, "options": vars(options), **figures, "problems": problems,
    }, indent=2, default=str))
    say(f"all figures: {file}")
    for problem in problems:
        say(f"WRONG: {problem}")
    if problems:
        return 1
    if options.write:
        bench.write_readme(text, *(TEN_MARKS if options.ten_minutes else MARKS))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except Failed as problem:
        # One that went before: at the end of a failed run, what is cleaned up fails as well where Kafka is gone.
        while problem:
            say(f"bench/spool.py: {problem}")
            problem = problem.__context__
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(1)
