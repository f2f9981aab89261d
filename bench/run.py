#!/usr/bin/env python3
"""Measures the bridge against the smallest programs that do parts of its work, on one broker.

    bench/run.py                 closed loop and open loop, about 20 minutes
    bench/run.py --quick         a short run, to see that everything works; no figures to quote
    bench/run.py --write         also puts the tables into bench/README.md
    bench/run.py --only open     one of the two parts
    bench/run.py --check-goals   exits with 1 if a goal is missed
    bench/run.py --bridge NEW --against OLD --programs c,d
                                 compares two builds of the bridge, in turns; builds nothing

Closed loop: wrk sends as fast as answers come. Open loop: `butlr-bridge simulate` sends at a given
rate; CPU per event is what counts.

Exit status: 0 done; 1 a count did not add up, an answer was not a 2xx, a program failed, or (with
--check-goals) a goal was missed; 2 bad usage. bench/README.md explains method and figures.
"""

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

sys.dont_write_bytecode = True

import harness
from harness import BenchError, Goal, Harness, Report, format_number, log, median

BATCH = 50
AGAINST = "d'"
TITLES = {
    "a": "bare actix-web, body read",
    "b": "bare librdkafka loop",
    "c": "smallest actix-web + rdkafka",
    "d": "bridge",
    AGAINST: "the other build of the bridge",
    "e": f"bridge, arrays of {BATCH}",
    "s": "the simulator's client on (a), a core each",
}
# The bridge's default linger, so that both programs make the same trade of CPU against latency.
SMALLEST_PROPERTIES = ["linger.ms=2"]
CLOSED_LOOP_GOALS = [
    Goal("events/s", "events_per_s", 0.8, at_least=True),
    Goal("CPU per event", "cpu_us", 1.25),
    Goal("p99", "p99_ms", 2),
]
OPEN_LOOP_GOALS = [Goal("CPU per event", "cpu_us", 1.2)]
OPEN_LOOP_CONNECTIONS = 64
OPEN_LOOP_FIGURES = [("p50", "p50_ms"), ("p99", "p99_ms")]
# Divided by each other, in the tables' order. Goals hold for (d) ÷ (c) only.
PAIRS = [("d", "c"), (AGAINST, "c"), ("d", AGAINST)]


def file_name(program):
    return "against" if program == AGAINST else program


def warm_up_broker(options, bench):
    """A Java broker that has just started is several times slower than a warm one."""
    log(f"warming up the broker for {options.warm_up_broker} s …")
    with bench.smallest("c", options.smallest_properties, "warm-up") as server:
        bench.run_wrk(server, options.connections[0], options.warm_up_broker)


# ---------------------------------------------------------------------------------- closed loop


class ClosedLoop:
    """Measures each program at each number of connections, in a new process with new topics."""

    def __init__(self, options, bench):
        self.options, self.bench = options, bench
        self.cells = 0

    def run(self):
        results = []
        for round_number in range(self.options.closed_rounds):
            for program, connections in self.order(round_number):
                os.sync()
                figures = self.measure(program, connections)
                results.append({
                    "round": round_number, "program": program, "connections": connections, **figures,
                })
                counts = ""
                if "accepted" in figures:
                    counts = f"  {figures['accepted']:,} accepted, {figures['stored']:,} stored"
                log(f"closed loop, round {round_number + 1}/{self.options.closed_rounds}  "
                    f"({program:<2})  {connections or '–':>5} connections  {harness.summary(figures)}{counts}")
                # The broker finishes its own work.
                time.sleep(1)
        return results

    def order(self, round_number):
        """All cells of a round.

        The programs that are compared follow each other directly, behind (a), which writes nothing:
        (b) and (e) leave hundreds of MB for the broker to write to disk.
        """
        compared = ["c", "d", AGAINST] if round_number % 2 == 0 else [AGAINST, "d", "c"]
        programs = self.options.programs
        cells = [("b", None)] if "b" in programs else []
        for connections in self.options.connections:
            order = ["a", "s", *compared, "e"]
            cells += [(program, connections) for program in order if program in programs]
        return cells

    def measure(self, program, connections):
        self.cells += 1
        topic_name = f"closed-{self.cells}"
        if program == "b":
            return self.measure_rdkafka(topic_name)
        if program == "s":
            return self.measure_simulator(connections)
        batch = BATCH if program == "e" else 1
        with self.serve(program, topic_name, connections * batch) as server:
            figures = self.measure_server(server, connections, batch)
        if server.stored is not None:
            figures |= {"accepted": server.accepted, "stored": server.stored}
        return figures

    def serve(self, program, topic_name, in_flight):
        name = file_name(program)
        if program == "a":
            return self.bench.bare_actix(name)
        if program == "c":
            return self.bench.smallest(name, self.options.smallest_properties, topic_name)
        binary = self.options.against if program == AGAINST else None
        return self.bench.bridge(name, topic_name, binary, in_flight)

    def measure_server(self, server, connections, batch):
        options, bench = self.options, self.bench
        warm_up = bench.run_wrk(server, connections, options.closed_warm_up, batch=batch)
        figures = bench.measure(
            server, lambda: bench.run_wrk(server, connections, options.closed_seconds, batch=batch),
        )
        figures["errors"] += warm_up["errors"]
        figures["answered"] = figures["events"] + warm_up["events"]
        figures["peak_bytes"] = server.process.peak_bytes()
        return figures

    def measure_rdkafka(self, topic_name):
        topic = f"{self.bench.run_name}-{topic_name}.detections.v1"
        with self.bench.topics([topic], lambda: self.bench.create_topics([topic])):
            others = self.bench.other_programs()
            text = self.bench.kafka_tool(
                "produce", "--events", self.bench.events_file, "--topic", topic,
                "--seconds", self.options.closed_seconds,
            )
            share = others and others.share()
            stored = self.bench.count_records([topic])
        figures = json.loads(text)
        return {
            "events_per_s": figures["events_per_s"],
            "cpu_us": figures["cpu_s"] / figures["accepted"] * 1e6,
            "others": share,
            "errors": figures["failed"],
            "peak_bytes": figures["peak_bytes"],
            "accepted": figures["accepted"],
            "stored": stored,
        }

    def measure_simulator(self, connections):
        """Measures the client: its events/s, CPU and memory."""
        bench, ledger = self.bench, self.bench.programs.work / "ledger.json"
        with bench.bare_actix("a", ["taskset", "-c", "0"]) as server:
            command = ["taskset", "-c", "1", *harness.simulate_command(
                bench.programs, server.port, ledger, "--max", "--seed", 1,
                "--connections", connections, "--duration", f"{self.options.closed_seconds}s",
            )]
            others = bench.other_programs()
            client = subprocess.Popen(
                list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )
            _, status, usage = os.wait4(client.pid, 0)
            client.returncode = os.waitstatus_to_exitcode(status)
            share = others and others.share()
        if client.returncode:
            raise BenchError(f"simulate ended with status {client.returncode}")
        figures = harness.simulated_figures(json.loads(ledger.read_text()))
        return {
            **figures,
            "events_per_s": figures["events"] / figures["seconds"],
            "cpu_us": (usage.ru_utime + usage.ru_stime) / figures["events"] * 1e6,
            "others": share,
            "peak_bytes": usage.ru_maxrss * 1024,
        }


def closed_loop_table(options, results):
    lines = [
        f"Closed loop, {options.closed_rounds} × {options.closed_seconds} s for each line: medians; the "
        f"peak memory is the highest.{harness.disturbance(results)}",
        "",
        "| program | connections | events/s | p50 ms | p99 ms | CPU µs per event | peak MiB | accepted = stored |",
        "|---|---:|---:|---:|---:|---:|---:|---|",
    ]
    cells = {}
    for one in results:
        cells.setdefault((one["connections"] or 0, one["program"]), []).append(one)
    for (connections, program), rounds in sorted(cells.items()):
        latencies = [
            format_number(median(rounds, figure)) if figure in rounds[0] else "–"
            for figure in ["p50_ms", "p99_ms"]
        ]
        lines.append(" ".join([
            f"| ({program}) {TITLES[program]} | {f'{connections:,}' if connections else '–'}",
            f"| {format_number(median(rounds, 'events_per_s'))} | {' | '.join(latencies)}",
            f"| {format_number(median(rounds, 'cpu_us'))}",
            f"| {format_number(max(one['peak_bytes'] for one in rounds) / 2**20)}",
            f"| {stored_cell(rounds)} |",
        ]))
    return lines


def stored_cell(rounds):
    cell = "–"
    if "accepted" in rounds[0]:
        accepted, stored = (sum(one[key] for one in rounds) for key in ["accepted", "stored"])
        equal = all(one["accepted"] == one["stored"] for one in rounds)
        cell = f"{accepted:,}" if equal else f"**no: {accepted:,} ≠ {stored:,}**"
    errors = sum(one["errors"] for one in rounds)
    return f"{cell}, **{errors:,} errors**" if errors else cell


def closed_loop_problems(results):
    for one in results:
        cell = f"round {one['round'] + 1}, ({one['program']}), {one['connections'] or 'no'} connections"
        if one["errors"]:
            yield f"{cell}: {one['errors']:,} errors {one.get('error_kinds', '')}"
        if "accepted" not in one:
            continue
        if one["accepted"] != one["stored"]:
            yield f"{cell}: {one['accepted']:,} accepted, but {one['stored']:,} stored"
        # Fewer answers are normal: wrk does not count requests that are under way when it ends.
        if one.get("answered", 0) - one["errors"] > one["accepted"]:
            yield f"{cell}: {one['answered']:,} answers to wrk, but only {one['accepted']:,} accepted"


# ------------------------------------------------------------------------------------ open loop


class OpenLoop:
    """Measures CPU per event at given rates. The servers stay up and are loaded in turns."""

    def __init__(self, options, bench):
        self.options, self.bench = options, bench
        self.servers = {}
        self.accepted = {}

    def run(self):
        programs = [one for one in ["c", "d", AGAINST] if one in self.options.programs]
        results = []
        with contextlib.ExitStack() as stack:
            for program in programs:
                self.servers[program] = stack.enter_context(self.serve(program))
                self.accepted[program] = 0
            warm_up = self.options.open_warm_up
            log(f"open loop: warming up for {warm_up * len(programs)} s …")
            for program in programs:
                self.load(program, max(self.options.rates), warm_up, 0)
            seed = 0
            for rate in self.options.rates:
                for round_number, program in harness.in_turns(programs, self.options.open_rounds):
                    # The same events for all programs of a round, other ones in each round.
                    seed += program == programs[0 if round_number % 2 == 0 else -1]
                    figures = self.measure(program, rate, seed)
                    results.append({
                        "round": round_number, "program": program, "rate": rate, **figures,
                    })
                    log(f"open loop, {rate:,}/s, round {round_number + 1}/{self.options.open_rounds}  "
                        f"({program:<2})  {harness.summary(figures)}")
        return results

    def serve(self, program):
        name = f"{file_name(program)}-open"
        if program == "c":
            return self.bench.smallest(name, self.options.smallest_properties)
        return self.bench.bridge(name, binary=self.options.against if program == AGAINST else None)

    def load(self, program, rate, seconds, seed):
        ledger = self.bench.run_simulate(
            self.servers[program], "--types", "DETECTIONS", "--plain", "--seed", seed, "--rate", rate,
            "--duration", f"{seconds}s", "--connections", OPEN_LOOP_CONNECTIONS,
        )
        self.accepted[program] += ledger["ends"].get("accepted", 0)
        return {
            **harness.simulated_figures(ledger),
            "tries": ledger["tries"], "behind_s": ledger["behind_s"], "caught_up": ledger["caught_up"],
        }

    def measure(self, program, rate, seed):
        os.sync()
        return self.bench.measure(
            self.servers[program],
            lambda: self.load(program, rate, self.options.open_seconds, seed),
        )

    def problems(self, results):
        for one in results:
            cell = f"open loop, {one['rate']:,}/s, round {one['round'] + 1}, ({one['program']})"
            if one["errors"]:
                yield f"{cell}: {one['errors']:,} errors {one['error_kinds']}"
            if len(one["tries"]) > 1:
                yield f"{cell}: events needed further tries: {one['tries']}"
            due = one["rate"] * self.options.open_seconds
            if one["caught_up"] or one["behind_s"] > 1 or one["events"] < 0.98 * due:
                yield (f"{cell}: the rate was not kept: {one['events']:,} of {due:,} events, "
                       f"{one['behind_s']} s behind, caught up: {one['caught_up']}")
        for program, server in self.servers.items():
            if not self.accepted[program] == server.accepted == server.stored:
                yield (f"open loop, ({program}): {self.accepted[program]:,} answered 2xx, "
                       f"{server.accepted:,} accepted, {server.stored:,} stored")


def open_loop_table(options, results):
    lines = [
        f"Open loop, {OPEN_LOOP_CONNECTIONS} connections, DETECTIONS, {options.open_rounds} × "
        f"{options.open_seconds} s for each line: medians.{harness.disturbance(results)}",
        "",
        "| program | events/s | CPU µs per event | p50 ms | p99 ms |",
        "|---|---:|---:|---:|---:|",
    ]
    cells = {}
    for one in results:
        cells.setdefault((one["rate"], one["program"]), []).append(one)
    for (rate, program), rounds in sorted(cells.items()):
        figures = [format_number(median(rounds, key)) for key in ["cpu_us", "p50_ms", "p99_ms"]]
        lines.append(f"| ({program}) {TITLES[program]} | {rate:,} | {' | '.join(figures)} |")
    return lines


# --------------------------------------------------------------------------------------- ratios


def ratios(results, by, unit, goals, more=()):
    """(pair, value of `by`) -> one ratio for each goal, then for each further figure."""
    rows = {}
    measured = {one["program"] for one in results}
    for program, base in PAIRS:
        if not {program, base} <= measured:
            continue
        for value in dict.fromkeys(one[by] for one in results if one[by]):
            some = [one for one in results if one[by] == value]
            label = f"({program}) ÷ ({base}) at {value:,} {unit}"
            judged = (program, base) == ("d", "c")
            rows[f"({program}) ÷ ({base})", value] = [
                harness.ratio_of_rounds(some, program, base, goal.figure, label, goal if judged else None)
                for goal in goals
            ] + [
                harness.ratio_of_rounds(some, program, base, figure, label) for _, figure in more
            ]
    return rows


def ratio_table(rows, unit, goals, more=()):
    if not rows:
        return []
    heads = [f"{goal.name}, goal {goal}" for goal in goals] + [name for name, _ in more]
    lines = [
        "",
        "Median of the rounds (quartiles). The goals hold for (d) ÷ (c).",
        "",
        f"| ratio | {unit} | {' | '.join(heads)} |",
        f"|---|---:|{'---|' * len(heads)}",
    ]
    for (pair, value), row in rows.items():
        lines.append(f"| {pair} | {value:,} | {' | '.join(one.cell() for one in row)} |")
    return lines


def goals_of(rows):
    return [one for row in rows.values() for one in row if one.goal]


# --------------------------------------------------------------------------------- command line


def parse(arguments):
    parser = harness.argument_parser(__doc__)
    parser.add_argument("--against", type=Path, metavar="FILE",
                        help="also measure this other build of the bridge, as (d')")
    parser.add_argument("--only", choices=["closed", "open"], help="leave the other part out")
    parser.add_argument("--programs", default="a,b,c,d,e,s", help="(default: a,b,c,d,e,s; open loop: c,d)")
    parser.add_argument("--connections", type=harness.numbers, default=[64, 256, 1024],
                        help="of the closed loop (default: 64,256,1024)")
    parser.add_argument("--rates", type=harness.numbers, default=[500, 2000, 5000],
                        help="events/s of the open loop (default: 500,2000,5000)")
    parser.add_argument("--rounds", type=int, help="(default: closed loop 3, open loop 6; quick: 1)")
    parser.add_argument("--seconds", type=int, help="of each load (default: 10, quick: 3)")
    parser.add_argument("--smallest-property", action="append", default=[], metavar="NAME=VALUE",
                        help="librdkafka property of (c), which has linger.ms=2; may be repeated")
    parser.add_argument("--kafka", metavar="HOST:PORT", help="use this broker instead of starting one")
    options = harness.parse_options(parser, arguments, {
        "warm_up_broker": (40, 5),
        "closed_warm_up": (2, 1), "closed_rounds": (3, 1), "closed_seconds": (10, 3),
        "open_warm_up": (5, 1), "open_rounds": (6, 1), "open_seconds": (10, 3),
    })
    for part in ["closed", "open"]:
        for name in ["rounds", "seconds"]:
            given = getattr(options, name)
            if given is not None:
                if given < 1:
                    parser.error(f"--{name} must be at least 1")
                setattr(options, f"{part}_{name}", given)
    partial = [name for name in ["programs", "kafka", "rounds", "seconds"]
               if getattr(options, name) != parser.get_default(name)]
    if options.write and partial:
        parser.error(f"--write needs complete tables: leave out --{' --'.join(partial)}")
    options.programs = options.programs.split(",")
    if set(options.programs) - set("abcdes"):
        parser.error("--programs takes some of a,b,c,d,e,s")
    if options.against:
        if not options.against.exists():
            parser.error(f"{options.against} does not exist")
        if options.write:
            parser.error("--write is for one build of the bridge, without --against")
        options.against = options.against.resolve()
        options.programs.append(AGAINST)
    options.smallest_properties = SMALLEST_PROPERTIES + options.smallest_property
    return options


def main(arguments):
    options = parse(arguments)
    parts = [options.only] if options.only else ["closed", "open"]
    marks = {"closed": "figures", "open": "open loop"}
    programs = harness.prepare(options, max(options.connections), [marks[part] for part in parts])
    report = Report("run", options, programs)
    with harness.open_broker(options, programs) as broker:
        bench = Harness(programs, broker, harness.write_simulated_events(programs))
        warm_up_broker(options, bench)
        if "closed" in parts:
            results = ClosedLoop(options, bench).run()
            rows = ratios(results, "connections", "connections", CLOSED_LOOP_GOALS)
            table = closed_loop_table(options, results)
            report.add_section(marks["closed"], table + ratio_table(rows, "connections", CLOSED_LOOP_GOALS))
            report.figures["closed_loop"] = results
            report.problems += closed_loop_problems(results)
            report.goals += goals_of(rows)
        if "open" in parts:
            loop = OpenLoop(options, bench)
            results = loop.run()
            rows = ratios(results, "rate", "events/s", OPEN_LOOP_GOALS, OPEN_LOOP_FIGURES)
            table = open_loop_table(options, results)
            more = ratio_table(rows, "events/s", OPEN_LOOP_GOALS, OPEN_LOOP_FIGURES)
            report.add_section(marks["open"], table + more)
            report.figures["open_loop"] = results
            report.problems += loop.problems(results)
            report.goals += goals_of(rows)
    return report.finish()


if __name__ == "__main__":
    harness.run_main("run", main)
