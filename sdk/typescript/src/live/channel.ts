import { ApixError } from "../error.js";
import type { LiveMessage } from "../message.js";
import { BEFORE_ALL, type Position, PositionTracker } from "./position.js";
import type { Missed, Subscriber } from "./subscription.js";

/**
 * One channel of one connection, with its readers on this side.
 *
 * `wanted` until a request is sent, `asked` until it is answered, then `live`. A lost connection
 * makes it `wanted` again.
 */
export class LiveChannel {
  state: "wanted" | "asked" | "live" = "wanted";
  readonly since = Date.now();
  readonly subscribers = new Set<Subscriber>();
  private readonly tracker = new PositionTracker();
  private wasLive = false;
  private readonly onLive: ((position: Position) => void)[] = [];
  private readonly firstAnswer: Promise<ApixError | undefined>;
  private answer!: (refused: ApixError | undefined) => void;

  constructor(
    readonly name: string,
    /** Where its first reader wants to begin; such a channel has no other reader. */
    private readonly start: Position | string | undefined,
  ) {
    this.firstAnswer = new Promise((resolve) => {
      this.answer = resolve;
    });
  }

  get isShared(): boolean {
    return this.start === undefined;
  }

  /** Whether it has never been live: its readers still wait. */
  get isNew(): boolean {
    return !this.wasLive;
  }

  get position(): Position {
    return this.tracker.position;
  }

  /** Resolves once the channel is live; rejects if it is refused. */
  async ready(): Promise<void> {
    const refused = await this.firstAnswer;
    if (refused) throw refused;
  }

  /** Calls `joined` as soon as the channel is live for the first time, before any message. */
  whenLive(joined: (position: Position) => void): void {
    if (this.wasLive) joined(this.position);
    else this.onLive.push(joined);
  }

  /** How it is asked for: the first time where its reader begins, later after what was seen. */
  wish(): string | { channel: string; since: Position | string } {
    if (!this.wasLive) return this.start === undefined ? this.name : { channel: this.name, since: this.start };
    return this.tracker.isEmpty ? this.name : { channel: this.name, since: this.position };
  }

  /**
   * The server has subscribed it. Returns false if it has to be asked for once more: a stream that
   * began to feed the channel while the connection was away has to be read from its beginning.
   */
  accept(position: Position): boolean {
    if (!this.wasLive) {
      this.tracker.reset(position);
      this.wasLive = true;
      this.state = "live";
      for (const joined of this.onLive.splice(0)) joined(this.position);
      this.answer(undefined);
      return true;
    }
    const unknown = this.tracker.unknown(position);
    for (const stream of unknown) {
      this.tracker.follow(stream, { id: BEFORE_ALL, epoch: position[stream]?.epoch });
    }
    if (unknown.length > 0) {
      this.state = "wanted";
      return false;
    }
    this.state = "live";
    this.missed({ channel: this.name, count: null, recoverable: false, reason: "reconnected" });
    return true;
  }

  deliver(message: LiveMessage): void {
    // What comes before the answer belongs to an earlier subscription.
    if (this.state !== "live" || !this.tracker.advance(message)) return;
    for (const subscriber of [...this.subscribers]) subscriber.deliver(message);
  }

  missed(missed: Missed): void {
    for (const subscriber of [...this.subscribers]) subscriber.missed(missed);
  }

  end(reason: ApixError): void {
    this.answer(reason);
    for (const subscriber of [...this.subscribers]) subscriber.end(reason);
    this.subscribers.clear();
  }
}
