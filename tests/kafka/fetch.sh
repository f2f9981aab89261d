#!/usr/bin/env bash
# Downloads Apache Kafka and its dependencies from Maven Central into a folder and prints that folder.
#
#   fetch.sh [DIR]      DIR: default <repository>/target/kafka/libs
#
# A folder that is complete (it was filled from this pom.xml) is used as it is; a download that fails leaves no
# half-filled folder behind and ends with status 1.
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
    [[ $try -lt 3 ]] || { echo "fetch.sh: downloading Apache Kafka failed $try times" >&2; exit 1; }
    echo "fetch.sh: download failed (try $try of 3), trying again in 5 s" >&2
    sleep 5
done

# Maven calls an empty dependency list a success; a Kafka without these is none.
for jar in kafka_2.13 kafka-clients kafka-server scala-library slf4j-simple; do
    compgen -G "$partial/$jar-[0-9]*.jar" >/dev/null || { echo "fetch.sh: $jar is missing from the download" >&2; exit 1; }
done
cp "$here/pom.xml" "$partial/.complete"
rm -rf "$libs"
mv "$partial" "$libs"
echo "$libs"
