import { ApixError } from "../error.js";
import type { Link } from "./link.js";

interface Queued {
  text: string;
  since: number;
  resolve: (subscriberCount: number) => void;
  reject: (error: ApixError) => void;
}

/** Messages that wait for a connection, in their order, and not more than a bound. */
export class PublishQueue {
  private queued: Queued[] = [];
  private unanswered = 0;

  constructor(
    private readonly maxQueued: number,
    /** A message was answered; nothing of the queue may be left. */
    private readonly onAnswer: (error: ApixError | undefined) => void,
  ) {}

  /** Messages that wait to be sent, or to be answered. */
  get size(): number {
    return this.queued.length + this.unanswered;
  }

  add(text: string): Promise<number> {
    return new Promise((resolve, reject) => {
      if (this.queued.length >= this.maxQueued) {
        const message = `${this.maxQueued} messages wait for a connection already; try again later`;
        return reject(new ApixError("queue_full", message));
      }
      this.queued.push({ text, since: Date.now(), resolve, reject });
    });
  }

  /**
   * Sends all. A message whose answer is lost with the connection may have been shown: it fails,
   * and is not sent again.
   */
  flush(link: Link): void {
    for (const { text, resolve, reject } of this.queued.splice(0)) {
      this.unanswered += 1;
      link.ask<{ subscriberCount: number }>("publish", text, (error, answer) => {
        this.unanswered -= 1;
        if (error) reject(error);
        else resolve(answer?.subscriberCount ?? 0);
        this.onAnswer(error);
      });
    }
  }

  failOlder(than: number, error: ApixError): void {
    const old = this.queued.filter(({ since }) => since <= than);
    this.queued = this.queued.filter(({ since }) => since > than);
    for (const { reject } of old) reject(error);
  }

  fail(error: ApixError): void {
    this.failOlder(Number.POSITIVE_INFINITY, error);
  }
}
