import type { WorkerOptions } from "@apix/client";
import { SetMetadata } from "@nestjs/common";

export const ON_EVENT = "@apix/nestjs:on-event";

export interface OnEventOptions
  extends Pick<WorkerOptions, "group" | "concurrency" | "maxHoldMs" | "retryDelayMs"> {
  /** Only events of these types; what no handler of the group takes is acknowledged (default all). */
  eventType?: string | readonly string[] | undefined;
}

export interface OnEventMetadata extends OnEventOptions {
  streamName: string;
}

/**
 * Handles the events of a stream, for every tenant of the module:
 * `handler(event: ProcessedEvent, context: TenantContext, handling: Handling)`.
 *
 * An event is acknowledged when its handler returns. What it throws sends the event back: it is tried
 * again by the group's back-off, and becomes a dead letter after the group's `maxDeliveries`. A thrown
 * `RetryAfter` says when, a thrown `GiveUp` gives up at once.
 *
 * Handlers of one stream and group share a worker: each takes the events of its types.
 */
export function OnEvent(streamName: string, options: OnEventOptions = {}): MethodDecorator {
  return SetMetadata<string, OnEventMetadata>(ON_EVENT, { ...options, streamName });
}
