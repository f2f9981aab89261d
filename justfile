# Common tasks: `just` lists them. Each is one command that also works without just.

# Lists the tasks.
default:
    @just --list

# Builds the bridge for production.
build:
    cargo build --release --locked --bin butlr-bridge

# Runs the tests. Those that need a real Kafka are ignored unless BUTLR_BRIDGE_TEST_KAFKA is set.
test *arguments:
    cargo test --locked --workspace {{ arguments }}

# Starts a real Kafka, runs the tests with nothing ignored, and stops it.
test-kafka *arguments:
    #!/usr/bin/env bash
    set -euo pipefail
    environment=$(tests/kafka/broker.sh start)
    trap 'tests/kafka/broker.sh stop' EXIT
    eval "$environment"
    BUTLR_BRIDGE_TEST_REQUIRE_ALL=1 cargo test --locked --workspace {{ arguments }}

# Runs everything that CI runs.
ci:
    .ci/run

# Formats the code.
fmt:
    cargo fmt --all
    cargo fmt --manifest-path fuzz/Cargo.toml

# Checks format, lints, numbers that may only fall, dependencies and workflows.
lint:
    cargo fmt --all --check
    cargo fmt --manifest-path fuzz/Cargo.toml --check
    cargo clippy --locked --workspace --all-targets -- -D warnings
    .ci/ratchet
    $(.ci/tool cargo-deny) check --hide-inclusion-graph licenses sources bans
    $(.ci/tool actionlint)

# Runs every fuzz target, for the given time in all.
fuzz seconds="60":
    fuzz/run.sh {{ seconds }}

# Runs the benchmark; --quick for one short round.
bench *arguments="--quick":
    bench/run.py {{ arguments }}

# Starts a bridge with an embedded Kafka and a simulated city.
dev *arguments:
    cargo run --locked -- dev {{ arguments }}
