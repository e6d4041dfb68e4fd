// The package as users get it: `npm run build` comes first.
import { execFile } from "node:child_process";
import { cpSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { build } from "vite";
import { findBinary } from "../src/testing.js";

const root = fileURLToPath(new URL("..", import.meta.url));
const run = promisify(execFile);
let folder: string;

/** A project of a user: the package, TypeScript and Node's types are installed. */
function project(name: string, compilerOptions: object, type: "module" | "commonjs"): string {
  const path = join(folder, name);
  mkdirSync(join(path, "node_modules/@apix"), { recursive: true });
  symlinkSync(root, join(path, "node_modules/@apix/client"));
  symlinkSync(join(root, "node_modules/@types"), join(path, "node_modules/@types"));
  writeFileSync(join(path, "package.json"), JSON.stringify({ name, private: true, type }));
  const strict = { target: "ES2022", strict: true, useUnknownInCatchVariables: false, outDir: "out", types: ["node"] };
  writeFileSync(join(path, "tsconfig.json"), JSON.stringify({ compilerOptions: { ...strict, ...compilerOptions }, include: ["*.ts"] }));
  cpSync(join(root, "test/fixtures"), path, { recursive: true });
  return path;
}

/** Compiles a project, with the tools of this one. */
async function compile(path: string): Promise<void> {
  await run(process.execPath, [join(root, "node_modules/typescript/bin/tsc"), "-p", path]).catch((failed) => {
    throw new Error(failed.stdout);
  });
}

/** Runs a program of a project with this checkout's server, and reads what it prints at the end. */
async function output(path: string, args: string[]): Promise<any> {
  const { stdout } = await run(process.execPath, ["--no-warnings", ...args], {
    cwd: path,
    env: { ...process.env, APIX_BIN: findBinary() },
  });
  return JSON.parse(stdout.trim().split("\n").at(-1)!);
}

beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "apix-package-"));
});

afterAll(() => rmSync(folder, { recursive: true, force: true }));

describe("the patterns of a NestJS team", () => {
  it.each([
    ["CommonJS", { module: "CommonJS", moduleResolution: "Node10", esModuleInterop: true }, "commonjs"],
    ["Node16", { module: "Node16" }, "commonjs"],
    ["ESM", { module: "NodeNext" }, "module"],
  ] as const)("compile strictly and run as %s", async (name, options, type) => {
    const path = project(name, options, type);
    await compile(path);
    const result = await output(path, ["out/patterns.js"]);
    expect(result.handled.sort()).toEqual([1, 3]);
    expect(result.failures).toBe(1);
    expect(result.emitted).toEqual(["order.updated", "order.updated", "payment.completed"]);
    expect(result.paid).toMatch(/^\d+-\d+ 1$/);
  });

  it("compile with a bundler's resolution, and without Node's types", async () => {
    const path = project("browser", { module: "ESNext", moduleResolution: "Bundler", lib: ["ES2022", "DOM"], types: [] }, "module");
    rmSync(join(path, "patterns.ts"));
    writeFileSync(
      join(path, "page.ts"),
      `import { TenantMessagingService, userChannel, ApixError } from "@apix/client";
       const messaging = new TenantMessagingService({ url: location.origin, token: async () => "t" });
       const context = { organizationId: "acme", userId: "anna" };
       export const live = messaging.subscribeToRealtimeMessages<{ n: number }>(context, userChannel(context), ({ data }) => data.n.toFixed());
       live.catch((error) => error instanceof ApixError && error.code === "permission_denied");`,
    );
    await compile(path);
  });
});

describe("the package", () => {
  it("speaks over a standard WebSocket too", async () => {
    const path = project("standard", {}, "module");
    const result = await output(path, ["--experimental-websocket", "standard-socket.mjs"]);
    expect(result).toEqual({
      seen: ["äö", 2],
      missed: ["reconnected"],
      subprotocols: ["apix.v1,bearer"],
      refused: "unauthorized",
    });
  });

  it("is bundled for browsers without anything of Node", async () => {
    const path = project("bundle", {}, "module");
    writeFileSync(join(path, "entry.js"), 'export { TenantMessagingService } from "@apix/client";');
    const outDir = join(path, "bundle");
    await build({
      root: path,
      logLevel: "silent",
      build: { outDir, lib: { entry: "entry.js", name: "Apix", formats: ["iife"], fileName: "bundle" } },
    });
    const code = readdirSync(outDir).map((file) => readFileSync(join(outDir, file), "utf8")).join("\n");
    expect(code).toContain("apix-tenant");
    expect(code).not.toMatch(/node:|createHash|258EAFA5/);
    expect(code.length).toBeLessThan(40_000);
  });

  it("needs nothing at run time, and its lock names no host", () => {
    const manifest = JSON.parse(readFileSync(join(root, "package.json"), "utf8"));
    expect(manifest.dependencies).toBeUndefined();
    expect(readFileSync(join(root, "package-lock.json"), "utf8")).not.toContain('"resolved"');
  });
});
