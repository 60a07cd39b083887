#!/bin/sh
# One HTTP answer on the standard streams: QEMU's user network runs this for each connection that the guest
# makes to 10.0.2.100:80 (`guestfwd`), so the demo needs no port and no server of the host's.
# QEMU starts it in the system file's folder.
payload=../../target/guest/payload.bin
while IFS= read -r line; do
    case "$line" in "" | "$(printf '\r')") break ;; esac
done
printf 'HTTP/1.0 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: %s\r\nConnection: close\r\n\r\n' \
    "$(wc -c < "$payload")"
exec cat "$payload"
