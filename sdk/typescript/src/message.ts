import type { TenantContext } from "./context.js";
import { invalid } from "./error.js";
import { checkTenant, encodeTime } from "./event.js";
import { encodeJson, ObjectText } from "./json-text.js";

/** A message on a channel. */
export interface RealtimeMessage<T = any> {
  /** What it is, such as `presence.changed`; of a hybrid event, its event type. */
  type: string;
  /** Any JSON; of a hybrid event, its payload. */
  data: T;
  /** When it happened, RFC 3339. */
  timestamp: string;
  organizationId: string;
  /** Who caused it. */
  userId?: string;
}

/** A message that arrived. */
export interface LiveMessage<T = any> extends RealtimeMessage<T> {
  channel: string;
  /** Of a hybrid event: the stream that keeps it … */
  stream?: string;
  /** … its id there … */
  messageId?: string;
  /** … the one before it on this channel from this stream … */
  prevMessageId?: string;
  /** … and the life of the stream that these ids belong to. */
  epoch?: string;
}

/** A message as a publisher gives it. */
export interface NewRealtimeMessage<T = any> {
  type: string;
  data: T;
  /** RFC 3339, a date, or Unix milliseconds (default: now, by the server). */
  timestamp?: string | number | Date | undefined;
  /** Checked to be the tenant of the context, if given. */
  organizationId?: string | undefined;
  /** Who caused it (default: the caller). */
  userId?: string | undefined;
}

/** The message as JSON text; over a live connection with its channel. */
export function encodeMessage(context: TenantContext, message: NewRealtimeMessage, channel?: string): string {
  if (typeof message?.type !== "string") throw invalid("the message has no type");
  checkTenant(context, message.organizationId);
  return new ObjectText()
    .value("channel", channel)
    .value("type", message.type)
    .raw("data", encodeJson("data", message.data))
    .value("timestamp", encodeTime(message.timestamp))
    .value("userId", message.userId ?? undefined)
    .end();
}
