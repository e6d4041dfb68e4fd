export type {
  Attempt,
  ConsumerStats,
  DeadLetter,
  DeadLetterChoice,
  GroupBackoff,
  GroupSettings,
  GroupStats,
  Retention,
  StreamSettings,
  StreamStats,
} from "./administration.js";
export type { RetryOptions } from "./backoff.js";
export { type TenantContext, userChannel } from "./context.js";
export type { TokenFunction } from "./credentials.js";
export {
  ApixError,
  type ApixErrorCode,
  type ApixErrorDetails,
  type ClientErrorCode,
  type ServerErrorCode,
} from "./error.js";
export type { HybridEventFields, HybridOptions, ProcessedEvent, StoredEvent, StreamEvent } from "./event.js";
export { JsonText } from "./json-text.js";
export type { LiveState } from "./live/connection.js";
export type { LiveMessages, MessagesOptions } from "./live/messages.js";
export type { Position, StreamPosition } from "./live/position.js";
export type { Missed, SubscribeOptions, Subscription } from "./live/subscription.js";
export type { LiveMessage, NewRealtimeMessage, RealtimeMessage } from "./message.js";
export type {
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
export type { ReplayOptions } from "./replay.js";
export { DEFAULT_GROUP, TenantMessagingService } from "./service.js";
export {
  type EventHandler,
  GiveUp,
  type Handling,
  RetryAfter,
  Worker,
  type WorkerOptions,
  type WorkerReport,
} from "./worker.js";
