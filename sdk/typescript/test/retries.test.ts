import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { afterEach, describe, expect, it } from "vitest";
import { ApixError, TenantMessagingService } from "../src/index.js";
import { type PrivateApix, startApix } from "../src/testing.js";
import { Proxy } from "./proxy.js";
import { until } from "./until.js";

const context = { organizationId: "test" };
const endings: (() => unknown)[] = [];

afterEach(async () => {
  for (const end of endings.splice(0).reverse()) await end();
});

async function server(options = {}): Promise<PrivateApix> {
  const apix = await startApix(options);
  endings.push(() => apix.stop());
  return apix;
}

async function proxyTo(url: string): Promise<Proxy> {
  const proxy = await Proxy.to(url);
  endings.push(() => proxy.stop());
  return proxy;
}

function service(options: ConstructorParameters<typeof TenantMessagingService>[0]): TenantMessagingService {
  const messaging = new TenantMessagingService(options);
  endings.push(() => messaging.close());
  return messaging;
}

async function payloads(messaging: TenantMessagingService, stream: string): Promise<unknown[]> {
  const all: unknown[] = [];
  for await (const { payload } of messaging.replayEvents(context, stream)) all.push(payload);
  return all;
}

/** A server that answers as a test says. */
async function answering(answer: (request: IncomingMessage, response: ServerResponse, count: number) => void) {
  let count = 0;
  const fake = createServer((request, response) => {
    request.resume().on("end", () => answer(request, response, ++count));
  });
  await new Promise<void>((resolve) => fake.listen(0, "127.0.0.1", resolve));
  endings.push(() => {
    fake.closeAllConnections();
    fake.close();
  });
  return { url: `http://127.0.0.1:${(fake.address() as AddressInfo).port}`, requests: () => count };
}

const error = (code: string) => JSON.stringify({ error: { code, message: "said so", requestId: "r1" } });

describe("a restart of the server", () => {
  it.each([{ kill: false }, { kill: true }])("is survived by a plain loop (%o)", async ({ kill }) => {
    const apix = await server({ durable: true });
    const messaging = service({ url: apix.url, token: () => apix.token });
    // A read whose answer is lost is made good when its leases have ended.
    await messaging.administration.configureGroup(context, "jobs", "processors", { leaseMs: 1_000 });
    const handled = new Map<number, number>();
    let stopped = false;
    const worker = (async () => {
      while (!stopped) {
        const events = await messaging.processEventsFromStream<number>(context, "jobs", "worker-1", 5, { waitMs: 100 });
        for (const event of events) {
          handled.set(event.payload, (handled.get(event.payload) ?? 0) + 1);
          await messaging.acknowledgeEvent(context, "jobs", event.messageId);
        }
      }
    })();
    const producer = (async () => {
      for (let payload = 0; payload < 300; payload += 1) {
        await messaging.addEventToStream(context, "jobs", { eventType: "t", payload });
      }
    })();
    for (let times = 1; times <= 3; times += 1) {
      await until("the worker is at work", () => handled.size >= times * 50);
      await apix.restart({ kill, downMs: 100 });
    }
    await producer;
    await until("all are handled", () => handled.size === 300);
    stopped = true;
    await worker;
    // Every add is in the stream once, whatever was lost on the way.
    expect(await payloads(messaging, "jobs")).toEqual([...Array(300).keys()]);
    expect((await messaging.administration.groupStats(context, "jobs", "processors")).pending).toBe(0);
  });
});

describe("a lost answer", () => {
  it("does not add an event twice", async () => {
    const apix = await server();
    const proxy = await proxyTo(apix.url);
    const messaging = service({ url: proxy.url, token: () => apix.token });
    const lost = proxy.loseNextAnswer();
    const ids = await Promise.all([1, 2].map((payload) => messaging.addEventToStream(context, "s", { eventType: "t", payload })));
    await lost;
    expect(proxy.accepted).toBe(2);
    expect(new Set(ids).size).toBe(2);
    expect(await payloads(messaging, "s")).toEqual([1, 2]);
  });

  it("fails an add that must not be repeated", async () => {
    const apix = await server();
    const proxy = await proxyTo(apix.url);
    const messaging = service({ url: proxy.url, token: () => apix.token, automaticIdempotencyKeys: false });
    const lost = proxy.loseNextAnswer();
    const added = messaging.addEventToStream(context, "s", { eventType: "t", payload: 1 });
    await expect(added).rejects.toMatchObject({ code: "unreachable", retryable: true, mayHaveTakenEffect: true });
    await lost;
    const safe = messaging.addEventToStream(context, "s", { eventType: "t", payload: 2, idempotencyKey: "k" });
    await expect(safe).resolves.toMatch(/-/);
    expect(await payloads(messaging, "s")).toEqual([1, 2]);
  });

  it("shows a hybrid event once, and a message never twice", async () => {
    const apix = await server();
    const proxy = await proxyTo(apix.url);
    const direct = service({ url: apix.url, token: () => apix.token });
    const seen: unknown[] = [];
    await direct.subscribeToRealtimeMessages(context, "c", ({ data }) => seen.push(data));
    const lossy = service({ url: proxy.url, token: () => apix.token });
    let lost = proxy.loseNextAnswer();
    const receipt = await lossy.publishHybridEvent(context, "t", 1, { streamName: "s", realtimeChannel: "c" });
    await lost;
    expect(receipt.streamMessageId).toMatch(/-/);
    lost = proxy.loseNextAnswer();
    await expect(lossy.publishRealtimeMessage(context, "c", { type: "t", data: 2 })).rejects.toMatchObject({
      mayHaveTakenEffect: true,
    });
    await lost;
    await direct.publishRealtimeMessage(context, "c", { type: "t", data: 3 });
    await until("the last message", () => seen.includes(3));
    expect(seen).toEqual([1, 2, 3]);
    expect(await payloads(direct, "s")).toEqual([1]);
  });

  it("is read again by a replay from where it was", async () => {
    const apix = await server();
    const direct = service({ url: apix.url, token: () => apix.token });
    const many = [...Array(20_000).keys()];
    await Promise.all(many.map((n) => direct.addEventToStream(context, "s", { eventType: "t", payload: `${n} ${"x".repeat(200)}` })));
    const proxy = await proxyTo(apix.url);
    const lossy = service({ url: proxy.url, token: () => apix.token });
    const seen: number[] = [];
    for await (const { payload } of lossy.replayEvents<string>(context, "s")) {
      seen.push(Number.parseInt(payload));
      if (seen.length % 4_000 === 1_000) proxy.cut();
    }
    expect(seen).toEqual(many);
    expect(proxy.accepted).toBeGreaterThan(2);
  });
});

describe("a token", () => {
  it("that has ended is replaced by a new one", async () => {
    const apix = await server();
    const asked: string[] = [];
    const messaging = service({
      url: apix.url,
      token: async ({ organizationId }) => {
        asked.push(organizationId);
        // The first one ended a minute ago by the server's clock; it doesn't say so.
        return asked.length === 1 ? hideExpiry(apix.tokenFor({ ttlSeconds: -60 })) : apix.tokenFor();
      },
    });
    const add = () => messaging.addEventToStream(context, "s", { eventType: "t", payload: 1 });
    await add();
    expect(asked).toEqual(["test", "test"]);
    await Promise.all([add(), messaging.publishRealtimeMessage(context, "c", { type: "t", data: 1 })]);
    expect(asked).toHaveLength(2);
  });

  it("that is about to end is not used any more", async () => {
    const apix = await server();
    let asked = 0;
    const messaging = service({
      url: apix.url,
      token: () => apix.tokenFor({ ttlSeconds: ++asked === 1 ? 2 : 3_600 }),
    });
    await messaging.administration.listStreams(context);
    await messaging.administration.listStreams(context);
    await messaging.administration.listStreams(context);
    expect(asked).toBe(2);
  });

  it("that is refused again fails the call", async () => {
    const apix = await server();
    let asked = 0;
    const messaging = service({ url: apix.url, token: () => `nonsense-${++asked}` });
    await expect(messaging.administration.listStreams(context)).rejects.toMatchObject({ code: "unauthorized", status: 401 });
    expect(asked).toBe(2);
  });

  it("that cannot be had fails the call with the function's own error", async () => {
    const messaging = service({
      url: "http://127.0.0.1:1",
      token: () => {
        throw new RangeError("nobody is logged in");
      },
    });
    await expect(messaging.administration.listStreams(context)).rejects.toThrow(RangeError);
  });
});

/** A token of the same kind whose expiry this client cannot read, so that only the server knows. */
function hideExpiry(token: string): string {
  const [header, , signature] = token.split(".");
  return `${header}.!.${signature}`;
}

describe("what may pass", () => {
  it("is tried again when the server asks for it, after the time that it names", async () => {
    const times: number[] = [];
    const { url } = await answering((_request, response, count) => {
      times.push(Date.now());
      if (count === 1) response.writeHead(429, { "retry-after": "1" }).end(error("rate_limited"));
      else if (count === 2) response.writeHead(503).end(error("shutting_down"));
      else response.end('{"messageIds":["1-0"]}');
    });
    const messaging = service({ url, token: () => "t" });
    expect(await messaging.addEventToStream(context, "s", { eventType: "t", payload: 1 })).toBe("1-0");
    expect(times[1]! - times[0]!).toBeGreaterThanOrEqual(1_000);
    expect(times).toHaveLength(3);
  });

  it("fails after its time, with what was last said", async () => {
    const { url, requests } = await answering((_request, response) => response.writeHead(503).end(error("unavailable")));
    const messaging = service({ url, token: () => "t", retry: { firstDelayMs: 10, longestDelayMs: 20, giveUpAfterMs: 200 } });
    const call = messaging.administration.listStreams(context);
    await expect(call).rejects.toMatchObject({ code: "unavailable", status: 503, requestId: "r1", retryable: true });
    expect(requests()).toBeGreaterThan(5);
    const nobody = service({ url: "http://127.0.0.1:1", token: () => "t", retry: { giveUpAfterMs: 300 } });
    await expect(nobody.administration.listStreams(context)).rejects.toMatchObject({ code: "unreachable", status: 0 });
  });

  it("is not tried again where it cannot help", async () => {
    const { url, requests } = await answering((_request, response) => response.writeHead(403).end(error("permission_denied")));
    const messaging = service({ url, token: () => "t" });
    await expect(messaging.administration.listStreams(context)).rejects.toBeInstanceOf(ApixError);
    expect(requests()).toBe(1);
  });

  it("ends with the caller's signal", async () => {
    const { url } = await answering(() => {});
    const messaging = service({ url, token: () => "t" });
    const controller = new AbortController();
    const reading = messaging.processEventsFromStream(context, "s", "c", 1, { signal: controller.signal });
    setTimeout(() => controller.abort(new Error("enough")), 50);
    await expect(reading).rejects.toThrow("enough");
  });

  it("is an answer that does not come in time", async () => {
    const { url, requests } = await answering((_request, response, count) => {
      if (count > 1) response.end('{"streams":[],"next":null}');
    });
    const messaging = service({ url, token: () => "t", timeoutMs: 200 });
    expect(await messaging.administration.listStreams(context)).toEqual([]);
    expect(requests()).toBe(2);
  });

  it("is not an answer of something else", async () => {
    const { url } = await answering((_request, response) => response.end("<html>"));
    const messaging = service({ url, token: () => "t", retry: { giveUpAfterMs: 50 } });
    await expect(messaging.administration.listStreams(context)).rejects.toThrow(/is it an APIX server/);
  });
});
