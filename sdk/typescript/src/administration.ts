import type { TenantContext } from "./context.js";
import { memberTexts, memberText } from "./json-text.js";
import { type Http, parseAnswer } from "./http.js";
import type { StoredEvent } from "./event.js";
import type { Schemas } from "./schemas.js";

/** Exponential back-off of a group. */
export interface GroupBackoff {
  /** Delay after the first delivery (default 500 ms). */
  baseMs: number;
  /** The longest delay (default 60,000 ms). */
  maxMs: number;
  /** Growth from one delivery to the next (default 2). */
  factor: number;
  /** Random part, 0 to 1 (default 0.2). */
  jitter: number;
}

/** Settings of a consumer group. What is left out gets its default. */
export interface GroupSettings {
  /** How long a delivery is held before it goes to another consumer (default 30,000 ms). */
  leaseMs?: number;
  /** After so many deliveries an event goes to the dead letters (default 5). */
  maxDeliveries?: number;
  /** When a rejected event comes back, where the rejection does not say. */
  backoff?: Partial<GroupBackoff>;
  /** The most deliveries that are out at once, over all consumers (default none). */
  maxInFlight?: number | null;
  /** A paused group is handed nothing; what is out can be settled. */
  paused?: boolean;
}

export interface ConsumerStats {
  consumer: string;
  /** Deliveries that it holds. */
  pending: number;
  /** How long ago it last read or settled. */
  idleMs: number;
}

/** What can be seen of a group. */
export interface GroupStats {
  group: string;
  leaseMs: number;
  maxDeliveries: number;
  backoff: GroupBackoff;
  maxInFlight: number | null;
  paused: boolean;
  lastDeliveredId: string;
  /** Events never handed out; null where nobody can tell. */
  lag: number | null;
  pending: number;
  /** Rejected events that wait for their time. */
  parked: number;
  deadLetters: number;
  oldestUnacknowledgedId: string | null;
  oldestUnacknowledgedMs: number | null;
  /** Events that were removed before this group acknowledged them. */
  lost: number;
  idleMs: number | null;
  consumers: ConsumerStats[];
}

/** When events are removed, once every group has acknowledged them. */
export interface Retention {
  maxAgeMs?: number | null;
  maxLen?: number | null;
  maxBytes?: number | null;
  /** Past this size the oldest go, acknowledged or not (default 1 GiB; 0 for never). */
  hardMaxBytes?: number;
}

/** Settings of a stream. What is left out gets its default. */
export interface StreamSettings {
  retention?: Retention;
  idempotency?: { maxAgeMs?: number; maxKeys?: number };
}

/** What can be seen of a stream. */
export interface StreamStats {
  stream: string;
  epoch: string;
  length: number;
  bytes: number;
  firstId: string | null;
  lastId: string | null;
  trimmedTo: string | null;
  hardLimitDropped: number;
  retention: Retention;
  idempotency: { maxAgeMs: number; maxKeys: number };
  groups: GroupStats[];
}

/** One delivery that did not succeed. */
export interface Attempt {
  at: string;
  consumer: string;
  reason: string;
}

/** An event that a group has given up, kept whole. */
export interface DeadLetter<T = any> {
  messageId: string;
  reason: string;
  at: string;
  /** The latest attempts, oldest first. */
  attempts: Attempt[];
  /** The event; missing for what is none. */
  event?: StoredEvent<T>;
  /** The fields of an entry that another service wrote and that is no event. */
  raw?: Record<string, string>;
}

/** Which dead letters a call is about. */
export type DeadLetterChoice = { messageIds: readonly string[] } | { all: true };

/** Streams, groups and dead letters: what is looked at and administered. */
export class Administration {
  constructor(private readonly http: Http) {}

  async listStreams(context: TenantContext): Promise<StreamStats[]> {
    const streams: StreamStats[] = [];
    let after: string | undefined;
    do {
      const page: Schemas["StreamList"] = await this.http.json(context, {
        method: "GET",
        path: ["streams"],
        query: { after },
        repeatable: true,
      });
      streams.push(...page.streams);
      after = page.next ?? undefined;
    } while (after !== undefined);
    return streams;
  }

  streamStats(context: TenantContext, streamName: string): Promise<StreamStats> {
    return this.http.json<Schemas["StreamStats"]>(context, {
      method: "GET",
      path: ["streams", streamName],
      repeatable: true,
    });
  }

  async configureStream(context: TenantContext, streamName: string, settings: StreamSettings): Promise<void> {
    await this.put(context, ["streams", streamName], settings);
  }

  async deleteStream(context: TenantContext, streamName: string): Promise<void> {
    await this.http.text(context, { method: "DELETE", path: ["streams", streamName], repeatable: false });
  }

  groupStats(context: TenantContext, streamName: string, group: string): Promise<GroupStats> {
    return this.http.json<Schemas["GroupStats"]>(context, {
      method: "GET",
      path: groupPath(streamName, group),
      repeatable: true,
    });
  }

  async configureGroup(
    context: TenantContext,
    streamName: string,
    group: string,
    settings: GroupSettings,
  ): Promise<void> {
    await this.put(context, groupPath(streamName, group), settings);
  }

  async deleteGroup(context: TenantContext, streamName: string, group: string): Promise<void> {
    await this.http.text(context, { method: "DELETE", path: groupPath(streamName, group), repeatable: false });
  }

  /** One page, in the order of ids, after `after`. */
  async deadLetters<T>(
    context: TenantContext,
    streamName: string,
    group: string,
    after: string | undefined,
    limit: number | undefined,
  ): Promise<DeadLetter<T>[]> {
    const text = await this.http.text(context, {
      method: "GET",
      path: [...groupPath(streamName, group), "dead-letters"],
      query: { after, limit },
      repeatable: true,
    });
    const { deadLetters } = parseAnswer<{ deadLetters: DeadLetter<T>[] }>(text);
    const events = memberTexts(text, "deadLetters", "event");
    deadLetters.forEach((letter, index) => {
      const event = events[index];
      if (letter.event && event) letter.event.payloadText = memberText(event, "payload") ?? "null";
    });
    return deadLetters;
  }

  async retryDeadLetters(
    context: TenantContext,
    streamName: string,
    group: string,
    which: DeadLetterChoice,
  ): Promise<number> {
    return (await this.choose<Schemas["Retried"]>(context, streamName, group, "retry", which)).retried;
  }

  async discardDeadLetters(
    context: TenantContext,
    streamName: string,
    group: string,
    which: DeadLetterChoice,
  ): Promise<number> {
    return (await this.choose<Schemas["Discarded"]>(context, streamName, group, "discard", which)).discarded;
  }

  private choose<T>(
    context: TenantContext,
    streamName: string,
    group: string,
    what: "retry" | "discard",
    which: DeadLetterChoice,
  ): Promise<T> {
    return this.http.json<T>(context, {
      method: "POST",
      path: [...groupPath(streamName, group), "dead-letters", what],
      body: JSON.stringify(which),
      // A repeat finds those gone that the first call took; only the count would be short.
      repeatable: false,
    });
  }

  private put(context: TenantContext, path: string[], settings: object): Promise<string> {
    return this.http.text(context, {
      method: "PUT",
      path,
      body: JSON.stringify(settings),
      repeatable: true,
    });
  }
}

function groupPath(streamName: string, group: string): string[] {
  return ["streams", streamName, "groups", group];
}
