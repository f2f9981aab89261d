#!/usr/bin/env bash
# Runs KafkaProbe.java and compiles it only once. The comment in KafkaProbe.java lists the commands.
#
#   probe.sh read 127.0.0.1:9092 TOPIC
#
# The class path is BUTLR_BRIDGE_TEST_JAVA_CP, or the download of fetch.sh. Needs a JDK.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cp=${BUTLR_BRIDGE_TEST_JAVA_CP:-$("$here/fetch.sh")/*}
classes=${cp%%:*}
classes=$(dirname "${classes%/\*}")/probe-$(cksum <"$here/KafkaProbe.java" | tr ' ' '-')

if [[ ! -f $classes/KafkaProbe.class ]]; then
    # Tests run in parallel: each compiles to its own directory, and the first one to finish is kept.
    made=$(mktemp -d "$classes.XXXXXX")
    javac -encoding UTF-8 -cp "$cp" -d "$made" "$here/KafkaProbe.java"
    mv -T "$made" "$classes" 2>/dev/null || rm -rf "$made"
fi
# These flags shorten the start.
exec java -XX:TieredStopAtLevel=1 -XX:+UseSerialGC -Xshare:auto -Xmx512m -cp "$cp:$classes" KafkaProbe "$@"
