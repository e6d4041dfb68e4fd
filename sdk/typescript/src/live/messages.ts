import { ApixError } from "../error.js";
import type { LiveMessage } from "../message.js";
import { type Position, PositionTracker } from "./position.js";
import type { SubscribeOptions, Subscription } from "./subscription.js";

export interface MessagesOptions extends SubscribeOptions {
  /** Messages that wait for the loop (default 1,000); beyond them the oldest give way, counted. */
  maxBuffered?: number | undefined;
}

type Subscribe = (take: (message: LiveMessage) => void, options: SubscribeOptions) => Promise<Subscription>;

/**
 * The messages of a channel for `for await`. Leaving the loop ends the subscription; an end that was
 * not asked for is thrown.
 */
export class LiveMessages<T = any> implements AsyncIterableIterator<LiveMessage<T>> {
  private readonly buffer: LiveMessage<T>[] = [];
  private readonly tracker = new PositionTracker();
  private readonly maxBuffered: number;
  private subscription: Promise<Subscription> | undefined;
  private waiting: (() => void)[] = [];
  private isOver = false;
  private reason: ApixError | undefined;
  private dropped = 0;

  constructor(
    readonly channel: string,
    private readonly subscribe: Subscribe,
    private readonly options: MessagesOptions,
  ) {
    this.maxBuffered = Math.max(1, options.maxBuffered ?? 1_000);
  }

  /** Up to the last message that the loop took. */
  get position(): Position {
    return this.tracker.position;
  }

  /** Subscribes; the loop does so by itself when it begins. */
  async open(): Promise<this> {
    this.subscription ??= this.begin();
    await this.subscription;
    return this;
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  async next(): Promise<IteratorResult<LiveMessage<T>, undefined>> {
    // One that was left before it began never begins.
    if (!this.isOver) await this.open();
    for (;;) {
      this.tellDropped();
      const message = this.buffer.shift();
      if (message) {
        this.tracker.advance(message);
        return { done: false, value: message };
      }
      if (this.reason) throw this.reason;
      if (this.isOver) return { done: true, value: undefined };
      await new Promise<void>((resolve) => this.waiting.push(resolve));
    }
  }

  async return(): Promise<IteratorResult<LiveMessage<T>, undefined>> {
    this.over(undefined);
    const subscription = await this.subscription?.catch(() => undefined);
    await subscription?.unsubscribe();
    return { done: true, value: undefined };
  }

  private async begin(): Promise<Subscription> {
    const subscription = await this.subscribe((message) => this.push(message), this.options);
    this.tracker.reset(subscription.position);
    void subscription.closed.then((reason) => this.over(reason));
    return subscription;
  }

  private push(message: LiveMessage<T>): void {
    this.buffer.push(message);
    if (this.buffer.length > this.maxBuffered) {
      this.buffer.shift();
      this.dropped += 1;
    }
    this.wake();
  }

  private tellDropped(): void {
    if (this.dropped === 0) return;
    const count = this.dropped;
    this.dropped = 0;
    this.options.onMissed?.({ channel: this.channel, count, recoverable: true, reason: "buffer" });
  }

  private over(reason: ApixError | undefined): void {
    if (this.isOver) return;
    this.isOver = true;
    this.reason = reason;
    this.wake();
  }

  private wake(): void {
    for (const resolve of this.waiting.splice(0)) resolve();
  }
}
