#!/usr/bin/env python3
"""Builds the benchmark's programs and measures them, interleaved, on one broker with one kind of event.

    bench/run.py                    three rounds of 10 s a cell, a broker of its own; about 14 minutes
    bench/run.py --quick            one round of 3 s a cell, to see that all works; no figures to quote
    bench/run.py --write            also puts the tables into bench/README.md
    bench/run.py --kafka HOST:PORT  on a broker that runs already (it gets new topics, which are deleted afterwards)

Programs: a bare actix-web, b bare librdkafka, c the smallest actix-web + rdkafka, d the bridge, e arrays of 50 to it, s the
simulator's own speed.
Exit status: 0 done, 1 a count did not add up, an answer was no 2xx or a program failed, 2 bad usage.
What the figures mean and what they don't: bench/README.md.
"""

import argparse
import contextlib
import datetime
import json
import os
import platform
import re
import resource
import secrets
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

BENCH = Path(__file__).resolve().parent
ROOT = BENCH.parent
README = BENCH / "README.md"

PROGRAMS = {
    "a": "bare actix-web, body read",
    "b": "bare librdkafka loop",
    "c": "smallest actix-web + rdkafka",
    "d": "bridge",
    "e": "bridge, arrays of {batch}",
    "s": "the simulator's client on (a), a core each",
}
KEBAB_TYPES = [
    "detections", "traffic", "floor-occupancy", "floor-occupancy-1min", "room-occupancy", "room-occupancy-1min",
    "zone-occupancy", "zone-occupancy-1min", "pir-motion", "pir-no-motion",
]
# (d) over (c): name, figure, is more better, bound.
GOALS = [
    ("events/s", "events_per_s", True, 0.8),
    ("CPU per event", "cpu_s_per_1000", False, 1.25),
    ("p99", "p99_ms", False, 2.0),
]
PARTITIONS = 6
# The bridge's own limits of what is in flight; raised where a cell needs more.
BRIDGE_PER_TOPIC = 10_000
BRIDGE_IN_FLIGHT = 100_000


class Failed(Exception):
    """The run can't go on, or what it measured is wrong."""


def say(text):
    print(text, file=sys.stderr, flush=True)


# ---------------------------------------------------------------------------------------------- processes


class Server:
    """A process that this run started and ends, by its id, whatever happens."""

    def __init__(self, command, log):
        self.command = [str(part) for part in command]
        self.log = log
        self.process = subprocess.Popen(self.command, stdout=subprocess.PIPE, stderr=open(log, "wb"), start_new_session=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.process.stdout.close()

    def fail(self, what):
        raise Failed(f"{' '.join(self.command)}: {what}; its log is {self.log}")

    def cpu_seconds(self):
        return pid_cpu_seconds(self.process.pid)

    def peak_bytes(self):
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"^VmHWM:\s+(\d+) kB", status, re.M)[1]) * 1024

    def wait_until(self, condition, what, seconds=30):
        deadline = time.monotonic() + seconds
        while not condition():
            if self.process.poll() is not None:
                self.fail(f"ended with status {self.process.returncode} before it was {what}")
            if time.monotonic() > deadline:
                self.fail(f"not {what} after {seconds} s")
            time.sleep(0.05)

    def terminate(self):
        """SIGTERM; returns what it printed."""
        self.process.send_signal(signal.SIGTERM)
        try:
            output, _ = self.process.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            self.fail("did not end within 30 s of SIGTERM")
        if self.process.returncode != 0:
            self.fail(f"ended with status {self.process.returncode}")
        return output.decode()


def busy_seconds():
    """CPU time that all processes, the kernel and (as "steal") other machines on the same hardware have taken."""
    user, nice, system, _idle, _wait, irq, softirq, steal = map(int, Path("/proc/stat").read_text().split()[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def pid_cpu_seconds(pid):
    """User and system time of a process, all threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def children_cpu_seconds():
    """User and system time of the child processes that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


class Others:
    """How much of the machine went to what is not part of the measurement: the figures of a disturbed cell are worth little."""

    def __init__(self, *pids):
        self.pids = pids
        self.start = self.now()

    def now(self):
        ours = children_cpu_seconds() + pid_cpu_seconds("self") + sum(map(pid_cpu_seconds, self.pids))
        return busy_seconds() - ours, time.monotonic()

    def share(self):
        """Of all cores, since the start; in it is what the kernel does for no process in particular."""
        (busy, at), (busy_before, before) = self.now(), self.start
        return max(0.0, (busy - busy_before) / (at - before) / os.cpu_count())


def run(command, **options):
    """Runs a command to its end; returns its standard output."""
    command = [str(part) for part in command]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, **options)
    if done.returncode != 0:
        raise Failed(f"{' '.join(command[:6])} … ended with status {done.returncode}")
    return done.stdout


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def accepts(port):
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def get(url):
    with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5) as answer:
        return answer.read().decode()
    return None


# ---------------------------------------------------------------------------------------------- the parts of a run


def target_dir():
    text = run(["cargo", "metadata", "--format-version", "1", "--no-deps", "--offline"], cwd=ROOT)
    return Path(json.loads(text)["target_directory"])


def build(options):
    if not options.no_build:
        command = ["cargo", "build", "--release", "--bins", "--examples"]
        command += ["--target-dir", options.target_dir] if options.target_dir else []
        run(command, cwd=ROOT)


class Paths:
    def __init__(self, options):
        target = Path(options.target_dir).resolve() if options.target_dir else target_dir()
        release = target / "release"
        self.bridge = release / "butlr-bridge"
        self.actix = release / "examples" / "bench_bare_actix"
        self.rdkafka = release / "examples" / "bench_bare_rdkafka"
        self.smallest = release / "examples" / "bench_smallest_bridge"
        self.work = target / "bench"
        self.work.mkdir(parents=True, exist_ok=True)

    def check(self, programs):
        needed = [self.rdkafka, self.bridge]
        needed += [self.actix] if "a" in programs or "s" in programs else []
        needed += [self.smallest] if "c" in programs else []
        for path in needed:
            if not path.exists():
                raise Failed(f"{path} is not there: build it (without --no-build) or leave it out with --programs")


@contextlib.contextmanager
def kafka(options, paths):
    """The broker's address and, where it was started here, its process id."""
    if options.kafka:
        yield options.kafka, []
        return
    script, folder = ROOT / "tests" / "kafka" / "broker.sh", paths.work / "kafka"
    say("starting a broker …")
    exports = run([script, "start", "--dir", folder])
    try:
        address = re.search(r"^export BUTLR_BRIDGE_TEST_KAFKA=(\S+)$", exports, re.M)[1]
        yield address, [int((folder / "pid").read_text())]
    finally:
        run([script, "stop", "--dir", folder, "--remove"])


BASE_62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def token():
    """The first 16 of an id's 27 characters: as in a KSUID of now, six that follow from the time, then chance."""
    number = (int(time.time()) - 1_400_000_000) << 128
    digits = ""
    for _ in range(27):
        number, digit = divmod(number, 62)
        digits = BASE_62[digit] + digits
    return digits[:6] + "".join(secrets.choice(BASE_62) for _ in range(10))


def simulated_events(paths, event_type="DETECTIONS"):
    """The events that all programs get, but for ids and times: what most of a sender's events are, one of each of the
    simulator's 1,000 rooms."""
    text = run([
        paths.bridge, "simulate", "--print", "--plain", "--max", "--seed", 1, "--types", event_type, "--spaces", 1000, "--events", 5000,
    ])
    rooms = {}
    for line in text.splitlines():
        rooms.setdefault(json.loads(line)["metadata"]["room_id"], line)
    if len(rooms) != 1000:
        raise Failed(f"events of {len(rooms)} rooms, not of 1,000")
    file = paths.work / "events.jsonl"
    file.write_text("".join(f"{line}\n" for line in rooms.values()))
    return file


def load(port, connections, seconds, batch, options, copies=0, before=()):
    """One run of wrk; returns what its script printed, and as `run` what a later one needs as `before` to send copies of it.
    Of 100 requests `copies` are events that were sent before."""
    threads = min(options.wrk_threads, connections)
    this = (token(), int(time.time()) * 1000)
    text = run([
        "wrk", "-t", threads, "-c", connections, "-d", f"{seconds}s", "--timeout", "10s", "--latency", "-s", BENCH / "events.lua",
        f"http://127.0.0.1:{port}/v1/events", "--", options.events, *this, threads, batch, copies, *before,
    ])
    line = re.search(r"^BENCH (.*)$", text, re.M)
    if not line:
        raise Failed(f"wrk printed no figures:\n{text}")
    return {**json.loads(line[1]), "run": this}


def bridge_counts(admin_port):
    """What the bridge counts: each of its metrics, summed over all labels but `outcome`, `kind` and `code`."""
    text = get(f"http://127.0.0.1:{admin_port}/metrics")
    if text is None:
        raise Failed("the bridge's /metrics does not answer")
    counts = {}
    for name, labels, value in re.findall(r"^butlr_bridge_(\w+)(?:\{([^}]*)\})? (\S+)$", text, re.M):
        kept = re.findall(r'\b(?:outcome|kind|code)="([^"]*)"', labels)
        key = ".".join([name, *kept])
        counts[key] = counts.get(key, 0) + float(value)
    return counts


def bridge_config(path, broker, prefix, port, admin_port, in_flight, more=""):
    text = f"""# Written by bench/run.py.
[http]
bind = "127.0.0.1:{port}"
{f"max_in_flight_events = {in_flight}" if in_flight > BRIDGE_IN_FLIGHT else ""}
{'max_in_flight_bytes = "1GiB"' if in_flight > BRIDGE_PER_TOPIC else ""}
[admin]
bind = "127.0.0.1:{admin_port}"
[kafka]
bootstrap_servers = "{broker}"
{f"max_in_flight_per_topic = {in_flight}" if in_flight > BRIDGE_PER_TOPIC else ""}
[topics]
template = "{prefix}.{{type}}.v1"
partitions = {PARTITIONS}
{more}"""
    path.write_text(text)


class Bench:
    def __init__(self, options, paths, broker, broker_pids):
        self.options, self.paths, self.broker, self.broker_pids = options, paths, broker, broker_pids
        self.run_name = f"bench-{secrets.token_hex(4)}"
        self.topics = set()
        self.cells = 0

    def tool(self, command, *rest):
        return run([self.paths.rdkafka, "--kafka", self.broker, command, *rest])

    @contextlib.contextmanager
    def fresh_topics(self, names, make):
        self.topics.update(names)
        try:
            make()
            yield
        finally:
            self.tool("delete", *names)
            self.topics.difference_update(names)

    def create(self, names):
        self.tool("create", "--partitions", PARTITIONS, *names)

    def stored(self, names):
        return sum(json.loads(self.tool("count", *names)).values())

    def warm_broker(self):
        """A broker that has just started is several times slower than one whose code is compiled."""
        if self.options.warm_broker == 0:
            return
        prefix, measured = f"{self.run_name}-warm-up", self.options.seconds
        self.options.seconds = self.options.warm_broker
        try:
            # Small batches, as the bridges send them, rather than the large ones of (b), where there is a choice.
            if "c" in self.options.programs:
                self.smallest("c", self.options.connections[0], prefix)
            elif "d" in self.options.programs:
                self.bridge("d", self.options.connections[0], prefix)
            else:
                self.bare_rdkafka("b", None, prefix)
        finally:
            self.options.seconds = measured

    def cell(self, program, connections):
        """Measures one program at one number of connections in a process and topics of its own."""
        self.cells += 1
        measure = {"a": self.bare_actix, "b": self.bare_rdkafka, "c": self.smallest, "d": self.bridge, "e": self.bridge,
                   "s": self.simulator}
        figures = measure[program](program, connections, f"{self.run_name}-{self.cells}")
        time.sleep(self.options.settle)
        return figures

    def log(self, program):
        return self.paths.work / f"{program}.log"

    def figures(self, server, port, connections, batch):
        """Warms up, then loads and measures."""
        warm_up = load(port, connections, self.options.warm_up, batch, self.options)
        others = Others(server.process.pid, *self.broker_pids)
        cpu = server.cpu_seconds()
        wrk = load(port, connections, self.options.seconds, batch, self.options)
        cpu = server.cpu_seconds() - cpu
        errors = {kind: wrk["errors"][kind] + warm_up["errors"][kind] for kind in wrk["errors"]}
        events = wrk["requests"] * batch
        if events == 0:
            raise Failed("not one request was answered")
        return {
            "events_per_s": events / (wrk["duration_us"] / 1e6),
            "p50_ms": wrk["p50_us"] / 1e3,
            "p99_ms": wrk["p99_us"] / 1e3,
            "max_ms": wrk["max_us"] / 1e3,
            "cpu_s_per_1000": cpu / events * 1000,
            "others": others.share() if self.broker_pids else None,
            "errors": sum(errors.values()),
            "error_kinds": errors,
            "answered": events + warm_up["requests"] * batch,
            "peak_bytes": server.peak_bytes(),
        }

    def bare_actix(self, program, connections, _):
        port = free_port()
        with Server([self.paths.actix, "--bind", f"127.0.0.1:{port}"], self.log(program)) as server:
            server.wait_until(lambda: accepts(port), "listening")
            figures = self.figures(server, port, connections, 1)
            server.terminate()
        return figures

    def simulator(self, program, connections, _):
        """The client is measured here: its events/s, its CPU, its memory."""
        port, ledger = free_port(), self.paths.work / "ledger.json"
        with Server(["taskset", "-c", "0", self.paths.actix, "--bind", f"127.0.0.1:{port}"], self.log(program)) as server:
            server.wait_until(lambda: accepts(port), "listening")
            command = [
                "taskset", "-c", "1", self.paths.bridge, "simulate", "--url", f"http://127.0.0.1:{port}/v1/events", "--max",
                "--seed", 1, "--spaces", 1000, "--connections", connections, "--duration", f"{self.options.seconds}s", "--output", ledger,
            ]
            others = Others(server.process.pid)
            client = subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            _, status, usage = os.wait4(client.pid, 0)
            client.returncode = os.waitstatus_to_exitcode(status)
            share = others.share() if self.broker_pids else None
            server.terminate()
        if client.returncode:
            raise Failed(f"simulate ended with {client.returncode}")
        told = json.loads(ledger.read_text())
        return {
            "events_per_s": told["events"] / told["elapsed_s"],
            "p50_ms": told["latency_ms"]["p50"],
            "p99_ms": told["latency_ms"]["p99"],
            "cpu_s_per_1000": (usage.ru_utime + usage.ru_stime) / told["events"] * 1000,
            "others": share,
            "errors": told["events"] - told["ends"]["accepted"],
            "peak_bytes": usage.ru_maxrss * 1024,
        }

    def bare_rdkafka(self, program, _, prefix):
        topic = f"{prefix}.detections.v1"
        with self.fresh_topics([topic], lambda: self.create([topic])):
            others = Others(*self.broker_pids)
            text = self.tool("produce", "--events", self.options.events, "--topic", topic, "--seconds", self.options.seconds,
                             "--in-flight", self.options.in_flight)
            share = others.share() if self.broker_pids else None
            stored = self.stored([topic])
        figures = json.loads(text)
        return {
            "events_per_s": figures["events_per_s"],
            "cpu_s_per_1000": figures["cpu_s"] / figures["accepted"] * 1000,
            "others": share,
            "errors": figures["failed"],
            "peak_bytes": figures["peak_bytes"],
            "accepted": figures["accepted"],
            "stored": stored,
        }

    def smallest(self, program, connections, prefix):
        port, topic = free_port(), f"{prefix}.detections.v1"
        command = [self.paths.smallest, "--bind", f"127.0.0.1:{port}", "--kafka", self.broker,
                   "--topic", f"{prefix}.{{type}}.v1"]
        command += [f"--property={item}" for item in self.options.smallest_property]
        with self.fresh_topics([topic], lambda: self.create([topic])):
            with Server(command, self.log(program)) as server:
                server.wait_until(lambda: accepts(port), "listening")
                figures = self.figures(server, port, connections, 1)
                figures["accepted"] = json.loads(server.terminate())["accepted"]
            figures["stored"] = self.stored([topic])
        return figures

    @contextlib.contextmanager
    def serving(self, name, prefix, in_flight=0, more=""):
        """A bridge with topics of its own; at its end what it published is compared with what they hold."""
        bridge = Bridge(self.paths.work / f"{name}.toml", free_port(), free_port())
        topics = [f"{prefix}.{kebab}.v1" for kebab in KEBAB_TYPES]
        bridge_config(bridge.config, self.broker, prefix, bridge.port, bridge.admin_port, in_flight, more)

        def make():
            run([self.paths.bridge, "topics", "--config", bridge.config, "--apply"])
            # Only to wait for the leaders; what is there already stays as it is.
            self.stored(topics)

        with self.fresh_topics(topics, make):
            with Server([self.paths.bridge, "serve", "--config", bridge.config], self.log(name)) as bridge.server:
                bridge.server.wait_until(bridge.ready, "ready")
                yield bridge
                bridge.server.wait_until(bridge.settled, "at rest")
                bridge.accepted = int(bridge.counts()["events_total.published"])
                bridge.server.terminate()
            bridge.stored = self.stored(topics)

    def bridge(self, program, connections, prefix):
        batch = self.options.batch if program == "e" else 1
        with self.serving(program, prefix, connections * batch) as bridge:
            figures = self.figures(bridge.server, bridge.port, connections, batch)
        return {**figures, "accepted": bridge.accepted, "stored": bridge.stored}


class Bridge:
    """One that runs."""

    def __init__(self, config, port, admin_port):
        self.config, self.port, self.admin_port = config, port, admin_port
        self.server = self.accepted = self.stored = None

    def counts(self):
        return bridge_counts(self.admin_port)

    def ready(self):
        is_ready = accepts(self.port) and get(f"http://127.0.0.1:{self.admin_port}/readyz") is not None
        return is_ready and self.counts().get("dedup_rebuilding", 0) == 0

    def settled(self):
        before = self.counts()
        time.sleep(0.3)
        after = self.counts()
        return after["in_flight_events"] == 0 and after["events_total.published"] == before["events_total.published"]


# ---------------------------------------------------------------------------------------------- order, results


def order(options, round_number):
    """All cells of one round. (c) and (d), whose ratio counts, stand next to each other, in turns first, and behind (a), which
    writes nothing: (b) and (e) leave the broker with hundreds of MB to bring to disk, which whoever comes next would pay for."""
    pair = ["c", "d"] if round_number % 2 == 0 else ["d", "c"]
    cells = [("b", None)] if "b" in options.programs else []
    for connections in options.connections:
        cells += [(program, connections) for program in ["a", "s", *pair, "e"] if program in options.programs]
    return cells


def medians(results):
    """(program, connections) -> the median over the rounds of each figure."""
    cells = {}
    for result in results:
        cells.setdefault((result["program"], result["connections"]), []).append(result)
    out = {}
    for key, rounds in sorted(cells.items(), key=lambda cell: (cell[0][1] or 0, cell[0][0])):
        figures = [name for name, value in rounds[0].items() if isinstance(value, float) and name != "others"]
        out[key] = {name: statistics.median(one[name] for one in rounds) for name in figures}
        out[key]["peak_bytes"] = max(one["peak_bytes"] for one in rounds)
        out[key]["errors"] = sum(one["errors"] for one in rounds)
        if "accepted" in rounds[0]:
            out[key]["accepted"] = sum(one["accepted"] for one in rounds)
            out[key]["stored"] = sum(one["stored"] for one in rounds)
            out[key]["equal"] = all(one["accepted"] == one["stored"] for one in rounds)
    return out


def ratios(results):
    """connections -> the median over the rounds of (d)/(c), each from one round."""
    by_cell = {(one["round"], one["program"], one["connections"]): one for one in results}
    out = {}
    for (round_number, program, connections), bridge in by_cell.items():
        smallest = by_cell.get((round_number, "c", connections))
        if program == "d" and smallest:
            for _, figure, _, _ in GOALS:
                # A quick run may see less than one clock tick of CPU.
                if smallest[figure] > 0:
                    out.setdefault(connections, {}).setdefault(figure, []).append(bridge[figure] / smallest[figure])
    return {
        connections: {figure: statistics.median(values) for figure, values in figures.items()}
        for connections, figures in sorted(out.items())
    }


def met(figure, more_is_better, bound):
    return figure >= bound if more_is_better else figure <= bound


def machine(options, paths):
    cpu = "unknown CPU"
    with contextlib.suppress(OSError, TypeError):
        cpu = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.M)[1]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    wrk = subprocess.run(["wrk", "-v"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True).stdout.split()
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    jars = [jar for jar in ROOT.glob("target/kafka/libs/kafka-clients-*.jar") if re.search(r"clients-[\d.]+\.jar$", jar.name)]
    kafka_version = "of --kafka" if options.kafka or not jars else jars[0].stem.removeprefix("kafka-clients-")
    return {
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory),
        "kernel": f"{platform.system()} {platform.release()}",
        "rustc": run(["rustc", "--version"]).split()[1],
        "librdkafka": run([paths.rdkafka, "version"]).strip(),
        "kafka": kafka_version,
        "wrk": wrk[1] if len(wrk) > 1 else "unknown",
        "commit": commit.stdout.strip() or "none",
    }


def described(place):
    return (
        f"{place['cpu']}, {place['cores']} cores, {place['memory_gib']} GiB, {place['kernel']}, rustc {place['rustc']}, "
        f"librdkafka {place['librdkafka']}, Kafka {place['kafka']}, wrk {place['wrk']}, commit {place['commit']}"
    )


def number(value, digits=3):
    """With so many significant digits, and thousands apart."""
    if value == 0:
        return "0"
    if value >= 10 ** (digits - 1):
        whole = round(value)
        cut = 10 ** max(0, len(str(whole)) - digits)
        return f"{round(whole / cut) * cut:,}"
    return f"{value:.{digits}g}"


def disturbed(results):
    """A sentence on how much of the machine went to programs that have no part in it, where that is known."""
    shares = [one["others"] for one in results if one["others"] is not None]
    if not shares:
        return ""
    return f" Other programs had {statistics.median(shares):.0%} of the machine, in the worst cell {max(shares):.0%}."


def tables(options, place, date, results):
    lines = [
        f"{date}, {described(place)}. {options.rounds} round{'s' if options.rounds > 1 else ''} of {options.seconds} s a cell: "
        f"medians, the peak memory is the highest.{disturbed(results)}",
        "",
        "| program | connections | events/s | p50 ms | p99 ms | CPU s per 1,000 events | peak MiB | accepted = stored |",
        "|---|---:|---:|---:|---:|---:|---:|---|",
    ]
    for (program, connections), cell in medians(results).items():
        name = PROGRAMS[program].format(batch=options.batch)
        count = "–"
        if "accepted" in cell:
            count = f"{cell['accepted']:,}" if cell["equal"] else f"**no: {cell['accepted']:,} ≠ {cell['stored']:,}**"
        if cell["errors"]:
            count += f", **{cell['errors']:,} errors**"
        lines.append(
            f"| ({program}) {name} | {f'{connections:,}' if connections else '–'} | {number(cell['events_per_s'])} | "
            f"{number(cell['p50_ms']) if 'p50_ms' in cell else '–'} | {number(cell['p99_ms']) if 'p99_ms' in cell else '–'} | "
            f"{cell['cpu_s_per_1000']:.4f} | {number(cell['peak_bytes'] / 2**20)} | {count} |"
        )
    over = ratios(results)
    if over:
        heads = [f"{name}, goal {'≥' if more else '≤'} {bound}" for name, _, more, bound in GOALS]
        lines += ["", f"| (d) ÷ (c), connections | {' | '.join(heads)} |", f"|---:|{'---|' * len(GOALS)}"]
        for connections, figures in over.items():
            cells = [
                f"{figures[figure]:.2f} {'met' if met(figures[figure], more, bound) else '**missed**'}" if figure in figures else "–"
                for _, figure, more, bound in GOALS
            ]
            lines.append(f"| {connections:,} | {' | '.join(cells)} |")
    return "\n".join(lines)


BEGIN, END = "<!-- figures: written by bench/run.py --write -->", "<!-- end of figures -->"


def write_readme(text, begin=BEGIN, end=END):
    before, mark, rest = README.read_text().partition(begin)
    _, found, after = rest.partition(end)
    if not mark or not found:
        raise Failed(f"{README} lacks the marks {begin} … {end}")
    README.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}")


def wrong(results):
    for one in results:
        cell = f"round {one['round'] + 1}, ({one['program']}), {one['connections'] or 'no'} connections"
        if one["errors"]:
            yield f"{cell}: {one['errors']:,} errors {one.get('error_kinds', '')}"
        if "accepted" in one and one["accepted"] != one["stored"]:
            yield f"{cell}: {one['accepted']:,} accepted, but {one['stored']:,} stored"
        # Less is normal: wrk does not count what is on its way when it ends.
        if "accepted" in one and one.get("answered", 0) - one["errors"] > one["accepted"]:
            yield f"{cell}: wrk had an answer for {one['answered']:,} events, but only {one['accepted']:,} were accepted"


# ---------------------------------------------------------------------------------------------- command line


def parse(arguments):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    letters = "".join(PROGRAMS)
    parser.add_argument("--quick", action="store_true", help="one round, 3 s a cell")
    parser.add_argument("--write", action="store_true", help="put the tables into bench/README.md")
    parser.add_argument("--programs", default=",".join(letters), help=f"which of {','.join(letters)} (default: all)")
    parser.add_argument("--connections", default="64,256,1024")
    parser.add_argument("--rounds", type=int, help="default: 3")
    parser.add_argument("--seconds", type=int, help="of load in each cell (default: 10)")
    parser.add_argument("--warm-up", type=int, help="seconds of load before, not measured (default: 2, quick: 1)")
    parser.add_argument("--warm-broker", type=int, help="seconds of load before the first cell (default: 40, quick: 5)")
    parser.add_argument("--settle", type=float, default=1.0, help="seconds between two cells (default: 1)")
    parser.add_argument("--batch", type=int, default=50, help="events in an array of (e) (default: 50)")
    parser.add_argument("--in-flight", type=int, default=10_000, help="events in flight in (b) (default: 10000)")
    parser.add_argument("--smallest-property", action="append", default=[], metavar="NAME=VALUE",
                        help="a librdkafka property of (c) that is to differ, such as linger.ms=2; may be repeated")
    parser.add_argument("--wrk-threads", type=int, default=2)
    parser.add_argument("--kafka", metavar="HOST:PORT", help="use this broker instead of starting one")
    parser.add_argument("--no-build", action="store_true", help="measure what is built already")
    parser.add_argument("--target-dir", help="where Cargo's output is (default: what `cargo metadata` says)")
    options = parser.parse_args(arguments)

    options.rounds = options.rounds or (1 if options.quick else 3)
    options.seconds = options.seconds or (3 if options.quick else 10)
    options.warm_up = options.warm_up or (1 if options.quick else 2)
    if options.warm_broker is None:
        options.warm_broker = 5 if options.quick else 40
    options.programs = options.programs.split(",")
    if set(options.programs) - set(letters):
        parser.error(f"--programs takes some of {','.join(letters)}")
    try:
        options.connections = [int(item) for item in options.connections.split(",")]
    except ValueError:
        parser.error("--connections takes numbers, such as 64,256")
    if min(options.connections) < 1 or options.batch < 2:
        parser.error("at least 1 connection, at least 2 events in an array")
    if not 1 <= options.wrk_threads <= 10:
        parser.error("--wrk-threads takes 1 to 10")
    return options


def raise_open_files(connections):
    """Client and server each have all the connections; child processes inherit this limit."""
    needed = 2 * max(connections) + 256
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise Failed(f"at most {hard} open files are allowed (ulimit -Hn); {needed} are needed")
    if soft != resource.RLIM_INFINITY and soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


def main(arguments):
    options = parse(arguments)
    if not shutil.which("wrk"):
        raise Failed("wrk not found: apt-get install wrk")
    raise_open_files(options.connections)
    build(options)
    paths = Paths(options)
    paths.check(options.programs)
    options.events = simulated_events(paths)
    # Before the load: a Ctrl-C then ends in the `finally` of whatever runs.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))

    date = datetime.datetime.now(datetime.timezone.utc)
    place = machine(options, paths)
    results = []
    with kafka(options, paths) as (broker, broker_pids):
        bench = Bench(options, paths, broker, broker_pids)
        say(f"warming up the broker for {options.warm_broker} s …")
        bench.warm_broker()
        for round_number in range(options.rounds):
            for program, connections in order(options, round_number):
                os.sync()
                figures = bench.cell(program, connections)
                results.append({"round": round_number, "program": program, "connections": connections, **figures})
                say(
                    f"round {round_number + 1}/{options.rounds}  ({program})  {connections or '–':>5} connections  "
                    f"{figures['events_per_s']:>9,.0f} events/s  p99 {figures.get('p99_ms', float('nan')):>7.2f} ms  "
                    f"{figures['cpu_s_per_1000']:.4f} CPU s/1,000  {figures['peak_bytes'] / 2**20:>6.1f} MiB  "
                    f"errors {figures['errors']}"
                    + (f"  others {figures['others']:.0%}" if figures["others"] is not None else "")
                    + (f"  {figures['accepted']:,} accepted, {figures['stored']:,} stored" if "accepted" in figures else "")
                )

    text = tables(options, place, f"{date:%Y-%m-%d}", results)
    print(text)
    file = paths.work / f"{date:%Y%m%dT%H%M%SZ}.json"
    file.write_text(json.dumps({
        "date": date.isoformat(timespec="seconds"),
        "machine": place,
        "options": {**vars(options), "events": str(options.events)},
        "results": results,
        "bridge_over_smallest": ratios(results),
    }, indent=2))
    say(f"all figures: {file}")
    problems = list(wrong(results))
    for problem in problems:
        say(f"WRONG: {problem}")
    if problems:
        return 1
    if options.write:
        write_readme(text)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except Failed as problem:
        say(f"bench/run.py: {problem}")
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
