#!/usr/bin/env bash
# Downloads Apache Kafka and its dependencies from Maven Central and prints the directory.
#
#   fetch.sh [DIR]      DIR: default <repository>/target/kafka/libs
#
# A directory that was completely filled from this pom.xml is reused. A failed download leaves no partial
# directory and exits with status 1.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
libs=${1:-$here/../../target/kafka/libs}
mkdir -p "$(dirname "$libs")"
libs=$(cd "$(dirname "$libs")" && pwd)/$(basename "$libs")

if [[ -f $libs/.complete ]] && cmp -s "$here/pom.xml" "$libs/.complete"; then
    echo "$libs"
    exit 0
fi

command -v mvn >/dev/null || { echo "fetch.sh: 'mvn' not found; install Maven" >&2; exit 1; }
partial=$libs.partial.$$
trap 'rm -rf "$partial"' EXIT

for try in 1 2 3; do
    rm -rf "$partial"
    if mvn --batch-mode --quiet --file "$here/pom.xml" \
        dependency:copy-dependencies -DincludeScope=runtime -DoutputDirectory="$partial" >&2; then
        break
    fi
    [[ $try -lt 3 ]] || { echo "fetch.sh: the download of Apache Kafka failed $try times" >&2; exit 1; }
    echo "fetch.sh: download failed (attempt $try of 3), retrying in 5 s" >&2
    sleep 5
done

# Maven succeeds even without any dependencies, so check for the essential files.
for jar in kafka_2.13 kafka-clients kafka-server scala-library slf4j-simple; do
    compgen -G "$partial/$jar-[0-9]*.jar" >/dev/null || { echo "fetch.sh: $jar is missing from the download" >&2; exit 1; }
done
cp "$here/pom.xml" "$partial/.complete"
rm -rf "$libs"
mv "$partial" "$libs"
echo "$libs"
