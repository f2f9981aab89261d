#!/usr/bin/env bash
# Runs KafkaProbe.java (its head says what it can do) without compiling it each time: probe.sh read 127.0.0.1:9092 TOPIC
# The class path is BUTLR_BRIDGE_TEST_JAVA_CP, or what fetch.sh downloaded. Needs a JDK.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cp=${BUTLR_BRIDGE_TEST_JAVA_CP:-$("$here/fetch.sh")/*}
classes=${cp%%:*}
classes=$(dirname "${classes%/\*}")/probe-$(cksum <"$here/KafkaProbe.java" | tr ' ' '-')

if [[ ! -f $classes/KafkaProbe.class ]]; then
    # Tests run side by side: each compiles for itself, one wins.
    made=$(mktemp -d "$classes.XXXXXX")
    javac -encoding UTF-8 -cp "$cp" -d "$made" "$here/KafkaProbe.java"
    mv -T "$made" "$classes" 2>/dev/null || rm -rf "$made"
fi
# The flags make a short run cheap.
exec java -XX:TieredStopAtLevel=1 -XX:+UseSerialGC -Xshare:auto -Xmx512m -cp "$cp:$classes" KafkaProbe "$@"
