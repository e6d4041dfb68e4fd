// Writes src/wire.ts, the types of the HTTP API, from the description that a server of this very
// source serves. `npm run build` and `cargo build -p apix-server` come first.
import { writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import openapiTS, { astToString } from "openapi-typescript";
import { startApix } from "../dist/esm/testing.js";

const apix = await startApix();
try {
  const description = await (await fetch(`${apix.url}/openapi.json`)).json();
  writeFileSync(fileURLToPath(new URL("../src/wire.ts", import.meta.url)), await wireTypes(description));
} finally {
  await apix.stop();
}

async function wireTypes(description) {
  const head = "// Generated from openapi.json by `npm run wire`; test/wire.test.ts keeps it equal. Not edited by hand.\n\n";
  return head + astToString(await openapiTS(description, { emptyObjectsUnknown: true }));
}
