#!/usr/bin/env bash
# Runs the example on the embedded broker and on a Redis of its own.
set -euo pipefail
cd "$(dirname "$0")"
npm ci --silent --no-audit --no-fund

folder=$(mktemp -d)
cleanup() {
    if [ -n "${redis:-}" ]; then kill "$redis" 2>/dev/null || true; wait "$redis" 2>/dev/null || true; fi
    rm -rf "$folder"
}
trap cleanup EXIT

# A socket in a fresh folder cannot collide, but the example speaks TCP: take a free port.
port=$(node -e 'const s = require("net").createServer().listen(0, "127.0.0.1", () => { console.log(s.address().port); s.close(); })')
redis-server --bind 127.0.0.1 --port "$port" --dir "$folder" --save '' --logfile "$folder/log" &
redis=$!
for _ in $(seq 100); do redis-cli -p "$port" ping >/dev/null 2>&1 && break; sleep 0.1; done

for broker in embedded memory "redis://127.0.0.1:$port"; do
    cargo run --quiet --locked -p github-events -- --broker "$broker"
done
