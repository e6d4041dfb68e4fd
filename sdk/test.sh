#!/usr/bin/env bash
# Installs, builds and tests both packages against a real server: the one that APIX_BIN names, or
# else this checkout's. What the tests write is in a folder of its own, which is removed.
set -euo pipefail
cd "$(dirname "$0")"

if [[ -z "${APIX_BIN:-}" ]]; then
  (cd .. && cargo build -p apix-server)
  APIX_BIN="$(cd .. && pwd)/target/debug/apix"
fi
export APIX_BIN

TMPDIR="$(mktemp -d)"
export TMPDIR
trap 'rm -rf "$TMPDIR"' EXIT

npm_ci() {
  npm ci --prefix "$1" --no-progress --loglevel=error
}

test_package() {
  npm run --prefix "$1" --silent check
  npm test --prefix "$1" --silent -- --reporter=default --reporter=json --outputFile.json="$TMPDIR/$1.json"
}

npm_ci typescript
test_package typescript
npm_ci nestjs
npm_ci nestjs/test/nest12
# Its check needs what the build links.
npm run --prefix nestjs --silent build
test_package nestjs

node -e '
  const runs = process.argv.slice(1).map((path) => JSON.parse(require("fs").readFileSync(path, "utf8")));
  const sum = (what) => runs.reduce((all, run) => all + run[what], 0);
  console.log(`sdk: ${sum("numPassedTests")} passed, ${sum("numFailedTests")} failed`);
' "$TMPDIR/typescript.json" "$TMPDIR/nestjs.json"
