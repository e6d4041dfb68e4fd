import { Backoff, background } from "../backoff.js";
import type { TenantContext } from "../context.js";
import type { Credential, Credentials } from "../credentials.js";
import { ApixError, asApixError } from "../error.js";
import { LiveChannel } from "./channel.js";
import { closing } from "./closing.js";
import { type Greeting, Link } from "./link.js";
import type { Position } from "./position.js";
import { PublishQueue } from "./publish-queue.js";
import type { SocketEnd, SocketOpener } from "./socket.js";

export interface LiveSettings {
  url: URL;
  open: SocketOpener;
  backoff: Backoff;
  /** A first subscription, or a publish, that finds no server fails after this time. */
  giveUpAfterMs: number;
  maxQueued: number;
  needsHeaders: boolean;
  onState: (context: TenantContext, state: LiveState) => void;
}

/** What a live connection is doing: `waiting` is between two attempts. */
export type LiveState = "connecting" | "connected" | "waiting" | "closed";

/** Channels of one subscription request. */
const CHANNELS_A_FRAME = 100;
/** Before a subscription is asked for again that the server could not serve. */
const ASK_AGAIN_MS = 1_000;
/** An unused connection is kept for the next subscription. */
const IDLE_MS = 1_000;
/** A token is renewed so long before it ends. */
const RENEW_BEFORE_MS = 30_000;
const LONGEST_TIMER_MS = 2 ** 31 - 1;

interface SubscribeAnswer {
  subscribed: { channel: string; position: Position }[];
  refused: { channel: string; code: string; message?: string }[];
}

/** A live connection that comes back by itself, with everything that was subscribed on it. */
export class LiveConnection {
  readonly channels = new Map<string, LiveChannel>();
  private readonly queue: PublishQueue;
  private link: Link | undefined;
  private isOpen = false;
  private hasEnded = false;
  private connecting = false;
  private timer: ReturnType<typeof setTimeout> | undefined;
  private renewal: ReturnType<typeof setTimeout> | undefined;
  private askTimer: ReturnType<typeof setTimeout> | undefined;
  private failures = 0;
  private refusals = 0;
  private drainDelayMs: number | undefined;
  private flushing = false;

  constructor(
    private readonly context: TenantContext,
    private readonly credentials: Credentials,
    private readonly settings: LiveSettings,
    private readonly onEnd: () => void,
  ) {
    this.queue = new PublishQueue(settings.maxQueued, (error) => {
      if (!error) this.failures = 0;
      this.rest();
    });
  }

  get ended(): boolean {
    return this.hasEnded;
  }

  /** Subscribes `channel`, which is not among the channels yet. */
  add(channel: LiveChannel): void {
    this.channels.set(channel.name, channel);
    this.wake();
  }

  /** Unsubscribes `channel`, unless another has taken its place. */
  async remove(channel: LiveChannel): Promise<void> {
    if (this.channels.get(channel.name) !== channel) return;
    this.channels.delete(channel.name);
    this.rest();
    if (!this.isOpen || channel.state === "wanted") return;
    const data = JSON.stringify({ channels: [channel.name] });
    // A connection that is lost has no subscriptions either.
    await this.link?.request("unsubscribe_updates", data).catch(() => {});
  }

  /** Publishes `text`; while there is no connection it waits in the queue. */
  publish(text: string): Promise<number> {
    const published = this.queue.add(text);
    this.wake();
    return published;
  }

  /** Ends it, with all its subscriptions. */
  close(reason: ApixError): void {
    if (this.hasEnded) return;
    this.hasEnded = true;
    for (const timer of [this.timer, this.renewal, this.askTimer]) clearTimeout(timer);
    this.link?.drop();
    this.link = undefined;
    this.isOpen = false;
    for (const channel of this.channels.values()) channel.end(reason);
    this.channels.clear();
    this.queue.fail(reason);
    this.tell("closed");
    this.onEnd();
  }

  private get isNeeded(): boolean {
    return this.channels.size > 0 || this.queue.size > 0;
  }

  private wake(): void {
    if (this.hasEnded) return;
    if (this.isOpen) return this.flushSoon();
    if (!this.connecting && this.timer === undefined) void this.connect();
  }

  /** Nothing needs it: it ends after a moment. */
  private rest(): void {
    if (this.isNeeded || this.hasEnded) return;
    setTimeout(() => {
      if (!this.isNeeded) this.close(new ApixError("closed", "the connection was not needed any more"));
    }, IDLE_MS);
  }

  private async connect(): Promise<void> {
    this.connecting = true;
    this.timer = undefined;
    this.tell("connecting");
    let credential: Credential;
    try {
      credential = await this.credentials.get(this.context);
    } catch (error) {
      const known = asApixError(error);
      // Who has just asked is told; what was live waits until there is a token again.
      this.giveUp(known, Number.POSITIVE_INFINITY);
      return this.down({ code: 1006, reason: known.message, refusal: known }, undefined);
    }
    if (this.hasEnded) return;
    const { url, needsHeaders, open } = this.settings;
    const headers = this.credentials.liveHeaders(this.context);
    this.link = new Link(
      open,
      { url, token: credential.token, headers, needsHeaders },
      {
        onGreeting: (greeting) => this.greeted(greeting, credential),
        onFrame: (event, data) => this.receive(event, data),
        onDown: (end) => this.down(end, credential),
      },
    );
  }

  private greeted({ organizationId }: Greeting, credential: Credential): void {
    if (organizationId !== this.context.organizationId) {
      const message = `the token is one of the tenant ${organizationId}, but the context is of ${this.context.organizationId}`;
      return this.close(new ApixError("tenant_mismatch", message));
    }
    this.connecting = false;
    this.isOpen = true;
    this.refusals = 0;
    this.drainDelayMs = undefined;
    this.renewLater(credential);
    this.tell("connected");
    this.flush();
  }

  /** What is asked for in one tick goes out in one frame. */
  private flushSoon(): void {
    if (this.flushing) return;
    this.flushing = true;
    queueMicrotask(() => {
      this.flushing = false;
      if (this.isOpen) this.flush();
    });
  }

  private flush(): void {
    const wanted = [...this.channels.values()].filter(({ state }) => state === "wanted");
    for (let start = 0; start < wanted.length; start += CHANNELS_A_FRAME) {
      this.subscribe(wanted.slice(start, start + CHANNELS_A_FRAME));
    }
    if (this.link) this.queue.flush(this.link);
    this.rest();
  }

  private subscribe(channels: LiveChannel[]): void {
    for (const channel of channels) channel.state = "asked";
    const data = JSON.stringify({ channels: channels.map((channel) => channel.wish()) });
    this.link?.ask<SubscribeAnswer>("subscribe_updates", data, (error, answer) => {
      // A lost connection asks again by itself.
      if (!this.isOpen) return;
      for (const channel of channels) this.answered(channel, error, answer);
    });
  }

  private answered(channel: LiveChannel, error: ApixError | undefined, answer: SubscribeAnswer | undefined): void {
    if (this.channels.get(channel.name) !== channel) return;
    const subscribed = answer?.subscribed.find((one) => one.channel === channel.name);
    if (subscribed) {
      this.failures = 0;
      if (!channel.accept(subscribed.position)) this.flushSoon();
      return;
    }
    const refused = answer?.refused.find((one) => one.channel === channel.name);
    this.failed(
      channel,
      error ?? new ApixError(refused?.code ?? "internal", refused?.message ?? `the subscription of ${channel.name} was refused`),
    );
  }

  private failed(channel: LiveChannel, error: ApixError): void {
    if (error.retryable) {
      channel.state = "wanted";
      clearTimeout(this.askTimer);
      this.askTimer = setTimeout(() => this.isOpen && this.flush(), ASK_AGAIN_MS * (0.5 + Math.random()));
      return;
    }
    this.channels.delete(channel.name);
    channel.end(error);
    this.rest();
  }

  private receive(event: string, data: any): void {
    const channel = this.channels.get(data?.channel);
    if (event === "realtime_update") channel?.deliver(data);
    else if (event === "missed") {
      const { channel: name, count, recoverable } = data;
      channel?.missed({ channel: name, count, recoverable, reason: "server" });
    } else if (event === "reconnect") this.drainDelayMs = data.delayMs;
    else if (event === "exception" && channel) this.failed(channel, new ApixError(data.code, data.message));
  }

  private down(end: SocketEnd, credential: Credential | undefined): void {
    const wasOpen = this.isOpen;
    this.connecting = false;
    this.isOpen = false;
    this.link = undefined;
    clearTimeout(this.renewal);
    if (this.hasEnded) return;
    for (const channel of this.channels.values()) channel.state = "wanted";
    const next = closing(end, { renewable: this.credentials.renewable, refusals: this.refusals, wasOpen });
    if (next.refused && credential) this.credentials.refused(this.context, credential);
    this.refusals = next.refusals;
    if (next.stop) return this.close(next.stop);
    if (!this.isNeeded) return this.close(new ApixError("closed", "the connection was not needed any more"));
    this.giveUp(next.error, Date.now() - this.settings.giveUpAfterMs);
    this.reconnect(next.soon);
  }

  private reconnect(soon: boolean): void {
    if (!this.isNeeded) return this.rest();
    const drain = this.drainDelayMs === undefined ? 0 : this.drainDelayMs * Math.random();
    this.drainDelayMs = undefined;
    const delay = soon ? 0 : this.settings.backoff.delay(this.failures) + drain;
    this.failures += 1;
    this.tell("waiting");
    this.timer = setTimeout(() => void this.connect(), delay);
  }

  /** What has waited since `before` for its first answer fails; what was live once waits on. */
  private giveUp(error: ApixError, before: number): void {
    for (const channel of this.channels.values()) {
      if (!channel.isNew || channel.since > before) continue;
      this.channels.delete(channel.name);
      channel.end(error);
    }
    this.queue.failOlder(before, error);
  }

  private renewLater({ expiresAt }: Credential): void {
    if (expiresAt === undefined || !this.credentials.renewable) return;
    const left = expiresAt - Date.now();
    const delay = Math.max(left - RENEW_BEFORE_MS, left / 2);
    if (delay < LONGEST_TIMER_MS) this.renewal = background(setTimeout(() => void this.renew(expiresAt), delay));
  }

  /** A server that cannot renew closes with 4002 in time, and the connection comes back. */
  private async renew(expiresAt: number): Promise<void> {
    try {
      const before = await this.credentials.get(this.context);
      if (before.expiresAt !== undefined && before.expiresAt <= expiresAt) {
        this.credentials.refused(this.context, before);
      }
      const credential = await this.credentials.get(this.context);
      await this.link?.request("renew", JSON.stringify({ token: credential.token }));
      this.renewLater(credential);
    } catch {
      // The end of the old token is dealt with when it comes.
    }
  }

  private tell(state: LiveState): void {
    this.settings.onState(this.context, state);
  }
}
