import { readFileSync } from "node:fs";
import openapiTS, { astToString } from "openapi-typescript";
import { expect, it } from "vitest";
import { startApix } from "../src/testing.js";

it("the wire types are those of the description that the server gives", async () => {
  const apix = await startApix();
  try {
    const description = await (await fetch(`${apix.url}/openapi.json`)).json();
    const generated = astToString(await openapiTS(description as any, { emptyObjectsUnknown: true }));
    const committed = readFileSync(new URL("../src/wire.ts", import.meta.url), "utf8");
    expect(committed.slice(committed.indexOf("\n\n") + 2), "run npm run wire").toBe(generated);
  } finally {
    await apix.stop();
  }
});
