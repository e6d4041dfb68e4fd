import type { TenantContext } from "./context.js";
import { encodeJson, memberText, memberTexts, ObjectText } from "./json-text.js";
import { parseAnswer } from "./http.js";
import { ApixError, invalid } from "./error.js";
import type { Schemas } from "./schemas.js";

/** An event as a producer gives it. */
export interface StreamEvent<T = any> {
  /** What happened, such as `invoice.paid`: 1 to 256 bytes without control characters. */
  eventType: string;
  /** Any JSON, up to 1 MiB by default; a `JsonText` goes out exactly as it is written. */
  payload: T;
  /** When it happened: RFC 3339, a date, or Unix milliseconds (default: now, by the server). */
  timestamp?: string | number | Date | undefined;
  /** Checked to be the tenant of the context, if given. */
  organizationId?: string | undefined;
  /** Who caused it (default: the caller). */
  userId?: string | undefined;
  /** A JSON object of the producer's. */
  metadata?: Record<string, any> | undefined;
  /** Events of one key keep their order on a partitioned stream. */
  key?: string | undefined;
  /** A repeat with the same key and body within 24 hours adds nothing and returns the first id. */
  idempotencyKey?: string | undefined;
}

/** An event as it is kept in a stream. */
export interface StoredEvent<T = any> {
  /** Its id in the stream, `MS-SEQ`. */
  messageId: string;
  eventType: string;
  payload: T;
  /** The payload's exact text: numbers beyond 2^53 are right here. */
  payloadText: string;
  /** RFC 3339. */
  timestamp: string;
  organizationId: string;
  userId?: string;
  metadata?: Record<string, any>;
  key?: string;
  /** The channel that a hybrid event was shown on … */
  realtimeChannel?: string;
  /** … and the event before it there, from this stream. */
  prevMessageId?: string;
}

/** An event that was handed to a consumer, who holds it until it is settled or the lease ends. */
export interface ProcessedEvent<T = any> extends StoredEvent<T> {
  /** How many times it was handed out to this group, this time included. */
  deliveryCount: number;
  /** How long it is held after it was handed out; extended until it is settled. */
  leaseMs: number;
  /** The group it was read for. */
  group: string;
  /** Who holds it. */
  consumer: string;
}

/** Where a hybrid event goes. */
export interface HybridOptions {
  /** Whether it is stored (default yes). */
  persistToStream?: boolean | undefined;
  /** Whether it is shown live (default yes). */
  notifyRealtime?: boolean | undefined;
  /** The stream (default `events`). */
  streamName?: string | undefined;
  /** The channel (default `notifications`). */
  realtimeChannel?: string | undefined;
}

/** What of an event may be given along with a hybrid event's options. */
export type HybridEventFields = Omit<StreamEvent, "eventType" | "payload">;

/** The event as JSON text. `idempotencyKey` is used where it has none of its own. */
export function encodeEvent(context: TenantContext, event: StreamEvent, idempotencyKey?: string): string {
  return eventObject(context, event, idempotencyKey).end();
}

export function encodeHybrid(
  context: TenantContext,
  event: StreamEvent,
  options: HybridOptions,
  idempotencyKey?: string,
): string {
  const target = new ObjectText()
    .value("persistToStream", options.persistToStream)
    .value("notifyRealtime", options.notifyRealtime)
    .value("streamName", options.streamName)
    .value("realtimeChannel", options.realtimeChannel);
  return eventObject(context, event, idempotencyKey).raw("options", target.end()).end();
}

function eventObject(context: TenantContext, event: StreamEvent, idempotencyKey?: string): ObjectText {
  if (typeof event?.eventType !== "string") throw invalid("the event has no eventType");
  checkTenant(context, event.organizationId);
  const metadata = event.metadata == null ? undefined : encodeJson("metadata", event.metadata);
  return new ObjectText()
    .value("eventType", event.eventType)
    .raw("payload", encodeJson("payload", event.payload))
    .value("timestamp", encodeTime(event.timestamp))
    .value("userId", event.userId ?? undefined)
    .raw("metadata", metadata)
    .value("key", event.key ?? undefined)
    .value("idempotencyKey", event.idempotencyKey ?? idempotencyKey);
}

/** Refuses what is meant for another tenant before it is sent together with others. */
export function checkTenant(context: TenantContext, organizationId: string | null | undefined): void {
  if (organizationId == null || organizationId === context.organizationId) return;
  throw new ApixError(
    "tenant_mismatch",
    `organizationId is ${JSON.stringify(organizationId)}, but the context is of ${JSON.stringify(context.organizationId)}`,
  );
}

export function encodeTime(time: string | number | Date | null | undefined): string | undefined {
  if (time == null) return undefined;
  if (typeof time === "string") return time;
  const date = new Date(time);
  if (Number.isNaN(date.getTime())) throw invalid("the timestamp is not a valid date");
  return date.toISOString();
}

/** The deliveries of an answer, with the exact text of their payloads. */
export function decodeDeliveries(text: string, group: string, consumer: string): ProcessedEvent[] {
  const { events } = parseAnswer<Schemas["Deliveries"]>(text);
  if (events.length === 0) return [];
  const payloads = memberTexts(text, "events", "payload");
  return events.map((event, index) => ({
    ...event,
    payloadText: payloads[index] ?? "null",
    group,
    consumer,
  }));
}

/** One line of a replay. An error that ended it is thrown. */
export function decodeLine<T>(line: string): StoredEvent<T> {
  const event = parseAnswer<Schemas["Event"] & Partial<Schemas["Error"]>>(line);
  if (event.error && event.messageId === undefined) {
    throw new ApixError(event.error.code, event.error.message);
  }
  return { ...event, payload: event.payload as T, payloadText: memberText(line, "payload") ?? "null" };
}
