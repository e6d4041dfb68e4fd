import { background } from "../backoff.js";
import { ApixError } from "../error.js";
import { ObjectText } from "../json-text.js";
import type { LiveSocket, SocketEnd, SocketOpener, SocketRequest } from "./socket.js";

/** A connection that does not greet within this time is given up. */
const GREETING_MS = 10_000;
/** After so long without a sign of life the server is asked for one … */
const QUIET_MS = 20_000;
/** … and given up when it does not answer within this time. */
const ANSWER_MS = 15_000;

/** What the server says first. */
export interface Greeting {
  connectionId: string;
  organizationId: string;
  userId?: string;
}

export interface LinkHandlers {
  onGreeting(greeting: Greeting): void;
  onFrame(event: string, data: any): void;
  onDown(end: SocketEnd): void;
}

/** Takes the answer to a request, before anything that was sent after it. */
export type Answered<T> = (error: ApixError | undefined, data: T | undefined) => void;

/** One socket from its handshake to its end: frames, requests with their answers, signs of life. */
export class Link {
  private socket: LiveSocket | undefined;
  private readonly pending = new Map<number, Answered<any>>();
  private nextId = 1;
  private isDown = false;
  private greeted = false;
  private heardAt = Date.now();
  private timer: ReturnType<typeof setTimeout>;

  constructor(
    opener: SocketOpener,
    request: SocketRequest,
    private readonly handlers: LinkHandlers,
  ) {
    this.timer = setTimeout(() => this.down({ code: 1006, reason: "the server did not greet in time" }), GREETING_MS);
    const opened = opener(request, {
      onOpen: () => {},
      onText: (text) => this.receive(text),
      onAlive: () => {
        this.heardAt = Date.now();
      },
      onEnd: (end) => this.down(end),
    });
    opened.then(
      (socket) => {
        if (this.isDown) socket.drop();
        else this.socket = socket;
      },
      (error: unknown) => {
        const refusal = error instanceof ApixError ? error : undefined;
        this.down({ code: 1006, reason: String((error as Error)?.message ?? error), refusal });
      },
    );
  }

  /** Sends `data`, which is JSON text. */
  ask<T>(event: string, data: string, answered: Answered<T>): void {
    if (this.isDown || !this.socket) return answered(lost(false), undefined);
    const id = this.nextId++;
    this.pending.set(id, answered);
    this.socket.send(new ObjectText().value("event", event).value("id", id).raw("data", data).end());
  }

  /** As {@link ask}, for who does not mind what comes in between. */
  request<T>(event: string, data: string): Promise<T> {
    return new Promise<T>((resolve, reject) => {
      this.ask<T>(event, data, (error, answer) => (error ? reject(error) : resolve(answer as T)));
    });
  }

  /** Ends it without a word to the handlers. */
  drop(): void {
    this.finish();
    this.socket?.drop();
  }

  private receive(text: string): void {
    if (this.isDown) return;
    this.heardAt = Date.now();
    let frame: { event?: string; id?: number; data?: any };
    try {
      frame = JSON.parse(text);
    } catch {
      return this.down({ code: 1006, reason: "the server sent a frame that is not JSON" });
    }
    const { event = "", data } = frame;
    if (event === "ack" || (event === "exception" && data?.id !== undefined)) {
      return this.answer(event === "ack" ? frame.id : data.id, event, data);
    }
    if (event === "connected") {
      this.greeted = true;
      this.watch();
      return this.handlers.onGreeting(data);
    }
    if (this.greeted) this.handlers.onFrame(event, data);
  }

  private answer(id: number | undefined, event: string, data: any): void {
    const answered = this.pending.get(id as number);
    this.pending.delete(id as number);
    if (event === "ack") answered?.(undefined, data);
    else answered?.(new ApixError(data.code, data.message), undefined);
  }

  /** Browsers don't show pings, so that a quiet connection is asked by a request for nothing. */
  private watch(): void {
    clearTimeout(this.timer);
    const quiet = Date.now() - this.heardAt;
    if (quiet >= QUIET_MS + ANSWER_MS) return this.down({ code: 1006, reason: "the server has fallen silent" });
    if (quiet >= QUIET_MS) {
      this.ask("subscribe_updates", '{"channels":[]}', () => {});
      this.timer = background(setTimeout(() => this.watch(), ANSWER_MS));
    } else {
      this.timer = background(setTimeout(() => this.watch(), QUIET_MS - quiet));
    }
  }

  private down(end: SocketEnd): void {
    if (this.isDown) return;
    this.finish();
    this.socket?.drop();
    this.handlers.onDown(end);
  }

  private finish(): void {
    this.isDown = true;
    clearTimeout(this.timer);
    const unanswered = [...this.pending.values()];
    this.pending.clear();
    for (const answered of unanswered) answered(lost(true), undefined);
  }
}

function lost(mayHaveTakenEffect: boolean): ApixError {
  return new ApixError("unreachable", "the live connection was lost", { mayHaveTakenEffect });
}
