#!/usr/bin/env bash
# Runs check.sh with a live bridge: starts the bridge and a Prometheus that scrapes it, sends events of
# all types (and some that are refused) for half a minute, then checks that each query of the dashboard
# returns data.
#
#   live-check.sh PROGRAM BOOTSTRAP [options for check.sh]
#
# PROGRAM is a butlr-bridge binary. BOOTSTRAP is the address of a Kafka, on which topics with the prefix
# live-check are created. Needs prometheus, promtool, curl and the tools for check.sh.
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
# So short that some events are spooled although Kafka is healthy.
confirm_within = "10ms"
[topics]
template = "live-check.{type}.v1"
quarantine = "live-check.quarantine.v1"
[spool]
dir = "$work/spool"
min_free_bytes = "64MiB"
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
    echo "live-check.sh: $1 did not return 200 within 30 s" >&2
    tail -n 20 "$2" >&2
    exit 1
}
wait_for "http://127.0.0.1:$admin/readyz" "$work/bridge.log"
wait_for "http://127.0.0.1:$prom/-/ready" "$work/prometheus.log"

# It takes a moment until the bridge sees the topics that it has just created.
for ((i = 0; i < 150; i++)); do
    curl --silent --output "$work/metrics" "http://127.0.0.1:$admin/metrics"
    [[ $(grep -c '^butlr_bridge_kafka_topic_available{.*} 1$' "$work/metrics") -lt 11 ]] || break
    sleep 0.2
done

# An accelerated city with copies, corrections and invalid events; then a request with a wrong key, and
# an id that is used twice.
url=http://127.0.0.1:$ingest/v1/events
"$bridge" simulate --url "$url" --api-key-file "x-api-key=$work/key" --spaces 10 --rate 400 --invalid 1% --redelivered 3% \
    --corrected 3% --stale 3% --duration 30s --output "$work/ledger.json" >"$work/simulate.log" 2>&1
post() { # post KEY: sends standard input and prints the status of the response
    curl --silent --output /dev/null --write-out '%{http_code}' --max-time 10 --header "x-api-key: $1" \
        --header 'content-type: application/json' --data-binary @- "$url" || true
}
wrong_key=$(post wrong <"$root/tests/events/traffic.json")
twice=$(for count in 1 2; do sed -E "s/\"in\": *[0-9]+/\"in\": $count/" "$root/tests/events/traffic.json" | post "$(<"$work/key")"; done)
# Time for one more scrape.
sleep 3
answers=$(python3 -c 'import json, sys; print(*json.load(open(sys.argv[1]))["answers"])' "$work/ledger.json")
echo "responses to the simulator: $answers; with a wrong key: $wrong_key"
if [[ ! $answers =~ ^200\ (202\ )?400\ 422$ || $wrong_key != 401 ]]; then
    tail -n 20 "$work/bridge.log" "$work/simulate.log" >&2
    echo "live-check.sh: expected 200 (and 202), 400 and 422, and 401 for the wrong key" >&2
    exit 1
fi

# The metrics of duplicates, the spool and the quarantine must not all be 0.
curl --silent --output "$work/metrics" "http://127.0.0.1:$admin/metrics"
for series in 'duplicates_total{kind="redelivery"' 'duplicates_total{kind="repeat"' revisions_total stale_total out_of_order_total \
    'events_total{outcome="spooled"' 'events_total{outcome="quarantined"' spool_spooled_total spool_commit_duration_seconds_count \
    id_conflicts_total 'dedup_entries{kind="ids"' 'dedup_entries{kind="readings"' 'dedup_entries{kind="sources"'; do
    if ! grep "^butlr_bridge_$series" "$work/metrics" | grep --quiet --invert-match ' 0$'; then
        echo "live-check.sh: butlr_bridge_$series is still 0 (responses to the id used twice: $twice)" >&2
        exit 1
    fi
done

"$here/check.sh" --bridge "$bridge" --metrics "http://127.0.0.1:$admin/metrics" --prometheus "http://127.0.0.1:$prom" "$@"
