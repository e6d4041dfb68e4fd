// Applications as teams write them, compiled by tsc and run by node, with both versions of NestJS.
import { execFile } from "node:child_process";
import { cpSync, mkdirSync, mkdtempSync, readdirSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { findBinary } from "@apix/client/testing";
import { afterAll, beforeAll, describe, expect, it } from "vitest";

const root = fileURLToPath(new URL("..", import.meta.url));
const client = join(root, "../typescript");
const run = promisify(execFile);

/** A project with `modules` installed and both packages beside them, compiled. */
async function project(modules: string, type: "module" | "commonjs", compilerOptions: object): Promise<string> {
  const path = mkdtempSync(join(tmpdir(), "apix-nestjs-"));
  const installed = join(path, "node_modules");
  mkdirSync(join(installed, "@apix"), { recursive: true });
  for (const name of readdirSync(modules)) {
    if (name !== "@apix" && !name.startsWith(".")) symlinkSync(join(modules, name), join(installed, name));
  }
  // Copied, so that they find this project's NestJS and not the one they were built with.
  for (const [name, from] of [["client", client], ["nestjs", root]] as const) {
    cpSync(join(from, "dist"), join(installed, "@apix", name, "dist"), { recursive: true });
    cpSync(join(from, "package.json"), join(installed, "@apix", name, "package.json"));
  }
  cpSync(join(root, "test/fixtures"), path, { recursive: true });
  writeFileSync(join(path, "package.json"), JSON.stringify({ name: "app", private: true, type }));
  const options = {
    target: "ES2022",
    strict: true,
    useUnknownInCatchVariables: false,
    experimentalDecorators: true,
    emitDecoratorMetadata: true,
    esModuleInterop: true,
    skipLibCheck: true,
    types: ["node"],
    outDir: "out",
    ...compilerOptions,
  };
  writeFileSync(join(path, "tsconfig.json"), JSON.stringify({ compilerOptions: options, include: ["*.ts"] }));
  await run(process.execPath, [join(root, "node_modules/typescript/bin/tsc"), "-p", path]).catch((failed) => {
    throw new Error(failed.stdout);
  });
  return path;
}

async function output(path: string, program: string): Promise<any> {
  const { stdout } = await run(process.execPath, [`out/${program}.js`], {
    cwd: path,
    env: { ...process.env, APIX_BIN: findBinary() },
    timeout: 100_000,
  });
  return JSON.parse(stdout.trim().split("\n").at(-1)!);
}

describe.each([
  ["NestJS 11, CommonJS", join(root, "node_modules"), "commonjs", { module: "CommonJS", moduleResolution: "Node10" }],
  ["NestJS 12, ES modules", join(root, "test/nest12/node_modules"), "module", { module: "NodeNext" }],
] as const)("%s", (_name, modules, type, options) => {
  let path: string;

  beforeAll(async () => {
    path = await project(modules, type, options);
  });

  afterAll(() => path && rmSync(path, { recursive: true, force: true }));

  it("serves Socket.IO clients, each for its tenant, and nothing outlives them", async () => {
    expect(await output(path, "socket-io")).toEqual({
      sameBySymbol: true,
      isolated: [[1], [2]],
      you: { organizationId: "acme", userId: "anna" },
      refused: ["who are you?", "unauthorized"],
      before: 1,
    });
  });

  it("serves ws clients, whose first frame finds its tenant", async () => {
    const result = await output(path, "ws");
    expect(result.data).toEqual([
      [["subscribed", ["notifications"]], ["realtime_update", 1]],
      [["subscribed", ["notifications"]], ["realtime_update", 1]],
      [["subscribed", ["notifications"]], ["realtime_update", 2]],
    ]);
    expect(result.protocol).toBe("app.v1");
    expect(result.refused).toMatch(/401/);
  });

  it("handles events with retries, for the tenants it has", async () => {
    expect(await output(path, "workers")).toEqual({
      calls: [
        "audited acme", "audited acme", "audited acme", "audited acme", "audited acme",
        "audited globex",
        "audited initech",
        "order.lost acme",
        "placed acme 0 1",
        "placed acme 1 1",
        "placed acme 1 2",
        "placed acme 2 1",
        "placed globex 0 1",
        "placed initech 0 1",
      ],
      before: 0,
      dead: ["no use"],
    });
  });
});
