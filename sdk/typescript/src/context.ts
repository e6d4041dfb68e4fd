import { ApixError, invalid } from "./error.js";

/**
 * On whose behalf a call is made.
 *
 * Extend it with whatever your token function needs: contexts that differ in any property never
 * share a token or a connection.
 */
export interface TenantContext {
  /** The tenant. */
  readonly organizationId: string;
  /** The user, if there is one. */
  readonly userId?: string | undefined;
  /** What your application knows of the user; not sent. */
  readonly roles?: readonly string[] | undefined;
  /** What your application lets the user do; not sent. */
  readonly permissions?: readonly string[] | undefined;
}

/** Everything that two contexts may differ in, as text. */
export function contextKey(context: TenantContext): string {
  const entries = Object.entries(context).filter(([, value]) => value !== undefined);
  return JSON.stringify(entries.sort(([a], [b]) => (a < b ? -1 : 1)));
}

export function checkContext(context: TenantContext): void {
  if (typeof context?.organizationId !== "string" || context.organizationId === "") {
    throw invalid("the context has no organizationId");
  }
}

/**
 * The channel of one user, `user:{userId}`, in the form that names have: what a browser subscribes
 * to for its own notifications.
 */
export function userChannel(context: TenantContext): string {
  if (context.userId === undefined || context.userId === "") {
    throw invalid("the context has no userId, so that there is no channel of the user");
  }
  const name = `user:${userInName(context.userId)}`;
  if (name.length > 128) {
    throw new ApixError("invalid_name", `the channel ${name} is longer than 128 characters`);
  }
  return name;
}

/** A user id as it stands in a name: bytes outside `A-Z a-z 0-9 . -` become `_` and two hex digits. */
export function userInName(userId: string): string {
  let name = "";
  for (const byte of new TextEncoder().encode(userId)) {
    const char = String.fromCharCode(byte);
    name += /[A-Za-z0-9.-]/.test(char) ? char : `_${byte.toString(16).padStart(2, "0")}`;
  }
  return name;
}
