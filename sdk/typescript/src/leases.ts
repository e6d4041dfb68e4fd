import { background } from "./backoff.js";
import type { TenantContext } from "./context.js";
import type { Credentials } from "./credentials.js";
import { ApixError } from "./error.js";
import type { ProcessedEvent } from "./event.js";
import type { Http } from "./http.js";
import type { Schemas } from "./schemas.js";

/** A shorter lease than this is not asked for. */
const SHORTEST_LEASE_MS = 100;

/** Where deliveries come from. */
export interface GroupAddress {
  context: TenantContext;
  streamName: string;
  group: string;
}

/** The deliveries of one read, whose leases are extended together. */
interface Lot extends GroupAddress {
  key: string;
  consumer: string;
  open: Set<string>;
  leaseMs: number;
  extendUntil: number;
  timer: ReturnType<typeof setTimeout> | undefined;
  onLost: ((messageIds: string[]) => void) | undefined;
}

/** Extends the leases of what was handed out and is not settled. */
export class Leases {
  /** By group, then by event. */
  private readonly held = new Map<string, Map<string, Lot>>();

  constructor(
    private readonly http: Http,
    private readonly credentials: Credentials,
  ) {}

  /** Holds `events` for at most `maxHoldMs`, until they are settled. */
  hold(
    address: GroupAddress,
    events: readonly ProcessedEvent[],
    maxHoldMs: number,
    onLost?: (messageIds: string[]) => void,
  ): void {
    const [first] = events;
    if (!first) return;
    const lot: Lot = {
      ...address,
      key: this.keyOf(address),
      consumer: first.consumer,
      open: new Set(events.map((event) => event.messageId)),
      leaseMs: Math.min(...events.map((event) => event.leaseMs)),
      extendUntil: Date.now() + maxHoldMs,
      timer: undefined,
      onLost,
    };
    // Of a redelivery the earlier delivery is over.
    for (const id of lot.open) this.settled(address, id);
    const ofGroup = this.held.get(lot.key) ?? new Map<string, Lot>();
    for (const id of lot.open) ofGroup.set(id, lot);
    this.held.set(lot.key, ofGroup);
    this.arm(lot);
  }

  /** Who was handed the event and has not settled it yet, as far as is known here. */
  holder(address: GroupAddress, messageId: string): string | undefined {
    return this.held.get(this.keyOf(address))?.get(messageId)?.consumer;
  }

  /** The event is settled, or no longer held. */
  settled(address: GroupAddress, messageId: string): void {
    const lot = this.held.get(this.keyOf(address))?.get(messageId);
    if (lot) this.release(lot, [messageId]);
  }

  /** How many deliveries are held. */
  get size(): number {
    let size = 0;
    for (const ofGroup of this.held.values()) size += ofGroup.size;
    return size;
  }

  /** Extends nothing any more. */
  close(): void {
    for (const ofGroup of this.held.values()) {
      for (const lot of ofGroup.values()) clearTimeout(lot.timer);
    }
    this.held.clear();
  }

  private keyOf({ context, streamName, group }: GroupAddress): string {
    return JSON.stringify([this.credentials.callKey(context), streamName, group]);
  }

  /** Half of a lease is left when it is extended. */
  private arm(lot: Lot): void {
    lot.timer = background(setTimeout(() => void this.extend(lot), lot.leaseMs / 2));
  }

  private async extend(lot: Lot): Promise<void> {
    const leaseMs = Math.min(lot.leaseMs, Math.floor(lot.extendUntil - Date.now()));
    if (leaseMs < SHORTEST_LEASE_MS) return this.release(lot, [...lot.open]);
    const asked = [...lot.open];
    let lost: string[] = [];
    try {
      lost = await extendLeases(this.http, lot, lot.consumer, asked, leaseMs);
    } catch (error) {
      // What could not be reached for so long is tried once more; anything else is final.
      if (!(error instanceof ApixError && error.retryable)) lost = asked;
    }
    const known = lost.filter((id) => lot.open.has(id));
    this.release(lot, known);
    if (known.length > 0) lot.onLost?.(known);
    if (lot.open.size > 0) this.arm(lot);
  }

  private release(lot: Lot, messageIds: string[]): void {
    const ofGroup = this.held.get(lot.key);
    for (const id of messageIds) {
      lot.open.delete(id);
      if (ofGroup?.get(id) === lot) ofGroup.delete(id);
    }
    if (ofGroup?.size === 0) this.held.delete(lot.key);
    if (lot.open.size === 0) clearTimeout(lot.timer);
  }
}

/** Extends the leases of `messageIds`; returns those that `consumer` no longer holds. */
export async function extendLeases(
  http: Http,
  { context, streamName, group }: GroupAddress,
  consumer: string,
  messageIds: string[],
  leaseMs: number,
): Promise<string[]> {
  try {
    const answer = await http.json<Schemas["Extended"]>(context, {
      method: "POST",
      path: ["streams", streamName, "groups", group, "extend"],
      body: JSON.stringify({ messageIds, consumer, leaseMs } satisfies Schemas["Extend"]),
      repeatable: true,
    });
    return answer.leaseLost ?? [];
  } catch (error) {
    // Told so only where none of them is held.
    if (error instanceof ApixError && error.code === "lease_lost") return messageIds;
    throw error;
  }
}
