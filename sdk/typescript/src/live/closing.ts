import { ApixError } from "../error.js";
import type { SocketEnd } from "./socket.js";

/** What follows from the end of a connection. */
export interface Next {
  /** Come back no more, for this reason. */
  stop?: ApixError | undefined;
  /** The token is not to be used again. */
  refused: boolean;
  /** Refusals in a row, this one included. */
  refusals: number;
  /** Come back at once. */
  soon: boolean;
  /** What those are told who do not wait longer. */
  error: ApixError;
}

interface Circumstances {
  renewable: boolean;
  refusals: number;
  wasOpen: boolean;
}

/** A new token that is refused as well is the last one. */
const MAX_REFUSALS = 2;

/**
 * | code | meaning | and then |
 * | --- | --- | --- |
 * | 4001 | credential refused | a new token, once; then no more |
 * | 4002 | token ended | a new token, at once |
 * | 4003 | tenant suspended | no more |
 * | 4008 | too slow | after a back-off, from the last position |
 * | 4009 | a limit is reached | after a back-off |
 * | 4010, 1001 | the server is stopping | after a back-off, or the delay that it named |
 * | 4013 | ended by the operator | no more |
 */
export function closing({ code, reason, refusal, isBlind }: SocketEnd, circumstances: Circumstances): Next {
  const error = refusal ?? new ApixError(codeOf(code), `the live connection ended (${code})${reason ? `: ${reason}` : ""}`);
  const next: Next = { refused: false, refusals: circumstances.refusals, soon: false, error };
  if (code === 4003 || code === 4013) return { ...next, stop: error };
  if (code === 4002) return { ...next, refused: true, soon: true };
  if (code === 4001 || refusal?.status === 401) {
    const refusals = circumstances.refusals + 1;
    const stop = circumstances.renewable && refusals < MAX_REFUSALS ? undefined : error;
    return { ...next, refused: true, refusals, soon: true, stop };
  }
  if (refusal && !refusal.retryable) return { ...next, stop: error };
  // A browser does not say why a connection was not made: it may have been the token.
  if (!circumstances.wasOpen && isBlind) return { ...next, refused: true };
  return next;
}

function codeOf(code: number): string {
  switch (code) {
    case 4001:
    case 4002:
      return "unauthorized";
    case 4003:
      return "tenant_suspended";
    case 4009:
      return "limit_reached";
    case 4010:
      return "shutting_down";
    case 4013:
      return "ended_by_operator";
    default:
      return "unreachable";
  }
}
