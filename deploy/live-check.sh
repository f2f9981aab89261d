#!/usr/bin/env bash
# Runs check.sh against a bridge at work: starts the bridge and a Prometheus that scrapes it, sends events of all types (and
# some that are refused) for half a minute, then looks for data behind each query of the dashboard.
#
#   live-check.sh PROGRAM BOOTSTRAP [options for check.sh]
#
# PROGRAM is a butlr-bridge, BOOTSTRAP a Kafka, where it creates its topics under the prefix live-check. Needs prometheus,
# promtool, curl and what check.sh needs.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(dirname "$here")
[[ $# -ge 2 ]] || { sed -n '2,/^set -/{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}" >&2; exit 2; }
bridge=$(realpath "$1") bootstrap=$2
shift 2
for tool in prometheus promtool curl python3; do
    command -v "$tool" >/dev/null || { echo "live-check.sh: '$tool' not found" >&2; exit 1; }
done
work=$(mktemp -d)

pids=()
finish() {
    local pid
    for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
    wait 2>/dev/null || true
    rm -rf "$work"
}
trap finish EXIT
trap 'exit 1' INT TERM

read -r ingest admin prom < <(python3 - <<'END'
import socket
sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
print(*(s.getsockname()[1] for s in sockets))
END
)

printf 'live-check-secret-%s' "$RANDOM$RANDOM$RANDOM" >"$work/key"
cat >"$work/bridge.toml" <<END
[http]
bind = "127.0.0.1:$ingest"
[admin]
bind = "127.0.0.1:$admin"
[kafka]
bootstrap_servers = "$bootstrap"
[topics]
template = "live-check.{type}.v1"
[[auth.api_keys]]
name = "live-check"
header = "x-api-key"
value_file = "$work/key"
END
"$bridge" serve --config "$work/bridge.toml" --create-topics >"$work/bridge.log" 2>&1 &
pids+=($!)

sed -e "s/bridge:9464/127.0.0.1:$admin/" -e 's/scrape_interval: 5s/scrape_interval: 2s/' "$here/prometheus/prometheus.yml" >"$work/prometheus.yml"
cp "$here/prometheus/alerts.yml" "$work/"
prometheus --config.file="$work/prometheus.yml" --storage.tsdb.path="$work/data" --web.listen-address="127.0.0.1:$prom" \
    --log.level=warn >"$work/prometheus.log" 2>&1 &
pids+=($!)

wait_for() { # wait_for URL LOG
    local i
    for ((i = 0; i < 150; i++)); do
        ! curl --silent --fail --output /dev/null "$1" || return 0
        sleep 0.2
    done
    echo "live-check.sh: $1 did not answer 200 within 30 s" >&2
    tail -n 20 "$2" >&2
    exit 1
}
wait_for "http://127.0.0.1:$admin/readyz" "$work/bridge.log"
wait_for "http://127.0.0.1:$prom/-/ready" "$work/prometheus.log"

# Topics that were just created take a moment to be seen.
for ((i = 0; i < 150; i++)); do
    curl --silent --output "$work/metrics" "http://127.0.0.1:$admin/metrics"
    [[ $(grep -c '^butlr_bridge_kafka_topic_available{.*} 1$' "$work/metrics") -lt 10 ]] || break
    sleep 0.2
done

send() { # send FILE KEY: prints the status
    curl --silent --output /dev/null --write-out '%{http_code}\n' --max-time 10 --header "x-api-key: $2" \
        --header 'content-type: application/json' --data-binary "@$1" "http://127.0.0.1:$ingest/v1/events" || true
}
echo '{"id": "bad", "type": "TRAFFIC"}' >"$work/bad.json"
number=0
until ((SECONDS > 40)); do
    for event in "$root"/tests/events/*.json; do
        number=$((number + 1))
        # A new id and the present time.
        sed -e "s/\"id\": \"event_[^\"]*\"/\"id\": \"event_live_check_$number\"/" -e "s/\"timestamp\": [0-9]*/\"timestamp\": $(date +%s%3N)/" \
            "$event" >"$work/event.json"
        send "$work/event.json" "$(<"$work/key")" >>"$work/answers"
    done
    send "$work/bad.json" "$(<"$work/key")" >>"$work/answers"
    send "$work/event.json" wrong >>"$work/answers"
    sleep 0.5
done
# Prometheus reads them once more.
sleep 3
echo "answers by status: $(sort "$work/answers" | uniq -c | awk '{printf "%s%s times %s", sep, $1, $2; sep = ", "}')"
if [[ $(sort -u "$work/answers" | tr '\n' ' ') != "200 401 422 " ]]; then
    tail -n 20 "$work/bridge.log" >&2
    echo "live-check.sh: 200, 401 and 422 were expected" >&2
    exit 1
fi

"$here/check.sh" --bridge "$bridge" --metrics "http://127.0.0.1:$admin/metrics" --prometheus "http://127.0.0.1:$prom" "$@"
