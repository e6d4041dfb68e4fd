import { Backoff, pause, type RetryOptions } from "./backoff.js";
import { checkContext, type TenantContext } from "./context.js";
import type { Credential, Credentials } from "./credentials.js";
import { ApixError, asApixError } from "./error.js";

export interface Call {
  method: "GET" | "POST" | "PUT" | "DELETE";
  /** Parts of the path after `/v1`, not yet escaped. */
  path: readonly string[];
  query?: Record<string, string | number | undefined>;
  /** JSON text. */
  body?: string;
  accept?: string;
  /** Whether the call may be repeated when it is not known whether it took effect. */
  repeatable: boolean;
  /** How long the server itself may take before it answers. */
  waitMs?: number;
  signal?: AbortSignal | undefined;
}

export interface HttpOptions {
  url: string | URL;
  fetch?: typeof fetch | undefined;
  retry?: RetryOptions | undefined;
  /** How long an answer may take (default 30 s), not counting the wait that a read asks for. */
  timeoutMs?: number | undefined;
}

/** What fetch says when the request never left: it is certain that nothing was done. */
const NEVER_SENT = new Set([
  "ECONNREFUSED",
  "ENOTFOUND",
  "EAI_AGAIN",
  "EHOSTUNREACH",
  "ENETUNREACH",
  "UND_ERR_CONNECT_TIMEOUT",
]);

class TokenFailure extends Error {}

/** HTTP calls, with a credential, a time limit and retries. */
export class Http {
  readonly base: URL;
  private readonly fetch: typeof fetch;
  private readonly backoff: Backoff;
  private readonly giveUpAfterMs: number;
  private readonly timeoutMs: number;

  constructor(
    options: HttpOptions,
    private readonly credentials: Credentials,
  ) {
    this.base = parseBase(options.url);
    // Bound, because browsers refuse to be called on another object.
    this.fetch = options.fetch ?? globalThis.fetch.bind(globalThis);
    const retry = options.retry ?? {};
    this.backoff = new Backoff(retry.firstDelayMs ?? 100, retry.longestDelayMs ?? 5_000);
    this.giveUpAfterMs = retry.giveUpAfterMs ?? 120_000;
    this.timeoutMs = options.timeoutMs ?? 30_000;
  }

  /** The text of the answer. */
  async text(context: TenantContext, call: Call): Promise<string> {
    checkContext(context);
    return this.retrying(call, () =>
      this.once(context, call, async (response, limit) => {
        const text = await response.text();
        limit.release();
        return text;
      }),
    );
  }

  /** The parsed answer. */
  async json<T>(context: TenantContext, call: Call): Promise<T> {
    return parseAnswer<T>(await this.text(context, call));
  }

  /** The answer as it comes in; only its beginning is bound in time, and retried. */
  async body(context: TenantContext, call: Call): Promise<ReadableStream<Uint8Array>> {
    checkContext(context);
    return this.retrying(call, () =>
      this.once(context, call, async (response, limit) => {
        limit.stopClock();
        if (!response.body) throw new ApixError("unreachable", "the answer has no body");
        return response.body;
      }),
    );
  }

  private async retrying<T>(call: Call, attempt: () => Promise<T>): Promise<T> {
    let firstFailure: number | undefined;
    for (let failures = 0; ; failures += 1) {
      try {
        return await attempt();
      } catch (fault) {
        if (call.signal?.aborted) throw call.signal.reason;
        // A token function is not retried: it knows best what its failures mean.
        if (fault instanceof TokenFailure) throw fault.cause;
        const error = asApixError(fault);
        if (!isRetriedInside(error) || (error.mayHaveTakenEffect && !call.repeatable)) throw error;
        const now = Date.now();
        firstFailure ??= now;
        const delay = this.backoff.delay(failures) + (error.retryAfterMs ?? 0);
        if (now + delay - firstFailure > this.giveUpAfterMs) throw error;
        await pause(delay, call.signal);
      }
    }
  }

  /** One attempt; a refused token is replaced once. */
  private async once<T>(
    context: TenantContext,
    call: Call,
    read: (response: Response, limit: Limit) => Promise<T>,
  ): Promise<T> {
    for (let renewed = false; ; renewed = true) {
      const credential = await this.credential(context);
      const limit = new Limit(this.timeoutMs + (call.waitMs ?? 0), call.signal);
      try {
        const response = await this.fetch(this.address(call), this.request(context, call, credential, limit));
        if (response.ok) return await read(response, limit);
        const error = ApixError.fromAnswer(
          response.status,
          await response.text(),
          response.headers.get("retry-after"),
        );
        if (error.status !== 401 || renewed || !this.credentials.renewable) throw error;
        this.credentials.refused(context, credential);
        limit.release();
      } catch (fault) {
        limit.release();
        if (fault instanceof ApixError) throw fault;
        throw noAnswer(this.base, fault, limit);
      }
    }
  }

  private async credential(context: TenantContext): Promise<Credential> {
    try {
      return await this.credentials.get(context);
    } catch (cause) {
      throw new TokenFailure("no token", { cause });
    }
  }

  private request(
    context: TenantContext,
    call: Call,
    credential: Credential,
    limit: Limit,
  ): RequestInit {
    const headers: Record<string, string> = {
      authorization: `Bearer ${credential.token}`,
      accept: call.accept ?? "application/json",
      ...this.credentials.callHeaders(context),
    };
    if (call.body !== undefined) headers["content-type"] = "application/json";
    return {
      method: call.method,
      headers,
      ...(call.body === undefined ? {} : { body: call.body }),
      signal: limit.signal,
      redirect: "error",
      cache: "no-store",
      credentials: "omit",
    };
  }

  private address(call: Call): URL {
    const url = new URL(`v1/${call.path.map(pathPart).join("/")}`, this.base);
    for (const [name, value] of Object.entries(call.query ?? {})) {
      if (value !== undefined) url.searchParams.set(name, String(value));
    }
    return url;
  }
}

/** A time limit and the caller's signal in one. */
class Limit {
  private readonly controller = new AbortController();
  private readonly timer: ReturnType<typeof setTimeout>;
  private readonly onAbort = () => this.controller.abort(this.outer?.reason);
  ended = false;

  constructor(
    readonly ms: number,
    private readonly outer: AbortSignal | undefined,
  ) {
    this.timer = setTimeout(() => {
      this.ended = true;
      this.controller.abort();
    }, ms);
    if (outer?.aborted) this.onAbort();
    else outer?.addEventListener("abort", this.onAbort, { once: true });
  }

  get signal(): AbortSignal {
    return this.controller.signal;
  }

  /** The answer has begun; from here on only the caller ends it. */
  stopClock(): void {
    clearTimeout(this.timer);
  }

  release(): void {
    clearTimeout(this.timer);
    this.outer?.removeEventListener("abort", this.onAbort);
  }
}

function isRetriedInside(error: ApixError): boolean {
  // A full disk does not empty itself within a call.
  return error.retryable && error.code !== "storage_full";
}

function noAnswer(base: URL, fault: unknown, limit: Limit): ApixError {
  const cause = (fault as { cause?: { code?: string; message?: string } }).cause;
  const neverSent = cause?.code !== undefined && NEVER_SENT.has(cause.code);
  const said = limit.ended
    ? `no answer within ${limit.ms} ms`
    : (cause?.message ?? (fault instanceof Error ? fault.message : String(fault)));
  return new ApixError("unreachable", `${base.origin}: ${said}`, {
    cause: fault,
    mayHaveTakenEffect: !neverSent,
  });
}

export function parseAnswer<T>(text: string): T {
  try {
    return JSON.parse(text) as T;
  } catch (fault) {
    throw new ApixError("unreachable", "the answer is not JSON; is it an APIX server?", {
      cause: fault,
      mayHaveTakenEffect: true,
    });
  }
}

function pathPart(name: string): string {
  if (typeof name !== "string" || name === "" || name === "." || name === "..") {
    throw new ApixError("invalid_name", `the name ${JSON.stringify(name)} cannot stand in an address`);
  }
  return encodeURIComponent(name).replaceAll("%3A", ":");
}

function parseBase(url: string | URL): URL {
  let base: URL;
  try {
    base = new URL(url);
  } catch {
    throw new ApixError("invalid_request", `url ${JSON.stringify(String(url))} is not an address; it looks like http://127.0.0.1:2749`);
  }
  if (base.protocol !== "http:" && base.protocol !== "https:") {
    throw new ApixError("invalid_request", `url ${base.href} must begin with http:// or https://`);
  }
  base.search = "";
  base.hash = "";
  if (!base.pathname.endsWith("/")) base.pathname += "/";
  return base;
}
