import type { RetryOptions } from "./backoff.js";
import type { TenantContext } from "./context.js";
import type { TokenFunction } from "./credentials.js";
import type { ProcessedEvent } from "./event.js";
import type { LiveState } from "./live/connection.js";

interface CommonOptions {
  /** Address of the server, such as `http://127.0.0.1:2749`. */
  url: string | URL;
  /** How failures that may pass are retried. */
  retry?: RetryOptions | undefined;
  /** How long an answer may take (default 30,000 ms), not counting the wait that a read asks for. */
  timeoutMs?: number | undefined;
  /** How long deliveries that are not settled are held at most (default 120,000 ms). */
  maxHoldMs?: number | undefined;
  /**
   * Whether an event that is added without an idempotency key gets a random one (default yes), so
   * that a retry after a lost answer never adds it twice. Without, such an add fails instead.
   */
  automaticIdempotencyKeys?: boolean | undefined;
  /** Messages that wait for a live connection at most (default 100). */
  maxQueuedPublishes?: number | undefined;
  /** Told what live connections are doing. */
  onLiveState?: ((context: TenantContext, state: LiveState) => void) | undefined;
  /** In place of the global one. */
  fetch?: typeof fetch | undefined;
}

/** Where the server is, and who calls. */
export type ServiceOptions = CommonOptions &
  (
    | {
        /** Gives the token of a context; asked again when the old one ends or is refused. */
        token: TokenFunction;
        serviceKey?: undefined;
      }
    | {
        /** On a server: an API key with `tenants:act-as:PATTERN`, for all its tenants. */
        serviceKey: string;
        token?: undefined;
      }
  );

export interface GroupOptions {
  /** The consumer group (default `processors`). */
  group?: string | undefined;
}

export interface ProcessOptions extends GroupOptions {
  /** How long to wait for the first event (default 1,000 ms, at most 30,000). */
  waitMs?: number | undefined;
  /** In place of the service's own: how long what is not settled is held at most. */
  maxHoldMs?: number | undefined;
  /** Called with the ids of deliveries that could not be held any longer. */
  onLeaseLost?: ((messageIds: string[]) => void) | undefined;
  signal?: AbortSignal | undefined;
}

export interface DeadLetterOptions extends GroupOptions {
  /** Those after this id: the last one of the page before. */
  after?: string | undefined;
  /** At most so many (default 100, at most 1,000). */
  limit?: number | undefined;
}

export interface AcknowledgeOptions extends GroupOptions {
  /** Acknowledges only what this consumer holds (default: who read it here, else anybody). */
  consumerName?: string | undefined;
}

export interface RejectOptions {
  /** Why; kept with the event's attempts. */
  reason?: string | undefined;
  /** When it comes back (default: by the group's back-off). */
  retryAfterMs?: number | undefined;
  /** Give it up now. */
  deadLetter?: boolean | undefined;
}

/** What became of a rejected event. */
export interface Rejected {
  /** When it comes back, RFC 3339; undefined if it is a dead letter now. */
  retryAt?: string;
  deadLettered?: boolean;
}

/** What names a delivery: a `ProcessedEvent`, or its essential parts. */
export type DeliveryReference = Pick<ProcessedEvent, "messageId" | "deliveryCount" | "consumer" | "group">;

/** Where a group is set to. */
export type SeekTo = "start" | "end" | (string & {}) | Date;

/** What became of a hybrid event. */
export interface HybridReceipt {
  /** Its id, if it was persisted. */
  streamMessageId?: string;
  /** Broker subscriptions that it reached, if it was shown. */
  subscriberCount?: number;
}
