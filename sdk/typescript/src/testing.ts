// A private server for tests. Node only.
import { type ChildProcess, spawn } from "node:child_process";
import { createHmac, randomBytes } from "node:crypto";
import { existsSync, rmSync, statSync } from "node:fs";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { delimiter, dirname, join, resolve } from "node:path";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";

export interface StartOptions {
  /** The tenant of `token` (default `test`). */
  organizationId?: string;
  /** Keeps events in a folder of the server, so that they outlive a restart (default: in memory). */
  durable?: boolean;
  /** Another broker, such as `redis://127.0.0.1:6379`. */
  broker?: string;
  /** The program (default: APIX_BIN, else the newest of target/release and target/debug upwards, else PATH). */
  binary?: string;
  /** More of `apix.toml`. */
  config?: string;
  /** How long the server may take to begin and to end (default 20,000 ms). */
  timeoutMs?: number;
}

export interface TokenClaims {
  organizationId?: string;
  userId?: string;
  /** Default `["admin"]`. */
  permissions?: string[];
  /** Default one hour. */
  ttlSeconds?: number;
}

/** A server of a test. */
export interface PrivateApix {
  readonly url: string;
  readonly organizationId: string;
  /** An API key with all rights of the tenant. */
  readonly token: string;
  /** An API key that may act for every tenant. */
  readonly serviceKey: string;
  /** A signed JSON Web Token. */
  tokenFor(claims?: TokenClaims): string;
  /** Ends the server and starts it again at the same address. `kill` gives it no time to finish. */
  restart(options?: { kill?: boolean; downMs?: number }): Promise<void>;
  /** Ends the server and removes its folder. */
  stop(): Promise<void>;
}

/** Starts a server of its own on a free port of this machine. */
export async function startApix(options: StartOptions = {}): Promise<PrivateApix> {
  const folder = await mkdtemp(join(tmpdir(), "apix-test-"));
  const server = new Server(folder, options);
  try {
    await server.prepare();
    await server.start("127.0.0.1:0");
  } catch (error) {
    await server.stop();
    throw error;
  }
  return server;
}

class Server implements PrivateApix {
  readonly organizationId: string;
  readonly token = randomKey();
  readonly serviceKey = randomKey();
  url = "";
  private readonly secret = randomKey();
  private readonly timeoutMs: number;
  private child: ChildProcess | undefined;
  private log = "";
  /** A test that fails without stopping its server leaves nothing behind either. */
  private readonly onExit = () => {
    this.child?.kill("SIGKILL");
    rmSync(this.folder, { recursive: true, force: true });
  };

  constructor(
    private readonly folder: string,
    private readonly options: StartOptions,
  ) {
    this.organizationId = options.organizationId ?? "test";
    this.timeoutMs = options.timeoutMs ?? 20_000;
  }

  async prepare(): Promise<void> {
    const { organizationId, secret, token, serviceKey } = this;
    const config = `
[[auth.jwt_keys]]
algorithm = "HS256"
secret = "${secret}"
tenants = ["*"]

[[auth.api_keys]]
name = "test"
key = "${token}"
organization_id = "${organizationId}"
permissions = ["admin"]

[[auth.api_keys]]
name = "service"
key = "${serviceKey}"
organization_id = "${organizationId}"
permissions = ["admin", "tenants:act-as:*"]
${this.options.config ?? ""}`;
    await writeFile(join(this.folder, "apix.toml"), config, { mode: 0o600 });
    process.once("exit", this.onExit);
  }

  async start(listen: string): Promise<void> {
    const broker = this.options.broker ?? (this.options.durable ? `embedded:${join(this.folder, "data")}` : "memory:");
    const args = ["serve", "--json", "--listen", listen, "--broker", broker, "--config", join(this.folder, "apix.toml")];
    const env = Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith("APIX_")));
    const child = spawn(findBinary(this.options.binary), args, {
      cwd: this.folder,
      env,
      stdio: ["ignore", "pipe", "pipe"],
    });
    this.child = child;
    child.stderr.on("data", (bytes: Buffer) => {
      this.log = (this.log + bytes.toString()).slice(-8_192);
    });
    this.url = await this.ready(child);
  }

  tokenFor(claims: TokenClaims = {}): string {
    const { organizationId = this.organizationId, userId, permissions = ["admin"], ttlSeconds = 3_600 } = claims;
    const exp = Math.floor(Date.now() / 1_000) + ttlSeconds;
    const signed = [{ alg: "HS256", typ: "JWT" }, { organizationId, sub: userId, permissions, exp }]
      .map((part) => Buffer.from(JSON.stringify(part)).toString("base64url"))
      .join(".");
    return `${signed}.${createHmac("sha256", this.secret).update(signed).digest("base64url")}`;
  }

  async restart({ kill = false, downMs = 0 }: { kill?: boolean; downMs?: number } = {}): Promise<void> {
    await this.end(kill ? "SIGKILL" : "SIGTERM");
    await sleep(downMs);
    await this.start(new URL(this.url).host);
  }

  async stop(): Promise<void> {
    process.removeListener("exit", this.onExit);
    await this.end("SIGTERM");
    await rm(this.folder, { recursive: true, force: true });
  }

  private async end(signal: NodeJS.Signals): Promise<void> {
    const { child } = this;
    if (!child || child.exitCode !== null || child.signalCode !== null) return;
    const ended = new Promise((resolve) => child.once("exit", resolve));
    child.kill(signal);
    const timer = setTimeout(() => child.kill("SIGKILL"), this.timeoutMs);
    await ended;
    clearTimeout(timer);
  }

  /** The address that the server prints when it is ready. */
  private ready(child: ChildProcess): Promise<string> {
    return new Promise((resolve, reject) => {
      const fail = (what: string) => {
        clearTimeout(timer);
        reject(new Error(`${what}\n${this.log}`));
      };
      const timer = setTimeout(() => fail(`apix was not ready within ${this.timeoutMs} ms`), this.timeoutMs);
      child.once("error", (fault) => fail(`apix cannot be started: ${fault.message}`));
      child.once("exit", (code, signal) => fail(`apix ended with ${signal ?? code}`));
      createInterface({ input: child.stdout as NodeJS.ReadableStream }).once("line", (line) => {
        clearTimeout(timer);
        resolve((JSON.parse(line) as { url: string }).url);
      });
    });
  }
}

function randomKey(): string {
  return randomBytes(32).toString("hex");
}

/** The program that is named by `given` or APIX_BIN, the newest build upwards, or the one that PATH finds. */
export function findBinary(given?: string): string {
  const named = given ?? process.env.APIX_BIN;
  if (named) return resolve(named);
  for (let folder = process.cwd(); ; folder = dirname(folder)) {
    const builds = ["release", "debug"].map((profile) => join(folder, "target", profile, "apix")).filter(existsSync);
    const [newest] = builds.sort((a, b) => statSync(b).mtimeMs - statSync(a).mtimeMs);
    if (newest) return newest;
    if (folder === dirname(folder)) break;
  }
  const found = (process.env.PATH ?? "")
    .split(delimiter)
    .map((folder) => join(folder, "apix"))
    .find((path) => existsSync(path));
  if (found) return found;
  throw new Error("there is no apix: build it (cargo build -p apix-server), or name it by APIX_BIN");
}
