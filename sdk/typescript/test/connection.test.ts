// What the real server cannot be made to do: a server of the test's own, at the socket's place.
import { describe, expect, it } from "vitest";
import { Backoff } from "../src/backoff.js";
import { TokenCredentials } from "../src/credentials.js";
import { ApixError } from "../src/error.js";
import { LiveConnections } from "../src/live/connections.js";
import type { SocketHandlers, SocketRequest } from "../src/live/socket.js";
import { until } from "./until.js";

const context = { organizationId: "test" };

class FakeServer {
  readonly sockets: { request: SocketRequest; handlers: SocketHandlers; sent: any[]; dropped: boolean }[] = [];
  /** How often a token was asked for. */
  asked = 0;
  autoAccept = true;
  readonly connections: LiveConnections;

  constructor(token: () => string | Promise<string> = () => `token-${++this.asked}`) {
    this.connections = new LiveConnections(new TokenCredentials(token), {
      url: new URL("http://fake/v1/ws"),
      open: async (request, handlers) => {
        const socket = { request, handlers, sent: [] as any[], dropped: false };
        this.sockets.push(socket);
        setTimeout(() => {
          handlers.onOpen();
          this.say("connected", { connectionId: "c", organizationId: "test" });
        });
        return {
          send: (text) => {
            const frame = JSON.parse(text);
            socket.sent.push(frame);
            if (this.autoAccept && frame.event === "subscribe_updates") this.accept(frame);
          },
          drop: () => {
            socket.dropped = true;
          },
        };
      },
      backoff: new Backoff(1, 5),
      giveUpAfterMs: 5_000,
      maxQueued: 10,
      needsHeaders: false,
      onState: () => {},
    });
  }

  get socket() {
    return this.sockets.at(-1)!;
  }

  get requests(): any[] {
    return this.sockets.flatMap(({ sent }) => sent);
  }

  say(event: string, data: unknown, id?: number): void {
    this.socket.handlers.onText(JSON.stringify({ event, data, id }));
  }

  end(code: number, refusal?: ApixError): void {
    this.socket.handlers.onEnd({ code, reason: "", refusal });
  }

  accept(frame: any, position: object = {}): void {
    const subscribed = frame.data.channels.map((wish: any) => ({ channel: wish.channel ?? wish, position }));
    this.say("ack", { subscribed, refused: [] }, frame.id);
  }

  update(data: unknown, more: object = {}): void {
    this.say("realtime_update", { channel: "c", type: "t", data, timestamp: "", organizationId: "test", ...more });
  }
}

describe("a live connection", () => {
  it("takes what follows the answer in the same breath", async () => {
    const server = new FakeServer();
    server.autoAccept = false;
    const seen: unknown[] = [];
    const subscribing = server.connections.subscribe(context, "c", ({ data }) => seen.push(data), {});
    await until("it is asked", () => server.requests.length === 1);
    server.update("before: of an earlier subscription");
    server.accept(server.requests[0]);
    server.update("after");
    expect(seen).toEqual(["after"]);
    await subscribing;
    server.connections.close();
  });

  it("drops what it has seen, and resumes per stream after what it has", async () => {
    const server = new FakeServer();
    const seen: unknown[] = [];
    const subscription = await server.connections.subscribe(context, "c", ({ data }) => seen.push(data), {});
    server.update(1, { stream: "a", messageId: "9-0", epoch: "e" });
    server.update(1, { stream: "a", messageId: "9-0", epoch: "e" });
    server.update(2, { stream: "b", messageId: "5-0", epoch: "f" });
    server.update(3, { stream: "a", messageId: "10-0", epoch: "e" });
    server.update(0, { stream: "a", messageId: "9-0", epoch: "e" });
    expect(seen).toEqual([1, 2, 3]);
    server.end(1006);
    await until("it asks again", () => server.requests.length === 2);
    const since = { a: { id: "10-0", epoch: "e" }, b: { id: "5-0", epoch: "f" } };
    expect(server.requests[1].data).toEqual({ channels: [{ channel: "c", since }] });
    expect(subscription.position).toEqual(since);
    server.connections.close();
  });

  it("passes on what the server says is missing", async () => {
    const server = new FakeServer();
    const missed: unknown[] = [];
    await server.connections.subscribe(context, "c", () => {}, { onMissed: (what) => missed.push(what) });
    server.say("missed", { channel: "c", count: 3, recoverable: true });
    server.say("missed", { channel: "other", count: 3, recoverable: true });
    expect(missed).toEqual([{ channel: "c", count: 3, recoverable: true, reason: "server" }]);
    server.connections.close();
  });

  it.each([
    [4003, "tenant_suspended"],
    [4013, "ended_by_operator"],
  ])("does not come back after %i", async (code, reason) => {
    const server = new FakeServer();
    const subscription = await server.connections.subscribe(context, "c", () => {}, {});
    server.end(code);
    expect(await subscription.closed).toMatchObject({ code: reason });
    expect(server.connections.size).toBe(0);
    expect(server.sockets).toHaveLength(1);
  });

  it.each([1001, 1006, 4008, 4009, 4010])("comes back after %i with the same token", async (code) => {
    const server = new FakeServer();
    await server.connections.subscribe(context, "c", () => {}, {});
    server.end(code);
    await until("it asks again", () => server.requests.length === 2);
    expect(server.socket.request.token).toBe("token-1");
    server.connections.close();
  });

  it.each([4001, 4002])("comes back after %i with a new token", async (code) => {
    const server = new FakeServer();
    await server.connections.subscribe(context, "c", () => {}, {});
    server.end(code);
    await until("it asks again", () => server.requests.length === 2);
    expect(server.socket.request.token).toBe("token-2");
    server.connections.close();
  });

  it("waits with a drain for as long as it is told", async () => {
    const server = new FakeServer();
    await server.connections.subscribe(context, "c", () => {}, {});
    server.say("reconnect", { delayMs: 50 });
    server.end(4010);
    await until("it asks again", () => server.requests.length === 2);
    server.connections.close();
  });

  it("asks again for a channel that could not be served, and ends one that is refused", async () => {
    const server = new FakeServer();
    const subscription = await server.connections.subscribe(context, "c", () => {}, {});
    server.say("exception", { status: "error", code: "unavailable", message: "the broker is away", channel: "c" });
    await until("it asks again", () => server.requests.length === 2);
    server.say("exception", { status: "error", code: "permission_denied", message: "no more", channel: "c" });
    expect(await subscription.closed).toMatchObject({ code: "permission_denied" });
    server.connections.close();
  });

  it("renews its token before that ends, where the server can", async () => {
    const soon = Math.floor(Date.now() / 1_000) + 1;
    const jwt = (exp: number) => `h.${Buffer.from(JSON.stringify({ exp })).toString("base64url")}.s`;
    let asked = 0;
    const server = new FakeServer(() => jwt(++asked === 1 ? soon : soon + 3_600));
    await server.connections.subscribe(context, "c", () => {}, {});
    await until("it is renewed", () => server.requests.some(({ event }) => event === "renew"));
    const renewal = server.requests.find(({ event }) => event === "renew");
    expect(renewal.data).toEqual({ token: jwt(soon + 3_600) });
    server.connections.close();
  });

  it("survives a token function that fails for a while", async () => {
    let asked = 0;
    const server = new FakeServer(() => {
      if (++asked === 2) throw new Error("the login service is away");
      return `token-${asked}`;
    });
    await server.connections.subscribe(context, "c", () => {}, {});
    server.end(4002);
    await until("it asks again", () => server.requests.length === 2);
    expect(asked).toBe(3);
    server.connections.close();
  });

  it("tells publishers whose answer was lost, and does not send again", async () => {
    const server = new FakeServer();
    await server.connections.subscribe(context, "c", () => {}, {});
    const published = server.connections.publish(context, '{"channel":"c","type":"t","data":1}');
    await until("it is sent", () => server.requests.length === 2);
    server.end(1006);
    await expect(published).rejects.toMatchObject({ code: "unreachable", mayHaveTakenEffect: true });
    await until("it is back", () => server.requests.length === 3);
    expect(server.requests.filter(({ event }) => event === "publish")).toHaveLength(1);
    server.connections.close();
  });
});
