import { Acknowledgements } from "./acknowledgements.js";
import { Adds, automaticKey } from "./adds.js";
import { Administration, type DeadLetter, type DeadLetterChoice } from "./administration.js";
import { Backoff } from "./backoff.js";
import { type TenantContext, userChannel } from "./context.js";
import { type Credentials, ServiceCredentials, TokenCredentials } from "./credentials.js";
import { invalid } from "./error.js";
import {
  decodeDeliveries,
  encodeHybrid,
  type HybridEventFields,
  type HybridOptions,
  type ProcessedEvent,
  type StoredEvent,
  type StreamEvent,
} from "./event.js";
import { Http } from "./http.js";
import { extendLeases, Leases } from "./leases.js";
import { LiveConnections } from "./live/connections.js";
import { LiveMessages, type MessagesOptions } from "./live/messages.js";
import { openSocket } from "./live/socket.js";
import type { SubscribeOptions, Subscription } from "./live/subscription.js";
import { encodeMessage, type LiveMessage, type NewRealtimeMessage } from "./message.js";
import type {
  AcknowledgeOptions,
  DeadLetterOptions,
  DeliveryReference,
  GroupOptions,
  HybridReceipt,
  ProcessOptions,
  Rejected,
  RejectOptions,
  SeekTo,
  ServiceOptions,
} from "./options.js";
import { replay, type ReplayOptions } from "./replay.js";
import type { Schemas } from "./schemas.js";

/** The group of calls that name none. */
export const DEFAULT_GROUP = "processors";
const DEFAULT_WAIT_MS = 1_000;
/** Deliveries that are not settled are held so long at most, unless a call says otherwise. */
const DEFAULT_MAX_HOLD_MS = 120_000;

/**
 * Events on streams, messages on channels, and hybrid events, for any tenant.
 *
 * Every call takes the {@link TenantContext} first. Failures are {@link ApixError}s; those that may
 * pass are retried inside, within bounds.
 */
export class TenantMessagingService {
  private readonly http: Http;
  private readonly adds: Adds;
  private readonly leases: Leases;
  private readonly acknowledgements: Acknowledgements;
  /** Statistics and settings of streams and groups. */
  readonly administration: Administration;
  private readonly live: LiveConnections;
  private readonly maxHoldMs: number;
  private readonly automaticKeys: boolean;

  constructor(options: ServiceOptions) {
    const credentials = credentialsOf(options);
    this.http = new Http(options, credentials);
    this.automaticKeys = options.automaticIdempotencyKeys ?? true;
    this.adds = new Adds(this.http, credentials, this.automaticKeys);
    this.leases = new Leases(this.http, credentials);
    this.acknowledgements = new Acknowledgements(this.http, credentials, this.leases);
    this.administration = new Administration(this.http);
    this.maxHoldMs = options.maxHoldMs ?? DEFAULT_MAX_HOLD_MS;
    this.live = new LiveConnections(credentials, {
      url: new URL("v1/ws", this.http.base),
      open: openSocket,
      backoff: new Backoff(200, 10_000),
      giveUpAfterMs: options.retry?.giveUpAfterMs ?? 120_000,
      maxQueued: options.maxQueuedPublishes ?? 100,
      needsHeaders: options.serviceKey !== undefined,
      onState: options.onLiveState ?? (() => {}),
    });
  }

  /**
   * Adds an event; resolves to its id once it is as safe as the server's durability says. Events of
   * one tick, stream and context go out in one request, in their order.
   */
  async addEventToStream(context: TenantContext, streamName: string, event: StreamEvent): Promise<string> {
    return this.adds.add(context, streamName, event);
  }

  /** Adds up to 1,000 events, all or none; resolves to their ids in order. */
  async addEventsToStream(
    context: TenantContext,
    streamName: string,
    events: readonly StreamEvent[],
  ): Promise<string[]> {
    return this.adds.addAll(context, streamName, events);
  }

  /**
   * Hands out up to `batchSize` events to `consumerName`; waits up to a second for the first. What is
   * not settled is held for up to two minutes, and then goes to another consumer.
   */
  async processEventsFromStream<T = any>(
    context: TenantContext,
    streamName: string,
    consumerName: string,
    batchSize = 10,
    options: ProcessOptions = {},
  ): Promise<ProcessedEvent<T>[]> {
    const group = options.group ?? DEFAULT_GROUP;
    const waitMs = options.waitMs ?? DEFAULT_WAIT_MS;
    const text = await this.http.text(context, {
      method: "POST",
      path: ["streams", streamName, "groups", group, "read"],
      body: JSON.stringify({ consumer: consumerName, count: batchSize, waitMs } satisfies Schemas["Read"]),
      // A read whose answer is lost leaves its deliveries to their leases.
      repeatable: true,
      waitMs,
      signal: options.signal,
    });
    const events = decodeDeliveries(text, group, consumerName);
    const address = { context, streamName, group };
    this.leases.hold(address, events, options.maxHoldMs ?? this.maxHoldMs, options.onLeaseLost);
    return events;
  }

  /** Acknowledges an event: it is done. Acknowledgements of one tick go out in one request. */
  async acknowledgeEvent(
    context: TenantContext,
    streamName: string,
    messageId: string,
    options: AcknowledgeOptions = {},
  ): Promise<void> {
    const address = { context, streamName, group: options.group ?? DEFAULT_GROUP };
    const consumer = options.consumerName ?? this.leases.holder(address, messageId);
    await this.acknowledgements.acknowledge(address, messageId, consumer);
  }

  /** Sends an event back: it is handed out again later, or becomes a dead letter. */
  async rejectEvent(
    context: TenantContext,
    streamName: string,
    delivery: DeliveryReference,
    options: RejectOptions = {},
  ): Promise<Rejected> {
    const { messageId, deliveryCount, consumer } = delivery;
    const group = delivery.group ?? DEFAULT_GROUP;
    const { reason, deadLetter } = options;
    const retryAfterMs = options.retryAfterMs === undefined ? undefined : Math.max(0, Math.round(options.retryAfterMs));
    try {
      return await this.http.json<Schemas["Rejected"]>(context, {
        method: "POST",
        path: ["streams", streamName, "groups", group, "reject"],
        body: JSON.stringify({ messageId, consumer, deliveryCount, reason, retryAfterMs, deadLetter }),
        repeatable: true,
      });
    } finally {
      this.leases.settled({ context, streamName, group }, messageId);
    }
  }

  /** Holds deliveries of one consumer for `leaseMs` from now. Returns the ids that it no longer holds. */
  async extendLease(
    context: TenantContext,
    streamName: string,
    deliveries: DeliveryReference | readonly DeliveryReference[],
    leaseMs: number,
  ): Promise<string[]> {
    const all = Array.isArray(deliveries) ? (deliveries as DeliveryReference[]) : [deliveries as DeliveryReference];
    const [first] = all;
    if (!first) return [];
    if (all.some(({ consumer, group }) => consumer !== first.consumer || group !== first.group)) {
      throw invalid("the deliveries are of several consumers or groups; extend each one's by itself");
    }
    const address = { context, streamName, group: first.group ?? DEFAULT_GROUP };
    const ids = all.map(({ messageId }) => messageId);
    return extendLeases(this.http, address, first.consumer, ids, leaseMs);
  }

  /** Extends the lease of an event no longer by itself; it goes to another consumer when it ends. */
  letGo(context: TenantContext, streamName: string, messageId: string, options: GroupOptions = {}): void {
    this.leases.settled({ context, streamName, group: options.group ?? DEFAULT_GROUP }, messageId);
  }

  /**
   * Past events, streamed as fast as they are taken. A lost connection is taken up again after the
   * last event. In `payloadText` line breaks between tokens come as spaces here.
   */
  replayEvents<T = any>(
    context: TenantContext,
    streamName: string,
    options: ReplayOptions = {},
  ): AsyncIterableIterator<StoredEvent<T>> {
    return replay<T>(this.http, context, streamName, options);
  }

  /** Sets where a group reads next. What is out is let go, and delivery counts start again. */
  async seekGroup(context: TenantContext, streamName: string, to: SeekTo, options: GroupOptions = {}): Promise<void> {
    await this.http.text(context, {
      method: "POST",
      path: ["streams", streamName, "groups", options.group ?? DEFAULT_GROUP, "seek"],
      body: JSON.stringify({ to: to instanceof Date ? to.toISOString() : to }),
      repeatable: true,
    });
  }

  /** Publishes a message to everyone subscribed now. Resolves to the broker subscriptions reached. */
  async publishRealtimeMessage(context: TenantContext, channel: string, message: NewRealtimeMessage): Promise<number> {
    const answer = await this.http.json<Schemas["Published"]>(context, {
      method: "POST",
      path: ["channels", channel, "messages"],
      body: encodeMessage(context, message),
      // It may have been shown.
      repeatable: false,
    });
    return answer.subscriberCount;
  }

  /**
   * As {@link publishRealtimeMessage}, over the live connection: in the order of the calls, and while
   * there is no connection the message waits for one.
   */
  async publishLive(context: TenantContext, channel: string, message: NewRealtimeMessage): Promise<number> {
    return this.live.publish(context, encodeMessage(context, message, channel));
  }

  /**
   * Calls `callback` with every message on `channel` from now on, or after `since`. Resolves once the
   * server has subscribed. The subscription survives lost connections: hybrid events are caught up,
   * and `onMissed` tells what will not come.
   */
  async subscribeToRealtimeMessages<T = any>(
    context: TenantContext,
    channel: string,
    callback: (message: LiveMessage<T>) => unknown,
    options: SubscribeOptions = {},
  ): Promise<Subscription> {
    return this.live.subscribe(context, channel, callback, options);
  }

  /** The messages on `channel` for `for await`, which ends the subscription when it is left. */
  realtimeMessages<T = any>(context: TenantContext, channel: string, options: MessagesOptions = {}): LiveMessages<T> {
    return new LiveMessages<T>(channel, (take, rest) => this.live.subscribe(context, channel, take, rest), options);
  }

  /** Persists an event and then shows it live; `options` may turn off either. */
  async publishHybridEvent(
    context: TenantContext,
    eventType: string,
    payload: unknown,
    options: HybridOptions & HybridEventFields = {},
  ): Promise<HybridReceipt> {
    const persisted = options.persistToStream ?? true;
    const automatic = persisted && this.automaticKeys ? automaticKey() : undefined;
    const key = options.idempotencyKey ?? automatic;
    return this.http.json<Schemas["HybridReceipt"]>(context, {
      method: "POST",
      path: ["hybrid-events"],
      body: encodeHybrid(context, { ...options, eventType, payload }, options, key),
      repeatable: persisted && key !== undefined,
    });
  }

  /** The channel of the context's user. */
  userChannel(context: TenantContext): string {
    return userChannel(context);
  }

  /** Events that the group has given up, in the order of their ids: a page of up to 1,000. */
  async listDeadLetters<T = any>(
    context: TenantContext,
    streamName: string,
    options: DeadLetterOptions = {},
  ): Promise<DeadLetter<T>[]> {
    const { group = DEFAULT_GROUP, after, limit } = options;
    return this.administration.deadLetters<T>(context, streamName, group, after, limit);
  }

  /** Hands dead letters out again, to their group alone, with delivery counts from 1. Returns how many. */
  async retryDeadLetters(
    context: TenantContext,
    streamName: string,
    which: DeadLetterChoice,
    options: GroupOptions = {},
  ): Promise<number> {
    return this.administration.retryDeadLetters(context, streamName, options.group ?? DEFAULT_GROUP, which);
  }

  /** Drops dead letters. Returns how many. */
  async discardDeadLetters(
    context: TenantContext,
    streamName: string,
    which: DeadLetterChoice,
    options: GroupOptions = {},
  ): Promise<number> {
    return this.administration.discardDeadLetters(context, streamName, options.group ?? DEFAULT_GROUP, which);
  }

  /**
   * Ends all live connections and extends no lease any more. What is under way is finished; what is
   * not settled goes to another consumer when its lease ends.
   */
  close(): void {
    this.leases.close();
    this.live.close();
  }
}

function credentialsOf(options: ServiceOptions): Credentials {
  if (options.serviceKey !== undefined) return new ServiceCredentials(options.serviceKey);
  if (typeof options.token === "function") return new TokenCredentials(options.token);
  throw invalid("give either token, a function, or serviceKey");
}
