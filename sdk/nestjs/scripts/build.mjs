// Compiles the package twice, as ES modules and as CommonJS, against the client beside it.
import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const tsc = createRequire(import.meta.url).resolve("typescript/bin/tsc");
const run = (cwd, ...args) => execFileSync(process.execPath, args, { cwd, stdio: "inherit" });

const client = join(root, "../typescript");
const link = join(root, "node_modules/@apix/client");
if (!existsSync(link)) {
  mkdirSync(dirname(link), { recursive: true });
  symlinkSync(client, link, "dir");
}
if (!existsSync(join(client, "dist"))) run(client, "scripts/build.mjs");

rmSync(join(root, "dist"), { recursive: true, force: true });
for (const format of ["esm", "cjs"]) run(root, tsc, "-p", `tsconfig.${format}.json`);
// The package itself is of type "module"; this folder is not.
writeFileSync(join(root, "dist/cjs/package.json"), '{ "type": "commonjs" }\n');
