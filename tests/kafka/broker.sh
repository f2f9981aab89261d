#!/usr/bin/env bash
# Runs a real Apache Kafka for the tests: one KRaft node on loopback.
#
#   broker.sh start  [--dir D] [--port N] [--set KEY=VALUE]... [--jvm OPTION]...
#                                           start the broker, wait until it is ready, print the variables
#                                           that the tests need; --set adds broker settings and --jvm adds
#                                           JVM options for this start only
#   broker.sh stop   [--dir D] [--remove]   stop it (SIGTERM, SIGKILL after 20 s); --remove also deletes D
#   broker.sh kill   [--dir D]              kill it (SIGKILL) to simulate a crash
#   broker.sh status [--dir D]              print the state; exit 0 if it is running, otherwise 1
#   broker.sh env    [--dir D]              print the output of `start` again
#
# D holds all files: data, certificates, log, pid (default: <repository>/target/kafka/broker). A broker
# that is stopped and started again keeps its data and ports. Without --port, six free ports are chosen.
# They stay reserved for D while the broker is down, so that no other broker of this script takes them.
#
#   port N     PLAINTEXT, all operations allowed
#   port N+1   controller
#   port N+2   SASL_PLAINTEXT  \  PLAIN and SCRAM-SHA-256; users bridge/bridge-secret and
#   port N+3   SASL_SSL        /  limited/limited-secret; all operations are allowed until a test
#                                 sets an ACL (KafkaProbe.java deny-write)
#   port N+4   PLAINTEXT, advertised as port N+5, where a test can place a proxy
#
# `start` prints only shell assignments to standard output:
#
#   eval "$(tests/kafka/broker.sh start)"; cargo test
#
# The broker behaves like a default one: it creates missing topics if the client allows it, and refuses
# timestamps more than 1 h ahead. The differences: replication factors are 1, and retention runs every
# 2 s instead of every 5 min, so that a test can wait for it.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)

die() { echo "broker.sh: $*" >&2; exit 1; }
usage() { sed -n '2,/^set -/{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"; }

command=${1:-}
[[ $# -gt 0 ]] && shift
dir=$root/target/kafka/broker
port=
remove=false
set=()
jvm=()
while [[ $# -gt 0 ]]; do
    case $1 in
        --dir) dir=${2:?--dir needs a directory}; shift 2 ;;
        --port) port=${2:?--port needs a number}; shift 2 ;;
        --remove) remove=true; shift ;;
        --set) set+=("${2:?--set needs KEY=VALUE}"); shift 2 ;;
        --jvm) jvm+=("${2:?--jvm needs an option}"); shift 2 ;;
        *) usage >&2; exit 2 ;;
    esac
done
[[ $dir == /* ]] || dir=$PWD/$dir
[[ -z $port || $port =~ ^[0-9]{2,5}$ ]] || die "--port $port: not a port number"
config=$dir/server.properties

# Prints the process id if the broker is running. Also compares the command line, because the pid in an
# old file may belong to another process by now.
running() {
    local pid
    [[ -f $dir/pid ]] || return 1
    pid=$(<"$dir/pid")
    [[ $(ps -ww -p "$pid" -o args= 2>/dev/null) == *"kafka.Kafka $config" ]] || return 1
    echo "$pid"
}

taken() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# Succeeds if no port of the broker is in use; otherwise prints the port that is.
all_free() {
    local i
    for i in 0 1 2 3 4; do
        if taken $(($1 + i)); then echo $(($1 + i)); return 1; fi
    done
}

# A broker that was just killed may hold its ports for a moment longer.
await_ports() {
    local tries=$2 other
    until other=$(all_free "$1"); do
        ((tries-- > 0)) || { echo "$other"; return 1; }
        sleep 0.1
    done
}

# Reservations: one file for each row of six ports. It names the directory of the broker, and is valid as
# long as that broker uses these ports.
claims=/tmp/butlr-bridge-kafka-ports-$UID

# Reserves a row of ports, unless another broker has a valid reservation. The lock prevents races.
claim() {
    local base=$1 owner
    mkdir -p "$claims"
    (
        flock 9
        owner=$(cat "$claims/$base" 2>/dev/null || true)
        if [[ -n $owner && $owner != "$dir" && $(cat "$owner/port" 2>/dev/null) == "$base" ]]; then exit 1; fi
        # This file makes the reservation valid.
        echo "$base" >"$dir/port"
        echo "$dir" >"$claims/$base"
    ) 9>>"$claims/lock"
}

free_port() {
    local base try
    # Below the range for outgoing connections in Linux. Rows start eight ports apart, so they never overlap.
    for try in {1..100}; do
        base=$((20000 + RANDOM % 1500 * 8))
        if all_free "$base" >/dev/null && ! taken $((base + 5)) && claim "$base"; then
            echo "$base"
            return
        fi
    done
    die "no six free ports in a row found in $try tries"
}

# Creates a certificate authority and a certificate for localhost, as PEM for both Kafka and librdkafka.
certificates() {
    local tls=$dir/tls
    mkdir -p "$tls"
    (
        cd "$tls"
        openssl req -x509 -newkey rsa:2048 -nodes -days 3650 -subj "/CN=butlr-bridge test CA" \
            -addext "basicConstraints=critical,CA:TRUE" -addext "keyUsage=critical,keyCertSign,cRLSign" \
            -keyout ca.key -out ca.pem
        openssl req -newkey rsa:2048 -nodes -subj "/CN=localhost" -keyout server.key -out server.csr
        printf 'subjectAltName=DNS:localhost,IP:127.0.0.1\nextendedKeyUsage=serverAuth\n' >server.ext
        openssl x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 3650 -extfile server.ext -out server.pem
        cat server.key server.pem >keystore.pem
    ) >"$dir/openssl.log" 2>&1 || die "could not create certificates, see $dir/openssl.log"
}

configure() {
    local n=$1 users
    users='user_bridge="bridge-secret" user_limited="limited-secret"'
    cat >"$config" <<END
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:$((n + 1))
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
listeners=PLAINTEXT://127.0.0.1:$n,CONTROLLER://127.0.0.1:$((n + 1)),SASL_PLAINTEXT://127.0.0.1:$((n + 2)),SASL_SSL://127.0.0.1:$((n + 3)),PROXIED://127.0.0.1:$((n + 4))
advertised.listeners=PLAINTEXT://127.0.0.1:$n,SASL_PLAINTEXT://127.0.0.1:$((n + 2)),SASL_SSL://127.0.0.1:$((n + 3)),PROXIED://127.0.0.1:$((n + 5))
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,PROXIED:PLAINTEXT,CONTROLLER:PLAINTEXT,SASL_PLAINTEXT:SASL_PLAINTEXT,SASL_SSL:SASL_SSL

sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256
listener.name.sasl_plaintext.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required $users;
listener.name.sasl_plaintext.scram-sha-256.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
listener.name.sasl_ssl.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required $users;
listener.name.sasl_ssl.scram-sha-256.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
listener.name.sasl_ssl.ssl.keystore.type=PEM
listener.name.sasl_ssl.ssl.keystore.location=$dir/tls/keystore.pem

authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS
allow.everyone.if.no.acl.found=true

log.dirs=$dir/data
auto.create.topics.enable=true
num.partitions=1
offsets.topic.num.partitions=4
offsets.topic.replication.factor=1
transaction.state.log.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0

log.initial.task.delay.ms=1000
log.retention.check.interval.ms=2000
log.cleaner.backoff.ms=1000
log.segment.delete.delay.ms=1000
END
    # If a setting appears twice, the last one wins.
    [[ ${#set[@]} -eq 0 ]] || printf '%s\n' "${set[@]}" >>"$config"
}

start() {
    local pid libs try chosen other
    if pid=$(running); then
        echo "broker.sh: already running, pid $pid" >&2
        cat "$dir/env"
        return
    fi
    for tool in java openssl ps setsid flock; do
        command -v "$tool" >/dev/null || die "'$tool' not found"
    done
    libs=$("$here/fetch.sh")
    mkdir -p "$dir"
    if [[ -f $dir/port && -z $port ]]; then port=$(<"$dir/port"); fi
    if [[ -n $port ]]; then
        other=$(await_ports "$port" 150) || die "port $other is in use"
    fi
    [[ -f $dir/tls/keystore.pem ]] || certificates
    chosen=$port
    # Another program may take a port before Kafka does.
    for try in 1 2 3; do
        [[ -n $chosen ]] || port=$(free_port)
        # Written at each start, because the port may have changed.
        configure "$port"
        format
        launch
        if await "$pid"; then
            echo "broker.sh: Kafka is running at 127.0.0.1:$port, pid $pid, log $dir/log" >&2
            cat "$dir/env"
            return
        fi
        if ! grep -qE 'Address already in use|Socket server failed to bind' "$dir/log"; then break; fi
        echo "broker.sh: a port between $port and $((port + 4)) is in use, attempt $try" >&2
        # With --port or at a restart the ports must not change, so wait for them.
        if [[ -n $chosen ]]; then await_ports "$port" 150 >/dev/null || break; fi
    done
    tail -n 20 "$dir/log" >&2
    stop
    die "the broker exited or was not ready within 120 s, see $dir/log"
}

format() {
    [[ ! -f $dir/data/meta.properties ]] || return 0
    # The id has 22 base64url characters. It starts with A, because a leading dash would look like an option.
    java -Xmx128m -cp "$libs/*" kafka.tools.StorageTool format --cluster-id "A$(openssl rand 16 | base64 | tr '+/' '-_' | cut -c2-22)" \
        --config "$config" \
        --add-scram 'SCRAM-SHA-256=[name=bridge,password=bridge-secret]' \
        --add-scram 'SCRAM-SHA-256=[name=limited,password=limited-secret]' \
        >"$dir/format.log" 2>&1 || { tail -n 20 "$dir/format.log" >&2; die "could not format the storage"; }
}

launch() {
    [[ ! -f $dir/log ]] || mv "$dir/log" "$dir/log.before"
    # setsid keeps Ctrl-C in the test run away from the broker; the caller stops it.
    setsid java -Xms256m -Xmx768m -XX:+ExitOnOutOfMemoryError ${jvm[@]+"${jvm[@]}"} -Dorg.slf4j.simpleLogger.showDateTime=true \
        -Dorg.slf4j.simpleLogger.dateTimeFormat=HH:mm:ss.SSS -Dorg.slf4j.simpleLogger.showThreadName=false \
        -cp "$libs/*" kafka.Kafka "$config" </dev/null >"$dir/log" 2>&1 &
    pid=$!
    echo "$pid" >"$dir/pid"
    echo "$port" >"$dir/port"
    {
        printf 'export BUTLR_BRIDGE_TEST_KAFKA=%q\n' "127.0.0.1:$port"
        printf 'export BUTLR_BRIDGE_TEST_KAFKA_SASL=%q\n' "127.0.0.1:$((port + 2))"
        printf 'export BUTLR_BRIDGE_TEST_KAFKA_SASL_SSL=%q\n' "127.0.0.1:$((port + 3))"
        printf 'export BUTLR_BRIDGE_TEST_KAFKA_CA=%q\n' "$dir/tls/ca.pem"
        printf 'export BUTLR_BRIDGE_TEST_JAVA_CP=%q\n' "$libs/*"
    } >"$dir/env"
}

# Waits until the broker is ready on all ports.
await() {
    local i
    for ((i = 0; i < 1200; i++)); do
        kill -0 "$1" 2>/dev/null || { rm -f "$dir/pid"; return 1; }
        if grep -q 'Kafka Server started' "$dir/log" && taken "$port" && taken $((port + 2)) && taken $((port + 3)) && taken $((port + 4)); then
            return
        fi
        sleep 0.1
    done
    return 1
}

stop() {
    local pid i
    if pid=$(running); then
        kill -TERM "$pid" 2>/dev/null || true
        # A broker paused by a test (SIGSTOP) cannot exit.
        kill -CONT "$pid" 2>/dev/null || true
        for ((i = 0; i < 200; i++)); do
            running >/dev/null || break
            sleep 0.1
        done
        if running >/dev/null; then
            echo "broker.sh: pid $pid did not exit within 20 s and was killed" >&2
            kill -KILL "$pid" 2>/dev/null || true
            sleep 0.5
        fi
    fi
    rm -f "$dir/pid"
    if $remove && [[ -f $config ]]; then rm -rf "$dir"; fi
}

# Kills the broker without warning, so that it cannot write anything any more.
crash() {
    local pid i
    pid=$(running) || die "not running"
    kill -KILL "$pid"
    for ((i = 0; i < 100; i++)); do
        running >/dev/null || break
        sleep 0.05
    done
    rm -f "$dir/pid"
}

case $command in
    start) start ;;
    stop) stop ;;
    kill) crash ;;
    status)
        if pid=$(running); then
            echo "running, pid $pid, 127.0.0.1:$(<"$dir/port")"
        else
            echo "not running"
            exit 1
        fi
        ;;
    env)
        running >/dev/null || die "not running"
        cat "$dir/env"
        ;;
    help | --help | -h) usage ;;
    *) usage >&2; exit 2 ;;
esac
