import type { TenantContext } from "./context.js";
import { ApixError, asApixError, invalid } from "./error.js";
import { decodeLine, encodeTime, type StoredEvent } from "./event.js";
import type { Http } from "./http.js";

/** Which past events, and in which order. */
export interface ReplayOptions {
  /** The first: an id (`(ID` begins after it), or a time. */
  from?: string | Date | undefined;
  /** The last: an id (`(ID` ends before it), or a time. */
  to?: string | Date | undefined;
  /** Events of this type only. */
  eventType?: string | undefined;
  /** At most so many (default all). */
  limit?: number | undefined;
  /** Oldest first (default) or newest first. */
  order?: "asc" | "desc" | undefined;
  signal?: AbortSignal | undefined;
}

/** A replay whose connection breaks without bringing one event is given up after so many times. */
const FRUITLESS_ATTEMPTS = 5;

/**
 * Past events, streamed: as fast as they are taken, however many there are. A connection that
 * breaks on the way is taken up again after the last event.
 */
export async function* replay<T>(
  http: Http,
  context: TenantContext,
  streamName: string,
  options: ReplayOptions,
): AsyncGenerator<StoredEvent<T>, void, undefined> {
  if (options.limit !== undefined && !(options.limit >= 1)) throw invalid("limit must be at least 1");
  let left = options.limit ?? Number.POSITIVE_INFINITY;
  let last: string | undefined;
  let fruitless = 0;
  while (left > 0) {
    try {
      const body = await http.body(context, request(streamName, options, left, last));
      for await (const line of lines(body)) {
        const event = decodeLine<T>(line);
        last = event.messageId;
        left -= 1;
        fruitless = 0;
        yield event;
      }
      return;
    } catch (fault) {
      if (options.signal?.aborted) throw options.signal.reason;
      const error = asApixError(fault);
      fruitless += 1;
      if (!error.retryable || fruitless >= FRUITLESS_ATTEMPTS) throw error;
    }
  }
}

function request(streamName: string, options: ReplayOptions, left: number, last: string | undefined) {
  const backwards = options.order === "desc";
  const bound = (given: string | Date | undefined) => encodeTime(given);
  return {
    method: "GET" as const,
    path: ["streams", streamName, "events"],
    query: {
      from: last !== undefined && !backwards ? `(${last}` : bound(options.from),
      to: last !== undefined && backwards ? `(${last}` : bound(options.to),
      eventType: options.eventType,
      order: options.order,
      limit: Number.isFinite(left) ? left : undefined,
    },
    accept: "application/x-ndjson",
    repeatable: true,
    signal: options.signal,
  };
}

/** The lines of a body. One that ends in the middle of a line was cut off. */
async function* lines(body: ReadableStream<Uint8Array>): AsyncGenerator<string> {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      rest += decoder.decode(value, { stream: true });
      let start = 0;
      for (let end = rest.indexOf("\n"); end >= 0; end = rest.indexOf("\n", start)) {
        if (end > start) yield rest.slice(start, end);
        start = end + 1;
      }
      rest = rest.slice(start);
    }
    if (rest.trim() !== "") throw new ApixError("unreachable", "the answer was cut off");
  } finally {
    // The rest is not wanted; a body that has ended does not mind.
    await reader.cancel().catch(() => {});
  }
}
