import type { Schemas } from "./schemas.js";

/** What a server can answer, as listed in its OpenAPI document. */
export type ServerErrorCode = Schemas["ErrorCode"];

/** What this client finds by itself. */
export type ClientErrorCode =
  /** No answer: the network, a time limit, or something that is not APIX. */
  | "unreachable"
  /** The service, connection or subscription was ended on this side. */
  | "closed"
  /** More messages wait for a connection than the offline queue holds. */
  | "queue_full"
  /** The tenant is suspended (close code 4003). */
  | "tenant_suspended"
  /** Too many live connections or channels (close code 4009). */
  | "limit_reached"
  /** The operator ended the connection (close code 4013). */
  | "ended_by_operator";

/** The code of an {@link ApixError}. A newer server may send codes that are not listed here. */
export type ApixErrorCode = ServerErrorCode | ClientErrorCode | (string & {});

const RETRYABLE_CODES: ReadonlySet<string> = new Set<ServerErrorCode | ClientErrorCode>([
  "unreachable",
  "request_timeout",
  "unavailable",
  "durability_unmet",
  "shutting_down",
  "storage_full",
  "limit_reached",
]);

const RETRYABLE_STATUS: ReadonlySet<number> = new Set([408, 429, 502, 503, 504, 507]);

/** Failures after which it is certain that nothing was done. */
const HARMLESS_CODES: ReadonlySet<string> = new Set<ServerErrorCode>(["shutting_down", "storage_full"]);

export interface ApixErrorDetails {
  /** The HTTP status; 0 if there was no answer. */
  status?: number;
  requestId?: string | undefined;
  retryAfterMs?: number | undefined;
  /** Whether the call may have taken effect in spite of the failure. */
  mayHaveTakenEffect?: boolean;
  cause?: unknown;
}

/** Every failure that this client reports. */
export class ApixError extends Error {
  override readonly name = "ApixError";
  /** What went wrong, for programs. */
  readonly code: ApixErrorCode;
  /** The HTTP status, or 0 if there was none. */
  readonly status: number;
  /** Names the request in the server's log. */
  readonly requestId: string | undefined;
  /** Whether the same call may succeed later. */
  readonly retryable: boolean;
  /** How long the server asks to wait. */
  readonly retryAfterMs: number | undefined;
  /** Whether the call may have taken effect all the same. */
  readonly mayHaveTakenEffect: boolean;

  constructor(code: ApixErrorCode, message: string, details: ApixErrorDetails = {}) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause });
    this.code = code;
    this.status = details.status ?? 0;
    this.requestId = details.requestId;
    this.retryAfterMs = details.retryAfterMs;
    this.retryable = RETRYABLE_CODES.has(code) || RETRYABLE_STATUS.has(this.status);
    this.mayHaveTakenEffect = details.mayHaveTakenEffect ?? false;
  }

  /** The error that an HTTP answer stands for. */
  static fromAnswer(status: number, body: string, retryAfter: string | null): ApixError {
    const retryAfterMs = parseRetryAfter(retryAfter);
    const told = parseErrorBody(body);
    const code = told?.code ?? codeOfStatus(status);
    const message = told?.message ?? `the server answered ${status}; is it an APIX server?`;
    const mayHaveTakenEffect = status >= 500 && status !== 501 && !HARMLESS_CODES.has(code);
    return new ApixError(code, message, {
      status,
      requestId: told?.requestId,
      retryAfterMs,
      mayHaveTakenEffect,
    });
  }
}

/** The error of a call that is wrong in itself, found before anything was sent. */
export function invalid(message: string): ApixError {
  return new ApixError("invalid_request", message);
}

/** `error` as an {@link ApixError}; what is none was not foreseen, and counts as unreachable. */
export function asApixError(error: unknown): ApixError {
  if (error instanceof ApixError) return error;
  const message = error instanceof Error ? error.message : String(error);
  return new ApixError("unreachable", message, { cause: error });
}

function parseErrorBody(body: string): Schemas["Error"]["error"] | undefined {
  try {
    const { error } = JSON.parse(body) as Partial<Schemas["Error"]>;
    if (typeof error?.code !== "string" || typeof error.message !== "string") return undefined;
    return error;
  } catch {
    return undefined;
  }
}

/** A code for what a proxy in between answered. */
function codeOfStatus(status: number): ServerErrorCode | ClientErrorCode {
  if (status === 401) return "unauthorized";
  if (status === 403) return "permission_denied";
  if (status === 404) return "not_found";
  if (status === 408) return "request_timeout";
  if (status === 413) return "too_large";
  if (status === 429) return "limit_reached";
  if (status === 502 || status === 503 || status === 504) return "unavailable";
  return status >= 500 ? "internal" : "invalid_request";
}

/** Milliseconds of a `Retry-After` in seconds or as a date. */
function parseRetryAfter(value: string | null): number | undefined {
  if (value === null) return undefined;
  const seconds = Number(value);
  if (Number.isFinite(seconds)) return Math.max(0, seconds * 1_000);
  const at = Date.parse(value);
  return Number.isNaN(at) ? undefined : Math.max(0, at - Date.now());
}
