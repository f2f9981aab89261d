#!/bin/sh
# Sends one ROOM_OCCUPANCY event a second, with a new id and the present time; prints what is not answered with 2xx.
set -eu

: "${URL:?}" "${KEY_FILE:?}"
count=0
start=$(date +%s)
while sleep 1; do
    now=$(date +%s)
    count=$((count + 1))
    # What the sender's ids look like: "event_" and 27 characters.
    id=$(printf 'event_demo%013d%010d' "$start" "$count")
    event=$(
        cat <<END
{
  "id": "$id", "type": "ROOM_OCCUPANCY", "timestamp": ${now}000, "version": "v1.0.0",
  "metadata": {
    "org_id": "org_demo", "site_id": "site_demo", "building_id": "building_demo", "floor_id": "space_demo",
    "room_id": "room_demo$((count % 12))", "room_name": "Room $((count % 12))"
  },
  "data": $((now / 60 % 9))
}
END
    )
    # The key goes through a file descriptor: arguments can be seen by every process.
    code=$(
        printf 'x-api-key: %s\n' "$(cat "$KEY_FILE")" |
            curl --silent --output /dev/null --write-out '%{http_code}' --max-time 10 \
                --header @- --header 'content-type: application/json' --data "$event" "$URL"
    ) || true
    case $code in
        2??) ;;
        *) echo "$id: answered ${code:-nothing}" ;;
    esac
done
