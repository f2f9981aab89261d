"""Shared by the benchmark's scripts: processes, broker, load, measuring, ratios and report."""

import argparse
import contextlib
import dataclasses
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
from typing import Optional

BENCH = Path(__file__).resolve().parent
ROOT = BENCH.parent
README = BENCH / "README.md"

TOPIC_TYPES = [
    "detections", "traffic", "floor-occupancy", "floor-occupancy-1min", "room-occupancy",
    "room-occupancy-1min", "zone-occupancy", "zone-occupancy-1min", "pir-motion", "pir-no-motion",
]
ROOMS = 1000
PARTITIONS = 6
WRK_THREADS = 2
# The bridge's default limits; a load that needs more raises them.
IN_FLIGHT_PER_TOPIC = 10_000
IN_FLIGHT_EVENTS = 100_000


class BenchError(Exception):
    """The run cannot go on."""


def log(text):
    print(text, file=sys.stderr, flush=True)


# ------------------------------------------------------------------------------------ processes


def run_command(command, **options):
    """Runs a command to its end and returns its standard output."""
    command = [str(part) for part in command]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, **options)
    if done.returncode != 0:
        raise BenchError(f"{' '.join(command[:6])} … ended with status {done.returncode}")
    return done.stdout


class ChildProcess:
    """A process in the background. It is killed when the `with` block ends."""

    def __init__(self, command, log_file):
        self.command = [str(part) for part in command]
        self.log_file = log_file
        with open(log_file, "wb") as stderr:
            self.process = subprocess.Popen(
                self.command, stdout=subprocess.PIPE, stderr=stderr, start_new_session=True,
            )
        self.pid = self.process.pid

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.process.stdout.close()

    def fail(self, problem):
        raise BenchError(f"{' '.join(self.command)}: {problem}; its log is {self.log_file}")

    def cpu_seconds(self):
        return process_cpu_seconds(self.pid)

    def peak_bytes(self):
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(re.search(r"^VmHWM:\s+(\d+) kB", status, re.M)[1]) * 1024

    def check_running(self):
        if self.process.poll() is not None:
            self.fail(f"ended early, with status {self.process.returncode}")

    def wait_until(self, condition, state, seconds=30):
        deadline = time.monotonic() + seconds
        while not condition():
            self.check_running()
            if time.monotonic() > deadline:
                self.fail(f"not {state} after {seconds} s")
            time.sleep(0.05)

    def terminate(self):
        """Ends the process with SIGTERM and returns its standard output."""
        self.process.send_signal(signal.SIGTERM)
        try:
            output, _ = self.process.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            self.fail("still running 30 s after SIGTERM")
        if self.process.returncode != 0:
            self.fail(f"ended with status {self.process.returncode}")
        return output.decode()


def process_cpu_seconds(pid):
    """User and system time of a process, all threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def machine_cpu_seconds():
    """CPU time of all processes and the kernel, and time stolen by other virtual machines."""
    fields = map(int, Path("/proc/stat").read_text().split()[1:9])
    user, nice, system, _idle, _wait, irq, softirq, steal = fields
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def ended_children_cpu_seconds():
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


class OtherPrograms:
    """CPU use of programs outside the measurement. Figures of a disturbed run are worth little."""

    def __init__(self, pids):
        self.pids = pids
        self.start = self.sample()

    def sample(self):
        ours = sum(map(process_cpu_seconds, [*self.pids, "self"])) + ended_children_cpu_seconds()
        return machine_cpu_seconds() - ours, time.monotonic()

    def share(self):
        """Share of all cores since the start, including kernel work that belongs to no process."""
        (cpu, now), (cpu_before, before) = self.sample(), self.start
        return max(0.0, (cpu - cpu_before) / (now - before) / os.cpu_count())


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def is_listening(port):
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def fetch(url):
    """Returns the body, or `None` without a 2xx."""
    with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5) as response:
        return response.read().decode()
    return None


def raise_open_file_limit(connections):
    """Client and server hold all connections each. Child processes inherit the limit."""
    needed = 2 * connections + 256
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise BenchError(f"at most {hard} open files are allowed (ulimit -Hn); {needed} are needed")
    if soft != resource.RLIM_INFINITY and soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


# ------------------------------------------------------------------------------------- programs


class Programs:
    """Paths of the measured programs, and the work folder for logs and results."""

    def __init__(self, options):
        metadata = ["cargo", "metadata", "--format-version", "1", "--no-deps", "--offline"]
        target = Path(json.loads(run_command(metadata, cwd=ROOT))["target_directory"])
        if options.bridge is None:
            run_command(["cargo", "build", "--release", "--bins", "--examples"], cwd=ROOT)
        self.bridge = (options.bridge or target / "release" / "butlr-bridge").resolve()
        examples = options.examples or self.bridge.parent / "examples"
        self.actix = examples / "bench_bare_actix"
        self.rdkafka = examples / "bench_bare_rdkafka"
        self.smallest = examples / "bench_smallest_bridge"
        for path in [self.bridge, self.actix, self.rdkafka, self.smallest]:
            if not path.exists():
                raise BenchError(f"{path} does not exist; see --bridge and --examples")
        self.work = target / "bench"
        self.work.mkdir(parents=True, exist_ok=True)


def write_simulated_events(programs, event_type="DETECTIONS"):
    """Writes the events that wrk sends: one of each of the simulator's rooms."""
    text = run_command([
        programs.bridge, "simulate", "--print", "--plain", "--max", "--seed", 1,
        "--types", event_type, "--spaces", ROOMS, "--events", 5 * ROOMS,
    ])
    rooms = {}
    for line in text.splitlines():
        rooms.setdefault(json.loads(line)["metadata"]["room_id"], line)
    if len(rooms) != ROOMS:
        raise BenchError(f"events of {len(rooms)} rooms, not of {ROOMS}")
    file = programs.work / "events.jsonl"
    file.write_text("".join(f"{line}\n" for line in rooms.values()))
    return file


# --------------------------------------------------------------------------------------- broker


class ExternalBroker:
    """A broker that runs already."""

    def __init__(self, address):
        self.address = address

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def pids(self):
        return []


class LocalBroker:
    """A broker started by tests/kafka/broker.sh, removed when the `with` block ends."""

    def __init__(self, folder):
        self.folder = folder
        self.address = None

    def __enter__(self):
        # A run that was killed may have left one behind.
        self.control("stop", "--remove")
        log("starting a broker …")
        try:
            self.start()
        except BaseException:
            self.control("stop", "--remove")
            raise
        return self

    def __exit__(self, *_):
        self.control("stop", "--remove")

    def control(self, command, *rest):
        script = ROOT / "tests" / "kafka" / "broker.sh"
        try:
            return run_command([script, command, "--dir", self.folder, *rest], timeout=600)
        except subprocess.TimeoutExpired:
            raise BenchError(f"broker.sh {command} took more than 600 s") from None

    def start(self):
        exports = self.control("start")
        self.address = re.search(r"^export BUTLR_BRIDGE_TEST_KAFKA=(\S+)$", exports, re.M)[1]

    def stop(self):
        self.control("stop")

    def pids(self):
        return [int((self.folder / "pid").read_text())]

    @contextlib.contextmanager
    def paused(self):
        """Keeps connections open but answers nothing, like a machine that hangs."""
        [pid] = self.pids()
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)


def open_broker(options, programs):
    return ExternalBroker(options.kafka) if options.kafka else LocalBroker(programs.work / "kafka")


# ----------------------------------------------------------------------------------------- load


BASE_62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def id_prefix():
    """The first 16 of an id's 27 characters: six from the time, as in a KSUID, and ten random."""
    rest = (int(time.time()) - 1_400_000_000) << 128
    digits = ""
    for _ in range(27):
        rest, digit = divmod(rest, 62)
        digits = BASE_62[digit] + digits
    return digits[:6] + "".join(secrets.choice(BASE_62) for _ in range(10))


def run_wrk(port, connections, seconds, events_file, batch=1, copies=0, previous=()):
    """Sends events in a closed loop. `copies` percent of the requests repeat an earlier event.

    The result's `run` identifies its events; pass it as `previous` to a later call that copies.
    """
    threads = min(WRK_THREADS, connections)
    this = (id_prefix(), int(time.time()) * 1000)
    text = run_command([
        "wrk", "-t", threads, "-c", connections, "-d", f"{seconds}s", "--timeout", "10s", "--latency",
        "-s", BENCH / "events.lua", f"http://127.0.0.1:{port}/v1/events",
        "--", events_file, *this, threads, batch, copies, *previous,
    ])
    line = re.search(r"^BENCH (.*)$", text, re.M)
    if not line:
        raise BenchError(f"wrk printed no figures:\n{text}")
    figures = json.loads(line[1])
    return {
        "events": figures["requests"] * batch,
        "seconds": figures["duration_us"] / 1e6,
        "p50_ms": figures["p50_us"] / 1e3,
        "p99_ms": figures["p99_us"] / 1e3,
        "max_ms": figures["max_us"] / 1e3,
        "errors": sum(figures["errors"].values()),
        "error_kinds": figures["errors"],
        "copies": figures["copies"],
        "run": this,
    }


def simulate_command(programs, port, ledger, *arguments):
    return [
        programs.bridge, "simulate", "--url", f"http://127.0.0.1:{port}/v1/events",
        "--spaces", ROOMS, "--output", ledger, *arguments,
    ]


def simulated_figures(ledger):
    """The figures of a ledger, named as those of `run_wrk`."""
    latency = ledger["latency_ms"]
    return {
        "events": ledger["events"],
        "seconds": ledger["elapsed_s"],
        "p50_ms": latency["p50"],
        "p99_ms": latency["p99"],
        "max_ms": latency["max"],
        "errors": ledger["events"] - ledger["ends"].get("accepted", 0),
        "error_kinds": {key: ledger[key] for key in ["ends", "answers", "tries"]},
    }


# -------------------------------------------------------------------------------------- servers


class Server:
    """A program under load. `accepted` and `stored` are known once it has ended."""

    def __init__(self, process, port):
        self.process, self.port = process, port
        self.accepted = self.stored = None


class BridgeServer(Server):
    def __init__(self, process, port, admin_port):
        super().__init__(process, port)
        self.admin_port = admin_port

    def admin(self, path):
        return fetch(f"http://127.0.0.1:{self.admin_port}/{path}")

    def counts(self):
        """The bridge's metrics, summed over all labels except `outcome`, `kind` and `code`."""
        text = self.admin("metrics")
        if text is None:
            raise BenchError("the bridge's /metrics does not answer")
        counts = {}
        samples = re.findall(r"^butlr_bridge_(\w+)(?:\{([^}]*)\})? (\S+)$", text, re.M)
        for name, labels, value in samples:
            kept = re.findall(r'\b(?:outcome|kind|code)="([^"]*)"', labels)
            key = ".".join([name, *kept])
            counts[key] = counts.get(key, 0) + float(value)
        return counts

    def is_ready(self):
        if not is_listening(self.port) or self.admin("readyz") is None:
            return False
        return self.counts().get("dedup_rebuilding", 0) == 0

    def is_idle(self):
        before = self.counts()
        time.sleep(0.3)
        after = self.counts()
        published = "events_total.published"
        return after["in_flight_events"] == 0 and after[published] == before[published]

    def wait_idle(self):
        self.process.wait_until(self.is_idle, "idle")


def bridge_config(broker, prefix, port, admin_port, in_flight, more):
    lines = ["# Written by the benchmark.", "[http]", f'bind = "127.0.0.1:{port}"']
    if in_flight > IN_FLIGHT_EVENTS:
        lines.append(f"max_in_flight_events = {in_flight}")
    if in_flight > IN_FLIGHT_PER_TOPIC:
        lines.append('max_in_flight_bytes = "1GiB"')
    lines += ["[admin]", f'bind = "127.0.0.1:{admin_port}"']
    lines += ["[kafka]", f'bootstrap_servers = "{broker}"']
    if in_flight > IN_FLIGHT_PER_TOPIC:
        lines.append(f"max_in_flight_per_topic = {in_flight}")
    lines += ["[topics]", f'template = "{prefix}.{{type}}.v1"', f"partitions = {PARTITIONS}", more]
    return "\n".join(lines) + "\n"


class Harness:
    """Starts servers with topics of their own and measures them."""

    def __init__(self, programs, broker, events_file):
        self.programs, self.broker, self.events_file = programs, broker, events_file
        self.run_name = f"bench-{secrets.token_hex(4)}"
        self.servers = []

    def log_file(self, name):
        return self.programs.work / f"{name}.log"

    def kafka_tool(self, command, *rest):
        return run_command([self.programs.rdkafka, "--kafka", self.broker.address, command, *rest])

    def create_topics(self, names):
        self.kafka_tool("create", "--partitions", PARTITIONS, *names)

    def count_records(self, names):
        return sum(json.loads(self.kafka_tool("count", *names)).values())

    @contextlib.contextmanager
    def topics(self, names, create):
        """Deletes the topics when the `with` block ends."""
        try:
            create()
            yield
        finally:
            self.kafka_tool("delete", *names)

    @contextlib.contextmanager
    def started(self, server):
        self.servers.append(server)
        try:
            with server.process:
                yield server
        finally:
            self.servers.remove(server)

    @contextlib.contextmanager
    def bare_actix(self, name, pin=()):
        """Runs the bare HTTP server; `pin` is a taskset command, if any."""
        port = free_port()
        command = [*pin, self.programs.actix, "--bind", f"127.0.0.1:{port}"]
        process = ChildProcess(command, self.log_file(name))
        with self.started(Server(process, port)) as server:
            process.wait_until(lambda: is_listening(port), "listening")
            yield server
            process.terminate()

    @contextlib.contextmanager
    def smallest(self, name, properties, topic_name=None):
        """Runs the smallest bridge, with a topic for DETECTIONS."""
        prefix, port = f"{self.run_name}-{topic_name or name}", free_port()
        topic = f"{prefix}.detections.v1"
        command = [
            self.programs.smallest, "--bind", f"127.0.0.1:{port}", "--kafka", self.broker.address,
            "--topic", f"{prefix}.{{type}}.v1", *(f"--property={item}" for item in properties),
        ]
        with self.topics([topic], lambda: self.create_topics([topic])):
            process = ChildProcess(command, self.log_file(name))
            with self.started(Server(process, port)) as server:
                process.wait_until(lambda: is_listening(port), "listening")
                yield server
                server.accepted = json.loads(process.terminate())["accepted"]
            server.stored = self.count_records([topic])

    @contextlib.contextmanager
    def bridge(self, name, topic_name=None, binary=None, in_flight=0, config=""):
        """Runs a bridge. `in_flight` is the number of events that the load keeps in flight."""
        prefix = f"{self.run_name}-{topic_name or name}"
        binary, port, admin_port = binary or self.programs.bridge, free_port(), free_port()
        topics = [f"{prefix}.{kebab}.v1" for kebab in TOPIC_TYPES]
        file = self.programs.work / f"{name}.toml"
        text = bridge_config(self.broker.address, prefix, port, admin_port, in_flight, config)
        file.write_text(text)

        def create():
            run_command([binary, "topics", "--config", file, "--apply"])
            # Returns once every partition has a leader.
            self.count_records(topics)

        with self.topics(topics, create):
            process = ChildProcess([binary, "serve", "--config", file], self.log_file(name))
            with self.started(BridgeServer(process, port, admin_port)) as server:
                process.wait_until(server.is_ready, "ready")
                yield server
                server.wait_idle()
                server.accepted = int(server.counts()["events_total.published"])
                process.terminate()
            server.stored = self.count_records(topics)

    def other_programs(self, *pids):
        """Watches for disturbance; `None` if the broker is not one of our own processes."""
        if not self.broker.pids():
            return None
        servers = [server.process.pid for server in self.servers]
        return OtherPrograms([*servers, *self.broker.pids(), *pids])

    def measure(self, server, run_load):
        """Runs a load and adds rate, CPU per event and disturbance to its figures."""
        others = self.other_programs()
        cpu = server.process.cpu_seconds()
        figures = run_load()
        cpu = server.process.cpu_seconds() - cpu
        if figures["events"] == 0:
            server.process.fail("not one event was answered")
        return {
            **figures,
            "events_per_s": figures["events"] / figures["seconds"],
            "cpu_us": cpu / figures["events"] * 1e6,
            "others": others and others.share(),
        }

    def run_wrk(self, server, connections, seconds, **rest):
        return run_wrk(server.port, connections, seconds, self.events_file, **rest)

    def run_simulate(self, server, *arguments):
        """Runs the simulator to its end and returns its ledger."""
        ledger = self.programs.work / "ledger.json"
        ledger.unlink(missing_ok=True)
        command = simulate_command(self.programs, server.port, ledger, *arguments)
        with open(self.log_file("simulate"), "wb") as stderr:
            run_command(command, stderr=stderr)
        return json.loads(ledger.read_text())


def in_turns(items, rounds):
    """Yields (round number, item). Every second round goes backwards, so that none is always first."""
    for round_number in range(rounds):
        for item in items if round_number % 2 == 0 else reversed(items):
            yield round_number, item


class WrkSlices:
    """A bridge that stays up and gets wrk's load in turns with others."""

    def __init__(self, bench, name, server, options, copies=0):
        self.bench, self.name, self.server = bench, name, server
        self.options, self.copies = options, copies
        self.loads = self.copies_sent = self.errors = 0
        self.previous = ()
        self.counts = self.peak_bytes = None

    def load(self, seconds):
        figures = self.bench.run_wrk(
            self.server, self.options.connections, seconds, copies=self.copies, previous=self.previous,
        )
        # Only if each thread has sent all of its rooms can the next load copy from this one.
        self.previous = figures["run"] if figures["events"] > 3 * ROOMS else ()
        self.loads += 1
        self.copies_sent += figures["copies"]
        self.errors += figures["errors"]
        return figures

    def end_warm_up(self):
        """Hook for what must be known before the first measurement."""

    def measure(self):
        os.sync()
        figures = self.bench.measure(self.server, lambda: self.load(self.options.seconds))
        return {"program": self.name, **figures}

    def finish(self):
        """Takes the final counts. Call it before the bridge ends."""
        self.server.wait_idle()
        self.counts = self.server.counts()
        self.peak_bytes = self.server.process.peak_bytes()

    def count(self, name):
        return int(self.counts.get(name, 0))


def measure_slices(options, slices, titles, label):
    """Warms all bridges up, then measures them in turns."""
    log(f"{label}: warming up for {options.warm_up * len(slices)} s …")
    for _, one in in_turns(slices, 2):
        one.load(max(1, options.warm_up // 2))
    for one in slices:
        one.end_warm_up()
    results = []
    for round_number, one in in_turns(slices, options.rounds):
        figures = one.measure()
        results.append({"round": round_number, **figures})
        log(f"{label}, round {round_number + 1}/{options.rounds}  {titles[one.name]:<16} {summary(figures)}")
        time.sleep(0.2)
    for one in slices:
        one.finish()
    return results


# -------------------------------------------------------------------------------------- figures


@dataclasses.dataclass
class Goal:
    name: str
    figure: str
    bound: float
    at_least: bool = False

    def __str__(self):
        return f"{'≥' if self.at_least else '≤'} {self.bound}"


@dataclasses.dataclass
class Ratio:
    """One figure of two programs, divided round by round. Its value is the median."""

    label: str
    values: list
    goal: Optional[Goal] = None

    def value(self):
        return statistics.median(self.values) if self.values else None

    def is_met(self):
        value = self.value()
        if value is None:
            return False
        return value >= self.goal.bound if self.goal.at_least else value <= self.goal.bound

    def cell(self):
        """Median, quartiles, and the verdict if there is a goal."""
        if not self.values:
            return "–"
        low = high = self.values[0]
        if len(self.values) > 1:
            low, _, high = statistics.quantiles(self.values, n=4, method="inclusive")
        verdict = "" if self.goal is None else " met" if self.is_met() else " **missed**"
        return f"{self.value():.3f} ({low:.2f} to {high:.2f}){verdict}"

    def report(self):
        value = "not measured" if self.value() is None else f"{self.value():.3f}"
        verdict = "met" if self.is_met() else "MISSED"
        return f"goal {verdict}: {self.label}, {self.goal.name}: {value}, goal {self.goal}"


def ratio_of_rounds(results, program, base, figure, label, goal=None):
    """Divides a program's figure by that of another, in each round that has both."""
    by_round = {one["round"]: one[figure] for one in results if one["program"] == base}
    values = []
    for one in results:
        # A short run may see less than one clock tick of CPU.
        if one["program"] == program and by_round.get(one["round"], 0) > 0:
            values.append(one[figure] / by_round[one["round"]])
    return Ratio(label, values, goal)


def median(results, figure):
    return statistics.median(one[figure] for one in results)


def format_number(value, digits=3):
    """Rounds to significant digits and separates thousands."""
    if value == 0:
        return "0"
    if abs(value) >= 10 ** (digits - 1):
        whole = round(value)
        cut = 10 ** max(0, len(str(abs(whole))) - digits)
        return f"{round(whole / cut) * cut:,}"
    return f"{value:.{digits}g}"


def summary(figures):
    """One line for the log."""
    parts = [
        f"{figures['events_per_s']:>9,.0f} events/s",
        f"p99 {figures['p99_ms']:>7.2f} ms" if "p99_ms" in figures else "",
        f"CPU {figures['cpu_us']:>6.1f} µs",
        f"errors {figures['errors']}" if figures["errors"] else "",
        f"others {figures['others']:.0%}" if figures["others"] is not None else "",
    ]
    return "  ".join(part for part in parts if part)


def disturbance(results):
    """A sentence on the CPU that other programs took, if it was measured."""
    shares = [one["others"] for one in results if one["others"] is not None]
    if not shares:
        return ""
    return (f" Other programs took {statistics.median(shares):.0%} of the machine, "
            f"at worst {max(shares):.0%}.")


# --------------------------------------------------------------------------------------- report


def describe_machine(options, programs):
    cpu = "unknown CPU"
    with contextlib.suppress(OSError, TypeError):
        cpu = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.M)[1]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    wrk = subprocess.run(["wrk", "-v"], capture_output=True, text=True).stdout.split()
    jars = [
        jar for jar in ROOT.glob("target/kafka/libs/kafka-clients-*.jar")
        if re.search(r"clients-[\d.]+\.jar$", jar.name)
    ]
    external = options.kafka or not jars
    commit = "unknown"
    if options.bridge is None:
        git = ["git", "rev-parse", "--short", "HEAD"]
        commit = subprocess.run(git, cwd=ROOT, capture_output=True, text=True).stdout.strip() or "none"
    return {
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(memory),
        "kernel": f"{platform.system()} {platform.release()}",
        "rustc": run_command(["rustc", "--version"]).split()[1],
        "librdkafka": run_command([programs.rdkafka, "version"]).strip(),
        "kafka": "external" if external else jars[0].stem.removeprefix("kafka-clients-"),
        "wrk": wrk[1] if len(wrk) > 1 else "unknown",
        "commit": commit,
    }


def machine_line(date, machine):
    return (
        f"{date:%Y-%m-%d}, {machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB, "
        f"{machine['kernel']}, rustc {machine['rustc']}, librdkafka {machine['librdkafka']}, "
        f"Kafka {machine['kafka']}, wrk {machine['wrk']}, commit {machine['commit']}."
    )


@dataclasses.dataclass
class Section:
    """Tables of the report, and the name of the marks in README.md between which they belong."""

    marks: str
    text: str


def readme_parts(marks):
    """README.md up to the section's first mark, and from its last mark on."""
    text = README.read_text()
    begin = re.search(rf"<!-- {marks}: .*? -->", text)
    end = text.find(f"<!-- end of {marks} -->", begin.end() if begin else 0)
    if not begin or end < 0:
        raise BenchError(f"{README} lacks the marks <!-- {marks}: … --> and <!-- end of {marks} -->")
    return text[:begin.end()], text[end:]


def write_section(section):
    before, after = readme_parts(section.marks)
    README.write_text(f"{before}\n\n{section.text}\n\n{after}")


class Report:
    """Results of one run of a script."""

    def __init__(self, name, options, programs):
        self.name, self.options, self.work = name, options, programs.work
        self.date = datetime.datetime.now(datetime.timezone.utc)
        self.machine = describe_machine(options, programs)
        self.sections, self.figures, self.problems, self.goals = [], {}, [], []

    def add_section(self, marks, lines):
        text = "\n".join([machine_line(self.date, self.machine), "", *lines])
        self.sections.append(Section(marks, text))

    def finish(self):
        """Prints and saves everything; returns the exit status."""
        for section in self.sections:
            print(section.text, end="\n\n", flush=True)
        file = self.work / f"{self.name}-{self.date:%Y%m%dT%H%M%SZ}.json"
        contents = {
            "date": self.date.isoformat(timespec="seconds"),
            "machine": self.machine,
            "options": vars(self.options),
            **self.figures,
            "goals": [{"goal": one.report(), "values": one.values} for one in self.goals],
            "problems": self.problems,
        }
        file.write_text(json.dumps(contents, indent=2, default=str))
        log(f"all figures: {file}")
        for goal in self.goals:
            log(goal.report())
        for problem in self.problems:
            log(f"WRONG: {problem}")
        if self.problems:
            return 1
        if self.options.write:
            for section in self.sections:
                write_section(section)
        missed = not all(goal.is_met() for goal in self.goals)
        return 1 if self.options.check_goals and missed else 0


# --------------------------------------------------------------------------------- command line


def argument_parser(doc):
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true",
                        help="few and short loads, to see that everything works")
    parser.add_argument("--write", action="store_true", help="put the tables into bench/README.md")
    parser.add_argument("--check-goals", action="store_true", help="exit with 1 if a goal is missed")
    parser.add_argument("--bridge", type=Path, metavar="FILE",
                        help="measure this butlr-bridge and build nothing")
    parser.add_argument("--examples", type=Path, metavar="DIR",
                        help="built example programs (default: examples/ beside --bridge)")
    return parser


def parse_options(parser, arguments, quick_defaults):
    """Parses, and fills in defaults: name -> (full run, quick run)."""
    options = parser.parse_args(arguments)
    for name, (full, quick) in quick_defaults.items():
        if getattr(options, name, None) is None:
            setattr(options, name, quick if options.quick else full)
        if getattr(options, name) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1")
    # Not among the options of a script that needs a broker of its own.
    options.kafka = getattr(options, "kafka", None)
    if options.write and (options.bridge or options.quick):
        parser.error("--write needs a full run of the commit's own build, without --bridge or --quick")
    return options


def numbers(text):
    """An argument such as 64,256."""
    values = [int(item) for item in text.split(",")]
    if min(values) < 1:
        raise ValueError
    return values


def prepare(options, connections, marks):
    """Checks the preconditions, so that a run does not fail at its end, and finds the programs."""
    if not shutil.which("wrk"):
        raise BenchError("wrk not found: apt-get install wrk")
    raise_open_file_limit(connections)
    if options.write:
        for name in marks:
            readme_parts(name)
    # SIGTERM then runs the clean-up as Ctrl-C does.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    return Programs(options)


def run_main(name, main):
    try:
        sys.exit(main(sys.argv[1:]))
    except BenchError as problem:
        # With Kafka gone the clean-up fails, too; the first problem is the cause.
        while problem:
            log(f"bench/{name}.py: {problem}")
            problem = problem.__context__
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
