import { contextKey, type TenantContext } from "./context.js";
import { ApixError } from "./error.js";

/** Gives the token of a context: asked again when the old one ends or is refused. */
export type TokenFunction = (context: TenantContext) => string | Promise<string>;

export interface Credential {
  readonly token: string;
  /** When the token ends, Unix milliseconds, as far as it says so. */
  readonly expiresAt: number | undefined;
}

/** Where the credential of a call comes from. */
export interface Credentials {
  /** Whether another one can be had when this one is refused. */
  readonly renewable: boolean;
  /** Contexts of one key may share requests. */
  callKey(context: TenantContext): string;
  /** Contexts of one key may share live connections. */
  liveKey(context: TenantContext): string;
  get(context: TenantContext): Promise<Credential>;
  /** The server refused it: it is not given again. */
  refused(context: TenantContext, credential: Credential): void;
  /** Headers that name the tenant (and user) of a call or connection. */
  callHeaders(context: TenantContext): Record<string, string>;
  liveHeaders(context: TenantContext): Record<string, string>;
}

/** A token that ends sooner than this is not used for a new call. */
const SPARE_MS = 5_000;
/** Contexts whose tokens are kept. */
const MAX_KEPT = 1_000;

interface Kept {
  asked: Promise<Credential>;
  /** What was given, once it was. */
  credential?: Credential;
}

/** Tokens of a function, kept until they end. */
export class TokenCredentials implements Credentials {
  readonly renewable = true;
  private readonly kept = new Map<string, Kept>();

  constructor(private readonly token: TokenFunction) {}

  callKey(context: TenantContext): string {
    return contextKey(context);
  }

  liveKey(context: TenantContext): string {
    return contextKey(context);
  }

  get(context: TenantContext): Promise<Credential> {
    const key = contextKey(context);
    const kept = this.kept.get(key);
    const endsAt = kept?.credential?.expiresAt;
    if (kept && (endsAt === undefined || endsAt > Date.now() + SPARE_MS)) return kept.asked;
    return this.ask(key, context);
  }

  refused(context: TenantContext, credential: Credential): void {
    const key = contextKey(context);
    if (this.kept.get(key)?.credential === credential) this.kept.delete(key);
  }

  /** The token is of one tenant; naming it makes a context of another one an error. */
  callHeaders(context: TenantContext): Record<string, string> {
    return { "apix-tenant": context.organizationId };
  }

  liveHeaders(context: TenantContext): Record<string, string> {
    return this.callHeaders(context);
  }

  /** Callers that come while the function is at work share its answer. */
  private ask(key: string, context: TenantContext): Promise<Credential> {
    const kept: Kept = {
      asked: Promise.resolve()
        .then(() => this.token(context))
        .then((token) => (kept.credential = readToken(token))),
    };
    this.kept.set(key, kept);
    kept.asked.catch(() => {
      if (this.kept.get(key) === kept) this.kept.delete(key);
    });
    const oldest = this.kept.keys().next().value;
    if (this.kept.size > MAX_KEPT && oldest !== undefined) this.kept.delete(oldest);
    return kept.asked;
  }
}

/** An API key with `tenants:act-as:PATTERN`: every call names its tenant and user. */
export class ServiceCredentials implements Credentials {
  readonly renewable = false;
  private readonly credential: Credential;

  constructor(serviceKey: string) {
    this.credential = { token: serviceKey, expiresAt: undefined };
  }

  callKey(context: TenantContext): string {
    return JSON.stringify([context.organizationId, context.userId]);
  }

  liveKey(context: TenantContext): string {
    return JSON.stringify([context.organizationId]);
  }

  get(): Promise<Credential> {
    return Promise.resolve(this.credential);
  }

  refused(): void {}

  callHeaders(context: TenantContext): Record<string, string> {
    const headers: Record<string, string> = { "apix-tenant": context.organizationId };
    if (context.userId !== undefined) headers["apix-user"] = headerText(context.userId);
    return headers;
  }

  liveHeaders(context: TenantContext): Record<string, string> {
    return { "apix-tenant": context.organizationId };
  }
}

function readToken(token: unknown): Credential {
  if (typeof token !== "string" || token === "") {
    throw new ApixError("unauthorized", "the token function gave no token");
  }
  return { token, expiresAt: expiryOf(token) };
}

/** The `exp` of a JWT. Its signature is the server's matter. */
function expiryOf(token: string): number | undefined {
  const [, claims, signature] = token.split(".");
  if (claims === undefined || signature === undefined) return undefined;
  try {
    const text = atob(claims.replaceAll("-", "+").replaceAll("_", "/"));
    const { exp } = JSON.parse(text) as { exp?: unknown };
    return typeof exp === "number" ? exp * 1_000 : undefined;
  } catch {
    return undefined;
  }
}

/** UTF-8 as the Latin-1 text that header values are made of. */
function headerText(text: string): string {
  return String.fromCharCode(...new TextEncoder().encode(text));
}
