#!/usr/bin/env python3
"""Measures the spool: its cost with Kafka healthy, its rate during an outage, and its drain.

    bench/spool.py                  16 rounds healthy, three outages; about 10 minutes
    bench/spool.py --quick          one short round of each, to see that everything works; no figures to quote
    bench/spool.py --ten-minutes    instead: ten minutes at 2,000 events/s, Kafka stopped from minute 2 to
                                    minute 7, everything proved; about 12 minutes
    bench/spool.py --ten-minutes --scale 0.1    the same in a tenth of the time
    bench/spool.py --write          also puts the tables of the run into bench/README.md

The broker is paused and stopped, so a run always starts one of its own.

Exit status: 0 done; 1 a count or an answer is wrong, the drain stalled, a program failed, or (with
--check-goals) a goal was missed; 2 bad usage. bench/README.md explains method and figures.
"""

import contextlib
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

sys.dont_write_bytecode = True

import harness
from harness import (
    BenchError, ChildProcess, Goal, Harness, Ratio, Report, WrkSlices, format_number, log, median,
)

TITLES = {"off": "none", "on": "`spool.dir` set"}
HEALTHY_GOAL = Goal("events/s", "events_per_s", 0.97, at_least=True)
DRAIN_GOAL = Goal("entries/s", "entries_per_s", 0.5, at_least=True)
CONNECTIONS = [64, 256]
BATCH = 50
# Live events during a drain use another topic than wrk's DETECTIONS.
LIVE_TYPE, LIVE_RATE = "ROOM_OCCUPANCY", 50
# The ten minutes, in seconds.
RATE, DURATION, STOP_AT, START_AT = 2000, 600, 120, 420
# So many that no event waits for a connection even when each answer takes a second, as in the first
# second of an outage.
SIMULATED_CONNECTIONS = 2500
# An empty spool takes no more than two files of `spool.segment_bytes`.
EMPTY_SPOOL_BYTES = 64 << 20
# A drain without progress for so many seconds has stalled.
STALL_SECONDS = 60
DRAIN_SECONDS = 900
MARKS, TEN_MINUTES_MARKS = "spool", "ten minutes"


# ------------------------------------------------------------------------------------ the spool


class SpoolFolder:
    """The folder of one bridge's spool."""

    def __init__(self, folder):
        self.folder = folder

    def config(self):
        return f'[spool]\ndir = "{self.folder}"\n'

    def files(self):
        """Returns for each file what changes if it is written or replaced."""
        found = {}
        for path in self.folder.rglob("*"):
            # A file may vanish meanwhile.
            with contextlib.suppress(FileNotFoundError):
                stat = path.stat()
                name = str(path.relative_to(self.folder))
                found[name] = (stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_blocks)
        return found

    def bytes(self):
        """Size on disk, as `du` counts."""
        return 512 * sum(blocks for *_, blocks in self.files().values())

    def wait_unchanged(self, seconds=30):
        """Waits until no file has changed for 3 s; returns the files."""
        deadline = time.monotonic() + seconds
        before, since = self.files(), time.monotonic()
        while time.monotonic() - since < 3:
            if time.monotonic() > deadline:
                raise BenchError(f"{self.folder} still changes after {seconds} s, without any load")
            time.sleep(0.2)
            now = self.files()
            if now != before:
                before, since = now, time.monotonic()
        return before


def fsync_ms(folder):
    """Median time of an fsync of 4 KiB on this disk."""
    times = []
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        for _ in range(200):
            file.write(bytes(4096))
            start = time.monotonic()
            os.fsync(file.fileno())
            times.append(time.monotonic() - start)
    return statistics.median(times) * 1e3


def count(counts, name):
    return int(counts.get(name, 0))


def growth(before, after, name):
    return after.get(name, 0) - before.get(name, 0)


def delivered(counts):
    """Spool entries that are in Kafka by now."""
    names = ["spool_drained_total", "spool_confirmed_late_total", "spool_already_stored_total"]
    return sum(count(counts, name) for name in names)


def extra_records(server, counts):
    """Records in the topics beyond those published and drained."""
    return server.stored - count(counts, "events_total.published") - delivered(counts)


def wait_drained(server):
    """Waits until the spool is empty; returns samples of (time, entries in Kafka, entries left)."""
    samples, start = [], time.monotonic()
    last_progress = start
    while True:
        counts = server.counts()
        now = time.monotonic()
        samples.append((now, delivered(counts), count(counts, "spool_events")))
        if samples[-1][2] == 0:
            return samples
        if len(samples) > 1 and samples[-1][1:] != samples[-2][1:]:
            last_progress = now
        if now - last_progress > STALL_SECONDS or now - start > DRAIN_SECONDS:
            server.process.fail(
                f"the drain stalls: {samples[-1][2]:,} entries left after {now - start:.0f} s, no progress "
                f"for {now - last_progress:.0f} s; /status: {server.admin('status')}"
            )
        time.sleep(0.05)


def drain_pace(samples):
    """Returns entries drained, seconds they took, and seconds until the first was seen.

    The clock starts with the last sample before the first entry was in Kafka.
    """
    first = next((n for n, one in enumerate(samples) if one[1] > samples[0][1]), None)
    if first is None:
        raise BenchError("nothing was drained")
    (start, before, _), (end, after, _) = samples[max(0, first - 1)], samples[-1]
    return after - before, end - start, samples[first][0] - samples[0][0]


def balance_problems(name, server, counts):
    """Compares the counts of bridge and spool with each other and with the topics."""
    received = count(counts, "received_total")
    outcomes = ["published", "duplicate", "spooled", "quarantined", "refused"]
    ends = {end: count(counts, f"events_total.{end}") for end in outcomes}
    if received != sum(ends.values()):
        yield f"{name}: {received:,} received, but {ends}"
    spooled, left = count(counts, "spool_spooled_total"), count(counts, "spool_events")
    set_aside = count(counts, "spool_set_aside_total")
    gone = delivered(counts) + set_aside
    if count(counts, "spool_recovered_total") + spooled != gone + left:
        yield f"{name}: {spooled:,} entries spooled, but {gone:,} gone and {left:,} left"
    if left or set_aside:
        yield f"{name}: {left:,} entries left at the end, {set_aside:,} set aside"
    for outcome in ["refused", "quarantined"]:
        if ends[outcome]:
            codes = {key: int(n) for key, n in counts.items() if key.startswith("rejections_total.") and n}
            yield f"{name}: {ends[outcome]:,} events {outcome}: {codes}"
    # There may be more: an event that was in flight when Kafka went may be stored twice.
    promised = ends["published"] + delivered(counts)
    if server.stored is not None and server.stored < promised:
        yield f"{name}: {promised:,} published or drained, but only {server.stored:,} stored"


# -------------------------------------------------------------------------------- Kafka healthy


class SpoolSlices(WrkSlices):
    """A bridge of the healthy comparison. It watches the files of its spool, if it has one."""

    def __init__(self, bench, name, server, options, spool):
        super().__init__(bench, name, server, options)
        self.spool = spool
        self.files_before = self.spooled_before = self.changed_files = None

    def end_warm_up(self):
        # While the broker was cold the bridge may have spooled; that must be over.
        if self.spool:
            wait_drained(self.server)
            self.files_before = self.spool.wait_unchanged()
        self.spooled_before = count(self.server.counts(), "events_total.spooled")

    def finish(self):
        super().finish()
        if self.spool:
            before, now = self.files_before, self.spool.files()
            self.changed_files = sorted(n for n in {*before, *now} if before.get(n) != now.get(n))

    def problems(self):
        name = f"healthy, spool {TITLES[self.name]}"
        if self.errors:
            yield f"{name}: {self.errors:,} errors"
        if self.changed_files:
            yield f"{name}: the spool's files changed: {', '.join(self.changed_files)}"
        if spooled := self.count("events_total.spooled") - self.spooled_before:
            yield f"{name}: {spooled:,} events were spooled, so the disk was measured"
        yield from balance_problems(name, self.server, self.counts)
        if extra := extra_records(self.server, self.counts):
            yield f"{name}: {extra:,} records more than published"


def measure_healthy(options, bench, spool):
    with contextlib.ExitStack() as stack:
        slices = []
        for name, one in [("off", None), ("on", spool)]:
            config = one.config() if one else ""
            server = stack.enter_context(bench.bridge(f"spool-{name}", config=config))
            slices.append(SpoolSlices(bench, name, server, options, one))
        results = harness.measure_slices(options, slices, TITLES, "healthy")
    return results, slices


def healthy_ratio(results, figure, goal=None):
    return harness.ratio_of_rounds(results, "on", "off", figure, "with ÷ without a spool", goal)


def healthy_table(options, results, slices):
    lines = [
        f"Kafka healthy, {options.connections} connections, {options.rounds} rounds of {options.seconds} s: "
        f"medians.{harness.disturbance(results)}",
        "",
        "| spool | events/s | p50 ms | p99 ms | CPU µs per event | peak MiB | spool's files | published = stored |",
        "|---|---:|---:|---:|---:|---:|---|---:|",
    ]
    for one in slices:
        rounds = [result for result in results if result["program"] == one.name]
        figures = [
            format_number(median(rounds, figure)) for figure in ["events_per_s", "p50_ms", "p99_ms", "cpu_us"]
        ]
        files = "untouched"
        if one.changed_files is None:
            files = "–"
        elif one.changed_files:
            files = "**changed**"
        lines.append(
            f"| {TITLES[one.name]} | {' | '.join(figures)} | {format_number(one.peak_bytes / 2**20)} | "
            f"{files} | {one.server.stored:,} |"
        )
    rate = healthy_ratio(results, HEALTHY_GOAL.figure, HEALTHY_GOAL)
    cpu = healthy_ratio(results, "cpu_us")
    lines += [
        "",
        f"| with ÷ without: median of the rounds (quartiles) | events/s, goal {HEALTHY_GOAL} | CPU per event |",
        "|---|---|---|",
        f"| `spool.dir` set | {rate.cell()} | {cpu.cell()} |",
    ]
    return lines


# -------------------------------------------------------------------------------------- outages


class Outages:
    """One bridge with a spool, whose broker is paused again and again."""

    def __init__(self, options, bench, spool):
        self.options, self.bench, self.spool = options, bench, spool
        self.server = self.counts = self.peak_bytes = None
        self.name = "outages"
        self.problems = []

    def run(self):
        rounds = []
        with self.bench.bridge("spool-outage", config=self.spool.config()) as self.server:
            log(f"outages: warming up for {self.options.warm_up} s …")
            self.wrk(64, self.options.warm_up, 1, "warming up")
            wait_drained(self.server)
            for number in range(self.options.outages):
                self.name = f"outage {number + 1}/{self.options.outages}"
                rounds.append({"round": number, **self.measure()})
            self.counts = self.server.counts()
            self.peak_bytes = self.server.process.peak_bytes()
        self.problems += balance_problems("outages", self.server, self.counts)
        return rounds

    def measure(self):
        direct = {batch: self.measure_direct(batch) for batch in [1, BATCH]}
        empty_bytes = self.bytes_at_rest()
        with self.bench.broker.paused():
            # These events wait for kafka.confirm_within. From then on the bridge knows that Kafka is
            # away.
            beginning = self.wrk(64, 2, 1, "the first 2 s")
            spooled = {connections: self.measure_spooling(connections) for connections in CONNECTIONS}
            before = self.server.counts()
        sample = (time.monotonic(), delivered(before), count(before, "spool_events"))
        drain = self.measure_drain(sample)
        after_bytes = self.bytes_at_rest()
        alone = self.measure_live_events(lambda: time.sleep(self.options.live_seconds))
        with self.bench.broker.paused():
            entries = self.fill_spool(drain["entries_per_s"] * self.options.live_seconds)
        draining = self.measure_live_events_during_drain()
        return {
            "direct": direct, "beginning_max_ms": beginning["max_ms"], "spooled": spooled, "drain": drain,
            "empty_bytes": empty_bytes, "after_bytes": [after_bytes, self.bytes_at_rest()],
            "live_alone": alone, "live_entries": entries, "live_draining": draining,
        }

    def log(self, text):
        log(f"{self.name}  {text}")

    def wrk(self, connections, seconds, batch, load_name):
        figures = self.bench.run_wrk(self.server, connections, seconds, batch=batch)
        if figures["events"] == 0:
            self.server.process.fail(
                f"{load_name}: not one event was answered; /status: {self.server.admin('status')}"
            )
        if figures["errors"]:
            self.problems.append(f"{load_name}: {figures['errors']:,} errors {figures['error_kinds']}")
        return figures

    def bytes_at_rest(self):
        self.spool.wait_unchanged()
        return self.spool.bytes()

    def measure_direct(self, batch):
        """Publishing with Kafka healthy."""
        os.sync()
        self.bench.run_wrk(self.server, 64, 1, batch=batch)
        before = self.server.counts()
        figures = self.bench.measure(
            self.server,
            lambda: self.wrk(64, self.options.spooled_seconds, batch, f"{self.name}, direct"),
        )
        # Events under way at the end are published, too.
        self.server.wait_idle()
        spooled = growth(before, self.server.counts(), "events_total.spooled")
        if spooled:
            # The broker took longer than kafka.confirm_within: allowed, but the figure suffers.
            self.log(f"{spooled:,.0f} events were spooled although Kafka ran")
            wait_drained(self.server)
        title = "one by one" if batch == 1 else f"arrays of {batch}"
        self.log(f"direct, {title}  {harness.summary(figures)}")
        return {**figures, "spooled": spooled}

    def measure_spooling(self, connections):
        """Load with Kafka away; every event must be answered 202."""
        os.sync()
        name = f"{self.name}, Kafka paused, {connections} connections"
        before, bytes_before = self.server.counts(), self.spool.bytes()
        figures = self.bench.measure(
            self.server, lambda: self.wrk(connections, self.options.spooled_seconds, 1, name),
        )
        time.sleep(0.5)
        after, bytes_after = self.server.counts(), self.spool.bytes()
        entries = growth(before, after, "events_total.spooled")
        published = growth(before, after, "events_total.published")
        commits = growth(before, after, "spool_commit_duration_seconds_count")
        if entries < figures["events"] or published or not commits:
            self.problems.append(
                f"{name}: {figures['events']:,} answers, but {entries:,.0f} events spooled in {commits:,.0f} "
                f"commits, {published:,.0f} published"
            )
        commit_seconds = growth(before, after, "spool_commit_duration_seconds_sum")
        figures |= {
            "commits_per_s": commits / figures["seconds"],
            "events_per_commit": entries / max(1, commits),
            "commit_ms": commit_seconds / max(1, commits) * 1e3,
            "bytes_per_event": (bytes_after - bytes_before) / max(1, entries),
        }
        self.log(f"paused, {connections:>3} connections  {harness.summary(figures)}  "
                 f"{figures['commits_per_s']:,.0f} commits/s  {figures['bytes_per_event']:,.0f} bytes an event")
        return figures

    def measure_drain(self, paused_sample):
        """The drain without any load, from the moment at which Kafka is back."""
        process, others = self.server.process, self.bench.other_programs()
        cpu = process.cpu_seconds()
        samples = [paused_sample, *wait_drained(self.server)]
        cpu = process.cpu_seconds() - cpu
        entries, seconds, until_first = drain_pace(samples)
        self.log(f"drained {entries:,} entries in {seconds:.1f} s: {entries / seconds:,.0f}/s, the first "
                 f"after {until_first:.2f} s")
        return {
            "entries": entries, "seconds": seconds, "until_first_s": until_first,
            "entries_per_s": entries / seconds, "cpu_us": cpu / entries * 1e6,
            "others": others and others.share(),
        }

    def fill_spool(self, entries):
        """Spools at least so many entries as fast as possible, for at most a minute."""
        start, batch = time.monotonic(), 1
        while True:
            found = count(self.server.counts(), "spool_events")
            if found >= entries or time.monotonic() - start > 60:
                self.log(f"{found:,} entries spooled")
                return found
            # Events of the first load wait for Kafka, so they come one by one.
            self.bench.run_wrk(self.server, 64, 2, batch=batch)
            batch = BATCH

    def measure_live_events(self, action):
        """Latency of a few live events on another topic, during the action."""
        ledger = self.bench.programs.work / "spool-live.json"
        command = harness.simulate_command(
            self.bench.programs, self.server.port, ledger, "--plain", "--types", LIVE_TYPE,
            "--rate", LIVE_RATE, "--duration", "30m",
        )
        ledger.unlink(missing_ok=True)
        before = self.server.counts()
        with ChildProcess(command, self.bench.log_file("spool-live")) as client:
            client.wait_until(lambda: growth(before, self.server.counts(), "received_total") > 0, "sending")
            action()
            client.terminate()
        contents = json.loads(ledger.read_text())
        figures = harness.simulated_figures(contents)
        if figures["errors"]:
            self.problems.append(f"{self.name}, live events: {figures['error_kinds']}")
        self.log(f"{figures['events']:,} live events  p50 {figures['p50_ms']:.2f} ms  "
                 f"p99 {figures['p99_ms']:.2f} ms  max {figures['max_ms']:.1f} ms")
        return {**figures, "spooled": contents["words"].get("spooled", 0)}

    def measure_live_events_during_drain(self):
        """Begins with the first entry drained, ends with the last."""
        before = delivered(self.server.counts())
        self.server.process.wait_until(
            lambda: delivered(self.server.counts()) > before, "draining", STALL_SECONDS,
        )
        samples = []
        figures = self.measure_live_events(lambda: samples.extend(wait_drained(self.server)))
        # Entries drained before the first live event do not count.
        entries, seconds = samples[-1][1] - samples[0][1], samples[-1][0] - samples[0][0]
        if seconds < 2:
            self.problems.append(f"{self.name}: drained in {seconds:.1f} s, too fast to measure live events")
        return {**figures, "entries_per_s": entries / max(seconds, 0.05), "drain_seconds": seconds}


def median_at(rounds, *path):
    def value(one):
        for key in path:
            one = one[key]
        return one
    return statistics.median(map(value, rounds))


def drain_ratio(rounds, batch, title):
    values = [one["drain"]["entries_per_s"] / one["direct"][batch]["events_per_s"] for one in rounds]
    return Ratio(f"drained ÷ published {title}", values, DRAIN_GOAL)


DIRECT_TITLES = {1: "directly, 64 connections", BATCH: f"directly, 64 connections, arrays of {BATCH}"}


def outage_table(options, rounds, outages, disk):
    cells = [
        cell for one in rounds
        for cell in [*one["spooled"].values(), *one["direct"].values(), one["drain"]]
    ]
    times = "once" if options.outages == 1 else f"{options.outages} times"
    lines = [
        "",
        f"Kafka paused, {times}, {options.spooled_seconds} s a cell: medians; peak memory of the bridge "
        f"{format_number(outages.peak_bytes / 2**20)} MiB. An fsync of 4 KiB takes "
        f"{format_number(disk['fsync_ms'])} ms here ({disk['filesystem']}).{harness.disturbance(cells)}",
        "",
        "| connections | events/s answered 202 | p50 ms | p99 ms | longest ms | commits/s | events a commit "
        "| ms a commit | bytes on disk an event | CPU µs per event |",
        "|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    figures = [
        "events_per_s", "p50_ms", "p99_ms", "max_ms", "commits_per_s", "events_per_commit", "commit_ms",
        "bytes_per_event", "cpu_us",
    ]
    for connections in CONNECTIONS:
        values = {figure: median_at(rounds, "spooled", connections, figure) for figure in figures}
        values["max_ms"] = max(one["spooled"][connections]["max_ms"] for one in rounds)
        lines.append(f"| {connections} | {' | '.join(map(format_number, values.values()))} |")
    longest = max(one["beginning_max_ms"] for one in rounds)
    lines += [
        "",
        f"In the first two seconds, at 64 connections, the longest answer took {format_number(longest)} ms.",
        "",
        f"| into Kafka | per s | drain ÷ it: median of the outages (quartiles), goal {DRAIN_GOAL} |",
        "|---|---:|---|",
    ]
    for batch, title in DIRECT_TITLES.items():
        rate = format_number(median_at(rounds, "direct", batch, "events_per_s"))
        lines.append(f"| {title} | {rate} | {drain_ratio(rounds, batch, title).cell()} |")
    drained = format_number(median_at(rounds, "drain", "entries_per_s"))
    drained_live = format_number(median_at(rounds, "live_draining", "entries_per_s"))
    lines += [
        f"| drained, no load | {drained} | – |",
        f"| drained, {LIVE_RATE} live events/s on another topic | {drained_live} | – |",
        "",
        f"| {LIVE_RATE} events/s on another topic | events | p50 ms | p99 ms | longest ms | answered 202 |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for key, title in [("live_alone", "without other load"), ("live_draining", "while the spool drains")]:
        events, spooled = (sum(one[key][figure] for one in rounds) for figure in ["events", "spooled"])
        latencies = [median_at(rounds, key, "p50_ms"), median_at(rounds, key, "p99_ms")]
        latencies.append(max(one[key]["max_ms"] for one in rounds))
        lines.append(f"| {title} | {events:,} | {' | '.join(map(format_number, latencies))} | {spooled:,} |")
    spooled = sum(one["direct"][batch]["spooled"] for one in rounds for batch in DIRECT_TITLES)
    if spooled:
        lines += ["", f"{spooled:,.0f} events were spooled during direct publishing: Kafka took more than a second."]
    entries, first, cpu = (median_at(rounds, "drain", key) for key in ["entries", "until_first_s", "cpu_us"])
    largest = max(size for one in rounds for size in one["after_bytes"])
    lines += [
        "",
        f"After an outage of {format_number(entries)} entries the first was in Kafka within {format_number(first)} s; "
        f"the drain took {format_number(cpu)} µs of CPU per entry. Empty again, the folder had at most "
        f"{format_number(largest / 2**20)} MiB. All {count(outages.counts, 'spool_spooled_total'):,} entries are in "
        f"Kafka, {extra_records(outages.server, outages.counts):,} records twice.",
    ]
    return lines


def outage_problems(rounds):
    for one in rounds:
        largest = max(one["after_bytes"])
        if largest > EMPTY_SPOOL_BYTES:
            yield f"outage {one['round'] + 1}: the empty spool still has {largest:,} bytes on disk"


# ---------------------------------------------------------------------------------- ten minutes


class CountSampler(threading.Thread):
    """Samples the bridge's counts twice a second in the background."""

    def __init__(self, server, spool):
        super().__init__(daemon=True)
        self.server, self.spool = server, spool
        self.samples, self.problem, self.stop = [], None, threading.Event()

    def run(self):
        while not self.stop.wait(0.5):
            try:
                counts = self.server.counts()
                self.samples.append({
                    "at": time.monotonic(), "received": count(counts, "received_total"),
                    "entries": count(counts, "spool_events"), "delivered": delivered(counts),
                    "disk": self.spool.bytes(), "peak": self.server.process.peak_bytes(),
                })
            except (BenchError, OSError) as problem:
                self.problem = self.problem or problem

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        self.join(30)


def longest_answer_s(server):
    """Upper bound of the histogram bucket that has the bridge's slowest answer."""
    pattern = r'^butlr_bridge_request_duration_seconds_bucket\{[^}]*le="([^"]+)"[^}]*\} (\d+)$'
    by_bound = {}
    for bound, answers in re.findall(pattern, server.admin("metrics") or "", re.M):
        bound = float(bound.replace("+Inf", "inf"))
        by_bound[bound] = by_bound.get(bound, 0) + int(answers)
    total = by_bound.get(float("inf"), 0)
    return min((bound for bound, answers in by_bound.items() if answers == total), default=float("nan"))


class TenMinutes:
    """A steady load with a long outage in it; the simulator proves that nothing was lost."""

    def __init__(self, options, bench, spool, journal):
        self.options, self.bench, self.spool, self.journal = options, bench, spool, journal
        self.problems = []

    def run(self):
        """Returns the figures."""
        options, bench, spool, broker = self.options, self.bench, self.spool, self.bench.broker
        scale = options.scale
        name = "spool-ten-minutes"
        ledger, log_file = bench.programs.work / f"{name}.json", bench.log_file(f"{name}-load")
        ledger.unlink(missing_ok=True)
        with bench.bridge(name, config=spool.config()) as server:
            command = harness.simulate_command(
                bench.programs, server.port, ledger, "--connections", SIMULATED_CONNECTIONS,
                "--rate", RATE, "--duration", f"{DURATION * scale:.0f}s", "--duplicates", "expected",
                "--verify", broker.address, "--topics", f"{bench.run_name}-{name}.{{type}}.v1",
                "--journal", self.journal,
            )
            with CountSampler(server, spool) as sampler, ChildProcess(command, log_file) as client:
                client.wait_until(lambda: count(server.counts(), "received_total") > 0, "sending")
                start = time.monotonic()

                def seconds():
                    return time.monotonic() - start

                def wait(until):
                    while seconds() < until:
                        client.check_running()
                        server.process.check_running()
                        time.sleep(0.2)

                log(f"{DURATION * scale:.0f} s at {RATE:,} events/s; Kafka stops after {STOP_AT * scale:.0f} s …")
                wait(STOP_AT * scale)
                peak_before = server.process.peak_bytes()
                stopping = seconds()
                broker.stop()
                stopped = seconds()
                log(f"Kafka is away; back after {START_AT * scale:.0f} s …")
                wait(START_AT * scale)
                log(f"{count(server.counts(), 'spool_events'):,} entries; starting Kafka …")
                broker.start()
                started = seconds()
                # Not to the last moment: the client's clock began a little earlier.
                wait(DURATION * scale - 1)
                log("the load is over; waiting for its proof …")
                # The simulator waits up to five minutes for the drain and reads all records.
                try:
                    output, _ = client.process.communicate(timeout=600 + DURATION * scale)
                except subprocess.TimeoutExpired:
                    client.fail(f"did not end; /status of the bridge: {server.admin('status')}")
                print(output.decode())
                wait_drained(server)
                server.wait_idle()
                spool.wait_unchanged()
                counts, longest = server.counts(), longest_answer_s(server)
                peak, size = server.process.peak_bytes(), spool.bytes()
        status = client.process.returncode
        if not ledger.exists():
            raise BenchError(f"simulate ended with status {status} and wrote no ledger; its log is {log_file}")
        contents = json.loads(ledger.read_text())
        proof = contents.get("proof") or {}
        samples = [{**one, "at": one["at"] - start} for one in sampler.samples]
        empty = next((one["at"] for one in samples if one["at"] > started and one["entries"] == 0), None)
        figures = {
            "events": contents["events"], "accepted": contents["ends"]["accepted"],
            "answers": contents["answers"], "words": contents["words"], "tries": contents["tries"],
            "latency_ms": contents["latency_ms"], "longest_answer_s": longest,
            "stopping_s": stopping, "stopped_s": stopped, "started_s": started, "empty_s": empty,
            "most_entries": max(one["entries"] for one in samples),
            "most_disk": max(one["disk"] for one in samples), "disk_at_end": size,
            "peak_bytes": peak, "peak_before_bytes": peak_before, "holds": proof.get("holds"),
            "records": proof.get("records"), "copies": proof.get("copies"), "counts": counts,
            "samples": samples,
        }
        self.problems += balance_problems("ten minutes", server, counts)
        self.problems += self.find_problems(figures, contents, status)
        if sampler.problem:
            self.problems.append(f"sampling failed: {sampler.problem}")
        return figures

    def find_problems(self, figures, contents, status):
        events, answers, tries = figures["events"], figures["answers"], figures["tries"]
        others = unexpected_answers(answers)
        if figures["accepted"] != events or others or len(tries) > 1:
            yield f"{events:,} events, {figures['accepted']:,} accepted; answers {answers}, tries {tries}"
        for key in ["connections_failed", "connections_broken", "timed_out"]:
            if contents[key]:
                yield f"{key}: {contents[key]}"
        if status or not figures["holds"]:
            proof = json.dumps(contents.get("proof"))[:4000]
            yield f"the proof does not hold (simulate ended with status {status}): {proof}"
        behind, caught_up = contents["behind_s"], contents["caught_up"]
        if caught_up or behind > 1 or events < 0.98 * RATE * DURATION * self.options.scale:
            yield f"the rate was not kept: {events:,} events, {behind} s behind, caught up: {caught_up}"
        if figures["disk_at_end"] > EMPTY_SPOOL_BYTES:
            yield f"the empty spool still has {figures['disk_at_end']:,} bytes on disk"
        if figures["empty_s"] is None:
            yield "the spool was not seen empty after Kafka's return"


def unexpected_answers(answers):
    return sum(n for code, n in answers.items() if code not in ["200", "202"])


def ten_minutes_table(options, figures):
    def seconds(value):
        return f"{format_number(value)} s"

    def mib(value):
        return f"{format_number(value / 2**20)} MiB"

    answers, copies = figures["answers"], figures["copies"] or {}
    drained = "–" if figures["empty_s"] is None else seconds(figures["empty_s"] - figures["started_s"])
    holds = "holds" if figures["holds"] else "**does not hold**"
    latencies = [f"{format_number(figures['latency_ms'][name])} ms" for name in ["p50", "p99", "max"]]
    rows = [
        ("events, accepted", f"{figures['events']:,}, {figures['accepted']:,}"),
        ("answers 200, 202, others",
         f"{answers.get('200', 0):,}, {answers.get('202', 0):,}, {unexpected_answers(answers):,}"),
        ("tries", "one for each event" if len(figures["tries"]) == 1 else f"**{figures['tries']}**"),
        ("proof by `simulate --verify`",
         f"{holds}, {figures['records'] or 0:,} records, {copies.get('all', 0):,} of them copies"),
        ("most entries waiting", f"{figures['most_entries']:,}"),
        ("most bytes on disk", mib(figures["most_disk"])),
        ("spool empty after Kafka's return", drained),
        ("the empty spool on disk", mib(figures["disk_at_end"])),
        ("peak memory of the bridge before the outage, overall",
         f"{mib(figures['peak_before_bytes'])}, {mib(figures['peak_bytes'])}"),
        ("from due to accepted: p50, p99, longest", ", ".join(latencies)),
        ("the bridge's longest answer, at most", seconds(figures["longest_answer_s"])),
    ]
    return [
        f"{RATE:,} events/s of all types for {DURATION * options.scale:.0f} s over up to "
        f"{SIMULATED_CONNECTIONS:,} connections; Kafka told to stop after {figures['stopping_s']:.0f} s, gone at "
        f"{figures['stopped_s']:.0f} s, back at {figures['started_s']:.0f} s.",
        "",
        "| | |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in rows),
    ]


# --------------------------------------------------------------------------------- command line


def parse(arguments):
    parser = harness.argument_parser(__doc__)
    parser.add_argument("--only", choices=["healthy", "outages"], help="leave the other part out")
    parser.add_argument("--ten-minutes", action="store_true", help="measure a long outage instead")
    parser.add_argument("--scale", type=float, default=1.0, help="of the ten minutes, 0.05 to 1 (default: 1)")
    parser.add_argument("--connections", type=int, default=64, help="with Kafka healthy (default: 64)")
    parser.add_argument("--rounds", type=int, help="with Kafka healthy (default: 16, quick: 2)")
    parser.add_argument("--seconds", type=int, help="of each load, Kafka healthy (default: 3, quick: 1)")
    parser.add_argument("--outages", type=int, help="(default: 3, quick: 1)")
    options = harness.parse_options(parser, arguments, {
        "rounds": (16, 2), "seconds": (3, 1), "outages": (3, 1), "warm_up": (20, 2),
        # Of each load while Kafka is paused, and about that of the live events.
        "spooled_seconds": (8, 2), "live_seconds": (20, 3),
    })
    if not 1 <= options.connections <= 1000 or not 0.05 <= options.scale <= 1:
        parser.error("--connections 1 to 1,000, --scale 0.05 to 1")
    if options.write and (options.only or options.scale != 1):
        parser.error("--write is for a whole run, without --only or --scale")
    return options


def run_ten_minutes(options, bench, folder, report):
    test = TenMinutes(options, bench, SpoolFolder(folder / "spool"), folder / "journal")
    figures = test.run()
    report.add_section(TEN_MINUTES_MARKS, ten_minutes_table(options, figures))
    report.figures["ten_minutes"] = figures
    report.problems += test.problems


def run_healthy(options, bench, folder, report):
    """Returns the lines of its table."""
    results, slices = measure_healthy(options, bench, SpoolFolder(folder / "healthy"))
    for one in slices:
        report.problems += one.problems()
    report.goals.append(healthy_ratio(results, HEALTHY_GOAL.figure, HEALTHY_GOAL))
    report.figures["healthy"] = {"results": results, "counts": {one.name: one.counts for one in slices}}
    return healthy_table(options, results, slices)


def run_outages(options, bench, folder, disk, report):
    """Returns the lines of its table."""
    outages = Outages(options, bench, SpoolFolder(folder / "outages"))
    rounds = outages.run()
    report.problems += [*outages.problems, *outage_problems(rounds)]
    report.goals += [drain_ratio(rounds, batch, title) for batch, title in DIRECT_TITLES.items()]
    report.figures["outages"] = {
        "rounds": rounds, "counts": outages.counts, "peak_bytes": outages.peak_bytes, "disk": disk,
    }
    return outage_table(options, rounds, outages, disk)


def main(arguments):
    options = parse(arguments)
    # The simulator keeps connections open to receive late answers, too.
    connections = 3 * SIMULATED_CONNECTIONS if options.ten_minutes else max(options.connections, *CONNECTIONS)
    marks = TEN_MINUTES_MARKS if options.ten_minutes else MARKS
    programs = harness.prepare(options, connections, [marks])
    report = Report("ten-minutes" if options.ten_minutes else "spool", options, programs)
    events_file = harness.write_simulated_events(programs)
    with tempfile.TemporaryDirectory(prefix="spool-", dir=programs.work) as name:
        folder = Path(name)
        filesystem = harness.run_command(["stat", "-f", "-c", "%T", folder]).strip()
        if filesystem in ["tmpfs", "ramfs"]:
            raise BenchError(f"{folder} is in memory, not on a disk; set CARGO_TARGET_DIR")
        disk = {"fsync_ms": fsync_ms(folder), "filesystem": filesystem}
        with harness.LocalBroker(programs.work / "kafka") as broker:
            bench = Harness(programs, broker, events_file)
            if options.ten_minutes:
                run_ten_minutes(options, bench, folder, report)
            else:
                lines = []
                if options.only != "outages":
                    lines += run_healthy(options, bench, folder, report)
                if options.only != "healthy":
                    lines += run_outages(options, bench, folder, disk, report)
                report.add_section(MARKS, lines)
    return report.finish()


if __name__ == "__main__":
    harness.run_main("spool", main)
