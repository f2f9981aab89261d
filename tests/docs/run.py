#!/usr/bin/env python3
"""Runs the examples of README.md and docs/, and checks the links of all Markdown files.

    run.py --bridge PROGRAM [--kafka HOST:PORT] [--require-all] [PAGE...]

--bridge       the butlr-bridge binary that stands for `cargo run`, `target/release/butlr-bridge` and
               `butlr-bridge` in the examples; nothing is built
--kafka        the Kafka for the examples (default: start one with tests/kafka/broker.sh)
--require-all  fail if DuckDB is missing; without it the examples for DuckDB are listed as not run

What happens to a block depends on its language:

sh       runs with `bash -e`. A last command without an end (dev, serve, simulate) must become ready,
         and is then stopped with SIGINT; it must exit with status 0.
console  the same for the lines after "$ ", except that a command without an end runs until the end of
         the page: the next block is another terminal.
toml     passes check-config; a fragment is appended to the smallest configuration in the README.
json     parses; an event is also sent to a bridge, which must store it.
sql      runs in the systems named in its heading, if they are SQLite or DuckDB. The result is compared
         where EXPECTED has one.

A block below a comment `<!-- not run: reason -->` is skipped and listed, like blocks that run cargo test.
Blocks in text and yaml are not examples. All blocks run in a copy of the repository, in which local ones replace
the brokers, secrets and paths of a production installation. The smallest configuration is there as
butlr-bridge.toml. Pages run in order, and the README creates the topics. The ports 8080 and 9464 must be free.

Exit status: 0 all examples work, 1 some do not, 2 bad usage. Needs bash, curl and Python 3.9.
"""

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import textwrap
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WORK = ROOT / "target" / "docs-examples"
DUCKDB = "duckdb==2.0.1"
PORTS = (8080, 9464)
BLOCK_SECONDS = 300
READY_SECONDS = 60
STOP_SECONDS = 30
# How long a command without an end is watched after it is ready.
WATCH_SECONDS = 3

ENDLESS = re.compile(r"(?:butlr-bridge|cargo run\b.* --) (?:dev|serve|simulate)\b")
ENDS = re.compile(r"--(?:duration|events|help)\b|&\s*$")
TEXT = ("text", "yaml")
TESTS = re.compile(r"\bcargo (?:test|bench)\b")

CARGO = """#!/usr/bin/env bash
# Stands for cargo: the binary is already built.
case $1 in
    build) exit 0 ;;
    run) while [[ $# -gt 0 && $1 != -- ]]; do shift; done; exec {bridge} "${{@:2}}" ;;
    *) echo "the examples cannot run cargo $1" >&2; exit 2 ;;
esac
"""

# (offset, ce_type, ce_subject, ce_time, ce_id, ce_stale, ce_duplicate, value): one record of each class.
ROOM, DOOR, NOON = "io.butlr.room_occupancy.v1", "io.butlr.traffic.v1", "2026-03-01T12:00:00.000Z"
TRAFFIC = '{"data":{"in":%d,"out":%d},"metadata":{"mac_address":"%s"}}'
RECORDS = [
    (1, ROOM, "room_1", NOON, "a", None, None, "4"),
    (2, ROOM, "room_1", NOON, "b", None, None, "5"),
    (3, ROOM, "room_1", NOON, "c", "true", None, "3"),
    (4, ROOM, "room_1", NOON, "a", None, "redelivery", "4"),
    (5, ROOM, "room_2", NOON, "d", None, None, "7"),
    (6, ROOM, "room_2", NOON, "e", None, "repeat", "7"),
    (7, DOOR, "room_1", NOON, "f", None, None, TRAFFIC % (2, 1, "00-11-22-33-44-55")),
    (8, DOOR, "room_1", NOON, "f", None, "redelivery", TRAFFIC % (2, 1, "00-11-22-33-44-55")),
    (9, DOOR, "room_1", NOON, "g", None, None, '{"data":{"in":1,"out":0}}'),
    (10, DOOR, "room_1", NOON, "h", None, None, TRAFFIC % (50, 50, "FA-KE-00-00-00-01")),
    (11, DOOR, "room_1", NOON, "i", None, None, TRAFFIC % (50, 50, "mi-rr-or-00-00-01")),
]
COLUMNS = '"offset", ce_type, ce_subject, ce_time, ce_id, ce_stale, ce_duplicate, value'
# Rows that the SQL below a heading must return. It may return others.
EXPECTED = {
    "Latest value": [(ROOM, "room_1", NOON, "5"), (ROOM, "room_2", NOON, "7")],
    "Sums of TRAFFIC": [("room_1", 3, 1)],
}


class Failure(Exception):
    """An example that does not work. The text says why."""


class NotRun(Exception):
    """An example that cannot run here. The text says why."""


@dataclass
class Block:
    page: str
    line: int
    language: str
    text: str
    headings: list
    not_run: str = ""

    def commands(self):
        """The commands of an sh or a console block."""
        if self.language == "sh":
            return self.text
        lines, prompt = [], False
        for line in self.text.splitlines():
            prompt = line.startswith("$ ") or prompt and lines[-1].endswith("\\")
            if prompt:
                lines.append(line.removeprefix("$ "))
        return "\n".join(lines)


@dataclass
class Page:
    name: str
    blocks: list = field(default_factory=list)
    anchors: set = field(default_factory=set)
    links: list = field(default_factory=list)


def read_page(name):
    page, headings, fence, not_run = Page(name), [], None, ""
    for number, line in enumerate((ROOT / name).read_text().splitlines(), 1):
        if fence:
            if line.strip() == "```":
                fence.text = textwrap.dedent(fence.text)
                page.blocks.append(fence)
                fence = None
            else:
                fence.text += line + "\n"
        elif match := re.match(r"\s*```(\w*)", line):
            fence = Block(name, number, match[1] or "text", "", list(headings), not_run)
            not_run = ""
        elif match := re.match(r"\s*<!-- not run: (.*?) -->", line):
            not_run = match[1]
        else:
            if line.strip():
                not_run = ""
            if match := re.match(r"(#+) (.*)", line):
                headings = [*headings[: len(match[1]) - 1], match[2]]
                page.anchors.add(anchor(match[2], page.anchors))
            prose = re.sub(r"`[^`]*`", "", line)
            page.links += [(number, target) for target in re.findall(r"\]\(([^)\s]+)\)", prose)]
    return page


def anchor(heading, taken):
    """GitHub's anchor of a heading."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
    text = re.sub(r"[^\w\- ]", "", text).replace(" ", "-")
    return next(a for n in range(100) if (a := f"{text}-{n}" if n else text) not in taken)


def check_links(pages, files):
    """Returns the broken links between the files of the repository."""
    known = set(files) | {str(parent) for name in files for parent in Path(name).parents}
    broken = []
    for page in pages.values():
        for line, target in page.links:
            if re.match(r"[a-z]+:", target):
                continue
            path, _, fragment = target.partition("#")
            name = os.path.normpath(Path(page.name).parent / path) if path else page.name
            if name not in known:
                broken.append(f"{page.name}:{line}: {target}: no such file")
            elif fragment and name in pages and fragment not in pages[name].anchors:
                broken.append(f"{page.name}:{line}: {target}: no such heading")
    return broken


def in_use(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def wait_until(condition, seconds):
    deadline = time.monotonic() + seconds
    while not (met := condition()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return met


class Session:
    """A command without an end, which must become ready and exit with status 0 after SIGINT."""

    def __init__(self, process, log, probes):
        self.process, self.log = process, log
        wait_until(lambda: process.poll() is not None or not probes or self.ready(), READY_SECONDS)
        time.sleep(WATCH_SECONDS)
        status = process.poll()
        if status is not None or probes and not self.ready():
            stop_group(process, signal.SIGTERM)
            raise Failure(f"not ready within {READY_SECONDS} s, status {status}\n{log.read_text()}")

    @staticmethod
    def ready():
        try:
            return urllib.request.urlopen(f"http://127.0.0.1:{PORTS[1]}/readyz", timeout=2).status == 200
        except OSError:
            return False

    def embedded_kafka(self):
        match = re.search(r"Kafka +(\S+) \(embedded", self.log.read_text())
        return match and match[1]

    def stop(self):
        stop_group(self.process, signal.SIGINT)
        if self.process.returncode != 0:
            raise Failure(f"status {self.process.returncode} after SIGINT\n{self.log.read_text()}")


def stop_group(process, number):
    """Sends a signal to a process and its children, waits for the process, and kills what is left."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(STOP_SECONDS)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def skip(block):
    raise NotRun(block.not_run)


class Examples:
    def __init__(self, directory, bridge, kafka, smallest, require_all):
        self.directory, self.root = directory, directory / "repository"
        self.logs, self.secrets = directory / "logs", directory / "secrets"
        self.bridge, self.kafka, self.smallest = bridge, kafka, smallest
        self.require_all, self.session, self.databases = require_all, None, {}
        shims = directory / "bin"
        for folder in (self.logs, self.secrets, shims, directory / "state", directory / "tmp"):
            folder.mkdir(parents=True)
        (shims / "cargo").write_text(CARGO.format(bridge=bridge))
        (shims / "cargo").chmod(0o755)
        (shims / "butlr-bridge").symlink_to(bridge)
        for profile in ("release", "debug"):
            (self.root / "target" / profile).mkdir(parents=True)
            (self.root / "target" / profile / "butlr-bridge").symlink_to(bridge)
        # Tools that deploy/check.sh has already installed are used again.
        (ROOT / "target" / "deploy-check").mkdir(parents=True, exist_ok=True)
        (self.root / "target" / "deploy-check").symlink_to(ROOT / "target" / "deploy-check")
        (self.root / "butlr-bridge.toml").write_text(self.localise(smallest))
        path = f"{shims}:{os.environ['PATH']}"
        self.environment = {**os.environ, "PATH": path, "TMPDIR": str(directory / "tmp")}

    def localise(self, text):
        """Replaces the brokers, secrets and paths of a production installation."""
        for name in re.findall(r"/run/secrets/([\w-]+)", text):
            (self.secrets / name).write_text(f"long-enough-for-a-secret-{name}")
        text = text.replace("/run/secrets/", f"{self.secrets}/")
        text = text.replace("/var/lib/butlr-bridge/", f"{self.directory}/state/")
        text = re.sub(r"kafka-1:9092(,kafka-\d:9092)*", self.kafka, text)
        text = re.sub(r"(replication_factor|min_insync_replicas) = \d", r"\1 = 1", text)
        embedded = self.session and self.session.embedded_kafka()
        return re.sub(r"(--verify) 127\.0\.0\.1:\d+", rf"\1 {embedded}", text) if embedded else text

    def start(self, commands, log):
        return subprocess.Popen(
            ["bash", "-ec", commands],
            cwd=self.root,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=log.open("w"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
            # A caller may have SIGINT ignored, which children would inherit.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def await_ports(self):
        if not self.session and not wait_until(lambda: not any(map(in_use, PORTS)), 10):
            raise Failure("a program of an earlier example still uses port 8080 or 9464")

    def run_sh(self, block):
        if TESTS.search(block.text):
            raise NotRun("cargo test is a step of its own in .ci/run")
        self.await_ports()
        commands = self.localise(block.commands())
        last = commands.replace("\\\n", " ").strip().splitlines()[-1]
        log = self.logs / f"{block.page.replace('/', '-')}-{block.line}"
        process = self.start(commands, log)
        if ENDLESS.search(last) and not ENDS.search(last):
            session = Session(process, log, probes=" simulate" not in last)
            if block.language == "console":
                self.session = session
            else:
                session.stop()
            return
        try:
            status = process.wait(BLOCK_SECONDS)
        except subprocess.TimeoutExpired:
            raise Failure(f"not done within {BLOCK_SECONDS} s\n{log.read_text()}") from None
        finally:
            stop_group(process, signal.SIGTERM)
        if status != 0:
            raise Failure(f"status {status}\n{log.read_text()}")

    run_console = run_sh

    def run_toml(self, block):
        text = block.text if "bootstrap_servers" in block.text else self.smallest + block.text
        file = self.directory / "example.toml"
        file.write_text(self.localise(text))
        done = subprocess.run(
            [self.bridge, "check-config", "--config", file], cwd=self.root, capture_output=True, text=True
        )
        if done.returncode != 0:
            raise Failure(done.stdout + done.stderr)

    def run_json(self, block):
        try:
            value = json.loads(block.text)
        except ValueError as error:
            raise Failure(str(error)) from None
        if isinstance(value, dict) and {"type", "timestamp", "data"} <= value.keys():
            self.send(block.text)

    def send(self, event):
        """Sends an event to a bridge that runs until the end of the page."""
        if not self.session:
            self.await_ports()
            log = self.logs / "events"
            self.session = Session(self.start("exec butlr-bridge dev --quiet", log), log, probes=True)
        request = urllib.request.Request(
            f"http://127.0.0.1:{PORTS[0]}/v1/events", event.encode(), {"content-type": "application/json"}
        )
        try:
            urllib.request.urlopen(request, timeout=10).read()
        except urllib.error.HTTPError as error:
            raise Failure(error.read().decode()) from None

    def run_sql(self, block):
        systems = [name for name in ("SQLite", "DuckDB") if name in block.headings[-1]]
        if not systems:
            raise NotRun(f"{block.headings[-1]} is not here")
        for system in systems:
            database = self.database(system)
            try:
                rows = database.execute(block.text).fetchall()
            except Exception as error:  # Each database has its own exceptions.
                raise Failure(f"{system}: {error}") from None
            missing = [row for row in EXPECTED.get(block.headings[1], []) if row not in rows]
            if missing:
                raise Failure(f"{system}: {missing} is not in the result {rows}")

    def database(self, system):
        if system not in self.databases:
            database = sqlite3.connect(":memory:") if system == "SQLite" else self.duckdb().connect()
            columns = COLUMNS.replace(",", " VARCHAR,").replace('"offset" VARCHAR', '"offset" BIGINT')
            database.execute(
                f"CREATE TABLE records ({columns} VARCHAR, ce_source VARCHAR DEFAULT '/butlr/org')"
            )
            database.executemany(f"INSERT INTO records ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)", RECORDS)
            self.databases[system] = database
        return self.databases[system]

    def duckdb(self):
        packages = WORK / DUCKDB
        if not packages.exists():
            partial = WORK / "partial"
            shutil.rmtree(partial, ignore_errors=True)
            venv = [sys.executable, "-m", "venv", partial / "venv"]
            pip = [partial / "venv/bin/pip", "install", "--quiet", "--disable-pip-version-check"]
            pip += ["--no-deps", "--target", partial / "packages", DUCKDB]
            for command in (venv, pip):
                done = subprocess.run(command, capture_output=True, text=True)
                if done.returncode != 0:
                    error = Failure if self.require_all else NotRun
                    raise error(f"{DUCKDB} could not be installed: {done.stdout}{done.stderr}")
            (partial / "packages").rename(packages)
        sys.path.append(str(packages))
        import duckdb

        return duckdb

    def run_page(self, page, report):
        try:
            for block in page.blocks:
                run = skip if block.not_run else getattr(self, f"run_{block.language}", None)
                place = f"{block.page}:{block.line} {block.language}"
                if run:
                    report(place, run, block)
                elif block.language not in TEXT:
                    report.fail(
                        place, f"unknown language; known: sh, console, toml, json, sql, {', '.join(TEXT)}"
                    )
        finally:
            if session := self.session:
                self.session = None
                report(f"{page.name}: stop the bridge", Session.stop, session)


class Report:
    def __init__(self):
        self.ran, self.failed, self.not_run = 0, 0, []

    def __call__(self, place, run, subject):
        began = time.monotonic()
        try:
            run(subject)
            self.ran += 1
            print(f"ok      {time.monotonic() - began:4.0f} s  {place}", flush=True)
        except NotRun as reason:
            self.not_run.append(f"{place}: {reason}")
        except Failure as failure:
            self.ran += 1
            self.fail(place, str(failure))

    def fail(self, place, text):
        self.failed += 1
        print(f"FAILED  {place}\n{textwrap.indent(text[-4000:], '        ')}", flush=True)


def copy_repository(files, to):
    for name in files:
        (to / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, to / name, follow_symlinks=False)


def start_kafka():
    """Starts a broker and returns its address and the command that stops it."""
    script, options = ROOT / "tests/kafka/broker.sh", ["--dir", WORK / "broker"]
    started = subprocess.run([script, "start", *options], stdout=subprocess.PIPE, text=True)
    if started.returncode != 0:
        sys.exit("run.py: Kafka could not be started; give the address of one with --kafka")
    address = re.search(r"BUTLR_BRIDGE_TEST_KAFKA=(\S+)", started.stdout)[1]
    return address, [script, "stop", *options, "--remove"]


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bridge", metavar="PROGRAM", required=True, type=Path)
    parser.add_argument("--kafka", metavar="HOST:PORT")
    parser.add_argument("--require-all", action="store_true")
    parser.add_argument("pages", metavar="PAGE", nargs="*")
    arguments = parser.parse_args()

    bridge = arguments.bridge.resolve()
    if not os.access(bridge, os.X_OK):
        parser.error(f"{bridge} is not a program")
    for port in PORTS:
        if in_use(port):
            parser.error(f"port {port} is in use, and the examples need it: stop the other program")
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True
    )
    files = [name for name in listed.stdout.split("\0") if (ROOT / name).is_file()]
    pages = {name: read_page(name) for name in files if name.endswith(".md")}
    smallest = next(b.text for b in pages["README.md"].blocks if b.language == "toml")
    chosen = arguments.pages or [name for name in pages if name == "README.md" or name.startswith("docs/")]
    if unknown := [name for name in chosen if name not in pages]:
        parser.error(f"no such page: {', '.join(unknown)}")

    WORK.mkdir(parents=True, exist_ok=True)
    report, stop_kafka, kafka = Report(), None, arguments.kafka
    with tempfile.TemporaryDirectory(prefix="butlr-bridge-docs-") as directory:
        copy_repository(files, Path(directory) / "repository")
        try:
            if not kafka:
                kafka, stop_kafka = start_kafka()
            examples = Examples(Path(directory), bridge, kafka, smallest, arguments.require_all)
            for name in chosen:
                examples.run_page(pages[name], report)
        finally:
            if stop_kafka:
                subprocess.run(stop_kafka, check=True)

    for line in report.not_run:
        print(f"not run {line}")
    for line in check_links(pages, files):
        report.fail("link", line)
    links = sum(len(page.links) for page in pages.values())
    print(
        f"{report.ran} examples ran, {len(report.not_run)} not run, {links} links checked, {report.failed} failures"
    )
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
