import { ApixError } from "../error.js";
import type { LiveMessage } from "../message.js";
import { type Position, PositionTracker } from "./position.js";

/** Messages that will not come. */
export interface Missed {
  channel: string;
  /** How many; null where nobody can know. */
  count: number | null;
  /** Whether the streams may still have them: see `replayEvents`. */
  recoverable: boolean;
  /**
   * Who noticed: the `server`; this client, because the connection was away (`reconnected`: hybrid
   * events were caught up, what is not stored may be missing); or because its buffer was full
   * (`buffer`).
   */
  reason: "server" | "reconnected" | "buffer";
}

export interface SubscribeOptions {
  /** Begin after this position: hybrid events since then come first. An id, where one stream feeds the channel. */
  since?: Position | string | undefined;
  /** Called when messages will not come. */
  onMissed?: ((missed: Missed) => void) | undefined;
  /** Called with what the callback throws (default: console.error). */
  onError?: ((error: unknown) => void) | undefined;
  /** Ends the subscription when it is aborted. */
  signal?: AbortSignal | undefined;
}

/** A subscription to one channel. It survives lost connections. */
export interface Subscription {
  readonly channel: string;
  /** How far it has seen the streams that feed the channel: give it as `since` to go on from here. */
  readonly position: Position;
  /** Settles when the subscription has ended: with the reason, or undefined after `unsubscribe`. */
  readonly closed: Promise<ApixError | undefined>;
  /** Ends it. No callback is called any more. */
  unsubscribe(): Promise<void>;
}

/** One reader of a channel on this side. */
export class Subscriber implements Subscription {
  readonly closed: Promise<ApixError | undefined>;
  private readonly tracker = new PositionTracker();
  private settle!: (reason: ApixError | undefined) => void;
  private leave: (() => Promise<void>) | undefined;
  private ended = false;

  constructor(
    readonly channel: string,
    private readonly take: (message: LiveMessage) => unknown,
    private readonly options: SubscribeOptions,
  ) {
    this.closed = new Promise((resolve) => {
      this.settle = resolve;
    });
  }

  get position(): Position {
    return this.tracker.position;
  }

  get hasEnded(): boolean {
    return this.ended;
  }

  /** It has joined its channel, which stands at `position`. */
  joined(position: Position, leave: () => Promise<void>): void {
    this.leave = leave;
    this.tracker.reset(position);
    const { signal } = this.options;
    if (!signal) return;
    const onAbort = () => void this.unsubscribe();
    if (signal.aborted) return onAbort();
    signal.addEventListener("abort", onAbort, { once: true });
    void this.closed.then(() => signal.removeEventListener("abort", onAbort));
  }

  deliver(message: LiveMessage): void {
    if (this.ended || !this.tracker.advance(message)) return;
    this.guarded(() => this.take(message));
  }

  missed(missed: Missed): void {
    if (!this.ended && this.options.onMissed) this.guarded(() => this.options.onMissed?.(missed));
  }

  end(reason: ApixError | undefined): void {
    if (this.ended) return;
    this.ended = true;
    this.settle(reason);
  }

  async unsubscribe(): Promise<void> {
    if (this.ended) return;
    this.end(undefined);
    await this.leave?.();
  }

  /** A fault of one callback is nobody else's. */
  private guarded(callback: () => unknown): void {
    const report = this.options.onError ?? ((error: unknown) => console.error(`apix: a callback of ${this.channel} failed`, error));
    try {
      const result = callback();
      if (result instanceof Promise) result.catch(report);
    } catch (error) {
      report(error);
    }
  }
}
