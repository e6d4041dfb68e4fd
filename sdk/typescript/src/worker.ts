import { Backoff, pause } from "./backoff.js";
import type { TenantContext } from "./context.js";
import { asApixError, invalid } from "./error.js";
import type { ProcessedEvent } from "./event.js";
import type { TenantMessagingService } from "./service.js";

/** Thrown by a handler: the event goes to the dead letters at once. */
export class GiveUp extends Error {
  override readonly name = "GiveUp";
}

/** Thrown by a handler: the event comes back after this time, and not after the group's back-off. */
export class RetryAfter extends Error {
  override readonly name = "RetryAfter";

  constructor(
    readonly delayMs: number,
    reason = "to be handled later",
  ) {
    super(reason);
  }
}

/** What a handler knows beside the event. */
export interface Handling {
  /** Aborted when the lease was lost, or the worker does not wait any longer. */
  readonly signal: AbortSignal;
}

export type EventHandler<T = any> = (event: ProcessedEvent<T>, handling: Handling) => unknown;

export interface WorkerOptions {
  context: TenantContext;
  streamName: string;
  /** The group (default `processors`). */
  group?: string | undefined;
  /** Unique among the workers of the group (default: a random name). */
  consumerName?: string | undefined;
  /** Events that are handled at once (default 10). */
  concurrency?: number | undefined;
  /** The longest that one event is held; 0 for no limit (default). */
  maxHoldMs?: number | undefined;
  /** When a failed event comes back; by default the group's back-off decides. */
  retryDelayMs?: ((event: ProcessedEvent, error: unknown) => number | undefined) | undefined;
  /** Told of every failure: of the handler, with its event, and of the worker itself (default: console.error). */
  onError?: ((error: unknown, event?: ProcessedEvent) => void) | undefined;
}

export interface WorkerReport {
  handled: number;
  failed: number;
}

/** How long one read waits for an event; a stop waits as long at most. */
const READ_WAIT_MS = 1_000;
const MAX_READ = 1_000;

/**
 * The loop around a group: reads, handles with a bound on what is done at once, acknowledges, sends
 * failed events back for a retry, and extends leases while a handler works.
 *
 * The group's settings decide how often an event is tried before it goes to the dead letters.
 */
export class Worker<T = any> {
  readonly consumerName: string;
  private readonly concurrency: number;
  private readonly report: WorkerReport = { handled: 0, failed: 0 };
  private readonly waiting: ProcessedEvent<T>[] = [];
  private readonly handling = new Map<string, AbortController>();
  private readonly settling = new Set<Promise<void>>();
  private readonly reading = new Backoff(200, 10_000);
  private readonly stopSignal = new AbortController();
  private running: Promise<WorkerReport> | undefined;
  private changed: (() => void) | undefined;
  private fault: unknown;

  constructor(
    private readonly service: TenantMessagingService,
    private readonly options: WorkerOptions,
    private readonly handler: EventHandler<T>,
  ) {
    this.consumerName = options.consumerName ?? `worker-${globalThis.crypto.randomUUID().slice(0, 13)}`;
    this.concurrency = options.concurrency ?? 10;
    if (!Number.isInteger(this.concurrency) || this.concurrency < 1) {
      throw invalid("concurrency must be at least 1");
    }
  }

  /** Runs until {@link stop}; rejects if the group cannot be read at all, as without permission. */
  run(): Promise<WorkerReport> {
    this.running ??= this.loop();
    return this.running;
  }

  /** Reads no more, and waits until what was read is settled; after `timeoutMs` gives it back. */
  async stop({ timeoutMs = 25_000 }: { timeoutMs?: number } = {}): Promise<WorkerReport> {
    this.stopSignal.abort();
    this.wake();
    if (!this.running) return { ...this.report };
    const timer = setTimeout(() => this.giveBack(), timeoutMs);
    try {
      return await this.running;
    } finally {
      clearTimeout(timer);
    }
  }

  private get isStopping(): boolean {
    return this.stopSignal.signal.aborted;
  }

  private async loop(): Promise<WorkerReport> {
    const reader = this.readAll();
    while (!this.isStopping && this.fault === undefined) {
      this.startWaiting();
      await this.change();
    }
    await reader;
    while (this.waiting.length > 0 || this.handling.size > 0) {
      this.startWaiting();
      if (this.handling.size > 0) await this.change();
    }
    await Promise.all(this.settling);
    if (this.fault !== undefined) throw this.fault;
    return { ...this.report };
  }

  /** Keeps so many events at hand that a handler that is free has one at once. */
  private async readAll(): Promise<void> {
    for (let failures = 0; !this.isStopping && this.fault === undefined; ) {
      const room = this.concurrency - this.waiting.length + (this.concurrency - this.handling.size);
      if (room < this.concurrency) {
        await this.change();
        continue;
      }
      try {
        this.waiting.push(...(await this.read(Math.min(room, MAX_READ))));
        failures = 0;
        this.wake();
      } catch (error) {
        if (!asApixError(error).retryable) {
          this.fault = error;
          return this.wake();
        }
        this.tell(error);
        await pause(this.reading.delay(failures++), this.stopSignal.signal).catch(() => {});
      }
    }
  }

  private read(count: number): Promise<ProcessedEvent<T>[]> {
    const { context, streamName, group, maxHoldMs } = this.options;
    return this.service.processEventsFromStream<T>(context, streamName, this.consumerName, count, {
      group,
      waitMs: READ_WAIT_MS,
      maxHoldMs: maxHoldMs || Number.POSITIVE_INFINITY,
      onLeaseLost: (messageIds) => {
        for (const id of messageIds) this.lost(id);
      },
    });
  }

  private lost(messageId: string): void {
    const index = this.waiting.findIndex((event) => event.messageId === messageId);
    if (index >= 0) this.waiting.splice(index, 1);
    this.handling.get(messageId)?.abort(new Error("the lease was lost"));
  }

  private startWaiting(): void {
    while (this.handling.size < this.concurrency) {
      const event = this.waiting.shift();
      if (!event) return;
      void this.handle(event);
    }
  }

  private async handle(event: ProcessedEvent<T>): Promise<void> {
    const controller = new AbortController();
    this.handling.set(event.messageId, controller);
    let settled: Promise<void>;
    try {
      await this.handler(event, { signal: controller.signal });
      this.report.handled += 1;
      settled = this.acknowledge(event);
    } catch (error) {
      this.report.failed += 1;
      this.tell(error, event);
      settled = controller.signal.aborted ? Promise.resolve() : this.reject(event, error);
    }
    this.handling.delete(event.messageId);
    // Settling is not waited for: the next event can be handled meanwhile.
    const done = settled
      .catch((error: unknown) => this.tell(error, event))
      .finally(() => this.settling.delete(done));
    this.settling.add(done);
    this.wake();
  }

  private acknowledge(event: ProcessedEvent<T>): Promise<void> {
    const { context, streamName, group } = this.options;
    return this.service.acknowledgeEvent(context, streamName, event.messageId, {
      group,
      consumerName: this.consumerName,
    });
  }

  private async reject(event: ProcessedEvent<T>, error: unknown): Promise<void> {
    const { context, streamName, retryDelayMs } = this.options;
    const reason = error instanceof Error ? error.message : String(error);
    if (error instanceof GiveUp) {
      await this.service.rejectEvent(context, streamName, event, { reason, deadLetter: true });
      return;
    }
    const retryAfterMs = error instanceof RetryAfter ? error.delayMs : retryDelayMs?.(event, error);
    await this.service.rejectEvent(context, streamName, event, { reason, retryAfterMs });
  }

  /** A stop that has waited long enough: others may have what is left. */
  private giveBack(): void {
    const { context, streamName, group } = this.options;
    for (const event of this.waiting.splice(0)) {
      const given = this.service
        .rejectEvent(context, streamName, event, { reason: "the worker stopped", retryAfterMs: 0 })
        .then(() => {}, (error: unknown) => this.tell(error, event))
        .finally(() => this.settling.delete(given));
      this.settling.add(given);
    }
    // What is being handled may yet be done; it is somebody else's when its lease ends.
    for (const [messageId, controller] of this.handling) {
      controller.abort(new Error("the worker stopped"));
      this.service.letGo(context, streamName, messageId, { group });
    }
    this.handling.clear();
    this.wake();
  }

  private tell(error: unknown, event?: ProcessedEvent): void {
    const { onError, streamName } = this.options;
    try {
      if (onError) onError(error, event);
      else console.error(`apix: the worker of ${streamName} failed${event ? ` with ${event.messageId}` : ""}`, error);
    } catch (fault) {
      console.error("apix: onError failed", fault);
    }
  }

  private change(): Promise<void> {
    return new Promise((resolve) => {
      const before = this.changed;
      this.changed = () => {
        before?.();
        resolve();
      };
    });
  }

  private wake(): void {
    const changed = this.changed;
    this.changed = undefined;
    changed?.();
  }
}
