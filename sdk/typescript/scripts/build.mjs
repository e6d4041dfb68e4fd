// Compiles the package twice, as ES modules and as CommonJS: plain tsc, no bundler.
import { execFileSync } from "node:child_process";
import { rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const tsc = createRequire(import.meta.url).resolve("typescript/bin/tsc");

rmSync(join(root, "dist"), { recursive: true, force: true });
for (const format of ["esm", "cjs"]) {
  execFileSync(process.execPath, [tsc, "-p", `tsconfig.${format}.json`], { cwd: root, stdio: "inherit" });
}
// The package itself is of type "module"; this folder is not.
writeFileSync(join(root, "dist/cjs/package.json"), '{ "type": "commonjs" }\n');
