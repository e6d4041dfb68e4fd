import { checkContext, type TenantContext } from "./context.js";
import type { Credentials } from "./credentials.js";
import { ApixError } from "./error.js";
import { encodeEvent, type StreamEvent } from "./event.js";
import { type Gathered, Gatherers, type Outcome, sendApart } from "./gather.js";
import type { Http } from "./http.js";
import type { Schemas } from "./schemas.js";

/** The server takes 1,000 events and 8 MiB; a character has up to 3 bytes. */
const LIMITS = { items: 1_000, characters: 2 << 20 };

/** Refusals that are about one event, and not about the caller or the stream. */
const OF_ONE_EVENT = new Set(["invalid_request", "too_large", "idempotency_conflict", "tenant_mismatch"]);

interface Add extends Gathered {
  text: string;
  /** Whether a repeat is recognised. */
  repeatable: boolean;
}

/** Adds events, those of one tick and stream together. */
export class Adds {
  private readonly gatherers = new Gatherers<Add, string>(LIMITS);

  constructor(
    private readonly http: Http,
    private readonly credentials: Credentials,
    private readonly automaticKeys: boolean,
  ) {}

  add(context: TenantContext, streamName: string, event: StreamEvent): Promise<string> {
    const add = this.encode(context, event);
    // What must not be repeated is not sent with what may be.
    const key = JSON.stringify([this.credentials.callKey(context), streamName, add.repeatable]);
    return this.gatherers.add(key, add, (adds) => this.send(context, streamName, adds));
  }

  /** All or none, in one request. */
  async addAll(context: TenantContext, streamName: string, events: readonly StreamEvent[]): Promise<string[]> {
    if (events.length === 0) return [];
    return this.request(
      context,
      streamName,
      events.map((event) => this.encode(context, event)),
    );
  }

  private encode(context: TenantContext, event: StreamEvent): Add {
    checkContext(context);
    const key = event?.idempotencyKey ?? (this.automaticKeys ? automaticKey() : undefined);
    const text = encodeEvent(context, event, key);
    return { text, size: text.length, repeatable: key !== undefined };
  }

  private send(context: TenantContext, streamName: string, adds: Add[]): Promise<Outcome<string>[]> {
    const request = (some: Add[]) => this.request(context, streamName, some);
    return sendApart(adds, request, (error) => error instanceof ApixError && OF_ONE_EVENT.has(error.code));
  }

  private async request(context: TenantContext, streamName: string, adds: Add[]): Promise<string[]> {
    const answer = await this.http.json<Schemas["AddedMany"]>(context, {
      method: "POST",
      path: ["streams", streamName, "events"],
      body: `[${adds.map(({ text }) => text).join(",")}]`,
      repeatable: adds.every(({ repeatable }) => repeatable),
    });
    return answer.messageIds;
  }
}

/** Makes a repeat of the same call known as one: random, so that no other call has it. */
export function automaticKey(): string {
  const bytes = globalThis.crypto.getRandomValues(new Uint8Array(16));
  return `auto-${Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("")}`;
}
